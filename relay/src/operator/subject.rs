//! The instance that a request of an operator is about, and the answer when there is none.
//!
//! Invariant: the id is taken from the path alone.

use axum::extract::Request;
use sip::id::InstanceId;

use crate::api::problem::{Problem, ProblemType};
use crate::service::operators::OperatorError;

/// As the path names it: `/v1/operator/instances/{id}`.
pub(super) fn instance(request: &Request) -> Result<InstanceId, Problem> {
    let id = request.uri().path().split('/').nth(4).and_then(InstanceId::parse);
    id.ok_or_else(|| refusal(OperatorError::Unknown))
}

pub(super) fn refusal(error: OperatorError) -> Problem {
    match error {
        OperatorError::Unknown => {
            Problem::new(ProblemType::UnknownInstance, "No node of this store has such an instance.")
        }
        OperatorError::Unwritten => {
            let detail = "It has ended and its SIP server was told, but neither the store nor the disk beside the keyring has taken that down: until one does, a crash may bring it back. Make room, and wipe it again.";
            Problem::new(ProblemType::StoreAway, detail).retry_after(5)
        }
        OperatorError::StoreAway => {
            Problem::new(ProblemType::StoreAway, "Nothing was changed; /readyz tells more.").retry_after(5)
        }
    }
}
