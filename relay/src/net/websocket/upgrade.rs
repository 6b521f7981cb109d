//! The HTTP request that makes a WebSocket for SIP of a TLS stream (RFC 6455 §4.2, RFC 7118 §4).
//!
//! | the request | answer |
//! | --- | --- |
//! | a WebSocket handshake that offers the subprotocol `sip`, on any path, from any origin | 101 |
//! | another method than GET | 405 |
//! | no `Upgrade: websocket`, or another version than 13 | 426 |
//! | no or a broken key, no subprotocol `sip`, HTTP/1.0 | 400 |
//! | more than [`MAX_HEADERS`] headers or [`MAX_BYTES`] bytes | 431 or 414, or closed |
//!
//! Any origin: what a page in a browser may not do for another site's user is to use that user's cookies, and there are
//! none here. A device proves itself by a digest or a token in its REGISTER, which a foreign page does not have.
//!
//! Invariant: a stream is given back only after its 101, and only when its client has waited for it; every other one is
//! answered in words and closed.

use std::convert::Infallible;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::lock::Mutex;
use crate::net::slots::HANDSHAKE_TIMEOUT;
use crate::net::stream::Stream;

/// Headers in the request.
const MAX_HEADERS: usize = 64;
/// Bytes of its head; a browser's cookies for the host may be among them.
const MAX_BYTES: usize = 16 * 1024;
/// The GUID that a key is hashed with (RFC 6455 §1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Why a stream became no WebSocket. The client has been told, where it can be.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The client did not speak HTTP, or left.
    #[error("no HTTP request: {0}")]
    NotHttp(#[from] hyper::Error),
    /// Its request is not one for SIP over WebSocket.
    #[error("it asked for another thing than SIP over WebSocket")]
    NotSip,
    /// The client sent more before it was answered.
    #[error("it did not wait for the answer")]
    TooEager,
}

/// Answers the one request of a new stream; gives the stream back as a WebSocket.
///
/// # Errors
/// [`Refused`] when it is to be closed.
pub async fn upgrade(stream: Stream) -> Result<Stream, Refused> {
    let agreed: Arc<Mutex<Option<OnUpgrade>>> = Arc::default();
    let place = agreed.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let answer = answer(&request);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            *place.lock() = Some(hyper::upgrade::on(&mut request));
        }
        std::future::ready(Ok::<_, Infallible>(answer))
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    let upgraded = agreed.lock().take().ok_or(Refused::NotSip)?;
    let parts = upgraded.await?.downcast::<TokioIo<Stream>>().map_err(|_| Refused::NotSip)?;
    if parts.read_buf.is_empty() { Ok(parts.io.into_inner()) } else { Err(Refused::TooEager) }
}

fn answer<B>(request: &Request<B>) -> Response<Full<Bytes>> {
    match judge(request) {
        Ok(accept) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            let headers = response.headers_mut();
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("sip"));
            if let Ok(accept) = accept.parse() {
                headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            }
            response
        }
        Err(Rejection { status, why, with }) => {
            let mut response = Response::new(Full::from(format!("{why}\n")));
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            for (name, value) in with {
                headers.insert(name, HeaderValue::from_static(value));
            }
            response
        }
    }
}

/// A request that is refused: the status, the reason in words, headers that say what would do.
struct Rejection {
    status: StatusCode,
    why: &'static str,
    with: Vec<(HeaderName, &'static str)>,
}

/// The value of Sec-WebSocket-Accept, or why there is none (RFC 6455 §4.2.1).
fn judge<B>(request: &Request<B>) -> Result<String, Rejection> {
    let reject = |status, why, with| Err(Rejection { status, why, with });
    if request.method() != Method::GET {
        return reject(StatusCode::METHOD_NOT_ALLOWED, "a WebSocket begins with GET", vec![(ALLOW, "GET")]);
    }
    if request.version() != Version::HTTP_11 {
        return reject(StatusCode::BAD_REQUEST, "a WebSocket begins with HTTP/1.1", vec![]);
    }
    let names = |header, wanted: &str| tokens(request, header).any(|token| token.eq_ignore_ascii_case(wanted));
    if !names(UPGRADE, "websocket") || !names(CONNECTION, "upgrade") {
        let why = "here is SIP over WebSocket (RFC 7118): ask for Upgrade: websocket";
        return reject(StatusCode::UPGRADE_REQUIRED, why, vec![(UPGRADE, "websocket"), (CONNECTION, "close, upgrade")]);
    }
    let only = |header: HeaderName| {
        let mut values = request.headers().get_all(header).iter();
        values.next().filter(|_| values.next().is_none()).map(|value| value.as_bytes().trim_ascii())
    };
    if only(SEC_WEBSOCKET_VERSION) != Some(b"13") {
        let with = vec![(UPGRADE, "websocket"), (CONNECTION, "close, upgrade"), (SEC_WEBSOCKET_VERSION, "13")];
        return reject(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is spoken", with);
    }
    let key = only(SEC_WEBSOCKET_KEY).filter(|key| STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16));
    let Some(key) = key else {
        return reject(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing, or is not 16 bytes in base64", vec![]);
    };
    if !tokens(request, SEC_WEBSOCKET_PROTOCOL).any(|token| token == "sip") {
        let why = "only the subprotocol sip is spoken: offer Sec-WebSocket-Protocol: sip (RFC 7118 §4)";
        return reject(StatusCode::BAD_REQUEST, why, vec![]);
    }
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID].concat());
    Ok(STANDARD.encode(hash.as_ref()))
}

/// The values of a header that is a list, over all its lines.
fn tokens<B>(request: &Request<B>, header: HeaderName) -> impl Iterator<Item = &str> {
    let lines = request.headers().get_all(header).into_iter();
    lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',').map(str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455 §1.3, with these headers changed.
    fn ask(changes: &[(&'static str, Option<&'static str>)]) -> Response<Full<Bytes>> {
        let mut request = Request::new(());
        let usual = [
            ("upgrade", "websocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, sip"),
            ("sec-websocket-version", "13"),
        ];
        for (name, value) in usual {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        for (name, value) in changes {
            request.headers_mut().remove(*name);
            if let Some(value) = value {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
        }
        answer(&request)
    }

    #[test]
    fn a_handshake_for_sip_is_accepted_as_rfc_6455_computes_it() {
        let response = ask(&[]);
        assert_eq!(response.status(), 101);
        assert_eq!(response.headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], "sip");
        assert_eq!(ask(&[("origin", Some("https://elsewhere.example"))]).status(), 101, "any origin");
    }

    #[test]
    fn what_is_no_handshake_for_sip_is_refused_in_words() {
        for (changes, status) in [
            (&[("upgrade", None)][..], 426),
            (&[("upgrade", Some("h2c"))], 426),
            (&[("connection", Some("keep-alive"))], 426),
            (&[("sec-websocket-version", Some("8"))], 426),
            (&[("sec-websocket-version", None)], 426),
            (&[("sec-websocket-key", None)], 400),
            (&[("sec-websocket-key", Some("c2hvcnQ="))], 400),
            (&[("sec-websocket-key", Some("not base64"))], 400),
            (&[("sec-websocket-protocol", None)], 400),
            (&[("sec-websocket-protocol", Some("chat, xmpp"))], 400),
        ] {
            let response = ask(changes);
            assert_eq!(response.status(), status, "{changes:?}");
            // A hop takes what Upgrade says for the next one where Connection does not name it (RFC 9110 §7.8).
            let connection = if status == 426 { "close, upgrade" } else { "close" };
            assert_eq!(response.headers()[CONNECTION], connection);
        }
        assert_eq!(ask(&[("sec-websocket-version", Some("8"))]).headers()[SEC_WEBSOCKET_VERSION], "13");
        assert_eq!(ask(&[("upgrade", None)]).headers()[UPGRADE], "websocket");
    }
}
