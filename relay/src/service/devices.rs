//! Requests of a device, made with its instance's secret.
//!
//! Invariant: a future may be dropped at any await; work in progress then still completes, or leaves nothing behind.

use std::future::Future;

use sip::id::{CallId, InstanceId, MessageId};
use tracing::Instrument as _;

use super::Service;
use super::types::{
    AccessError, CallError, CallView, Change, ChangeError, OwnExport, TestError, Tested, Timeline, TraceAnswer,
    TraceError, TraceRequest, View, Wiped,
};
use crate::agent::request::CallRequest;
use crate::secret::InstanceSecret;
use crate::vault::items::{Message, MissedCall};

/// Requests of a device, made with its instance's secret.
pub trait DeviceService: Clone + Send + Sync + 'static {
    /// The state of an instance.
    fn read(&self, id: InstanceId, proof: &InstanceSecret) -> impl Future<Output = Result<View, AccessError>> + Send;

    /// A new push token, a renewed lifetime, another presence or other events; all of `change` or nothing.
    fn change(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        change: Change,
    ) -> impl Future<Output = Result<View, ChangeError>> + Send;

    /// Unregisters and wipes. A call that waits gets its final answer.
    fn disable(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
    ) -> impl Future<Output = Result<Wiped, AccessError>> + Send;

    /// The state of a call that was forked or pushed to the instance's device.
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

    /// The timeline of the instance, step by step.
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

    /// Records the instance's SIP, gives what was recorded, or erases it.
    fn trace(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        request: TraceRequest,
    ) -> impl Future<Output = Result<TraceAnswer, TraceError>> + Send;
}

impl DeviceService for Service {
    async fn read(&self, id: InstanceId, proof: &InstanceSecret) -> Result<View, AccessError> {
        let status = match self.0.look(id, proof).await {
            Err(AccessError::OwnerAway) => self.0.look_at_record(id, proof).await.ok_or(AccessError::OwnerAway)?,
            looked => looked?,
        };
        self.0.whole_view(&status).await.ok_or(AccessError::Unknown)
    }

    async fn change(&self, id: InstanceId, proof: &InstanceSecret, change: Change) -> Result<View, ChangeError> {
        let (it, proof) = (self.0.clone(), proof.clone());
        let change = tokio::spawn(async move { it.change(id, &proof, change).await }.in_current_span());
        change.await.unwrap_or(Err(ChangeError::Access(AccessError::StoreAway)))
    }

    async fn disable(&self, id: InstanceId, proof: &InstanceSecret) -> Result<Wiped, AccessError> {
        let (it, proof) = (self.0.clone(), proof.clone());
        // In a task of its own: a client that hangs up leaves no earlier instance behind that this one stands for.
        let disabling = tokio::spawn(async move { it.disable(id, proof).await }.in_current_span());
        disabling.await.unwrap_or(Err(AccessError::StoreAway))
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

    async fn trace(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        request: TraceRequest,
    ) -> Result<TraceAnswer, TraceError> {
        self.0.trace(id, proof, request).await
    }
}
