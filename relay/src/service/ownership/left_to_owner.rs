//! Instances that another run has, and whose calls still end here.
//!
//! Such an instance is registered from here no more, and its calls are served on for a while. Its owner may wipe it meanwhile, and does not know that something
//! of it is left here: so the store is asked for it, and when that has nothing of it the other nodes are.
//!
//! What its app changes there counts for those calls within a second.
//!
//! Invariant: nothing of them is written. What another node says to have wiped is let go of at once, with its calls.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::time::{Instant, sleep};

use crate::agent::request::Request;
use crate::clock;
use crate::domain::InstanceState;
use crate::lock::Mutex;
use crate::service::Inner;
use crate::vault::{Fence, Sealed, Whose};

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
            while Instant::now() < until && self.is_left(id, fence).await {
                if self.is_wiped_by_owner(id, fence).await {
                    self.let_go_of_wiped(&[id]).await;
                } else {
                    self.take_change(id).await;
                }
                sleep(LOOK_AGAIN).await;
            }
            self.left_to_owner.lock().remove(&id);
        })
    }

    async fn is_left(&self, id: InstanceId, fence: Fence) -> bool {
        let status = self.look_as_relay(id).await;
        status.is_ok_and(|status| status.fence == fence && status.state != InstanceState::Ending)
    }

    /// Whether another node says that it has wiped it: by what lies beside the own keyring, or when it is asked.
    async fn is_wiped_by_owner(&self, id: InstanceId, fence: Fence) -> bool {
        let vault = &self.dependencies.vault;
        if vault.tombstones().forbids(id, Some(fence)).is_some() {
            return true;
        }
        vault.whose(id).await == Ok(Whose::Nobodys) && self.wiped_elsewhere(&[(id, fence)]).await.0.contains(&id)
    }
}
