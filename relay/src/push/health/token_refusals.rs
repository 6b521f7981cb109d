//! Refusals of tokens by a push service, as far as they say something about the service.
//!
//! A device chooses its token: one of another project, of another app or of no app at all is refused for good, and says nothing about the service. A token to
//! which a push was taken before is a good one.
//!
//! | refused since the last push that was taken | meaning for the service |
//! | --- | --- |
//! | tokens that were never good in this run, while another token was | none |
//! | fewer than [`REFUSED_NEW`] tokens, while none was good yet | none |
//! | [`REFUSED_NEW`] tokens and more, while none was good yet | a light trouble for each: the key or the project may be wrong |
//! | fewer than [`REFUSED`] good tokens | none |
//! | [`REFUSED`] good tokens | the key, the project or the endpoint is wrong: the service fails |
//!
//! The first push that is taken clears the counts, so that a client that invents tokens cannot make a service fail that takes those of others.
//!
//! Invariant: a token is kept as a hash alone, with a key of this process. At most [`KNOWN`] tokens are known; a further one replaces another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::device_faults::name_of;
use super::since_taken::{DistinctDevices, SinceTaken};
use crate::secret::PushToken;

/// The number of good tokens, refused in a row, at which the service fails.
const REFUSED: usize = 3;
/// The number of unknown tokens, refused before any push was taken, from which on each is a trouble.
const REFUSED_NEW: usize = 10;
/// The number of tokens that are known of one service: 16 KiB.
const KNOWN: usize = 2_048;
/// The reasons of each service for refusing a token.
const REASONS: [&str; 4] = ["BadDeviceToken", "DeviceTokenNotForTopic", "SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"];

/// Whether a reason is about the token.
pub(crate) fn is_of_a_token(reason: &str) -> bool {
    REASONS.contains(&reason)
}

/// The meaning of a refusal for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalMeaning {
    Nothing,
    /// The service may be failing.
    Light,
    /// The service fails.
    Fails,
}

/// The tokens of one service.
pub(super) struct Tokens {
    /// The tokens to which a push was taken, each at the place that its hash names; 0: none.
    taken: Box<[AtomicU64]>,
    /// The good tokens that are refused now.
    refused: SinceTaken<DistinctDevices<REFUSED>>,
    /// Whether a push was taken.
    any_taken: AtomicBool,
    /// The tokens that were refused before any was taken.
    refused_new: SinceTaken<DistinctDevices<REFUSED_NEW>>,
}

impl Default for Tokens {
    fn default() -> Self {
        let taken = (0..KNOWN).map(|_| AtomicU64::new(0)).collect();
        let any_taken = AtomicBool::new(false);
        Self { taken, refused: SinceTaken::default(), any_taken, refused_new: SinceTaken::default() }
    }
}

impl Tokens {
    /// A push to this token was taken.
    pub(super) fn took(&self, token: &PushToken) {
        let hash = Self::hash(token);
        self.place_of(hash).store(hash, Ordering::Relaxed);
        if !self.any_taken.load(Ordering::Relaxed) {
            self.any_taken.store(true, Ordering::Relaxed);
            self.refused_new.clear();
        }
        self.refused.clear();
    }

    /// Notes a refused token. Returns the meaning for the service.
    pub(super) fn refused(&self, token: &PushToken) -> RefusalMeaning {
        let hash = Self::hash(token);
        let is_known = self.place_of(hash).load(Ordering::Relaxed) == hash;
        if is_known && self.refused.note(|good| good.add(hash)) {
            RefusalMeaning::Fails
        } else if !is_known && !self.any_taken.load(Ordering::Relaxed) && self.refused_new.note(|new| new.add(hash)) {
            RefusalMeaning::Light
        } else {
            RefusalMeaning::Nothing
        }
    }

    fn hash(token: &PushToken) -> u64 {
        name_of(token.expose()).max(1)
    }

    fn place_of(&self, hash: u64) -> &AtomicU64 {
        &self.taken[hash as usize % KNOWN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> PushToken {
        PushToken::new(&format!("token {number}"))
    }

    #[test]
    fn what_is_said_of_tokens_that_nobody_knows_says_nothing_and_of_good_ones_it_does() {
        let tokens = Tokens::default();
        let good: Vec<_> = (0..4).map(token).collect();
        good.iter().for_each(|token| tokens.took(token));
        let strangers = 10..1_000;
        assert!(
            strangers.into_iter().all(|number| tokens.refused(&token(number)) == RefusalMeaning::Nothing),
            "of one device or many"
        );
        for _ in 0..5 {
            let said = [tokens.refused(&good[0]), tokens.refused(&good[1])];
            assert_eq!(said, [RefusalMeaning::Nothing; 2], "two say nothing, however often");
        }
        tokens.took(&good[3]);
        assert_eq!(tokens.refused(&good[2]), RefusalMeaning::Nothing, "it has taken a push in between");
        assert_eq!(
            [tokens.refused(&good[0]), tokens.refused(&good[1])],
            [RefusalMeaning::Nothing, RefusalMeaning::Fails],
            "three in a row"
        );
    }

    #[test]
    fn where_nothing_was_taken_yet_what_is_said_of_ten_tokens_is_a_trouble_until_one_is_taken() {
        let tokens = Tokens::default();
        assert!(
            (0..100).all(|number| tokens.refused(&token(number % 9)) == RefusalMeaning::Nothing),
            "of nine, however often"
        );
        assert_eq!(
            [tokens.refused(&token(9)), tokens.refused(&token(0)), tokens.refused(&token(77))],
            [RefusalMeaning::Light; 3]
        );
        tokens.took(&token(1_000));
        assert!((0..100).all(|number| tokens.refused(&token(number)) == RefusalMeaning::Nothing));
        let is_empty = tokens.refused_new.note(|new| (1..REFUSED_NEW as u64).all(|number| !new.add(number)));
        assert!(is_empty, "they are forgotten");
    }
}
