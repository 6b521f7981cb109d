//! The number of a request: in the answer's header, and in each line that the log has of it, also at the node that it is carried to.
//!
//! Invariant: the relay makes it; what a client sends under that name is not looked at.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use super::carried::Carried;
use crate::random;
use crate::vault::hex;

/// The header.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Has a request answered under its number; the number.
pub(crate) async fn numbered(mut request: Request, next: Next) -> (Response, HeaderValue) {
    let carried = request.extensions().get::<Carried>().is_some();
    let given = request.headers().get(REQUEST_ID).filter(|_| carried).cloned();
    let id = given.unwrap_or_else(new);
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let span = tracing::info_span!("request", request = id.to_str().unwrap_or_default());
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id.clone());
    (response, id)
}

/// Puts a number on an answer that was given at once.
pub(crate) fn answered(mut response: Response) -> (Response, HeaderValue) {
    let id = new();
    response.headers_mut().insert(REQUEST_ID, id.clone());
    (response, id)
}

/// Tells of a request that was answered.
pub(crate) fn log(id: &HeaderValue, method: &Method, route: &'static str, status: u16, took: Duration) {
    let request = id.to_str().unwrap_or_default();
    let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(event = "http-request", request, method = word(method), route, status, took_ms, "answered");
}

/// A method by its name, where it is a standard one (RFC 9110 §9.3, RFC 5789): another one is any text that a client has sent.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}

fn new() -> HeaderValue {
    // Hex is a header's value.
    HeaderValue::from_str(&format!("r_{}", hex(&random::bytes::<8>())))
        .unwrap_or_else(|_| HeaderValue::from_static("r_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_a_client_made_up_is_not_repeated() {
        assert_eq!((word(&Method::PATCH), word(&Method::from_bytes(b"C072CNRYQZ").unwrap())), ("PATCH", "other"));
    }
}
