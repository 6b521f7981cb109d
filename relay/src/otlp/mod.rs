//! The stories of calls as traces of OpenTelemetry, sent to a collector by OTLP over HTTP, where an operator names one.
//!
//! | room | contents |
//! | --- | --- |
//! | `spans` | a story as spans, in OTLP's JSON |
//!
//! A story becomes a trace when its call is over: nothing is measured for it on the way from INVITE to push. OTLP's JSON is written
//! here: the crates that would write it (`opentelemetry-otlp` 0.32 with its SDK, `prost` and the bridge from `tracing`, thirteen
//! packages beside those that are here) trace by spans that are opened on that way.
//!
//! Invariant: nothing waits for a collector. A trace that does not fit into the queue, or is not taken at the third time, is lost and counted; so is
//! one of a batch of which the collector rejects spans, without another try. Nothing of a caller is sent, not even the shortened form.

mod spans;

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::Otlp;
use crate::domain::story::Story;
use crate::metrics::Metrics;
use crate::metrics::labels::TraceOutcome;
use crate::net::dial::{self, DialError};
use crate::net::tls::{ClientTls, TlsError};
use crate::net::web_host;
use crate::outage::Outage;
use crate::secret::ApiKey;

/// Stories that wait to be sent; a further one is lost.
const QUEUE: usize = 4 * 1024;
/// Stories of one request.
const BATCH: usize = 256;
/// How long the first of a batch waits for others.
const GATHER: Duration = Duration::from_secs(2);
/// How long a collector may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// The pauses before a batch is sent again.
const AGAIN_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// The longest answer that is read, in bytes.
const LONGEST: usize = 64 * 1024;

/// The exporter of traces; cheap to clone. Without a collector it takes nothing.
#[derive(Clone, Default)]
pub struct Exporter(Option<(mpsc::Sender<Story>, Metrics)>);

/// Why a collector has not taken something.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("its name does not resolve: {0}")]
    Name(io::Error),
    #[error("its name has no address")]
    NoAddress,
    #[error("{0}")]
    Dial(#[from] DialError),
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("it answers {0}")]
    Refused(StatusCode),
    #[error("it rejects {0} spans of what it takes; its log has the reason")]
    Rejected(u64),
    #[error("the token cannot stand in a header")]
    Token,
}

impl NotTaken {
    /// Whether a later attempt may succeed: a collector that refuses now refuses then, unless it is busy or away.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status) => matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504),
            // What is rejected in part shall not be sent again (OTLP, Partial Success).
            Self::Rejected(_) | Self::Token => false,
            _ => true,
        }
    }
}

/// A collector.
struct Collector {
    /// `None`: plain HTTP, on this machine.
    tls: Option<ClientTls>,
    host: Box<str>,
    port: u16,
    token: Option<ApiKey>,
    node: Box<str>,
}

impl Exporter {
    /// Starts the task that sends, which ends with the last clone.
    ///
    /// # Errors
    /// [`TlsError`] when the CA cannot be used.
    pub fn start(config: Option<&Otlp>, node: &str, metrics: &Metrics) -> Result<Self, TlsError> {
        let Some(Otlp { is_tls, host, port, ca_file, token }) = config else { return Ok(Self::default()) };
        let tls = is_tls.then(|| ClientTls::web(ca_file.as_deref())).transpose()?;
        let collector = Collector { tls, host: host.clone(), port: *port, token: token.clone(), node: node.into() };
        let (queue, waiting) = mpsc::channel(QUEUE);
        let (watch, metrics_of) = (collector.tls.clone(), metrics.clone());
        tokio::spawn(async move {
            // Its CA may be another one while the relay runs.
            let watching = watch.map(|tls| tokio::spawn(tls.watch()));
            send_all(waiting, collector, metrics_of).await;
            watching.inspect(JoinHandle::abort);
        });
        Ok(Self(Some((queue, metrics.clone()))))
    }

    /// Sends the story of a call that is over.
    pub(crate) fn export(&self, story: &Story) {
        if let Some((queue, metrics)) = &self.0
            && queue.try_send(story.clone()).is_err()
        {
            metrics.traces(TraceOutcome::Lost, 1);
        }
    }
}

async fn send_all(mut waiting: mpsc::Receiver<Story>, collector: Collector, metrics: Metrics) {
    let (mut batch, mut outage) = (Vec::with_capacity(BATCH), Outage::default());
    while waiting.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH {
            sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(story) = waiting.try_recv()
            {
                batch.push(story);
            }
        }
        let body = Bytes::from(spans::request(&collector.node, &batch).to_string());
        let mut pauses = AGAIN_AFTER.iter();
        let outcome = loop {
            let sent = timeout(ANSWER_WITHIN, collector.send(body.clone())).await.unwrap_or(Err(NotTaken::Timeout));
            match sent {
                Ok(()) => {
                    if let Some(times) = outage.over() {
                        tracing::warn!(event = "traces-taken-again", times, "the collector takes traces again");
                    }
                    break TraceOutcome::Sent;
                }
                Err(error) => {
                    if let Some(times) = outage.again() {
                        tracing::warn!(event = "traces-not-taken", %error, times, "the collector of [otlp] takes no traces");
                    }
                    match pauses.next().filter(|_| error.may_pass()) {
                        Some(pause) => sleep(*pause).await,
                        None => break TraceOutcome::Lost,
                    }
                }
            }
        };
        metrics.traces(outcome, batch.len() as u64);
        batch.clear();
    }
}

impl Collector {
    async fn send(&self, body: Bytes) -> Result<(), NotTaken> {
        let mut last = NotTaken::NoAddress;
        for address in web_host::addresses(&self.host, self.port).await.map_err(NotTaken::Name)? {
            let stream = match &self.tls {
                Some(tls) => dial::tls(address, tls, &self.host).await,
                None => dial::tcp(address).await,
            };
            match stream {
                Ok(stream) => return self.post(stream, body).await,
                Err(error) => last = error.into(),
            }
        }
        Err(last)
    }

    async fn post(&self, stream: crate::net::stream::Stream, body: Bytes) -> Result<(), NotTaken> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::post("/v1/traces")
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let request = request.body(Full::new(body)).map_err(|_| NotTaken::Token)?;
        let answer = sender.send_request(request).await;
        let told = match answer {
            Ok(answer) => {
                let (status, body) = (answer.status(), Limited::new(answer.into_body(), LONGEST).collect().await);
                Ok((status, body.map(|body| rejected(&body.to_bytes())).unwrap_or(0)))
            }
            Err(error) => Err(NotTaken::Http(error)),
        };
        connection.abort();
        match told? {
            (status, _) if !status.is_success() => Err(NotTaken::Refused(status)),
            (_, 0) => Ok(()),
            (_, spans) => Err(NotTaken::Rejected(spans)),
        }
    }
}

/// How many spans a collector has rejected of what it answers 200. OTLP's JSON writes 64-bit numbers as text; not every collector does.
fn rejected(answer: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let spans = &answer["partialSuccess"]["rejectedSpans"];
    spans.as_u64().or_else(|| spans.as_str()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_collector_that_rejects_spans_in_a_200_has_not_taken_them() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("a bound listener").port();
        let collector = Collector { tls: None, host: "127.0.0.1".into(), port, token: None, node: "relay".into() };
        for (answer, taken) in [
            ("", true),
            ("{}", true),
            (r#"{"partialSuccess": {}}"#, true),
            (r#"{"partialSuccess": {"rejectedSpans": "0", "errorMessage": "a warning"}}"#, true),
            (r#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}"#, false),
            (r#"{"partialSuccess": {"rejectedSpans": 3}}"#, false),
        ] {
            let answering = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = Vec::new();
                while !request.ends_with(b"{body}") {
                    assert!(stream.read_buf(&mut request).await.expect("a request") > 0);
                }
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len());
                stream.write_all(answer.as_bytes()).await.expect("written");
            };
            let (sent, ()) = tokio::join!(collector.send(Bytes::from_static(b"{body}")), answering);
            assert_eq!(sent.is_ok(), taken, "{answer}: {sent:?}");
            assert!(sent.err().is_none_or(|error| !error.may_pass() && error.to_string().contains("rejects 3 spans")));
        }
    }
}
