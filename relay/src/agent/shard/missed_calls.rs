//! Missed calls: each is kept for the device, and announced by an alert push.
//!
//! Invariant: the caller is sealed in the turn of the loop in which the call ended. A note that the store does not take is kept for later
//! (`agent/late_notes.rs`).

use std::time::Instant;

use sip::endpoint::{CallState, IncomingCall};
use sip::id::InstanceId;

use super::Shard;
use super::alerts::{AlertContent, kept_life_s};
use super::stories::CallOrigin;
use crate::agent::late_notes::Note;
use crate::agent::tables::instances::{EndKind, Ending};
use crate::agent::tables::timeline::TimelineEvent;
use crate::clock::{self, advertised_now, shared_now};
use crate::domain::WipeReason;
use crate::domain::story::Withheld;
use crate::metrics::labels::MissedCallOutcome;
use crate::push::Event;
use crate::vault::items::MissedCall;
use crate::vault::{MAX_LIFETIME_S, StoreError};

/// The owner, now or soon, of an instance that has missed a call.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OwnedElsewhere {
    Yes,
    /// This node ends it by itself, and another node may own it by now. The store decides: the note is kept if there is a record, and ends with that.
    Perhaps,
    No,
}

impl Shard {
    /// A device does not get a call that came at `arrived`, because it has had too many: its user finds it among the missed calls.
    pub(crate) fn on_call_refused(&mut self, arrived: Instant, call: Box<IncomingCall>) {
        if self.is_of_others(&call).is_some() {
            return;
        }
        let (id, instance) = (call.call, call.instance);
        let why = if self.refuses_calls { Withheld::Ending } else { Withheld::Limit };
        self.note(instance, Some(id), TimelineEvent::Invite);
        self.begin_story(call.clone(), arrived, CallOrigin::Withheld(why));
        self.note(instance, Some(id), TimelineEvent::CallEnded(CallState::TimedOut));
        self.on_missed(&call, CallState::TimedOut);
    }

    /// An unanswered call has ended.
    pub(crate) fn on_missed(&mut self, missed: &IncomingCall, state: CallState) {
        let instance = missed.instance;
        if self.calls.of(instance, missed.call).is_some_and(|call| call.is_of_others) {
            return;
        }
        let heir = self.hand_over.heir_of(instance);
        let Some(row) = self.instances.get(instance) else { return };
        let goes_on = row.ending.as_deref().map_or(OwnedElsewhere::Yes, |ending| goes_on(ending, heir));
        if goes_on == OwnedElsewhere::No {
            return;
        }
        let named = heir.filter(|_| row.ending.is_some()).unwrap_or(instance);
        let expires_at = row.expires_at();
        self.keep_missed(missed, state, named, goes_on);
        if goes_on == OwnedElsewhere::Perhaps {
            // Its next owner knows the push target; what this node knows has led to its end.
            return;
        }
        let (from, name) = (Some(missed.from.clone()), missed.name.clone());
        let content = AlertContent { call: Some(missed.call), from, name, ..AlertContent::default() };
        // The device is the same, and its earlier record says which events it wants.
        if let Some((app, target)) = self.alert_target_of(instance, |wake_for| wake_for.missed_call) {
            self.send_alert_to(app, target, named, Event::MissedCall, kept_life_s(expires_at), content);
        }
    }

    /// Stores the note of a missed call under the name of the instance that goes on.
    fn keep_missed(&mut self, missed: &IncomingCall, state: CallState, named: InstanceId, goes_on: OwnedElsewhere) {
        let call = missed.call;
        // The same clock decides when it is forgotten. A renewed lease prolongs the items beside its record.
        let kept_until = shared_now().saturating_add(MAX_LIFETIME_S);
        let item = self.shared.vault.seal_missed_call(named, || MissedCall {
            call,
            from: missed.from.clone(),
            name: missed.name.clone(),
            at: advertised_now().saturating_sub(clock::now().saturating_duration_since(missed.arrived).as_secs()),
            expires_at: kept_until,
            given_up: state == CallState::Cancelled,
        });
        let displaces = self.activity(missed.instance).and_then(|activity| activity.missed.note(missed.caller, call));
        let note = Note { instance: named, item, displaces, goes_on: goes_on == OwnedElsewhere::Yes };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let outcome = match note.keep(&shared.vault, &shared.metrics).await {
                Some(Err(StoreError::Gone)) if goes_on == OwnedElsewhere::Perhaps => return,
                Some(Ok(())) => MissedCallOutcome::Kept,
                // A store that came back empty takes the note once the record is there again.
                None | Some(Err(StoreError::Gone)) => {
                    if shared.late_notes.add(note) {
                        return;
                    }
                    MissedCallOutcome::Lost
                }
                Some(Err(_)) => MissedCallOutcome::Lost,
            };
            shared.metrics.missed_call(outcome);
        });
    }
}

/// Whether an ending instance goes on elsewhere. One that another node takes over has missed a call here; one that is replaced has missed it in the name of its
/// successor, the `heir`.
fn goes_on(ending: &Ending, heir: Option<InstanceId>) -> OwnedElsewhere {
    match ending.kind {
        EndKind::HandedOver => OwnedElsewhere::Yes,
        EndKind::NeverOurs | EndKind::Wiped(WipeReason::Replaced) if heir.is_some() => OwnedElsewhere::Yes,
        EndKind::Wiped(reason) if reason.is_nobodys_word() => OwnedElsewhere::Perhaps,
        EndKind::NeverOurs | EndKind::Wiped(_) => OwnedElsewhere::No,
    }
}
