//! Streams for answers whose own stream has ended.
//!
//! These streams are opened in shares of their own, for each SIP server and for all, because a request's Via chooses the port. A stream that has carried no
//! answer for [`IDLE`] is closed: a router on the way may have forgotten it, and the next answer would be lost.
//!
//! Invariant: at most [`ANSWER_DIALS`] streams are being opened, and [`ANSWER_DIALS_PER_SERVER`] to one SIP server. At most [`ANSWERS_WAITING`] answers wait
//! for a server, and at most [`OPEN_MAX`] streams to it are open: beyond that, the one that was idle longest is closed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use sip::endpoint::Transport;
use sip::id::{FlowId, UpstreamId};
use tokio::time::{Instant, sleep_until, timeout};

use super::connecting::{Patience, Turns};
use super::{Dialler, Inner};
use crate::agent::ShardInput;
use crate::agent::transport::connections::Connection;
use crate::agent::transport::outbox::Writer;
use crate::limits::shares::Share;
use crate::metrics::labels::Limit;
use crate::net::stream::Stream;
use crate::net::{self, dial};

/// Streams for answers that are being opened at once, beside those connections.
pub(super) const ANSWER_DIALS: usize = 64;
/// Likewise to one SIP server.
pub(super) const ANSWER_DIALS_PER_SERVER: usize = 4;
/// Answers that wait until their stream to one SIP server is open; a further one is lost.
pub(super) const ANSWERS_WAITING: usize = 64;

/// Streams that are open to one SIP server, for its answers.
const OPEN_MAX: usize = 16;
/// How long such a stream stays open after an answer: it may be sent again for as long (RFC 3261 §13.3.1.4, 64·T1).
const IDLE: Duration = Duration::from_secs(32);
/// Such a stream ends when an answer was not acknowledged for so long: it is sent again by another one.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);

/// Where a stream for answers leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StreamKey {
    peer: SocketAddr,
    transport: Transport,
    /// The SIP server for whose domain it was verified: another one's answers do not travel on it.
    upstream: UpstreamId,
}

/// The state of such a stream.
pub(super) enum Answering {
    /// The stream is being opened: these answers wait for it, each with its place among those of the SIP server.
    Opening(Vec<(Bytes, Share)>),
    Open(Open),
}

/// A stream that is open.
pub(super) struct Open {
    flow: FlowId,
    writer: Writer,
    /// When it was to carry an answer last.
    used_at: Instant,
}

impl Dialler {
    /// Sends a response to a SIP server whose stream has ended: on the stream that an earlier one opened, or on a new one. An answer that cannot be
    /// sent so is lost.
    pub(crate) fn answer(
        &self,
        shard: usize,
        upstream: UpstreamId,
        peer: SocketAddr,
        transport: Transport,
        bytes: Bytes,
    ) {
        match self.0.resolver.reach().check(peer) {
            Ok(peer) => self.send_by_stream(shard, StreamKey { peer, transport, upstream }, bytes),
            Err(error) => {
                tracing::info!(event = "answer-not-allowed", upstream = upstream.0, %error, "a SIP server's connection has ended, and the port that it names for answers is not allowed");
            }
        }
    }

    fn send_by_stream(&self, shard: usize, key: StreamKey, bytes: Bytes) {
        let mut streams = self.0.answer_streams();
        if let Some(Answering::Open(open)) = streams.get_mut(&key)
            && open.writer.send(bytes.clone())
        {
            open.used_at = Instant::now();
            return;
        }
        let Some(place) = self.0.answers_waiting.try_take(key.upstream) else {
            return self.0.metrics.limit(Limit::Dials);
        };
        if let Some(Answering::Opening(waiting)) = streams.get_mut(&key) {
            return waiting.push((bytes, place));
        }
        streams.insert(key, Answering::Opening(vec![(bytes, place)]));
        drop(streams);
        self.0.shards.cores.carry(shard, self.0.clone().serve_answer_stream(shard, key));
    }
}

impl Inner {
    fn answer_streams(&self) -> MutexGuard<'_, HashMap<StreamKey, Answering>> {
        self.answer_streams.lock()
    }

    /// Opens a stream for the answers that wait for it, and serves it until its end.
    async fn serve_answer_stream(self: Arc<Self>, shard: usize, key: StreamKey) {
        let opened = timeout(self.dial_timeout, self.open_answer_stream(&key)).await;
        let StreamKey { peer, transport, .. } = key;
        let (timing, shards, metrics) = (self.connection_timing, self.shards.clone(), self.metrics.clone());
        let mut connection = Connection::dialled(transport, peer, timing, shard, shards, metrics);
        let flow = connection.flow();
        let (Ok(Some(stream)), Some(writer)) = (opened, connection.writer()) else {
            self.answer_streams().remove(&key);
            return;
        };
        self.shards.send(shard, ShardInput::Flow { flow, writer: writer.clone(), peer }).await;
        {
            let mut streams = self.answer_streams();
            make_room(&mut streams, key.upstream);
            let open = Open { flow, writer: writer.clone(), used_at: Instant::now() };
            // Under the lock: later answers go behind those that have waited.
            if let Some(Answering::Opening(waiting)) = streams.insert(key, Answering::Open(open)) {
                for (bytes, _place) in waiting {
                    writer.send(bytes);
                }
            }
        }
        drop(writer);
        self.metrics.upstream_flows(1);
        let mut served = pin!(connection.serve(stream));
        tokio::select! {
            () = &mut served => {}
            () = self.end_when_idle(key, flow) => served.await,
        }
        self.metrics.upstream_flows(-1);
        let mut streams = self.answer_streams();
        if matches!(streams.get(&key), Some(Answering::Open(open)) if open.flow == flow) {
            streams.remove(&key);
        }
    }

    /// Waits until a stream has carried no answer for [`IDLE`], and has it end.
    async fn end_when_idle(&self, key: StreamKey, flow: FlowId) {
        loop {
            let until = match self.answer_streams().get(&key) {
                Some(Answering::Open(open)) if open.flow == flow => open.used_at + IDLE,
                // The stream has had to make room.
                _ => return,
            };
            sleep_until(until).await;
            let mut streams = self.answer_streams();
            if let Entry::Occupied(entry) = streams.entry(key)
                && let Answering::Open(open) = entry.get()
                && open.flow == flow
                && open.used_at + IDLE <= Instant::now()
            {
                // Under the lock: the next answer finds no stream.
                open.writer.close();
                entry.remove();
            }
        }
    }

    async fn open_answer_stream(&self, key: &StreamKey) -> Option<Stream> {
        let _own = self.answer_dials.take(key.upstream).await;
        let to = (key.peer, if key.transport == Transport::Tls { net::Transport::Tls } else { net::Transport::Tcp });
        let _admitted = self.admitted(key.upstream, to, Turns::Answers, Patience::Whole).await?;
        let stream = match key.transport {
            Transport::Tls => {
                let route = self.upstreams.route(key.upstream)?;
                dial::tls(key.peer, &self.tls, route.verified_domain()).await.ok()?
            }
            _ => dial::tcp(key.peer).await.ok()?,
        };
        // Without it the stream works as well.
        let _ = stream.end_when_unacknowledged(UNACKNOWLEDGED);
        Some(stream)
    }
}

/// Ends the stream to a SIP server that has carried no answer for longest, where so many are open.
fn make_room(streams: &mut HashMap<StreamKey, Answering>, upstream: UpstreamId) {
    let open = streams.iter().filter(|(key, _)| key.upstream == upstream);
    let open = open.filter_map(|(key, answering)| match answering {
        Answering::Open(open) => Some((open.used_at, key.peer, *key)),
        Answering::Opening(_) => None,
    });
    let open: Vec<_> = open.collect();
    if open.len() >= OPEN_MAX
        && let Some((_, _, oldest)) = open.into_iter().min_by_key(|(used_at, peer, _)| (*used_at, *peer))
        && let Some(Answering::Open(open)) = streams.remove(&oldest)
    {
        open.writer.close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::super::DIALS;
    use super::super::tests::dialler;
    use super::*;

    async fn read(stream: &mut TcpStream, text: &str) {
        let mut came = vec![0; text.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(came, text.as_bytes());
    }

    #[tokio::test]
    async fn answers_to_one_port_share_a_stream_and_after_its_end_another_one() {
        let (dialler, upstream, _inbox) = dialler();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let answer = |text: &'static str| dialler.answer(0, upstream, peer, Transport::Tcp, text.into());
        for _ in 0..2 {
            answer("one");
            answer("two");
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream, "onetwo").await;
            answer("three");
            read(&mut stream, "three").await;
            drop(stream);
            let forgotten = async {
                while !dialler.0.answer_streams().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), forgotten).await.expect("its stream is forgotten");
        }
        assert_eq!(dialler.0.answers_waiting.try_take(upstream).map(drop), Some(()));
    }

    #[tokio::test]
    async fn a_stream_that_has_carried_no_answer_for_long_is_closed() {
        let (dialler, upstream, _inbox) = dialler();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let answer = |text: &'static str| dialler.answer(0, upstream, peer, Transport::Tcp, text.into());
        let flow_of = |key: &StreamKey| match dialler.0.answer_streams().get(key) {
            Some(Answering::Open(open)) => Some(open.flow),
            _ => None,
        };
        let key = StreamKey { peer, transport: Transport::Tcp, upstream };
        answer("one");
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream, "one").await;
        let flow = flow_of(&key).unwrap();
        // As if its answer had gone so long ago.
        let goes_back = |by: Duration| match dialler.0.answer_streams().get_mut(&key) {
            Some(Answering::Open(open)) => open.used_at -= by,
            _ => panic!("it is open"),
        };
        goes_back(IDLE - Duration::from_secs(1));
        let ended = dialler.0.end_when_idle(key, flow);
        answer("two");
        read(&mut stream, "two").await;
        assert!(timeout(Duration::from_millis(1_500), ended).await.is_err(), "it has carried another one");
        goes_back(IDLE);
        dialler.0.end_when_idle(key, flow).await;
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0, "closed");
        answer("three");
        let (mut stream, _) = listener.accept().await.unwrap();
        read(&mut stream, "three").await;
    }

    #[tokio::test]
    async fn a_server_that_names_port_after_port_for_its_answers_has_few_streams() {
        let (dialler, upstream, _inbox) = dialler();
        let mut open = Vec::new();
        for number in 0..OPEN_MAX + 4 {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            dialler.answer(0, upstream, listener.local_addr().unwrap(), Transport::Tcp, "answer".into());
            let (mut stream, _) = listener.accept().await.unwrap();
            read(&mut stream, "answer").await;
            open.push(stream);
            assert_eq!(dialler.0.answer_streams().len(), OPEN_MAX.min(number + 1));
        }
        for mut first in open.drain(..4) {
            assert_eq!(first.read(&mut [0; 8]).await.unwrap(), 0, "the oldest ones end");
        }
        let mut last = open.pop().unwrap();
        assert!(timeout(Duration::from_millis(50), last.read(&mut [0; 8])).await.is_err());
    }

    #[tokio::test]
    async fn a_server_that_names_silent_ports_for_its_answers_takes_no_turn_from_others() {
        let (dialler, upstream, _inbox) = dialler();
        // The connections open, and never speak TLS.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in 0..=250 {
            dialler.answer(0, upstream, SocketAddr::from(([127, 0, 1, host], port)), Transport::Tls, "late".into());
        }
        let mut opened = Vec::new();
        while opened.len() < ANSWER_DIALS_PER_SERVER {
            opened.push(listener.accept().await.unwrap());
        }
        assert_eq!(dialler.0.answer_streams().len(), ANSWERS_WAITING);
        assert_eq!(dialler.0.turns.available_permits(), DIALS);
        assert_eq!(dialler.0.answer_turns.available_permits(), ANSWER_DIALS - ANSWER_DIALS_PER_SERVER);
        // The waiting answers give up, and the next have their turn.
        drop(opened);
        listener.accept().await.unwrap();
    }
}
