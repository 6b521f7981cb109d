//! Requests to a CA over HTTPS.
//!
//! Invariant: the CA's certificate is verified, always; an exchange ends within [`WITHIN`], and an answer is at most [`LONGEST`]
//! bytes. An answer that is an error has its status in the log, whoever has given it.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient, Problem};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::net::https_port::https_port;
use crate::net::web_host;

/// How long a request may take.
const WITHIN: Duration = Duration::from_secs(30);
/// The longest answer, in bytes.
const LONGEST: usize = 1024 * 1024;

/// The longest `Retry-After` that is passed on, in seconds.
const LONGEST_RETRY_AFTER: u64 = 86_400;

type Anyhow = Box<dyn Error + Send + Sync>;

/// A client of a CA; each request has a connection of its own.
pub(super) struct Client(Arc<ClientConfig>);

impl Client {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self(tls)
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let tls = self.0.clone();
        let ca = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let is_signed = request.method() == Method::POST;
        Box::pin(async move {
            let answer =
                timeout(WITHIN, exchange(tls, request)).await.unwrap_or_else(|_| Err("no answer in time".into()));
            let of_ca = |error: Anyhow| instant_acme::Error::Other(format!("{ca}: {error}").into());
            let (parts, body) = answer.map_err(of_ca)?.into_parts();
            match refusal(&ca, is_signed, parts.status, &body) {
                Some(error) => Err(error),
                None => Ok(BytesResponse { parts, body: Box::new(body) }),
            }
        })
    }
}

/// The error that an answer is. Errors that have the CA's own word (RFC 8555 §6.7) the library reads by itself, but in answers to signed requests alone; one
/// without it may come from a gateway before the CA, and says nothing of an order, except that what was asked for is gone.
fn refusal(ca: &str, is_signed: bool, status: StatusCode, body: &[u8]) -> Option<instant_acme::Error> {
    if status.is_success() {
        return None;
    }
    let words = format!("{ca}: it answered {status}");
    let problem = serde_json::from_slice::<Problem>(body).ok().filter(|problem| problem.r#type.is_some());
    match problem {
        Some(_) if is_signed => None,
        Some(problem) => Some(problem.into()),
        None if is_signed && matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) => {
            let (status, subproblems) = (Some(status.as_u16()), Vec::new());
            Some(Problem { r#type: None, detail: Some(words), status, subproblems }.into())
        }
        None => Some(instant_acme::Error::Other(words.into())),
    }
}

async fn exchange(tls: Arc<ClientConfig>, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Anyhow> {
    let uri = request.uri().clone();
    let authority = uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or("not an https URL")?;
    let (host, port) = (authority.host().to_owned(), https_port(&uri).ok_or("no such port")?);
    request.headers_mut().insert(HOST, HeaderValue::from_str(authority.as_str())?);
    *request.uri_mut() = uri.path_and_query().map_or_else(|| Uri::from_static("/"), |path| Uri::from(path.clone()));
    let name = ServerName::try_from(host.trim_start_matches('[').trim_end_matches(']').to_owned())?;
    let stream = web_host::connect(&host, port).await?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, LONGEST).collect().await?.to_bytes();
    connection.abort();
    Ok(Response::from_parts(bounded(parts), body))
}

/// Without a `Retry-After` beyond [`LONGEST_RETRY_AFTER`]: added to a time it would overflow.
fn bounded(mut parts: Parts) -> Parts {
    if let Some(value) = parts.headers.get_mut(RETRY_AFTER)
        && let Some(text) = value.to_str().ok().map(str::trim)
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse().is_ok_and(|seconds: u64| seconds > LONGEST_RETRY_AFTER)
    {
        *value = HeaderValue::from(LONGEST_RETRY_AFTER);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::AcmeError;
    use super::*;

    #[test]
    fn an_error_without_the_cas_word_is_told_by_its_status_and_ends_no_order_but_one_that_is_gone() {
        let html = "<html>Service Unavailable</html>";
        let busy =
            r#"{"type":"urn:ietf:params:acme:error:rateLimited","detail":"Service busy; retry later.","status":503}"#;
        let told = |is_signed, status: u16, body: &str| {
            refusal("ca.example", is_signed, StatusCode::from_u16(status).unwrap(), body.as_bytes()).map(AcmeError::Ca)
        };
        assert!(
            [200, 201].iter().all(|status| told(true, *status, "").is_none() && told(false, *status, "").is_none())
        );
        for status in [400, 429, 503] {
            assert!(told(true, status, busy).is_none(), "the library reads it");
        }
        let of_directory = told(false, 503, busy).unwrap();
        assert!(of_directory.to_string().contains("Service busy") && !of_directory.ends_order(), "{of_directory}");
        for (is_signed, status, body, words, ends_order) in [
            (false, 503, html, "503 Service Unavailable", false),
            (true, 503, html, "503 Service Unavailable", false),
            (true, 502, r#"{"message":"no upstream"}"#, "502 Bad Gateway", false),
            (true, 400, "", "400 Bad Request", false),
            (true, 403, html, "403 Forbidden", false),
            (false, 301, "", "301 Moved Permanently", false),
            (false, 404, "", "404 Not Found", false),
            (true, 404, "", "404 Not Found", true),
            (true, 410, html, "410 Gone", true),
        ] {
            let error = told(is_signed, status, body).unwrap();
            assert!(error.to_string().ends_with(&format!("ca.example: it answered {words}")), "{error}");
            assert_eq!(error.ends_order(), ends_order, "{error}");
        }
    }

    #[test]
    fn a_retry_after_that_is_longer_than_any_time_is_that_of_a_day() {
        for (value, heard) in [
            ("18446744073709551615", "86400"),
            ("86401", "86400"),
            ("5", "5"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            let (parts, ()) = Response::builder().header(RETRY_AFTER, value).body(()).unwrap().into_parts();
            assert_eq!(bounded(parts).headers[RETRY_AFTER], heard, "{value}");
        }
    }
}
