//! Problems with a push service that can be found before the first push.
//!
//! Invariant: no message repeats the content of a key file: it names the file, the place in it and the remedy.

pub(super) mod reusable;

use std::path::PathBuf;

/// One push service of one App cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("app {app}, {service}: {problem}")]
pub struct SetupError {
    /// The App's id.
    pub app: Box<str>,
    /// `apns`, `fcm` or `webpush`.
    pub service: &'static str,
    /// The problem.
    #[source]
    pub problem: Problem,
}

/// A problem, with its remedy in the text.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The file is far larger than such a file is.
    #[error("{} is too large for a key file: name the file that the service gave you", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// No private key was found in the file.
    #[error("{} holds no private key (a PEM block \"PRIVATE KEY\"): {remedy}", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// Where there is one.
        remedy: &'static str,
    },
    /// The private key cannot sign what this service wants.
    #[error("the private key in {} is not {wanted}", path.display())]
    WrongKey {
        /// The file.
        path: PathBuf,
        /// The kind of key that is needed.
        wanted: &'static str,
    },
    /// The file is not JSON.
    #[error("{} is not the JSON of a service account (line {line}, column {column}): download it again", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// A member of the service account is absent or not of its form.
    #[error("{} has no usable member `{member}`: it must be the key file of a service account", path.display())]
    Member {
        /// The file.
        path: PathBuf,
        /// The member's name.
        member: &'static str,
    },
    /// A setting is not of its form.
    #[error("`{setting}` must be {wanted}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// Its form.
        wanted: &'static str,
    },
    /// The CA file holds no certificate.
    #[error("{} holds no CA certificate in PEM form", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file of an app's certificate does not hold both, or the key is another one's.
    #[error("{} does not hold a certificate in PEM form and the private key that belongs to it", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
    },
    /// Nothing to verify the service with.
    #[error("no trusted root certificates: install ca-certificates, or name a ca_file")]
    NoRoots,
}
