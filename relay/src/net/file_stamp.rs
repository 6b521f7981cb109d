//! The stamps of files, by which a change is seen without reading them.
//!
//! Invariant: it never fails: a file that is not there, or that nobody may look at, looks like nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

/// Time of change, length, inode, and when any of the file's properties changed: one replaced by another of the same length
/// within a second differs in the inode, one whose owner or mode was mended in the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FileStamp(Option<SystemTime>, u64, u64, (i64, i64));

impl FileStamp {
    /// How the file that the path leads to looks now.
    pub(super) fn at(path: &Path) -> Self {
        let looks = |of: fs::Metadata| Self(of.modified().ok(), of.len(), of.ino(), (of.ctime(), of.ctime_nsec()));
        fs::metadata(path).map(looks).unwrap_or_default()
    }
}
