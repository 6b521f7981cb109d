//! A keyring that was made because none was found, and that its store has not confirmed yet. The file `….untried` beside it has its fingerprint.
//!
//! Invariant: it holds nothing secret. A note with another fingerprint counts as none, so that the right keyring, put in the place of the new one, is not
//! untried.

use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::file::beside;
use crate::file_owner;

/// Notes that the keyring that is told by this text has not stood yet.
pub(super) fn note(keyring: &Path, identity: &str) -> io::Result<()> {
    let path = beside(keyring, "untried");
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    writeln!(file, "{identity}")?;
    // The keyring must not outlive it in a power cut.
    file.sync_all()?;
    file_owner::give_if_it_can(&path);
    Ok(())
}

/// Whether that is noted of this one.
pub(super) fn is_noted(keyring: &Path, identity: &str) -> bool {
    std::fs::read_to_string(beside(keyring, "untried")).is_ok_and(|text| text.trim_end() == identity)
}

/// The keyring stands.
pub(super) fn forget(keyring: &Path) -> io::Result<()> {
    match std::fs::remove_file(beside(keyring, "untried")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
