//! The app that waits for the answer to its enabling, and may have hung up.
//!
//! | the app has hung up | what becomes of its instance |
//! | --- | --- |
//! | before it was stored | it is kept nowhere, and an earlier one stands |
//! | later, before its answer was given to the connection | it is wiped, and an earlier one stands |
//! | while its answer was on the way | it stands: nobody can tell whether the answer arrived |
//!
//! The connection tells by giving up the request: HTTP/1.1 when its client has closed, HTTP/2 when it has reset the stream or closed. A
//! client that has lost its network is noticed as late as TCP or the PING notices.
//!
//! Invariant: an instance whose secret the app never got is not kept, as far as this node can know, and replaces no other.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;

use sip::id::InstanceId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::agent::request::Principal;
use crate::domain::WipeReason;
use crate::service::Inner;
use crate::service::apps::Enabled;
use crate::vault::Lookup;

/// The app's request that waits for an answer.
pub(crate) struct Asker(oneshot::Sender<Infallible>);

/// Held by the task that waits; dropped, it has hung up.
pub(crate) struct Waits(#[expect(dead_code, reason = "its end is what it tells")] oneshot::Receiver<Infallible>);

/// The instances whose place an instance takes when its app is given its answer.
pub(crate) struct Replaced {
    pub earlier: BTreeSet<InstanceId>,
    /// The lookup that the earlier instances share with the new one.
    pub lookup: Lookup,
}

/// An enabled instance whose secret nobody has been given yet. Dropped untaken, it is wiped, and the earlier ones stand.
pub(crate) struct UndeliveredInstance {
    inner: Arc<Inner>,
    enabled: Option<(Enabled, Replaced)>,
}

impl Asker {
    pub(crate) fn new() -> (Self, Waits) {
        let (asker, waits) = oneshot::channel();
        (Self(asker), Waits(waits))
    }

    /// Waits until nobody waits any more.
    pub(crate) async fn gone(&mut self) {
        self.0.closed().await;
    }

    /// Whether nobody waits any more.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl UndeliveredInstance {
    pub(crate) fn new(inner: Arc<Inner>, enabled: Enabled, replaced: Replaced) -> Self {
        Self { inner, enabled: Some((enabled, replaced)) }
    }

    /// The result for the app, at once; the earlier instances end.
    pub(crate) fn take(mut self) -> Option<Enabled> {
        let (enabled, Replaced { earlier, lookup }) = self.enabled.take()?;
        for earlier in earlier {
            self.inner.clone().replace(earlier, enabled.instance, lookup);
        }
        Some(enabled)
    }
}

impl Drop for UndeliveredInstance {
    fn drop(&mut self) {
        let Some((Enabled { instance: id, .. }, replaced)) = self.enabled.take() else { return };
        // Without a runtime the process ends, and the lease ends it.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(wipe(self.inner.clone(), id, replaced));
    }
}

async fn wipe(inner: Arc<Inner>, id: InstanceId, Replaced { earlier, lookup }: Replaced) {
    tracing::info!(event = "answer-undelivered", instance = %id, "an app hung up before its answer; what it enabled is wiped");
    // While the store is away it is gone on with by itself.
    let _ = inner.wipe(id, Principal::Relay, WipeReason::Disabled).await;
    for earlier in earlier {
        inner.name_again(earlier, Some(id), &lookup).await;
    }
}
