//! Access: the bearer key of a request, the Apps that the operator serves, and the SIP servers that may wake.
//!
//! Invariant: a key is compared by its SHA-256 digest, in the same time whatever differs, against every key there is;
//! keys are held as digests only.

use std::sync::Arc;

use aws_lc_rs::digest;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::config::DomainRules;
use crate::secret::{ApiKey, MAX_KEY};

/// A key as it is held and compared.
#[derive(Clone)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// The digest of `key`.
    pub fn of(key: &str) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, key.as_bytes()).as_ref());
        Self(bytes)
    }

    /// Whether `shown` is the key, in constant time.
    pub fn fits(&self, shown: &Self) -> bool {
        self.0.ct_eq(&shown.0).into()
    }
}

/// One mobile application that the operator serves, as the configuration names it.
pub struct App {
    /// Its id.
    pub id: Box<str>,
    /// The key that its server or its builds show at `POST /v1/instances`.
    pub key: ApiKey,
    /// The App has an APNs key here.
    pub apns: bool,
    /// The App has an FCM project here.
    pub fcm: bool,
    /// The App may push by Web Push here.
    pub webpush: bool,
    /// The public half of its VAPID key, in base64url.
    pub webpush_key: Option<Box<str>>,
}

/// The Apps, by key.
pub struct Apps(Vec<Arc<Admitted>>);

/// An App whose key was shown.
pub struct Admitted {
    key: KeyDigest,
    /// Its id.
    pub id: Box<str>,
    /// The App has an APNs key here.
    pub apns: bool,
    /// The App has an FCM project here.
    pub fcm: bool,
    /// The App may push by Web Push here.
    pub webpush: bool,
    /// The public half of its VAPID key, in base64url.
    pub webpush_key: Option<Box<str>>,
}

impl Apps {
    /// Holds `apps` by their keys' digests.
    pub fn new(apps: Vec<App>) -> Self {
        let hold = |app: App| Admitted {
            key: KeyDigest::of(app.key.expose()),
            id: app.id,
            apns: app.apns,
            fcm: app.fcm,
            webpush: app.webpush,
            webpush_key: app.webpush_key,
        };
        Self(apps.into_iter().map(hold).map(Arc::new).collect())
    }

    /// The App whose key `shown` is.
    pub fn admit(&self, shown: &str) -> Option<Arc<Admitted>> {
        let shown = KeyDigest::of(shown);
        // Every key is compared, so that the time does not tell where in the list the right one is.
        self.0.iter().fold(None, |found, app| if app.key.fits(&shown) { Some(app) } else { found }).cloned()
    }
}

/// One SIP server that may wake devices, as the configuration names it.
pub struct SipServer {
    /// Its id.
    pub id: Box<str>,
    /// The key that it shows at `POST /v1/wake`.
    pub key: ApiKey,
    /// The domains whose devices it may wake.
    pub domains: DomainRules,
    /// Hosts whose registrations it may wake beside those that serve the AOR's own domain.
    pub registrars: Arc<[Box<str>]>,
}

/// The SIP servers, by key.
pub struct SipServers(Vec<Arc<AdmittedServer>>);

/// A SIP server whose key was shown.
pub struct AdmittedServer {
    key: KeyDigest,
    /// Its id.
    pub id: Box<str>,
    /// The domains whose devices it may wake.
    pub domains: DomainRules,
    /// Hosts whose registrations it may wake beside those that serve the AOR's own domain.
    pub registrars: Arc<[Box<str>]>,
}

impl SipServers {
    /// Holds `servers` by their keys' digests.
    pub fn new(servers: Vec<SipServer>) -> Self {
        let hold = |server: SipServer| AdmittedServer {
            key: KeyDigest::of(server.key.expose()),
            id: server.id,
            domains: server.domains,
            registrars: server.registrars,
        };
        Self(servers.into_iter().map(hold).map(Arc::new).collect())
    }

    /// The SIP server whose key `shown` is.
    pub fn admit(&self, shown: &str) -> Option<Arc<AdmittedServer>> {
        let shown = KeyDigest::of(shown);
        self.0.iter().fold(None, |found, server| if server.key.fits(&shown) { Some(server) } else { found }).cloned()
    }
}

/// The bearer key of a request (RFC 6750 §2.1); `what` says what is expected, for the answer.
pub fn bearer<'a>(headers: &'a HeaderMap, what: &'static str) -> Result<&'a str, Problem> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else {
        return Err(Problem::unauthorized(what));
    };
    let key = value.to_str().ok().and_then(|value| value.split_once(' ')).and_then(|(scheme, key)| {
        let key = key.trim_matches(' ');
        (scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_KEY).contains(&key.len())).then_some(key)
    });
    key.ok_or_else(|| Problem::unauthorized(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, value.parse().unwrap())).collect()
    }

    #[test]
    fn one_bearer_key_is_taken_and_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer k-1"]), "x").ok(), Some("k-1"));
        assert_eq!(bearer(&headers(&["bearer  k-1 "]), "x").ok(), Some("k-1"));
        let long = format!("Bearer {}", "k".repeat(MAX_KEY + 1));
        for wrong in [&[][..], &["Bearer"], &["Bearer "], &["Basic azox"], &["Bearer a", "Bearer b"], &[long.as_str()]]
        {
            assert!(bearer(&headers(wrong), "x").is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn each_app_is_found_by_its_own_key_alone() {
        let app = |id: &str, key| App {
            id: id.into(),
            key: ApiKey::new(key),
            apns: true,
            fcm: false,
            webpush: false,
            webpush_key: None,
        };
        let apps = Apps::new(vec![app("one", "key-1"), app("two", "key-2")]);
        assert_eq!(apps.admit("key-2").map(|app| app.id.clone()).as_deref(), Some("two"));
        assert!(apps.admit("key-3").is_none());
        assert!(apps.admit("").is_none());
    }
}
