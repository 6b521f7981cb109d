//! The time between the wish that a connection ends and its end.
//!
//! Over HTTP/2 a client may have its next request under way when the end is told, and then many report an error: so the end that an answer asks for
//! waits until the connection has been idle for a moment. What keeps it from that has bounds, as all the while the connection's buffers hold what
//! was shown on it.
//!
//! ```text
//! the answer is written ── idle for QUIET, or PATIENCE is over: the end is told ── nothing is being served: closed
//!                      └── an answer waits while nothing moves for twice LINGER, or LEAVE_TIMEOUT: closed
//! ```
//!
//! Invariant: a connection that is to end is told so [`LAST_PATIENCE`] after the answer at the latest, or as soon as the system takes bytes again, and
//! is closed after [`LEAVE_TIMEOUT`].

use tokio::time::{Duration, Instant};

use super::open_requests::Life;
use super::progress::Progress;

/// How often a connection that is to end is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// Over HTTP/2 the end that an answer asks for waits until no request was being served for as long.
pub const QUIET: Duration = Duration::from_secs(1);
/// On a connection that was never so idle, after this long, until none was for [`LOOK`].
pub const PATIENCE: Duration = Duration::from_secs(5);
/// And after this long, until nothing: requests that are being served are answered, and no more are to come.
pub const LAST_PATIENCE: Duration = Duration::from_secs(10);
/// A connection that is to end, and on which nothing is served, nothing comes and nothing more can be sent for as long, is cut off: its
/// peer may have lost its network, and will not say that it has seen the end. Where an answer waits for its peer to take it, after twice that.
pub const LINGER: Duration = Duration::from_secs(2);
/// A connection that is to end as an answer asked for it is closed after this long, whatever is being served; a request that was taken
/// last has 50 s of it.
pub const LEAVE_TIMEOUT: Duration = Duration::from_secs(60);

/// A connection that is to end.
#[derive(Debug)]
pub(super) struct Leaving {
    /// When an answer, or a request that was given up, asked for it; `None`: the relay drains, or the connection was idle.
    asked: Option<Instant>,
    waits_for_quiet: bool,
    is_told: bool,
    moved: u64,
    moved_at: Instant,
    /// When last something moved, or waited for the system to take it.
    busy_at: Instant,
}

/// The next action.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Tell the peer that no more requests are taken.
    Tell,
    /// Close it, whatever is under way; a peer that was not told yet is told so.
    Close,
}

impl Leaving {
    /// A connection that ends for a reason of the relay's own, which its peer is told at once.
    pub(super) fn told() -> Self {
        let now = Instant::now();
        Self { asked: None, waits_for_quiet: false, is_told: true, moved: 0, moved_at: now, busy_at: now }
    }

    /// A connection that is to end with what was shown on it.
    pub(super) fn asked(waits_for_quiet: bool) -> Self {
        let now = Instant::now();
        Self { asked: Some(now), waits_for_quiet, is_told: false, moved: 0, moved_at: now, busy_at: now }
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// The peer is told.
    pub(super) fn tell(&mut self) {
        self.is_told = true;
    }

    /// The next step of a connection in this state.
    pub(super) fn look(&mut self, life: &Life, progress: &Progress) -> Step {
        let now = Instant::now();
        if progress.has_moved_since(&mut self.moved) {
            (self.moved_at, self.busy_at) = (now, now);
        } else if progress.is_full() {
            self.busy_at = now;
        }
        let since = self.asked.map(|asked| asked.elapsed());
        let is_quiet = |wanted| life.quiet_for().is_some_and(|quiet| quiet >= wanted);
        let is_left = self.is_told && is_quiet(LINGER) && self.busy_at.elapsed() >= LINGER;
        let has_stood_still = self.moved_at.elapsed() >= 2 * LINGER;
        let is_stuck = since.is_some() && life.waits_for_its_peer(2 * LINGER) && has_stood_still;
        let is_over = is_left || is_stuck || since.is_some_and(|since| since >= LEAVE_TIMEOUT);
        let may_be_told = match since {
            _ if !self.waits_for_quiet => true,
            Some(since) if since < PATIENCE => is_quiet(QUIET),
            Some(since) if since < LAST_PATIENCE => is_quiet(LOOK),
            _ => true,
        };
        match () {
            () if is_over => Step::Close,
            // A GOAWAY would overtake the head of an answer that waits behind others.
            () if !self.is_told && may_be_told && !progress.is_full() => Step::Tell,
            () => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tokio::time::advance;

    use super::*;
    use crate::net::slots::Stranger;

    const MOMENT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn an_end_waits_for_a_pause_and_for_a_shorter_one_later_and_then_for_none() {
        let (life, progress) = (Life::new(Stranger::of_a_test()), Progress::default());
        let mut leaving = Leaving::asked(true);
        drop(life.begin(false));
        advance(QUIET - MOMENT).await;
        assert_eq!(leaving.look(&life, &progress), Step::Wait);
        drop(life.begin(false));
        advance(MOMENT).await;
        assert_eq!(leaving.look(&life, &progress), Step::Wait, "another came meanwhile");
        advance(QUIET).await;
        assert_eq!(leaving.look(&life, &progress), Step::Tell);

        let mut busy = Leaving::asked(true);
        let first = life.begin(false);
        advance(PATIENCE).await;
        assert_eq!(busy.look(&life, &progress), Step::Wait);
        drop(first);
        let second = life.begin(false);
        advance(LOOK).await;
        assert_eq!(busy.look(&life, &progress), Step::Wait);
        advance(LAST_PATIENCE - PATIENCE - LOOK).await;
        assert_eq!(busy.look(&life, &progress), Step::Tell);
        busy.tell();
        advance(LEAVE_TIMEOUT - LAST_PATIENCE - MOMENT).await;
        assert_eq!(busy.look(&life, &progress), Step::Wait, "the second is handled");
        advance(MOMENT).await;
        assert_eq!(busy.look(&life, &progress), Step::Close);
        drop(second);

        let mut paused = Leaving::asked(true);
        let busy = life.begin(false);
        advance(PATIENCE).await;
        drop(busy);
        assert_eq!(paused.look(&life, &progress), Step::Wait);
        let mut at_once = Leaving::asked(false);
        assert_eq!(at_once.look(&life, &progress), Step::Tell);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_holds_an_end_no_longer_than_a_lost_network_does() {
        let (life, progress) = (Life::new(Stranger::of_a_test()), Progress::default());
        let mut leaving = Leaving::asked(true);
        let handled = life.begin(false);
        advance(2 * LINGER).await;
        assert_eq!(leaving.look(&life, &progress), Step::Wait, "its handler works");
        let mut answer = handled.answered(Body::from("whole"), false);
        let waits = answer.frame().await;
        assert_eq!(leaving.look(&life, &progress), Step::Wait, "it is about to be written");
        advance(2 * LINGER).await;
        assert_eq!(leaving.look(&life, &progress), Step::Close);
        let mut drains = Leaving::told();
        advance(2 * LINGER).await;
        assert_eq!(drains.look(&life, &progress), Step::Wait, "a drain has a bound of its own");
        let full = Progress::full();
        assert_eq!((leaving.look(&life, &full), drains.look(&life, &full)), (Step::Close, Step::Wait));
        drop((answer, waits));
        assert_eq!(drains.look(&life, &progress), Step::Wait, "its last bytes are about to be written");
        advance(LINGER).await;
        assert_eq!(drains.look(&life, &progress), Step::Close);
    }
}
