//! The relay's ability to do its work, as named checks; and the warnings that an operator should heed although it can.
//!
//! Invariant: a reason is text from the source, so it holds no secret. A check that was never reported is not passed. A
//! warning makes no relay unready, and no trouble of a push service does, not even that of all: phones that are attached, apps and
//! SIP servers are served.

use std::sync::{Arc, MutexGuard, OnceLock};

use serde_json::{Value, json};

use crate::clock::rfc3339;
use crate::domain::Word as _;
use crate::lock::Mutex;
use crate::metrics::labels::Warning;
use crate::push::{self, PushService};

/// The remaining service of a relay whose store is away.
const STORE_IS_AWAY: &str = "known phones still ring, enabling and changes are answered 503";

/// Why [`Check::Serving`] fails while the relay drains.
pub const SHUTTING_DOWN: &str = "shutting down";

/// A check that readiness depends on.
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
    /// The other nodes have the same keyring.
    Keyring,
    /// This node knows what it owns.
    Ownership,
    /// Every shard of the protocol answers.
    Shards,
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
        Self::Keyring,
        Self::Ownership,
        Self::Shards,
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
            Self::Keyring => "keyring",
            Self::Ownership => "ownership",
            Self::Shards => "shards",
        }
    }
}

/// The checks of one relay; cheap to clone, all clones are one.
#[derive(Clone)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
    push: Arc<OnceLock<PushService>>,
}

/// How a relay stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything is in order.
    Ready,
    /// Calls are served, and something else is not: the store is away that was there, a push service takes nothing, or the certificate in
    /// use is one that those who connect refuse. 200,
    /// for a relay that is taken out of service for it would take its phones off the air.
    Degraded,
    /// No call can be served: 503.
    NotReady,
}

struct State {
    checks: [Result<(), &'static str>; Check::ALL.len()],
    /// The warnings, by subject.
    warnings: [Vec<Box<str>>; Warning::ALL.len()],
    /// The store has answered since the start: its records are known here.
    store_was_there: bool,
    /// Nothing but a start would have it serve again.
    is_dead: bool,
}

impl Default for Readiness {
    fn default() -> Self {
        let checks = [Err("not started yet"); Check::ALL.len()];
        let state = State { checks, warnings: Default::default(), store_was_there: false, is_dead: false };
        Self { state: Arc::new(Mutex::new(state)), push: Arc::default() }
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

    /// Whether nothing but a start would have the process serve again.
    pub fn note_dead(&self, is: bool) {
        self.lock().is_dead = is;
    }

    /// Whether the process serves, or may again by itself.
    pub fn is_alive(&self) -> bool {
        !self.lock().is_dead
    }

    /// These push services are asked how they stand from now on.
    pub fn ask_push(&self, push: PushService) {
        // Once: a relay has one of them.
        let _ = self.push.set(push);
    }

    /// How each push service of each app stands.
    pub fn push_services(&self) -> Vec<push::Report> {
        self.push.get().map(PushService::health).unwrap_or_default()
    }

    /// The remaining service of a degraded relay, in one line.
    pub fn degradation(&self) -> String {
        let mut parts = Vec::new();
        if let Err(why) = self.lock().checks[Check::Store as usize] {
            parts.push(format!("store: {why}; {STORE_IS_AWAY}"));
        }
        let failing = self.push_services().into_iter().filter(|report| report.state == push::State::Failing);
        parts.extend(failing.map(|report| {
            let why = report.reason.map(|(_, why)| why).unwrap_or_default();
            format!("push: {} takes no push of {}: {why}", report.service, report.app)
        }));
        parts.extend(self.doubted_certificate().iter().map(ToString::to_string));
        parts.join("; ")
    }

    /// The doubts of clients about the certificate in use.
    fn doubted_certificate(&self) -> Vec<Box<str>> {
        self.lock().warnings[Warning::Trust.index()].clone()
    }

    /// The push services that fail, as JSON.
    pub fn degraded(&self) -> Vec<Value> {
        let failing = self.push_services().into_iter().filter(|report| report.state == push::State::Failing);
        failing.map(|report| degraded(&report)).collect()
    }

    /// How the relay stands.
    pub fn standing(&self) -> Standing {
        let store_was_there = self.lock().store_was_there;
        let mut failing = self.checks().into_iter().filter(|(_, state)| state.is_err()).map(|(check, _)| check);
        match (failing.next(), failing.next()) {
            (None, _) if self.degraded().is_empty() && self.doubted_certificate().is_empty() => Standing::Ready,
            (None, _) => Standing::Degraded,
            (Some(Check::Store), None) if store_was_there => Standing::Degraded,
            _ => Standing::NotReady,
        }
    }

    /// Each check with its state.
    pub fn checks(&self) -> Vec<(Check, Result<(), &'static str>)> {
        let checks = self.lock().checks;
        Check::ALL.iter().copied().zip(checks).collect()
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
    pub fn warn_of(&self, what: Warning, warnings: Vec<Box<str>>) {
        self.lock().warnings[what.index()] = warnings;
    }

    /// This is the matter with `what` as well.
    pub fn warn_also(&self, what: Warning, warning: Box<str>) {
        self.lock().warnings[what.index()].push(warning);
    }

    /// How many there are about each thing.
    pub fn warning_counts(&self) -> [(Warning, usize); Warning::ALL.len()] {
        let state = self.lock();
        std::array::from_fn(|index| (Warning::ALL[index], state.warnings[index].len()))
    }

    /// The faults to be mended although the relay does its work.
    pub fn warnings(&self) -> Vec<Box<str>> {
        self.lock().warnings.iter().flatten().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

fn degraded(report: &push::Report) -> Value {
    let time = |seconds: u64| if seconds == 0 { Value::Null } else { json!(rfc3339(seconds)) };
    let (reason, why) = report.reason.clone().unwrap_or_default();
    json!({
        "app": report.app, "service": report.service, "since": time(report.since), "reason": reason, "why": why,
        "last_accepted": time(report.last_accepted), "waiting": report.waiting,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_ready_when_every_check_was_passed() {
        let readiness = Readiness::default();
        for &check in Check::ALL {
            assert_ne!(readiness.standing(), Standing::Ready);
            readiness.pass(check);
        }
        assert_eq!(readiness.standing(), Standing::Ready);
        readiness.clone().fail(Check::Store, "no answer within 1 s");
        assert_eq!(readiness.standing(), Standing::Degraded);
        assert_eq!(readiness.to_json()[0], json!({"check": "store", "ok": false, "why": "no answer within 1 s"}));
        readiness.pass(Check::Store);
        readiness.warn_of(Warning::Clock, vec!["clock: it jumped".into()]);
        assert_eq!(readiness.standing(), Standing::Ready, "a warning is in nobody's way");
        readiness.warn_of(Warning::Trust, vec!["tls.certificate: the certificate has expired".into()]);
        assert_eq!(readiness.standing(), Standing::Degraded, "nobody connects");
        assert!(readiness.degradation().contains("has expired"), "{}", readiness.degradation());
        readiness.fail(Check::Serving, "shutting down");
        assert_eq!(readiness.standing(), Standing::NotReady);
        let fresh = Readiness::default();
        Check::ALL.iter().skip(1).for_each(|check| fresh.pass(*check));
        assert_eq!(fresh.standing(), Standing::NotReady, "nobody is known here before the store has answered once");
    }
}
