//! The common rules of requests that wait in a shard: for the store, a claim, an answer of DNS, or the end of a doubt about the lease.
//!
//! Invariant: an INVITE whose CANCEL waits behind it is handed in as any other, followed by its CANCEL; but it wakes nobody, because a push that has left
//! cannot be recalled. A waiting INVITE is answered 100, and its CANCEL 200; its 487 follows once the INVITE is handed in.

use std::collections::BTreeSet;
use std::time::Instant;

use sip::endpoint::{Endpoint, Input, Source};
use sip::message::Method;

use super::Shard;
use crate::agent::ShardInput;
use crate::clock;

/// The bytes of the message in an input.
pub(super) fn bytes_of(input: &Input) -> usize {
    if let Input::Received { message, .. } = input { message.head().len() + message.body().len() } else { 0 }
}

/// Whether two inputs are the same request, retransmitted.
pub(super) fn is_same(one: &Input, other: &Input) -> bool {
    let (Input::Received { message: one, .. }, Input::Received { message: other, .. }) = (one, other) else {
        return false;
    };
    one.head() == other.head() && one.body() == other.body()
}

/// Whether a request is the first CANCEL of a waiting INVITE. It always has a place, because without it an ended call would ring.
pub(super) fn is_first_cancel<'a>(request: &Input, waiting: impl Iterator<Item = &'a Input>) -> bool {
    let Some(invite) = ended_by(request) else { return false };
    let mut is_there = false;
    for other in waiting {
        if ended_by(other).as_ref() == Some(&invite) {
            return false;
        }
        is_there |= invite_of(other).as_ref() == Some(&invite);
    }
    is_there
}

/// Whether one is the CANCEL of the other, which is an INVITE.
pub(super) fn ends(cancel: &Input, invite: &Input) -> bool {
    ended_by(cancel).is_some_and(|ended| invite_of(invite).as_ref() == Some(&ended))
}

/// Whether a request is the CANCEL of one of these.
pub(super) fn ends_one<'a>(request: &Input, mut waiting: impl Iterator<Item = &'a Input>) -> bool {
    ended_by(request).is_some_and(|ended| waiting.any(|invite| invite_of(invite).as_ref() == Some(&ended)))
}

/// Tells the sender of a request that it waits. `ends_one`: the request is the CANCEL of a waiting one.
pub(super) fn say_waiting(endpoint: &mut Endpoint, request: &Input, ends_one: bool) {
    let Input::Received { source, message } = request else { return };
    if ends_one {
        endpoint.say_cancelled(source, message);
    } else {
        endpoint.say_trying(source, message);
    }
}

/// The INVITEs that waiting CANCELs end.
pub(super) struct Cancelled(BTreeSet<String>);

impl Cancelled {
    /// Those among these requests.
    pub(super) fn among<'a>(waiting: impl Iterator<Item = &'a Input>) -> Self {
        Self(waiting.filter_map(ended_by).collect())
    }

    /// Those among a shard's inputs.
    pub(super) fn among_inputs<'a>(waiting: impl Iterator<Item = &'a ShardInput>) -> Self {
        Self::among(waiting.filter_map(sip_of))
    }

    /// Whether this INVITE is ended by one of them, from the same sender.
    pub(super) fn has(&self, input: &Input) -> bool {
        !self.0.is_empty() && invite_of(input).is_some_and(|invite| self.0.contains(&invite))
    }

    /// Whether this input of a shard is.
    pub(super) fn has_input(&self, input: &ShardInput) -> bool {
        sip_of(input).is_some_and(|input| self.has(input))
    }
}

fn sip_of(input: &ShardInput) -> Option<&Input> {
    if let ShardInput::Sip { input, .. } = input { Some(input) } else { None }
}

/// The key of an INVITE.
fn invite_of(input: &Input) -> Option<String> {
    let Input::Received { source, message } = input else { return None };
    Some(named(source, &Endpoint::key_of_invite(message, source.side)?))
}

/// The key of the INVITE that a CANCEL ends.
fn ended_by(input: &Input) -> Option<String> {
    let Input::Received { source, message } = input else { return None };
    let cancel = Some(message).filter(|message| message.is_request() && message.method() == Some(Method::Cancel))?;
    Some(named(source, &Endpoint::key_of_cancelled_or_acked(cancel, source.side)?))
}

/// An INVITE, by its transaction (RFC 3261 §9.2) and its sender's address. Other headers of its CANCEL do not matter.
fn named(source: &Source, transaction: &str) -> String {
    format!("{} {transaction}", source.peer.ip().to_canonical())
}

impl Shard {
    /// Hands the endpoint a request that has waited since `at`.
    pub(super) fn hand_in(&mut self, at: Instant, input: Input, cancelled: &Cancelled) {
        self.is_cancelled = cancelled.has(&input);
        self.drive(at, input);
        self.is_cancelled = false;
    }

    /// The process ends: all waiting requests are refused, so that none is left with a 100 alone. Returns their number.
    pub(super) fn refuse_what_waits(&mut self) -> usize {
        let mut waiting: Vec<Input> = self.awaiting_claim.take_all().into_iter().map(|(_, request)| request).collect();
        waiting.extend(self.path_lookups.take_all());
        for input in &waiting {
            if let Input::Received { source, message } = input {
                self.endpoint.refuse_at_end(source, message);
            }
        }
        self.drain(clock::now());
        waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use sip::endpoint::{Side, Transport};
    use sip::id::FlowId;
    use sip::message::{Limits, Message};

    use super::*;

    fn request(method: &str, peer: &str, branch: &str, call: &str, cseq: u32) -> Input {
        let text = format!(
            "{method} sip:a@h SIP/2.0\r\nVia: SIP/2.0/TLS pbx.example;branch={branch}\r\nFrom: <sip:b@h>;tag=1\r\nTo: <sip:a@h>\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\n\r\n"
        );
        let source = Source {
            flow: FlowId::Stream(1),
            side: Side::Upstream,
            transport: Transport::Tls,
            peer: peer.parse().unwrap(),
            split: false,
        };
        Input::Received { source, message: Message::parse(&text.into(), &Limits::COMPOSED).unwrap() }
    }

    #[test]
    fn an_invite_has_ended_whose_own_cancel_waits_and_no_other_one_has() {
        let (peer, branch, other) = ("192.0.2.1:5060", "z9hG4bK1", "z9hG4bK2");
        let invite = request("INVITE", peer, branch, "one", 1);
        let is_ended_by = |cancel: Input| Cancelled::among([&invite, &cancel].into_iter()).has(&invite);
        assert!(is_ended_by(request("CANCEL", peer, branch, "one", 1)));
        assert!(is_ended_by(request("CANCEL", "192.0.2.1:5999", branch, "one", 1)), "by another connection");
        assert!(is_ended_by(request("CANCEL", peer, branch, "", 2)), "by its branch, whatever else is broken");
        for cancel in [
            request("CANCEL", "192.0.2.2:5060", branch, "one", 1),
            request("CANCEL", peer, other, "one", 1),
            request("BYE", peer, branch, "one", 1),
        ] {
            assert!(!is_ended_by(cancel));
        }
        // RFC 2543 has no unique branch.
        let (old, cancel) = (request("INVITE", peer, "1", "one", 1), request("CANCEL", peer, "1", "one", 1));
        assert!(Cancelled::among([&old, &cancel].into_iter()).has(&old));
        assert!(!Cancelled::among([&old, &request("CANCEL", peer, "1", "other", 1)].into_iter()).has(&old));
        assert!(!Cancelled::among([&old, &cancel].into_iter()).has(&invite));
        assert!(!Cancelled::among(std::iter::once(&invite)).has(&invite));
        // The request has a place, once.
        let cancel = request("CANCEL", peer, branch, "one", 1);
        assert!(is_first_cancel(&cancel, [&old, &invite].into_iter()));
        assert!(!is_first_cancel(&cancel, [&old, &invite, &cancel].into_iter()));
        assert!(
            !is_first_cancel(&cancel, std::iter::once(&old)) && !is_first_cancel(&invite, std::iter::once(&invite))
        );
    }
}
