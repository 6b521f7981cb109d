//! `POST /v1/instances`: an account is lent.
//!
//! Invariant: the order is key, body, limit, use case, as of every route; the body is gone before the SIP server is spoken to.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;

use super::enable_body::Rules;
use super::given_up::given_up_elsewhere;
use super::handlers::{admit_app, answer, enable_problem, too_many};
use super::problem::Problem;
use super::{Api, ApiService, body, enable_body, enable_elsewhere, json, views};
use crate::clock::unix_now_ms;
use crate::service::apps::EnableError;
use crate::service::views::RegistrationState;

/// `POST /v1/instances`
pub async fn enable<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let (from, at_call) = (enable_elsewhere::asked_by(&request), enable_elsewhere::Carried::of(&request));
    let app = admit_app(&api, &request, from)?;
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON).await?;
    let rules =
        Rules { lifetime: api.0.lifetime, apns: app.apns, fcm: app.fcm, webpush: app.webpush, now_ms: unix_now_ms() };
    let request = json::parse(&body).and_then(|tree| enable_body::read(&tree, &rules))?;
    match at_call {
        // The node that was asked has counted it.
        Some(carried) => carried.begin(&api, &app.id, &request).await?,
        None => {
            let now = Instant::now();
            api.0.enables_by_address.take(from, now).map_err(too_many)?;
            api.0.enables_by_app.take(app.id.clone(), now).map_err(too_many)?;
            let asking = enable_elsewhere::Asking { app: &app.id, from, request: &request };
            if let Some(done) = enable_elsewhere::carry(&api, &asking, &parts, &body).await {
                return Ok(done);
            }
        }
    }
    drop(body);
    let enabled = tokio::select! {
        enabled = api.0.service.enable(&app.id, from, request) => enabled,
        // As where the app had hung up here: the enabling is dropped, and leaves nothing.
        () = given_up_elsewhere(&api.0.service, &parts) => Err(EnableError::HungUp),
    };
    let enabled = enabled.map_err(enable_problem)?;
    let status = match enabled.registration.state {
        RegistrationState::Registered => StatusCode::CREATED,
        _ => StatusCode::ACCEPTED,
    };
    let mut response = answer(status, &views::enabled(&enabled));
    if let Ok(location) = HeaderValue::try_from(format!("/v1/instances/{}", enabled.instance)) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}
