//! A device that registers through the endpoint, played by hand.

use std::net::IpAddr;
use std::time::Duration;

use sip::endpoint::*;
use sip::id::{FlowId, InstanceId, UpstreamId};
use sip::message::{Message, Name};

use crate::world::{REGISTRAR, World, server_address};

/// The push parameters of Alice's phone.
pub const PN: &str = ";pn-provider=fcm;pn-param=project;pn-prid=token";
/// The push services that the shell has.
pub const SERVICES: &[&str] = &["apns", "fcm"];

pub struct Through {
    pub world: World,
    cseq: u32,
    /// The shell's answer to a REGISTER: its route, or a status.
    pub verdict: Result<(), u16>,
    /// The number that the shell has for the SIP server of the next REGISTER.
    pub server: UpstreamId,
    /// Whether the shell lets a registration live by its flow alone.
    pub by_flow: bool,
    /// Whether its store is to have a registration before its device has its answer.
    pub kept_first: bool,
    /// Further headers of the registrar's 2xx.
    pub says: Vec<(&'static str, &'static str)>,
}

/// A REGISTER of Alice's phone.
#[derive(Clone)]
pub struct Register {
    pub flow: u64,
    pub uri: &'static str,
    pub to: &'static str,
    pub contact: String,
    pub expires: u32,
    pub headers: String,
    /// A line of it, and what stands in its place.
    pub odd: Option<(String, String)>,
}

impl Register {
    pub fn by(flow: u64) -> Self {
        let contact = format!("<sip:alice@10.0.0.5:{flow}{PN}>;+sip.instance=\"<urn:uuid:1>\"");
        let headers = "Supported: path\r\n".into();
        Self { flow, uri: "sip:example.com", to: "sip:alice@example.com", contact, expires: 600, headers, odd: None }
    }

    pub fn contact(self, contact: &str) -> Self {
        Self { contact: contact.into(), ..self }
    }

    pub fn expires(self, expires: u32) -> Self {
        Self { expires, ..self }
    }

    pub fn line(self, line: &str, odd: &str) -> Self {
        Self { odd: Some((line.into(), odd.into())), ..self }
    }

    pub fn header(self, header: &str) -> Self {
        Self { headers: format!("{}{header}\r\n", self.headers), ..self }
    }
}

impl Through {
    /// By UDP to the registrar.
    pub fn new() -> Self {
        Self::over(FlowId::Datagram(server_address()))
    }

    pub fn over(upstream: FlowId) -> Self {
        let world = World::new(upstream);
        let (by_flow, kept_first) = (false, false);
        Self { world, cseq: 0, verdict: Ok(()), server: REGISTRAR, by_flow, kept_first, says: Vec::new() }
    }

    /// Sends a REGISTER and lets the shell answer for its way.
    pub fn register(&mut self, register: &Register) {
        self.cseq += 1;
        let (cseq, source) = (self.cseq, self.world.device(register.flow));
        let Register { flow, uri, to, contact, expires, headers, odd } = register;
        let text = format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKd{flow}.{cseq};rport\r\n\
             Max-Forwards: 70\r\nRoute: <sip:relay.test:5061;transport=tls;lr>\r\n\
             From: <{to}>;tag=d\r\nTo: <{to}>\r\nCall-ID: reg{flow}\r\nCSeq: {cseq} REGISTER\r\n\
             Contact: {contact}\r\nExpires: {expires}\r\n{headers}Content-Length: 0\r\n\r\n"
        );
        let odd = odd.as_ref().map(|(line, odd)| text.replace(&format!("\r\n{line}\r\n"), &format!("\r\n{odd}\r\n")));
        self.world.receive(source, &odd.unwrap_or(text));
        self.show_way();
    }

    pub fn show_way(&mut self) {
        let asked = self.world.events.iter().rev().find_map(|event| match event {
            Event::RouteNeeded(asked) => {
                Some((asked.register, asked.push == PushRequest::Nothing && asked.registers && !asked.renews))
            }
            _ => None,
        });
        let Some((passage, wants_no_push)) = asked else { return };
        self.world.events.retain(|event| !matches!(event, Event::RouteNeeded(_)));
        let verdict = if wants_no_push && !self.by_flow { Err(403) } else { self.verdict };
        let way = verdict.map_err(RouteRefusal::from).map(|()| RegisterRoute {
            upstream: self.server,
            registrar: "sip:example.com".into(),
            services: SERVICES.to_vec(),
            by_flow: self.by_flow,
            kept_first: self.kept_first,
        });
        if way.is_ok() {
            let addresses: std::sync::Arc<[IpAddr]> = [server_address().ip()].into();
            self.world.input(Input::Route { register: passage, route: way });
            self.world.input(Input::Addresses { upstream: self.server, addresses, is_whole: true });
        } else {
            self.world.input(Input::Route { register: passage, route: way });
        }
    }

    /// Registers and is accepted for so long; the REGISTER as the registrar got it.
    pub fn registered(&mut self, register: &Register) -> Message {
        self.register(register);
        self.accept(register.expires)
    }

    /// The registrar accepts the last REGISTER for so many seconds.
    pub fn accept(&mut self, expires: u32) -> Message {
        let register = self.world.last("REGISTER");
        self.accept_this(&register, expires);
        register
    }

    /// Likewise this one.
    pub fn accept_this(&mut self, register: &Message, expires: u32) {
        let contact = register.contacts().first().map(|it| format!("<{}>;expires={expires}", it.target().unwrap()));
        let contact = contact.filter(|_| expires > 0);
        let path = register.text(Name::Path).map(str::to_owned);
        let mut headers: Vec<(&str, &str)> = self.says.clone();
        headers.extend(contact.as_deref().map(|contact| ("Contact", contact)));
        headers.extend(path.as_deref().map(|path| ("Path", path)));
        let source = self.world.upstream;
        self.world.reply(source, register, 200, &headers, "");
    }

    /// A world in which Alice's phone is registered by flow 1, which is gone since.
    pub fn asleep() -> (Self, String) {
        let mut through = Self::new();
        let register = through.registered(&Register::by(1));
        let path = register.text(Name::Path).unwrap().to_owned();
        through.world.input(Input::Closed(FlowId::Stream(1)));
        through.world.sent.clear();
        through.world.events.clear();
        (through, path)
    }

    /// A request of the registrar by this Path.
    pub fn request(&self, method: &str, call_id: &str, route: &str) -> String {
        let head = self.world.head(call_id, method, 1, "");
        format!("{method} sip:alice@10.0.0.5:1{PN} SIP/2.0\r\nRoute: {route}\r\n{head}Content-Length: 0\r\n\r\n")
    }

    /// Bob's call comes by this Path.
    pub fn call(&mut self, call_id: &str, route: &str) {
        let (source, text) = (self.world.upstream, self.request("INVITE", call_id, route));
        self.world.receive(source, &text);
    }

    pub fn instance(&self) -> InstanceId {
        let kept = self.world.events.iter().rev().find_map(|event| match event {
            Event::PushBindingAccepted(registration) => Some(registration.instance),
            _ => None,
        });
        kept.expect("a registration was accepted")
    }

    /// How many registrations that their flow alone leads to were accepted, refreshes included, and have ended.
    pub fn by_flow(&self) -> (usize, usize) {
        let count = |of: fn(&Event) -> bool| self.world.events.iter().filter(|event| of(event)).count();
        (
            count(|event| matches!(event, Event::FlowBindingAccepted(_))),
            count(|event| matches!(event, Event::FlowBindingEnded(_))),
        )
    }

    pub fn ends(&self) -> Vec<PushBindingEnd> {
        let ends = self.world.events.iter().filter_map(|event| match event {
            Event::PushBindingEnded { end, .. } => Some(*end),
            _ => None,
        });
        ends.collect()
    }

    /// The Contacts that were removed and are not known: their keys, and whether their registrations are named.
    pub fn contacts_removed(&self) -> Vec<(String, bool)> {
        let taken = self.world.events.iter().filter_map(|event| match event {
            Event::ContactsRemoved(taken) => Some(&taken.contacts),
            _ => None,
        });
        taken.flatten().map(|it| (it.contact.to_string(), it.instance.is_some())).collect()
    }

    /// How often its device was asked to register again.
    pub fn refreshes(&self) -> usize {
        self.world.events.iter().filter(|event| matches!(event, Event::RefreshNeeded(_))).count()
    }

    /// How many ways the endpoint has given back.
    pub fn left(&self) -> usize {
        self.world.events.iter().filter(|event| matches!(event, Event::UpstreamReleased(_))).count()
    }

    pub fn advance(&mut self, seconds: u64) {
        self.world.advance(Duration::from_secs(seconds));
    }
}

/// The values of a header.
pub fn values(message: &Message, name: Name) -> Vec<String> {
    message.elements(name).map(str::to_owned).collect()
}
