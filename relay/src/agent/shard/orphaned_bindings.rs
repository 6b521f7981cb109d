//! Orphaned push bindings (RFC 8599): the node that their Path names is gone, so calls do not arrive until their devices have registered through this node.
//!
//! | the node in the Path | the device is |
//! | --- | --- |
//! | has had no lease for [`BACK_WITHIN`] | pushed to register in its turn, and again half-way to the end of its registration, as long as that is more than [`AGAIN_MIN`] away |
//! | announced at most [`BACK_WITHIN`](crate::agent::departures::BACK_WITHIN) ago that it leaves | not pushed yet: after a planned restart the node is back |
//! | lives again | pushed as any other device, and as above once that node is gone again: the store is asked for it every [`LOOK_EVERY`] |
//! | any, and the device has registered here | pushed as any other device |
//!
//! Invariant: the devices of one SIP server are pushed no faster than registrations may begin there (`upstream.registrations_per_second`), because each push
//! causes one. The store is asked once for all registrations of a turn, of whatever shard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use sip::id::{InstanceId, UpstreamId};

use super::Shard;
use crate::agent::ShardInput;
use crate::clock::{self, latest_now};

/// The time in which a node that restarts is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Nearer to the end of its registration, a device is pushed as any other.
const AGAIN_MIN: Duration = Duration::from_secs(3_600);
/// Turns in a second.
const TURNS: u32 = 4;
/// How often the store is asked whether the nodes in Paths live.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Registrations of one shard that passed through another node.
pub(crate) struct OrphanedBindings {
    rate: Rate,
    queues: BTreeMap<UpstreamId, ServerQueue>,
    due: Option<Instant>,
    /// By their names.
    nodes: BTreeMap<Arc<str>, PathNode>,
    /// When the store is asked for them next, if there are any.
    look_at: Option<Instant>,
}

/// A node that is named in Paths.
#[derive(Default)]
struct PathNode {
    /// It has been seen alive since its registrations were queued.
    lives: bool,
    /// Its registrations, and some whose devices have registered here since.
    ids: BTreeMap<InstanceId, UpstreamId>,
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
        Self { rate, queues: BTreeMap::new(), due: None, nodes: BTreeMap::new(), look_at: None }
    }

    /// The time of the next turn, or of the next look for the nodes.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.into_iter().chain(self.look_at).min()
    }

    /// A registration was taken over whose Path leads to `node`.
    pub(super) fn add(&mut self, now: Instant, node: &Arc<str>, server: UpstreamId, id: InstanceId) {
        self.nodes.entry(node.clone()).or_default().ids.insert(id, server);
        self.look_at.get_or_insert(now + LOOK_EVERY);
        self.add_at(now, now + BACK_WITHIN, server, id);
    }

    /// The nodes to ask the store for, if it is time. A node is forgotten when no Path leads to it any more, judged by the first of its registrations.
    fn looked_for(&mut self, now: Instant, is_of: impl Fn(InstanceId, &Arc<str>) -> bool) -> Vec<Arc<str>> {
        if self.look_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.nodes.retain(|node, PathNode { ids, .. }| {
            while let Some(first) = ids.first_entry().filter(|first| !is_of(*first.key(), node)) {
                first.remove();
            }
            !ids.is_empty()
        });
        self.look_at = (!self.nodes.is_empty()).then(|| now + LOOK_EVERY);
        self.nodes.keys().cloned().collect()
    }

    /// Notes the store's answer about a node. If the node has lived and does not any more, its registrations are queued, but for the `pushed` ones.
    fn note(&mut self, now: Instant, node: &str, lives: bool, pushed: &[InstanceId]) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        if std::mem::replace(&mut known.lives, lives) && !lives {
            let left: Vec<_> = known.ids.iter().map(|(id, server)| (*server, *id)).collect();
            for (server, id) in left.into_iter().filter(|(_, id)| !pushed.contains(id)) {
                self.add_at(now, now + BACK_WITHIN, server, id);
            }
        }
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
    /// Pushes the devices whose turn it is, unless their node lives, and looks for the nodes.
    pub(super) fn refresh_orphaned_bindings(&mut self, now: Instant) {
        if self.orphaned_bindings.due().is_none_or(|due| due > now) {
            return;
        }
        let push_bindings = &self.push_bindings;
        let taken = self.orphaned_bindings.take(now, |id| push_bindings.left_by(id).is_some());
        let looked_for = self.orphaned_bindings.looked_for(now, |id, node| push_bindings.left_by(id) == Some(node));
        if self.is_handed_over() {
            return;
        }
        let mut nodes: BTreeMap<Arc<str>, Vec<InstanceId>> =
            looked_for.into_iter().map(|node| (node, Vec::new())).collect();
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
            let living = shared.departures.living(shared.vault.living_peers()).await;
            for (node, ids) in nodes {
                let lives = living.as_ref().map(|living| living.iter().any(|run| *run.node() == node));
                shared.shards.send(shard, ShardInput::OrphanedBindings { node, ids, lives }).await;
            }
        });
    }

    /// Handles the answer whether the node lives that these registrations passed through; `None`: the store does not say.
    pub(super) fn on_orphaned_bindings(&mut self, node: &Arc<str>, ids: &[InstanceId], lives: Option<bool>) {
        if let Some(lives) = lives {
            self.orphaned_bindings.note(clock::now(), node, lives, ids);
        }
        // Without an answer of the store, a needless push costs less than a lost call.
        if lives == Some(true) || ids.is_empty() {
            return;
        }
        for id in ids {
            if self.push_bindings.left_by(*id).is_some() {
                self.refresh(*id);
            }
        }
        tracing::debug!(
            event = "passed-left-behind",
            registrations = ids.len(),
            "the devices of registrations that passed through a node that is gone are pushed to register by this one"
        );
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
            left.add(start, &"gone".into(), UpstreamId(1), instance(number));
        }
        (500..510).for_each(|number| left.add(start, &"gone".into(), UpstreamId(2), instance(number)));
        assert!(left.take(start + BACK_WITHIN / 2, |_| true).is_empty(), "the node may be back");
        let (mut now, mut looks, mut taken) = (start, 0, Vec::new());
        while let Some(due) = left.due {
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
        assert!(left.queues.is_empty() && left.due.is_none());
        assert!(left.looked_for(now, |_, _| false).is_empty(), "all have registered here");
        assert!(left.nodes.is_empty() && left.due().is_none());
    }

    #[test]
    fn those_of_a_node_that_has_come_back_are_pushed_when_it_is_gone_again_and_once_for_each_time() {
        let (mut left, mut now) = (OrphanedBindings::new(100), Instant::now());
        let node = Arc::<str>::from("one");
        (1..=3).for_each(|number| left.add(now, &node, UpstreamId(1), instance(number)));
        let mut taken_after = |left: &mut OrphanedBindings| {
            now += BACK_WITHIN;
            let mut taken: Vec<_> = left.take(now, |_| true).into_iter().map(|(_, id)| id).collect();
            taken.sort_unstable();
            (now, taken)
        };
        let all: Vec<_> = (1..=3).map(instance).collect();
        assert_eq!(taken_after(&mut left).1, all);
        for _ in 0..3 {
            let now = taken_after(&mut left).0;
            left.note(now, &node, false, &[]);
            assert_eq!(taken_after(&mut left).1, [], "it is gone as before");
            left.note(now, &node, true, &[]);
            assert_eq!(taken_after(&mut left).1, [], "it lives");
            let (now, _) = taken_after(&mut left);
            // The second has registered here; the third is being pushed.
            let is_of = |id, of: &Arc<str>| id != instance(2) && *of == node;
            assert_eq!(left.looked_for(now, is_of), std::slice::from_ref(&node));
            left.note(now, &node, false, &[instance(3)]);
            let wanted = left.take(now + BACK_WITHIN, |id| is_of(id, &node));
            assert_eq!(wanted, [(UpstreamId(1), instance(1))]);
        }
    }
}
