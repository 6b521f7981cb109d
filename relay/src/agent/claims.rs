//! Claims and hand-overs, as the shards are told of them.
//!
//! Invariant: each shard hears of its own instances alone. Requests that wait for a claim are decided when no claim is under way any more.

use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::mpsc;

use super::request::{Request, Woken};
use super::{Agent, ShardInput};

impl Agent {
    /// Whether something may be on its way here.
    pub fn is_claiming(&self) -> bool {
        self.0.ownership.is_claiming()
    }

    /// Whether something may be on its way to its shard.
    pub fn is_taking(&self) -> bool {
        self.0.ownership.is_taking()
    }

    /// Something is being taken over here, until [`Self::end_claim`]. The first claim has begun with the agent.
    pub fn begin_claim(&self) {
        self.0.ownership.begin_claim();
    }

    /// Something may have to meet its SIP server here, until [`Self::end_settling`].
    pub fn begin_settling(&self) {
        self.0.ownership.begin_settling();
    }

    /// The claimed instances are with their shards. When no claim is under way any more, the requests that waited for one are judged.
    pub async fn end_claim(&self) {
        if self.0.ownership.end_claim() {
            self.judge_claimed().await;
        }
    }

    /// The instances taken over have met their SIP server, or that is silent.
    pub async fn end_settling(&self) {
        if self.0.ownership.end_settling() {
            self.judge_claimed().await;
        }
    }

    async fn judge_claimed(&self) {
        for shard in 0..self.0.shards.len() {
            self.0.shards.send(shard, ShardInput::Request(Box::new(Request::JudgeClaimed))).await;
        }
    }

    /// Has nothing registered, or refreshed, from here any more: another node takes it over. `woken` hears for which calls devices were woken here of
    /// late, before this ends, and for which they are from now on. A shard that hangs is not waited for longer than this.
    pub async fn hand_over(&self, woken: &mpsc::UnboundedSender<Woken>, within: Duration) {
        self.ask_all_within(within, |reply| Request::HandOver { woken: woken.clone(), reply }).await;
    }

    /// A node that leaves has woken these: the same call wakes them no second time here.
    pub async fn woken_elsewhere(&self, woken: &[Woken]) {
        self.tell_shards(woken, |woken| woken.instance, Request::WokenElsewhere).await;
    }

    /// Has no new call pushed from here for what another node has taken over, once those that were on their way here have come.
    pub async fn taken_over(&self, ids: &[InstanceId]) {
        self.tell_shards(ids, |id| *id, Request::TakenOver).await;
    }

    /// Tells each shard those of these that are its own.
    async fn tell_shards<T: Copy>(
        &self,
        all: &[T],
        instance: impl Fn(&T) -> InstanceId,
        request: impl Fn(Box<[T]>) -> Request,
    ) {
        let shards = &self.0.shards;
        for shard in 0..shards.len() {
            let is_here = |one: &T| instance(one).tag().shard(shards.len()) == shard;
            let here: Box<[T]> = all.iter().copied().filter(is_here).collect();
            if !here.is_empty() {
                shards.send(shard, ShardInput::Request(Box::new(request(here)))).await;
            }
        }
    }
}
