//! An HTTPS client for the relay's API, as an app has one; HTTP/1.1 or HTTP/2.
//!
//! Invariant: it trusts the test's authority alone; a connection is kept from one request to the next; an answer is
//! whatever came, judged by the test and not here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{HeaderMap, Request, Response, Version, body::Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;

use crate::authority::Authority;
use crate::wire::Transport;

/// How long connecting, and each answer, may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A client of one server.
pub struct ApiClient {
    address: SocketAddr,
    version: Version,
    tls: Arc<rustls::ClientConfig>,
    bearer: Option<String>,
    kept: Mutex<Option<Connection>>,
}

enum Connection {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// The server's answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The name in the problem's `type`, without `urn:sipwake:problem:`.
    pub fn problem(&self) -> Option<String> {
        let json = self.json();
        json["type"].as_str().and_then(|kind| kind.strip_prefix("urn:sipwake:problem:")).map(str::to_owned)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A push instance, as the answer to enabling it names it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `pi_…`
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The edge, as `sip:host:port;transport=tls`.
    pub edge: String,
    /// The AOR that was asked for.
    pub aor: String,
    /// The token for calls that was asked for.
    pub push_token: String,
    /// Whether that is one of FCM.
    pub fcm: bool,
    /// The whole answer.
    pub answer: Value,
}

impl Instance {
    /// The instance that an answer to `body` tells of.
    pub fn new(body: &Value, answer: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let target = &body["device"]["call_push"];
        Self {
            id: text(&answer["instance"]),
            secret: text(&answer["secret"]),
            edge: text(&answer["edge"]["proxy"]),
            aor: text(&body["account"]["aor"]),
            push_token: text(&target["token"]),
            fcm: target["provider"] == "fcm",
            answer,
        }
    }

    /// The edge as a phone dials it by this transport: `sip:host:port;transport=tls`, or `;transport=ws` by secure
    /// WebSocket. Empty when the relay offers none.
    pub fn edge_over(&self, transport: Transport) -> String {
        let websocket = self.answer["edge"]["websocket"].as_str().unwrap_or_default();
        match (transport, websocket.strip_prefix("wss://")) {
            (Transport::Wss, None) => String::new(),
            (Transport::Wss, Some(host)) => format!("sip:{};transport=ws", host.trim_end_matches('/')),
            _ => self.edge.clone(),
        }
    }
}

impl ApiClient {
    /// A client of `address` (its host is what TLS verifies) that trusts `authority` and shows `bearer`.
    pub fn new(address: SocketAddr, version: Version, authority: &Authority, bearer: Option<&str>) -> Self {
        let alpn: &[&[u8]] = if version == Version::HTTP_2 { &[b"h2"] } else { &[b"http/1.1"] };
        let tls = authority.client_config(alpn);
        Self { address, version, tls, bearer: bearer.map(str::to_owned), kept: Mutex::new(None) }
    }

    /// `POST /v1/instances` with this body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn enable(&self, body: &Value) -> io::Result<Answer> {
        self.json("POST", "/v1/instances", self.bearer.as_deref(), Some(body)).await
    }

    /// The same, for a test that goes on with the instance.
    ///
    /// # Errors
    /// When no answer comes, or another than 201 or 202.
    pub async fn enabled(&self, body: &Value) -> io::Result<Instance> {
        let answer = self.enable(body).await?;
        match answer.status {
            201 | 202 => Ok(Instance::new(body, answer.json())),
            status => Err(io::Error::other(format!("enabling was answered {status}: {}", answer.text()))),
        }
    }

    /// `GET /v1/instances/{id}`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn read(&self, instance: &Instance) -> io::Result<Answer> {
        self.json("GET", &path(instance, ""), Some(&instance.secret), None).await
    }

    /// `PATCH /v1/instances/{id}` with this body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn change(&self, instance: &Instance, body: &Value) -> io::Result<Answer> {
        self.json("PATCH", &path(instance, ""), Some(&instance.secret), Some(body)).await
    }

    /// `DELETE /v1/instances/{id}`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn disable(&self, instance: &Instance) -> io::Result<Answer> {
        self.json("DELETE", &path(instance, ""), Some(&instance.secret), None).await
    }

    /// `GET /v1/instances/{id}/calls/{call}`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn call(&self, instance: &Instance, call: &str) -> io::Result<Answer> {
        self.json("GET", &path(instance, &format!("/calls/{call}")), Some(&instance.secret), None).await
    }

    /// `POST /v1/instances/{id}/calls/{call}/progress`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn progress(&self, instance: &Instance, call: &str) -> io::Result<Answer> {
        self.json("POST", &path(instance, &format!("/calls/{call}/progress")), Some(&instance.secret), None).await
    }

    /// `POST /v1/instances/{id}/calls/{call}/decline`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn decline(&self, instance: &Instance, call: &str) -> io::Result<Answer> {
        self.json("POST", &path(instance, &format!("/calls/{call}/decline")), Some(&instance.secret), None).await
    }

    /// `POST /v1/wake` with a SIP server's key and this body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn wake(&self, key: &str, body: &Value) -> io::Result<Answer> {
        self.json("POST", "/v1/wake", Some(key), Some(body)).await
    }

    /// `METHOD /v1/instances/{id}REST` with the instance's secret and no body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn of(&self, method: &str, instance: &Instance, rest: &str) -> io::Result<Answer> {
        self.json(method, &path(instance, rest), Some(&instance.secret), None).await
    }

    /// A request with the client's own bearer and no body.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn get(&self, path: &str) -> io::Result<Answer> {
        self.json("GET", path, self.bearer.as_deref(), None).await
    }

    /// A request with a JSON body, or none.
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn json(
        &self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<&Value>,
    ) -> io::Result<Answer> {
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        self.raw(method, path, bearer, body.map(|_| "application/json"), bytes).await
    }

    /// A request with any bytes as its body.
    ///
    /// # Errors
    /// When the request cannot be formed, or no answer comes within 30 seconds.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        content_type: Option<&str>,
        body: Bytes,
    ) -> io::Result<Answer> {
        let uri = match self.version {
            Version::HTTP_2 => format!("https://{}{path}", self.address),
            _ => path.to_owned(),
        };
        let build = || {
            let mut request = Request::builder().method(method).uri(&uri).version(self.version);
            if self.version != Version::HTTP_2 {
                request = request.header("host", self.address.to_string());
            }
            if let Some(bearer) = bearer {
                request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
            }
            if let Some(kind) = content_type {
                request = request.header(CONTENT_TYPE, kind);
            }
            request.body(Full::new(body.clone())).map_err(io::Error::other)
        };
        let exchange = async {
            let kept = self.kept.lock().await.take().filter(Connection::is_ready);
            if let Some(connection) = kept
                && let Ok(answer) = self.exchange(connection, build()?).await
            {
                return Ok(answer);
            }
            // The kept connection may have been closed while the request was on its way: once more, on a new one.
            self.exchange(self.connect().await?, build()?).await
        };
        tokio::time::timeout(ANSWER_WITHIN, exchange).await?
    }

    async fn exchange(&self, mut connection: Connection, request: Request<Full<Bytes>>) -> io::Result<Answer> {
        // Another request may go on the same HTTP/2 connection meanwhile.
        if let Connection::Two(sender) = &connection {
            *self.kept.lock().await = Some(Connection::Two(sender.clone()));
        }
        let response: Response<Incoming> = match &mut connection {
            Connection::One(sender) => sender.send_request(request).await,
            Connection::Two(sender) => sender.send_request(request).await,
        }
        .map_err(io::Error::other)?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if let Connection::One(_) = connection {
            *self.kept.lock().await = Some(connection);
        }
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    async fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = TokioIo::new(TlsConnector::from(self.tls.clone()).connect(name, stream).await?);
        Ok(match self.version {
            Version::HTTP_2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), stream).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Connection::Two(sender)
            }
            _ => {
                let (sender, connection) = http1::handshake(stream).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Connection::One(sender)
            }
        })
    }
}

impl Connection {
    fn is_ready(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_ready(),
            Self::Two(sender) => sender.is_ready(),
        }
    }
}

fn path(instance: &Instance, rest: &str) -> String {
    format!("/v1/instances/{}{rest}", instance.id)
}
