//! The last time that a run saw, in a file beside the keyring: `….clock`, seconds since 1970 and a line feed.
//!
//! Invariant: it holds nothing secret. A file that is missing or damaged counts as none.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::KeyringError;
use super::file::{beside, file_of_node, writing};
use crate::file_owner;

/// The longest such file, in bytes.
const FILE_LIMIT: usize = 32;

/// Puts `now` in the place of whatever was written before.
pub(super) fn write(keyring: &Path, node: &str, now: u64) -> Result<(), KeyringError> {
    // Nodes that share the folder have a file of their own each until it has its name.
    let (path, new) = (beside(keyring, "clock"), file_of_node(keyring, "clock.new", node)?);
    let written = || {
        let mut file = File::create(&new)?;
        file.write_all(format!("{now}\n").as_bytes())?;
        // Else a power cut may leave the name without what is in it.
        file.sync_data()?;
        file_owner::give_if_it_can(&new);
        std::fs::rename(&new, &path)
    };
    written()
        .inspect_err(|_| {
            // It may not be there.
            let _ = std::fs::remove_file(&new);
        })
        .map_err(writing(&path))
}

/// The last note that was written.
pub(super) fn read(keyring: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(beside(keyring, "clock")).ok().filter(|text| text.len() <= FILE_LIMIT)?;
    text.strip_suffix('\n')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::TempFolder;
    use super::*;

    #[test]
    fn nodes_that_share_the_folder_write_beside_each_other() {
        let place = TempFolder::new();
        let folder = place.keyring().parent().expect("a folder").to_owned();
        std::fs::create_dir_all(&folder).expect("made");
        std::thread::scope(|scope| {
            for node in ["a:5061", "b:5061", "c:5061", "d:5061"] {
                let write = || write(&place.keyring(), node, 1_795_000_000).expect("written");
                scope.spawn(move || (0..50).for_each(|_| write()));
            }
        });
        assert_eq!(read(&place.keyring()), Some(1_795_000_000));
        assert_eq!(std::fs::read_dir(folder).expect("read").count(), 1, "nothing else is left");
    }

    #[test]
    fn what_is_written_last_is_read_and_what_is_damaged_is_not() {
        let place = TempFolder::new();
        std::fs::create_dir_all(place.keyring().parent().expect("a folder")).expect("made");
        assert_eq!(read(&place.keyring()), None);
        for now in [1_795_000_000, 1_795_000_060] {
            write(&place.keyring(), "a", now).expect("written");
            assert_eq!(read(&place.keyring()), Some(now));
        }
        for damaged in ["", "1795000000", "179500x000\n", "-1\n"] {
            std::fs::write(beside(&place.keyring(), "clock"), damaged).expect("written");
            assert_eq!(read(&place.keyring()), None, "{damaged:?}");
        }
    }
}
