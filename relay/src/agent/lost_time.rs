//! Tells the shards that time has passed while this machine stood still.
//!
//! Invariant: each shard is told once, in the order of its inputs, and nothing waits for it.

use std::time::Duration;

use super::request::Request;
use super::{Agent, ShardInput};

impl Agent {
    /// So much time has passed in which the machine stood still, and the clock of what is scheduled with it: what registrars have granted may be over, and
    /// connections may be dead. Refreshes come forward by it, at the pace of any registrations; the ends of calls by what was lost for sure.
    pub async fn lose_time(&self, lost: Duration, for_sure: Duration) {
        for shard in 0..self.0.shards.len() {
            self.0.shards.send(shard, ShardInput::Request(Box::new(Request::LoseTime { lost, for_sure }))).await;
        }
    }
}
