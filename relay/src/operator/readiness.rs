//! Whether the relay can do its work, as named checks; and what an operator should mend although it can.
//!
//! Invariant: a reason is text from the source, so it holds no secret. A check that was never reported is not passed. A
//! warning makes no relay unready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

/// What must be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The store answers.
    Store,
    /// The edge's listener is open.
    Edge,
    /// The API's listener is open.
    Api,
    /// The way to the accounts' servers is open.
    Upstream,
    /// The relay is not shutting down.
    Serving,
    /// The store is one that may be given accounts.
    StoreKind,
    /// The system's clock is about the store's.
    Clock,
    /// The other nodes have the same keyring.
    Keyring,
}

impl Check {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Store,
        Self::Edge,
        Self::Api,
        Self::Upstream,
        Self::Serving,
        Self::StoreKind,
        Self::Clock,
        Self::Keyring,
    ];

    /// Its name for a person.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Edge => "edge listener",
            Self::Api => "api listener",
            Self::Upstream => "upstream",
            Self::Serving => "serving",
            Self::StoreKind => "store settings",
            Self::Clock => "clock",
            Self::Keyring => "keyring",
        }
    }
}

/// The checks of one relay; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Readiness(Arc<Mutex<State>>);

/// How a relay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything is in order.
    Ready,
    /// Calls are served, and something else is not: the store is away that was there. 200, for a relay that is taken out of
    /// service for it would take its phones off the air.
    Degraded,
    /// No call can be served: 503.
    NotReady,
}

struct State {
    checks: [Result<(), &'static str>; Check::ALL.len()],
    /// By what they are about.
    warnings: BTreeMap<&'static str, Vec<Box<str>>>,
    /// The store has answered since the start: what it knew is here.
    store_was_there: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        let checks = [Err("not started yet"); Check::ALL.len()];
        Self(Arc::new(Mutex::new(State { checks, warnings: BTreeMap::new(), store_was_there: false })))
    }
}

impl Readiness {
    /// `check` is in order.
    pub fn pass(&self, check: Check) {
        let mut state = self.lock();
        state.checks[check as usize] = Ok(());
        state.store_was_there |= check == Check::Store;
    }

    /// `check` is not in order; `why` in words a person can act on.
    pub fn fail(&self, check: Check, why: &'static str) {
        self.lock().checks[check as usize] = Err(why);
    }

    /// Whether every check is in order.
    pub fn is_ready(&self) -> bool {
        self.lock().checks.iter().all(Result::is_ok)
    }

    /// How the relay stands.
    pub fn standing(&self) -> Standing {
        let state = self.lock();
        let serves = |check: &Check| state.checks[*check as usize].is_ok();
        match Check::ALL.iter().all(serves) {
            true => Standing::Ready,
            false if state.store_was_there && Check::ALL.iter().filter(|check| **check != Check::Store).all(serves) => {
                Standing::Degraded
            }
            false => Standing::NotReady,
        }
    }

    /// Each check with its state.
    pub fn checks(&self) -> Vec<(Check, Result<(), &'static str>)> {
        Check::ALL.iter().copied().zip(self.lock().checks).collect()
    }

    /// The checks as JSON.
    pub fn to_json(&self) -> Value {
        let one = |(check, state): (Check, Result<(), &'static str>)| match state {
            Ok(()) => json!({"check": check.name(), "ok": true}),
            Err(why) => json!({"check": check.name(), "ok": false, "why": why}),
        };
        self.checks().into_iter().map(one).collect()
    }

    /// All that is the matter with `what`, in words a person can act on; empty: nothing.
    pub fn warn_of(&self, what: &'static str, warnings: Vec<Box<str>>) {
        self.lock().warnings.insert(what, warnings);
    }

    /// What is to be mended although the relay does its work.
    pub fn warnings(&self) -> Vec<Box<str>> {
        self.lock().warnings.values().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // One assignment is all that is ever done under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_ready_when_every_check_was_passed() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready());
        for &check in Check::ALL {
            assert!(!readiness.is_ready());
            readiness.pass(check);
        }
        assert!(readiness.is_ready());
        assert_eq!(readiness.standing(), Standing::Ready);
        readiness.clone().fail(Check::Store, "no answer within 1 s");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.standing(), Standing::Degraded);
        assert_eq!(readiness.to_json()[0], json!({"check": "store", "ok": false, "why": "no answer within 1 s"}));
        readiness.fail(Check::Serving, "shutting down");
        assert_eq!(readiness.standing(), Standing::NotReady);
        let fresh = Readiness::default();
        Check::ALL.iter().skip(1).for_each(|check| fresh.pass(*check));
        assert_eq!(fresh.standing(), Standing::NotReady, "nobody is known here before the store has answered once");
    }
}
