//! Work that may wait for a disk, on a thread of its own.
//!
//! The runtime's own threads for such work are waited for when it ends, and a runtime that gets none panics.
//!
//! Invariant: no task waits for a disk, no end of the process does, and a system that gives no thread ends nothing.

use std::io;
use std::thread::Builder;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Does `work` beside the task that asks, whose runtime it may use; what it says comes once. It is dropped unsaid where the work panics.
///
/// # Errors
/// The system gives no further thread.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (said, hears) = oneshot::channel();
    let runtime = Handle::current();
    Builder::new().name("aside".to_owned()).spawn(move || {
        let _inside = runtime.enter();
        // Nobody may hear it any more.
        let _ = said.send(work());
    })?;
    Ok(hears)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn work_that_does_not_end_keeps_no_runtime_from_its_end() {
        let begun = Instant::now();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (go_on, disk) = mpsc::channel::<()>();
        let inside = runtime.enter();
        let hears = aside(move || disk.recv()).unwrap();
        drop(inside);
        drop(runtime);
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop(go_on);
        assert!(hears.blocking_recv().unwrap().is_err());
    }
}
