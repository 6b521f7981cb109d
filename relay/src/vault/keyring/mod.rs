//! The keys of the vault: for sealing (one for each day), for lookups, for receipts and for flow tokens.
//!
//! A record that was sealed with a day's key lives at most [`MAX_LIFETIME_S`]; so the key is destroyed when that day
//! and that time are over, and with it whatever a backup or a replica may still hold.
//!
//! | age of an epoch key | it |
//! | --- | --- |
//! | less than [`EPOCH_S`] by the system's clock | seals, when it is the last one made, and opens |
//! | less than [`KEY_LIFETIME_S`] by the confirmed clock | opens |
//! | more | is destroyed by the next [`Keyring::tend`] |
//! | made more than [`AHEAD_S`] ahead of the system's clock | opens; counts as made now, as soon as nobody doubts the clock |
//! | earlier than the one before it in the file: the clock had gone back | counts as made when that one was |
//!
//! So a clock that jumps ahead destroys nothing until it is [believed](crate::clock::watch), a key that was made by such a clock
//! lives no longer than another, and a clock that went back makes a key look older than it is to nobody.
//!
//! Invariant: there is always a key to seal with. Keys leave memory wiped, and leave the file by a rewrite whose old
//! bytes are overwritten. Several processes may share the file: whoever changes it holds its lock and has read it anew.

mod file;
mod seen;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::MAX_LIFETIME_S;
use crate::clock::{self, DAY_S, Reading, unix_now};
use crate::random;
use crate::secret::{SecretKey, with_clean_stack};
use file::{Stamp, locked};

pub use file::KeyringError;
#[cfg(test)]
pub(super) use file::tests::TempFolder;
pub(super) use file::{beside, reading, writing};

/// How long a key seals, in seconds: 1 day.
pub const EPOCH_S: u64 = DAY_S;

/// How long a key exists, in seconds: its day, and the longest life of what it sealed in its last moment; 7 days.
pub const KEY_LIFETIME_S: u64 = EPOCH_S + MAX_LIFETIME_S;

/// How far ahead of the system's clock a key may have been made by another machine of the relay, in seconds.
const AHEAD_S: u64 = 3_600;

/// Keys that are kept at most: a clock that jumps to and fro makes a new one each time, up to here; then the last goes on
/// sealing.
const EPOCHS_MAX: usize = 64;

/// The vault's keys, in memory or kept in a file. Cheap to clone: the clones are one keyring.
#[derive(Clone)]
pub struct Keyring(Arc<Inner>);

struct Inner {
    /// `None`: in memory alone.
    path: Option<PathBuf>,
    state: RwLock<State>,
}

struct State {
    keys: Keys,
    /// The file that the keys were read from or written to.
    stamp: Option<Stamp>,
}

struct Keys {
    index: SecretKey,
    receipt: SecretKey,
    flow_token: SecretKey,
    /// By age, the newest last; never empty.
    epochs: Vec<Epoch>,
}

#[derive(Clone)]
struct Epoch {
    /// A random number, so that a record of another keyring is told from an altered one.
    id: u32,
    /// In seconds since 1970.
    created_at: u64,
    key: SecretKey,
}

impl Keyring {
    /// Keys that live in this process alone: what they sealed ends with it.
    pub fn ephemeral() -> Self {
        Self(Arc::new(Inner { path: None, state: RwLock::new(State { keys: Keys::new(unix_now()), stamp: None }) }))
    }

    /// Reads the keyring at `path`, or makes it (mode 0600, its directory 0700) when there is none.
    ///
    /// # Errors
    /// When others than its owner may read it, when it is malformed, or when it cannot be read, made or changed; each
    /// names the path and, where there is one, the remedy.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let keyring = Self::read_at(path, unix_now())?;
        // A clock that is wrong from the start must not destroy keys either.
        clock::watch::begin(keyring.last_seen());
        keyring.tend(Reading::now())?;
        Ok(keyring)
    }

    #[cfg(test)]
    fn open_at(path: &Path, now: u64) -> Result<Self, KeyringError> {
        let keyring = Self::read_at(path, now)?;
        keyring.tend(Reading::steady(now))?;
        Ok(keyring)
    }

    fn read_at(path: &Path, now: u64) -> Result<Self, KeyringError> {
        let (keys, stamp) = locked(path, || match file::read(path)? {
            Some(found) => Ok(found),
            None => {
                let keys = Keys::new(now);
                let stamp = file::replace(path, &keys)?;
                Ok((keys, stamp))
            }
        })?;
        let state = RwLock::new(State { keys, stamp: Some(stamp) });
        Ok(Self(Arc::new(Inner { path: Some(path.to_owned()), state })))
    }

    /// Writes down that it is `now` (the believed time, in seconds since 1970), for the next run to begin with.
    ///
    /// # Errors
    /// [`KeyringError::Write`]; then the next run takes the moment before.
    pub fn note_time(&self, now: u64) -> Result<(), KeyringError> {
        self.0.path.as_deref().map_or(Ok(()), |path| seen::write(path, now))
    }

    /// Until when an earlier run was there at least, in seconds since 1970.
    fn last_seen(&self) -> Option<u64> {
        let noted = self.0.path.as_deref().and_then(seen::read);
        // Without a note the keys tell it to the day: a new one is made each day.
        noted.or_else(|| Some(self.read().keys.newest().created_at + EPOCH_S).filter(|latest| *latest < unix_now()))
    }

    /// Makes the key of a new day and destroys those that are older than [`KEY_LIFETIME_S`] at `now`; takes over what another process did to the file. Does nothing, but look at the file, when nothing is due.
    ///
    /// # Errors
    /// When the file cannot be read or changed; the keys in memory stay as they were.
    pub fn tend(&self, now: Reading) -> Result<(), KeyringError> {
        let Some(path) = &self.0.path else {
            self.write().keys.rotate(now);
            return Ok(());
        };
        if !self.read().keys.rotation_is_due(now) {
            return self.reread_if_changed(path);
        }
        let (keys, stamp) = locked(path, || {
            let (mut keys, stamp) = file::read_existing(path)?;
            if !keys.rotation_is_due(now) {
                return Ok((keys, stamp));
            }
            keys.rotate(now);
            let stamp = file::replace(path, &keys)?;
            Ok((keys, stamp))
        })?;
        *self.write() = State { keys, stamp: Some(stamp) };
        Ok(())
    }

    fn reread_if_changed(&self, path: &Path) -> Result<(), KeyringError> {
        if self.read().stamp == Some(Stamp::of(path)?) {
            return Ok(());
        }
        let (keys, stamp) = locked(path, || file::read_existing(path))?;
        *self.write() = State { keys, stamp: Some(stamp) };
        Ok(())
    }

    /// The key to seal with at `now`, and its id.
    pub(super) fn current(&self, now: Reading) -> (u32, SecretKey) {
        if self.read().keys.epoch_is_due(now)
            && let Err(error) = self.tend(now)
        {
            tracing::warn!(%error, "the keyring stays at yesterday's key");
        }
        let state = self.read();
        let newest = state.keys.newest();
        (newest.id, newest.key.clone())
    }

    /// The key of an epoch; another process may just have made it.
    pub(super) fn epoch(&self, id: u32) -> Option<SecretKey> {
        let find = || self.read().keys.epochs.iter().find(|epoch| epoch.id == id).map(|epoch| epoch.key.clone());
        find().or_else(|| {
            let path = self.0.path.as_deref()?;
            if let Err(error) = self.reread_if_changed(path) {
                tracing::warn!(%error, "the keyring cannot be read again");
            }
            find()
        })
    }

    /// The file; `None`: in memory alone.
    pub(super) fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    pub(super) fn index_key(&self) -> SecretKey {
        self.read().keys.index.clone()
    }

    /// The key for signing flow tokens; it stays as long as the keyring.
    pub fn flow_token_key(&self) -> SecretKey {
        self.read().keys.flow_token.clone()
    }

    /// The Ed25519 public key (RFC 8032) that verifies receipts.
    pub fn receipt_public_key(&self) -> [u8; 32] {
        with_clean_stack(|| {
            let mut public = [0; 32];
            public.copy_from_slice(self.receipt_pair().public_key().as_ref());
            public
        })
    }

    pub(super) fn sign_receipt(&self, text: &[u8]) -> [u8; 64] {
        with_clean_stack(|| {
            let mut signature = [0; 64];
            signature.copy_from_slice(self.receipt_pair().sign(text).as_ref());
            signature
        })
    }

    fn receipt_pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(self.read().keys.receipt.expose())
            .expect("any 32 bytes are an Ed25519 seed (RFC 8032 §5.1.5)")
    }

    // A panic while the lock was held leaves whole keys behind: they are replaced as one.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({:?})", self.0.path)
    }
}

impl Keys {
    fn new(now: u64) -> Self {
        let (index, receipt, flow_token) = (new_key(), new_key(), new_key());
        Self { index, receipt, flow_token, epochs: vec![Epoch::new(now)] }
    }

    fn newest(&self) -> &Epoch {
        self.epochs.last().expect("a keyring is made, read and rotated with at least one epoch")
    }

    fn rotation_is_due(&self, now: Reading) -> bool {
        let is_misdated = |epoch: &Epoch| now.is_steady && epoch.is_ahead(now.system);
        self.epoch_is_due(now) || self.epochs.iter().any(is_misdated) || self.is_dead(now.confirmed).contains(&true)
    }

    fn epoch_is_due(&self, now: Reading) -> bool {
        let newest = self.newest();
        (newest.is_over(now.system) || newest.is_ahead(now.system)) && self.epochs.len() < EPOCHS_MAX
    }

    fn rotate(&mut self, now: Reading) {
        if self.epoch_is_due(now) {
            let mut epoch = Epoch::new(now.system);
            while self.epochs.iter().any(|other| other.id == epoch.id) {
                epoch.id = epoch.id.wrapping_add(1);
            }
            self.epochs.push(epoch);
        }
        if now.is_steady {
            for epoch in self.epochs.iter_mut().filter(|epoch| epoch.is_ahead(now.system)) {
                tracing::warn!(
                    made_at = epoch.created_at,
                    "a sealing key was made by a clock that was ahead; it ends as if it was made now"
                );
                epoch.created_at = now.system;
            }
        }
        let mut dead = self.is_dead(now.confirmed).into_iter();
        self.epochs.retain(|_| dead.next() == Some(false));
    }

    /// Which epochs are to be destroyed at `now`. None was made before the one before it, whatever its date says; and one that
    /// is younger than all that may die is kept, so that one is left.
    fn is_dead(&self, now: u64) -> Vec<bool> {
        let (mut made_at, last) = (0, self.epochs.len() - 1);
        let is_dead = |(place, epoch): (usize, &Epoch)| {
            if epoch.created_at <= now {
                made_at = epoch.created_at.max(made_at);
            }
            place < last && epoch.created_at <= now && now - made_at >= KEY_LIFETIME_S
        };
        self.epochs.iter().enumerate().map(is_dead).collect()
    }
}

impl Epoch {
    fn new(now: u64) -> Self {
        Self { id: u32::from_be_bytes(random::bytes()), created_at: now, key: new_key() }
    }

    fn is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.created_at) >= EPOCH_S
    }

    fn is_ahead(&self, now: u64) -> bool {
        self.created_at > now + AHEAD_S
    }
}

fn new_key() -> SecretKey {
    match SecretKey::filled_by::<std::convert::Infallible>(|key| {
        random::fill(key);
        Ok(())
    }) {
        Ok(key) => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_795_000_000;

    #[test]
    fn each_day_has_its_key_and_a_key_ends_with_what_it_sealed() {
        let keyring = Keyring::ephemeral();
        let born = unix_now();
        let (first, _) = keyring.current(Reading::steady(born));
        assert_eq!(keyring.current(Reading::steady(born + EPOCH_S - 10)).0, first);
        let (second, _) = keyring.current(Reading::steady(born + EPOCH_S));
        assert_ne!(second, first);
        keyring.tend(Reading::steady(born + KEY_LIFETIME_S - 10)).expect("tended");
        assert!(keyring.epoch(first).is_some(), "what was sealed in its last moment still opens");
        keyring.tend(Reading::steady(born + KEY_LIFETIME_S)).expect("tended");
        assert!(keyring.epoch(first).is_none());
        assert!(keyring.epoch(second).is_some());
    }

    #[test]
    fn a_keyring_that_nobody_tended_for_a_month_still_has_a_key() {
        let keyring = Keyring::ephemeral();
        let (old, _) = keyring.current(Reading::steady(unix_now()));
        let (new, _) = keyring.current(Reading::steady(unix_now() + 30 * DAY_S));
        assert_ne!(old, new);
        assert!(keyring.epoch(old).is_none());
    }

    /// The system's clock `system` off, while it is not believed.
    fn doubted(confirmed: u64, system: u64) -> Reading {
        Reading { system, confirmed: confirmed.min(system), latest: confirmed.max(system), is_steady: false }
    }

    #[test]
    fn a_clock_that_is_ahead_destroys_no_key_and_its_own_key_ends_like_any_other() {
        for ahead in [DAY_S, 30 * DAY_S, 365 * DAY_S] {
            let keyring = Keyring::ephemeral();
            let born = unix_now();
            let (old, _) = keyring.current(Reading::steady(born));
            let (made_ahead, _) = keyring.current(doubted(born + 6, born + 6 + ahead));
            assert_ne!(made_ahead, old);
            keyring.tend(doubted(born + 7, born + 7 + ahead)).expect("tended");
            assert!(keyring.epoch(old).is_some(), "what was sealed before the jump opens");
            // The clock is right again.
            let (new, _) = keyring.current(Reading::steady(born + 60));
            assert!(new != made_ahead && keyring.epoch(made_ahead).is_some(), "it opens, and seals no more");
            keyring.tend(Reading::steady(born + 60 + KEY_LIFETIME_S - 1)).expect("tended");
            assert!(keyring.epoch(made_ahead).is_some());
            keyring.tend(Reading::steady(born + 60 + KEY_LIFETIME_S)).expect("tended");
            assert!(keyring.epoch(made_ahead).is_none(), "7 days, not {}", 7 + ahead / DAY_S);
        }
    }

    #[test]
    fn a_clock_that_goes_back_and_comes_again_costs_no_key() {
        let keyring = Keyring::ephemeral();
        let born = unix_now();
        let (old, _) = keyring.current(Reading::steady(born));
        let (made_behind, _) = keyring.current(doubted(born + 5, 1_000));
        keyring.tend(doubted(born + 6, 1_001)).expect("tended");
        let (new, _) = keyring.current(Reading::steady(born + 60));
        assert!(new != old && new != made_behind);
        keyring.tend(Reading::steady(born + KEY_LIFETIME_S - 10)).expect("tended");
        assert!(keyring.epoch(old).is_some() && keyring.epoch(made_behind).is_some());
        keyring.tend(Reading::steady(born + KEY_LIFETIME_S)).expect("tended");
        assert!(keyring.epoch(old).is_none() && keyring.epoch(made_behind).is_none());
    }

    #[test]
    fn a_clock_that_jumps_to_and_fro_fills_no_file() {
        let place = file::tests::TempFolder::new();
        let keyring = Keyring::open_at(&place.keyring(), START).expect("made");
        for jump in 0..500 {
            let off = if jump % 2 == 0 { 40 * DAY_S } else { 0 };
            keyring.current(doubted(START, START + off));
        }
        assert_eq!(keyring.read().keys.epochs.len(), EPOCHS_MAX);
        Keyring::open_at(&place.keyring(), START).expect("it is still a keyring");
    }

    #[test]
    fn a_keyring_is_the_same_when_it_is_opened_again() {
        let place = file::tests::TempFolder::new();
        let one = Keyring::open_at(&place.keyring(), START).expect("made");
        let two = Keyring::open_at(&place.keyring(), START).expect("opened");
        assert_eq!(one.index_key().expose(), two.index_key().expose());
        assert_eq!(one.flow_token_key().expose(), two.flow_token_key().expose());
        assert_eq!(one.receipt_public_key(), two.receipt_public_key());
        assert_eq!(one.current(Reading::steady(START)).0, two.current(Reading::steady(START)).0);
        assert_eq!(one.current(Reading::steady(START)).1.expose(), two.current(Reading::steady(START)).1.expose());
    }

    #[test]
    fn what_one_process_does_to_the_file_the_other_takes_over() {
        let place = file::tests::TempFolder::new();
        let one = Keyring::open_at(&place.keyring(), START).expect("made");
        let two = Keyring::open_at(&place.keyring(), START).expect("opened");
        let (first, _) = one.current(Reading::steady(START));
        let (second, _) = one.current(Reading::steady(START + EPOCH_S));
        assert!(two.epoch(second).is_some(), "a record that the other sealed opens here");
        assert_eq!(
            two.current(Reading::steady(START + EPOCH_S)).0,
            second,
            "one key for each day, not one for each process"
        );
        one.tend(Reading::steady(START + KEY_LIFETIME_S)).expect("tended");
        two.tend(Reading::steady(START + KEY_LIFETIME_S)).expect("tended");
        assert!(two.epoch(first).is_none());
    }
}
