//! Alert pushes: every push that is not a call.
//!
//! | event | recipient |
//! | --- | --- |
//! | `message`, `voicemail`, `missed-call`, `test` | the alert target, if the device wants the event |
//! | `renew`, `expiring`, `expired`, `registration-lost` | the alert target |
//! | `renew` of a push binding (RFC 8599) | its second token |
//! | `call-ended` | the call target, not on APNs |
//!
//! Invariant: there is one way to send an alert and one handler of its verdict. A token that the service calls gone ends its instance, whichever alert
//! was sent. An alert that a replaced token has not taken goes to the new token. Nothing here is a VoIP push.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use sip::id::{CallId, InstanceId};

use super::Shard;
use super::final_pushes::FINAL_PUSH_TIME;
use crate::agent::delivery::{deliver, outcome_of, reason_of};
use crate::agent::tables::instances::{EndKind, Ending};
use crate::agent::tables::timeline::TimelineEvent;
use crate::agent::{ShardInput, Shared};
use crate::clock::{self, advertised_now, shared_now};
use crate::domain::WipeReason;
use crate::push::{Departure, Event, Push, Subject, Verdict};
use crate::vault::record::{PushTarget, Record, WakeFor};

/// How long an alert is tried at a service that does not take it, even if it would be worth delivering for longer. The service may keep it for as long
/// for a device that is off.
const ALERT_TRIES: Duration = Duration::from_secs(3_600);
/// Alerts of one instance that may be under way at once. A further one is left out, because each alert makes the app look at everything. The limit does not
/// apply to the end of a call, without which the phone would ring on, nor to notices of the lease or the registration.
const ALERTS_MAX: usize = 16;

/// The outcome of an alert push.
pub(crate) struct AlertEnded {
    /// The token that it was pushed to.
    target: PushTarget,
    push: Push,
    verdict: Verdict,
    /// Why it was not taken, as far as is known.
    said: Option<&'static str>,
}

/// The content of an alert beside its event.
#[derive(Default)]
pub(crate) struct AlertContent {
    pub call: Option<CallId>,
    pub from: Option<Box<str>>,
    pub name: Option<Box<str>>,
    pub extra: Vec<(&'static str, Value)>,
}

/// How long, in seconds, it is worth delivering a push about an item that is kept until `expires_at` (seconds since 1970): as long as the device finds the
/// item.
pub(crate) fn kept_life_s(expires_at: u64) -> u64 {
    expires_at.saturating_sub(shared_now())
}

impl Shard {
    /// Pushes an alert to an instance if `wanted` holds for the events that the device is woken for. Returns whether there is a target.
    pub(crate) fn send_alert(
        &mut self,
        instance: InstanceId,
        event: Event,
        life_s: u64,
        content: AlertContent,
        wanted: fn(&WakeFor) -> bool,
    ) -> bool {
        let Some((app, target)) = self.alert_target_of(instance, wanted) else { return false };
        self.send_alert_to(app, target, instance, event, life_s, content);
        true
    }

    /// The alert target of an instance, and its app, if `wanted` holds for the events that the device is woken for.
    pub(super) fn alert_target_of(
        &self,
        instance: InstanceId,
        wanted: fn(&WakeFor) -> bool,
    ) -> Option<(Box<str>, PushTarget)> {
        let target = |record: &Record| {
            let target = record.device.alert_target().filter(|_| wanted(&record.wake_for))?;
            Some((record.app.clone(), target.clone()))
        };
        self.with_record(instance, target).flatten()
    }

    /// Pushes an alert to this target; it is worth delivering for `life_s` seconds.
    pub(crate) fn send_alert_to(
        &mut self,
        app: Box<str>,
        target: PushTarget,
        instance: InstanceId,
        event: Event,
        life_s: u64,
        content: AlertContent,
    ) {
        let ending = self.instances.get(instance).and_then(|row| row.ending.as_ref());
        let is_nobodys = |ending: &Ending| ending.kind == EndKind::Wiped(WipeReason::PushTokenGone);
        // The node that has taken over does not know what was missed here.
        let is_theirs = self.is_handed_over() && event != Event::MissedCall;
        if ending.is_some_and(|ending| is_nobodys(ending) || is_theirs) {
            // The device is gone, or this node was told to release it, and may send it nothing more.
            return;
        }
        // These are few, and are not repeated: a peer that floods a device must not hide the loss of its registration.
        let tells_of_lease = matches!(event.subject(), Some(Subject::Lease | Subject::Registration));
        let is_notice = tells_of_lease && self.instances.get(instance).is_some();
        let is_never_left_out = event == Event::CallEnded || is_notice;
        if is_notice {
            self.budgets.take_notice(clock::now(), &app, instance);
        } else if is_never_left_out {
            self.budgets.take_end(clock::now(), &app, instance);
        } else if let Err(limit) = self.budgets.take_alert(clock::now(), &app, instance) {
            self.shared.quotas.met(limit);
            return;
        }
        let AlertContent { call, from, name, extra } = content;
        let (made_at, sent_at) = (clock::now(), advertised_now());
        let (edge, deadline) = (self.shared.edge.clone(), sent_at.saturating_add(life_s));
        let push = Push { event, instance, call, from, name, edge, sent_at, deadline, made_at, extra };
        if let Some(activity) = self.activity(instance) {
            while activity.alerts.try_join_next().is_some() {}
            if activity.alerts.len() >= ALERTS_MAX && !is_never_left_out {
                return;
            }
        }
        self.push_alert(app, target, push);
    }

    fn push_alert(&mut self, app: Box<str>, target: PushTarget, push: Push) {
        let Push { instance, event, call, .. } = push;
        let provider = self.shared.provider(target.provider);
        let (shared, shard) = (self.shared.clone(), self.index);
        // A push that is tried for a minute must not queue behind pushes that are tried for an hour.
        let tries = if self.activity(instance).is_some() { ALERT_TRIES } else { FINAL_PUSH_TIME };
        let departure = Departure::unmeasured();
        let recall = departure.recall();
        let sending = send(shared, shard, app, target, push, clock::now() + tries, departure);
        // An alert that tells of the end outlives its instance; a push binding has no activity.
        let Some(activity) = self.activity(instance) else { return self.send_final_push(instance, event, sending) };
        let sending = activity.alerts.spawn(sending);
        activity.recalls.retain(|(_, sending, _)| !sending.is_finished());
        activity.recalls.push((event, sending.clone(), recall));
        // A newer alert replaces an older one, which must not arrive after it.
        if let Some(subject) = event.subject() {
            activity.latest.retain(|(of, older)| {
                if *of == subject {
                    older.abort();
                }
                *of != subject && !older.is_finished()
            });
            activity.latest.push((subject, sending));
        }
        self.note(instance, call, TimelineEvent::PushSent { event, provider });
    }

    /// The target of call ends, or of all other alerts, has changed: alerts that were not taken are reconsidered.
    pub(crate) fn reconsider_alerts(&mut self, instance: InstanceId, ends: bool, others: bool) {
        let activity = self.instances.get(instance).and_then(|row| row.activity.as_ref());
        for (event, _, recall) in activity.into_iter().flat_map(|activity| &activity.recalls) {
            if if *event == Event::CallEnded { ends } else { others } {
                recall.redirect();
            }
        }
    }

    /// Whether an alert about this subject is under way.
    pub(super) fn is_telling(&self, instance: InstanceId, of: Subject) -> bool {
        let activity = self.instances.get(instance).and_then(|row| row.activity.as_ref());
        activity.is_some_and(|it| it.latest.iter().any(|(subject, sending)| *subject == of && !sending.is_finished()))
    }

    /// An alert push has ended.
    pub(crate) fn on_alert_ended(&mut self, ended: AlertEnded) {
        let AlertEnded { target, push, verdict, said } = ended;
        let Push { instance, event, call, .. } = push;
        self.note(
            instance,
            call,
            TimelineEvent::PushEnded { event, outcome: outcome_of(&verdict), reason: reason_of(&verdict, said) },
        );
        if matches!(verdict, Verdict::Accepted | Verdict::Unconfirmed) {
            self.note_told(instance, event);
        }
        if self.end_dead_token(instance, &target, &verdict) {
            return;
        }
        if let Some((app, target)) = self.moved(&push, &target, &verdict) {
            self.push_alert(app, target, push);
        }
    }
}

/// Sends an alert, which is tried until `until` at the latest, and reports the verdict to its shard.
async fn send(
    shared: Arc<Shared>,
    shard: usize,
    app: Box<str>,
    target: PushTarget,
    push: Push,
    until: Instant,
    departure: Departure,
) {
    let delivered = deliver(&shared, shard, &app, &target, &push, until, &departure).await;
    // Nothing ends it but its task.
    let Some((verdict, _)) = delivered else { return };
    shared
        .shards
        .send(shard, ShardInput::AlertEnded(Box::new(AlertEnded { target, push, verdict, said: departure.said() })))
        .await;
}
