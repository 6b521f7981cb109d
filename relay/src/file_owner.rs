//! The owner of a file that root makes, by a command or by a run by hand: the relay's user is to find it as its own.
//!
//! Invariant: only a root-owned file in a folder that is not root's is given away; a run that is not root's changes nothing.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

/// Gives what root has made to the owner of the folder that it is in.
///
/// # Errors
/// When the system does not say whose they are, or does not let root do it.
pub fn give_to_owner_of_its_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (is, wanted) = (fs::metadata(path)?, fs::metadata(folder)?);
    if is.uid() == 0 && wanted.uid() != 0 { chown(path, Some(wanted.uid()), Some(wanted.gid())) } else { Ok(()) }
}

/// Likewise, as far as the system lets it: a root that may give nothing away runs all that there is.
pub fn give_if_it_can(path: &Path) {
    // A failure to give it away leaves the file as it was.
    let _ = give_to_owner_of_its_folder(path);
}

/// Makes a folder and those above it (mode 0700), and gives each that was not there to the owner of the one above it.
///
/// # Errors
/// When one cannot be made.
pub fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let is_missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let made: Vec<&Path> = folder.ancestors().take_while(is_missing).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    made.into_iter().rev().for_each(give_if_it_can);
    Ok(())
}
