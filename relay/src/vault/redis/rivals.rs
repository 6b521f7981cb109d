//! Two processes with one node name: both hold the node's lease in turn, and each takes the other's records for those of an earlier run.
//!
//! | another run's name in this node's lease, found by | means |
//! | --- | --- |
//! | the first write of this run | the run before it, which has died, or lives: one that lives reads a letter at once, and its list is never full |
//! | [two](TIMES) later writes | a rival, which wrote after this run |
//!
//! Invariant: of two rivals, the later one, which found the other with its first write, claims nothing and leaves the lease to the other as long as that lives;
//! unless it has already claimed something, because the other stood still. Both report it, and are not ready. A run that has found no other for a lease is
//! alone again.

use std::sync::MutexGuard;
use std::time::Duration;

use tokio::time::Instant;

use super::{RELEASED, RedisStore};
use crate::lock::Mutex;
use crate::vault::store::{AwayReason, Owner, StoreError};

/// How often another run's name must be found behind this one's own: one that stood still, and has lost its lease meanwhile, may write it once.
const TIMES: u32 = 2;

pub(super) struct Rivals {
    lease: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// This run has written its name.
    has_begun: bool,
    /// The run before this one, unless it is dead.
    before: Option<Box<str>>,
    /// Until when that is believed to live that has read a letter, unless it writes its name.
    lives_until: Option<Instant>,
    is_asked: bool,
    /// When it was first tried in vain to ask it, since the lease could not be written last.
    unanswered_at: Option<Instant>,
    /// This run has claimed, or might have.
    claims: bool,
    rival: Option<Rival>,
}

struct Rival {
    run: Box<str>,
    times: u32,
    found_at: Instant,
}

impl Rivals {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, state: Mutex::default() }
    }

    /// The lease held this, when this run wrote its name into it, or looked at it.
    pub(super) fn note(&self, own: &str, held_by: Option<&str>) {
        let mut state = self.state();
        let other = held_by.filter(|run| *run != own && *run != RELEASED);
        if !std::mem::replace(&mut state.has_begun, true) {
            state.before = other.map(Into::into);
            return;
        }
        let now = Instant::now();
        match (other, &mut state.rival) {
            (Some(other), Some(rival)) if *rival.run == *other => {
                rival.found_at = now;
                rival.times += 1;
                if rival.times == TIMES {
                    tracing::error!(
                        event = "lease-contested",
                        "another process runs by this node's name (edge.public) over the same store: each takes the other's lease; give each a name of its own, or stop one"
                    );
                }
            }
            (Some(other), rival) => *rival = Some(Rival { run: other.into(), times: 1, found_at: now }),
            (None, Some(rival)) if now.saturating_duration_since(rival.found_at) >= self.lease => {
                if rival.times >= TIMES {
                    tracing::warn!(event = "lease-uncontested", "no other process has this node's lease any more");
                }
                state.rival = None;
            }
            (None, _) => {}
        }
    }

    /// The store did not let this run write its name, so nobody else may have.
    pub(super) fn note_unwritten(&self) {
        self.state().unanswered_at = None;
    }

    /// The run before this one, which is to be asked whether it lives.
    pub(super) fn unasked(&self) -> Option<Box<str>> {
        let state = self.state();
        state.before.clone().filter(|_| !state.is_asked && !state.claims)
    }

    /// The store has not taken the letter, or does not tell what has become of it. Whether it was so for as long as that is waited for which has read one,
    /// while this run could write its name; one that lives has written its own by then.
    pub(super) fn note_unanswered(&self) -> bool {
        let now = Instant::now();
        let since = *self.state().unanswered_at.get_or_insert(now);
        now.saturating_duration_since(since) >= self.lease / 2
    }

    /// It has read a letter, or has not.
    pub(super) fn note_asked(&self, reads: bool) {
        let mut state = self.state();
        state.is_asked = true;
        // A machine that was cut off may have left a connection behind that reads. One that lives writes its name within a renewal.
        state.lives_until = reads.then(|| Instant::now() + self.lease / 2);
        if !reads && state.rival.is_none() {
            state.before = None;
        }
    }

    /// Whether nobody lives who had the lease before.
    pub(super) fn may_claim(&self) -> bool {
        let mut state = self.state();
        let lives = state.lives_until.is_some_and(|until| Instant::now() < until);
        let may = state.claims || !lives && !state.is_later();
        state.claims |= may && state.has_begun;
        may
    }

    /// Whether another process has the lease in turn with this one.
    pub(super) fn is_contested(&self) -> bool {
        self.state().is_contested()
    }

    /// Whether the lease is the other one's.
    pub(super) fn gives_way(&self) -> bool {
        let state = self.state();
        state.is_contested() && state.is_later() && !state.claims
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn is_contested(&self) -> bool {
        self.rival.as_ref().is_some_and(|rival| rival.times >= TIMES)
    }

    /// Whether the other one had the lease before this one.
    fn is_later(&self) -> bool {
        self.rival.as_ref().is_some_and(|rival| self.before.as_deref() == Some(&*rival.run))
    }
}

impl RedisStore {
    /// Whether this run may take something over: nothing as long as one lives that had this node's lease before it. `ask` has that read a letter.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn may_claim<F: Future<Output = Result<(), StoreError>>>(
        &self,
        owner: &Owner,
        ask: impl FnOnce(Owner) -> F,
    ) -> Result<bool, StoreError> {
        if let Some(before) = self.rivals.unasked() {
            let before = Owner { node: owner.node.clone(), run: before.into() };
            let reads = match ask(before.clone()).await {
                Ok(()) => self.reads_letters(&before).await,
                // A run with too many letters that nobody reads is dead.
                Err(StoreError::Away(why)) if why.is_of_reader() => Ok(false),
                Err(error) => Err(error),
            };
            match reads {
                Ok(reads) => self.rivals.note_asked(reads),
                // No other key answers, either.
                Err(error @ StoreError::Away(AwayReason::Unreachable | AwayReason::TimedOut | AwayReason::Tls(_)))
                    if !self.link.is_cluster() =>
                {
                    return Err(error);
                }
                // The rest of a store may answer that has lost this list, or that refuses it.
                Err(error) => {
                    if !self.rivals.note_unanswered() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(self.rivals.may_claim())
    }

    /// Whether another process holds this node's lease in turn with this one.
    pub fn is_contested(&self) -> bool {
        self.rivals.is_contested()
    }

    /// Whether the lease is that of another process by this node's name, which had it before.
    pub fn gives_way(&self) -> bool {
        self.rivals.gives_way()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LEASE: Duration = Duration::from_secs(4);

    #[tokio::test(start_paused = true)]
    async fn the_later_of_two_claims_nothing_and_gives_way_until_the_other_is_gone() {
        let (earlier, later) = (Rivals::new(LEASE), Rivals::new(LEASE));
        earlier.note("one", None);
        assert!(earlier.may_claim() && earlier.unasked().is_none());
        later.note("two", Some("one"));
        assert_eq!(later.unasked().as_deref(), Some("one"));
        later.note_asked(true);
        assert!(!later.may_claim(), "it reads its letters");
        for _ in 0..TIMES {
            assert!(!earlier.is_contested() && !later.is_contested() && !later.gives_way());
            earlier.note("one", Some("two"));
            later.note("two", Some("one"));
        }
        assert!(earlier.is_contested() && later.is_contested());
        assert!(later.gives_way() && !earlier.gives_way());
        advance(LEASE).await;
        assert!(!later.may_claim(), "it writes its name");
        later.note("two", Some("one"));
        earlier.note("one", Some("one"));
        assert!(!earlier.is_contested() && earlier.may_claim(), "the other one has left it the lease");
        advance(LEASE).await;
        later.note("two", None);
        assert!(!later.is_contested() && !later.gives_way() && later.may_claim(), "it is alone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_whose_predecessor_is_dead_claims_at_once_and_one_that_stood_still_is_told_of() {
        let later = Rivals::new(LEASE);
        later.note("two", Some("one"));
        later.note_asked(false);
        assert!(later.may_claim() && later.unasked().is_none());
        later.note("two", Some("one"));
        assert!(!later.is_contested(), "it stood still, and has written once");
        advance(LEASE).await;
        later.note("two", Some("two"));
        for _ in 0..TIMES {
            later.note("two", Some("one"));
        }
        assert!(later.is_contested() && !later.gives_way() && later.may_claim(), "what it has claimed is its own");
        for released in [Some(RELEASED), None] {
            let fresh = Rivals::new(LEASE);
            fresh.note("two", released);
            assert!(fresh.may_claim() && fresh.unasked().is_none());
        }
        // It is not known whether that reads letters: it is asked again, and waited for as long as for one that does.
        let untold = Rivals::new(LEASE);
        untold.note("two", Some("one"));
        assert!(!untold.note_unanswered() && untold.unasked().is_some());
        advance(LEASE / 2).await;
        untold.note_unwritten();
        assert!(!untold.note_unanswered(), "the other one could not write its name, either");
        advance(LEASE / 2).await;
        assert!(untold.note_unanswered() && untold.unasked().is_some());
        untold.note("two", Some("one"));
        assert!(!untold.may_claim(), "it writes its name");
        // A connection that outlives its machine reads letters, and writes nothing.
        let left = Rivals::new(LEASE);
        left.note("two", Some("one"));
        left.note_asked(true);
        assert!(!left.may_claim());
        advance(LEASE / 2).await;
        assert!(left.may_claim());
    }
}
