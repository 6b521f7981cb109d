//! Instances that another run owns now, while their calls still end here.
//!
//! This node no longer registers such an instance, but serves its calls for a while. Its owner may wipe it without knowing of these calls. So this node asks
//! the store for the record, and the other nodes if the store does not have it. A change that the app makes at the owner applies to those calls within a
//! second.
//!
//! Invariant: these records are not written from here. An instance that another node has wiped is released at once, with its calls.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::time::{Instant, sleep};

use crate::agent::request::{InstanceStatus, Request};
use crate::clock;
use crate::domain::InstanceState;
use crate::lock::Mutex;
use crate::service::Inner;
use crate::vault::{Fence, RecordOwner, Sealed, StoreError};

/// How long calls may wait here for an instance that another run has taken over.
const CALLS_END_WITHIN: Duration = Duration::from_secs(60);
/// How often the store is asked for it meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The instances that are looked after here.
#[derive(Default)]
pub(crate) struct LeftToOwner(Mutex<HashSet<InstanceId>>);

impl LeftToOwner {
    fn lock(&self) -> MutexGuard<'_, HashSet<InstanceId>> {
        self.0.lock()
    }
}

impl Inner {
    /// Lets go of an instance that another run has, with this record, and had not when it had this fence here; its calls end first.
    pub(crate) async fn leave_to_owner(self: &Arc<Self>, id: InstanceId, fence: Fence, record: Sealed) {
        let until = clock::now() + CALLS_END_WITHIN;
        let leave = Request::LeaveToOwner { id, fence, until, record: Some(record) };
        self.dependencies.agent.tell(id, leave).await;
        if self.left_to_owner.lock().insert(id) {
            tokio::spawn(self.clone().watch_left(id, fence));
        }
    }

    /// Waits until nothing of it is here any more. Boxed, because what it calls may leave more to their owners.
    fn watch_left(self: Arc<Self>, id: InstanceId, fence: Fence) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let until = Instant::now() + CALLS_END_WITHIN;
            while Instant::now() < until && self.look_after_left(id, fence).await {
                self.take_change(id).await;
                sleep(LOOK_AGAIN).await;
            }
            self.left_to_owner.lock().remove(&id);
        })
    }

    /// Lets go of an instance that is left here and has ended where it is now; whether it is left here still.
    pub(super) async fn look_after_left(self: &Arc<Self>, id: InstanceId, fence: Fence) -> bool {
        let is_left = |status: &InstanceStatus| status.fence == fence && status.state != InstanceState::Ending;
        let Some(status) = self.look_as_relay(id).await.ok().filter(is_left) else { return false };
        if self.passed_through(&status) {
            return true;
        }
        // A record that is replaced may be erased by its owner only later.
        // A store that is away is asked again.
        let has_ended = self.is_replaced(&status).await.unwrap_or(false) || self.is_wiped_by_owner(id, fence).await;
        if has_ended {
            self.release_wiped(&[id]).await;
        }
        !has_ended
    }

    /// Whether another instance has taken its place in the store; one that is not proven stands beside that which its place names.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub(super) async fn is_replaced(&self, status: &InstanceStatus) -> Result<bool, StoreError> {
        let is_proven = self.place_of(status).is_some_and(|place| place.is_proven);
        Ok(is_proven && self.successor_of(status).await?.is_some())
    }

    /// Whether another node says that it has wiped it: by what lies beside the own keyring, or when it is asked.
    async fn is_wiped_by_owner(&self, id: InstanceId, fence: Fence) -> bool {
        let vault = &self.dependencies.vault;
        if vault.tombstones().forbids(id, Some(fence)).is_some() {
            return true;
        }
        vault.record_owner(id).await == Ok(RecordOwner::Nobody)
            && self.wiped_elsewhere(&[(id, fence)]).await.0.contains(&id)
    }
}
