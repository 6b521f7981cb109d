//! The multiplexed HTTP/2 connection to one push service, made when it is needed and replaced when it is lost.
//!
//! One is for all. A core that pushes often has one more of its own (`core_connections.rs`), so that its pushes wake no other core; what
//! cannot leave by that one at once leaves by the one for all.
//!
//! It stands on `h2` and not on hyper's client, because the sender of a call's push must know whether the service may
//! have taken it: `h2` tells, stream by stream, a request that was refused or that a GOAWAY left out from one that was
//! lost after it left; hyper's dispatcher reports some of both as the same error.
//!
//! Invariant: [`Failure::Unsent`] means that the service certainly did not process the request; everything else that
//! went wrong after the request left is [`Failure::Unconfirmed`]. Each wait ends at the caller's `until`. At most
//! [`MAX_UNDER_WAY`] requests are at the channel, of which [`ALERTS_UNDER_WAY`] are no calls; one more is turned away.

mod beside;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use hyper::Method;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::allowance::Allowance;
use super::answer::{Answer, BODY_TIMEOUT, Bearing, MAX_BODY};
use super::answer_timeout::{NoAnswer, Patience, WhenSilent, head_of_answer};
use super::backoff::Backoff;
use super::core_connections::CoreConnections;
use super::departure::{Body, Passage};
use super::dial::{DialError, Dialled, Driven};
use super::endpoint::Endpoint;
use super::further_connections::FurtherConnections;
use super::history::ConnectionHistory;
use super::http1::{Destination, Http1};
use super::identity::Objection;
use super::not_before::{NotBefore, PROBE_EVERY, PauseFor, Probe};
pub(crate) use super::request::{Failure, Request};
use super::retries::Retries;
use super::single_flight::{CoolingDown, Freshness, SingleFlight};
use super::spare_connections::{ServesMany, SpareConnections};
use super::state::{Line, LineFate, Place};
use super::urgency::Urgency;
use super::withdrawal::Withdrawal;
use crate::cores;
use crate::push::health::device_faults::Faults;
use crate::push::health::reasons::{NOT_ALLOWED, NOT_HTTP2};
use crate::push::health::{Note, Record, Trouble};

/// Requests that wait for or are on the connection; above it a request is turned away at once.
const MAX_UNDER_WAY: usize = 20_000;
/// Likewise those that are no calls.
const ALERTS_UNDER_WAY: usize = MAX_UNDER_WAY / 4 * 3;
/// The pause after a dial that failed; calls wait meanwhile.
const DIAL_BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: PROBE_EVERY };
/// How long a line that has fallen silent is kept at most for what is under way on it.
const LINGER: Duration = Duration::from_secs(180);
/// While calls wait, no alert goes over a connection so young: the service may take few requests before it ends it.
const CALLS_FIRST: Duration = Duration::from_millis(50);
/// How long a service that takes no connection with our certificate is not asked again; pushes are refused at once.
const SHUT_OUT_FOR: Duration = Duration::from_secs(5);

/// The connection to one endpoint on behalf of one App.
pub(crate) struct Channel {
    label: Arc<str>,
    endpoint: Arc<Endpoint>,
    /// The connection for all.
    flight: Arc<Flight>,
    own: CoreConnections<Arc<Connection>, Option<&'static str>>,
    /// Those for calls that wait behind it while it is not proven.
    further: FurtherConnections,
    /// Those for calls that wait for a stream of it.
    spare: SpareConnections<Arc<Connection>, Option<&'static str>>,
    /// The way to a service that speaks no HTTP/2, where that is taken.
    http1: Option<Http1>,
    history: Arc<ConnectionHistory>,
    /// Whether a new connection carries one request alone until [`Bearing::proves`] says otherwise.
    cautious: bool,
    /// Whether it is of a service that a device has chosen: one that speaks no HTTP/2, or lies where the relay does not go, is
    /// told as such, and what it sends unasked is limited.
    any_service: bool,
    /// For a service that devices choose: whether many have chosen it.
    serves_many: ServesMany,
    /// The runtime on which its connections are made and driven, if not where they are needed.
    runtime: Option<Handle>,
    under_way: Arc<AtomicUsize>,
    /// The calls that wait for a connection, or a stream.
    calls_waiting: AtomicUsize,
    not_before: NotBefore,
    /// When what is no call is tried again.
    pub(crate) retries: Arc<Retries>,
    faults: Faults,
    record: Arc<Record>,
}

enum Lost {
    /// Not processed, because the connection ends.
    Ending,
    /// Not processed, on a connection that lives.
    Refused,
    /// Not processed: the connection ends for our certificate.
    ShutOut(&'static str),
    /// The fate of the request is unknown: its connection has ended.
    Unknown,
    /// Likewise: its answer was waited for long enough.
    Unanswered,
}

impl Channel {
    /// The origin that it leads to.
    pub(crate) fn origin(&self) -> &str {
        self.endpoint.origin()
    }

    /// `label` names the channel in logs. A `cautious` one sends one request alone on each new connection, until the
    /// service has accepted our credentials on it. Outcomes are noted in `record`.
    pub(crate) fn new(label: String, endpoint: Endpoint, cautious: bool, record: Arc<Record>) -> Self {
        Self {
            label: label.into(),
            http1: endpoint.dialler().may_speak_http1().then(Http1::default),
            endpoint: Arc::new(endpoint),
            flight: SingleFlight::new(DIAL_BACKOFF),
            own: CoreConnections::new(DIAL_BACKOFF),
            further: FurtherConnections::default(),
            spare: SpareConnections::new(DIAL_BACKOFF),
            history: Arc::default(),
            cautious,
            any_service: false,
            serves_many: ServesMany::default(),
            runtime: None,
            under_way: Arc::default(),
            calls_waiting: AtomicUsize::new(0),
            not_before: NotBefore::default(),
            retries: Arc::default(),
            faults: Faults::default(),
            record,
        }
    }

    /// For a service that a device has chosen: its traffic, however much, occupies `runtime` and no core that
    /// calls are on. HTTP/1.1 to it is its user's to speak.
    pub(crate) fn of_any_service(self, runtime: Option<Handle>) -> Self {
        Self { any_service: true, http1: None, runtime, ..self }
    }

    /// Applies the consequences of an answer by another connection to all later requests.
    pub(crate) fn apply_bearing(&self, bearing: Bearing) {
        if bearing.pause.is_some() || matches!(bearing.note, Note::Accepted | Note::Well | Note::LetIn) {
            self.not_before.answered(bearing.pause);
        }
        self.record.note(bearing.note);
    }

    /// Waits for leave to send by another connection, as [`Self::send`] does.
    pub(crate) async fn leave(&self, patience: Patience<'_>) -> Result<Option<Probe<'_>>, Failure> {
        self.not_before
            .leave(patience.times.leaves_until, patience.urgency)
            .await
            .map_err(|after| Failure::Unsent { after: Some(after) })
    }

    /// Does `work` with the endpoint where connections of this channel are made. `None`: that runtime ends.
    pub(crate) async fn have_made<T, W>(&self, work: impl FnOnce(Arc<Endpoint>) -> W) -> Option<T>
    where
        T: Send + 'static,
        W: Future<Output = T> + Send + 'static,
    {
        on(self.runtime.clone(), work(Arc::clone(&self.endpoint))).await
    }

    /// The record of the service's health.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Leaves the service alone for a while; one request then asks how it stands.
    pub(crate) fn pause(&self, pause: PauseFor) {
        self.not_before.answered(Some(pause));
    }

    /// How long the service is left alone yet, if it is.
    pub(crate) fn pause_left(&self) -> Option<Duration> {
        self.not_before.left()
    }

    /// The service has served: nobody leaves it alone any more.
    pub(crate) fn end_pause(&self) {
        self.not_before.answered(None);
    }

    /// The path of the endpoint's URL.
    pub(crate) fn base_path(&self) -> &str {
        self.endpoint.path()
    }

    /// Sends `request`, waits for the whole answer and reads its meaning for the request, and for the channel.
    /// When the connection ends under the request and the service certainly left it out, it goes once more over a fresh
    /// one; a call does so as often as the connection before has served others, for then it is only a matter of its turn.
    pub(crate) async fn send<M>(
        &self,
        request: &Request,
        patience: Patience<'_>,
        read: impl Fn(&Answer) -> (M, Bearing),
    ) -> Result<M, Failure> {
        let mut place = if patience.urgency.is_urgent() { Some(self.place(Urgency::Urgent)?) } else { None };
        let (mut left_out_by, mut is_without_http2) = (None::<Arc<Line>>, false);
        let mut permission = None;
        loop {
            if permission.is_none() {
                permission = Some(self.leave(patience).await?);
            }
            // An alert takes its place only once it may leave.
            if place.is_none() {
                place = Some(self.place(Urgency::CanWait)?);
            }
            if let Some(http1) = &self.http1 {
                let destination = Destination { endpoint: &self.endpoint, record: &self.record };
                if let Some(sent) = http1.send(destination, request, patience, &read).await {
                    let (meaning, bearing) = sent?;
                    patience.departure.say_of(&bearing);
                    self.apply_bearing(bearing);
                    return Ok(meaning);
                }
            }
            let (connection, stream) = match timeout_at(patience.times.leaves_until, self.admit(patience.urgency)).await
            {
                Ok(Err(Failure::ShutOut { reason: NOT_HTTP2 })) if let Some(http1) = &self.http1 => {
                    if is_without_http2 {
                        return Err(Failure::Unsent { after: None });
                    }
                    // Nothing has left, so the permission is still good.
                    is_without_http2 = true;
                    http1.note_spoken();
                    continue;
                }
                Ok(admitted) => admitted?,
                Err(_) => return Err(Failure::Unsent { after: None }),
            };
            let _expected = connection.allowance.as_ref().map(|allowance| allowance.expect_an_answer());
            match connection.exchange(&self.endpoint, request, patience).await {
                Ok(answer) => {
                    let (meaning, bearing) = read(&answer);
                    patience.departure.say_of(&bearing);
                    self.note_answer(&connection, request.whom, patience.urgency, &bearing);
                    self.apply_bearing(bearing);
                    return Ok(meaning);
                }
                Err(Lost::ShutOut(reason)) => return Err(Failure::ShutOut { reason }),
                Err(Lost::Ending)
                    if left_out_by.as_ref().is_none_or(|line| patience.urgency.is_urgent() && line.has_served()) =>
                {
                    (left_out_by, permission) = (Some(Arc::clone(&connection.line)), None);
                }
                Err(Lost::Ending | Lost::Refused) => return Err(Failure::Unsent { after: None }),
                Err(lost @ (Lost::Unknown | Lost::Unanswered)) => {
                    self.record.trouble(Trouble::light(reason_of_loss(&connection, &lost)), "");
                    // The push may still arrive, and is withdrawn only when nobody waits for its outcome. Other pushes of this line may arrive
                    // as well, even those of ended calls: an alert is not worth that.
                    if connection.line.is_silent() && patience.when_silent == WhenSilent::IsKept {
                        patience.departure.hold(stream);
                    }
                    return Err(Failure::Unconfirmed);
                }
            }
        }
    }

    /// Notes what the answer to a request to this device says about its connection.
    fn note_answer(&self, connection: &Arc<Connection>, whom: Option<u64>, urgency: Urgency, bearing: &Bearing) {
        let line = &connection.line;
        let is_calls_first = urgency.is_urgent() && !line.has_served();
        let fate = match (bearing.line, whom) {
            (LineFate::Faulty, Some(whom)) if !self.faults.may_cost_a_line(whom, is_calls_first) => LineFate::Borne,
            (fate, _) => fate,
        };
        if line.answered(fate, bearing.proves, || connection.streams_allowed())
            && let Some(whom) = whom
        {
            self.faults.cost_a_line(whom);
        }
        if self.any_service && bearing.note == Note::Accepted {
            whom.into_iter().for_each(|whom| self.serves_many.note_taken(whom));
        }
        self.further.answered();
        if line.is_aside() && line.is_proven() {
            self.promote(connection);
        }
    }

    fn place(&self, urgency: Urgency) -> Result<QueueSlot<'_>, Failure> {
        let place = QueueSlot(&self.under_way);
        let most = if urgency.is_urgent() { MAX_UNDER_WAY } else { ALERTS_UNDER_WAY };
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(Failure::NoPlace { after: None });
        }
        Ok(place)
    }

    /// A connection and the right to one stream on it.
    async fn admit(&self, urgency: Urgency) -> Result<(Arc<Connection>, Place), Failure> {
        let make = |history: &Arc<ConnectionHistory>| {
            let making = Making {
                endpoint: Arc::clone(&self.endpoint),
                label: Arc::clone(&self.label),
                history: Arc::clone(history),
                under_way: Arc::clone(&self.under_way),
                cautious: self.cautious,
                any_service: self.any_service,
                may_speak_http1: self.any_service || self.http1.is_some(),
                record: Arc::clone(&self.record),
            };
            let runtime = self.runtime.clone();
            async move { on(runtime, making.made()).await.unwrap_or(Err(None)) }
        };
        // Work driven elsewhere wakes another thread anyway.
        if self.runtime.is_none()
            && let Some(own) = self.own.here()
        {
            if let Some(connection) = own.flight.have(freshness)
                && !connection.is_shut_out()
                && let Some(stream) = connection.line.try_admit(urgency, || connection.streams_allowed())
            {
                return Ok((connection, stream));
            }
            // Only beside one that serves: a service that cannot be reached is not dialled from every core.
            let serves = self.flight.have(freshness).filter(|all| all.line.has_served());
            if serves.is_some_and(|all| all.core != Some(own.core)) && own.is_wanted(Instant::now()) {
                own.flight.begin(freshness, || make(&own.history), None);
            }
        }
        // A service that a device has chosen costs one connection, unless many devices have chosen it.
        let has_others = urgency.is_urgent() && (!self.any_service || self.serves_many.does());
        let _waiting = urgency.is_urgent().then(|| {
            self.calls_waiting.fetch_add(1, Ordering::Relaxed);
            QueueSlot(&self.calls_waiting)
        });
        // A connection may end before it is this one's turn; the next is made in its time.
        loop {
            let connection = self.flight.get(freshness, || make(&self.history), None).await.map_err(
                |CoolingDown { why, after, .. }| match why {
                    Some(reason) => Failure::ShutOut { reason },
                    None => Failure::Unsent { after: Some(after) },
                },
            )?;
            let admitted = async {
                if !urgency.is_urgent() && self.calls_waiting.load(Ordering::Relaxed) > 0 {
                    sleep_until(connection.made_at + CALLS_FIRST).await;
                }
                connection.line.admit(urgency, || connection.streams_allowed()).await
            };
            let stream = tokio::select! {
                biased;
                stream = admitted => stream,
                // It is made when it is polled: where there is something to wait for.
                beside = async { Box::pin(self.beside(&connection.line, &make)).await }, if has_others => return Ok(beside),
            };
            if let Some(reason) = connection.objection.reason() {
                return Err(Failure::ShutOut { reason });
            }
            if let Some(stream) = stream {
                return Ok((connection, stream));
            }
        }
    }
}

/// The name of the trouble that left the fate of a request unknown.
fn reason_of_loss(connection: &Connection, lost: &Lost) -> &'static str {
    match lost {
        _ if connection.line.is_silent() => "Silent",
        // The relay itself has ended a connection on which nothing was answered.
        Lost::Unknown if !connection.line.is_deaf() => "ConnectionLost",
        _ => "Unanswered",
    }
}

/// The usability of a connection.
fn freshness(connection: &Arc<Connection>) -> Freshness {
    match &connection.line {
        _ if connection.is_shut_out() => Freshness::Good,
        line if line.is_retired() => Freshness::Spent,
        line if line.is_tired() => Freshness::Ageing,
        _ => Freshness::Good,
    }
}

/// A place among the requests that are counted here, given back when dropped.
struct QueueSlot<'a>(&'a AtomicUsize);

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Flight = SingleFlight<Arc<Connection>, Option<&'static str>>;

/// Does `work` on that runtime, or here where there is none. `None`: the runtime ends.
async fn on<T: Send + 'static>(runtime: Option<Handle>, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match runtime {
        Some(runtime) => runtime.spawn(work).await.ok(),
        None => Some(work.await),
    }
}

struct Connection {
    sender: SendRequest<Body>,
    /// The core that drives it.
    core: Option<usize>,
    objection: Objection,
    made_at: Instant,
    line: Arc<Line>,
    /// How much the service may send, where that is limited.
    allowance: Option<Arc<Allowance>>,
}

impl Connection {
    /// Whether it tells those who come that the service takes none with our certificate.
    fn is_shut_out(&self) -> bool {
        self.objection.reason().is_some() && self.made_at.elapsed() < SHUT_OUT_FOR
    }

    /// How many streams the service lets be open at this moment.
    fn streams_allowed(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    async fn exchange(&self, endpoint: &Endpoint, request: &Request, patience: Patience<'_>) -> Result<Answer, Lost> {
        let known = patience.departure.count();
        let (response, mut stream, passage) = match self.post(endpoint, request, patience) {
            Ok(posted) => posted,
            Err(lost) => {
                if matches!(lost, Lost::Ending) {
                    self.line.retire();
                }
                return Err(self.objection.reason().map_or(lost, Lost::ShutOut));
            }
        };
        match head_of_answer(response, &self.line, &passage, (Instant::now(), known), patience).await {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body_until = patience.times.until.min(Instant::now() + BODY_TIMEOUT);
                let body = timeout_at(body_until, read_body(body)).await.ok().flatten();
                Ok(Answer { status: head.status, headers: head.headers, body })
            }
            Err(NoAnswer::TakenBack) => Err(Lost::Ending),
            // A request without its end is none (RFC 9113 §8.1), and this one gets none.
            Err(NoAnswer::Stuck) => {
                stream.send_reset(h2::Reason::CANCEL);
                // The window that is shut may be that of the connection: nothing else leaves by it either.
                self.line.give_up();
                Err(Lost::Ending)
            }
            Err(NoAnswer::NotLeft) => Err(Lost::Refused),
            // What waits here for its stream yet never leaves.
            Err(NoAnswer::Late) if passage.take_back() => Err(Lost::Refused),
            Err(NoAnswer::Late) => Err(Lost::Unanswered),
            Err(NoAnswer::Ended(error)) => Err(self.classify(&error, &passage)),
        }
    }

    /// Hands the request to the connection. If this fails, nothing has left.
    fn post(
        &self,
        endpoint: &Endpoint,
        request: &Request,
        patience: Patience<'_>,
    ) -> Result<(ResponseFuture, SendStream<Body>, Passage), Lost> {
        let mut head = hyper::Request::new(());
        *head.method_mut() = Method::POST;
        *head.version_mut() = hyper::Version::HTTP_2;
        *head.uri_mut() = endpoint.uri(&request.path).ok_or(Lost::Refused)?;
        *head.headers_mut() = request.headers.clone();
        let body = patience.body_of(request);
        // A PHP behind its service's web server reads no body without it, and some services refuse the request (RFC 9110 §8.6).
        head.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let (body, passage) = patience.departure.begin(body).ok_or(Lost::Refused)?;
        let (response, mut stream) = self.sender.clone().send_request(head, false).map_err(|_| Lost::Ending)?;
        // When the stream is already reset this fails, and the response says why.
        let _ = stream.send_data(body, true);
        Ok((response, stream, passage))
    }

    /// The fate of a request whose stream ended in `error`.
    fn classify(&self, error: &h2::Error, passage: &Passage) -> Lost {
        if error.is_remote() && error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM) {
            // RFC 9113 §8.7: closed before any processing.
            return Lost::Refused;
        }
        self.line.retire();
        if let Some(reason) = self.objection.reason() {
            return Lost::ShutOut(reason);
        }
        // h2 gives this error only to streams above the GOAWAY's last one (RFC 9113 §6.8): not processed.
        let left_out = error.is_remote() && error.is_go_away();
        // A connection that is lost sends nothing any more of what waited in it.
        let waited = error.is_io() && !passage.is_over();
        if left_out || waited { Lost::Ending } else { Lost::Unknown }
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

/// The inputs for making a new connection.
struct Making {
    endpoint: Arc<Endpoint>,
    label: Arc<str>,
    history: Arc<ConnectionHistory>,
    under_way: Arc<AtomicUsize>,
    cautious: bool,
    any_service: bool,
    may_speak_http1: bool,
    record: Arc<Record>,
}

impl Making {
    async fn made(self) -> Result<Arc<Connection>, Option<&'static str>> {
        self.history.turn(|| self.under_way.load(Ordering::Relaxed)).await;
        let allowance = self.any_service.then(Arc::<Allowance>::default);
        match self.endpoint.dialler().dial(allowance.clone()).await {
            Ok((Dialled { sender, driven, objection, withdrawal }, address)) => {
                tracing::debug!(event = "push-connected", channel = %self.label, "connected to the push service");
                // The service's SETTINGS have come.
                let line = Line::new(self.cautious, sender.current_max_send_streams(), Arc::clone(&self.history));
                let made = Arc::new(Connection {
                    sender,
                    core: cores::here(),
                    objection: objection.clone(),
                    made_at: Instant::now(),
                    line: Arc::clone(&line),
                    allowance,
                });
                let driver = Driver {
                    connection: driven,
                    objection,
                    withdrawal,
                    made: Arc::downgrade(&made),
                    line,
                    making: self,
                    address,
                };
                tokio::spawn(driver.drive());
                Ok(made)
            }
            // The caller knows what it speaks instead; and where a device has chosen the service, this is no failure of the service.
            Err(DialError::NotHttp2) if self.may_speak_http1 => Err(Some(NOT_HTTP2)),
            Err(error) if self.any_service && error.is_forbidden() => Err(Some(NOT_ALLOWED)),
            Err(error) if error.is_for_want_of_leave() => Err(None),
            Err(error) => {
                self.report(&error);
                Err(if let DialError::ShutOut(reason) = error { Some(reason) } else { None })
            }
        }
    }

    fn report(&self, error: &DialError) {
        match error {
            DialError::ShutOut(reason) => self.record.trouble(Trouble::grave(reason), ""),
            error => self.record.trouble(Trouble::light("Unreachable"), &error.to_string()),
        }
        tracing::debug!(event = "push-unreachable", channel = %self.label, %error, "the push service cannot be reached");
    }
}

/// How a connection ended, in words of HTTP/2 and of this system: what the service wrote into its GOAWAY is not repeated.
fn ending(error: &h2::Error) -> String {
    match (error.reason(), error.get_io()) {
        (Some(reason), _) => format!("{reason:?}"),
        (None, Some(error)) => error.to_string(),
        (None, None) => "it broke the protocol".to_owned(),
    }
}

/// The task of one connection.
struct Driver {
    connection: Driven,
    objection: Objection,
    withdrawal: Withdrawal,
    /// The driver must not keep the connection open by itself.
    made: Weak<Connection>,
    line: Arc<Line>,
    making: Making,
    /// Where its service was reached.
    address: SocketAddr,
}

impl Driver {
    /// Drives the connection until it ends, and watches it. One that has fallen silent is driven on for what is under way, as long as
    /// anybody waits for it; then it takes back what has not arrived.
    async fn drive(mut self) {
        let has_ended = self.drive_while_heard().await;
        self.line.retire();
        if let Some(reason) = self.objection.reason() {
            self.making.record.trouble(Trouble::grave(reason), "");
        }
        if self.line.was_poor() {
            self.making.endpoint.dialler().demote(self.address);
        }
        if !has_ended {
            self.linger().await;
        }
    }

    /// Whether the connection has ended; else it has fallen silent.
    async fn drive_while_heard(&mut self) -> bool {
        let Self { connection, withdrawal, made, line, making, address, .. } = self;
        let pings = connection.ping_pong();
        let limit = || made.upgrade().map(|made| made.sender.current_max_send_streams());
        let watch = async {
            if let Some(mut pings) = pings {
                line.watch(&mut pings, limit).await;
            }
            // A connection that takes no PING any more may still answer what is under way.
            if !line.is_silent() {
                std::future::pending::<()>().await;
            }
        };
        // Its service may be well behind another address. Requests under way may still be answered.
        let deaf = async {
            line.deafness().await;
            making.record.trouble(Trouble::light("Unanswered"), "");
            tracing::debug!(event = "push-unanswered", channel = %making.label, "the push service answers nothing: connecting anew");
            making.endpoint.dialler().demote(*address);
            withdrawal.ask(true);
            std::future::pending().await
        };
        tokio::select! {
            outcome = &mut *connection => {
                if let Err(error) = outcome {
                    tracing::debug!(event = "push-disconnected", channel = %making.label, error = %ending(&error), "the connection to the push service ended");
                }
                true
            }
            () = watch => false,
            () = deaf => true,
        }
    }

    /// Waits for the answers to what is under way on a connection that has fallen silent. In any case its line takes no further requests. One of a
    /// service that a device has chosen is not waited for: none of its requests is.
    async fn linger(&mut self) {
        let Self { connection, withdrawal, line, making, .. } = self;
        making.record.trouble(Trouble::light("Silent"), "");
        tracing::debug!(event = "push-silent", channel = %making.label, "the push service fell silent: connecting anew");
        withdrawal.ask(true);
        if making.any_service {
            return;
        }
        // A connection that ends by itself still has its requests on their way.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            () = sleep(LINGER) => {}
            () = line.abandonment() => {}
            () = driven => {}
        }
    }
}

#[cfg(test)]
mod tests;
