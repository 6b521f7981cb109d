//! The journal as the reader of the log: it takes the priority of a line from what stands before that (sd-daemon(3)), so that `journalctl -p warning` shows
//! what it should.
//!
//! Invariant: another reader than the journal gets no such prefix, also where the environment of a service was inherited and its standard error was not.

use std::env;
use std::io;

use rustix::fs::fstat;
use tracing::Level;

/// Whether the journal reads this process's standard error (systemd.exec(5), `JOURNAL_STREAM`).
pub fn reads_stderr() -> bool {
    let stream = env::var("JOURNAL_STREAM").ok();
    let stderr = fstat(io::stderr()).ok();
    stream.zip(stderr).is_some_and(|(stream, stderr)| is_stream(&stream, stderr.st_dev, stderr.st_ino))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(of, number)| of.parse() == Ok(device) && number.parse() == Ok(inode))
}

/// What stands before a line of this level.
pub const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_known_by_the_device_and_the_inode_of_its_stream() {
        assert!(is_stream("9:4711", 9, 4711));
        for other in ["", "9", "9:", ":4711", "9:4712", "8:4711", "9:4711:1", "9:x"] {
            assert!(!is_stream(other, 9, 4711), "{other}");
        }
    }
}
