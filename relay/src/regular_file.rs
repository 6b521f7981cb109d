//! Files that the operator names, read without waiting for anybody for long, and never further than to a limit.
//!
//! Invariant: where a regular file is wanted, a pipe, a socket or a device is refused at once: nobody may ever write into it, and a thread would stand
//! there for good. Where a pipe may be named, too, its end is waited for [`PATIENCE`] at most. No file takes more memory than its limit.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The largest file that is read, in bytes; a larger one is refused. A configuration with all the sections that it may have is a quarter of it.
pub const MAX_FILE: u64 = 4 * 1024 * 1024;
/// The largest file of a secret that is read, in bytes, likewise.
pub const MAX_SECRET: u64 = 256 * 1024;
/// How long the end of a pipe is waited for. What writes into it may have to ask somebody for a passphrase.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The byte order mark that some editors put before a text; it is no part of the text.
pub const BYTE_ORDER_MARK: char = '\u{feff}';

/// Opens a regular file for reading.
///
/// # Errors
/// The system's, and of another kind when it is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe is looked at behind the opening, so that none takes the file's place between the two.
    let file = open_anything(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Reads a regular file of at most [`MAX_FILE`] bytes whole, into a buffer sized beforehand, so that no copy of its content stays behind.
///
/// # Errors
/// As of [`open`], and of reading; of another kind when it is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_at_most(path, MAX_FILE)
}

/// The same of a file of at most `max` bytes.
///
/// # Errors
/// Likewise.
pub fn read_at_most(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    if length > max {
        return Err(too_large(max));
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    // A file whose length the system does not tell, or that grows meanwhile, has the same limit.
    file.by_ref().take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(too_large(max)) } else { Ok(content) }
}

/// Reads a file, a pipe or a device to its end, at most `max` bytes, for [`PATIENCE`] at most.
///
/// # Errors
/// The system's; [`ErrorKind::TimedOut`] when its end does not come; of another kind when it is larger.
pub fn read_anything(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    read_within(path, max, PATIENCE)
}

fn read_within(path: &Path, max: u64, patience: Duration) -> io::Result<Vec<u8>> {
    let mut file = open_anything(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return read_at_most(path, max);
    }
    let until = Instant::now() + patience;
    let mut content = Vec::new();
    loop {
        await_readable(&file, until, patience)?;
        match file.by_ref().take(max + 1 - content.len() as u64).read_to_end(&mut content) {
            _ if content.len() as u64 > max => return Err(too_large(max)),
            Ok(_) => return Ok(content),
            // The bytes so far are in `content`.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for more, or for the end.
fn await_readable(file: &File, until: Instant, patience: Duration) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                let why = format!("its end has not come within {} s: nothing writes into it", patience.as_secs());
                return Err(io::Error::new(ErrorKind::TimedOut, why));
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn open_anything(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)
}

fn too_large(max: u64) -> io::Error {
    io::Error::other(format!("it is larger than {max} bytes"))
}

/// A text without the byte order mark before it.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    let mut mark = [0; 3];
    text.strip_prefix(BYTE_ORDER_MARK.encode_utf8(&mut mark).as_bytes()).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::PathBuf;

    use super::*;
    use crate::random;

    /// A folder with a pipe in it.
    fn folder() -> (PathBuf, PathBuf) {
        let folder = std::env::temp_dir().join(format!("sipwake-regular-{:016x}", u64::from_ne_bytes(random::bytes())));
        std::fs::create_dir(&folder).unwrap();
        let pipe = folder.join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        (folder, pipe)
    }

    #[test]
    fn a_pipe_and_a_folder_are_refused_at_once_and_a_file_is_read() {
        let (folder, pipe) = folder();
        let file = folder.join("file");
        std::fs::write(&file, "content").unwrap();
        assert_eq!(read(&file).unwrap(), b"content");
        for other in [&pipe, &folder] {
            assert!(read(other).unwrap_err().to_string().contains("no regular file"), "{}", other.display());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_file_above_its_limit_is_refused_unread() {
        let (folder, _) = folder();
        let file = folder.join("file");
        std::fs::write(&file, "content").unwrap();
        assert_eq!(read_at_most(&file, 7).unwrap(), b"content");
        assert!(read_at_most(&file, 6).unwrap_err().to_string().contains("larger than 6 bytes"));
        File::create(&file).unwrap().set_len(MAX_FILE + 1).unwrap();
        for outcome in [read(&file), read_anything(&file, MAX_FILE)] {
            assert!(outcome.unwrap_err().to_string().contains("larger than 4194304 bytes"));
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_a_silent_one_is_not_waited_for_for_good() {
        let (folder, pipe) = folder();
        let short = Duration::from_millis(50);
        assert_eq!(read_within(&pipe, 16, short).unwrap_err().kind(), ErrorKind::TimedOut, "nobody has opened it");
        let writing = std::thread::spawn({
            let pipe = pipe.clone();
            move || {
                let mut pipe = OpenOptions::new().write(true).open(pipe).unwrap();
                pipe.write_all(b"one ").unwrap();
                std::thread::yield_now();
                pipe.write_all(b"two").unwrap();
            }
        });
        assert_eq!(read_anything(&pipe, 16).unwrap(), b"one two");
        writing.join().unwrap();
        // Open, and without an end.
        let mut held = OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
        held.write_all(b"one").unwrap();
        assert_eq!(read_within(&pipe, 16, short).unwrap_err().kind(), ErrorKind::TimedOut);
        held.write_all(b"one two three four").unwrap();
        assert!(read_within(&pipe, 16, short).unwrap_err().to_string().contains("larger than 16 bytes"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_device_that_has_an_end_is_read_and_a_folder_is_not() {
        assert_eq!(read_anything(Path::new("/dev/null"), 16).unwrap(), b"");
        assert!(read_anything(&std::env::temp_dir(), 16).is_err());
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_text() {
        assert_eq!(without_byte_order_mark(b"\xef\xbb\xbfkey"), b"key");
        assert_eq!(without_byte_order_mark(b"key"), b"key");
    }
}
