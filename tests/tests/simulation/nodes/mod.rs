//! Three nodes over one store in virtual time: the relay as it is, each in a runtime whose clock is moved here, a store that keeps
//! this time and runs the relay's own scripts, a SIP server, callers and apps; and faults, from one seed.
//!
//! | room | what it plays |
//! | --- | --- |
//! | [`node`] | a relay that runs, stands still, is killed and leaves |
//! | [`redis`], [`resp`] | the store, and each node's way to it |
//! | [`exchange`] | the SIP server and the callers |
//! | [`oracle`] | what must hold |
//! | [`breaks`] | what is made not to hold, to see that the oracle sees it |
//!
//! | fault | how long |
//! | --- | --- |
//! | a node stands still | 0.2 to 15 s |
//! | a node is killed, or told to end, and starts again | 1 to 15 s later |
//! | a node's way to the store is silent, is closed, or loses the answers | 0.2 to 12 s |
//! | a node and the SIP server are cut off from each other | 0.5 to 8 s |
//! | a node's wall clock jumps, forward or back, by 10 s to 20 days | 1 to 30 s |
//! | the store starts again, empty or with what it held 2 to 20 s ago | away for 0.1 to 8 s; nothing else is wrong before and after |
//!
//! Each account has two devices; one of them is disabled now and then, or both, and enabled again. Where apps ask again, they also enable what they have or
//! may have, by any node, with the token that they had or another, and go to the foreground and back.
//!
//! Invariant: the order of happenings comes from the seed; what the relay draws by itself (identifiers, jitter) does not. At each
//! moment at least one node is well.

mod breaks;
mod exchange;
mod node;
mod oracle;
mod redis;
mod resp;

use std::time::Duration;

use rcgen::KeyPair;
use relay::vault::Keyring;
use serde_json::json;
use sip::random::Random;
use tests::authority::Authority;
use tests::relay_setup::{Apns, App, Ports, Setup};
use tests::wire::Transport;

pub use self::breaks::Break;
use self::exchange::Exchange;
use self::node::{Answered, Node, Question};
use self::oracle::Oracle;
use self::redis::{Redis, Way};

/// Nodes.
const NODES: usize = 3;
/// Devices of an account.
pub const DEVICES: usize = 2;
/// One step of the clocks.
const STEP: Duration = Duration::from_millis(20);
/// How often in a step everybody has a turn: what is asked of the store is answered in the same step.
const TURNS: usize = 6;
/// How long nothing goes wrong at the beginning, and at the end.
const CALM: Duration = Duration::from_secs(20);
/// How long a node is cut off from the SIP server when others are to have its accounts: half a grant and the wait for an answer, a minute, and that once more
/// for what stood by its grant.
const CUT_OFF: Duration = Duration::from_secs(190);
/// How long nothing else goes wrong before the store loses something, and after: it is one failure.
const ALONE: Duration = Duration::from_secs(16);

/// What to simulate.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Accounts, each with two devices.
    pub accounts: usize,
    /// Virtual seconds of faults.
    pub seconds: u64,
    /// Where the order of happenings comes from.
    pub seed: u64,
    /// When the store loses something for the first time. `None`: it loses nothing.
    pub loses_after: Option<Duration>,
    /// Whether apps ask once more for what they have or may have.
    pub ask_again: bool,
    /// What does not work.
    pub breaks: Option<Break>,
    /// What happens is told on stderr.
    pub watch: bool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// What broke a rule; empty when none was.
    pub wrongs: Vec<String>,
    /// Calls.
    pub calls: usize,
    /// Calls that had to be pushed.
    pub owed: usize,
    /// Pushes of calls.
    pub pushes: usize,
    /// Alerts that a call was missed.
    pub missed: usize,
    /// Instances that were enabled.
    pub enabled: usize,
    /// Receipts.
    pub receipts: usize,
    /// Faults, by kind.
    pub faults: std::collections::BTreeMap<&'static str, usize>,
}

struct World {
    plan: Plan,
    random: Random,
    now: Duration,
    nodes: Vec<Node>,
    redis: Redis,
    exchange: Exchange,
    oracle: Oracle,
    /// When a node's ways are well again.
    store_well_at: [Duration; NODES],
    exchange_well_at: [Duration; NODES],
    /// When the clocks of their machines are right again.
    clock_well_at: [Duration; NODES],
    next_loss: Option<Duration>,
    next_fault: Duration,
    next_call: Duration,
    next_request: Duration,
    tokens: u64,
    /// The token that each device has now.
    token_of: Vec<[u64; DEVICES]>,
    faults: std::collections::BTreeMap<&'static str, usize>,
    authority: Authority,
}

/// Simulates.
pub fn run(plan: Plan) -> Report {
    let mut world = World::new(plan);
    world.go();
    world.oracle.report(world.exchange.calls().len(), world.faults)
}

/// Simulates one node that is cut off from the SIP server alone, for long. What was not pushed meanwhile is among the wrongs.
pub fn run_cut_off_from_sip_server(plan: Plan) -> Report {
    let mut world = World::new(plan);
    let unheard = world.cut_off_from_sip_server();
    let mut report = world.oracle.report(world.exchange.calls().len(), world.faults);
    report.wrongs.extend(unheard);
    report
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_be_bytes());
        let authority = Authority::new();
        let (redis, exchange) = (Redis::open(NODES, plan.breaks), Exchange::open());
        let keyrings: Vec<_> = (0..NODES).map(|node| authority.directory().join(format!("keyring-{node}"))).collect();
        // A copy each: beside it a node remembers what it has wiped.
        drop(Keyring::open(&keyrings[0]).expect("a keyring"));
        keyrings[1..].iter().for_each(|copy| assert!(std::fs::copy(&keyrings[0], copy).is_ok()));
        let key_file = authority.directory().join("apns.p8");
        std::fs::write(&key_file, KeyPair::generate().expect("a key").serialize_pem()).expect("written");
        let mut app = App::new("com.example.phone");
        app.apns = Some(Apns {
            key_file,
            key_id: tests::apns::KEY_ID.to_owned(),
            team_id: tests::apns::TEAM_ID.to_owned(),
            certificate_file: None,
            endpoint: "https://127.0.0.1:1".to_owned(),
            ca_file: authority.ca_file(),
        });
        let nodes = (0..NODES).map(|number| {
            let mut setup = Setup::new(&authority, vec![app.clone()]);
            setup.ports = Ports::default();
            setup.transports = vec![Transport::Udp];
            setup.store = redis.url(number);
            setup.keyring = Some(keyrings[number].clone());
            setup.domains = vec!["sim.test".to_owned(), "127.0.0.1".to_owned()];
            Node::new(setup)
        });
        let nodes: Vec<Node> = nodes.collect();
        let ports = nodes.iter().map(Node::port).collect();
        Self {
            oracle: Oracle::new(plan.accounts, ports),
            random: Random::new(seed),
            now: Duration::from_secs(1),
            nodes,
            redis,
            exchange,
            store_well_at: [Duration::ZERO; NODES],
            exchange_well_at: [Duration::ZERO; NODES],
            clock_well_at: [Duration::ZERO; NODES],
            next_loss: plan.loses_after.map(|after| CALM + after),
            next_fault: CALM,
            next_call: CALM,
            next_request: CALM,
            tokens: 0,
            token_of: vec![[0; DEVICES]; plan.accounts],
            faults: std::collections::BTreeMap::new(),
            plan,
            authority,
        }
    }

    /// All nodes run, and all devices are lent.
    fn begin(&mut self) {
        for node in &mut self.nodes {
            node.start(self.now);
        }
        self.run_for(Duration::from_secs(8));
        for account in 0..self.plan.accounts {
            for device in 0..DEVICES {
                self.enable(account, device);
                self.run_for(STEP * 5);
            }
        }
    }

    /// The calls that did not ring while a node was cut off from the SIP server, and the accounts that were there still.
    fn cut_off_from_sip_server(&mut self) -> Vec<String> {
        self.begin();
        self.run_for(CALM);
        let (port, mut wrongs, mut calls) = (self.nodes[0].port(), Vec::new(), Vec::new());
        let of_node = |world: &Self| {
            let of_it = |account: &usize| world.exchange.nodes_of(*account).contains(&port);
            (0..world.plan.accounts).filter(of_it).count()
        };
        if of_node(self) == 0 {
            wrongs.push("no account is at the node that is to be cut off".to_owned());
        }
        self.exchange.set_cut_off(port, true);
        self.exchange_well_at[0] = Duration::MAX;
        self.run_for(CUT_OFF);
        if of_node(self) > 0 {
            wrongs.push("a Contact leads to the node that is cut off".to_owned());
        }
        for account in 0..self.plan.accounts {
            calls.push(self.exchange.calls().len());
            self.call(account);
            self.run_for(STEP * 20);
        }
        self.run_for(CALM);
        let unheard = calls.into_iter().filter(|call| self.exchange.calls()[*call].rang.is_none());
        wrongs.extend(unheard.map(|call| format!("call {call} never rang")));
        self.end();
        wrongs
    }

    fn go(&mut self) {
        self.begin();
        let end = CALM + Duration::from_secs(self.plan.seconds);
        while self.now < end && self.oracle.is_content() {
            self.happen();
            self.step();
        }
        if self.oracle.is_content() {
            self.end();
        }
    }

    /// All is well again, and judged.
    fn end(&mut self) {
        self.heal();
        self.run_for(CALM * 2);
        self.oracle.expect_calm();
        for account in 0..self.plan.accounts {
            self.call(account);
            self.run_for(STEP * 20);
        }
        self.run_for(CALM);
        self.oracle.judge_end();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && self.oracle.is_content() {
            self.step();
        }
    }

    /// Everybody moves on by one step.
    fn step(&mut self) {
        self.now += STEP;
        self.mend();
        for _ in 0..TURNS {
            for node in &mut self.nodes {
                if node.stands_until.is_none() {
                    node.run(self.now);
                }
            }
            let done = self.redis.poll(self.now) + self.exchange.poll(self.now);
            if done == 0 {
                break;
            }
        }
        for number in 0..NODES {
            let pushes = self.nodes[number].pushes();
            for push in pushes {
                self.watch(|| format!("node {number} pushes {push}"));
                self.oracle.on_push(self.now, number, &push);
            }
            if self.nodes[number].stands_until.is_none() {
                for answered in self.nodes[number].answers() {
                    self.on_answer(number, answered);
                }
            }
        }
        let state = std::array::from_fn(|number| oracle::NodeState {
            acts: self.nodes[number].acts(),
            leaves: self.nodes[number].is_leaving(),
            has_store: self.store_well_at[number] <= self.now,
            has_exchange: self.exchange_well_at[number] <= self.now,
        });
        self.oracle.look(self.now, &state, &mut self.exchange);
    }

    /// Ends the faults that are over.
    fn mend(&mut self) {
        for number in 0..NODES {
            let port = self.nodes[number].port();
            if self.store_well_at[number] > Duration::ZERO && self.store_well_at[number] <= self.now {
                self.redis.set_way(number, Way::Open);
                self.store_well_at[number] = Duration::ZERO;
            }
            if self.exchange_well_at[number] > Duration::ZERO && self.exchange_well_at[number] <= self.now {
                self.exchange.set_cut_off(port, false);
                self.exchange_well_at[number] = Duration::ZERO;
            }
            if self.clock_well_at[number] <= self.now {
                self.nodes[number].clock_off_ms = 0;
            }
            let node = &mut self.nodes[number];
            if node.stands_until.is_some_and(|until| until <= self.now) {
                node.stands_until = None;
                self.watch(|| format!("node {number} goes on"));
            }
            if !self.nodes[number].is_up() {
                let gone = self.now;
                match self.nodes[number].down_until {
                    None => self.nodes[number].down_until = Some(gone + self.between(1_000, 10_000)),
                    Some(until) if until <= self.now => {
                        self.watch(|| format!("node {number} starts"));
                        self.nodes[number].start(self.now);
                    }
                    Some(_) => {}
                }
            }
        }
    }

    fn heal(&mut self) {
        for number in 0..NODES {
            self.store_well_at[number] = self.store_well_at[number].min(self.now);
            self.exchange_well_at[number] = self.exchange_well_at[number].min(self.now);
            self.clock_well_at[number] = self.clock_well_at[number].min(self.now);
            let node = &mut self.nodes[number];
            node.stands_until = node.stands_until.map(|_| self.now);
            node.down_until = node.down_until.map(|_| self.now);
        }
    }

    /// Whether a node and all its ways are well.
    fn is_well(&self, number: usize) -> bool {
        let node = &self.nodes[number];
        node.acts()
            && !node.is_leaving()
            && self.store_well_at[number] <= self.now
            && self.exchange_well_at[number] <= self.now
    }

    fn happen(&mut self) {
        if self.now >= self.next_call {
            self.next_call = self.now + self.between(50, 600);
            let account = self.random.between(0, self.plan.accounts as u64 - 1) as usize;
            self.call(account);
        }
        if self.now >= self.next_request {
            self.next_request = self.now + self.between(2_000, 9_000);
            self.act_as_user();
        }
        if let Some(at) = self.next_loss.filter(|at| *at <= self.now + ALONE) {
            // Nothing else goes wrong until it has happened, and for a while then.
            self.next_fault = self.next_fault.max(self.now + STEP);
            if at <= self.now && (0..NODES).all(|number| self.is_well(number)) {
                self.lose();
            }
        }
        if self.now >= self.next_fault {
            self.next_fault = self.now + self.between(500, 7_000);
            self.fault();
        }
    }

    fn call(&mut self, account: usize) {
        let call = self.exchange.call(account);
        self.watch(|| format!("call {call} to account {account} at {:?}", self.exchange.nodes_of(account)));
        self.oracle.on_call(self.now, call, account);
    }

    /// The store starts again, and has lost something.
    fn lose(&mut self) {
        let mut back = (self.random.between(0, 1) == 1).then(|| self.between(2_000, 20_000));
        if self.plan.breaks == Some(Break::TombstonesLost) {
            back = Some(ALONE);
            self.lose_tombstones();
        }
        let away = self.now + self.between(100, 8_000);
        self.redis.lose(back);
        for number in 0..NODES {
            self.redis.set_way(number, Way::Closed);
            self.store_well_at[number] = away;
        }
        self.next_fault = away + ALONE;
        self.next_loss = Some(away + ALONE * 2 + self.between(20_000, 60_000));
        let kind = if back.is_some() { "the store comes back with older data" } else { "the store comes back empty" };
        *self.faults.entry(kind).or_default() += 1;
        self.watch(|| format!("{kind}: {back:?}, away until {away:?}"));
    }

    /// Every node loses power, and what it has written beside its keyring.
    fn lose_tombstones(&mut self) {
        for number in 0..NODES {
            for lost in self.nodes[number].kill(self.now) {
                self.oracle.on_lost_answer(self.now, &lost);
            }
        }
        let files = std::fs::read_dir(self.authority.directory()).expect("a directory").flatten();
        for file in files {
            let name = file.file_name().to_string_lossy().into_owned();
            if name.strip_prefix("keyring-").is_some_and(|rest| rest.len() > 1) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    fn fault(&mut self) {
        let number = self.random.between(0, NODES as u64 - 1) as usize;
        let others_are_well = (0..NODES).any(|other| other != number && self.is_well(other));
        if !others_are_well || !self.is_well(number) {
            return;
        }
        let kind = match self.random.between(0, 22) {
            0..4 => {
                self.nodes[number].stands_until = Some(self.now + self.between(200, 15_000));
                "stands still"
            }
            4..7 => {
                let until = self.now + self.between(1_000, 15_000);
                for lost in self.nodes[number].kill(until) {
                    self.oracle.on_lost_answer(self.now, &lost);
                }
                "is killed"
            }
            7..10 => {
                self.nodes[number].leave();
                "leaves"
            }
            kind @ 10..15 => {
                let way = [Way::Silent, Way::Closed, Way::Deaf][kind as usize % 3];
                self.redis.set_way(number, way);
                self.store_well_at[number] = self.now + self.between(200, 12_000);
                match way {
                    Way::Silent => "gets no answer of the store",
                    Way::Closed => "is cut off from the store",
                    _ => "loses the store's answers",
                }
            }
            20.. => {
                const SECOND: i64 = 1_000;
                let off_ms = [10, 45, 400, 90_000, 20 * 86_400][self.random.between(0, 4) as usize] * SECOND;
                let forward = self.random.between(0, 1) == 1;
                self.nodes[number].clock_off_ms = if forward { off_ms } else { -off_ms };
                self.clock_well_at[number] = self.now + self.between(1_000, 30_000);
                if forward { "has its clock jump forward" } else { "has its clock jump back" }
            }
            _ => {
                let port = self.nodes[number].port();
                self.exchange.set_cut_off(port, true);
                self.exchange_well_at[number] = self.now + self.between(500, 8_000);
                "is cut off from the SIP server"
            }
        };
        *self.faults.entry(kind).or_default() += 1;
        let (off_ms, until) = (self.nodes[number].clock_off_ms, self.clock_well_at[number]);
        self.watch(|| match off_ms {
            0 => format!("node {number} {kind}"),
            off_ms => format!("node {number} {kind}; its clock is off by {off_ms} ms until {until:?}"),
        });
    }

    /// Something that a user wants.
    fn act_as_user(&mut self) {
        let account = self.random.between(0, self.plan.accounts as u64 - 1) as usize;
        let device = self.random.between(0, DEVICES as u64 - 1) as usize;
        if self.plan.ask_again && self.act_once_more(account, device) {
            return;
        }
        match self.oracle.instance(account, device) {
            Some(instance) => {
                let Some(number) = self.any_well() else { return };
                self.watch(|| format!("account {account} device {device} is disabled at node {number}"));
                self.oracle.on_disable(self.now, account, device);
                self.nodes[number].ask(Question::Disable { account, device, instance });
            }
            None if self.oracle.may_enable(account, device) => self.enable(account, device),
            None => {}
        }
    }

    /// An app enables once more what it has, or may have, or goes to the foreground and back; whether it did.
    fn act_once_more(&mut self, account: usize, device: usize) -> bool {
        let instance = self.oracle.instance(account, device);
        let is_unclear = instance.is_none();
        let question = match self.random.between(0, 5) {
            0 | 1 if !is_unclear => return false,
            2 if let Some(instance) = instance => {
                let foreground = !self.oracle.is_foreground(account, device);
                let body = json!({"presence": if foreground { "foreground" } else { "background" }});
                Question::Change { account, device, instance, body, foreground }
            }
            _ if !self.oracle.may_enable_again(account, device) => return false,
            _ => Question::Enable { account, device, body: self.enabling(account, device) },
        };
        let Some(number) = self.any_well() else { return true };
        self.watch(|| format!("account {account} device {device} asks once more at node {number}: {question:?}"));
        self.oracle.on_asked_again(self.now, account, device);
        self.nodes[number].ask(question);
        true
    }

    fn any_well(&mut self) -> Option<usize> {
        let first = self.random.between(0, NODES as u64 - 1) as usize;
        (0..NODES).map(|place| (first + place) % NODES).find(|number| self.is_well(*number))
    }

    fn enable(&mut self, account: usize, device: usize) {
        let Some(number) = self.any_well() else { return };
        let keeps_token = self.plan.ask_again && self.token_of[account][device] != 0 && self.random.between(0, 1) == 0;
        if !keeps_token {
            self.tokens += 1;
            self.token_of[account][device] = self.tokens;
        }
        let body = self.enabling(account, device);
        self.watch(|| format!("account {account} device {device} is enabled at node {number}"));
        self.oracle.on_enable(account, device);
        self.nodes[number].ask(Question::Enable { account, device, body });
    }

    /// What an app lends, with the push token that its device has now.
    fn enabling(&self, account: usize, device: usize) -> serde_json::Value {
        let token = self.token_of[account][device];
        json!({
            "account": {
                "aor": format!("sip:u{account}@sim.test"),
                "auth_username": format!("u{account}"),
                "password": "the same",
                "registrar": self.exchange.uri(),
            },
            "device": {
                "call_push": {"provider": "apns", "environment": "production", "token": format!("{:064x}", token)},
                "alert_push": {"provider": "apns", "environment": "production", "token": format!("a{:063x}", token)},
            },
            "wake_for": ["call", "missed-call"],
        })
    }

    fn on_answer(&mut self, number: usize, answered: Answered) {
        self.watch(|| format!("node {number} answers {} to {:?}", answered.status, answered.about));
        self.oracle.on_answer(self.now, answered);
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.random.between(least_ms, most_ms))
    }

    fn watch(&self, what: impl FnOnce() -> String) {
        if self.plan.watch {
            eprintln!("{:>9.3} {}", self.now.as_secs_f64(), what());
        }
    }
}
