//! Orphaned push bindings (RFC 8599): the node that their Path names is gone, so calls do not arrive until their devices have registered through this node.
//!
//! | the node in the Path | the device is |
//! | --- | --- |
//! | has had no lease for [`BACK_WITHIN`] | pushed to register in its turn, and again half-way to the end of its registration, as long as that is more than [`AGAIN_MIN`] away |
//! | announced at most [`BACK_WITHIN`](crate::agent::departures::BACK_WITHIN) ago that it leaves | not pushed yet: after a planned restart the node is back |
//! | lives again, or the device has registered here | pushed as any other device |
//!
//! Invariant: the devices of one SIP server are pushed no faster than registrations may begin there (`upstream.registrations_per_second`), because each push
//! causes one. The store is asked once for all registrations of a turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use sip::id::{InstanceId, UpstreamId};

use super::Shard;
use crate::agent::ShardInput;
use crate::clock::latest_now;

/// The time in which a node that restarts is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Nearer to the end of its registration, a device is pushed as any other.
const AGAIN_MIN: Duration = Duration::from_secs(3_600);
/// Turns in a second.
const TURNS: u32 = 4;

/// Registrations of one shard that passed through another node.
pub(crate) struct OrphanedBindings {
    rate: Rate,
    queues: BTreeMap<UpstreamId, ServerQueue>,
    due: Option<Instant>,
}

/// The registrations at one SIP server.
struct ServerQueue {
    bucket: Bucket,
    /// Each registration, with the earliest time of its push.
    waiting: BTreeSet<(Instant, InstanceId)>,
}

impl OrphanedBindings {
    /// `per_second`: how many registrations may begin at one SIP server.
    pub(super) fn new(per_second: u32) -> Self {
        let rate = Rate::per_second(per_second.max(1), (per_second / TURNS).max(1));
        Self { rate, queues: BTreeMap::new(), due: None }
    }

    /// The time of the next turn.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A registration was taken over.
    pub(super) fn add(&mut self, now: Instant, server: UpstreamId, id: InstanceId) {
        self.add_at(now, now + BACK_WITHIN, server, id);
    }

    fn add_at(&mut self, now: Instant, at: Instant, server: UpstreamId, id: InstanceId) {
        let fresh = || ServerQueue { bucket: Bucket::full(now), waiting: BTreeSet::new() };
        self.queues.entry(server).or_insert_with(fresh).waiting.insert((at, id));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Takes the registrations whose turn it is, each once. Those that are not `wanted` any more are dropped.
    fn take(&mut self, now: Instant, wanted: impl Fn(InstanceId) -> bool) -> Vec<(UpstreamId, InstanceId)> {
        let (rate, mut taken) = (self.rate, Vec::new());
        for (server, ServerQueue { bucket, waiting }) in &mut self.queues {
            while let Some((_, id)) = waiting.first().copied().filter(|(at, _)| *at <= now) {
                if wanted(id) {
                    if bucket.take(now, rate).is_err() {
                        break;
                    }
                    taken.push((*server, id));
                }
                waiting.pop_first();
            }
        }
        self.queues.retain(|_, queue| !queue.waiting.is_empty() || !queue.bucket.is_full(now));
        let next = |ServerQueue { bucket, waiting }: &ServerQueue| {
            let (first, _) = waiting.first()?;
            let turn = u32::try_from(waiting.len()).unwrap_or(u32::MAX).min(rate.burst);
            Some(bucket.when(now, rate, turn).max(*first))
        };
        self.due = self.queues.values().filter_map(next).min();
        taken
    }
}

impl Shard {
    /// Pushes the devices whose turn it is, unless their node lives.
    pub(super) fn refresh_orphaned_bindings(&mut self, now: Instant) {
        if self.orphaned_bindings.due().is_none_or(|due| due > now) {
            return;
        }
        let push_bindings = &self.push_bindings;
        let taken = self.orphaned_bindings.take(now, |id| push_bindings.left_by(id).is_some());
        if self.is_handed_over() {
            return;
        }
        let mut nodes: BTreeMap<Arc<str>, Vec<InstanceId>> = BTreeMap::new();
        for (server, id) in taken {
            let Some(node) = self.push_bindings.left_by(id).cloned() else { continue };
            if let Some(back_by) = self.shared.departures.back_by(&node, now) {
                self.orphaned_bindings.add_at(now, back_by, server, id);
                continue;
            }
            nodes.entry(node).or_default().push(id);
            // In case that the push is in vain.
            let left = self.push_bindings.ends_at(id).unwrap_or_default().saturating_sub(latest_now());
            let again = Duration::from_secs(left / 2);
            if again >= AGAIN_MIN {
                self.orphaned_bindings.add_at(now, now + again, server, id);
            }
        }
        if nodes.is_empty() {
            return;
        }
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            // Without an answer of the store, a needless push costs less than a lost call.
            let living = shared.vault.living_peers().await.unwrap_or_default();
            for (node, ids) in nodes {
                let lives = living.iter().any(|run| *run.node() == node);
                shared.shards.send(shard, ShardInput::OrphanedBindings { ids, lives }).await;
            }
        });
    }

    /// Handles the answer whether the node lives that these registrations passed through.
    pub(super) fn on_orphaned_bindings(&mut self, ids: &[InstanceId], lives: bool) {
        for id in ids {
            if lives {
                self.push_bindings.note_path_lives(*id);
            } else if self.push_bindings.left_by(*id).is_some() {
                self.refresh(*id);
            }
        }
        if !lives {
            tracing::debug!(
                event = "passed-left-behind",
                registrations = ids.len(),
                "the devices of registrations that passed through a node that is gone are pushed to register by this one"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn instance(number: u128) -> InstanceId {
        InstanceId::new(number << 20, ShardTag(0))
    }

    #[test]
    fn those_of_one_server_are_pushed_no_faster_than_they_may_register_and_in_turn() {
        let (mut left, start) = (OrphanedBindings::new(100), Instant::now());
        for number in 0..500 {
            left.add(start, UpstreamId(1), instance(number));
        }
        (500..510).for_each(|number| left.add(start, UpstreamId(2), instance(number)));
        assert!(left.take(start + BACK_WITHIN / 2, |_| true).is_empty(), "the node may be back");
        let (mut now, mut looks, mut taken) = (start, 0, Vec::new());
        while let Some(due) = left.due() {
            now = due;
            let some = left.take(now, |id| id != instance(7));
            taken.extend(some);
            let passed = (now - start).saturating_sub(BACK_WITHIN).as_secs_f64();
            let of_first = taken.iter().filter(|(server, _)| *server == UpstreamId(1)).count();
            assert!(of_first as f64 <= 26.0 + 100.0 * passed, "{of_first} after {passed} s");
            looks += 1;
        }
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 509, "but one, which has registered here");
        let took = now - start;
        assert!((4..=6).contains(&(took - BACK_WITHIN).as_secs()) && looks < 30, "{took:?}, {looks} looks");
        left.take(now + Duration::from_secs(5), |_| true);
        assert!(left.queues.is_empty() && left.due().is_none());
    }
}
