//! The present push targets of an instance, and the meaning of a verdict on another token.
//!
//! | the token of the push | the service calls it gone | took the push | did not take the push |
//! | --- | --- | --- | --- |
//! | is the device's | the instance ends | counts as usual | counts as usual |
//! | was replaced meanwhile | nothing ends; the push goes to the present token | counts as usual | the push goes to the present token at once |
//!
//! A node that leaves ends nothing, and neither does one whose record another run has taken: the other node may know a newer token. It is told which token is
//! gone, and judges by its own record.
//!
//! Invariant: a verdict on a token that the app has replaced ends nothing. A push that was taken opens no record.

use sip::endpoint::Input;
use sip::id::InstanceId;

use super::Shard;
use super::call_pushes::ReconsiderReason;
use super::push_bindings::contact_of;
use crate::agent::NodeNews;
use crate::agent::request::DeadToken;
use crate::agent::tables::instances::EndKind;
use crate::clock::unix_now_ms;
use crate::domain::WipeReason;
use crate::push::{Event, Push, Verdict};
use crate::vault::Sealed;
use crate::vault::record::{Device, PushTarget, StoredRecord};

/// The push targets of an instance.
pub(crate) struct Targets {
    calls: Option<PushTarget>,
    alerts: Option<PushTarget>,
}

impl Shard {
    /// The push target of an event, with the App; `None`: none.
    pub(crate) fn target_of(&self, instance: InstanceId, event: Event) -> Option<(Box<str>, PushTarget)> {
        let of_call = event.is_of_a_call();
        self.opened(instance, self.sealed_of(instance)?, |record| match record {
            StoredRecord::Lent(record) => {
                let device = &record.device;
                // The end of a call goes to the target of the call, even if the device wants no more calls.
                let is_wanted = event == Event::CallEnded || record.wake_for.call;
                let to_call = is_wanted.then_some(&device.call_push);
                let target = if of_call { to_call } else { device.alert_target() };
                Some((record.app.clone(), target?.clone()))
            }
            StoredRecord::PushBinding(record) => {
                let address = self.shared.push.address(&contact_of(record), record.confirmed_at_ms).ok()?;
                Some((address.app, if of_call { address.call } else { address.other? }))
            }
        })
    }

    /// The push target of an event for a retry. A call has none any more while its device's instance is ending. Notices of the end outlive the instance.
    pub(crate) fn target_now(&self, instance: InstanceId, event: Event) -> Option<(Box<str>, PushTarget)> {
        let is_ending = self.instances.get(instance).is_some_and(|row| row.ending.is_some());
        if event == Event::Call && is_ending { None } else { self.target_of(instance, event) }
    }

    /// The targets of the call pushes and of the alerts of an instance.
    pub(crate) fn targets_of(&self, instance: InstanceId) -> Targets {
        let calls = self.target_of(instance, Event::Call).map(|(_, target)| target);
        let alerts = self.alert_target_of(instance, |_| true).map(|(_, target)| target);
        Targets { calls, alerts }
    }

    /// The targets may have changed: pushes that were not taken are reconsidered.
    pub(crate) fn on_targets_changed(&mut self, instance: InstanceId, before: &Targets) {
        let changed = |before: &Option<PushTarget>, now: &Option<PushTarget>| match (before, now) {
            (Some(before), Some(now)) => !now.takes_the_same(before),
            (before, now) => before.is_some() != now.is_some(),
        };
        let Targets { calls, alerts } = self.targets_of(instance);
        let (calls_move, alerts_move) = (changed(&before.calls, &calls), changed(&before.alerts, &alerts));
        if calls_move {
            self.reconsider_pushes(instance, ReconsiderReason::TargetChanged);
        }
        self.reconsider_alerts(instance, calls_move && calls.is_some(), alerts_move && alerts.is_some());
    }

    /// The target for a push that this token has not taken, if the device has another token by now, or the push must be reconsidered.
    pub(crate) fn moved(&self, push: &Push, from: &PushTarget, verdict: &Verdict) -> Option<(Box<str>, PushTarget)> {
        let is_over = match verdict {
            Verdict::Accepted | Verdict::TooLate => true,
            // The push may have been taken, and a VoIP push has no second.
            Verdict::Unconfirmed => from.provider.is_apple(),
            _ => false,
        };
        if is_over {
            return None;
        }
        let is_moved = |target: &PushTarget| *verdict == Verdict::Moved || !target.is_same_token(from);
        self.target_now(push.instance, push.event).filter(|(_, target)| is_moved(target))
    }

    /// Ends the instance, or the push binding, whose token the service calls gone. Returns whether it ends.
    ///
    /// The app is believed if it has given another token since, or confirmed this one after the time at which it is said to have died.
    pub(crate) fn end_dead_token(&mut self, instance: InstanceId, token: &PushTarget, verdict: &Verdict) -> bool {
        let is_dead = |confirmed_at_ms: u64| verdict.token_is_dead(confirmed_at_ms.max(token.confirmed_at_ms));
        if !is_dead(0) || !self.confirmed_at_ms(instance, token).is_some_and(is_dead) {
            return false;
        }
        let is_released = self.push_bindings.released(instance).is_some();
        if self.is_handed_over() || self.hand_over.is_left(instance) || is_released {
            let Verdict::Gone { since } = verdict else { return false };
            let since_ms = since.unwrap_or_else(unix_now_ms);
            let token = DeadToken { mark: self.shared.vault.token_mark(token), since_ms };
            // An error means that nobody is told any more: the process ends.
            let _ = self.shared.node_news.send(NodeNews::TokenDead { id: instance, token });
            return false;
        }
        if self.push_bindings.knows(instance) {
            self.next.push_back(Input::RemovePushBinding(instance));
        } else {
            self.end(instance, EndKind::Wiped(WipeReason::PushTokenGone), None);
        }
        true
    }

    /// Another node was told that a token is gone.
    pub(crate) fn hear_of_dead_token(&mut self, instance: InstanceId, token: DeadToken) {
        let is_it = |target: &PushTarget| self.shared.vault.token_mark(target) == token.mark;
        if let Some(target) = self.tokens_of(instance).into_iter().flatten().find(is_it) {
            self.end_dead_token(instance, &target, &Verdict::Gone { since: Some(token.since_ms) });
        }
    }

    /// When the app last confirmed this token. `None`: it is not the device's any more.
    fn confirmed_at_ms(&self, instance: InstanceId, token: &PushTarget) -> Option<u64> {
        let Some(tokens) = self.tokens_of(instance) else {
            // If the record does not open, no newer token is known.
            return Some(token.confirmed_at_ms);
        };
        tokens.into_iter().filter(|target| target.is_same_token(token)).map(|target| target.confirmed_at_ms).max()
    }

    /// All tokens of a device; `None`: they cannot be read.
    fn tokens_of(&self, instance: InstanceId) -> Option<Vec<PushTarget>> {
        self.opened(instance, self.sealed_of(instance)?, |record| match record {
            StoredRecord::Lent(record) => {
                let Device { call_push, alert_push, .. } = &record.device;
                Some(std::iter::once(call_push).chain(alert_push).cloned().collect())
            }
            StoredRecord::PushBinding(record) => {
                let address = self.shared.push.address(&contact_of(record), record.confirmed_at_ms).ok()?;
                Some(std::iter::once(address.call).chain(address.other).collect())
            }
        })
    }

    fn sealed_of(&self, instance: InstanceId) -> Option<&Sealed> {
        let lent = self.instances.get(instance).map(|row| &row.sealed);
        lent.or_else(|| self.push_bindings.sealed(instance)).or_else(|| self.push_bindings.released(instance))
    }
}
