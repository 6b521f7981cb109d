//! A push service of an App, and the settings that it was made from. A reload makes only changed services anew: the others keep their connections, tokens,
//! pauses and health.
//!
//! Invariant: a service that is kept has the same settings, and the files that they name are readable and hold the same bytes. A file is remembered by its hash
//! alone.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::Problem;
use crate::regular_file;

/// The hash of a file.
pub(crate) type Fingerprint = [u8; 32];

/// A service, made of these settings and files.
pub(crate) struct Made<S, T> {
    service: Arc<T>,
    settings: S,
    files: Vec<Option<Fingerprint>>,
}

impl<S: Clone, T> Clone for Made<S, T> {
    fn clone(&self) -> Self {
        Self { service: Arc::clone(&self.service), settings: self.settings.clone(), files: self.files.clone() }
    }
}

impl<S: Clone + PartialEq, T> Made<S, T> {
    /// The earlier service if it would be the same; otherwise a new one that `make` makes from `settings`, which name `files`.
    pub(crate) fn of(
        settings: &S,
        files: &[&Path],
        earlier: Option<&Self>,
        make: impl FnOnce() -> Result<T, Problem>,
    ) -> Result<Self, Problem> {
        // The hashes are taken before the files are read for use, so that a file replaced meanwhile looks changed the next time.
        let files: Vec<_> = files.iter().map(|file| fingerprint(file)).collect();
        let is_same = |earlier: &&Self| {
            earlier.settings == *settings && earlier.files == files && files.iter().all(Option::is_some)
        };
        let service = match earlier.filter(is_same) {
            Some(earlier) => Arc::clone(&earlier.service),
            None => Arc::new(make()?),
        };
        Ok(Self { service, settings: settings.clone(), files })
    }
}

impl<S, T> Deref for Made<S, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.service
    }
}

/// The hash of a file; `None` when it cannot be read.
pub(crate) fn fingerprint(file: &Path) -> Option<Fingerprint> {
    let content = regular_file::read(file).map(Zeroizing::new).ok()?;
    digest(&SHA256, &content).as_ref().try_into().ok()
}
