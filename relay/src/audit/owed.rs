//! The number of lines that a trail owes: those that wait for room, and those that were lost for want of it. In the file `waiting` of its directory.
//!
//! Invariant: the file has its place on the disk before the disk is full, and is written where it is, so that a run that ends while there is no room
//! leaves the number to the next one. It holds 20 digits and a line feed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::file_owner;
use crate::regular_file;

/// The file, and what it says.
pub(super) struct Owed {
    file: File,
    lines: u64,
}

impl Owed {
    /// Opens it, or makes it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let path = path(directory);
        let lines = read(directory);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file_owner::give_if_it_can(&path);
        let owed = Self { file, lines };
        owed.write()?;
        Ok(owed)
    }

    /// The number of an earlier run, or of the last [`Self::set`].
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Says so many. A disk that fails leaves the number that it had.
    pub fn set(&mut self, lines: u64) {
        if lines != std::mem::replace(&mut self.lines, lines) {
            // It is said anew with the next change.
            let _ = self.write();
        }
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(format!("{:020}\n", self.lines).as_bytes(), 0)?;
        self.file.sync_data()
    }
}

/// The number of a trail; 0 where none is told.
pub(super) fn read(directory: &Path) -> u64 {
    let text = regular_file::read(&path(directory)).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().and_then(|line| line.parse().ok()).unwrap_or(0)
}

fn path(directory: &Path) -> PathBuf {
    directory.join("waiting")
}
