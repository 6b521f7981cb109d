//! Firebase Cloud Messaging, HTTP v1.

use std::path::PathBuf;

/// How to reach FCM for one App.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service account's key file (JSON); its `token_uri` is honoured.
    pub service_account_file: PathBuf,
    /// Another service instead of `https://fcm.googleapis.com`.
    pub endpoint: Option<Box<str>>,
    /// CA certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}
