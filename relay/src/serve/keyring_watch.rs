//! Watching the keyring: that all nodes of a store have the same, and that its file is there.
//!
//! Invariant: a fault is logged once while it lasts, and stands in `/readyz` as long: a node with another keyring is not ready, one whose
//! file is gone works on with the keys that it has read, and warns; so does one that cannot write down its wipes beside it, or whose disk does not
//! answer.

use std::time::Duration;

use tokio::sync::oneshot::Receiver;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::aside::aside;
use crate::clock;
use crate::metrics::labels::Warning;
use crate::operator::readiness::{Check, Readiness};
use crate::vault::{KeyringError, KeyringMismatch, MAX_LIFETIME_S, Vault};

/// How often the keyrings are compared.
const EVERY: Duration = Duration::from_secs(5);
/// How often the sealing keys are changed where it is time, and the file is looked at.
const TEND: Duration = Duration::from_secs(10);
/// How soon again, while something is wrong or the store away.
const AGAIN: Duration = Duration::from_secs(2);

/// A disk that takes longer is stalled, and is waited for beside everything else.
const STALLED: Duration = Duration::from_secs(5);

/// Wipes that are remembered for each instance, where there are many.
const TOMBSTONES_EACH: usize = 6;

/// The warning about wipes for which there was no room.
const FORGOTTEN: &str = "more was wiped within six days than there is room to remember: a Redis that comes back as it was before may bring some of it back; find out which app enables and ends so often: six wipes are remembered for each instance of this node, 200,000 at least and 1,000,000 at most";

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, readiness: Readiness) {
    let (mut tending, mut known): (Option<Tending>, Option<KeyringMismatch>) = (None, None);
    // As long as the store cannot be asked, nothing is taken from it.
    readiness.pass(Check::Keyring);
    loop {
        let Ok(fault) = vault.check_keyring().await else {
            sleep(AGAIN).await;
            continue;
        };
        match fault {
            Some(fault) => {
                if known != Some(fault) {
                    tracing::error!(event = "keyring-fault", %fault, remedy = fault.remedy(), "the keyring does not fit the store");
                }
                readiness.fail(Check::Keyring, fault.word());
                readiness.warn_of(Warning::Keyring, vec![format!("store.keyring: {fault}; {}", fault.remedy()).into()]);
            }
            None => {
                if known.is_some() {
                    tracing::info!(event = "keyring-agrees", "the keyring is that of the other nodes");
                }
                readiness.pass(Check::Keyring);
                readiness.warn_of(Warning::Keyring, Vec::new());
            }
        }
        known = fault;
        let (looked, begun) = (vault.fingerprint(), Instant::now());
        loop {
            sleep(AGAIN).await;
            // A rotation is known to the others before much is sealed behind it. A file that cannot be read is told of by who tends the keys.
            let _ = tend_once(&vault, &mut tending).await;
            if known.is_some() || begun.elapsed() >= EVERY || vault.fingerprint() != looked {
                break;
            }
        }
    }
}

/// The answer to come of a thread that waits for the disk.
type Tending = Receiver<Result<(), KeyringError>>;

/// Why the keyring is not looked after.
#[derive(thiserror::Error, Debug)]
enum Fault {
    #[error("{0}")]
    Keyring(#[from] KeyringError),
    #[error(
        "its disk does not answer: keys and wipes wait to be written, and calls go on; look at the disk, or at the network that it lies behind"
    )]
    Stalled,
}

/// Looks after the keyring once, or waits on for what is under way.
async fn tend_once(vault: &Vault, tending: &mut Option<Tending>) -> Option<Fault> {
    let mut under_way = match tending.take() {
        Some(under_way) => under_way,
        None => {
            let beside = vault.clone();
            let Ok(begun) = aside(move || beside.tend_keys()) else { return vault.tend_keys().err().map(Fault::from) };
            begun
        }
    };
    match timeout(STALLED, &mut under_way).await {
        Ok(said) => said.ok()?.err().map(Fault::from),
        Err(_) => {
            *tending = Some(under_way);
            Some(Fault::Stalled)
        }
    }
}

/// Looks after the sealing keys for as long as the relay runs; and that there is room for the wipes of as many `instances` as there are.
pub(super) async fn tend(vault: Vault, instances: impl Fn() -> u32, readiness: Readiness) {
    let mut ticks = interval(TEND);
    let (mut tending, mut known): (Option<Tending>, Option<String>) = (None, None);
    let (mut forgotten, mut forgotten_at) = (0, None);
    loop {
        ticks.tick().await;
        let fault = tend_once(&vault, &mut tending).await;
        // The keys are in the file, and what it says is known.
        let is_there = matches!(fault, Some(Fault::Stalled | Fault::Keyring(KeyringError::Write { .. })));
        let fault = fault.map(|fault| fault.to_string());
        match &fault {
            Some(error) if known.as_ref() != Some(error) && is_there => {
                tracing::error!(event = "keyring-not-tended", %error, "the keyring could not be written: this run goes on with keys that follow from it, and those that are over stay in the file");
            }
            Some(error) if known.as_ref() != Some(error) => {
                tracing::error!(event = "keyring-not-tended", %error, "the keyring could not be looked after: this run goes on with the keys that it has read, and once it ends nobody can open what is stored");
            }
            None if known.is_some() => tracing::info!(event = "keyring-tended", "the keyring is looked after again"),
            _ => {}
        }
        let warning = |error: &String| {
            if is_there {
                format!("store.keyring: {error}")
            } else {
                format!(
                    "store.keyring: {error}: put the file back, from a copy or from another node, before this run ends: it has read the keys, and no run after it could open what is stored"
                )
            }
        };
        readiness.warn_of(Warning::KeyringFile, fault.iter().map(|error| warning(error).into()).collect());
        let unwritten = |trouble: Box<str>| {
            format!(
                "wipes cannot be written down ({trouble}): they have no receipt until they are, and one whose record the store brings back after a crash is undone; make room, or let the relay's user write there"
            )
        };
        // A phone that is enabled anew each day leaves one each day, for six.
        vault
            .tombstones()
            .make_room(usize::try_from(instances()).unwrap_or(usize::MAX).saturating_mul(TOMBSTONES_EACH));
        let now_forgotten = vault.tombstones().forgotten();
        if now_forgotten > forgotten {
            (forgotten, forgotten_at) = (now_forgotten, Some(clock::now()));
        }
        // By then their records would have ended.
        let is_forgotten = forgotten_at.is_some_and(|at| at.elapsed() < Duration::from_secs(MAX_LIFETIME_S));
        let unwritten = vault.tombstones().trouble().map(|it| unwritten(it).into());
        let warnings = unwritten.into_iter().chain(is_forgotten.then(|| FORGOTTEN.into()));
        readiness.warn_of(Warning::Tombstones, warnings.collect());
        known = fault;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::Keyring;

    #[tokio::test(start_paused = true)]
    async fn a_disk_that_does_not_answer_is_told_until_it_does() {
        let vault = Vault::open("memory:", Keyring::ephemeral(), "a").expect("opened");
        let (answer, disk) = tokio::sync::oneshot::channel();
        let mut tending = Some(disk);
        for _ in 0..2 {
            assert!(matches!(tend_once(&vault, &mut tending).await, Some(Fault::Stalled)));
        }
        answer.send(Ok(())).expect("it is waited for");
        assert!(tend_once(&vault, &mut tending).await.is_none());
        assert!(tending.is_none());
    }
}
