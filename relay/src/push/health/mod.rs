//! The health of each push service of each app: one record, which feeds metrics, readiness, the status page and the log.
//!
//! | event | meaning |
//! | --- | --- |
//! | a push was accepted, or a token was called gone | it is well |
//! | a dry run: it took our credentials and called the token invalid | it is well, if it failed for its credentials or its configuration, or could not be reached; if it failed for the outcome of pushes, once nothing has gone wrong for [`QUIET_FOR`] |
//! | a trouble of the service or of the way to it (5xx, no connection, silence) | the third in a row: it fails |
//! | a grave trouble: credentials or configuration are refused, a call was not taken in time | it fails |
//! | a trouble of one push or one device alone (its size, its quota) | none |
//! | a verdict on a token | as [`token_refusals`] judges; that of one device means nothing |
//!
//! A failing service is asked again by a dry run ([`super::delivery::dry_run`]).
//!
//! Invariant: a change of state is reported once, in words, and at most each [`TELL_EVERY`]. A healthy service costs a few atomic writes for each push. Nothing
//! here holds a token or a credential.

pub(super) mod device_faults;
pub(super) mod origin_health;
pub(super) mod reasons;
pub(super) mod since_taken;
pub(super) mod token_refusals;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use self::origin_health::{TROUBLES, Troubled, Weight};
use self::token_refusals::{RefusalMeaning, Tokens, is_of_a_token};
use crate::clock::{advertised_now, rfc3339};
use crate::domain::PushOutcome;
use crate::lock::Mutex;
use crate::metrics::PushServiceSeries;
use crate::secret::PushToken;

/// The shortest interval between two reports of a change of one service.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How long after the last trouble of a push a service that takes none still counts as failing.
const QUIET_FOR: Duration = Duration::from_secs(600);

/// Troubles with pushes to devices, about which dry runs say nothing.
const OF_PUSHES: [&str; 7] =
    [NOT_IN_TIME, "ServerError", "ConnectionLost", "Unanswered", "AskedToWait", "GoneWithoutReason", "ManyNotFound"];

/// The reason of a call that was not taken before its caller gave up; an earlier reason says more.
pub(super) const NOT_IN_TIME: &str = "NotInTime";

/// A trouble, by its meaning for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The reason: one of the words of [`reasons`].
    pub(super) reason: &'static str,
    pub(super) grave: bool,
}

impl Trouble {
    pub(super) const fn light(reason: &'static str) -> Self {
        Self { reason, grave: false }
    }

    pub(super) const fn grave(reason: &'static str) -> Self {
        Self { reason, grave: true }
    }
}

/// The meaning of an answer for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// The service took a push.
    Accepted,
    /// The service and our credentials are well, though this push was not taken.
    Well,
    /// The service took our credentials, and called a token invalid. That does not show whether it takes a push.
    LetIn,
    /// Nothing.
    Nothing,
    Trouble(Trouble),
}

/// The state of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The service has not been needed yet.
    Unknown,
    /// The service takes pushes.
    Well,
    /// The service does not take pushes.
    Failing,
}

/// The present health of one service of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The app's id.
    pub app: Box<str>,
    /// `apns`, `apns-sandbox`, `fcm`, `webpush`.
    pub service: &'static str,
    /// Its state.
    pub state: State,
    /// The beginning of that state, in seconds since 1970; 0: the service was not needed yet.
    pub since: u64,
    /// Why it fails: the service's reason, and its meaning.
    pub reason: Option<(&'static str, Box<str>)>,
    /// The time at which it last took a push, in seconds since 1970; 0: not in this process.
    pub last_accepted: u64,
    /// The number of pushes that wait for it now.
    pub waiting: u64,
}

/// The subject of a record.
enum Scope {
    /// A service as a whole.
    Service,
    /// One service of the many behind the record `of`, which gets a copy of its notes.
    Part(Part),
    /// The endpoint that gives tokens for a service.
    TokenEndpoint(Arc<Record>),
}

/// A service among many behind one record.
struct Part {
    of: Arc<Record>,
    troubled: Arc<Troubled>,
    origin: Box<str>,
}

/// The record of one service of one app.
pub(super) struct Record {
    scope: Scope,
    app: Box<str>,
    service: &'static str,
    series: PushServiceSeries,
    tokens: Arc<Tokens>,
    /// Troubles since the last push that was taken.
    troubles: AtomicU32,
    /// Whether the service is in use: the metric shows no other.
    in_force: AtomicBool,
    standing: Mutex<Standing>,
}

struct Standing {
    state: State,
    since: u64,
    reason: &'static str,
    detail: Box<str>,
    /// The time of the last trouble.
    troubled: Option<Instant>,
    /// The state reported last, and when.
    told: Option<(State, Instant)>,
    to_be_told: bool,
}

/// A push that waits, counted until it is dropped.
pub(super) struct Waiting<'a>(&'a Record);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.series.waiting.dec();
    }
}

impl Record {
    /// `earlier`: the record of the same service with its former settings, whose good tokens are taken over.
    pub(super) fn new(
        app: &str,
        service: &'static str,
        series: PushServiceSeries,
        earlier: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let standing = Standing::new();
        let (tokens, troubles) = (earlier.map(|it| Arc::clone(&it.tokens)).unwrap_or_default(), AtomicU32::new(0));
        let (app, in_force) = (app.into(), AtomicBool::new(false));
        Arc::new(Self {
            scope: Scope::Service,
            app,
            service,
            series,
            tokens,
            troubles,
            in_force,
            standing: Mutex::new(standing),
        })
    }

    /// `apns`, `apns-sandbox`, `fcm`, `webpush`.
    pub(super) fn service(&self) -> &'static str {
        self.service
    }

    /// Notes whether the service is in use.
    pub(super) fn note_in_force(&self, is: bool) {
        let standing = self.lock();
        self.in_force.store(is, Ordering::Relaxed);
        self.tell_metric(&standing);
    }

    /// Sets the metric of a service in use. One that was not needed yet counts as up.
    fn tell_metric(&self, standing: &Standing) {
        if self.in_force.load(Ordering::Relaxed) {
            self.series.up.set(i64::from(standing.state != State::Failing));
        }
    }

    /// The record of one service among many, which is reported in `of` alone.
    pub(super) fn part_of(of: &Arc<Self>, troubled: &Arc<Troubled>, origin: &str) -> Arc<Self> {
        Self::beside(
            of,
            Scope::Part(Part { of: Arc::clone(of), troubled: Arc::clone(troubled), origin: origin.into() }),
        )
    }

    /// The record of this service's token endpoint. Its faults are reported under its own name, because its host may be another one.
    pub(super) fn of_token_endpoint(of: &Arc<Self>) -> Arc<Self> {
        Self::beside(of, Scope::TokenEndpoint(Arc::clone(of)))
    }

    /// A fresh record with the names, the series and the tokens of `of`.
    fn beside(of: &Self, scope: Scope) -> Arc<Self> {
        Arc::new(Self {
            scope,
            app: of.app.clone(),
            service: of.service,
            series: of.series.clone(),
            tokens: Arc::clone(&of.tokens),
            troubles: AtomicU32::new(0),
            in_force: AtomicBool::new(false),
            standing: Mutex::new(Standing::new()),
        })
    }

    /// A push waits for the service.
    pub(super) fn wait(&self) -> Waiting<'_> {
        self.series.waiting.inc();
        Waiting(self)
    }

    /// Notes the final outcome of a push through the service.
    pub(super) fn count(&self, outcome: PushOutcome) {
        self.series.push(outcome);
    }

    pub(super) fn note(self: &Arc<Self>, note: Note) {
        if let (Scope::Part(Part { of, troubled, origin }), Note::Accepted | Note::Well) = (&self.scope, note) {
            let all_well = match note {
                Note::Accepted => troubled.took(origin),
                _ => troubled.well(origin),
            };
            return match note {
                _ if all_well => of.note(note),
                Note::Accepted => _ = self.note_accepted(),
                _ => {}
            };
        }
        match note {
            Note::Accepted => {
                let first = self.note_accepted();
                self.is_well(first);
            }
            Note::Well => self.is_well(false),
            Note::LetIn => self.is_let_in(),
            Note::Nothing => {}
            Note::Trouble(trouble) => self.trouble(trouble, ""),
        }
    }

    /// A push to this token was taken.
    pub(super) fn took(&self, token: &PushToken) {
        self.tokens.took(token);
    }

    /// This token was refused, for a reason that is about tokens.
    pub(super) fn token_refused(self: &Arc<Self>, reason: &'static str, token: &PushToken) {
        match self.tokens.refused(token) {
            RefusalMeaning::Nothing => {}
            RefusalMeaning::Light => self.trouble(Trouble::light(reason), ""),
            RefusalMeaning::Fails => self.trouble(Trouble::grave(reason), ""),
        }
    }

    /// Whether it was the first one.
    fn note_accepted(&self) -> bool {
        self.series.last_accepted.set(i64::try_from(advertised_now()).unwrap_or(i64::MAX)) == 0
    }

    /// Notes a trouble; `detail` is in words of this system, without a secret.
    pub(super) fn trouble(self: &Arc<Self>, trouble: Trouble, detail: &str) {
        match &self.scope {
            Scope::TokenEndpoint(service) => {
                let (reason, detail) = reasons::at_token_endpoint(trouble.reason, detail);
                service.trouble(Trouble { reason, ..trouble }, detail);
            }
            Scope::Service => self.weighed_trouble(trouble, detail, false),
            Scope::Part(Part { of, troubled, origin }) => match troubled.weigh(origin, trouble.grave) {
                Weight::Nothing => {}
                Weight::Light => of.weighed_trouble(Trouble::light(trouble.reason), detail, false),
                Weight::Fails => of.weighed_trouble(trouble, detail, true),
            },
        }
    }

    fn weighed_trouble(self: &Arc<Self>, trouble: Trouble, detail: &str, fails: bool) {
        let count = self.troubles.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut standing = self.lock();
        standing.troubled = Some(Instant::now());
        // A grave trouble names what to correct; its consequences say less.
        let vague = trouble.reason == NOT_IN_TIME && count > 1;
        let says_more =
            !vague && (trouble.grave || standing.state != State::Failing || standing.reason == trouble.reason);
        if says_more {
            (standing.reason, standing.detail) = (trouble.reason, detail.into());
        }
        if fails || trouble.grave || count >= TROUBLES {
            self.turn(standing, State::Failing);
        }
    }

    pub(super) fn report(&self) -> Report {
        let standing = self.lock();
        let failing = standing.state == State::Failing;
        let number = |value: i64| u64::try_from(value).unwrap_or(0);
        Report {
            app: self.app.clone(),
            service: self.service,
            state: standing.state,
            since: standing.since,
            reason: failing.then(|| (standing.reason, standing.words())),
            last_accepted: number(self.series.last_accepted.get()),
            waiting: number(self.series.waiting.get()),
        }
    }

    /// The latest trouble, with its meaning.
    pub(super) fn latest(&self) -> Option<(&'static str, Box<str>)> {
        let standing = self.lock();
        (!standing.reason.is_empty()).then(|| (standing.reason, standing.words()))
    }

    /// Why it fails, or the trouble since then; a call that was not taken in time is no reason.
    pub(super) fn trouble_since(&self, since: Instant) -> Option<&'static str> {
        let standing = self.lock();
        let is_of_now = standing.state == State::Failing || standing.troubled.is_some_and(|at| at >= since);
        (is_of_now && !matches!(standing.reason, "" | NOT_IN_TIME)).then_some(standing.reason)
    }

    fn is_well(self: &Arc<Self>, first: bool) {
        if self.troubles.load(Ordering::Relaxed) == 0 && !first {
            return;
        }
        self.troubles.store(0, Ordering::Relaxed);
        self.turn(self.lock(), State::Well);
    }

    /// The service takes our credentials.
    fn is_let_in(self: &Arc<Self>) {
        if self.troubles.load(Ordering::Relaxed) == 0 {
            return;
        }
        let standing = self.lock();
        let is_quiet = standing.troubled.is_none_or(|at| at.elapsed() >= QUIET_FOR);
        if is_of_a_token(standing.reason) || OF_PUSHES.contains(&standing.reason) && !is_quiet {
            return;
        }
        self.troubles.store(0, Ordering::Relaxed);
        self.turn(standing, State::Well);
    }

    fn turn(self: &Arc<Self>, mut standing: MutexGuard<'_, Standing>, state: State) {
        if standing.state == state {
            return;
        }
        (standing.state, standing.since) = (state, advertised_now());
        self.tell_metric(&standing);
        self.tell(standing);
    }

    /// Reports the state, now or when a report is due.
    fn tell(self: &Arc<Self>, mut standing: MutexGuard<'_, Standing>) {
        let (before, due) = match standing.told {
            Some((state, at)) => (state, at + TELL_EVERY),
            None => (State::Unknown, Instant::now()),
        };
        let now = Instant::now();
        if due > now {
            if !std::mem::replace(&mut standing.to_be_told, true) {
                let record = Arc::clone(self);
                tokio::spawn(async move {
                    sleep_until(due).await;
                    let mut standing = record.lock();
                    standing.to_be_told = false;
                    record.tell(standing);
                });
            }
            return;
        }
        if standing.state == before {
            return;
        }
        let since = standing.since;
        let (app, service) = (&*self.app, self.service);
        match standing.state {
            State::Failing => {
                standing.told = Some((State::Failing, now));
                let (reason, words) = (standing.reason, standing.words());
                drop(standing);
                tracing::warn!(
                    event = "push-service-fails",
                    app,
                    service,
                    reason,
                    since = rfc3339(since),
                    detail = %words,
                    "the push service fails"
                );
            }
            // A service that is healthy from the start is not reported.
            State::Well if before == State::Failing => {
                standing.told = Some((State::Well, now));
                drop(standing);
                tracing::warn!(
                    event = "push-service-recovered",
                    app,
                    service,
                    since = rfc3339(since),
                    "the push service takes pushes again"
                );
            }
            State::Well | State::Unknown => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock()
    }
}

impl Standing {
    fn new() -> Self {
        let (state, reason, detail) = (State::Unknown, "", "".into());
        Self { state, since: 0, reason, detail, troubled: None, told: None, to_be_told: false }
    }

    fn words(&self) -> Box<str> {
        match &*self.detail {
            "" => reasons::words(self.reason).into(),
            detail => format!("{} ({detail})", reasons::words(self.reason)).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn record() -> Arc<Record> {
        Record::new("com.example.phone", "apns", Metrics::new().push_service("com.example.phone", "apns"), None)
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_with_a_token_endpoint_is_told_as_that() {
        let service = record();
        let endpoint = Record::of_token_endpoint(&service);
        for (reason, words) in [("Unanswered", "it does not answer"), ("ConnectionLost", "its connections break")] {
            (0..TROUBLES).for_each(|_| endpoint.trouble(Trouble::light(reason), ""));
            let (reason, why) = service.report().reason.expect("it fails");
            assert!(reason == "TokenEndpointAway" && why.contains(words) && !why.contains("pushes"), "{reason}: {why}");
        }
        endpoint.note(Note::Trouble(Trouble::grave("ServiceAccountRefused")));
        assert_eq!(service.report().reason.map(|(reason, _)| reason), Some("ServiceAccountRefused"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_fails_with_a_grave_trouble_or_the_third_light_one_and_is_well_with_the_next_push() {
        let record = record();
        assert_eq!(record.report().state, State::Unknown);
        for (count, state) in [(1, State::Unknown), (2, State::Unknown), (3, State::Failing)] {
            record.note(Note::Trouble(Trouble::light("ServerError")));
            assert_eq!(record.report().state, state, "{count} in a row");
        }
        record.note(Note::Accepted);
        let report = record.report();
        assert_eq!((report.state, report.reason), (State::Well, None));
        assert!(report.last_accepted > 0);
        for _ in 0..10 {
            record.note(Note::Trouble(Trouble::light("ServerError")));
            record.note(Note::Well);
        }
        assert_eq!(record.report().state, State::Well, "what passes is no failure");
        record.trouble(Trouble::grave("InvalidProviderToken"), "");
        record.note(Note::Trouble(Trouble::light("ServerError")));
        let (reason, words) = record.report().reason.expect("it fails");
        assert_eq!(reason, "InvalidProviderToken", "what is to be mended stays");
        assert!(words.contains("key_id"), "{words}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trouble_that_is_over_is_the_reason_of_nothing_that_fails_later() {
        let (record, began) = (record(), Instant::now());
        assert_eq!(record.trouble_since(began), None);
        record.trouble(Trouble::light("Unreachable"), "");
        assert_eq!(record.trouble_since(began), Some("Unreachable"));
        tokio::time::advance(QUIET_FOR).await;
        assert_eq!(record.trouble_since(Instant::now()), None, "it takes pushes");
        record.trouble(Trouble::grave("InvalidProviderToken"), "");
        tokio::time::advance(QUIET_FOR).await;
        assert_eq!(record.trouble_since(Instant::now()), Some("InvalidProviderToken"), "it fails still");
        record.note(Note::Accepted);
        assert_eq!(record.trouble_since(Instant::now()), None);
        record.trouble(Trouble::grave(NOT_IN_TIME), "");
        assert_eq!(record.trouble_since(began), None, "that says nothing of why");
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_many_services_that_is_away_is_told_though_another_one_takes_pushes() {
        let of = record();
        let troubled = Arc::new(Troubled::new(Arc::default()));
        let [real, other] = ["real", "other"].map(|origin| Record::part_of(&of, &troubled, origin));
        for part in [&real, &real, &other] {
            part.note(Note::Accepted);
        }
        for _ in 0..3 {
            real.note(Note::Trouble(Trouble::light("VapidRefused")));
            other.note(Note::Accepted);
        }
        assert_eq!(of.report().state, State::Failing);
        assert_eq!(of.report().reason.map(|(reason, _)| reason), Some("VapidRefused"));
        other.note(Note::Well);
        assert_eq!(of.report().state, State::Failing);
        real.note(Note::Accepted);
        assert_eq!(of.report().state, State::Well);
    }

    #[tokio::test(start_paused = true)]
    async fn pushes_that_wait_are_counted_until_they_end() {
        let record = record();
        let waiting = (record.wait(), record.wait());
        assert_eq!(record.report().waiting, 2);
        drop(waiting);
        assert_eq!(record.report().waiting, 0);
    }
}
