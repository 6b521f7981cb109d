//! Doubts about APNs where it calls tokens bad.
//!
//! `BadDeviceToken` says that a token is none, or that it is one of the other environment. The first is the app's end, the
//! second an operator's mistake that concerns every device at once. So it ends an instance only
//! - when this app and environment has had a push accepted, in this run or, with the same key and endpoint, in one of the
//!   last days, and
//! - while at most [`BAD_FREE`] answers in a row say so, with no push accepted between them, and
//! - while, of what was answered within [`WINDOW`], at most [`BAD_FREE`] answers or one in [`BAD_SHARE`] say so.
//!
//! With the push services of another configuration all of that is learned anew: what an earlier endpoint or key was told says nothing of the next.
//!
//! Otherwise the instance lives, its caller is told that it cannot be reached, and the operator hears of it.
//!
//! Invariant: only answers are judged here; no push is delayed.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, Instant};

use super::Shared;
use crate::clock;
use crate::lock::Mutex;
use crate::push::Mode;
use crate::secret::PushToken;
use crate::vault::record::Provider;

/// For how long answers are counted, at most.
const WINDOW: Duration = Duration::from_secs(600);
/// `BadDeviceToken` within it, and in a row, that are believed.
const BAD_FREE: u32 = 2;
/// Of so many answers one may be `BadDeviceToken`.
const BAD_SHARE: u32 = 5;
/// How often it is written down that pushes are accepted.
const WRITTEN_EVERY: Duration = Duration::from_secs(86_400);
/// How often the operator is told of one app and environment.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The recent answers for each app and environment.
#[derive(Default)]
pub(crate) struct TokenDoubts(Mutex<HashMap<(Box<str>, Provider), Row>>);

#[derive(Default)]
struct Row {
    /// The push services that these answers came from.
    services: Weak<Mode>,
    /// A push was accepted, in this run or an earlier one.
    accepted: bool,
    /// `BadDeviceToken` since the latest push that was accepted.
    in_a_row: u32,
    written_at: Option<Instant>,
    told_at: Option<Instant>,
    /// Answers of this half of the window and of the one before: all, and those that said `BadDeviceToken`.
    halves: [(u32, u32); 2],
    half_began: Option<Instant>,
}

/// An app, one of its push services, and the services of the configuration in force.
type Whose<'a> = (&'a str, Provider, &'a Weak<Mode>);

impl TokenDoubts {
    /// A push was accepted; whether that is to be written down.
    fn note_accepted(&self, whose: Whose<'_>, now: Instant) -> bool {
        self.with_row(whose, |row| {
            row.count(now, false);
            row.accepted = true;
            let due = row.written_at.is_none_or(|at| now.saturating_duration_since(at) >= WRITTEN_EVERY);
            if due {
                row.written_at = Some(now);
            }
            due
        })
    }

    /// A token was called bad; `None`: whether a push was accepted in an earlier run decides.
    fn judge(&self, whose: Whose<'_>, now: Instant) -> Option<bool> {
        self.with_row(whose, |row| {
            row.count(now, true);
            let few = row.are_few();
            (!few || row.accepted).then_some(few)
        })
    }

    fn note_accepted_before(&self, whose: Whose<'_>) {
        self.with_row(whose, |row| row.accepted = true);
    }

    /// Whether the operator is to be told now.
    fn tells(&self, whose: Whose<'_>, now: Instant) -> bool {
        self.with_row(whose, |row| {
            let due = row.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
            if due {
                row.told_at = Some(now);
            }
            due
        })
    }

    fn with_row<T>(&self, (app, provider, services): Whose<'_>, work: impl FnOnce(&mut Row) -> T) -> T {
        let mut rows = self.lock();
        let row = rows.entry((app.into(), provider)).or_default();
        if !Weak::ptr_eq(&row.services, services) {
            *row = Row { services: services.clone(), ..Row::default() };
        }
        work(row)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Box<str>, Provider), Row>> {
        self.0.lock()
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
        self.halves[0].0 += 1;
        self.halves[0].1 += u32::from(bad);
        self.in_a_row = if bad { self.in_a_row.saturating_add(1) } else { 0 };
    }

    fn are_few(&self) -> bool {
        let (all, bad) = (self.halves[0].0 + self.halves[1].0, self.halves[0].1 + self.halves[1].1);
        self.in_a_row <= BAD_FREE && (bad <= BAD_FREE || bad.saturating_mul(BAD_SHARE) <= all)
    }
}

impl Shared {
    /// A push was accepted: this app's tokens of this environment are good ones.
    pub(crate) fn note_accepted(self: &Arc<Self>, app: &str, provider: Provider) {
        let services = Arc::downgrade(&self.push.mode());
        if !self.token_doubts.note_accepted((app, provider, &services), clock::now()) {
            return;
        }
        let Some(channel) = self.push.channel(app, provider) else { return };
        let shared = self.clone();
        // A state that is not written down is learned anew by the next run.
        tokio::spawn(async move { shared.vault.remember(&channel).await });
    }

    /// Whether a token that the service calls bad ends its instance. If not, the operator is told.
    pub(crate) async fn believes_bad_token(&self, app: &str, provider: Provider, token: &PushToken) -> bool {
        let (now, services) = (clock::now(), Arc::downgrade(&self.push.mode()));
        let whose = (app, provider, &services);
        let believed = match self.token_doubts.judge(whose, now) {
            Some(believed) => believed,
            None => {
                let channel = self.push.channel(app, provider);
                let before = match &channel {
                    Some(channel) => self.vault.remembers(channel).await.unwrap_or(false),
                    None => false,
                };
                if before {
                    self.token_doubts.note_accepted_before(whose);
                }
                before
            }
        };
        if !believed {
            self.metrics.push_token_doubted(self.provider(provider));
            self.push.note_doubted_token(app, provider, token);
            if self.token_doubts.tells(whose, now) {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "com.example.phone";

    /// The answers to pushes of one app's production tokens.
    struct Answers {
        doubts: TokenDoubts,
        services: Arc<Mode>,
        now: Instant,
    }

    impl Answers {
        fn new() -> Self {
            Self { doubts: TokenDoubts::default(), services: Arc::new(Mode::Printed), now: Instant::now() }
        }

        fn accepted(&self) -> bool {
            let services = Arc::downgrade(&self.services);
            self.doubts.note_accepted((APP, Provider::ApnsProduction, &services), self.now)
        }

        fn bad(&self) -> Option<bool> {
            self.bad_of(Provider::ApnsProduction)
        }

        fn bad_of(&self, provider: Provider) -> Option<bool> {
            self.doubts.judge((APP, provider, &Arc::downgrade(&self.services)), self.now)
        }
    }

    #[test]
    fn nobody_is_believed_before_a_push_was_accepted() {
        let answers = Answers::new();
        assert_eq!(answers.bad(), None, "an earlier run may know");
        assert_eq!(answers.bad(), None);
        assert_eq!(answers.bad(), Some(false), "three of three are too many, whatever an earlier run knew");
        assert!(answers.accepted() && !answers.accepted(), "written once a day");
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
    fn services_of_another_configuration_are_learned_anew() {
        let mut answers = Answers::new();
        answers.accepted();
        answers.services = Arc::new(Mode::Printed);
        assert_eq!(answers.bad(), None, "none of their pushes was accepted");
    }
}
