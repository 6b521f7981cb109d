//! The requests that a client transaction makes itself: the CANCEL of its INVITE, the ACK of a refusal, and the BYE of an early dialog.
//!
//! Invariant: all of them go to the next hop alone and have the Request-URI of the INVITE. CANCEL and ACK also have its topmost Via and its Routes, so that the
//! next hop matches them with it.

use bytes::Bytes;

use crate::id::BranchId;
use crate::message::{Composer, Limits, Message, Method, Name};

/// How far the BYE of an early dialog is behind its INVITE: the caller may have sent PRACKs and UPDATEs in it.
const EARLY_REQUESTS: u32 = 16;
/// The largest number of a CSeq (RFC 3261 §8.1.1.5).
const CSEQ_MAX: u32 = (1 << 31) - 1;

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

/// The BYE of the early dialog that the peer of an INVITE has made by a provisional response with this To tag (RFC 3261 §15), for its caller.
pub(super) fn compose_early_bye(invite: &Bytes, tag: &str, branch: BranchId) -> Option<Bytes> {
    let invite = Message::parse(invite, &Limits::COMPOSED).ok()?;
    let ((number, _), via, to) = (invite.cseq()?, invite.via()?, invite.text(Name::To)?);
    let bye = Composer::request(Method::Bye, invite.request_uri()?)
        .header(Name::Via, via.text.replace(via.branch()?, &branch.to_string()))
        .header(Name::MaxForwards, 70)
        .copy(Name::From, &invite)
        .header(Name::To, format_args!("{to};tag={tag}"))
        .copy(Name::CallId, &invite)
        .header(Name::CSeq, format_args!("{} BYE", (number + EARLY_REQUESTS).min(CSEQ_MAX)));
    Some(bye.finish())
}
