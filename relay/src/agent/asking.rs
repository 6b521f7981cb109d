//! Questions to the shards, and their answers.
//!
//! Invariant: a shard answers a question after everything that it was told before, and exactly once unless it has ended.

use std::time::Duration;

use futures_util::future::join_all;
use sip::id::{InstanceId, ShardTag};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::request::Request;
use super::{Agent, ShardInput};

impl Agent {
    /// Tells the shard of an instance, and gives back its answer; `None` when the shards have ended.
    pub async fn ask<T>(&self, id: InstanceId, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        self.ask_tagged(id.tag(), request).await
    }

    /// The same of the shard that a tag leads to.
    pub async fn ask_tagged<T>(&self, tag: ShardTag, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        self.ask_shard(tag.shard(self.0.shards.len()), request).await
    }

    /// Asks every shard, one after the other.
    pub async fn ask_all<T>(&self, request: impl Fn(oneshot::Sender<T>) -> Request) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.0.shards.len());
        for shard in 0..self.0.shards.len() {
            answers.extend(self.ask_shard(shard, &request).await);
        }
        answers
    }

    /// The same, of all at once; one that has not answered by then is left out, and does what it was asked for later.
    pub async fn ask_all_within<T>(&self, within: Duration, request: impl Fn(oneshot::Sender<T>) -> Request) -> Vec<T> {
        let answers = (0..self.0.shards.len()).map(|shard| timeout(within, self.ask_shard(shard, &request)));
        join_all(answers).await.into_iter().filter_map(|answer| answer.ok().flatten()).collect()
    }

    /// How many shards there are.
    pub fn shard_count(&self) -> usize {
        self.0.shards.len()
    }

    /// Waits until a shard answers, however long that takes; `false`: it has ended.
    pub async fn answers(&self, shard: usize) -> bool {
        self.ask_shard(shard, Request::OpenCalls).await.is_some()
    }

    async fn ask_shard<T>(&self, shard: usize, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.0.shards.send(shard, ShardInput::Request(Box::new(request(reply)))).await;
        answer.await.ok()
    }
}
