//! The use cases: enable, read, renew, disable; a call's state, progress, decline; what is kept beside calls, the timeline,
//! the export and the test push; and the operator's view.
//!
//! Floor 4 (`api`, `operator`) speaks to [`UseCases`] alone, so that it can be tried against a stand-in.
//!
//! Invariant: nothing that a use case gives back holds a secret, except the instance's own secret in the answer to its
//! enabling.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use sip::id::{CallId, InstanceId, MessageId};
use tokio::sync::mpsc;

use crate::agent::request::{CallRequest, Principal};
use crate::agent::{Agent, Reminded};
use crate::config::DomainRules;
use crate::domain::WipeReason;
use crate::metrics::Metrics;
use crate::net::drain::Drain;
use crate::net::resolve::Resolver;
use crate::secret::InstanceSecret;
use crate::vault::items::{Message, MissedCall};
use crate::vault::{Lookup, Vault};

mod beside;
mod change;
mod enable;
mod resume;
mod turns;
pub mod types;
mod views;
mod wake;
mod wipe;

use turns::Turns;

use types::{
    AccessError, Awake, CallError, CallView, Change, ChangeError, Enable, EnableError, Enabled, Export, Listed,
    OperatorError, OwnExport, Page, Receipt, TestError, Tested, Timeline, View, Wake, WakeError,
};

/// What apps, devices and operators can ask of the relay. Futures are `Send` and may be dropped at any await; what was
/// begun then still ends (an enabling is completed or nothing of it is kept).
pub trait UseCases: Clone + Send + Sync + 'static {
    /// Registers the account once, seals it and keeps it; or keeps nothing.
    fn enable(&self, app: &str, wish: Enable) -> impl Future<Output = Result<Enabled, EnableError>> + Send;

    /// The state of an instance.
    fn read(&self, id: InstanceId, proof: &InstanceSecret) -> impl Future<Output = Result<View, AccessError>> + Send;

    /// A new push token, a renewed lifetime, another presence or other events; all of `change` or nothing.
    fn change(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        change: Change,
    ) -> impl Future<Output = Result<View, ChangeError>> + Send;

    /// Unregisters and wipes. A call that is held gets its final answer.
    fn disable(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<Receipt, AccessError>> + Send;

    /// The state of a call that was offered to the instance's device.
    fn call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> impl Future<Output = Result<CallView, CallError>> + Send;

    /// The device rings: the caller hears 180.
    fn progress(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> impl Future<Output = Result<(), CallError>> + Send;

    /// The device declines: the caller gets 603. Declining a declined call again is no error.
    fn decline(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Wakes the devices of an AOR for a call that its SIP server holds, and waits for the first of them.
    fn wake(&self, wish: Wake) -> impl Future<Output = Result<Awake, WakeError>> + Send;
    /// The messages that are kept for the device, oldest first.
    fn messages(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<Vec<Message>, AccessError>> + Send;

    /// Forgets a message; whether there was one.
    fn forget_message(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        message: MessageId,
    ) -> impl Future<Output = Result<bool, AccessError>> + Send;

    /// The missed calls that are kept for the device, oldest first.
    fn missed_calls(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<Vec<MissedCall>, AccessError>> + Send;

    /// Forgets a missed call; whether there was one.
    fn forget_missed_call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> impl Future<Output = Result<bool, AccessError>> + Send;

    /// What happened to the instance, step by step.
    fn timeline(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<Timeline, AccessError>> + Send;

    /// Everything that is held about the instance, for its own device; secrets left out.
    fn own_export(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<OwnExport, AccessError>> + Send;

    /// Sends a test push; its result stands in the timeline.
    fn test(&self, id: InstanceId, proof: &InstanceSecret) -> impl Future<Output = Result<Tested, TestError>> + Send;

    /// At most `limit` (1 to 1000) instances of this node in the order of their ids, those after `after` alone.
    fn list(&self, after: Option<InstanceId>, limit: usize)
    -> impl Future<Output = Result<Page, OperatorError>> + Send;

    /// One instance, as an operator may see it.
    fn show(&self, id: InstanceId) -> impl Future<Output = Result<Listed, OperatorError>> + Send;

    /// Unregisters and wipes on the operator's word.
    fn wipe(&self, id: InstanceId) -> impl Future<Output = Result<Receipt, OperatorError>> + Send;

    /// What is held about one instance; secrets, AOR and tokens left out.
    fn export(&self, id: InstanceId) -> impl Future<Output = Result<Export, OperatorError>> + Send;
}

/// The use cases of this relay; cheap to clone.
#[derive(Clone)]
pub struct Enrollment(Arc<Inner>);

/// What the use cases stand on.
pub struct Ground {
    /// The agent, with its shards.
    pub agent: Agent,
    /// The store.
    pub vault: Vault,
    /// The metrics.
    pub metrics: Metrics,
    /// DNS and the address policy.
    pub resolver: Resolver,
    /// The SIP domains that accounts may belong to.
    pub domains: DomainRules,
    /// `host:port` of the edge, as devices are told.
    pub edge: Box<str>,
    /// `host:port` of the edge's WebSocket listener, where there is one.
    pub websocket: Option<Box<str>>,
    /// The push services of each App.
    pub services: HashMap<Box<str>, Services>,
    /// When it begins, nothing is enabled any more.
    pub drain: Drain,
}

/// Which push services an App has at this relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Services {
    /// Apple's.
    pub apns: bool,
    /// Google's.
    pub fcm: bool,
}

struct Inner {
    ground: Ground,
    /// One enabling at a time for the same app, AOR and push token.
    enabling: Turns<Lookup>,
    /// One change at a time for an instance.
    changing: Turns<InstanceId>,
}

impl Enrollment {
    /// The use cases over an agent that runs.
    pub fn new(ground: Ground) -> Self {
        Self(Arc::new(Inner { ground, enabling: Turns::default(), changing: Turns::default() }))
    }

    /// Writes down which reminders of a lease's end the agent has sent, so that a restart does not repeat them.
    pub async fn write_down_reminders(self, sent: mpsc::UnboundedReceiver<Reminded>) {
        self.0.write_down_reminders(sent).await;
    }
}

impl UseCases for Enrollment {
    async fn enable(&self, app: &str, wish: Enable) -> Result<Enabled, EnableError> {
        let (it, app) = (self.0.clone(), app.into());
        // In a task of its own: an app that hangs up leaves no half of an enabling.
        tokio::spawn(async move { it.enable(app, wish).await }).await.unwrap_or(Err(EnableError::Draining))
    }

    async fn read(&self, id: InstanceId, proof: &InstanceSecret) -> Result<View, AccessError> {
        let standing = self.0.look(id, proof).await?;
        self.0.whole_view(&standing).await.ok_or(AccessError::Unknown)
    }

    async fn change(&self, id: InstanceId, proof: &InstanceSecret, change: Change) -> Result<View, ChangeError> {
        let (it, proof) = (self.0.clone(), proof.clone());
        let change = tokio::spawn(async move { it.change(id, &proof, change).await });
        change.await.unwrap_or(Err(ChangeError::Access(AccessError::StoreAway)))
    }

    async fn disable(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Receipt, AccessError> {
        self.0.wipe(id, Principal::Device(proof.clone()), WipeReason::Disabled).await
    }

    async fn call(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<CallView, CallError> {
        self.0.call(id, proof, call, CallRequest::Look).await
    }

    async fn progress(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<(), CallError> {
        self.0.call(id, proof, call, CallRequest::Ring).await.map(drop)
    }

    async fn decline(&self, id: InstanceId, proof: &InstanceSecret, call: CallId) -> Result<(), CallError> {
        self.0.call(id, proof, call, CallRequest::Decline).await.map(drop)
    }

    async fn wake(&self, wish: Wake) -> Result<Awake, WakeError> {
        self.0.wake(wish).await
    }

    async fn messages(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<Message>, AccessError> {
        self.0.messages(id, proof).await
    }

    async fn forget_message(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        message: MessageId,
    ) -> Result<bool, AccessError> {
        self.0.forget_message(id, proof, message).await
    }

    async fn missed_calls(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Vec<MissedCall>, AccessError> {
        self.0.missed_calls(id, proof).await
    }

    async fn forget_missed_call(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        call: CallId,
    ) -> Result<bool, AccessError> {
        self.0.forget_missed_call(id, proof, call).await
    }

    async fn timeline(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Timeline, AccessError> {
        self.0.timeline(id, proof).await
    }

    async fn own_export(&self, id: InstanceId, proof: &InstanceSecret) -> Result<OwnExport, AccessError> {
        self.0.own_export(id, proof).await
    }

    async fn test(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Tested, TestError> {
        self.0.test(id, proof).await
    }

    async fn list(&self, after: Option<InstanceId>, limit: usize) -> Result<Page, OperatorError> {
        Ok(self.0.list(after, limit).await)
    }

    async fn show(&self, id: InstanceId) -> Result<Listed, OperatorError> {
        let standing = self.0.look_as_relay(id).await?;
        self.0.listed(&standing).ok_or(OperatorError::Unknown)
    }

    async fn wipe(&self, id: InstanceId) -> Result<Receipt, OperatorError> {
        self.0.wipe(id, Principal::Relay, WipeReason::Operator).await.map_err(|error| match error {
            AccessError::StoreAway => OperatorError::StoreAway,
            AccessError::Unknown | AccessError::Forbidden => OperatorError::Unknown,
        })
    }

    async fn export(&self, id: InstanceId) -> Result<Export, OperatorError> {
        self.0.export(id).await
    }
}
