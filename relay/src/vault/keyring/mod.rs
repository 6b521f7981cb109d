//! The keys of the vault: for sealing (one for each day, from a [chain]), for lookups, for receipts and for flow tokens.
//!
//! A record that was sealed with a day's key lives at most [`MAX_LIFETIME_S`]; so the key is destroyed when that day
//! and that time are over, and with it whatever a backup or a replica may still hold.
//!
//! | key of a day (UTC) | it |
//! | --- | --- |
//! | today, by the shared clock | seals, and opens |
//! | up to [`KEY_LIFETIME_S`] after the day's beginning, by the confirmed clock | opens |
//! | more | is destroyed by the next [`Keyring::tend`] |
//! | to come | can be derived, and opens what a node sealed whose day has begun already |
//!
//! The chain is led on by the [confirmed clock](crate::clock::watch) alone, so that a clock that jumps ahead destroys nothing. While
//! the clock is doubted, the shared one's day seals if it is at most [`DAYS_AHEAD`] ahead of the chain, and else the confirmed
//! one's: so a key lives at most twice as long as another. A chain that was led into the future by a clock that was believed, and
//! is not right, begins anew when the clock is.
//!
//! Invariant: there is always a key to seal with. Keys leave memory wiped, and leave the file by a rewrite whose old
//! bytes are overwritten. Several processes may share the file: whoever changes it holds its lock and has read it anew. Copies of
//! the file stay as good as one file, until something is [mixed](Keyring::mix) into one alone.

mod chain;
mod file;
mod seen;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::MAX_LIFETIME_S;
use crate::clock::{self, DAY_S, Reading, shared_now};
use crate::random;
use crate::secret::{SecretKey, with_clean_stack};
use chain::{Chain, day_of, day_of_id};
use file::{Stamp, locked};

pub use file::KeyringError;
#[cfg(test)]
pub(super) use file::tests::TempFolder;
pub(super) use file::{beside, reading, writing};

/// How long a key seals, in seconds: 1 day.
pub const EPOCH_S: u64 = DAY_S;

/// How long a key exists, in seconds: its day, and the longest life of what it sealed in its last moment; 7 days.
pub const KEY_LIFETIME_S: u64 = EPOCH_S + MAX_LIFETIME_S;

/// How far ahead of the chain a clock that is doubted may have something sealed, in days: as long as a key lives.
const DAYS_AHEAD: u16 = (KEY_LIFETIME_S / DAY_S) as u16;

/// How far ahead of the chain something opens, in days: what was sealed under a doubted clock on a node that is itself ahead.
const DAYS_OPENED_AHEAD: u16 = 2 * DAYS_AHEAD;

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
    chain: Chain,
    /// Those that open, that of the chain's day among them; the oldest first.
    epochs: Vec<Epoch>,
    /// The file is to be written anew: it is of an earlier version.
    is_old: bool,
}

#[derive(Clone)]
struct Epoch {
    /// So that a record of another keyring is told from an altered one.
    id: u32,
    /// In seconds since 1970: the beginning of its day.
    created_at: u64,
    key: SecretKey,
}

impl Keyring {
    /// Keys that live in this process alone: what they sealed ends with it.
    pub fn ephemeral() -> Self {
        Self(Arc::new(Inner { path: None, state: RwLock::new(State { keys: Keys::new(shared_now()), stamp: None }) }))
    }

    /// Reads the keyring at `path`, or makes it (mode 0600, its directory 0700) when there is none.
    ///
    /// # Errors
    /// When others than its owner may read it, when it is malformed, or when it cannot be read, made or changed; each
    /// names the path and, where there is one, the remedy.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let keyring = Self::read_at(path, shared_now())?;
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
        // Without a note the chain tells it to the day.
        let day = self.read().keys.chain.day;
        noted.or_else(|| Some(u64::from(day) * DAY_S + EPOCH_S).filter(|latest| *latest < shared_now()))
    }

    /// Leads the chain on to the day of `now` and destroys the keys that are older than [`KEY_LIFETIME_S`]; takes over what another
    /// process did to the file. Does nothing, but look at the file, when nothing is due.
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
        let state = self.read();
        let day = state.keys.sealing_day(now);
        let known = state.keys.epochs.last().filter(|epoch| day == state.keys.chain.day && day_of_id(epoch.id) == day);
        let epoch = known.cloned().unwrap_or_else(|| state.keys.chain.on(day).epoch());
        (epoch.id, epoch.key)
    }

    /// The key of an epoch; another process may just have mixed something into the chain.
    pub(super) fn epoch(&self, id: u32) -> Option<SecretKey> {
        let find = || self.read().keys.find(id);
        find().or_else(|| {
            let path = self.0.path.as_deref()?;
            if let Err(error) = self.reread_if_changed(path) {
                tracing::warn!(event = "keyring-unreadable", %error, "the keyring cannot be read again");
            }
            find()
        })
    }

    /// Begins a new chain from the present one and `entropy`, which nobody can tell from the file as it was until now. Copies of
    /// the keyring stay alike that have the same mixed in on the same day. What was sealed before opens.
    ///
    /// # Errors
    /// When the file cannot be read or changed; then nothing has changed.
    pub fn mix(&self, entropy: &[u8], now: Reading) -> Result<(), KeyringError> {
        let Some(path) = &self.0.path else {
            self.write().keys.mix(entropy);
            return Ok(());
        };
        let (keys, stamp) = locked(path, || {
            let (mut keys, _) = file::read_existing(path)?;
            keys.rotate(now);
            keys.mix(entropy);
            let stamp = file::replace(path, &keys)?;
            Ok((keys, stamp))
        })?;
        *self.write() = State { keys, stamp: Some(stamp) };
        Ok(())
    }

    /// What may be shown of it, and compared with another one's.
    pub fn fingerprint(&self, now: Reading) -> Fingerprint {
        let day = self.sealing_day(now);
        self.fingerprint_of(day)
    }

    /// Likewise, as it will be on the day after.
    pub(super) fn fingerprint_of_tomorrow(&self, now: Reading) -> Fingerprint {
        let day = self.sealing_day(now).saturating_add(1);
        self.fingerprint_of(day)
    }

    fn sealing_day(&self, now: Reading) -> u16 {
        self.read().keys.sealing_day(now)
    }

    fn fingerprint_of(&self, day: u16) -> Fingerprint {
        let state = self.read();
        let chain = state.keys.chain.on(day);
        let mut ring = [0; 8];
        ring.copy_from_slice(&super::lookup::ring(&state.keys.index)[..8]);
        Fingerprint { ring, day: chain.day, rotation: chain.rotation, chain: chain.fingerprint() }
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

/// What tells one keyring from another, and nothing of its keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint {
    /// The same as long as it is the same keyring.
    pub ring: [u8; 8],
    /// The day of the chain, counted from 1970-01-01 UTC.
    pub day: u16,
    /// How often something was mixed into the chain.
    pub rotation: u32,
    /// The same in all copies on the same day.
    pub chain: [u8; 8],
}

impl Fingerprint {
    /// What tells the keyring from another one, in hex.
    pub fn ring_text(&self) -> String {
        crate::vault::lookup::hex(&self.ring)
    }

    /// What tells the key of today from one into which something else was mixed, in hex.
    pub fn chain_text(&self) -> String {
        crate::vault::lookup::hex(&self.chain)
    }
}

impl Keys {
    fn new(now: u64) -> Self {
        let (index, receipt, flow_token) = (new_key(), new_key(), new_key());
        let chain = Chain::begin(day_of(now));
        let epochs = vec![chain.epoch()];
        Self { index, receipt, flow_token, chain, epochs, is_old: false }
    }

    /// As they were read; without a chain they are of version 1.
    fn of(
        index: SecretKey,
        receipt: SecretKey,
        flow_token: SecretKey,
        chain: Option<Chain>,
        mut epochs: Vec<Epoch>,
    ) -> Self {
        let is_old = chain.is_none();
        let chain = chain.or_else(|| epochs.last().map(Chain::after)).unwrap_or_else(|| Chain::begin(0));
        let epoch = chain.epoch();
        if !epochs.iter().any(|known| known.id == epoch.id) {
            epochs.push(epoch);
        }
        Self { index, receipt, flow_token, chain, epochs, is_old }
    }

    fn find(&self, id: u32) -> Option<SecretKey> {
        if let Some(known) = self.epochs.iter().find(|epoch| epoch.id == id) {
            return Some(known.key.clone());
        }
        let (from, day) = (self.chain.day, day_of_id(id));
        let epoch = (from < day && day - from <= DAYS_OPENED_AHEAD).then(|| self.chain.on(day).epoch());
        epoch.filter(|epoch| epoch.id == id).map(|epoch| epoch.key)
    }

    fn sealing_day(&self, now: Reading) -> u16 {
        let shared = day_of(now.system);
        let is_near = shared <= self.chain.day.saturating_add(DAYS_AHEAD);
        let day = if now.is_steady || is_near { shared } else { day_of(now.confirmed) };
        day.max(self.chain.day)
    }

    fn rotation_is_due(&self, now: Reading) -> bool {
        let is_behind = self.chain.day < day_of(now.confirmed);
        self.is_old || is_behind || self.is_astray(now) || self.epochs.iter().any(|epoch| self.is_dead(epoch, now))
    }

    /// Whether a wrong clock has led the chain into the future.
    fn is_astray(&self, now: Reading) -> bool {
        now.is_steady && self.chain.day > day_of(now.system).saturating_add(1)
    }

    fn rotate(&mut self, now: Reading) {
        self.is_old = false;
        if self.is_astray(now) {
            tracing::warn!(
                event = "keys-led-ahead",
                day = self.chain.day,
                "a clock that was ahead has led the sealing keys ahead; they begin anew"
            );
            self.chain.turn_back(day_of(now.system));
            for epoch in self.epochs.iter_mut().filter(|epoch| epoch.created_at > now.system) {
                epoch.created_at = now.system;
            }
            self.keep(self.chain.epoch());
        }
        while self.chain.day < day_of(now.confirmed) {
            self.chain.step();
            let epoch = self.chain.epoch();
            if !self.is_dead(&epoch, now) {
                self.keep(epoch);
            }
        }
        let epochs = std::mem::take(&mut self.epochs);
        self.epochs = epochs.into_iter().filter(|epoch| !self.is_dead(epoch, now)).collect();
    }

    fn mix(&mut self, entropy: &[u8]) {
        self.chain.mix(entropy);
        while self.epochs.iter().any(|known| known.id == self.chain.epoch().id) {
            self.chain.mix(entropy);
        }
        self.keep(self.chain.epoch());
    }

    fn keep(&mut self, epoch: Epoch) {
        self.epochs.push(epoch);
    }

    fn is_dead(&self, epoch: &Epoch, now: Reading) -> bool {
        let age_s = now.confirmed.saturating_sub(epoch.created_at);
        age_s >= KEY_LIFETIME_S && day_of_id(epoch.id) != self.chain.day
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

    /// Noon of a day.
    const START: u64 = 20_775 * DAY_S + DAY_S / 2;

    fn keyring() -> (file::tests::TempFolder, Keyring) {
        let place = file::tests::TempFolder::new();
        let keyring = Keyring::open_at(&place.keyring(), START).expect("made");
        (place, keyring)
    }

    /// Another machine's: it begins with what the file holds now.
    fn copy_of(place: &file::tests::TempFolder) -> (file::tests::TempFolder, Keyring) {
        let other = file::tests::TempFolder::new();
        std::fs::create_dir_all(other.keyring().parent().expect("a folder")).expect("made");
        std::fs::copy(place.keyring(), other.keyring()).expect("copied");
        let keyring = Keyring::open_at(&other.keyring(), START).expect("opened");
        (other, keyring)
    }

    fn days(count: u64) -> Reading {
        Reading::steady(START + count * DAY_S)
    }

    #[test]
    fn each_day_has_its_key_and_a_key_ends_with_what_it_sealed() {
        let (_place, keyring) = keyring();
        let (first, _) = keyring.current(Reading::steady(START));
        let midnight = START + DAY_S / 2;
        assert_eq!(keyring.current(Reading::steady(midnight - 1)).0, first);
        let (second, key) = keyring.current(Reading::steady(midnight));
        assert_ne!(second, first);
        keyring.tend(Reading::steady(midnight)).expect("tended");
        assert_eq!(keyring.epoch(second).expect("kept").expose(), key.expose(), "derived before, and the same");
        keyring.tend(Reading::steady(midnight + MAX_LIFETIME_S - 1)).expect("tended");
        assert!(keyring.epoch(first).is_some(), "what was sealed in its last moment still opens");
        keyring.tend(Reading::steady(midnight + MAX_LIFETIME_S)).expect("tended");
        assert!(keyring.epoch(first).is_none());
        assert!(keyring.epoch(second).is_some());
    }

    #[test]
    fn a_keyring_that_nobody_tended_for_a_month_still_has_a_key() {
        let (_place, keyring) = keyring();
        let (old, _) = keyring.current(days(0));
        keyring.tend(days(30)).expect("tended");
        assert_ne!(keyring.current(days(30)).0, old);
        assert!(keyring.epoch(old).is_none());
        assert_eq!(keyring.read().keys.epochs.len(), 7, "those of a week, and no more");
    }

    #[test]
    fn copies_open_what_the_others_sealed_for_a_month_and_destroy_at_the_same_time() {
        let (place, one) = keyring();
        let (_other_place, two) = copy_of(&place);
        let mut sealed = Vec::new();
        for day in 0..30 {
            let (of_one, of_two) = (one.current(days(day)), two.current(days(day)));
            assert_eq!((of_one.0, of_one.1.expose()), (of_two.0, of_two.1.expose()));
            sealed.push(of_one.0);
            // One is tended each day, the other now and then.
            one.tend(days(day)).expect("tended");
            if day % 5 == 0 {
                two.tend(days(day)).expect("tended");
            }
            for (made, id) in sealed.iter().enumerate() {
                let lives = day < made as u64 + 7;
                assert_eq!(one.epoch(*id).is_some(), lives, "of day {made} on day {day}");
                assert!(two.epoch(*id).is_some() || !lives, "of day {made} on day {day}, by the other");
            }
            assert_eq!(one.fingerprint(days(day)), two.fingerprint(days(day)));
        }
    }

    #[test]
    fn what_the_file_holds_tells_nothing_of_the_days_before() {
        let (place, keyring) = keyring();
        let (old, key) = keyring.current(days(0));
        let link = *keyring.read().keys.chain.link().expose();
        keyring.tend(days(7)).expect("tended");
        let text = std::fs::read_to_string(place.keyring()).expect("text");
        for secret in [key.expose(), &link] {
            assert!(!text.contains(&crate::vault::lookup::hex(secret)));
        }
        assert!(Keyring::open_at(&place.keyring(), START + 7 * DAY_S).expect("opened").epoch(old).is_none());
    }

    #[test]
    fn what_is_mixed_into_one_copy_alone_parts_it_from_the_others_and_the_same_in_both_does_not() {
        let (place, one) = keyring();
        let (_other_place, two) = copy_of(&place);
        let (before, _) = one.current(days(0));
        one.mix(b"sixteen throws of a die", days(0)).expect("mixed");
        let (after, key) = one.current(days(0));
        assert!(one.epoch(before).is_some(), "what was sealed before opens");
        assert!(two.epoch(after).is_none());
        let (of_one, of_two) = (one.fingerprint(days(0)), two.fingerprint(days(0)));
        assert_eq!((of_one.ring, of_one.rotation, of_two.rotation), (of_two.ring, 1, 0));
        assert_ne!(of_one.chain, of_two.chain);
        two.mix(b"sixteen throws of a die", days(0)).expect("mixed");
        assert_eq!(one.fingerprint(days(0)), two.fingerprint(days(0)));
        assert_eq!(two.epoch(after).expect("the same").expose(), key.expose());
        one.tend(days(3)).expect("tended");
        assert_eq!(one.fingerprint(days(3)), two.fingerprint(days(3)), "derived ahead, and the same");
    }

    /// The system's clock `system` off, while it is not believed.
    fn doubted(confirmed: u64, system: u64) -> Reading {
        Reading { system, confirmed: confirmed.min(system), latest: confirmed.max(system), is_steady: false }
    }

    #[test]
    fn a_clock_that_is_ahead_destroys_no_key_and_what_it_sealed_ends_in_time() {
        for (ahead, lives) in [(1, 8), (7, 14), (30, 7), (365, 7)] {
            let (_place, keyring) = keyring();
            let (old, _) = keyring.current(days(0));
            let now = doubted(START + 6, START + 6 + ahead * DAY_S);
            let (made_ahead, key) = keyring.current(now);
            keyring.tend(now).expect("tended");
            assert!(keyring.epoch(old).is_some(), "what was sealed before the jump opens");
            // The clock is right again.
            assert_eq!(keyring.current(days(0)).0, old);
            for day in 0..lives {
                keyring.tend(days(day)).expect("tended");
                assert_eq!(keyring.epoch(made_ahead).expect("it opens").expose(), key.expose(), "{ahead}: day {day}");
            }
            keyring.tend(days(lives)).expect("tended");
            assert!(keyring.epoch(made_ahead).is_none(), "{ahead}");
        }
    }

    #[test]
    fn a_node_that_was_off_for_days_and_doubts_its_clock_seals_what_the_others_open() {
        let (place, one) = keyring();
        let (_other_place, two) = copy_of(&place);
        two.tend(days(5)).expect("tended");
        let now = doubted(START, START + 5 * DAY_S);
        assert!(two.epoch(one.current(now).0).is_some());
        assert!(one.epoch(two.current(days(5)).0).is_some());
    }

    #[test]
    fn a_chain_that_a_believed_clock_led_astray_begins_anew_and_opens_what_it_sealed_for_a_week() {
        let (_place, keyring) = keyring();
        keyring.tend(days(400)).expect("tended");
        let (astray, _) = keyring.current(days(400));
        keyring.tend(days(0)).expect("tended");
        let (new, _) = keyring.current(days(0));
        assert_eq!(day_of_id(new), day_of(START));
        keyring.tend(days(6)).expect("tended");
        assert!(keyring.epoch(astray).is_some() && keyring.epoch(new).is_some());
        keyring.tend(days(8)).expect("tended");
        assert!(keyring.epoch(astray).is_none() && keyring.epoch(new).is_none());
    }

    #[test]
    fn a_clock_that_goes_back_and_comes_again_costs_no_key() {
        let (_place, keyring) = keyring();
        let (old, _) = keyring.current(days(0));
        assert_eq!(keyring.current(doubted(START + 5, 1_000)).0, old);
        keyring.tend(doubted(START + 6, 1_001)).expect("tended");
        assert_eq!(keyring.current(days(0)).0, old);
    }

    #[test]
    fn a_keyring_is_the_same_when_it_is_opened_again() {
        let (place, one) = keyring();
        let two = Keyring::open_at(&place.keyring(), START).expect("opened");
        assert_eq!(one.index_key().expose(), two.index_key().expose());
        assert_eq!(one.flow_token_key().expose(), two.flow_token_key().expose());
        assert_eq!(one.receipt_public_key(), two.receipt_public_key());
        assert_eq!(one.current(days(0)).0, two.current(days(0)).0);
        assert_eq!(one.current(days(0)).1.expose(), two.current(days(0)).1.expose());
    }

    #[test]
    fn what_one_process_does_to_the_file_the_other_takes_over() {
        let (place, one) = keyring();
        let two = Keyring::open_at(&place.keyring(), START).expect("opened");
        one.mix(b"dice", days(0)).expect("mixed");
        let (mixed, _) = one.current(days(0));
        assert!(two.epoch(mixed).is_some(), "a record that the other sealed opens here");
        assert_eq!(two.current(days(0)).0, mixed);
        one.tend(days(7)).expect("tended");
        two.tend(days(7)).expect("tended");
        assert!(two.epoch(mixed).is_none());
    }

    #[test]
    fn a_keyring_of_version_1_opens_what_it_has_sealed_and_goes_on_as_a_chain() {
        let place = file::tests::TempFolder::new();
        std::fs::create_dir_all(place.keyring().parent().expect("a folder")).expect("made");
        let key = |digit: &str| digit.repeat(64);
        let text = format!(
            "sipwake keyring 1\nindex {}\nreceipt {}\nflow-token {}\nepoch 7 {} {}\nepoch 4000000000 {START} {}\n",
            key("1"),
            key("2"),
            key("3"),
            START - DAY_S,
            key("4"),
            key("5"),
        );
        file::tests::write_private(&place.keyring(), &text);
        let (_copy_place, copy) = copy_of(&place);
        let keyring = Keyring::open_at(&place.keyring(), START + 3 * DAY_S).expect("opened");
        copy.tend(days(3)).expect("tended");
        for id in [7, 4_000_000_000] {
            assert!(keyring.epoch(id).is_some() && copy.epoch(id).is_some());
        }
        assert_eq!(keyring.current(days(3)).0, copy.current(days(3)).0);
        assert_eq!(keyring.fingerprint(days(3)), copy.fingerprint(days(3)));
        assert!(std::fs::read_to_string(place.keyring()).expect("text").starts_with("sipwake keyring 2\n"));
        keyring.tend(days(7)).expect("tended");
        assert!(keyring.epoch(7).is_none() && keyring.epoch(4_000_000_000).is_none());
    }
}
