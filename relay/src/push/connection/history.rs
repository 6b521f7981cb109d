//! The ends of earlier connections, which decide the pause before the next dial; and how slow the service's answers are.
//!
//! | the last two or more connections | pause before the next dial |
//! | --- | --- |
//! | lived long, or carried many answers | none |
//! | ended young, the last one after an answer | [`AFTER_SHORT_SERVICE`]: the service ends its connections, and wants to be dialled again. The first dozens cost a call little; a service that goes on is dialled twice in a second |
//! | ended young, the last one without a good answer | [`AFTER_NO_SERVICE`], but short enough that all waiting requests are tried within [`TRIED_WITHIN`] |
//! | ended young, the last one by falling silent | [`AFTER_NO_SERVICE`]: the next one would be as silent |
//!
//! Invariant: a single end causes no pause, because a service restarts now and then.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use crate::lock::Mutex;

/// A line that ends earlier, with fewer good answers than [`FEW_ANSWERS`], has died young.
const YOUNG: Duration = Duration::from_secs(10);
const FEW_ANSWERS: u32 = 100;
/// When lines die young one after the other that served: so long, twice as long after each [`AT_ONE_PACE`] of them.
const AFTER_SHORT_SERVICE: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_millis(500) };
const AT_ONE_PACE: u32 = 12;
/// Likewise, those that did not serve: twice as long after each of them.
const AFTER_NO_SERVICE: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };
/// A fresh line may carry one request alone, and be lost with it: those who wait get a line each in this time, of which
/// there are at most two in a second.
const TRIED_WITHIN: Duration = Duration::from_secs(6);
const SHARE_MIN: Duration = Duration::from_millis(500);
/// How often who waits looks whether there are more of them.
const LOOK: Duration = Duration::from_millis(200);

/// A slow answer says something of the next ones for so long, and at most twice as long.
const SLOW_FOR: Duration = Duration::from_secs(60);

/// How the lines of one endpoint have ended.
#[derive(Default)]
pub(super) struct ConnectionHistory(Mutex<Ends>);

#[derive(Clone, Copy, Default)]
struct Ends {
    young: u32,
    served: bool,
    silent: bool,
    last: Option<Instant>,
    slow: Option<Slow>,
}

/// The slowest answers.
#[derive(Clone, Copy)]
struct Slow {
    /// When the present period of [`SLOW_FOR`] began.
    since: Instant,
    /// In it, and in the one before.
    now: Duration,
    before: Duration,
}

impl Slow {
    /// The history at this moment.
    fn at(self, moment: Instant) -> Self {
        let nothing = Duration::ZERO;
        match moment.saturating_duration_since(self.since) {
            passed if passed < SLOW_FOR => self,
            passed if passed < SLOW_FOR * 2 => Self { since: self.since + SLOW_FOR, now: nothing, before: self.now },
            _ => Self { since: moment, now: nothing, before: nothing },
        }
    }
}

impl ConnectionHistory {
    /// Comes back when it is time to dial; `waiting` tells how many wait for what comes of it.
    pub(super) async fn turn(&self, waiting: impl Fn() -> usize) {
        let ends = *self.0.lock();
        let (Some(last), 2..) = (ends.last, ends.young) else { return };
        let earlier = ends.young - 2;
        let step = if ends.served {
            AFTER_SHORT_SERVICE.pause(earlier / AT_ONE_PACE + 1)
        } else {
            AFTER_NO_SERVICE.pause(earlier + 1)
        };
        loop {
            let share = TRIED_WITHIN / u32::try_from(waiting().max(1)).unwrap_or(u32::MAX);
            let pause = if ends.served || ends.silent { step } else { step.min(share.max(SHARE_MIN)) };
            let left = pause.saturating_sub(last.elapsed());
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK)).await;
        }
    }

    /// Whether the last line ended young, without a good answer and just now: what ended it may end the next.
    pub(super) fn is_doubtful(&self) -> bool {
        let ends = *self.0.lock();
        ends.young > 0 && !ends.served && ends.last.is_some_and(|last| last.elapsed() < YOUNG)
    }

    /// An answer took so long.
    pub(super) fn note_slow_answer(&self, took: Duration) {
        let mut ends = self.0.lock();
        let moment = Instant::now();
        let known = ends.slow.unwrap_or(Slow { since: moment, now: took, before: Duration::ZERO }).at(moment);
        ends.slow = Some(Slow { now: known.now.max(took), ..known });
    }

    /// How long the slowest answer took of late; zero where none was slow.
    pub(super) fn slow_answer(&self) -> Duration {
        let slow = self.0.lock().slow;
        slow.map(|slow| slow.at(Instant::now())).map_or(Duration::ZERO, |slow| slow.now.max(slow.before))
    }

    /// A line has ended: how long it lived, how often it answered well, and whether it fell silent.
    pub(super) fn note_end(&self, lived: Duration, good: u32, silent: bool) {
        let mut ends = self.0.lock();
        let young = lived < YOUNG && good < FEW_ANSWERS;
        ends.young = if young { ends.young.saturating_add(1) } else { 0 };
        (ends.served, ends.silent) = (good > 0, silent);
        ends.last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// How long each of so many dials waits, when each line lives for a moment and gives so many good answers.
    async fn dials(count: usize, good: u32, waiting: usize) -> Vec<Duration> {
        let history = ConnectionHistory::default();
        let mut waits = Vec::new();
        for _ in 0..count {
            let began = Instant::now();
            history.turn(|| waiting).await;
            waits.push(began.elapsed());
            history.note_end(MS, good, false);
        }
        waits
    }

    #[tokio::test(start_paused = true)]
    async fn what_serves_and_ends_is_dialled_quickly_at_first_and_twice_in_a_second_when_it_goes_on() {
        let waits = dials(100, 1, 40).await;
        assert_eq!(waits[..2], [Duration::ZERO; 2], "one end is no pattern");
        assert!(waits[..30].iter().sum::<Duration>() < 3_000 * MS, "{waits:?}");
        assert!(waits[60..].iter().all(|wait| (250 * MS..=501 * MS).contains(wait)), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_serve_is_dialled_seldom_unless_many_wait() {
        for (waiting, least, most) in [(1, 2_500, 5_001), (6, 1_000, 1_001), (40, 500, 501), (usize::MAX, 500, 501)] {
            let waits = dials(12, 0, waiting).await;
            assert!(waits[10..].iter().all(|wait| (least * MS..=most * MS).contains(wait)), "{waiting}: {waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_come_while_a_dial_waits_hasten_it() {
        let history = ConnectionHistory::default();
        (0..12).for_each(|_| history.note_end(MS, 0, false));
        let began = Instant::now();
        history.turn(|| if began.elapsed() < 1_000 * MS { 1 } else { 100 }).await;
        assert!(began.elapsed() < 1_300 * MS, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_falls_silent_is_dialled_seldom_however_many_wait() {
        let history = ConnectionHistory::default();
        (0..12).for_each(|_| history.note_end(MS, 0, true));
        let began = Instant::now();
        history.turn(|| 100).await;
        assert!(began.elapsed() >= AFTER_NO_SERVICE.most / 2, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_served_long_ends_the_pattern() {
        let history = ConnectionHistory::default();
        (0..12).for_each(|_| history.note_end(MS, 0, false));
        history.note_end(YOUNG, 1, false);
        let began = Instant::now();
        history.turn(|| 1).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
