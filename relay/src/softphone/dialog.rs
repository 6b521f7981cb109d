//! One call as the softphone has it: its dialog, and what is due when.
//!
//! Invariant: it signals and carries no sound: its answer to an offer is one audio line that is inactive.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::endpoint::{shown, told};
use sip::message::{Composer, Message, Method, Name, Party};
use tokio::time::Instant;

/// The first wait for an ACK before a 2xx is sent again, and the longest (RFC 3261 §13.3.1.4).
const T1: Duration = Duration::from_millis(500);
const T2: Duration = Duration::from_secs(4);
/// How long an ACK is waited for.
const ACK_WITHIN: Duration = Duration::from_secs(32);

/// A call.
pub(super) struct Call {
    /// The INVITE.
    pub invite: Message,
    /// The tag of this side.
    pub tag: String,
    /// How far it is.
    pub phase: Phase,
    cseq: u32,
}

/// How far a call is.
pub(super) enum Phase {
    /// The call rings, and is answered or declined at this moment.
    Ringing(Instant),
    /// The call was declined; its ACK has not come.
    Declined,
    /// The call was answered.
    Answered {
        /// The answer, until its ACK has come.
        unacknowledged: Option<Unacknowledged>,
        /// When this side hangs up, if it does.
        until: Option<Instant>,
    },
    /// This side has sent its BYE.
    HangingUp(Instant),
}

/// A 2xx whose ACK has not come.
pub(super) struct Unacknowledged {
    /// The 2xx.
    pub answer: Bytes,
    /// When it is sent again.
    pub again: Instant,
    /// When it is given up.
    pub end: Instant,
    wait: Duration,
}

impl Unacknowledged {
    /// An answer sent now.
    pub(super) fn new(answer: Bytes, now: Instant) -> Self {
        Self { answer, again: now + T1, end: now + ACK_WITHIN, wait: T1 }
    }

    /// Notes that the answer is sent again now.
    pub(super) fn repeat(&mut self, now: Instant) {
        self.wait = (self.wait * 2).min(T2);
        self.again = now + self.wait;
    }
}

impl Call {
    /// A call that rings until `until`.
    pub(super) fn new(invite: Message, tag: String, until: Instant) -> Self {
        Self { invite, tag, phase: Phase::Ringing(until), cseq: 0 }
    }

    /// Whether a request belongs to it.
    pub(super) fn has(&self, request: &Message) -> bool {
        request.call_id() == self.invite.call_id()
    }

    /// The caller, as the From has it.
    pub(super) fn caller(&self) -> String {
        let Some(from) = self.invite.from() else { return "somebody".to_owned() };
        let address = from.target().and_then(told);
        let address = address.as_deref().unwrap_or("somebody");
        let text = match from.name().and_then(shown) {
            Some(name) => format!("{address} ({name})"),
            None => address.to_owned(),
        };
        text.chars().filter(|c| !c.is_control()).collect()
    }

    /// When something is due for it.
    pub(super) fn due(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Ringing(at) | Phase::HangingUp(at) => Some(*at),
            Phase::Declined => None,
            Phase::Answered { unacknowledged, until } => {
                let again = unacknowledged.as_ref().map(|it| it.again.min(it.end));
                [again, *until].into_iter().flatten().min()
            }
        }
    }

    /// The BYE of this side (RFC 3261 §12.2.1.1, as the callee: the route is that of the INVITE, in its order).
    pub(super) fn bye(&mut self, via: &str) -> Bytes {
        self.cseq += 1;
        let contacts = self.invite.contacts();
        let target = contacts.first().and_then(Party::target).unwrap_or("sip:unknown@invalid");
        let text = |name: Name| self.invite.text(name).unwrap_or_default();
        let mut bye = Composer::request(Method::Bye, target).header(Name::Via, via).header(Name::MaxForwards, 70);
        for route in self.invite.values(Name::RecordRoute) {
            bye = bye.header(Name::Route, String::from_utf8_lossy(route));
        }
        bye.header(Name::From, format_args!("{};tag={}", text(Name::To), self.tag))
            .header(Name::To, text(Name::From))
            .header(Name::CallId, text(Name::CallId))
            .header(Name::CSeq, format_args!("{} BYE", self.cseq))
            .finish()
    }
}

/// The answer to an offer, or an offer where there is none: each audio line once and inactive, all else refused.
pub(super) fn sdp(offer: &[u8], address: IpAddr) -> String {
    let kind = if address.is_ipv4() { "IP4" } else { "IP6" };
    let mut text =
        format!("v=0\r\no=- 1 1 IN {kind} {address}\r\ns=sipwake device\r\nc=IN {kind} {address}\r\nt=0 0\r\n");
    let offer = String::from_utf8_lossy(offer);
    let mut any = false;
    for line in offer.lines().filter_map(|line| line.strip_prefix("m=")) {
        let mut parts = line.split_ascii_whitespace();
        let (media, _port) = (parts.next().unwrap_or("audio"), parts.next());
        let rest = parts.collect::<Vec<_>>().join(" ");
        // The first audio line is taken, at the discard port (RFC 863): nothing is sent and nothing is heard.
        let taken = media == "audio" && !any;
        any |= taken;
        text += &format!("m={media} {} {rest}\r\n", if taken { 9 } else { 0 });
        text += if taken { "a=inactive\r\n" } else { "" };
    }
    if offer.is_empty() {
        text += "m=audio 9 RTP/AVP 0 8\r\na=inactive\r\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_answered_line_by_line_and_silently() {
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let offer = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\nm=video 4002 RTP/AVP 96\r\n";
        let answer = sdp(offer.as_bytes(), address);
        let media: Vec<&str> = answer.lines().filter(|line| line.starts_with("m=") || line.starts_with("a=")).collect();
        assert_eq!(media, ["m=audio 9 RTP/AVP 0 8", "a=inactive", "m=video 0 RTP/AVP 96"]);
        assert!(sdp(b"", address).ends_with("m=audio 9 RTP/AVP 0 8\r\na=inactive\r\n"));
    }
}
