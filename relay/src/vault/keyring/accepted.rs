//! A keyring that its operator has declared to be the store's, whatever the store holds. The file `….accepted` beside it has the fingerprint of the keyring and
//! the time.
//!
//! Invariant: the file holds nothing secret. It counts as long as the store may hold anything from before.

use std::io;
use std::path::Path;

use super::file::{KeyringError, beside, writing};
use super::{Keyring, MAX_LIFETIME_S, identity_of};
use crate::clock::{DAY_S, shared_now};
use crate::file_owner;
use crate::vault::lookup::hex;

impl Keyring {
    /// Takes it as the store's, whatever that holds: its operator says so.
    ///
    /// # Errors
    /// [`KeyringError::Write`].
    pub fn accept(&self) -> Result<(), KeyringError> {
        if let Some(path) = self.path() {
            note(path, &self.identity(), shared_now()).map_err(writing(path))?;
        }
        self.note_stands()
    }

    /// Whether its operator has done so since what is stored may have been sealed.
    pub(in crate::vault) fn is_accepted(&self) -> bool {
        self.accepted_on().is_some()
    }

    /// The day on which its operator has done so, counted from 1970.
    pub(in crate::vault) fn accepted_on(&self) -> Option<u64> {
        noted_at(self.path()?, &self.identity(), shared_now()).map(|at| at / DAY_S)
    }

    fn identity(&self) -> String {
        hex(&identity_of(&self.read().keys))
    }
}

fn note(keyring: &Path, identity: &str, now: u64) -> io::Result<()> {
    let path = beside(keyring, "accepted");
    std::fs::write(&path, format!("{identity} {now}\n"))?;
    file_owner::give_if_it_can(&path);
    Ok(())
}

fn noted_at(keyring: &Path, identity: &str, now: u64) -> Option<u64> {
    let text = std::fs::read_to_string(beside(keyring, "accepted")).unwrap_or_default();
    let at = text.trim_end().strip_prefix(identity).and_then(|at| at.trim_start().parse::<u64>().ok());
    at.filter(|at| now < at.saturating_add(MAX_LIFETIME_S))
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::TempFolder;
    use super::*;

    #[test]
    fn what_is_accepted_is_this_keyring_for_as_long_as_a_record_lasts() {
        let place = TempFolder::new();
        let keyring = Keyring::open(&place.keyring()).expect("made");
        assert!(!keyring.is_accepted());
        keyring.accept().expect("accepted");
        assert!(keyring.is_accepted() && !keyring.is_untried());
        let (path, identity, now) = (place.keyring(), keyring.identity(), shared_now());
        assert_eq!(keyring.accepted_on(), Some(now / DAY_S));
        assert_eq!(noted_at(&path, "another", now), None);
        assert_eq!(noted_at(&path, &identity, now + MAX_LIFETIME_S + 1), None);
    }
}
