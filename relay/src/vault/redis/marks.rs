//! Whether a store has lost what this run wrote: by a restart without its data or with older data, a flush, or a fail-over to a replica that lagged.
//!
//! Each write of a record, and each erasure, is followed by a mark, a number that is counted up; a run begins with one. A Redis keeps, replicates and loses in
//! the order of writing: as long as it has the last mark, it has had everything before. So a record that is missing then was wiped, and does not come back; and
//! what this run has erased is not there again.
//!
//! | a loss is noticed by | when |
//! | --- | --- |
//! | the mark, which is less than the last one that was confirmed | it is read: with each renewal of the lease, and before anything is claimed |
//! | the next mark, likewise, because it may catch up before anybody reads it | something is written |
//! | the connection, which is another one than that of the write | a mark follows its write: the write may be lost, and no mark before it |
//! | the store's refusal of a mark, for lack of memory say | a mark follows an erasure |
//! | this node's lease, which is missing before its time | it is renewed |
//! | the store's clock, which has run ahead | with the mark |
//!
//! The last two are not losses of the last writes: a clock that jumps ahead ends whatever has a TTL, and a store that evicts may take anything. Both leave the
//! mark.
//!
//! Invariant: a doubt counts as a loss. A Cluster orders nothing between its slots, and is in doubt whenever it, or a part of it, was away.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::scripts::SCRIPTS;
use super::{INDEX_TTL, RedisStore, millis};
use crate::clock::{self, since_boot};
use crate::lock::Mutex;
use crate::vault::store::{Owner, StoreError};

/// This run's knowledge of its marks.
#[derive(Default)]
pub(super) struct Marked {
    /// The last one that the store has confirmed; 0: none.
    last: AtomicU64,
    /// Something was lost, and is not counted yet.
    is_lost: AtomicBool,
    /// How often something was lost.
    losses: AtomicU64,
    /// When it was noticed last that the store is not what it was.
    lost_at: Mutex<Option<Instant>>,
    /// How far the store's clock is ahead of the time since boot, at the most, as it was heard last.
    ahead: Mutex<Option<Duration>>,
}

impl Marked {
    /// The store is not what it was.
    fn note_loss(&self) {
        *self.lost_at.lock() = Some(clock::now());
        self.is_lost.store(true, Ordering::Relaxed);
    }

    /// The store's clock said this, after it was asked at one time since boot and before it answered at the other. Whether it has gone further ahead than
    /// time has since it was heard last, by more than `most`.
    fn has_jumped(&self, said: Duration, asked_at: Duration, answered_at: Duration, most: Duration) -> bool {
        let at_most = said.saturating_sub(asked_at);
        let earlier = self.ahead.lock().replace(at_most);
        earlier.is_some_and(|earlier| said.saturating_sub(answered_at) > earlier + most)
    }

    /// The last writes may be lost; the rest of the store is as it was.
    pub fn note_doubt(&self) {
        self.is_lost.store(true, Ordering::Relaxed);
    }
}

impl RedisStore {
    /// Marks that everything was written that this run has written until now, the last of it over this connection.
    pub(super) async fn mark(&self, owner: &Owner, connection: u64) -> Result<(), StoreError> {
        if self.link.is_cluster() {
            return Ok(());
        }
        let last = self.marked.last.load(Ordering::Relaxed);
        let mark: u64 = self.link.ask(SCRIPTS.mark.key(mark_key(owner)).arg(millis(INDEX_TTL))).await?;
        if mark <= last {
            self.marked.note_loss();
        } else if connection != self.link.generation() {
            self.marked.note_doubt();
        }
        self.marked.last.fetch_max(mark, Ordering::Relaxed);
        Ok(())
    }

    /// How often this run has noticed that something may be missing that was not wiped. `was_away`: the store did not answer for a while.
    pub async fn losses(&self, owner: &Owner, was_away: bool) -> Result<u64, StoreError> {
        let marked = &self.marked;
        if self.link.is_cluster() {
            if was_away {
                marked.note_loss();
            }
        } else {
            // A caller of a wake may wait for both.
            tokio::try_join!(self.look_at_mark(owner), self.look_at_clock())?;
        }
        if marked.is_lost.load(Ordering::Relaxed) {
            self.mark(owner, self.link.generation()).await?;
            marked.is_lost.store(false, Ordering::Relaxed);
            *self.enlisted.lock() = None;
            marked.losses.fetch_add(1, Ordering::Relaxed);
        }
        Ok(marked.losses.load(Ordering::Relaxed))
    }

    async fn look_at_mark(&self, owner: &Owner) -> Result<(), StoreError> {
        let marked = &self.marked;
        let last = marked.last.load(Ordering::Relaxed);
        if last == 0 {
            // Records that an earlier run has erased may come back, too.
            return self.mark(owner, self.link.open_generation().await?).await;
        }
        let mark = self.text_at(&mark_key(owner)).await?;
        let mark = mark.and_then(|mark| mark.parse().ok()).unwrap_or(0);
        if mark < last {
            // From here on the store begins anew.
            marked.last.store(mark, Ordering::Relaxed);
            marked.note_loss();
        }
        Ok(())
    }

    /// Beside the lease, which tells nothing of what a jump has ended where this node was away for as long as a lease.
    async fn look_at_clock(&self) -> Result<(), StoreError> {
        let asked_at = since_boot();
        let said = Duration::from_millis(self.time_ms().await?);
        if self.marked.has_jumped(said, asked_at, since_boot(), self.lease) {
            self.marked.note_loss();
        }
        Ok(())
    }

    /// This node's lease was missing before its time.
    pub fn note_lost_lease(&self) {
        self.marked.note_loss();
    }

    /// A part of a Cluster is back that was away.
    pub fn note_part_back(&self) {
        self.marked.note_loss();
    }

    /// Whether something was lost so lately that its owners may not have written it again yet.
    pub fn is_being_restored(&self) -> bool {
        let lost_at = *self.marked.lost_at.lock();
        lost_at.is_some_and(|at| clock::since(at) < self.lease)
    }
}

fn mark_key(run: &Owner) -> String {
    format!("sipwake:mark:{run}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_further_ahead_than_time_has_jumped_and_a_slow_answer_is_no_jump() {
        let (marked, lease) = (Marked::default(), Duration::from_secs(4));
        let said = |unix_s: u64, asked_s, answered_s| {
            let [said, asked, answered] = [unix_s, asked_s, answered_s].map(Duration::from_secs);
            marked.has_jumped(said, asked, answered, lease)
        };
        assert!(!said(1_000_000, 10, 10), "the first");
        assert!(!said(1_000_600, 605, 611), "it has gone on meanwhile");
        assert!(!said(1_000_605, 616, 616), "slow");
        assert!(said(1_468_606, 617, 617), "130 hours");
        assert!(!said(1_468_607, 618, 618), "once");
        assert!(!said(1_000_608, 619, 619), "back");
        assert!(!said(1_000_612, 620, 620), "three seconds");
    }
}
