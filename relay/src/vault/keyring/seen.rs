//! The last time that a run saw, in a file beside the keyring: `….clock`, a line of seconds since 1970. Where the system tells, a second file, `….boot`, has
//! the same time, the system's boot and the seconds since then. As long as the machine is not started again, the time since boot carries that time on, so that
//! a relay which was off for long trusts a clock that is right at once.
//!
//! Invariant: they hold nothing secret. A file that is missing or damaged counts as none, and the second one as none unless it has the first one's time.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::KeyringError;
use super::file::{beside, file_of_node, writing};
use crate::clock::since_boot;
use crate::file_owner;

/// The longest first file, and the longest second one, in bytes.
const FILE_LIMITS: [usize; 2] = [32, 96];
/// A name of this start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Puts `now` in the place of whatever was written before.
pub(super) fn write(keyring: &Path, node: &str, now: u64) -> Result<(), KeyringError> {
    if let Some(boot) = boot_id() {
        // A power cut that leaves nothing in it starts the machine again.
        let line = format!("{now} {boot} {}\n", since_boot().as_secs());
        replace(keyring, node, "boot", &line, false)?;
    }
    // Else a power cut may leave the name without what is in it.
    replace(keyring, node, "clock", &format!("{now}\n"), true)
}

fn replace(keyring: &Path, node: &str, name: &str, line: &str, syncs: bool) -> Result<(), KeyringError> {
    // Nodes that share the folder have a file of their own each until it has its name.
    let (path, new) = (beside(keyring, name), file_of_node(keyring, &format!("{name}.new"), node)?);
    let written = || {
        let mut file = File::create(&new)?;
        file.write_all(line.as_bytes())?;
        if syncs {
            file.sync_data()?;
        }
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

/// The time of the last note that was written, carried on by the time since boot where that is the same one.
pub(super) fn read(keyring: &Path) -> Option<u64> {
    let [clock_limit, boot_limit] = FILE_LIMITS;
    let noted: u64 = line_of(keyring, "clock", clock_limit)?.parse().ok()?;
    let passed_s = line_of(keyring, "boot", boot_limit).and_then(|line| passed_since(noted, &line));
    Some(noted.saturating_add(passed_s.unwrap_or_default()))
}

/// The seconds that have passed by the time since boot since a note was written.
fn passed_since(noted: u64, line: &str) -> Option<u64> {
    let mut fields = line.split(' ');
    let is_of_note = fields.next()?.parse() == Ok(noted);
    let is_same = fields.next()? == &*boot_id()?;
    let at: u64 = fields.next()?.parse().ok()?;
    (is_of_note && is_same).then(|| since_boot().as_secs().saturating_sub(at))
}

fn line_of(keyring: &Path, name: &str, limit: usize) -> Option<String> {
    let text = std::fs::read_to_string(beside(keyring, name)).ok().filter(|text| text.len() <= limit)?;
    text.strip_suffix('\n').map(str::to_owned)
}

fn boot_id() -> Option<Box<str>> {
    let id = std::fs::read_to_string(BOOT_ID).ok()?;
    let id = id.trim_end();
    let is_word =
        !id.is_empty() && id.len() <= 36 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_word.then(|| id.into())
}

#[cfg(test)]
mod tests {
    use super::super::file::tests::TempFolder;
    use super::*;

    /// The time since boot goes on meanwhile.
    fn is_about(read: Option<u64>, noted: u64) -> bool {
        read.is_some_and(|read| (noted..noted + 60).contains(&read))
    }

    #[test]
    fn the_time_since_boot_carries_a_note_on_until_the_machine_starts_again() {
        let place = TempFolder::new();
        std::fs::create_dir_all(place.keyring().parent().expect("a folder")).expect("made");
        let noted = 1_795_000_000;
        std::fs::write(beside(&place.keyring(), "clock"), format!("{noted}\n")).expect("written");
        assert_eq!(read(&place.keyring()), Some(noted), "the first file alone");
        let read_of = |boot: &str, at: u64| {
            std::fs::write(beside(&place.keyring(), "boot"), format!("{noted} {boot} {at}\n")).expect("written");
            read(&place.keyring())
        };
        let (boot, now) = (boot_id().expect("Linux tells it"), since_boot().as_secs());
        assert!(is_about(read_of(&boot, 0), noted + now), "it was off for all that time");
        assert_eq!(read_of("another", 0), Some(noted), "nobody knows how long");
        assert_eq!(read_of(&boot, now + 1_000), Some(noted), "this is no time of that boot");
        assert!(is_about(read_of(&boot, 0), noted + now));
        std::fs::write(beside(&place.keyring(), "clock"), format!("{}\n", noted + 60)).expect("written");
        assert_eq!(read(&place.keyring()), Some(noted + 60), "the second one was not written since");
    }

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
        assert!(is_about(read(&place.keyring()), 1_795_000_000));
        assert_eq!(std::fs::read_dir(folder).expect("read").count(), 2, "nothing else is left");
    }

    #[test]
    fn what_is_written_last_is_read_and_what_is_damaged_is_not() {
        let place = TempFolder::new();
        std::fs::create_dir_all(place.keyring().parent().expect("a folder")).expect("made");
        assert_eq!(read(&place.keyring()), None);
        for now in [1_795_000_000, 1_795_000_060] {
            write(&place.keyring(), "a", now).expect("written");
            assert!(is_about(read(&place.keyring()), now));
        }
        for damaged in ["", "1795000000", "179500x000\n", "-1\n"] {
            std::fs::write(beside(&place.keyring(), "clock"), damaged).expect("written");
            assert_eq!(read(&place.keyring()), None, "{damaged:?}");
        }
    }
}
