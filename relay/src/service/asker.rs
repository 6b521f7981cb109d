//! The app that waits for the answer to its enabling, and may have hung up.
//!
//! | the app has hung up | what becomes of its instance |
//! | --- | --- |
//! | before it was stored | it is kept nowhere, and an earlier one stands |
//! | later, before its answer was given to the connection | it is wiped |
//! | while its answer was on the way | it stands: nobody can tell whether the answer arrived |
//!
//! The connection tells by giving up the request: HTTP/1.1 when its client has closed, HTTP/2 when it has reset the stream or closed. A
//! client that has lost its network is noticed as late as TCP or the PING notices.
//!
//! Invariant: what nobody knows the secret of is not kept, as far as this node can know.

use std::convert::Infallible;
use std::sync::Arc;

use sip::id::InstanceId;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::Inner;
use super::types::{Enabled, WipeReason};
use crate::agent::request::Principal;

/// Who waits for an answer.
pub(super) struct Asker(oneshot::Sender<Infallible>);

/// Held by whoever waits; dropped, it has hung up.
pub(super) struct Waits(#[expect(dead_code, reason = "its end is what it tells")] oneshot::Receiver<Infallible>);

/// An enabled instance whose secret nobody has been given yet. Dropped untaken, it is wiped.
pub(super) struct Untaken {
    inner: Arc<Inner>,
    enabled: Option<Enabled>,
}

impl Asker {
    pub(super) fn new() -> (Self, Waits) {
        let (asker, waits) = oneshot::channel();
        (Self(asker), Waits(waits))
    }

    /// Waits until nobody waits any more.
    pub(super) async fn gone(&mut self) {
        self.0.closed().await;
    }

    /// Whether nobody waits any more.
    pub(super) fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

impl Untaken {
    pub(super) fn new(inner: Arc<Inner>, enabled: Enabled) -> Self {
        Self { inner, enabled: Some(enabled) }
    }

    /// What its app is answered, at once.
    pub(super) fn take(mut self) -> Option<Enabled> {
        self.enabled.take()
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let Some(id) = self.enabled.take().map(|enabled| enabled.instance) else { return };
        // Without a runtime the process ends, and the lease ends it.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(wipe(self.inner.clone(), id));
    }
}

async fn wipe(inner: Arc<Inner>, id: InstanceId) {
    tracing::info!(event = "answer-undelivered", instance = %id, "an app hung up before its answer; what it enabled is wiped");
    // While the store is away it is gone on with by itself.
    let _ = inner.wipe(id, Principal::Relay, WipeReason::Disabled).await;
}
