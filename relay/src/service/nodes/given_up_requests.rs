//! Requests of SIP servers to wake devices that were given up at the node which was asked: the other nodes, which wake devices for them, hear of it.
//!
//! Invariant: a request is known by a number that the asked node has drawn. The news that it was given up may come before the request, and ends that request
//! as well.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::clock;
use crate::lock::Mutex;

/// How long after such news its request may still come: longer than any wake is wanted.
const AHEAD: Duration = Duration::from_secs(10);
/// News ahead of their requests that are remembered; the oldest goes for a further one.
const AHEAD_MAX: usize = 1_000;

/// The wakes that were given up, and those that may be.
#[derive(Default)]
pub(crate) struct GivenUpWakes(Mutex<Table>);

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u128, oneshot::Sender<()>>,
    ahead: VecDeque<(Instant, u128)>,
}

/// Ends the wait.
struct Waiting<'a>(&'a GivenUpWakes, u128);

impl GivenUpWakes {
    /// The request by this number was given up.
    pub(crate) fn note(&self, number: u128) {
        let mut table = self.0.lock();
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
            let mut table = self.0.lock();
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
        self.0.0.lock().waiting.remove(&self.1);
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
        let wakes = GivenUpWakes::default();
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
        assert_eq!(wakes.0.lock().ahead.len(), AHEAD_MAX);
    }

    #[tokio::test]
    async fn nothing_is_kept_of_what_is_over() {
        let wakes = GivenUpWakes::default();
        assert!(timeout(NOT_YET, wakes.wait(1)).await.is_err());
        assert!(wakes.0.lock().waiting.is_empty());
    }
}
