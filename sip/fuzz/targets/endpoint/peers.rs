//! The words of the SIP servers and the devices.
//!
//! Invariant: what is written here parses; what is wrong with a message is what an operation made wrong.

use std::net::SocketAddr;

use sip::auth::{Challenge, DigestResponse, Ha1};
use sip::endpoint::{Side, Source, Transport};
use sip::id::{BindingId, FlowId, InstanceId};
use sip::message::{Message, Name};

/// What a device proves itself with.
pub const SECRET: &str = "instance secret";
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// SIP server 0 is reached by UDP, SIP server 1 by TLS; 2 is a stranger.
pub fn server(number: u8, stream: u64) -> Source {
    let peer: SocketAddr = SocketAddr::from(([192, 0, 2, 10 + number], 5060));
    match number {
        1 => {
            Source { flow: FlowId::Stream(stream), side: Side::Upstream, transport: Transport::Tls, peer, split: false }
        }
        _ => {
            Source { flow: FlowId::Datagram(peer), side: Side::Upstream, transport: Transport::Udp, peer, split: false }
        }
    }
}

/// One of four connections of devices; the last is a WebSocket.
pub fn device(number: u8) -> Source {
    let peer = SocketAddr::from(([198, 51, 100, 7], 40_000 + u16::from(number)));
    let transport = if number == 3 { Transport::Wss } else { Transport::Tls };
    Source { flow: FlowId::Stream(u64::from(number)), side: Side::Device, transport, peer, split: false }
}

/// Via to Contact of a caller's request.
fn head(source: &Source, call: u8, method: &str, number: u32, to_tag: &str) -> String {
    let branch = if matches!(method, "CANCEL" | "ACK") { "INVITE" } else { method };
    let (via, peer) = (source.transport.via(), source.peer);
    format!(
        "Via: SIP/2.0/{via} {peer};branch=z9hG4bKs{call}.{number}.{branch}\r\nRecord-Route: <sip:{peer};lr>\r\nMax-Forwards: 69\r\n\
         From: \"Bob\" <sip:bob@example.com>;tag=b{call}\r\nTo: <sip:alice@example.com>{to_tag}\r\nCall-ID: c{call}\r\n\
         CSeq: {number} {method}\r\nContact: <sip:bob@{peer}>\r\n"
    )
}

/// A request of a SIP server to the relay's Contact.
pub fn request(source: &Source, to: &str, method: &str, call: u8) -> String {
    let (kind, body) = match method {
        "INVITE" => ("application/sdp", SDP),
        "NOTIFY" => ("application/simple-message-summary", "Messages-Waiting: yes\r\nVoice-Message: 2/8\r\n"),
        "MESSAGE" => ("text/plain", "hello"),
        _ => ("text/plain", ""),
    };
    let event = if method == "NOTIFY" { "Event: message-summary\r\n" } else { "" };
    let head = head(source, call, method, 1, "");
    format!(
        "{method} {to} SIP/2.0\r\n{head}{event}Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// The Contact of a binding.
pub fn contact(binding: BindingId) -> String {
    format!("sip:{binding}@relay.test:5070")
}

/// A request inside the dialog of `invite`, which was answered with this To tag; by the device, or by the caller.
pub fn inside(invite: &Message, tag: &str, method: &str, number: u32, by_device: bool) -> String {
    let mut text = format!(
        "{method} sip:peer@192.0.2.77 SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKi{number}.{method}\r\n"
    );
    let mut routes: Vec<&str> = invite.elements(Name::RecordRoute).collect();
    if !by_device {
        routes.reverse();
    }
    for route in routes {
        text += &format!("Route: {route}\r\n");
    }
    let (from, to) = (invite.text(Name::From).unwrap_or_default(), invite.text(Name::To).unwrap_or_default());
    let to = if to.contains(";tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
    let (from, to) = if by_device { (to.as_str(), from) } else { (from, to.as_str()) };
    let call = invite.call_id().unwrap_or_default();
    text + &format!(
        "Max-Forwards: 70\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call}\r\nCSeq: {number} {method}\r\n\
         Contact: <sip:peer@10.0.0.5>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The answer to a request that the endpoint sent.
pub fn response(request: &Message, status: u16, tag: &str, more: &str) -> String {
    let mut text = format!("SIP/2.0 {status} Whatever\r\n");
    for name in [Name::Via, Name::RecordRoute, Name::From, Name::CallId, Name::CSeq] {
        for value in request.values(name) {
            text += &format!("{name}: {}\r\n", String::from_utf8_lossy(value));
        }
    }
    let to = request.text(Name::To).unwrap_or_default();
    let tag = if to.contains(";tag=") || status == 100 { String::new() } else { format!(";tag={tag}") };
    text + &format!("To: {to}{tag}\r\n{more}Content-Length: 0\r\n\r\n")
}

/// What makes a 2xx of a registrar a grant, or a 401 a challenge.
pub fn registrars_words(request: &Message, status: u16, expires: u32) -> String {
    match (request.text(Name::Contact), status) {
        (Some(contact), 200..300) => {
            let contact = contact.split_once('>').map_or(contact, |(contact, _)| contact);
            let path = request.text(Name::Path).map_or(String::new(), |path| format!("Path: {path}\r\n"));
            format!("Contact: {contact}>;expires={expires}\r\n{path}")
        }
        (_, 401 | 407) => {
            let name = if status == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
            format!("{name}: Digest realm=\"r\", nonce=\"n{expires}\", qop=\"auth\", algorithm=SHA-256\r\n")
        }
        (_, 423) => "Min-Expires: 900\r\n".to_owned(),
        (_, 503) => "Retry-After: 40\r\n".to_owned(),
        _ => String::new(),
    }
}

/// A device's REGISTER at the edge.
pub fn device_register(source: &Source, instance: InstanceId, number: u32, authorization: &str) -> String {
    let flow = source.peer.port();
    format!(
        "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/{} 10.0.0.5:9;branch=z9hG4bKr{flow}.{number};rport\r\n\
         From: <sip:{instance}@relay.test>;tag=d\r\nTo: <sip:{instance}@relay.test>\r\nCall-ID: r{flow}\r\nCSeq: {number} REGISTER\r\n\
         Max-Forwards: 70\r\nContact: <sip:phone@10.0.0.5:9;transport=tls>\r\nExpires: 300\r\n{authorization}Content-Length: 0\r\n\r\n",
        source.transport.via()
    )
}

/// A device's REGISTER to its own SIP server, through the edge (RFC 8599). Token 1: without a word of pushes.
pub fn forwarded_register(source: &Source, number: u32, token: u8, expires: u32) -> String {
    let flow = source.peer.port();
    let pn = if token == 1 { String::new() } else { format!(";pn-provider=fcm;pn-param=project;pn-prid=token{token}") };
    format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKt{flow}.{number};rport\r\nMax-Forwards: 70\r\n\
         Route: <sip:relay.test:5061;transport=tls;lr>\r\nFrom: <sip:carol@example.com>;tag=d\r\nTo: <sip:carol@example.com>\r\n\
         Call-ID: t{flow}\r\nCSeq: {number} REGISTER\r\nSupported: path\r\nExpires: {expires}\r\n\
         Contact: <sip:carol@10.0.0.5:9{pn}>;+sip.instance=\"<urn:uuid:1>\"\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// The Authorization for a challenge of the edge.
pub fn authorization(challenge: &Challenge, instance: InstanceId, secret: &str, nc: u32) -> Option<String> {
    let user = instance.to_string();
    let ha1 = Ha1::compute(challenge.algorithm.hash, &user, &challenge.realm, secret);
    let answer =
        DigestResponse { username: &user, method: "REGISTER", uri: "sip:relay.test", cnonce: "c", nc, body: b"" };
    challenge.answer(&ha1, &answer).ok()
}
