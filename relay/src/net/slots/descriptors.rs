//! The file descriptors that accepted connections leave to everything else: the store, push services, SIP servers, files.
//!
//! Invariant: a device's or an app's connection is let in only while [`RESERVE`] descriptors are free, or [`RESERVE_SHARE`] of all where those are
//! few; one more is closed at once, and the relay goes on waking phones. Those that the reserve is kept for are let in while a quarter of it is
//! free: peers that fill the listeners keep the relay from nothing that it opens itself.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use rustix::process::{Resource, getrlimit};

/// Descriptors that stay free of accepted connections.
pub const RESERVE: u64 = 1_024;
/// The part of all descriptors that stays free where that is less than [`RESERVE`]: one in so many.
pub const RESERVE_SHARE: u64 = 8;

/// How much of the reserve a listener's connections leave free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// All: devices and apps, of which there are many.
    Reserve,
    /// A quarter: SIP servers, the operator and the CA.
    Quarter,
}

/// Whether a connection that was accepted leaves as much free.
pub(crate) fn has_room(accepted: BorrowedFd<'_>, leaves: Leaves) -> bool {
    let Some(all) = getrlimit(Resource::Nofile).current else { return true };
    leaves.has_room(accepted.as_raw_fd(), all)
}

impl Leaves {
    /// The system gives the lowest number that is free (POSIX.1-2017, 2.14): so many are in use at least.
    fn has_room(self, accepted: i32, all: u64) -> bool {
        let reserve = RESERVE.min(all / RESERVE_SHARE);
        let free = match self {
            Self::Reserve => reserve,
            Self::Quarter => reserve / 4,
        };
        u64::try_from(accepted).unwrap_or(0) < all - free
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::slots::Limits;

    #[test]
    fn a_reserve_is_kept_whether_descriptors_are_many_or_few() {
        for (all, last) in [(1_048_576, 1_047_551), (8_192, 7_167), (1_024, 895), (160, 139), (8, 6)] {
            assert!(Leaves::Reserve.has_room(last, all), "{last} of {all}");
            assert!(!Leaves::Reserve.has_room(last + 1, all), "{last} of {all}");
        }
    }

    #[test]
    fn sip_servers_and_the_operator_are_let_in_when_devices_have_taken_what_they_may() {
        for (all, last) in [(1_048_576, 1_048_319), (8_192, 7_935), (1_024, 991), (160, 154)] {
            assert!(Leaves::Quarter.has_room(last, all), "{last} of {all}");
            assert!(!Leaves::Quarter.has_room(last + 1, all), "{last} of {all}");
        }
        assert!([Limits::SIP_SERVERS, Limits::OPERATOR].iter().all(|limits| limits.leaves == Leaves::Quarter));
        assert!([Limits::DEVICES, Limits::API].iter().all(|limits| limits.leaves == Leaves::Reserve));
    }
}
