//! Streams for answers whose own stream has ended.
//!
//! They are opened in shares of their own, for each SIP server and of all: an answer's port is what a request says.
//!
//! Invariant: at most [`ANSWER_DIALS`] are being opened, and [`ANSWER_DIALS_PER_SERVER`] to one SIP server; at most [`ANSWERS_WAITING`] answers to one
//! wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::Bytes;
use sip::endpoint::Transport;
use sip::id::{FlowId, UpstreamId};
use tokio::time::timeout;

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

/// A stream beside the flows of SIP servers: for what is too large for a datagram, or for answers whose own stream has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Beside {
    peer: SocketAddr,
    transport: Transport,
    /// The SIP server for whose domain it was verified: another one's answers do not travel on it.
    upstream: UpstreamId,
}

/// What becomes of such a stream.
pub(super) enum Answering {
    /// These wait for it, each with its place among those of the SIP server.
    Opening(Vec<(Bytes, Share)>),
    Open(FlowId, Writer),
}

impl Dialler {
    /// Sends a response to a SIP server whose stream has ended: on the stream that an earlier one opened, or on a new one. What cannot be sent so is lost.
    pub(crate) fn answer(
        &self,
        shard: usize,
        upstream: UpstreamId,
        peer: SocketAddr,
        transport: Transport,
        bytes: Bytes,
    ) {
        match self.0.resolver.reach().check(peer) {
            Ok(peer) => self.send_beside(shard, Beside { peer, transport, upstream }, bytes),
            Err(error) => {
                tracing::info!(event = "answer-not-allowed", upstream = upstream.0, %error, "a SIP server's connection has ended, and the port that it names for answers is not allowed");
            }
        }
    }

    fn send_beside(&self, shard: usize, beside: Beside, bytes: Bytes) {
        let mut streams = self.0.beside();
        if let Some(Answering::Open(_, writer)) = streams.get(&beside)
            && writer.send(bytes.clone())
        {
            return;
        }
        let Some(place) = self.0.answers_waiting.try_take(beside.upstream) else {
            return self.0.metrics.limit(Limit::Dials);
        };
        if let Some(Answering::Opening(waiting)) = streams.get_mut(&beside) {
            return waiting.push((bytes, place));
        }
        streams.insert(beside, Answering::Opening(vec![(bytes, place)]));
        drop(streams);
        self.0.shards.cores.carry(shard, self.0.clone().serve_beside(shard, beside));
    }
}

impl Inner {
    // A panic while the lock was held leaves a whole map behind: each change is one statement.
    fn beside(&self) -> MutexGuard<'_, HashMap<Beside, Answering>> {
        self.beside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream for the answers that wait for it, and serves it until its end.
    async fn serve_beside(self: Arc<Self>, shard: usize, beside: Beside) {
        let opened = timeout(self.dial_timeout, self.connect_beside(&beside)).await;
        let Beside { peer, transport, .. } = beside;
        let (timing, shards, metrics) = (self.connection_timing, self.shards.clone(), self.metrics.clone());
        let mut connection = Connection::dialled(transport, peer, timing, shard, shards, metrics);
        let flow = connection.flow();
        let (Ok(Some(stream)), Some(writer)) = (opened, connection.writer()) else {
            self.beside().remove(&beside);
            return;
        };
        self.shards.send(shard, ShardInput::Flow { flow, writer: writer.clone(), peer }).await;
        {
            let mut streams = self.beside();
            // Under the lock: what is sent from now on goes behind what has waited.
            if let Some(Answering::Opening(waiting)) = streams.insert(beside, Answering::Open(flow, writer.clone())) {
                for (bytes, _place) in waiting {
                    writer.send(bytes);
                }
            }
        }
        self.metrics.upstream_flows(1);
        connection.serve(stream).await;
        self.metrics.upstream_flows(-1);
        let mut streams = self.beside();
        if matches!(streams.get(&beside), Some(Answering::Open(open, _)) if *open == flow) {
            streams.remove(&beside);
        }
    }

    async fn connect_beside(&self, beside: &Beside) -> Option<Stream> {
        let _own = self.answer_dials.take(beside.upstream).await;
        let to =
            (beside.peer, if beside.transport == Transport::Tls { net::Transport::Tls } else { net::Transport::Tcp });
        let _admitted = self.admitted(beside.upstream, to, Turns::Answers, Patience::Whole).await?;
        match beside.transport {
            Transport::Tls => {
                let route = self.upstreams.route(beside.upstream)?;
                dial::tls(beside.peer, &self.tls, route.verified_domain()).await.ok()
            }
            _ => dial::tcp(beside.peer).await.ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
                while !dialler.0.beside().is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(10), forgotten).await.expect("its stream is forgotten");
        }
        assert_eq!(dialler.0.answers_waiting.try_take(upstream).map(drop), Some(()));
    }

    #[tokio::test]
    async fn a_server_that_names_silent_ports_for_its_answers_takes_no_turn_from_others() {
        let (dialler, upstream, _inbox) = dialler();
        // They open, and never speak TLS.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in 0..=250 {
            dialler.answer(0, upstream, SocketAddr::from(([127, 0, 1, host], port)), Transport::Tls, "late".into());
        }
        let mut opened = Vec::new();
        while opened.len() < ANSWER_DIALS_PER_SERVER {
            opened.push(listener.accept().await.unwrap());
        }
        assert_eq!(dialler.0.beside().len(), ANSWERS_WAITING);
        assert_eq!(dialler.0.turns.available_permits(), DIALS);
        assert_eq!(dialler.0.answer_turns.available_permits(), ANSWER_DIALS - ANSWER_DIALS_PER_SERVER);
        // Those give up, and the next have their turn.
        drop(opened);
        listener.accept().await.unwrap();
    }
}
