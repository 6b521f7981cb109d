//! The proxy of that SIP server: stateless (RFC 3261 §16.11), and in the path of dialogs.
//!
//! The state that it needs of a request when its response comes, it writes into its own Via: where the request came from.
//!
//! Invariant: nothing is sent to an address that is not on loopback. A repeated request, its CANCEL and the ACK of its refusal
//! go the same way with the same branch.

use std::net::SocketAddr;
use std::time::Instant;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use sip::message::{Composer, Limits, Message, Method, Name, Scheme, Uri};

use super::hop::{Hop, hop_to, loopback};
use super::location::{Account, Answer, Location};
use crate::random;

/// The parameter of the own Via that says where the request came from.
const FROM: &str = "came-by";
/// The realm of its digest; its accounts are at its address.
const REALM: &str = "sipwake";

/// The SIP server without its sockets.
pub(super) struct Proxy {
    own: SocketAddr,
    location: Location,
}

impl Proxy {
    /// At `own`, on loopback.
    pub(super) fn new(own: SocketAddr, accounts: Vec<Account>) -> Self {
        Self { own, location: Location::new(REALM, accounts) }
    }

    /// The message to send for one that came from `from`, and where to.
    pub(super) fn handle(&mut self, message: &Message, from: Hop, now: Instant) -> Option<(Hop, Bytes)> {
        if !message.is_request() {
            return self.back(message);
        }
        let received = received(message, from.address);
        let message = received.as_ref().unwrap_or(message);
        let is_ack = message.method() == Some(Method::Ack);
        let refuse = |status: u16| Some((from, answer(message, status, &[]))).filter(|_| !is_ack);
        if let Err(fault) = message.check() {
            return refuse(fault.status());
        }
        if message.max_forwards() == Some(0) {
            return refuse(483);
        }
        let ours =
            (0..2).take_while(|index| message.route(*index).is_some_and(|route| self.is_own(&route.uri))).count();
        if let Some(route) = message.route(ours) {
            return match hop_to(&route.uri) {
                Some(hop) => Some((hop, self.forwarded(message, from, ours, None))),
                None => refuse(403),
            };
        }
        let Some(target) = message.request_uri().and_then(Uri::parse) else { return refuse(416) };
        if !self.is_own(&target) {
            let in_dialog = message.to().is_some_and(|to| to.tag().is_some());
            return match hop_to(&target).filter(|_| in_dialog || is_ack) {
                Some(hop) => Some((hop, self.forwarded(message, from, ours, None))),
                None => refuse(403),
            };
        }
        match (message.method(), target.user) {
            (Some(Method::Register), _) => {
                let Answer { status, headers } = self.location.register(message, from, now);
                Some((from, answer(message, status, &headers)))
            }
            (Some(Method::Options), None) => refuse(200),
            (_, Some(user)) if self.location.knows(user) => {
                let Some(contact) = self.location.newest(user, now) else { return refuse(480) };
                let to = (&*contact.uri, &*contact.path);
                Some((contact.hop, self.forwarded(message, from, ours, Some(to))))
            }
            _ => refuse(404),
        }
    }

    /// A response goes back to where our Via says that its request came from.
    fn back(&self, response: &Message) -> Option<(Hop, Bytes)> {
        let via = response.via().filter(|via| via.port == Some(self.own.port()) && loopback(via.host).is_some())?;
        let hop = Hop::read(via.params.value(FROM)?)?;
        Some((hop, response.edit().pop(Name::Via).finish()))
    }

    fn forwarded(&self, request: &Message, from: Hop, own_routes: usize, to: Option<(&str, &[String])>) -> Bytes {
        let hops = request.max_forwards().unwrap_or(70).saturating_sub(1);
        let mut edit = request.edit().set(Name::MaxForwards, hops.to_string());
        for _ in 0..own_routes {
            edit = edit.pop(Name::Route);
        }
        if let Some((uri, path)) = to {
            edit = edit.request_uri(uri.to_owned());
            for route in path.iter().rev() {
                edit = edit.prepend(Name::Route, route.clone());
            }
        }
        let in_dialog = request.to().is_some_and(|to| to.tag().is_some());
        if !in_dialog && matches!(request.method(), Some(Method::Invite | Method::Subscribe)) {
            edit = edit.prepend(Name::RecordRoute, format!("<sip:{};lr>", self.own));
        }
        let transport = if from.is_tcp { "TCP" } else { "UDP" };
        let branch = branch(request);
        edit.prepend(Name::Via, format!("SIP/2.0/{transport} {};branch={branch};{FROM}={}", self.own, from.written()))
            .finish()
    }

    fn is_own(&self, uri: &Uri<'_>) -> bool {
        uri.scheme == Scheme::Sip && loopback(uri.host).is_some() && uri.port.unwrap_or(5060) == self.own.port()
    }
}

/// A response of this server's own.
pub(super) fn answer(request: &Message, status: u16, headers: &[(Name, String)]) -> Bytes {
    let tag = format!("{:016x}", u64::from_ne_bytes(random::bytes()));
    let mut response = Composer::response(request, status, Composer::reason(status), Some(&tag));
    for (name, value) in headers {
        response = response.header(*name, value);
    }
    response.finish()
}

/// The message in a datagram or a stream.
pub(super) fn read(bytes: &Bytes) -> Option<Message> {
    Message::parse(bytes, &Limits::default()).ok()
}

/// The same branch for a request, its repetitions, its CANCEL and its ACK (RFC 3261 §16.11).
fn branch(request: &Message) -> String {
    let theirs = request.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
    let by = request.via().map(|via| format!("{}:{:?}", via.host, via.port)).unwrap_or_default();
    let hash = digest(&SHA256, format!("{theirs}|{by}|{}", request.call_id().unwrap_or_default()).as_bytes());
    let hex: String = hash.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("z9hG4bK{hex}")
}

/// The request with where it came from in the Via of who sent it (RFC 3261 §18.2.1, RFC 3581 §4), where that is not said.
fn received(request: &Message, from: SocketAddr) -> Option<Message> {
    let via = request.via()?;
    let asked = via.params.get("rport") == Some(None);
    if !asked && via.host.parse() == Ok(from.ip()) {
        return None;
    }
    let kept = via.params.iter().filter(|(name, _)| !["rport", "received"].contains(&&*name.to_ascii_lowercase()));
    let port = via.port.map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("SIP/2.0/{} {}{port}", via.transport, via.host);
    for (name, value) in kept {
        text += &value.map_or_else(|| format!(";{name}"), |value| format!(";{name}={value}"));
    }
    text += &format!(";received={}", from.ip());
    if asked {
        text += &format!(";rport={}", from.port());
    }
    read(&request.edit().pop(Name::Via).prepend(Name::Via, text).finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Password;
    use sip::auth::{Challenge, DigestResponse, Ha1, Hash};

    const OWN: &str = "127.0.0.1:5060";

    fn proxy() -> Proxy {
        let account = |user| Account { user, password: Password::new("wonderland") };
        Proxy::new(OWN.parse().unwrap(), vec![account("alice"), account("bob")])
    }

    fn hop(port: u16) -> Hop {
        Hop { is_tcp: false, address: SocketAddr::from(([127, 0, 0, 1], port)) }
    }

    fn message(text: &str) -> Message {
        read(&Bytes::from(text.replace('\n', "\r\n"))).expect("a message")
    }

    fn register(password: &str, proxy: &mut Proxy) -> u16 {
        let text = |authorization: &str| {
            message(&format!(
                "REGISTER sip:{OWN} SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.1:7000;branch=z9hG4bKr{}\nMax-Forwards: 70\n\
                 From: <sip:alice@{OWN}>;tag=a\nTo: <sip:alice@{OWN}>\nCall-ID: r\nCSeq: 1 REGISTER\n\
                 Contact: <sip:relay@127.0.0.1:7000>\nExpires: 600\n{authorization}\n",
                authorization.len()
            ))
        };
        let (_, bytes) = proxy.handle(&text(""), hop(7000), Instant::now()).unwrap();
        let asked = read(&bytes).unwrap();
        assert_eq!(asked.status(), Some(401));
        let values = asked.values(Name::WwwAuthenticate).filter_map(|value| std::str::from_utf8(value).ok());
        let challenge = Challenge::topmost_supported(values, &[Hash::Md5]).unwrap();
        let ha1 = Ha1::compute(Hash::Md5, "alice", REALM, password);
        let uri = format!("sip:{OWN}");
        let terms = DigestResponse { username: "alice", method: "REGISTER", uri: &uri, cnonce: "c", nc: 1, body: b"" };
        let shown = format!("Authorization: {}\n", challenge.answer(&ha1, &terms).unwrap());
        let first = proxy.handle(&text(&shown), hop(7000), Instant::now()).unwrap();
        let again = proxy.handle(&text(&shown), hop(7000), Instant::now()).unwrap();
        assert_eq!(read(&again.1).unwrap().status(), Some(401), "an answer that was used is none");
        read(&first.1).unwrap().status().unwrap()
    }

    fn invite(to: &str, more: &str) -> Message {
        message(&format!(
            "INVITE {to} SIP/2.0\nVia: SIP/2.0/UDP bob.invalid:7001;branch=z9hG4bKi;rport\nMax-Forwards: 70\n{more}\
             From: <sip:bob@{OWN}>;tag=b\nTo: <sip:alice@{OWN}>\nCall-ID: i\nCSeq: 1 INVITE\n\
             Contact: <sip:bob@127.0.0.1:7001>\n\n"
        ))
    }

    #[test]
    fn a_call_goes_to_who_has_registered_with_the_right_password_and_its_response_back() {
        let mut proxy = proxy();
        let to = format!("sip:alice@{OWN}");
        let status = |proxy: &mut Proxy, request: &Message| {
            read(&proxy.handle(request, hop(7001), Instant::now()).unwrap().1).unwrap().status()
        };
        assert_eq!(status(&mut proxy, &invite(&to, "")), Some(480), "nobody is there");
        assert_eq!(status(&mut proxy, &invite(&format!("sip:carol@{OWN}"), "")), Some(404));
        assert_eq!(register("looking-glass", &mut proxy), 401);
        assert_eq!(status(&mut proxy, &invite(&to, "")), Some(480));
        assert_eq!(register("wonderland", &mut proxy), 200);

        let (next, bytes) = proxy.handle(&invite(&to, ""), hop(7001), Instant::now()).unwrap();
        let forwarded = read(&bytes).unwrap();
        assert_eq!(next, hop(7000));
        assert_eq!(forwarded.request_uri(), Some("sip:relay@127.0.0.1:7000"));
        assert_eq!(forwarded.text(Name::RecordRoute), Some("<sip:127.0.0.1:5060;lr>"));
        let vias: Vec<&str> = forwarded.elements(Name::Via).collect();
        assert!(vias[1].contains("received=127.0.0.1") && vias[1].contains("rport=7001"), "{vias:?}");
        let again = proxy.handle(&invite(&to, ""), hop(7001), Instant::now()).unwrap();
        assert_eq!(again.1, bytes, "the same again");

        let response = read(&answer(&forwarded, 180, &[])).unwrap();
        let (back, bytes) = proxy.handle(&response, hop(7000), Instant::now()).unwrap();
        assert_eq!(back, hop(7001));
        assert_eq!(read(&bytes).unwrap().elements(Name::Via).count(), 1);
    }

    #[test]
    fn a_request_to_an_address_beyond_loopback_is_answered_403() {
        let mut proxy = proxy();
        for (to, more) in [
            ("sip:alice@192.0.2.1", ""),
            ("sip:alice@example.com", ""),
            ("sip:alice@127.0.0.1:5060", "Route: <sip:192.0.2.1;lr>\n"),
            ("sip:alice@127.0.0.1:5060", "Route: <sip:127.0.0.1:5060;lr>, <sip:example.com;lr>\n"),
            ("sip:other@127.0.0.1:9", ""),
            ("sips:alice@127.0.0.1:5060", ""),
        ] {
            let (to, bytes) = proxy.handle(&invite(to, more), hop(7001), Instant::now()).unwrap();
            assert_eq!((to, read(&bytes).unwrap().status()), (hop(7001), Some(403)));
        }
        let forged = message(
            "SIP/2.0 200 OK\nVia: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKx;came-by=udp-192.0.2.1-5060\n\
             Via: SIP/2.0/UDP 192.0.2.1\nFrom: <sip:a@b>;tag=a\nTo: <sip:b@b>;tag=b\nCall-ID: x\nCSeq: 1 INVITE\n\n",
        );
        assert!(proxy.handle(&forged, hop(7001), Instant::now()).is_none());
    }
}
