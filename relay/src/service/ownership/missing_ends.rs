//! Instances of this node whose records are gone from the store after a lost lease, and the end of each.
//!
//! Invariant: an instance whose end is unknown stays until the store has answered all questions on which its end depends.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use sip::id::InstanceId;

use super::AT_ONCE;
use super::missing_records::PeerAnswers;
use crate::agent::request::{EndKind, Principal, Request};
use crate::clock::confirmed_now;
use crate::service::Inner;
use crate::vault::{Fence, StoreError};

/// How an instance ends of which the store has nothing.
enum MissingEnd {
    /// Another node has ended it.
    Elsewhere,
    /// No node says that it has ended.
    HandedOver,
    /// Its end is past, or it is not here.
    OfItself,
}

impl Inner {
    /// Lets go of instances of which the store has nothing; whether it told all that was asked. Where it did not, nobody knows how they have ended, and they
    /// stay until it is asked again.
    ///
    /// | of a missing one | it |
    /// | --- | --- |
    /// | a node says that it has wiped it, or the store names another one in its place | is unregistered, for its user is to be told nothing more of it |
    /// | the end is past: it has left the store by itself | ends here as any other, and its user is told |
    /// | neither is known, also where a node that may have wiped it is silent | is released without a word to its SIP server: the store may have lost it, and another node serve it by the Contact of the same device |
    pub(super) async fn release_missing(self: &Arc<Self>, missing: &[(InstanceId, Fence)]) -> bool {
        // A silent node may have told the user of an expired one as well: twice is better than never.
        let (wiped, heard) = self.wiped_elsewhere(missing).await;
        if heard == PeerAnswers::StoreAway {
            return false;
        }
        let wiped: HashSet<InstanceId> = wiped.into_iter().collect();
        let (mut ended, mut handed_over, mut is_away) = (Vec::new(), 0_usize, false);
        for some in missing.chunks(AT_ONCE) {
            let ends = join_all(some.iter().map(|(id, _)| self.end_of_missing(*id, wiped.contains(id)))).await;
            for ((id, _), end) in some.iter().zip(ends) {
                match end {
                    Ok(MissingEnd::Elsewhere) => ended.push(*id),
                    Ok(MissingEnd::HandedOver) => handed_over += 1,
                    Ok(MissingEnd::OfItself) => {}
                    Err(_) => is_away = true,
                }
            }
        }
        if handed_over > 0 {
            tracing::warn!(
                event = "missing-let-go",
                instances = handed_over,
                "the store has nothing of instances of this node, and no node says that it has wiped them; they are let go of, and should the store show them again, whoever shows their secret, or a restart of this node, has them served"
            );
        }
        if !ended.is_empty() {
            tracing::info!(
                event = "ended-elsewhere",
                instances = ended.len(),
                "another node has ended instances of this one"
            );
        }
        for some in ended.chunks(AT_ONCE) {
            let outcomes = join_all(some.iter().map(|id| self.release_one(*id))).await;
            is_away |= outcomes.iter().any(Result::is_err);
        }
        !is_away
    }

    /// How a missing instance ends. What passed through counts as ended elsewhere, for nothing is unregistered for it; any other whose end is still to
    /// come, and of which no other end is known, is handed over here.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    async fn end_of_missing(self: &Arc<Self>, id: InstanceId, is_wiped: bool) -> Result<MissingEnd, StoreError> {
        let Ok(status) = self.look_as_relay(id).await else { return Ok(MissingEnd::OfItself) };
        if is_wiped || self.passed_through(&status) {
            return Ok(MissingEnd::Elsewhere);
        }
        if status.expires_at <= confirmed_now() {
            return Ok(MissingEnd::OfItself);
        }
        if self.is_replaced(&status).await? {
            return Ok(MissingEnd::Elsewhere);
        }
        let end = Request::End { id, who: Principal::Relay, kind: EndKind::HandedOver, reply: None };
        self.dependencies.agent.tell(id, end).await;
        self.released.note(id, status.fence);
        Ok(MissingEnd::HandedOver)
    }
}
