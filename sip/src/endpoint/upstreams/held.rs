//! SIP servers that are remembered although nobody is there any more, because the last REGISTER that passed through has failed.
//!
//! A phone whose first REGISTER fails comes again after half a minute, or some. Without what is known of the addresses it would be sent to the same one
//! each time.
//!
//! | the last reference ends | the SIP server |
//! | --- | --- |
//! | and addresses were left, or have ended flows before they had granted anything | is remembered for [`HELD_FOR`], once, with its flow if there is one |
//! | otherwise | is forgotten |
//!
//! Invariant: at most [`HELD_MAX`] are remembered so on one shard, none is dialled for that, and each is one reference, told by [`Event::UpstreamKept`] and
//! given back by [`Event::UpstreamReleased`].

use std::time::{Duration, Instant};

use super::Upstream;
use crate::endpoint::core::Timer;
use crate::endpoint::{Endpoint, Event};
use crate::id::UpstreamId;

/// How long a SIP server is remembered after its last REGISTER has failed.
const HELD_FOR: Duration = Duration::from_secs(600);
/// The number of them.
const HELD_MAX: usize = 256;

impl Endpoint {
    /// A transit reference of a SIP server ends: where that is the last one, and addresses of it have failed, they are remembered.
    pub(super) fn hold_if_failed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.rows.get_mut(&id) else { return };
        if upstream.is_used() || !upstream.kept.is_empty() {
            return;
        }
        match (upstream.has_failed(), upstream.held_until) {
            (true, None) if self.upstreams.held < HELD_MAX => {
                upstream.held_until = Some(now + HELD_FOR);
                self.upstreams.held += 1;
                self.core.event(Event::UpstreamKept(id));
                self.core.timers.set(now + HELD_FOR, Timer::Held(id));
            }
            (false, Some(_)) => self.end_hold(id),
            (true | false, _) => {}
        }
    }

    /// A SIP server was remembered for long enough.
    pub(in crate::endpoint) fn on_held_due(&mut self, now: Instant, id: UpstreamId) {
        let held_until = self.upstreams.get(id).and_then(|upstream| upstream.held_until);
        if held_until.is_some_and(|until| until <= now) {
            self.end_hold(id);
            self.forget_unless_needed(now, id, false);
        }
    }

    fn end_hold(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.held_until.take().is_some() {
            self.upstreams.held -= 1;
            self.core.event(Event::UpstreamReleased(id));
        }
    }
}

impl Upstream {
    /// Whether what is known of its addresses is of use to whoever comes next: some have failed, and the one in use, if there is one, has not served.
    fn has_failed(&self) -> bool {
        !self.fitness.has_served() && (self.fitness.has_left_addresses() || self.losses > 0)
    }
}
