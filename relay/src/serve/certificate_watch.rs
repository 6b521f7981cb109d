//! Watching the certificate: when it ends, and whether those who connect will take it.
//!
//! Invariant: what is told is of the files as they are; one that is not in use is told by [`ServerTls::watch`]. Each doubt is logged once
//! while it lasts.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval};

use super::check;
use crate::config::{Config, Tls};
use crate::metrics::Metrics;
use crate::metrics::labels::Warning;
use crate::net::tls::{Doubt, ServerTls};
use crate::operator::readiness::Readiness;

/// How often its file is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How often a file that is as it was is examined again: its time goes on.
const AGAIN: Duration = Duration::from_secs(600);

/// Watches for as long as the relay runs.
pub(super) async fn watch(config: Config, tls: Arc<ServerTls>, metrics: Metrics, readiness: Readiness) {
    let mut ticks = interval(EVERY);
    let mut examined: Option<(Option<Vec<u8>>, Instant)> = None;
    let mut known: Vec<Doubt> = Vec::new();
    loop {
        ticks.tick().await;
        metrics.certificate_ends(tls.expiry());
        let Tls::Files { certificate, .. } = &config.tls else { continue };
        let content = std::fs::read(certificate).ok();
        if examined.as_ref().is_some_and(|(was, at)| *was == content && at.elapsed() < AGAIN) {
            continue;
        }
        examined = Some((content, Instant::now()));
        // Whether a private CA is trusted is for those to say who have it.
        let doubts: Vec<Doubt> = check::certificate(&config).into_iter().filter(Doubt::is_fatal).collect();
        for doubt in doubts.iter().filter(|doubt| !known.contains(doubt)) {
            tracing::warn!(event = "certificate-doubted", remedy = doubt.remedy(), "tls.certificate: {doubt}");
        }
        let words = |doubt: &Doubt| format!("tls.certificate: {doubt}; {}", doubt.remedy()).into();
        readiness.warn_of(Warning::Trust, doubts.iter().map(words).collect());
        known = doubts;
    }
}
