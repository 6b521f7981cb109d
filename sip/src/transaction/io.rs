//! The inputs and outputs of a transaction table.
//!
//! Invariant: nothing here is a transaction's state.

use std::sync::Arc;

use bytes::Bytes;

use super::RequestKey;
use crate::id::{BranchId, FlowId, Side};

/// A server transaction; unique in the life of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub(super) u64);

/// Where the responses to a request go, and which request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The flow that the responses take.
    pub flow: FlowId,
    /// The side that they go to: a request of the other side is never the same request.
    pub side: Side,
    /// The key by which the same request is recognised.
    pub key: &'a RequestKey,
}

/// Bytes to send.
#[derive(Debug)]
pub struct Transmit {
    /// The flow.
    pub flow: FlowId,
    /// The bytes.
    pub bytes: Bytes,
    /// Whether they were sent before.
    pub again: bool,
    /// Whether the flow is that of datagrams and they are too large for one: they go by TCP to its address.
    pub by_stream: bool,
}

impl Transmit {
    pub(super) fn first(flow: FlowId, bytes: Bytes) -> Self {
        Self { flow, bytes, again: false, by_stream: false }
    }

    pub(super) fn again(flow: FlowId, bytes: Bytes) -> Self {
        Self { flow, bytes, again: true, by_stream: false }
    }
}

/// A server transaction of an INVITE has begun or is over; its CANCEL and its ACK have the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InviteChange {
    /// The key as [`super::key_of_cancelled_or_acked`] gives it.
    pub key: Arc<str>,
    /// Whether the transaction has begun; otherwise it is over.
    pub begun: bool,
}

/// The table is full: the request is answered 503 without a transaction, or not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Classification of a request.
#[derive(Debug)]
pub enum Arrival<S> {
    /// Seen for the first time.
    New,
    /// Seen before, or an ACK that ends a transaction; it was dealt with.
    Absorbed,
    /// A CANCEL for this transaction, which still waits for its final answer.
    Cancel(S),
    /// Likewise, but by another flow than the request: anybody who knows the request's branch may have sent it, or the same
    /// sender after its connection broke.
    CancelElsewhere(S),
    /// A CANCEL for a transaction that has its final answer already: it changes nothing (RFC 3261 §9.2).
    CancelTooLate,
    /// An ACK with the branch of an INVITE that was answered 2xx: it travels on (RFC 6026 §7.1).
    AckOfAccepted,
    /// A copy of this transaction's request, but by another flow or from another host: anybody who knows the request's branch may have sent
    /// it, or the same sender after its connection broke, whom [`Table::answer_elsewhere`](super::Table::answer_elsewhere) answers.
    CopyElsewhere(ServerId, S),
}

/// A transaction that ended without an answer.
#[derive(Debug)]
pub enum Expired<C, S> {
    /// No answer came to this request.
    Client(BranchId, C),
    /// No ACK came for this INVITE's final answer.
    Server(S),
}
