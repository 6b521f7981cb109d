//! Watching the audit trail: one that cannot be written, or whose file was taken away, is told to the operator.
//!
//! Invariant: the warning is the trail's own, at most [`EVERY`] later.

use std::time::Duration;

use tokio::time::interval;

use crate::audit::Audit;
use crate::metrics::labels::Warning;
use crate::operator::readiness::Readiness;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(2);

/// Watches for as long as the relay runs. The trail itself writes the log.
pub(super) async fn watch(audit: Audit, readiness: Readiness) {
    if !audit.is_kept() {
        return;
    }
    let mut ticks = interval(EVERY);
    loop {
        ticks.tick().await;
        readiness.warn_of(Warning::Audit, audit.trouble().into_iter().collect());
    }
}
