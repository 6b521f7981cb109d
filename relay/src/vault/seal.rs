//! Sealing: AES-256-GCM under a key of the record's own.
//!
//! ```text
//! sealed  = version[1] epoch[4] salt[16] nonce[12] ciphertext tag[16]
//! key     = HKDF-SHA256(salt, epoch key, purpose)                   RFC 5869
//! aad     = purpose place version epoch salt nonce
//! purpose = "sipwake record 1" | "sipwake message 1" | "sipwake missed 1"
//! place   = instance[16], and for what is kept beside the record item_key[16]
//! ```
//!
//! Invariant: a sealed value opens only for its purpose, in its own place and unaltered. Each sealing has a fresh salt, and so a key of its own, under which
//! one nonce is used once. The plaintext is encoded and sealed in one buffer that never moves; what a cipher or a hash left on the stack is overwritten.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use sip::id::InstanceId;
use zeroize::Zeroizing;

use super::codec;
use super::keyring::{Keyring, day_of_key};
use super::record::{Storable, StoredRecord};
use crate::clock::Reading;
use crate::random;
use crate::secret::{SecretKey, with_clean_stack};

/// The version that is written, and the only one that is opened.
const VERSION: u8 = 1;
const EPOCH_LEN: usize = 4;
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = 1 + EPOCH_LEN + SALT_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;
const PURPOSE: &[u8] = b"sipwake record 1";

/// A sealed record: the only form in which it is kept. A few hundred bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(Arc<[u8]>);

impl Sealed {
    /// Takes bytes that a store gave back; whether they are sound shows when they are opened.
    pub fn from_bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for a store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Why a sealed record does not open. None of it heals: the record is lost, and its instance is to be wiped.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SealError {
    /// Its epoch key was destroyed, or belongs to another keyring.
    #[error("the key of this record is gone")]
    KeyGone,
    /// It was altered, or sealed for another instance.
    #[error("the record does not open")]
    Broken,
    /// It was made by another version of sipwake.
    #[error("the record is of another version")]
    OtherVersion,
}

pub(super) fn seal(keyring: &Keyring, id: InstanceId, record: &impl Storable, now: Reading) -> Sealed {
    let mut len = 0;
    record.visit(&mut |bytes| len += bytes.len());
    let write = |out: &mut Vec<u8>| record.visit(&mut |bytes| out.extend_from_slice(bytes));
    seal_as(keyring, PURPOSE, &id.to_bytes(), now, len, write)
}

/// Opens what [`seal`] made, and gives it to `work` for this moment.
pub(super) fn open<T>(
    keyring: &Keyring,
    id: InstanceId,
    sealed: &Sealed,
    work: impl FnOnce(&StoredRecord) -> T,
) -> Result<T, SealError> {
    open_as(keyring, PURPOSE, &id.to_bytes(), &sealed.0, |plain| codec::decode(plain).ok().map(|record| work(&record)))
}

/// Seals what `encode` appends, which is exactly `len` bytes, for this purpose and place.
pub(super) fn seal_as(
    keyring: &Keyring,
    purpose: &'static [u8],
    place: &[u8],
    now: Reading,
    len: usize,
    encode: impl FnOnce(&mut Vec<u8>),
) -> Sealed {
    let (epoch, epoch_key) = keyring.current(now);
    let header = Header { version: VERSION, epoch, fresh: random::bytes() };
    with_clean_stack(|| {
        let mut out = Vec::with_capacity(HEADER_LEN + len + TAG_LEN);
        header.write(&mut out);
        encode(&mut out);
        let key = sealing_key(&epoch_key, purpose, header.salt());
        let tag = key
            .seal_in_place_separate_tag(header.nonce(), header.aad(purpose, place), &mut out[HEADER_LEN..])
            .expect("AES-GCM seals anything shorter than 64 GiB");
        out.extend_from_slice(tag.as_ref());
        Sealed(out.into())
    })
}

/// Opens what [`seal_as`] made for the same purpose and place; `decode` reads it.
pub(super) fn open_as<T>(
    keyring: &Keyring,
    purpose: &'static [u8],
    place: &[u8],
    sealed: &[u8],
    decode: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, SealError> {
    let (header, body) = Header::read(sealed)?;
    let epoch_key = keyring.epoch(header.epoch).ok_or(SealError::KeyGone)?;
    with_clean_stack(|| {
        let mut body = Zeroizing::new(body.to_vec());
        let plain = sealing_key(&epoch_key, purpose, header.salt())
            .open_in_place(header.nonce(), header.aad(purpose, place), &mut body)
            .map_err(|_| SealError::Broken)?;
        decode(plain).ok_or(SealError::OtherVersion)
    })
}

/// Whether this keyring has sealed it; `None`: that cannot be told.
pub(super) fn is_of(keyring: &Keyring, sealed: &Sealed) -> Option<bool> {
    Header::read(&sealed.0).ok().and_then(|(header, _)| keyring.has_sealed_with(header.epoch))
}

/// The day whose key has sealed it, counted from 1970.
pub(super) fn day_of(sealed: &Sealed) -> Option<u64> {
    Header::read(&sealed.0).ok().map(|(header, _)| day_of_key(header.epoch))
}

struct Header {
    version: u8,
    epoch: u32,
    /// Salt and nonce, which the system makes by one call.
    fresh: [u8; SALT_LEN + NONCE_LEN],
}

impl Header {
    fn read(sealed: &[u8]) -> Result<(Self, &[u8]), SealError> {
        if *sealed.first().ok_or(SealError::Broken)? != VERSION {
            return Err(SealError::OtherVersion);
        }
        let (header, body) = sealed.split_first_chunk::<HEADER_LEN>().ok_or(SealError::Broken)?;
        let part = |from: usize| &header[from..];
        let header = Self {
            version: header[0],
            epoch: u32::from_be_bytes(*part(1).first_chunk().ok_or(SealError::Broken)?),
            fresh: *part(1 + EPOCH_LEN).first_chunk().ok_or(SealError::Broken)?,
        };
        Ok((header, body))
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.push(self.version);
        out.extend_from_slice(&self.epoch.to_be_bytes());
        out.extend_from_slice(&self.fresh);
    }

    fn salt(&self) -> &[u8] {
        &self.fresh[..SALT_LEN]
    }

    fn nonce(&self) -> Nonce {
        Nonce::assume_unique_for_key(std::array::from_fn(|at| self.fresh[SALT_LEN + at]))
    }

    fn aad(&self, purpose: &[u8], place: &[u8]) -> Aad<Vec<u8>> {
        let mut aad = Vec::with_capacity(purpose.len() + place.len() + HEADER_LEN);
        aad.extend_from_slice(purpose);
        aad.extend_from_slice(place);
        self.write(&mut aad);
        Aad::from(aad)
    }
}

fn sealing_key(epoch_key: &SecretKey, purpose: &'static [u8], salt: &[u8]) -> LessSafeKey {
    let epoch_key = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(epoch_key.expose());
    let purpose = [purpose];
    let key = epoch_key.expand(&purpose, &AES_256_GCM).expect("32 bytes are fewer than HKDF's 8,160");
    LessSafeKey::new(UnboundKey::from(key))
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::vault::codec::lent::tests::samples;
    use crate::vault::record::Record;

    fn unseal(keyring: &Keyring, id: InstanceId, sealed: &Sealed) -> Result<Record, SealError> {
        open(keyring, id, sealed, |record| record.lent().cloned())?.ok_or(SealError::OtherVersion)
    }

    fn id(random: u128) -> InstanceId {
        InstanceId::new(random << 32, ShardTag(1))
    }

    #[test]
    fn a_record_opens_for_its_instance_and_for_no_other() {
        let keyring = Keyring::ephemeral();
        for record in samples() {
            let sealed = seal(&keyring, id(1), &record, Reading::now());
            assert!(sealed.as_bytes().len() <= 640, "{sealed:?}");
            assert_eq!(unseal(&keyring, id(1), &sealed), Ok(record));
            assert_eq!(unseal(&keyring, id(2), &sealed), Err(SealError::Broken));
            assert_eq!(unseal(&Keyring::ephemeral(), id(1), &sealed), Err(SealError::KeyGone));
        }
    }

    #[test]
    fn a_record_with_any_bit_altered_does_not_open() {
        let keyring = Keyring::ephemeral();
        let sealed = seal(&keyring, id(1), &samples()[0], Reading::now());
        for place in 0..sealed.as_bytes().len() {
            let mut altered = sealed.as_bytes().to_vec();
            altered[place] ^= 1;
            assert!(unseal(&keyring, id(1), &Sealed::from_bytes(altered)).is_err(), "byte {place}");
        }
        for len in 0..sealed.as_bytes().len() {
            assert!(unseal(&keyring, id(1), &Sealed::from_bytes(&sealed.as_bytes()[..len])).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn the_same_record_never_seals_to_the_same_bytes_and_shows_nothing_in_the_clear() {
        let keyring = Keyring::ephemeral();
        let record = &samples()[0];
        let (one, two) = (seal(&keyring, id(1), record, Reading::now()), seal(&keyring, id(1), record, Reading::now()));
        assert_ne!(one, two);
        for text in ["alice", "example", "battery", "a5a5a5a5"] {
            assert!(!one.as_bytes().windows(text.len()).any(|window| window == text.as_bytes()), "{text}");
        }
    }
}
