//! Apple's push service.

use std::path::PathBuf;

/// How to reach APNs for one App.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The signing key (`.p8`, PKCS#8 PEM) that Apple issued.
    pub key_file: PathBuf,
    /// The key's id: 10 characters.
    pub key_id: Box<str>,
    /// The team's id: 10 characters.
    pub team_id: Box<str>,
    /// Another service instead of Apple's two: `https://host:port`.
    pub endpoint: Option<Box<str>>,
    /// CA certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}
