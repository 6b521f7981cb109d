//! Cross-origin access: the web pages that may call the API from a browser (CORS, as the Fetch standard has it).
//!
//! A key or secret stands in `Authorization`, and no cookie does: a browser adds nothing of its own to a page's request. All that a page
//! of a stranger could use is the place of its visitor in the network. So the operator names the origins.
//!
//! Invariant: without a named origin every answer is as if there were no browsers. SIP servers' own route is no page's.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Endpoint;

/// How long a browser remembers the answer to its preflight, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PATCH, DELETE");
const REQUEST_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static("location, retry-after, www-authenticate, x-request-id");

/// The origins whose pages may call, as browsers name them: `https://phone.example.com`.
pub type Origins = Arc<[Box<str>]>;

/// Answers preflights of named origins, and marks the answers that their pages may read.
pub(super) async fn allow(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let named = |origin: &&HeaderValue| origins.iter().any(|named| named.as_bytes() == origin.as_bytes());
    let is_for_pages = request.uri().path() != Endpoint::Wake.template();
    let origin = request.headers().get(ORIGIN).filter(named).filter(|_| is_for_pages).cloned();
    let is_preflight =
        *request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match &origin {
        Some(_) if is_preflight => preflight(),
        _ => next.run(request).await,
    };
    if !origins.is_empty() {
        // An answer to one origin is none to another, should something on the way keep it.
        response.headers_mut().insert(VARY, HeaderValue::from(ORIGIN));
    }
    if let Some(origin) = origin {
        response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        response.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
    response
}

fn preflight() -> Response {
    let allowed = [
        (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
    ];
    (StatusCode::NO_CONTENT, allowed).into_response()
}
