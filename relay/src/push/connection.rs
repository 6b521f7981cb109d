//! One multiplexed HTTP/2 connection to one push service, made when it is needed and replaced when it is lost.
//!
//! It stands on `h2` and not on hyper's client, because whoever sends a call's push must know whether the service may
//! have taken it: `h2` tells, stream by stream, a request that was refused or that a GOAWAY left out from one that was
//! lost after it left; hyper's dispatcher reports some of both as the same error.
//!
//! Invariant: [`Failure::Unsent`] means that the service certainly did not process the request; everything else that
//! went wrong after the request left is [`Failure::Unconfirmed`]. Each wait ends at the caller's `until`. At most
//! [`MAX_STREAMS`] requests are on the connection and [`MAX_UNDER_WAY`] at the channel; one more is turned away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, Method, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backoff::Backoff;
use super::endpoint::{DialError, Dialled, Endpoint};
use super::single_flight::{Freshness, SingleFlight};

/// Requests on one connection at once; the service's own limit, when lower, is kept by `h2`.
const MAX_STREAMS: usize = 1_000;
/// Requests that wait for or are on the connection; above it a request is turned away at once.
const MAX_UNDER_WAY: usize = 20_000;
/// Between two dials that fail.
const DIAL_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };
/// A connection on which nothing was heard for so long after a request gets no further ones.
const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// How long the body may come after the head of an answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest body of an answer, in bytes; of a larger one nothing is used.
const MAX_BODY: usize = 64 * 1024;
/// How often a silent connection is probed, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The connection to one endpoint on behalf of one App.
pub(super) struct Channel {
    label: Box<str>,
    endpoint: Arc<Endpoint>,
    flight: Arc<SingleFlight<Arc<Connection>, ()>>,
    /// Whether a new connection carries one request alone until [`Answer::proves`] says otherwise.
    cautious: bool,
    under_way: AtomicUsize,
}

/// A POST.
pub(super) struct Request {
    /// The path, from the slash on.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Empty also when it did not come in time or was too large.
    pub(super) body: Bytes,
}

/// Why nothing came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The service certainly did not process the request; another try makes sense after the pause.
    Unsent { after: Option<Duration> },
    /// The service may have processed it.
    Unconfirmed,
}

enum Lost {
    /// Not processed, because the connection ends.
    Ending,
    /// Not processed, on a connection that lives.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Answer {
    /// The seconds of `Retry-After`, when it has that form.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?;
        text.trim().parse().ok().map(Duration::from_secs)
    }

    /// Whether the service took our credentials: anything but 403.
    fn proves(&self) -> bool {
        self.status != StatusCode::FORBIDDEN
    }
}

impl Channel {
    /// Where it leads.
    pub(super) fn origin(&self) -> &str {
        self.endpoint.origin()
    }

    /// `label` names the channel in logs. A `cautious` one sends one request alone on each new connection, until the
    /// service has accepted our credentials on it.
    pub(super) fn new(label: String, endpoint: Endpoint, cautious: bool) -> Self {
        Self {
            label: label.into(),
            endpoint: Arc::new(endpoint),
            flight: SingleFlight::new(DIAL_BACKOFF),
            cautious,
            under_way: AtomicUsize::new(0),
        }
    }

    /// The path of the endpoint's URL.
    pub(super) fn base_path(&self) -> &str {
        self.endpoint.path()
    }

    /// Sends `request` and waits for the whole answer, until `until`. When the connection ends under the request and
    /// the service certainly left it out, it goes once more over a fresh one.
    pub(super) async fn send(&self, request: &Request, until: Instant) -> Result<Answer, Failure> {
        let _place = self.place()?;
        let mut moved = false;
        loop {
            let (connection, _permit) = match timeout_at(until, self.admit()).await {
                Ok(admitted) => admitted?,
                Err(_) => return Err(Failure::Unsent { after: None }),
            };
            match connection.exchange(&self.endpoint, request, until).await {
                Ok(answer) => return Ok(answer),
                Err(Lost::Ending) if !moved => moved = true,
                Err(Lost::Ending | Lost::Refused) => return Err(Failure::Unsent { after: None }),
                Err(Lost::Unknown) => return Err(Failure::Unconfirmed),
            }
        }
    }

    fn place(&self) -> Result<QueueSlot<'_>, Failure> {
        let place = QueueSlot(&self.under_way);
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= MAX_UNDER_WAY {
            return Err(Failure::Unsent { after: None });
        }
        Ok(place)
    }

    /// A connection and the right to one stream on it.
    async fn admit(&self) -> Result<(Arc<Connection>, OwnedSemaphorePermit), Failure> {
        let freshness = |connection: &Arc<Connection>| match connection.line.is_retired() {
            false => Freshness::Good,
            true => Freshness::Spent,
        };
        // Twice in a row a connection may end between being made and being used; more often is a failure.
        for _ in 0..3 {
            let connection = self
                .flight
                .get(freshness, || make(Arc::clone(&self.endpoint), self.label.clone(), self.cautious), ())
                .await
                .map_err(|cooling_down| Failure::Unsent { after: Some(cooling_down.after) })?;
            if let Ok(permit) = Arc::clone(&connection.line.gate).acquire_owned().await {
                return Ok((connection, permit));
            }
        }
        Err(Failure::Unsent { after: None })
    }
}

/// A place among the requests under way, given back when dropped.
struct QueueSlot<'a>(&'a AtomicUsize);

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Connection {
    sender: SendRequest<Bytes>,
    line: Arc<Line>,
}

/// What a connection's users and its driver share.
struct Line {
    /// One permit for each stream that may be open; closed when the connection gets no further requests.
    gate: Arc<Semaphore>,
    proven: AtomicBool,
    opened: Instant,
    /// When something was last heard, in milliseconds since `opened`.
    heard: AtomicU64,
}

impl Line {
    fn new(cautious: bool) -> Arc<Self> {
        Arc::new(Self {
            gate: Arc::new(Semaphore::new(if cautious { 1 } else { MAX_STREAMS })),
            proven: AtomicBool::new(!cautious),
            opened: Instant::now(),
            heard: AtomicU64::new(0),
        })
    }

    fn retire(&self) {
        self.gate.close();
    }

    fn is_retired(&self) -> bool {
        self.gate.is_closed()
    }

    fn age(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.opened).as_millis()).unwrap_or(u64::MAX)
    }

    fn hear(&self) {
        self.heard.fetch_max(self.age(Instant::now()), Ordering::Relaxed);
    }

    fn heard_since(&self, moment: Instant) -> bool {
        self.heard.load(Ordering::Relaxed) > self.age(moment)
    }

    /// Opens the gate for all once the service has accepted our credentials.
    fn prove(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.gate.add_permits(MAX_STREAMS - 1);
        }
    }
}

impl Connection {
    async fn exchange(&self, endpoint: &Endpoint, request: &Request, until: Instant) -> Result<Answer, Lost> {
        let (response, sent) = match self.post(endpoint, request, until).await {
            Ok(posted) => posted,
            Err(lost) => {
                if matches!(lost, Lost::Ending) {
                    self.line.retire();
                }
                return Err(lost);
            }
        };
        match self.await_head(response, sent, until).await {
            Ok(response) => {
                self.line.hear();
                let (head, body) = response.into_parts();
                let body_until = until.min(Instant::now() + BODY_TIMEOUT);
                let body = timeout_at(body_until, read_body(body)).await.ok().flatten().unwrap_or_default();
                let answer = Answer { status: head.status, headers: head.headers, body };
                if answer.proves() {
                    self.line.prove();
                }
                Ok(answer)
            }
            Err(error) => Err(self.classify(error)),
        }
    }

    /// Hands the request to the connection. Whatever fails here, nothing has left.
    async fn post(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        until: Instant,
    ) -> Result<(ResponseFuture, Instant), Lost> {
        let uri = format!("{}{}", endpoint.origin(), request.path);
        let mut head = hyper::Request::builder()
            .method(Method::POST)
            .version(hyper::Version::HTTP_2)
            .uri(uri)
            .body(())
            .map_err(|_| Lost::Refused)?;
        *head.headers_mut() = request.headers.clone();
        let ready = timeout_at(until, self.sender.clone().ready()).await;
        let mut sender = ready.map_err(|_| Lost::Refused)?.map_err(|_| Lost::Ending)?;
        let (response, mut body) = sender.send_request(head, false).map_err(|_| Lost::Ending)?;
        // When the stream is already reset this fails, and the response says why.
        let _ = body.send_data(request.body.clone(), true);
        Ok((response, Instant::now()))
    }

    /// Waits for the head of the answer. On the way, a connection that stays silent gets no further requests.
    async fn await_head(
        &self,
        mut response: ResponseFuture,
        sent: Instant,
        until: Instant,
    ) -> Result<hyper::Response<h2::RecvStream>, Option<h2::Error>> {
        let suspect = until.min(sent + SUSPECT_AFTER);
        if let Ok(outcome) = timeout_at(suspect, &mut response).await {
            return outcome.map_err(Some);
        }
        if !self.line.heard_since(sent) {
            self.line.retire();
        }
        match timeout_at(until, response).await {
            Ok(outcome) => outcome.map_err(Some),
            Err(_) => Err(None),
        }
    }

    /// What became of a request whose stream ended in `error` (`None`: it was not answered in time).
    fn classify(&self, error: Option<h2::Error>) -> Lost {
        let Some(error) = error else { return Lost::Unknown };
        if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            // RFC 9113 §8.7: closed before any processing.
            return Lost::Refused;
        }
        self.line.retire();
        // h2 gives this error only to streams above the GOAWAY's last one (RFC 9113 §6.8): not processed.
        if error.is_remote() && error.is_go_away() { Lost::Ending } else { Lost::Unknown }
    }
}

/// The whole body. `None` when it breaks off or is too large.
async fn read_body(mut stream: h2::RecvStream) -> Option<Bytes> {
    let mut whole = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk.ok()?;
        stream.flow_control().release_capacity(chunk.len()).ok()?;
        if whole.len() + chunk.len() > MAX_BODY {
            return None;
        }
        whole.extend_from_slice(&chunk);
    }
    Some(whole.into())
}

async fn make(endpoint: Arc<Endpoint>, label: Box<str>, cautious: bool) -> Result<Arc<Connection>, ()> {
    match endpoint.dial().await {
        Ok((sender, connection)) => {
            tracing::debug!(channel = %label, "connected to the push service");
            let line = Line::new(cautious);
            tokio::spawn(drive((sender.clone(), connection), Arc::clone(&line), label));
            Ok(Arc::new(Connection { sender, line }))
        }
        Err(error) => {
            report(&label, &error);
            Err(())
        }
    }
}

fn report(label: &str, error: &DialError) {
    tracing::warn!(channel = %label, %error, "the push service cannot be reached");
}

/// Drives a connection until it ends, and probes it: one that does not answer a PING is given up.
async fn drive((sender, mut connection): Dialled, line: Arc<Line>, label: Box<str>) {
    // The driver must not keep the connection open by itself.
    drop(sender);
    let mut pings = connection.ping_pong();
    let probe = async {
        let Some(pings) = pings.as_mut() else { return std::future::pending().await };
        loop {
            sleep(PING_EVERY).await;
            match timeout(PING_TIMEOUT, pings.ping(h2::Ping::opaque())).await {
                Ok(Ok(_)) => line.hear(),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    };
    tokio::select! {
        outcome = &mut connection => {
            if let Err(error) = outcome {
                tracing::debug!(channel = %label, %error, "the connection to the push service ended");
            }
        }
        () = probe => tracing::warn!(channel = %label, "the push service fell silent: connecting anew"),
    }
    line.retire();
}
