//! One dialog, and the requests that its two ends send in it.

use sip::endpoint::Source;
use sip::message::{Message, Name};

use crate::world::World;

pub const CONTACT: (&str, &str) = ("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>");

/// An early or confirmed dialog between the caller's side and device 1.
pub struct Dialog {
    pub call_id: &'static str,
    /// The Route headers of the caller's requests at the relay, and of the device's.
    caller_routes: String,
    device_routes: String,
    /// The INVITE as the device got it.
    pub invite: Message,
}

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Caller,
    Device,
}

impl Dialog {
    /// The INVITE has reached device 1, which has answered with `status`.
    pub fn begin(world: &mut World, call_id: &'static str, status: u16, headers: &[(&str, &str)]) -> Self {
        world.invite(call_id);
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        let headers = [&[CONTACT], headers].concat();
        world.reply(device, &invite, status, &headers, "");
        let heard = world.last(&format!("INVITE {status}"));
        Self::of(call_id, invite, &heard)
    }

    pub fn of(call_id: &'static str, invite: Message, heard: &Message) -> Self {
        let routes: Vec<_> = heard.elements(Name::RecordRoute).map(str::to_owned).collect();
        assert_eq!(routes.len(), 3, "the SIP server's and two of the relay's");
        let device_routes = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        // The SIP server takes itself off before it sends to the relay.
        let own = routes.iter().rev().filter(|route| !route.contains("192.0.2.10"));
        let caller_routes = own.map(|route| format!("Route: {route}\r\n")).collect();
        Self { call_id, caller_routes, device_routes, invite }
    }

    /// Has both ends send other Routes.
    pub fn change_routes(&mut self, change: impl Fn(&str) -> String) {
        (self.caller_routes, self.device_routes) = (change(&self.caller_routes), change(&self.device_routes));
    }

    /// A request in this dialog as it reaches the relay. `middle`: whole header lines.
    pub fn request(&self, end: End, method: &str, cseq: u32, middle: &str, body: &[u8]) -> Vec<u8> {
        let call_id = self.call_id;
        let branch = if method == "CANCEL" { "INVITE" } else { method };
        let (uri, via, routes, from, to, contact) = match end {
            End::Caller => (
                "sip:phone1@10.0.0.5:9999;transport=tls",
                "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKc",
                &self.caller_routes,
                "\"Bob\" <sip:bob@example.com>;tag=bob",
                "<sip:alice@example.com>;tag=peer",
                "<sip:bob@192.0.2.77>",
            ),
            End::Device => (
                "sip:bob@192.0.2.77",
                "SIP/2.0/TLS 198.51.100.7:40000;branch=z9hG4bKd",
                &self.device_routes,
                "<sip:alice@example.com>;tag=peer",
                "\"Bob\" <sip:bob@example.com>;tag=bob",
                CONTACT.1,
            ),
        };
        let mut bytes = format!(
            "{method} {uri} SIP/2.0\r\nVia: {via}.{call_id}.{branch}.{cseq}\r\n{routes}Max-Forwards: 69\r\nf: {from}\r\n\
             To: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: {contact}\r\n{middle}\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    /// The sender of what [`Self::request`] wrote.
    pub fn source(world: &World, end: End) -> Source {
        match end {
            End::Caller => world.upstream,
            End::Device => world.device(1),
        }
    }

    /// One end sends a request; what it sent.
    pub fn send(&self, world: &mut World, end: End, method: &str, cseq: u32) -> Vec<u8> {
        let request = self.request(end, method, cseq, "", b"");
        let source = Self::source(world, end);
        world.receive_bytes(source, &request);
        request
    }

    /// The device sends a request by another flow.
    pub fn send_by(&self, world: &mut World, flow: u64, method: &str, cseq: u32) {
        let (device, request) = (world.device(flow), self.request(End::Device, method, cseq, "", b""));
        world.receive_bytes(device, &request);
    }
}

/// Asserts that a message has left as it came: every line but those that a proxy changes, in order, and the body.
pub fn assert_unharmed(came: &[u8], left: &Message) {
    let changed = ["via:", "v:", "route:", "record-route:", "max-forwards:", "sipwake-call:"];
    let lines = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines: Vec<_> = text.split("\r\n").skip(1).map(str::to_owned).collect();
        let kept = |line: &String| !changed.iter().any(|name| line.to_ascii_lowercase().starts_with(name));
        lines.into_iter().filter(kept).collect::<Vec<_>>()
    };
    let end = came.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert_eq!(lines(left.head()), lines(&came[..end]));
    assert_eq!(&left.body()[..], &came[end..]);
}
