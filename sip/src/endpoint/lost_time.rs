//! Time that has passed without this machine, as [`Input::TimeLost`](super::Input::TimeLost) tells: a registrar may have forgotten every
//! binding, no flow is sure, and callers have waited, or have given up without being heard.
//!
//! | deadline | comes forward by |
//! | --- | --- |
//! | of a registration | all that may have been lost: a refresh too many does no harm |
//! | of a call | what was lost for sure: a call that ends too early is missed |
//!
//! Invariant: REGISTERs that are due all at once by it go at their upstream's [`Pace`](super::upstreams), as any others. No device is woken for a call whose time is over.

use std::time::{Duration, Instant};

use super::Endpoint;
use crate::registration::Step;

impl Endpoint {
    pub(super) fn on_time_lost(&mut self, now: Instant, lost: Duration, for_sure: Duration) {
        if !for_sure.is_zero() {
            self.calls_lose_time(now, for_sure);
        }
        self.probe_flows(now);
        for binding in self.bindings.all() {
            if self.bindings.get_mut(binding).is_some_and(|registration| registration.lose_time(now, lost)) {
                self.carry_out(now, binding, Step::Nothing);
            }
        }
    }
}
