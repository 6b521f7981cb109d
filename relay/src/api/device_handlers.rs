//! The routes beside calls: the device's kept items, its timeline, its export, and the test push.
//!
//! Invariant: as in `handlers`; an answer with what somebody wrote ends its connection.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sip::id::MessageId;

use super::ApiService;
use super::handlers::{InstanceAccess, answer, call_of, segment, too_many, unknown_call};
use super::problem::{Problem, ProblemType};
use super::{Api, device_views, views};
use crate::service::devices::TestError;

/// `GET /v1/instances/{id}/messages`
pub async fn messages<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let messages = access.judge(&api, api.0.service.messages(access.id, &access.secret).await)?;
    api.0.boxes.answer(access.id, access.from, &device_views::messages(&messages))
}

/// `DELETE /v1/instances/{id}/messages/{message}`
pub async fn forget_message<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let (access, message) = (InstanceAccess::of(&request)?, segment(&request, 5).and_then(MessageId::parse));
    let forgotten = match message {
        Some(message) => api.0.service.forget_message(access.id, &access.secret, message).await,
        // As an unknown message, but only to who holds the secret.
        None => api.0.service.read(access.id, &access.secret).await.map(|_| false),
    };
    if access.judge(&api, forgotten)? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Problem::new(ProblemType::UnknownMessage, "It was never there, or it was deleted or is over."))
    }
}

/// `GET /v1/instances/{id}/missed-calls`
pub async fn missed_calls<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let missed = access.judge(&api, api.0.service.missed_calls(access.id, &access.secret).await)?;
    api.0.boxes.answer(access.id, access.from, &device_views::missed_calls(&missed))
}

/// `DELETE /v1/instances/{id}/missed-calls/{call}`
pub async fn forget_missed_call<E: ApiService>(
    State(api): State<Api<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let (access, call) = (InstanceAccess::of(&request)?, call_of(&request));
    let forgotten = match call {
        Some(call) => api.0.service.forget_missed_call(access.id, &access.secret, call).await,
        None => api.0.service.read(access.id, &access.secret).await.map(|_| false),
    };
    if access.judge(&api, forgotten)? { Ok(StatusCode::NO_CONTENT.into_response()) } else { Err(unknown_call()) }
}

/// `GET /v1/instances/{id}/timeline`
pub async fn timeline<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let timeline = access.judge(&api, api.0.service.timeline(access.id, &access.secret).await)?;
    api.0.boxes.answer(access.id, access.from, &device_views::timeline(access.id, &timeline))
}

/// `GET /v1/instances/{id}/export`
pub async fn export<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let export = access.judge(&api, api.0.service.own_export(access.id, &access.secret).await)?;
    api.0.boxes.answer(access.id, access.from, &device_views::export(&export))
}

/// `POST /v1/instances/{id}/test`
pub async fn test<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    match api.0.service.test(access.id, &access.secret).await {
        Ok(tested) => Ok(answer(StatusCode::ACCEPTED, &views::tested(tested))),
        Err(TestError::Access(error)) => access.judge(&api, Err(error)),
        Err(TestError::TooSoon { wait_s }) => Err(too_many(wait_s)),
        Err(TestError::NoTarget) => Err(Problem::new(
            ProblemType::NoAlertTarget,
            "The instance has only an APNs VoIP token, on which nothing but a call may be pushed: a phone stops waking an \
             app that gets others. Set device.alert_push, and test that.",
        )),
    }
}
