//! Call pushes: waking a device for an INVITE, and the consequences of the push service's verdict.
//!
//! | event | a push that was not taken yet |
//! | --- | --- |
//! | the device has a new token | goes to the new token at once; the old token gets nothing further |
//! | the device attaches | is held. It resumes when the device leaves without a response, or gives none for [`EdgeTiming::no_response`](sip::timing::EdgeTiming::no_response): the app may be suspended while its kernel keeps the connection |
//! | the device shows that it knows of the call | ends |
//! | the call ends | ends; but the answer to a push that has left whole is awaited, because a token that is called gone ends its instance |
//!
//! | copies of a call's push to one token | at most |
//! | --- | --- |
//! | on APNs | one |
//! | elsewhere | two: the second one when the device gave no sign; the app knows both by the call's id |
//! | elsewhere, when the answers to two copies were lost | three |
//! | likewise, when one of them was the second push, or one that was held | four |
//!
//! Invariant: the push leaves in the turn of the loop in which the INVITE came, without a question to the store. No verdict ends a call that a device has
//! come for.

use std::future::Future as _;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use sip::endpoint::{CallState, IncomingCall, Input};
use sip::id::{CallId, InstanceId};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Shard;
use super::alerts::AlertContent;
use crate::agent::delivery::{deliver, outcome_of, reason_of};
use crate::agent::tables::calls::Call;
use crate::agent::tables::timeline::TimelineEvent;
use crate::agent::{PushRound, Pushed, ShardInput};
use crate::audit::Act;
use crate::clock::{self, Moment, advertised_now};
use crate::config::EarlyRinging;
use crate::domain::Word as _;
use crate::domain::story::{DEVICE_CAME, Withheld};
use crate::push::{Departure, Event, Push, Recall, Unsent, Verdict};
use crate::vault::record::{Provider, PushTarget};

/// How long `call-ended` may take; later the phone has reached the call's own deadline.
const CALL_ENDED_LIFE_S: u64 = 30;
/// How long a device may be silent after FCM, or a Web Push service, took a call's push, before the push is sent a second time.
const SIGN_WITHIN: Duration = Duration::from_secs(5);
/// The largest number of copies of a call's push to a token, except on APNs.
const COPIES: u32 = 2;
/// A push's end is given in whole seconds, so it may come this much before the end of its call.
const ROUNDED: Duration = Duration::from_secs(2);
/// How long a call may be on its way to a Contact that another node's has replaced.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// The push of a call, which is being delivered or may be sent a second time.
pub(super) struct CallPush {
    pub(super) task: AbortHandle,
    kind: Kind,
}

/// The state of a call's push.
enum Kind {
    /// It is being delivered. It ends with its call, and is recalled if it may have to go to another token.
    OnItsWay(Recall),
    /// It may be sent a second time.
    Taken,
    /// It was not taken, and is held because its device has come. The sender wakes it when that may have changed.
    Held(Arc<Notify>),
}

/// Why a call is not for a device.
pub(crate) struct NotForDevice {
    why: Withheld,
    /// The call waits for the device nevertheless, which may come by itself.
    may_come: bool,
}

/// Why a push that was not taken is reconsidered.
#[derive(Clone, Copy)]
pub(crate) enum ReconsiderReason {
    /// Its device has come, or shows that it knows of the call.
    DeviceCame,
    /// Its device has another push target.
    TargetChanged,
}

/// The keys of the pushes of a device.
fn all_of(instance: InstanceId) -> RangeInclusive<(InstanceId, CallId)> {
    (instance, CallId::from_bytes([0; 16]))..=(instance, CallId::from_bytes([0xff; 16]))
}

impl Shard {
    /// Pushes a call that waits for its device. Returns the App that is pushed, or the reason why none is.
    pub(crate) fn wake(&mut self, arrived: Instant, call: &IncomingCall) -> Result<Box<str>, Withheld> {
        let now = advertised_now();
        let deadline = now + call.wait.as_secs();
        let push = Push {
            event: Event::Call,
            instance: call.instance,
            call: Some(call.call),
            from: Some(call.from.clone()),
            name: call.name.clone(),
            edge: self.shared.edge.clone(),
            sent_at: now,
            deadline,
            made_at: clock::now(),
            extra: Vec::new(),
        };
        if let Some(NotForDevice { why, may_come }) = self.is_of_others(call) {
            self.track_call(call, None);
            if let Some(call) = self.calls.get_mut(call.call, call.instance) {
                call.is_of_others = true;
            }
            if !may_come {
                self.give_up(call.call, call.instance);
            }
            return Err(why);
        }
        if self.is_cancelled {
            // The event that ends the call comes next.
            self.track_call(call, None);
            return Err(Withheld::Cancelled);
        }
        let Some((app, target)) = self.target_of(call.instance, Event::Call) else {
            return Err(self.withhold(call, Withheld::NoTarget));
        };
        if let Err(limit) = self.budgets.take_call(clock::now(), &app, call.instance, call.caller) {
            self.shared.quotas.met(limit);
            tracing::info!(event = "call-not-pushed", instance = %call.instance, call = %call.call, limit = limit.word(), "a call is not pushed");
            return Err(self.withhold(call, Withheld::Limit));
        }
        self.track_call(call, Some(target.provider));
        let provider = self.shared.provider(target.provider);
        self.note(call.instance, Some(call.call), TimelineEvent::PushSent { event: Event::Call, provider });
        if self.shared.early_ringing == EarlyRinging::Immediately {
            self.next.push_back(Input::Ring { call: call.call, instance: call.instance });
        }
        let pushed_by = app.clone();
        let departure = Departure::of_call(arrived, &self.shared.metrics);
        self.push_call(app, target, push, PushRound::First, 0, departure);
        Ok(pushed_by)
    }

    /// Gives up a device for a call that is not pushed.
    fn withhold(&mut self, call: &IncomingCall, why: Withheld) -> Withheld {
        self.track_call(call, None);
        self.give_up(call.call, call.instance);
        why
    }

    /// Pushes a call; its service may have taken `earlier` copies for this token.
    fn push_call(
        &mut self,
        app: Box<str>,
        target: PushTarget,
        push: Push,
        round: PushRound,
        earlier: u32,
        departure: Departure,
    ) {
        let Push { call: Some(call), instance, .. } = push else { return };
        let (shared, shard) = (self.shared.clone(), self.index);
        let recall = departure.recall();
        let mut sending = Box::pin(async move {
            let delivered = deliver(&shared, shard, &app, &target, &push, push.until(), &departure).await;
            let Some((verdict, copies)) = delivered else { return };
            let (said, unsent) = (departure.said(), departure.unsent());
            drop(departure);
            let pushed = Pushed { target, push, round, verdict, copies: earlier + copies, said, unsent };
            shared.shards.send(shard, ShardInput::Pushed(Box::new(pushed))).await;
        });
        // If there is a connection, the request is handed to it in this very turn.
        let mut context = Context::from_waker(Waker::noop());
        if sending.as_mut().poll(&mut context).is_pending() {
            self.hurried = true;
            let task = tokio::spawn(sending).abort_handle();
            self.pushes.insert((instance, call), CallPush { task, kind: Kind::OnItsWay(recall) });
        }
    }

    /// Why a call is not for this device, if it is not.
    pub(crate) fn is_of_others(&self, call: &IncomingCall) -> Option<NotForDevice> {
        let not_for = |why, may_come| Some(NotForDevice { why, may_come });
        if self.is_gone_from_here(call.instance) || self.is_woken_elsewhere(call) {
            return not_for(Withheld::Elsewhere, false);
        }
        let replaces = call.replaces?;
        if self.push_bindings.knows(call.instance) || self.push_bindings.released(call.instance).is_some() {
            // The SIP server has chosen this one phone by its Path.
            return None;
        }
        if self.is_in(call.instance, replaces.dialog) {
            return None;
        }
        let siblings = self.endpoint.binding_of_instance(call.instance).map(|it| self.endpoint.all_instances(it));
        match siblings.into_iter().flatten().any(|other| self.is_in(other, replaces.dialog)) {
            true => not_for(Withheld::Replaces, false),
            // The parties of that call are unknown, as after a restart of this relay. A device in the call is awake, and attaches by itself.
            false if replaces.required => not_for(Withheld::Replaces, true),
            // A phone that does not support RFC 3891 takes it for an ordinary call.
            false => None,
        }
    }

    /// Whether this node leaves: its instances are another node's, or will be.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.hand_over.is_leaving()
    }

    /// Whether another node took an instance over so long ago that a call here can only be the second branch of a fork. Its device is woken there, or was
    /// disabled there.
    fn is_gone_from_here(&self, instance: InstanceId) -> bool {
        self.hand_over.taken_since(instance).is_some_and(|since| clock::now() >= since + ON_ITS_WAY)
    }

    /// Whether the earlier node of an instance has woken its device for the same call, which came here by another branch.
    fn is_woken_elsewhere(&self, call: &IncomingCall) -> bool {
        call.mark.is_some_and(|mark| self.hand_over.is_woken_elsewhere(call.instance, mark))
    }

    /// The call is over for a device: a push that is still being tried would make it ring in vain, and ends. The answer to one that has left is awaited.
    pub(crate) fn stop_push(&mut self, call: CallId, instance: InstanceId) {
        let Some(push) = self.pushes.remove(&(instance, call)) else { return };
        let row = self.instances.get(instance);
        let is_passed = self.push_bindings.knows(instance) || self.push_bindings.released(instance).is_some();
        let stays = row.is_some_and(|row| row.ending.is_none()) || is_passed;
        if stays && matches!(&push.kind, Kind::OnItsWay(recall) if recall.ask()) {
            self.pushes.insert((instance, call), push);
        } else {
            push.task.abort();
        }
    }

    /// The state of a call, or its push target, has changed: a push that was not taken is reconsidered.
    pub(crate) fn reconsider_push(&mut self, call: CallId, instance: InstanceId, why: ReconsiderReason) {
        match self.pushes.get(&(instance, call)).map(|push| &push.kind) {
            Some(Kind::OnItsWay(recall)) => match why {
                ReconsiderReason::DeviceCame => recall.reconsider(),
                ReconsiderReason::TargetChanged => recall.redirect(),
            },
            Some(Kind::Held(news)) => news.notify_one(),
            Some(Kind::Taken) | None => {}
        }
    }

    /// Reconsiders the pushes of all calls of a device.
    pub(crate) fn reconsider_pushes(&mut self, instance: InstanceId, why: ReconsiderReason) {
        let calls: Vec<_> = self.pushes.range(all_of(instance)).map(|((_, call), _)| *call).collect();
        for call in calls {
            self.reconsider_push(call, instance, why);
        }
    }

    /// A device has left: pushes that were held because it had come are reconsidered.
    pub(crate) fn resume_pushes(&mut self, instance: InstanceId) {
        for (_, push) in self.pushes.range(all_of(instance)) {
            if let Kind::Held(news) = &push.kind {
                news.notify_one();
            }
        }
    }

    /// An instance ends: no task with its token is awaited.
    pub(crate) fn drop_pushes(&mut self, instance: InstanceId) {
        for (_, push) in self.pushes.extract_if(all_of(instance), |_, _| true) {
            push.task.abort();
        }
    }

    /// Whether a call still waits for a device that has given no sign and is not attached.
    fn awaits_sign(&self, call: CallId, instance: InstanceId) -> bool {
        self.calls.of(instance, call).is_some_and(Call::awaits_sign) && !self.attached.contains(instance)
    }

    /// Remembers a call, so that its state can be asked.
    pub(crate) fn track_call(&mut self, call: &IncomingCall, pushed: Option<Provider>) {
        let (id, instance) = (call.call, call.instance);
        let valid_until = call.valid.map(Moment::after);
        // A call that was forked to a device may be pushed after all.
        match self.calls.get_mut(id, instance) {
            Some(known) => {
                if pushed.is_some() {
                    known.wake_again(call.wait);
                }
                if known.mark.is_none() && call.mark.is_some() && !known.state.is_final() {
                    // Its caller has heard nothing before.
                    known.state = CallState::Waking;
                }
                known.pushed = known.pushed.or(pushed);
                known.mark = known.mark.or(call.mark);
                known.valid_until = known.valid_until.or(valid_until);
                known.wait_until(known.deadline);
            }
            None => {
                let call = Call { pushed, ..Call::waking(call.wait, valid_until, call.mark) };
                self.calls.remember(id, instance, call);
            }
        }
        // A call that was forked without a push waits for no device.
        if pushed.is_some() {
            self.set_waiting(id, instance, true);
        }
    }

    /// Notes whether a call waits for a device. The metric counts a call once, however many devices it waits for.
    pub(crate) fn set_waiting(&mut self, id: CallId, instance: InstanceId, waiting: bool) {
        let before = self.calls.is_waiting(id);
        if let Some(call) = self.calls.get_mut(id, instance) {
            call.waiting = waiting;
        }
        let after = self.calls.is_waiting(id);
        self.shared.metrics.calls_waiting(i32::from(after) - i32::from(before));
    }

    /// Handles the push service's verdict.
    pub(crate) fn on_pushed(&mut self, mut pushed: Box<Pushed>) {
        pushed.push.instance = self.endpoint.current(pushed.push.instance);
        let Push { call: Some(call), instance, .. } = pushed.push else { return };
        let verdict = &pushed.verdict;
        self.pushes.remove(&(instance, call));
        let goes_to = self.moved(&pushed.push, &pushed.target, verdict);
        let reason = match verdict {
            // Its device wants no calls any more, or its instance ends.
            Verdict::Moved if goes_to.is_none() => pushed.said,
            Verdict::Moved if self.has_come(call, instance) => Some(DEVICE_CAME),
            verdict => reason_of(verdict, pushed.said),
        };
        let what = TimelineEvent::PushEnded { event: Event::Call, outcome: outcome_of(verdict), reason };
        self.note(instance, Some(call), what);
        // The end is reported to nobody any more.
        if matches!(verdict, Verdict::Gone { .. })
            && let Some(known) = self.calls.get_mut(call, instance)
        {
            known.pushed = None;
        }
        if self.end_dead_token(instance, &pushed.target, verdict) {
            return;
        }
        if let Some((app, target)) = goes_to {
            self.push_on(call, app, target, pushed, false);
            return;
        }
        if pushed.round == PushRound::Second {
            return;
        }
        if matches!(verdict, Verdict::Accepted | Verdict::Unconfirmed) {
            self.note_woken(call, instance);
        }
        match verdict {
            Verdict::Accepted => {
                let is_over = self.calls.of(instance, call).is_some_and(|call| call.reported_state().is_final());
                if self.shared.early_ringing == EarlyRinging::AfterPushAccepted && !is_over {
                    self.next.push_back(Input::Ring { call, instance });
                }
                self.audit(instance, Act::Woken);
                self.await_sign(call, pushed);
            }
            // The service may have taken it: the phone may come.
            Verdict::Unconfirmed => self.await_sign(call, pushed),
            Verdict::Gone { .. }
            | Verdict::BadToken
            | Verdict::Retry { .. }
            | Verdict::Refused { .. }
            | Verdict::TooLate
            | Verdict::Moved => {
                tracing::info!(event = "call-push-failed", %instance, %call, outcome = outcome_of(verdict).word(), reason, "a call's push was not delivered");
                self.on_push_undelivered(call, &pushed);
            }
        }
    }

    /// Gives up the device of a push that was not delivered, unless it comes by itself or the call is over. If its service may take the push later, the
    /// device is not given up before the call ends, because it may come by itself until then. A call that was announced again lives on without a push, and is
    /// over for this device.
    fn on_push_undelivered(&mut self, call: CallId, pushed: &Pushed) {
        let instance = pushed.push.instance;
        // The device does not know of the call, and so need not hear of its end.
        if pushed.copies == 0
            && let Some(known) = self.calls.get_mut(call, instance)
        {
            known.pushed = None;
        }
        let known = self.calls.of(instance, call);
        let is_over = known.is_some_and(|call| call.reported_state().is_final());
        // A device that knows of the call comes by itself.
        let comes = self.attached.contains(instance) || known.is_some_and(|call| !call.may_still_be_pushed());
        if comes || is_over {
            return;
        }
        let outlives = known.is_some_and(|call| call.deadline.at > pushed.push.until() + ROUNDED);
        if outlives || !matches!(pushed.verdict, Verdict::Retry { .. } | Verdict::TooLate) {
            self.give_up(call, instance);
        } else if let Some(known) = self.calls.get_mut(call, instance) {
            known.unreachable = true;
        }
    }

    /// Reconsiders a push that was not taken by its former target, and now goes to this one. A device that knows of the call comes by itself. For an
    /// attached device the push is held, unless the device `is_silent`: it has not responded to the call.
    fn push_on(&mut self, call: CallId, app: Box<str>, target: PushTarget, pushed: Box<Pushed>, is_silent: bool) {
        let instance = pushed.push.instance;
        let Some(known) = self.calls.of(instance, call).filter(|call| call.may_still_be_pushed()) else { return };
        let is_same = target.is_same_token(&pushed.target);
        // A device that was attached and silent when it was woken may be gone by now.
        let is_there = self.attached.contains(instance) && (!known.waiting || known.mark.is_none() || is_same);
        if is_there && !is_silent {
            return self.hold_push(call, pushed);
        }
        let most = if target.provider.is_apple() { 1 } else { COPIES };
        if pushed.copies_for(&target) >= most {
            return;
        }
        let round = pushed.round;
        self.push_again(call, app, target, *pushed, round);
    }

    /// Whether a device has come for a call, or knows of it.
    fn has_come(&self, call: CallId, instance: InstanceId) -> bool {
        self.attached.contains(instance) || self.calls.of(instance, call).is_some_and(|call| call.knows || call.rings)
    }

    fn hold_push(&mut self, call: CallId, pushed: Box<Pushed>) {
        let (shared, shard, key) = (self.shared.clone(), self.index, (pushed.push.instance, call));
        let news = Arc::new(Notify::new());
        let told = Arc::clone(&news);
        let held = tokio::spawn(async move {
            let is_silent = tokio::time::timeout(shared.no_response, told.notified()).await.is_err();
            shared.shards.send(shard, ShardInput::PushResumed { pushed, is_silent }).await;
        });
        self.pushes.insert(key, CallPush { task: held.abort_handle(), kind: Kind::Held(news) });
    }

    /// The device of a held push has new state, or has been silent for long enough.
    pub(crate) fn on_push_resumed(&mut self, mut pushed: Box<Pushed>, is_silent: bool) {
        pushed.push.instance = self.endpoint.current(pushed.push.instance);
        let Push { call: Some(call), instance, .. } = pushed.push else { return };
        self.pushes.remove(&(instance, call));
        if let Some((app, target)) = self.target_now(instance, Event::Call) {
            self.push_on(call, app, target, pushed, is_silent);
        }
    }

    /// Pushes a call once more, to its present target.
    fn push_again(&mut self, call: CallId, app: Box<str>, target: PushTarget, pushed: Pushed, round: PushRound) {
        let earlier = pushed.copies_for(&target);
        let Pushed { push, unsent, .. } = pushed;
        if let Some(known) = self.calls.get_mut(call, push.instance) {
            known.pushed = Some(target.provider);
        }
        let provider = self.shared.provider(target.provider);
        self.note(push.instance, Some(call), TimelineEvent::PushSent { event: Event::Call, provider });
        self.tell_pushed_again(push.instance, call, provider);
        let departure = unsent.map_or_else(Departure::unmeasured, Unsent::departure);
        self.push_call(app, target, push, round, earlier, departure);
    }

    /// Waits for the time that a device needs to respond to a push. Not on APNs, where no second copy follows; nor for a call that ended before the verdict,
    /// because a receipt may have confirmed by then that nothing of the token is left.
    fn await_sign(&mut self, call: CallId, pushed: Box<Pushed>) {
        let key = (pushed.push.instance, call);
        let awaits = self.calls.of(key.0, call).is_some_and(Call::awaits_sign);
        if pushed.target.provider.is_apple() || !awaits {
            return;
        }
        let (shared, shard) = (self.shared.clone(), self.index);
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(SIGN_WITHIN).await;
            shared.shards.send(shard, ShardInput::SignDue(pushed)).await;
        });
        self.pushes.insert(key, CallPush { task: waiting.abort_handle(), kind: Kind::Taken });
    }

    /// The device should have responded by now: if it has not, the call is pushed a second time, to the present target.
    pub(crate) fn on_sign_due(&mut self, mut pushed: Pushed) {
        pushed.push.instance = self.endpoint.current(pushed.push.instance);
        let Push { call: Some(call), instance, .. } = pushed.push else { return };
        self.pushes.remove(&(instance, call));
        if !self.awaits_sign(call, instance) {
            return;
        }
        let Some((app, target)) = self.target_of(instance, Event::Call) else { return };
        if pushed.copies_for(&target) >= COPIES {
            return;
        }
        self.shared.metrics.push_resend();
        self.push_again(call, app, target, pushed, PushRound::Second);
    }

    /// Remembers that a device was woken for a call, which this node announces when it leaves.
    fn note_woken(&mut self, call: CallId, instance: InstanceId) {
        let Some(known) = self.calls.get_mut(call, instance) else { return };
        known.accepted = true;
        if let (Some(leaving), Some(woken)) = (self.hand_over.leaving(), known.woken(instance)) {
            // An error means that nobody is told any more.
            let _ = leaving.send(woken);
        }
    }

    /// Tells a woken device that its call is over. Not on APNs, where a VoIP push must be a call.
    pub(crate) fn tell_call_ended(&mut self, call: CallId, instance: InstanceId) {
        let target = self.target_of(instance, Event::CallEnded).filter(|(_, target)| !target.provider.is_apple());
        let Some((app, target)) = target else { return };
        let content = AlertContent { call: Some(call), ..AlertContent::default() };
        self.send_alert_to(app, target, instance, Event::CallEnded, CALL_ENDED_LIFE_S, content);
    }

    fn give_up(&mut self, call: CallId, instance: InstanceId) {
        if let Some(known) = self.calls.get_mut(call, instance) {
            known.unreachable = true;
        }
        self.next.push_back(Input::DeviceUnreachable { call, instance });
    }
}
