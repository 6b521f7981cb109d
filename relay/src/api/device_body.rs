//! What an enabling and a change have in common (push targets, lifetime, events), and the body of
//! `PATCH /v1/instances/{id}`.
//!
//! Invariant: every error of a body is reported in one answer; none repeats a value.

use super::json::{At, Errors, Json};
use super::problem::Problem;
use crate::hpke::PublicKey;
use crate::secret::PushToken;
use crate::service::types::{Change, Field};
use crate::vault::record::{Presence, Provider, PushTarget, WakeFor};

/// The hexadecimal digits of an APNs token: 64 today, and Apple says that it may grow.
const APNS_TOKEN_DIGITS: std::ops::RangeInclusive<usize> = 64..=200;
/// The longest FCM token, in characters.
const MAX_FCM_TOKEN: usize = 4096;

/// The lifetimes that an operator allows, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifetimeRange {
    /// The shortest.
    pub min_s: u64,
    /// What an app gets that asks for none.
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
    let body = At::root(body).object(&["device", "lifetime_s", "presence", "wake_for"], errors)?;
    let mut change = Change::default();
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
    change.presence = body.get("presence").and_then(|at| {
        at.choice(&[("foreground", Presence::Foreground), ("background", Presence::Background)], errors)
    });
    change.wake_for = body.get("wake_for").and_then(|at| wake_for(&at, errors));
    Some(change)
}

/// Reads one address of a push service.
pub fn push_target(at: &At, now_ms: u64, errors: &mut Errors) -> Option<PushTarget> {
    let fields = at.object(&["provider", "token", "environment"], errors)?;
    let apns = fields.require("provider", errors).and_then(|at| at.choice(&[("apns", true), ("fcm", false)], errors));
    let provider = match (apns, fields.get("environment")) {
        (Some(false), None) => Some(Provider::Fcm),
        (Some(false), Some(at)) => errors.add(&at.pointer, "expected no environment: it is for apns alone"),
        (_, None) => apns.map(|_| Provider::ApnsProduction),
        (_, Some(at)) => {
            at.choice(&[("production", Provider::ApnsProduction), ("sandbox", Provider::ApnsSandbox)], errors)
        }
    };
    let token = fields.require("token", errors).and_then(|at| token(&at, apns, errors));
    Some(PushTarget::new(provider?, token?, now_ms))
}

/// Reads the key that what names a person is sealed to.
pub fn public_key(at: &At, errors: &mut Errors) -> Option<PublicKey> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    PublicKey::read(text).map_err(|bad| errors.add::<()>(&at.pointer, bad.to_string())).ok()
}

/// A token in its service's form; `apns` is `None` when the service is not known.
fn token(at: &At, apns: Option<bool>, errors: &mut Errors) -> Option<PushToken> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    match apns? {
        true => {
            let fits = APNS_TOKEN_DIGITS.contains(&text.len())
                && text.len().is_multiple_of(2)
                && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !fits {
                return errors.add(&at.pointer, "expected an even number of hexadecimal digits, 64 to 200");
            }
            Some(PushToken::new(&text.to_ascii_lowercase()))
        }
        false => {
            let fits = (1..=MAX_FCM_TOKEN).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
            if !fits {
                return errors.add(&at.pointer, "expected 1 to 4096 visible ASCII characters");
            }
            Some(PushToken::new(text))
        }
    }
}

/// Reads the events that wake a device: at least one, each once.
pub fn wake_for(at: &At, errors: &mut Errors) -> Option<WakeFor> {
    const WORDS: &[(&str, usize)] = &[("call", 0), ("message", 1), ("voicemail", 2), ("missed-call", 3)];
    let list = at.list(errors)?;
    let mut named = [false; WORDS.len()];
    for at in &list {
        if let Some(event) = at.choice(WORDS, errors) {
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
