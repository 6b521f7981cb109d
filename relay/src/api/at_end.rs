//! Requests at a node that ends, whose door stays open while calls wait with it.
//!
//! | a request | while calls wait |
//! | --- | --- |
//! | of a call, one that only reads, `DELETE` | answered as before: a phone that was woken may ask, ring and decline, and what is wiped is wiped |
//! | `POST /v1/instances`, `/v1/wake` | 503 `draining`, by their own use cases |
//! | another one that changes an instance, sends a push, or goes on for long | 503 `draining`, unless another node has the instance and answers |
//!
//! Invariant: nothing begins here that the end would cut off. What another node asks by letter is done as long as letters are read.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::carried::Carried;
use super::problem::{Problem, ProblemType};
use super::{Api, ApiService, Endpoint};

/// How long a client waits before it asks again, in seconds: another node has the instance by then, or this one has started again.
const RETRY_S: u64 = 5;

/// Lets a request pass that is answered while this node ends.
pub(super) async fn judge<E: ApiService>(State(api): State<Api<E>>, request: Request, next: Next) -> Response {
    let is_carried = request.extensions().get::<Carried>().is_some();
    let is_refused = !is_carried && api.0.service.is_draining() && begins_something(&request);
    if !is_refused {
        return next.run(request).await;
    }
    Problem::new(ProblemType::Draining, "Use another relay, or try later.").retry_after(RETRY_S).into_response()
}

fn begins_something(request: &Request) -> bool {
    const BEGIN: [Endpoint; 4] = [Endpoint::Change, Endpoint::Test, Endpoint::BeginTrace, Endpoint::Doctor];
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    BEGIN.iter().any(|endpoint| path == Some(endpoint.template()) && endpoint.answers(request.method()))
}
