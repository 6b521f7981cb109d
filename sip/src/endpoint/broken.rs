//! Requests that lack a mandatory header, or break the grammar ([`Message::check`]).
//!
//! | the request | it is |
//! | --- | --- |
//! | CANCEL, or the ACK of a refusal, whose topmost Via names an INVITE that is here | accepted, with the From, To, Call-ID and CSeq of that INVITE |
//! | another ACK | dropped |
//! | any other | 400, or 505 |
//!
//! A transaction is found by branch, sent-by and method (RFC 3261 §9.2, §17.2.3). Some servers leave a header out of a CANCEL if their caller wrote it oddly
//! (Kamailio: a tab before the colon), and a phone must not ring on for that when its caller has hung up.
//!
//! Invariant: a broken request that is accepted begins nothing, and only its own Via, Route, Reason and Request-URI are read.

use super::{Endpoint, Side, Source};
use crate::edge::forward;
use crate::message::{Composer, Fault, Limits, Message, Method, Name};
use crate::transaction::RequestKey;

impl Endpoint {
    /// A CANCEL, or the ACK of a refusal, as a sound one for the INVITE that it names. `None`: it names none that is here.
    pub(super) fn as_of_its_invite(&self, source: &Source, request: &Message) -> Option<Message> {
        let method = request.method().filter(|method| matches!(method, Method::Cancel | Method::Ack))?;
        let key = RequestKey::of(request, Some(&request.via()?), source.side);
        let invite = self.core.transactions.invite_named_by(&key, method)?;
        let (number, _) = invite.cseq()?;
        let sound = Composer::request(method, request.request_uri().unwrap_or_default());
        let sound = sound.copy(Name::Via, request).copy(Name::Route, request).copy(Name::Reason, request);
        let sound = sound.copy(Name::From, &invite).copy(Name::To, &invite).copy(Name::CallId, &invite);
        let sound = sound.header(Name::CSeq, format_args!("{number} {method}")).finish();
        Message::parse(&sound, &Limits::COMPOSED).ok()
    }

    /// 400 (or 505) without a transaction, from what can be copied of a broken request. A SIP server may end a stream for an answer without what it
    /// knows its requests by (Kamailio does), and all accounts there share it.
    pub(super) fn refuse_broken(&mut self, source: &Source, request: &Message, fault: Fault) {
        let has_all = [Name::From, Name::To, Name::CallId, Name::CSeq].into_iter().all(|name| request.has(name));
        let is_shared = source.side == Side::Upstream && source.flow.is_reliable();
        if request.method() == Some(Method::Ack) || !request.has(Name::Via) || is_shared && !has_all {
            return;
        }
        let marked = forward::add_received(request, source);
        let request = marked.as_ref().unwrap_or(request);
        let status = if fault == Fault::Version { 505 } else { 400 };
        let tag = self.stateless_tag(request);
        let response = Composer::response(request, status, &fault.to_string(), Some(&tag)).finish();
        self.send_reflected(source.flow, request, response);
    }
}
