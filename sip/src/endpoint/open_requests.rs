//! Requests beside calls in setup that are still open when the process is about to end. The process waits for them, and answers the rest at its end.
//!
//! | open | until | at the end |
//! | --- | --- | --- |
//! | a forwarded request, in a dialog or to begin one, or one that waits for its peer | its final answer | 503 with Retry-After; an INVITE is cancelled where it went |
//! | a MESSAGE outside a dialog | its final answer: for a silent device it is kept instead | 503 with Retry-After |
//! | a REGISTER that passes through: not waited for, phones send one after the other | its final answer | 503 with Retry-After |
//! | an answer that waits for its registration to be stored: not waited for | that is stored, 1 s at most | the answer |
//! | a 2xx to an INVITE: it may be lost by UDP, and its sender repeats it | its ACK or a BYE passes, 64·T1 at most | – |
//!
//! Invariant: an established call without an open request does not delay the end of the process. At most [`UNACKNOWLEDGED_MAX`] 2xx are known.

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::time::Instant;

use super::pushed::RouteRefusal;
use super::{Endpoint, ServerOwner};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::ServerId;

/// Answered INVITEs whose ACK has not come; a further one is not waited for.
const UNACKNOWLEDGED_MAX: usize = 10_000;
/// The Retry-After for a request that the end of the process has left unanswered, in seconds.
const RETRY_AFTER_S: u32 = 1;

/// The dialogs in which a 2xx to an INVITE has passed, and no ACK, by a hash of their Call-IDs, each with the moment at which its sender gives up.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged(HashMap<u64, Instant>);

impl Unacknowledged {
    /// How many there are.
    fn count(&self, now: Instant) -> usize {
        #[expect(clippy::disallowed_methods, reason = "they are only counted")]
        self.0.values().filter(|until| **until > now).count()
    }

    fn key(&self, call_id: &str) -> u64 {
        self.0.hasher().hash_one(call_id)
    }

    fn add(&mut self, now: Instant, call_id: &str, until: Instant) {
        if self.0.len() >= UNACKNOWLEDGED_MAX {
            #[expect(clippy::disallowed_methods, reason = "each is judged by itself")]
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < UNACKNOWLEDGED_MAX {
            let key = self.key(call_id);
            let known = self.0.entry(key).or_insert(until);
            *known = if *known <= now { until } else { *known };
        }
    }

    /// An ACK or a BYE of a dialog has passed.
    pub(super) fn settle(&mut self, request: &Message) {
        if let Some(call_id) = request.call_id().filter(|_| !self.0.is_empty()) {
            self.0.remove(&self.key(call_id));
        }
    }
}

impl Endpoint {
    /// How many requests beside the [`open_calls`](Self::open_calls) have no final answer.
    pub fn open_requests(&self) -> usize {
        self.dialogs.len() + self.messages.unanswered().len()
    }

    /// How many REGISTERs pass through and have no final answer, or one that waits here.
    pub fn registers_under_way(&self) -> usize {
        self.registers.len() + self.held.len()
    }

    /// How many INVITEs are answered, and their ACKs have not come.
    pub fn unacknowledged(&self, now: Instant) -> usize {
        self.unacknowledged.count(now)
    }

    /// A 2xx passes on.
    pub(super) fn note_passed(&mut self, now: Instant, status: u16, response: &Message) {
        let is_of_invite = || response.cseq().is_some_and(|(_, method)| method == Method::Invite.as_str());
        if (200..300).contains(&status)
            && is_of_invite()
            && let Some(call_id) = response.call_id()
        {
            let until = now + self.core.settings.timing.transaction.t1_64();
            self.unacknowledged.add(now, call_id, until);
        }
    }

    /// The process ends.
    pub(super) fn end_requests(&mut self, now: Instant) {
        for server in self.dialogs.unanswered() {
            self.end_forwarded(now, server);
        }
        for message in self.messages.unanswered() {
            self.end_message(now, message, RETRY_AFTER_S);
        }
        self.answer_all_held(now);
        for register in self.registers.ids() {
            let retry_after_s = Some(RETRY_AFTER_S);
            if let Some(row) = self.registers.get_mut(register) {
                // Its device is to come again at once, and not when an address would have it that has refused it.
                row.refused = None;
            }
            self.end_register(now, register, RouteRefusal { status: 503, retry_after_s, warning: None });
        }
    }

    fn end_forwarded(&mut self, now: Instant, server: ServerId) {
        self.settle_forwarded(server);
        let Some(asked) = self.core.transactions.asked_by(server) else { return };
        let tag = self.core.random.tag();
        let response = Composer::response(asked, 503, Composer::reason(503), Some(&tag));
        let response = response.header(Name::RetryAfter, RETRY_AFTER_S).finish();
        if let (Some(Method::Invite), Some(ServerOwner::Forwarded(branch))) =
            (asked.method(), self.core.transactions.owner_of(server))
        {
            self.core.transactions.cancel(now, branch, None);
        }
        self.core.transactions.respond(now, server, 503, response);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_2xx_that_comes_again_is_waited_for_no_longer_and_a_later_one_of_its_dialog_in_full() {
        let (start, life) = (Instant::now(), Duration::from_secs(32));
        let mut open = Unacknowledged::default();
        for (after, last) in [(0, 31), (31, 31), (33, 64)] {
            let (now, last) = (start + Duration::from_secs(after), start + Duration::from_secs(last));
            open.add(now, "c1", now + life);
            assert_eq!((open.count(last), open.count(last + Duration::from_secs(1))), (1, 0), "{after}");
        }
    }
}
