//! The words that `openapi.json` lists, held against those that the code says and reads.
//!
//! Invariant: a list of words without a row here fails, and so does a variant of the code that no row has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sip::endpoint::CallState as CoreState;
use sip::id::{CallId, InstanceId, MessageId, ShardTag};

use super::json::{At, Errors, Json};
use super::problem::ProblemType;
use super::{OPENAPI, device_body, device_views, views};
use crate::doctor::{DoctorStep, Verdict};
use crate::domain::story::{Moment, StoryOutcome, Withheld};
use crate::domain::{MessageOutcome, PushOutcome, PushProvider, WipeReason, Word};
use crate::push::Event;
use crate::service::devices::{OwnCredential, Step, Tested, Timeline, TimelineEvent};
use crate::service::views::{CallStatus, InstanceStatusView, RegistrationState, Wiped};
use crate::vault::items::{Message, MissedCall};
use crate::vault::record::{Presence, Provider};

type Words = BTreeSet<String>;

/// Every variant of an enum; one that is forgotten is an error of the compiler.
macro_rules! every {
    ($name:ident { $($variant:ident $(= $value:expr)?),* $(,)? }) => {{
        let _: fn(&$name) = |it| match it { $($name::$variant { .. } => {})* };
        [$(every!(@ $name $variant $($value)?)),*]
    }};
    (@ $name:ident $variant:ident) => { $name::$variant };
    (@ $name:ident $variant:ident $value:expr) => { $value };
}

fn set<'a>(words: impl IntoIterator<Item = &'a str>) -> Words {
    words.into_iter().map(str::to_owned).collect()
}

fn all<T: Word>() -> Words {
    set(T::ALL.iter().map(|it| it.word()))
}

/// The values of a member in some answers.
fn told<'a>(answers: impl IntoIterator<Item = &'a Value>, member: &str) -> Words {
    answers.into_iter().filter_map(|answer| answer[member].as_str()).map(str::to_owned).collect()
}

/// The values that a reader of words expects, by its own error.
fn read(reader: impl FnOnce(&At, &mut Errors) -> bool) -> Words {
    let (json, mut errors) = (Json::Text("?".to_owned().into()), Errors::default());
    assert!(!reader(&At::root(&json), &mut errors), "it is none of them");
    let problem = errors.into_result::<()>(None).expect_err("no value");
    let detail = problem.errors().next().and_then(|error| error["detail"].as_str().map(str::to_owned));
    let words = detail.as_deref().and_then(|detail| detail.strip_prefix("expected one of: ")).map(str::to_owned);
    words.expect("the words that are expected").split(", ").map(str::to_owned).collect()
}

fn core_states() -> [CoreState; 7] {
    every!(CoreState { Waking, Ringing, Answered, Cancelled, AnsweredElsewhere, Declined, TimedOut })
}

/// The steps of a timeline, each of whatever kind it may be.
fn steps() -> Vec<Value> {
    let what = every!(TimelineEvent {
        Registered,
        RegistrationRetry = TimelineEvent::RegistrationRetry { status: None, after_s: 1 },
        RegistrationFailing = TimelineEvent::RegistrationFailing { status: None },
        RegistrationRestored,
        Foreground,
        Background,
        Announced,
        Invite,
        PushSent = TimelineEvent::PushSent { event: Event::Test, provider: PushProvider::Apns },
        PushEnded = TimelineEvent::PushEnded { event: Event::Test, outcome: PushOutcome::Gone, reason: None },
        DeviceAttached = TimelineEvent::DeviceAttached { after_ms: None },
        DeviceDetached,
        CallerHearsRinging,
        Ringing,
        DeviceRefused = TimelineEvent::DeviceRefused { status: 488 },
        CallEnded = TimelineEvent::CallEnded(CoreState::Declined),
        HungUp = TimelineEvent::HungUp { by_device: true },
        TraceBegun = TimelineEvent::TraceBegun { by_operator: true },
        TraceEnded,
        Message = TimelineEvent::Message { outcome: MessageOutcome::Kept },
        Voicemail = TimelineEvent::Voicemail { new: None, old: None },
    });
    let ended = core_states().into_iter().filter(|state| !matches!(state, CoreState::Waking | CoreState::Ringing));
    let providers =
        PushProvider::ALL.iter().map(|provider| TimelineEvent::PushSent { event: Event::Test, provider: *provider });
    let pushes =
        PushOutcome::ALL.iter().map(|it| TimelineEvent::PushEnded { event: Event::Test, outcome: *it, reason: None });
    let messages = MessageOutcome::ALL.iter().map(|outcome| TimelineEvent::Message { outcome: *outcome });
    let others = [TimelineEvent::HungUp { by_device: false }, TimelineEvent::TraceBegun { by_operator: false }];
    let what = what
        .into_iter()
        .chain(ended.map(TimelineEvent::CallEnded))
        .chain(providers)
        .chain(pushes)
        .chain(messages)
        .chain(others);
    let steps = what.map(|what| Step { at_ms: 0, last_ms: 0, count: 1, call: None, what }).collect();
    let timeline = device_views::timeline(InstanceId::new(1, ShardTag(1)), &Timeline { enabled_at_ms: 0, steps });
    timeline["steps"].as_array().cloned().unwrap_or_default()
}

/// The steps of a call's story.
fn moments() -> Vec<Moment> {
    let moments = every!(Moment {
        Announced,
        Invite,
        Withheld = Moment::Withheld(Withheld::Limit),
        PushSent = Moment::PushSent(PushProvider::Apns),
        PushEnded = Moment::PushEnded(PushOutcome::Gone, None),
        DeviceAttached,
        InviteSent,
        CallerHearsRinging,
        Ringing,
        Refused = Moment::Refused(488),
        DeclinedByApp,
        Expired,
        Ended = Moment::Ended(CoreState::Declined),
        HungUp = Moment::HungUp { by_device: true },
    });
    let ended = core_states().into_iter().filter(|state| !matches!(state, CoreState::Waking | CoreState::Ringing));
    moments.into_iter().chain(ended.map(Moment::Ended)).collect()
}

/// Each list of words by its place, as the code has it.
fn of_code() -> BTreeMap<&'static str, Words> {
    let providers = every!(Provider { ApnsProduction, ApnsSandbox, Fcm, WebPush });
    let providers = providers.map(|provider| [true, false].map(|alert| views::tested(Tested { provider, alert })));
    let tested = providers.as_flattened();
    let (services, environments) = (told(tested, "provider"), told(tested, "environment"));
    let states = every!(CallStatus { Waking, Ringing, Answered, Cancelled, AnsweredElsewhere, Declined, TimedOut });
    let call_states = set(states.map(views::call_state));
    let steps = steps();
    let (call, message) = (CallId::new(1, ShardTag(1)), MessageId::new(1, ShardTag(1)));
    let bodies = ["text".as_bytes(), &[0xff]].map(|body| Message {
        id: message,
        from: "".into(),
        name: None,
        content_type: "".into(),
        body: body.into(),
        received_at: 0,
        expires_at: 0,
    });
    let messages = device_views::messages(&bodies);
    let missed =
        [true, false].map(|given_up| MissedCall { call, from: "".into(), name: None, at: 0, expires_at: 0, given_up });
    let missed = device_views::missed_calls(&missed);
    let list = |value: &Value, member: &str| value[member].as_array().cloned().unwrap_or_default();
    let events = every!(Event {
        Call,
        CallEnded,
        Message,
        Voicemail,
        MissedCall,
        Renew,
        Expiring,
        Expired,
        RegistrationFailing,
        RegistrationRestored,
        RegistrationLost,
        Test,
    });
    let registrations = every!(RegistrationState { Registered, Registering, Retrying, Unregistered });
    let instances = every!(InstanceStatusView { Active, Foreground, Ending });
    let states = set(instances.map(views::instance_state));
    let presence = set(every!(Presence { Foreground, Background }).map(views::presence));
    let verdicts = every!(Verdict { Good, Note, Bad }).map(|it| serde_json::to_value(it).expect("a word"));
    assert_eq!(presence, read(|at, errors| device_body::presence(at, errors).is_some()));
    let read_services = read(|at, errors| device_body::kind(at, errors).is_some());
    assert_eq!(services, read_services, "what is read is what is told");
    assert_eq!(services, set(["apns", "fcm", "webpush"]), "each has a type of its own");
    assert_eq!(environments, read(|at, errors| device_body::environment(at, errors).is_some()));
    let keys = views::keys(&[0; 32])["keys"].as_array().cloned().unwrap_or_default();
    let problems = ProblemType::ALL.iter().map(|kind| format!("urn:sipwake:problem:{}", kind.name())).collect();
    BTreeMap::from([
        ("Findings.findings[].step", all::<DoctorStep>()),
        ("Findings.findings[].verdict", set(verdicts.iter().filter_map(Value::as_str))),
        ("Message.encoding", told(&list(&messages, "messages"), "encoding")),
        ("MissedCall.state", told(&list(&missed, "missed_calls"), "state")),
        ("Step.step", told(&steps, "step")),
        ("Step.by", told(&steps, "by")),
        ("Step.provider", all::<PushProvider>()),
        ("Step.outcome", told(&steps, "outcome")),
        ("Push.event", set(events.map(Event::name))),
        ("Tested.target", told(tested, "target")),
        ("Tested.provider", services.clone()),
        ("Tested.environment", environments.clone()),
        ("Export.account.credential", all::<OwnCredential>()),
        ("CallStory.outcome", all::<StoryOutcome>()),
        ("CallStory.steps[].step", set(moments().iter().map(Moment::word))),
        ("CallStory.steps[].provider", all::<PushProvider>()),
        ("CallStory.steps[].by", set(["device", "caller"])),
        ("WakeFor[]", set(device_body::WAKE_FOR.iter().map(|(word, _)| *word))),
        ("Presence", presence),
        ("ApnsTarget.provider", set(["apns"])),
        ("ApnsTarget.environment", environments.clone()),
        ("FcmTarget.provider", set(["fcm"])),
        ("WebPushTarget.provider", set(["webpush"])),
        ("Wiping.state", told([&views::wiped(&Wiped::Wiping)], "state")),
        ("Keys.keys[].kty", told(&keys, "kty")),
        ("Keys.keys[].crv", told(&keys, "crv")),
        ("Keys.keys[].alg", told(&keys, "alg")),
        ("Keys.keys[].use", told(&keys, "use")),
        ("Registration.state", set(registrations.map(RegistrationState::word))),
        ("PushService.provider", services),
        ("PushService.environment", environments),
        ("Instance.state", states.clone()),
        ("Export.state", states),
        ("Receipt.reason", all::<WipeReason>()),
        ("Call.state", call_states.clone()),
        ("KnownCall.state", call_states.clone()),
        ("Problem.type", problems),
        ("Problem.reason", all::<WipeReason>()),
        ("Problem.state", call_states),
    ])
}

/// Each list of words by its place, as the description has it; a place of several shapes has those of all.
fn of_description(place: &str, node: &Value, found: &mut BTreeMap<String, Words>) {
    let listed = node["enum"].as_array().into_iter().flatten().chain(node.get("const"));
    for word in listed.filter_map(Value::as_str) {
        let is_new = found.entry(place.to_owned()).or_default().insert(word.to_owned());
        assert!(is_new, "{place}: {word} stands there once");
    }
    for (key, value) in node.as_object().into_iter().flatten() {
        match key.as_str() {
            "properties" => {
                for (name, schema) in value.as_object().into_iter().flatten() {
                    of_description(&format!("{place}.{name}"), schema, found);
                }
            }
            "items" => of_description(&format!("{place}[]"), value, found),
            "oneOf" | "anyOf" | "allOf" => {
                value.as_array().into_iter().flatten().for_each(|schema| of_description(place, schema, found));
            }
            _ => {}
        }
    }
}

#[test]
fn each_list_of_words_in_the_description_is_the_codes_own() {
    let description: Value = serde_json::from_str(OPENAPI).expect("openapi.json is JSON");
    let (mut found, code) = (BTreeMap::new(), of_code());
    for (name, schema) in description["components"]["schemas"].as_object().into_iter().flatten() {
        of_description(name, schema, &mut found);
    }
    assert!(found.keys().eq(code.keys()), "each list has a row here, and each row a list: {:?}", found.keys());
    for (place, words) in &found {
        assert_eq!(words, &code[place.as_str()], "{place}");
    }
    // None stands beside the named schemas.
    let schemas = description["components"]["schemas"].to_string();
    assert_eq!(OPENAPI.matches("\"enum\":").count(), schemas.matches("\"enum\":").count());
}
