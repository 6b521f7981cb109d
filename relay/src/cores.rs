//! One thread for each shard, with a runtime of its own.
//!
//! A shard, its sockets, its connections and its pushes run on one core, so that a message that comes
//! from the network wakes one thread and no other. Work that is heavy or waits for others (HTTPS, handshakes, the store) stays on
//! the runtime of the process.
//!
//! Invariant: a core lives as long as its first task, and then until the work that was [carried](Cores::carry) has ended, at most
//! [`LINGER`]. Nothing on it may block.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;

use crate::clock;

/// How long a core that ends waits for the last words of its connections.
const LINGER: Duration = Duration::from_millis(200);

thread_local! {
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the core that this runs on; `None` on any other thread.
pub(crate) fn here() -> Option<usize> {
    HERE.get()
}

/// A core that does nothing yet.
pub(crate) struct Core(oneshot::Sender<First>);

/// The task that a core lives for.
type First = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The way to every core; cheap to clone.
#[derive(Clone)]
pub(crate) struct Cores(Arc<[CoreHandle]>);

struct CoreHandle {
    handle: Handle,
    carried: Arc<HeldWork>,
    running: watch::Receiver<()>,
}

/// Work that is to end before the core does.
#[derive(Default)]
struct HeldWork {
    count: AtomicUsize,
    none: Notify,
}

impl Cores {
    /// So many cores, each with its thread and its runtime.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(count: usize) -> io::Result<(Self, Vec<Core>)> {
        let made = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        let (ways, cores): (Vec<_>, Vec<_>) = made.into_iter().unzip();
        Ok((Self(ways.into()), cores))
    }

    /// Runs `work` on a core, which waits for it when it ends. Work given to a core that has ended is dropped.
    pub(crate) fn carry(&self, core: usize, work: impl Future<Output = ()> + Send + 'static) {
        let way = &self.0[core];
        way.handle.spawn(Carrying { work: Box::pin(work), _load: Load::of(way.carried.clone()) });
    }

    /// Waits until every core has ended.
    pub(crate) async fn ended(&self) {
        for way in self.0.iter() {
            // Nothing is ever sent: an error means that the core has ended.
            while way.running.clone().changed().await.is_ok() {}
        }
    }
}

impl Core {
    /// Begins with `first`; a core that is dropped instead ends.
    pub(crate) fn begin(self, first: impl Future<Output = ()> + Send + 'static) {
        // An error means that its thread has panicked, as it says.
        let _ = self.0.send(Box::pin(first));
    }
}

fn start(index: usize) -> io::Result<(CoreHandle, Core)> {
    if clock::is_virtual() {
        return Ok(start_here());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (begin, begun) = oneshot::channel::<First>();
    let (running, runs) = watch::channel(());
    let carried = Arc::new(HeldWork::default());
    let waits_for = carried.clone();
    let (give, given) = std::sync::mpsc::channel::<Runtime>();
    // The thread ends, and drops the runtime, when the core is dropped: no other may, for it might be one of a runtime.
    let spawned = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
        let Ok(runtime) = given.recv() else { return };
        HERE.set(Some(index));
        runtime.block_on(async {
            if let Ok(first) = begun.await {
                // As a task: what a runtime itself waits for is woken by a write to its event descriptor, even from its own thread.
                // An error is its panic, which has been told.
                let _ = tokio::spawn(first).await;
                // Work that has not ended by then is dropped with the runtime.
                let _ = timeout(LINGER, waits_for.gone()).await;
            }
        });
        drop(runtime);
        drop(running);
    });
    if let Err(error) = spawned {
        runtime.shutdown_background();
        return Err(error);
    }
    // The thread waits for it.
    let _ = give.send(runtime);
    Ok((CoreHandle { handle, carried, running: runs }, Core(begin)))
}

/// In a simulation: all cores of a node are the runtime that this runs on, whose time is the simulation's.
fn start_here() -> (CoreHandle, Core) {
    let handle = Handle::current();
    let (begin, begun) = oneshot::channel::<First>();
    let (running, runs) = watch::channel(());
    let carried = Arc::new(HeldWork::default());
    let waits_for = carried.clone();
    handle.spawn(async move {
        if let Ok(first) = begun.await {
            first.await;
            let _ = timeout(LINGER, waits_for.gone()).await;
        }
        drop(running);
    });
    (CoreHandle { handle, carried, running: runs }, Core(begin))
}

impl HeldWork {
    async fn gone(&self) {
        loop {
            let none = self.none.notified();
            tokio::pin!(none);
            none.as_mut().enable();
            if self.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

/// Work that is counted. In a box: an async block would hold it twice.
struct Carrying<F> {
    work: Pin<Box<F>>,
    _load: Load,
}

impl<F: Future<Output = ()>> Future for Carrying<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.work.as_mut().poll(context)
    }
}

/// One piece of what a core carries.
struct Load(Arc<HeldWork>);

impl Load {
    fn of(carried: Arc<HeldWork>) -> Self {
        carried.count.fetch_add(1, Ordering::Relaxed);
        Self(carried)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_a_core_carries_runs_there_and_is_waited_for() {
        let (cores, made) = Cores::start(2).unwrap();
        let (end, ends): (Vec<_>, Vec<_>) = (0..2).map(|_| oneshot::channel::<()>()).unzip();
        for (core, end) in made.into_iter().zip(ends) {
            core.begin(async move { drop(end.await) });
        }
        let (told, place) = oneshot::channel();
        let (go, gone) = oneshot::channel::<()>();
        cores.carry(1, async move {
            let _ = gone.await;
            told.send(here()).unwrap();
        });
        drop(end);
        go.send(()).unwrap();
        assert_eq!(place.await, Ok(Some(1)));
        assert_eq!(here(), None);
        cores.ended().await;
    }

    #[tokio::test]
    async fn what_never_ends_is_dropped_with_its_core() {
        let (cores, made) = Cores::start(1).unwrap();
        let (held, dropped) = oneshot::channel::<()>();
        cores.carry(0, async move {
            let _held = held;
            std::future::pending().await
        });
        for core in made {
            core.begin(async {});
        }
        assert!(dropped.await.is_err());
        cores.ended().await;
    }
}
