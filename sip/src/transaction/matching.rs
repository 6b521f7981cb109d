//! The rules by which a message belongs to a transaction.
//!
//! Invariant: nothing here is state. A key tells which requests are the same one (RFC 3261 §17.2.3), with keys of its own for each side. Whether a peer may
//! speak in the transaction that a key has found is also judged by its flow.

use std::fmt::Write as _;

use crate::id::{BranchId, FlowId, Side};
use crate::message::{Message, Method, Via};

/// The branch that this relay put on a request, from the topmost Via of its response. The part after the identifier (the loop mark) does not matter
/// here.
pub(super) fn own_branch(via: &Via<'_>) -> Option<BranchId> {
    let branch = via.branch()?;
    BranchId::parse(branch.split_once('.').map_or(branch, |(id, _)| id))
}

/// Whether a copy of a request is from the sender of that one: by the same stream; a datagram from the same host.
pub(super) fn is_same_sender(request: FlowId, copy: FlowId) -> bool {
    match (request, copy) {
        (FlowId::Datagram(_), FlowId::Datagram(_)) => is_same_host(request, copy),
        _ => request == copy,
    }
}

/// Whether a request may be from the sender of a transaction's INVITE: a datagram comes from the same address again. A request by a stream is not
/// answered twice, so its ACK means nothing.
pub(super) fn is_same_host(invite: FlowId, flow: FlowId) -> bool {
    match (invite, flow) {
        (FlowId::Datagram(invite), FlowId::Datagram(peer)) => invite.ip().to_canonical() == peer.ip().to_canonical(),
        (FlowId::Datagram(_), FlowId::Stream(_)) => false,
        (FlowId::Stream(_), _) => true,
    }
}

/// The key that identifies a request of one side (RFC 3261 §17.2.3): the branch and the sent-by of its topmost Via, and its method, where that of an
/// ACK is its INVITE's. Requests of one side never match those of the other. A branch of RFC 2543, and one that its
/// server has for all, is no key: more is compared then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    text: String,
    /// The key of a CANCEL's INVITE (§9.2).
    invite: Option<String>,
}

impl RequestKey {
    /// The key of a request, whose topmost Via this is.
    pub fn of(request: &Message, via: Option<&Via<'_>>, side: Side) -> Self {
        let mut text = hop(request, via, side);
        let method = request.method();
        let invite = (method == Some(Method::Cancel)).then(|| [&text, INVITE].concat());
        text.push_str(if method == Some(Method::Ack) { INVITE } else { request.method_text().unwrap_or("?") });
        Self { text, invite }
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The key of the INVITE that a CANCEL is for.
    pub(super) fn cancelled(&self) -> Option<&str> {
        self.invite.as_deref()
    }
}

const INVITE: &str = "INVITE";

/// The one branch of all requests that a SER, an OpenSER or an early Kamailio forwards without a transaction: it is unique in its form alone.
const SAME_FOR_ALL: &str = "z9hG4bKcydzigwkX";

/// The key of the INVITE that a CANCEL or an ACK from this side is for; `None` for another request.
pub fn key_of_cancelled_or_acked(request: &Message, side: Side) -> Option<String> {
    matches!(request.method()?, Method::Cancel | Method::Ack)
        .then(|| hop(request, request.via().as_ref(), side) + INVITE)
}

/// The beginning of a key: all but the method, and a space.
fn hop(request: &Message, via: Option<&Via<'_>>, side: Side) -> String {
    let mut text = String::with_capacity(96);
    // No branch has a slash in front of it.
    text.push_str(match side {
        Side::Device => "edge/",
        Side::Upstream => "",
    });
    let Some(via) = via else { return text };
    let branch = via.branch().unwrap_or_default();
    text.push_str(branch);
    text.push(' ');
    via.push_sent_by(&mut text);
    text.push(' ');
    if !branch.starts_with("z9hG4bK") || branch == SAME_FOR_ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{} {} {:?} {:?} ",
            request.request_uri().unwrap_or_default(),
            request.call_id().unwrap_or_default(),
            request.cseq().map(|(number, _)| number),
            request.from().and_then(|from| from.tag()),
        );
    }
    text
}
