//! The devices that share a binding, and whose credentials register it.
//!
//! One account on several devices has one Contact at its SIP server, which a contact limit of one allows; each device has
//! credentials of its own. The credentials of one of them, the owner, answer the challenges.
//!
//! | a device | the owner of the credentials in use | follows |
//! | --- | --- | --- |
//! | joins, proven | stays | it gets the next call; the binding is registered again at once if another relay had the device, whose Contact goes with that |
//! | joins, not proven | is suspended | a check: the binding is registered again with the joining device's credentials, which begin without a nonce |
//! | joins, not proven, while the apps of all that are proven are in the foreground | is that device, once the binding is silent | the binding is registered with its credentials alone |
//! | joins, not proven, while the last one is unregistered | is that device, once that is over | the binding begins anew |
//! | passes its check | is that device | it gets calls from now on |
//! | is refused in its check | is the one before | the refusal is reported and the device must be unbound; the binding goes on as before |
//! | fails its check otherwise | is the one before | the check is repeated after its back-off, or after the next success |
//! | is vouched for | is the one before | its check is broken off; it gets the next call |
//! | owns the credentials and is refused | is another device, which has different ones that are not paused; without such a device it stays | the refusal is reported; unbinding the device makes another one the owner |
//! | is another relay's by now | as below | of the Contacts of other relays none is named any more: it may be one of these |
//! | owns the credentials and leaves, or its app comes to the foreground | is another device that is proven | the refusals of its credentials count on, and their pause goes on |
//! | is the last proven one and leaves, or its app comes to the foreground | stays, and a check is broken off | the binding is unregistered; those that are not proven come behind that |
//! | is proven and wants to be registered, while the owner is neither proven nor in a check | is that device | the one before is checked afterwards |
//! | has others than those that were accepted since | is suspended | it is checked once more: see [`credentials`](super::credentials) |
//! | the last one leaves | stays | the binding is unregistered |
//!
//! Invariant: a device that has not proven its credentials gets no call, nor does one whose credentials are refused while another's are accepted. Refused
//! credentials are sent no second time. A binding is registered while one of its devices wants it to be. One that is not proven neither keeps it registered nor
//! has it registered with another's credentials, and takes from no other device the credentials that unregister it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::credentials::Verdicts;
use super::{Endpoint, Event, Presence, Timer, Unbinding};
use crate::id::{BindingId, FlowId, InstanceId};
use crate::registration::{Goal, Proof, RegistrationFailure, Step, SuspendedAuth};

/// The devices of each shared binding, except the owner of the credentials in use.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<BindingId, Group>);

impl Groups {
    /// The number of bindings that several devices share.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn remove(&mut self, binding: BindingId) {
        self.0.remove(&binding);
    }
}

#[derive(Debug, Default)]
struct Group {
    /// The other devices in their order of arrival; before them former owners, the latest first.
    others: Vec<InstanceId>,
    /// The SIP server's verdicts on the different credentials of its devices.
    verdicts: Verdicts,
    check: Option<Box<CredentialCheck>>,
}

/// The credentials of a joining device are being checked.
#[derive(Debug)]
struct CredentialCheck {
    suspended: SuspendedAuth,
    /// The flow that the binding was registered by.
    flow: Option<FlowId>,
}

impl Endpoint {
    /// The instances that a binding's requests are for, in a stable order: those with proven credentials that are not refused by now, and with their apps in
    /// the background. If there is none, those in the foreground, because a request may have crossed the unregistration.
    pub fn callable_instances(&self, binding: BindingId) -> Vec<InstanceId> {
        let proven = |instance: &InstanceId| self.devices.is_proven(*instance);
        let mut members = self.all_instances(binding);
        members.retain(proven);
        if let Some(verdicts) = self.verdicts(binding).filter(|verdicts| !verdicts.are_clear()) {
            let locked = |it: &InstanceId| self.devices.credentials_of(*it).is_some_and(|own| verdicts.are_locked(own));
            members.retain(|instance| !locked(instance));
        }
        if members.iter().any(|instance| self.devices.is_in_background(*instance)) {
            members.retain(|instance| self.devices.is_in_background(*instance));
        }
        members
    }

    /// Whether the unregistration of a binding's Contact was confirmed so long ago that no request can have crossed it. All apps of the binding register by
    /// themselves then, and a request that still comes by that Contact reaches them by their own as well.
    pub(super) fn is_long_unregistered(&self, now: Instant, binding: BindingId) -> bool {
        let crossing = self.core.settings.timing.transaction.t1_64();
        let at = self.bindings.get(binding).and_then(|registration| registration.unregistered_at());
        at.is_some_and(|at| now >= at + crossing)
    }

    /// All instances that share a binding, proven or not: the owner of the credentials in use first.
    pub fn all_instances(&self, binding: BindingId) -> Vec<InstanceId> {
        let credential_owner = self.bindings.get(binding).map(|registration| registration.instance);
        let others = self.others(binding).iter().copied();
        credential_owner.into_iter().chain(others).filter(|it| self.devices.knows(*it)).collect()
    }

    /// The instances that share a binding, without the owner of the credentials in use.
    pub(super) fn others(&self, binding: BindingId) -> &[InstanceId] {
        self.groups.0.get(&binding).map(|group| &group.others[..]).unwrap_or_default()
    }

    /// A SIP server's verdicts on the credentials of a binding's devices; `None` when the binding has one device.
    pub(super) fn verdicts(&self, binding: BindingId) -> Option<&Verdicts> {
        self.groups.0.get(&binding).map(|group| &group.verdicts)
    }

    pub(super) fn verdicts_mut(&mut self, binding: BindingId) -> Option<&mut Verdicts> {
        self.groups.0.get_mut(&binding).map(|group| &mut group.verdicts)
    }

    /// The binding that an instance has, or shares.
    pub fn binding_of_instance(&self, instance: InstanceId) -> Option<BindingId> {
        self.devices.binding_of(instance)
    }

    /// Whether the last attempt to register a binding succeeded, as far as its members are concerned.
    pub fn is_registered(&self, binding: BindingId) -> bool {
        self.bindings.get(binding).is_some_and(|registration| registration.is_registered())
    }

    /// Whether the Contact of a relay that had one of its devices before may still be registered beside the binding's own.
    pub fn is_replacing(&self, binding: BindingId) -> bool {
        self.bindings.get(binding).is_some_and(|registration| registration.has_earlier())
    }

    /// The end of a binding's grant. `None`: a REGISTER under way may remove it; the check of a joining device does not.
    pub fn stands_until(&self, binding: BindingId) -> Option<Instant> {
        self.bindings.get(binding).and_then(|registration| registration.stands_until())
    }

    /// Whether a binding is about to be registered from here, which removes the Contacts of relays that had it before.
    pub fn is_taking_over(&self, binding: BindingId) -> bool {
        self.bindings.get(binding).is_some_and(|registration| registration.is_taking_over())
    }

    /// Whether a binding was granted in this run.
    pub fn was_granted(&self, binding: BindingId) -> bool {
        self.bindings.get(binding).is_some_and(|registration| registration.granted().is_some())
    }

    /// Whether the answer to a REGISTER of a binding is awaited.
    pub fn is_under_way(&self, binding: BindingId) -> bool {
        self.bindings.get(binding).is_some_and(|registration| registration.is_under_way())
    }

    /// Whether a binding is registered, by a flow that is open: then a failure is that of a joining device.
    pub fn has_its_flow(&self, binding: BindingId) -> bool {
        self.bindings
            .get(binding)
            .is_some_and(|registration| registration.is_registered() && !registration.wants_flow())
    }

    /// Adds a device to an existing binding.
    pub(super) fn join(&mut self, now: Instant, instance: InstanceId, binding: BindingId) {
        let Some(registration) = self.bindings.get(binding) else { return };
        if registration.goal() == Goal::Gone {
            // The binding was being unregistered for its last device.
            let last = registration.instance;
            if last != instance && !self.devices.is_proven(instance) {
                // The unregistration goes on: the joining device may have a wrong password, and no other credentials would be left for it.
                return self.add_other(binding, instance);
            }
            self.core.event(Event::Unbound { instance: last, outcome: Unbinding::Shared });
            let goal = if self.devices.is_in_background(instance) { Goal::Registered } else { Goal::Silent };
            let proof = self.devices.proof_of(instance);
            if let Some(group) = self.groups.0.get_mut(&binding) {
                // It may have waited there, not proven yet.
                group.others.retain(|other| *other != instance);
            }
            return self.redirect(now, binding, |registration| {
                // The new goal decides the next step.
                let _ = registration.set_credential_owner(instance, proof);
                registration.aim(now, goal)
            });
        }
        if registration.instance == instance {
            return;
        }
        let (standing, is_registered) = (registration.standing(), registration.is_registered());
        let (shown, first) = (registration.is_refused(), self.devices.credentials_of(registration.instance));
        let is_new = !self.groups.0.contains_key(&binding);
        let group = self.groups.0.entry(binding).or_default();
        if !group.others.contains(&instance) {
            group.others.push(instance);
        }
        match first.filter(|_| is_new) {
            Some(first) if is_registered => group.verdicts.note_accepted(first, false, false),
            Some(first) => group.verdicts.note_refused(first, standing, shown),
            None => {}
        }
        self.settle_group(now, binding);
    }

    fn add_other(&mut self, binding: BindingId, instance: InstanceId) {
        let group = self.groups.0.entry(binding).or_default();
        if !group.others.contains(&instance) {
            group.others.push(instance);
        }
    }

    pub(super) fn on_unbind(&mut self, now: Instant, instance: InstanceId, deadline: Duration) {
        let Some(binding) = self.devices.binding_of(instance) else {
            return self.core.event(Event::Unbound { instance, outcome: Unbinding::Confirmed });
        };
        self.attachments.end_dialogs(now, instance);
        self.remove_device(now, instance, true);
        self.give_up_messages(now, instance);
        if self.leave_group(now, instance, binding, true) {
            self.core.event(Event::Unbound { instance, outcome: Unbinding::Shared });
            return self.settle_group(now, binding);
        }
        self.end_subscription(now, binding);
        self.core.later(now, deadline, Timer::Unbind(binding));
        self.aim(now, binding, Goal::Gone);
        if let Some(registration) = self.bindings.get_mut(binding)
            && registration.send_again_until(now + deadline / 2)
        {
            self.core.later(now, deadline / 2, Timer::Again(binding));
        }
    }

    pub(super) fn on_release(&mut self, now: Instant, instance: InstanceId) {
        let Some(binding) = self.devices.binding_of(instance) else {
            return self.core.event(Event::Unbound { instance, outcome: Unbinding::Confirmed });
        };
        self.tell_missed_of(now, instance);
        self.remove_device(now, instance, false);
        if let Some(registration) = self.bindings.get_mut(binding) {
            registration.leave_to_another();
        }
        if self.leave_group(now, instance, binding, false) {
            self.core.event(Event::Unbound { instance, outcome: Unbinding::Shared });
            return self.settle_group(now, binding);
        }
        self.forget_binding(now, binding, Unbinding::Unconfirmed);
    }

    pub(super) fn on_presence(&mut self, now: Instant, instance: InstanceId, presence: Presence) {
        let Some(binding) = self.devices.binding_of(instance) else { return };
        self.devices.set_presence(instance, presence);
        if presence == Presence::Foreground {
            self.leave_all_expected(instance, binding);
        }
        if presence == Presence::Foreground && self.is_checked(binding, instance) {
            self.put_off_check(now, binding);
        }
        self.settle_group(now, binding);
        if presence == Presence::Background {
            self.want_flow_anew(now, binding);
        }
    }

    /// A device has the same credentials as a proven one of its binding.
    pub(super) fn on_vouch(&mut self, now: Instant, instance: InstanceId) {
        let Some(binding) = self.devices.binding_of(instance) else { return };
        if self.is_checked(binding, instance) {
            self.put_off_check(now, binding);
        }
        self.devices.set_proven(instance, true);
        if let Some(registration) = self.bindings.get_mut(binding).filter(|it| it.instance == instance) {
            registration.set_established();
        }
        self.settle_group(now, binding);
    }

    /// The SIP server has accepted the credentials in use. Returns their owner.
    pub(super) fn prove(&mut self, binding: BindingId) -> Option<InstanceId> {
        let registration = self.bindings.get(binding)?;
        let (instance, shown) = (registration.instance, registration.asks_credentials());
        let is_new = !self.devices.is_proven(instance);
        self.devices.set_proven(instance, true);
        if let Some(group) = self.groups.0.get_mut(&binding) {
            group.check = None;
            if let Some(own) = self.devices.credentials_of(instance) {
                group.verdicts.note_accepted(own, is_new, shown);
            }
        }
        Some(instance)
    }

    /// An attempt has failed. If it was a check, returns its meaning for the device, and the next step of the binding.
    pub(super) fn end_check(
        &mut self,
        now: Instant,
        binding: BindingId,
        failure: RegistrationFailure,
    ) -> Option<(RegistrationFailure, Step)> {
        let registration = self.bindings.get(binding)?;
        let tried = registration.instance;
        let refused = registration.is_refused().then(|| registration.standing());
        let step = self.restore_owner(binding)?;
        let failure = if self.devices.is_proven(tried) {
            self.note_recheck(now, binding, tried, refused, failure)
        } else {
            failure
        };
        // A refused device is in no list any more, so it is not checked again before the shell unbinds it.
        if matches!(failure, RegistrationFailure::Retry { .. }) {
            self.groups.0.entry(binding).or_default().others.push(tried);
        }
        self.tidy_group(binding);
        Some((failure, step))
    }

    /// Checks the credentials of the next device that is not proven, or must be checked again, if nothing else is under way.
    pub(super) fn check_next(&mut self, now: Instant, binding: BindingId) {
        let Some(group) = self.groups.0.get(&binding).filter(|group| group.check.is_none()) else { return };
        let waits =
            |instance: &&InstanceId| self.devices.is_in_background(**instance) && !self.devices.is_proven(**instance);
        let joins = group.others.iter().find(waits).copied();
        let Some(next) = joins.or_else(|| self.next_recheck(now, binding)) else { return };
        let proven = joins.is_none().then(|| self.standing_of(now, binding, next));
        let flow = self.flow_to_server(binding);
        let Some(registration) = self.bindings.get_mut(binding).filter(|it| it.may_try_credentials()) else { return };
        let (suspended, step) = registration.try_credentials(next, proven);
        if let Some(group) = self.groups.0.get_mut(&binding) {
            group.others.retain(|other| *other != next);
            group.others.insert(0, suspended.instance);
            group.check = Some(Box::new(CredentialCheck { suspended, flow }));
        }
        self.carry_out(now, binding, step);
    }

    /// Takes a device out of its binding. Returns whether the binding goes on with others. `unregisters`: the device is not taken over by another relay.
    fn leave_group(&mut self, now: Instant, instance: InstanceId, binding: BindingId, unregisters: bool) -> bool {
        if self.is_checked(binding, instance) {
            self.abort_check(now, binding, None);
            return true;
        }
        if self.suspended(binding) == Some(instance) {
            self.put_off_check(now, binding);
        }
        let Some(registration) = self.bindings.get(binding) else { return false };
        let (owns, may_stand) = (registration.instance == instance, registration.may_unregister());
        if !owns {
            self.leave_others(binding, instance);
            self.tidy_group(binding);
            return true;
        }
        let Some(next) = self.next_credential_owner(now, binding) else { return false };
        if !self.devices.is_proven(next) {
            if unregisters && may_stand {
                return false;
            }
            self.begin_with(now, binding, next);
            return true;
        }
        let standing = self.standing_of(now, binding, next);
        self.leave_others(binding, next);
        let wanted = self.is_wanted(now, binding) || self.devices.is_in_background(next);
        self.redirect(now, binding, |registration| match registration.pass_credentials(next, Proof::Given, standing) {
            // An unregistration under way is sent again.
            step if wanted || registration.goal() == Goal::Silent => step,
            _ => registration.aim(now, Goal::Silent),
        });
        self.tidy_group(binding);
        true
    }

    /// The unregistration for the last device of a binding has ended, or its time is over: devices that have joined meanwhile go on with the binding.
    pub(super) fn end_binding(&mut self, now: Instant, binding: BindingId, outcome: Unbinding) {
        let last = self.bindings.get(binding).map(|registration| registration.instance);
        let Some((last, next)) = last.zip(self.next_credential_owner(now, binding)) else {
            return self.forget_binding(now, binding, outcome);
        };
        self.core.event(Event::Unbound { instance: last, outcome });
        self.begin_with(now, binding, next);
        self.settle_group(now, binding);
    }

    /// Registers a binding with the credentials of this device, as a new one.
    fn begin_with(&mut self, now: Instant, binding: BindingId, next: InstanceId) {
        let proof = self.devices.proof_of(next);
        let goal = if self.devices.is_in_background(next) { Goal::Registered } else { Goal::Silent };
        self.leave_others(binding, next);
        self.redirect(now, binding, |registration| registration.begin_anew(now, next, proof, goal));
        self.tidy_group(binding);
    }

    fn leave_others(&mut self, binding: BindingId, instance: InstanceId) {
        let Some(group) = self.groups.0.get_mut(&binding) else { return };
        group.others.retain(|other| *other != instance);
    }

    /// Forgets a group without other devices, and verdicts that concern no device any more.
    fn tidy_group(&mut self, binding: BindingId) {
        let members = self.all_instances(binding);
        let Some(group) = self.groups.0.get_mut(&binding) else { return };
        let has = |credentials| members.iter().any(|it| self.devices.credentials_of(*it) == Some(credentials));
        group.verdicts.retain(has);
        if group.others.is_empty() && group.check.is_none() && group.verdicts.are_clear() {
            self.groups.0.remove(&binding);
        }
    }

    /// After a change: a device in the background owns the credentials in use, the binding is registered or silent as its
    /// devices want it, and a device that is not proven is checked.
    pub(super) fn settle_group(&mut self, now: Instant, binding: BindingId) {
        self.settle_goal(now, binding);
        self.give_way(now, binding);
        self.check_next(now, binding);
    }

    /// Settles the owner and the goal, without a check.
    pub(super) fn settle_goal(&mut self, now: Instant, binding: BindingId) {
        let goal = |endpoint: &Self| endpoint.bindings.get(binding).map(|registration| registration.goal());
        if goal(self).is_none_or(|goal| goal == Goal::Gone) {
            return;
        }
        if self.is_wanted(now, binding) {
            self.hand_over_ownership(now, binding);
            return self.aim(now, binding, Goal::Registered);
        }
        // Only devices that are not proven are left. They neither keep nor revive the registration of others.
        if self.suspended(binding).is_some_and(|owner| self.devices.is_proven(owner)) {
            self.put_off_check(now, binding);
        }
        let mut members = self.all_instances(binding).into_iter();
        let Some(next) = members.find(|it| self.devices.is_in_background(*it) && !self.devices.is_proven(*it)) else {
            return self.aim(now, binding, Goal::Silent);
        };
        let Some(registration) = self.bindings.get(binding) else { return };
        let owner = registration.instance;
        if self.devices.is_proven(owner) && !registration.is_silent() {
            return self.aim(now, binding, Goal::Silent);
        }
        if next != owner && !self.is_checked(binding, owner) {
            self.pass_on(now, binding, owner, next);
        }
        self.aim(now, binding, Goal::Registered);
    }

    /// Makes a proven device in the background the owner, if the owner is not such a device.
    fn hand_over_ownership(&mut self, now: Instant, binding: BindingId) {
        let Some(owner) = self.bindings.get(binding).map(|registration| registration.instance) else { return };
        let is_proven = self.devices.is_proven(owner);
        if is_proven && self.devices.is_in_background(owner) || self.is_checked(binding, owner) {
            return;
        }
        let may =
            |next: &InstanceId| self.devices.is_in_background(*next) && (is_proven || self.devices.is_proven(*next));
        let Some(next) = self.next_credential_owner(now, binding).filter(may) else { return };
        // The registration keeps the accepted credentials until others are accepted.
        if is_proven && self.is_registered(binding) && !self.is_accepted(binding, next) {
            return;
        }
        self.pass_on(now, binding, owner, next);
    }

    /// Uses the credentials of another device instead of the owner's, which stays in the group.
    pub(super) fn pass_on(&mut self, now: Instant, binding: BindingId, owner: InstanceId, next: InstanceId) {
        let (proof, standing) = (self.devices.proof_of(next), self.standing_of(now, binding, next));
        if let Some(group) = self.groups.0.get_mut(&binding) {
            group.others.retain(|other| *other != next);
            group.others.insert(0, owner);
        }
        self.redirect(now, binding, |registration| registration.pass_credentials(next, proof, standing));
    }

    /// The device whose credentials are used next: by preference one without a refusal, then a proven one, one in the background, and one whose credentials
    /// were accepted last.
    fn next_credential_owner(&self, now: Instant, binding: BindingId) -> Option<InstanceId> {
        let group = self.groups.0.get(&binding)?;
        let rank = |instance: &&InstanceId| {
            let paused = self.is_paused(now, binding, **instance);
            let (proven, background) = (self.devices.is_proven(**instance), self.devices.is_in_background(**instance));
            (paused, !proven, !background, !self.is_accepted(binding, **instance))
        };
        group.others.iter().min_by_key(rank).copied()
    }

    /// Whether a proven device wants the binding to be registered. Among devices with refused credentials, only the next one counts.
    fn is_wanted(&self, now: Instant, binding: BindingId) -> bool {
        let owner = self.bindings.get(binding).map(|registration| registration.instance);
        let counts = |it: &InstanceId| owner == Some(*it) || !self.is_paused(now, binding, *it);
        let mut members = self.all_instances(binding).into_iter();
        let wants = |it: &InstanceId| self.devices.is_proven(*it) && self.devices.is_in_background(*it);
        members.any(|instance| wants(&instance) && counts(&instance))
    }

    /// Whether this device's credentials are being tried.
    pub(super) fn is_checked(&self, binding: BindingId, instance: InstanceId) -> bool {
        let under_way = self.groups.0.get(&binding).is_some_and(|group| group.check.is_some());
        under_way && self.bindings.get(binding).is_some_and(|registration| registration.instance == instance)
    }

    /// The device whose credentials are used again if those being checked fail.
    fn suspended(&self, binding: BindingId) -> Option<InstanceId> {
        Some(self.groups.0.get(&binding)?.check.as_ref()?.suspended.instance)
    }

    /// Aborts a check, which is repeated later.
    fn put_off_check(&mut self, now: Instant, binding: BindingId) {
        let Some(checked) = self.bindings.get(binding).map(|registration| registration.instance) else { return };
        self.abort_check(now, binding, Some(checked));
    }

    /// Aborts a check. `stays`: the checked device, unless it leaves.
    fn abort_check(&mut self, now: Instant, binding: BindingId, stays: Option<InstanceId>) {
        let under_way = self.bindings.get(binding).and_then(|registration| registration.branch());
        if let Some(branch) = under_way {
            self.core.transactions.abandon(branch);
        }
        if let Some(step) = self.restore_owner(binding) {
            if let Some(checked) = stays {
                self.add_other(binding, checked);
            }
            self.tidy_group(binding);
            self.carry_out(now, binding, step);
        }
    }

    /// Ends a check without success: the credentials in use before are used again.
    fn restore_owner(&mut self, binding: BindingId) -> Option<Step> {
        let flow = self.flow_to_server(binding);
        let group = self.groups.0.get_mut(&binding)?;
        let CredentialCheck { suspended, flow: stood_by } = *group.check.take()?;
        group.others.retain(|other| *other != suspended.instance);
        self.bindings.get_mut(binding).map(|registration| registration.resume_credentials(suspended, flow != stood_by))
    }

    /// The flow that a binding's registration goes by.
    pub(super) fn flow_to_server(&self, binding: BindingId) -> Option<FlowId> {
        self.upstreams.flow(self.upstream_of(binding)?).map(|(flow, _)| flow)
    }
}
