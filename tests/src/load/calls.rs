//! The book of calls: when each call's steps happened.
//!
//! | step | noted by |
//! | --- | --- |
//! | sent | the caller, just before the INVITE is written |
//! | pushed | the push stand-in, when it has read the whole request |
//! | rung | the caller, at the first 180 |
//! | offered | the device, when it has read the whole INVITE |
//! | answered | the caller, at the 200 |
//! | ended | the caller, at the final answer of a call that is not answered, or at the 200 to BYE |
//!
//! Invariant: a step is noted once, the first time; each note is one atomic store, so that threads do not wait for each
//! other while they are being measured.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use serde::Serialize;

use super::accounts::Contact;
use super::measure::Spread;

/// One call. Moments are nanoseconds of the run's clock; 0 is never.
#[derive(Default)]
pub struct Call {
    /// The account that it is for.
    pub account: AtomicU32,
    /// See the module's table.
    pub sent: AtomicU64,
    /// See the module's table.
    pub pushed: AtomicU64,
    /// See the module's table.
    pub rung: AtomicU64,
    /// See the module's table.
    pub offered: AtomicU64,
    /// See the module's table.
    pub answered: AtomicU64,
    /// See the module's table.
    pub ended: AtomicU64,
    /// The final status.
    pub status: AtomicU16,
    /// How many pushes came for it.
    pub pushes: AtomicU8,
    /// Where its INVITE went, and what else it says goes: the account may move meanwhile.
    pub contact: OnceLock<Arc<Contact>>,
    /// The BYE, while one is to be sent.
    pub bye: Mutex<Option<Bytes>>,
}

impl Call {
    /// Notes a step at `moment`; whether it was the first time.
    pub fn note(step: &AtomicU64, moment: u64) -> bool {
        step.compare_exchange(0, moment, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn since_sent_to(&self, step: &AtomicU64) -> Option<u64> {
        let (sent, at) = (self.sent.load(Ordering::Relaxed), step.load(Ordering::Relaxed));
        (sent > 0 && at > 0).then(|| at.saturating_sub(sent))
    }
}

/// All calls of a run, by number.
pub struct Book(Box<[Call]>);

/// The outcome of some calls.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// INVITEs sent.
    pub calls: u64,
    /// Those with at least one push.
    pub pushed: u64,
    /// Those with more than one.
    pub pushed_twice: u64,
    /// Those without a final answer.
    pub unanswered: u64,
    /// Calls by final status.
    pub statuses: BTreeMap<u16, u64>,
    /// INVITE sent to push received.
    pub invite_to_push: Spread,
    /// INVITE sent to 180 received.
    pub invite_to_ringing: Spread,
    /// INVITE sent to INVITE on the device's flow.
    pub invite_to_device: Spread,
    /// INVITE sent to 200 received.
    pub invite_to_answer: Spread,
    /// Seconds from the first INVITE to the last.
    pub span_s: f64,
    /// Seconds from the first push to the last.
    pub push_span_s: f64,
}

impl Book {
    /// Room for so many calls.
    pub fn new(count: u32) -> Self {
        Self((0..count).map(|_| Call::default()).collect())
    }

    /// A call.
    pub fn call(&self, number: u32) -> Option<&Call> {
        self.0.get(number as usize)
    }

    /// The outcome of some calls.
    pub fn outcome(&self, numbers: impl Iterator<Item = u32> + Clone) -> Outcome {
        let spread = |step: fn(&Call) -> &AtomicU64| {
            Spread::of(self.of(numbers.clone()).filter_map(|call| call.since_sent_to(step(call))).collect())
        };
        let span = |step: fn(&Call) -> &AtomicU64| {
            let moments =
                || self.of(numbers.clone()).map(|call| step(call).load(Ordering::Relaxed)).filter(|at| *at > 0);
            moments().max().unwrap_or(0).saturating_sub(moments().min().unwrap_or(0)) as f64 / 1e9
        };
        let mut outcome = Outcome {
            invite_to_push: spread(|call| &call.pushed),
            invite_to_ringing: spread(|call| &call.rung),
            invite_to_device: spread(|call| &call.offered),
            invite_to_answer: spread(|call| &call.answered),
            span_s: span(|call| &call.sent),
            push_span_s: span(|call| &call.pushed),
            ..Outcome::default()
        };
        for call in self.of(numbers.clone()).filter(|call| call.sent.load(Ordering::Relaxed) > 0) {
            let pushes = call.pushes.load(Ordering::Relaxed);
            outcome.calls += 1;
            outcome.pushed += u64::from(pushes > 0);
            outcome.pushed_twice += u64::from(pushes > 1);
            match call.status.load(Ordering::Relaxed) {
                0 => outcome.unanswered += 1,
                status => *outcome.statuses.entry(status).or_default() += 1,
            }
        }
        outcome
    }

    fn of(&self, numbers: impl Iterator<Item = u32>) -> impl Iterator<Item = &Call> {
        numbers.map(|number| &self.0[number as usize])
    }
}
