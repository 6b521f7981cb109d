//! Time that has passed while this machine stood still ([`Input::TimeLost`](super::Input::TimeLost)): a registrar may have forgotten every binding, no flow is
//! certain, and callers have waited, or have given up unheard.
//!
//! | deadline | comes forward by |
//! | --- | --- |
//! | of a registration | all time that may have been lost: a refresh too many does no harm |
//! | of a call | the time that was certainly lost: a call that ends too early is missed |
//!
//! Invariant: REGISTERs that are due all at once go at their upstream's [`Pace`](super::upstreams), as any others. No device is woken for a call whose time is
//! over.

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
