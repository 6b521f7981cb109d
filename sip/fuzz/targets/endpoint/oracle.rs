//! What must hold, whatever happens.
//!
//! | rule | judged from |
//! | --- | --- |
//! | what is sent parses and is sound | [`Oracle::sent`] |
//! | one push for a call and a device, and none after the call's end | [`Oracle::event`] |
//! | nothing follows a device's final state; a call ends once | [`Oracle::event`] |
//! | an INVITE that was accepted gets one final answer, at the end at the latest | [`Oracle::sent`], [`Oracle::end`] |
//! | only a device that is lent, or passed through, is woken | [`Oracle::event`] |
//! | what is held is bounded by what went in | [`Oracle::counts`] |
//! | nothing is left after the end | [`Oracle::end`] |
//!
//! Invariant: a broken rule is a panic with the rule's words.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sip::endpoint::{CallState, Counts, Event};
use sip::id::{CallId, FlowId, InstanceId};
use sip::message::{Message, Name};

/// How long a server transaction remembers its answer: 64 × T1 (RFC 3261 §17.2).
const REMEMBERED: Duration = Duration::from_secs(32);

#[derive(Default)]
pub struct Oracle {
    /// Who may be woken.
    devices: BTreeSet<InstanceId>,
    wakes: BTreeSet<(CallId, InstanceId)>,
    last: BTreeMap<(CallId, InstanceId), CallState>,
    ended: BTreeSet<CallId>,
    /// By side and transaction: a device's INVITE may have the branch of a SIP server's.
    invites: BTreeMap<(bool, String), Invite>,
    twisted: BTreeSet<String>,
    /// The INVITE whose final answer went out last.
    answered: Option<(bool, String)>,
    /// Things that went in: each may make the endpoint hold a few more.
    inputs: usize,
}

/// An INVITE that was answered provisionally.
struct Invite {
    flow: FlowId,
    /// Status and To tag of the final answer, and when it came.
    answer: Option<(u16, String, Instant)>,
    /// Its flow is closed: no answer can be seen.
    lost: bool,
}

impl Oracle {
    pub fn input(&mut self) {
        self.inputs += 1;
        // A refusal may be told before its answer: that of an earlier input is none of it.
        self.answered = None;
    }

    /// A device may be woken from now on, or may not any more.
    pub fn serves(&mut self, instance: InstanceId, served: bool) {
        if served {
            self.devices.insert(instance);
        } else {
            self.devices.remove(&instance);
        }
    }

    /// A SIP server asks for a device once more: one whose push was refused for good may be woken again.
    pub fn asked_again(&mut self, instance: InstanceId) {
        let is_out = |key: &(CallId, InstanceId)| self.last.get(key).is_some_and(|state| state.is_final());
        let mut out = self.wakes.clone();
        out.retain(|key| key.1 == instance && is_out(key) && !self.ended.contains(&key.0));
        for key in out {
            self.wakes.remove(&key);
            self.last.remove(&key);
        }
    }

    /// Calls that a device was woken for are its successor's.
    pub fn succeeded(&mut self, earlier: InstanceId, successor: InstanceId, calls: &[CallId]) {
        for call in calls {
            if self.wakes.remove(&(*call, earlier)) {
                self.wakes.insert((*call, successor));
            }
        }
    }

    pub fn closed(&mut self, flow: FlowId) {
        for invite in self.invites.values_mut().filter(|invite| invite.flow == flow) {
            invite.lost = true;
        }
    }

    /// A message that was changed on its way looks like another one: its answer says nothing.
    pub fn twisted(&mut self, message: &Message) {
        let number = message.cseq().map_or(0, |(number, _)| number);
        self.twisted.insert(key(message, number));
    }

    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Wake(call) => {
                assert!(self.wakes.insert((call.call, call.instance)), "one push for a call and a device");
                assert!(!self.ended.contains(&call.call), "no push after the call's end");
                assert!(self.devices.contains(&call.instance), "only a device that is served is woken");
            }
            Event::Forked(call) | Event::ExpectedCallArrived(call) => {
                assert!(!self.ended.contains(&call.call), "nothing is forked after the call's end");
            }
            Event::Call { call, instance, state, .. } => {
                let earlier = self.last.insert((*call, *instance), *state);
                assert!(!earlier.is_some_and(CallState::is_final), "nothing follows {earlier:?}: {state:?}");
            }
            Event::Ended { call, .. } => assert!(self.ended.insert(*call), "a call ends once"),
            // It was answered without state (RFC 3261 §8.2.7): its next copy may find the device.
            Event::InviteRefused { .. } => {
                let invite = self.answered.take().and_then(|key| self.invites.get_mut(&key));
                if let Some((_, tag, _)) = invite.and_then(|invite| invite.answer.as_mut()) {
                    tag.clear();
                }
            }
            Event::PushBindingAccepted(binding) => self.serves(binding.instance, true),
            Event::PushBindingEnded { instance, .. } => self.serves(*instance, false),
            // Its calls wait for the successor.
            Event::PushBindingSucceeded(it) => self.succeeded(it.earlier, it.successor, &it.calls),
            Event::RefreshNeeded(instance) => {
                assert!(self.devices.contains(instance), "nobody is pushed whom his flow alone leads to");
            }
            _ => {}
        }
    }

    pub fn sent(&mut self, now: Instant, flow: FlowId, message: &Message) {
        // A request that lacks a header is told so without it.
        if message.status() != Some(400) {
            message.check().expect("what is sent is sound");
        }
        let (Some(status), Some((number, "INVITE"))) = (message.status(), message.cseq()) else { return };
        let key = (matches!(flow, FlowId::Stream(0..4)), key(message, number));
        if status >= 200 {
            self.answered = Some(key.clone());
        }
        if self.twisted.contains(&key.1) {
            return;
        }
        if status < 200 {
            let new = Invite { flow, answer: None, lost: false };
            let invite = self.invites.entry(key).or_insert(new);
            // The same bytes, long after the end, are another INVITE.
            if invite.answer.as_ref().is_some_and(|(_, tag, at)| tag.is_empty() || now - *at >= REMEMBERED) {
                invite.answer = None;
            }
            assert!(invite.answer.is_none(), "no provisional response after the final one");
            return;
        }
        let Some(invite) = self.invites.get_mut(&key) else { return };
        let tag = message.to().and_then(|to| to.tag().map(str::to_owned)).unwrap_or_default();
        // A sender that is not believed is answered without state (RFC 3261 §8.2.7); when its next copy comes, it may be. Devices
        // say it in other words.
        if matches!(message.reason(), Some("Forbidden" | "Not Found")) {
            invite.answer.get_or_insert((status, String::new(), now));
            return;
        }
        match &invite.answer {
            Some((_, first_tag, _)) if first_tag.is_empty() => invite.answer = Some((status, tag, now)),
            // Behind the device that answered something may fork: each 2xx passes (RFC 3261 §13.2.2.4, §16.7 step 5).
            Some((first, ..)) if *first < 300 && status < 300 => {}
            Some((first, first_tag, at)) if now - *at < REMEMBERED => {
                assert_eq!((*first, first_tag), (status, &tag), "one final answer");
            }
            _ => invite.answer = Some((status, tag, now)),
        }
    }

    /// Nothing grows beyond what went in.
    pub fn counts(&self, counts: &Counts) {
        let Counts {
            bindings, devices, attached, flows, verifications, calls, messages, waiting, push_bindings, ..
        } = *counts;
        assert!(bindings <= 2 && devices <= 3 + push_bindings, "{counts:?}");
        assert!(attached <= 3 + push_bindings, "{counts:?}");
        let sum = flows + verifications + calls + messages + waiting + push_bindings + counts.transactions;
        assert!(sum <= 16 * (self.inputs + 4), "{counts:?} after {} inputs", self.inputs);
        assert!(counts.timers <= 64 * (self.inputs + 4), "{counts:?} after {} inputs", self.inputs);
    }

    /// All leases are over, all flows closed, and hours have passed.
    pub fn end(&self, counts: &Counts) {
        let left = Counts { timers: 0, ..*counts };
        assert_eq!(left, Counts::default(), "nothing is left after the end");
        for ((_, key), invite) in self.invites.iter().filter(|((_, key), _)| !self.twisted.contains(key)) {
            assert!(invite.answer.is_some() || invite.lost, "an INVITE without a final answer: {key}");
        }
        for (call, instance) in &self.wakes {
            let state = self.last.get(&(*call, *instance));
            assert!(state.is_some_and(|state| state.is_final()), "{call} of {instance} was left {state:?}");
        }
    }
}

/// A transaction's name. One that comes again from elsewhere is the same (RFC 3261 §17.2.3).
fn key(message: &Message, number: u32) -> String {
    let via = message.text(Name::Via).unwrap_or_default();
    let sent_by = via.split(';').next().unwrap_or_default();
    let branch = message.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    format!("{sent_by} {branch} {} {number}", message.call_id().unwrap_or_default())
}
