//! The body of `POST /v1/instances`, parsed into an [`Enable`] that is right by construction.
//!
//! Invariant: every error of a body is reported in one answer; none repeats a value.

use super::device_body::{self, LifetimeRange};
use super::json::{At, Errors, Fields, Json};
use super::problem::Problem;
use super::sip_uri::{MAX_URI, SipUri};
use crate::secret::{Aor, Ha1Text, Password};
use crate::service::apps::Enable;
use crate::vault::record::{Account, Device, Ha1s, Proof, Provider, WakeFor};

/// The longest user name of a digest, in characters.
pub(super) const MAX_USERNAME: usize = 128;
/// The longest password, in characters.
const MAX_PASSWORD: usize = 256;
/// The longest realm, in characters.
const MAX_REALM: usize = 255;
/// The longest label of a device, in characters.
const MAX_LABEL: usize = 64;

/// The rules that a body is checked against.
pub struct Rules {
    /// The lifetimes that the operator allows.
    pub lifetime: LifetimeRange,
    /// The App has an APNs key.
    pub apns: bool,
    /// The App has an FCM project.
    pub fcm: bool,
    /// The App has a VAPID key.
    pub webpush: bool,
    /// The present, in seconds since 1970.
    pub now_ms: u64,
}

/// Reads an [`Enable`].
pub fn read(body: &Json, rules: &Rules) -> Result<Enable, Problem> {
    let mut errors = Errors::default();
    let enable = enable(body, rules, &mut errors);
    errors.into_result(enable)
}

fn enable(body: &Json, rules: &Rules, errors: &mut Errors) -> Option<Enable> {
    let body = At::root(body).object(&["account", "device", "lifetime_s", "wake_for"], errors)?;
    let account = body.require("account", errors).and_then(|at| account(&at, errors));
    let device = body.require("device", errors).and_then(|at| device(&at, rules, errors));
    let lifetime_s = match body.get("lifetime_s") {
        Some(at) => rules.lifetime.read(&at, errors),
        None => Some(rules.lifetime.default_s),
    };
    let wake_for = match body.get("wake_for") {
        Some(at) => device_body::wake_for(&at, errors),
        None => Some(WakeFor { call: true, message: true, voicemail: true, missed_call: true }),
    };
    Some(Enable { account: account?, device: device?, lifetime_s: lifetime_s?, wake_for: wake_for? })
}

fn account(at: &At, errors: &mut Errors) -> Option<Account> {
    let known = ["aor", "auth_username", "password", "ha1", "registrar", "outbound_proxy"];
    let fields = at.object(&known, errors)?;
    let aor = fields.require("aor", errors).and_then(|at| uri(&at, SipUri::address_of_record, errors));
    let auth_username = match fields.get("auth_username") {
        Some(at) => at.text(1, MAX_USERNAME, errors).map(Box::from),
        None => aor.as_ref().and_then(|aor| username_of(aor, &fields, errors)),
    };
    let proof = proof(&fields, errors);
    let registrar = optional(fields.get("registrar"), |at| server(at, aor.as_ref(), errors));
    let outbound_proxy = optional(fields.get("outbound_proxy"), |at| server(at, aor.as_ref(), errors));
    Some(Account {
        aor: Aor::new(&aor?.to_string()),
        auth_username: auth_username?,
        proof: proof?,
        registrar: registrar?.map(|uri| uri.to_string().into()),
        outbound_proxy: outbound_proxy?.map(|uri| uri.to_string().into()),
    })
}

pub(super) fn username_of(aor: &SipUri, fields: &Fields, errors: &mut Errors) -> Option<Box<str>> {
    match aor.plain_user() {
        Some(user) => Some(user.into()),
        None => errors.add(&fields.pointer_to("auth_username"), "name it: the user of the AOR is not plain text"),
    }
}

pub(super) fn proof(fields: &Fields, errors: &mut Errors) -> Option<Proof> {
    match (fields.get("password"), fields.get("ha1")) {
        (Some(at), None) => at.text(1, MAX_PASSWORD, errors).map(|text| Proof::Password(Password::new(text))),
        (None, Some(at)) => ha1(&at, errors),
        (None, None) => errors.add(fields.pointer(), "one of password and ha1 is required"),
        (Some(_), Some(_)) => errors.add(fields.pointer(), "expected one of password and ha1, not both"),
    }
}

/// Reads HA1s that stand by themselves, as `account.ha1` has them.
///
/// # Errors
/// Every place that is wrong.
pub fn read_ha1(body: &Json) -> Result<Proof, Problem> {
    let mut errors = Errors::default();
    let proof = ha1(&At::root(body), &mut errors);
    errors.into_result(proof)
}

fn ha1(at: &At, errors: &mut Errors) -> Option<Proof> {
    let fields = at.object(&["realm", "MD5", "SHA-256", "SHA-512-256"], errors)?;
    let realm = fields.require("realm", errors).and_then(|at| at.text(1, MAX_REALM, errors));
    let md5 = optional(fields.get("MD5"), |at| digest(at, 32, errors));
    let sha256 = optional(fields.get("SHA-256"), |at| digest(at, 64, errors));
    let sha512_256 = optional(fields.get("SHA-512-256"), |at| digest(at, 64, errors));
    let (md5, sha256, sha512_256) = (md5?, sha256?, sha512_256?);
    if md5.is_none() && sha256.is_none() && sha512_256.is_none() {
        return errors.add(fields.pointer(), "at least one of MD5, SHA-256 and SHA-512-256 is required");
    }
    Some(Proof::Ha1(Ha1s { realm: realm?.into(), md5, sha256, sha512_256 }))
}

/// One HA1 of `digits` hexadecimal digits, in lower case.
fn digest(at: &At, digits: usize, errors: &mut Errors) -> Option<Ha1Text> {
    match at.value {
        Json::Text(text) if text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Some(Ha1Text::new(&zeroize::Zeroizing::new(text.to_ascii_lowercase())))
        }
        _ => errors.add(&at.pointer, format!("expected {digits} hexadecimal digits")),
    }
}

pub(super) fn uri(
    at: &At,
    parse: impl FnOnce(&str) -> Result<SipUri, &'static str>,
    errors: &mut Errors,
) -> Option<SipUri> {
    let text = at.text(1, MAX_URI, errors)?;
    parse(text).map_err(|expected| errors.add::<()>(&at.pointer, expected)).ok()
}

/// The registrar or the proxy of an account. That of a `sips:` one is reached by TLS alone (RFC 3261 §26.2.2).
pub(super) fn server(at: &At, aor: Option<&SipUri>, errors: &mut Errors) -> Option<SipUri> {
    let secure = aor.is_some_and(SipUri::is_secure);
    let parse = |text: &str| match SipUri::server(text)? {
        server if secure && server.is_in_the_clear() => {
            Err("expected transport=tls or none: the account is a sips: one, and reached by TLS alone")
        }
        server => Ok(server),
    };
    uri(at, parse, errors)
}

fn device(at: &At, rules: &Rules, errors: &mut Errors) -> Option<Device> {
    let fields = at.object(&["call_push", "alert_push", "label", "public_key"], errors)?;
    let target = |at: &At, errors: &mut Errors| {
        let target = device_body::push_target(at, rules.now_ms, errors)?;
        let (served, service) = match target.provider {
            Provider::Fcm => (rules.fcm, "FCM"),
            Provider::WebPush => (rules.webpush, "Web Push"),
            Provider::ApnsProduction | Provider::ApnsSandbox => (rules.apns, "APNs"),
        };
        if !served {
            let why = format!("this relay has no {service} configured for this app");
            return errors.add(&format!("{}/provider", at.pointer), why);
        }
        Some(target)
    };
    let call_push = fields.require("call_push", errors).and_then(|at| target(&at, errors));
    let alert_push = optional(fields.get("alert_push"), |at| target(at, errors));
    let label = optional(fields.get("label"), |at| at.text(0, MAX_LABEL, errors));
    let public_key = optional(fields.get("public_key"), |at| device_body::public_key(at, errors));
    let label = label?.filter(|label| !label.is_empty());
    let mut device = Device { call_push: call_push?, alert_push: alert_push?, label: label.map(Box::from) };
    device.set_public_key(public_key?);
    Some(device)
}

/// `Some(None)` for a field that is not there, `None` for one that is wrong.
fn optional<'a, T>(at: Option<At<'a>>, read: impl FnOnce(&At<'a>) -> Option<T>) -> Option<Option<T>> {
    match at {
        Some(at) => read(&at).map(Some),
        None => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;

    const RULES: Rules = Rules {
        lifetime: LifetimeRange { min_s: 259_200, default_s: 432_000, max_s: 518_400 },
        apns: true,
        fcm: false,
        webpush: false,
        now_ms: 1_795_000_000_123,
    };

    fn places(body: serde_json::Value) -> Vec<String> {
        let body = json::parse(body.to_string().as_bytes()).unwrap();
        let problem = read(&body, &RULES).expect_err("a refusal");
        problem.errors().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
    }

    fn token() -> String {
        "0123456789ABCDEF".repeat(4)
    }

    #[test]
    fn the_least_body_is_filled_with_defaults() {
        let body = serde_json::json!({
            "account": {"aor": "sip:alice@Example.com", "password": "wonder"},
            "device": {"call_push": {"provider": "apns", "token": token()}},
        });
        let enable = read(&json::parse(body.to_string().as_bytes()).unwrap(), &RULES).unwrap();
        assert_eq!(enable.account.aor.expose(), "sip:alice@example.com");
        assert_eq!(&*enable.account.auth_username, "alice");
        assert_eq!(enable.account.proof, Proof::Password(Password::new("wonder")));
        assert_eq!(enable.lifetime_s, 432_000);
        assert_eq!(enable.device.call_push.provider, Provider::ApnsProduction);
        assert_eq!(enable.device.call_push.confirmed_at_ms, RULES.now_ms);
        assert_eq!(enable.device.call_push.token.expose(), token().to_lowercase());
        assert!(enable.wake_for.call && enable.wake_for.missed_call);
    }

    #[test]
    fn an_ha1_stands_in_for_the_password() {
        let body = serde_json::json!({
            "account": {
                "aor": "sip:alice@example.com", "auth_username": "alice2",
                "ha1": {"realm": "example.com", "MD5": "0A".repeat(16), "SHA-256": "b".repeat(64)},
                "registrar": "sip:example.com;transport=tls",
            },
            "device": {"call_push": {"provider": "apns", "token": token(), "environment": "sandbox"}, "label": "Pixel 8"},
            "lifetime_s": 259_200,
            "wake_for": ["call"],
        });
        let enable = read(&json::parse(body.to_string().as_bytes()).unwrap(), &RULES).unwrap();
        let md5 = Some(Ha1Text::new(&"0a".repeat(16)));
        let sha256 = Some(Ha1Text::new(&"b".repeat(64)));
        assert_eq!(
            enable.account.proof,
            Proof::Ha1(Ha1s { realm: "example.com".into(), md5, sha256, sha512_256: None })
        );
        assert_eq!(enable.account.registrar.as_deref(), Some("sip:example.com;transport=tls"));
        assert_eq!(enable.device.call_push.provider, Provider::ApnsSandbox);
        assert!(enable.wake_for.call && !enable.wake_for.message);
    }

    #[test]
    fn every_wrong_place_is_named_in_one_answer() {
        let body = serde_json::json!({
            "account": {"aor": "alice", "password": 7, "registrar": "http://example.com", "outbound_proxy": [], "pin": 1},
            "device": {
                "call_push": {"provider": "fcm", "token": "a b"},
                "alert_push": {"provider": "carrier-pigeon"},
                "label": "x".repeat(65),
            },
            "lifetime_s": 60,
            "wake_for": ["call", "fire"],
            "comment": true,
        });
        let expected = [
            "/comment",
            "/account/pin",
            "/account/aor",
            "/account/password",
            "/account/registrar",
            "/account/outbound_proxy",
            "/device/call_push/token",
            "/device/alert_push/provider",
            "/device/alert_push/token",
            "/device/label",
            "/lifetime_s",
            "/wake_for/1",
        ];
        assert_eq!(places(body), expected);
    }

    #[test]
    fn of_a_sips_account_no_server_is_reached_in_the_clear() {
        let device = serde_json::json!({"call_push": {"provider": "apns", "token": token()}});
        let account = |aor: &str, registrar: &str, proxy: &str| {
            let account =
                serde_json::json!({"aor": aor, "password": "p", "registrar": registrar, "outbound_proxy": proxy});
            serde_json::json!({"account": account, "device": device})
        };
        let (clear, tls) = ("sip:b;transport=tcp", "sip:b;transport=tls");
        assert_eq!(places(account("sips:a@b", clear, tls)), ["/account/registrar"]);
        assert_eq!(places(account("SIPS:a@b", tls, "sip:b;transport=udp")), ["/account/outbound_proxy"]);
        for (aor, registrar, proxy) in
            [("sips:a@b", tls, "sip:b"), ("sips:a@b", "sips:b", tls), ("sip:a@b", clear, clear)]
        {
            let body = json::parse(account(aor, registrar, proxy).to_string().as_bytes()).unwrap();
            assert!(read(&body, &RULES).is_ok(), "{aor} {registrar} {proxy}");
        }
    }

    #[test]
    fn a_provider_that_the_app_does_not_have_is_refused() {
        let body = serde_json::json!({
            "account": {"aor": "sip:alice@example.com", "password": "wonder"},
            "device": {"call_push": {"provider": "fcm", "token": "t"}},
        });
        assert_eq!(places(body), ["/device/call_push/provider"]);
    }

    #[test]
    fn one_proof_is_wanted_neither_none_nor_two() {
        let device = serde_json::json!({"call_push": {"provider": "apns", "token": token()}});
        let ha1 = serde_json::json!({"realm": "r", "MD5": "0".repeat(32)});
        for (account, place) in [
            (serde_json::json!({"aor": "sip:a@b"}), "/account"),
            (serde_json::json!({"aor": "sip:a@b", "password": "p", "ha1": ha1}), "/account"),
            (serde_json::json!({"aor": "sip:a@b", "ha1": {"realm": "r"}}), "/account/ha1"),
            (serde_json::json!({"aor": "sip:a@b", "ha1": {"realm": "r", "MD5": "xyz"}}), "/account/ha1/MD5"),
            (serde_json::json!({"aor": "sip:a@b", "password": ""}), "/account/password"),
        ] {
            assert_eq!(places(serde_json::json!({"account": account, "device": device})), [place]);
        }
    }

    #[test]
    fn an_environment_is_for_apns_alone() {
        let rules = Rules { fcm: true, ..RULES };
        let body = r#"{"account": {"aor": "sip:a@b", "password": "p"}, "device":
            {"call_push": {"provider": "fcm", "token": "t", "environment": "sandbox"}}}"#;
        let problem = read(&json::parse(body.as_bytes()).unwrap(), &rules).err().unwrap();
        let places: Vec<_> = problem.errors().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!(places, ["/device/call_push/environment"]);
    }
}
