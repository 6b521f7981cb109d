//! The last rounds of canaries, as they reported them: one canary for each app.
//!
//! Invariant: a canary names an app and steps, and no account; its reason is cut to [`WHY_MAX`] characters and shown to
//! operators alone. There are at most [`APPS_MAX`] apps, so that the metrics stay bounded.

use std::collections::BTreeMap;
use std::sync::MutexGuard;

use crate::api::json::{At, Errors, Json};
use crate::api::problem::{Problem, ProblemType};
use crate::clock::advertised_now;
use crate::domain::{CanaryStep, Word as _};
use crate::lock::Mutex;
use crate::metrics::Metrics;

/// Apps that have a canary; a further one is refused with 429.
const APPS_MAX: usize = 64;
/// The longest id of an app, in characters.
const APP_MAX: usize = 155;
/// The longest reason that is kept, in characters.
const WHY_MAX: usize = 300;
/// The longest step, in milliseconds: an hour.
const STEP_MAX_MS: u64 = 3_600_000;

/// The result of the last round of an app's canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// When it was told, in seconds since 1970.
    pub at: u64,
    /// The step that failed, and why.
    pub failed: Option<(CanaryStep, Box<str>)>,
    /// The steps that were reached, in milliseconds from the INVITE on.
    pub steps: Vec<(CanaryStep, u64)>,
    /// When a round was whole last, in seconds since 1970.
    pub last_whole: Option<u64>,
}

/// The rounds of all canaries.
#[derive(Default)]
pub struct Canaries(Mutex<BTreeMap<Box<str>, Round>>);

/// A round as a canary tells it.
pub(super) struct RoundReport {
    app: Box<str>,
    failed: Option<(CanaryStep, Box<str>)>,
    steps: Vec<(CanaryStep, u64)>,
}

/// Reads `{"app": "com.example.phone", "ms": {"push": 210, …}, "failed": "attach", "why": "…"}`.
/// Of an app that is none of `apps`, where these are known, it is refused: a wrong name would leave the app that is meant unwatched.
pub(super) fn read(body: &Json, apps: Option<&[Box<str>]>) -> Result<RoundReport, Problem> {
    let mut errors = Errors::default();
    let telling = telling(body, apps, &mut errors);
    errors.into_result(telling)
}

fn telling(body: &Json, apps: Option<&[Box<str>]>, errors: &mut Errors) -> Option<RoundReport> {
    let words: Vec<(&'static str, CanaryStep)> = CanaryStep::ALL.iter().map(|step| (step.word(), *step)).collect();
    let names: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let fields = At::root(body).object(&["app", "ms", "failed", "why"], errors)?;
    let app = fields.require("app", errors)?;
    let id = app.text(1, APP_MAX, errors)?;
    if !id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
        return errors.add(&app.pointer, "expected the id of an app: letters, digits, dots, - and _");
    }
    if apps.is_some_and(|apps| apps.iter().all(|known| **known != *id)) {
        return errors.add(&app.pointer, "no [[app]] of this relay has this id");
    }
    let mut steps = Vec::new();
    if let Some(reached) = fields.get("ms").and_then(|at| at.object(&names, errors)) {
        for (word, step) in &words {
            let after = reached.get(word).and_then(|at| at.whole(0, STEP_MAX_MS, errors));
            steps.extend(after.map(|after| (*step, after)));
        }
    }
    let failed = fields.get("failed").and_then(|at| at.choice(&words, errors));
    let why = fields.get("why").and_then(|at| at.text(0, 4_096, errors)).unwrap_or_default();
    let why = why.chars().take(WHY_MAX).collect::<String>();
    Some(RoundReport { app: id.into(), failed: failed.map(|step| (step, why.into())), steps })
}

impl Canaries {
    /// Takes what a canary tells, and has the metrics tell it.
    pub(super) fn take(&self, telling: RoundReport, metrics: &Metrics) -> Result<(), Problem> {
        let RoundReport { app, failed, steps } = telling;
        let mut rounds = self.lock();
        if rounds.len() >= APPS_MAX && !rounds.contains_key(&app) {
            return Err(Problem::new(ProblemType::TooManyRequests, "So many apps have no canary here."));
        }
        let at = advertised_now();
        let before = rounds.get(&app).and_then(|round| round.last_whole);
        let last_whole = if failed.is_none() { Some(at) } else { before };
        metrics.canary(&app, at, failed.as_ref().map(|(step, _)| *step), &steps);
        rounds.insert(app, Round { at, failed, steps, last_whole });
        Ok(())
    }

    /// The last round of each app.
    pub fn rounds(&self) -> Vec<(Box<str>, Round)> {
        self.lock().iter().map(|(app, round)| (app.clone(), round.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Round>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;
    use crate::metrics::Metric;
    use crate::metrics::reading::Reading;

    fn told(canaries: &Canaries, metrics: &Metrics, body: &str) -> Result<(), Problem> {
        canaries.take(read(&json::parse(body.as_bytes())?, None)?, metrics)
    }

    #[test]
    fn a_round_that_failed_keeps_when_one_was_whole() {
        let (canaries, metrics) = (Canaries::default(), Metrics::new());
        told(&canaries, &metrics, r#"{"app": "a.b", "ms": {"push": 210, "answer": 900}}"#).unwrap();
        let whole = canaries.rounds()[0].1.last_whole;
        assert!(whole.is_some());
        told(&canaries, &metrics, r#"{"app": "a.b", "ms": {"push": 5}, "failed": "attach", "why": "closed"}"#).unwrap();
        let [(app, round)] = &canaries.rounds()[..] else { panic!("one app") };
        assert_eq!((&**app, round.last_whole), ("a.b", whole));
        assert_eq!(round.failed, Some((CanaryStep::Attach, "closed".into())));
        let reading = Reading::of(&metrics);
        let count = |outcome| reading.value(Metric::CanaryRounds, &[("app", "a.b"), ("outcome", outcome)]);
        assert_eq!((count("whole"), count("attach"), count("push")), (1.0, 1.0, 0.0));
        assert_eq!(reading.value(Metric::CanarySeconds, &[("app", "a.b"), ("step", "push")]), 0.21, "of a whole one");
        assert!(reading.value(Metric::CanaryLastWhole, &[("app", "a.b")]) > 1e9);
    }

    #[test]
    fn an_app_that_the_relay_does_not_have_has_no_canary() {
        let body = json::parse(br#"{"app": "com.exampel.phone", "ms": {"push": 5}}"#).unwrap();
        let known = |app: &str| [Box::from("a.b"), Box::from(app)];
        assert!(read(&body, Some(&known("com.exampel.phone"))).is_ok());
        for others in [&known("com.example.phone")[..], &[]] {
            assert!(read(&body, Some(others)).is_err());
        }
    }

    #[test]
    fn what_is_no_round_is_refused_and_so_is_a_crowd_of_apps() {
        let (canaries, metrics) = (Canaries::default(), Metrics::new());
        for wrong in [
            "{}",
            r#"{"app": "a b"}"#,
            r#"{"app": ""}"#,
            r#"{"app": "a", "ms": {"lunch": 1}}"#,
            r#"{"app": "a", "ms": {"push": -1}}"#,
            r#"{"app": "a", "failed": "lunch"}"#,
            r#"{"app": "a", "aor": "sip:a@b"}"#,
        ] {
            assert!(told(&canaries, &metrics, wrong).is_err(), "{wrong}");
        }
        for number in 0..APPS_MAX {
            told(&canaries, &metrics, &format!(r#"{{"app": "a{number}"}}"#)).unwrap();
        }
        assert!(told(&canaries, &metrics, r#"{"app": "b"}"#).is_err());
        told(&canaries, &metrics, r#"{"app": "a1"}"#).unwrap();
    }
}
