//! What a push service says of tokens, as far as that says something of the service.
//!
//! A device chooses its token: one of another project, of another app or of no app at all is refused for good, and says nothing of the
//! service. A token of which a push was taken before is a good one.
//!
//! | refused since the last push that was taken | what it says |
//! | --- | --- |
//! | tokens of which no push was ever taken | nothing |
//! | fewer than [`REFUSED`] good ones | nothing |
//! | [`REFUSED`] good ones | the key, the project or the endpoint is the wrong one: the service fails |
//!
//! Invariant: of a token nothing is kept but a hash with a key of this process. At most [`KNOWN`] tokens are known; a further one takes
//! the place of another.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::faults::name_of;
use crate::secret::PushToken;

/// Good tokens that are refused in a row at which the service fails.
const REFUSED: usize = 3;
/// Tokens that are known of one service: 16 KiB.
const KNOWN: usize = 2_048;
/// What is said of a token, by each service.
const REASONS: [&str; 4] = ["BadDeviceToken", "DeviceTokenNotForTopic", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"];

/// Whether this is said of a token.
pub(super) fn is_of_a_token(reason: &str) -> bool {
    REASONS.contains(&reason)
}

/// The tokens of one service.
pub(super) struct Tokens {
    /// Those of which a push was taken, each at the place that its hash names; 0: none.
    taken: Box<[AtomicU64]>,
    /// How many there are in `refused`.
    count: AtomicUsize,
    /// Good ones that are refused now.
    refused: Mutex<Vec<u64>>,
}

impl Default for Tokens {
    fn default() -> Self {
        let taken = (0..KNOWN).map(|_| AtomicU64::new(0)).collect();
        Self { taken, count: AtomicUsize::new(0), refused: Mutex::default() }
    }
}

impl Tokens {
    /// A push to this one was taken.
    pub(super) fn took(&self, token: &PushToken) {
        let hash = Self::hash(token);
        self.place_of(hash).store(hash, Ordering::Relaxed);
        if self.count.swap(0, Ordering::Relaxed) > 0 {
            self.lock().clear();
        }
    }

    /// This one was refused. Whether the service fails.
    pub(super) fn refused(&self, token: &PushToken) -> bool {
        let hash = Self::hash(token);
        if self.place_of(hash).load(Ordering::Relaxed) != hash {
            return false;
        }
        let mut refused = self.lock();
        if refused.len() < REFUSED && !refused.contains(&hash) {
            refused.push(hash);
        }
        self.count.store(refused.len(), Ordering::Relaxed);
        refused.len() >= REFUSED
    }

    fn hash(token: &PushToken) -> u64 {
        name_of(token.expose()).max(1)
    }

    fn place_of(&self, hash: u64) -> &AtomicU64 {
        &self.taken[hash as usize % KNOWN]
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u64>> {
        // Whole numbers go in.
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_tokens_that_nobody_knows_says_nothing_and_of_good_ones_it_does() {
        let tokens = Tokens::default();
        let token = |number: u32| PushToken::new(&format!("token {number}"));
        assert!((0..1_000).all(|number| !tokens.refused(&token(number))), "of one device or of a thousand");
        let good: Vec<_> = (0..4).map(token).collect();
        good.iter().for_each(|token| tokens.took(token));
        for _ in 0..5 {
            assert!(!tokens.refused(&good[0]) && !tokens.refused(&good[1]), "two say nothing, however often");
        }
        tokens.took(&good[3]);
        assert!(!tokens.refused(&good[2]), "it has taken a push in between");
        assert!(!tokens.refused(&good[0]) && tokens.refused(&good[1]), "three in a row");
    }
}
