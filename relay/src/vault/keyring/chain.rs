//! The chain that the sealing keys come from: one link for each day, each derived from the one before.
//!
//! ```text
//! link(day + 1) = HMAC-SHA256(link(day), "sipwake chain 1 next")
//! key(day)      = HMAC-SHA256(link(day), "sipwake chain 1 key")
//! id(day)       = day[2] HMAC-SHA256(link(day), "sipwake chain 1 id")[..2]
//! ```
//! So nodes with copies of a keyring derive the same key for the same day without communication, and a link reveals nothing about the days before it.
//!
//! Invariant: a link is wiped when it leaves memory, and so is everything derived on the way to one.

use aws_lc_rs::hmac;

use super::Epoch;
use crate::clock::DAY_S;
use crate::random;
use crate::secret::{SecretKey, with_clean_stack};

/// The last day that an id can name, counted from 1970: in the year 2149.
const LAST_DAY: u64 = u16::MAX as u64;

/// One link, and its place in the chain.
#[derive(Clone)]
pub(super) struct Chain {
    /// Counted from 1970-01-01.
    pub day: u16,
    /// How often an operator has mixed something in.
    pub rotation: u32,
    link: SecretKey,
}

/// The day of a moment, counted from 1970-01-01 UTC.
pub(super) fn day_of(unix: u64) -> u16 {
    (unix / DAY_S).min(LAST_DAY) as u16
}

/// The day whose key has this id, should it be one of a chain.
pub(super) fn day_of_id(id: u32) -> u16 {
    (id >> 16) as u16
}

/// The same, for other rooms of the vault.
pub(in crate::vault) fn day_of_key(id: u32) -> u64 {
    day_of_id(id).into()
}

impl Chain {
    /// A new one, that begins on this day.
    pub fn begin(day: u16) -> Self {
        let link = SecretKey::filled_by::<std::convert::Infallible>(|link| {
            random::fill(link);
            Ok(())
        });
        match link {
            Ok(link) => Self::of(day, 0, link),
        }
    }

    pub fn of(day: u16, rotation: u32, link: SecretKey) -> Self {
        Self { day, rotation, link }
    }

    pub fn link(&self) -> &SecretKey {
        &self.link
    }

    /// Goes on to the next day.
    pub fn step(&mut self) {
        self.link = derive(&self.link, b"sipwake chain 1 next", &[]);
        self.day = self.day.saturating_add(1);
    }

    /// As it will be on `day`; as it is, when that is over.
    pub fn on(&self, day: u16) -> Self {
        let mut chain = self.clone();
        while chain.day < day {
            chain.step();
        }
        chain
    }

    /// Begins anew on the same day with what only those know that have `entropy` as well.
    pub fn mix(&mut self, entropy: &[u8]) {
        self.link = derive(&self.link, b"sipwake chain 1 mixed", entropy);
        self.rotation = self.rotation.saturating_add(1);
    }

    /// Begins anew on an earlier day: the clock that led it here was wrong, or the one that says so is. No operator has mixed anything in, so that it stands
    /// before no other copy.
    pub fn turn_back(&mut self, day: u16) {
        self.link = derive(&self.link, b"sipwake chain 1 mixed", &day.to_be_bytes());
        self.day = day;
    }

    /// The key of its day.
    pub fn epoch(&self) -> Epoch {
        let id = self.told::<2>(b"sipwake chain 1 id");
        Epoch {
            id: u32::from(self.day) << 16 | u32::from(u16::from_be_bytes(id)),
            created_at: u64::from(self.day) * DAY_S,
            key: derive(&self.link, b"sipwake chain 1 key", &[]),
        }
    }

    /// What tells it from another one of the same day, and nothing else.
    pub fn fingerprint(&self) -> [u8; 8] {
        self.told(b"sipwake chain 1 fingerprint")
    }

    fn told<const N: usize>(&self, label: &[u8]) -> [u8; N] {
        let mut told = [0; N];
        told.copy_from_slice(&derive(&self.link, label, &[]).expose()[..N]);
        told
    }
}

fn derive(from: &SecretKey, label: &[u8], more: &[u8]) -> SecretKey {
    let derived = with_clean_stack(|| {
        SecretKey::filled_by::<std::convert::Infallible>(|out| {
            let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, from.expose()));
            context.update(label);
            context.update(more);
            out.copy_from_slice(context.sign().as_ref());
            Ok(())
        })
    });
    match derived {
        Ok(derived) => derived,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch_of(chain: &Chain) -> (u32, u64, [u8; 32]) {
        let epoch = chain.epoch();
        (epoch.id, epoch.created_at, *epoch.key.expose())
    }

    #[test]
    fn copies_of_a_chain_have_the_same_key_on_the_same_day_however_they_come_there() {
        let chain = Chain::begin(20_000);
        let mut other = chain.clone();
        for day in 20_000..20_400 {
            assert_eq!(epoch_of(&chain.on(day)), epoch_of(&other), "{day}");
            assert_eq!(chain.on(day).fingerprint(), other.fingerprint());
            assert_eq!(day_of_id(other.epoch().id), day);
            other.step();
        }
        assert_ne!(epoch_of(&chain), epoch_of(&Chain::begin(20_000)));
    }

    #[test]
    fn what_is_mixed_in_makes_another_chain_that_those_share_who_mixed_the_same() {
        let chain = Chain::begin(20_000);
        let mixed = |entropy: &[u8]| {
            let mut chain = chain.clone();
            chain.mix(entropy);
            (epoch_of(&chain), chain.rotation)
        };
        assert_eq!(mixed(b"dice"), mixed(b"dice"));
        assert_ne!(mixed(b"dice").0, mixed(b"dime").0);
        assert_ne!(mixed(b"dice").0, epoch_of(&chain));
        assert_eq!(mixed(b"dice").1, 1);
    }

    #[test]
    fn the_end_of_days_is_an_end() {
        assert_eq!(day_of(u64::MAX), u16::MAX);
        let mut chain = Chain::begin(u16::MAX);
        chain.step();
        assert_eq!(chain.day, u16::MAX);
    }
}
