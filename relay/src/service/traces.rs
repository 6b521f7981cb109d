//! Recording the SIP of one instance, for its user or the operator.
//!
//! Invariant: only scrubbed messages leave the shard.

use sip::id::InstanceId;

use super::Inner;
use super::devices::{AccessError, TraceAnswer, TraceError, TraceRequest};
use crate::agent::request::{Principal, Request, TraceDenied};
use crate::secret::InstanceSecret;

impl Inner {
    /// A trace request from the holder of an instance's secret.
    pub(super) async fn trace(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        request: TraceRequest,
    ) -> Result<TraceAnswer, TraceError> {
        match self.ask_trace(id, Principal::Device(proof.clone()), request).await {
            Some(Err(TraceDenied::Denied(denied))) => Err(self.denied(id, denied, proof).await.into()),
            other => judged(other),
        }
    }

    /// A trace request from an operator.
    pub(super) async fn trace_as_relay(
        &self,
        id: InstanceId,
        request: TraceRequest,
    ) -> Result<TraceAnswer, TraceError> {
        judged(self.ask_trace(id, Principal::Relay, request).await)
    }

    async fn ask_trace(
        &self,
        id: InstanceId,
        who: Principal,
        request: TraceRequest,
    ) -> Option<Result<TraceAnswer, TraceDenied>> {
        self.dependencies.agent.ask(id, |reply| Request::Trace { id, who, request, reply }).await
    }
}

fn judged(answer: Option<Result<TraceAnswer, TraceDenied>>) -> Result<TraceAnswer, TraceError> {
    answer.ok_or(AccessError::StoreAway)?.map_err(|denied| match denied {
        TraceDenied::Denied(_) => AccessError::Unknown.into(),
        TraceDenied::None => TraceError::None,
        TraceDenied::TooMany => TraceError::TooMany,
    })
}
