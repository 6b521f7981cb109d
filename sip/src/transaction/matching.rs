//! By what a message belongs to a transaction.
//!
//! Invariant: nothing here is state. A key says which request is the same request (RFC 3261 §17.2.3), and for each side its own; who may
//! speak in a transaction that a key has found is judged by the flow besides.

use std::fmt::Write as _;

use crate::id::{BranchId, FlowId, Side};
use crate::message::{Message, Method};

/// The branch that this relay put on a request, from the topmost Via of its response. What stands behind the identifier
/// (the loop mark) does not matter here.
pub(super) fn own_branch(response: &Message) -> Option<BranchId> {
    let branch = response.via()?.branch()?;
    BranchId::parse(branch.split_once('.').map_or(branch, |(id, _)| id))
}

/// Whether a copy of a request is from the sender of that one: by the same stream; a datagram from the same host.
pub(super) fn is_same_sender(request: FlowId, copy: FlowId) -> bool {
    match (request, copy) {
        (FlowId::Datagram(_), FlowId::Datagram(_)) => is_same_host(request, copy),
        _ => request == copy,
    }
}

/// Whether a request may be from whoever sent a transaction's INVITE: a datagram comes from the same address again. What
/// came by a stream is not answered twice, so that its ACK means nothing.
pub(super) fn is_same_host(invite: FlowId, flow: FlowId) -> bool {
    match (invite, flow) {
        (FlowId::Datagram(invite), FlowId::Datagram(peer)) => invite.ip().to_canonical() == peer.ip().to_canonical(),
        (FlowId::Datagram(_), FlowId::Stream(_)) => false,
        (FlowId::Stream(_), _) => true,
    }
}

/// The INVITE transaction that a CANCEL or an ACK from this side is for, by branch and sent-by alone (RFC 3261 §9.2, §17.2.3);
/// `None` for another request.
pub fn invite_key(request: &Message, side: Side) -> Option<String> {
    matches!(request.method()?, Method::Cancel | Method::Ack).then(|| server_key(request, "INVITE", side))
}

/// What makes a request the same request (RFC 3261 §17.2.3). What one side sends never stands in the way of the other side's.
pub(super) fn server_key(request: &Message, method: &str, side: Side) -> String {
    let mut key = String::with_capacity(96);
    // No method has a slash in it.
    key.push_str(match side {
        Side::Device => "edge/",
        Side::Upstream => "",
    });
    let Some(via) = request.via() else { return key };
    // Writing to a String cannot fail.
    let _ = match via.branch().filter(|branch| branch.starts_with("z9hG4bK")) {
        Some(branch) => write!(key, "{method} {branch} {}:{}", via.host, via.port.unwrap_or_default()),
        None => write!(
            key,
            "{method} {} {}:{} {} {:?} {:?}",
            via.branch().unwrap_or_default(),
            via.host,
            via.port.unwrap_or_default(),
            request.call_id().unwrap_or_default(),
            request.cseq().map(|(number, _)| number),
            request.from().and_then(|from| from.tag()),
        ),
    };
    key
}
