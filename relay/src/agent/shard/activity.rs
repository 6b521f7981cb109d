//! The activity of an instance: its timeline, its mailbox, and its alert pushes under way.
//!
//! Invariant: an instance whose registration is only refreshed has no activity.

use sip::endpoint::DialogMark;
use sip::id::{CallId, InstanceId};

use super::Shard;
use crate::agent::tables::instances::Row;
use crate::agent::tables::timeline::{Activity, DIALOGS, STEPS_OF_SHARD, Step, TimelineEvent};
use crate::clock::advertised_now_ms;
use crate::domain::story::Moment;

impl Shard {
    /// The steps of an instance's timeline, oldest first.
    pub(crate) fn timeline_of(&self, instance: InstanceId) -> Vec<Step> {
        let Some(row) = self.instances.get(instance) else { return Vec::new() };
        match &row.activity {
            Some(activity) => activity.steps().copied().collect(),
            None => registered_step(row).into_iter().collect(),
        }
    }

    /// Adds a step to an instance's timeline.
    pub(crate) fn note(&mut self, instance: InstanceId, call: Option<CallId>, what: TimelineEvent) {
        let now = advertised_now_ms();
        let room = self.steps < STEPS_OF_SHARD;
        if what == TimelineEvent::Registered {
            let Some(row) = self.instances.get_mut(instance) else { return };
            row.registered_at = u32::try_from(now / 1_000).unwrap_or(u32::MAX);
            row.registered_part = (now % 1_000 / 4) as u8;
            // The present registration is shown without a timeline.
            if row.activity.is_none() {
                return;
            }
        }
        if let Some(call) = call {
            self.tell_story(instance, call, what);
        }
        if let Some(activity) = self.activity(instance) {
            let more = activity.note(now, call, what, room);
            self.steps += more;
        }
    }

    /// Remembers the dialog of an answered call.
    pub(crate) fn on_dialog_begun(&mut self, instance: InstanceId, call: CallId, dialog: DialogMark) {
        let Some(activity) = self.activity(instance) else { return self.remember_dialog(instance, call, dialog) };
        activity.dialogs.push_back((dialog, call));
        let dropped = if activity.dialogs.len() > DIALOGS { activity.dialogs.pop_front() } else { None };
        if let Some((_, call)) = dropped {
            self.drop_open_story(instance, call);
        }
    }

    /// Whether a device is known to be in this dialog.
    pub(crate) fn is_in(&self, instance: InstanceId, dialog: DialogMark) -> bool {
        let activity = self.instances.get(instance).and_then(|row| row.activity.as_ref());
        activity.is_some_and(|activity| activity.dialogs.iter().any(|(known, _)| *known == dialog))
    }

    /// Handles the end of a dialog by one of its sides.
    pub(crate) fn on_dialog_ended(&mut self, instance: InstanceId, dialog: DialogMark, by_device: bool) {
        let Some(row) = self.instances.get_mut(instance) else {
            if let Some(call) = self.take_dialog(instance, dialog) {
                self.tell_moment(instance, call, Moment::HungUp { by_device });
            }
            return;
        };
        let Some(activity) = row.activity.as_mut() else { return };
        let Some(at) = activity.dialogs.iter().position(|(known, _)| *known == dialog) else { return };
        if let Some((_, call)) = activity.dialogs.remove(at) {
            self.note(instance, Some(call), TimelineEvent::HungUp { by_device });
        }
    }

    /// Forgets everything about an instance but its record, and ends its pushes.
    pub(crate) fn forget_activity(&mut self, instance: InstanceId) {
        self.forget_stories(instance);
        self.mailboxes.remove(&instance);
        if let Some(activity) = self.instances.get_mut(instance).and_then(|row| row.activity.take()) {
            self.steps = self.steps.saturating_sub(activity.len());
        }
    }

    /// The activity of a living instance, made when it is first needed.
    pub(crate) fn activity(&mut self, instance: InstanceId) -> Option<&mut Activity> {
        let row = self.instances.get_mut(instance).filter(|row| row.ending.is_none())?;
        let registered = registered_step(row);
        let steps = &mut self.steps;
        Some(row.activity.get_or_insert_with(|| {
            let mut activity = Activity::default();
            if let Some(step) = registered {
                *steps += activity.note(step.at_ms, None, step.what, true);
            }
            Box::new(activity)
        }))
    }
}

/// The present registration of an instance without a timeline.
fn registered_step(row: &Row) -> Option<Step> {
    let at_ms = u64::from(row.registered_at) * 1_000 + u64::from(row.registered_part) * 4;
    (row.registered_at > 0).then_some(Step {
        at_ms,
        last_ms: at_ms,
        count: 1,
        call: None,
        what: TimelineEvent::Registered,
    })
}
