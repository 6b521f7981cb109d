//! Watching the clocks: one that jumps, and a system's clock that is not the store's, are told to the operator with the remedy.
//!
//! Invariant: while the clock is not trusted, the log has said so once and `/readyz` says so; nothing is ended by it
//! (`clock::watch` has the rule). A node whose clock is more than [`STORE_OFF_MAX_MS`] off the store's goes by the store's, says so,
//! and is as ready as before: where the store's is the wrong one, all nodes are off it at once. A disk that is slow keeps nothing
//! waiting but the next note.

use std::fmt::Display;
use std::time::Duration;

use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, interval};

use crate::aside::aside;
use crate::clock::watch::{self, JUMP_STEADY_MS, STORE_OFF_MAX_MS, Verdict};
use crate::clock::{rfc3339, shared_now, unix_now};
use crate::metrics::labels::Warning;
use crate::operator::readiness::Readiness;
use crate::vault::Vault;

/// How often the clocks are compared.
const LOOK: Duration = Duration::from_secs(1);
/// How often the time is written down for the next run.
const NOTE: Duration = Duration::from_secs(30);
/// How often the store is asked for its time; with each look while something is wrong, and before one at a clock that has jumped.
const ASK: Duration = Duration::from_secs(10);
/// How far two machines' clocks may be apart that agree, in seconds.
const AGREE_S: u64 = 60;

/// Has the store's clock judge the system's before anything is granted by it.
pub(super) async fn begin(vault: &Vault) {
    watch::begin(None);
    if let Some(store_ms) = vault.store_time_ms().await {
        watch::store_says(store_ms);
    }
}

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, readiness: Readiness) {
    let mut ticks = interval(LOOK);
    let (mut noted, mut asked): (Option<Instant>, Option<Instant>) = (None, None);
    let mut store = Store::default();
    let mut is_wrong = false;
    let mut noting: Option<Receiver<()>> = None;
    loop {
        ticks.tick().await;
        let is_due = |last: Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
        if is_wrong || watch::has_leapt() || store.off_ms.is_some() || is_due(asked, ASK) {
            asked = Some(Instant::now());
            store.ask(&vault, &readiness).await;
        }
        let verdict = watch::look(is_wrong && store.contradicts());
        is_wrong = matches!(verdict, Verdict::Jumped { .. });
        tell(verdict, &readiness);
        if is_due(noted, NOTE)
            && noting.as_mut().is_none_or(|noting| noting.try_recv() != Err(TryRecvError::Empty))
            && let Some(now) = watch::time_for_next_run()
        {
            (noted, noting) = (Some(Instant::now()), note(&vault, now));
        }
    }
}

/// Writes the time down, on a thread that may wait for the disk; `None`: there is none to be had.
fn note(vault: &Vault, now: u64) -> Option<Receiver<()>> {
    let not_written = |error: &dyn Display| tracing::warn!(event = "clock-not-written", %error, "the time could not be written down; a next run under a wrong clock may not notice");
    let vault = vault.clone();
    let noting = aside(move || {
        if let Err(error) = vault.note_time(now) {
            not_written(&error);
        }
    });
    noting.inspect_err(|error| not_written(error)).ok()
}

/// The store's clock, as far as it was heard.
#[derive(Default)]
struct Store {
    /// How far the system's clock is ahead of it, in milliseconds; `None`: not far.
    off_ms: Option<i64>,
    /// In seconds since 1970, as it was asked last.
    now: Option<u64>,
}

impl Store {
    /// A store that does not answer changes nothing.
    async fn ask(&mut self, vault: &Vault, readiness: &Readiness) {
        let Some(store_ms) = vault.store_time_ms().await else {
            self.now = None;
            return;
        };
        let (off_ms, was_off) = (watch::store_says(store_ms), self.off_ms.is_some());
        (self.now, self.off_ms) = (Some(store_ms / 1_000), off_ms);
        match off_ms {
            Some(off_ms) => {
                let way = if off_ms > 0 { "ahead of" } else { "behind" };
                let warning = format!(
                    "clock: the system's clock is {} s {way} the store's, by which accounts end on every node: set right the one that is wrong (NTP). This node goes by the store's while they are more than {} s apart.",
                    off_ms.unsigned_abs() / 1_000,
                    STORE_OFF_MAX_MS / 1_000,
                );
                if !was_off {
                    tracing::error!(
                        event = "clocks-apart",
                        off_s = off_ms / 1_000,
                        "the system's clock and the store's are apart, and accounts end by the store's: set right the wrong one (NTP)"
                    );
                }
                readiness.warn_of(Warning::StoreClock, vec![warning.into()]);
            }
            None => {
                if was_off {
                    tracing::info!(event = "clocks-agree", "the system's clock and the store's agree again");
                }
                readiness.warn_of(Warning::StoreClock, Vec::new());
            }
        }
    }

    /// Whether another clock agrees with the trusted time, and the shared one does not.
    fn contradicts(&self) -> bool {
        let Some(trusted) = watch::trusted_now() else { return false };
        let agrees = |time: u64| time.abs_diff(trusted) <= AGREE_S;
        !agrees(shared_now()) && (agrees(unix_now()) || self.now.is_some_and(agrees))
    }
}

fn tell(verdict: Verdict, readiness: &Readiness) {
    match verdict {
        Verdict::Steady => {}
        Verdict::Jumped { by_ms, new } => {
            let clocks = if watch::is_of_store() { ["store's", "system's"] } else { ["system's", "store's"] };
            if new {
                tracing::warn!(
                    event = "clock-jumped",
                    clock = clocks[0],
                    by_s = by_ms / 1_000,
                    "a clock has jumped: where it is wrong now, set it right (NTP), and where it was just set right, leave it; nothing ends by it before it has stayed for hours"
                );
            }
            readiness.warn_of(Warning::Clock, vec![warning(by_ms, clocks).into()]);
        }
        Verdict::Returned => {
            tracing::info!(event = "clock-right-again", "the clock is right again; nothing was ended by it");
            readiness.warn_of(Warning::Clock, Vec::new());
        }
        Verdict::Believed(by_ms) => {
            tracing::warn!(
                event = "clock-trusted",
                by_s = by_ms / 1_000,
                "the clock is trusted now; leases that this run has granted by the earlier one last as long as they were granted"
            );
            readiness.warn_of(Warning::Clock, Vec::new());
        }
    }
}

/// Of the clock that has jumped, beside the other one.
fn warning(by_ms: i64, [jumped, other]: [&str; 2]) -> String {
    let way = if by_ms > 0 { "ahead of" } else { "behind" };
    let trusted = watch::trusted_now().unwrap_or_default();
    format!(
        "clock: the {jumped} clock is {} s {way} the time that passed ({} by this relay's count). If it is wrong, set it right (NTP); if it was just set right, leave it. Until then no lease ends and no key is destroyed; if it stays, it is trusted after {} h, unless the {other} clock says otherwise.",
        by_ms.unsigned_abs() / 1_000,
        rfc3339(trusted),
        JUMP_STEADY_MS / 3_600_000,
    )
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::random;
    use crate::vault::Keyring;

    #[test]
    fn the_clock_that_has_jumped_is_named_with_its_way() {
        let of_store = warning(518_400_000, ["store's", "system's"]);
        assert!(
            of_store.starts_with("clock: the store's clock is 518400 s ahead of the time that passed"),
            "{of_store}"
        );
        assert!(of_store.ends_with("unless the system's clock says otherwise."), "{of_store}");
        let of_system = warning(-90_000, ["system's", "store's"]);
        assert!(of_system.starts_with("clock: the system's clock is 90 s behind the time"), "{of_system}");
    }

    #[tokio::test]
    async fn a_disk_that_is_slow_keeps_no_task_waiting() {
        const LONG: Duration = Duration::from_secs(5);
        let folder = std::env::temp_dir().join(format!("sipwake-clock-{:x}", u64::from_be_bytes(random::bytes())));
        let vault = Vault::open("memory:", Keyring::open(&folder.join("keyring")).expect("made"), "a").expect("opened");
        // A writer there waits for a reader.
        let slow = folder.join("keyring.clock.new-a");
        mknodat(CWD, &slow, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("made");
        let (go_on, disk) = mpsc::channel();
        let disk = std::thread::spawn(move || {
            let was_told = disk.recv_timeout(LONG).is_ok();
            (std::fs::read_to_string(slow).expect("read"), was_told)
        });
        let mut noting = note(&vault, 1_795_000_000).expect("a thread");
        tokio::task::yield_now().await;
        assert_eq!(noting.try_recv(), Err(TryRecvError::Empty));
        go_on.send(()).expect("it waits");
        noting.await.expect("no panic");
        assert_eq!(disk.join().expect("no panic"), ("1795000000\n".to_owned(), true), "this thread has gone on");
        std::fs::remove_dir_all(folder).expect("removed");
    }
}
