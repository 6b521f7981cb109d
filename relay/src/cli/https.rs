//! One request to a relay over HTTPS, with its answer as JSON.
//!
//! Invariant: the relay's certificate is verified, always; credentials shown to it are in no error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::CommandError;
use super::table::printable;
use crate::net::dial::{self, DialError};
use crate::net::https_port::https_port;
use crate::net::stream::Stream;
use crate::net::tls::ClientTls;
use crate::net::web_host;

/// How long the relay may take: it may have to wait for a SIP server.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// How long it may take to say how it stands.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// The address of a relay, and how it is verified.
pub(super) struct Https {
    /// `host:port`, as it was named.
    authority: String,
    host: String,
    port: u16,
    tls: ClientTls,
    /// The file with the certificate that the relay is known by.
    known_by: Option<PathBuf>,
    /// Where else it may be.
    or_at: Option<SocketAddr>,
}

impl Https {
    /// A relay at `https://host[:port]`, verified by the system's roots and by the CA in `ca`.
    pub(super) fn new(address: &str, ca: Option<&Path>) -> Result<Self, CommandError> {
        let wrong = || CommandError::Address(address.to_owned());
        let uri: Uri = address.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong());
        }
        let (host, port) = (authority.host().to_owned(), https_port(&uri).ok_or_else(wrong)?);
        Ok(Self { authority: authority.to_string(), host, port, tls: ClientTls::web(ca)?, known_by: None, or_at: None })
    }

    /// A relay of this machine, verified as `tls` does it; `known_by`: by the certificate in this file.
    pub(super) fn at(address: SocketAddr, tls: ClientTls, known_by: Option<PathBuf>) -> Self {
        let (host, port) = (address.ip().to_string(), address.port());
        Self { authority: address.to_string(), host, port, tls, known_by, or_at: None }
    }

    /// The same, which may also be at another address, where nothing or something else is at the first one.
    pub(super) fn or_at(self, or_at: Option<SocketAddr>) -> Self {
        Self { or_at, ..self }
    }

    /// A TLS connection to a host of the same relay.
    pub(super) async fn dial(&self, host: &str, port: u16) -> Result<Stream, CommandError> {
        connect(&self.tls, host, port).await.map_err(|error| self.explained(error))
    }

    /// Asks; the answer's body when it is a success, `Null` when it has none.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        let bytes = self.ask_bytes(method, path, bearer, body).await?;
        if bytes.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&bytes).map_err(|_| CommandError::NotARelay)
        }
    }

    /// Asks; the answer's body as it is, when it is a success.
    pub(super) async fn ask_bytes(
        &self,
        method: &str,
        path: &str,
        bearer: &str,
        body: Option<&Value>,
    ) -> Result<Bytes, CommandError> {
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if !bearer.is_empty() {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        // A key that cannot stand in a header is not the relay's either.
        let request = request.body(Full::new(bytes)).map_err(|_| CommandError::NotARelay)?;
        let exchange = timeout(ANSWER_WITHIN, self.exchange(request)).await;
        let (status, bytes) = exchange.map_err(|_| CommandError::Timeout)??;
        if (200..300).contains(&status) {
            return Ok(bytes);
        }
        let problem = serde_json::from_slice(&bytes).map_err(|_| CommandError::NotARelay)?;
        Err(CommandError::Refused { status, detail: told(&problem) })
    }

    /// Gets what is open to all: the status and the body, whatever they are.
    pub(super) async fn get_open(&self, path: &str) -> Result<(u16, Bytes), CommandError> {
        let request = Request::builder().uri(path).header(HOST, &self.authority).body(Full::default());
        let request = request.map_err(|_| CommandError::NotARelay)?;
        timeout(OPEN_WITHIN, self.exchange(request)).await.map_err(|_| CommandError::Timeout)?
    }

    /// A relay that is known by a file, and shows something else, mostly has not taken what lies there.
    fn explained(&self, error: CommandError) -> CommandError {
        match (error, &self.known_by) {
            (CommandError::Dial(DialError::NotTrusted { address, .. }), Some(file)) => {
                CommandError::OtherCertificate { address, file: file.clone() }
            }
            (error, _) => error,
        }
    }

    async fn connect(&self) -> Result<Stream, CommandError> {
        let connected = connect(&self.tls, &self.host, self.port).await;
        match (connected, self.or_at) {
            (Err(error), Some(other)) => {
                connect(&self.tls, &other.ip().to_string(), other.port()).await.map_err(|_| error)
            }
            (connected, _) => connected,
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(u16, Bytes), CommandError> {
        let stream = self.connect().await.map_err(|error| self.explained(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|_| CommandError::NotARelay)?;
        connection.abort();
        Ok((status.as_u16(), body.to_bytes()))
    }
}

async fn connect(tls: &ClientTls, host: &str, port: u16) -> Result<Stream, CommandError> {
    let name = |why| CommandError::Name { host: host.to_owned(), why };
    let addresses = web_host::addresses(host, port).await.map_err(name)?;
    let mut last = CommandError::NotARelay;
    for address in addresses {
        match dial::tls(address, tls, host).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// A problem (RFC 9457), as text for a person.
fn told(problem: &Value) -> String {
    // Its lines are ours, and nothing in them a command to the terminal.
    let text = |member: &str| printable(problem[member].as_str().unwrap_or_default());
    let mut told = format!("{}. {}", text("title"), text("detail"));
    if let Some(status) = problem["sip_status"].as_u64() {
        told += &format!(" (SIP status {status})");
    }
    for problem in problem["problems"].as_array().into_iter().flatten() {
        told += &format!("\n  {}", printable(problem.as_str().unwrap_or_default()));
    }
    for error in problem["errors"].as_array().into_iter().flatten() {
        let part = |member: &str| printable(error[member].as_str().unwrap_or_default());
        told += &format!("\n  {}: {}", part("pointer"), part("detail"));
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_https_origin_and_nothing_else() {
        for (address, right) in [
            ("https://127.0.0.1:8443", true),
            ("https://relay1.example.net/", true),
            ("https://[::1]:8443", true),
            ("http://127.0.0.1:8443", false),
            ("127.0.0.1:8443", false),
            ("https://relay1.example.net/v1", false),
            ("https://relay1.example.net/?a=b", false),
            ("", false),
        ] {
            assert_eq!(Https::new(address, None).is_ok(), right, "{address}");
        }
    }

    #[test]
    fn a_refusal_is_told_with_every_place_that_is_wrong() {
        let problem = serde_json::json!({
            "title": "The body is not what is asked for", "detail": "Correct each place.", "status": 422,
            "errors": [{"pointer": "/account/aor", "detail": "expected a string"}],
        });
        let text = told(&problem);
        assert!(text.contains("Correct each place.") && text.contains("/account/aor: expected a string"), "{text}");
    }

    #[test]
    fn a_refusal_gives_the_terminal_no_command() {
        let odd = "\u{1b}]0;title\u{7}\u{1b}[2J\r\n\u{9b}2J";
        let problem = serde_json::json!({
            "title": odd, "detail": odd, "problems": [odd], "errors": [{"pointer": odd, "detail": odd}],
        });
        let text = told(&problem);
        assert_eq!(text.lines().count(), 3, "{text:?}");
        assert!(text.lines().all(|line| !line.contains(char::is_control)), "{text:?}");
    }
}
