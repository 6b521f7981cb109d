//! The probe that finds out, on one stream, whether a SIP server takes a bare LF for the end of a line.
//!
//! The answer to a REGISTER shows it, if no other server lies between. Once the end of a message was ambiguous on a stream of a server, the server is also
//! probed, once on each further stream: an OPTIONS with Max-Forwards 0 follows a message that is written, because its recipient answers it and no server
//! forwards it (RFC 3261 §11, §16.3). `Server`, or the shape of the tag, identifies the software.
//!
//! Invariant: only an answer to a message that this relay has written on this stream counts, because no other peer knows its branch. A server that closes the
//! stream instead of answering is not probed on its next one.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::endpoint::Transport;
use sip::message::{Composer, Message, Method, Name};

use crate::agent::transport::servers::{LfServers, Place};
use crate::random;

/// REGISTERs of one connection whose answers are waited for.
const ASKED_MAX: usize = 32;
/// Products that read so, as `Server` names them (RFC 3261 §20.35): in lower case.
const SEE_BARE_LF: [&[u8]; 3] = [b"kamailio", b"opensips", b"ser "];

/// The server at the other end of a stream.
#[derive(Debug)]
pub(super) struct LfProbe {
    place: Place,
    /// The branches of REGISTERs; `None`: they tell nothing more.
    registers: Option<Vec<Box<[u8]>>>,
    question: Question,
}

#[derive(Debug)]
enum Question {
    NotAsked,
    Asked(Box<str>),
    Over,
}

/// The meaning of a message for the probe.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProbeFinding {
    /// The server sees bare LFs, as it says.
    pub(super) sees_lf: bool,
    /// The message is the answer to the probe, and for nobody else.
    pub(super) is_own: bool,
}

impl LfProbe {
    pub(super) fn with(place: Place) -> Self {
        Self { place, registers: Some(Vec::new()), question: Question::NotAsked }
    }

    /// A message is written to a peer that is known to be a SIP server; returns the question to send behind it.
    pub(super) fn on_written(
        &mut self,
        bytes: &Bytes,
        transport: Transport,
        peer: SocketAddr,
        known: &LfServers,
    ) -> Option<Bytes> {
        // Else a keep-alive.
        if !bytes.first().is_some_and(u8::is_ascii_alphabetic) {
            return None;
        }
        if let Some(registers) = &mut self.registers
            && bytes.starts_with(b"REGISTER ")
            && !has(bytes, b"\r\nRoute: ")
        {
            if registers.len() >= ASKED_MAX {
                registers.remove(0);
            }
            registers.extend(branch_of(bytes).map(Box::from));
        }
        if !matches!(self.question, Question::NotAsked) || !known.is_doubted(self.place) {
            return None;
        }
        let own = known.own();
        let local = if transport == Transport::Tls { &own.tls } else { &own.tcp };
        if local.is_empty() || !known.asks(self.place) {
            self.question = Question::Over;
            return None;
        }
        let [branch, tag] = [(); 2].map(|()| format!("{:016x}", u64::from_be_bytes(random::bytes())));
        // The registrar's name, where it is one that this server serves; only who reads no Max-Forwards looks at it.
        let asked = Some(bytes).filter(|bytes| bytes.starts_with(b"REGISTER ")).and_then(|bytes| target_of(bytes));
        let target = asked.map_or_else(|| format!("sip:{}", uri_host(peer)), str::to_owned);
        let branch = format!("z9hG4bK{branch}");
        let question = Composer::request(Method::Options, &target)
            .header(Name::Via, format_args!("SIP/2.0/{} {local};branch={branch}", transport.via()))
            .header(Name::MaxForwards, 0)
            .header(Name::From, format_args!("<sip:{local}>;tag={tag}"))
            .header(Name::To, format_args!("<{target}>"))
            .header(Name::CallId, format_args!("{tag}.{branch}"))
            .header(Name::CSeq, "1 OPTIONS")
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")))
            .finish();
        self.question = Question::Asked(branch.into());
        Some(question)
    }

    /// A sound message came.
    pub(super) fn on_message(&mut self, message: &Message, known: &LfServers) -> ProbeFinding {
        let Some(status) = message.status().filter(|_| !message.is_request()) else { return ProbeFinding::default() };
        let via = message.via();
        let Some(branch) = via.as_ref().and_then(|via| via.branch()) else { return ProbeFinding::default() };
        if matches!(&self.question, Question::Asked(asked) if **asked == *branch) {
            if status < 200 {
                return ProbeFinding { sees_lf: false, is_own: true };
            }
            (self.question, self.registers) = (Question::Over, None);
            let sees_lf = sees_lf(message);
            known.note(self.place, sees_lf);
            return ProbeFinding { sees_lf, is_own: true };
        }
        let its = self.registers.as_ref().is_some_and(|all| all.iter().any(|asked| **asked == *branch.as_bytes()));
        if !its || !(200..300).contains(&status) {
            return ProbeFinding::default();
        }
        // A REGISTER without such a word is not looked at again: refreshes come for ever.
        self.registers = None;
        let sees_lf = sees_lf(message);
        if sees_lf {
            known.note(self.place, true);
        }
        ProbeFinding { sees_lf, is_own: false }
    }

    /// The end of a message on the stream is in doubt.
    pub(super) fn on_doubt(&self, known: &LfServers) {
        known.note_doubt(self.place);
    }

    /// The server has ended the stream.
    pub(super) fn on_ended(&self, known: &LfServers) {
        if matches!(self.question, Question::Asked(_)) {
            known.note_shy(self.place);
        }
    }
}

/// Whether an answer's author sees bare LFs: Kamailio, OpenSIPS and SER, by `Server`, or by the To tag that they make where that is hidden.
fn sees_lf(answer: &Message) -> bool {
    let product = answer.values(Name::Server).next().map(<[u8]>::to_ascii_lowercase).unwrap_or_default();
    let is_named = SEE_BARE_LF.iter().any(|known| product.starts_with(known));
    is_named || answer.to().and_then(|to| to.tag()).is_some_and(is_tag_of_theirs)
}

/// An MD5 in hexadecimal, and behind a `.` or `-` a checksum of 4 to 8 digits.
fn is_tag_of_theirs(tag: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'));
    tag.split_once(['.', '-'])
        .is_some_and(|(hash, sum)| hash.len() == 32 && matches!(sum.len(), 4..=8) && is_hex(hash) && is_hex(sum))
}

/// An address as a URI names it.
fn uri_host(peer: SocketAddr) -> String {
    match peer.ip().to_canonical() {
        std::net::IpAddr::V4(address) => address.to_string(),
        std::net::IpAddr::V6(address) => format!("[{address}]"),
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|some| some == part)
}

/// The Request-URI of a request that the relay has composed.
fn target_of(bytes: &[u8]) -> Option<&str> {
    let line = bytes.split(|byte| *byte == b'\r').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(1)
}

/// The branch of a message that the relay has composed, or put its Via on top of.
fn branch_of(bytes: &[u8]) -> Option<&[u8]> {
    let behind =
        |bytes: &[u8], part: &[u8]| Some(bytes.windows(part.len()).position(|some| some == part)? + part.len());
    let via = &bytes[behind(bytes, b"\r\nVia: ")?..];
    let branch = &via[behind(via, b";branch=")?..];
    let length = branch.iter().position(|byte| matches!(byte, b';' | b',' | b'\r' | b' '))?;
    Some(&branch[..length])
}

#[cfg(test)]
mod tests {
    use sip::message::Limits;

    use super::*;
    use crate::agent::transport::servers::OwnNames;

    const TAG: &str = "0123456789abcdef0123456789abcdef.5e1c";

    fn relay() -> LfServers {
        let known = LfServers::new(OwnNames { tls: "relay.test:5071".into(), tcp: "relay.test:5070".into() }, &[]);
        known.note_doubt(Place::dialled(peer(5061)));
        known
    }

    fn peer(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn answer(branch: &str, server: &str, tag: &str) -> Message {
        let server = if server.is_empty() { String::new() } else { format!("Server: {server}\r\n") };
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS a;branch={branch};rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag={tag}\r\n\
             Call-ID: i\r\nCSeq: 1 REGISTER\r\n{server}Content-Length: 0\r\n\r\n"
        );
        Message::parse(&text.into(), &Limits::default()).expect("a response")
    }

    fn register(route: &str) -> Bytes {
        let via = "Via: SIP/2.0/TLS a;branch=z9hG4bKone;rport";
        format!("REGISTER sip:example.com;branch=z9hG4bKevil SIP/2.0\r\n{via}\r\n{route}\r\n").into()
    }

    /// A stream to this port on which a REGISTER was written, and the branch of what was asked behind it.
    fn asked(known: &LfServers, port: u16, route: &str) -> (LfProbe, String) {
        let mut lf_probe = LfProbe::with(Place::dialled(peer(port)));
        let question = lf_probe.on_written(&register(route), Transport::Tls, peer(port), known).expect("asked");
        let question = Message::parse(&question, &Limits::COMPOSED).expect("a request");
        question.check().expect("a sound one");
        assert_eq!((question.method(), question.text(Name::MaxForwards)), (Some(Method::Options), Some("0")));
        let again = lf_probe.on_written(&register(route), Transport::Tls, peer(port), known);
        assert!(again.is_none(), "once");
        let branch = question.via().unwrap().branch().unwrap().to_owned();
        (lf_probe, branch)
    }

    #[test]
    fn the_next_hop_says_itself_what_it_is() {
        for (server, tag, says) in [
            ("kamailio (5.6.3 (x86_64/linux))", "x", true),
            ("OpenSIPS (3.2.2 (x86_64/linux))", "x", true),
            ("", TAG, true),
            ("PBX", TAG, true),
            ("Asterisk PBX 20.0.0", "x", false),
            ("", "as5f", false),
        ] {
            for route in ["", "Route: <sip:p;lr>\r\n"] {
                let known = relay();
                let (mut lf_probe, branch) = asked(&known, 5061, route);
                let heard = lf_probe.on_message(&answer(&branch, server, tag), &known);
                assert_eq!((heard.sees_lf, heard.is_own), (says, true), "{server} {tag}");
                assert_eq!(known.has(Place::dialled(peer(5061))), says);
                // A server behind it says nothing of it.
                let behind = lf_probe.on_message(&answer("z9hG4bKone", "kamailio", "x"), &known);
                assert_eq!(behind, ProbeFinding::default());
            }
        }
    }

    #[test]
    fn the_answer_to_a_register_counts_until_the_next_hop_has_spoken_and_takes_nothing_away() {
        let known = relay();
        let (mut lf_probe, branch) = asked(&known, 5061, "");
        assert!(lf_probe.on_message(&answer("z9hG4bKone", "kamailio", "x"), &known).sees_lf);
        assert!(known.has(Place::dialled(peer(5061))));
        let (mut other, _) = asked(&known, 5061, "");
        assert!(!other.on_message(&answer("z9hG4bKone", "Asterisk PBX", "x"), &known).sees_lf);
        assert!(known.has(Place::dialled(peer(5061))), "a registrar behind it");
        lf_probe.on_message(&answer(&branch, "SBC", "x"), &known);
        assert!(!known.has(Place::dialled(peer(5061))), "its own word");
        let (mut through, _) = asked(&known, 5061, "Route: <sip:p;lr>\r\n");
        for branch in ["z9hG4bKone", "z9hG4bKevil", "z9hG4bKother"] {
            assert_eq!(
                through.on_message(&answer(branch, "kamailio", TAG), &known),
                ProbeFinding::default(),
                "{branch}"
            );
        }
    }

    #[test]
    fn who_ends_a_stream_in_place_of_an_answer_is_asked_on_each_second_one_at_most() {
        let known = relay();
        let (lf_probe, _) = asked(&known, 5061, "");
        lf_probe.on_ended(&known);
        let mut next = LfProbe::with(Place::dialled(peer(5061)));
        assert!(next.on_written(&register(""), Transport::Tls, peer(5061), &known).is_none());
        next.on_ended(&known);
        assert!(
            next.on_message(&answer("z9hG4bKone", "kamailio", "x"), &known).sees_lf,
            "its REGISTER's answer counts"
        );
        asked(&known, 5061, "");
    }

    #[test]
    fn a_server_none_of_whose_streams_was_in_doubt_is_asked_nothing() {
        let known = LfServers::new(OwnNames { tls: "relay.test:5071".into(), tcp: "relay.test:5070".into() }, &[]);
        let mut lf_probe = LfProbe::with(Place::dialled(peer(5061)));
        let mut written = || lf_probe.on_written(&register(""), Transport::Tls, peer(5061), &known);
        assert!(written().is_none());
        known.note_doubt(Place::dialled(SocketAddr::from(([192, 0, 2, 9], 5061))));
        assert!(written().is_none(), "another one's");
        known.note_doubt(Place::accepted(peer(40_000)));
        assert!(written().is_some_and(|question| question.starts_with(b"OPTIONS ")), "on a stream that stands, too");
        assert!(written().is_none(), "once");
    }

    #[test]
    fn a_keep_alive_is_followed_by_no_probe() {
        let mut lf_probe = LfProbe::with(Place::accepted(peer(40_000)));
        let known = relay();
        for bytes in ["\r\n\r\n", "\r\n"] {
            assert!(lf_probe.on_written(&bytes.into(), Transport::Tls, peer(40_000), &known).is_none());
        }
    }
}
