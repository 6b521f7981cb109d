//! The operators' listener: health, metrics, a status page, and the operator's requests about instances and calls.
//!
//! | room | contents |
//! | --- | --- |
//! | `calls` | the stories of calls |
//! | [`canary`] | the reports of the canaries |
//! | [`controls`] | reload and drain |
//! | `elsewhere` | the answers of other nodes |
//! | [`history`] | the last hour of the metrics |
//! | `instances` | list, find, show, wipe, export, trace |
//! | `nodes` | the nodes of the store |
//! | [`page`] | the status page |
//! | [`readiness`] | the answer of `/readyz` |
//! | `subject` | the instance that a request is about |
//! | `token` | the operator's token |
//!
//! Invariant: `/healthz` and `/readyz` are open, everything else wants the operator's token. A request that changes something wants it as a Bearer
//! token, which no browser adds by itself: a page of a stranger can have a browser that is logged in (Basic) look, and do nothing. Nothing here
//! tells whose an instance is: no AOR, no token, no secret.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

mod calls;
pub mod canary;
pub mod controls;
mod elsewhere;
pub mod history;
mod instances;
mod nodes;
pub mod page;
pub mod readiness;
mod subject;
mod token;

use canary::Canaries;
use controls::Controls;
use history::History;
use readiness::{Readiness, Standing};
use token::Token;

use crate::api::access::{KeyDigest, bearer};
use crate::api::body;
use crate::api::json as body_json;
use crate::api::limits::{Buckets, Limits};
use crate::api::problem::{self, Problem, ProblemType};
use crate::api::request_id;
use crate::api::too_many_failures;
use crate::api::{BadHead, Peer};
use crate::aside::aside;
use crate::config::Operator as Settings;
use crate::limits::counted_as;
use crate::metrics::{Metrics, UNMATCHED};
use crate::secret::ApiKey;
use crate::service::OperatorService;
use crate::service::operators::WhichCalls;

/// The challenge to a browser: any user name, and the token as the password.
const BASIC_CHALLENGE: &str =
    "Basic realm=\"sipwake operator: any user name, the operator's token as password\", charset=\"UTF-8\"";
/// The longest Basic credentials that are looked at, in characters.
const MAX_BASIC: usize = 1024;
/// The advice to a request without the right token.
const WANT_TOKEN: &str = "Send the operator's token as Authorization: Bearer TOKEN.";

/// The listener's state; cheap to clone.
pub struct Operator<E>(Arc<Inner<E>>);

struct Inner<E> {
    token: Token,
    service: E,
    metrics: Metrics,
    readiness: Readiness,
    failures: Buckets<IpAddr>,
    controls: Controls,
    history: History,
    canaries: Canaries,
    name: OnceLock<Box<str>>,
    /// The ids of the relay's apps.
    apps: OnceLock<Box<[Box<str>]>>,
}

impl<E> Clone for Operator<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Every route of this listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The process serves.
    Health,
    /// Everything needed is there.
    Ready,
    /// The Prometheus text.
    Metrics,
    /// The status page.
    Page,
    /// The instances of this node, page by page.
    List,
    /// The instances of an account, named by its hash.
    Find,
    /// One instance.
    Show,
    /// Wipe one.
    Wipe,
    /// The data held about one.
    Export,
    /// Record one's SIP.
    BeginTrace,
    /// The recording.
    Trace,
    /// Erase it.
    EndTrace,
    /// The content of the page, as JSON.
    Status,
    /// The nodes of the store.
    Nodes,
    /// The last calls of all nodes.
    Calls,
    /// One call, step by step.
    Call,
    /// Read the configuration and its files again.
    Reload,
    /// End, once the calls are over or with other nodes.
    Drain,
    /// Hear of a canary's round.
    Canary,
}

impl Endpoint {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Health,
        Self::Ready,
        Self::Metrics,
        Self::Page,
        Self::List,
        Self::Find,
        Self::Show,
        Self::Wipe,
        Self::Export,
        Self::BeginTrace,
        Self::Trace,
        Self::EndTrace,
        Self::Status,
        Self::Nodes,
        Self::Calls,
        Self::Call,
        Self::Reload,
        Self::Drain,
        Self::Canary,
    ];

    /// The method.
    pub fn method(self) -> Method {
        match self {
            Self::Find | Self::Wipe | Self::BeginTrace | Self::Reload | Self::Drain | Self::Canary => Method::POST,
            Self::EndTrace => Method::DELETE,
            _ => Method::GET,
        }
    }

    /// The path, with its parameters in braces.
    pub const fn template(self) -> &'static str {
        match self {
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Metrics => "/metrics",
            Self::Page => "/",
            Self::List => "/v1/operator/instances",
            Self::Find => "/v1/operator/instances/find",
            Self::Show => "/v1/operator/instances/{id}",
            Self::Status => "/v1/operator/status",
            Self::Nodes => "/v1/operator/nodes",
            Self::Calls => "/v1/operator/calls",
            Self::Call => "/v1/operator/calls/{call}",
            Self::Reload => "/v1/operator/reload",
            Self::Drain => "/v1/operator/drain",
            Self::Canary => "/v1/operator/canary",
            Self::Wipe => "/v1/operator/instances/{id}/wipe",
            Self::Export => "/v1/operator/instances/{id}/export",
            Self::BeginTrace | Self::Trace | Self::EndTrace => "/v1/operator/instances/{id}/trace",
        }
    }

    /// Whether it is open to all.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }
}

impl<E: OperatorService> Operator<E> {
    /// A listener's state for who shows `token`.
    pub fn new(token: &ApiKey, service: E, metrics: Metrics, readiness: Readiness) -> Self {
        Self(Arc::new(Inner {
            token: Token::new(KeyDigest::of(token.expose())),
            service,
            metrics,
            readiness,
            failures: Buckets::new(Limits::default().failures_per_address),
            controls: Controls::default(),
            history: History::default(),
            canaries: Canaries::default(),
            name: OnceLock::new(),
            apps: OnceLock::new(),
        }))
    }

    /// How this node is called; the first name counts.
    pub fn introduce(&self, name: &str) {
        // A second name is none: a node is named once.
        let _ = self.0.name.set(name.into());
    }

    /// The ids of the relay's apps, which none comes to before a restart.
    pub fn know_apps(&self, apps: Box<[Box<str>]>) {
        // A second list is none: a restart alone changes it.
        let _ = self.0.apps.set(apps);
    }

    /// The last hour, which somebody has to keep.
    pub fn history(&self) -> &History {
        &self.0.history
    }

    /// From now on who shows the token of these settings is let in, and nobody else; the one that its file, or the configuration in `source`, has later may
    /// reload.
    pub fn take_token(&self, settings: &Settings, source: Option<&Path>) {
        self.0.token.take(settings, source);
    }

    /// The relay's controls for an operator.
    pub fn controls(&self) -> &Controls {
        &self.0.controls
    }

    /// The routes, ready to be served. The listener puts a [`Peer`] into each request's extensions.
    pub fn router(&self) -> Router {
        let mut router = Router::new();
        for &endpoint in Endpoint::ALL {
            router = router.route(endpoint.template(), method_router::<E>(endpoint));
        }
        router
            .fallback(problem::not_found)
            .method_not_allowed_fallback(problem::method_not_allowed)
            .layer(middleware::from_fn_with_state(self.clone(), elsewhere::carry::<E>))
            .layer(middleware::from_fn_with_state(self.clone(), guard::<E>))
            .with_state(self.clone())
    }

    fn admit(&self, request: &Request, endpoint: Option<Endpoint>) -> Result<(), Problem> {
        let address = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let from = counted_as(address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)));
        let shown = match basic(request.headers()) {
            Some(password) if request.method().is_safe() => KeyDigest::of(&password),
            _ => KeyDigest::of(bearer(request.headers(), WANT_TOKEN)?),
        };
        if self.0.token.fits(&shown) || endpoint == Some(Endpoint::Reload) && self.0.token.is_next(&shown) {
            return Ok(());
        }
        Err(match self.0.failures.owe(from, Instant::now()) {
            Ok(()) => Problem::invalid_token(WANT_TOKEN),
            Err(wait_s) => too_many_failures(WANT_TOKEN, wait_s),
        })
    }
}

fn method_router<E: OperatorService>(endpoint: Endpoint) -> MethodRouter<Operator<E>> {
    match endpoint {
        Endpoint::Health => routing::get(health::<E>),
        Endpoint::Ready => routing::get(ready::<E>),
        Endpoint::Metrics => routing::get(metrics::<E>),
        Endpoint::Page => routing::get(status_page::<E>),
        Endpoint::List => routing::get(instances::list::<E>),
        Endpoint::Find => routing::post(instances::find::<E>),
        Endpoint::Show => routing::get(instances::show::<E>),
        Endpoint::Wipe => routing::post(instances::wipe::<E>),
        Endpoint::Export => routing::get(instances::export::<E>),
        Endpoint::BeginTrace => routing::post(instances::begin_trace::<E>),
        Endpoint::Trace => routing::get(instances::trace::<E>),
        Endpoint::Status => routing::get(status::<E>),
        Endpoint::Nodes => routing::get(nodes::list::<E>),
        Endpoint::Calls => routing::get(calls::list::<E>),
        Endpoint::Call => routing::get(calls::show::<E>),
        Endpoint::Reload => routing::post(reload::<E>),
        Endpoint::Drain => routing::post(drain::<E>),
        Endpoint::EndTrace => routing::delete(instances::end_trace::<E>),
        Endpoint::Canary => routing::post(hear_canary::<E>),
    }
}

/// Lets in who shows the token, counts, and sets what every answer has.
async fn guard<E: OperatorService>(State(operator): State<Operator<E>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let endpoint = matched.and_then(|path| Endpoint::ALL.iter().find(|endpoint| endpoint.template() == path.as_str()));
    let admitted = match endpoint {
        _ if let Some(bad) = request.extensions().get::<BadHead>() => Err(Problem::bad_head(*bad)),
        Some(endpoint) if endpoint.is_open() => Ok(()),
        // Another node has let the operator in.
        Some(_) if elsewhere::is_carried(&request) => Ok(()),
        _ => operator.admit(&request, endpoint.copied()),
    };
    // A carried request is counted at the node that was asked.
    let is_carried = elsewhere::is_carried(&request);
    let by = request.method().clone();
    let (mut response, id) = match admitted {
        Ok(()) => request_id::numbered(request, next).await,
        Err(problem) => request_id::answered(challenged(problem.into_response(), &by)),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let route = endpoint.map_or(UNMATCHED, |endpoint| endpoint.template());
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    request_id::log(&id, &by, route, status, took);
    if !is_carried {
        operator.0.metrics.http(route, status, took);
    }
    response
}

/// A browser asks its user for the token when it is challenged by Basic, too: for what it may look at.
fn challenged(mut response: Response, method: &Method) -> Response {
    if response.status() == StatusCode::UNAUTHORIZED && method.is_safe() {
        response.headers_mut().append(WWW_AUTHENTICATE, HeaderValue::from_static(BASIC_CHALLENGE));
    }
    response
}

async fn health<E: OperatorService>(State(operator): State<Operator<E>>) -> Result<Response, Problem> {
    if operator.0.readiness.is_alive() {
        Ok(answer(&json!({"status": "ok"})))
    } else {
        Err(Problem::new(ProblemType::NotReady, "A shard has not answered for a minute: start the relay anew."))
    }
}

async fn ready<E: OperatorService>(State(operator): State<Operator<E>>) -> Result<Response, Problem> {
    let readiness = &operator.0.readiness;
    let (checks, warnings, degraded) = (readiness.to_json(), readiness.warnings(), readiness.degraded());
    let mut further = Vec::new();
    if !warnings.is_empty() {
        further.push(("warnings", json!(warnings)));
    }
    if !degraded.is_empty() {
        further.push(("degraded", json!(degraded)));
    }
    let mut body = match readiness.standing() {
        Standing::Ready => json!({"status": "ready", "checks": checks}),
        Standing::Degraded => json!({"status": "degraded", "detail": readiness.degradation(), "checks": checks}),
        Standing::NotReady => {
            let failing =
                readiness.checks().into_iter().filter_map(|(check, state)| Some((check.name(), state.err()?)));
            let reasons: Vec<_> = failing.map(|(check, why)| format!("{check}: {why}")).collect();
            let problem = Problem::new(ProblemType::NotReady, reasons.join("; ")).with("checks", checks);
            return Err(further.into_iter().fold(problem, |problem, (member, value)| problem.with(member, value)));
        }
    };
    for (member, value) in further {
        body[member] = value;
    }
    Ok(answer(&body))
}

async fn metrics<E: OperatorService>(State(operator): State<Operator<E>>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    operator.0.metrics.ready(operator.0.readiness.standing() != Standing::NotReady);
    for (about, count) in operator.0.readiness.warning_counts() {
        operator.0.metrics.warnings(about, count);
    }
    ([(CONTENT_TYPE, kind)], operator.0.metrics.render()).into_response()
}

async fn status_page<E: OperatorService>(State(operator): State<Operator<E>>, request: Request) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::CONTENT_SECURITY_POLICY)),
    ];
    let inner = &operator.0;
    let last = WhichCalls { limit: page::calls::SHOWN, once: true, ..WhichCalls::default() };
    let calls = inner.service.calls(last).await;
    let look = page::PageData::new(&inner.metrics, &inner.history, &inner.readiness, &inner.canaries).with_calls(calls);
    let view = page::View::of(request.uri().query().unwrap_or_default());
    let name = inner.name.get().map_or("", |name| &**name);
    (headers, page::render(name, &look, view)).into_response()
}

async fn status<E: OperatorService>(State(operator): State<Operator<E>>) -> Response {
    let inner = &operator.0;
    let look = page::PageData::new(&inner.metrics, &inner.history, &inner.readiness, &inner.canaries);
    answer(&page::status(inner.name.get().map_or("", |name| name), &look))
}

async fn reload<E: OperatorService>(State(operator): State<Operator<E>>) -> Result<Response, Problem> {
    // The reload reads files.
    let controls = operator.0.controls.clone();
    let Ok(reloading) = aside(move || controls.reload()) else {
        return Err(Problem::new(
            ProblemType::NotReady,
            "The system gives the relay no thread to reload with. Try again.",
        ));
    };
    let told = reloading.await.ok().flatten();
    match told {
        Some(told) if told.problems.is_empty() => Ok(answer(&told.to_json())),
        Some(told) if told.goes_on => Err(Problem::new(
            ProblemType::NotReady,
            "Another reload goes on, and nothing was read. Try again when it has ended; one that does not end waits for a file.",
        )),
        Some(told) => Err(Problem::new(
            ProblemType::NotReloaded,
            "Nothing was changed. Mend what problems says, and reload again.",
        )
        .with("problems", json!(told.problems))),
        None => Err(Problem::new(ProblemType::NotReady, "The relay is not started yet.")),
    }
}

async fn drain<E: OperatorService>(State(operator): State<Operator<E>>) -> Result<Response, Problem> {
    if !operator.0.controls.drain() {
        return Err(Problem::new(ProblemType::NotReady, "The relay is not started yet."));
    }
    let mut response = answer(&json!({"state": "draining"}));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

async fn hear_canary<E: OperatorService>(
    State(operator): State<Operator<E>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let taken = body::take(&parts.headers, body, body::JSON).await?;
    let telling = canary::read(&body_json::parse(&taken)?, operator.0.apps.get().map(|apps| &**apps))?;
    operator.0.canaries.take(telling, &operator.0.metrics)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The password of Basic credentials (RFC 7617), whatever the user name: what a browser sends, also to a form of another page.
fn basic(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || credentials.len() > MAX_BASIC {
        return None;
    }
    let plain = Zeroizing::new(STANDARD.decode(credentials.trim_matches(' ')).ok()?);
    let (_, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

fn answer(body: &Value) -> Response {
    (StatusCode::OK, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body.to_string()).into_response()
}
