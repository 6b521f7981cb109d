//! The requests that a client transaction makes itself: the CANCEL of its INVITE, and the ACK of a refusal.
//!
//! Invariant: both go to the next hop alone, and have the Request-URI, the topmost Via and the Routes of the INVITE, so that they are taken
//! for its own there.

use bytes::Bytes;

use crate::message::{Composer, Limits, Message, Method, Name};

/// The ACK to a failed INVITE (RFC 3261 §17.1.1.3).
pub(super) fn compose_ack(invite: &Bytes, response: &Message) -> Option<Bytes> {
    let invite = Message::parse(invite, &Limits::COMPOSED).ok()?;
    let (number, _) = invite.cseq()?;
    let ack = Composer::request(Method::Ack, invite.request_uri()?)
        .header(Name::Via, invite.via()?.text)
        .header(Name::MaxForwards, 70)
        .copy(Name::Route, &invite)
        .copy(Name::From, &invite)
        .copy(Name::To, response)
        .copy(Name::CallId, &invite)
        .header(Name::CSeq, format_args!("{number} ACK"));
    Some(ack.finish())
}

/// The CANCEL of an INVITE (RFC 3261 §9.1).
pub(super) fn compose_cancel(invite: &Bytes, reason: Option<&str>) -> Option<Bytes> {
    let invite = Message::parse(invite, &Limits::COMPOSED).ok()?;
    let (number, _) = invite.cseq()?;
    let cancel = Composer::request(Method::Cancel, invite.request_uri()?)
        .header(Name::Via, invite.via()?.text)
        .header(Name::MaxForwards, 70)
        .copy(Name::Route, &invite)
        .copy(Name::From, &invite)
        .copy(Name::To, &invite)
        .copy(Name::CallId, &invite)
        .header(Name::CSeq, format_args!("{number} CANCEL"))
        .maybe(Name::Reason, reason);
    Some(cancel.finish())
}
