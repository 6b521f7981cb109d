//! An app that hangs up before it has the answer to its enabling.
//!
//! | the app hangs up | its new instance |
//! | --- | --- |
//! | before the instance is stored | is not stored; an earlier instance stays |
//! | later, before the answer is written to the connection | is wiped; an earlier instance stays |
//! | while the answer is on its way | stays: nobody can tell whether the answer arrived |
//!
//! The HTTP server drops the request's future when the client hangs up: it closes an HTTP/1.1 connection, or resets an HTTP/2 stream. The loss of a
//! client's network shows only when TCP or a PING times out.
//!
//! Invariant: an instance whose secret has not reached its app is not kept, as far as this node can know, and replaces no other instance.

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

/// Tells whether the app has hung up before its answer.
pub(crate) struct HangUp(oneshot::Sender<Infallible>);

/// Held by the app's request while it waits. Its drop is the hang-up.
pub(crate) struct WaitingRequest(
    #[expect(dead_code, reason = "its end is what it tells")] oneshot::Receiver<Infallible>,
);

/// The earlier instances that a new one replaces when its app is given the answer.
pub(crate) struct Replaced {
    pub earlier: BTreeSet<InstanceId>,
    /// The lookup that the earlier instances share with the new one.
    pub lookup: Lookup,
}

/// An enabled instance whose secret has not been given to its app. If it is dropped untaken, the instance is wiped and the earlier ones stay.
pub(crate) struct UndeliveredInstance {
    inner: Arc<Inner>,
    enabled: Option<(Enabled, Replaced)>,
}

impl HangUp {
    pub(crate) fn new() -> (Self, WaitingRequest) {
        let (hang_up, request) = oneshot::channel();
        (Self(hang_up), WaitingRequest(request))
    }

    /// Ends when the app hangs up.
    pub(crate) async fn happens(&mut self) {
        self.0.closed().await;
    }

    /// Whether the app has hung up.
    pub(super) fn has_happened(&self) -> bool {
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
        inner.name_again(earlier, id, &lookup).await;
    }
}
