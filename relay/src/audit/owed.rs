//! The number of lines that a trail owes: those that wait for room, and those that were lost for want of it. As the target of a link, `.waiting`, in
//! its directory, which is there while it is not 0.
//!
//! Invariant: a link needs no block of a disk that is full, so that a run that ends then leaves the number to the next one.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// The link, and what it says.
pub(super) struct Owed {
    path: PathBuf,
    lines: u64,
}

impl Owed {
    /// Reads what an earlier run has left.
    pub fn of(directory: &Path) -> Self {
        Self { path: path(directory), lines: read(directory) }
    }

    /// The number of an earlier run, or of the last [`Self::set`].
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Says so many; what cannot be said is tried again with the next call.
    pub fn set(&mut self, lines: u64) {
        if lines != self.lines && self.say(lines).is_ok() {
            self.lines = lines;
        }
    }

    fn say(&self, lines: u64) -> io::Result<()> {
        if lines == 0 {
            return std::fs::remove_file(&self.path);
        }
        let new = self.path.with_extension("new");
        // Left by a crash.
        let _ = std::fs::remove_file(&new);
        symlink(lines.to_string(), &new)?;
        std::fs::rename(&new, &self.path)
    }
}

/// The number of a trail; 0 where none is told.
pub(super) fn read(directory: &Path) -> u64 {
    let target = std::fs::read_link(path(directory)).unwrap_or_default();
    target.to_str().and_then(|lines| lines.parse().ok()).unwrap_or(0)
}

fn path(directory: &Path) -> PathBuf {
    directory.join(".waiting")
}
