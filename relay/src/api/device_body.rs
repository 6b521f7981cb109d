//! The shared parts of an enabling and a change (push targets, lifetime, events), and the body of
//! `PATCH /v1/instances/{id}`.
//!
//! Invariant: every error of a body is reported in one answer; none repeats a value.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::json::{At, Errors, Json};
use super::problem::Problem;
use super::sip_uri::IN_ASCII;
use crate::hpke::PublicKey;
use crate::push::webpush;
use crate::secret::PushToken;
use crate::service::devices::{Change, Field};
use crate::vault::record::{Presence, Provider, PushTarget, WakeFor, WebPushKeys};

/// The hexadecimal digits of an APNs token: 64 today, and Apple says that it may grow.
const APNS_TOKEN_DIGITS: std::ops::RangeInclusive<usize> = 64..=200;
/// The longest FCM token, in characters.
const MAX_FCM_TOKEN: usize = 4096;
/// The longest endpoint of a Web Push subscription, in characters; those of browsers have some hundreds.
const MAX_ENDPOINT: usize = 2048;

/// The lifetimes that an operator allows, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeRange {
    /// The shortest.
    pub min_s: u64,
    /// The lifetime of an app that asks for none.
    pub default_s: u64,
    /// The longest; never above 518,400 (6 days).
    pub max_s: u64,
}

impl LifetimeRange {
    /// Reads `lifetime_s`.
    pub fn read(&self, at: &At, errors: &mut Errors) -> Option<u64> {
        at.whole(self.min_s, self.max_s, errors)
    }
}

/// Reads the body of a change; `now_ms` is the present, in milliseconds since 1970.
pub fn read_change(body: &Json, lifetime: LifetimeRange, now_ms: u64) -> Result<Change, Problem> {
    let mut errors = Errors::default();
    let change = change(body, lifetime, now_ms, &mut errors);
    errors.into_result(change)
}

fn change(body: &Json, lifetime: LifetimeRange, now_ms: u64, errors: &mut Errors) -> Option<Change> {
    const MEMBERS: [&str; 4] = ["device", "lifetime_s", "presence", "wake_for"];
    let body = At::root(body).object(&MEMBERS, errors)?;
    let mut change = Change::default();
    // `null` removes what can be removed (RFC 7396 §2); of all else it is the absence, as some write each member that they leave out.
    if let Some(device) =
        body.get("device").and_then(|at| at.object(&["call_push", "alert_push", "public_key"], errors))
    {
        change.call_push = device.get("call_push").and_then(|at| push_target(&at, now_ms, errors));
        change.alert_push = match device.get_or_null("alert_push") {
            None => Field::Keep,
            Some(at) if at.is_null() => Field::Clear,
            Some(at) => push_target(&at, now_ms, errors).map_or(Field::Keep, Field::Set),
        };
        change.public_key = match device.get_or_null("public_key") {
            None => Field::Keep,
            Some(at) if at.is_null() => Field::Clear,
            Some(at) => public_key(&at, errors).map_or(Field::Keep, Field::Set),
        };
    }
    change.lifetime_s = body.get("lifetime_s").and_then(|at| lifetime.read(&at, errors));
    change.presence = body.get("presence").and_then(|at| presence(&at, errors));
    change.wake_for = body.get("wake_for").and_then(|at| wake_for(&at, errors));
    Some(change)
}

pub(super) fn presence(at: &At, errors: &mut Errors) -> Option<Presence> {
    at.choice(&[("foreground", Presence::Foreground), ("background", Presence::Background)], errors)
}

/// The push services, as `provider` names them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Apns,
    Fcm,
    WebPush,
}

pub(super) fn kind(at: &At, errors: &mut Errors) -> Option<Kind> {
    at.choice(&[("apns", Kind::Apns), ("fcm", Kind::Fcm), ("webpush", Kind::WebPush)], errors)
}

/// Of Apple's push service.
pub(super) fn environment(at: &At, errors: &mut Errors) -> Option<Provider> {
    at.choice(&[("production", Provider::ApnsProduction), ("sandbox", Provider::ApnsSandbox)], errors)
}

/// Reads one address of a push service.
pub fn push_target(at: &At, now_ms: u64, errors: &mut Errors) -> Option<PushTarget> {
    const WEB: [&str; 3] = ["endpoint", "p256dh", "auth"];
    let fields = at.object(&["provider", "token", "environment", "endpoint", "p256dh", "auth"], errors)?;
    let kind = fields.require("provider", errors).and_then(|at| kind(&at, errors));
    if kind == Some(Kind::WebPush) {
        for key in ["token", "environment"] {
            if let Some(at) = fields.get(key) {
                errors.add::<()>(&at.pointer, format!("expected no {key}: webpush has endpoint, p256dh and auth"));
            }
        }
        let endpoint = fields.require("endpoint", errors).and_then(|at| endpoint(&at, errors));
        let p256dh = fields.require("p256dh", errors).and_then(|at| bytes::<65>(&at, errors));
        let p256dh = p256dh.and_then(|key| {
            if webpush::is_key(&key) {
                Some(key)
            } else {
                errors.add(&fields.pointer_to("p256dh"), "expected an uncompressed point of P-256 (RFC 8291)")
            }
        });
        let auth = fields.require("auth", errors).and_then(|at| bytes::<16>(&at, errors));
        let target = PushTarget::new(Provider::WebPush, endpoint?, now_ms);
        return Some(PushTarget { web: Some(Box::new(WebPushKeys { p256dh: p256dh?, auth: auth? })), ..target });
    }
    for at in WEB.into_iter().filter_map(|key| fields.get(key)) {
        errors.add::<()>(&at.pointer, "expected none: it is for webpush alone");
    }
    let provider = match (kind, fields.get("environment")) {
        (Some(Kind::Fcm), None) => Some(Provider::Fcm),
        (Some(Kind::Fcm), Some(at)) => errors.add(&at.pointer, "expected no environment: it is for apns alone"),
        (_, None) => kind.map(|_| Provider::ApnsProduction),
        (_, Some(at)) => environment(&at, errors),
    };
    let token = fields.require("token", errors).and_then(|at| token(&at, kind, errors));
    Some(PushTarget::new(provider?, token?, now_ms))
}

/// The URL that a device is pushed to.
fn endpoint(at: &At, errors: &mut Errors) -> Option<PushToken> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    let fits = (1..=MAX_ENDPOINT).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    match webpush::canonical_endpoint(text).filter(|_| fits) {
        Some(endpoint) => Some(PushToken::new(&endpoint)),
        None if text.split('/').nth(2).is_some_and(|host| !host.is_ascii()) => errors.add(&at.pointer, IN_ASCII),
        None => {
            errors.add(&at.pointer, "expected an https:// URL of at most 2048 characters, without user and fragment")
        }
    }
}

/// So many bytes in base64url, as browsers write them.
fn bytes<const N: usize>(at: &At, errors: &mut Errors) -> Option<[u8; N]> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    let read = zeroize::Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).unwrap_or_default());
    match read.as_slice().try_into() {
        Ok(bytes) => Some(bytes),
        Err(_) => errors.add(&at.pointer, format!("expected {N} bytes in base64url")),
    }
}

/// Reads the key that what names a person is sealed to.
pub fn public_key(at: &At, errors: &mut Errors) -> Option<PublicKey> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    PublicKey::read(text).map_err(|bad| errors.add::<()>(&at.pointer, bad.to_string())).ok()
}

/// A token in its service's form; `kind` is `None` when the service is not known.
fn token(at: &At, kind: Option<Kind>, errors: &mut Errors) -> Option<PushToken> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    match kind? {
        Kind::Apns => {
            let fits = APNS_TOKEN_DIGITS.contains(&text.len())
                && text.len().is_multiple_of(2)
                && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !fits {
                return errors.add(&at.pointer, "expected an even number of hexadecimal digits, 64 to 200");
            }
            Some(PushToken::new(&text.to_ascii_lowercase()))
        }
        Kind::Fcm | Kind::WebPush => {
            let fits = (1..=MAX_FCM_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return errors.add(&at.pointer, "expected 1 to 4096 visible ASCII characters");
            }
            Some(PushToken::new(text))
        }
    }
}

/// The events that wake a device, and their places in [`WakeFor`].
pub(super) const WAKE_FOR: &[(&str, usize)] = &[("call", 0), ("message", 1), ("voicemail", 2), ("missed-call", 3)];

/// Reads the events that wake a device: at least one, each once.
pub fn wake_for(at: &At, errors: &mut Errors) -> Option<WakeFor> {
    let list = at.list(errors)?;
    let mut named = [false; WAKE_FOR.len()];
    for at in &list {
        if let Some(event) = at.choice(WAKE_FOR, errors) {
            if named[event] {
                errors.add::<()>(&at.pointer, "name this event once");
            }
            named[event] = true;
        }
    }
    if list.is_empty() {
        return errors.add(&at.pointer, "expected at least one of: call, message, voicemail, missed-call");
    }
    let [call, message, voicemail, missed_call] = named;
    Some(WakeFor { call, message, voicemail, missed_call })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;

    /// A point of P-256 (RFC 8291 §5).
    const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
    const LIFETIME: LifetimeRange = LifetimeRange { min_s: 100, default_s: 200, max_s: 300 };

    fn read(body: &str) -> Result<Change, Problem> {
        read_change(&json::parse(body.as_bytes()).unwrap(), LIFETIME, 7)
    }

    #[test]
    fn a_change_names_what_changes_and_leaves_the_rest() {
        assert_eq!(read("{}").unwrap(), Change::default());
        let change = read(
            r#"{"device": {"call_push": {"provider": "fcm", "token": "new"}, "alert_push": null},
                "lifetime_s": 300, "presence": "foreground", "wake_for": ["voicemail"]}"#,
        );
        let token = PushToken::new("new");
        let expected = Change {
            call_push: Some(PushTarget::new(Provider::Fcm, token, 7)),
            alert_push: Field::Clear,
            public_key: Field::Keep,
            lifetime_s: Some(300),
            presence: Some(Presence::Foreground),
            wake_for: Some(WakeFor { call: false, message: false, voicemail: true, missed_call: false }),
        };
        assert_eq!(change.unwrap(), expected);
    }

    #[test]
    fn a_wrong_change_is_refused_with_every_place() {
        let body = r#"{"device": {"call_push": 7, "label": "x"}, "lifetime_s": 301, "presence": "asleep",
            "wake_for": [], "account": {}}"#;
        let problem = read(body).unwrap_err();
        let places: Vec<_> = problem.errors().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(places, ["/account", "/device/label", "/device/call_push", "/lifetime_s", "/presence", "/wake_for"]);
    }

    #[test]
    fn what_cannot_be_removed_stays_where_it_is_null() {
        for body in [
            r#"{"device": {"call_push": null}}"#,
            r#"{"device": null}"#,
            r#"{"lifetime_s": null, "presence": null, "wake_for": null}"#,
        ] {
            assert_eq!(read(body).unwrap(), Change::default(), "{body}");
        }
        let change = read(r#"{"device": {"call_push": null, "alert_push": null, "public_key": null}}"#).unwrap();
        assert_eq!((change.call_push, change.alert_push, change.public_key), (None, Field::Clear, Field::Clear));
        assert!(read(r#"{"device": {"call_push": {"provider": null, "token": "t"}}}"#).is_err(), "needed there");
        assert!(read(r#"{"label": null}"#).is_err(), "an unknown key");
    }

    #[test]
    fn an_endpoint_in_another_spelling_is_the_same_token() {
        let token = |endpoint: &str| {
            let auth = "AAAAAAAAAAAAAAAAAAAAAA";
            let web = serde_json::json!({"provider": "webpush", "endpoint": endpoint, "p256dh": P256DH, "auth": auth});
            let read = read(&serde_json::json!({"device": {"call_push": web}}).to_string());
            read.unwrap().call_push.unwrap().token.expose().to_owned()
        };
        for (wanted, spellings) in [
            (
                "https://push.example.com/x/Y%2fz?a=B",
                &[
                    "https://push.example.com/x/Y%2fz?a=B",
                    "HTTPS://PUSH.example.COM/x/Y%2fz?a=B",
                    "https://push.example.com:443/x/Y%2fz?a=B",
                    "https://push.example.com:/x/Y%2fz?a=B",
                    "https://push.example.com./x/Y%2fz?a=B",
                ][..],
            ),
            ("https://push.example.com/", &["https://push.example.com", "https://push.example.com:0443"]),
            ("https://push.example.com/?x", &["https://push.example.com?x"]),
            ("https://push.example.com:8443/x", &["https://Push.example.com:08443/x"]),
            ("https://[2001:db8::1]/x", &["https://[2001:DB8:0:0:0:0:0:1]:443/x"]),
            ("https://192.0.2.1/x", &["https://192.0.2.1:443/x"]),
            // Opaque: the service may tell them apart.
            ("https://push.example.com/X", &["https://push.example.com/X"]),
            ("https://push.example.com/%2F", &["https://push.example.com/%2F"]),
        ] {
            for spelling in spellings {
                assert_eq!(token(spelling), wanted, "{spelling}");
            }
        }
    }

    #[test]
    fn tokens_have_the_form_of_their_service() {
        for (provider, token, fits) in [
            ("apns", "ab".repeat(32), true),
            ("apns", "ab".repeat(100), true),
            ("apns", "ab".repeat(101), false),
            ("apns", format!("{}a", "ab".repeat(32)), false),
            ("apns", "zz".repeat(32), false),
            ("apns", "ab".repeat(8), false),
            ("fcm", "f:A-_9".to_owned(), true),
            ("fcm", "x".repeat(4096), true),
            ("fcm", "x".repeat(4097), false),
            ("fcm", String::new(), false),
            ("fcm", "a b".to_owned(), false),
            ("fcm", "é".to_owned(), false),
        ] {
            let body = serde_json::json!({"device": {"call_push": {"provider": provider, "token": token}}});
            assert_eq!(read(&body.to_string()).is_ok(), fits, "{provider} {token}");
        }
    }
}
