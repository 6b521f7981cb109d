//! Randomness that is handed in: one seed, one stream (ChaCha12).
//!
//! Invariant: the same seed gives the same numbers; with a secret seed nobody outside can tell the next one.

use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// A source of random numbers.
#[derive(Debug)]
pub struct Random(ChaCha12Rng);

impl Random {
    /// A stream that `seed` determines.
    pub fn new(seed: [u8; 32]) -> Self {
        Self(ChaCha12Rng::from_seed(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// 128 random bits.
    pub fn wide(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    /// A number from `low` to `high`, both included; `low` when the range is empty.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        match high.checked_sub(low) {
            None | Some(0) => low,
            // The bias is below 2^-32 for every range used here, which are milliseconds.
            Some(span) => low + self.bits() % span.saturating_add(1).max(1),
        }
    }

    /// A tag or client nonce: 16 hexadecimal digits.
    pub fn tag(&mut self) -> String {
        format!("{:016x}", self.bits())
    }
}
