//! The use cases: enable, read, renew, disable; a call's state, progress, decline; and the operator's view.
//!
//! Floor 4 (`api`, `operator`) speaks to [`UseCases`] alone, so that it can be tried against a stand-in.
//!
//! Invariant: nothing that a use case gives back holds a secret, except the instance's own secret in the answer to its
//! enabling.

use std::future::Future;

use sip::id::{CallId, InstanceId};

use crate::secret::InstanceSecret;

pub mod types;

use types::{
    AccessError, CallError, CallView, Change, ChangeError, Enable, EnableError, Enabled, Export, Listed, OperatorError,
    Page, Receipt, View,
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
///
/// Not wired to an agent yet: every question is answered as if the store were away.
#[derive(Clone, Debug, Default)]
pub struct Enrollment {}

impl UseCases for Enrollment {
    async fn enable(&self, _app: &str, _wish: Enable) -> Result<Enabled, EnableError> {
        Err(EnableError::StoreAway)
    }

    async fn read(&self, _id: InstanceId, _proof: &InstanceSecret) -> Result<View, AccessError> {
        Err(AccessError::StoreAway)
    }

    async fn change(&self, _id: InstanceId, _proof: &InstanceSecret, _change: Change) -> Result<View, ChangeError> {
        Err(AccessError::StoreAway.into())
    }

    async fn disable(&self, _id: InstanceId, _proof: &InstanceSecret) -> Result<Receipt, AccessError> {
        Err(AccessError::StoreAway)
    }

    async fn call(&self, _id: InstanceId, _proof: &InstanceSecret, _call: CallId) -> Result<CallView, CallError> {
        Err(AccessError::StoreAway.into())
    }

    async fn progress(&self, _id: InstanceId, _proof: &InstanceSecret, _call: CallId) -> Result<(), CallError> {
        Err(AccessError::StoreAway.into())
    }

    async fn decline(&self, _id: InstanceId, _proof: &InstanceSecret, _call: CallId) -> Result<(), CallError> {
        Err(AccessError::StoreAway.into())
    }

    async fn list(&self, _after: Option<InstanceId>, _limit: usize) -> Result<Page, OperatorError> {
        Err(OperatorError::StoreAway)
    }

    async fn show(&self, _id: InstanceId) -> Result<Listed, OperatorError> {
        Err(OperatorError::StoreAway)
    }

    async fn wipe(&self, _id: InstanceId) -> Result<Receipt, OperatorError> {
        Err(OperatorError::StoreAway)
    }

    async fn export(&self, _id: InstanceId) -> Result<Export, OperatorError> {
        Err(OperatorError::StoreAway)
    }
}
