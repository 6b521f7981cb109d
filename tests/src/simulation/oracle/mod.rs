//! The oracle: what must hold, whatever happens. Its rules are written down in [`super`].
//!
//! | room | its rules |
//! | --- | --- |
//! | `calls` | 1 to 4, 9, 11 |
//! | `registrations` | 5 to 8 |
//! | here | what is remembered, what is looked at later, and that nothing is left (10) |
//!
//! Invariant: a rule is judged from what the relay received and sent, and from what the peers saw; never from what the
//! relay says of itself, but for the counts of what it holds.

mod calls;
mod registrations;

use std::collections::{BTreeMap, HashMap};

use sip::endpoint::{CallState, Counts};
use sip::id::{BindingId, CallId, FlowId, InstanceId};
use sip::message::{Message, Method};

use super::agenda::{At, S};
use super::network::Peer;
use super::world::World;

/// A check that is made later.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// The INVITE has its final answer.
    Final(usize),
    /// The call has reached the phone, or its push service.
    Reached(usize),
    /// The phone rings no more.
    Quiet(usize),
    /// A phone that was attached by this flow was offered the call.
    Invited { call: usize, flow: u64 },
    /// The call that the phone answered at that moment is established on both sides.
    Answered { call: usize, flow: u64, at: At },
    /// A BYE reached the other side.
    Bye { call: usize, by_phone: bool, flow: Option<u64>, troubles: u64 },
    /// The binding is gone.
    Unbound(BindingId),
    /// The second phone is gone.
    Parted(InstanceId),
    /// Everything at once, again and again.
    Sweep,
}

/// The facts of a call.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The relay got the INVITE.
    pub delivered: Option<At>,
    /// The relay gave the final answer, or got the CANCEL.
    pub ended: Option<At>,
    /// The relay's final answer: its status and To tag.
    pub answer: Option<(u16, String)>,
    /// The relay got the CANCEL.
    pub cancelled: Option<At>,
    /// Pushes.
    pub wakes: u32,
    /// Pushes to a second phone.
    pub second_wakes: u32,
    /// The caller gave up.
    pub gave_up: bool,
    /// The caller heard 180.
    pub caller_heard_ringing: bool,
    /// The status that the caller got.
    pub caller_final: Option<u16>,
    /// The phones that got the INVITE, and their flows.
    pub invited: Vec<(usize, u64)>,
    /// The phones that declined.
    pub declined: Vec<usize>,
    /// The flows whose 200 got its ACK.
    pub acknowledged: Vec<u64>,
    /// The flows whose 200 was followed by a BYE.
    pub hung_up_on: Vec<u64>,
    /// The caller got a BYE.
    pub caller_hung_up_on: bool,
    /// The status of the answer to the caller's BYE.
    pub bye_status: Option<u16>,
}

impl Facts {
    /// Whether the caller's answer is the one that a phone gave by this flow.
    pub fn is_won_by(&self, flow: u64) -> bool {
        self.answer.as_ref().is_some_and(|(status, tag)| *status == 200 && *tag == format!("p{flow}"))
    }
}

/// The facts of a lease, kept for ever.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The slot of its device.
    pub slot: usize,
    /// Its instance.
    pub instance: InstanceId,
    /// Its binding.
    pub binding: BindingId,
    /// The device's secret.
    pub secret: String,
    /// The password that its user typed.
    pub password: String,
    /// When it began, or was resumed.
    pub since: At,
    /// The app is in the foreground.
    pub silent: bool,
    unbinding: Option<At>,
    unbound: Option<At>,
    hour: (At, u32),
    /// Call-ID, CSeq and branch of the last REGISTER.
    last: Option<(String, u32, String)>,
}

/// The oracle's memory.
#[derive(Debug, Default)]
pub struct Oracle {
    leases: HashMap<BindingId, Lease>,
    by_instance: HashMap<InstanceId, BindingId>,
    /// The second phones of accounts, until they are unbound.
    seconds: HashMap<InstanceId, Lease>,
    calls: HashMap<(CallId, InstanceId), Option<CallState>>,
    dials: BTreeMap<usize, (At, u32)>,
    /// The violations.
    pub wrongs: Vec<String>,
}

impl Oracle {
    /// A lease, until its binding is gone.
    pub fn lease(&self, binding: BindingId) -> Option<&Lease> {
        self.leases.get(&binding).filter(|lease| lease.unbound.is_none())
    }

    /// Whether nobody has asked for a binding's end.
    pub fn lives(&self, binding: BindingId) -> bool {
        self.leases.get(&binding).is_some_and(|lease| lease.unbinding.is_none())
    }

    /// The device's secret.
    pub fn secret(&self, instance: InstanceId) -> Option<String> {
        if let Some(second) = self.seconds.get(&instance) {
            return Some(second.secret.clone());
        }
        self.lease(*self.by_instance.get(&instance)?).map(|lease| lease.secret.clone())
    }

    /// A second phone joins.
    pub fn join(&mut self, lease: Lease) {
        self.seconds.insert(lease.instance, lease);
    }

    /// Somebody asks for the end of a second phone's part.
    pub fn part(&mut self, instance: InstanceId) {
        if let Some(second) = self.seconds.get_mut(&instance) {
            second.unbinding = Some(0);
        }
    }

    /// A lease begins.
    pub fn begin(&mut self, lease: Lease) {
        self.by_instance.insert(lease.instance, lease.binding);
        self.leases.insert(lease.binding, lease);
    }

    /// The lease of a live slot goes silent, or speaks again.
    pub fn silence(&mut self, now: At, binding: BindingId, silent: bool) {
        if let Some(lease) = self.leases.get_mut(&binding) {
            lease.silent = silent;
            lease.since = now;
        }
    }
}

impl Lease {
    /// A lease that begins now.
    pub fn new(now: At, slot: usize, ids: (InstanceId, BindingId), secret: String, password: String) -> Self {
        let (instance, binding) = ids;
        let (silent, unbinding, unbound) = (false, None, None);
        Self {
            slot,
            instance,
            binding,
            secret,
            password,
            since: now,
            silent,
            unbinding,
            unbound,
            hour: (now, 0),
            last: None,
        }
    }
}

impl World {
    /// Something is wrong: it is remembered, with the moment.
    pub(super) fn wrong(&mut self, what: String) {
        let at = self.agenda.now();
        if self.oracle.wrongs.len() < 20 {
            self.oracle.wrongs.push(format!("at {}.{:06} s: {what}", at / S, at % S));
        }
    }

    pub(super) fn judge_sent(&mut self, flow: FlowId, message: &Message) {
        let to_phone = match flow {
            FlowId::Stream(flow) => {
                self.network.stream(flow).is_some_and(|stream| matches!(stream.peer, Peer::Phone(_)))
            }
            FlowId::Datagram(_) => false,
        };
        match (message.method(), message.status(), message.cseq()) {
            (Some(Method::Register), ..) => self.judge_register(message),
            (Some(Method::Invite), ..) if to_phone => self.judge_offer(message),
            (None, Some(status @ 200..), Some((_, "INVITE"))) if !to_phone => self.judge_final(status, message),
            _ => {}
        }
    }

    pub(super) fn on_check(&mut self, check: Check) {
        match check {
            Check::Final(call) => {
                if self.calls[call].facts.answer.is_none() {
                    self.wrong(format!("call {call} has no final answer in time"));
                }
            }
            Check::Reached(call) => self.check_reached(call),
            Check::Quiet(call) => self.check_quiet(call),
            Check::Invited { call, flow } => self.check_invited(call, flow),
            Check::Answered { call, flow, at } => self.check_answered(call, flow, at),
            Check::Bye { call, by_phone, flow, troubles } => self.check_bye(call, by_phone, flow, troubles),
            Check::Unbound(binding) => {
                if self.oracle.leases.get(&binding).is_some_and(|lease| lease.unbound.is_none()) {
                    self.wrong(format!("{binding} is not gone when its deadline is over"));
                }
            }
            Check::Parted(instance) => {
                if self.oracle.seconds.contains_key(&instance) {
                    self.wrong(format!("{instance}, a second phone, is not gone when its deadline is over"));
                }
            }
            Check::Sweep => self.sweep(),
        }
    }

    /// When everything is disabled and time has passed, nothing is left.
    pub(super) fn judge_quiet(&mut self) {
        for shard in 0..self.relay.shards.len() {
            let counts = self.relay.shards[shard].counts();
            if counts != Counts::default() {
                let open = self.network.open();
                self.wrong(format!(
                    "shard {shard} still holds something when all is quiet ({open} streams): {counts:?}"
                ));
            }
        }
    }
}
