//! The end of a stream connection, and what is still done then.
//!
//! | the connection is | still written | its shards are told |
//! | --- | --- | --- |
//! | silent | – | last |
//! | heard to its end | what they answer within [`ANSWERS_WITHIN`] | first |
//! | closed, or echoed | a WebSocket's code | last |
//! | in doubt | what they answer within [`UNREAD`] | first of the doubt, last of the end |
//!
//! Invariant: each shard that knows of the connection is told of its end once, after its last message.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::Bytes;
use sip::endpoint::Input;
use sip::id::FlowId;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Connection;
use crate::agent::ShardInput;
use crate::agent::transport::outbox::Found;
use crate::agent::transport::read::Read;
use crate::net::stream::Stream;

/// How long answers to what a peer has asked last may take, when it writes no more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// How long the stream of a SIP server that is read no more may still be written on: until another stream has registered the accounts of this one.
const UNREAD: Duration = Duration::from_secs(5);

/// How a connection ends.
pub(super) enum Ending {
    /// Its peer is gone, or does not read.
    Silent,
    /// Its peer writes no more, and may read.
    Heard,
    /// This side ends it; a WebSocket is told the code.
    Closed(u16),
    /// The beginning of a SIP server's next message is in doubt: the stream is read no more.
    Doubted,
    /// Its peer has ended it, and this is the last frame.
    Echo(Bytes),
    /// The connection does not end: it goes on where its shard is.
    Moves(usize),
}

impl Ending {
    /// The end by a read that has failed.
    pub(super) fn of_read(error: &io::Error) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof { Self::Heard } else { Self::Silent }
    }
}

impl Connection {
    /// Ends it: what is left to say is written, and each shard that knows of it is told.
    pub(super) async fn end(mut self: Box<Self>, mut stream: Stream, ending: Ending) {
        let is_heard = matches!(ending, Ending::Heard);
        if let Some(lf_probe) = self.lf_probe.as_ref().filter(|_| matches!(ending, Ending::Heard | Ending::Silent)) {
            lf_probe.on_ended(&self.shards.lf_servers);
        }
        if is_heard {
            self.tell_end().await;
            self.answer_last(&mut stream).await;
        }
        if matches!(ending, Ending::Doubted) {
            self.write_on(&mut stream).await;
        }
        self.outbox.close();
        let last = match ending {
            Ending::Silent | Ending::Heard | Ending::Doubted | Ending::Moves(_) => None,
            Ending::Closed(code) => self.framing.farewell(code),
            Ending::Echo(bytes) => Some(bytes),
        };
        if let Some(last) = last {
            let _ = timeout(self.timing.write, stream.write_all(&last)).await;
        }
        let _ = timeout(self.timing.write, stream.shutdown()).await;
        drop(stream);
        if !is_heard {
            self.tell_end().await;
        }
    }

    /// A doubt about the end of a message: the SIP server is asked for its reading of line ends on the next connection. A stranger is no server.
    pub(super) fn note_doubt(&self) {
        if let Some(lf_probe) = self.lf_probe.as_ref().filter(|_| self.is_link || self.proven) {
            lf_probe.on_doubt(&self.shards.lf_servers);
        }
    }

    async fn tell_end(&self) {
        self.tell_all(Input::Closed).await;
    }

    /// Tells each shard that knows of it.
    async fn tell_all(&self, what: fn(FlowId) -> Input) {
        for shard in (0..self.shards.len()).filter(|shard| self.told & 1 << shard != 0) {
            self.shards.send(shard, ShardInput::sip(what(self.source.flow))).await;
        }
    }

    /// Writes what its shard answers meanwhile, until that does without it.
    async fn write_on(&mut self, stream: &mut Stream) {
        tracing::info!(
            event = "stream-in-doubt",
            "where the messages of a SIP server's stream end cannot be told: another one is opened in its place"
        );
        self.tell_all(Input::Doubted).await;
        self.writer = None;
        let end = tokio::time::sleep(UNREAD);
        tokio::pin!(end);
        loop {
            tokio::select! {
                biased;
                found = self.outbox.next() => {
                    if !matches!(found, Found::Work) || self.write(stream, None).await.is_err() {
                        return;
                    }
                }
                read = (Read { stream, framing: None }) => {
                    if read.is_err() {
                        return;
                    }
                }
                () = &mut end => return,
            }
        }
    }

    /// Writes what the shards have answered before they heard that nothing more comes: a peer may close one way alone (RFC 9293 §3.6).
    async fn answer_last(&mut self, stream: &mut Stream) {
        self.writer = None;
        while let Ok(Found::Work) = timeout(ANSWERS_WITHIN, self.outbox.next()).await {
            if self.write(stream, None).await.is_err() {
                return;
            }
        }
    }
}
