//! Answers as JSON, in the shapes of `docs/api.md`.
//!
//! Invariant: the only secret that is ever written is the instance's own, in the answer to its enabling; push tokens,
//! AORs and credentials have no place in any type here.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use sip::id::CallId;

use super::story_views;
use crate::clock::rfc3339;
use crate::domain::Word as _;
use crate::service::apps::Enabled;
use crate::service::devices::Tested;
use crate::service::operators::{Export, InstanceKind, Listed, Page};
use crate::service::views::{
    CallStatus, CallView, EdgeAddress, InstanceStatusView, ReceiptView, Registration, View, Wiped,
};
use crate::vault::record::{Presence, Provider, WakeFor};

/// The key that receipts are signed with, as a JWK Set (RFC 7517, RFC 8037).
pub fn keys(receipt_key: &[u8; 32]) -> Value {
    let x = URL_SAFE_NO_PAD.encode(receipt_key);
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "receipt", "x": x}]})
}

/// The answer to an enabling.
pub fn enabled(enabled: &Enabled) -> Value {
    json!({
        "instance": enabled.instance.to_string(),
        "secret": enabled.secret.expose(),
        "expires_at": rfc3339(enabled.expires_at),
        "registration": registration(&enabled.registration),
        "edge": edge(&enabled.edge),
    })
}

/// An instance as its device sees it.
pub fn view(view: &View) -> Value {
    let mut value = json!({
        "instance": view.instance.to_string(),
        "state": instance_state(view.state),
        "registration": registration(&view.registration),
        "created_at": rfc3339(view.created_at),
        "expires_at": rfc3339(view.expires_at),
        "device": {
            "label": view.label,
            "call_push": provider(view.call_push),
            "alert_push": view.alert_push.map(provider),
        },
        "wake_for": wake_for(view.wake_for),
        "presence": presence(view.presence),
        "edge": edge(&view.edge),
    });
    if let Some(key) = view.public_key {
        value["device"]["public_key"] = key.to_string().into();
    }
    if let Some(voicemail) = view.voicemail {
        let mut told = json!({"waiting": voicemail.waiting});
        let counts = [("new", voicemail.new), ("old", voicemail.old), ("urgent", voicemail.urgent)];
        for (key, count) in counts.into_iter().filter_map(|(key, count)| Some((key, count?))) {
            told[key] = count.into();
        }
        value["voicemail"] = told;
    }
    if let Some(kept) = view.kept {
        value["messages"] = kept.messages.into();
        value["missed_calls"] = kept.missed_calls.into();
    }
    value
}

/// The destination of a test push.
pub fn tested(tested: Tested) -> Value {
    let mut value = provider(tested.provider);
    value["target"] = if tested.alert { "alert_push" } else { "call_push" }.into();
    value
}

/// The receipt of a wipe, or that it is under way.
pub fn wiped(wiped: &Wiped) -> Value {
    match wiped {
        Wiped::Done(receipt) => self::receipt(receipt),
        Wiped::Wiping => json!({"state": "wiping"}),
    }
}

/// The receipt of a wipe.
pub fn receipt(receipt: &ReceiptView) -> Value {
    json!({
        "instance": receipt.instance.to_string(),
        "wiped_at": rfc3339(receipt.wiped_at),
        "reason": receipt.reason.word(),
        "unregistered": receipt.unregistered,
        "signature": receipt.signature,
    })
}

/// The state of a call; its deadline in seconds since 1970, as in the push.
pub fn call(call: &CallView) -> Value {
    json!({"state": call_state(call.state), "deadline": call.deadline})
}

/// One of the calls whose state can still be asked.
pub fn known_call(id: CallId, view: &CallView) -> Value {
    let mut value = call(view);
    value["call"] = id.to_string().into();
    value
}

/// The word for a call's state.
pub fn call_state(state: CallStatus) -> &'static str {
    match state {
        CallStatus::Waking => "waking",
        CallStatus::Ringing => "ringing",
        CallStatus::Answered => "answered",
        CallStatus::Cancelled => "cancelled",
        CallStatus::AnsweredElsewhere => "answered-elsewhere",
        CallStatus::Declined => "declined",
        CallStatus::TimedOut => "timed-out",
    }
}

/// An instance as an operator sees it.
pub fn listed(listed: &Listed) -> Value {
    json!({
        "instance": listed.instance.to_string(),
        "kind": match listed.kind {
            InstanceKind::Lent => "lent",
            InstanceKind::Passed => "passed-through",
        },
        "app": listed.app,
        "state": instance_state(listed.state),
        "registration": registration(&listed.registration),
        "created_at": rfc3339(listed.created_at),
        "expires_at": rfc3339(listed.expires_at),
        "call_push": provider(listed.call_push),
        "alert_push": listed.alert_push.map(provider),
    })
}

/// The instances found for an account.
pub fn found(found: &[Listed]) -> Value {
    json!({"instances": found.iter().map(listed).collect::<Vec<_>>()})
}

/// A part of the operator's list.
pub fn page(page: &Page) -> Value {
    let instances: Vec<_> = page.instances.iter().map(listed).collect();
    json!({"instances": instances, "next": page.next.map(|next| next.to_string())})
}

/// The data held about an instance, as an operator may have it.
pub fn export(export: &Export) -> Value {
    let mut whole = listed(&export.listed);
    if let Some((events, stands)) = export.preferences {
        whole["wake_for"] = wake_for(events);
        whole["presence"] = presence(stands).into();
    }
    if let Some(key) = export.public_key {
        whole["public_key"] = key.to_string().into();
    }
    whole["calls"] = export.calls.iter().map(|(id, view)| known_call(*id, view)).collect();
    whole["call_stories"] = export.stories.iter().map(story_views::whole).collect();
    whole
}

pub(super) fn instance_state(state: InstanceStatusView) -> &'static str {
    match state {
        InstanceStatusView::Active => "active",
        InstanceStatusView::Foreground => "foreground",
        InstanceStatusView::Ending => "ending",
    }
}

/// `status`, `expires_in_s` and `failing_since` are left out where there is none.
fn registration(registration: &Registration) -> Value {
    let state = registration.state.word();
    let mut value = json!({"state": state});
    if let Some(status) = registration.status {
        value["status"] = status.into();
    }
    if let Some(seconds) = registration.expires_in_s {
        value["expires_in_s"] = seconds.into();
    }
    if let Some(since) = registration.failing_since {
        value["failing_since"] = rfc3339(since).into();
    }
    value
}

fn edge(edge: &EdgeAddress) -> Value {
    let mut value = json!({"proxy": edge.proxy, "username": edge.username.to_string(), "realm": edge.realm});
    if let Some(websocket) = &edge.websocket {
        value["websocket"] = json!(websocket);
    }
    value
}

fn provider(provider: Provider) -> Value {
    match provider {
        Provider::ApnsProduction => json!({"provider": "apns", "environment": "production"}),
        Provider::ApnsSandbox => json!({"provider": "apns", "environment": "sandbox"}),
        Provider::Fcm => json!({"provider": "fcm"}),
        Provider::WebPush => json!({"provider": "webpush"}),
    }
}

fn wake_for(wake_for: WakeFor) -> Value {
    let events = [
        (wake_for.call, "call"),
        (wake_for.message, "message"),
        (wake_for.voicemail, "voicemail"),
        (wake_for.missed_call, "missed-call"),
    ];
    events.iter().filter(|(wanted, _)| *wanted).map(|(_, event)| *event).collect()
}

pub(super) fn presence(presence: Presence) -> &'static str {
    match presence {
        Presence::Foreground => "foreground",
        Presence::Background => "background",
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::api::OPENAPI;

    #[test]
    fn a_call_in_an_export_has_the_members_that_its_schema_names_and_no_other() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let schemas = &described["components"]["schemas"];
        let of = schemas["Export"]["properties"]["calls"]["items"]["$ref"].as_str().unwrap();
        let schema = &schemas[of.rsplit('/').next().unwrap()];
        let told = known_call(CallId::new(1, ShardTag(1)), &CallView { state: CallStatus::Waking, deadline: 1 });
        let mut required: Vec<_> = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        required.sort_unstable();
        let mut members: Vec<_> = told.as_object().unwrap().keys().map(String::as_str).collect();
        members.sort_unstable();
        assert_eq!(members, required);
        assert!(members.iter().all(|member| schema["properties"].get(member).is_some()));
    }
}
