//! The certificates that push services are shown.
//!
//! Invariant: they are those in use, whatever their files hold by now.

use std::path::PathBuf;

use rustls_pki_types::CertificateDer;

use super::service::{Mode, PushService};

impl PushService {
    /// Each with its App and the file that it was read from, in the order of the Apps.
    pub fn certificates(&self) -> Vec<(Box<str>, PathBuf, CertificateDer<'static>)> {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return Vec::new() };
        let mut apps: Vec<_> = apps.iter().collect();
        apps.sort_by_key(|(id, _)| *id);
        let shown = apps.into_iter().filter_map(|(id, app)| Some((id, app.apns.as_ref()?.certificate()?)));
        shown.map(|(id, (file, certificate))| (id.clone(), file.to_owned(), certificate.clone())).collect()
    }
}
