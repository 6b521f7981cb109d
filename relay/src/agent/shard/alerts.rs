//! Alert pushes: every push that is not a call.
//!
//! | event | whom it goes to |
//! | --- | --- |
//! | `message`, `voicemail`, `missed-call`, `test` | the alert target, if the device wants the event |
//! | `renew`, `expiring`, `expired`, `registration-lost` | the alert target |
//! | `renew` of a push binding (RFC 8599) | its second token |
//! | `call-ended` | the call target, not on APNs |
//!
//! Invariant: there is one way to send an alert and one handler of its verdict: a token that the service calls gone ends
//! its instance, whichever push met it. Nothing here is a VoIP push.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sip::endpoint::Input;
use sip::id::{CallId, InstanceId};

use super::Shard;
use crate::agent::delivery::{deliver, outcome_of};
use crate::agent::tables::instances::EndKind;
use crate::agent::tables::timeline::What;
use crate::agent::{ShardInput, Shared};
use crate::clock::{self, shared_now};
use crate::domain::WipeReason;
use crate::push::{Event, Push, Verdict};
use crate::vault::record::{PushTarget, WakeFor};

/// How long a push that tells of something kept is tried, in seconds; the device finds it without the push as well.
pub(crate) const KEPT_ALERT_LIFE_S: u64 = 3_600;
/// How long any alert is tried at a service that does not take it, however long it would be worth delivering.
const ALERT_TRIES: Duration = Duration::from_secs(3_600);
/// Alerts of one instance that are under way at once; a further one is left out, for each says to look.
const ALERTS_MAX: usize = 16;

/// What became of an alert push.
pub(crate) struct AlertEnded {
    instance: InstanceId,
    event: Event,
    call: Option<CallId>,
    verdict: Verdict,
    /// When the app confirmed the token, in milliseconds since 1970.
    confirmed_at_ms: u64,
}

/// What an alert tells beside its event.
#[derive(Default)]
pub(crate) struct AlertContent {
    pub call: Option<CallId>,
    pub from: Option<Box<str>>,
    pub name: Option<Box<str>>,
    pub extra: Vec<(&'static str, Value)>,
}

impl Shard {
    /// Pushes to where an instance gets its alerts, if `wanted` says so of what the device is woken for.
    pub(crate) fn send_alert(
        &mut self,
        instance: InstanceId,
        event: Event,
        life_s: u64,
        content: AlertContent,
        wanted: fn(&WakeFor) -> bool,
    ) {
        let target = self.with_record(instance, |record| {
            let target = record.device.alert_target().filter(|_| wanted(&record.wake_for))?;
            Some((record.app.clone(), target.clone()))
        });
        if let Some(Some((app, target))) = target {
            self.send_alert_to(app, target, instance, event, life_s, content);
        }
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
        if ending.is_some_and(|ending| ending.kind == EndKind::Wiped(WipeReason::PushTokenGone)) {
            // Nobody is there any more.
            return;
        }
        if let Err(limit) = self.budgets.take_alert(clock::now(), &app, instance) {
            self.shared.quotas.met(limit);
            return;
        }
        let AlertContent { call, from, name, extra } = content;
        let now = shared_now();
        let edge = self.shared.edge.clone();
        let push = Push { event, instance, call, from, name, edge, sent_at: now, deadline: now + life_s, extra };
        let provider = self.shared.provider(target.provider);
        let (shared, shard) = (self.shared.clone(), self.index);
        let sending = send(shared, shard, app, target, push);
        // An alert that tells of the end outlives its instance; a push binding has no activity.
        let Some(activity) = self.activity(instance) else {
            tokio::spawn(sending);
            return;
        };
        while activity.alerts.try_join_next().is_some() {}
        if activity.alerts.len() >= ALERTS_MAX {
            return;
        }
        activity.alerts.spawn(sending);
        self.note(instance, call, What::PushSent { event, provider });
    }

    /// An alert push has ended.
    pub(crate) fn on_alert_ended(&mut self, ended: &AlertEnded) {
        let AlertEnded { instance, event, call, ref verdict, confirmed_at_ms } = *ended;
        let reason = if let Verdict::Refused { reason } = verdict { Some(*reason) } else { None };
        self.note(instance, call, What::PushEnded { event, outcome: outcome_of(verdict), reason });
        self.end_dead_token(instance, event, verdict, confirmed_at_ms);
    }

    /// Ends the instance, or the push binding, whose token the service calls gone; whether it does.
    ///
    /// `confirmed_at_ms`: when the app had confirmed the token that was pushed to. An app that has done so since is believed.
    pub(crate) fn end_dead_token(
        &mut self,
        instance: InstanceId,
        event: Event,
        verdict: &Verdict,
        confirmed_at_ms: u64,
    ) -> bool {
        if !verdict.token_is_dead(confirmed_at_ms) {
            // Nor is it for an app that has confirmed it since; most pushes are taken, and the record stays closed.
            return false;
        }
        let confirmed_since = self.confirmed_at_ms(instance, event).unwrap_or(0);
        if !verdict.token_is_dead(confirmed_since.max(confirmed_at_ms)) {
            return false;
        }
        if self.push_bindings.knows(instance) {
            self.next.push_back(Input::RemovePushBinding(instance));
        } else {
            self.end(instance, EndKind::Wiped(WipeReason::PushTokenGone), None);
        }
        true
    }

    /// When the app last said that the token which gets this event is good.
    fn confirmed_at_ms(&self, instance: InstanceId, event: Event) -> Option<u64> {
        if self.push_bindings.knows(instance) || matches!(event, Event::Call | Event::CallEnded) {
            return self.call_target(instance).map(|(_, target)| target.confirmed_at_ms);
        }
        self.with_record(instance, |record| record.device.alert_target().map(|target| target.confirmed_at_ms)).flatten()
    }
}

/// Sends an alert, and tells its shard the verdict.
async fn send(shared: Arc<Shared>, shard: usize, app: Box<str>, target: PushTarget, push: Push) {
    // An error means that the service did not take it in that time: the next alert, if any, has its own.
    let Ok(verdict) = tokio::time::timeout(ALERT_TRIES, deliver(&shared, &app, &target, &push)).await else { return };
    let Push { instance, event, call, .. } = push;
    let ended = AlertEnded { instance, event, call, verdict, confirmed_at_ms: target.confirmed_at_ms };
    shared.shards.send(shard, ShardInput::AlertEnded(Box::new(ended))).await;
}
