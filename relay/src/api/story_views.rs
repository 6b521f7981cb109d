//! The stories of calls, as JSON.
//!
//! Invariant: a caller is told as shortened as the story has it.

use serde_json::{Value, json};
use sip::endpoint::CallState;

use crate::clock::rfc3339_ms;
use crate::domain::Word as _;
use crate::domain::story::{Moment, Step, Story};

/// A call in one line.
pub fn line(story: &Story) -> Value {
    let when = |is: &dyn Fn(&Moment) -> bool| story.when(is);
    let mut value = json!({
        "call": story.call.to_string(),
        "instance": story.instance.to_string(),
        "app": story.app,
        "from": story.from.as_str(),
        "at": rfc3339_ms(story.at_ms),
        "outcome": story.outcome().word(),
    });
    let times = [
        (
            "push_accepted_ms",
            when(&|moment| matches!(moment, Moment::PushEnded(crate::domain::PushOutcome::Accepted, _))),
        ),
        ("device_attached_ms", when(&|moment| matches!(moment, Moment::DeviceAttached))),
        ("answered_ms", when(&|moment| *moment == Moment::Ended(CallState::Answered))),
        (
            "ended_ms",
            when(&|moment| match moment {
                Moment::Ended(state) => *state != CallState::Answered,
                moment => matches!(moment, Moment::HungUp { .. }),
            }),
        ),
    ];
    for (key, time) in times.into_iter().filter_map(|(key, time)| Some((key, time?))) {
        value[key] = time.into();
    }
    if let Some(why) = story.why() {
        value["why"] = why.into();
    }
    value
}

/// A call with each of its steps.
pub fn whole(story: &Story) -> Value {
    let mut value = line(story);
    value["steps"] = story.steps.iter().map(|step| self::step(story, step)).collect();
    value
}

fn step(story: &Story, step: &Step) -> Value {
    let mut value = json!({
        "at": rfc3339_ms(story.at_ms.saturating_add(step.after_ms)),
        "after_ms": step.after_ms,
        "step": step.moment.word(),
    });
    match &step.moment {
        Moment::Withheld(why) => value["reason"] = why.word().into(),
        Moment::PushSent(provider) => value["provider"] = provider.word().into(),
        Moment::PushEnded(outcome, reason) => {
            value["outcome"] = outcome.word().into();
            if let Some(reason) = reason {
                value["reason"] = json!(reason);
            }
        }
        Moment::Refused(status) => value["status"] = (*status).into(),
        Moment::HungUp { by_device } => value["by"] = if *by_device { "device" } else { "caller" }.into(),
        Moment::Announced
        | Moment::Invite
        | Moment::DeviceAttached
        | Moment::InviteSent
        | Moment::CallerHearsRinging
        | Moment::Ringing
        | Moment::DeclinedByApp
        | Moment::Expired
        | Moment::Ended(_) => {}
    }
    value
}
