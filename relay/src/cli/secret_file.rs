//! Files of a command that hold a secret.
//!
//! Invariant: what is written can be read by its owner alone from its first byte on, whatever stood there before, and is whole. What is read is
//! wiped when it is dropped; a file that everybody can read is taken, with a warning.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CommandError;
use crate::random;
use crate::vault::hex;

/// The whole of a file.
pub(super) fn read(file: &Path) -> Result<Zeroizing<String>, CommandError> {
    warn_if_others_can_read(file);
    let read = fs::read_to_string(file).map(Zeroizing::new);
    read.map_err(|why| CommandError::File { file: file.to_owned(), why })
}

pub(super) fn warn_if_others_can_read(file: &Path) {
    if fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0) {
        eprintln!("warning: {} can be read by every user of this machine: chmod 600 it", file.display());
    }
}

/// Writes a file aside and has it take the place of what stood there, a link included, but nothing that is no file.
pub(super) fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return Err(io::Error::other("it is no regular file"));
    }
    let aside = aside(file)?;
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = open.write_all(content).and_then(|()| open.sync_all()).and_then(|()| fs::rename(&aside, file));
    if written.is_err() {
        // It holds the secret, or a part of it.
        let _ = fs::remove_file(&aside);
    }
    written
}

/// A name in the same folder that nobody has.
fn aside(file: &Path) -> io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(file.file_name().ok_or(ErrorKind::InvalidInput)?);
    name.push(format!(".{}", hex(&random::bytes::<8>())));
    Ok(file.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stood_there_makes_a_secret_neither_readable_nor_leads_it_elsewhere() {
        let folder = std::env::temp_dir().join(format!("sipwake-secret-file-{}", hex(&random::bytes::<8>())));
        fs::create_dir(&folder).unwrap();
        let (open, elsewhere, link) = (folder.join("open"), folder.join("elsewhere"), folder.join("link"));
        for file in [&open, &elsewhere] {
            fs::write(file, "earlier").unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o644)).unwrap();
        }
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        for file in [&open, &link, &folder.join("new")] {
            write(file, b"secret").unwrap();
            let found = fs::symlink_metadata(file).unwrap();
            assert!(found.is_file() && found.permissions().mode() & 0o777 == 0o600, "{}", file.display());
            assert_eq!(fs::read(file).unwrap(), b"secret");
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), b"earlier");
        assert!(write(&folder, b"secret").is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4, "nothing is left aside");
        fs::remove_dir_all(&folder).unwrap();
    }
}
