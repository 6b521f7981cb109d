//! The end of a call's push that no service has taken: the call lives until its deadline, and its push as long.
//!
//! | the pause before the next try | consequence |
//! | --- | --- |
//! | ends [`LAST_TRY`] before the deadline, or earlier | it is kept |
//! | ends later, or beyond the deadline | the last try is made then, [`LAST_TRY`] before the deadline, unless the service has asked for more |
//! | likewise, when that moment is past, or the service has asked for more than there is left | no further try, and the push ends [right](settled_at) before the deadline: a device whose token changes until then is pushed to at once |
//!
//! Invariant: no try is made earlier than the service has asked for, and none after the deadline.

use std::time::Duration;

use tokio::time::Instant;

pub(super) use crate::push::connection::answer_timeout::settled_at;
use crate::push::{Event, Verdict};

/// How long before the deadline the last try is made: a phone needs about so long to come.
const LAST_TRY: Duration = Duration::from_secs(1);

/// The time at which a call's push is tried again after this pause, for which its service may have asked; `None`: never.
pub(super) fn next_try(now: Instant, pause: Duration, asked: Option<Duration>, deadline: Instant) -> Option<Instant> {
    let last = deadline.checked_sub(LAST_TRY).filter(|last| *last > now);
    let at = last.map_or(now + pause, |last| last.min(now + pause)).max(now + asked.unwrap_or_default());
    (at < deadline).then_some(at)
}

/// The time of the next attempt, if it comes before the deadline. `None`: no further try; the call lives until its deadline.
pub(super) fn next_attempt(
    event: Event,
    deadline: Instant,
    pause: Duration,
    after: Option<Duration>,
) -> Result<Option<Instant>, Verdict> {
    let now = Instant::now();
    match now + pause {
        _ if now >= deadline => Err(Verdict::TooLate),
        _ if event == Event::Call => Ok(next_try(now, pause, after, deadline)),
        at if at >= deadline => Err(Verdict::Retry { after }),
        at => Ok(Some(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_reaches_past_the_deadline_is_cut_to_one_last_try_unless_the_service_has_asked_for_it() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let next = |pause, asked: Option<u64>, left| {
            next_try(now, ms(pause), asked.map(ms), now + ms(left)).map(|at| (at - now).as_millis())
        };
        assert_eq!(next(5_000, None, 30_000), Some(5_000));
        for pause in [4_000, 4_500, 5_000, 60_000] {
            assert_eq!(next(pause, None, 5_000), Some(4_000), "{pause}");
        }
        assert_eq!(next(400, None, 900), Some(400), "there is time yet");
        assert_eq!(next(2_500, None, 900), None);
        assert_eq!(next(4_500, Some(4_500), 5_000), Some(4_500), "not before");
        assert_eq!(next(30_000, Some(30_000), 29_000), None);
    }
}
