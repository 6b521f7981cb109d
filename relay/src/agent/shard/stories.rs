//! The stories of a shard's calls while the calls go on. A finished story is handed to `agent::stories`.
//!
//! Invariant: a story begins after its push has left the shard, or with the next event of its call, so that it delays no push; it lies in memory alone. It ends
//! with its instance, and is then kept nowhere. At most [`OPEN_MAX`] are open at once; a further call has no story.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use sip::endpoint::{CallState, DialogMark, IncomingCall};
use sip::id::{CallId, InstanceId};

use super::Shard;
use crate::agent::tables::timeline::{DIALOGS, TimelineEvent};
use crate::clock::advertised_now_ms;
use crate::domain::PushProvider;
use crate::domain::story::{self, Moment, Story, StoryOutcome, Withheld};
use crate::metrics::labels::MissedCallOutcome;
use crate::push::Event;
use crate::vault::record::StoredRecord;

/// Calls whose story is told at once, each counted for each of its devices; answered ones until somebody hangs up.
const OPEN_MAX: usize = 20_000;

/// How a call came.
#[derive(Clone, Debug)]
pub(crate) enum CallOrigin {
    /// The device was pushed, by this App.
    Pushed(Box<str>),
    /// The push was not sent.
    Withheld(Withheld),
    /// The device is attached, and has the INVITE.
    Forked,
    /// Its INVITE came after it was announced.
    Arrived,
}

/// The stories of the calls of one shard.
#[derive(Default)]
pub(super) struct Stories {
    to_begin: Vec<(Box<IncomingCall>, Instant, CallOrigin)>,
    /// The open stories, by instance.
    open: BTreeMap<(InstanceId, CallId), Story>,
    /// The dialogs of open stories of push bindings, the latest [`DIALOGS`] of each; those of lent accounts are in their activity.
    dialogs: BTreeMap<InstanceId, VecDeque<(DialogMark, CallId)>>,
}

impl Stories {
    /// All open stories.
    pub(super) fn all(&self) -> Vec<Story> {
        self.open.values().cloned().collect()
    }
}

impl Shard {
    /// A call came at `arrived`: its story begins when nothing is more urgent.
    pub(crate) fn begin_story(&mut self, call: Box<IncomingCall>, arrived: Instant, origin: CallOrigin) {
        self.stories.to_begin.push((call, arrived, origin));
    }

    /// Begins the stories of the calls that have come since the last run of this function.
    pub(crate) fn begin_stories(&mut self) {
        for (call, arrived, how) in std::mem::take(&mut self.stories.to_begin) {
            self.begin(&call, arrived, how);
        }
    }

    fn begin(&mut self, call: &IncomingCall, arrived: Instant, origin: CallOrigin) {
        let (id, instance) = (call.call, call.instance);
        let key = (instance, id);
        let now = advertised_now_ms();
        let is_new = !self.stories.open.contains_key(&key);
        if is_new {
            if self.stories.open.len() >= OPEN_MAX {
                self.shared.metrics.call_story(MissedCallOutcome::Lost);
                return;
            }
            let known = match &origin {
                CallOrigin::Pushed(app) => Some(app.clone()),
                CallOrigin::Withheld(_) | CallOrigin::Forked | CallOrigin::Arrived => {
                    self.attached.app(instance).map(Box::from).or_else(|| self.app_of(instance))
                }
            };
            let Some(app) = known else { return };
            let first = if call.mark.is_some() { Moment::Invite } else { Moment::Announced };
            tracing::debug!(event = "call-step", call = %id, %instance, step = first.word(), "a call goes on");
            let waited = u64::try_from(arrived.elapsed().as_millis()).unwrap_or(0);
            let story = Story::begun(first, id, instance, &app, &call.from, now.saturating_sub(waited));
            self.stories.open.insert(key, story);
        }
        let moment = match origin {
            CallOrigin::Pushed(_) => {
                let pushed = self.calls.of(instance, id).and_then(|call| call.pushed);
                pushed.map(|provider| Moment::PushSent(self.shared.provider(provider)))
            }
            CallOrigin::Withheld(why) => Some(Moment::Withheld(why)),
            CallOrigin::Forked => Some(Moment::InviteSent),
            // Its story began when the call was announced.
            CallOrigin::Arrived => (!is_new).then_some(Moment::Invite),
        };
        if let (Some(moment), Some(story)) = (moment, self.stories.open.get_mut(&key)) {
            tracing::debug!(event = "call-step", call = %id, %instance, step = moment.word(), "a call goes on");
            story.tell(now, moment);
        }
    }

    /// Adds to a story that its push was sent once more.
    pub(crate) fn tell_pushed_again(&mut self, instance: InstanceId, call: CallId, provider: PushProvider) {
        self.begin_stories();
        if let Some(story) = self.stories.open.get_mut(&(instance, call)) {
            story.tell(advertised_now_ms(), Moment::PushSent(provider));
        }
    }

    /// Adds a step of the timeline to the story of its call.
    pub(crate) fn tell_story(&mut self, instance: InstanceId, call: CallId, what: TimelineEvent) {
        let moment = match what {
            TimelineEvent::PushEnded { event: Event::Call, outcome, reason } => {
                Moment::PushEnded(outcome, reason.map(story::reason))
            }
            TimelineEvent::DeviceAttached { after_ms: Some(_) } => Moment::DeviceAttached,
            TimelineEvent::CallerHearsRinging => Moment::CallerHearsRinging,
            TimelineEvent::Ringing => Moment::Ringing,
            TimelineEvent::DeviceRefused { status } => Moment::Refused(status),
            TimelineEvent::CallEnded(state) => Moment::Ended(state),
            TimelineEvent::HungUp { by_device } => Moment::HungUp { by_device },
            _ => return,
        };
        self.tell_moment(instance, call, moment);
    }

    /// Tells the stories of calls that were announced to a device, and whose INVITE has not come, that it has come for them.
    pub(crate) fn tell_came_for_announced(&mut self, instance: InstanceId) {
        let is_awaited = |story: &&Story| story.is_announced() && !story.came();
        let awaited: Vec<_> = self.stories_of(instance).filter(is_awaited).map(|story| story.call).collect();
        for call in awaited {
            self.tell_moment(instance, call, Moment::DeviceAttached);
        }
    }

    /// Adds a step to a call's story.
    pub(crate) fn tell_moment(&mut self, instance: InstanceId, call: CallId, moment: Moment) {
        self.begin_stories();
        let key = (instance, call);
        let Some(story) = self.stories.open.get_mut(&key) else { return };
        let now = advertised_now_ms();
        tracing::debug!(event = "call-step", %call, %instance, step = moment.word(), "a call goes on");
        let (came, is_over, is_answered) = (
            moment == Moment::DeviceAttached,
            matches!(moment, Moment::Ended(_) | Moment::HungUp { .. }),
            moment == Moment::Ended(CallState::Answered),
        );
        story.tell(now, moment);
        if came && !story.is_announced() {
            // The endpoint has sent it in the same turn.
            story.tell(now, Moment::InviteSent);
        }
        if !is_over {
            return;
        }
        // The story is kept with the answer, in case that the node dies during the call.
        if is_answered && (self.instances.get(instance).is_some() || self.push_bindings.sealed(instance).is_some()) {
            self.shared.stories.keep(story.clone());
        } else if let Some(story) = self.stories.open.remove(&key) {
            self.shared.exporter.export(&story);
            self.shared.stories.keep(story);
        }
    }

    /// Hands the open stories of an instance to its successor.
    pub(crate) fn succeed_in_stories(&mut self, earlier: InstanceId, successor: InstanceId) {
        self.begin_stories();
        for key in self.stories_of(earlier).map(|story| (earlier, story.call)).collect::<Vec<_>>() {
            if let Some(mut story) = self.stories.open.remove(&key) {
                story.instance = successor;
                self.stories.open.entry((successor, key.1)).or_insert(story);
            }
        }
        for (dialog, call) in self.stories.dialogs.remove(&earlier).unwrap_or_default() {
            self.remember_dialog(successor, call, dialog);
        }
    }

    /// Remembers the dialog of an answered call of a push binding, as long as its story is open.
    pub(crate) fn remember_dialog(&mut self, instance: InstanceId, call: CallId, dialog: DialogMark) {
        if !self.stories.open.contains_key(&(instance, call)) {
            return;
        }
        let dialogs = self.stories.dialogs.entry(instance).or_default();
        dialogs.push_back((dialog, call));
        let dropped = if dialogs.len() > DIALOGS { dialogs.pop_front() } else { None };
        if let Some((_, call)) = dropped {
            self.drop_open_story(instance, call);
        }
    }

    /// The call of a dialog of a push binding, which is over.
    pub(crate) fn take_dialog(&mut self, instance: InstanceId, dialog: DialogMark) -> Option<CallId> {
        let dialogs = self.stories.dialogs.get_mut(&instance)?;
        let at = dialogs.iter().position(|(known, _)| *known == dialog)?;
        let (_, call) = dialogs.remove(at)?;
        if dialogs.is_empty() {
            self.stories.dialogs.remove(&instance);
        }
        Some(call)
    }

    /// Forgets the stories of an instance that ends.
    pub(crate) fn forget_stories(&mut self, instance: InstanceId) {
        self.stories.to_begin.retain(|(call, ..)| call.instance != instance);
        for key in self.stories_of(instance).map(|story| (instance, story.call)).collect::<Vec<_>>() {
            self.stories.open.remove(&key);
        }
        self.stories.dialogs.remove(&instance);
        self.shared.stories.forget(instance);
    }

    /// The open stories of an instance.
    pub(crate) fn stories_of(&self, instance: InstanceId) -> impl Iterator<Item = &Story> {
        let (first, last) = (CallId::from_bytes([0; 16]), CallId::from_bytes([0xff; 16]));
        self.stories.open.range((instance, first)..=(instance, last)).map(|(_, story)| story)
    }

    /// Drops the story of an answered call whose end nobody will report, because there is no room for its dialog; the collector is told of it as it is.
    pub(crate) fn drop_open_story(&mut self, instance: InstanceId, call: CallId) {
        let story = self.stories.open.remove(&(instance, call));
        if let Some(story) = story.filter(|story| story.outcome() == StoryOutcome::Answered) {
            self.shared.exporter.export(&story);
        }
    }

    /// Tells the collector of the answered calls of a registration that ends during them: nobody will report their ends.
    pub(crate) fn export_answered(&self, instance: InstanceId) {
        for story in self.stories_of(instance).filter(|story| story.outcome() == StoryOutcome::Answered) {
            self.shared.exporter.export(story);
        }
    }

    fn app_of(&self, instance: InstanceId) -> Option<Box<str>> {
        let lent = self.instances.get(instance).filter(|row| row.ending.is_none()).map(|row| &row.sealed);
        let passed = || self.push_bindings.sealed(instance).or_else(|| self.push_bindings.released(instance));
        let sealed = lent.or_else(passed)?;
        self.opened(instance, sealed, |record| match record {
            StoredRecord::Lent(record) => Some(record.app.clone()),
            StoredRecord::PushBinding(record) => Some(record.app.clone()),
        })
    }
}
