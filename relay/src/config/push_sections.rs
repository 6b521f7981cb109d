//! The sections of an app's push services.
//!
//! Invariant: as in `sections.rs`. No problem repeats what a key file holds.

use super::reader::Reader;
use super::secret_files::Held;
use super::values;
use super::{Apns, ApnsCredentials, Fcm, WebPush};

const ORIGIN: &str = "https://host or https://host:port, without a path";

/// `[app.apns]`.
pub(super) fn apns(mut apns: Reader<'_>) -> Apns {
    let credentials = if apns.has("certificate_file") { apns_certificate(&mut apns) } else { apns_key(&mut apns) };
    let result = Apns {
        credentials,
        endpoint: apns.optional("endpoint", ORIGIN, values::https_origin),
        ca_file: apns.file("ca_file"),
    };
    ca_needs_endpoint(&apns, result.endpoint.is_some(), result.ca_file.is_some());
    apns.finish();
    result
}

const TEN: &str = "the ten letters and digits that Apple gave";

fn ten(text: &str) -> Option<Box<str>> {
    let valid = text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then(|| text.into())
}

fn apns_key(apns: &mut Reader<'_>) -> ApnsCredentials {
    let key = apns.required_secret_file("key_file", Held::ApnsKey, "name the .p8 file of the provider key");
    if key.as_ref().is_some_and(|(_, key)| !key.expose().contains("-----BEGIN PRIVATE KEY-----")) {
        apns.problem("key_file", "holds no PKCS #8 private key in PEM", "name the .p8 file as Apple gave it");
    }
    ApnsCredentials::Key {
        key_file: key.map(|(path, _)| path).unwrap_or_default(),
        key_id: apns.required_parsed("key_id", TEN, ten).unwrap_or_default(),
        team_id: apns.required_parsed("team_id", TEN, ten).unwrap_or_default(),
    }
}

fn apns_certificate(apns: &mut Reader<'_>) -> ApnsCredentials {
    const REMEDY: &str = "name a PEM file with the certificate and its private key; to make one: \
                          openssl pkcs12 -in push.p12 -nodes -out push.pem";
    let file = apns.required_secret_file("certificate_file", Held::ApnsCertificate, REMEDY);
    if let Some((_, text)) = &file {
        let holds = |what| text.expose().contains(what);
        if !holds("-----BEGIN CERTIFICATE-----") || !holds("PRIVATE KEY-----") || holds("ENCRYPTED PRIVATE KEY") {
            apns.problem("certificate_file", "does not hold a certificate and its private key in PEM", REMEDY);
        }
    }
    for key in ["key_file", "key_id"] {
        if apns.has(key) {
            apns.problem(key, "stands beside certificate_file", "name a provider key or a certificate, not both");
            apns.ignore(key);
        }
    }
    let file = file.map(|(path, _)| path).unwrap_or_default();
    ApnsCredentials::Certificate { file, team_id: apns.optional("team_id", TEN, ten) }
}

/// `[app.fcm]`.
pub(super) fn fcm(mut fcm: Reader<'_>) -> Fcm {
    let account = fcm.required_secret_file(
        "service_account_file",
        Held::ServiceAccount,
        "name the JSON file of the service account",
    );
    if account.as_ref().is_some_and(|(_, account)| !is_service_account(account.expose())) {
        let what = "is not a service account's JSON with project_id, client_email, private_key and token_uri";
        fcm.problem("service_account_file", what, "name the file as Google gave it");
    }
    let result = Fcm {
        service_account_file: account.map(|(path, _)| path).unwrap_or_default(),
        endpoint: fcm.optional("endpoint", ORIGIN, values::https_origin),
        ca_file: fcm.file("ca_file"),
    };
    fcm.finish();
    result
}

/// `[app.webpush]`.
pub(super) fn webpush(mut webpush: Reader<'_>) -> WebPush {
    let make = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out webpush.pem";
    let key = webpush.required_secret_file("key_file", Held::WebPushKey, make);
    if key.as_ref().is_some_and(|(_, key)| !key.expose().contains("-----BEGIN PRIVATE KEY-----")) {
        webpush.problem("key_file", "holds no PKCS #8 private key in PEM", make);
    }
    let result = WebPush {
        key_file: key.map(|(path, _)| path).unwrap_or_default(),
        subject: webpush.required_parsed("subject", SUBJECT, subject).unwrap_or_default(),
        ca_file: webpush.file("ca_file"),
    };
    webpush.finish();
    result
}

const SUBJECT: &str = "mailto: with an address that is read, or an https:// URL";

fn subject(text: &str) -> Option<Box<str>> {
    let address = text.strip_prefix("mailto:").is_some_and(|address| address.contains('@'));
    let named = address || text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
    (named && text.len() <= 255 && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| text.into())
}

/// Whether all that is needed is there; reads nothing out, so that no copy of the key is made.
fn is_service_account(json: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Parts {
        #[serde(rename = "project_id")]
        _project: serde::de::IgnoredAny,
        #[serde(rename = "client_email")]
        _email: serde::de::IgnoredAny,
        #[serde(rename = "private_key")]
        _key: serde::de::IgnoredAny,
        #[serde(rename = "token_uri")]
        _token: serde::de::IgnoredAny,
    }
    serde_json::from_str::<Parts>(json).is_ok()
}

fn ca_needs_endpoint(section: &Reader<'_>, endpoint: bool, ca_file: bool) {
    if ca_file && !endpoint {
        section.problem("ca_file", "has no endpoint beside it", "remove it, or name the endpoint it is for");
    }
}
