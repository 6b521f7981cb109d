//! The bindings that register before their wait is over when a SIP server serves again: a few, and more as it grants them.
//!
//! | a REGISTER is | so many of the waiting bindings begin |
//! | --- | --- |
//! | granted, the first after others had failed | [`FEW`] |
//! | granted | 2, and 1 of the next [`CAREFUL_FOR`] after one was refused with 503 or 430 |
//! | refused, or left unanswered | none |
//!
//! So a healthy server has all of them back after a few round trips, as fast as its pace allows, and a server at its limit gets no more: a refusal lets no
//! other REGISTER begin.
//!
//! Invariant: an account begins early once, and then waits in full before it may again. An account that was told how long to wait (Retry-After) never does.

use std::collections::VecDeque;
use std::time::Instant;

use crate::endpoint::Endpoint;
use crate::id::{BindingId, UpstreamId};

/// How many begin by the first grant.
const FEW: usize = 4;
/// How many by each further one.
const MORE: usize = 2;
/// How many by each of the next ones once the server has refused again.
const CAREFUL: usize = 1;
/// The length of that: a server that refuses no more than some accounts for good has the others back nearly as soon.
const CAREFUL_FOR: u8 = 4;

/// The bindings that may begin early at one SIP server.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    waiting: VecDeque<BindingId>,
    /// The server had served nobody: also those that have failed more than once are among them.
    all: bool,
    /// The number of further grants by each of which one binding alone begins.
    careful: u8,
}

impl Recovery {
    /// Whether some wait.
    pub(super) fn is_under_way(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The server has refused somebody for its own sake.
    pub(super) fn refuse(&mut self) {
        self.careful = CAREFUL_FOR;
    }
}

impl Endpoint {
    /// A SIP server has granted a registration after it had failed others: `all` of them, or some.
    pub(super) fn begin_recovery(&mut self, now: Instant, id: UpstreamId, all: bool) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let goes_on = upstream.recovery.is_under_way();
        let all = all || goes_on && upstream.recovery.all;
        let bindings = &self.bindings;
        let may_hurry = |binding: &BindingId| bindings.get(*binding).is_some_and(|it| it.may_hurry(all));
        let waiting = upstream.members.iter().copied().filter(may_hurry).collect();
        let careful = if goes_on { upstream.recovery.careful } else { 0 };
        upstream.recovery = Recovery { waiting, all, careful };
        if goes_on { self.go_on_recovering(now, id) } else { self.hurry(now, id, FEW) }
    }

    /// The server has granted another one.
    pub(super) fn go_on_recovering(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let count = if upstream.recovery.careful > 0 { CAREFUL } else { MORE };
        upstream.recovery.careful = upstream.recovery.careful.saturating_sub(1);
        self.hurry(now, id, count);
    }

    fn hurry(&mut self, now: Instant, id: UpstreamId, count: usize) {
        let mut left = count;
        while left > 0 {
            let Some(upstream) = self.upstreams.get_mut(id) else { return };
            let all = upstream.recovery.all;
            let Some(binding) = upstream.recovery.waiting.pop_front() else { return };
            // Its own time may have come meanwhile.
            let Some(registration) = self.bindings.get_mut(binding).filter(|it| it.may_hurry(all)) else { continue };
            let step = registration.hurry();
            self.carry_out(now, binding, step);
            left -= 1;
        }
    }
}
