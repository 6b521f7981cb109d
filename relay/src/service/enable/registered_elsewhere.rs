//! The node at which a device is enabled whose account is registered already for another device: the one that has the account.
//!
//! A balancer, or a name with several addresses, gives the devices of one account to different nodes. Each of these would register a Contact of its own, and
//! a SIP server may allow one, or call the latest alone. A device that is the only one of its account is enabled where its app asks, so that accounts
//! spread over the nodes.
//!
//! Invariant: nothing is changed here. A node that does not say in time that it has the account counts as not having it, and the device is enabled where its
//! app has asked.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sip::id::{BindingId, InstanceId};

use crate::agent::request::Request;
use crate::service::Inner;
use crate::service::apps::Enable;
use crate::service::nodes::drain_messages::{NodeMessage, is_heard};
use crate::vault::Owner;

/// How long the other nodes may take to say that they have an account: an enabling waits so long while one of them stands still and has its lease.
const TOLD_WITHIN: Duration = Duration::from_millis(500);

impl Inner {
    /// The other node that has the account of a device registered, for the same app and another device.
    pub(crate) async fn node_registering(&self, app: &str, request: &Enable) -> Option<Owner> {
        let vault = &self.dependencies.vault;
        let binding = vault.group(app, &request.account).binding();
        let besides = self.earlier_of(app, request).await;
        if self.is_leaving() || self.registers(binding, None).await || self.is_in_call(app, request).await {
            return None;
        }
        let peers = vault.living_peers().await.ok()?;
        let asked = peers.into_iter().map(|peer| async move {
            let body = NodeMessage::Registers { binding, besides }.encode();
            let answer = self.ask_within(&peer, body, TOLD_WITHIN).await?;
            is_heard(&answer).then_some(peer)
        });
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = answers.next().await {
            if answer.is_some() {
                return answer;
            }
        }
        None
    }

    /// Whether this node has the account of a device registered, for the same app and another device.
    pub(crate) async fn is_registered_here(&self, app: &str, request: &Enable) -> bool {
        let binding = self.dependencies.vault.group(app, &request.account).binding();
        self.registers(binding, self.earlier_of(app, request).await).await
    }

    /// Whether this node has a binding registered for another device than this one, and goes on with it.
    pub(crate) async fn registers(&self, binding: BindingId, besides: Option<InstanceId>) -> bool {
        let agent = &self.dependencies.agent;
        let ask = agent.ask_tagged(binding.tag(), |reply| Request::IsRegistered { binding, besides, reply });
        !self.is_leaving() && !agent.is_doubtful() && ask.await == Some(true)
    }
}
