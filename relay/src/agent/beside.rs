//! What comes beside calls: messages, missed calls, mailboxes, tests; and the timeline of all that happens.
//!
//! Invariant: what somebody wrote is sealed in the turn of the loop in which it came, and held in no other form; a sender
//! is told 202 only when the store has it. A push tells of a message and never holds it. Nothing here is a VoIP push.

use std::sync::Arc;
use std::time::Instant;

use sip::endpoint::{
    CallState, InboundMessage, IncomingCall, Input, Mailbox, MessageEnd, MessageRequestId, StoreOutcome,
};
use sip::id::{CallId, InstanceId, MessageId};

use super::command::{TestDenied, Tested, Told};
use super::shard::Shard;
use super::timeline::{Beside, STEPS_OF_SHARD, Step, What};
use super::wake::{deliver, outcome_of};
use super::{ShardInput, World};
use crate::clock::{unix_now, unix_now_ms};
use crate::metrics::labels::{
    MailboxNotice, MessageOutcome, MissedCallOutcome, PushProvider, StoreOperation, WipeReason,
};
use crate::push::{Event, Push, Verdict};
use crate::secret::with_clean_stack;
use crate::vault::kept::{Keeping, Message, MissedCall, Parcel};
use crate::vault::record::{Provider, PushTarget, Record, WakeFor};
use crate::vault::{StoreError, Vault};

/// How long a push that tells of something kept is tried, in seconds; the device finds it without the push as well.
const NOTICE_LIFE_S: u64 = 3_600;
/// How long a test push is tried, in seconds.
const TEST_LIFE_S: u64 = 30;
/// Test pushes that a device may ask for at once; a further one is refused.
const TESTS_BURST: u8 = 3;
/// How soon one more may be asked for, in seconds.
const TEST_EVERY_S: u64 = 10;
/// Pushes of one instance that are under way at once; a further one is left out, for each says to look.
const NOTICES_MAX: usize = 16;

/// What the store did with a message.
pub(super) struct Paged {
    page: MessageRequestId,
    instance: InstanceId,
    message: MessageId,
    from: Box<str>,
    name: Option<Box<str>>,
    outcome: Result<Keeping, StoreError>,
}

/// What became of a push that is not for a call.
pub(super) struct Noticed {
    instance: InstanceId,
    event: Event,
    call: Option<CallId>,
    verdict: Verdict,
    /// When the app confirmed the token, in seconds since 1970.
    confirmed_at: u64,
}

/// What a push tells beside its event.
#[derive(Default)]
struct About {
    call: Option<CallId>,
    from: Option<Box<str>>,
    name: Option<Box<str>>,
    extra: Vec<(&'static str, serde_json::Value)>,
}

impl Shard {
    /// A message waits to be kept.
    pub(super) fn keep_page(&mut self, page: &InboundMessage) {
        let (request, instance, message) = (page.request, page.instance, page.message);
        let Some(row) = self.instances.get(instance).filter(|row| row.ending.is_none()) else {
            // It is on its way out: nothing is kept for it any more.
            return self.next.push_back(Input::MessageStored { request, instance, outcome: StoreOutcome::Full });
        };
        let now = unix_now();
        let lasts = page.lasts.map_or(u64::MAX, |lasts| now.saturating_add(lasts.as_secs()));
        let expires_at = row.expires_at().min(lasts);
        let parcel = with_clean_stack(|| {
            let message = Message {
                id: message,
                from: page.from.clone(),
                name: page.name.clone(),
                content_type: page.content_type.clone(),
                body: page.body[..].into(),
                received_at: now,
                expires_at,
            };
            self.world.vault.seal_message(instance, &message)
        });
        let (from, name) = (page.from.clone(), page.name.clone());
        let (world, shard) = (self.world.clone(), self.index);
        tokio::spawn(async move {
            let outcome = keep(&world, instance, &parcel).await;
            let paged = Paged { page: request, instance, message, from, name, outcome };
            world.shards.send(shard, ShardInput::Paged(Box::new(paged))).await;
        });
    }

    /// The store has spoken.
    pub(super) fn on_paged(&mut self, paged: Paged) {
        let Paged { page, instance, message, from, name, outcome } = paged;
        let (kept, outcome) = match outcome {
            Ok(Keeping::Kept) => (StoreOutcome::Stored, MessageOutcome::Kept),
            Ok(Keeping::Known) => (StoreOutcome::Stored, MessageOutcome::Repeated),
            Ok(Keeping::Full) | Err(StoreError::Gone) => (StoreOutcome::Full, MessageOutcome::Full),
            Err(_) => (StoreOutcome::Unavailable, MessageOutcome::StoreAway),
        };
        self.world.metrics.message(outcome);
        self.note(instance, None, What::Message { outcome });
        self.next.push_back(Input::MessageStored { request: page, instance, outcome: kept });
        if outcome == MessageOutcome::Kept {
            let extra = vec![("message", message.to_string().into())];
            let about = About { from: Some(from), name, extra, ..About::default() };
            self.tell_device(instance, Event::Message, NOTICE_LIFE_S, about, |wake_for| wake_for.message);
        }
    }

    /// A device has taken a message after all that is kept for it.
    pub(super) fn drop_taken(&self, instance: InstanceId, message: MessageId) {
        self.world.metrics.message(MessageOutcome::Delivered);
        let vault = self.world.vault.clone();
        tokio::spawn(async move {
            if let Err(error) = vault.drop_message(instance, message).await {
                tracing::info!(%instance, %error, "a message that was delivered stays kept");
            }
        });
    }

    /// A message has ended without being kept.
    pub(super) fn on_page_ended(&mut self, instance: InstanceId, end: MessageEnd) {
        let outcome = match end {
            MessageEnd::Delivered => MessageOutcome::Delivered,
            MessageEnd::Refused(_) => MessageOutcome::Refused,
            MessageEnd::Composing => MessageOutcome::Composing,
            MessageEnd::TooLarge => MessageOutcome::TooLarge,
            MessageEnd::Limited => MessageOutcome::Limited,
            MessageEnd::Unfit => MessageOutcome::Unfit,
        };
        self.world.metrics.message(outcome);
        if outcome != MessageOutcome::Composing {
            self.note(instance, None, What::Message { outcome });
        }
    }

    /// A call has ended that nobody answered.
    pub(super) fn on_missed(&mut self, missed: &IncomingCall, state: CallState) {
        let instance = missed.instance;
        let Some(row) = self.instances.get(instance).filter(|row| row.ending.is_none()) else { return };
        let (call, expires_at) = (missed.call, row.expires_at());
        let parcel = with_clean_stack(|| {
            let missed = MissedCall {
                call,
                from: missed.from.clone(),
                name: missed.name.clone(),
                at: unix_now(),
                expires_at,
                given_up: state == CallState::Cancelled,
            };
            self.world.vault.seal_missed_call(instance, &missed)
        });
        let world = self.world.clone();
        tokio::spawn(async move {
            world.metrics.missed_call(match keep(&world, instance, &parcel).await {
                Ok(_) => MissedCallOutcome::Kept,
                Err(_) => MissedCallOutcome::Lost,
            });
        });
        let (from, name) = (Some(missed.from.clone()), missed.name.clone());
        let about = About { call: Some(call), from, name, ..About::default() };
        self.tell_device(instance, Event::MissedCall, NOTICE_LIFE_S, about, |wake_for| wake_for.missed_call);
    }

    /// The SIP server says how the mailbox stands.
    pub(super) fn on_mailbox(&mut self, instance: InstanceId, mailbox: Box<Mailbox>) {
        let known = self.instances.get(instance).and_then(|row| row.beside.as_ref()?.mailbox.as_deref());
        let holds = mailbox.waiting || mailbox.new.is_some_and(|new| new > 0);
        let changed = known.map_or(holds, |known| *known != *mailbox);
        self.world.metrics.mailbox(if changed { MailboxNotice::Changed } else { MailboxNotice::Unchanged });
        if known.is_none() && !changed && mailbox.old.unwrap_or(0) == 0 {
            // An empty mailbox is what nothing known means.
            return;
        }
        let Mailbox { waiting, new, old, urgent, ref account } = *mailbox;
        let account = account.clone();
        let Some(beside) = self.beside(instance) else { return };
        beside.mailbox = Some(mailbox);
        if !changed {
            return;
        }
        self.note(instance, None, What::Voicemail { new, old });
        let mut extra = vec![("waiting", waiting.into())];
        extra.extend(new.map(|new| ("new", new.into())));
        extra.extend(old.map(|old| ("old", old.into())));
        extra.extend(urgent.map(|urgent| ("urgent", urgent.into())));
        extra.extend(account.map(|account| ("account", serde_json::Value::from(&*account))));
        let about = About { extra, ..About::default() };
        self.tell_device(instance, Event::Voicemail, NOTICE_LIFE_S, about, |wake_for| wake_for.voicemail);
    }

    /// The device asks for a push.
    pub(super) fn test(&mut self, instance: InstanceId) -> Result<Tested, TestDenied> {
        let target = self.with_record(instance, |record| {
            let alert = record.device.alert_push.is_some();
            record.device.alert_target().map(|target| Tested { alert, provider: target.provider })
        });
        let tested = target.flatten().ok_or(TestDenied::NoTarget)?;
        let now = unix_now();
        let beside = self.beside(instance).ok_or(TestDenied::NoTarget)?;
        let (left, since) = beside.tests.unwrap_or((TESTS_BURST, now));
        let earned = now.saturating_sub(since) / TEST_EVERY_S;
        let left = u64::from(left).saturating_add(earned).min(u64::from(TESTS_BURST)) as u8;
        let since = if earned > 0 { now } else { since };
        let Some(rest) = left.checked_sub(1) else {
            beside.tests = Some((left, since));
            return Err(TestDenied::TooSoon { wait_s: TEST_EVERY_S.saturating_sub(now.saturating_sub(since)).max(1) });
        };
        beside.tests = Some((rest, since));
        self.tell_device(instance, Event::Test, TEST_LIFE_S, About::default(), |_| true);
        Ok(tested)
    }

    /// What is known of an instance beside its record.
    pub(super) fn told(&self, instance: InstanceId) -> Told {
        let Some(row) = self.instances.get(instance) else { return Told::default() };
        match &row.beside {
            Some(beside) => Told { steps: beside.steps().copied().collect(), mailbox: beside.mailbox.clone() },
            None => Told { steps: registered_step(row.registered_at).into_iter().collect(), mailbox: None },
        }
    }

    /// Adds a step to an instance's timeline.
    pub(super) fn note(&mut self, instance: InstanceId, call: Option<CallId>, what: What) {
        let now = unix_now_ms();
        let room = self.steps < STEPS_OF_SHARD;
        if what == What::Registered {
            let Some(row) = self.instances.get_mut(instance) else { return };
            row.registered_at = u32::try_from(now / 1_000).unwrap_or(u32::MAX);
            // That a registration stands is told without a timeline.
            if row.beside.is_none() {
                return;
            }
        }
        if let Some(beside) = self.beside(instance) {
            let more = beside.note(now, call, what, room);
            self.steps += more;
        }
    }

    /// Forgets what is known of an instance beside its record, and ends its pushes.
    pub(super) fn forget_beside(&mut self, instance: InstanceId) {
        if let Some(beside) = self.instances.get_mut(instance).and_then(|row| row.beside.take()) {
            self.steps = self.steps.saturating_sub(beside.len());
        }
    }

    /// A push that is not for a call has ended.
    pub(super) fn on_noticed(&mut self, noticed: &Noticed) {
        let Noticed { instance, event, call, ref verdict, confirmed_at } = *noticed;
        if self.instances.get(instance).is_none_or(|row| row.ending.is_some()) {
            return;
        }
        let reason = if let Verdict::Refused { reason } = verdict { Some(*reason) } else { None };
        self.note(instance, call, What::PushEnded { event, outcome: outcome_of(verdict), reason });
        let said = |record: &Record| record.device.alert_target().map_or(0, |target| target.confirmed_at);
        let confirmed_at = self.with_record(instance, said).unwrap_or(0).max(confirmed_at);
        if verdict.token_is_dead(confirmed_at) {
            self.begin_wipe(instance, Some(WipeReason::PushTokenGone), None);
        }
    }

    /// Pushes to where a device is told of what is no call, if it wants this.
    fn tell_device(
        &mut self,
        instance: InstanceId,
        event: Event,
        life_s: u64,
        about: About,
        wanted: fn(&WakeFor) -> bool,
    ) {
        let target = self.with_record(instance, |record| {
            let target = record.device.alert_target().filter(|_| wanted(&record.wake_for))?;
            Some((record.app.clone(), target.clone()))
        });
        let Some(Some((app, target))) = target else { return };
        let About { call, from, name, extra } = about;
        let push = Push { call, from, name, extra, ..self.notice(event, instance, life_s) };
        let provider = self.world.provider(target.provider);
        let (world, shard) = (self.world.clone(), self.index);
        let Some(beside) = self.beside(instance) else { return };
        while beside.notices.try_join_next().is_some() {}
        if beside.notices.len() >= NOTICES_MAX {
            return;
        }
        beside.notices.spawn(notice(world, shard, app, target, push));
        self.note(instance, call, What::PushSent { event, provider });
    }

    /// What is known of an instance that is not over, made when it is first needed.
    fn beside(&mut self, instance: InstanceId) -> Option<&mut Beside> {
        let row = self.instances.get_mut(instance).filter(|row| row.ending.is_none())?;
        let registered_at = row.registered_at;
        let steps = &mut self.steps;
        Some(row.beside.get_or_insert_with(|| {
            let mut beside = Beside::default();
            if let Some(step) = registered_step(registered_at) {
                *steps += beside.note(step.at_ms, None, step.what, true);
            }
            Box::new(beside)
        }))
    }
}

impl World {
    /// A push service, as metrics and timelines name it.
    pub(super) fn provider(&self, provider: Provider) -> PushProvider {
        match provider {
            _ if self.push_is_printed => PushProvider::Printed,
            Provider::ApnsProduction | Provider::ApnsSandbox => PushProvider::Apns,
            Provider::Fcm => PushProvider::Fcm,
        }
    }
}

/// The registration that stands, of an instance without a timeline.
fn registered_step(registered_at: u32) -> Option<Step> {
    let at_ms = u64::from(registered_at) * 1_000;
    (registered_at > 0).then_some(Step { at_ms, last_ms: at_ms, count: 1, call: None, what: What::Registered })
}

async fn notice(world: Arc<World>, shard: usize, app: Box<str>, target: PushTarget, push: Push) {
    let verdict = deliver(&world, &app, &target, &push).await;
    let Push { instance, event, call, .. } = push;
    let noticed = Noticed { instance, event, call, verdict, confirmed_at: target.confirmed_at };
    world.shards.send(shard, ShardInput::Noticed(Box::new(noticed))).await;
}

/// Has the store keep something, and counts how that went.
async fn keep(world: &World, instance: InstanceId, parcel: &Parcel) -> Result<Keeping, StoreError> {
    let began = Instant::now();
    let vault: &Vault = &world.vault;
    let outcome = vault.keep(instance, parcel).await;
    match &outcome {
        Ok(_) | Err(StoreError::Gone) => world.metrics.store_answered(began.elapsed()),
        Err(_) => world.metrics.store_error(StoreOperation::Put),
    }
    outcome
}
