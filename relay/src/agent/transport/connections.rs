//! One stream connection: a task that reads, writes and tells the shards.
//!
//! A connection is cheap while it is idle: bytes read lie on the stack for the moment, a [`Framing`] holds memory only
//! for half a message, and the one task has no buffer of its own.
//!
//! | limit | at the limit |
//! | --- | --- |
//! | [`DEVICE_QUEUE`] or [`SERVER_QUEUE`] that wait to be written, [`ConnectionTiming::write`] for one write | the connection ends |
//! | [`ConnectionTiming::message`] for a message from its first byte to its last, however its bytes drip; as long again for one that is skipped because it is too long | the connection ends |
//! | [`ConnectionTiming::stranger`] until the peer has proven its identity: a device by its secret or by its registrar's 200, a SIP server by its address | the connection is closed; until then it gives way to strangers of other networks |
//!
//! | a malformed or too long message | the connection |
//! | --- | --- |
//! | whose end is in doubt, on a connection by which accounts are registered | is read no more. It ends when its shard has told the SIP server of another one ([`Input::Doubted`]), within a bounded time |
//! | whose end is in doubt, on any other | ends |
//! | before any sound message, from an address that is no SIP server's | ends |
//! | any other one | goes on behind it |
//!
//! The sender of such a message is answered where that is possible. A WebSocket is told why it is closed, where its peer still reads.
//!
//! Invariant: a shard that was sent anything from a connection is sent [`Input::Closed`] after the last message, when the connection ends or its peer writes
//! no more. A connection that no shard can write on any more ends. No malformed message reaches a shard.

mod ending;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::endpoint::{Endpoint, Input, Side, Source, Transport};
use sip::id::FlowId;
use sip::message::{Frame, FrameError, Limits, Malformed, Message, Method};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use ending::Ending;

use super::lf_probe::{LfProbe, ProbeFinding};
use super::read::Read;
use super::sender_names::SenderNames;
use super::write_batch::WriteBatch;
use crate::agent::ShardInput;
use crate::agent::Shards;
use crate::agent::transport::framing::{Broken, Framing, StreamEvent};
use crate::agent::transport::heartbeat::{Heartbeat, HeartbeatAction};
use crate::agent::transport::outbox::{Found, Outbox, Outgoing, Room, Writer};
use crate::agent::transport::servers::Place;
use crate::clock;
use crate::metrics::Metrics;
use crate::metrics::labels::Limit;
use crate::net::listen::Stranger;
use crate::net::stream::Stream;
use crate::net::websocket::{self, CLOSE_GOING_AWAY, CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TRY_AGAIN_LATER, Fault};
use crate::random;
use crate::timing::ConnectionTiming;

/// What waits for one device to read; with more the connection ends. A SIP server may have hundreds of messages for a device at once, as for an
/// attendant's console; and a device that comes back gets in one go what has waited for it, which strangers may have made as large as a message may be.
const DEVICE_QUEUE: Room = Room { messages: 64, bytes: 512 * 1024 };
/// Messages of a device in one go, and the pause behind so many: their answers are written then, lest they fill its queue.
const DEVICE_BURST: (usize, Duration) = (16, Duration::from_millis(10));
/// Likewise for a SIP server, whose one connection carries all of its bindings.
const SERVER_QUEUE: Room = Room { messages: 4_096, bytes: 8 * 1024 * 1024 };
/// How long a connection may stay without a byte from its peer: longer than any phone waits to refresh.
const IDLE: Duration = Duration::from_secs(2 * 3_600);
/// A number that no other connection has or had: signed tokens hold it, and are believed by the next run, and by every node that
/// shares the keyring. So the numbers of each run begin where those of no other one come to.
pub(crate) fn next_flow() -> FlowId {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(u64::from_be_bytes(random::bytes())));
    FlowId::Stream(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The signs of life of a connection that is served.
struct Life {
    began: Instant,
    /// When something came last.
    heard: Instant,
    heartbeat: Heartbeat,
}

impl Life {
    fn begins(now: Instant) -> Self {
        Self { began: now, heard: now, heartbeat: Heartbeat::default() }
    }
}

/// A connection that is open and not yet served.
pub(crate) struct Connection {
    source: Source,
    timing: ConnectionTiming,
    /// The one strong way to write, until a shard has it: a connection that no shard knows any more ends.
    writer: Option<Writer>,
    outbox: Arc<Outbox>,
    shards: Shards,
    metrics: Metrics,
    limits: Limits,
    framing: Framing,
    /// The shards that know of this flow: one bit for each.
    told: u128,
    /// The shard that answers what names nobody; that of the first message.
    home: Option<usize>,
    /// The shard of its first REGISTER.
    registers_at: Option<usize>,
    /// The names that its device begins requests by, if any are known.
    names: Option<Box<SenderNames>>,
    /// Whether registrations go by it: its shard, which has dialled it, does without it before it ends.
    is_link: bool,
    /// Whether it goes on elsewhere once its shard is known.
    moves: bool,
    /// Its first message, which its shard has not heard of yet.
    unheard: Option<Box<(usize, ShardInput)>>,
    /// Whether a sound message came, or its peer is known.
    proven: bool,
    /// When the message began that is not whole yet.
    partial_since: Option<Instant>,
    /// Messages that it has handed over since it last wrote.
    handed: usize,
    /// With the SIP server at the other end.
    lf_probe: Option<Box<LfProbe>>,
}

/// A message that no shard can read, behind which the stream goes on.
struct Unreadable {
    bytes: Bytes,
    fault: Malformed,
    broken: Broken,
}

impl Connection {
    /// A connection that a peer opened.
    pub(crate) fn accepted(
        side: Side,
        transport: Transport,
        peer: SocketAddr,
        timing: ConnectionTiming,
        shards: Shards,
        metrics: Metrics,
    ) -> Box<Self> {
        let source = Source { flow: next_flow(), side, transport, peer, split: false };
        Box::new(Self::new(source, Place::accepted(peer), timing, shards, metrics))
    }

    /// A connection toward a SIP server that `shard` asked for, and that is told of [`Self::writer`] by its dialler.
    pub(crate) fn dialled(
        transport: Transport,
        peer: SocketAddr,
        timing: ConnectionTiming,
        shard: usize,
        shards: Shards,
        metrics: Metrics,
    ) -> Box<Self> {
        let source = Source { flow: next_flow(), side: Side::Upstream, transport, peer, split: false };
        let new = Self::new(source, Place::dialled(peer), timing, shards, metrics);
        Box::new(Self { told: 1 << shard, home: Some(shard), proven: true, ..new })
    }

    /// The connection is a stranger's until a shard knows better.
    pub(crate) fn of_stranger(self: Box<Self>, stranger: Stranger) -> Box<Self> {
        self.outbox.is_of(stranger);
        self
    }

    /// Registrations go by it.
    pub(crate) fn of_registrations(self: Box<Self>) -> Box<Self> {
        Box::new(Self { is_link: true, ..*self })
    }

    fn new(source: Source, place: Place, timing: ConnectionTiming, shards: Shards, metrics: Metrics) -> Self {
        let (outbox, writer) = Outbox::new(match source.side {
            Side::Device => &DEVICE_QUEUE,
            Side::Upstream => &SERVER_QUEUE,
        });
        let (writer, limits) = (Some(writer), Limits::default());
        let mut framing = match source.transport {
            Transport::Wss => Framing::websocket(limits),
            Transport::Tls | Transport::Tcp | Transport::Udp => Framing::stream(limits),
        };
        let is_of_server = source.side == Side::Upstream;
        if is_of_server && shards.lf_servers.has(place) {
            framing.is_of_server();
            framing.sees_bare_lf();
        }
        Self {
            source,
            timing,
            writer,
            outbox,
            shards,
            metrics,
            limits,
            framing,
            told: 0,
            home: None,
            registers_at: None,
            names: None,
            is_link: false,
            moves: false,
            unheard: None,
            proven: false,
            partial_since: None,
            handed: 0,
            lf_probe: is_of_server.then(|| Box::new(LfProbe::with(place))),
        }
    }

    /// Its name.
    pub(crate) fn flow(&self) -> FlowId {
        self.source.flow
    }

    /// The way to write on it; `None` when nobody has it any more.
    pub(crate) fn writer(&mut self) -> Option<Writer> {
        self.writer.take().or_else(|| self.outbox.writer())
    }

    /// Serves it until either side ends it: here until its first message tells its shard, and then on that shard's core.
    pub(crate) async fn serve_where_it_belongs(mut self: Box<Self>, mut stream: Stream) {
        self.moves = true;
        let Err(ending) = self.exchange(&mut stream).await;
        match ending {
            Ending::Moves(shard) => {
                let cores = self.shards.cores.clone();
                self.moves = false;
                cores.carry(shard, self.serve(stream));
            }
            ending => self.end(stream, ending).await,
        }
    }

    /// Serves it here until either side ends it. In a box: a value moved into a future is in it twice.
    pub(crate) async fn serve(mut self: Box<Self>, mut stream: Stream) {
        if let Err(error) = stream.adopt() {
            tracing::debug!(event = "connection-stays", %error, "a connection stays away from its shard's core");
        }
        let Err(ending) = self.exchange(&mut stream).await;
        self.end(stream, ending).await;
    }

    /// Reads and writes until it ends, or moves.
    async fn exchange(&mut self, stream: &mut Stream) -> Result<Infallible, Ending> {
        if let Some((shard, first)) = self.unheard.take().map(|unheard| *unheard) {
            self.tell(shard).await;
            self.shards.send(shard, first).await;
            // Bytes that came with the handshake.
            self.deliver(stream).await?;
        }
        let mut life = Life::begins(clock::now());
        let silence = tokio::time::sleep(self.timing.silence);
        let partial_since = self.partial_since.unwrap_or(life.heard);
        let half = tokio::time::sleep_until((partial_since + self.timing.message).into());
        let gives_way = self.outbox.gives_way();
        let given_way = async {
            match gives_way {
                Some(gives_way) => gives_way.notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(silence, half, given_way);
        let mut is_given_way = false;
        loop {
            tokio::select! {
                biased;
                found = self.outbox.next() => match found {
                    Found::Overflow => return Err(Ending::Silent),
                    Found::Nobody => return Err(Ending::Closed(CLOSE_GOING_AWAY)),
                    Found::Work => {
                        self.handed = 0;
                        self.write(stream, None).await?;
                    }
                },
                read = (Read { stream, framing: Some(&mut self.framing) }) => {
                    read.map_err(|error| Ending::of_read(&error))?;
                    let began = self.partial_since;
                    self.deliver(stream).await?;
                    life.heard = clock::now();
                    if let Some(since) = self.partial_since.filter(|since| Some(*since) != began) {
                        half.as_mut().reset((since + self.timing.message).into());
                    }
                }
                () = &mut half, if self.partial_since.is_some() => {
                    self.end_half_message()?;
                    self.deliver(stream).await?;
                }
                () = &mut silence => {
                    let next = self.on_silence(stream, &mut life).await?;
                    silence.as_mut().reset(next.into());
                }
                () = &mut given_way, if !is_given_way => {
                    is_given_way = true;
                    if self.outbox.gave_way() {
                        return Err(Ending::Closed(CLOSE_TRY_AGAIN_LATER));
                    }
                }
            }
        }
    }

    /// A message has not come whole in its time: an error, unless silence ends one of its kind.
    fn end_half_message(&mut self) -> Result<(), Ending> {
        if self.framing.end_by_silence() {
            return Ok(());
        }
        self.metrics.limit(Limit::HalfMessage);
        self.note_doubt();
        Err(if self.is_link { Ending::Doubted } else { Ending::Closed(CLOSE_POLICY) })
    }

    /// Its time may be over, or a device is to be asked whether it is there; when to look again.
    async fn on_silence(&mut self, stream: &mut Stream, life: &mut Life) -> Result<Instant, Ending> {
        let now = clock::now();
        let until = if self.outbox.is_strangers() { life.began + self.timing.stranger } else { life.heard + IDLE };
        if !self.proven || until <= now {
            return Err(Ending::Closed(CLOSE_NORMAL));
        }
        let next = self.beat(stream, life, now).await?;
        Ok(next.map_or(until, |next| next.min(until)))
    }

    /// Asks a device whether it is there, when it is time; when to come here again, if at all.
    async fn beat(&mut self, stream: &mut Stream, life: &mut Life, now: Instant) -> Result<Option<Instant>, Ending> {
        if self.source.transport != Transport::Wss {
            return Ok(None);
        }
        let idle = self.timing.websocket_idle;
        if !self.outbox.is_kept_alive() {
            // The deadline may have passed by then.
            return Ok(Some(Some(life.heard + idle).filter(|at| *at > now).unwrap_or(now + idle)));
        }
        match life.heartbeat.on_due(now, life.heard, &self.timing) {
            HeartbeatAction::Dead => Err(Ending::Silent),
            HeartbeatAction::Wait(until) => Ok(Some(until)),
            HeartbeatAction::Ask => {
                self.write(stream, Some(Outgoing::Control(websocket::ping()))).await?;
                Ok(Some(now + self.timing.pong))
            }
        }
    }

    /// Writes `first`, if there is one, and all that waits behind it.
    async fn write(&mut self, stream: &mut Stream, first: Option<Outgoing>) -> Result<(), Ending> {
        let (mut next, mut ends) = (first.or_else(|| self.outbox.pop()), false);
        while next.is_some() {
            let mut whole = WriteBatch::default();
            while let Some(outgoing) = next.take() {
                match outgoing {
                    Outgoing::Bytes(bytes) => {
                        self.learn_names(&bytes);
                        let question = self.question_behind(&bytes);
                        whole.add(self.framing.head_of(&bytes));
                        whole.add(bytes);
                        whole.add(question.unwrap_or_default());
                    }
                    Outgoing::Control(bytes) => whole.add(bytes),
                    Outgoing::End => ends = true,
                }
                if !ends && whole.has_room() {
                    next = self.outbox.pop();
                }
            }
            if !matches!(timeout(self.timing.write, stream.write_all_buf(&mut whole)).await, Ok(Ok(()))) {
                return Err(Ending::Silent);
            }
            if !ends {
                next = self.outbox.pop();
            }
        }
        match timeout(self.timing.write, stream.flush()).await {
            Ok(Ok(())) if ends => Err(Ending::Closed(CLOSE_NORMAL)),
            Ok(Ok(())) => Ok(()),
            _ => Err(Ending::Silent),
        }
    }

    /// Hands every whole frame to its shard; an error when the stream is not to be read on.
    async fn deliver(&mut self, stream: &mut Stream) -> Result<(), Ending> {
        let at = clock::now();
        loop {
            if self.handed >= DEVICE_BURST.0 && self.source.side == Side::Device {
                self.handed = 0;
                Box::pin(tokio::time::sleep(DEVICE_BURST.1)).await;
                self.write(stream, None).await?;
            }
            let frame = match self.framing.next() {
                // The first byte of a first message may be odd, too.
                Err(Broken::Stream(FrameError::NotSip)) if self.is_of_known_server().await => continue,
                Err(broken) => {
                    let ending = self.refused(broken);
                    self.note_doubt();
                    return Err(if self.is_link { Ending::Doubted } else { ending });
                }
                Ok(None) => {
                    self.partial_since = self.framing.is_partial().then(|| self.partial_since.unwrap_or(at));
                    return Ok(());
                }
                Ok(Some(StreamEvent::Frame(frame))) => frame,
                Ok(Some(StreamEvent::Control(bytes))) => {
                    self.write(stream, Some(Outgoing::Control(bytes))).await?;
                    continue;
                }
                Ok(Some(StreamEvent::End(bytes))) => return Err(Ending::Echo(bytes)),
            };
            self.partial_since = None;
            let (shard, input) = match self.input_of(frame) {
                Ok(Some(input)) => input,
                Ok(None) => continue,
                Err(unreadable) => {
                    self.pass_over(stream, unreadable).await?;
                    continue;
                }
            };
            let input = ShardInput::Sip { at, input };
            if self.moves && self.home.is_some() {
                // The shard hears of it there, where that wakes nobody else.
                self.unheard = Some(Box::new((shard, input)));
                return Err(Ending::Moves(shard));
            }
            self.tell(shard).await;
            self.shards.send(shard, input).await;
            self.handed += 1;
        }
    }

    /// A frame as the input of a shard; nothing when it was for this connection alone.
    fn input_of(&mut self, frame: Frame) -> Result<Option<(usize, Input)>, Unreadable> {
        match frame {
            Frame::Message(bytes) => self.received(&bytes).map_err(|fault| {
                // A WebSocket's message is long enough for a response.
                let broken = match fault {
                    Malformed::TooLong => Broken::WebSocket(Fault::TooLong),
                    _ => Broken::NotSip,
                };
                Unreadable { bytes, fault, broken }
            }),
            Frame::Ping => Ok(Some((self.home(), Input::Ping(self.source)))),
            Frame::Pong => Ok(Some((self.home(), Input::Pong(self.source.flow)))),
            Frame::TooLong(bytes) => {
                Err(Unreadable { bytes, fault: Malformed::TooLong, broken: Broken::Stream(FrameError::TooLong) })
            }
            Frame::BareLf(bytes) => {
                Err(Unreadable { bytes, fault: Malformed::BareLf, broken: Broken::Stream(FrameError::NotSip) })
            }
            Frame::Stray(line) => {
                self.refused(Broken::NotSip);
                tracing::debug!(event = "stray-line", bytes = line.len(), "a line of a SIP server begins no message");
                Ok(None)
            }
        }
    }

    /// A message, for the shard that it names; nothing when it was for this connection alone.
    fn received(&mut self, bytes: &Bytes) -> Result<Option<(usize, Input)>, Malformed> {
        let message = Message::parse(bytes, &self.limits)?;
        if !self.framing.is_whole(bytes, message.head().len() + message.body().len()) {
            // What follows is discarded; a body that is too short is answered 400 (RFC 3261 §18.3).
            self.refused(Broken::NotSip);
        }
        self.proven = true;
        if self.source.side == Side::Upstream && self.learn(&message) {
            return Ok(None);
        }
        let shard = self.shards.of(&message, self.source.side);
        let shard = shard.unwrap_or_else(|| self.shard_of_sender(&message));
        self.home.get_or_insert(shard);
        if self.source.side == Side::Device && message.method() == Some(Method::Register) {
            self.note_register(shard);
        }
        Ok(Some((shard, Input::Received { source: self.source, message })))
    }

    /// The question to a SIP server that follows a written message. No other peer is asked anything.
    fn question_behind(&mut self, bytes: &Bytes) -> Option<Bytes> {
        let lf_probe = self.lf_probe.as_mut().filter(|_| self.proven && !self.outbox.is_strangers())?;
        lf_probe.on_written(bytes, self.source.transport, self.source.peer, &self.shards.lf_servers)
    }

    /// A sound message came from a SIP server: it takes what it passes on, and may say what it is. Whether the message was for this alone.
    fn learn(&mut self, message: &Message) -> bool {
        self.framing.is_of_server();
        let Some(lf_probe) = &mut self.lf_probe else { return false };
        let ProbeFinding { sees_lf, is_own } = lf_probe.on_message(message, &self.shards.lf_servers);
        if sees_lf {
            self.framing.sees_bare_lf();
        }
        is_own
    }

    /// Refuses a message that is none for a shard, though the stream goes on behind it. Many share a SIP server's connection, and one of them,
    /// or a caller behind it, must not end it for all: it goes on once a sound message came by it, or where its address is a SIP server's. Else its
    /// sender is told why it ends.
    async fn pass_over(
        &mut self,
        stream: &mut Stream,
        Unreadable { bytes, fault, broken }: Unreadable,
    ) -> Result<(), Ending> {
        let ending = self.refused(broken);
        if let Some(answer) = Message::refusal(&bytes, fault, &self.limits, self.source.peer) {
            self.write(stream, Some(Outgoing::Bytes(answer))).await?;
        }
        if self.proven || self.is_of_known_server().await { Ok(()) } else { Err(ending) }
    }

    /// Whether nothing sound came yet, and its peer is a SIP server of a binding all the same, which dials for what a caller wrote: it is proven
    /// then.
    async fn is_of_known_server(&mut self) -> bool {
        if self.proven || self.source.side != Side::Upstream {
            return false;
        }
        for shard in 0..self.shards.len() {
            let (reply, answer) = oneshot::channel();
            self.shards.send(shard, ShardInput::ServerAsked { source: Box::new(self.source), reply }).await;
            // An error means that the shard has ended, with the process about to.
            if answer.await == Ok(true) {
                self.proven = true;
                self.framing.is_of_server();
                return true;
            }
        }
        false
    }

    fn refused(&self, broken: Broken) -> Ending {
        self.metrics.sip_refused(broken.refusal());
        Ending::Closed(broken.code())
    }

    /// Its device hears of a registration, with the names that this has. Where all of them are one shard's, that knows them.
    fn learn_names(&mut self, bytes: &Bytes) {
        if self.source.split && SenderNames::may_tell(bytes) {
            self.names.get_or_insert_default().on_written(bytes, &self.limits, self.shards.len());
        }
    }

    /// A device registers by it at this shard.
    fn note_register(&mut self, shard: usize) {
        self.source.split |= *self.registers_at.get_or_insert(shard) != shard;
    }

    /// The shard of a request that names nobody here: a device begins it with a registration that passed through by this
    /// connection, of the AOR in its From or of the only one. Where there are others, that shard is told so.
    fn shard_of_sender(&self, message: &Message) -> usize {
        let is_split = self.source.split && message.is_request();
        if let Some(shard) = self.names.as_ref().filter(|_| is_split).and_then(|names| names.shard_of(message)) {
            return shard;
        }
        let tag =
            Endpoint::shard_of_sender(message).filter(|_| self.source.side == Side::Device && message.is_request());
        let shard = tag.map(|tag| tag.shard(self.shards.len())).filter(|shard| self.told & 1 << shard != 0);
        shard.or(self.registers_at).unwrap_or_else(|| self.home())
    }

    fn home(&self) -> usize {
        let number = if let FlowId::Stream(number) = self.source.flow { number } else { 0 };
        self.home.unwrap_or((number % self.shards.len() as u64) as usize)
    }

    /// Lets a shard know how to write on this connection, once.
    async fn tell(&mut self, shard: usize) {
        if self.told & 1 << shard == 0 {
            self.told |= 1 << shard;
            if let Some(writer) = self.writer() {
                let known = ShardInput::Flow { flow: self.source.flow, writer, peer: self.source.peer };
                self.shards.send(shard, known).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the accounts of several shards each shard knows its own alone.
    #[tokio::test]
    async fn a_connection_of_several_shards_says_so_and_a_caller_without_a_name_goes_where_it_has_registered() {
        let (senders, _inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| tokio::sync::mpsc::channel(1)).unzip();
        let (cores, made) = crate::cores::Cores::start(1).expect("a core");
        made.into_iter().for_each(|core| core.begin(std::future::pending()));
        let shards = Shards::new(senders, cores);
        let peer = SocketAddr::from(([198, 51, 100, 7], 40_000));
        let timing = ConnectionTiming::default();
        let mut connection = Connection::accepted(Side::Device, Transport::Tls, peer, timing, shards, Metrics::new());
        let text = "INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nFrom: <sip:a@anonymous.invalid>;tag=1\r\n\
                    To: <sip:b@h>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n";
        let invite = Message::parse(&text.into(), &Limits::default()).expect("an INVITE");
        let granted = "SIP/2.0 200 OK\r\nFrom: <sip:g@h>;tag=1\r\nTo: <sip:g@h>\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nCall-ID: i\r\n\
                       CSeq: 1 REGISTER\r\nContact: <sip:g@p>\r\nP-Associated-URI: <sip:49@c>\r\n\r\n";
        connection.learn_names(&granted.into());
        assert!(connection.names.is_none(), "of one shard");
        // Requests before its REGISTER went to any shard.
        connection.home = Some(0);
        for (shard, split) in [(2, false), (2, false), (1, true), (2, true)] {
            connection.note_register(shard);
            assert_eq!((connection.source.split, connection.shard_of_sender(&invite)), (split, 2));
        }
        // What a SIP server calls an account says nothing of its shard, which is 1.
        connection.learn_names(&granted.into());
        let invite = Message::parse(&text.replace("a@anonymous.invalid", "49@c").into(), &Limits::default());
        assert_eq!(connection.shard_of_sender(&invite.expect("an INVITE")), 1);
    }

    /// A shard's turn is not interrupted. An attendant's console, for one, hears of each colleague when its SIP server starts again; and a device that comes
    /// back gets what has waited for it.
    #[tokio::test]
    async fn what_comes_for_a_device_in_one_turn_is_written_to_it_however_many_messages_or_how_large_these_are() {
        let (senders, _inboxes): (Vec<_>, Vec<_>) = (0..1).map(|_| tokio::sync::mpsc::channel(1)).unzip();
        let (cores, made) = crate::cores::Cores::start(1).expect("a core");
        made.into_iter().for_each(|core| core.begin(std::future::pending()));
        let shards = Shards::new(senders, cores);
        let as_large_as_may_be = Limits::default().message_bytes;
        for (messages, bytes) in [(300, 1_000), (32, as_large_as_may_be)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
            let mut device =
                tokio::net::TcpStream::connect(listener.local_addr().expect("an address")).await.expect("open");
            let (accepted, peer) = listener.accept().await.expect("a connection");
            let (timing, metrics) = (ConnectionTiming::default(), Metrics::new());
            let mut connection =
                Connection::accepted(Side::Device, Transport::Tls, peer, timing, shards.clone(), metrics);
            let writer = connection.writer().expect("the first");
            let all: Vec<String> =
                (0..messages).map(|number| format!("NOTIFY {number} {}\r\n\r\n", "x".repeat(bytes))).collect();
            for (number, message) in all.iter().enumerate() {
                assert!(writer.send(message.clone().into()), "the queue is full at {number}");
            }
            tokio::spawn(connection.serve(Stream::uncounted(accepted)));
            let mut came = vec![0; all.concat().len()];
            tokio::io::AsyncReadExt::read_exact(&mut device, &mut came).await.expect("all of it");
            assert!(came == all.concat().as_bytes());
        }
    }

    /// A token of an earlier run must not name another SIP server's connection.
    #[test]
    fn the_connections_of_a_run_have_numbers_that_no_other_run_gives() {
        let (FlowId::Stream(first), FlowId::Stream(second)) = (next_flow(), next_flow()) else { panic!("streams") };
        assert_ne!(first, second);
        // 2^-40 is the chance that a run begins among these.
        assert!(first > 1 << 24 && first < u64::MAX - (1 << 24), "as every run would: {first}");
    }
}
