//! Doubts about a service that calls tokens bad: APNs with `BadDeviceToken`, and a service of Web Push with 404.
//!
//! `BadDeviceToken` means that a token is invalid, or that it belongs to the other environment. The first ends one instance; the second is a mistake of the
//! operator that concerns every device at once, or all of their tokens for calls, or for the rest: each of these kinds is judged by its own answers. So the
//! answer ends an instance only
//! - when a push of this app, environment and kind was accepted, in this run or, with the same key and endpoint, within the last days, and
//! - while at most [`BAD_FREE`] answers in a row are `BadDeviceToken`, and
//! - while at most [`BAD_FREE`] answers within [`WINDOW`], or one in [`BAD_SHARE`], are, and
//! - while all nodes and their earlier runs have believed fewer than [`BAD_FREE`] since a push was accepted and few were refused, of [`JUDGED`] answers of
//!   one run or more, or once in [`JUDGED_WITHIN`] where there are fewer: a run that has just begun does not know the share, before it has seen a [`WINDOW`].
//!
//! Otherwise the instance lives on, its caller hears that it cannot be reached, and the operator is told.
//!
//! The origin of a Web Push service judges its 404s (`push/webpush/unknown.rs`). All nodes and their runs together believe at most [`NOT_FOUND`] of one
//! service within [`NOT_FOUND_FOR`], or until that service takes a push. Subscribers choose their services, so at most [`SERVICES_MAX`] are remembered of one
//! app; no 404 of a further service is believed.
//!
//! A configuration with other push services begins anew: what an earlier endpoint or key was told says nothing about the next.
//!
//! Invariant: only answers are judged here; no push is delayed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use crate::clock;
use crate::lock::Mutex;
use crate::push::{Event, Mode, webpush};
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

/// For how long answers are counted, at most.
const WINDOW: Duration = Duration::from_secs(600);
/// `BadDeviceToken` within it, and in a row, that are believed.
const BAD_FREE: u32 = 2;
/// Of so many answers one may be `BadDeviceToken`.
const BAD_SHARE: u32 = 5;
/// This many answers of one run show the share of `BadDeviceToken` among them.
const JUDGED: u32 = 20;
/// After this time, fewer answers are enough, once.
const JUDGED_WITHIN: Duration = Duration::from_secs(86_400);
/// How often it is written down that pushes are accepted.
const WRITTEN_EVERY: Duration = Duration::from_secs(86_400);
/// For how long it is known to all nodes that a token was believed to be bad, while no push is accepted.
const BELIEVED_FOR: Duration = Duration::from_secs(7 * 86_400);
/// Subscriptions of one service that all nodes believe to be gone for a 404, and for how long each counts while no push is taken.
const NOT_FOUND: u32 = 8;
const NOT_FOUND_FOR: Duration = Duration::from_secs(3_600);
/// Services of Web Push of one app of which this run knows that some count.
const SERVICES_MAX: usize = 1_024;
/// How often the operator is told of one app and environment.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// Services of Web Push by their names, and when a 404 of each may have been believed last.
type Services = HashMap<Box<str>, Instant>;

/// The kind of a token: most devices have one for calls (PushKit), and another one for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Calls,
    Alerts,
}

impl Kind {
    fn of(event: Event) -> Self {
        if event == Event::Call { Self::Calls } else { Self::Alerts }
    }

    /// The name under which the store knows this kind of a channel.
    fn name(self, channel: &str) -> String {
        match self {
            Self::Calls => format!("{channel} calls"),
            Self::Alerts => format!("{channel} alerts"),
        }
    }
}

/// The tokens that are judged together.
type Tokens = (Box<str>, Provider, Kind);

/// The recent answers for each app, environment and kind.
#[derive(Default)]
pub(crate) struct TokenDoubts {
    rows: Mutex<HashMap<Tokens, Row>>,
    /// The services of each app for which the store may have noted that 404s were believed.
    not_found: Mutex<HashMap<Box<str>, Services>>,
    /// Whether there are any.
    any_not_found: AtomicBool,
}

#[derive(Default)]
struct Row {
    /// The push services that these answers came from.
    services: Weak<Mode>,
    /// A push was accepted, in this run or an earlier one.
    accepted: bool,
    /// `BadDeviceToken` since the latest push that was accepted.
    in_a_row: u32,
    /// The store may have that tokens were believed to be bad.
    counts: bool,
    written_at: Option<Instant>,
    told_at: Option<Instant>,
    /// Answers of this half of the window and of the one before: all, and those that said `BadDeviceToken`.
    halves: [(u32, u32); 2],
    half_began: Option<Instant>,
    /// Answers of this run, and when the first came.
    answers: u32,
    began: Option<Instant>,
    /// When that was, or when its allowance was given back.
    judged_since: Option<Instant>,
}

/// One push service of an app, in the configuration in force, and one kind of its tokens.
#[derive(Clone, Copy)]
struct ServiceKey<'a> {
    app: &'a str,
    provider: Provider,
    kind: Kind,
    /// The services of that configuration.
    services: &'a Weak<Mode>,
}

/// The writes to the store that follow from an accepted push.
#[derive(Debug, PartialEq, Eq)]
struct WhenAccepted {
    /// Pushes of this service are accepted.
    write_down: bool,
    /// Tokens that were believed to be bad no longer count.
    clear_counts: bool,
}

impl TokenDoubts {
    /// A push was accepted.
    fn note_accepted(&self, service: ServiceKey<'_>, now: Instant) -> WhenAccepted {
        self.with_row(service, |row| {
            row.count(now, false);
            row.accepted = true;
            let due = row.written_at.is_none_or(|at| now.saturating_duration_since(at) >= WRITTEN_EVERY);
            if due {
                row.written_at = Some(now);
            }
            let since = *row.judged_since.get_or_insert(now);
            // What an earlier run was told within the window is not known.
            let has_seen = row.began.is_some_and(|began| now.saturating_duration_since(began) >= WINDOW);
            let is_known = row.answers >= JUDGED && has_seen || now.saturating_duration_since(since) >= JUDGED_WITHIN;
            let clear_counts = is_known && row.share_is_low() && std::mem::take(&mut row.counts);
            if clear_counts {
                row.judged_since = Some(now);
            }
            WhenAccepted { write_down: due, clear_counts }
        })
    }

    /// Tokens that are believed to be bad are counted by the store.
    fn note_counts(&self, service: ServiceKey<'_>) {
        self.with_row(service, |row| row.counts = true);
    }

    /// Likewise the 404s of this service. False: they cannot be, for its app has too many.
    fn note_not_found(&self, app: &str, service: &str, now: Instant) -> bool {
        let mut apps = self.not_found.lock();
        self.any_not_found.store(true, Ordering::Relaxed);
        let services = apps.entry(app.into()).or_default();
        let is_known = services.contains_key(service);
        if !is_known && services.len() >= SERVICES_MAX {
            // Earlier verdicts on them no longer count.
            services.retain(|_, at| now.saturating_duration_since(*at) < NOT_FOUND_FOR);
        }
        let has_room = is_known || services.len() < SERVICES_MAX;
        if has_room {
            services.insert(service.into(), now);
        }
        has_room
    }

    /// This service has taken a push; whether 404s of it may count.
    fn take_not_found(&self, app: &str, service: &str) -> bool {
        let mut apps = self.not_found.lock();
        let Some(services) = apps.get_mut(app) else { return false };
        let was_there = services.remove(service).is_some();
        if services.is_empty() {
            apps.remove(app);
        }
        self.any_not_found.store(!apps.is_empty(), Ordering::Relaxed);
        was_there
    }

    /// A token was called bad; `None`: whether a push was accepted in an earlier run decides.
    fn judge(&self, service: ServiceKey<'_>, now: Instant) -> Option<bool> {
        self.with_row(service, |row| {
            row.count(now, true);
            let few = row.are_few();
            (!few || row.accepted).then_some(few)
        })
    }

    fn note_accepted_before(&self, service: ServiceKey<'_>) {
        self.with_row(service, |row| row.accepted = true);
    }

    /// Whether the operator is to be told now.
    fn tells(&self, service: ServiceKey<'_>, now: Instant) -> bool {
        self.with_row(service, |row| {
            let due = row.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
            if due {
                row.told_at = Some(now);
            }
            due
        })
    }

    fn with_row<T>(
        &self,
        ServiceKey { app, provider, kind, services }: ServiceKey<'_>,
        work: impl FnOnce(&mut Row) -> T,
    ) -> T {
        let mut rows = self.rows.lock();
        let row = rows.entry((app.into(), provider, kind)).or_default();
        if !Weak::ptr_eq(&row.services, services) {
            // Notes in the store still count for a service that stays the same.
            *row = Row { services: services.clone(), counts: row.counts, ..Row::default() };
        }
        work(row)
    }
}

impl Row {
    fn count(&mut self, now: Instant, bad: bool) {
        let began = *self.half_began.get_or_insert(now);
        match now.saturating_duration_since(began).as_secs() / (WINDOW.as_secs() / 2) {
            0 => {}
            1 => (self.halves, self.half_began) = ([(0, 0), self.halves[0]], Some(now)),
            _ => (self.halves, self.half_began) = ([(0, 0); 2], Some(now)),
        }
        self.answers = self.answers.saturating_add(1);
        self.began.get_or_insert(now);
        self.judged_since.get_or_insert(now);
        self.halves[0].0 += 1;
        self.halves[0].1 += u32::from(bad);
        self.in_a_row = if bad { self.in_a_row.saturating_add(1) } else { 0 };
    }

    fn are_few(&self) -> bool {
        let bad = self.halves[0].1 + self.halves[1].1;
        self.in_a_row <= BAD_FREE && (bad <= BAD_FREE || self.share_is_low())
    }

    fn share_is_low(&self) -> bool {
        let (all, bad) = (self.halves[0].0 + self.halves[1].0, self.halves[0].1 + self.halves[1].1);
        bad.saturating_mul(BAD_SHARE) <= all
    }
}

impl Shared {
    /// A push of this event was accepted: this app's tokens of this environment are good ones.
    pub(crate) fn note_accepted(self: &Arc<Self>, app: &str, provider: Provider, event: Event) {
        let (services, kind) = (Arc::downgrade(&self.push.mode()), Kind::of(event));
        let service = ServiceKey { app, provider, kind, services: &services };
        let WhenAccepted { write_down, clear_counts } = self.token_doubts.note_accepted(service, clock::now());
        if !write_down && !clear_counts {
            return;
        }
        let Some(channel) = self.push.channel(app, provider).map(|channel| kind.name(&channel)) else { return };
        let (shared, app) = (self.clone(), Box::<str>::from(app));
        tokio::spawn(async move {
            // A state that is not written down is learned anew by the next run.
            if write_down {
                let _ = shared.vault.remember(&channel).await;
            }
            if clear_counts && shared.vault.give_turns_back(&bad_tokens(&channel), BAD_FREE).await.is_err() {
                shared.token_doubts.note_counts(ServiceKey { app: &app, provider, kind, services: &services });
            }
        });
    }

    /// A service of Web Push has taken a push.
    pub(crate) fn note_taken(self: &Arc<Self>, app: &str, target: &PushTarget) {
        // So it is where no service says 404.
        if !self.token_doubts.any_not_found.load(Ordering::Relaxed) {
            return;
        }
        let Some(service) = webpush::service_of(app, target) else { return };
        if self.token_doubts.take_not_found(app, &service) {
            let (shared, app) = (self.clone(), Box::<str>::from(app));
            tokio::spawn(async move {
                if shared.vault.give_turns_back(&service, NOT_FOUND).await.is_err() {
                    shared.token_doubts.note_not_found(&app, &service, clock::now());
                }
            });
        }
    }

    /// Whether a subscription that its service knows no more is believed to be gone, though other nodes, or earlier runs, may have believed so of others.
    /// `None`: the store is away.
    pub(crate) async fn believes_not_found(&self, app: &str, target: &PushTarget) -> Option<bool> {
        let Some(service) = webpush::service_of(app, target) else { return Some(false) };
        if !self.token_doubts.note_not_found(app, &service, clock::now()) {
            return Some(false);
        }
        self.vault.take_turn(&service, NOT_FOUND, NOT_FOUND_FOR).await.ok()
    }

    /// Whether a token that the service calls bad, to which a push of this event was sent, ends its instance. If not, the operator is told.
    pub(crate) async fn believes_bad_token(
        &self,
        app: &str,
        provider: Provider,
        event: Event,
        token: &PushToken,
    ) -> bool {
        let (now, services, kind) = (clock::now(), Arc::downgrade(&self.push.mode()), Kind::of(event));
        let service = ServiceKey { app, provider, kind, services: &services };
        let channel = self.push.channel(app, provider).map(|channel| kind.name(&channel));
        let believed = match (self.token_doubts.judge(service, now), channel) {
            (Some(false), _) | (_, None) => false,
            (Some(true), Some(channel)) => self.counts_as_bad(service, &channel).await,
            (None, Some(channel)) => {
                let before = self.vault.remembers(&channel).await.unwrap_or(false);
                if before {
                    self.token_doubts.note_accepted_before(service);
                }
                before && self.counts_as_bad(service, &channel).await
            }
        };
        if !believed {
            self.metrics.push_token_doubted(self.provider(provider));
            self.push.note_doubted_token(app, provider, token);
            if self.token_doubts.tells(service, now) {
                tracing::error!(
                    event = "push-tokens-doubted",
                    app,
                    environment = provider.name(),
                    "APNs calls the tokens of this app bad (BadDeviceToken), and none of its pushes, or too few, are accepted: nobody is \
                     wiped for it; look whether the tokens are of the other environment, or of another app"
                );
            }
        }
        believed
    }

    /// Whether all nodes and their earlier runs have believed few tokens of this channel to be bad, of which this is one more.
    async fn counts_as_bad(&self, service: ServiceKey<'_>, channel: &str) -> bool {
        self.token_doubts.note_counts(service);
        self.vault.take_turn(&bad_tokens(channel), BAD_FREE, BELIEVED_FOR).await.unwrap_or(false)
    }
}

/// The name of what the store counts of a channel.
fn bad_tokens(channel: &str) -> String {
    format!("{channel} bad")
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "com.example.phone";

    fn service(services: &Weak<Mode>) -> ServiceKey<'_> {
        ServiceKey { app: APP, provider: Provider::ApnsProduction, kind: Kind::Calls, services }
    }

    /// The answers to pushes of one app's production tokens for calls.
    struct Answers {
        doubts: TokenDoubts,
        services: Arc<Mode>,
        now: Instant,
    }

    impl Answers {
        fn new() -> Self {
            Self { doubts: TokenDoubts::default(), services: Arc::new(Mode::Printed), now: Instant::now() }
        }

        fn accepted(&self) -> WhenAccepted {
            let services = Arc::downgrade(&self.services);
            self.doubts.note_accepted(service(&services), self.now)
        }

        fn bad(&self) -> Option<bool> {
            self.bad_of(Provider::ApnsProduction)
        }

        fn bad_of(&self, provider: Provider) -> Option<bool> {
            let services = Arc::downgrade(&self.services);
            self.doubts.judge(ServiceKey { provider, ..service(&services) }, self.now)
        }
    }

    #[test]
    fn nobody_is_believed_before_a_push_was_accepted() {
        let answers = Answers::new();
        assert_eq!(answers.bad(), None, "an earlier run may know");
        assert_eq!(answers.bad(), None);
        assert_eq!(answers.bad(), Some(false), "three of three are too many, whatever an earlier run knew");
        assert_eq!([answers.accepted().write_down, answers.accepted().write_down], [true, false], "written once a day");
    }

    #[test]
    fn a_few_among_many_are_believed_and_many_at_once_are_not() {
        let mut answers = Answers::new();
        answers.accepted();
        let outcomes: Vec<_> = (0..5).map(|_| answers.bad()).collect();
        assert_eq!(outcomes, [Some(true), Some(true), Some(false), Some(false), Some(false)]);
        for _ in 0..94 {
            answers.accepted();
        }
        assert_eq!(answers.bad(), Some(true), "six of a hundred");
        assert_eq!(answers.bad_of(Provider::ApnsSandbox), None, "the other environment is another matter");
        answers.now += WINDOW * 2;
        answers.accepted();
        assert_eq!(answers.bad(), Some(true), "what was long ago does not count");
    }

    #[test]
    fn a_mistake_is_found_after_few_tokens_however_many_pushes_were_accepted_before() {
        let answers = Answers::new();
        for _ in 0..10_000 {
            answers.accepted();
        }
        let outcomes: Vec<_> = (0..40).filter(|_| answers.bad() == Some(true)).collect();
        assert_eq!(outcomes.len(), BAD_FREE as usize);
        answers.accepted();
        assert_eq!(answers.bad(), Some(true), "it is put right");
    }

    #[test]
    fn what_all_nodes_believed_counts_until_a_node_that_knows_of_it_has_few_refused() {
        let mut answers = Answers::new();
        assert_eq!(
            answers.accepted(),
            WhenAccepted { write_down: true, clear_counts: false },
            "this run knows of none"
        );
        answers.bad();
        let services = Arc::downgrade(&answers.services);
        answers.doubts.note_counts(service(&services));
        answers.now += WINDOW;
        let over: Vec<_> = (3..=JUDGED + 1).map(|_| answers.accepted().clear_counts).collect();
        let at = over.iter().position(|over| *over);
        assert_eq!(
            (at, over.iter().filter(|over| **over).count()),
            (Some(JUDGED as usize - 3), 1),
            "of twenty: {over:?}"
        );
    }

    #[test]
    fn where_few_pushes_are_sent_a_day_is_as_good_as_many_answers_and_a_reload_forgets_nothing() {
        let mut answers = Answers::new();
        answers.accepted();
        answers.bad();
        let services = Arc::downgrade(&answers.services);
        answers.doubts.note_counts(service(&services));
        answers.services = Arc::new(Mode::Printed);
        assert!(!answers.accepted().clear_counts);
        answers.now += JUDGED_WITHIN;
        assert!(answers.accepted().clear_counts);
    }

    #[test]
    fn a_run_that_has_just_begun_gives_nothing_back_for_its_first_good_answers() {
        for run in 0..10 {
            let answers = Answers::new();
            let services = Arc::downgrade(&answers.services);
            // The tokens that are called first are good ones: the bad ones among them are wiped already.
            for _ in 0..JUDGED {
                assert!(!answers.accepted().clear_counts, "{run}");
            }
            for _ in 0..JUDGED {
                // Every second token is of the other environment.
                assert!(!answers.accepted().clear_counts, "{run}");
                if answers.bad() != Some(false) {
                    answers.doubts.note_counts(service(&services));
                }
            }
        }
    }

    #[test]
    fn what_is_taken_by_tokens_for_the_rest_says_nothing_of_those_for_calls() {
        let answers = Answers::new();
        let services = Arc::downgrade(&answers.services);
        for _ in 0..JUDGED * 2 {
            answers.doubts.note_accepted(ServiceKey { kind: Kind::Alerts, ..service(&services) }, answers.now);
        }
        assert_eq!(answers.bad(), None, "no push was accepted");
        answers.accepted();
        let believed = (0..JUDGED).filter(|_| answers.bad() == Some(true)).count();
        assert_eq!(believed, BAD_FREE as usize - 1);
    }

    #[test]
    fn a_service_of_web_push_counts_until_it_takes_a_push() {
        let (doubts, now) = (TokenDoubts::default(), Instant::now());
        assert!(["one", "other", "one"].into_iter().all(|service| doubts.note_not_found(APP, service, now)));
        assert!(doubts.take_not_found(APP, "one") && !doubts.take_not_found(APP, "one"));
        assert!(doubts.any_not_found.load(Ordering::Relaxed));
        assert!(doubts.take_not_found(APP, "other") && !doubts.any_not_found.load(Ordering::Relaxed));
    }

    #[test]
    fn many_services_that_subscribers_name_keep_those_of_another_app_and_later_ones_from_nothing() {
        let (doubts, now) = (TokenDoubts::default(), Instant::now());
        let later = now + NOT_FOUND_FOR;
        assert!((0..SERVICES_MAX).all(|number| doubts.note_not_found(APP, &number.to_string(), now)));
        assert!(!doubts.note_not_found(APP, "one more", now), "it is not believed");
        assert!(doubts.note_not_found(APP, "7", later - Duration::from_secs(1)), "it is known");
        assert!(doubts.note_not_found("com.example.other", "one more", now));
        assert!(doubts.note_not_found(APP, "one more", later));
        let known = ["7", "8", "one more"].map(|service| doubts.take_not_found(APP, service));
        assert_eq!(known, [true, false, true], "the others count no more");
    }

    #[test]
    fn services_of_another_configuration_are_learned_anew() {
        let mut answers = Answers::new();
        answers.accepted();
        answers.services = Arc::new(Mode::Printed);
        assert_eq!(answers.bad(), None, "none of their pushes was accepted");
    }
}
