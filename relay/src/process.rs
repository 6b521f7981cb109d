//! Requests of this process to the system, made once before it serves.
//!
//! Invariant: a refusal by the system is logged, and the process goes on without it.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::disable_transparent_huge_pages;

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

/// Takes memory in small pages, also where the system gives huge ones to everybody. To clear one of 2 MiB, when it is first
/// touched, takes milliseconds in which every call of its shard waits; and most of it stays empty.
pub fn refuse_huge_pages() {
    if let Err(error) = disable_transparent_huge_pages(true) {
        tracing::info!(event = "huge-pages-not-refused", %error, "memory may come in huge pages, for which calls wait");
    }
}
