//! Waking a device: the push for a call, and what its verdict means.
//!
//! Invariant: a call is pushed to each of its devices at most once on APNs, and at most twice on FCM, the second time because
//! the device gave no sign (its app tells the two by the call's id). The push is on its way within the same turn of the loop
//! in which the INVITE came; the store is not asked. A verdict never ends a call that a device has come for. A push ends
//! with its call.

use std::sync::Arc;
use std::time::Duration;

use sip::endpoint::{CallState, IncomingCall, Input};
use sip::id::{CallId, InstanceId};
use tokio::sync::oneshot;

use super::calls::Call;
use super::shard::Shard;
use super::timeline::What;
use super::{Pushed, ShardInput, World};
use crate::clock::unix_now;
use crate::config::EarlyRinging;
use crate::metrics::labels::{PushOutcome, WipeReason};
use crate::push::{Delivery, Event, Push, Verdict};
use crate::vault::record::{Provider, PushTarget};

/// How long `call-ended` may take; after it the phone has seen the call's own deadline.
const CALL_ENDED_LIFE_S: u64 = 30;
/// How long after FCM took a call's push its device may be silent, before it is sent a second time.
const SIGN_WITHIN: Duration = Duration::from_secs(5);
/// How long a push that is no call is tried at a service that does not take it.
const NOTICE_TRIES: Duration = Duration::from_secs(3_600);

impl Shard {
    /// A call waits for its device: push.
    pub(super) fn wake(&mut self, call: &IncomingCall) {
        let now = unix_now();
        let deadline = now + call.wait.as_secs();
        let push = Push {
            event: Event::Call,
            instance: call.instance,
            call: Some(call.call),
            from: Some(call.from.clone()),
            name: call.name.clone(),
            edge: self.world.edge.clone(),
            sent_at: now,
            deadline,
            extra: Vec::new(),
        };
        let Some((app, target)) = self.call_target(call.instance) else {
            self.hold(call, None);
            self.give_up(call.call, call.instance);
            return;
        };
        self.hold(call, Some(target.provider));
        let provider = self.world.provider(target.provider);
        self.note(call.instance, Some(call.call), What::PushSent { event: Event::Call, provider });
        if self.world.early_ringing == EarlyRinging::Immediately {
            self.next.push_back(Input::Ring { call: call.call, instance: call.instance });
        }
        let (world, shard, arrived) = (self.world.clone(), self.index, self.arrived);
        let (instance, call) = (call.instance, call.call);
        let push = tokio::spawn(async move {
            world.metrics.invite_to_push(arrived.elapsed());
            let verdict = deliver(&world, &app, &target, &push).await;
            let resend =
                target.provider == Provider::Fcm && matches!(verdict, Verdict::Accepted | Verdict::Unconfirmed);
            let pushed = Pushed { instance, call, verdict, resend, confirmed_at: target.confirmed_at };
            world.shards.send(shard, ShardInput::Pushed(Box::new(pushed))).await;
            if resend && no_sign(&world, shard, call, instance).await {
                world.metrics.push_resend();
                deliver(&world, &app, &target, &push).await;
            }
        });
        self.pushes.insert((call, instance), push.abort_handle());
    }

    /// Where an instance's calls go; `None`: nowhere.
    fn call_target(&self, instance: InstanceId) -> Option<(Box<str>, PushTarget)> {
        let lent = self.with_record(instance, |record| {
            record.wake_for.call.then(|| (record.app.clone(), record.device.call_push.clone()))
        });
        lent.unwrap_or_else(|| self.proxied_call_target(instance))
    }

    /// The call is over for a device: a push that is still being tried would make it ring in vain.
    pub(super) fn stop_push(&mut self, call: CallId, instance: InstanceId) {
        if let Some(push) = self.pushes.remove(&(call, instance)) {
            push.abort();
        }
    }

    /// Whether the push of this call is to be sent a second time: it still waits, and its device has given no sign.
    pub(super) fn resends(&mut self, id: CallId, instance: InstanceId) -> bool {
        let call = self.calls.get_mut(id, instance).filter(|call| call.held && !call.sign && !call.state.is_final());
        let resends = call.is_some() && !self.attached.contains(&instance);
        if !resends {
            self.pushes.remove(&(id, instance));
        }
        resends
    }

    /// Remembers a call, so that its state can be asked.
    pub(super) fn hold(&mut self, call: &IncomingCall, pushed: Option<Provider>) {
        let (id, instance) = (call.call, call.instance);
        // A call that was offered to a device may be pushed after all.
        match self.calls.get_mut(id, instance) {
            Some(known) => known.pushed = known.pushed.or(pushed),
            None => {
                let (state, deadline) = (CallState::Waking, unix_now() + call.wait.as_secs());
                let call = Call { state, deadline, pushed, held: false, unreachable: false, sign: false };
                self.calls.remember(id, instance, call);
            }
        }
        // What is offered to a device that is there waits for none.
        if pushed.is_some() {
            self.set_held(id, instance, true);
        }
    }

    /// A call waits for a device, or does no longer; the metric counts a call once, for however many devices it waits.
    pub(super) fn set_held(&mut self, id: CallId, instance: InstanceId, held: bool) {
        let before = self.calls.is_held(id);
        if let Some(call) = self.calls.get_mut(id, instance) {
            call.held = held;
        }
        let after = self.calls.is_held(id);
        self.world.metrics.calls_held(i32::from(after) - i32::from(before));
    }

    /// The push service has spoken.
    pub(super) fn on_pushed(&mut self, pushed: &Pushed) {
        let Pushed { instance, call, ref verdict, .. } = *pushed;
        if !pushed.resend {
            self.pushes.remove(&(call, instance));
        }
        let reason = if let Verdict::Refused { reason } = verdict { Some(*reason) } else { None };
        let what = What::PushEnded { event: Event::Call, outcome: outcome_of(verdict), reason };
        self.note(instance, Some(call), what);
        match verdict {
            Verdict::Accepted => {
                if self.world.early_ringing == EarlyRinging::AfterPushAccepted {
                    self.next.push_back(Input::Ring { call, instance });
                }
            }
            // The service may have taken it: the phone may come.
            Verdict::Unconfirmed => {}
            Verdict::Gone { .. } if verdict.token_is_dead(self.confirmed_at(pushed)) => {
                if self.proxied.knows(instance) {
                    return self.next.push_back(Input::RemovePushBinding(instance));
                }
                self.begin_wipe(instance, Some(WipeReason::PushTokenGone), None);
            }
            Verdict::Gone { .. } | Verdict::Retry { .. } | Verdict::Refused { .. } | Verdict::TooLate => {
                tracing::info!(%instance, %call, ?verdict, "a call's push was not delivered");
                if !self.attached.contains(&instance) {
                    self.give_up(call, instance);
                }
            }
        }
    }

    /// Tells a device that was woken that there is nothing to answer any more. Only FCM: a VoIP push must be a call.
    pub(super) fn tell_call_ended(&mut self, call: CallId, instance: InstanceId) {
        let target = self.call_target(instance).filter(|(_, target)| target.provider == Provider::Fcm);
        let Some((app, target)) = target else { return };
        let mut push = self.notice(Event::CallEnded, instance, CALL_ENDED_LIFE_S);
        push.call = Some(call);
        spawn_notice(self.world.clone(), app, target, push);
    }

    fn give_up(&mut self, call: CallId, instance: InstanceId) {
        if let Some(known) = self.calls.get_mut(call, instance) {
            known.unreachable = true;
        }
        self.next.push_back(Input::DeviceUnreachable { call, instance });
    }

    /// When the app last said that the token is good: the app may have done so while the push was under way.
    fn confirmed_at(&self, pushed: &Pushed) -> u64 {
        let said = self.call_target(pushed.instance).map_or(0, |(_, target)| target.confirmed_at);
        said.max(pushed.confirmed_at)
    }

    /// A push that is not for a call.
    pub(super) fn notice(&self, event: Event, instance: InstanceId, life_s: u64) -> Push {
        let now = unix_now();
        Push {
            event,
            instance,
            call: None,
            from: None,
            name: None,
            edge: self.world.edge.clone(),
            sent_at: now,
            deadline: now + life_s,
            extra: Vec::new(),
        }
    }
}

/// Waits for what a device needs to answer a push with a sign; whether it has given none, and the call still waits.
async fn no_sign(world: &World, shard: usize, call: CallId, instance: InstanceId) -> bool {
    tokio::time::sleep(SIGN_WITHIN).await;
    let (reply, answer) = oneshot::channel();
    world.shards.send(shard, ShardInput::Unheard { call, instance, reply }).await;
    answer.await.unwrap_or(false)
}

/// Delivers a push whose verdict changes nothing.
///
/// It is tried for [`NOTICE_TRIES`] at most, however long it would be worth delivering.
pub(super) fn spawn_notice(world: Arc<World>, app: Box<str>, target: PushTarget, push: Push) {
    tokio::spawn(async move {
        // An error means that the service did not take it in that time: the next notice, if any, has its own.
        let _ = tokio::time::timeout(NOTICE_TRIES, deliver(&world, &app, &target, &push)).await;
    });
}

/// Delivers a push and counts it.
pub(super) async fn deliver(world: &World, app: &str, target: &PushTarget, push: &Push) -> Verdict {
    let Delivery { verdict, attempts, elapsed } = world.push.deliver(app, target, push).await;
    let provider = world.provider(target.provider);
    for _ in 1..attempts {
        world.metrics.push_retry(provider);
    }
    world.metrics.push(provider, outcome_of(&verdict), elapsed);
    verdict
}

/// How a push ended, as metrics and timelines name it.
pub(super) fn outcome_of(verdict: &Verdict) -> PushOutcome {
    match verdict {
        Verdict::Accepted => PushOutcome::Accepted,
        Verdict::Gone { .. } => PushOutcome::Gone,
        Verdict::Refused { .. } => PushOutcome::Refused,
        Verdict::Retry { .. } | Verdict::Unconfirmed => PushOutcome::Failed,
        Verdict::TooLate => PushOutcome::TooLate,
    }
}
