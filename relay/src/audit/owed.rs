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

    /// Looks at a directory that may have come back, or be another one: what an earlier run has left there, if this one has not said it.
    pub fn look_again(&mut self, directory: &Path) -> u64 {
        let there = read(directory);
        if there == self.lines {
            return 0;
        }
        self.lines = there;
        there
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_has_left_is_counted_once_when_its_directory_comes_late() {
        let directory = std::env::temp_dir().join(format!("sipwake-owed-{}", std::process::id()));
        let mut owed = Owed::of(&directory);
        assert_eq!((owed.lines(), owed.look_again(&directory)), (0, 0));
        std::fs::create_dir(&directory).expect("a directory");
        Owed::of(&directory).set(120);
        let seen = [owed.look_again(&directory), owed.look_again(&directory)];
        owed.set(0);
        let left = read(&directory);
        std::fs::remove_dir(&directory).expect("an empty directory");
        assert_eq!((seen, left), ([120, 0], 0));
    }
}
