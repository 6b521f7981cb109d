//! Time that has passed without this machine, as [`Input::TimeLost`](super::Input::TimeLost) tells: a registrar may have forgotten every
//! binding, and no flow is sure.
//!
//! Invariant: REGISTERs that are due all at once by it go at their upstream's [`Pace`](super::upstreams), as any others.

use std::time::{Duration, Instant};

use super::Endpoint;
use crate::registration::Step;

impl Endpoint {
    pub(super) fn on_time_lost(&mut self, now: Instant, lost: Duration) {
        self.probe_flows(now);
        for binding in self.bindings.all() {
            if self.bindings.get_mut(binding).is_some_and(|registration| registration.lose_time(now, lost)) {
                self.carry_out(now, binding, Step::Nothing);
            }
        }
    }
}
