//! A relay of the simulation: the whole service as it is, in a runtime of its own whose clock the simulation moves.
//!
//! | what happens to it | how |
//! | --- | --- |
//! | it stands still (SIGSTOP, a suspended machine) | its clock is not moved on, and its tasks are not run |
//! | it goes on | its clock jumps over the time that it missed, in one step |
//! | it is killed | its runtime is dropped, with its sockets |
//! | it is told to end | it hands over and drains, and is gone when it says so |
//! | its wall clock jumps | its machine's clock is off, and its time since boot goes on |
//!
//! Invariant: nothing of a node runs but in [`Node::run`].

use std::time::Duration;

use relay::clock::{self, Machine};
use relay::config::Config;
use relay::push::take_printed;
use relay::serve::{Relay, Running};
use serde_json::Value;
use tests::api_client::{ApiClient, Instance};
use tests::relay_setup::Setup;
use tests::scratch::Scratch;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How often each task may run in one turn, about: what takes longer goes on in the next.
const PASSES: usize = 8;

/// A node.
pub struct Node {
    /// What it is told.
    pub setup: Setup,
    /// When it goes on.
    pub stands_until: Option<Duration>,
    /// When it is started again.
    pub down_until: Option<Duration>,
    /// How far its wall clock is ahead, in milliseconds.
    pub clock_off_ms: i64,
    machine: Machine,
    run: Option<Run>,
    pushes: Vec<String>,
    /// What its own clock has come to.
    at: Duration,
}

struct Run {
    runtime: Runtime,
    running: Option<Running>,
    leaves: Option<JoinHandle<()>>,
    asked: Vec<Asked>,
    _scratch: Scratch,
}

/// A request of an app that has no answer yet.
struct Asked {
    answer: JoinHandle<std::io::Result<tests::api_client::Answer>>,
    about: Question,
}

/// What an app wants of a node.
#[derive(Clone, Debug)]
pub enum Question {
    /// Lend an account: whose, on which of its devices.
    Enable { account: usize, device: usize, body: Value },
    /// Change it: the presence, or the token.
    Change { account: usize, device: usize, instance: Instance, body: Value, foreground: bool },
    /// End it.
    Disable { account: usize, device: usize, instance: Instance },
}

/// What came of it.
pub struct Answered {
    /// What was asked.
    pub about: Question,
    /// The status; 0: none.
    pub status: u16,
    /// The instance that was enabled.
    pub instance: Option<Instance>,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(setup: Setup) -> Self {
        let pushes = Vec::new();
        let (at, machine) = (Duration::ZERO, Machine::default());
        Self { setup, stands_until: None, down_until: None, clock_off_ms: 0, machine, run: None, pushes, at }
    }

    /// The port that SIP servers know it by.
    pub fn port(&self) -> u16 {
        self.setup.ports.udp
    }

    /// Whether its process is there.
    pub fn is_up(&self) -> bool {
        self.run.is_some()
    }

    /// Whether it is being told to end.
    pub fn is_leaving(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.leaves.is_some())
    }

    /// Whether it is there, and does what comes.
    pub fn acts(&self) -> bool {
        self.is_up() && self.stands_until.is_none()
    }

    /// Starts it.
    pub fn start(&mut self, now: Duration) {
        (self.at, self.down_until, self.stands_until) = (now, None, None);
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let scratch = Scratch::new();
        let mut config = Config::load(&self.setup.write(&scratch)).expect("a configuration");
        // No file may say so: it has no push service, and prints what it would push.
        config.apps.iter_mut().for_each(|app| app.apns = None);
        // What an earlier process believed is gone with it.
        self.machine = Machine::default();
        self.set_clocks(now);
        let running = runtime.block_on(Relay::start(config)).expect("a relay");
        self.run = Some(Run { runtime, running: Some(running), leaves: None, asked: Vec::new(), _scratch: scratch });
    }

    fn set_clocks(&mut self, now: Duration) {
        (self.machine.up, self.machine.off_ms) = (now, self.clock_off_ms);
        clock::set_virtual(&self.machine);
    }

    /// `kill -9`.
    pub fn kill(&mut self, until: Duration) -> Vec<Question> {
        self.down_until = Some(until);
        self.stands_until = None;
        let Some(run) = self.run.take() else { return Vec::new() };
        let asked = run.asked.into_iter().map(|asked| asked.about).collect();
        drop(run.running);
        run.runtime.shutdown_background();
        asked
    }

    /// SIGTERM.
    pub fn leave(&mut self) {
        if let Some(run) = &mut self.run
            && let Some(running) = run.running.take()
        {
            run.leaves = Some(run.runtime.spawn(running.shutdown()));
        }
    }

    /// Asks its API something.
    pub fn ask(&mut self, about: Question) {
        let Some(run) = &mut self.run else { return };
        let api: ApiClient = self.setup.api();
        let question = about.clone();
        let answer = run.runtime.spawn(async move {
            match &question {
                Question::Enable { body, .. } => api.enable(body).await,
                Question::Change { instance, body, .. } => api.change(instance, body).await,
                Question::Disable { instance, .. } => api.disable(instance).await,
            }
        });
        run.asked.push(Asked { answer, about });
    }

    /// Moves its clock on to `now`, and runs what is due.
    pub fn run(&mut self, now: Duration) {
        if self.run.is_some() {
            self.set_clocks(now);
        }
        let Some(run) = &mut self.run else { return };
        let step = now.saturating_sub(self.at);
        self.at = now;
        // For who watches: `RUST_LOG` tells of each node what it logs.
        let _said_by = tracing::error_span!("node", port = self.setup.ports.udp).entered();
        // What another node of this thread has printed is not this one's.
        let _ = take_printed();
        run.runtime.block_on(async {
            tokio::time::advance(step).await;
            for _ in 0..PASSES {
                tokio::task::yield_now().await;
            }
        });
        self.pushes.extend(take_printed());
        if run.leaves.as_ref().is_some_and(JoinHandle::is_finished) {
            let run = self.run.take();
            if let Some(run) = run {
                run.runtime.shutdown_background();
            }
        }
    }

    /// The pushes since it was asked last.
    pub fn pushes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.pushes)
    }

    /// The answers since they were asked for last.
    pub fn answers(&mut self) -> Vec<Answered> {
        let Some(run) = &mut self.run else { return Vec::new() };
        let (over, open) = run.asked.drain(..).partition(|asked: &Asked| asked.answer.is_finished());
        run.asked = open;
        let mut answers = Vec::new();
        for Asked { answer, about } in over {
            let answer = run.runtime.block_on(answer).ok().and_then(Result::ok);
            let status = answer.as_ref().map_or(0, |answer| answer.status);
            let told = answer.filter(|_| matches!(status, 201 | 202)).map(|answer| answer.json());
            let instance = match (&about, told) {
                (Question::Enable { body, .. }, Some(told)) => Some(Instance::new(body, told)),
                (Question::Change { instance, .. }, _) if status == 200 => Some(instance.clone()),
                _ => None,
            };
            answers.push(Answered { about, status, instance });
        }
        answers
    }
}
