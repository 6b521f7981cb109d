//! Places that many hosts share. Each host has a few at most, and a waiting push gets one when it is its host's turn.
//!
//! | a free place goes to |
//! | --- |
//! | the waiting host that has the fewest places, if it may have one more |
//! | of several such hosts, the one that has waited longest |
//!
//! Invariant: no push waits while its host may have a free place. A host that keeps its places busy delays only hosts that have more of them. No lock is held
//! during a wait. A host without a place and without a waiting push is forgotten when the next place is given back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, MutexGuard};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::lock::Mutex;

/// The places.
pub(super) struct Turns {
    /// So many there are, and so many for one host.
    most: usize,
    of_a_host: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    hosts: BTreeMap<Box<str>, Host>,
    /// The number of pushes that have come to wait.
    came: u64,
}

#[derive(Default)]
struct Host {
    taken: usize,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

/// One of the places, given back when dropped.
pub(super) struct Turn {
    turns: Arc<Turns>,
    host: Box<str>,
}

impl Turns {
    /// So many places, and so many of them for one host.
    pub(super) fn new(most: usize, of_a_host: usize) -> Arc<Self> {
        Arc::new(Self { most, of_a_host, state: Mutex::default() })
    }

    /// How many are left for this host, and for all.
    pub(super) fn left(&self, host: &str) -> (usize, usize) {
        let state = self.lock();
        let taken = state.hosts.get(host).map_or(0, |it| it.taken);
        (self.of_a_host.saturating_sub(taken), self.most.saturating_sub(state.taken))
    }

    /// A place for this host. `None`: there is none until then.
    pub(super) async fn take(self: &Arc<Self>, host: &str, until: Instant) -> Option<Turn> {
        let turn = {
            let mut state = self.lock();
            let State { taken, hosts, came } = &mut *state;
            let known = hosts.entry(host.into()).or_default();
            if *taken < self.most && known.taken < self.of_a_host {
                (*taken, known.taken) = (*taken + 1, known.taken + 1);
                return Some(self.turn(host));
            }
            let (grant, turn) = oneshot::channel();
            known.forget_gone();
            known.waiting.push_back((*came, grant));
            *came += 1;
            turn
        };
        timeout_at(until, turn).await.ok()?.ok()
    }

    /// Gives what is free to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        let mut unwanted = Vec::new();
        let mut state = self.lock();
        while state.taken < self.most {
            let Some((host, waiter)) = state.next(self.of_a_host) else { break };
            state.taken += 1;
            // Unwanted turns are given back when nobody holds the lock.
            unwanted.extend(waiter.send(self.turn(&host)).err());
        }
        drop(state);
    }

    fn turn(self: &Arc<Self>, host: &str) -> Turn {
        Turn { turns: Arc::clone(self), host: host.into() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The counts go with what is handed out under the lock.
        self.state.lock()
    }
}

impl State {
    /// The host whose turn it is; the place is counted for it.
    fn next(&mut self, of_a_host: usize) -> Option<(Box<str>, oneshot::Sender<Turn>)> {
        self.hosts.values_mut().for_each(Host::forget_gone);
        self.hosts.retain(|_, host| host.taken > 0 || !host.waiting.is_empty());
        let may = self.hosts.iter_mut().filter(|(_, host)| host.taken < of_a_host && !host.waiting.is_empty());
        let (name, host) = may.min_by_key(|(_, host)| (host.taken, host.waiting.front().map(|(came, _)| *came)))?;
        let (_, waiter) = host.waiting.pop_front()?;
        host.taken += 1;
        Some((name.clone(), waiter))
    }
}

impl Host {
    /// Forgets who has waited for longest and has given up.
    fn forget_gone(&mut self) {
        while self.waiting.front().is_some_and(|(_, waiter)| waiter.is_closed()) {
            self.waiting.pop_front();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            state.taken = state.taken.saturating_sub(1);
            if let Some(host) = state.hosts.get_mut(&self.host) {
                host.taken = host.taken.saturating_sub(1);
            }
        }
        self.turns.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A push that takes a place and keeps it for so many seconds; when it had it.
    fn pushes(turns: &Arc<Turns>, host: &str, seconds: u32) -> tokio::task::JoinHandle<Option<Duration>> {
        let (turns, host, began) = (Arc::clone(turns), host.to_owned(), Instant::now());
        tokio::spawn(async move {
            let _turn = turns.take(&host, began + 30 * SECOND).await?;
            let had = began.elapsed();
            tokio::time::sleep(seconds * SECOND).await;
            Some(had)
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_none_goes_before_whoever_has_some_however_many_wait_there() {
        let turns = Turns::new(64, 8);
        // Ten hosts keep theirs, each for some seconds, and have a hundred more each that wait before the others come.
        let hanging: Vec<_> =
            (0..1_100).map(|number| pushes(&turns, &format!("h{}", number % 10), 3 + number % 5)).collect();
        tokio::time::sleep(SECOND).await;
        let honest: Vec<_> = (0..3).map(|number| pushes(&turns, &format!("honest{number}"), 1)).collect();
        for one in honest {
            let had = one.await.expect("no panic").expect("its turn comes");
            assert!(had <= 2 * SECOND, "{had:?}");
        }
        for one in hanging {
            drop(one.await);
        }
        let state = turns.lock();
        assert_eq!(state.taken, 0, "all are given back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_has_its_own_few_and_who_gives_up_takes_none() {
        let turns = Turns::new(64, 8);
        let soon = || Instant::now() + SECOND / 10;
        let mut own = Vec::new();
        while let Some(turn) = turns.take("a", soon()).await {
            own.push(turn);
        }
        assert_eq!((own.len(), turns.left("a"), turns.left("b")), (8, (0, 56), (8, 56)));
        let next = turns.take("a", Instant::now() + SECOND);
        let (next, ()) = tokio::join!(next, async { drop(own.pop()) });
        assert!(next.is_some() && turns.left("a") == (0, 56), "those who gave up have none");
        drop((next, own));
        turns.serve();
        assert!(turns.left("a") == (8, 64) && turns.lock().hosts.is_empty(), "nothing is kept of it");
    }
}
