//! The file descriptors that accepted connections leave to everything else: the store, push services, SIP servers, files.
//!
//! Invariant: a connection is let in only while [`RESERVE`] descriptors are free, or [`RESERVE_SHARE`] of all where those are few; one more is
//! closed at once, and the relay goes on waking phones.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::process::{Resource, getrlimit};

/// Descriptors that stay free of accepted connections.
pub const RESERVE: u64 = 1_024;
/// The part of all descriptors that stays free where that is less than [`RESERVE`]: one in so many.
pub const RESERVE_SHARE: u64 = 8;

/// Whether a connection that was accepted leaves the reserve untouched.
pub(super) fn has_room(accepted: BorrowedFd<'_>) -> bool {
    let Some(all) = getrlimit(Resource::Nofile).current else { return true };
    leaves_reserve(accepted.as_raw_fd(), all)
}

/// The system gives the lowest number that is free (POSIX.1-2017, 2.14): so many are in use at least.
fn leaves_reserve(accepted: i32, all: u64) -> bool {
    u64::try_from(accepted).unwrap_or(0) < all - RESERVE.min(all / RESERVE_SHARE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_kept_whether_descriptors_are_many_or_few() {
        for (all, last) in [(1_048_576, 1_047_551), (8_192, 7_167), (1_024, 895), (160, 139), (8, 6)] {
            assert!(leaves_reserve(last, all), "{last} of {all}");
            assert!(!leaves_reserve(last + 1, all), "{last} of {all}");
        }
    }
}
