//! The pace of retries: when an alert is tried again that its service has not taken. Alerts live for an hour, and an outage must not end in a flood of them,
//! neither at the service nor on the cores that carry calls.
//!
//! | the service has last | retries |
//! | --- | --- |
//! | taken a push, or judged a token | one each [`PACE`] |
//! | taken none | one alone, and the next [`PROBES`] later; the others wait for its outcome, or for that of any other push |
//!
//! Before that, each waits for its own pause ([`longest_pause`]), which grows to minutes: a push that is refused for reasons of its own delays no other.
//!
//! Invariant: a first attempt waits for no other, and a call for no alert. At most [`WAITING_MAX`] retries wait for one service; a further one is given up.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::attempt::Attempt;
use crate::lock::Mutex;
use crate::push::Verdict;
use crate::push::connection::backoff::{Backoff, RETRY};

/// Between two that go while the service takes pushes.
const PACE: Duration = Duration::from_millis(4);
/// Between two that go while it takes none.
const PROBES: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(30) };
/// The pushes that may wait for one service.
const WAITING_MAX: usize = 16_384;
/// The longest pause of one push between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(120);
/// So many times it fits into the time that a push is tried for.
const PAUSES_OF_A_LIFE: u32 = 20;

/// The retries of one service.
pub(crate) struct Retries {
    turn: Semaphore,
    waiting: AtomicUsize,
    takes_none: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    /// Failures that were counted since a push was taken: one for each pause.
    failures: u32,
    /// When the next may go.
    next_at: Instant,
}

/// The leave to be tried again; while the service takes none nobody else has it.
pub(crate) struct Turn<'a> {
    _alone: Option<SemaphorePermit<'a>>,
}

/// The longest pause between two tries of a push that is tried for so long; `None`: that is too short to wait for others.
pub(crate) fn longest_pause(life: Duration) -> Option<Duration> {
    let longest = (life / PAUSES_OF_A_LIFE).min(LONGEST_PAUSE);
    (longest > RETRY.most).then_some(longest)
}

impl Default for Retries {
    fn default() -> Self {
        let state = State { failures: 0, next_at: Instant::now() };
        Self {
            turn: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            takes_none: AtomicBool::new(false),
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }
}

impl Retries {
    /// Takes note of the outcome of any push to the service.
    pub(crate) fn note(&self, attempt: &Attempt) {
        match attempt {
            Attempt::Done(Verdict::Accepted | Verdict::Gone { .. } | Verdict::BadToken) => {
                if self.takes_none.load(Ordering::Relaxed) {
                    let mut state = self.lock();
                    (state.failures, state.next_at) = (0, Instant::now());
                    self.takes_none.store(false, Ordering::Relaxed);
                    drop(state);
                    self.changed.notify_waiters();
                }
            }
            Attempt::Again { .. } | Attempt::Lost => {
                let mut state = self.lock();
                let now = Instant::now();
                // Pushes that went at the same time have failed for the same reason.
                if !self.takes_none.swap(true, Ordering::Relaxed) || now >= state.next_at {
                    state.failures = state.failures.saturating_add(1);
                    state.next_at = now + PROBES.pause(state.failures);
                }
            }
            // The outcome says nothing of the service, and the next probe is no sooner for it.
            Attempt::Done(_) | Attempt::Limited { .. } if self.takes_none.load(Ordering::Relaxed) => {
                let mut state = self.lock();
                let now = Instant::now();
                if now >= state.next_at {
                    state.next_at = now + PROBES.pause(state.failures);
                }
            }
            Attempt::Done(_) | Attempt::Limited { .. } => {}
        }
    }

    /// Waits for leave to be tried again. `None`: `deadline` comes before, or too many wait.
    pub(crate) async fn turn(&self, deadline: Instant) -> Option<Turn<'_>> {
        let _waiting = Waiting::among(&self.waiting)?;
        let alone = timeout_at(deadline, self.turn.acquire()).await.ok()?.ok()?;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let next_at = self.lock().next_at;
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            if now >= next_at {
                break;
            }
            tokio::select! {
                () = sleep_until(next_at.min(deadline)) => {}
                () = changed => {}
            }
        }
        if self.takes_none.load(Ordering::Relaxed) {
            return Some(Turn { _alone: Some(alone) });
        }
        self.lock().next_at = Instant::now() + PACE;
        Some(Turn { _alone: None })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// A waiting push, counted until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let waits = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(waits)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TAKEN: Attempt = Attempt::Done(Verdict::Accepted);
    const AWAY: Attempt = Attempt::Again { after: None };

    /// So many that wait; each notes what its try comes to.
    fn begin(retries: &Arc<Retries>, count: usize, attempt: fn() -> Attempt, gone: &Arc<AtomicUsize>) {
        for _ in 0..count {
            let (retries, gone) = (Arc::clone(retries), Arc::clone(gone));
            tokio::spawn(async move {
                while let Some(turn) = retries.turn(Instant::now() + 3_600 * SECOND).await {
                    gone.fetch_add(1, Ordering::Relaxed);
                    let attempt = attempt();
                    retries.note(&attempt);
                    drop(turn);
                    if matches!(attempt, Attempt::Done(_)) {
                        break;
                    }
                }
            });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_gets_one_try_in_growing_intervals_and_then_all_go_one_after_the_other() {
        let (retries, gone) = (Arc::new(Retries::default()), Arc::<AtomicUsize>::default());
        static IS_AWAY: AtomicBool = AtomicBool::new(true);
        retries.note(&AWAY);
        begin(&retries, 10_000, || if IS_AWAY.load(Ordering::Relaxed) { AWAY } else { TAKEN }, &gone);
        tokio::time::sleep(900 * SECOND).await;
        let tries = gone.swap(0, Ordering::Relaxed);
        assert!((30..=80).contains(&tries), "{tries} in a quarter of an hour");
        // The service is well again, whichever push shows it.
        IS_AWAY.store(false, Ordering::Relaxed);
        retries.note(&TAKEN);
        tokio::time::sleep(10 * SECOND).await;
        let first = gone.load(Ordering::Relaxed);
        assert!((1_000..=2_600).contains(&first), "{first} in ten seconds");
        tokio::time::sleep(90 * SECOND).await;
        assert_eq!(gone.load(Ordering::Relaxed), 10_000);
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_wait_for_its_turn_is_told_so_and_one_that_gives_up_holds_nobody_back() {
        let retries = Retries::default();
        retries.note(&AWAY);
        retries.note(&Attempt::Limited { after: None });
        let began = Instant::now();
        assert!(retries.turn(began + SECOND / 4).await.is_none() && began.elapsed() < SECOND);
        let probe = retries.turn(began + 10 * SECOND).await.expect("its turn comes");
        assert!(retries.turn(began + 10 * SECOND).await.is_none(), "one alone");
        drop(probe);
        let next = retries.turn(began + 20 * SECOND).await;
        assert!(next.is_some(), "its answer is not waited for any more");
        assert_eq!((longest_pause(30 * SECOND), longest_pause(600 * SECOND)), (None, Some(30 * SECOND)));
        assert_eq!(longest_pause(86_400 * SECOND), Some(LONGEST_PAUSE));
    }

    #[tokio::test(start_paused = true)]
    async fn what_says_nothing_of_a_service_that_takes_none_lets_the_next_go_no_sooner() {
        let (retries, gone) = (Arc::new(Retries::default()), Arc::<AtomicUsize>::default());
        retries.note(&AWAY);
        begin(&retries, 1_000, || Attempt::Limited { after: None }, &gone);
        tokio::time::sleep(60 * SECOND).await;
        let tries = gone.load(Ordering::Relaxed);
        assert!((30..=130).contains(&tries), "{tries} in a minute");
    }

    #[tokio::test(start_paused = true)]
    async fn how_many_wait_is_limited() {
        let (retries, gone) = (Arc::new(Retries::default()), Arc::<AtomicUsize>::default());
        retries.note(&AWAY);
        begin(&retries, WAITING_MAX, || AWAY, &gone);
        tokio::time::sleep(SECOND / 1_000).await;
        assert!(retries.turn(Instant::now() + 3_600 * SECOND).await.is_none());
    }
}
