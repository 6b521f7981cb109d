//! The SIP server of all accounts, and those who call them: one socket, moved on by the simulation.
//!
//! It takes any REGISTER, keeps each Contact as long as it grants, forks an INVITE to all Contacts of an account (RFC 3261 §16.7),
//! repeats it until something answers, cancels what rings, and acknowledges what refuses.
//!
//! Invariant: what it knows of nodes is what they have said by SIP. A node that it is cut off from sends and gets nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use sip::message::{Composer, Limits, Message, Method, Name};

/// What it grants.
pub const GRANT: Duration = Duration::from_secs(60);
/// How long a call rings before its caller gives up.
const RINGS: Duration = Duration::from_millis(400);
/// How long a caller waits for anything to ring.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The SIP server.
pub struct Exchange {
    socket: UdpSocket,
    local: SocketAddr,
    now: Duration,
    /// By account, by Contact.
    contacts: BTreeMap<usize, BTreeMap<String, Contact>>,
    calls: Vec<Call>,
    /// Nodes that it is cut off from, by their ports.
    cut_off: Vec<u16>,
}

#[derive(Clone)]
struct Contact {
    peer: SocketAddr,
    until: Duration,
}

/// A call.
pub struct Call {
    /// Whom it is for.
    pub account: usize,
    /// When it began.
    pub began: Duration,
    /// The nodes that it was sent to, by their ports.
    pub legs: Vec<Leg>,
    /// When the first leg rang.
    pub rang: Option<Duration>,
    /// It is not cared for any more.
    pub is_over: bool,
}

/// An INVITE to one Contact.
pub struct Leg {
    /// The node's port.
    pub port: u16,
    uri: String,
    invite: Bytes,
    /// When it is repeated, and after how long then.
    again: Option<(Duration, Duration)>,
    cancel_at: Option<Duration>,
    /// Its final answer.
    pub status: Option<u16>,
    heard: bool,
}

impl Exchange {
    /// One without an account.
    pub fn open() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        socket.set_nonblocking(true).expect("non-blocking");
        let local = socket.local_addr().expect("bound");
        Self { socket, local, now: Duration::ZERO, contacts: BTreeMap::new(), calls: Vec::new(), cut_off: Vec::new() }
    }

    /// Its URI.
    pub fn uri(&self) -> String {
        format!("sip:{};transport=udp", self.local)
    }

    /// Cuts a node off, or joins it again.
    pub fn set_cut_off(&mut self, port: u16, is_cut_off: bool) {
        self.cut_off.retain(|other| *other != port);
        if is_cut_off {
            self.cut_off.push(port);
        }
    }

    /// The ports of the nodes that an account's Contacts lead to.
    pub fn nodes_of(&self, account: usize) -> Vec<u16> {
        let contacts = self.contacts.get(&account).into_iter().flat_map(BTreeMap::values);
        contacts.filter(|contact| contact.until > self.now).map(|contact| contact.peer.port()).collect()
    }

    /// All calls.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// Nobody looks at a call any more.
    pub fn forget(&mut self, call: usize) {
        self.calls[call].is_over = true;
    }

    /// Calls an account; the call's number.
    pub fn call(&mut self, account: usize) -> usize {
        let number = self.calls.len();
        let known = self.contacts.entry(account).or_default();
        let now = self.now;
        known.retain(|_, contact| contact.until > now);
        let contacts: Vec<(String, u16)> = known.iter().map(|(uri, it)| (uri.clone(), it.peer.port())).collect();
        let mut legs = Vec::new();
        for (place, (uri, port)) in contacts.into_iter().enumerate() {
            let invite: Bytes = self.request("INVITE", &uri, number, place, account).into();
            let (again, cancel_at) = (Some((now + T1, T1 * 2)), None);
            legs.push(Leg { port, uri, invite, again, cancel_at, status: None, heard: false });
        }
        for leg in &legs {
            self.send(&leg.invite, leg.port);
        }
        self.calls.push(Call { account, began: now, legs, rang: None, is_over: false });
        number
    }

    /// Goes on to `now`, and deals with what has come; how much.
    pub fn poll(&mut self, now: Duration) -> usize {
        self.now = now;
        let (mut done, mut buffer) = (0, vec![0; 65_536]);
        while let Ok((length, peer)) = self.socket.recv_from(&mut buffer) {
            done += 1;
            if self.cut_off.contains(&peer.port()) {
                continue;
            }
            if let Some(answer) = tests::wire::stun_answer(&buffer[..length], peer) {
                let _ = self.socket.send_to(&answer, peer);
                continue;
            }
            let bytes = Bytes::copy_from_slice(&buffer[..length]);
            let Ok(message) = Message::parse(&bytes, &Limits::default()) else { continue };
            match message.method() {
                None => self.on_response(&message),
                Some(Method::Register) => self.on_register(&message, peer),
                Some(Method::Ack) => {}
                Some(_) => self.send(&Composer::response(&message, 200, "OK", Some("x")).finish(), peer.port()),
            }
        }
        self.go_on();
        done
    }

    fn on_register(&mut self, register: &Message, peer: SocketAddr) {
        let user = register.to().and_then(|to| to.user().and_then(account_of));
        let Some(account) = user else {
            return self.send(&Composer::response(register, 404, "Not Found", Some("x")).finish(), peer.port());
        };
        let default = register.number(Name::Expires).unwrap_or(3_600);
        let known = self.contacts.entry(account).or_default();
        for contact in register.contacts() {
            let Some(uri) = contact.target().map(str::to_owned) else { continue };
            let expires = contact.params.value("expires").and_then(|text| text.parse().ok()).unwrap_or(default);
            if expires == 0 {
                known.remove(&uri);
            } else {
                known.insert(uri, Contact { peer, until: self.now + GRANT });
            }
        }
        let now = self.now;
        known.retain(|_, contact| contact.until > now);
        let mut response = Composer::response(register, 200, "OK", Some("x"));
        for (uri, contact) in known.iter() {
            response = response.header(Name::Contact, format!("<{uri}>;expires={}", (contact.until - now).as_secs()));
        }
        let bytes = response.finish();
        self.send(&bytes, peer.port());
    }

    fn on_response(&mut self, response: &Message) {
        let via = response.via();
        let leg = via.as_ref().and_then(|via| leg_of(via.branch()?));
        let (Some((number, place)), Some(status)) = (leg, response.status()) else { return };
        let Some((_, "INVITE")) = response.cseq() else { return };
        let now = self.now;
        let Some(call) = self.calls.get_mut(number) else { return };
        let Some(leg) = call.legs.get_mut(place) else { return };
        leg.again = None;
        leg.heard = true;
        if status == 180 {
            call.rang.get_or_insert(now);
            leg.cancel_at.get_or_insert(now + RINGS);
        }
        if status >= 200 {
            leg.status.get_or_insert(status);
            leg.cancel_at = None;
            let to = response.text(Name::To).unwrap_or_default().to_owned();
            let (uri, port, account) = (leg.uri.clone(), leg.port, call.account);
            let ack = self.request_to("ACK", &uri, number, place, account, Some(&to));
            self.send(ack.as_bytes(), port);
        }
    }

    /// What the clock brings.
    fn go_on(&mut self) {
        let now = self.now;
        let mut sends = Vec::new();
        for call in self.calls.iter_mut().filter(|call| !call.is_over) {
            for leg in &mut call.legs {
                if let Some((_, next)) = leg.again.filter(|(at, _)| *at <= now) {
                    leg.again = (now < call.began + T1 * 64).then_some((now + next, next * 2));
                    sends.push((leg.invite.to_vec(), leg.port));
                }
                let gives_up = now >= call.began + PATIENCE && leg.status.is_none() && leg.heard;
                if leg.cancel_at.is_some_and(|at| at <= now) || gives_up && leg.cancel_at.is_none() {
                    // Repeated until the INVITE has its final answer.
                    leg.cancel_at = Some(now + T1 * 2);
                    sends.push((cancel(&leg.invite), leg.port));
                }
            }
        }
        for (bytes, port) in sends {
            self.send(&bytes, port);
        }
    }

    fn send(&self, bytes: &[u8], port: u16) {
        if !self.cut_off.contains(&port) {
            // What a dead node's port refuses is lost.
            let _ = self.socket.send_to(bytes, (Ipv4Addr::LOCALHOST, port));
        }
    }

    fn request(&self, method: &str, uri: &str, call: usize, place: usize, account: usize) -> String {
        self.request_to(method, uri, call, place, account, None)
    }

    fn request_to(
        &self,
        method: &str,
        uri: &str,
        call: usize,
        place: usize,
        account: usize,
        to: Option<&str>,
    ) -> String {
        let local = self.local;
        let own = format!("<sip:u{account}@sim.test>");
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKc{call}l{place};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:c{call}@sim.test>;tag=f{call}\r\nTo: {}\r\nCall-ID: {call}@sim.test\r\nCSeq: 1 {method}\r\n\
             Contact: <sip:c{call}@{local}>\r\nContent-Length: 0\r\n\r\n",
            to.unwrap_or(&own)
        )
    }
}

/// How long an answer is waited for at first (RFC 3261 §17.1.1.1).
const T1: Duration = Duration::from_millis(500);

/// The CANCEL of an INVITE: the same but for its method (RFC 3261 §9.1).
fn cancel(invite: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(invite).replace("INVITE sip:", "CANCEL sip:").replace("1 INVITE", "1 CANCEL").into_bytes()
}

fn account_of(user: &str) -> Option<usize> {
    user.strip_prefix('u')?.parse().ok()
}

fn leg_of(branch: &str) -> Option<(usize, usize)> {
    let (call, place) = branch.strip_prefix("z9hG4bKc")?.split_once('l')?;
    Some((call.parse().ok()?, place.parse().ok()?))
}
