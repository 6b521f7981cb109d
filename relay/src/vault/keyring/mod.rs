//! The keys of the vault: for sealing (one for each day, from a [chain]), for lookups, for receipts and for flow tokens.
//!
//! A record that was sealed with a day's key lives at most [`MAX_LIFETIME_S`]; so the key is destroyed when that day
//! and that time are over, and with it whatever a backup or a replica may still hold.
//!
//! | room | contents |
//! | --- | --- |
//! | `chain`, `keys` | the chain of keys, and all keys of a keyring |
//! | `file`, `found` | its file, and what a run finds in that one's place |
//! | `seen`, `untried`, `accepted` | notes beside it: the last moment of a run; that it has not stood for its store yet; that its operator has taken it as the store's |
//!
//! | key of a day (UTC) | it |
//! | --- | --- |
//! | today, by the shared clock | seals, and opens |
//! | up to [`KEY_LIFETIME_S`] after the day's beginning, by the confirmed clock | opens |
//! | more | is destroyed by the next [`Keyring::tend`] |
//! | to come | can be derived, and opens what a node sealed whose day has begun already |
//!
//! The chain is led on by the [confirmed clock](crate::clock::watch) alone, so that a clock that jumps ahead destroys nothing. While
//! the clock is doubted, the shared one's day seals if it is at most [`DAYS_AHEAD`](keys::DAYS_AHEAD) ahead of the chain, and else the confirmed
//! one's: so a key lives at most twice as long as another. A chain that was led into the future by a clock that was believed, and
//! is not right, begins anew when the clock is; what it sealed opens for a week from then, or for as long as by its own day.
//!
//! Invariant: there is always a key to seal with. Keys leave memory wiped, and leave the file by a rewrite whose old
//! bytes are overwritten. Several processes may share the file: whoever changes it holds its lock and has read it anew. What lies there is taken over
//! as long as it is [this keyring](found). Copies of
//! the file stay as good as one file, until something is [mixed](Keyring::mix) into one alone.

mod accepted;
mod chain;
mod file;
mod found;
mod keys;
mod seen;
mod untried;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};

use super::MAX_LIFETIME_S;
use super::lookup::hex;
use crate::clock::{self, DAY_S, Reading, shared_now};
use crate::secret::{SecretKey, with_clean_stack};
use chain::day_of_id;
pub(super) use chain::day_of_key;
use file::{Stamp, locked, writing};
use keys::Keys;

#[cfg(test)]
pub(super) use file::tests::TempFolder;
pub use file::{KeyringError, file_of_node};
pub(super) use file::{beside, reading_wipes};

/// How long a key seals, in seconds: 1 day.
pub const EPOCH_S: u64 = DAY_S;

/// How long a key exists, in seconds: its day, and the longest life of what it sealed in its last moment; 7 days.
pub const KEY_LIFETIME_S: u64 = EPOCH_S + MAX_LIFETIME_S;

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
    /// The keys were led on in memory, and the file could not be.
    is_behind: bool,
}

impl State {
    fn of(keys: Keys, stamp: Option<Stamp>) -> Self {
        Self { keys, stamp, is_behind: false }
    }
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
        Self::of(None, State::of(Keys::new(shared_now()), None))
    }

    fn of(path: Option<PathBuf>, state: State) -> Self {
        Self(Arc::new(Inner { path, state: RwLock::new(state) }))
    }

    /// Reads the keyring at `path`, or makes it (mode 0600, its directory 0700) when there is none. Nothing in it is changed before it is
    /// [tended](Self::tend): whose clock is wrong destroys nothing by looking.
    ///
    /// # Errors
    /// When others than its owner may read it, when it is malformed, or when it cannot be read, made or changed; each
    /// names the path and, where there is one, the remedy.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let keyring = Self::read_at(path, shared_now())?;
        // A clock that is wrong from the start must not destroy keys either.
        clock::watch::begin(keyring.last_seen());
        Ok(keyring)
    }

    /// As [`Self::open`]; one that is there, and cannot be changed, is read: what it seals and opens follows from what it holds.
    ///
    /// # Errors
    /// When it cannot be read, or is none; when there is none and it cannot be made.
    pub fn open_or_read(path: &Path) -> Result<Self, KeyringError> {
        match Self::open(path) {
            Err(error @ KeyringError::Write { .. }) => {
                let path = file::real_path(path)?;
                // A rename changes it as a whole, so that it is read without its lock as well.
                let Ok((keys, stamp)) = file::read_existing(&path) else { return Err(error) };
                let keyring = Self::of(Some(path), State::of(keys, Some(stamp)));
                clock::watch::begin(keyring.last_seen());
                Ok(keyring)
            }
            opened => opened,
        }
    }

    #[cfg(test)]
    fn open_at(path: &Path, now: u64) -> Result<Self, KeyringError> {
        let keyring = Self::read_at(path, now)?;
        keyring.tend(Reading::steady(now))?;
        Ok(keyring)
    }

    fn read_at(path: &Path, now: u64) -> Result<Self, KeyringError> {
        let path = file::real_path(path)?;
        let (keys, stamp) = locked(&path, || match file::read(&path)? {
            Some(found) => Ok(found),
            None => {
                let keys = Keys::new(now);
                untried::note(&path, &hex(&identity_of(&keys))).map_err(writing(&path))?;
                let stamp = file::replace(&path, &keys)?;
                Ok((keys, stamp))
            }
        })?;
        Ok(Self::of(Some(path), State::of(keys, Some(stamp))))
    }

    /// Writes down that it is `now` (the believed time, in seconds since 1970), for the next run to begin with.
    ///
    /// # Errors
    /// [`KeyringError::Write`]; then the next run takes the moment before.
    pub fn note_time(&self, node: &str, now: u64) -> Result<(), KeyringError> {
        self.0.path.as_deref().map_or(Ok(()), |path| seen::write(path, node, now))
    }

    /// Until when an earlier run was there at least, in seconds since 1970; `None`: nothing tells more than the clock does.
    fn last_seen(&self) -> Option<u64> {
        let noted = self.0.path.as_deref().and_then(seen::read);
        // The chain tells it to the day: it was led there by a clock that was trusted. Without a note its day is over if it can be.
        let begun = u64::from(self.read().keys.chain.day) * DAY_S;
        let is_over = |end: &u64| noted.is_none() && *end < shared_now();
        let by_chain = Some(begun + EPOCH_S).filter(is_over).or(Some(begun).filter(|begun| *begun > shared_now()));
        noted.max(by_chain)
    }

    /// Leads the chain on to the day of `now` and destroys the keys that are older than [`KEY_LIFETIME_S`]; takes over what another
    /// process did to the file. Does nothing, but look at the file, when nothing is due.
    ///
    /// # Errors
    /// When the file cannot be read or changed, or is another keyring's; the keys in memory are led on all the same, and the file by the next call that can.
    pub fn tend(&self, now: Reading) -> Result<(), KeyringError> {
        let Some(path) = &self.0.path else {
            self.write().keys.rotate(now);
            return Ok(());
        };
        let is_due = {
            let state = self.read();
            state.is_behind || state.keys.rotation_is_due(now)
        };
        if !is_due {
            return self.reread_if_changed(path);
        }
        let led_on = locked(path, || {
            let (mut keys, stamp) = self.own(path)?;
            if !keys.rotation_is_due(now) {
                return Ok((keys, stamp));
            }
            keys.rotate(now);
            let stamp = file::replace(path, &keys)?;
            Ok((keys, stamp))
        });
        let mut state = self.write();
        match led_on {
            Ok((keys, stamp)) => *state = State::of(keys, Some(stamp)),
            Err(error) => {
                // Records that are sealed from now on open here, at the other nodes, and in the next run: their key follows from what the file holds.
                state.keys.rotate(now);
                state.is_behind = true;
                return Err(error);
            }
        }
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
        let now = Reading::now();
        let find = || self.read().keys.find(id, now);
        find().or_else(|| {
            let path = self.0.path.as_deref()?;
            if let Err(error) = self.reread_if_changed(path) {
                tracing::warn!(event = "keyring-unreadable", %error, "the keyring cannot be read again");
            }
            find()
        })
    }

    /// Whether the key with this id is one of this keyring; `None`: it is too old for that to be told, or no key of any.
    pub(super) fn has_sealed_with(&self, id: u32) -> Option<bool> {
        let (now, state) = (Reading::now(), self.read());
        let (day, today) = (u64::from(day_of_id(id)), u64::from(state.keys.sealing_day(now)));
        let is_kept = day <= today + 1 && (today + 1).saturating_sub(day) * DAY_S < KEY_LIFETIME_S;
        if state.keys.find(id, now).is_some() { Some(true) } else { is_kept.then_some(false) }
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
        *self.write() = State::of(keys, Some(stamp));
        Ok(())
    }

    /// What may be shown of it, and compared with another one's.
    pub fn fingerprint(&self, now: Reading) -> Fingerprint {
        let state = self.read();
        fingerprint_of(&state.keys, state.keys.sealing_day(now))
    }

    /// Likewise, as it will be on the day after.
    pub(super) fn fingerprint_of_tomorrow(&self, now: Reading) -> Fingerprint {
        let state = self.read();
        fingerprint_of(&state.keys, state.keys.sealing_day(now).saturating_add(1))
    }

    /// Whether it was made where none was found, or is to be, and has not stood for its store yet: then it opens nothing that is there.
    pub(super) fn is_untried(&self) -> bool {
        if self.is_to_be_made() {
            return true;
        }
        let identity = hex(&identity_of(&self.read().keys));
        self.path().is_some_and(|path| untried::is_noted(path, &identity))
    }

    /// It stands for its store, and is tried.
    ///
    /// # Errors
    /// [`KeyringError::Write`].
    pub(super) fn note_stands(&self) -> Result<(), KeyringError> {
        self.path().map_or(Ok(()), |path| untried::forget(path).map_err(writing(path)))
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

fn fingerprint_of(keys: &Keys, day: u16) -> Fingerprint {
    let chain = keys.chain.on(day);
    let (day, rotation, chain_hash) = (chain.day, chain.rotation, chain.fingerprint());
    Fingerprint { identity: identity_of(keys), day, rotation, chain: chain_hash }
}

fn identity_of(keys: &Keys) -> [u8; 8] {
    let mut identity = [0; 8];
    identity.copy_from_slice(&super::lookup::keyring_identity(&keys.index)[..8]);
    identity
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
    pub identity: [u8; 8],
    /// The day of the chain, counted from 1970-01-01 UTC.
    pub day: u16,
    /// How often something was mixed into the chain.
    pub rotation: u32,
    /// The same in all copies on the same day.
    pub chain: [u8; 8],
}

impl Fingerprint {
    /// What tells the keyring from another one, in hex.
    pub fn identity_text(&self) -> String {
        crate::vault::lookup::hex(&self.identity)
    }

    /// What tells the key of today from one into which something else was mixed, in hex.
    pub fn chain_text(&self) -> String {
        crate::vault::lookup::hex(&self.chain)
    }
}

#[cfg(test)]
mod tests {
    use super::chain::day_of;
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
            // The one is tended each day, the other now and then.
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
        assert_eq!((of_one.identity, of_one.rotation, of_two.rotation), (of_two.identity, 1, 0));
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
    fn a_clock_that_is_days_behind_from_the_start_is_doubted_where_the_chain_is_ahead_of_it() {
        let place = file::tests::TempFolder::new();
        let ahead = shared_now() + 10 * DAY_S;
        let keyring = Keyring::read_at(&place.keyring(), ahead).expect("made");
        let begun = u64::from(day_of(ahead)) * DAY_S;
        assert_eq!(keyring.last_seen(), Some(begun), "without a note");
        keyring.note_time("a", shared_now() - 60).expect("noted");
        assert_eq!(keyring.last_seen(), Some(begun), "with one by the same wrong clock");
        let before = Keyring::ephemeral();
        assert_eq!(before.last_seen(), None, "of today");
    }

    #[test]
    fn a_clock_that_was_behind_and_believed_costs_no_key_once_it_is_right() {
        let (_place, one) = keyring();
        let sealed: Vec<u32> = (0..=10)
            .map(|day| {
                one.tend(days(day)).expect("tended");
                one.current(days(day)).0
            })
            .collect();
        let two = one.clone();
        let rotation = two.fingerprint(days(10)).rotation;
        two.tend(days(0)).expect("tended");
        two.tend(days(10)).expect("tended");
        for (day, id) in sealed.iter().enumerate().skip(4) {
            assert!(two.epoch(*id).is_some(), "of day {day}");
        }
        assert_eq!(two.fingerprint(days(10)).rotation, rotation, "it stands before no copy whose clock was right");
        two.tend(days(17)).expect("tended");
        assert!(sealed.iter().all(|id| two.epoch(*id).is_none()));
    }

    #[test]
    fn a_keyring_that_cannot_be_written_for_weeks_seals_what_opens_and_destroys_what_is_over() {
        let (place, keyring) = keyring();
        let (old, _) = keyring.current(days(0));
        // No lock can be made, also not by root.
        std::fs::remove_file(file::beside(&place.keyring(), "lock")).expect("removed");
        std::fs::create_dir(file::beside(&place.keyring(), "lock")).expect("made");
        assert!(Keyring::open(&place.keyring()).is_err());
        let (_copy_place, copy) = copy_of(&place);
        for day in 1..=20 {
            assert!(matches!(keyring.tend(days(day)), Err(KeyringError::Write { .. })), "it is told each day");
            copy.tend(days(day)).expect("tended");
            let (id, key) = keyring.current(days(day));
            assert_eq!(keyring.epoch(id).expect("it opens").expose(), key.expose(), "day {day}");
            assert!(copy.epoch(id).is_some());
        }
        assert!(keyring.epoch(old).is_none());
        let again = Keyring::open_or_read(&place.keyring()).expect("read");
        let (id, _) = keyring.current(days(20));
        again.tend(days(20)).expect_err("it cannot be written yet");
        assert!(again.epoch(id).is_some(), "a next run opens it, too");
        std::fs::remove_dir(file::beside(&place.keyring(), "lock")).expect("removed");
        keyring.tend(days(20)).expect("written");
        assert_eq!(Keyring::open_at(&place.keyring(), START + 20 * DAY_S).expect("opened").current(days(20)).0, id);
    }

    #[test]
    fn a_link_leads_to_the_keyring_that_it_names_and_all_lies_beside_that() {
        let (place, keyring) = keyring();
        let other = file::tests::TempFolder::new();
        let link = other.keyring();
        std::fs::create_dir_all(link.parent().expect("a folder")).expect("made");
        std::os::unix::fs::symlink(place.keyring(), &link).expect("linked");
        let linked = Keyring::open_at(&link, START).expect("opened");
        linked.tend(days(1)).expect("tended");
        assert!(std::fs::symlink_metadata(&link).expect("there").is_symlink());
        assert_eq!(linked.path(), Some(&*place.keyring()));
        keyring.tend(days(1)).expect("tended");
        assert_eq!(keyring.current(days(1)).0, linked.current(days(1)).0);
        let alone = std::fs::read_dir(link.parent().expect("a folder")).expect("listed").count();
        assert_eq!(alone, 1, "nothing lies beside the link");
        // One that leads nowhere yet names where it is made.
        let made = link.with_file_name("made");
        std::fs::remove_file(&link).expect("removed");
        std::os::unix::fs::symlink("made", &link).expect("linked");
        Keyring::open_at(&link, START).expect("made");
        assert!(std::fs::symlink_metadata(&made).expect("there").is_file());
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
}
