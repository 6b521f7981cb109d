//! `POST /v1/doctor`: an app asks what would go wrong with an account.
//!
//! Invariant: as everywhere here: key, body, limit, use case. Nothing of the account is kept or logged.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;

use super::ApiService;
use super::handlers::{admit_app, answer, enable_problem, too_many};
use super::problem::Problem;
use super::{Api, body, doctor_body, json as body_json, peer};
use crate::service::ExamineError;
use crate::service::apps::EnableError;

/// How long a client waits when too many accounts are being examined, in seconds.
const BUSY_RETRY_S: u64 = 10;

/// `POST /v1/doctor`
pub async fn examine<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let from = peer(&request);
    let app = admit_app(&api, &request, from)?;
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON).await?;
    let patient = body_json::parse(&body).and_then(|tree| doctor_body::read(&tree))?;
    drop(body);
    let now = Instant::now();
    api.0.examinations_by_address.take(from, now).map_err(too_many)?;
    api.0.examinations_by_app.take(app.id.clone(), now).map_err(too_many)?;
    let report = api.0.service.examine(&app.id, from, patient).await.map_err(|error| match error {
        ExamineError::TooManyFailures { retry_after_s } => {
            enable_problem(EnableError::TooManyFailures { retry_after_s })
        }
        ExamineError::Busy => too_many(BUSY_RETRY_S),
    })?;
    Ok(answer(StatusCode::OK, &report.to_json()))
}
