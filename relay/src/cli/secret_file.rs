//! Files of a command that hold a secret.
//!
//! Invariant: a written file can be read by its owner alone from its first byte on, whatever stood there before, and is whole, but where nothing can
//! take the place of the existing file. A secret read from a file is wiped when it is dropped; a file that everybody can read is taken, with a
//! warning.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::CommandError;
use crate::log::say_line;
use crate::random;
use crate::vault::hex;

/// The largest file that is read, in bytes.
const MAX: u64 = 1024 * 1024;

/// The whole text of a file, or of a pipe in its place (`--password-file <(…)`), whose writer takes its time.
pub(super) fn text(file: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    fs::File::open(file)?.take(MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX { Err(io::Error::other(format!("it is larger than {MAX} bytes"))) } else { Ok(text) }
}

/// The same of a secret, with a warning where it can be read by everybody.
pub(super) fn read(file: &Path) -> Result<Zeroizing<String>, CommandError> {
    warn_if_others_can_read(file);
    text(file).map_err(|why| CommandError::File { file: file.to_owned(), why })
}

pub(super) fn warn_if_others_can_read(file: &Path) {
    if fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0) {
        say_line(format_args!("warning: {} can be read by every user of this machine: chmod 600 it", file.display()));
    }
}

/// Writes a file aside and has it take the place of what stood there, a link included. A pipe or a terminal is written to, and a file that is
/// mounted there by itself.
pub(super) fn write(file: &Path, content: &[u8]) -> io::Result<()> {
    if fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return OpenOptions::new().write(true).open(file)?.write_all(content);
    }
    match replace(file, content) {
        Err(why) if is_fixed(&why) && fs::symlink_metadata(file).is_ok_and(|found| found.is_file()) => {
            overwrite(file, content)
        }
        written => written,
    }
}

/// Whether a folder lets no file take another one's place (`EROFS`, `EACCES`), or this file lets none take its own (`EBUSY`: it is a mount point).
fn is_fixed(why: &io::Error) -> bool {
    matches!(why.kind(), ErrorKind::ResourceBusy | ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

fn overwrite(file: &Path, content: &[u8]) -> io::Result<()> {
    let mut open = OpenOptions::new().write(true).open(file)?;
    open.set_permissions(fs::Permissions::from_mode(0o600))?;
    open.set_len(0)?;
    open.write_all(content)?;
    open.sync_all()
}

fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let aside = aside(file)?;
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = open.write_all(content).and_then(|()| open.sync_all()).and_then(|()| fs::rename(&aside, file));
    if written.is_err() {
        // The file holds the secret, or a part of it.
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
        overwrite(&elsewhere, b"in place").unwrap();
        assert_eq!(fs::read(&elsewhere).unwrap(), b"in place");
        assert_eq!(fs::metadata(&elsewhere).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_is_read_no_further_than_to_the_limit() {
        let file = std::env::temp_dir().join(format!("sipwake-secret-large-{}", hex(&random::bytes::<8>())));
        for (length, is_read) in [(MAX, true), (MAX + 1, false)] {
            fs::File::create(&file).unwrap().set_len(length).unwrap();
            assert_eq!(text(&file).is_ok(), is_read, "{length}");
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(text(Path::new("/dev/null")).unwrap().as_str(), "");
    }

    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        let folder = std::env::temp_dir().join(format!("sipwake-secret-pipe-{}", hex(&random::bytes::<8>())));
        fs::create_dir(&folder).unwrap();
        let pipe = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reading = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&pipe, b"secret").unwrap();
        assert_eq!(reading.join().unwrap(), b"secret");
        write(Path::new("/dev/null"), b"secret").unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing is left aside");
        fs::remove_dir_all(&folder).unwrap();
    }
}
