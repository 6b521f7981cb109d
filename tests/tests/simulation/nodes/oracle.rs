//! What must hold, judged from what the SIP server, the callers and the apps see, and from the pushes.
//!
//! 1. **One owner acts.** A call is pushed to a device once, by one node. A node that the store does not answer goes on with what it
//!    has, so it is excused, and for [`MEMORY`] after. Excused is, too, the moment in which a node that ends has not heard yet that its device has joined
//!    the other devices of the account at the node that takes it, when the SIP server was cut off from a node: the taker's REGISTER could not take
//!    the other Contact away, and both push.
//! 2. **What was receipted does not come back.** Once an app has its receipt, no node pushes to that instance again, with the same
//!    excuse; when all is well again, nothing is pushed to it at all, and an account without a device has no Contact.
//! 3. **No call is lost that a live node could have pushed.** A call to an account with a device rings within [`RINGS_WITHIN`], when a
//!    node that it was sent to ran all the while and the SIP server was cut off from no node; also when that node was told to end, if
//!    nothing else went wrong. Where the account's own node has the call and stands still, an earlier one refuses it at once.
//! 4. **All is well in the end.** When the faults are over, each device of each account is pushed once, by one node.
//! 5. **A missed call is told once.** Nobody answers here: each device hears once of each call that it was pushed for, by one node, with the
//!    excuses of the first rule; of each, when nothing was wrong with the node that has pushed it, also when that was told to end.
//!
//! Invariant: what nobody was told (an answer that was lost with its node) binds nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tests::api_client::Instance;

use super::exchange::Exchange;
use super::node::{Answered, Question};
use super::{DEVICES, NODES, Report};

/// How long before a call something may have gone wrong that still has a part in it.
const MEMORY: Duration = Duration::from_secs(15);
/// How long a node that ends may not have heard that its device is another's.
const JOINED: Duration = Duration::from_millis(500);
/// How long a call that came while an instance took another one's place may go on, and take to be told as missed.
const JUST_NOW: Duration = Duration::from_secs(3);
/// How long an earlier instance of a device may be called still.
const STRAY: Duration = Duration::from_secs(45);
/// How long a call may take to ring: as long as one may wait that comes before its instance, and some more.
const RINGS_WITHIN: Duration = Duration::from_secs(13);

/// How a node stands at a moment.
#[derive(Clone, Copy, Debug)]
pub struct NodeState {
    /// It runs and does what comes.
    pub acts: bool,
    /// It was told to end.
    pub leaves: bool,
    /// The store answers it.
    pub has_store: bool,
    /// The SIP server hears it.
    pub has_exchange: bool,
}

/// A device of an account, as its app knows it.
#[derive(Clone, Debug, Default)]
enum Device {
    #[default]
    None,
    /// Asked for.
    Coming,
    /// It is lent, and asked for once more.
    Again,
    Lent(Instance),
    /// It is lent, and its app registers by itself.
    Foreground(Instance),
    /// Its end was asked for.
    Going,
    /// Its app does not know.
    Unclear,
}

/// When something was so last.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    /// It stood still, or was killed.
    idle: Duration,
    leaving: Duration,
    /// It was told to end, and has not started again.
    has_left: bool,
    without_store: Duration,
    cut_off: Duration,
}

struct Owed {
    call: usize,
    account: usize,
    began: Duration,
    /// Who pushed the account's last call before this one.
    served_by: Option<usize>,
}

/// What the oracle remembers.
pub struct Oracle {
    devices: Vec<[Device; DEVICES]>,
    /// When an account's devices changed last.
    changed: Vec<Duration>,
    /// Who has pushed an account's last call.
    served_by: Vec<Option<usize>>,
    /// When an app last had an answer to what it asked once more about a device.
    answered_again: Vec<[Option<Duration>; DEVICES]>,
    ports: Vec<u16>,
    last: [Last; NODES],
    /// By call and instance, who has pushed and when.
    pushed: BTreeMap<(usize, String), Vec<(usize, Duration)>>,
    /// Likewise, who has told that it was missed.
    missed: BTreeMap<(usize, String), Vec<(usize, Duration)>>,
    receipted: BTreeMap<String, Duration>,
    open: Vec<Owed>,
    /// Calls that are placed when all is well, with their accounts.
    calm: Option<BTreeMap<usize, usize>>,
    report: Report,
}

impl Oracle {
    /// Of so many accounts, and nodes with these ports.
    pub fn new(accounts: usize, ports: Vec<u16>) -> Self {
        Self {
            devices: (0..accounts).map(|_| Default::default()).collect(),
            changed: vec![Duration::ZERO; accounts],
            served_by: vec![None; accounts],
            answered_again: vec![[None; DEVICES]; accounts],
            ports,
            last: [Last::default(); NODES],
            pushed: BTreeMap::new(),
            missed: BTreeMap::new(),
            receipted: BTreeMap::new(),
            open: Vec::new(),
            calm: None,
            report: Report::default(),
        }
    }

    /// Whether nothing was wrong.
    pub fn is_content(&self) -> bool {
        self.report.wrongs.is_empty()
    }

    /// The instance of a device, when its app has one.
    pub fn instance(&self, account: usize, device: usize) -> Option<Instance> {
        match &self.devices[account][device] {
            Device::Lent(instance) | Device::Foreground(instance) => Some(instance.clone()),
            _ => None,
        }
    }

    /// Whether its app registers by itself.
    pub fn is_foreground(&self, account: usize, device: usize) -> bool {
        matches!(self.devices[account][device], Device::Foreground(_))
    }

    /// Whether a device may be lent (again).
    pub fn may_enable(&self, account: usize, device: usize) -> bool {
        matches!(self.devices[account][device], Device::None)
    }

    /// Whether a device may be asked for once more: it is lent, or its app does not know.
    pub fn may_enable_again(&self, account: usize, device: usize) -> bool {
        matches!(self.devices[account][device], Device::Lent(_) | Device::Foreground(_) | Device::Unclear)
    }

    /// An app enables or changes once more what it has, or may have.
    pub fn on_asked_again(&mut self, now: Duration, account: usize, device: usize) {
        self.changed[account] = now;
        self.devices[account][device] = Device::Again;
    }

    /// An app asks for a device.
    pub fn on_enable(&mut self, account: usize, device: usize) {
        self.devices[account][device] = Device::Coming;
    }

    /// An app asks for the end of a device.
    pub fn on_disable(&mut self, now: Duration, account: usize, device: usize) {
        self.changed[account] = now;
        self.devices[account][device] = Device::Going;
    }

    /// An app hears nothing any more.
    pub fn on_lost_answer(&mut self, now: Duration, about: &Question) {
        let (Question::Enable { account, device, .. }
        | Question::Change { account, device, .. }
        | Question::Disable { account, device, .. }) = about;
        self.changed[*account] = now;
        self.devices[*account][*device] = Device::Unclear;
    }

    /// An app hears what became of what it asked.
    pub fn on_answer(&mut self, now: Duration, answered: Answered) {
        let Answered { about, status, instance } = answered;
        match (&about, instance, status) {
            (Question::Enable { account, device, .. }, Some(instance), _) => {
                self.changed[*account] = now;
                self.report.enabled += 1;
                if matches!(self.devices[*account][*device], Device::Again) {
                    self.answered_again[*account][*device] = Some(now);
                }
                self.devices[*account][*device] = Device::Lent(instance);
            }
            (Question::Change { account, device, foreground, .. }, Some(instance), _) => {
                self.changed[*account] = now;
                self.devices[*account][*device] =
                    if *foreground { Device::Foreground(instance) } else { Device::Lent(instance) };
            }
            (Question::Disable { account, device, instance }, _, 200) => {
                self.changed[*account] = now;
                self.report.receipts += 1;
                self.receipted.insert(instance.id.clone(), now);
                self.devices[*account][*device] = Device::None;
            }
            // It is being wiped, or was asked of a node that could not say so: its app asks no more.
            _ => self.on_lost_answer(now, &about),
        }
    }

    /// A call was placed.
    pub fn on_call(&mut self, now: Duration, call: usize, account: usize) {
        if let Some(calm) = &mut self.calm {
            calm.insert(call, account);
        }
        self.open.push(Owed { call, account, began: now, served_by: self.served_by[account] });
    }

    /// A node has pushed.
    pub fn on_push(&mut self, now: Duration, node: usize, text: &str) {
        let Ok(push) = serde_json::from_str::<Value>(text) else { return };
        if push["event"] != "call" && push["event"] != "missed-call" {
            return;
        }
        let instance = push["instance"].as_str().unwrap_or_default().to_owned();
        let call = push["from"].as_str().and_then(|from| from.strip_prefix("sip:c")?.split('@').next()?.parse().ok());
        let Some(call) = call else { return self.wrong(now, format!("a push of nobody's call: {text}")) };
        if push["event"] == "missed-call" {
            return self.on_missed(now, node, call, instance);
        }
        self.report.pushes += 1;
        if let Some(owed) = self.open.iter().find(|owed| owed.call == call) {
            self.served_by[owed.account] = Some(node);
        }
        if let Some(at) = self.receipted.get(&instance)
            && !self.is_excused(node, now)
        {
            let ago = now.saturating_sub(*at);
            self.wrong(now, format!("node {node} pushes call {call} to {instance}, receipted {ago:?} ago"));
        }
        let pushes = self.pushed.entry((call, instance.clone())).or_default();
        pushes.push((node, now));
        let pushes = pushes.clone();
        let is_excused = pushes.iter().any(|(node, at)| self.is_excused(*node, *at));
        if pushes.len() > 1 && !is_excused && !self.is_joining(call, &instance, &pushes) {
            self.wrong(now, format!("call {call} is pushed to {instance} by nodes and at {pushes:?}"));
        }
    }

    /// Whether an app that asked once more has had its answer for this instance just now: a call that came meanwhile may be the earlier instance's at
    /// another node, and missed in the name of this one as well.
    fn has_just_replaced(&self, now: Duration, instance: &str) -> bool {
        let devices = self.devices.iter().flatten().zip(self.answered_again.iter().flatten());
        let mut of_it = devices.filter(|(device, _)| lent_id(device).as_deref() == Some(instance));
        of_it.any(|(_, answered)| answered.is_some_and(|at| now < at + JUST_NOW))
    }

    fn on_missed(&mut self, now: Duration, node: usize, call: usize, instance: String) {
        let told = self.missed.entry((call, instance.clone())).or_default();
        told.push((node, now));
        let told = told.clone();
        self.report.missed += 1;
        let pushes = self.pushed.get(&(call, instance.clone())).cloned().unwrap_or_default();
        let is_excused = told.iter().chain(&pushes).any(|(node, at)| self.is_excused(*node, *at));
        let is_replacing = self.has_just_replaced(now, &instance);
        if told.len() > 1 && !is_excused && !is_replacing && !self.is_joining(call, &instance, &pushes) {
            self.wrong(now, format!("call {call} is told to {instance} as missed by nodes and at {told:?}"));
        }
    }

    /// Whether a device of a node that ends has just joined another device of its account at the node that takes it, which may have been
    /// unable to say so to the SIP server.
    fn is_joining(&self, call: usize, instance: &str, pushes: &[(usize, Duration)]) -> bool {
        let [(one, at), (two, again)] = pushes else { return false };
        let ends = |node: usize| self.last[node].leaving > Duration::ZERO && self.last[node].leaving + JOINED >= *again;
        let takes = |node: usize| {
            let of_call = self.pushed.range((call, String::new())..(call + 1, String::new()));
            of_call
                .filter(|((_, other), _)| other != instance)
                .any(|(_, by)| by.iter().any(|(other, _)| *other == node))
        };
        let was_cut_off = |last: &Last| last.cut_off > Duration::ZERO && last.cut_off + MEMORY >= *at;
        let is_unheard = self.last.iter().any(was_cut_off);
        is_unheard
            && one != two
            && again.abs_diff(*at) <= JOINED
            && (ends(*one) && takes(*two) || ends(*two) && takes(*one))
    }

    /// Whether the store had nothing to say to a node then, or shortly before.
    fn is_excused(&self, node: usize, at: Duration) -> bool {
        self.last[node].without_store + MEMORY >= at && self.last[node].without_store > Duration::ZERO
    }

    /// How all stand; judges what can be judged by now.
    pub fn look(&mut self, now: Duration, nodes: &[NodeState; NODES], exchange: &mut Exchange) {
        for (last, node) in self.last.iter_mut().zip(nodes) {
            last.has_left = node.leaves || last.has_left && !node.acts;
            for (moment, is_so) in [
                (&mut last.idle, !node.acts && !last.has_left),
                (&mut last.leaving, node.leaves),
                (&mut last.without_store, !node.has_store),
                (&mut last.cut_off, !node.has_exchange),
            ] {
                if is_so {
                    *moment = now;
                }
            }
        }
        let (due, open) =
            std::mem::take(&mut self.open).into_iter().partition(|it: &Owed| it.began + RINGS_WITHIN <= now);
        self.open = open;
        for owed in due {
            self.judge_call(now, &owed, exchange);
            exchange.forget(owed.call);
        }
    }

    fn judge_call(&mut self, now: Duration, owed: &Owed, exchange: &Exchange) {
        let Owed { call, account, began, served_by } = *owed;
        let placed = &exchange.calls()[call];
        let since = began.saturating_sub(MEMORY);
        let is_settled = self.changed[account] < since || self.calm.is_some();
        let is_lent = self.devices[account].iter().any(|device| matches!(device, Device::Lent(_)));
        let quiet = |moment: Duration| moment < since;
        let heard_by_all = self.last.iter().all(|last| quiet(last.cut_off));
        let node_of = |port: u16| self.ports.iter().position(|other| *other == port);
        // The account's own node has the call, and stands still: an earlier one refuses it at once.
        let waits_at_own = placed
            .legs
            .iter()
            .any(|leg| served_by.is_some_and(|own| node_of(leg.port) == Some(own) && !quiet(self.last[own].idle)));
        let could = !waits_at_own
            && placed.legs.iter().any(|leg| {
                let Some(node) = node_of(leg.port) else { return false };
                let last = &self.last[node];
                let others_are_well = (0..NODES).filter(|other| *other != node).all(|other| {
                    let last = &self.last[other];
                    quiet(last.idle) && quiet(last.without_store) && quiet(last.leaving)
                });
                quiet(last.idle) && (quiet(last.leaving) || others_are_well && quiet(last.without_store))
            });
        if !(is_settled && is_lent && heard_by_all && could) {
            return;
        }
        self.report.owed += 1;
        if placed.rang.is_none() {
            let legs: Vec<_> = placed.legs.iter().map(|leg| (leg.port, leg.status)).collect();
            self.wrong(now, format!("call {call} to account {account}, placed at {began:?}, never rang: {legs:?}"));
        }
        let lent: BTreeSet<String> = self.devices[account].iter().filter_map(lent_id).collect();
        let is_clear = self.devices[account]
            .iter()
            .all(|device| matches!(device, Device::Lent(_) | Device::Foreground(_) | Device::None));
        if is_clear && self.changed[account] + STRAY < began {
            let of_call = self.pushed.range((call, String::new())..(call + 1, String::new()));
            let stray: Vec<String> = of_call
                .filter(|(it, pushes)| {
                    !lent.contains(&it.1) && !pushes.iter().any(|(node, at)| self.is_excused(*node, *at))
                })
                .map(|(it, pushes)| format!("{} {pushes:?}", it.1))
                .collect();
            for it in stray {
                self.wrong(
                    now,
                    format!(
                        "call {call}, placed at {began:?}, is pushed to {it}, which is not lent since {:?}",
                        self.changed[account]
                    ),
                );
            }
        }
        let stayed = |(node, _): &(usize, Duration)| {
            let last = &self.last[*node];
            quiet(last.without_store) && quiet(last.idle)
        };
        let of_call = self.pushed.range((call, String::new())..(call + 1, String::new()));
        let untold = of_call
            .filter(|(it, pushes)| lent.contains(&it.1) && pushes.iter().all(stayed) && !self.missed.contains_key(*it));
        let untold: Vec<String> =
            untold.map(|((_, instance), pushes)| format!("{instance}, pushed {pushes:?}")).collect();
        for device in untold {
            self.wrong(now, format!("call {call}, placed at {began:?}, is told as missed to nobody: {device}"));
        }
    }

    /// From now on all is well.
    pub fn expect_calm(&mut self) {
        self.calm = Some(BTreeMap::new());
    }

    /// Judges what was called when all was well.
    pub fn judge_end(&mut self) {
        let now = Duration::MAX;
        for (call, account) in self.calm.clone().unwrap_or_default() {
            let of_call = self.pushed.range((call, String::new())..(call + 1, String::new()));
            let got: BTreeMap<String, usize> = of_call.map(|((_, id), pushes)| (id.clone(), pushes.len())).collect();
            let lent: BTreeSet<String> = self.devices[account].iter().filter_map(lent_id).collect();
            let unclear = self.devices[account]
                .iter()
                .any(|device| matches!(device, Device::Unclear | Device::Going | Device::Again | Device::Coming));
            for id in &lent {
                if got.get(id) != Some(&1) {
                    self.wrong(now, format!("all is well, and call {call} is pushed to {id}: {:?} times", got.get(id)));
                }
            }
            for id in &lent {
                let told = self.missed.get(&(call, id.clone())).map_or(0, Vec::len);
                if told != 1 {
                    self.wrong(now, format!("all is well, and call {call} is told to {id} as missed {told} times"));
                }
            }
            for id in got.keys().filter(|id| !lent.contains(*id)) {
                if self.receipted.contains_key(id) || !unclear {
                    self.wrong(now, format!("all is well, and call {call} is pushed to {id}, which is not lent"));
                }
            }
        }
    }

    /// What came of it.
    pub fn report(self, calls: usize, faults: BTreeMap<&'static str, usize>) -> Report {
        Report { calls, faults, ..self.report }
    }

    fn wrong(&mut self, now: Duration, what: String) {
        if self.report.wrongs.len() < 20 {
            let at = if now == Duration::MAX { "at the end".to_owned() } else { format!("at {now:?}") };
            self.report.wrongs.push(format!("{at}: {what}"));
        }
    }
}

fn lent_id(device: &Device) -> Option<String> {
    match device {
        Device::Lent(instance) => Some(instance.id.clone()),
        _ => None,
    }
}
