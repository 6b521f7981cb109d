//! Requests of a device, made with its instance's secret.
//!
//! Invariant: a future may be dropped at any await. Work under way then completes, or leaves nothing behind.

use std::future::Future;

use sip::id::{CallId, InstanceId, MessageId};
use thiserror::Error;
use tracing::Instrument as _;

use super::Service;
use super::views::{CallStatus, CallView, View, Wiped};
use crate::agent::request::CallRequest;
use crate::domain::story::Story;
use crate::domain::words;
use crate::hpke::PublicKey;
use crate::secret::{Aor, InstanceSecret};
use crate::vault::SealError;
use crate::vault::items::{Message, MissedCall};
use crate::vault::record::{Presence, PushTarget, WakeFor};

pub use crate::agent::request::{Tested, TraceAnswer, TraceRequest};
pub use crate::agent::tables::timeline::{Step, TimelineEvent};

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

/// A device's changes; a field that is `None` or [`Field::Keep`] stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The new target of calls.
    pub call_push: Option<PushTarget>,
    /// The new target of everything else.
    pub alert_push: Field<PushTarget>,
    /// The key that what names a person is sealed to from now on.
    pub public_key: Field<PublicKey>,
    /// Renew: seconds from now, within the configured range.
    pub lifetime_s: Option<u64>,
    /// Whether the app registers by itself from now on.
    pub presence: Option<Presence>,
    /// The events that wake the device from now on.
    pub wake_for: Option<WakeFor>,
}

/// A change to an optional field (JSON merge patch, RFC 7396).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Field<T> {
    /// The field was not named.
    #[default]
    Keep,
    /// The field was `null`.
    Clear,
    /// The field has a new value.
    Set(T),
}

/// The timeline of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// When it was enabled, in milliseconds since 1970.
    pub enabled_at_ms: u64,
    /// The steps since then that this process knows of, oldest first.
    pub steps: Vec<Step>,
}

words!(
    /// As what the digest's secret is held.
    OwnCredential {
        /// The password.
        Password = "password",
        /// The hash that answers the SIP server in place of the password.
        Ha1 = "ha1",
    }
);

/// Everything that is held about an instance, as its own device may have it: no password or digest, no push token, no
/// instance secret.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnExport {
    /// The instance.
    pub view: View,
    /// The App's id.
    pub app: Box<str>,
    /// The address of record.
    pub aor: Aor,
    /// The digest's user name.
    pub auth_username: Box<str>,
    /// As what the digest's secret is held.
    pub credential: OwnCredential,
    /// The registrar, where the app named one.
    pub registrar: Option<Box<str>>,
    /// The outbound proxy, where the app named one.
    pub outbound_proxy: Option<Box<str>>,
    /// Its calls that are still known.
    pub calls: Vec<(CallId, CallView)>,
    /// The timeline.
    pub timeline: Timeline,
    /// The messages that are kept.
    pub messages: Vec<Message>,
    /// The missed calls that are kept.
    pub missed_calls: Vec<MissedCall>,
    /// The stories of its calls.
    pub stories: Vec<Story>,
}

/// Why a device may not do what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is no such instance, or it was wiped: 404.
    #[error("no such instance")]
    Unknown,
    /// The secret is not the instance's: 401.
    #[error("the secret is not the instance's")]
    Forbidden,
    /// The store does not answer: 503.
    #[error("the store is away")]
    StoreAway,
    /// The instance has ended, and neither the store nor the disk takes that down: 503. It is tried again, and a crash before that may bring it back.
    #[error("the instance has ended, and that is not written down")]
    Unwritten,
    /// The secret is right, but the node that looks after the instance does not answer, or none does yet: 503.
    #[error("the instance's owner is away")]
    OwnerAway,
}

/// Why a change was not made; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The App has no such push service at this relay.
    #[error("the push provider is not configured for this app")]
    ProviderNotConfigured {
        /// The alert target asks for it, not the call target.
        alert: bool,
    },
}

impl From<SealError> for ChangeError {
    /// A record that does not open is lost.
    fn from(_: SealError) -> Self {
        Self::Access(AccessError::Unknown)
    }
}

/// Why a call's state was not told or not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The instance has no such call, or not any more: 404.
    #[error("no such call")]
    UnknownCall,
    /// The call has ended, so it cannot ring or be declined: 409.
    #[error("the call is over")]
    Over(CallStatus),
}

/// Why a recording was not begun, read or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TraceError {
    /// The requester has no access.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nothing is recorded: 404.
    #[error("nothing is recorded")]
    None,
    /// Too many are recorded at once: 429.
    #[error("too many are recorded at once")]
    TooMany,
}

/// Why no test push was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TestError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There is only a VoIP token, which takes nothing but calls: 409.
    #[error("there is no target that takes a test push")]
    NoTarget,
    /// The last ones were too recent: 429.
    #[error("too soon")]
    TooSoon {
        /// How long to wait, in seconds.
        wait_s: u64,
    },
}

impl DeviceService for Service {
    async fn read(&self, id: InstanceId, proof: &InstanceSecret) -> Result<View, AccessError> {
        let status = match self.0.look(id, proof).await {
            Err(AccessError::OwnerAway) => {
                let status = self.0.look_at_record(id, proof).await.ok_or(AccessError::OwnerAway)?;
                self.0.serve_if_released(id);
                status
            }
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
