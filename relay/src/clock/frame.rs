//! Ends that outlast a clock: by which clock an end was told, and where it lies by another one.
//!
//! A clock's frame is when the machine was booted by it. Two clocks that agree have about the same, and what one told is moved by the
//! difference to mean the same moment by the other. So a lease that was granted by a clock that was wrong lasts as long as was granted,
//! by the time since boot, once the right clock is trusted.
//!
//! Invariant: a moment that is moved is as far from now as before; nothing lives longer than it was granted, as far as the machine has run.

use super::since_boot;
use super::watch::{self, Reading, STEP_MS};

/// When the machine was booted by some clock, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(u32);

impl Frame {
    /// That of a clock of which nobody knows how far it is from others: nothing is moved from there.
    const UNKNOWN: Self = Self(u32::MAX);

    /// That of a clock that says `unix_ms` now.
    fn of(unix_ms: i64) -> Self {
        let booted_ms = unix_ms - since_boot().as_millis() as i64;
        Self(u32::try_from((booted_ms / 1_000).max(0)).unwrap_or(u32::MAX).min(u32::MAX - 1))
    }

    /// That of the clock by which leases are granted now: the later one, while there are two.
    pub fn of_grants() -> Self {
        let shared_ms = watch::shared_now_ms() as i64;
        Self::of(watch::trusted_ms().map_or(shared_ms, |trusted_ms| trusted_ms.max(shared_ms)))
    }

    /// That of the trusted time; `None` while the clock is doubted.
    fn of_trusted() -> Option<Self> {
        Reading::now().is_steady.then(|| Self::of(watch::trusted_ms().unwrap_or(watch::shared_now_ms() as i64)))
    }

    /// That of the clock which has told what another run, or another node, has granted.
    pub fn of_found() -> Self {
        Self::of_trusted().unwrap_or(Self::UNKNOWN)
    }

    /// Whether anything can be moved from there.
    pub fn is_known(self) -> bool {
        self != Self::UNKNOWN
    }

    /// By how many seconds a moment of this frame is later in the other one; `None`: they are about the same, or nobody knows.
    pub fn shift_to(self, other: Self) -> Option<i64> {
        if !self.is_known() {
            return None;
        }
        let by_s = i64::from(other.0) - i64::from(self.0);
        (by_s.abs() > STEP_MS / 1_000).then_some(by_s)
    }
}

/// Finds when ends are to be moved.
#[derive(Debug, Default)]
pub struct Frames {
    last: Option<Frame>,
    was_doubted: bool,
}

impl Frames {
    /// The frame to which all ends are to be moved now; `None`: there is nothing to move, or nobody knows yet.
    pub fn look(&mut self) -> Option<Frame> {
        let now = Frame::of_trusted();
        self.look_at(now)
    }

    fn look_at(&mut self, now: Option<Frame>) -> Option<Frame> {
        let Some(now) = now else {
            self.was_doubted = true;
            return None;
        };
        let has_moved = self.last.get_or_insert(now).shift_to(now).is_some();
        if !(std::mem::take(&mut self.was_doubted) || has_moved) {
            return None;
        }
        self.last = Some(now);
        Some(now)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame that is so many seconds after another one.
    pub(crate) fn later(frame: Frame, by_s: i64) -> Frame {
        Frame((i64::from(frame.0) + by_s) as u32)
    }

    #[test]
    fn ends_are_moved_when_a_clock_is_trusted_again_and_not_by_a_step_of_a_time_service() {
        let mut frames = Frames::default();
        let (at, step) = (Frame(1_795_000_000), STEP_MS / 1_000);
        assert_eq!([Some(at), Some(later(at, step))].map(|now| frames.look_at(now)), [None; 2]);
        assert_eq!(frames.look_at(None), None, "doubted");
        assert_eq!(frames.look_at(Some(at)), Some(at), "a lease may have been granted by the other clock");
        assert_eq!(frames.look_at(Some(at)), None, "once");
        let ahead = later(at, 864_000);
        assert_eq!(frames.look_at(Some(ahead)), Some(ahead), "without a doubt that was seen");
        assert_eq!((at.shift_to(ahead), ahead.shift_to(at)), (Some(864_000), Some(-864_000)));
        assert_eq!(at.shift_to(later(at, -step)), None);
        assert_eq!(Frame::UNKNOWN.shift_to(at), None);
    }
}
