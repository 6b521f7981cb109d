//! The parts of a push that `relay/benches/pushes.rs` measures one by one.
//!
//! Invariant: the relay itself does not use this module.

use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;

use super::apns::provider_token::Signer;
use super::fcm::oauth::ServiceAccount;
use super::setup::Problem;
use super::webpush::{self, Vapid};
use super::{Push, payload};
use crate::hpke::PublicKey;
use crate::vault::record::WebPushKeys;

/// The body for APNs.
pub fn apns_body(push: &Push, key: Option<&PublicKey>) -> Option<Bytes> {
    payload::apns(push, key).ok()
}

/// The object for FCM.
pub fn fcm_object(push: &Push, key: Option<&PublicKey>) -> Option<String> {
    payload::fcm(push, key).ok()
}

/// The body for a Web Push service.
pub fn webpush_body(push: &Push, keys: &WebPushKeys) -> Option<Vec<u8>> {
    webpush::body(push, None, keys).ok()
}

/// The signers for each service.
pub struct Tokens {
    apns: Signer,
    fcm: ServiceAccount,
    webpush: Vapid,
}

impl Tokens {
    /// Of a `.p8` file (for APNs and VAPID) and a service account's key file.
    ///
    /// # Errors
    /// When they hold no such keys.
    pub fn read(p8: &Path, service_account: &Path) -> Result<Self, Problem> {
        Ok(Self {
            apns: Signer::new(p8, "ABC1234567", "DEF1234567")?,
            fcm: ServiceAccount::read(service_account)?,
            webpush: Vapid::new(p8, "mailto:operator@example.com")?,
        })
    }

    /// A provider token (ES256), anew; whether it could be signed.
    pub fn sign_for_apns(&self, now: SystemTime) -> bool {
        self.apns.sign(now).is_some()
    }

    /// An assertion for Google (RS256).
    pub fn sign_for_fcm(&self, now: SystemTime) -> bool {
        self.fcm.assertion(now).is_some()
    }

    /// A VAPID token (ES256).
    pub fn sign_for_webpush(&self, now: SystemTime) -> bool {
        self.webpush.token("https://push.example.net", now).is_some()
    }
}
