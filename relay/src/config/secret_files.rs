//! The secrets that files hold.
//!
//! Invariant: one file holds one secret. A file that a push service gave for several apps may be named by each of them.

use std::path::{Path, PathBuf};

/// The kind of secret in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// A token that is shown by the operator, an app or a SIP server. Two of them are compared by their content.
    Token,
    /// The private key of the certificate.
    TlsKey,
    /// A provider key of APNs.
    ApnsKey,
    /// A certificate of APNs with its key.
    ApnsCertificate,
    /// A service account of FCM.
    ServiceAccount,
    /// A VAPID key of Web Push.
    WebPushKey,
    /// The token for a collector of traces.
    CollectorToken,
    /// The sealing keys.
    Keyring,
}

/// The files named so far.
#[derive(Debug, Default)]
pub(super) struct SecretFiles(Vec<(String, PathBuf, Held)>);

impl SecretFiles {
    /// Notes a file; gives the place of another setting that has it for something else.
    pub fn take(&mut self, place: &str, path: &Path, held: Held) -> Option<String> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let other = self.0.iter().find(|(_, other, what)| *other == path && *what != held);
        let other = other.map(|(place, ..)| place.clone());
        self.0.push((place.to_owned(), path, held));
        other
    }
}
