//! The routes of an instance's trace, for its device and for operators.
//!
//! Invariant: the trace in an answer was scrubbed; an answer with a trace ends its connection, and is one of those that are counted
//! (`answer_budget`).

use axum::extract::{Request, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::handlers::{InstanceAccess, answer, too_many};
use super::json::{At, Errors};
use super::problem::{Problem, ProblemType};
use super::{Api, ApiService, body, json as body_json};
use crate::clock::rfc3339;
use crate::service::devices::{TraceAnswer, TraceError, TraceRequest};

/// How long a trace records, in seconds: at least, at most, and when nobody says.
const FOR_S: (u64, u64, u64) = (1, 3_600, 600);
/// When a further trace may be tried, in seconds.
const FULL_RETRY_S: u64 = 60;

/// `POST /v1/instances/{id}/trace`
pub async fn begin<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    // The secret is checked before the body is taken in, as for a change.
    access.judge(&api, api.0.service.read(access.id, &access.secret).await)?;
    let trace = read(request).await?;
    told(&api, &access, api.0.service.trace(access.id, &access.secret, trace).await)
}

/// `GET /v1/instances/{id}/trace`
pub async fn fetch<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    // The requester is authenticated before it gets a place, and has a place before the shard copies the recording.
    access.judge(&api, api.0.service.read(access.id, &access.secret).await)?;
    let place = api.0.boxes.place(access.id, access.from)?;
    let trace = told(&api, &access, api.0.service.trace(access.id, &access.secret, TraceRequest::Read).await)?;
    place.hold(trace).await
}

/// `DELETE /v1/instances/{id}/trace`
pub async fn end<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    told(&api, &access, api.0.service.trace(access.id, &access.secret, TraceRequest::End).await)
}

fn told<E>(
    api: &Api<E>,
    access: &InstanceAccess,
    outcome: Result<TraceAnswer, TraceError>,
) -> Result<Response, Problem> {
    match outcome {
        Err(TraceError::Access(error)) => access.judge(api, Err(error)),
        other => answered(other),
    }
}

/// Reads `{"for_s": 600}`.
pub(crate) async fn read(request: Request) -> Result<TraceRequest, Problem> {
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON).await?;
    let tree = body_json::parse(&body)?;
    let mut errors = Errors::default();
    let (min, max, default) = FOR_S;
    let for_s = At::root(&tree).object(&["for_s"], &mut errors).and_then(|fields| match fields.get("for_s") {
        None => Some(default),
        Some(at) => at.whole(min, max, &mut errors),
    });
    errors.into_result(for_s.map(|for_s| TraceRequest::Begin { for_s }))
}

/// The answer to a requester that has access.
pub(crate) fn answered(outcome: Result<TraceAnswer, TraceError>) -> Result<Response, Problem> {
    match outcome {
        Ok(TraceAnswer::Begun { until }) => Ok(answer(StatusCode::ACCEPTED, &json!({"until": rfc3339(until)}))),
        Ok(TraceAnswer::File(bytes)) => {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static("application/x-pcapng")),
                (CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"sipwake.pcapng\"")),
            ];
            Ok((headers, bytes).into_response())
        }
        Ok(TraceAnswer::Ended) => Ok(StatusCode::NO_CONTENT.into_response()),
        Err(TraceError::Access(_)) => {
            Err(Problem::new(ProblemType::UnknownInstance, "This node has no such instance."))
        }
        Err(TraceError::None) => Err(Problem::new(
            ProblemType::NoTrace,
            "Nothing is recorded: begin a trace with POST; it erases itself at the end of its time.",
        )),
        Err(TraceError::TooMany) => Err(too_many(FULL_RETRY_S)),
    }
}
