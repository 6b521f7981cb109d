//! Kept items, the timeline and the export, as JSON.
//!
//! Invariant: written only for a requester that has shown the instance's secret. No push token, password, digest or instance secret
//! has a place in any type here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sip::id::InstanceId;

use super::{story_views, views};
use crate::clock::{rfc3339, rfc3339_ms};
use crate::domain::Word as _;
use crate::push::payload::{shown_address, shown_name};
use crate::service::devices::{OwnExport, Step, Timeline, TimelineEvent};
use crate::vault::items::{Message, MissedCall};

/// The messages that are kept.
pub fn messages(messages: &[Message]) -> Value {
    json!({"messages": messages.iter().map(message).collect::<Vec<_>>()})
}

/// The missed calls that are kept.
pub fn missed_calls(missed: &[MissedCall]) -> Value {
    json!({"missed_calls": missed.iter().map(missed_call).collect::<Vec<_>>()})
}

/// The timeline of the instance.
pub fn timeline(instance: InstanceId, timeline: &Timeline) -> Value {
    json!({"instance": instance.to_string(), "steps": steps(timeline)})
}

/// Everything that is held about an instance, for its own device.
pub fn export(export: &OwnExport) -> Value {
    let mut whole = views::view(&export.view);
    whole["app"] = json!(export.app);
    whole["account"] = json!({
        "aor": export.aor.expose(),
        "auth_username": export.auth_username,
        "credential": export.credential.word(),
        "registrar": export.registrar,
        "outbound_proxy": export.outbound_proxy,
    });
    whole["calls"] = export.calls.iter().map(|(id, view)| views::known_call(*id, view)).collect();
    whole["messages"] = export.messages.iter().map(message).collect();
    whole["missed_calls"] = export.missed_calls.iter().map(missed_call).collect();
    whole["call_stories"] = export.stories.iter().map(story_views::whole).collect();
    whole["timeline"] = steps(&export.timeline);
    whole
}

/// A body that is text is written as it is, another one in base64 (RFC 4648 §4).
fn message(message: &Message) -> Value {
    let (encoding, body) = match std::str::from_utf8(&message.body) {
        Ok(text) => ("utf-8", text.to_owned()),
        Err(_) => ("base64", STANDARD.encode(&message.body)),
    };
    let mut value = json!({
        "message": message.id.to_string(),
        "from": shown_address(&message.from),
        "content_type": message.content_type,
        "encoding": encoding,
        "body": body,
        "received_at": rfc3339(message.received_at),
        "expires_at": rfc3339(message.expires_at),
    });
    if let Some(name) = message.name.as_deref().and_then(shown_name) {
        value["name"] = json!(name);
    }
    value
}

fn missed_call(missed: &MissedCall) -> Value {
    let mut value = json!({
        "call": missed.call.to_string(),
        "from": shown_address(&missed.from),
        "state": if missed.given_up { "cancelled" } else { "timed-out" },
        "at": rfc3339(missed.at),
        "expires_at": rfc3339(missed.expires_at),
    });
    if let Some(name) = missed.name.as_deref().and_then(shown_name) {
        value["name"] = json!(name);
    }
    value
}

fn steps(timeline: &Timeline) -> Value {
    let enabled = json!({"at": rfc3339_ms(timeline.enabled_at_ms), "step": "enabled"});
    std::iter::once(enabled).chain(timeline.steps.iter().map(step)).collect()
}

fn step(step: &Step) -> Value {
    let mut value = json!({"at": rfc3339_ms(step.at_ms), "step": word(step.what)});
    if step.count > 1 {
        value["count"] = step.count.into();
        value["last_at"] = rfc3339_ms(step.last_ms).into();
    }
    if let Some(call) = step.call {
        value["call"] = call.to_string().into();
    }
    match step.what {
        TimelineEvent::RegistrationRetry { status, after_s } => {
            if let Some(status) = status {
                value["status"] = status.into();
            }
            value["retry_in_s"] = after_s.into();
        }
        TimelineEvent::DeviceRefused { status } => value["status"] = status.into(),
        TimelineEvent::RegistrationFailing { status: Some(status) } => value["status"] = status.into(),
        TimelineEvent::RegistrationFailing { status: None } | TimelineEvent::RegistrationRestored => {}
        TimelineEvent::PushSent { event, provider } => {
            value["event"] = event.name().into();
            value["provider"] = provider.word().into();
        }
        TimelineEvent::PushEnded { event, outcome, reason } => {
            value["event"] = event.name().into();
            value["outcome"] = outcome.word().into();
            if let Some(reason) = reason {
                value["reason"] = reason.into();
            }
        }
        TimelineEvent::DeviceAttached { after_ms: Some(after_ms) } => value["after_ms"] = after_ms.into(),
        TimelineEvent::HungUp { by_device } => value["by"] = if by_device { "device" } else { "caller" }.into(),
        TimelineEvent::TraceBegun { by_operator } => {
            value["by"] = if by_operator { "operator" } else { "device" }.into()
        }
        TimelineEvent::Message { outcome } => value["outcome"] = outcome.word().into(),
        TimelineEvent::Voicemail { new, old } => {
            let counts = [("new", new), ("old", old)];
            for (key, count) in counts.into_iter().filter_map(|(key, count)| Some((key, count?))) {
                value[key] = count.into();
            }
        }
        TimelineEvent::Registered
        | TimelineEvent::Foreground
        | TimelineEvent::Background
        | TimelineEvent::Announced
        | TimelineEvent::Invite
        | TimelineEvent::DeviceAttached { after_ms: None }
        | TimelineEvent::DeviceDetached
        | TimelineEvent::TraceEnded
        | TimelineEvent::CallerHearsRinging
        | TimelineEvent::Ringing
        | TimelineEvent::CallEnded(_) => {}
    }
    value
}

fn word(what: TimelineEvent) -> &'static str {
    match what {
        TimelineEvent::Registered => "registered",
        TimelineEvent::RegistrationRetry { .. } => "registration-retry",
        TimelineEvent::RegistrationFailing { .. } => "registration-failing",
        TimelineEvent::RegistrationRestored => "registration-restored",
        TimelineEvent::Foreground => "foreground",
        TimelineEvent::Background => "background",
        TimelineEvent::Announced => "announced",
        TimelineEvent::Invite => "invite",
        TimelineEvent::PushSent { .. } => "push-sent",
        TimelineEvent::PushEnded { .. } => "push-ended",
        TimelineEvent::DeviceAttached { .. } => "device-attached",
        TimelineEvent::DeviceDetached => "device-detached",
        TimelineEvent::TraceBegun { .. } => "trace-begun",
        TimelineEvent::TraceEnded => "trace-ended",
        TimelineEvent::CallerHearsRinging => "caller-hears-ringing",
        TimelineEvent::Ringing => "ringing",
        TimelineEvent::DeviceRefused { .. } => "device-refused",
        TimelineEvent::HungUp { .. } => "ended",
        TimelineEvent::CallEnded(state) => state.as_str(),
        TimelineEvent::Message { .. } => "message",
        TimelineEvent::Voicemail { .. } => "voicemail",
    }
}
