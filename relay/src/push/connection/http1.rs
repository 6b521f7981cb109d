//! HTTP/1.1 to a service that speaks no HTTP/2: an outgoing proxy, or a stand-in. A connection carries one request at a time, and is kept for the next.
//!
//! | a connection | consequence |
//! | --- | --- |
//! | has carried a complete answer | it is kept for [`KEPT_FOR`], or for less if its service says so (`Keep-Alive: timeout`) |
//! | ended while it was kept | another one is taken; nothing was sent on it |
//! | leaves a request unanswered for [`DOUBTED_AFTER`] | all kept connections are dropped: they may be as dead |
//! | cannot be made, or breaks | HTTP/2 is tried again |
//!
//! The finding that a service speaks HTTP/1.1 alone holds for [`BELIEVED_FOR`]; then HTTP/2 is tried again.
//!
//! Invariant: as with HTTP/2, [`Failure::Unsent`] means that the service certainly did not process the request. At most [`CONNECTIONS_MAX`] connections are
//! open for requests, a quarter of them for calls alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use http_body_util::Full;
use hyper::HeaderMap;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::answer::{Answer, Bearing};
use super::answer_timeout::Patience;
use super::departure::Body;
use super::endpoint::Endpoint;
use super::request::{Failure, Request};
use super::state::LineFate;
use super::urgency::Urgency;
use super::withdrawal::Withdrawal;
use crate::lock::Mutex;
use crate::push::health::{Record, Trouble};

/// Connections with a request at once.
const CONNECTIONS_MAX: usize = 256;
/// Connections that are kept for the next request.
const KEPT_MAX: usize = 64;
/// How long a connection is kept at most.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// How much sooner than its service would close it a connection is given up.
const MARGIN: Duration = Duration::from_secs(1);
/// How long a request may be unanswered before connections that were kept meanwhile are doubted.
const DOUBTED_AFTER: Duration = Duration::from_secs(2);
/// How long it is believed that no HTTP/2 is spoken.
const BELIEVED_FOR: Duration = Duration::from_secs(600);

/// The connections of one service.
pub(super) struct Http1 {
    /// The service is known to speak nothing else; and since when.
    is_spoken: AtomicBool,
    since: Mutex<Instant>,
    places: Semaphore,
    /// Of these places one for each that what is no call may have.
    alerts: Semaphore,
    kept: Mutex<Vec<IdleConnection>>,
}

/// A connection, driven until it is dropped.
struct Connection {
    sender: SendRequest<Full<Body>>,
    withdrawal: Withdrawal,
    _driven: JoinSet<()>,
}

struct IdleConnection {
    connection: Connection,
    since: Instant,
    until: Instant,
}

/// The destination of a request.
#[derive(Clone, Copy)]
pub(super) struct Destination<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) record: &'a Arc<Record>,
}

impl Default for Http1 {
    fn default() -> Self {
        Self {
            is_spoken: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            places: Semaphore::new(CONNECTIONS_MAX),
            alerts: Semaphore::new(CONNECTIONS_MAX / 4 * 3),
            kept: Mutex::default(),
        }
    }
}

impl Http1 {
    /// The service speaks no HTTP/2.
    pub(super) fn note_spoken(&self) {
        *lock(&self.since) = Instant::now();
        self.is_spoken.store(true, Ordering::Release);
    }

    /// Whether a request goes this way.
    fn is_spoken(&self) -> bool {
        if !self.is_spoken.load(Ordering::Acquire) {
            return false;
        }
        let is = lock(&self.since).elapsed() < BELIEVED_FOR;
        if !is {
            self.is_spoken.store(false, Ordering::Release);
        }
        is
    }

    /// Sends `request` and reads the meaning of its answer, where HTTP/1.1 is spoken. `None`: HTTP/2 is to be tried; nothing has left.
    pub(super) async fn send<M>(
        &self,
        way: Destination<'_>,
        request: &Request,
        patience: Patience<'_>,
        read: impl Fn(&Answer) -> (M, Bearing),
    ) -> Option<Result<(M, Bearing), Failure>> {
        if !self.is_spoken() {
            return None;
        }
        let Ok(Some(_place)) = timeout_at(patience.times.leaves_until, self.place(patience.urgency)).await else {
            return Some(Err(Failure::Unsent { after: None }));
        };
        loop {
            let (connection, is_kept) = match self.take() {
                Some(connection) => (connection, true),
                None => match timeout_at(patience.times.leaves_until, self.dialled(way)).await {
                    Ok(Some(connection)) => (connection, false),
                    Ok(None) => return None,
                    Err(_) => return Some(Err(Failure::Unsent { after: None })),
                },
            };
            match self.exchange(connection, way, request, patience).await {
                Ok((answer, connection)) => {
                    let (meaning, bearing) = read(&answer);
                    if matches!(bearing.line, LineFate::Good | LineFate::Borne) {
                        self.keep(connection, &answer.headers);
                    }
                    return Some(Ok((meaning, bearing)));
                }
                Err(Failure::Unsent { .. }) if is_kept => {}
                Err(failure) => {
                    // The bytes that came were perhaps no HTTP/1.1.
                    self.is_spoken.fetch_and(is_kept, Ordering::AcqRel);
                    way.record.trouble(Trouble::light("ConnectionLost"), "");
                    return Some(Err(failure));
                }
            }
        }
    }

    async fn place(&self, urgency: Urgency) -> Option<(SemaphorePermit<'_>, Option<SemaphorePermit<'_>>)> {
        let alerts = if urgency.is_urgent() { None } else { Some(self.alerts.acquire().await.ok()?) };
        Some((self.places.acquire().await.ok()?, alerts))
    }

    /// The connection that was used last, of those that have not ended.
    fn take(&self) -> Option<Connection> {
        let now = Instant::now();
        let mut kept = lock(&self.kept);
        kept.retain(|one| one.until > now && !one.connection.sender.is_closed());
        kept.pop().map(|one| one.connection)
    }

    fn keep(&self, connection: Option<Connection>, headers: &HeaderMap) {
        let Some(connection) = connection else { return };
        let now = Instant::now();
        let time = told_time(headers).map_or(KEPT_FOR, |told| told.saturating_sub(MARGIN).min(KEPT_FOR));
        let mut kept = lock(&self.kept);
        if kept.len() < KEPT_MAX && !time.is_zero() {
            kept.push(IdleConnection { connection, since: now, until: now + time });
        }
    }

    /// Gives up those that nothing was heard of since then.
    fn give_up_before(&self, moment: Instant) {
        lock(&self.kept).retain(|one| one.since > moment);
    }

    /// `None`: there is none to be had; what is spoken is not known any more.
    async fn dialled(&self, Destination { endpoint, record }: Destination<'_>) -> Option<Connection> {
        let failed = |error: &dyn std::fmt::Display| {
            self.is_spoken.store(false, Ordering::Release);
            record.trouble(Trouble::light("Unreachable"), &error.to_string());
        };
        let (stream, withdrawal) = endpoint.dialler().dial_http1(None).await.inspect_err(|error| failed(error)).ok()?;
        // Some stand-ins and proxies know a header by its usual case alone.
        let (sender, driver) = http1::Builder::new()
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .inspect_err(|error| failed(error))
            .ok()?;
        let mut driven = JoinSet::new();
        // Its end is told by what was sent.
        driven.spawn(async { drop(driver.await) });
        Some(Connection { sender, withdrawal, _driven: driven })
    }

    /// Sends the request and reads the whole answer; with the connection, if it serves further.
    async fn exchange(
        &self,
        mut connection: Connection,
        Destination { endpoint, .. }: Destination<'_>,
        request: &Request,
        patience: Patience<'_>,
    ) -> Result<(Answer, Option<Connection>), Failure> {
        let unsent = Failure::Unsent { after: None };
        let Patience { times, departure, .. } = patience;
        let Ok(Ok(())) = timeout_at(times.leaves_until, connection.sender.ready()).await else { return Err(unsent) };
        let target = endpoint.uri(&request.path).and_then(|uri| uri.path_and_query().cloned()).ok_or(unsent)?;
        let (body, passage) = departure.begin(patience.body_of(request)).ok_or(unsent)?;
        let mut head = hyper::Request::new(Full::new(body));
        *head.method_mut() = hyper::Method::POST;
        *head.uri_mut() = target.into();
        *head.headers_mut() = request.headers.clone();
        head.headers_mut().insert(HOST, endpoint.dialler().authority().parse().map_err(|_| unsent)?);
        // Until it is answered: bytes that have not arrived when nobody waits for the push any more never do.
        connection.withdrawal.ask(true);
        let (sent, until) = (Instant::now(), patience.times.answer_until());
        let response = connection.sender.try_send_request(head);
        tokio::pin!(response);
        let answered = async {
            match timeout(DOUBTED_AFTER, &mut response).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.give_up_before(sent);
                    response.await
                }
            }
        };
        let response = match timeout_at(until, answered).await {
            Ok(Ok(response)) => response,
            // Of a request whose body has not left the service has no whole.
            Ok(Err(mut lost)) => {
                let is_unsent = lost.take_message().is_some() || !passage.is_over();
                return Err(if is_unsent { unsent } else { Failure::Unconfirmed });
            }
            Err(_) => return Err(Failure::Unconfirmed),
        };
        connection.withdrawal.ask(false);
        let answer = Answer::read(response, until).await;
        let kept = answer.body.is_some().then_some(connection);
        Ok((answer, kept))
    }
}

/// How long the service keeps the connection open without a request, where it says so.
fn told_time(headers: &HeaderMap) -> Option<Duration> {
    let told = headers.get("keep-alive")?.to_str().ok()?;
    let mut members = told.split(',').filter_map(|member| member.split_once('='));
    let (_, seconds) = members.find(|(name, _)| name.trim().eq_ignore_ascii_case("timeout"))?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}
