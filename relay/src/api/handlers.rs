//! One function for each route: authentication, parsing, the use case, the answer.
//!
//! Invariant: the order is always key, body, limit, use case; a refusal at one step says nothing about the next. A key is
//! looked at whatever its address has failed at; only wrong ones are slowed down.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sip::id::{CallId, InstanceId};

use super::ApiService;
use super::access::{Admitted, bearer};
use super::problem::{FieldError, Problem, ProblemType};
use super::{Api, OPENAPI, body, device_body, json, peer, views};
use crate::clock::unix_now_ms;
use crate::domain::{WipeReason, Word as _};
use crate::secret::InstanceSecret;
use crate::service::apps::{EnableError, Refusal};
use crate::service::devices::{AccessError, CallError, ChangeError};
use crate::service::views::Wiped;

const WANT_APP_KEY: &str = "Send the app's key as Authorization: Bearer KEY.";
const WANT_SECRET: &str = "Send the instance's secret as Authorization: Bearer SECRET.";
/// How long a client waits before it asks a relay again whose store is away, in seconds.
pub(super) const STORE_AWAY_RETRY_S: u64 = 5;
/// How long a client waits before it asks a full or draining relay again, in seconds.
pub(super) const FULL_RETRY_S: u64 = 30;

/// `GET /v1/instances/{id}`
pub async fn read<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let view = access.judge(&api, api.0.service.read(access.id, &access.secret).await)?;
    Ok(answer(StatusCode::OK, &views::view(&view)))
}

/// `PATCH /v1/instances/{id}`
pub async fn change<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    // The secret is checked before the body is taken in: a stranger learns nothing and costs nothing.
    access.judge(&api, api.0.service.read(access.id, &access.secret).await)?;
    let (parts, body) = request.into_parts();
    let body = body::take(&parts.headers, body, body::JSON_OR_MERGE_PATCH).await?;
    let change = json::parse(&body).and_then(|tree| device_body::read_change(&tree, api.0.lifetime, unix_now_ms()))?;
    drop(body);
    let view = match api.0.service.change(access.id, &access.secret, change).await {
        Err(ChangeError::ProviderNotConfigured { alert }) => return Err(provider_not_configured(alert)),
        Err(ChangeError::Access(error)) => access.judge(&api, Err(error))?,
        Ok(view) => view,
    };
    Ok(answer(StatusCode::OK, &views::view(&view)))
}

/// `DELETE /v1/instances/{id}`
pub async fn disable<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let access = InstanceAccess::of(&request)?;
    let wiped = access.judge(&api, api.0.service.disable(access.id, &access.secret).await)?;
    let status = if wiped == Wiped::Wiping { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(answer(status, &views::wiped(&wiped)))
}

/// `GET /v1/instances/{id}/calls/{call}`
pub async fn call<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let (access, call) = (InstanceAccess::of(&request)?, call_of(&request));
    let outcome = match call {
        Some(call) => api.0.service.call(access.id, &access.secret, call).await,
        None => access.no_such_call(&api).await,
    };
    let view = access.judge_call(&api, outcome)?;
    Ok(answer(StatusCode::OK, &views::call(&view)))
}

/// `POST /v1/instances/{id}/calls/{call}/progress`
pub async fn progress<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let (access, call) = (InstanceAccess::of(&request)?, call_of(&request));
    let outcome = match call {
        Some(call) => api.0.service.progress(access.id, &access.secret, call).await,
        None => access.no_such_call(&api).await,
    };
    access.judge_call(&api, outcome)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `POST /v1/instances/{id}/calls/{call}/decline`
pub async fn decline<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let (access, call) = (InstanceAccess::of(&request)?, call_of(&request));
    let outcome = match call {
        Some(call) => api.0.service.decline(access.id, &access.secret, call).await,
        None => access.no_such_call(&api).await,
    };
    access.judge_call(&api, outcome)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET /v1/keys`: a JWK Set (RFC 7517) with the Ed25519 key of receipts (RFC 8037).
pub async fn keys<E: ApiService>(State(api): State<Api<E>>) -> Response {
    answer(StatusCode::OK, &views::keys(&(api.0.receipt_key)()))
}

/// `GET /v1/webpush-key`: what the app's pages and phones subscribe with (RFC 8292 §4).
pub async fn webpush_key<E: ApiService>(State(api): State<Api<E>>, request: Request) -> Result<Response, Problem> {
    let app = admit_app(&api, &request, peer(&request))?;
    let none = || Problem::new(ProblemType::NotFound, "This relay has no [app.webpush] configured for this app.");
    let key = app.webpush_key.as_deref().ok_or_else(none)?;
    Ok(answer(StatusCode::OK, &serde_json::json!({"public_key": key})))
}

/// `GET /v1/openapi.json`
pub async fn openapi() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}

/// The App whose key `request` shows.
pub(super) fn admit_app<E>(api: &Api<E>, request: &Request, from: IpAddr) -> Result<Arc<Admitted>, Problem> {
    let shown = bearer(request.headers(), WANT_APP_KEY)?;
    api.0.apps.load().admit(shown).ok_or_else(|| failed(api, from, WANT_APP_KEY))
}

/// The access to one instance that a request asks for: its secret, and where the request came from.
pub(super) struct InstanceAccess {
    /// The instance.
    pub id: InstanceId,
    /// The secret that the request shows.
    pub secret: InstanceSecret,
    /// The source address of the request.
    pub from: IpAddr,
}

impl InstanceAccess {
    pub(super) fn of(request: &Request) -> Result<Self, Problem> {
        let from = peer(request);
        let secret = InstanceSecret::new(bearer(request.headers(), WANT_SECRET)?);
        let id = segment(request, 3).and_then(InstanceId::parse).ok_or_else(unknown_instance)?;
        Ok(Self { id, secret, from })
    }

    /// Turns a refusal into its answer, and counts a wrong secret.
    pub(super) fn judge<E, T>(&self, api: &Api<E>, outcome: Result<T, AccessError>) -> Result<T, Problem> {
        outcome.map_err(|error| self.refusal(api, error))
    }

    /// The answer to a refused request. A wrong secret is counted.
    pub(super) fn refusal<E>(&self, api: &Api<E>, error: AccessError) -> Problem {
        match error {
            AccessError::Unknown => unknown_instance(),
            AccessError::Forbidden => failed(api, self.from, WANT_SECRET),
            AccessError::StoreAway => store_away(),
            AccessError::Unwritten => unwritten(),
            AccessError::OwnerAway => owner_away(),
        }
    }

    fn judge_call<E, T>(&self, api: &Api<E>, outcome: Result<T, CallError>) -> Result<T, Problem> {
        match outcome {
            Ok(value) => Ok(value),
            Err(CallError::Access(error)) => self.judge(api, Err(error)),
            Err(CallError::UnknownCall) => Err(unknown_call()),
            Err(CallError::Over(state)) => {
                let problem = Problem::new(ProblemType::CallOver, "Stop ringing: state tells how the call ended.");
                Err(problem.with("state", views::call_state(state).into()))
            }
        }
    }

    /// The answer to a malformed call id: as for an unknown call, but only to the holder of the secret.
    async fn no_such_call<E: ApiService, T>(&self, api: &Api<E>) -> Result<T, CallError> {
        api.0.service.read(self.id, &self.secret).await?;
        Err(CallError::UnknownCall)
    }
}

pub(super) fn call_of(request: &Request) -> Option<CallId> {
    segment(request, 5).and_then(CallId::parse)
}

pub(super) fn unknown_call() -> Problem {
    let detail = "Ask for a call by the id that its push named, until its deadline; stop ringing.";
    Problem::new(ProblemType::UnknownCall, detail)
}

/// The `place`-th part of the path; the part before the leading slash is the 0th.
pub(super) fn segment(request: &Request, place: usize) -> Option<&str> {
    request.uri().path().split('/').nth(place)
}

pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response()
}

pub(super) fn failed<E>(api: &Api<E>, from: IpAddr, what: &'static str) -> Problem {
    match api.0.failures.owe(from, Instant::now()) {
        Ok(()) => Problem::invalid_token(what),
        Err(wait_s) => too_many_failures(what, wait_s),
    }
}

/// The answer to a wrong key from an address that has shown too many.
pub(crate) fn too_many_failures(what: &'static str, wait_s: u64) -> Problem {
    let detail = format!("{what} Too many wrong ones came from your address; a right one is served at any time.");
    Problem::new(ProblemType::TooManyRequests, detail).retry_after(wait_s)
}

pub(super) fn too_many(wait_s: u64) -> Problem {
    Problem::new(ProblemType::TooManyRequests, "Come back after the seconds that Retry-After names.")
        .retry_after(wait_s)
}

fn unknown_instance() -> Problem {
    Problem::new(ProblemType::UnknownInstance, "It was never there, or it ended and was wiped: enable push again.")
}

fn store_away() -> Problem {
    let detail = "Nothing was changed. Try again after the seconds that Retry-After names.";
    Problem::new(ProblemType::StoreAway, detail).retry_after(STORE_AWAY_RETRY_S)
}

fn unwritten() -> Problem {
    let detail = "The instance has ended and its SIP server was told, but neither the store nor the relay's disk has taken that down: until one does, a crash of the relay may bring it back. Ask again after the seconds that Retry-After names.";
    Problem::new(ProblemType::StoreAway, detail).retry_after(STORE_AWAY_RETRY_S)
}

pub(super) fn owner_away() -> Problem {
    let detail = "Nothing was changed. Another node takes the instance over within seconds; try again then.";
    Problem::new(ProblemType::OwnerAway, detail).retry_after(STORE_AWAY_RETRY_S)
}

fn provider_not_configured(alert: bool) -> Problem {
    let target = if alert { "alert_push" } else { "call_push" };
    Problem::invalid_body(vec![FieldError {
        pointer: format!("/device/{target}/provider"),
        detail: "this relay does not have this provider configured for this app".into(),
    }])
}

pub(super) fn enable_problem(error: EnableError) -> Problem {
    match error {
        EnableError::DomainNotAllowed => Problem::new(
            ProblemType::DomainNotAllowed,
            "This relay serves other SIP domains; its operator can add one under upstream.domains.",
        ),
        EnableError::AddressNotAllowed => Problem::new(
            ProblemType::AddressNotAllowed,
            "The SIP server's name leads to private, loopback or reserved addresses; the operator can allow one under upstream.allow_addresses (of a relay without a configuration: serve --public, or SIPWAKE_UPSTREAM__ALLOW_ADDRESSES).",
        ),
        EnableError::TransportNotAllowed => Problem::new(
            ProblemType::TransportNotAllowed,
            "This relay does not use this transport toward SIP servers; use transport=tls, or ask the operator for another under upstream.transports. By UDP it reaches servers of the address families of upstream.udp_listen alone.",
        ),
        EnableError::NotSendable => Problem::new(
            ProblemType::TransportNotAllowed,
            "The SIP server is reached by UDP alone, and this relay's socket for UDP (upstream.udp_listen) sends no datagram to its addresses: from a loopback address one reaches the relay's own machine alone (without a configuration: serve --public), from IPv4 IPv4 alone.",
        ),
        EnableError::UpstreamNotFound => Problem::new(
            ProblemType::UpstreamNotFound,
            "Check the AOR's domain, registrar and outbound_proxy: no address was found. Nothing is kept.",
        ),
        EnableError::UpstreamRefused { status, reason } => {
            Problem::new(ProblemType::UpstreamRefused, refusal_detail(reason)).with("sip_status", status.into())
        }
        EnableError::Overtaken => Problem::new(
            ProblemType::Overtaken,
            "This device was enabled again while this request waited for the SIP server, and that one stands: go on with the instance that its answer names, and do not send this one again. Nothing is kept of it.",
        ),
        EnableError::Ended { reason } => {
            let problem = Problem::new(ProblemType::Ended, end_detail(reason));
            reason.into_iter().fold(problem, |problem, reason| problem.with("reason", reason.word().into()))
        }
        EnableError::TooManyFailures { retry_after_s } => Problem::new(
            ProblemType::TooManyRequests,
            "Too many wrong passwords were tried for this account, or from this address. Try again after the seconds that Retry-After names.",
        )
        .retry_after(retry_after_s),
        EnableError::TooManyOfAccount => Problem::new(
            ProblemType::TooManyRequests,
            "This account has as many instances as it may (limits.instances_per_account): disable push on a device that is not in use.",
        )
        .retry_after(FULL_RETRY_S),
        EnableError::TooManyOfAppOrSource => Problem::new(
            ProblemType::TooManyRequests,
            "This app, or this address, has as many instances as it may (limits.instances_per_app, limits.instances_per_source).",
        )
        .retry_after(FULL_RETRY_S),
        EnableError::StoreAway => store_away(),
        EnableError::StoreMayPersist => Problem::new(
            ProblemType::StoreAway,
            "The relay's store may write to a disk, and its operator gives accounts to none that does (store.require_ephemeral). Nothing is kept, and no account is lent until the operator has mended that.",
        )
        .retry_after(FULL_RETRY_S),
        EnableError::TooMany => {
            Problem::new(ProblemType::Full, "Use another relay, or try later.").retry_after(FULL_RETRY_S)
        }
        EnableError::Draining | EnableError::HungUp => {
            Problem::new(ProblemType::Draining, "Use another relay, or try later.").retry_after(FULL_RETRY_S)
        }
    }
}

fn end_detail(reason: Option<WipeReason>) -> &'static str {
    match reason {
        Some(WipeReason::Operator) => {
            "The relay's operator wiped this account while it was being enabled. Nothing is kept. Enable it again only when the user asks for it."
        }
        Some(WipeReason::PushTokenGone) => {
            "The push service says that the push token is dead. Enable again with the app's new one. Nothing is kept."
        }
        Some(WipeReason::RefusedUpstream) => {
            "The SIP server accepted the account, and refused it before it was stored. Check it, and enable again. Nothing is kept."
        }
        _ => "Enable again. Nothing is kept.",
    }
}

fn refusal_detail(reason: Refusal) -> &'static str {
    match reason {
        Refusal::Credentials => {
            "Check auth_username and password or ha1: the SIP server refused them. Nothing is kept."
        }
        Refusal::EscapedCredentials => {
            "Check auth_username and password or ha1: the SIP server refused them. The user name holds \\ or \", which some servers (Kamailio) hash with the \\ that stands before it in the header: lend an ha1 made so to such a server. Nothing is kept."
        }
        Refusal::Realm => "The SIP server asks for another realm than ha1.realm. Nothing is kept.",
        Refusal::Algorithm => "The SIP server asks for a digest algorithm that ha1 does not hold. Nothing is kept.",
        Refusal::Digest => {
            "The SIP server offers no digest that this relay makes: SHA-512-256, SHA-256, and MD5 unless the operator forbids it (upstream.allow_md5). Nothing is kept."
        }
        Refusal::Challenge => {
            "The SIP server's digest challenge cannot be read: it breaks RFC 7616 §3.3 (a realm and a nonce, commas between parameters, each with a value and once), or its nonce or opaque is longer than 1,024 bytes. Nothing is kept."
        }
        Refusal::UnknownUser => "Check the AOR: the SIP server does not know it. Nothing is kept.",
        Refusal::Moved => {
            "The SIP server sends the registration to another server, or by another transport. The relay follows no address that an answer names: give the account that one as its registrar or proxy (sips:, or ;transport=tls, where it is the same server by TLS). Nothing is kept."
        }
        Refusal::Forbidden => "The SIP server forbids this registration. Nothing is kept.",
        Refusal::Other => "The SIP server refused the registration; sip_status tells how. Nothing is kept.",
    }
}
