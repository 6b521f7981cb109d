//! The times by which a token for a push service may be right.
//!
//! A service refuses a token by a clock that is some minutes off. While the clocks of this node differ, a refusal says that it was the wrong one.
//!
//! Invariant: as long as all clocks agree there is one time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::watch::{STEP_MS, advertised_now, trusted_now};
use super::{since_boot, unix_now};

/// The times now.
#[derive(Clone, Copy, Debug)]
pub struct TokenTimes {
    /// The one that phones are told, too.
    pub first: SystemTime,
    /// Another one that is far from it: the system's, or the trusted one.
    pub other: Option<SystemTime>,
    /// The time since boot, by which ages are counted.
    pub up: Duration,
}

/// How far two times may be apart that are about the same.
pub const ABOUT: Duration = Duration::from_millis(STEP_MS.unsigned_abs());

impl TokenTimes {
    /// By the clocks of this node.
    pub fn now() -> Self {
        let (first, system) = (advertised_now(), unix_now());
        let others = [Some(system), trusted_now()].into_iter().flatten();
        let at = |unix: u64| UNIX_EPOCH + Duration::from_secs(unix);
        let other = others.map(at).find(|other| !is_about(*other, at(first)));
        Self { first: at(first), other, up: since_boot() }
    }
}

/// Whether the two are about the same.
pub fn is_about(one: SystemTime, other: SystemTime) -> bool {
    is_within(one, other, ABOUT)
}

/// Whether two times differ by no more than `most`.
pub fn is_within(one: SystemTime, other: SystemTime, most: Duration) -> bool {
    one.duration_since(other).unwrap_or_else(|error| error.duration()) <= most
}
