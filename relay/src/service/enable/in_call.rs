//! Enabling a device again while a call waits for it: that is done at the node that has the call.
//!
//! An app that enables at each start is started by a push, and may ask any node. A new instance at another node would not take over the calls of the earlier
//! one (`succession`), and its phone would come to an edge without the call.
//!
//! Invariant: nothing is changed here. A node that does not report a call in time counts as having none, and the device is enabled at the node that its app has
//! asked.

use sip::id::InstanceId;

use crate::agent::request::Request;
use crate::service::Inner;
use crate::service::apps::Enable;
use crate::service::nodes::HEARD_WITHIN;
use crate::service::nodes::drain_messages::{NodeMessage, is_heard};
use crate::vault::{Owner, Stored};

impl Inner {
    /// The other node that looks after the device's earlier instance, and has a call for it.
    pub(crate) async fn node_in_call(&self, app: &str, request: &Enable) -> Option<Owner> {
        let earlier = self.earlier_of(app, request).await?;
        if self.is_leaving() || self.look_as_relay(earlier).await.is_ok() {
            return None;
        }
        let vault = &self.dependencies.vault;
        let Stored { owner, owned, .. } = vault.load(earlier).await.ok()??;
        if owned || !vault.holds_lease(&owner).await.unwrap_or(false) {
            return None;
        }
        // Before the account is told: there is mostly none.
        let answer = self.ask_within(&owner, NodeMessage::InCall(earlier).encode(), HEARD_WITHIN).await?;
        is_heard(&answer).then_some(owner)
    }

    /// Whether a call waits here for the device's earlier instance, or goes on.
    pub(crate) async fn is_in_call(&self, app: &str, request: &Enable) -> bool {
        match self.earlier_of(app, request).await {
            Some(earlier) => self.has_call_of(earlier).await,
            None => false,
        }
    }

    /// Whether a call waits here for an instance, or goes on. A node that leaves has its calls gone on with otherwise.
    pub(crate) async fn has_call_of(&self, id: InstanceId) -> bool {
        let ask = self.dependencies.agent.ask(id, |reply| Request::IsInCall { id, reply });
        !self.is_leaving() && ask.await == Some(true)
    }

    /// The instance that the device has by now.
    pub(super) async fn earlier_of(&self, app: &str, request: &Enable) -> Option<InstanceId> {
        self.find_earlier(&self.lookup_of(app, request)).await.ok().flatten()
    }
}
