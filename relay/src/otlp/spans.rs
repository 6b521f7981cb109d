//! A story as spans, in OTLP's JSON (opentelemetry-proto, `trace.v1`): identifiers in hex, 64-bit numbers as text.
//!
//! ```text
//! call ────────────────────────────────────────  one for each device; the trace's id is the call's
//!  ├─ push ──────                                from the hand-over to the push service until its answer
//!  ├─ wake ──────────────                        from then until the device came
//!  ├─ ring                ─────────              from the INVITE to the device until the call was answered or over
//!  └─ talk                         ────────────  until somebody hung up
//! ```
//!
//! Invariant: a span holds the ids of call, instance and App, and what happened; nothing of a caller.

use serde_json::{Value, json};
use sip::endpoint::CallState;

use crate::domain::Word as _;
use crate::domain::story::{Moment, Story, StoryOutcome};
use crate::vault::hex;

/// `SPAN_KIND_INTERNAL` and `SPAN_KIND_SERVER`.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
/// `STATUS_CODE_ERROR`.
const ERROR: u8 = 2;

/// The body posted to `/v1/traces`.
pub(super) fn request(node: &str, stories: &[Story]) -> Value {
    let spans: Vec<Value> = stories.iter().flat_map(of_story).collect();
    let resource =
        [("service.name", "sipwake"), ("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", node)];
    json!({"resourceSpans": [{
        "resource": {"attributes": resource.map(|(key, value)| attribute(key, value))},
        "scopeSpans": [{"scope": {"name": "sipwake"}, "spans": spans}],
    }]})
}

fn of_story(story: &Story) -> Vec<Value> {
    let when = |is: &dyn Fn(&Moment) -> bool| story.when(is);
    let last = story.steps.last().map_or(0, |step| step.after_ms);
    let ended = when(&|moment| matches!(moment, Moment::Ended(_))).unwrap_or(last);
    let outcome = story.outcome();
    let mut root = span(story, "call", 0, 0, last);
    root["kind"] = SERVER.into();
    let mut attributes = vec![
        attribute("sipwake.call", &story.call.to_string()),
        attribute("sipwake.instance", &story.instance.to_string()),
        attribute("sipwake.app", &story.app),
        attribute("sipwake.outcome", outcome.word()),
    ];
    attributes.extend(story.why().map(|why| attribute("sipwake.why", &why)));
    root["attributes"] = attributes.into();
    let event = |step: &crate::domain::story::Step| {
        let mut event = json!({"timeUnixNano": nanos(story, step.after_ms), "name": step.moment.word()});
        if let Moment::PushEnded(outcome, reason) = &step.moment {
            let mut attributes = vec![attribute("sipwake.push.outcome", outcome.word())];
            attributes.extend(reason.as_deref().map(|reason| attribute("sipwake.push.reason", reason)));
            event["attributes"] = attributes.into();
        }
        if let Moment::Refused(status) = &step.moment {
            event["attributes"] = vec![attribute("sipwake.sip.status", &status.to_string())].into();
        }
        event
    };
    root["events"] = story.steps.iter().map(event).collect();
    if outcome == StoryOutcome::Unreachable {
        root["status"] = json!({"code": ERROR, "message": story.why().unwrap_or_default()});
    }
    let sent = when(&|moment| matches!(moment, Moment::PushSent(_)));
    let verdict = when(&|moment| matches!(moment, Moment::PushEnded(..)));
    let came = when(&|moment| matches!(moment, Moment::DeviceAttached));
    let invited = when(&|moment| matches!(moment, Moment::InviteSent));
    let answered = when(&|moment| *moment == Moment::Ended(CallState::Answered));
    let hung_up = when(&|moment| matches!(moment, Moment::HungUp { .. }));
    let parts =
        [("push", sent, verdict), ("wake", sent, came), ("ring", invited, Some(ended)), ("talk", answered, hung_up)];
    let parts = parts.into_iter().enumerate().filter_map(|(index, (name, from, to))| {
        let mut part = span(story, name, index as u8 + 1, from?, to?);
        part["parentSpanId"] = root["spanId"].clone();
        Some(part)
    });
    let parts: Vec<Value> = parts.collect();
    std::iter::once(root).chain(parts).collect()
}

fn span(story: &Story, name: &str, number: u8, from_ms: u64, to_ms: u64) -> Value {
    json!({
        "traceId": hex(&story.call.to_bytes()),
        "spanId": span_id(story, number),
        "name": name,
        "kind": INTERNAL,
        "startTimeUnixNano": nanos(story, from_ms),
        "endTimeUnixNano": nanos(story, to_ms.max(from_ms)),
    })
}

/// Eight bytes that no other span of the trace has: the instance's random ones, and the part's number.
fn span_id(story: &Story, number: u8) -> String {
    let mut id = [0; 8];
    id.copy_from_slice(&story.instance.to_bytes()[..8]);
    id[7] = (id[7] & 0xf8) | number;
    // All zeros is no id.
    id[0] |= 1;
    hex(&id)
}

fn nanos(story: &Story, after_ms: u64) -> String {
    story.at_ms.saturating_add(after_ms).saturating_mul(1_000_000).to_string()
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

#[cfg(test)]
mod tests {
    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;
    use crate::domain::{PushOutcome, PushProvider};

    #[test]
    fn a_story_is_a_trace_whose_id_is_the_calls_and_which_holds_nothing_of_the_caller() {
        let (call, instance) = (CallId::new(1 << 100, ShardTag(0)), InstanceId::new(3 << 100, ShardTag(0)));
        let mut story = Story::new(call, instance, "com.example.phone", "sip:+4930123456@example.com", 1_000);
        for (at, moment) in [
            (1_001, Moment::PushSent(PushProvider::Apns)),
            (1_040, Moment::PushEnded(PushOutcome::Accepted, None)),
            (3_000, Moment::DeviceAttached),
            (3_001, Moment::InviteSent),
            (4_000, Moment::Ended(CallState::Answered)),
            (9_000, Moment::HungUp { by_device: true }),
        ] {
            story.tell(at, moment);
        }
        let request = request("relay1:5061", &[story]);
        let spans = request["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default();
        let told: Vec<_> = spans
            .iter()
            .map(|span| {
                let time =
                    |key: &str| span[key].as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) / 1_000_000;
                (span["name"].as_str().unwrap_or_default(), time("startTimeUnixNano"), time("endTimeUnixNano"))
            })
            .collect();
        assert_eq!(
            told,
            [
                ("call", 1_000, 9_000),
                ("push", 1_001, 1_040),
                ("wake", 1_001, 3_000),
                ("ring", 3_001, 4_000),
                ("talk", 4_000, 9_000)
            ]
        );
        assert!(spans.iter().all(|span| span["traceId"] == hex(&call.to_bytes())));
        let ids: std::collections::BTreeSet<_> = spans.iter().map(|span| span["spanId"].to_string()).collect();
        assert_eq!(ids.len(), 5);
        assert!(spans[1..].iter().all(|span| span["parentSpanId"] == spans[0]["spanId"]));
        assert!(!request.to_string().contains("…") && !request.to_string().contains("49"), "{request}");
    }
}
