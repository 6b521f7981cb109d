//! The file that a run finds in the place of its keyring: the same keyring, changed by another process; another keyring; or none.
//!
//! Invariant: a run takes over changes of its own keyring. Another keyring opens nothing that this run has sealed, so it is taken only if the store names it in
//! place of this one. Reading makes no file.

use std::path::Path;

use super::file::{self, KeyringError, Stamp, locked, try_to_make, try_to_replace};
use super::keys::Keys;
use super::{Fingerprint, Keyring, State, fingerprint_of, identity_of};
use crate::clock::{Reading, shared_now, watch};

/// Another keyring, in the place of this run's.
pub(in crate::vault) struct Other {
    keys: Keys,
    stamp: Stamp,
}

impl Other {
    /// What tells it from others.
    pub(in crate::vault) fn fingerprint(&self, now: Reading) -> Fingerprint {
        fingerprint_of(&self.keys, self.keys.sealing_day(now))
    }
}

impl Keyring {
    /// As [`Self::open`], and makes nothing: where there is none, these are keys as a first start would make them.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn look(path: &Path) -> Result<Self, KeyringError> {
        let path = file::real_path(path)?;
        // A rename changes it as a whole, so that it is read without its lock as well.
        match file::read(&path)? {
            Some((keys, stamp)) => {
                let keyring = Self::of(Some(path), State::of(keys, Some(stamp)));
                watch::begin(keyring.last_seen());
                Ok(keyring)
            }
            None => Ok(Self::of(Some(path), State::of(Keys::new(shared_now()), None))),
        }
    }

    /// Whether it is a file's, and that was neither read nor made.
    pub fn is_to_be_made(&self) -> bool {
        self.path().is_some() && self.read().stamp.is_none()
    }

    /// Tries whether its file could be changed, or made, and leaves nothing behind.
    ///
    /// # Errors
    /// [`KeyringError::Write`], as the next day, or a first start, would meet it.
    pub fn try_to_write(&self) -> Result<(), KeyringError> {
        let Some(path) = self.path() else { return Ok(()) };
        if self.is_to_be_made() { try_to_make(path) } else { locked(path, || try_to_replace(path)) }
    }

    pub(super) fn reread_if_changed(&self, path: &Path) -> Result<(), KeyringError> {
        if self.read().stamp == Some(Stamp::of(path)?) {
            return Ok(());
        }
        let (keys, stamp) = locked(path, || self.own(path))?;
        *self.write() = State::of(keys, Some(stamp));
        Ok(())
    }

    /// Reads this very keyring.
    pub(super) fn own(&self, path: &Path) -> Result<(Keys, Stamp), KeyringError> {
        let (keys, stamp) = file::read_existing(path)?;
        if identity_of(&keys) == identity_of(&self.read().keys) {
            Ok((keys, stamp))
        } else {
            Err(KeyringError::Other { path: path.display().to_string().into() })
        }
    }

    /// The other keyring that lies in its place.
    pub(in crate::vault) fn other(&self) -> Option<Other> {
        let (keys, stamp) = file::read_existing(self.path()?).ok()?;
        (identity_of(&keys) != identity_of(&self.read().keys)).then_some(Other { keys, stamp })
    }

    /// Goes on with another one, which the store names.
    pub(in crate::vault) fn take(&self, Other { keys, stamp }: Other) {
        *self.write() = State::of(keys, Some(stamp));
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::TempFolder;
    use super::*;

    fn listed(place: &TempFolder) -> usize {
        std::fs::read_dir(place.keyring().parent().expect("a folder")).map_or(0, Iterator::count)
    }

    #[test]
    fn a_run_takes_no_other_keyring_that_lies_in_the_place_of_its_own() {
        let (place, elsewhere) = (TempFolder::new(), TempFolder::new());
        let keyring = Keyring::open(&place.keyring()).expect("made");
        let other = Keyring::open(&elsewhere.keyring()).expect("made");
        let now = Reading::now();
        let (id, key) = keyring.current(now);
        let aside = place.keyring().with_extension("aside");
        std::fs::rename(place.keyring(), &aside).expect("moved");
        assert!(matches!(keyring.tend(now), Err(KeyringError::Read { .. })));
        std::fs::copy(elsewhere.keyring(), place.keyring()).expect("copied");
        // By a look, by a record that does not open, and when the next day's key is due.
        assert!(matches!(keyring.tend(now), Err(KeyringError::Other { .. })));
        assert!(keyring.epoch(other.current(now).0).is_none());
        let tomorrow = Reading::steady(shared_now() + crate::clock::DAY_S);
        assert!(matches!(keyring.tend(tomorrow), Err(KeyringError::Other { .. })));
        assert_eq!(keyring.epoch(id).expect("kept").expose(), key.expose());
        assert_ne!(keyring.receipt_public_key(), other.receipt_public_key());
        std::fs::rename(&aside, place.keyring()).expect("put back");
        keyring.tend(tomorrow).expect("tended");
        let again = Keyring::open(&place.keyring()).expect("opened");
        assert_eq!(again.current(tomorrow).1.expose(), keyring.current(tomorrow).1.expose());
    }

    #[test]
    fn a_look_at_no_keyring_makes_none_and_says_whether_one_could_be() {
        let place = TempFolder::new();
        for is_there in [false, true] {
            if is_there {
                std::fs::create_dir_all(place.keyring().parent().expect("a folder")).expect("made");
            }
            let keyring = Keyring::look(&place.keyring()).expect("none is there");
            assert!(keyring.is_to_be_made() && keyring.is_untried());
            keyring.try_to_write().expect("it could be made");
            assert_eq!((listed(&place), place.keyring().parent().expect("a folder").exists()), (0, is_there));
        }
        // A file where the folder is to be: root makes none there either.
        let below = place.keyring().with_file_name("file");
        std::fs::write(&below, "").expect("written");
        for path in [below.join("keyring"), below.join("further/keyring")] {
            let made = Keyring::look(&path).and_then(|keyring| keyring.try_to_write());
            assert!(made.is_err(), "{}", path.display());
        }
        Keyring::open(&place.keyring()).expect("made");
        assert!(!Keyring::look(&place.keyring()).expect("read").is_to_be_made());
    }
}
