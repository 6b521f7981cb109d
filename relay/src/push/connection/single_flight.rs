//! A value that many callers wait for and one task makes: a connection, an access token.
//!
//! The first caller that finds no value starts the task, so that a caller that gives up stops no other. After a failure no task is started before a pause has
//! passed, and callers are told how long it lasts.
//!
//! Invariant: at most one task is under way. No lock is held during a wait.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::backoff::Backoff;
use crate::lock::Mutex;

/// The remaining worth of a value that was made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Use it.
    Good,
    /// Use it, and start making the next one.
    Ageing,
    /// Make another and wait for it.
    Spent,
}

/// The last making failed, and the next may not start yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoolingDown<E> {
    /// Why it failed.
    pub(crate) why: E,
    /// When the next may start, from now.
    pub(crate) after: Duration,
    /// Whether the caller waited for a making that failed; else the last one had failed before it came.
    pub(crate) tried: bool,
}

/// The place where the value is kept and the making is joined.
pub(crate) struct SingleFlight<T, E> {
    backoff: Backoff,
    state: Mutex<State<T, E>>,
    done: Arc<Notify>,
}

struct State<T, E> {
    value: Option<T>,
    under_way: bool,
    failures: u32,
    /// Why the last making failed, and before when no other starts.
    cooling_down: Option<(E, Instant)>,
}

/// The state that a caller finds.
enum Availability<T, E> {
    Ready(T),
    /// The caller starts the making. It uses `meanwhile`, or waits where there is none.
    Start {
        meanwhile: Option<T>,
    },
    Wait,
    CoolingDown(CoolingDown<E>),
}

impl<T: Clone + Send + 'static, E: Copy + Send + 'static> SingleFlight<T, E> {
    pub(crate) fn new(backoff: Backoff) -> Arc<Self> {
        Self::notifying(backoff, Arc::default())
    }

    /// Likewise; `done` is told of the end of each making.
    pub(super) fn notifying(backoff: Backoff, done: Arc<Notify>) -> Arc<Self> {
        let state = State { value: None, under_way: false, failures: 0, cooling_down: None };
        Arc::new(Self { backoff, state: Mutex::new(state), done })
    }

    /// The value, made by `make` when there is none that `worth` calls good. `fallback` is the reason given when the
    /// making itself was lost (its task was stopped).
    pub(crate) async fn get<F>(
        self: &Arc<Self>,
        freshness: impl Fn(&T) -> Freshness,
        make: impl Fn() -> F,
        fallback: E,
    ) -> Result<T, CoolingDown<E>>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let mut tried = false;
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            match self.availability(&freshness) {
                Availability::Ready(value) => return Ok(value),
                Availability::CoolingDown(cooling_down) => return Err(CoolingDown { tried, ..cooling_down }),
                Availability::Wait => {
                    done.await;
                    tried = true;
                }
                Availability::Start { meanwhile } => {
                    let guard = FlightGuard { flight: Arc::clone(self), outcome: Err(fallback) };
                    tokio::spawn(finish(guard, make()));
                    match meanwhile {
                        Some(value) => return Ok(value),
                        None => {
                            done.await;
                            tried = true;
                        }
                    }
                }
            }
        }
    }

    /// The value, if there is one that `worth` does not call spent. Nothing is waited for.
    pub(crate) fn have(&self, freshness: impl Fn(&T) -> Freshness) -> Option<T> {
        self.lock().value.as_ref().filter(|value| freshness(value) != Freshness::Spent).cloned()
    }

    /// Starts making a value that later callers [get](Self::have), unless `freshness` calls the present one good, or none may be made now.
    pub(super) fn begin<F>(self: &Arc<Self>, freshness: impl Fn(&T) -> Freshness, make: impl FnOnce() -> F, fallback: E)
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        if let Availability::Start { .. } = self.availability(&freshness) {
            let guard = FlightGuard { flight: Arc::clone(self), outcome: Err(fallback) };
            tokio::spawn(finish(guard, make()));
        }
    }

    /// Sets this value in place of none, or of one that `is_worse`, and returns the earlier one. Where the present one is as good, `value` itself comes back.
    pub(super) fn supersede(&self, value: T, is_worse: impl FnOnce(&T) -> bool) -> Result<Option<T>, T> {
        let mut state = self.lock();
        if !state.value.as_ref().is_none_or(is_worse) {
            return Err(value);
        }
        let earlier = state.value.replace(value);
        (state.failures, state.cooling_down) = (0, None);
        drop(state);
        self.done.notify_waiters();
        Ok(earlier)
    }

    /// Drops the value, if it is this one.
    pub(super) fn forget(&self, is_it: impl FnOnce(&T) -> bool) {
        let gone = self.lock().value.take_if(|value| is_it(value));
        drop(gone);
    }

    fn availability(&self, freshness: &impl Fn(&T) -> Freshness) -> Availability<T, E> {
        let mut state = self.lock();
        let judged = state.value.as_ref().map(|value| (freshness(value), value.clone()));
        let meanwhile = match judged {
            Some((Freshness::Good, value)) => return Availability::Ready(value),
            Some((Freshness::Ageing, value)) => Some(value),
            Some((Freshness::Spent, _)) | None => {
                state.value = None;
                None
            }
        };
        let now = Instant::now();
        let cooling_down = state.cooling_down.filter(|(_, until)| *until > now);
        match (meanwhile, state.under_way, cooling_down) {
            (Some(value), true, _) | (Some(value), false, Some(_)) => Availability::Ready(value),
            (None, true, _) => Availability::Wait,
            (None, false, Some((why, until))) => {
                Availability::CoolingDown(CoolingDown { why, after: until - now, tried: false })
            }
            (meanwhile, false, None) => {
                state.under_way = true;
                Availability::Start { meanwhile }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T, E>> {
        self.state.lock()
    }
}

async fn finish<T: Clone + Send + 'static, E: Copy + Send + 'static>(
    mut guard: FlightGuard<T, E>,
    make: impl Future<Output = Result<T, E>>,
) {
    guard.outcome = make.await;
}

/// Ends a making when it is dropped, so that one whose task was stopped ends too.
struct FlightGuard<T: Clone + Send + 'static, E: Copy + Send + 'static> {
    flight: Arc<SingleFlight<T, E>>,
    outcome: Result<T, E>,
}

impl<T: Clone + Send + 'static, E: Copy + Send + 'static> Drop for FlightGuard<T, E> {
    fn drop(&mut self) {
        let mut state = self.flight.lock();
        state.under_way = false;
        match &self.outcome {
            Ok(value) => {
                state.value = Some(value.clone());
                state.failures = 0;
                state.cooling_down = None;
            }
            Err(why) => {
                state.failures = state.failures.saturating_add(1);
                state.cooling_down = Some((*why, Instant::now() + self.flight.backoff.pause(state.failures)));
            }
        }
        drop(state);
        self.flight.done.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const LONG: Backoff = Backoff { first: HOUR, most: HOUR };
    const NONE: Backoff = Backoff { first: Duration::ZERO, most: Duration::ZERO };

    #[tokio::test]
    async fn many_who_wait_start_one_making() {
        let flight = SingleFlight::<u32, ()>::new(LONG);
        let made = Arc::new(AtomicU32::new(0));
        let gate = Arc::new(Notify::new());
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let (flight, made, gate) = (Arc::clone(&flight), Arc::clone(&made), Arc::clone(&gate));
                tokio::spawn(async move {
                    let make = || {
                        let (made, gate) = (Arc::clone(&made), Arc::clone(&gate));
                        async move {
                            gate.notified().await;
                            Ok(made.fetch_add(1, Ordering::SeqCst))
                        }
                    };
                    flight.get(|_| Freshness::Good, make, ()).await
                })
            })
            .collect();
        gate.notify_one();
        for one in waiting {
            assert_eq!(one.await.unwrap(), Ok(0));
        }
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn after_a_failure_nobody_starts_before_the_pause_has_passed() {
        let flight = SingleFlight::<u32, &str>::new(LONG);
        let failed = flight.get(|_| Freshness::Good, || async { Err("no") }, "lost").await.unwrap_err();
        assert_eq!((failed.why, failed.tried), ("no", true));
        assert!(failed.after > HOUR / 3, "{:?}", failed.after);
        let again = flight.get(|_| Freshness::Good, || async { Ok(1) }, "lost").await;
        let again = again.unwrap_err();
        assert_eq!((again.why, again.tried), ("no", false));
    }

    #[tokio::test]
    async fn after_the_pause_the_next_making_starts() {
        let flight = SingleFlight::<u32, &str>::new(NONE);
        // Without any pause a failure is tried again at once, until it succeeds.
        let tries = AtomicU32::new(0);
        let make = || {
            let tried = tries.fetch_add(1, Ordering::SeqCst);
            async move { if tried < 3 { Err("no") } else { Ok(tried) } }
        };
        assert_eq!(flight.get(|_| Freshness::Good, make, "lost").await, Ok(3));
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_stops_nobody_else() {
        let flight = SingleFlight::<u32, ()>::new(LONG);
        let gate = Arc::new(Notify::new());
        let make = || {
            let gate = Arc::clone(&gate);
            async move {
                gate.notified().await;
                Ok(7)
            }
        };
        let impatient = tokio::time::timeout(Duration::ZERO, flight.get(|_| Freshness::Good, make, ())).await;
        assert!(impatient.is_err());
        gate.notify_one();
        assert_eq!(flight.get(|_| Freshness::Good, || async { Ok(8) }, ()).await, Ok(7), "the first making went on");
    }

    #[tokio::test]
    async fn an_ageing_value_is_used_while_the_next_is_made() {
        let flight = SingleFlight::<u32, ()>::new(LONG);
        assert_eq!(flight.get(|_| Freshness::Good, || async { Ok(1) }, ()).await, Ok(1));
        let ageing = |value: &u32| if *value == 1 { Freshness::Ageing } else { Freshness::Good };
        assert_eq!(flight.get(ageing, || async { Ok(2) }, ()).await, Ok(1));
        // A caller that does not accept an ageing value waits for the making that is under way.
        let spent = |value: &u32| if *value == 1 { Freshness::Spent } else { Freshness::Good };
        assert_eq!(flight.get(spent, || async { Ok(3) }, ()).await, Ok(2));
    }
}
