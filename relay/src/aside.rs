//! Work that may wait for a disk, on a thread of its own.
//!
//! The runtime's own threads for such work are waited for when it ends, and a runtime that gets none panics.
//! Who cannot go on without such work does it [in place](in_place), and the other tasks of the runtime go on by another thread.
//!
//! Invariant: no task waits for a disk but the one that needs what is there, the end of the process does for a limited time, and a system that gives no thread ends nothing.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;

/// Does `work` beside the task that asks, whose runtime it may use; what it says comes once. It is dropped unsaid where the work panics.
///
/// # Errors
/// The system gives no further thread.
pub fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (said, hears) = oneshot::channel();
    let (runtime, under_way) = (Handle::current(), UnderWay::begin());
    Builder::new().name("aside".to_owned()).spawn(move || {
        let (_under_way, _inside) = (under_way, runtime.enter());
        // Nobody may hear it any more.
        let _ = said.send(work());
    })?;
    Ok(hears)
}

/// Does `work` at once, for who cannot go on without it: the other tasks of a relay's runtime go on beside it.
pub fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        // Of one thread nobody can be sent to another.
        _ => work(),
    }
}

/// Waits until no such work is under way in this process, for `limit` at most: an end cuts it off between two of its steps.
pub fn wait(limit: Duration) {
    // Whether some is left changes nothing.
    let _ = ENDED.wait_timeout_while(under_way(), limit, |count| *count > 0);
}

/// How much work is under way.
static UNDER_WAY: Mutex<usize> = Mutex::new(0);
/// Some of it has ended.
static ENDED: Condvar = Condvar::new();

fn under_way() -> MutexGuard<'static, usize> {
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A piece of work that is under way.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        *under_way() += 1;
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *under_way() -= 1;
        ENDED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::sleep;
    use std::time::Instant;

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

    #[tokio::test]
    async fn work_is_waited_for_when_all_ends_and_not_for_ever() {
        let (go_on, disk) = mpsc::channel::<()>();
        let mut hears =
            aside(move || disk.recv_timeout(Duration::from_secs(30)).map(|()| sleep(Duration::from_millis(200))))
                .unwrap();
        let begun = Instant::now();
        wait(Duration::from_millis(50));
        assert!(hears.try_recv().is_err() && begun.elapsed() < Duration::from_secs(20));
        go_on.send(()).unwrap();
        wait(Duration::from_secs(30));
        assert_eq!(hears.try_recv(), Ok(Ok(())));
    }
}
