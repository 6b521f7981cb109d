//! `POST /v1/wake`: a SIP server that holds a call has the devices of its callee woken.
//!
//! Invariant: as everywhere here: key, body, limit, use case. No AOR is kept or logged.

use std::hash::BuildHasher;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use sip::message::Uri;

use super::ApiService;
use super::access::{AdmittedServer, bearer};
use super::handlers::{FULL_RETRY_S, answer, failed, too_many};
use super::problem::{Problem, ProblemType};
use super::{Api, body, json as body_json, peer, wake_body};
use crate::service::types::{Wake, WakeError};

const WANT_SERVER_KEY: &str = "Send the SIP server's key as Authorization: Bearer KEY.";

/// `POST /v1/wake`
pub async fn wake<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let from = peer(&request);
    let shown = bearer(request.headers(), WANT_SERVER_KEY)?;
    let server = api.0.sip_servers.load().admit(shown).ok_or_else(|| failed(&api, from, WANT_SERVER_KEY))?;
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON).await?;
    let mut wish = body_json::parse(&body).and_then(|tree| wake_body::read(&tree))?;
    wish.registrars = server.registrars.clone();
    drop(body);
    check_domain(&server, &wish)?;
    let now = Instant::now();
    api.0.wakes_by_server.take(server.id.clone(), now).map_err(too_many)?;
    api.0.wakes_by_aor.take(api.0.aor_hash.hash_one(wish.aor.expose()), now).map_err(too_many)?;
    let awake = api.0.service.wake(wish).await.map_err(problem)?;
    Ok(answer(StatusCode::OK, &json!({"awake": awake.awake, "known": awake.known})))
}

fn check_domain(server: &AdmittedServer, wish: &Wake) -> Result<(), Problem> {
    let allowed = Uri::parse(wish.aor.expose()).is_some_and(|aor| server.domains.allow(aor.host));
    if allowed { Ok(()) } else { Err(problem(WakeError::DomainNotAllowed)) }
}

fn problem(error: WakeError) -> Problem {
    match error {
        WakeError::DomainNotAllowed => Problem::new(
            ProblemType::DomainNotAllowed,
            "This key wakes devices of other SIP domains; the operator can add one under sip_server.domains.",
        ),
        WakeError::Unknown => Problem::new(
            ProblemType::UnknownAor,
            "No app has enabled push for this address here by a SIP server that serves its domain (sip_server.registrars names others), or its lease has ended: go on as without a relay.",
        ),
        WakeError::NoneInTime => Problem::new(
            ProblemType::NoDeviceInTime,
            "Its devices were woken and none came: go on as if nobody answered.",
        ),
        WakeError::Draining => Problem::new(ProblemType::Draining, "Ask another relay.").retry_after(FULL_RETRY_S),
    }
}
