//! Secrets that must not appear anywhere: passwords and their digests, secrets, push tokens, keys, names.
//!
//! Invariant: each secret has a name that a failure can show beside the line that told it.

use std::sync::{Mutex, PoisonError};

use super::SipServer;
use crate::digest::Algorithm;
use crate::relay_setup::Setup;

/// The secrets of a world, each with its name.
#[derive(Default)]
pub struct Secrets(Mutex<Vec<(String, String)>>);

impl Secrets {
    /// The secrets that exist before any account is lent.
    pub(super) fn of(server: &impl SipServer, setup: &Setup) -> Self {
        let secrets = Self::default();
        secrets.keep("the operator's token", &setup.operator_token);
        for app in &setup.apps {
            secrets.keep("the app's key", &app.api_key);
        }
        secrets.keep("credentials", "response=\"");
        for user in server.users() {
            let password = server.password(&user).unwrap_or_default();
            secrets.keep("a password", &password);
            secrets.keep("an AOR", server.aor(&user).trim_start_matches("sip:"));
            secrets.keep_ha1("an account's", &user, server.domain(), &password);
        }
        secrets
    }

    /// Nothing may tell this from now on.
    pub fn keep(&self, name: &str, secret: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((name.to_owned(), secret.to_owned()));
    }

    /// The same of both HA1s of a password.
    pub fn keep_ha1(&self, whose: &str, user: &str, realm: &str, password: &str) {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let name = format!("{whose} HA1 ({})", algorithm.name());
            self.keep(&name, &algorithm.ha1(user, realm, password));
        }
    }

    /// Every secret so far, with its name.
    pub fn all(&self) -> Vec<(String, String)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// That none of them stands in `text`.
    ///
    /// # Panics
    /// With the line that tells one.
    pub fn assert_none_in(&self, place: &str, text: &str) {
        for (name, secret) in self.all() {
            if let Some(line) = text.lines().find(|line| line.contains(&secret)) {
                panic!("{place} tells {name}, {secret:?}: {line}");
            }
        }
    }
}
