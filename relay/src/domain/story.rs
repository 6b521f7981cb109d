//! A call's story: the course of one call of one device, step by step, for the relay's operator.
//!
//! Invariant: of the caller it holds what [`Caller::of`] leaves: too little to call back, enough to tell two callers apart.

use std::fmt;

use sip::endpoint::CallState;
use sip::id::{CallId, InstanceId};
use sip::message::Composer;

use super::{PushOutcome, PushProvider, words};

/// Steps of one story; further ones are not told.
pub const STEPS_MAX: usize = 64;
/// The reason of a push that was sent, and of which nobody knows whether it arrived.
pub const ANSWER_LOST: &str = "AnswerLost";
/// The reason of a push that its service has not taken before the device had another token; that one is pushed to.
pub const TOKEN_CHANGED: &str = "TokenChanged";
/// The reason of a push that its service has not taken before the device had come by itself.
pub const DEVICE_CAME: &str = "DeviceCame";
/// A phone that is reached needs no longer than this after its push, most of the time.
const COMES_WITHIN_MS: u64 = 10_000;
/// Characters of a push service's reason that are kept.
const REASON_MAX: usize = 64;

/// The course of one call for one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// The call.
    pub call: CallId,
    /// The device that it was for.
    pub instance: InstanceId,
    /// Its App.
    pub app: Box<str>,
    /// The caller, shortened.
    pub from: Caller,
    /// When the INVITE came, or was announced, in milliseconds since 1970.
    pub at_ms: u64,
    /// The moments of the call, in their order.
    pub steps: Vec<Step>,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Milliseconds after the INVITE.
    pub after_ms: u64,
    /// The event.
    pub moment: Moment,
}

/// An event at one moment of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Moment {
    /// The call was announced by its SIP server, which sends the INVITE later.
    Announced,
    /// The INVITE came.
    Invite,
    /// No push was sent.
    Withheld(Withheld),
    /// A push was handed to its service.
    PushSent(PushProvider),
    /// The service has spoken, or could not be reached.
    PushEnded(PushOutcome, Option<Box<str>>),
    /// The device came for the call.
    DeviceAttached,
    /// The INVITE left for the device.
    InviteSent,
    /// The caller hears ringing.
    CallerHearsRinging,
    /// The device rings.
    Ringing,
    /// The device refused the INVITE with this status.
    Refused(u16),
    /// The device's app declined, by the API.
    DeclinedByApp,
    /// The INVITE's Expires ran out.
    Expired,
    /// The call is over for this device, or was answered.
    Ended(CallState),
    /// A side of the answered call hung up: the device, or the other one.
    HungUp {
        /// The device.
        by_device: bool,
    },
}

words!(
    /// Why no push was sent for a call.
    Withheld {
        /// The device wants no calls, or its App no longer has such a push service.
        NoTarget = "no-target",
        /// Its account, its App or this caller had too many.
        Limit = "limit",
        /// Another node has the device, or has woken it for the same call.
        Elsewhere = "elsewhere",
        /// The call takes the place of one that this device is not in (RFC 3891).
        Replaces = "replaces",
        /// The caller had given up while the call waited to be told whose it is.
        Cancelled = "cancelled",
        /// This node was about to end.
        Ending = "ending",
    }
);

words!(
    /// How a call ended for one device, or how it stands.
    StoryOutcome {
        /// The call waits for its device.
        Waking = "waking",
        /// The caller hears ringing.
        Ringing = "ringing",
        /// The device has answered.
        Answered = "answered",
        /// The caller gave up.
        Cancelled = "cancelled",
        /// Another device has answered.
        AnsweredElsewhere = "answered-elsewhere",
        /// The device declined.
        Declined = "declined",
        /// No device answered in time.
        TimedOut = "timed-out",
        /// No push reached the device.
        Unreachable = "unreachable",
    }
);

impl Moment {
    /// The timeline's word for it, or one of its own.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Invite => "invite",
            Self::Withheld(_) => "push-withheld",
            Self::PushSent(_) => "push-sent",
            Self::PushEnded(..) => "push-ended",
            Self::DeviceAttached => "device-attached",
            Self::InviteSent => "invite-sent",
            Self::CallerHearsRinging => "caller-hears-ringing",
            Self::Ringing => "ringing",
            Self::Refused(_) => "device-refused",
            Self::DeclinedByApp => "declined-by-app",
            Self::Expired => "invite-expired",
            Self::Ended(state) => state.as_str(),
            Self::HungUp { .. } => "ended",
        }
    }
}

impl StoryOutcome {
    /// Whether the call was missed: no device has answered it, and none declined it.
    pub fn is_missed(self) -> bool {
        matches!(self, Self::Cancelled | Self::TimedOut | Self::Unreachable)
    }
}

/// A caller, shortened when it is made.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller(Box<str>);

impl Caller {
    /// Of a URI: the user part alone, of a number at most its first three and last two characters, of a name the first.
    pub fn of(uri: &str) -> Self {
        let rest = uri.split_once(':').map_or(uri, |(_, rest)| rest);
        let user = match rest.split_once('@') {
            Some((user, _)) => user,
            // `tel:`, or a host alone.
            None if uri.starts_with("tel:") => rest,
            None => "",
        };
        let user: Vec<char> = user.split([';', ':']).next().unwrap_or_default().chars().collect();
        let digits = user.iter().filter(|c| c.is_ascii_digit()).count();
        let text = match user.len() {
            0 => "…".to_owned(),
            _ if user.iter().collect::<String>().eq_ignore_ascii_case("anonymous") => "anonymous".to_owned(),
            len if digits * 2 > len && len >= 8 => {
                user[..3].iter().chain(&['…']).chain(&user[len - 2..]).collect::<String>()
            }
            len if digits * 2 > len && len >= 4 => ['…'].iter().chain(&user[len - 2..]).collect::<String>(),
            _ => [user[0], '…'].iter().collect::<String>(),
        };
        Self(text.chars().filter(|c| !c.is_control()).collect::<String>().into())
    }

    /// As it was kept.
    pub fn kept(text: &str) -> Self {
        Self(text.into())
    }

    /// The shortened text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[caller]")
    }
}

impl Story {
    /// A call that has just come, at this time in milliseconds since 1970.
    pub fn new(call: CallId, instance: InstanceId, app: &str, from: &str, at_ms: u64) -> Self {
        Self::begun(Moment::Invite, call, instance, app, from, at_ms)
    }

    /// A call that begins by this moment, at this time in milliseconds since 1970.
    pub fn begun(moment: Moment, call: CallId, instance: InstanceId, app: &str, from: &str, at_ms: u64) -> Self {
        let steps = vec![Step { after_ms: 0, moment }];
        Self { call, instance, app: app.into(), from: Caller::of(from), at_ms, steps }
    }

    /// Adds a step that happens at this time, in milliseconds since 1970.
    pub fn tell(&mut self, at_ms: u64, moment: Moment) {
        if self.steps.len() < STEPS_MAX && self.steps.last().is_none_or(|last| last.moment != moment) {
            self.steps.push(Step { after_ms: at_ms.saturating_sub(self.at_ms), moment });
        }
    }

    /// When a step happened that `is` one asked for, in milliseconds after the INVITE.
    pub fn when(&self, is: impl Fn(&Moment) -> bool) -> Option<u64> {
        self.steps.iter().find(|step| is(&step.moment)).map(|step| step.after_ms)
    }

    /// How it ended, or stands.
    pub fn outcome(&self) -> StoryOutcome {
        let state = self.steps.iter().rev().find_map(|step| match step.moment {
            Moment::Ended(state) => Some(state),
            _ => None,
        });
        match state {
            Some(CallState::Answered) => StoryOutcome::Answered,
            Some(CallState::Cancelled) => StoryOutcome::Cancelled,
            Some(CallState::AnsweredElsewhere) => StoryOutcome::AnsweredElsewhere,
            Some(CallState::Declined) => StoryOutcome::Declined,
            Some(CallState::TimedOut) if self.failed_push().is_some() && !self.came() => StoryOutcome::Unreachable,
            Some(CallState::TimedOut) => StoryOutcome::TimedOut,
            None | Some(CallState::Waking | CallState::Ringing) => {
                let rings = self.when(|moment| matches!(moment, Moment::CallerHearsRinging)).is_some();
                if rings { StoryOutcome::Ringing } else { StoryOutcome::Waking }
            }
        }
    }

    /// Why nobody answered, in words; `None` where somebody did, or may yet.
    pub fn why(&self) -> Option<String> {
        let ended_ms = self.ended_ms()?;
        let end = format!("after {}", seconds(ended_ms));
        Some(match self.outcome() {
            StoryOutcome::Waking | StoryOutcome::Ringing | StoryOutcome::Answered => return None,
            StoryOutcome::AnsweredElsewhere => "another device answered".to_owned(),
            StoryOutcome::Declined => match self.refusal() {
                Some((_, status)) => format!("the phone declined {end} ({})", named(status)),
                None if self.has(&Moment::DeclinedByApp) => format!("the phone declined {end}"),
                None => format!("another device declined for all {end}"),
            },
            StoryOutcome::Cancelled if self.has(&Moment::Expired) => {
                format!("the caller's INVITE was valid for {} (Expires): {}", seconds(ended_ms), self.how_far())
            }
            StoryOutcome::Cancelled => format!("the caller gave up {end}: {}", self.how_far()),
            StoryOutcome::TimedOut if self.refusal().is_some() || self.is_announced() => self.how_far(),
            StoryOutcome::TimedOut => format!("nobody answered within {}: {}", seconds(ended_ms), self.how_far()),
            StoryOutcome::Unreachable => self.how_far(),
        })
    }

    /// How far a call came that nobody answered.
    fn how_far(&self) -> String {
        let rang = self.when(|moment| matches!(moment, Moment::Ringing));
        if let Some((at, status)) = self.refusal() {
            let rang = rang.map(|from| format!("; it rang from {} on", seconds(from))).unwrap_or_default();
            return format!("the phone's SIP stack refused the call after {} ({}){rang}", seconds(at), named(status));
        }
        if let Some(at) = rang {
            return format!("the phone rang from {} on", seconds(at));
        }
        if self.is_announced() && self.came() {
            return match self.when(|moment| matches!(moment, Moment::DeviceAttached)) {
                Some(at) => format!("the phone came after {}, and the SIP server sent no call", seconds(at)),
                None => "the phone was connected, and the SIP server sent no call".to_owned(),
            };
        }
        if self.came() {
            return match self.when(|moment| matches!(moment, Moment::DeviceAttached)) {
                Some(at) => format!("the phone came after {}, got the call and did not ring", seconds(at)),
                None => "the phone was connected, got the call and did not ring".to_owned(),
            };
        }
        if let Some(why) = self.failed_push() {
            return why;
        }
        let taken = self.when(|moment| matches!(moment, Moment::PushEnded(PushOutcome::Accepted, _)));
        if taken.is_none() && self.when(is_unanswered).is_some() {
            return "the push was sent, and no answer to it came: the phone may have rung".to_owned();
        }
        match taken {
            Some(at) => {
                let waited = self.ended_ms().unwrap_or(u64::MAX).saturating_sub(at);
                let why = if waited < COMES_WITHIN_MS {
                    format!(" in the {} until then", seconds(waited))
                } else {
                    "; it is off, without network, or does not let the app run".to_owned()
                };
                format!("the push service took the push after {}, and the phone did not come{why}", seconds(at))
            }
            None => "the push service had not answered yet".to_owned(),
        }
    }

    /// When it ended, or was answered.
    fn ended_ms(&self) -> Option<u64> {
        self.when(|moment| matches!(moment, Moment::Ended(_)))
    }

    fn has(&self, sought: &Moment) -> bool {
        self.when(|moment| moment == sought).is_some()
    }

    /// Whether its SIP server has announced it, and has not sent its INVITE.
    pub fn is_announced(&self) -> bool {
        self.has(&Moment::Announced) && !self.has(&Moment::Invite)
    }

    /// The refusal by which the device was out: when, and its status.
    fn refusal(&self) -> Option<(u64, u16)> {
        self.steps.iter().rev().find_map(|step| match step.moment {
            Moment::Refused(status) => Some((step.after_ms, status)),
            _ => None,
        })
    }

    /// The device was there, or came.
    pub fn came(&self) -> bool {
        self.when(|moment| matches!(moment, Moment::DeviceAttached | Moment::InviteSent)).is_some()
    }

    /// Why no push reached the device, when none did.
    fn failed_push(&self) -> Option<String> {
        let mut failure = None;
        for step in &self.steps {
            failure = Some(match &step.moment {
                Moment::PushEnded(PushOutcome::Accepted, _) => return None,
                moment if is_unanswered(moment) => return None,
                Moment::PushEnded(outcome, reason) => {
                    let what = match outcome {
                        PushOutcome::Gone => "the push token is dead: the app is gone from the phone",
                        PushOutcome::Refused => "the push service refused the push",
                        PushOutcome::TooLate => "the push service took longer than the call waits",
                        PushOutcome::Failed | PushOutcome::Accepted => not_taken(reason.as_deref()),
                    };
                    match reason {
                        Some(reason) => format!("{what} ({reason})"),
                        None => what.to_owned(),
                    }
                }
                Moment::Withheld(Withheld::NoTarget) => {
                    "no push was sent: the device wants none for calls, or its app has no such push service here"
                        .to_owned()
                }
                Moment::Withheld(Withheld::Limit) => {
                    "the phone was not called: too many calls at once or in a short time (the limits of calls and pushes, sipwake_invites_total and sipwake_limits_total)".to_owned()
                }
                Moment::Withheld(Withheld::Elsewhere) => {
                    "no push was sent by this node: another one has the device, and wakes it for the same call"
                        .to_owned()
                }
                Moment::Withheld(Withheld::Replaces) => {
                    "no push was sent: the call takes the place of one that this device is not in (Replaces), and is not for it"
                        .to_owned()
                }
                Moment::Withheld(Withheld::Ending) => {
                    "the phone was not called: this node was about to end, and the SIP server was asked to try again".to_owned()
                }
                _ => continue,
            });
        }
        failure
    }
}

/// The reason why a push was not taken, in words; for an unknown reason, only that it was not.
fn not_taken(reason: Option<&str>) -> &'static str {
    match reason {
        None | Some("Unreachable") => "the push service could not be reached",
        Some("ServerError") => "the push service answered with errors of its own",
        Some("AskedToWait" | "TooManyRequests" | "QUOTA_EXCEEDED") => "the push service asked to wait",
        Some("TokenEndpointAway") => "the push service's token endpoint gave no access token",
        Some("Silent" | "Unanswered") => "the push service did not answer",
        Some("ConnectionLost") => "the connections to the push service broke",
        Some(TOKEN_CHANGED) => "the push service had not taken the push when the device had another token",
        Some(DEVICE_CAME) => "the push service had not taken the push when the device had come by itself",
        Some(_) => "the push service did not take the push",
    }
}

/// A push has left, and may have arrived.
fn is_unanswered(moment: &Moment) -> bool {
    matches!(moment, Moment::PushEnded(PushOutcome::Failed, Some(reason)) if **reason == *ANSWER_LOST)
}

/// A push service's reason, as it is kept.
pub fn reason(text: &str) -> Box<str> {
    text.chars().filter(|c| !c.is_control()).take(REASON_MAX).collect::<String>().into()
}

/// A status with its words.
fn named(status: u16) -> String {
    format!("{status} {}", Composer::reason(status))
}

fn seconds(ms: u64) -> String {
    if ms < 1_000 { format!("{ms} ms") } else { format!("{}.{} s", ms / 1_000, ms % 1_000 / 100) }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn story(moments: &[(u64, Moment)]) -> Story {
        let (call, instance) = (CallId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let mut story = Story::new(call, instance, "com.example.phone", "sip:bob@example.com", 1_000);
        for (after_ms, moment) in moments {
            story.tell(1_000 + after_ms, moment.clone());
        }
        story
    }

    #[test]
    fn a_caller_is_shortened_so_that_nobody_could_call_back() {
        for (uri, short) in [
            ("sip:bob@example.com", "b…"),
            ("sip:+4930123456@example.com;user=phone", "+49…56"),
            ("tel:+4930123456", "+49…56"),
            ("sip:1234@pbx.example", "…34"),
            ("sip:12@pbx.example", "1…"),
            ("sip:anonymous@anonymous.invalid", "anonymous"),
            ("sip:example.com", "…"),
            ("sip:bob;x=+4930123456:secret@example.com", "b…"),
            ("sip:ü-ber@example.com", "ü…"),
            ("", "…"),
        ] {
            assert_eq!(Caller::of(uri).as_str(), short, "{uri}");
        }
        assert_eq!(format!("{:?}", Caller::of("sip:bob@example.com")), "[caller]");
    }

    #[test]
    fn each_way_to_miss_a_call_has_its_reason_in_words() {
        use Moment::{DeviceAttached, Ended, InviteSent, PushEnded, PushSent, Ringing};
        let sent = (1, PushSent(PushProvider::Apns));
        let accepted = (40, PushEnded(PushOutcome::Accepted, None));
        let timed_out = (30_000, Ended(CallState::TimedOut));
        let refused = PushEnded(PushOutcome::Refused, Some(reason("TopicDisallowed")));
        for (moments, outcome, words) in [
            (vec![sent.clone(), accepted.clone(), timed_out.clone()], "timed-out", "the phone did not come"),
            (vec![sent.clone(), (40, refused), timed_out.clone()], "unreachable", "refused the push (TopicDisallowed)"),
            (
                vec![sent.clone(), (40, PushEnded(PushOutcome::Gone, None)), timed_out.clone()],
                "unreachable",
                "the app is gone",
            ),
            (
                vec![(1, Moment::Withheld(Withheld::Limit)), (2, Ended(CallState::TimedOut))],
                "unreachable",
                "too many calls",
            ),
            (
                vec![sent.clone(), accepted.clone(), (2_300, DeviceAttached), (2_301, InviteSent), timed_out.clone()],
                "timed-out",
                "nobody answered within 30.0 s: the phone came after 2.3 s, got the call and did not ring",
            ),
            (
                vec![sent.clone(), accepted, (2_300, DeviceAttached), (2_500, Ringing), timed_out],
                "timed-out",
                "the phone rang from 2.5 s on",
            ),
            (
                vec![sent.clone(), (40, PushEnded(PushOutcome::Failed, None)), (30_000, Ended(CallState::TimedOut))],
                "unreachable",
                "the push service could not be reached",
            ),
            (
                vec![
                    sent.clone(),
                    (5_300, PushEnded(PushOutcome::Failed, Some(reason("ServerError")))),
                    (5_300, Ended(CallState::TimedOut)),
                ],
                "unreachable",
                "the push service answered with errors of its own (ServerError)",
            ),
            (
                vec![
                    sent.clone(),
                    (40, PushEnded(PushOutcome::Failed, Some(reason(ANSWER_LOST)))),
                    (30_000, Ended(CallState::TimedOut)),
                ],
                "timed-out",
                "nobody answered within 30.0 s: the push was sent, and no answer to it came: the phone may have rung",
            ),
            (
                vec![sent, (900, Ended(CallState::Cancelled))],
                "cancelled",
                "the caller gave up after 900 ms: the push service had not answered yet",
            ),
        ] {
            let story = story(&moments);
            assert_eq!(super::super::Word::word(story.outcome()), outcome, "{story:?}");
            let why = story.why().unwrap_or_default();
            assert!(why.contains(words), "{why}");
        }
        let refused = |status, state| (98, Moment::Refused(status), (99, Ended(state)));
        for (rang, (after_ms, refused, end), words) in [
            (
                None,
                refused(488, CallState::TimedOut),
                "the phone's SIP stack refused the call after 98 ms (488 Not Acceptable Here)",
            ),
            (
                Some((84, Ringing)),
                refused(500, CallState::TimedOut),
                "the phone's SIP stack refused the call after 98 ms (500 Server Internal Error); it rang from 84 ms on",
            ),
            (
                None,
                refused(499, CallState::TimedOut),
                "the phone's SIP stack refused the call after 98 ms (499 Request Failure)",
            ),
            (Some((84, Ringing)), refused(603, CallState::Declined), "the phone declined after 99 ms (603 Decline)"),
        ] {
            let came = [(93, DeviceAttached), (93, InviteSent)];
            let moments = came.into_iter().chain(rang).chain([(after_ms, refused), end]).collect::<Vec<_>>();
            assert_eq!(story(&moments).why().as_deref(), Some(words));
        }
        for (moments, words) in [
            (vec![(359, Ended(CallState::Declined))], "another device declined for all after 359 ms"),
            (vec![(300, Moment::DeclinedByApp), (300, Ended(CallState::Declined))], "the phone declined after 300 ms"),
            (
                vec![(3, Ringing), (2_000, Moment::Expired), (2_000, Ended(CallState::Cancelled))],
                "the caller's INVITE was valid for 2.0 s (Expires): the phone rang from 3 ms on",
            ),
            (
                vec![(5, PushEnded(PushOutcome::Accepted, None)), (355, Ended(CallState::Cancelled))],
                "the caller gave up after 355 ms: the push service took the push after 5 ms, and the phone did not come in the 350 ms until then",
            ),
        ] {
            assert_eq!(story(&moments).why().as_deref(), Some(words));
        }
        let answered = story(&[(9, Ended(CallState::Answered))]);
        assert_eq!((answered.outcome(), answered.why()), (StoryOutcome::Answered, None));
    }

    #[test]
    fn of_a_call_that_was_announced_and_never_sent_the_phone_is_not_blamed() {
        let announced = |moments: &[(u64, Moment)]| {
            let mut story = story(&[]);
            story.steps[0].moment = Moment::Announced;
            for (after_ms, moment) in moments {
                story.tell(1_000 + after_ms, moment.clone());
            }
            story.why().unwrap_or_default()
        };
        let accepted = (2, Moment::PushEnded(PushOutcome::Accepted, None));
        let over = (30_000, Moment::Ended(CallState::TimedOut));
        let came = announced(&[accepted.clone(), (600, Moment::DeviceAttached), over.clone()]);
        assert_eq!(came, "the phone came after 600 ms, and the SIP server sent no call");
        let asleep = announced(&[accepted.clone(), over.clone()]);
        assert!(
            asleep.ends_with("the phone did not come; it is off, without network, or does not let the app run"),
            "{asleep}"
        );
        let sent = announced(&[accepted, (600, Moment::DeviceAttached), (700, Moment::Invite), over]);
        assert_eq!(sent, "nobody answered within 30.0 s: the phone came after 600 ms, got the call and did not ring");
    }

    #[test]
    fn a_story_has_an_end_of_steps_and_tells_nothing_twice_in_a_row() {
        let mut story = story(&[]);
        for at in 0..200 {
            story.tell(at, Moment::Ringing);
            story.tell(at, Moment::Ringing);
            story.tell(at, Moment::DeviceAttached);
        }
        assert_eq!(story.steps.len(), STEPS_MAX);
        assert_eq!(story.steps[1].after_ms, 0, "a clock that was set back");
    }
}
