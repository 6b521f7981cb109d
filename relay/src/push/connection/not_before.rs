//! The time before which a service is left alone. A service that asks for a pause gets it from all pushes of an App, calls as well.
//!
//! | state | a request |
//! | --- | --- |
//! | no pause | goes |
//! | a pause for alerts ([`PauseFor::Sparing`]) | goes at once if it is for a call, or for the end of one; an alert waits |
//! | a pause | waits, or hears how long it lasts if that is longer than the request may wait |
//! | a pause longer than [`CALLS_WAIT_MAX`] | one call, or the end of one, goes every [`PROBE_EVERY`], or once an earlier one has had no answer for [`PROBE_PATIENCE`]; the others wait for an answer as long as they may. One answer to one device must not end all calls |
//! | the pause is over | one goes, and the others wait at most [`PROBE_PATIENCE`] for its answer: then another pause begins, or all go |
//!
//! Invariant: without a pause a request costs one atomic read. A service that asks for hours gets [`PAUSE_MAX`].

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::urgency::Urgency;
use crate::lock::Mutex;
use crate::push::connection::backoff::Backoff;

/// The longest pause; then one request probes the service.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Calls, too, keep a pause that is no longer than this.
const CALLS_WAIT_MAX: Duration = Duration::from_secs(10);

/// How often a call probes the service during a longer pause.
pub(crate) const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How long the others wait for the answer to a probe.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// The reason and the length of a channel's pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PauseFor {
    /// The service has named the time.
    Asked(Duration),
    /// The service has named no time: twice as long each time.
    Growing(Backoff),
    /// Likewise, for what is no call: the answers were about single devices, and calls of others go on.
    Sparing(Backoff),
    /// A request goes alone, at once: its answer decides.
    Probe,
}

/// The pause of one channel.
pub(crate) struct NotBefore {
    began: Instant,
    /// In milliseconds since `began`, rounded up; 0: none.
    until: AtomicU64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    pauses_in_a_row: u32,
    /// The time of the probe whose answer is awaited; probes are numbered.
    probing: Option<(u64, Instant)>,
    probes: u64,
    /// Whether the service asked for more than [`CALLS_WAIT_MAX`].
    is_long: bool,
    /// Whether calls do not wait.
    spares_calls: bool,
    /// The time of the last answer or probe.
    asked_at: Option<Instant>,
}

/// A probe, whose answer decides. However it ends, the next request may go then.
pub(crate) struct Probe<'a> {
    not_before: &'a NotBefore,
    number: u64,
}

impl Default for NotBefore {
    fn default() -> Self {
        let (until, state, changed) = (AtomicU64::new(0), Mutex::default(), Notify::new());
        Self { began: Instant::now(), until, state, changed }
    }
}

impl NotBefore {
    /// Waits for permission to go. An error holds the rest of a pause that lasts beyond `deadline`: an urgent request gets it at its deadline, any other at
    /// once.
    pub(crate) async fn leave(&self, deadline: Instant, urgency: Urgency) -> Result<Option<Probe<'_>>, Duration> {
        while let Some(until) = self.until() {
            if urgency.is_urgent() && self.lock().spares_calls {
                return Ok(None);
            }
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let now = Instant::now();
            let outlasts = until >= deadline;
            if outlasts && (!urgency.is_urgent() || now >= deadline) {
                return Err(until.saturating_duration_since(now));
            }
            let goes_at = if urgency.is_urgent() { self.asks_at(until) } else { until };
            if now < goes_at {
                tokio::select! {
                    () = sleep_until(goes_at.min(deadline)) => {}
                    () = changed => {}
                }
                continue;
            }
            let answer_by = {
                let mut state = self.lock();
                match state.probing.map(|(_, began)| began + PROBE_PATIENCE) {
                    Some(answer_by) if now < answer_by => answer_by,
                    // The pause delays no request any more.
                    Some(_) if now >= until => return Ok(None),
                    _ => return Ok(Some(self.probe(&mut state, now))),
                }
            };
            tokio::select! {
                () = sleep_until(answer_by.min(deadline)) => if now >= until { return Ok(None) },
                () = changed => {}
            }
        }
        Ok(None)
    }

    fn probe(&self, state: &mut State, now: Instant) -> Probe<'_> {
        state.probes += 1;
        (state.probing, state.asked_at) = (Some((state.probes, now)), Some(now));
        Probe { not_before: self, number: state.probes }
    }

    /// The rest of the pause, if there is one.
    pub(crate) fn left(&self) -> Option<Duration> {
        let left = self.until()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Notes the pause that an answer asks for, or that it asks for none.
    pub(crate) fn answered(&self, asked: Option<PauseFor>) {
        let Some(asked) = asked else {
            if self.until.swap(0, Ordering::AcqRel) != 0 {
                self.lock().pauses_in_a_row = 0;
                self.changed.notify_waiters();
            }
            return;
        };
        let mut state = self.lock();
        let stands = self.until().is_some_and(|until| until > Instant::now());
        let length = match asked {
            PauseFor::Asked(length) => length.min(PAUSE_MAX),
            PauseFor::Probe => Duration::ZERO,
            // Requests that left at the same time are answered at the same time: their pauses count as one.
            PauseFor::Growing(_) if stands && !state.spares_calls => return,
            PauseFor::Sparing(_) if stands => return,
            PauseFor::Growing(steps) | PauseFor::Sparing(steps) => {
                state.pauses_in_a_row = state.pauses_in_a_row.saturating_add(1);
                steps.pause(state.pauses_in_a_row)
            }
        };
        let now = Instant::now();
        // A longer pause that was asked for earlier stays.
        let goes_on = state.is_long && self.until().is_some_and(|until| until > now + length);
        state.spares_calls = matches!(asked, PauseFor::Sparing(_));
        (state.is_long, state.asked_at) = (length > CALLS_WAIT_MAX || goes_on, Some(now));
        // A probe whose time is over does not decide about this pause.
        state.probing.take_if(|(_, began)| now >= *began + PROBE_PATIENCE);
        drop(state);
        let until = u64::try_from((self.began.elapsed() + length).as_millis()).unwrap_or(u64::MAX);
        self.until.fetch_max(until.saturating_add(1), Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// The time at which an urgent request may probe during a pause until then.
    fn asks_at(&self, until: Instant) -> Instant {
        let state = self.lock();
        match state.asked_at {
            Some(asked_at) if state.is_long => until.min(asked_at + PROBE_EVERY),
            _ => until,
        }
    }

    fn until(&self) -> Option<Instant> {
        match self.until.load(Ordering::Acquire) {
            0 => None,
            until => Some(self.began + Duration::from_millis(until)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = self.not_before.lock();
        // Another one may have gone in its place.
        if state.probing.is_some_and(|(number, _)| number == self.number) {
            state.probing = None;
            drop(state);
            self.not_before.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_rest_is_kept_by_all_and_one_asks_when_it_is_over() {
        let (not_before, began) = (NotBefore::default(), Instant::now());
        assert!(not_before.leave(began, Urgency::CanWait).await.is_ok_and(|probe| probe.is_none()));
        not_before.answered(Some(PauseFor::Asked(10 * SECOND)));
        let told =
            not_before.leave(began + 5 * SECOND, Urgency::CanWait).await.err().expect("it is longer than one may wait");
        assert!(told >= 10 * SECOND && began.elapsed() < SECOND, "{told:?}");
        let probe = not_before.leave(began + 30 * SECOND, Urgency::CanWait).await.expect("it ends in time");
        assert!(probe.is_some() && began.elapsed() >= 10 * SECOND);
        let waits = tokio::time::timeout(SECOND, not_before.leave(began + 30 * SECOND, Urgency::CanWait)).await;
        assert!(waits.is_err(), "one alone");
        not_before.answered(None);
        drop(probe);
        assert!(not_before.leave(began, Urgency::CanWait).await.is_ok_and(|probe| probe.is_none()), "all go");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_ends_without_an_answer_leaves_the_next_one_in() {
        let (not_before, began) = (NotBefore::default(), Instant::now());
        not_before.answered(Some(PauseFor::Probe));
        drop(not_before.leave(began + SECOND, Urgency::CanWait).await.expect("at once"));
        assert!(not_before.leave(began + SECOND, Urgency::CanWait).await.is_ok_and(|probe| probe.is_some()));
    }

    #[tokio::test(start_paused = true)]
    async fn rests_grow_and_answers_of_the_same_moment_are_one() {
        let steps = Backoff { first: SECOND, most: 60 * SECOND };
        let not_before = NotBefore::default();
        let mut total = Duration::ZERO;
        for _ in 0..5 {
            for _ in 0..20 {
                not_before.answered(Some(PauseFor::Growing(steps)));
            }
            let began = Instant::now();
            assert!(not_before.leave(began + 60 * SECOND, Urgency::CanWait).await.is_ok_and(|probe| probe.is_some()));
            assert!(began.elapsed() > total / 2, "{:?}", began.elapsed());
            total = began.elapsed();
        }
        assert!(total >= 8 * SECOND, "{total:?}");
        not_before.answered(Some(PauseFor::Asked(PAUSE_MAX * 100)));
        assert!(not_before.leave(Instant::now(), Urgency::CanWait).await.is_err_and(|told| told <= PAUSE_MAX + SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_that_outlasts_calls_lets_one_ask_every_two_seconds_and_the_others_wait() {
        let (not_before, began) = (NotBefore::default(), Instant::now());
        not_before.answered(Some(PauseFor::Asked(120 * SECOND)));
        let deadline = began + 30 * SECOND;
        assert!(
            not_before.leave(deadline, Urgency::CanWait).await.is_err() && began.elapsed() < SECOND,
            "no other push waits"
        );
        let first = not_before.leave(deadline, Urgency::Urgent).await.expect("it asks");
        assert!(first.is_some() && began.elapsed() >= PROBE_EVERY);
        assert!(tokio::time::timeout(SECOND, not_before.leave(deadline, Urgency::Urgent)).await.is_err(), "one alone");
        not_before.answered(Some(PauseFor::Asked(120 * SECOND)));
        drop(first);
        let (told, asked) = tokio::join!(not_before.leave(began + 4 * SECOND, Urgency::Urgent), async {
            let next = not_before.leave(deadline, Urgency::Urgent).await.expect("the next one");
            tokio::time::sleep(SECOND).await;
            next.is_some()
        });
        assert!(asked && told.is_err() && began.elapsed() >= 4 * SECOND, "one whose time is over is told so then");
        let (goes, ()) = tokio::join!(not_before.leave(deadline, Urgency::Urgent), async {
            let probe = not_before.leave(deadline, Urgency::Urgent).await;
            not_before.answered(None);
            drop(probe);
        });
        assert!(goes.is_ok(), "an answer that asks for none lets all go");
        not_before.answered(Some(PauseFor::Asked(20 * SECOND)));
        let asked = Instant::now();
        assert!(not_before.leave(asked + 30 * SECOND, Urgency::Urgent).await.is_ok_and(|probe| probe.is_some()));
        assert!(asked.elapsed() < 3 * SECOND, "also one that ends before the call does");
        not_before.answered(None);
        not_before.answered(Some(PauseFor::Asked(9 * SECOND)));
        let asked = Instant::now();
        assert!(not_before.leave(asked + 30 * SECOND, Urgency::Urgent).await.is_ok_and(|probe| probe.is_some()));
        assert!(asked.elapsed() >= 9 * SECOND, "a short one is kept");
        assert!(began.elapsed() < 30 * SECOND, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_for_what_is_no_call_keeps_no_call_back_and_one_for_all_does() {
        let (not_before, began) = (NotBefore::default(), Instant::now());
        let (steps, deadline) = (Backoff { first: 2 * SECOND, most: 5 * SECOND }, began + 30 * SECOND);
        not_before.answered(Some(PauseFor::Sparing(steps)));
        assert!(not_before.leave(deadline, Urgency::Urgent).await.is_ok_and(|probe| probe.is_none()));
        assert!(not_before.leave(began, Urgency::CanWait).await.is_err() && began.elapsed() < SECOND);
        assert!(
            not_before.leave(deadline, Urgency::CanWait).await.is_ok_and(|probe| probe.is_some())
                && began.elapsed() >= SECOND
        );
        let again = Instant::now();
        not_before.answered(Some(PauseFor::Sparing(steps)));
        not_before.answered(Some(PauseFor::Asked(5 * SECOND)));
        not_before.answered(Some(PauseFor::Sparing(steps)));
        assert!(
            not_before.leave(deadline, Urgency::Urgent).await.is_ok() && again.elapsed() >= 5 * SECOND,
            "the service has asked all"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_asks_and_has_no_answer_keeps_nobody_back_for_more_than_two_seconds() {
        let (not_before, began) = (NotBefore::default(), Instant::now());
        let deadline = began + 30 * SECOND;
        not_before.answered(Some(PauseFor::Asked(120 * SECOND)));
        let mut unanswered = Vec::new();
        for number in 1..=4 {
            let goes = not_before.leave(deadline, Urgency::Urgent).await.expect("its turn comes");
            assert!(goes.is_some() && began.elapsed() < (2 * number + 1) * SECOND, "{:?}", began.elapsed());
            unanswered.push(goes);
        }
        // The end of an earlier probe is not the end of the one that is waited for.
        unanswered.remove(0);
        assert!(tokio::time::timeout(SECOND, not_before.leave(deadline, Urgency::Urgent)).await.is_err(), "one alone");
        not_before.answered(None);
        assert!(
            not_before.leave(deadline, Urgency::Urgent).await.is_ok_and(|probe| probe.is_none()),
            "an answer lets all go"
        );
        drop(unanswered);
        // The same when the pause is over: later requests wait no longer than those did.
        not_before.answered(Some(PauseFor::Probe));
        let hangs = not_before.leave(deadline, Urgency::CanWait).await.expect("at once");
        tokio::time::sleep(2 * SECOND).await;
        let asked = Instant::now();
        assert!(not_before.leave(deadline, Urgency::CanWait).await.is_ok_and(|probe| probe.is_none()));
        assert!(hangs.is_some() && asked.elapsed() < SECOND, "{:?}", asked.elapsed());
    }
}
