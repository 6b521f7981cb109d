//! The anchors of the system's clock and of the store's: what each of them showed at boot, as last looked at.
//!
//! Invariant: all anchors that a reader gets are of one look.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering, fence};

use crate::lock::Mutex;

/// How far the system's clock may be from the store's, in milliseconds: 30 s. Past it the store's is the shared one.
pub const STORE_OFF_MAX_MS: i64 = 30_000;

/// For this long after the last look, in milliseconds, a jump of the system's clock does not count yet. A look comes each second, and asks the store first.
pub(super) const UNLOOKED_MS: i64 = 3_000;

/// The value of an anchor before the first `begin`, and of the store's while the system's clock is right.
pub(super) const UNSET: i64 = i64::MIN;

/// The anchors that the last looks at the clocks have found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchors {
    /// The store's time at boot, in milliseconds since 1970, while that is the shared one.
    pub(super) store_anchor_ms: i64,
    /// The system's time at boot, by the last look, in milliseconds since 1970.
    pub(super) system_anchor_ms: i64,
    /// The time of the last look, in milliseconds since boot.
    pub(super) looked_at_ms: i64,
}

impl Anchors {
    pub(super) const NONE: Self = Self { store_anchor_ms: UNSET, system_anchor_ms: UNSET, looked_at_ms: 0 };

    /// The store's time, while that is the shared one.
    pub(super) fn store_ms(self, boot_ms: i64) -> Option<i64> {
        (self.store_anchor_ms != UNSET).then(|| (self.store_anchor_ms + boot_ms).max(0))
    }

    /// The time that the system's clock would show without its jump since the last look. `None`: it has not jumped.
    pub(super) fn before_leap(self, system_ms: i64, boot_ms: i64) -> Option<i64> {
        let is_recent = self.system_anchor_ms != UNSET && boot_ms - self.looked_at_ms <= UNLOOKED_MS;
        let expected_ms = self.system_anchor_ms.saturating_add(boot_ms);
        (is_recent && (system_ms - expected_ms).abs() > STORE_OFF_MAX_MS).then_some(expected_ms)
    }

    /// The system's time. A jump since the last look is left out.
    pub(super) fn system_ms(self, system_ms: i64, boot_ms: i64) -> i64 {
        self.before_leap(system_ms, boot_ms).unwrap_or(system_ms)
    }

    /// The time that the nodes of a relay share.
    pub(super) fn shared_ms(self, system_ms: i64, boot_ms: i64) -> i64 {
        self.store_ms(boot_ms).unwrap_or_else(|| self.system_ms(system_ms, boot_ms))
    }
}

/// The last [`Anchors`], behind a sequence lock: its number is odd during a write, and a reader tries again then, so that it waits for no lock and never
/// combines the anchors of two looks.
pub(super) struct SharedAnchors {
    number: AtomicU64,
    store_anchor_ms: AtomicI64,
    system_anchor_ms: AtomicI64,
    looked_at_ms: AtomicI64,
    writes: Mutex<()>,
}

impl SharedAnchors {
    pub(super) const fn new() -> Self {
        Self {
            number: AtomicU64::new(0),
            store_anchor_ms: AtomicI64::new(Anchors::NONE.store_anchor_ms),
            system_anchor_ms: AtomicI64::new(Anchors::NONE.system_anchor_ms),
            looked_at_ms: AtomicI64::new(Anchors::NONE.looked_at_ms),
            writes: Mutex::new(()),
        }
    }

    pub(super) fn get(&self) -> Anchors {
        self.get_while(|| {})
    }

    /// The same, while `others` do something in the middle of each reading.
    pub(super) fn get_while(&self, mut others: impl FnMut()) -> Anchors {
        loop {
            let number = self.number.load(Ordering::Acquire);
            let store_anchor_ms = self.store_anchor_ms.load(Ordering::Relaxed);
            others();
            let anchors = Anchors {
                store_anchor_ms,
                system_anchor_ms: self.system_anchor_ms.load(Ordering::Relaxed),
                looked_at_ms: self.looked_at_ms.load(Ordering::Relaxed),
            };
            // The note read above is older than the number below.
            fence(Ordering::Acquire);
            if number.is_multiple_of(2) && self.number.load(Ordering::Relaxed) == number {
                return anchors;
            }
            // The writer may have been interrupted.
            std::thread::yield_now();
        }
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Anchors)) {
        let _one_writes = self.writes.lock();
        let number = self.number.load(Ordering::Relaxed);
        let mut anchors = self.get();
        change(&mut anchors);
        self.number.store(number + 1, Ordering::Relaxed);
        // The odd number is seen before anything of what follows is.
        fence(Ordering::Release);
        self.store_anchor_ms.store(anchors.store_anchor_ms, Ordering::Relaxed);
        self.system_anchor_ms.store(anchors.system_anchor_ms, Ordering::Relaxed);
        self.looked_at_ms.store(anchors.looked_at_ms, Ordering::Relaxed);
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
        let right = Anchors { store_anchor_ms: UNSET, system_anchor_ms: START_MS, looked_at_ms: 0 };
        let jumped = Anchors { store_anchor_ms: START_MS, system_anchor_ms: START_MS + 400 * DAY_MS, looked_at_ms: 0 };
        for (before, after) in [(right, jumped), (jumped, right)] {
            let shared = SharedAnchors::new();
            shared.change(|anchors| *anchors = before);
            // Whole, while it is read.
            let mut times = 0;
            let anchors = shared.get_while(|| {
                times += 1;
                if times == 1 {
                    shared.change(|anchors| *anchors = after);
                }
            });
            assert_eq!((anchors, times), (after, 2));
            for system_ms in [before, after].map(|anchors| anchors.system_anchor_ms) {
                assert_eq!(anchors.shared_ms(system_ms, 0), START_MS);
            }
            // By halves: the first half before it is read, and the second one not before it is read again.
            shared.change(|anchors| *anchors = before);
            let number = shared.number.load(Ordering::Relaxed);
            shared.number.store(number + 1, Ordering::Relaxed);
            shared.store_anchor_ms.store(after.store_anchor_ms, Ordering::Relaxed);
            let mut times = 0;
            let anchors = shared.get_while(|| {
                times += 1;
                if times == 2 {
                    shared.system_anchor_ms.store(after.system_anchor_ms, Ordering::Relaxed);
                    shared.number.store(number + 2, Ordering::Release);
                }
            });
            assert_eq!((anchors, times), (after, 3));
        }
    }
}
