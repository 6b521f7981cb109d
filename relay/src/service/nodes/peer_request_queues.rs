//! Queues for the questions of other nodes, one for each kind of question.
//!
//! Invariant: the reader of letters waits for no queue, because the next letter may be the answer that a queued question waits for.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Questions of one kind that have no answer yet; a further one waits, as long at most as who asks.
const ANSWERS_AT_ONCE: usize = 256;
/// Questions of one kind that wait for a place; a further one is dropped, and the asking node counts this node as silent.
const WAITING: usize = 1_024;

/// The queue of one kind of question.
struct KindQueue {
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
}

/// A place at a desk; given back when dropped.
pub(crate) type Place = OwnedSemaphorePermit;

/// The queue of a question.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A request of an app, a SIP server or an operator.
    Request,
    /// A word between nodes when one of them leaves.
    NodeMessage,
    /// A question whether a lost instance is here: the answering node may ask the others which instances they have wiped.
    Seek,
    /// A list of instances that this node has wiped, or an offer: the answer depends on no other node.
    Have,
}

/// All queues.
pub(super) struct PeerRequestQueues {
    queues: [KindQueue; 4],
    patience: Duration,
}

impl PeerRequestQueues {
    /// `patience`: how long who asks waits.
    pub(crate) fn new(patience: Duration) -> Self {
        let semaphore = |places| Arc::new(Semaphore::new(places));
        let queues = [(); 4].map(|()| KindQueue { places: semaphore(ANSWERS_AT_ONCE), seats: semaphore(WAITING) });
        Self { queues, patience }
    }

    /// Answers a question as soon as there is a place, without making the caller wait.
    pub(crate) fn answer<F: Future<Output = ()> + Send + 'static>(
        &self,
        kind: Kind,
        answer: impl FnOnce(Place) -> F + Send + 'static,
    ) {
        let KindQueue { places, seats } = &self.queues[kind as usize];
        let Ok(seat) = seats.clone().try_acquire_owned() else { return };
        let (places, patience) = (places.clone(), self.patience);
        tokio::spawn(async move {
            // The asking node waits no longer; the semaphore is never closed.
            let Ok(Ok(place)) = timeout(patience, places.acquire_owned()).await else { return };
            drop(seat);
            answer(place).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_desk_keeps_nobody_from_another_one_nor_whoever_reads_the_letters() {
        let (queues, (done, mut told)) = (PeerRequestQueues::new(Duration::from_secs(5)), mpsc::unbounded_channel());
        for number in 0..ANSWERS_AT_ONCE + WAITING * 2 {
            let done = done.clone();
            queues.answer(Kind::Seek, async move |place| {
                // An answer that comes with a later letter is waited for.
                let _ = done.send((number, place));
            });
            tokio::task::yield_now().await;
        }
        let (answered, mut heard) = mpsc::unbounded_channel();
        queues.answer(Kind::Have, async move |_| {
            let _ = answered.send(());
        });
        assert_eq!(heard.recv().await, Some(()));
        let mut held: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        assert_eq!(held.len(), ANSWERS_AT_ONCE);
        held.clear();
        for _ in 0..WAITING {
            assert!(told.recv().await.is_some(), "those that had a seat are answered");
        }
        assert!(told.try_recv().is_err(), "and no other one");
    }
}
