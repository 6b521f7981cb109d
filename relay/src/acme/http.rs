//! Requests to a CA over HTTPS.
//!
//! Invariant: the CA's certificate is verified, always; an exchange ends within [`WITHIN`], and an answer is at most [`LONGEST`]
//! bytes.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue, RETRY_AFTER};
use hyper::http::response::Parts;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
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
        let of_ca = move |error: Anyhow| instant_acme::Error::Other(format!("{ca}: {error}").into());
        Box::pin(async move {
            let answer =
                timeout(WITHIN, exchange(tls, request)).await.unwrap_or_else(|_| Err("no answer in time".into()));
            let (parts, body) = answer.map_err(of_ca)?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
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
    use super::*;

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
