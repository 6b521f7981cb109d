//! The HTTPS API of version 1, for apps, devices and SIP servers: the routes of `docs/api.md`.
//!
//! Every route is a row of [`Endpoint`]; `openapi.json` beside this file describes the same rows, and a test holds the
//! two together. A request is counted by its route's template, never by its path.
//!
//! | room | what it is |
//! | --- | --- |
//! | `access`, `limits`, `cross_origin` | who may ask, how often, and from which web pages |
//! | `handlers`, `device_handlers`, `doctor`, `enable`, `trace`, `wake` | the routes |
//! | `conditions`, `at_end` | what a request is to depend on, and which are answered by a node that ends |
//! | `body`, `json`, `sip_uri` | what every body is read with |
//! | `device_body`, `doctor_body`, `enable_body`, `wake_body` | the bodies |
//! | `views`, `device_views`, `story_views` | the answers |
//! | `problem`, `request_id` | refusals, and the number of a request |
//! | `answer_budget` | how many large answers are on their way |
//! | `elsewhere`, `enable_elsewhere`, `carried`, `given_up`, `wake_tally` | requests that another node answers, enabling there, their mark, those that are given up, and the answers of all nodes |
//!
//! Invariant: nothing is done for a request before its key or secret is known to be right, and no answer repeats what a
//! request held. An answer to a request that brought an account or a token, that told what somebody wrote, or that wiped an instance, ends its
//! connection ([`EndConnection`]): buffers of an open one keep what was shown on it. Of the other requests that may be the
//! secret of an instance: by HTTP/1.1 until the next one has overwritten it, by HTTP/2 until many have, or the connection ends.

use std::hash::RandomState;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::HttpBody as _;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodFilter, MethodRouter};

pub mod access;
mod answer_budget;
mod at_end;
pub mod body;
pub(crate) mod carried;
mod conditions;
pub mod cross_origin;
#[cfg(test)]
mod described;
pub mod device_body;
mod device_handlers;
pub mod device_views;
mod doctor;
pub mod doctor_body;
pub(crate) mod elsewhere;
mod enable;
pub mod enable_body;
mod enable_elsewhere;
mod given_up;
mod handlers;
pub mod json;
pub mod limits;
pub mod problem;
pub(crate) mod request_id;
pub mod sip_uri;
pub mod story_views;
pub(crate) mod trace;
pub mod views;
mod wake;
pub mod wake_body;
mod wake_tally;

pub use crate::net::https::{BadHead, EndConnection, Peer};
use access::{App, Apps, SipServer, SipServers};
use answer_budget::Boxes;
pub(crate) use handlers::too_many_failures;

use cross_origin::Origins;
use device_body::LifetimeRange;
use limits::{Buckets, Limits};
use problem::Problem;

use crate::metrics::{Metrics, UNMATCHED};
use crate::service::nodes::{Answering, NodeService};
use crate::service::{AppService, DeviceService, SipServerService};
use crate::vault::Vault;

/// The description of this API (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("openapi.json");

/// Tells the public key of receipts.
pub type ReceiptKey = Box<dyn Fn() -> [u8; 32] + Send + Sync>;

/// The settings of the API.
pub struct Settings {
    /// The Apps that may enable instances.
    pub apps: Vec<App>,
    /// The SIP servers that may wake devices.
    pub sip_servers: Vec<SipServer>,
    /// The lifetimes that an app may ask for.
    pub lifetime: LifetimeRange,
    /// How often who may ask.
    pub limits: Limits,
    /// The Ed25519 public key that receipts are signed with now: another file may take the keyring's place while the relay runs.
    pub receipt_key: ReceiptKey,
    /// The web pages that may call.
    pub origins: Origins,
}

/// The API's state; cheap to clone.
pub struct Api<E>(Arc<Inner<E>>);

struct Inner<E> {
    service: E,
    receipt_key: ReceiptKey,
    origins: Origins,
    metrics: Metrics,
    apps: ArcSwap<Apps>,
    sip_servers: ArcSwap<SipServers>,
    lifetime: LifetimeRange,
    enables_by_app: Buckets<Box<str>>,
    enables_by_address: Buckets<IpAddr>,
    examinations_by_app: Buckets<Box<str>>,
    examinations_by_address: Buckets<IpAddr>,
    wakes_by_server: Buckets<Box<str>>,
    /// By a hash of the AOR with a key of this process, so that no AOR stays here.
    wakes_by_aor: Buckets<u64>,
    aor_hash: RandomState,
    failures: Buckets<IpAddr>,
    /// Kept data on its way to devices.
    boxes: Boxes,
}

impl<E> Clone for Api<E> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// The use cases behind the API.
pub trait ApiService: AppService + DeviceService + NodeService + SipServerService {}

impl<E: AppService + DeviceService + NodeService + SipServerService> ApiService for E {}

impl<E: ApiService> Api<E> {
    /// An API over `service` that counts in `metrics`.
    pub fn new(settings: Settings, service: E, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            service,
            receipt_key: settings.receipt_key,
            origins: settings.origins,
            metrics,
            apps: ArcSwap::from_pointee(Apps::new(settings.apps)),
            sip_servers: ArcSwap::from_pointee(SipServers::new(settings.sip_servers)),
            lifetime: settings.lifetime,
            enables_by_app: Buckets::new(settings.limits.enable_per_app),
            enables_by_address: Buckets::new(settings.limits.enable_per_address),
            examinations_by_app: Buckets::new(settings.limits.examine_per_app),
            examinations_by_address: Buckets::new(settings.limits.examine_per_address),
            wakes_by_server: Buckets::new(settings.limits.wake_per_server),
            wakes_by_aor: Buckets::new(settings.limits.wake_per_aor),
            aor_hash: RandomState::new(),
            failures: Buckets::new(settings.limits.failures_per_address),
            boxes: Boxes::default(),
        }))
    }

    /// From now on these Apps and SIP servers are let in, and no others.
    pub fn let_in(&self, apps: Vec<App>, sip_servers: Vec<SipServer>) {
        self.0.apps.store(Arc::new(Apps::new(apps)));
        self.0.sip_servers.store(Arc::new(SipServers::new(sip_servers)));
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
            .layer(middleware::from_fn_with_state(self.clone(), at_end::judge::<E>))
            .layer(middleware::from_fn_with_state(self.clone(), elsewhere::carry::<E>))
            .layer(middleware::from_fn_with_state(self.clone(), conditions::judge::<E>))
            .layer(middleware::from_fn_with_state(self.0.origins.clone(), cross_origin::allow))
            .layer(middleware::from_fn_with_state(self.clone(), observe::<E>))
            .with_state(self.clone())
    }
}

/// Answers the questions of other nodes by the routes of [`Api::router`].
pub fn answering(apps: Router, operators: Router, vault: Vault) -> Answering {
    elsewhere::answering(apps, operators, vault)
}

/// Every route of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Enable push.
    Enable,
    /// The state of an instance.
    Read,
    /// A new token, a renewed lifetime, another presence.
    Change,
    /// Disable push.
    Disable,
    /// The state of a call.
    Call,
    /// The device rings.
    Progress,
    /// The device declines.
    Decline,
    /// A SIP server wakes an AOR's devices.
    Wake,
    /// Walk an account's path.
    Doctor,
    /// The messages that are kept.
    Messages,
    /// Forget a message.
    ForgetMessage,
    /// The missed calls that are kept.
    MissedCalls,
    /// Forget a missed call.
    ForgetMissedCall,
    /// The timeline of the instance.
    Timeline,
    /// Everything that is held about it.
    Export,
    /// Send a test push.
    Test,
    /// Record the instance's SIP.
    BeginTrace,
    /// The recording.
    Trace,
    /// Erase it.
    EndTrace,
    /// The public keys that receipts are signed with.
    Keys,
    /// The key that an app subscribes to Web Push with.
    WebPushKey,
    /// The description of all this.
    OpenApi,
}

impl Endpoint {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Enable,
        Self::Read,
        Self::Change,
        Self::Disable,
        Self::Call,
        Self::Progress,
        Self::Decline,
        Self::Wake,
        Self::Doctor,
        Self::Messages,
        Self::ForgetMessage,
        Self::MissedCalls,
        Self::ForgetMissedCall,
        Self::Timeline,
        Self::Export,
        Self::Test,
        Self::BeginTrace,
        Self::Trace,
        Self::EndTrace,
        Self::Keys,
        Self::WebPushKey,
        Self::OpenApi,
    ];

    /// The method.
    pub fn method(self) -> Method {
        match self {
            Self::Enable | Self::Progress | Self::Decline | Self::Test | Self::Wake => Method::POST,
            Self::Doctor | Self::BeginTrace => Method::POST,
            Self::Read | Self::Call | Self::Keys | Self::WebPushKey | Self::OpenApi => Method::GET,
            Self::Messages | Self::MissedCalls | Self::Timeline | Self::Export | Self::Trace => Method::GET,
            Self::Change => Method::PATCH,
            Self::Disable | Self::ForgetMessage | Self::ForgetMissedCall | Self::EndTrace => Method::DELETE,
        }
    }

    /// The path, with its parameters in braces.
    pub const fn template(self) -> &'static str {
        match self {
            Self::Enable => "/v1/instances",
            Self::Read | Self::Change | Self::Disable => "/v1/instances/{id}",
            Self::Call => "/v1/instances/{id}/calls/{call}",
            Self::Progress => "/v1/instances/{id}/calls/{call}/progress",
            Self::Decline => "/v1/instances/{id}/calls/{call}/decline",
            Self::Wake => "/v1/wake",
            Self::Doctor => "/v1/doctor",
            Self::Messages => "/v1/instances/{id}/messages",
            Self::ForgetMessage => "/v1/instances/{id}/messages/{message}",
            Self::MissedCalls => "/v1/instances/{id}/missed-calls",
            Self::ForgetMissedCall => "/v1/instances/{id}/missed-calls/{call}",
            Self::Timeline => "/v1/instances/{id}/timeline",
            Self::Export => "/v1/instances/{id}/export",
            Self::Test => "/v1/instances/{id}/test",
            Self::BeginTrace | Self::Trace | Self::EndTrace => "/v1/instances/{id}/trace",
            Self::Keys => "/v1/keys",
            Self::WebPushKey => "/v1/webpush-key",
            Self::OpenApi => "/v1/openapi.json",
        }
    }

    /// Whether the handler reads a body; what comes with another request is left where it is, at whatever node.
    const fn reads_body(self) -> bool {
        matches!(self, Self::Enable | Self::Change | Self::Wake | Self::Doctor | Self::BeginTrace)
    }

    /// Whether it answers this method: GET answers HEAD, too (RFC 9110 §9.3.2).
    fn answers(self, method: &Method) -> bool {
        self.method() == *method || *method == Method::HEAD && self.method() == Method::GET
    }

    /// Whether the connection ends with the answer: the buffers of an open connection keep the data shown on it, such as an account, a user's
    /// message, or a secret that is wiped with this request. A request that shows an instance's secret and nothing else leaves it open.
    const fn ends_connection(self) -> bool {
        match self {
            Self::Enable | Self::Change | Self::Disable | Self::Doctor => true,
            Self::Messages | Self::MissedCalls | Self::Export | Self::Trace => true,
            Self::Read | Self::Call | Self::Progress | Self::Decline | Self::Keys | Self::WebPushKey => false,
            Self::OpenApi => false,
            Self::ForgetMessage | Self::ForgetMissedCall | Self::Timeline | Self::Test | Self::Wake => false,
            Self::BeginTrace | Self::EndTrace => false,
        }
    }
}

fn method_router<E: ApiService>(endpoint: Endpoint) -> MethodRouter<Api<E>> {
    match endpoint {
        Endpoint::Enable => routing::post(enable::enable::<E>),
        Endpoint::Read => routing::get(handlers::read::<E>),
        Endpoint::Change => routing::on(MethodFilter::PATCH, handlers::change::<E>),
        Endpoint::Disable => routing::delete(handlers::disable::<E>),
        Endpoint::Call => routing::get(handlers::call::<E>),
        Endpoint::Progress => routing::post(handlers::progress::<E>),
        Endpoint::Decline => routing::post(handlers::decline::<E>),
        Endpoint::Wake => routing::post(wake::wake::<E>),
        Endpoint::Doctor => routing::post(doctor::examine::<E>),
        Endpoint::Messages => routing::get(device_handlers::messages::<E>),
        Endpoint::ForgetMessage => routing::delete(device_handlers::forget_message::<E>),
        Endpoint::MissedCalls => routing::get(device_handlers::missed_calls::<E>),
        Endpoint::ForgetMissedCall => routing::delete(device_handlers::forget_missed_call::<E>),
        Endpoint::Timeline => routing::get(device_handlers::timeline::<E>),
        Endpoint::Export => routing::get(device_handlers::export::<E>),
        Endpoint::Test => routing::post(device_handlers::test::<E>),
        Endpoint::BeginTrace => routing::post(trace::begin::<E>),
        Endpoint::Trace => routing::get(trace::fetch::<E>),
        Endpoint::EndTrace => routing::delete(trace::end::<E>),
        Endpoint::Keys => routing::get(handlers::keys::<E>),
        Endpoint::WebPushKey => routing::get(handlers::webpush_key::<E>),
        Endpoint::OpenApi => routing::get(handlers::openapi),
    }
}

/// Counts each request, and sets what every answer has.
async fn observe<E: ApiService>(State(api): State<Api<E>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or(UNMATCHED, |path| template_of(path.as_str()));
    let method = request.method();
    let asked = Endpoint::ALL.iter().find(|endpoint| endpoint.template() == route && endpoint.method() == method);
    // A body sent to an unknown path may hold an account.
    let ends_connection = asked.map_or(!request.body().is_end_stream(), |endpoint| endpoint.ends_connection());
    // A carried request is counted at the node that was asked.
    let is_carried = request.extensions().get::<carried::Carried>().is_some();
    let by = request.method().clone();
    let (mut response, id) = match request.extensions().get::<BadHead>() {
        None => request_id::numbered(request, next).await,
        Some(bad) => request_id::answered(Problem::bad_head(*bad).into_response()),
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if ends_connection {
        response.extensions_mut().insert(EndConnection);
    }
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    request_id::log(&id, &by, route, status, took);
    if !is_carried {
        api.0.metrics.http(route, status, took);
    }
    response
}

fn template_of(path: &str) -> &'static str {
    let known = Endpoint::ALL.iter().map(|endpoint| endpoint.template()).find(|template| *template == path);
    known.unwrap_or(UNMATCHED)
}

/// The sender of `request`, as the limits count it; without a [`Peer`] all are one.
fn peer(request: &Request) -> IpAddr {
    let address = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
    crate::limits::counted_as(address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)))
}
