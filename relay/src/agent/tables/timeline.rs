//! The timeline of an instance, step by step, for its own device to read.
//!
//! The timeline lies in the memory of the shard alone: a restart or a wipe forgets it. An instance whose registration is only refreshed has none.
//!
//! Invariant: a step says what happened, when, and in which call. It contains no secret, and does not say who called or wrote. An instance has at most
//! [`STEPS_MAX`] steps, a shard at most [`STEPS_OF_SHARD`]; at a limit the instance's oldest step is forgotten.

use std::collections::VecDeque;

use sip::bucket::Bucket;
use sip::endpoint::{CallState, DialogMark, Mailbox};
use sip::id::CallId;
use tokio::task::AbortHandle;

use super::missed::MissedCalls;
use super::senders::Senders;
use crate::domain::{MessageOutcome, PushOutcome, PushProvider};
use crate::push::{self, Subject};

/// Steps that are known of one instance.
pub const STEPS_MAX: usize = 256;
/// Dialogs that are known of one instance; of more the end is not told.
pub const DIALOGS: usize = 8;
/// Steps that are known of all instances of one shard: 40 MB.
pub const STEPS_OF_SHARD: usize = 500_000;

/// One step, or the same one several times in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// When it happened first, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it happened last.
    pub last_ms: u64,
    /// How often it happened; at least 1.
    pub count: u32,
    /// The call that it happened to.
    pub call: Option<CallId>,
    /// The event.
    pub what: TimelineEvent,
}

/// An event in the timeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimelineEvent {
    /// The SIP server accepted the registration, or its refresh.
    Registered,
    /// The registration failed and is tried again.
    RegistrationRetry {
        /// The status, if there was an answer.
        status: Option<u16>,
        /// When, in seconds.
        after_s: u32,
    },
    /// The registration has been lost for long; the user is told.
    RegistrationFailing {
        /// The status of the last response, if there was one.
        status: Option<u16>,
    },
    /// The registration is back, after the user was told.
    RegistrationRestored,
    /// The app registers by itself from now on; the relay unregisters.
    Foreground,
    /// The relay registers from now on.
    Background,
    /// A SIP server has announced a call, whose INVITE has not come.
    Announced,
    /// A call came.
    Invite,
    /// A push was handed to its service.
    PushSent {
        /// Its event.
        event: push::Event,
        /// The service.
        provider: PushProvider,
    },
    /// The service has spoken, or could not be reached.
    PushEnded {
        /// Its event.
        event: push::Event,
        /// How it ended.
        outcome: PushOutcome,
        /// Why it was not taken, as far as is known.
        reason: Option<&'static str>,
    },
    /// The device came to the edge.
    DeviceAttached {
        /// For a call: milliseconds after it came.
        after_ms: Option<u32>,
    },
    /// The device left.
    DeviceDetached,
    /// The caller hears ringing; the device need not be there.
    CallerHearsRinging,
    /// The device rings.
    Ringing,
    /// The device's SIP stack refused the call, or its user did on the ringing device.
    DeviceRefused {
        /// The status of its response.
        status: u16,
    },
    /// The call was answered, or ended without.
    CallEnded(CallState),
    /// One side of an answered call hung up.
    HungUp {
        /// The device, and not the other side.
        by_device: bool,
    },
    /// The instance's SIP is recorded from now on.
    TraceBegun {
        /// The operator asked, and not the user.
        by_operator: bool,
    },
    /// The recording is erased.
    TraceEnded,
    /// A message came.
    Message {
        /// The outcome of the message.
        outcome: MessageOutcome,
    },
    /// The mailbox changed.
    Voicemail {
        /// Messages not heard yet, where the server tells.
        new: Option<u32>,
        /// Messages heard.
        old: Option<u32>,
    },
}

/// An instance's steps, and what else is known of it that comes beside calls.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    steps: VecDeque<Step>,
    /// How the mailbox stands, as the SIP server last told.
    pub mailbox: Option<Box<Mailbox>>,
    /// The write of that to the store, which ends with the instance.
    pub mailbox_write: tokio::task::JoinSet<()>,
    /// The dialogs of answered calls that nobody has ended yet, as far as is known; the latest [`DIALOGS`].
    pub dialogs: VecDeque<(DialogMark, CallId)>,
    /// Its missed calls.
    pub missed: MissedCalls,
    /// The senders of its messages.
    pub senders: Senders,
    /// Test pushes that may be asked for; none was yet when absent.
    pub tests: Option<Bucket>,
    /// Alert pushes that are under way; they end with the instance.
    pub alerts: tokio::task::JoinSet<()>,
    /// Of those that are not over the event, and the way to have it judged anew where it goes.
    pub recalls: Vec<(push::Event, AbortHandle, push::Recall)>,
    /// Of those the latest of each subject, whose place a newer one takes.
    pub latest: Vec<(Subject, AbortHandle)>,
}

impl Activity {
    /// The steps, oldest first.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// Adds a step; `room`: whether the shard has any for one more. By how many steps there are more now.
    pub(crate) fn note(&mut self, at_ms: u64, call: Option<CallId>, what: TimelineEvent, room: bool) -> usize {
        // A refresh follows the registration that it refreshes, whatever happened between them.
        let same = match what {
            TimelineEvent::Registered => self.steps.iter_mut().rev().find(|step| step.what.is_registration()),
            _ => self.steps.back_mut(),
        };
        if let Some(step) = same.filter(|step| step.what == what && step.call == call) {
            step.count = step.count.saturating_add(1);
            step.last_ms = at_ms;
            return 0;
        }
        let before = self.steps.len();
        if before >= STEPS_MAX || !room {
            self.steps.pop_front();
        }
        self.steps.push_back(Step { at_ms, last_ms: at_ms, count: 1, call, what });
        self.steps.len().saturating_sub(before)
    }
}

impl TimelineEvent {
    fn is_registration(self) -> bool {
        matches!(self, Self::Registered | Self::RegistrationRetry { .. } | Self::Foreground | Self::Background)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn refreshes_are_one_step_with_a_count_until_one_fails() {
        let mut activity = Activity::default();
        let retry = TimelineEvent::RegistrationRetry { status: Some(503), after_s: 30 };
        let told = [
            TimelineEvent::Registered,
            TimelineEvent::DeviceDetached,
            TimelineEvent::Registered,
            TimelineEvent::Registered,
            retry,
            TimelineEvent::Registered,
        ];
        for (at, what) in told.into_iter().enumerate() {
            activity.note(at as u64, None, what, true);
        }
        let steps: Vec<_> = activity.steps().map(|step| (step.what, step.at_ms, step.last_ms, step.count)).collect();
        assert_eq!(
            steps,
            [
                (TimelineEvent::Registered, 0, 3, 3),
                (TimelineEvent::DeviceDetached, 1, 1, 1),
                (retry, 4, 4, 1),
                (TimelineEvent::Registered, 5, 5, 1)
            ]
        );
    }

    #[test]
    fn steps_of_two_calls_are_never_one() {
        let mut activity = Activity::default();
        let call = |number: u128| Some(CallId::new(number << 16, ShardTag(0)));
        assert_eq!(activity.note(1, call(1), TimelineEvent::Invite, true), 1);
        assert_eq!(activity.note(2, call(2), TimelineEvent::Invite, true), 1);
        assert_eq!(activity.note(3, call(2), TimelineEvent::Invite, true), 0);
        assert_eq!(activity.len(), 2);
    }

    #[test]
    fn the_oldest_is_forgotten_at_either_limit() {
        let mut activity = Activity::default();
        let step = |at: usize| TimelineEvent::RegistrationRetry { status: None, after_s: at as u32 };
        let added: usize = (0..STEPS_MAX + 10).map(|at| activity.note(at as u64, None, step(at), true)).sum();
        assert_eq!((added, activity.len()), (STEPS_MAX, STEPS_MAX));
        assert_eq!(activity.steps().next().map(|step| step.at_ms), Some(10));
        let mut activity = Activity::default();
        activity.note(1, None, TimelineEvent::Foreground, true);
        assert_eq!(activity.note(2, None, TimelineEvent::Background, false), 0, "the shard has no room");
        assert_eq!(activity.steps().map(|step| step.what).collect::<Vec<_>>(), [TimelineEvent::Background]);
        let mut first = Activity::default();
        assert_eq!(first.note(2, None, TimelineEvent::Background, false), 1, "one step is always known");
    }

    #[test]
    fn a_step_of_a_timeline_takes_at_most_80_bytes() {
        assert!(size_of::<Step>() <= 80, "{}", size_of::<Step>());
    }
}
