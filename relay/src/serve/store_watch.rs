//! Watching what kind of store it is: one that keeps on a disk what was wiped, throws accounts away or refuses commands is told
//! to the operator, with its consequence.
//!
//! A Cluster may have lost a part, which the lease of this node does not lie in: that is looked for, too. One that is back counts as a loss: a replica that has
//! taken its place may lack what the master was told last.
//!
//! Invariant: each fault is logged once while it lasts, and stands in `/readyz` as long. A Cluster that moves a part of its own accord has one look's time
//! for it before that is told.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StartError;
use crate::metrics::labels::Warning;
use crate::operator::readiness::{Check, Readiness};
use crate::vault::{AwayReason, StoreError, StoreFault, Vault};

/// How often the store is examined: its settings may change while it runs. One that may be another, since the connection is, or has denied
/// something, is examined at the next look.
const EVERY: Duration = Duration::from_secs(60);
/// How soon a store that did not answer, or makes the relay unready, is examined again; and how often is looked whether it may be another.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a part that is back counts as a loss at the most. Each of them has all that is here looked up, and for a lease nothing is taken over.
const COUNTED_EVERY: Duration = Duration::from_secs(60);

/// Looks before anything is stored. A store that does not answer is looked at when it does.
pub(super) async fn require_ephemeral(vault: &Vault) -> Result<(), StartError> {
    let faults = vault.examine().await.unwrap_or_default();
    faults.into_iter().find(StoreFault::is_persistence).map_or(Ok(()), |fault| Err(StartError::NotEphemeral(fault)))
}

/// Watches for as long as the relay runs.
pub(super) async fn watch(vault: Vault, require_ephemeral: bool, readiness: Readiness) {
    let mut known: Vec<StoreFault> = Vec::new();
    let mut part = Part::default();
    if !require_ephemeral {
        // The kind of a store that does not answer is another question.
        readiness.pass(Check::StoreKind);
    }
    loop {
        let examined = vault.connections();
        let Ok(faults) = vault.examine().await else {
            sleep(AGAIN).await;
            // The examination may have asked the very part that is away.
            part.look(&vault).await;
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
        let told: Vec<Box<str>> = faults.iter().map(words).collect();
        known = faults;
        let until = Instant::now() + pause;
        loop {
            readiness.warn_of(Warning::Store, told.iter().cloned().chain(part.warning()).collect());
            if Instant::now() >= until || vault.connections() != examined || vault.denials() != denials {
                break;
            }
            sleep(AGAIN).await;
            part.look(&vault).await;
        }
    }
}

/// How the parts of a Cluster stand.
#[derive(Default)]
struct Part {
    /// The findings of the last look.
    seen: Option<StoreError>,
    /// The findings of two looks in a row.
    away: Option<StoreError>,
    /// When one that is back was counted last.
    counted_at: Option<Instant>,
    /// One is back that was not counted yet.
    is_owed: bool,
}

impl Part {
    async fn look(&mut self, vault: &Vault) {
        if self.note(vault.store_part_away().await, Instant::now()) {
            vault.note_part_back();
        }
    }

    /// Whether it counts that a part is back, perhaps without what it was told last. A Cluster that is away as a whole says nothing of its parts; one question
    /// that took too long is no part that was away. One that comes and goes counts once in a while: what it lacks is written again then, and nothing is taken
    /// over meanwhile.
    fn note(&mut self, look: Result<Option<StoreError>, StoreError>, now: Instant) -> bool {
        let Ok(found) = look else { return false };
        let was_slow = self.seen == Some(StoreError::Away(AwayReason::TimedOut)) && self.away.is_none();
        let is_well = found.is_none();
        self.is_owed |= is_well && self.seen.is_some() && !was_slow;
        match (&found, &self.seen) {
            (Some(error), Some(_)) => {
                if self.away.is_none() {
                    tracing::error!(event = "store-part-away", %error, remedy = error.remedy(), "a part of the Cluster does not serve: accounts whose records lie there are not enabled, changed or taken over until it does");
                }
                self.away.clone_from(&found);
            }
            (None, _) if self.away.take().is_some() => {
                tracing::info!(event = "store-part-back", "all parts of the Cluster serve again");
            }
            _ => {}
        }
        self.seen = found;
        let is_due = self.counted_at.is_none_or(|at| now.duration_since(at) >= COUNTED_EVERY);
        let counts = is_well && self.is_owed && is_due;
        if counts {
            (self.is_owed, self.counted_at) = (false, Some(now));
        }
        counts
    }

    fn warning(&self) -> Option<Box<str>> {
        let error = self.away.as_ref()?;
        Some(format!("store: a part of the Cluster does not serve ({error}): accounts whose records lie there ring where they are known, and are not enabled, changed or taken over; {}", error.remedy()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_is_away_for_two_looks_is_told_until_one_finds_it() {
        let error = || StoreError::Away(AwayReason::Refused("CLUSTERDOWN".into()));
        let away = || Ok(Some(error()));
        let (mut part, now) = (Part::default(), Instant::now());
        assert!(!part.note(Ok(None), now) && !part.note(away(), now));
        assert_eq!(part.warning(), None, "a fail-over takes a moment");
        assert!(part.note(Ok(None), now), "and may lose something all the same");
        assert!(!part.note(Ok(Some(StoreError::Away(AwayReason::TimedOut))), now));
        assert!(!part.note(Ok(None), now), "it was slow");
        assert!(!part.note(away(), now));
        assert_eq!(part.warning(), None);
        assert!(!part.note(away(), now));
        assert!(
            part.warning().is_some_and(|words| words.contains("CLUSTERDOWN") && words.contains("bring its node back"))
        );
        assert!(!part.note(Err(error()), now));
        assert!(part.warning().is_some(), "the rest of it is away as well");
        let now = now + COUNTED_EVERY;
        assert!(part.note(Ok(None), now));
        assert_eq!(part.warning(), None);
    }

    #[test]
    fn a_part_that_comes_and_goes_counts_once_in_a_while_and_the_last_time_as_well() {
        let (mut part, begun) = (Part::default(), Instant::now());
        let mut counted = Vec::new();
        let looks =
            (0..100).map(|look| (look, if look % 2 == 0 && look < 90 { Some(StoreError::Malformed) } else { None }));
        for (look, found) in looks {
            let after = AGAIN * look;
            if part.note(Ok(found), begun + after) {
                counted.push(after.as_secs());
            }
        }
        assert_eq!(counted, [2, 62, 122, 182]);
    }
}
