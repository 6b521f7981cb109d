//! The payload of a push: the one JSON object that apps read, wrapped as each service wants it.
//!
//! Invariant: the payload is valid JSON within the service's limit, whatever name the caller chose. `from` and `name` lose characters that are invisible, break
//! lines or turn the reading direction. They are cut to [`NAME_MAX`] and [`FROM_MAX`] at the end of a grapheme, and shortened further if the whole is too
//! large. Absent members are absent, not null.

pub(super) mod collapse;
mod joiners;
pub(super) mod json_body;
pub mod sealed;

use bytes::Bytes;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};
use unicode_segmentation::UnicodeSegmentation as _;

use self::json_body::json_body;
use super::{Event, Push};
use crate::domain::characters::is_blank;
use crate::hpke::PublicKey;

/// The most that APNs takes for a VoIP push, in bytes of the body.
pub(super) const VOIP_LIMIT: usize = 5_120;
/// The most that APNs takes for any other push, in bytes of the body.
pub(super) const ALERT_LIMIT: usize = 4_096;
/// The most that FCM takes, in bytes of all data keys and values.
pub(super) const FCM_LIMIT: usize = 4_096;

/// The longest `name`: the rest is cut off.
const NAME_MAX: Longest = Longest { graphemes: 100, bytes: 400 };
/// The longest `from`, likewise.
const FROM_MAX: Longest = Longest { graphemes: 255, bytes: 1_020 };

/// How long a text may be that a caller chose.
#[derive(Clone, Copy)]
struct Longest {
    /// A limit in characters as a person sees them.
    graphemes: usize,
    /// In UTF-8: a grapheme has no limit of its own.
    bytes: usize,
}

/// The key that holds the object.
pub(super) const KEY: &str = "sipwake";

/// Even without the caller's name and address the push is too large.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Oversized;

/// The body for APNs: the object beside `aps`. Its content is sealed to `key`, where there is one.
pub(super) fn apns(push: &Push, key: Option<&PublicKey>) -> Result<Bytes, Oversized> {
    let limit = if push.event == Event::Call { VOIP_LIMIT } else { ALERT_LIMIT };
    fit(push, key, limit, |object| json_body(&Body { aps: aps(push), sipwake: object })).map(Bytes::from)
}

/// The value of FCM's data entry [`KEY`], likewise.
pub(super) fn fcm(push: &Push, key: Option<&PublicKey>) -> Result<String, Oversized> {
    let bytes = object(push, key, FCM_LIMIT - KEY.len())?;
    String::from_utf8(bytes).map_err(|_| Oversized)
}

/// The object by itself, within `limit` bytes, likewise.
pub(super) fn object(push: &Push, key: Option<&PublicKey>, limit: usize) -> Result<Vec<u8>, Oversized> {
    fit(push, key, limit, |object| encode(object))
}

#[derive(Serialize)]
struct Body<'a> {
    aps: Value,
    sipwake: &'a Object<'a>,
}

/// The object that apps read.
#[derive(Serialize)]
struct Object<'a> {
    v: u8,
    event: &'static str,
    instance: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    edge: Option<&'a str>,
    sent_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(flatten)]
    extra: Extra<'a>,
}

/// The sealed part, where the device has given a key: all members except those that lead the device to its call.
#[derive(Serialize)]
struct CallerFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(flatten)]
    extra: Extra<'a>,
}

struct Extra<'a>(&'a [(&'static str, Value)]);

impl Serialize for Extra<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// Apple's own part: nothing for a call, a silent wake for a renewal, and for the rest a text that the app's
/// notification extension may replace by one in the user's language.
fn aps(push: &Push) -> Value {
    let title = match push.event {
        Event::Call | Event::CallEnded => return serde_json::json!({}),
        _ if push.is_silent() => return serde_json::json!({"content-available": 1}),
        Event::Renew | Event::RegistrationRestored => return serde_json::json!({"content-available": 1}),
        Event::Message => "New message",
        Event::Voicemail => "New voicemail",
        Event::MissedCall => "Missed call",
        Event::Expiring => "Calls will soon stop reaching this phone. Open the app to keep them.",
        Event::Expired => "Calls no longer reach this phone. Open the app to receive them again.",
        Event::RegistrationFailing => "Calls do not reach this phone at the moment. Open the app to see why.",
        Event::RegistrationLost => "The phone server refuses this phone. Open the app to check the account.",
        Event::Test => "Test push",
    };
    serde_json::json!({"alert": {"title": title}, "mutable-content": 1})
}

/// Encodes `push` within `limit` bytes; the caller's name and address are shortened, and sealed where there is a key.
fn fit(
    push: &Push,
    key: Option<&PublicKey>,
    limit: usize,
    encode_whole: impl Fn(&Object) -> Vec<u8>,
) -> Result<Vec<u8>, Oversized> {
    // A notice that a call is over is no call: there is nowhere to connect to, and nothing to be in time for.
    let calls = push.event != Event::CallEnded;
    let (instance, call) = (push.instance.to_string(), push.call.map(|call| call.to_string()));
    let whole = |from: Option<&str>, name: Option<&str>, extra: &[(&'static str, Value)], sealed: Option<&str>| {
        encode_whole(&Object {
            v: 1,
            event: push.event.name(),
            instance: &instance,
            call: call.as_deref(),
            from,
            name,
            sealed,
            edge: calls.then_some(&*push.edge),
            sent_at: push.sent_at,
            deadline: calls.then_some(push.deadline),
            extra: Extra(extra),
        })
    };
    let Some(key) = key else {
        return shortened(push, limit, |from, name| whole(from, name, &push.extra, None));
    };
    if push.from.is_none() && push.name.is_none() && push.extra.is_empty() {
        return within(whole(None, None, &[], None), limit);
    }
    let around = whole(None, None, &[], Some("")).len();
    let room = sealed::plaintext_room(limit.saturating_sub(around));
    let told = shortened(push, room, |from, name| encode(&CallerFields { from, name, extra: Extra(&push.extra) }))?;
    // If nothing can be sealed, no caller is named, and the device is woken all the same.
    let context = sealed::Context { event: push.event.name(), instance: &instance, call: call.as_deref() };
    let sealed = sealed::seal(key, &context, told);
    within(whole(None, None, &[], sealed.as_deref()), limit)
}

fn within(bytes: Vec<u8>, limit: usize) -> Result<Vec<u8>, Oversized> {
    if bytes.len() <= limit { Ok(bytes) } else { Err(Oversized) }
}

/// Encodes the address and the name of the caller within `limit` bytes, shortening the name and then the address.
fn shortened(
    push: &Push,
    limit: usize,
    encode: impl Fn(Option<&str>, Option<&str>) -> Vec<u8>,
) -> Result<Vec<u8>, Oversized> {
    let mut name = push.name.as_deref().map(|name| visible(name, NAME_MAX)).filter(|text| !text.is_empty());
    let mut from = push.from.as_deref().map(|from| visible(from, FROM_MAX)).filter(|text| !text.is_empty());
    loop {
        let bytes = encode(from.as_deref(), name.as_deref());
        let excess = match bytes.len().checked_sub(limit) {
            None | Some(0) => return Ok(bytes),
            Some(excess) => excess,
        };
        let shortened = if name.is_some() { &mut name } else { &mut from };
        match shortened {
            Some(text) => shorten(text, excess),
            None => return Err(Oversized),
        }
        if shortened.as_ref().is_some_and(String::is_empty) {
            *shortened = None;
        }
    }
}

/// Takes graphemes off the end until at least `excess` bytes of JSON are gone, or all.
fn shorten(text: &mut String, excess: usize) {
    let mut gone = 0;
    while gone < excess {
        let Some((start, last)) = text.grapheme_indices(true).next_back() else { return };
        // Only these two are escaped: control characters are no longer there.
        gone += last.len() + last.matches(['"', '\\']).count();
        text.truncate(start);
    }
}

/// `text` without what a screen does not show or is misled by: control characters, format characters (Unicode Cf, those that
/// turn the reading direction among them), line and paragraph separators, what has no glyph ([`is_blank`]); cut to `most`. A joiner stays where it
/// shows, a variation selector behind what it may vary. Empty where only space is left.
fn visible(text: &str, most: Longest) -> String {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, PrivateUse};
    // Without the tables of Unicode, which no other part of a call needs: each character is a grapheme.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return if text.trim().is_empty() { String::new() } else { text[..text.len().min(most.graphemes)].to_owned() };
    }
    let hostile = |c: char| {
        is_blank(c)
            || matches!(c.general_category(), Control | Format | LineSeparator | ParagraphSeparator | PrivateUse)
    };
    let mut rest = text.chars().filter(|&c| joiners::is_one(c) || !hostile(c)).peekable();
    let mut text = String::new();
    while let Some(c) = rest.next() {
        if is_variation(c) {
            if text.chars().next_back().is_some_and(|before| !before.is_whitespace() && !is_variation(before)) {
                text.push(c);
            }
        } else if !joiners::is_one(c) || rest.peek().is_some_and(|&next| joiners::shows(&text, c, next)) {
            text.push(c);
        }
    }
    let ends = text.grapheme_indices(true).map(|(start, grapheme)| start + grapheme.len());
    let end = ends.take(most.graphemes).take_while(|end| *end <= most.bytes).last().unwrap_or(0);
    text.truncate(end);
    if text.trim().is_empty() {
        text.clear();
    }
    text
}

/// Whether a character chooses how the one before it is drawn, emoji or text.
fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}')
}

/// A caller's address as a push tells it.
pub fn shown_address(address: &str) -> String {
    visible(address, FROM_MAX)
}

/// A caller's name as a push tells it; `None` where nothing of it shows.
pub fn shown_name(name: &str) -> Option<String> {
    Some(visible(name, NAME_MAX)).filter(|shown| !shown.is_empty())
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    // Writing strings, numbers and string keys into memory cannot fail.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;
    use crate::hpke::PrivateKey;

    fn push(event: Event) -> Push {
        Push {
            event,
            instance: InstanceId::new(1, ShardTag(1)),
            call: Some(CallId::new(2, ShardTag(1))),
            from: Some("sip:bob@example.com".into()),
            name: Some("Bob".into()),
            edge: "relay1.example.net:5061".into(),
            sent_at: 1_795_000_000,
            deadline: 1_795_000_030,
            made_at: crate::clock::now(),
            extra: Vec::new(),
        }
    }

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_call_is_the_object_of_the_contract_beside_an_empty_aps() {
        let push = push(Event::Call);
        let body = parsed(&apns(&push, None).unwrap());
        let object = serde_json::json!({
            "v": 1, "event": "call", "instance": push.instance.to_string(), "call": push.call.unwrap().to_string(),
            "from": "sip:bob@example.com", "name": "Bob", "edge": "relay1.example.net:5061",
            "sent_at": 1_795_000_000, "deadline": 1_795_000_030,
        });
        assert_eq!(body, serde_json::json!({"aps": {}, "sipwake": object}));
        assert_eq!(parsed(fcm(&push, None).unwrap().as_bytes()), object);
    }

    #[test]
    fn a_calls_push_that_has_waited_says_how_long_the_call_waits_from_now_on() {
        let ago = |seconds| crate::clock::now().checked_sub(std::time::Duration::from_secs(seconds)).unwrap();
        for (event, waited, sent_at) in [
            (Event::Call, 0, None),
            (Event::Call, 22, Some(1_795_000_022)),
            (Event::Call, 40, Some(1_795_000_030)),
            (Event::MissedCall, 22, None),
        ] {
            let push = Push { made_at: ago(waited), ..push(event) };
            let renewed = push.renewed();
            assert_eq!(renewed.as_ref().map(|push| push.sent_at), sent_at, "{event:?} after {waited} s");
            assert!(renewed.is_none_or(|renewed| renewed.deadline == push.deadline && renewed.call == push.call));
        }
    }

    #[test]
    fn absent_members_are_absent_and_further_ones_are_added() {
        let push = Push {
            call: None,
            from: None,
            name: None,
            extra: vec![("status", 403.into())],
            ..push(Event::RegistrationLost)
        };
        let object = parsed(fcm(&push, None).unwrap().as_bytes());
        let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["deadline", "edge", "event", "instance", "sent_at", "status", "v"]);
    }

    #[test]
    fn a_renewal_is_silent_and_every_other_event_but_a_call_shows_a_title() {
        assert_eq!(aps(&push(Event::Renew))["content-available"], 1);
        let emptied = Push { extra: vec![("waiting", false.into())], ..push(Event::Voicemail) };
        assert_eq!(aps(&emptied)["content-available"], 1, "nothing to show");
        for event in [Event::Message, Event::Voicemail, Event::MissedCall, Event::Expiring, Event::Expired, Event::Test]
        {
            assert!(aps(&push(event))["alert"]["title"].is_string(), "{event:?}");
        }
    }

    #[test]
    fn a_hostile_name_is_made_safe() {
        let hostile = "Bob\0\r\n\"},\"event\":\"test\"\u{202e}\u{85}\\%0d%0a";
        let push = Push { name: Some(hostile.into()), ..push(Event::Call) };
        let body = parsed(&apns(&push, None).unwrap());
        assert_eq!(body["sipwake"]["event"], "call");
        assert_eq!(body["sipwake"]["name"], "Bob\"},\"event\":\"test\"\\%0d%0a");
    }

    #[test]
    fn what_is_too_large_is_shortened_name_first_and_never_inside_a_character() {
        type Length = fn(&Push) -> usize;
        let cases: [(Length, usize, Event); 3] = [
            (|push| apns(push, None).unwrap().len(), VOIP_LIMIT, Event::Call),
            (|push| apns(push, None).unwrap().len(), ALERT_LIMIT, Event::Message),
            (|push| fcm(push, None).unwrap().len() + KEY.len(), FCM_LIMIT, Event::Call),
        ];
        for (length, limit, event) in cases {
            for unit in ["a", "é", "漢", "🦀", "\"", "\\", "\"é"] {
                let long = Push { name: Some(unit.repeat(6_000).into()), ..push(event) };
                let size = length(&long);
                assert!(size <= limit, "{unit:?} {event:?}: {size} of {limit}");
                let body = parsed(fcm(&long, None).unwrap().as_bytes());
                assert_eq!(body["from"], "sip:bob@example.com", "the name gives way first");
                assert_eq!(body["name"].as_str().unwrap().graphemes(true).count(), NAME_MAX.graphemes);
            }
            let name = format!("Zoe{}, the e\u{301}", "\u{301}".repeat(6_000));
            let body = parsed(fcm(&Push { name: Some(name.into()), ..push(event) }, None).unwrap().as_bytes());
            assert_eq!(body["name"], "Zo", "a grapheme is kept whole, or not at all");
            let long = Push { from: Some("é".repeat(6_000).into()), ..push(event) };
            assert!(length(&long) <= limit);
        }
    }

    #[test]
    fn no_format_character_of_any_kind_is_shown() {
        let name = "\u{200b}B\u{200d}o\u{ad}b\u{2066}\u{202e}\u{feff}\u{600}\u{e0001}\u{e0041}\u{110bd}\u{2028}\u{7f}";
        let body = parsed(fcm(&Push { name: Some(name.into()), ..push(Event::Call) }, None).unwrap().as_bytes());
        assert_eq!(body["name"], "Bob");
    }

    #[test]
    fn a_name_that_shows_nothing_is_none() {
        let blank = [
            "\u{115f}",
            "\u{1160}",
            "\u{3164}",
            "\u{ffa0}",
            "\u{2800}",
            "\u{34f}",
            "\u{17b4}",
            "\u{fe0f}",
            "\u{180b}",
            "\u{e0100}",
            "\u{fffe}",
            "\u{10ffff}",
            "\u{fdd0}",
            "\u{e000}",
            "\u{2065}",
            "\u{fff0}",
            " ",
            "\u{3000}",
        ];
        for one in blank {
            for name in [one.repeat(40), format!(" {one} {one}")] {
                assert_eq!(shown_name(&name), None, "{name:?}");
            }
        }
        assert_eq!(shown_name("B\u{3164}o\u{2800}b").as_deref(), Some("Bob"));
        for name in ["\u{2764}\u{fe0f} Bob", "1\u{fe0f}\u{20e3}"] {
            assert_eq!(shown_name(name).as_deref(), Some(name));
        }
        assert_eq!(shown_address("sip:b\u{202e}ob@127.0.0.1"), "sip:bob@127.0.0.1");
    }

    #[test]
    fn a_name_of_long_characters_is_cut_by_its_bytes_and_between_two_characters() {
        let family = "👩\u{200d}👩\u{200d}👧\u{200d}👦";
        for (unit, fit) in [(family, 16), ("o\u{300}\u{301}\u{302}\u{303}", 44), ("ก\u{e49}\u{e49}", 44)] {
            let long = Push { name: Some(unit.repeat(2_000).into()), ..push(Event::Call) };
            assert_eq!(parsed(fcm(&long, None).unwrap().as_bytes())["name"], unit.repeat(fit), "{unit}");
        }
    }

    #[test]
    fn what_is_sealed_is_nowhere_in_the_clear_and_is_read_by_its_device_alone() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        for event in [Event::Call, Event::Message, Event::Voicemail, Event::MissedCall, Event::RegistrationFailing] {
            let extra = vec![("account", "sip:bob@example.com".into()), ("new", 2.into())];
            let push = Push { extra, ..push(event) };
            let clear = parsed(fcm(&push, None).unwrap().as_bytes());
            let for_fcm = fcm(&push, public.as_ref()).unwrap();
            let for_apns = apns(&push, public.as_ref()).unwrap();
            for body in [for_fcm.as_bytes(), &for_apns] {
                let text = String::from_utf8_lossy(body).to_lowercase();
                assert!(!text.contains("bob@") && !text.contains("\"bob"), "{text}");
            }
            for object in [parsed(for_fcm.as_bytes()), parsed(&for_apns)["sipwake"].clone()] {
                let mut keys: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
                keys.sort_unstable();
                assert_eq!(keys, ["call", "deadline", "edge", "event", "instance", "sealed", "sent_at", "v"]);
                assert_eq!(sealed::opened(&key, &object).unwrap(), clear);
                assert_eq!(sealed::opened(&PrivateKey::generate().unwrap(), &object), None);
            }
        }
        for event in [Event::CallEnded, Event::Renew, Event::Test] {
            let push = Push { from: None, name: None, ..push(event) };
            assert_eq!(fcm(&push, public.as_ref()), fcm(&push, None), "it tells nothing");
        }
    }

    #[test]
    fn what_is_sealed_fits_whatever_the_caller_is_called_and_the_name_gives_way_first() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public();
        for event in [Event::Call, Event::Message] {
            for unit in ["a", "é", "漢", "🦀", "\"", "\\"] {
                let long = Push { name: Some(unit.repeat(6_000).into()), ..push(event) };
                let limit = if event == Event::Call { VOIP_LIMIT } else { ALERT_LIMIT };
                let body = apns(&long, public.as_ref()).unwrap();
                assert!(body.len() <= limit, "{unit}: {}", body.len());
                let body = fcm(&long, public.as_ref()).unwrap();
                assert!(body.len() + KEY.len() <= FCM_LIMIT, "{unit}: {}", body.len());
                let opened = sealed::opened(&key, &parsed(body.as_bytes())).unwrap();
                assert_eq!(opened["from"], "sip:bob@example.com");
                assert!(opened["name"].as_str().unwrap().graphemes(true).count() >= 60, "{unit}");
            }
        }
        let large = Push { extra: vec![("reason", "x".repeat(3_500).into())], ..push(Event::Test) };
        assert_eq!(fcm(&large, public.as_ref()), Err(Oversized));
        assert!(fcm(&large, None).is_ok());
    }

    #[test]
    fn what_cannot_be_shortened_is_refused() {
        let push = Push { extra: vec![("reason", "x".repeat(6_000).into())], ..push(Event::Test) };
        assert_eq!(apns(&push, None), Err(Oversized));
        assert_eq!(fcm(&push, None), Err(Oversized));
    }
}
