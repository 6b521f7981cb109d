//! A SIP server that is slower than it is asked, and works off what comes in its order, in virtual time.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::{Message, Name};

use crate::registration::MD5;
use crate::world::{World, seconds};

const STREAM: FlowId = FlowId::Stream(91);
const NEXT: FlowId = FlowId::Stream(92);
const TICK: Duration = Duration::from_millis(20);

fn binding(number: u128) -> BindingId {
    BindingId::new(number << 64, ShardTag(0))
}

/// Accounts of a server that answers so many REGISTERs in a second, first come first served.
struct Slow {
    world: World,
    accounts: u128,
    per_second: f64,
    /// Whether it asks for a digest first.
    challenges: bool,
    waits: VecDeque<Message>,
    /// The number of REGISTERs that it has worked off, and the number that it may do now.
    answered: usize,
    budget: f64,
    /// The accounts that it has granted last, in order.
    granted: Vec<String>,
    longest: usize,
}

impl Slow {
    fn new(accounts: u128, per_second: f64, challenges: bool) -> Self {
        let mut world = World::new(STREAM);
        world.dial = true;
        let mut slow = Self {
            world,
            accounts,
            per_second: 1_000_000.0,
            challenges: false,
            waits: VecDeque::new(),
            answered: 0,
            budget: 0.0,
            granted: Vec::new(),
            longest: 0,
        };
        for number in 1..=accounts {
            slow.world.bind_another(binding(number), InstanceId::new(number << 80, ShardTag(0)));
        }
        slow.run_until_all(seconds(60));
        (slow.per_second, slow.challenges, slow.answered, slow.longest) = (per_second, challenges, 0, 0);
        slow.granted.clear();
        slow
    }

    /// The server was restarted, knows nobody, and reads what comes by the next stream.
    fn restarts(&mut self) {
        self.waits.clear();
        self.granted.clear();
        self.world.sent.clear();
        self.world.upstream.flow = if self.world.upstream.flow == STREAM { NEXT } else { STREAM };
        let ended = if self.world.upstream.flow == STREAM { NEXT } else { STREAM };
        self.world.input(Input::Closed(ended));
    }

    fn tick(&mut self) {
        self.world.advance(TICK);
        let sent = std::mem::take(&mut self.world.sent).into_iter().map(|sent| sent.message);
        self.waits.extend(sent.filter(|it| it.method_text() == Some("REGISTER")));
        self.longest = self.longest.max(self.waits.len());
        self.budget = (self.budget + self.per_second * TICK.as_secs_f64()).min(self.per_second);
        while self.budget >= 1.0
            && let Some(register) = self.waits.pop_front()
        {
            self.budget -= 1.0;
            self.answered += 1;
            let source = self.world.upstream;
            if self.challenges && !register.has(Name::Authorization) {
                let fresh = MD5.replace("n1", &format!("n{}", self.answered));
                self.world.reply(source, &register, 401, &[("WWW-Authenticate", &fresh)], "");
            } else {
                self.granted.push(register.contacts()[0].uri().unwrap().user.unwrap().to_owned());
                self.world.reply(source, &register, 200, &[("Expires", "3600")], "");
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.world.now + time;
        while self.world.now < until {
            self.tick();
        }
    }

    fn all_granted(&self) -> bool {
        self.granted.iter().collect::<BTreeSet<_>>().len() == self.accounts as usize
    }

    /// How long it takes until each account was granted since the restart.
    fn run_until_all(&mut self, most: Duration) -> Duration {
        let start = self.world.now;
        while !self.all_granted() {
            assert!(self.world.now < start + most, "{} granted, {} wait", self.granted.len(), self.waits.len());
            self.tick();
        }
        self.world.now - start
    }
}

#[test]
fn a_server_that_is_slower_than_its_pace_has_all_accounts_about_as_soon_as_it_can() {
    // Two requests each: 6,000 at 60 in a second are 100 s.
    let mut slow = Slow::new(3_000, 60.0, true);
    slow.restarts();
    let took = slow.run_until_all(seconds(140));
    assert!(took < seconds(130), "{took:?}");
    assert!(slow.longest <= 2_100, "{} waited at once", slow.longest);
    // The backlog is worked off well before its REGISTERs are given up.
    slow.restarts();
    slow.run(seconds(45));
    slow.longest = 0;
    slow.run(seconds(20));
    assert!(slow.longest <= 5 * 60, "{} waited at once", slow.longest);
}

#[test]
fn what_a_slow_server_answers_late_counts() {
    let mut slow = Slow::new(1, 1.0, false);
    slow.restarts();
    // The server takes 40 s for the answer: the REGISTER was given up 8 s before.
    let register = slow.world.last("REGISTER");
    slow.world.sent.clear();
    slow.world.advance(seconds(40));
    assert!(!slow.world.endpoint.is_registered(binding(1)));
    let source = slow.world.upstream;
    let stranger = Source { flow: FlowId::Stream(7), peer: "203.0.113.9:5060".parse().unwrap(), ..source };
    slow.world.reply(stranger, &register, 200, &[("Expires", "3600")], "");
    assert!(!slow.world.endpoint.is_registered(binding(1)), "another has not been asked");
    slow.world.sent.clear();
    slow.world.reply(source, &register, 200, &[("Expires", "3600")], "");
    assert!(slow.world.endpoint.is_registered(binding(1)));
    let registered = |world: &World| world.events.iter().filter(|it| matches!(it, Event::Registered { .. })).count();
    let before = registered(&slow.world);
    slow.world.reply(source, &register, 200, &[("Expires", "3600")], "");
    assert_eq!(registered(&slow.world), before, "once");
    slow.world.advance(seconds(400));
    assert_eq!(slow.world.count("REGISTER"), 0, "it does not ask again for what it has");
}

#[test]
fn a_late_challenge_is_answered_and_one_that_comes_too_late_is_not() {
    for (late, answered) in [(40, true), (200, false)] {
        let mut slow = Slow::new(1, 1.0, false);
        slow.restarts();
        let register = slow.world.last("REGISTER");
        slow.world.advance(seconds(late));
        let (before, source) = (slow.world.count("REGISTER"), slow.world.upstream);
        slow.world.reply(source, &register, 401, &[("WWW-Authenticate", MD5)], "");
        assert_eq!(slow.world.count("REGISTER") > before, answered, "{late}");
        assert!(!answered || slow.world.last("REGISTER").has(Name::Authorization));
    }
}

#[test]
fn after_a_second_loss_those_begin_first_that_have_waited_longest() {
    let mut slow = Slow::new(2_000, 100.0, false);
    slow.restarts();
    slow.run(seconds(10));
    let first: BTreeSet<_> = slow.granted.iter().cloned().collect();
    assert!((900..=1_100).contains(&first.len()), "{}", first.len());
    slow.restarts();
    slow.run(seconds(8));
    let again = slow.granted.iter().filter(|it| first.contains(*it)).count();
    assert!(slow.granted.len() > 700 && again < slow.granted.len() / 10, "{again} of {}", slow.granted.len());
}
