//! Requests that were given up at the node which was asked, and that other nodes work at: those hear of it. A SIP server asks to wake devices, an app to enable
//! one.
//!
//! Invariant: a request is known by a number that the asked node has drawn. The news that it was given up may come before the request, and ends that request
//! as well. It is told until each node has heard it, for as long as a device may ring for the request.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::drain_messages::{HEARD_WITHIN, NodeMessage, is_heard};
use crate::clock;
use crate::lock::Mutex;
use crate::service::Inner;
use crate::vault::Owner;

/// How long after such news its request may still come: longer than any wake is wanted.
const AHEAD: Duration = Duration::from_secs(10);
/// News ahead of their requests that are remembered; the oldest goes for a further one.
const AHEAD_MAX: usize = 1_000;

/// How soon a SIP server asks another node that was sent there.
pub(crate) const ASKED_AGAIN: Duration = Duration::from_secs(3);
/// How long the news is told: a device rings for as long as a wake may last (30 s), and 5 s more.
const TOLD_FOR: Duration = Duration::from_secs(35);
/// How soon it is told again where a node has not heard it, or the store did not answer.
const TOLD_AGAIN: Duration = Duration::from_millis(500);

/// The requests that were given up, and those that may be.
#[derive(Default)]
pub(crate) struct GivenUpRequests {
    table: Mutex<Table>,
    /// How many of this node's own the others are being told of.
    telling: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u128, oneshot::Sender<()>>,
    ahead: VecDeque<(Instant, u128)>,
}

/// Ends the wait.
struct Waiting<'a>(&'a GivenUpRequests, u128);

/// The others are being told of a request. Its drop is the end of that.
struct Telling(Arc<Inner>);

impl Drop for Telling {
    fn drop(&mut self) {
        self.0.given_up_requests.telling.send_modify(|count| *count -= 1);
    }
}

impl Inner {
    /// Tells the other nodes, or this one of them, that a request was given up here.
    pub(super) async fn tell_given_up(self: Arc<Self>, news: NodeMessage, node: Option<Owner>) {
        self.given_up_requests.telling.send_modify(|count| *count += 1);
        let _telling = Telling(self.clone());
        let (vault, until) = (&self.dependencies.vault, clock::now() + TOLD_FOR);
        let mut told = BTreeSet::new();
        loop {
            let peers = vault.living_peers().await;
            // A store that was away, or has lost its data, may not name all.
            let mut have_all_heard = peers.is_ok() && !vault.is_being_restored();
            let is_to_be_told = |peer: &Owner| !told.contains(peer) && node.as_ref().is_none_or(|node| node == peer);
            let untold = peers.unwrap_or_default().into_iter().filter(is_to_be_told);
            let telling = untold.map(|peer| async {
                let answer = self.ask_within(&peer, news.encode(), HEARD_WITHIN).await;
                (answer.is_some_and(|answer| is_heard(&answer)), peer)
            });
            for (has_heard, peer) in join_all(telling).await {
                have_all_heard &= has_heard;
                if has_heard {
                    told.insert(peer);
                }
            }
            if have_all_heard || clock::now() >= until {
                return;
            }
            sleep(TOLD_AGAIN).await;
        }
    }
}

impl GivenUpRequests {
    /// Waits until the others know of all, [`HEARD_WITHIN`] at most: before the end of this process.
    pub(crate) async fn all_told(&self) {
        let mut telling = self.telling.subscribe();
        let _ = timeout(HEARD_WITHIN, telling.wait_for(|count| *count == 0)).await;
    }

    /// The request by this number was given up.
    pub(crate) fn note(&self, number: u128) {
        let mut table = self.table.lock();
        if let Some(waiting) = table.waiting.remove(&number) {
            // An error means that the request is over.
            let _ = waiting.send(());
            return;
        }
        let now = clock::now();
        while table.ahead.len() >= AHEAD_MAX || table.ahead.front().is_some_and(|(at, _)| now >= *at + AHEAD) {
            table.ahead.pop_front();
        }
        table.ahead.push_back((now, number));
    }

    /// Waits until the request by this number is given up.
    pub(crate) async fn wait(&self, number: u128) {
        let (tell, told) = oneshot::channel();
        {
            let mut table = self.table.lock();
            if table.ahead.iter().any(|(_, other)| *other == number) {
                return;
            }
            table.waiting.insert(number, tell);
        }
        let _waiting = Waiting(self, number);
        if told.await.is_err() {
            // Another request has come by this number.
            pending::<()>().await;
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.table.lock().waiting.remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    const NOT_YET: Duration = Duration::ZERO;

    #[tokio::test]
    async fn what_is_given_up_ends_whichever_comes_first_and_nothing_else_does() {
        let wakes = GivenUpRequests::default();
        let (mut one, mut other) = (pin!(wakes.wait(1)), pin!(wakes.wait(2)));
        assert!(timeout(NOT_YET, &mut one).await.is_err() && timeout(NOT_YET, &mut other).await.is_err());
        wakes.note(1);
        one.await;
        assert!(timeout(NOT_YET, &mut other).await.is_err());
        wakes.note(3);
        wakes.wait(3).await;
        for number in 10..10 + 2 * AHEAD_MAX as u128 {
            wakes.note(number);
        }
        assert_eq!(wakes.table.lock().ahead.len(), AHEAD_MAX);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_what_is_over() {
        let wakes = GivenUpRequests::default();
        assert!(timeout(NOT_YET, wakes.wait(1)).await.is_err());
        assert!(wakes.table.lock().waiting.is_empty());
    }
}
