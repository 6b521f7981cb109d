//! The answers of a push service since it last took a push. They count until it takes the next one.
//!
//! Invariant: a push that is taken costs one atomic read if no such answer was noted. A device is known by the keyed hash that the caller gives, and by nothing
//! else.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lock::Mutex;

/// A value that the next push taken clears.
#[derive(Default)]
pub(crate) struct SinceTaken<T> {
    any: AtomicBool,
    noted: Mutex<T>,
}

impl<T: Default> SinceTaken<T> {
    /// Changes the value.
    pub(crate) fn note<R>(&self, note: impl FnOnce(&mut T) -> R) -> R {
        let mut noted = self.lock();
        self.any.store(true, Ordering::Relaxed);
        note(&mut noted)
    }

    /// A push was taken.
    pub(crate) fn clear(&self) {
        if self.any.load(Ordering::Relaxed) && self.any.swap(false, Ordering::Relaxed) {
            *self.lock() = T::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.noted.lock()
    }
}

/// A set of devices, of up to `ENOUGH`.
#[derive(Default)]
pub(crate) struct DistinctDevices<const ENOUGH: usize>(Vec<u64>);

impl<const ENOUGH: usize> DistinctDevices<ENOUGH> {
    /// Adds a device. Returns whether there are enough.
    pub(crate) fn add(&mut self, device: u64) -> bool {
        if self.0.len() < ENOUGH && !self.0.contains(&device) {
            self.0.push(device);
        }
        self.0.len() >= ENOUGH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_different_ones_in_a_row_count_and_a_push_that_is_taken_begins_anew() {
        let told = SinceTaken::<DistinctDevices<3>>::default();
        let add = |device| told.note(|several| several.add(device));
        assert_eq!([1, 1, 2, 2, 1].map(add), [false; 5], "two, however often");
        assert_eq!([3, 3, 4].map(add), [true; 3]);
        told.clear();
        assert_eq!([3, 4, 4].map(add), [false; 3]);
        assert!(add(5));
    }
}
