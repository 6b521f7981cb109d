//! Streams for messages that are too large for a datagram, beside the UDP that reaches these SIP servers (RFC 3261 §18.1.1).
//!
//! | the stream to a server | a request is sent | it opens | it is refused | nobody answers within [`ConnectionTiming::large`] | it ends |
//! | --- | --- | --- | --- | --- | --- |
//! | none | waits; one is opened | – | – | – | – |
//! | Opening | waits | → Open, waiting requests are sent | told; → none | told; → Resting | – |
//! | Open | sent | – | – | – | told; → none |
//! | Resting | refused, until [`REST`] is over | – | – | – | – |
//!
//! The notice is [`Input::StreamLost`], to all shards: a server's stream carries the requests of each. The endpoint decides what goes again,
//! and how.
//!
//! Invariant: at most one stream to an address is being opened, and [`DIALS`] at once. A request waits for one no longer than it may take to
//! open, and is kept by its transaction besides.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::endpoint::{Input, Transport};
use sip::id::FlowId;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::agent::ShardInput;
use crate::agent::Shards;
use crate::agent::transport::connections::Connection;
use crate::agent::transport::outbox::Writer;
use crate::clock;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::net::dial;
use crate::net::stream::Stream;
use crate::timing::ConnectionTiming;

/// Streams that are being opened at once; a further one waits for its turn, and no longer than it may take to open.
const DIALS: usize = 64;
/// How long nobody tries to open a stream to an address that has answered to none: its large requests go by UDP at once.
const REST: Duration = Duration::from_secs(60);

/// The streams; cheap to clone.
#[derive(Clone)]
pub(crate) struct LargeStreams(Arc<Inner>);

struct Inner {
    timing: ConnectionTiming,
    shards: Shards,
    metrics: Metrics,
    turns: Semaphore,
    streams: Mutex<HashMap<SocketAddr, State>>,
}

enum State {
    Opening(Vec<Bytes>),
    Open(FlowId, Writer),
    /// Until then.
    Resting(Instant),
}

impl LargeStreams {
    pub(crate) fn new(timing: ConnectionTiming, shards: Shards, metrics: Metrics) -> Self {
        let (turns, streams) = (Semaphore::new(DIALS), Mutex::default());
        Self(Arc::new(Inner { timing, shards, metrics, turns, streams }))
    }

    /// Sends a request of a shard by TCP; `false` where there is no stream, and none is being opened.
    pub(crate) fn send(&self, shard: usize, peer: SocketAddr, bytes: Bytes) -> bool {
        let now = clock::now();
        let mut streams = self.0.streams();
        match streams.get_mut(&peer) {
            Some(State::Opening(waiting)) => {
                waiting.push(bytes);
                return true;
            }
            Some(State::Open(_, writer)) if writer.send(bytes.clone()) => return true,
            Some(State::Resting(until)) if *until > now => return false,
            _ => {}
        }
        streams.retain(|_, state| !matches!(state, State::Resting(until) if *until <= now));
        streams.insert(peer, State::Opening(vec![bytes]));
        drop(streams);
        self.0.shards.cores.carry(shard, self.0.clone().open_and_serve(shard, peer));
        true
    }
}

impl Inner {
    fn streams(&self) -> MutexGuard<'_, HashMap<SocketAddr, State>> {
        self.streams.lock()
    }

    async fn open_and_serve(self: Arc<Self>, shard: usize, peer: SocketAddr) {
        let opened = timeout(self.timing.large, self.open(peer)).await;
        let is_silent = opened.is_err();
        let Ok(Some(stream)) = opened else {
            if is_silent {
                self.streams().insert(peer, State::Resting(clock::now() + REST));
            } else {
                self.streams().remove(&peer);
            }
            return self.tell_lost(peer, false).await;
        };
        let (shards, metrics) = (self.shards.clone(), self.metrics.clone());
        let mut connection = Connection::dialled(Transport::Tcp, peer, self.timing, shard, shards, metrics);
        let flow = connection.flow();
        if let Some(writer) = connection.writer() {
            self.shards.send(shard, ShardInput::Flow { flow, writer: writer.clone(), peer }).await;
            let mut streams = self.streams();
            let before = streams.insert(peer, State::Open(flow, writer.clone()));
            // Under the lock: later requests go behind those that have waited.
            if let Some(State::Opening(waiting)) = before {
                for bytes in waiting {
                    writer.send(bytes);
                }
            }
        }
        self.metrics.upstream_flows(1);
        connection.serve(stream).await;
        self.metrics.upstream_flows(-1);
        {
            let mut streams = self.streams();
            if matches!(streams.get(&peer), Some(State::Open(open, _)) if *open == flow) {
                streams.remove(&peer);
            }
        }
        self.tell_lost(peer, true).await;
    }

    async fn open(&self, peer: SocketAddr) -> Option<Stream> {
        let _turn = self.turns.acquire().await.ok()?;
        let stream = dial::tcp(peer).await.ok()?;
        // A stream that has died silently accepts writes for half a minute, and longer. Without this it does so here, too.
        let _ = stream.end_when_unacknowledged(self.timing.large);
        Some(stream)
    }

    async fn tell_lost(&self, peer: SocketAddr, was_open: bool) {
        for shard in 0..self.shards.len() {
            self.shards.send(shard, ShardInput::sip(Input::StreamLost { peer, was_open })).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::mpsc;

    use super::*;
    use crate::cores::Cores;

    /// The streams of one shard, and what that is told of lost ones.
    fn one_shard(timing: ConnectionTiming) -> (LargeStreams, mpsc::Receiver<ShardInput>) {
        let (sender, inbox) = mpsc::channel(16);
        let (cores, made) = Cores::start(1).unwrap();
        made.into_iter().for_each(|core| core.begin(std::future::pending()));
        (LargeStreams::new(timing, Shards::new(vec![sender], cores), Metrics::new()), inbox)
    }

    async fn lost(inbox: &mut mpsc::Receiver<ShardInput>) -> (SocketAddr, bool) {
        loop {
            if let ShardInput::Sip { input: Input::StreamLost { peer, was_open }, .. } = inbox.recv().await.unwrap() {
                return (peer, was_open);
            }
        }
    }

    async fn read(stream: &mut TcpStream, text: &str) {
        let mut came = vec![0; text.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(came, text.as_bytes());
    }

    #[tokio::test]
    async fn large_requests_share_a_stream_and_its_end_is_told() {
        let (streams, mut inbox) = one_shard(ConnectionTiming::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        for _ in 0..2 {
            assert!(streams.send(0, peer, "one".into()) && streams.send(0, peer, "two".into()));
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream, "onetwo").await;
            assert!(streams.send(0, peer, "three".into()));
            read(&mut stream, "three").await;
            drop(stream);
            assert_eq!(lost(&mut inbox).await, (peer, true));
        }
    }

    #[tokio::test]
    async fn where_a_stream_is_refused_that_is_told() {
        let (streams, mut inbox) = one_shard(ConnectionTiming::default());
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for _ in 0..2 {
            assert!(streams.send(0, nobody, "one".into()));
            assert_eq!(lost(&mut inbox).await, (nobody, false));
        }
    }

    #[tokio::test]
    async fn where_nobody_answers_that_is_told_in_time_and_nobody_tries_again_at_once() {
        let (streams, mut inbox) =
            one_shard(ConnectionTiming { large: Duration::from_millis(50), ..ConnectionTiming::default() });
        // With a full queue of connections, the system drops what would open a further one.
        let deaf = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        bind(&deaf, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&deaf, 0).unwrap();
        let deaf = std::net::TcpListener::from(deaf);
        let peer = deaf.local_addr().unwrap();
        let _first = TcpStream::connect(peer).await.unwrap();
        assert!(streams.send(0, peer, "one".into()));
        assert_eq!(lost(&mut inbox).await, (peer, false));
        assert!(!streams.send(0, peer, "two".into()));
    }
}
