//! Several nodes over one Redis: how long it takes until a node that is killed, and then one that is told to end, has its instances
//! registered by the others, and how many calls are lost meanwhile.
//!
//! Invariant: an instance has moved when the SIP server has a Contact of it that leads to another node than before; nothing is
//! judged here.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::{JoinError, JoinHandle};

use super::Failure;
use super::accounts::Accounts;
use super::bounded::{self, Progress};
use super::caller::{Cancels, GRACE, Round, shuffled};
use super::calls::Outcome;
use super::measure::Spread;
use super::plan::Plan;
use super::stage::Stage;
use crate::relay_process::RelayProcess;
use crate::relay_setup::Ports;

/// How long all instances of a node may take to move.
const MOVED_WITHIN: Duration = Duration::from_secs(300);
/// How often the SIP server's Contacts are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The measurements.
#[derive(Debug)]
pub struct Report {
    /// Nodes at the start.
    pub nodes: u32,
    /// Instances, over all nodes.
    pub instances: u32,
    /// Of a node that was killed.
    pub killed: Moved,
    /// Of a node that was told to end.
    pub handed_over: Moved,
    /// From SIGTERM until its process had ended.
    pub ended_after: Duration,
}

/// How the instances of one node moved.
#[derive(Debug)]
pub struct Moved {
    /// How many it had.
    pub instances: usize,
    /// Until the first was registered by another node.
    pub first: Duration,
    /// Until half were.
    pub half: Duration,
    /// Until all were.
    pub all: Duration,
    /// The calls that came from just before on, to the instances of all nodes.
    pub calls: Outcome,
}

/// Runs it.
///
/// # Errors
/// [`Failure`] when a part does not start, or not all instances move.
pub async fn run(plan: &Plan) -> Result<Report, Failure> {
    let bound = plan.bound();
    bounded::whole(bound, async |progress| phases(plan, progress).await).await
}

async fn phases(plan: &Plan, progress: &Progress) -> Result<Report, Failure> {
    progress.enter("the start of the first node and all around it");
    let stage = Stage::set(plan, 2 * plan.calls()).await?;
    progress.enter("the start of the other nodes");
    let mut others = Vec::new();
    let nodes = plan.nodes.unwrap_or(3);
    for _ in 1..nodes {
        let mut setup = stage.relay.setup().clone();
        setup.ports = Ports::default();
        others.push(RelayProcess::start(setup).await?);
    }
    let accounts = stage.app.accounts();
    progress.enter("enabling");
    enable(plan, &stage, &others, &accounts).await?;
    progress.enter("the take-over of a node that was killed");
    let killed = others.remove(0);
    let of_killed = of_node(&accounts, &killed);
    let calls = Calls::begin(plan, &stage, 0).await;
    let begun = Instant::now();
    killed.kill_9().await?;
    let mut killed = moved(&accounts, &of_killed, begun).await?;
    killed.calls = calls.ended(&stage).await?;
    progress.enter("the hand-over of a node that leaves");
    let leaving = others.remove(0);
    let of_leaving = of_node(&accounts, &leaving);
    let calls = Calls::begin(plan, &stage, plan.calls()).await;
    let begun = Instant::now();
    let ends = tokio::spawn(async move { leaving.terminate(MOVED_WITHIN).await.map(|_| begun.elapsed()) });
    let mut handed_over = moved(&accounts, &of_leaving, begun).await?;
    let ended_after = ends.await.map_err(|error| Failure::RelayEnded(error.to_string()))??;
    handed_over.calls = calls.ended(&stage).await?;
    Ok(Report { nodes, instances: plan.instances, killed, handed_over, ended_after })
}

/// Calls at the plan's rate, to the accounts of all nodes.
struct Calls {
    numbers: Range<u32>,
    placing: JoinHandle<Spread>,
}

impl Calls {
    /// Begins, and comes back when some are under way.
    async fn begin(plan: &Plan, stage: &Stage, first: u32) -> Self {
        /// So long before it happens calls come.
        const BEFORE: Duration = Duration::from_millis(500);
        let numbers = first..first + plan.calls();
        let order = shuffled(plan.instances);
        let round =
            Round { numbers: numbers.clone(), order, rate: plan.rate, cancels: Cancels::OncePushed, patience: GRACE };
        let caller = stage.caller.clone();
        let placing = tokio::task::spawn_blocking(move || caller.place(&round));
        tokio::time::sleep(BEFORE).await;
        Self { numbers, placing }
    }

    async fn ended(self, stage: &Stage) -> Result<Outcome, Failure> {
        let Self { numbers, placing } = self;
        let failed = |error: JoinError| Failure::Ringing { phase: "calls meanwhile", what: error.to_string() };
        placing.await.map_err(failed)?;
        Ok(stage.caller.book.outcome(numbers))
    }
}

/// Each node gets its share of the accounts.
async fn enable(plan: &Plan, stage: &Stage, others: &[RelayProcess], accounts: &Accounts) -> Result<(), Failure> {
    let mut apps = vec![stage.app.clone()];
    for other in others {
        apps.push(Arc::new(stage.app.at(other.api_address(), &other.setup().authority)));
    }
    let share = plan.instances.div_ceil(apps.len() as u32);
    for (place, app) in (0..).zip(&apps) {
        let range = (place * share).min(plan.instances)..((place + 1) * share).min(plan.instances);
        let enabled = app.enable(range, plan.concurrency).await;
        enabled.map_err(|error| Failure::Enabling { reason: error.to_string(), log: stage.relay.log() })?;
    }
    let deadline = Instant::now() + MOVED_WITHIN;
    loop {
        let registered = accounts.iter().filter(|account| account.contact().is_some()).count();
        if registered == accounts.len() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::Registering { registered: registered as u64, wanted: u64::from(plan.instances) });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The accounts whose Contact leads to a node, and that Contact.
fn of_node(accounts: &Accounts, node: &RelayProcess) -> Vec<(usize, String)> {
    let port = format!(":{}", node.setup().ports.udp);
    let contacts =
        accounts.iter().enumerate().filter_map(|(number, account)| Some((number, account.contact()?.uri.clone())));
    contacts.filter(|(_, uri)| uri.split(';').next().is_some_and(|uri| uri.ends_with(&port))).collect()
}

async fn moved(accounts: &Accounts, before: &[(usize, String)], begun: Instant) -> Result<Moved, Failure> {
    let (mut first, mut half) = (None, None);
    loop {
        let is_elsewhere =
            |(number, uri): &&(usize, String)| accounts[*number].contact().is_some_and(|contact| contact.uri != *uri);
        let moved = before.iter().filter(is_elsewhere).count();
        let now = begun.elapsed();
        if moved > 0 {
            first.get_or_insert(now);
        }
        if moved * 2 >= before.len() {
            half.get_or_insert(now);
        }
        if moved == before.len() {
            return Ok(Moved {
                instances: before.len(),
                first: first.unwrap_or(now),
                half: half.unwrap_or(now),
                all: now,
                calls: Outcome::default(),
            });
        }
        if now > MOVED_WITHIN {
            return Err(Failure::Registering { registered: moved as u64, wanted: before.len() as u64 });
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Moved {
    fn to_json(&self) -> Value {
        let ms = |time: Duration| time.as_millis() as u64;
        json!({
            "instances": self.instances,
            "first_ms": ms(self.first),
            "half_ms": ms(self.half),
            "all_ms": ms(self.all),
            "calls": self.calls,
        })
    }
}

impl Report {
    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "nodes": self.nodes,
            "instances": self.instances,
            "killed": self.killed.to_json(),
            "handed_over": self.handed_over.to_json(),
            "ended_after_ms": self.ended_after.as_millis() as u64,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} instances on {} nodes over one Redis", self.instances, self.nodes)?;
        for (what, moved) in [("kill -9", &self.killed), ("SIGTERM", &self.handed_over)] {
            let Moved { instances, first, half, all, calls } = moved;
            writeln!(
                f,
                "  {what}: its {instances} instances were registered by others: the first after {:.2} s, half after {:.2} s, all after {:.2} s",
                first.as_secs_f64(),
                half.as_secs_f64(),
                all.as_secs_f64()
            )?;
            let lost = calls.calls - calls.pushed;
            writeln!(
                f,
                "  {what}: of {} calls meanwhile {lost} were not pushed, {} twice",
                calls.calls, calls.pushed_twice
            )?;
            writeln!(f, "  {what}: INVITE → push {}; answers by status {:?}", calls.invite_to_push, calls.statuses)?;
        }
        writeln!(f, "  SIGTERM: the process had ended after {:.2} s", self.ended_after.as_secs_f64())
    }
}
