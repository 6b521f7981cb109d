//! Watching the system's clock: a jump is told to the operator, and so is its remedy.
//!
//! Invariant: while the clock is not believed, the log has said so once and `/readyz` says so; nothing is ended by it
//! (`clock::watch` has the rule).

use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::clock::watch::{self, JUMP_STEADY_MS, Verdict};
use crate::clock::{rfc3339, unix_now};
use crate::operator::readiness::Readiness;
use crate::vault::Vault;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(1);
/// How often the time is written down for the next run, and a store asked for its own while the clock is doubted.
const NOTE: Duration = Duration::from_secs(30);
/// How far two machines' clocks may be apart that agree, in seconds.
const AGREE_S: u64 = 60;

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, readiness: Readiness) {
    watch::begin(None);
    let mut ticks = interval(LOOK);
    let (mut noted, mut asked): (Option<Instant>, Option<Instant>) = (None, None);
    let mut contradicted = false;
    loop {
        ticks.tick().await;
        let verdict = watch::look(contradicted);
        tell(verdict, &readiness);
        let is_due = |last: Option<Instant>| last.is_none_or(|at| at.elapsed() >= NOTE);
        match verdict {
            Verdict::Jumped { .. } if is_due(asked) => {
                asked = Some(Instant::now());
                contradicted = contradicts(vault.store_time().await);
            }
            Verdict::Jumped { .. } => {}
            _ => (asked, contradicted) = (None, false),
        }
        if is_due(noted)
            && let Some(now) = watch::believed_now()
        {
            noted = Some(Instant::now());
            if let Err(error) = vault.note_time(now) {
                tracing::warn!(%error, "the time could not be written down; a next run under a wrong clock may not notice");
            }
        }
    }
}

/// Whether the store's clock agrees with the believed time and not with the system's.
fn contradicts(store_time: Option<u64>) -> bool {
    let agrees = |time: u64| store_time.is_some_and(|store| store.abs_diff(time) <= AGREE_S);
    watch::believed_now().is_some_and(agrees) && !agrees(unix_now())
}

fn tell(verdict: Verdict, readiness: &Readiness) {
    match verdict {
        Verdict::Steady => {}
        Verdict::Jumped { by_ms, new } => {
            let warning = warning(by_ms);
            if new {
                tracing::warn!("{warning}");
            }
            readiness.warn_of("clock", vec![warning.into()]);
        }
        Verdict::Returned => {
            tracing::info!("the system's clock is right again; nothing was ended by it");
            readiness.warn_of("clock", Vec::new());
        }
        Verdict::Believed(by_ms) => {
            tracing::warn!(by_s = by_ms / 1_000, "the system's clock is believed now; what is over by it ends");
            readiness.warn_of("clock", Vec::new());
        }
    }
}

fn warning(by_ms: i64) -> String {
    let way = if by_ms > 0 { "ahead of" } else { "behind" };
    let believed = watch::believed_now().unwrap_or_default();
    format!(
        "clock: the system's clock is {} s {way} the time that passed ({} by this relay's count): set it right (NTP). Until then no lease ends and no key is destroyed; if it stays, it is believed after {} h, unless the store's clock says otherwise.",
        by_ms.unsigned_abs() / 1_000,
        rfc3339(believed),
        JUMP_STEADY_MS / 3_600_000,
    )
}
