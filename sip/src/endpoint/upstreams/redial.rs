//! The redial of a SIP server that could not be reached, or that ends the connections that it has accepted.
//!
//! | dials that failed in a row, or flows that soon ended again | the next dial |
//! | --- | --- |
//! | 1 to [`SOON`] | after 1, 2, 4, 8 s and up to a quarter longer: a server that only restarts is back by then, and no more calls are missed |
//! | more | after the back-off of RFC 5626 §4.5 |
//! | any, and a request for the server comes (a phone's REGISTER, too), a request of its own waits to be answered, or an account is to be registered there anew | after 1 s and up to a quarter longer, if that is sooner |
//! | any, and the server has registered an account of another shard | likewise, once in the time in which it would be dialled again in any case |
//!
//! Invariant: a SIP server has one dial at a time, and never sooner than a second after a failed one, whatever wants it.

use std::time::{Duration, Instant};

use super::Link;
use crate::endpoint::Endpoint;
use crate::endpoint::core::Timer;
use crate::flow::back_off;
use crate::id::{BindingId, UpstreamId};
use crate::random::Random;
use crate::timing::BackOff;

/// Dials that follow soon upon one that failed, or a flow that soon ended; further ones back off.
const SOON: u8 = 4;

/// How long to wait after so many `failures` in a row, 1 or more. `first`: after the first one. `later`: after those that
/// follow upon [`SOON`].
pub(super) fn wait_after(failures: u8, first: Duration, later: &BackOff, random: &mut Random) -> Duration {
    match failures.checked_sub(SOON) {
        None | Some(0) => soon(first.saturating_mul(1 << (failures.max(1) - 1)), random),
        Some(failures) => back_off(failures, later, random),
    }
}

/// This long, or up to a quarter longer.
fn soon(wait: Duration, random: &mut Random) -> Duration {
    let millis = wait.as_millis() as u64;
    Duration::from_millis(random.between(millis, millis + millis / 4))
}

impl Endpoint {
    /// A request or an answer waits for a flow to this SIP server, or would have gone by it: one is dialled now, unless that is under way; soon, where the
    /// last dial failed.
    pub(in crate::endpoint) fn want_flow_soon(&mut self, now: Instant, id: UpstreamId) {
        self.want_transit_flow(id);
        self.dial_soon(now, id);
    }

    /// Dials for a binding whose registration wants a flow.
    pub(in crate::endpoint) fn want_flow_anew(&mut self, now: Instant, binding: BindingId) {
        let wants = self.bindings.get(binding).filter(|registration| registration.wants_flow());
        if let Some(id) = wants.map(|registration| registration.upstream) {
            self.dial_soon(now, id);
        }
    }

    /// The server serves others: what kept it from being reached may be over.
    pub(super) fn dial_served(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.hurried_until.is_none_or(|at| at <= now) {
            upstream.hurried_until = upstream.armed;
            self.dial_soon(now, id);
        }
    }

    fn dial_soon(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|it| matches!(it.link, Link::BackingOff)) else {
            return;
        };
        let at = now + soon(self.core.settings.timing.upstream.redial, &mut self.core.random);
        if upstream.armed.is_none_or(|armed| at < armed) {
            upstream.armed = Some(at);
            self.core.timers.set(at, Timer::Upstream(id));
        }
    }
}
