//! A challenge as it is kept between two answers: each binding has one for its whole life.
//!
//! Invariant: it unpacks to the challenge that was packed.

use std::fmt;

use super::{Algorithm, Challenge, Qop};

/// A challenge in one block of memory.
#[derive(Clone, PartialEq, Eq)]
pub struct PackedChallenge {
    /// Realm, nonce, opaque, and the algorithm as written where that is not its usual form; one behind the other.
    texts: Box<str>,
    /// The ends of the first three of them. Their limits are far below the capacity of this type.
    ends: [u16; 3],
    algorithm: Algorithm,
    qop: Qop,
    flags: u8,
}

const STALE: u8 = 1;
const USERHASH: u8 = 1 << 1;
const HAS_OPAQUE: u8 = 1 << 2;
const NAMES_ALGORITHM: u8 = 1 << 3;

impl PackedChallenge {
    /// Packs a challenge.
    pub fn new(challenge: &Challenge) -> Self {
        let Challenge { realm, nonce, opaque, algorithm, qop, stale, userhash, algorithm_written } = challenge;
        let usual = algorithm.to_string();
        let written = algorithm_written.as_deref().filter(|written| *written != usual).unwrap_or_default();
        let texts = [realm, nonce, opaque.as_deref().unwrap_or_default(), written];
        let mut end = 0;
        let ends = [0, 1, 2].map(|at: usize| {
            end += texts[at].len();
            end as u16
        });
        let flags = [
            (STALE, *stale),
            (USERHASH, *userhash),
            (HAS_OPAQUE, opaque.is_some()),
            (NAMES_ALGORITHM, algorithm_written.is_some()),
        ];
        let flags = flags.into_iter().filter(|(_, set)| *set).fold(0, |flags, (flag, _)| flags | flag);
        Self { texts: texts.concat().into(), ends, algorithm: *algorithm, qop: *qop, flags }
    }

    /// The challenge.
    pub fn unpack(&self) -> Challenge {
        let [_, nonce_end, opaque_end] = self.ends.map(usize::from);
        let has = |flag| self.flags & flag != 0;
        let written = || match &self.texts[opaque_end..] {
            "" => self.algorithm.to_string().into(),
            written => written.into(),
        };
        Challenge {
            realm: self.realm().into(),
            nonce: self.nonce().into(),
            opaque: has(HAS_OPAQUE).then(|| self.texts[nonce_end..opaque_end].into()),
            algorithm: self.algorithm,
            qop: self.qop,
            stale: has(STALE),
            userhash: has(USERHASH),
            algorithm_written: has(NAMES_ALGORITHM).then(written),
        }
    }

    /// Its realm.
    pub fn realm(&self) -> &str {
        &self.texts[..self.ends[0].into()]
    }

    /// Its nonce.
    pub fn nonce(&self) -> &str {
        &self.texts[self.ends[0].into()..self.ends[1].into()]
    }
}

impl fmt::Debug for PackedChallenge {
    /// The challenge in its unpacked form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unpack().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{NONCE_BYTES, OPAQUE_BYTES, REALM_BYTES};

    #[test]
    fn a_packed_challenge_unpacks_to_itself() {
        let long = format!(
            "Digest realm=\"{}\", nonce=\"{}\", opaque=\"{}\", algorithm=sha-256-SESS, qop=\"auth,auth-int\", stale=true",
            "é".repeat(REALM_BYTES / 2),
            "n".repeat(NONCE_BYTES),
            "o".repeat(OPAQUE_BYTES)
        );
        for value in [
            "Digest realm=\"example.com\", nonce=\"n\", algorithm=SHA-256, qop=\"auth\"",
            "Digest realm=\"\", nonce=\"\"",
            "Digest realm=r, nonce=n, opaque=\"\", userhash=true",
            "Digest realm=r, nonce=n, opaque=o, algorithm=MD5-sess, stale=TRUE",
            "Digest realm=r, nonce=n, algorithm=md5",
            &long,
        ] {
            let challenge = Challenge::parse(value).expect("a challenge");
            let packed = PackedChallenge::new(&challenge);
            assert_eq!(packed.unpack(), challenge, "{value}");
            assert_eq!((packed.realm(), packed.nonce()), (&*challenge.realm, &*challenge.nonce));
        }
        assert!(size_of::<PackedChallenge>() <= 32);
    }
}
