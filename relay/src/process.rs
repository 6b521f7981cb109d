//! Requests of this process to the system: most are made once, before it serves.
//!
//! Invariant: a refusal by the system is logged, and the process goes on without it; only one without threads does not start.

use std::io;
use std::sync::mpsc::{self, Receiver};
use std::thread::{self, Builder, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::disable_transparent_huge_pages;
use tokio::signal::unix::{SignalKind, signal};

/// Secrets are in memory for moments; no core dump and no other user's debugger shall catch one.
pub fn protect_memory() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // A service manager may have forbidden them already, and this call with them.
    let limited = if getrlimit(Resource::Core).maximum == Some(0) { Ok(()) } else { setrlimit(Resource::Core, none) };
    let forbidden = limited.and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable));
    if let Err(error) = forbidden {
        tracing::warn!(event = "dumps-not-forbidden", %error, "core dumps could not be forbidden");
    }
}

/// Every connection is an open file: take as many as the system gives.
pub fn raise_open_files() {
    let Rlimit { maximum, current } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(event = "open-files-not-raised", %error, "the limit of open files stays as it is");
    }
}

/// How many files are open; `None` where the system does not say.
pub(crate) fn open_files() -> Option<u64> {
    // The descriptor that reads the folder counts itself.
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    Some((entries.count() as u64).saturating_sub(1))
}

/// Takes memory in small pages, also where the system gives huge ones to everybody. To clear one of 2 MiB, when it is first
/// touched, takes milliseconds in which every call of its shard waits; and most of it stays empty.
pub fn refuse_huge_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::info!(event = "huge-pages-not-refused", %error, "memory may come in huge pages, for which calls wait");
    }
}

/// Has a write beyond a limit of file size fail as one to a full disk does, in place of ending the process. To be called in a runtime.
pub fn ignore_file_size_signal() {
    // Whoever asks for a signal's arrivals has it handled from then on, also when nobody hears of them any more.
    if let Err(error) = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())) {
        tracing::warn!(event = "file-size-signal-kept", %error, "a write beyond a limit of file size would end the process");
    }
}

/// How long threads that have ended may count still.
const GONE_WITHIN: Duration = Duration::from_secs(1);
/// The stack of a thread that does nothing, in bytes.
const LITTLE_STACK: usize = 64 << 10;

/// Tries whether the system gives `count` threads more, before anything is begun that cannot do without: a runtime panics that gets none.
///
/// # Errors
/// How many it has given, and its word.
pub fn try_threads(count: usize) -> Result<(), (usize, io::Error)> {
    try_threads_by(count, |released| Builder::new().stack_size(LITTLE_STACK).spawn(move || wait_for(&released)))
}

fn try_threads_by(
    count: usize,
    mut begin: impl FnMut(Receiver<()>) -> io::Result<JoinHandle<()>>,
) -> Result<(), (usize, io::Error)> {
    let before = threads();
    let (mut held, mut refused) = (Vec::with_capacity(count), None);
    while held.len() < count && refused.is_none() {
        let (release, released) = mpsc::channel();
        match begin(released) {
            Ok(thread) => held.push((release, thread)),
            Err(error) => refused = Some(error),
        }
    }
    let given = held.len();
    for (release, thread) in held {
        drop(release);
        // It does nothing that could panic.
        let _ = thread.join();
    }
    // A thread that was joined counts until the system has forgotten it.
    let begun = Instant::now();
    while threads() > before && begun.elapsed() < GONE_WITHIN {
        thread::sleep(Duration::from_millis(1));
    }
    refused.map_or(Ok(()), |error| Err((given, error)))
}

fn wait_for(released: &Receiver<()>) {
    // Nothing is ever sent: an error is the release.
    let _ = released.recv();
}

/// How many threads this process has; 0 where the system does not say.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_tried_at_once_and_one_that_lacks_is_told_with_how_many_there_are() {
        let counted = |allowed: usize| {
            let mut begun = 0;
            try_threads_by(3, |released| {
                begun += 1;
                if begun > allowed {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                thread::Builder::new().spawn(move || wait_for(&released))
            })
        };
        assert!(counted(3).is_ok() && try_threads(3).is_ok());
        let (given, error) = counted(2).unwrap_err();
        assert_eq!((given, error.kind()), (2, io::ErrorKind::WouldBlock));
    }
}
