//! Files that the operator names, opened without waiting for anybody.
//!
//! Invariant: a pipe, a socket or a device is refused at once: nobody may ever write into it, and a thread would stand there for good.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// The system's, and of another kind when it is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // A pipe is looked at behind the opening, so that none takes the file's place between the two.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Reads a regular file whole, into a buffer sized beforehand, so that no copy of its content stays behind.
///
/// # Errors
/// As of [`open`], and of reading.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0);
    let mut content = Vec::with_capacity(length.saturating_add(1));
    file.read_to_end(&mut content)?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_and_a_folder_are_refused_at_once_and_a_file_is_read() {
        let folder = std::env::temp_dir().join(format!("sipwake-regular-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let (file, pipe) = (folder.join("file"), folder.join("pipe"));
        std::fs::write(&file, "content").unwrap();
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        assert_eq!(read(&file).unwrap(), b"content");
        for other in [&pipe, &folder] {
            assert!(read(other).unwrap_err().to_string().contains("no regular file"), "{}", other.display());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
