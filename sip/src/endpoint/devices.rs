//! The instances that an endpoint serves: the binding of each, and its budgets.
//!
//! Invariant: a device is sent no more calls, MESSAGEs and NOTIFYs than its [budgets](super::budgets) allow, whoever the senders are. The counts of its callers
//! are removed with a device.

use std::collections::HashMap;
use std::time::Instant;

use super::budgets::{Budgets, Callers};
use super::credentials::Credentials;
use super::{Endpoint, Presence};
use crate::edge::caller_key::CallerKey;
use crate::id::{BindingId, InstanceId};
use crate::message::Method;
use crate::registration::Proof;
use crate::timers::Armed;

/// The instances of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Devices {
    rows: HashMap<InstanceId, Device>,
    /// The shares of those who call them.
    callers: Callers,
    /// The number of the latest credentials that were others than any device's of their binding.
    credentials: u32,
}

/// One instance.
#[derive(Debug)]
struct Device {
    binding: BindingId,
    /// The same as those of another device of its binding, or others.
    credentials: Credentials,
    /// State of a device that was attached or sent something; most devices are asleep most of the time and have none.
    awake: Option<Box<Awake>>,
    presence: Presence,
    /// The SIP server has accepted its credentials.
    proven: bool,
    /// Another relay has it, and registers it; its calls end here.
    taken: bool,
}

/// State of a device that is not only asleep.
#[derive(Debug, Default)]
struct Awake {
    /// The one timer for the end of its registration at the edge, however often it registers.
    armed: Armed,
    /// `None`: they are full.
    budgets: Option<Budgets>,
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

    /// The identity of a device's credentials: equal for equal credentials.
    pub(super) fn credentials_of(&self, instance: InstanceId) -> Option<Credentials> {
        self.rows.get(&instance).map(|device| device.credentials)
    }

    /// Whether, and for when, a timer must be set for the end of a device's registration at the edge.
    pub(super) fn arm(&mut self, instance: InstanceId, expires_at: Instant) -> Option<Instant> {
        self.rows.get_mut(&instance)?.awake.get_or_insert_default().armed.must_set(Some(expires_at))
    }

    /// Whether the timer of a device for this moment counts.
    pub(super) fn is_armed(&self, instance: InstanceId, at: Instant) -> bool {
        self.awake(instance).is_some_and(|awake| awake.armed.is_at(at))
    }

    /// A timer of a device fires; whether it is the one that counts.
    pub(super) fn fires(&mut self, now: Instant, instance: InstanceId) -> bool {
        let awake = self.rows.get_mut(&instance).and_then(|device| device.awake.as_mut());
        awake.is_some_and(|awake| awake.armed.fires(now))
    }

    fn awake(&self, instance: InstanceId) -> Option<&Awake> {
        self.rows.get(&instance)?.awake.as_deref()
    }

    /// Whether another relay has the device.
    pub(super) fn is_taken(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.taken)
    }

    pub(super) fn set_taken(&mut self, instance: InstanceId) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.taken = true;
        }
    }

    /// Whether the SIP server has accepted the device's own credentials.
    pub(super) fn is_proven(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.proven)
    }

    /// Whether the SIP server has accepted the credentials of a device.
    pub(super) fn proof_of(&self, instance: InstanceId) -> Proof {
        if self.is_proven(instance) { Proof::Given } else { Proof::Missing }
    }

    pub(super) fn set_proven(&mut self, instance: InstanceId, proven: bool) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.proven = proven;
        }
    }

    /// Whether the device is known, and its app leaves it to the relay to register.
    pub(super) fn is_in_background(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|device| device.presence == Presence::Background)
    }

    pub(super) fn set_presence(&mut self, instance: InstanceId, presence: Presence) {
        if let Some(device) = self.rows.get_mut(&instance) {
            device.presence = presence;
        }
    }

    /// The key by which a caller with this address is counted.
    pub(super) fn caller_key(&self, caller: &str) -> CallerKey {
        self.callers.key(caller)
    }

    /// Takes one call by this caller from a device's budgets, where it must be woken for it also a push; whether there was one.
    pub(super) fn spend_call(&mut self, now: Instant, instance: InstanceId, caller: CallerKey, wakes: bool) -> bool {
        self.spend(now, instance, |budgets, callers| budgets.take_call(now, callers, instance, caller, wakes))
    }

    /// Takes one push that is for no new call from a device's budget; whether there was one.
    pub(super) fn spend_wake(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.spend(now, instance, |budgets, _| budgets.take_wake(now))
    }

    /// Takes one refused call by this caller that is told; whether there was one.
    pub(super) fn spend_told(&mut self, now: Instant, instance: InstanceId, caller: CallerKey) -> bool {
        self.spend(now, instance, |budgets, callers| budgets.take_told(now, callers, instance, caller))
    }

    /// Takes one MESSAGE by this sender from a device's budget; whether there was one.
    pub(super) fn spend_message(&mut self, now: Instant, instance: InstanceId, sender: CallerKey) -> bool {
        self.spend(now, instance, |budgets, senders| budgets.take_message(now, senders, instance, sender))
    }

    /// Takes one NOTIFY from a device's budget; whether there was one.
    pub(super) fn spend_notify(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.spend(now, instance, |budgets, _| budgets.take_notify(now))
    }

    /// Takes one request that the device begins from its budget; whether there was one. `address`: whether its address bears it, too.
    pub(super) fn spend_begun(
        &mut self,
        now: Instant,
        instance: InstanceId,
        method: Method,
        address: impl FnOnce() -> bool,
    ) -> bool {
        self.spend(now, instance, |budgets, _| budgets.take_begun(now, method, address))
    }

    /// Takes one emergency call from what a device has for these alone; whether there was one.
    pub(super) fn spend_emergency(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.spend(now, instance, |budgets, _| budgets.take_emergency(now))
    }

    /// A device that takes another one's place may be sent and begin what that one might; its callers' shares are the same, too.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        let spent = self.rows.get_mut(&earlier).and_then(|device| device.awake.as_mut()?.budgets.take());
        if let (Some(spent), Some(device)) = (spent, self.rows.get_mut(&successor)) {
            device.awake.get_or_insert_default().budgets.get_or_insert(spent);
        }
        self.callers.succeed(earlier, successor);
    }

    fn spend<T: Default>(
        &mut self,
        now: Instant,
        instance: InstanceId,
        take: impl FnOnce(&mut Budgets, &mut Callers) -> T,
    ) -> T {
        let Some(device) = self.rows.get_mut(&instance) else { return T::default() };
        let budgets = &mut device.awake.get_or_insert_default().budgets;
        take(budgets.get_or_insert_with(|| Budgets::full(now)), &mut self.callers)
    }
}

impl Endpoint {
    /// `same_as`: a device of this binding with the very credentials. A device that is here, and comes back from another relay, keeps its credentials, its
    /// budgets and its timer.
    pub(super) fn add_device(&mut self, instance: InstanceId, binding: BindingId, same_as: Option<InstanceId>) {
        self.successors.revive(instance);
        if let Some(device) = self.devices.rows.get_mut(&instance).filter(|device| device.binding == binding) {
            device.taken = false;
            return;
        }
        let other = same_as.filter(|other| self.devices.binding_of(*other) == Some(binding));
        let credentials = other.and_then(|other| self.devices.credentials_of(other)).unwrap_or_else(|| {
            self.devices.credentials = self.devices.credentials.wrapping_add(1);
            Credentials(self.devices.credentials)
        });
        self.devices.rows.insert(instance, Device::new(binding, credentials));
    }

    /// The instance is known no more: it leaves its calls, unless another one has taken them over, and its flow; a dialog that stands may still be hung up by
    /// that, where it is wiped no longer than its registration would have lasted.
    pub(super) fn remove_device(&mut self, now: Instant, instance: InstanceId, is_wiped: bool) {
        self.devices.callers.forget(instance);
        let device = self.devices.rows.remove(&instance);
        if let Some(device) = &device {
            self.leave_all_expected(instance, device.binding);
            self.give_up_parked(now, instance, self.upstream_of(device.binding));
        }
        for call in self.calls.waiting_for(instance) {
            self.leave_call(now, call, instance, 480);
        }
        if is_wiped {
            self.drop_missed_of(instance);
        }
        self.core.transactions.forget_requests(instance);
        self.retire(now, instance, is_wiped);
        if let Some(upstream) = device.and_then(|device| self.upstream_of(device.binding)) {
            self.keep_stream(instance, upstream);
        }
    }
}

impl Device {
    fn new(binding: BindingId, credentials: Credentials) -> Self {
        Self { binding, credentials, awake: None, presence: Presence::Background, proven: false, taken: false }
    }
}
