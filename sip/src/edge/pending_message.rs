//! One MESSAGE outside a dialog, from its arrival to its final answer (RFC 3428).
//!
//! There is a copy of it for each device that it is for, and each copy walks this table:
//!
//! | state | the device answers | it is silent, or its flow is lost | kept | the store is full | the store is away |
//! | --- | --- | --- | --- | --- | --- |
//! | Offered | → Ended, with its answer | → Keeping | – | – | – |
//! | Keeping | a 2xx: the kept copy is to go | – | → Ended | → Ended | → Ended |
//! | Ended | a 2xx, when it is kept: likewise | – | – | – | – |
//!
//! A copy for a device that is wiped ends as where the store is full, and no answer of that device is waited for.
//!
//! When all copies have ended, the sender is answered: with a device's 2xx; else 202 when one is kept; else 503 when the
//! store is away, so that the SIP server keeps the message itself; else with the best refusal of a device (RFC 3261
//! §16.7); else 480, because the store keeps no more for this device.
//!
//! Invariant: the sender gets exactly one final answer, within [`EdgeTiming::no_response`] and [`EdgeTiming::store`]; 202 only after a store has
//! the message. A message that a device took is not kept for it, except while its late answer is on the way.

use std::time::Instant;

use bytes::Bytes;

use crate::id::{BranchId, InstanceId, MessageId};
use crate::message::Message;
use crate::timing::EdgeTiming;
use crate::transaction::ServerId;

/// The store's answer for one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOutcome {
    /// The store has the copy.
    Stored,
    /// The store takes no more for this device.
    Full,
    /// The store does not answer.
    Unavailable,
}

/// The final response to the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalResponse {
    /// A device's own answer.
    Pass(u16, Bytes),
    /// 202: it is kept.
    Accepted,
    /// 480: no more is kept for the device.
    Full,
    /// 503: the store is away.
    Unavailable,
}

#[derive(Debug)]
enum State {
    Sent,
    Storing,
    Answered(u16, Bytes),
    Stored(StoreOutcome),
}

/// The message on its way to one device.
#[derive(Debug)]
struct Copy {
    instance: InstanceId,
    message: MessageId,
    state: State,
    /// The client transaction that may still be answered.
    branch: Option<BranchId>,
    /// The device has taken it, after it was given to the store.
    taken: bool,
}

/// One MESSAGE.
#[derive(Debug)]
pub struct PendingMessage {
    /// The server transaction.
    pub server: ServerId,
    /// The tag of the answers that the relay gives itself.
    pub tag: String,
    /// The request; `None` once it is answered.
    request: Option<Box<Message>>,
    copies: Vec<Copy>,
    timing: EdgeTiming,
    due: Instant,
}

impl PendingMessage {
    /// A MESSAGE that has just come.
    pub fn new(now: Instant, timing: EdgeTiming, server: ServerId, tag: String, request: Message) -> Self {
        Self {
            server,
            tag,
            request: Some(Box::new(request)),
            copies: Vec::new(),
            due: now + timing.no_response,
            timing,
        }
    }

    /// The request, until it is answered.
    pub fn request(&self) -> Option<&Message> {
        self.request.as_deref()
    }

    /// A copy was sent to a device that is attached.
    pub fn sent(&mut self, instance: InstanceId, message: MessageId, branch: BranchId) {
        self.copies.push(Copy { instance, message, state: State::Sent, branch: Some(branch), taken: false });
    }

    /// A copy was given to the store, for a device that is not attached.
    pub fn storing(&mut self, now: Instant, instance: InstanceId, message: MessageId) {
        self.copies.push(Copy { instance, message, state: State::Storing, branch: None, taken: false });
        self.due = self.due.max(now + self.timing.store);
    }

    /// When [`Self::on_due`] must be asked.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// A final answer of a device: the kept copy that is to go, if one is.
    pub fn on_response(&mut self, branch: BranchId, status: u16, answer: Bytes) -> Option<(InstanceId, MessageId)> {
        let copy = self.copies.iter_mut().find(|copy| copy.branch == Some(branch))?;
        copy.branch = None;
        match copy.state {
            State::Sent => copy.state = State::Answered(status, answer),
            State::Storing => copy.taken = (200..300).contains(&status),
            State::Stored(StoreOutcome::Stored) if (200..300).contains(&status) => {
                return Some((copy.instance, copy.message));
            }
            State::Stored(_) | State::Answered(..) => {}
        }
        None
    }

    /// A copy that was sent will not be answered any more: gives it for the store, if the store does not have it.
    pub fn on_lost(&mut self, now: Instant, branch: BranchId) -> Option<(InstanceId, MessageId)> {
        let copy = self.copies.iter_mut().find(|copy| copy.branch == Some(branch))?;
        copy.branch = None;
        if !matches!(copy.state, State::Sent) {
            return None;
        }
        copy.state = State::Storing;
        self.due = self.due.max(now + self.timing.store);
        Some((copy.instance, copy.message))
    }

    /// The deadline may have come: the copies that the store must have, because their devices are silent. A store that
    /// had its time is away.
    pub fn on_due(&mut self, now: Instant) -> Vec<(InstanceId, MessageId)> {
        let mut silent = Vec::new();
        if self.due > now {
            return silent;
        }
        for copy in &mut self.copies {
            match copy.state {
                State::Sent => {
                    copy.state = State::Storing;
                    silent.push((copy.instance, copy.message));
                }
                State::Storing => copy.state = State::Stored(StoreOutcome::Unavailable),
                State::Answered(..) | State::Stored(_) => {}
            }
        }
        self.due = now + self.timing.store;
        silent
    }

    /// Whether there is a copy for this device.
    pub fn is_for(&self, device: InstanceId) -> bool {
        self.copies.iter().any(|copy| copy.instance == device)
    }

    /// The copies that were sent to a device, and are not answered, are another one's from now on, which it is known as.
    pub fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        let theirs = |copy: &&mut Copy| copy.instance == earlier && matches!(copy.state, State::Sent);
        self.copies.iter_mut().filter(theirs).for_each(|copy| copy.instance = successor);
    }

    /// A device is wiped: its copies are not waited for, and the text goes where no other copy may need it. The client transactions that are over with
    /// it.
    pub fn give_up(&mut self, device: InstanceId) -> Vec<BranchId> {
        let theirs = self.copies.iter_mut().filter(|copy| copy.instance == device);
        let branches = theirs.filter_map(|copy| {
            if matches!(copy.state, State::Sent) {
                copy.state = State::Stored(StoreOutcome::Full);
            }
            copy.branch.take()
        });
        let branches = branches.collect();
        if !self.copies.iter().any(|copy| matches!(copy.state, State::Sent)) {
            self.request = self.request.take().map(|request| match request.without_body() {
                Some(head) => Box::new(head),
                None => request,
            });
        }
        branches
    }

    /// The store has spoken: the kept copy that is to go again, because the device has taken it meanwhile.
    pub fn on_stored(&mut self, instance: InstanceId, outcome: StoreOutcome) -> Option<(InstanceId, MessageId)> {
        let waiting = |copy: &&mut Copy| copy.instance == instance && matches!(copy.state, State::Storing);
        let copy = self.copies.iter_mut().find(waiting)?;
        // A copy that the device has taken is delivered, whatever the store says.
        copy.state = State::Stored(if copy.taken { StoreOutcome::Stored } else { outcome });
        (copy.taken && outcome == StoreOutcome::Stored).then_some((copy.instance, copy.message))
    }

    /// The final response, once: when all copies have ended. Take [`Self::request`] before [`Self::close`].
    pub fn response(&self) -> Option<FinalResponse> {
        let open = |copy: &Copy| matches!(copy.state, State::Sent | State::Storing);
        if self.request.is_none() || self.copies.iter().any(open) {
            return None;
        }
        let answers = || {
            self.copies.iter().filter_map(|copy| match &copy.state {
                State::Answered(status, bytes) => Some((*status, bytes)),
                _ => None,
            })
        };
        let pass = |(status, bytes): (u16, &Bytes)| FinalResponse::Pass(status, bytes.clone());
        let stored = |kept| self.copies.iter().any(|copy| matches!(copy.state, State::Stored(it) if it == kept));
        let taken = answers().find(|(status, _)| (200..300).contains(status));
        let refused = answers().min_by_key(|(status, _)| (*status < 600, *status));
        Some(match (taken, refused) {
            (Some(taken), _) => pass(taken),
            _ if stored(StoreOutcome::Stored) => FinalResponse::Accepted,
            _ if stored(StoreOutcome::Unavailable) => FinalResponse::Unavailable,
            (None, Some(refused)) => pass(refused),
            _ => FinalResponse::Full,
        })
    }

    /// The devices that answered by themselves, each with its status.
    pub fn ends(&self) -> Vec<(InstanceId, u16)> {
        let ends = self.copies.iter().filter_map(|copy| match copy.state {
            State::Answered(status, _) => Some((copy.instance, status)),
            _ => None,
        });
        ends.collect()
    }

    /// The sender has its answer.
    pub fn close(&mut self) {
        self.request = None;
    }

    /// Whether nothing more can come of it.
    pub fn is_over(&self) -> bool {
        self.request.is_none() && self.copies.iter().all(|copy| copy.branch.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::id::{FlowId, ShardTag, Side};
    use crate::message::Limits;
    use crate::transaction::{Reply, RequestKey, Table, Timing};

    use super::*;

    const NO_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
    const STORE_TIMEOUT: Duration = Duration::from_secs(3);

    fn pending(now: Instant) -> PendingMessage {
        let text = "MESSAGE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\nFrom: <sip:bob@example.com>;tag=1\r\n\
                    To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 1 MESSAGE\r\nContent-Length: 4\r\n\r\ntext";
        let request = Message::parse(&text.into(), &Limits::default()).unwrap();
        let flow = FlowId::Datagram("192.0.2.1:5060".parse().unwrap());
        let key = RequestKey::of(&request, request.via().as_ref(), Side::Upstream);
        let reply = Reply { flow, side: Side::Upstream, key: &key };
        let server = Table::<(), ()>::new(1, Timing::default(), false).open(&request, reply, ()).unwrap();
        PendingMessage::new(now, EdgeTiming::default(), server, "tag".into(), request)
    }

    fn one(number: u128) -> (InstanceId, MessageId, BranchId) {
        let (random, tag) = (number << 16, ShardTag(0));
        (InstanceId::new(random, tag), MessageId::new(random, tag), BranchId::new(random, tag))
    }

    #[test]
    fn a_device_s_own_answer_passes() {
        let now = Instant::now();
        for status in [200, 202, 415, 603] {
            let (instance, message, branch) = one(1);
            let mut pending = pending(now);
            pending.sent(instance, message, branch);
            assert_eq!(pending.response(), None);
            assert_eq!(pending.on_response(branch, status, Bytes::from_static(b"it")), None);
            assert_eq!(pending.response(), Some(FinalResponse::Pass(status, Bytes::from_static(b"it"))));
            pending.close();
            assert!(pending.response().is_none() && pending.is_over());
        }
    }

    #[test]
    fn a_device_that_is_silent_or_lost_has_it_kept() {
        let now = Instant::now();
        let (instance, message, branch) = one(1);
        let mut silent = pending(now);
        silent.sent(instance, message, branch);
        assert!(silent.on_due(now).is_empty(), "not yet");
        assert_eq!(silent.on_due(now + NO_RESPONSE_TIMEOUT), [(instance, message)]);
        assert_eq!(silent.on_stored(instance, StoreOutcome::Stored), None);
        assert_eq!(silent.response(), Some(FinalResponse::Accepted));
        silent.close();
        assert!(!silent.is_over(), "the device may still answer");
        assert_eq!(silent.on_response(branch, 200, Bytes::new()), Some((instance, message)), "late: the copy goes");
        assert!(silent.is_over());

        let mut lost = pending(now);
        lost.sent(instance, message, branch);
        assert_eq!(lost.on_lost(now, branch), Some((instance, message)));
        assert_eq!(lost.on_lost(now, branch), None, "once");
        assert_eq!(lost.on_stored(instance, StoreOutcome::Full), None);
        assert_eq!(lost.response(), Some(FinalResponse::Full));
    }

    #[test]
    fn a_device_that_answers_while_it_is_being_kept_has_it_once() {
        let now = Instant::now();
        let (instance, message, branch) = one(1);
        let mut pending = pending(now);
        pending.sent(instance, message, branch);
        pending.on_due(now + NO_RESPONSE_TIMEOUT);
        assert_eq!(pending.on_response(branch, 200, Bytes::new()), None, "the store has not spoken");
        assert_eq!(pending.on_stored(instance, StoreOutcome::Stored), Some((instance, message)));
        assert_eq!(pending.response(), Some(FinalResponse::Accepted));
    }

    #[test]
    fn a_store_that_does_not_answer_is_away() {
        let now = Instant::now();
        let (instance, message, _) = one(1);
        let mut pending = pending(now);
        pending.storing(now, instance, message);
        assert!(pending.on_due(now + NO_RESPONSE_TIMEOUT).is_empty());
        assert_eq!(pending.response(), None);
        pending.on_due(now + STORE_TIMEOUT);
        assert_eq!(pending.response(), Some(FinalResponse::Unavailable));
        assert_eq!(pending.on_stored(instance, StoreOutcome::Stored), None, "too late");
    }

    #[test]
    fn of_several_devices_the_best_answer_is_given() {
        let now = Instant::now();
        let cases: [(&[u16], &[StoreOutcome], FinalResponse); 6] = [
            (&[603, 200], &[StoreOutcome::Unavailable], FinalResponse::Pass(200, Bytes::new())),
            (&[603], &[StoreOutcome::Stored], FinalResponse::Accepted),
            (&[415], &[StoreOutcome::Full, StoreOutcome::Unavailable], FinalResponse::Unavailable),
            (&[486, 415], &[StoreOutcome::Full], FinalResponse::Pass(415, Bytes::new())),
            (&[415, 603], &[], FinalResponse::Pass(603, Bytes::new())),
            (&[], &[StoreOutcome::Full, StoreOutcome::Full], FinalResponse::Full),
        ];
        for (answers, kept, expected) in cases {
            let mut pending = pending(now);
            for (number, status) in answers.iter().enumerate() {
                let (instance, message, branch) = one(number as u128 + 1);
                pending.sent(instance, message, branch);
                pending.on_response(branch, *status, Bytes::new());
            }
            for (number, kept) in kept.iter().enumerate() {
                let (instance, message, _) = one(number as u128 + 100);
                pending.storing(now, instance, message);
                assert_eq!(pending.response(), None);
                pending.on_stored(instance, *kept);
            }
            assert_eq!(pending.response(), Some(expected));
        }
    }

    #[test]
    fn what_a_wiped_device_was_sent_ends_and_the_text_stays_for_others_alone() {
        let now = Instant::now();
        let ((first, message, branch), (second, other_message, other)) = (one(1), one(2));
        let mut pending = pending(now);
        pending.sent(first, message, branch);
        pending.sent(second, other_message, other);
        assert_eq!(pending.give_up(first), [branch]);
        assert!(pending.request().is_some_and(|request| &request.body()[..] == b"text"), "it is the other one's");
        assert_eq!(pending.on_response(branch, 200, Bytes::new()), None);
        pending.on_due(now + NO_RESPONSE_TIMEOUT);
        assert_eq!(pending.give_up(second), [other]);
        assert!(pending.request().is_some_and(|request| request.body().is_empty()));
        assert_eq!(pending.response(), None, "the store has not spoken");
        pending.on_stored(second, StoreOutcome::Stored);
        assert_eq!(pending.response(), Some(FinalResponse::Accepted));
        pending.close();
        assert!(pending.is_over());
    }

    #[test]
    fn what_a_device_was_sent_is_answered_and_kept_by_the_name_that_it_has_by_then() {
        let now = Instant::now();
        let ((earlier, message, branch), (successor, ..)) = (one(1), one(2));
        let mut pending = pending(now);
        pending.sent(earlier, message, branch);
        pending.succeed(earlier, successor);
        assert!(pending.give_up(earlier).is_empty());
        assert_eq!(pending.on_due(now + NO_RESPONSE_TIMEOUT), [(successor, message)]);
    }
}
