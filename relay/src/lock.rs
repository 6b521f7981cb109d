//! A mutex that no panic poisons: every user would go on with what is under the lock anyway.
//!
//! Invariant: a panic while the lock is held leaves a whole value behind. Each change under a lock is one statement, or one whose half does no harm;
//! the user of a lock for which more is to be said says it.

use std::fmt;
use std::sync::{MutexGuard, PoisonError, TryLockError};

/// [`std::sync::Mutex`], without poison.
#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock, unless another holds it.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_under_the_lock_leaves_the_value_to_the_next() {
        let lock = Mutex::new(1);
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let mut value = lock.lock();
            *value = 2;
            panic!("under the lock");
        }));
        assert!(panics.is_err());
        assert_eq!(*lock.lock(), 2);
    }
}
