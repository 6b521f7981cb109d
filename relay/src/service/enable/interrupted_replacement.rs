//! A replacement that was interrupted: a node died after it had stored an instance, and before it had ended the earlier instance that it replaces.
//!
//! ```text
//! enabling ── stored, and named by the store ──┬── the earlier one ends, in the background
//!                                              └── the node dies ── ... ── the owner of the earlier one compares ── the store names a later one ── it ends
//! ```
//!
//! Each owner examines its instances, some with each renewal of its lease ([`missing_records`](crate::service::ownership::missing_records)): a few instances
//! within seconds, 100,000 within half an hour. A change that takes the token of another instance is not completed if the taker was enabled earlier: both stay
//! until one of them ends.
//!
//! Invariant: an instance ends here only for another one that is stored and proven, was not enabled earlier, has the lookup, and was wiped by no node. An
//! instance that is not proven itself stays beside the earlier one, which the store names, and does not end for nothing.

use std::sync::Arc;

use sip::id::InstanceId;

use super::succession::Place;
use crate::agent::request::{EndKind, Principal, Request};
use crate::domain::WipeReason;
use crate::service::Inner;
use crate::service::devices::AccessError;
use crate::service::nodes::drain_messages::NodeMessage;
use crate::service::ownership::missing_records::PeerAnswers;
use crate::vault::Fence;

impl Inner {
    /// Ends an instance whose place a later one has in the store.
    pub(crate) async fn end_if_replaced(self: &Arc<Self>, id: InstanceId) {
        // No change takes the place back meanwhile.
        let _guard = self.changing.lock_key(id).await;
        // A store that is away is asked again in the next round.
        let Ok(Some((later, fence))) = self.later_one(id).await else { return };
        let (wiped, heard) = self.wiped_elsewhere(&[(later, fence)]).await;
        if heard != PeerAnswers::All || !wiped.is_empty() || self.is_unsure() {
            return;
        }
        tracing::info!(event = "replacing-resumed", instance = %id, later = %later, "a later instance has taken the place of one that has not ended for it; it ends now");
        self.tell_leavers(NodeMessage::Succeeded { earlier: id, later }).await;
        self.dependencies.agent.tell(id, Request::Succeed { earlier: id, successor: later }).await;
        let kind = EndKind::Wiped(WipeReason::Replaced);
        let end = |reply| Request::End { id, who: Principal::Relay, kind, reply: Some(reply) };
        self.dependencies.agent.ask(id, end).await;
        // What this node has unregistered may have been the later one's Contact: that of the node which had both.
        let it = self.clone();
        tokio::spawn(async move { it.have_registered_again(later).await });
    }

    /// The instance that has taken the place of this one, and the fence that it stands with.
    async fn later_one(&self, id: InstanceId) -> Result<Option<(InstanceId, Fence)>, AccessError> {
        let here = self.is_here(id).await.filter(|_| !self.is_unsure());
        let place = here.and_then(|status| self.place_of(&status));
        let Some(this) = place.filter(|place| place.is_proven) else { return Ok(None) };
        let named = self.named_beside(&this).await?;
        let replaces =
            |place: &Place| place.is_proven && place.lookup == this.lookup && place.enabled_at >= this.enabled_at;
        let replaced_by = named.and_then(|(later, place)| Some((later, place.filter(replaces)?)));
        Ok(replaced_by.map(|(later, place)| (later, place.fence)))
    }

    /// Whether this node may own nothing any more, or the store may have lost what it was told.
    fn is_unsure(&self) -> bool {
        self.is_leaving() || self.dependencies.agent.is_doubtful() || self.dependencies.vault.is_being_restored()
    }
}
