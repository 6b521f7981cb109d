//! The instances that an endpoint serves: to which binding each belongs, and what it may be sent.
//!
//! Invariant: a device is sent no more calls, MESSAGEs and NOTIFYs than its budgets allow, whoever sends them.

use std::collections::HashMap;
use std::time::Instant;

use super::Endpoint;
use crate::id::{BindingId, InstanceId};
use crate::timers::Armed;

/// Calls that one device may get at once, and then one more each second; a further one is answered 480, unpushed.
const CALLS_BURST: u8 = 20;
/// MESSAGEs that one device may get at once, and then one more each second; a further one is answered 480.
const MESSAGES_BURST: u8 = 60;
/// NOTIFYs likewise.
const NOTIFIES_BURST: u8 = 20;
/// The instances of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Devices {
    rows: HashMap<InstanceId, Device>,
}

/// One instance.
#[derive(Debug)]
struct Device {
    binding: BindingId,
    calls: u8,
    messages: u8,
    notifies: u8,
    refilled: Instant,
    /// Its last challenge has no answer yet.
    challenged: bool,
    /// Its app registers by itself.
    foreground: bool,
    /// The SIP server has accepted its credentials.
    proven: bool,
    /// The one timer for the end of its registration at the edge, however often it registers.
    armed: Armed,
}

impl Devices {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn knows(&self, instance: InstanceId) -> bool {
        self.rows.contains_key(&instance)
    }

    pub(super) fn binding_of(&self, instance: InstanceId) -> Option<BindingId> {
        self.rows.get(&instance).map(|device| device.binding)
    }

    /// Whether, and for when, a timer must be set for the end of a device's registration at the edge.
    pub(super) fn arm(&mut self, instance: InstanceId, expires_at: Instant) -> Option<Instant> {
        self.rows.get_mut(&instance)?.armed.must_set(Some(expires_at))
    }

    /// Whether the timer of a device for this moment counts.
    pub(super) fn is_armed(&self, instance: InstanceId, at: Instant) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.armed.is_at(at))
    }

    /// A timer of a device fires; whether it is the one that counts.
    pub(super) fn fires(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.rows.get_mut(&instance).is_some_and(|device| device.armed.fires(now))
    }

    /// Whether the SIP server has accepted the device's own credentials.
    pub(super) fn is_proven(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.proven)
    }

    pub(super) fn set_proven(&mut self, instance: InstanceId, proven: bool) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.proven = proven;
        }
    }

    /// Whether the device is known, and its app leaves it to the relay to register.
    pub(super) fn is_in_background(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| !device.foreground)
    }

    pub(super) fn set_foreground(&mut self, instance: InstanceId, foreground: bool) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.foreground = foreground;
        }
    }

    /// Whether the device has left its last challenge unanswered.
    pub(super) fn is_challenged(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.challenged)
    }

    pub(super) fn set_challenged(&mut self, instance: InstanceId, challenged: bool) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.challenged = challenged;
        }
    }

    /// Takes one call from a device's budget; whether there was one.
    pub(super) fn spend_call(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.rows.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).calls))
    }

    /// Takes one MESSAGE from a device's budget; whether there was one.
    pub(super) fn spend_message(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.rows.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).messages))
    }

    /// Takes one NOTIFY from a device's budget; whether there was one.
    pub(super) fn spend_notify(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.rows.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).notifies))
    }
}

impl Endpoint {
    pub(super) fn add_device(&mut self, now: Instant, instance: InstanceId, binding: BindingId) {
        self.devices.rows.insert(instance, Device::new(now, binding));
    }

    /// The instance is wiped: it leaves its calls; a dialog that stands may still be hung up by the flow that carries it.
    pub(super) fn remove_device(&mut self, now: Instant, instance: InstanceId) {
        if let Some(device) = self.devices.rows.remove(&instance) {
            self.leave_expected(instance, device.binding);
            self.give_up_parked(now, instance, device.binding);
        }
        for call in self.calls.waiting_for(instance) {
            self.leave_call(now, call, instance);
        }
    }
}

impl Device {
    fn new(now: Instant, binding: BindingId) -> Self {
        let (calls, messages, notifies) = (CALLS_BURST, MESSAGES_BURST, NOTIFIES_BURST);
        Self {
            binding,
            calls,
            messages,
            notifies,
            refilled: now,
            challenged: false,
            foreground: false,
            proven: false,
            armed: Armed::default(),
        }
    }

    /// Adds to each budget what it has earned since.
    fn refill(&mut self, now: Instant) -> &mut Self {
        let earned = now.saturating_duration_since(self.refilled).as_secs();
        if earned > 0 {
            let add = |budget: u8, burst: u8| u64::from(budget).saturating_add(earned).min(u64::from(burst)) as u8;
            self.calls = add(self.calls, CALLS_BURST);
            self.messages = add(self.messages, MESSAGES_BURST);
            self.notifies = add(self.notifies, NOTIFIES_BURST);
            self.refilled = now;
        }
        self
    }
}

/// Takes one; whether there was one.
fn spend(budget: &mut u8) -> bool {
    let granted = *budget > 0;
    *budget = budget.saturating_sub(1);
    granted
}
