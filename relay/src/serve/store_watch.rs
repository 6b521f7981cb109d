//! Watching what kind of store it is: one that keeps on a disk what was wiped, throws accounts away or refuses commands is told
//! to the operator, with its consequence.
//!
//! Invariant: each fault is logged once while it lasts, and stands in `/readyz` as long.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StartError;
use crate::metrics::labels::Warning;
use crate::operator::readiness::{Check, Readiness};
use crate::vault::{StoreFault, Vault};

/// How often the store is examined: its settings may change while it runs. One that may be another, since the connection is, or has denied
/// something, is examined at the next look.
const EVERY: Duration = Duration::from_secs(60);
/// How soon a store that did not answer, or makes the relay unready, is examined again; and how often is looked whether it may be another.
const AGAIN: Duration = Duration::from_secs(2);

/// Looks before anything is stored. A store that does not answer is looked at when it does.
pub(super) async fn require_ephemeral(vault: &Vault) -> Result<(), StartError> {
    let faults = vault.examine().await.unwrap_or_default();
    faults.into_iter().find(StoreFault::is_persistence).map_or(Ok(()), |fault| Err(StartError::NotEphemeral(fault)))
}

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, require_ephemeral: bool, readiness: Readiness) {
    let mut known: Vec<StoreFault> = Vec::new();
    if !require_ephemeral {
        // The kind of a store that does not answer is another question.
        readiness.pass(Check::StoreKind);
    }
    loop {
        let examined = vault.connections();
        let Ok(faults) = vault.examine().await else {
            sleep(AGAIN).await;
            continue;
        };
        // The examination has been denied what is named now.
        let denials = vault.denials();
        for fault in faults.iter().filter(|fault| !known.contains(fault)) {
            if fault.is_grave() || require_ephemeral && fault.is_persistence() {
                tracing::error!(event = "store-fault", %fault, remedy = fault.remedy(), "the store is not set up as the relay needs it");
            } else {
                tracing::warn!(event = "store-fault", %fault, remedy = fault.remedy(), "the store is not set up as the relay needs it");
            }
        }
        let worst = faults.iter().find(|fault| fault.is_grave() || require_ephemeral && fault.is_persistence());
        // A fault that makes the relay unready is looked at again as soon as it may be mended.
        let pause = if worst.is_some() { AGAIN } else { EVERY };
        match worst {
            Some(fault) if fault.is_grave() => {
                readiness.fail(Check::StoreKind, "the store refuses what the relay needs");
            }
            Some(_) => readiness.fail(Check::StoreKind, "the store may write to a disk (store.require_ephemeral)"),
            None => readiness.pass(Check::StoreKind),
        }
        let words = |fault: &StoreFault| format!("store: {fault}; {}", fault.remedy()).into();
        readiness.warn_of(Warning::Store, faults.iter().map(words).collect());
        known = faults;
        let until = Instant::now() + pause;
        while Instant::now() < until && vault.connections() == examined && vault.denials() == denials {
            sleep(AGAIN).await;
        }
    }
}
