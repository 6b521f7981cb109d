//! Watching that all nodes of a store have one keyring: one that has another is not ready, and says so.
//!
//! Invariant: a fault is logged once while it lasts.

use std::time::Duration;

use tokio::time::sleep;

use crate::operator::readiness::{Check, Readiness};
use crate::vault::{RingFault, Vault};

/// How often the keyrings are compared.
const EVERY: Duration = Duration::from_secs(20);
/// How soon again, while something is wrong or the store away.
const AGAIN: Duration = Duration::from_secs(2);

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, readiness: Readiness) {
    let mut known: Option<RingFault> = None;
    // As long as the store cannot be asked, nothing is taken from it.
    readiness.pass(Check::Keyring);
    loop {
        let Ok(fault) = vault.compare_ring().await else {
            sleep(AGAIN).await;
            continue;
        };
        match fault {
            Some(fault) => {
                if known != Some(fault) {
                    tracing::error!(event = "keyring-fault", remedy = fault.remedy(), "store.keyring: {fault}");
                }
                readiness.fail(Check::Keyring, fault.word());
                readiness.warn_of("keyring", vec![format!("store.keyring: {fault}; {}", fault.remedy()).into()]);
            }
            None => {
                if known.is_some() {
                    tracing::info!(event = "keyring-agrees", "the keyring is that of the other nodes");
                }
                readiness.pass(Check::Keyring);
                readiness.warn_of("keyring", Vec::new());
            }
        }
        known = fault;
        sleep(if known.is_some() { AGAIN } else { EVERY }).await;
    }
}
