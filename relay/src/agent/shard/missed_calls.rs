//! Calls that nobody answered: kept for the device, and told by an alert push.
//!
//! Invariant: the caller of a missed call is sealed in the turn of the loop in which the call ended.

use std::time::Instant;

use sip::endpoint::{CallState, IncomingCall};

use super::Shard;
use super::alerts::{AlertContent, kept_life_s};
use super::messages::keep;
use super::stories::How;
use crate::agent::tables::instances::{EndKind, Ending};
use crate::agent::tables::timeline::What;
use crate::clock::{self, shared_now, told_now};
use crate::domain::WipeReason;
use crate::domain::story::Withheld;
use crate::metrics::labels::MissedCallOutcome;
use crate::push::Event;
use crate::vault::MAX_LIFETIME_S;
use crate::vault::items::MissedCall;

impl Shard {
    /// A call came at `arrived` that a device does not get, because it has had too many: its user finds it as one that was missed.
    pub(crate) fn on_call_refused(&mut self, arrived: Instant, call: Box<IncomingCall>) {
        if self.is_of_others(&call).is_some() {
            return;
        }
        let (id, instance) = (call.call, call.instance);
        let why = if self.refuses_calls { Withheld::Ending } else { Withheld::Limit };
        self.note(instance, Some(id), What::Invite);
        self.begin_story(call.clone(), arrived, How::Withheld(why));
        self.note(instance, Some(id), What::CallEnded(CallState::TimedOut));
        self.on_missed(&call, CallState::TimedOut);
    }

    /// A call has ended that nobody answered.
    pub(crate) fn on_missed(&mut self, missed: &IncomingCall, state: CallState) {
        let instance = missed.instance;
        if self.calls.of(instance, missed.call).is_some_and(|call| call.is_of_others) {
            return;
        }
        let heir = self.hand_over.heir_of(instance);
        // An instance that another node goes on with has missed the call here; one that ends for another has missed it in that one's name.
        let goes_on = |ending: &Ending| match ending.kind {
            EndKind::HandedOver => true,
            EndKind::NeverOurs | EndKind::Wiped(WipeReason::Replaced) => heir.is_some(),
            EndKind::Wiped(_) => false,
        };
        let row = self.instances.get(instance).filter(|row| row.ending.as_deref().is_none_or(goes_on));
        let Some(row) = row else { return };
        let named = heir.filter(|_| row.ending.is_some()).unwrap_or(instance);
        let (call, expires_at) = (missed.call, row.expires_at());
        // By the clock by which it is forgotten; a lease that is renewed lengthens what is kept beside its record.
        let kept_until = shared_now().saturating_add(MAX_LIFETIME_S);
        let item = self.shared.vault.seal_missed_call(named, || MissedCall {
            call,
            from: missed.from.clone(),
            name: missed.name.clone(),
            at: told_now().saturating_sub(clock::now().saturating_duration_since(missed.arrived).as_secs()),
            expires_at: kept_until,
            given_up: state == CallState::Cancelled,
        });
        let gone = self.activity(instance).and_then(|activity| activity.missed.note(missed.caller, call));
        let shared = self.shared.clone();
        tokio::spawn(async move {
            shared.metrics.missed_call(match keep(&shared, named, &item).await {
                Ok(_) => MissedCallOutcome::Kept,
                Err(_) => MissedCallOutcome::Lost,
            });
            if let Some(gone) = gone {
                // A store that is away keeps one more of them.
                drop(shared.vault.displace_missed_call(named, gone).await);
            }
        });
        let (from, name) = (Some(missed.from.clone()), missed.name.clone());
        let content = AlertContent { call: Some(call), from, name, ..AlertContent::default() };
        // The device is the same, and what it wants is known by its earlier record.
        if let Some((app, target)) = self.alert_target_of(instance, |wake_for| wake_for.missed_call) {
            self.send_alert_to(app, target, named, Event::MissedCall, kept_life_s(expires_at), content);
        }
    }
}
