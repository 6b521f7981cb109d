//! Requests that were given up at the node which was asked, and that other nodes work at: those hear of it. A SIP server asks to wake devices, an app to enable
//! one.
//!
//! Invariant: a request is known by a number that the asked node has drawn. The news that it was given up may come before the request, and ends that request
//! as well. Only a node hears it that was sent a letter for the request. It is told until that node has answered, for as long as a device may ring for the
//! request, by one task for each node, and [`UNTOLD_MAX`] are kept for each.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::{sleep, timeout};

use super::drain_messages::{HEARD_WITHIN, NodeMessage};
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
/// How soon it is told again where a node has not answered.
const TOLD_AGAIN: Duration = Duration::from_millis(500);
/// News that a node has not heard yet; the oldest goes for a further one. It remembers no more ahead of their requests.
const UNTOLD_MAX: usize = AHEAD_MAX;
/// How many letters with such news a node has to answer at once.
const TOLD_AT_ONCE: usize = 16;

/// The requests that were given up, and those that may be.
#[derive(Default)]
pub(crate) struct GivenUpRequests {
    table: Mutex<Table>,
    /// This node's own that others are to hear of.
    untold: Mutex<Untold>,
    /// How many nodes are being told.
    telling: watch::Sender<usize>,
}

#[derive(Default)]
struct Table {
    waiting: BTreeMap<u128, oneshot::Sender<()>>,
    ahead: VecDeque<(Instant, u128)>,
}

/// What each node is to hear, with until when; a node that stands here has a task that tells it.
#[derive(Default)]
struct Untold(BTreeMap<Owner, VecDeque<(Instant, NodeMessage)>>);

/// Ends the wait.
struct Waiting<'a>(&'a GivenUpRequests, u128);

impl Untold {
    /// Takes news for a node. Whether nobody tells it yet.
    fn add(&mut self, node: &Owner, news: NodeMessage, now: Instant) -> bool {
        let is_new = !self.0.contains_key(node);
        let all = self.0.entry(node.clone()).or_default();
        if all.len() >= UNTOLD_MAX
            && let Some((oldest, _)) = all.iter().enumerate().min_by_key(|(_, (until, _))| *until)
        {
            all.remove(oldest);
        }
        all.push_back((now + TOLD_FOR, news));
        is_new
    }

    /// What a node is to be told now; it stands behind the rest from then on, for what is not answered is to delay no other. Where there is nothing more,
    /// its task ends.
    fn next(&mut self, node: &Owner, now: Instant) -> Vec<NodeMessage> {
        let Some(all) = self.0.get_mut(node) else { return Vec::new() };
        all.retain(|(until, _)| now < *until);
        let some: Vec<_> = all.iter().take(TOLD_AT_ONCE).map(|(_, news)| *news).collect();
        all.rotate_left(some.len());
        if some.is_empty() {
            self.0.remove(node);
        }
        some
    }

    fn heard(&mut self, node: &Owner, heard: &[NodeMessage]) {
        if let Some(all) = self.0.get_mut(node) {
            all.retain(|(_, news)| !heard.contains(news));
        }
    }
}

impl Inner {
    /// Has these nodes told that a request was given up here.
    pub(super) fn tell_given_up(self: &Arc<Self>, news: NodeMessage, nodes: &[Owner]) {
        // An error means that the process ends.
        let Ok(runtime) = Handle::try_current() else { return };
        let requests = &self.given_up_requests;
        for node in nodes {
            let mut untold = requests.untold.lock();
            if untold.add(node, news, clock::now()) {
                requests.telling.send_modify(|count| *count += 1);
                runtime.spawn(self.clone().tell_all_given_up(node.clone()));
            }
        }
    }

    /// Tells a node until there is nothing more that it is to hear.
    async fn tell_all_given_up(self: Arc<Self>, node: Owner) {
        loop {
            let some = self.given_up_requests.next_untold(&node);
            if some.is_empty() {
                return;
            }
            let telling = some.into_iter().map(|news| {
                let (it, node) = (&self, &node);
                // A version that does not know it says so, and would the next time.
                async move { it.ask_within(node, news.encode(), HEARD_WITHIN).await.map(|_| news) }
            });
            let heard: Vec<_> = join_all(telling).await.into_iter().flatten().collect();
            self.given_up_requests.untold.lock().heard(&node, &heard);
            if heard.is_empty() && !self.is_gone(&node).await {
                sleep(TOLD_AGAIN).await;
            }
        }
    }

    /// Whether a node has died, or left: what it was to hear is forgotten.
    async fn is_gone(&self, node: &Owner) -> bool {
        let vault = &self.dependencies.vault;
        // A store that is away, or has lost its data, does not tell.
        let is_gone = matches!(vault.holds_lease(node).await, Ok(false)) && !vault.is_being_restored();
        if is_gone {
            self.given_up_requests.forget_untold(node);
        }
        is_gone
    }
}

impl GivenUpRequests {
    /// What a node is to be told now; nothing: nobody tells it any more.
    fn next_untold(&self, node: &Owner) -> Vec<NodeMessage> {
        let mut untold = self.untold.lock();
        let some = untold.next(node, clock::now());
        if some.is_empty() {
            self.telling.send_modify(|count| *count -= 1);
        }
        some
    }

    /// A node is to hear nothing more of what there is.
    fn forget_untold(&self, node: &Owner) {
        if let Some(all) = self.untold.lock().0.get_mut(node) {
            all.clear();
        }
    }

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

    #[test]
    fn one_task_tells_a_node_of_all_and_what_it_is_to_hear_is_bounded() {
        let node = |number: u8| Owner::parse(&format!("relay{number}.example.net:5061#1")).expect("an owner");
        let (mut untold, now) = (Untold::default(), clock::now());
        let news = |number: usize| NodeMessage::GivenUp(number as u128);
        let begun: Vec<_> = (0..2 * UNTOLD_MAX).map(|number| untold.add(&node(1), news(number), now)).collect();
        assert_eq!(begun.iter().filter(|is_new| **is_new).count(), 1);
        assert!(begun[0] && untold.add(&node(2), news(0), now), "each node has its own");
        assert_eq!(untold.0[&node(1)].len(), UNTOLD_MAX);
        let some = untold.next(&node(1), now);
        assert_eq!((some.len(), some[0]), (TOLD_AT_ONCE, news(UNTOLD_MAX)), "the oldest have gone");
        untold.heard(&node(1), &some[1..]);
        assert_eq!(
            untold.next(&node(1), now)[0],
            news(UNTOLD_MAX + TOLD_AT_ONCE),
            "what is not answered stands behind"
        );
        let told_again = (0..UNTOLD_MAX / TOLD_AT_ONCE).flat_map(|_| untold.next(&node(1), now));
        assert_eq!(told_again.filter(|news| *news == some[0]).count(), 1);
        assert_eq!(untold.next(&node(1), now + TOLD_FOR), [], "no device rings for it any more");
        assert!(untold.add(&node(1), news(1), now), "its task has ended");
    }

    #[tokio::test]
    async fn nothing_is_kept_of_what_is_over() {
        let wakes = GivenUpRequests::default();
        assert!(timeout(NOT_YET, wakes.wait(1)).await.is_err());
        assert!(wakes.table.lock().waiting.is_empty());
    }
}
