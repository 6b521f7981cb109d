//! The last look at the system's clock and at the store's, read whole by whoever asks for the time.
//!
//! Invariant: of two looks nobody reads one half each.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

use crate::lock::Mutex;

/// How far the system's clock may be from the store's, in milliseconds: 30 s. Past it the store's is the shared one.
pub const STORE_OFF_MAX_MS: i64 = 30_000;

/// How long after the last look a jump of the system's clock is none yet, in milliseconds. A look comes each second, and asks the store first.
pub(super) const UNLOOKED_MS: i64 = 3_000;

/// The value of an anchor before the first `begin`, and of the store's while the system's clock is right.
pub(super) const UNSET: i64 = i64::MIN;

/// What the last looks at the clocks have shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The store's time at boot, in milliseconds since 1970, while that is the shared one.
    pub(super) store_anchor_ms: i64,
    /// The system's time at boot as it was looked at last, and when that was, in milliseconds since boot.
    pub(super) system_anchor_ms: i64,
    pub(super) looked_at_ms: i64,
}

impl Look {
    pub(super) const NONE: Self = Self { store_anchor_ms: UNSET, system_anchor_ms: UNSET, looked_at_ms: 0 };

    /// The store's time, while that is the shared one.
    pub(super) fn store_ms(self, boot_ms: i64) -> Option<i64> {
        (self.store_anchor_ms != UNSET).then(|| (self.store_anchor_ms + boot_ms).max(0))
    }

    /// Where the system's clock would be had it not jumped since the last look; `None`: it has not.
    pub(super) fn before_leap(self, system_ms: i64, boot_ms: i64) -> Option<i64> {
        let is_recent = self.system_anchor_ms != UNSET && boot_ms - self.looked_at_ms <= UNLOOKED_MS;
        let expected_ms = self.system_anchor_ms.saturating_add(boot_ms);
        (is_recent && (system_ms - expected_ms).abs() > STORE_OFF_MAX_MS).then_some(expected_ms)
    }

    /// The system's time; that of before a jump at which nobody has looked yet.
    pub(super) fn system_ms(self, system_ms: i64, boot_ms: i64) -> i64 {
        self.before_leap(system_ms, boot_ms).unwrap_or(system_ms)
    }

    /// The time that the nodes of a relay share.
    pub(super) fn shared_ms(self, system_ms: i64, boot_ms: i64) -> i64 {
        self.store_ms(boot_ms).unwrap_or_else(|| self.system_ms(system_ms, boot_ms))
    }
}

/// The last [`Look`], which is read whole: of one that is half written the system's clock would be taken as looked at, and the store's not as the shared
/// one. Its number is odd while it is written (a sequence lock): reading waits for no lock, and is tried again in the few instructions of a write.
pub(super) struct Looks {
    number: AtomicU64,
    store_anchor_ms: AtomicI64,
    system_anchor_ms: AtomicI64,
    looked_at_ms: AtomicI64,
    writes: Mutex<()>,
}

impl Looks {
    pub(super) const fn new() -> Self {
        Self {
            number: AtomicU64::new(0),
            store_anchor_ms: AtomicI64::new(Look::NONE.store_anchor_ms),
            system_anchor_ms: AtomicI64::new(Look::NONE.system_anchor_ms),
            looked_at_ms: AtomicI64::new(Look::NONE.looked_at_ms),
            writes: Mutex::new(()),
        }
    }

    pub(super) fn get(&self) -> Look {
        self.get_while(|| {})
    }

    /// The same, while `others` do something in the middle of each reading.
    pub(super) fn get_while(&self, mut others: impl FnMut()) -> Look {
        loop {
            let number = self.number.load(Ordering::Acquire);
            let store_anchor_ms = self.store_anchor_ms.load(Ordering::Relaxed);
            others();
            let look = Look {
                store_anchor_ms,
                system_anchor_ms: self.system_anchor_ms.load(Ordering::Relaxed),
                looked_at_ms: self.looked_at_ms.load(Ordering::Relaxed),
            };
            // What was read above is older than the number below.
            fence(Ordering::Acquire);
            if number.is_multiple_of(2) && self.number.load(Ordering::Relaxed) == number {
                return look;
            }
            // Who writes may have been interrupted.
            std::thread::yield_now();
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Look)) {
        let _one_writes = self.writes.lock();
        let number = self.number.load(Ordering::Relaxed);
        let mut look = self.get();
        change(&mut look);
        self.number.store(number + 1, Ordering::Relaxed);
        // The odd number is seen before anything of what follows is.
        fence(Ordering::Release);
        self.store_anchor_ms.store(look.store_anchor_ms, Ordering::Relaxed);
        self.system_anchor_ms.store(look.system_anchor_ms, Ordering::Relaxed);
        self.looked_at_ms.store(look.looked_at_ms, Ordering::Relaxed);
        self.number.store(number + 2, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_MS: i64 = 1_795_000_000_000;
    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn a_jump_is_seen_by_nobody_while_another_thread_notes_what_the_store_says() {
        let right = Look { store_anchor_ms: UNSET, system_anchor_ms: START_MS, looked_at_ms: 0 };
        let jumped = Look { store_anchor_ms: START_MS, system_anchor_ms: START_MS + 400 * DAY_MS, looked_at_ms: 0 };
        for (before, after) in [(right, jumped), (jumped, right)] {
            let looks = Looks::new();
            looks.change(|look| *look = before);
            // Whole, while it is read.
            let mut times = 0;
            let look = looks.get_while(|| {
                times += 1;
                if times == 1 {
                    looks.change(|look| *look = after);
                }
            });
            assert_eq!((look, times), (after, 2));
            for system_ms in [before, after].map(|look| look.system_anchor_ms) {
                assert_eq!(look.shared_ms(system_ms, 0), START_MS);
            }
            // By halves: the first half before it is read, and the second one not before it is read again.
            looks.change(|look| *look = before);
            let number = looks.number.load(Ordering::Relaxed);
            looks.number.store(number + 1, Ordering::Relaxed);
            looks.store_anchor_ms.store(after.store_anchor_ms, Ordering::Relaxed);
            let mut times = 0;
            let look = looks.get_while(|| {
                times += 1;
                if times == 2 {
                    looks.system_anchor_ms.store(after.system_anchor_ms, Ordering::Relaxed);
                    looks.number.store(number + 2, Ordering::Release);
                }
            });
            assert_eq!((look, times), (after, 3));
        }
    }
}
