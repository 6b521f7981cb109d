//! The queue of messages that are to be written on one connection.
//!
//! Invariant: an empty outbox takes a few words of memory, because tens of thousands of connections are idle at once. What waits in it is bounded ([`Room`]);
//! beyond that the connection ends. A shard hands over all of its turn before the connection has its own, so that there is room for many small messages, and
//! for some large ones. An accepted connection is a stranger's until a shard knows its peer. When the last writer is gone, the connection is told; when the
//! connection is gone, its writers are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::lock::Mutex;
use crate::net::listen::Stranger;

/// Bytes that a message counts beside its own, for its place in the queue.
const PLACE: usize = 64;

/// What may wait to be written. One message more than so many fits only within so many bytes.
#[derive(Debug)]
pub(super) struct Room {
    /// Messages, however large they are.
    pub(super) messages: usize,
    /// Bytes of any number of messages, with [`PLACE`] for each.
    pub(super) bytes: usize,
}

/// The way to write on a connection; cheap to clone.
#[derive(Debug)]
pub(crate) struct Writer(Arc<Outbox>);

/// A message to write. It prints its length alone: a message names people, and may hold credentials.
#[derive(PartialEq, Eq)]
pub(super) enum Outgoing {
    Bytes(Bytes),
    /// A frame that carries no message, written as it is.
    Control(Bytes),
    /// The end: close once all is written.
    End,
}

impl Outgoing {
    /// The bytes that it counts while it waits.
    fn size(&self) -> usize {
        PLACE
            + match self {
                Self::Bytes(bytes) | Self::Control(bytes) => bytes.len(),
                Self::End => 0,
            }
    }
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Control(bytes) => write!(f, "{} bytes of control", bytes.len()),
            Self::End => f.write_str("the end"),
        }
    }
}

/// The content that a connection finds in its outbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Something to [`Outbox::pop`].
    Work,
    /// Nothing, and no writer is left.
    Nobody,
    /// Its peer does not read: it ends.
    Overflow,
}

/// The connection's side.
#[derive(Debug)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    /// How many [`Writer`]s there are.
    writers: AtomicUsize,
    /// Told when there is something to find.
    changed: Notify,
    room: &'static Room,
    /// Whether [`Inner::stranger`] is there.
    is_strangers: AtomicBool,
    /// Whether a device is reached by it that nobody pushes.
    is_kept_alive: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Outgoing>,
    /// The bytes of what waits.
    bytes: usize,
    overflowed: bool,
    gone: bool,
    /// The slot of a connection whose peer has not proven who it is.
    stranger: Option<Box<Stranger>>,
}

impl Outbox {
    /// With its first writer.
    pub(super) fn new(room: &'static Room) -> (Arc<Self>, Writer) {
        let (inner, changed, writers) = (Mutex::default(), Notify::new(), AtomicUsize::new(1));
        let (is_strangers, is_kept_alive) = (AtomicBool::new(false), AtomicBool::new(false));
        let outbox = Arc::new(Self { inner, writers, changed, room, is_strangers, is_kept_alive });
        (outbox.clone(), Writer(outbox))
    }

    /// One more writer, if there is one already.
    pub(super) fn writer(self: &Arc<Self>) -> Option<Writer> {
        let more = |count: usize| (count > 0).then_some(count + 1);
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        Some(Writer(self.clone()))
    }

    /// Waits until there is something to find. One waits at a time.
    pub(super) async fn next(&self) -> Found {
        loop {
            // A notice after this look is kept for the wait.
            if let Some(found) = self.look() {
                return found;
            }
            self.changed.notified().await;
        }
    }

    /// The connection belongs to the stranger with this slot until [`Writer::know`].
    pub(super) fn is_of(&self, stranger: Stranger) {
        self.lock().stranger = Some(Box::new(stranger));
        self.is_strangers.store(true, Ordering::Release);
    }

    /// Whether its peer has not proven who it is.
    pub(super) fn is_strangers(&self) -> bool {
        self.is_strangers.load(Ordering::Acquire)
    }

    /// Whether a device is reached by it that nobody pushes.
    pub(super) fn is_kept_alive(&self) -> bool {
        self.is_kept_alive.load(Ordering::Acquire)
    }

    /// The notice that another stranger gets its slot; `None` where it is no stranger's.
    pub(super) fn gives_way(&self) -> Option<Arc<Notify>> {
        self.lock().stranger.as_ref().map(|stranger| stranger.gives_way())
    }

    /// Whether it ends because another stranger has its slot: it may have become known meanwhile.
    pub(super) fn gave_way(&self) -> bool {
        let stranger = self.lock().stranger.take();
        if let Some(stranger) = &stranger {
            stranger.gave_way();
        }
        stranger.is_some()
    }

    /// The next message to write.
    pub(super) fn pop(&self) -> Option<Outgoing> {
        let mut inner = self.lock();
        let next = inner.waiting.pop_front();
        inner.bytes -= next.as_ref().map_or(0, Outgoing::size);
        if inner.waiting.is_empty() {
            // Its memory, too.
            inner.waiting = VecDeque::new();
        }
        next
    }

    /// The connection is gone: writers hear so.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.gone = true;
        (inner.waiting, inner.bytes) = (VecDeque::new(), 0);
        let stranger = inner.stranger.take();
        drop(inner);
        drop(stranger);
    }

    fn look(&self) -> Option<Found> {
        let inner = self.lock();
        match () {
            () if inner.overflowed => Some(Found::Overflow),
            () if !inner.waiting.is_empty() => Some(Found::Work),
            () if self.writers.load(Ordering::Acquire) == 0 => Some(Found::Nobody),
            () => None,
        }
    }

    fn put(&self, outgoing: Outgoing) -> bool {
        let mut inner = self.lock();
        if inner.gone || inner.overflowed {
            return false;
        }
        let bytes = inner.bytes + outgoing.size();
        let fits = inner.waiting.len() < self.room.messages || bytes <= self.room.bytes;
        if fits {
            inner.bytes = bytes;
            inner.waiting.push_back(outgoing);
        } else {
            inner.overflowed = true;
        }
        let first = inner.waiting.len() == 1;
        drop(inner);
        if first || !fits {
            self.changed.notify_one();
        }
        fits
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
}

impl Writer {
    /// Hands bytes over; `false` when the connection has ended, or ends now because its peer does not read.
    pub(crate) fn send(&self, bytes: Bytes) -> bool {
        self.0.put(Outgoing::Bytes(bytes))
    }

    /// Whether the peer of a connection that was accepted has not proven who it is.
    pub(crate) fn is_strangers(&self) -> bool {
        self.0.is_strangers()
    }

    /// The peer has proven who it is: the connection may stay, and gives way to nobody.
    pub(crate) fn know(&self) {
        if self.0.is_strangers.swap(false, Ordering::AcqRel) {
            let stranger = self.0.lock().stranger.take();
            drop(stranger);
        }
    }

    /// A device is reached by it that nobody pushes: its end must be noticed while nobody calls.
    pub(crate) fn keep_alive(&self) {
        self.0.is_kept_alive.store(true, Ordering::Release);
    }

    /// Closes the connection once what was handed over is written.
    pub(crate) fn close(&self) {
        self.0.put(Outgoing::End);
    }
}

impl Clone for Writer {
    fn clone(&self) -> Self {
        self.0.writers.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.0.writers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { messages: 1, bytes: 1_000 };

    fn text(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn what_waits_prints_no_message() {
        let (outbox, writer) = Outbox::new(&ROOM);
        assert!(writer.send(text("Authorization: Digest")));
        let printed = format!("{writer:?} {outbox:?}");
        assert!(printed.contains("21 bytes") && !printed.contains("Digest"), "{printed}");
    }

    #[tokio::test]
    async fn what_was_handed_over_is_found_at_once_and_in_order_and_then_that_nobody_writes_any_more() {
        let (outbox, writer) = Outbox::new(&ROOM);
        let other = writer.clone();
        assert!(writer.send(text("one")) && other.send(text("two")));
        writer.close();
        drop((writer, other));
        assert_eq!(outbox.next().await, Found::Work);
        let all: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        assert_eq!(all, [Outgoing::Bytes(text("one")), Outgoing::Bytes(text("two")), Outgoing::End]);
        assert_eq!(outbox.next().await, Found::Nobody);
        assert_eq!(outbox.lock().waiting.capacity(), 0);
        assert!(outbox.writer().is_none());
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_first_message_and_by_the_last_writer() {
        let (outbox, writer) = Outbox::new(&ROOM);
        let reader = outbox.clone();
        let waiting = tokio::spawn(async move { (reader.next().await, reader.pop().is_some(), reader.next().await) });
        tokio::task::yield_now().await;
        let second = outbox.writer().unwrap();
        assert!(second.send(text("one")));
        drop(writer);
        tokio::task::yield_now().await;
        drop(second);
        assert_eq!(waiting.await.unwrap(), (Found::Work, true, Found::Nobody));
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_messages_and_bytes_and_ends_the_connection_beyond_both() {
        const TWO: Room = Room { messages: 2, bytes: 3 * (PLACE + 3) };
        let (outbox, writer) = Outbox::new(&TWO);
        for _ in 0..3 {
            assert!(writer.send(text("one")) && writer.send(text("two")) && writer.send(text("six")));
            // There is room again once it is written.
            while outbox.pop().is_some() {}
        }
        let large = Bytes::from(vec![0; 1_000]);
        assert!(writer.send(large.clone()) && writer.send(large), "so many messages always fit");
        assert!(!writer.send(text("two")));
        assert_eq!(outbox.next().await, Found::Overflow);
        let (outbox, writer) = Outbox::new(&TWO);
        assert!(writer.send(text("one")) && writer.send(text("two")) && !writer.send(text("four")));
        assert_eq!(outbox.next().await, Found::Overflow);
    }

    #[tokio::test]
    async fn a_connection_that_is_gone_takes_nothing() {
        let (outbox, writer) = Outbox::new(&ROOM);
        outbox.close();
        assert!(!writer.send(text("one")));
    }
}
