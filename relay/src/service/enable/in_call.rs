//! The node at which a device is enabled that a call waits for: the one that has the call.
//!
//! An app that enables at each start is started by a push, and may ask any node. Another node's new instance would be no heir of the calls of the earlier one
//! (`succession`), and its phone would come to an edge that does not have the call.
//!
//! Invariant: nothing is changed here. A node that does not say in time that it has a call has none, and the device is enabled where its app has asked.

use sip::id::InstanceId;

use crate::agent::request::Request;
use crate::service::Inner;
use crate::service::apps::Enable;
use crate::vault::Owner;

impl Inner {
    /// The other node that looks after the device's earlier instance.
    pub(crate) async fn node_in_call(&self, app: &str, request: &Enable) -> Option<Owner> {
        let earlier = self.earlier_of(app, request).await?;
        if self.is_leaving() || self.look_as_relay(earlier).await.is_ok() {
            return None;
        }
        let vault = &self.dependencies.vault;
        let stored = vault.load(earlier).await.ok()??;
        let is_elsewhere = !stored.owned && vault.holds_lease(&stored.owner).await.unwrap_or(false);
        is_elsewhere.then_some(stored.owner)
    }

    /// Whether a call waits here for the device's earlier instance, or goes on. A node that leaves has its calls gone on with otherwise.
    pub(crate) async fn is_in_call(&self, app: &str, request: &Enable) -> bool {
        if self.is_leaving() {
            return false;
        }
        let Some(id) = self.earlier_of(app, request).await else { return false };
        self.dependencies.agent.ask(id, |reply| Request::IsInCall { id, reply }).await == Some(true)
    }

    async fn earlier_of(&self, app: &str, request: &Enable) -> Option<InstanceId> {
        self.find_earlier(&self.names_of(app, request)).await.ok().flatten()
    }
}
