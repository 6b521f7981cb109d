//! What stands around the endpoint: the shell, two SIP servers, three devices.
//!
//! Invariant: an input goes in alone, and all outputs are taken before the next; time never goes back.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::auth::{Challenge, DigestResponse, Ha1};
use sip::endpoint::*;
use sip::id::{BindingId, CallId, FlowId, InstanceId, ShardTag, UpstreamId};
use sip::message::{Limits, Message, Name};

use crate::oracle::Oracle;
use crate::peers::{self, SECRET};

/// Messages that are remembered, to be answered or sent again.
const REMEMBERED_MAX: usize = 64;
/// Inputs that follow from the outputs of one; more would be a circle.
const FOLLOWING_MAX: usize = 10_000;
/// Timeouts without the clock moving on.
const AT_ONCE_MAX: usize = 1_000;

/// When a program has had its days, and how long a span is at most from then on.
const LONG_SPANS_UNTIL: Duration = Duration::from_secs(100_000);
const LATE_SPAN_MAX: Duration = Duration::from_secs(125);

/// How long the endpoint gets to forget everything: more than any wait of the protocol, and than the longest back-off.
const SETTLING: Duration = Duration::from_secs(7_200);

pub struct World {
    pub(super) endpoint: Endpoint,
    began: Instant,
    now: Instant,
    /// When the endpoint wants to be called next, as the last drain said.
    deadline: Option<Instant>,
    pub(super) oracle: Oracle,
    manners: Manners,
    outputs: DefaultHasher,
    following: VecDeque<Input>,
    /// Requests that the endpoint sent, the latest first, with the flow.
    sent: VecDeque<(FlowId, Message)>,
    /// What it got, to be sent again.
    heard: VecDeque<(Source, Bytes)>,
    /// The last challenge on each device's connection, and the answers so far.
    challenges: [Option<(Challenge, u32)>; 4],
    /// INVITEs that devices got, with the To tag that they answer with.
    calls: VecDeque<(FlowId, Message)>,
    pub(super) rung: VecDeque<(CallId, InstanceId)>,
    verifications: VecDeque<(VerificationId, bool)>,
    stores: VecDeque<(MessageRequestId, InstanceId)>,
    registers: VecDeque<ForwardedRegisterId>,
    pub(super) push_bindings: BTreeSet<InstanceId>,
    /// Registrations that an earlier run, or another node, may have left behind.
    pub(super) records: VecDeque<PushBinding>,
    paths: VecDeque<String>,
    /// The stream to the second SIP server; each dial makes a new one.
    pub(super) stream: u64,
    number: u32,
}

/// What the peers and the shell do by themselves; a program says it in its first byte.
#[derive(Clone, Copy)]
struct Manners {
    dials: bool,
    verifies: bool,
    knows_password: bool,
    stores: bool,
    grants: bool,
    adopts: bool,
}

impl World {
    pub fn new(manners: u8) -> Self {
        static BEGINNING: OnceLock<Instant> = OnceLock::new();
        let now = *BEGINNING.get_or_init(Instant::now);
        let settings = Settings {
            tag: ShardTag(0),
            edge: "relay.test:5061".into(),
            edge_websocket: "relay.test:7443".into(),
            upstream_udp: "relay.test:5070".into(),
            upstream_tcp: "relay.test:5070".into(),
            upstream_tls: "relay.test:5071".into(),
            register_expires: Duration::from_secs(600),
            ring_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(120),
            limits: Limits::default(),
            token_key: [9; 32],
            upstream: UpstreamPolicy { registrations_per_second: 5, ..UpstreamPolicy::default() },
            message_bytes: 4096,
            timing: Timing::default(),
        };
        let does = |bit: u8| manners & (1 << bit) == 0;
        Self {
            endpoint: Endpoint::new(now, settings, [3; 32]),
            began: now,
            now,
            deadline: None,
            oracle: Oracle::default(),
            manners: Manners {
                dials: does(0),
                verifies: does(1),
                knows_password: does(2),
                stores: does(3),
                grants: does(4),
                adopts: does(5),
            },
            outputs: DefaultHasher::new(),
            following: VecDeque::new(),
            sent: VecDeque::new(),
            heard: VecDeque::new(),
            challenges: Default::default(),
            calls: VecDeque::new(),
            rung: VecDeque::new(),
            verifications: VecDeque::new(),
            stores: VecDeque::new(),
            registers: VecDeque::new(),
            push_bindings: BTreeSet::new(),
            records: VecDeque::new(),
            paths: VecDeque::new(),
            stream: 100,
            number: 10,
        }
    }

    /// Everything ends, hours pass, and nothing is left.
    pub fn end(mut self) -> u64 {
        self.input(Input::EndCalls(Failover::Nobody));
        for device in 0..3 {
            self.unbind(device);
        }
        for instance in std::mem::take(&mut self.push_bindings) {
            self.input(Input::RemovePushBinding(instance));
        }
        while let Some(register) = self.registers.pop_front() {
            self.input(Input::Route { register, route: Err(503.into()) });
        }
        while let Some((request, instance)) = self.stores.pop_front() {
            self.input(Input::MessageStored { request, instance, outcome: StoreOutcome::Unavailable });
        }
        for flow in (0..4).chain(100..=self.stream) {
            self.closed(FlowId::Stream(flow));
        }
        // Who verifies devices may answer when their flows have ended.
        while let Some((verification, granted)) = self.verifications.pop_front() {
            self.input(Input::DeviceVerified { verification, granted });
        }
        // What was opened meanwhile is closed, too.
        self.manners.dials = false;
        self.advance(SETTLING);
        for instance in std::mem::take(&mut self.push_bindings) {
            self.input(Input::RemovePushBinding(instance));
        }
        for flow in 100..=self.stream {
            self.closed(FlowId::Stream(flow));
        }
        self.advance(SETTLING);
        self.oracle.end(&self.endpoint.counts());
        self.outputs.finish()
    }

    /// Time passes: days of it in the first part of a program, which cost the most, minutes later.
    pub fn pass(&mut self, span: Duration) {
        let is_late = self.now - self.began > LONG_SPANS_UNTIL;
        self.advance(if is_late { span.min(LATE_SPAN_MAX) } else { span });
    }

    fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        let mut at_once = 0;
        while let Some(at) = self.deadline.filter(|at| *at <= until) {
            at_once = if at > self.now { 0 } else { at_once + 1 };
            assert!(at_once < AT_ONCE_MAX, "timeouts that never end");
            self.now = at.max(self.now);
            self.endpoint.handle_timeout(self.now);
            self.drain();
            self.follow();
        }
        self.now = until;
    }

    pub fn bind(&mut self, device: u8, proven: bool) {
        let (instance, binding, upstream) = ids(device);
        self.oracle.serves(instance, true);
        self.input(Input::Bind(Box::new(NewBinding {
            binding,
            instance,
            aor: "sip:alice@example.com".into(),
            registrar: "sip:example.com".into(),
            upstream,
            sip_instance: [0xab; 16],
            presence: Presence::Background,
            proven,
            same_as: None,
            taken_from: Vec::new(),
        })));
    }

    pub fn unbind(&mut self, device: u8) {
        let (instance, ..) = ids(device);
        self.input(Input::Unbind { instance, deadline: Duration::from_secs(4) });
        self.oracle.serves(instance, false);
    }

    pub fn release(&mut self, device: u8) {
        let (instance, ..) = ids(device);
        self.input(Input::Release(instance));
        self.oracle.serves(instance, false);
    }

    pub fn presence(&mut self, device: u8, foreground: bool) {
        let (instance, ..) = ids(device);
        self.input(if foreground { Input::Suspend(instance) } else { Input::Resume(instance) });
    }

    /// An INVITE, to a binding or by a Path; now and then of a stranger.
    pub fn invite(&mut self, call: u8, to: u8) {
        let source = self.server(to >> 4);
        let text = self.request(&source, to, "INVITE", call % 8);
        self.receive(source, text.as_bytes());
    }

    pub fn cancel(&mut self, call: u8) {
        let Some((source, invite)) = self.heard.iter().rev().find(|(_, bytes)| {
            bytes.starts_with(b"INVITE")
                && String::from_utf8_lossy(bytes).contains(&format!("Call-ID: c{}\r\n", call % 8))
        }) else {
            return;
        };
        let text =
            String::from_utf8_lossy(invite).replace("CSeq: 1 INVITE", "CSeq: 1 CANCEL").replacen("INVITE", "CANCEL", 1);
        let source = *source;
        self.receive(source, text.as_bytes());
    }

    /// An answer to a request that the endpoint sent.
    pub fn answer(&mut self, which: u8, how: u8) {
        const STATUSES: [u16; 16] = [200, 100, 180, 183, 401, 403, 404, 200, 423, 480, 486, 487, 503, 603, 302, 407];
        let Some((flow, request)) = self.sent.get(usize::from(which % 16)).cloned() else { return };
        let status = STATUSES[usize::from(how % 16)];
        let more = peers::registrars_words(&request, status, [600, 5, 0, 3600][usize::from(how >> 6)]);
        let text = peers::response(&request, status, ["x", "y"][usize::from(how >> 5 & 1)], &more);
        if let Some(source) = self.source_of(flow) {
            self.receive(source, text.as_bytes());
        }
    }

    /// A device registers at the edge: without an answer to the challenge, with the right or with a wrong one.
    pub fn register_device(&mut self, device: u8, how: u8) {
        let (instance, ..) = ids(device);
        let connection = usize::from(how % 4);
        let source = peers::device(how % 4);
        self.number += 1;
        let secret = if how & 0x10 == 0 { SECRET } else { "wrong" };
        let line = match &mut self.challenges[connection] {
            _ if how & 0x20 != 0 => format!("Authorization: Bearer {secret}\r\n"),
            Some((challenge, nc)) if how & 0x40 == 0 => {
                *nc += 1;
                let value = peers::authorization(challenge, instance, secret, *nc);
                value.map_or(String::new(), |value| format!("Authorization: {value}\r\n"))
            }
            _ => String::new(),
        };
        let text = peers::device_register(&source, instance, self.number, &line);
        self.receive(source, text.as_bytes());
    }

    /// A request inside a dialog, of the device or of the caller.
    pub fn in_dialog(&mut self, which: u8, how: u8) {
        let Some((flow, invite)) = self.calls.get(usize::from(which % 8)).cloned() else { return };
        let method = ["ACK", "BYE", "INFO", "INVITE"][usize::from(how % 4)];
        let by_device = how & 4 != 0;
        self.number += 1;
        let text = peers::inside(&invite, "x", method, if method == "ACK" { 1 } else { self.number }, by_device);
        let source = match self.source_of(flow).filter(|_| by_device) {
            Some(device) => device,
            None => self.server(how >> 4),
        };
        self.receive(source, text.as_bytes());
    }

    pub fn close(&mut self, flow: u8) {
        match flow % 8 {
            number @ 0..4 => self.closed(FlowId::Stream(u64::from(number))),
            4..6 => self.closed(FlowId::Stream(self.stream)),
            // It ends when the endpoint says so, or at the end.
            _ => self.input(Input::Doubted(FlowId::Stream(self.stream))),
        }
    }

    /// The shell says what became of a push, or what its user did.
    pub fn judge_call(&mut self, which: u8, how: u8) {
        let Some((call, instance)) = self.rung.get(usize::from(which % 8)).copied() else { return };
        self.input(match how % 3 {
            0 => Input::Ring { call, instance },
            1 => Input::Decline(call),
            _ => Input::DeviceUnreachable { call, instance },
        });
    }

    pub fn expect_call(&mut self, device: u8) {
        let (instance, ..) = ids(device);
        let wait = Duration::from_secs(u64::from(device / 8));
        self.oracle.asked_again(instance);
        self.input(Input::ExpectCall { instance, from: "sip:bob@example.com".into(), name: None, wait });
    }

    /// MESSAGE, NOTIFY, OPTIONS or a method that nobody knows.
    pub fn message(&mut self, which: u8, to: u8) {
        let source = self.server(to >> 4);
        let method = ["MESSAGE", "NOTIFY", "OPTIONS", "FETCH"][usize::from(which % 4)];
        self.number += 1;
        let text = self.request(&source, to, method, (self.number % 251) as u8);
        self.receive(source, text.as_bytes());
    }

    /// The store, or who verifies devices, answers late.
    pub fn store(&mut self, which: u8, how: u8) {
        if which & 1 == 0 {
            let Some((request, instance)) = self.stores.pop_front() else { return };
            let outcome = [StoreOutcome::Stored, StoreOutcome::Full, StoreOutcome::Unavailable][usize::from(how % 3)];
            self.input(Input::MessageStored { request, instance, outcome });
        } else if let Some((verification, granted)) = self.verifications.pop_front() {
            self.input(Input::DeviceVerified { verification, granted });
        }
    }

    /// Something that was sent before comes again: as it was, changed in one place, or from somewhere else.
    pub fn replay(&mut self, which: u8, place: u8, change: u8) {
        let Some((source, bytes)) = self.heard.get(usize::from(which) % self.heard.len().max(1)).cloned() else {
            return;
        };
        let mut bytes = bytes.to_vec();
        if change & 0x80 != 0 {
            let at = usize::from(place) * bytes.len() / 256;
            bytes[at] ^= change & 0x7f;
            if let Ok(message) = Message::parse(&Bytes::copy_from_slice(&bytes), &Limits::default()) {
                self.oracle.twisted(&message);
            }
        }
        let source = match change & 3 {
            1 => peers::device(place % 4),
            2 => self.server(place),
            _ => source,
        };
        self.receive(source, &bytes);
    }

    /// The network: dials, addresses, keep-alives.
    pub fn network(&mut self, what: u8, which: u8) {
        let (_, _, upstream) = ids(which);
        let source = if which & 4 == 0 { peers::device(which % 4) } else { self.server(which >> 4) };
        match what % 8 {
            0 => self.input(Input::DialFailed(upstream)),
            1 => self.dialled(upstream),
            2 => {
                let (flow, transport) = self.new_flow(upstream);
                self.input(Input::FailbackDialled { upstream, flow, transport });
            }
            3 if which & 8 == 0 => self.input(Input::UpstreamReplaced(upstream)),
            3 => self.input(Input::UpstreamAddressChanged(upstream)),
            4 => self.addresses(upstream, which & 1 == 0),
            5 => self.input(Input::Ping(source)),
            6 => self.input(Input::Pong(source.flow)),
            _ => {
                let mut bytes = [0; 20];
                bytes[..8].copy_from_slice(&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
                self.input(Input::Stun { flow: source.flow, bytes: Bytes::copy_from_slice(&bytes) });
            }
        }
    }

    pub fn register_through(&mut self, connection: u8, how: u8) {
        let source = peers::device(connection % 4);
        self.number += 1;
        let text =
            peers::forwarded_register(&source, self.number, how & 1, [600, 0, 60, 3600][usize::from(how >> 1 & 3)]);
        self.receive(source, text.as_bytes());
    }

    pub fn route(&mut self, which: u8, how: u8) {
        let Some(register) = self.registers.remove(usize::from(which) % self.registers.len().max(1)) else { return };
        self.routed(register, how & 1 == 0);
    }

    pub fn subscribe(&mut self, device: u8, what: u8) {
        let (instance, binding, _) = ids(device);
        match what % 5 {
            4 => {
                let lost = Duration::from_secs(u64::from(what) * 60);
                self.input(Input::TimeLost {
                    lost,
                    for_sure: if what.is_multiple_of(2) { lost } else { Duration::ZERO },
                });
            }
            0..2 => self.input(Input::Subscribe(binding)),
            2 => {
                let known = self.push_bindings.first().copied();
                self.input(Input::RemovePushBinding(known.unwrap_or(instance)));
            }
            _ => self.input(Input::EndCalls(Failover::Nobody)),
        }
    }

    fn request(&self, source: &Source, to: u8, method: &str, call: u8) -> String {
        match self.paths.get(usize::from(to >> 1 & 3)).filter(|_| to & 8 != 0) {
            Some(path) => {
                let contact = "sip:carol@10.0.0.5:9;pn-provider=fcm;pn-param=project;pn-prid=token0";
                let text = peers::request(source, contact, method, call);
                // Another Request-URI, so another transaction.
                let token: String = path.chars().filter(char::is_ascii_alphanumeric).skip(3).take(8).collect();
                text.replacen("\r\n", &format!("\r\nRoute: {path}\r\n"), 1).replacen(
                    "branch=z9hG4bKs",
                    &format!("branch=z9hG4bK{token}."),
                    1,
                )
            }
            None => peers::request(source, &peers::contact(ids(to).1), method, call),
        }
    }

    fn server(&self, number: u8) -> Source {
        peers::server(number % 4 % 3, self.stream)
    }

    fn source_of(&self, flow: FlowId) -> Option<Source> {
        match flow {
            FlowId::Stream(number @ 0..4) => Some(peers::device(number as u8)),
            FlowId::Stream(number) => Some(peers::server(1, number)),
            FlowId::Datagram(peer) => (0..3).map(|it| peers::server(it, 0)).find(|it| it.peer == peer),
        }
    }

    fn closed(&mut self, flow: FlowId) {
        if let FlowId::Stream(number @ 0..4) = flow {
            self.challenges[number as usize] = None;
        }
        self.oracle.closed(flow);
        self.input(Input::Closed(flow));
    }

    fn new_flow(&mut self, upstream: UpstreamId) -> (FlowId, Transport) {
        if upstream == UpstreamId(1) {
            return (peers::server(0, 0).flow, Transport::Udp);
        }
        self.stream += 1;
        (FlowId::Stream(self.stream), Transport::Tls)
    }

    fn dialled(&mut self, upstream: UpstreamId) {
        let (flow, transport) = self.new_flow(upstream);
        self.following.push_back(Input::Dialled { upstream, flow, transport });
        self.follow();
    }

    pub(super) fn addresses(&mut self, upstream: UpstreamId, right: bool) {
        let number = if right { upstream.0 as u8 - 1 } else { 2 };
        let addresses: Arc<[IpAddr]> = [peers::server(number, 0).peer.ip()].into();
        self.input(Input::Addresses { upstream, addresses, is_whole: true });
    }

    fn routed(&mut self, register: ForwardedRegisterId, well: bool) {
        let upstream = UpstreamId(1);
        let (registrar, services) = ("sip:example.com".into(), vec!["apns", "fcm"]);
        let route = RegisterRoute { upstream, registrar, services, by_flow: true, kept_first: false };
        self.input(Input::Route { register, route: if well { Ok(route) } else { Err(403.into()) } });
        self.addresses(upstream, true);
    }

    fn receive(&mut self, source: Source, bytes: &[u8]) {
        let bytes = Bytes::copy_from_slice(bytes);
        let Ok(message) = Message::parse(&bytes, &Limits::default()) else { return };
        remember(&mut self.heard, (source, bytes));
        self.input(Input::Received { source, message });
    }

    pub(super) fn input(&mut self, input: Input) {
        self.following.push_back(input);
        self.follow();
    }

    fn follow(&mut self) {
        for _ in 0..FOLLOWING_MAX {
            let Some(input) = self.following.pop_front() else { return };
            self.oracle.input();
            self.tell("in ", &input);
            self.endpoint.handle(self.now, input);
            self.drain();
        }
        panic!("inputs that never end");
    }

    fn drain(&mut self) {
        loop {
            let output = match self.endpoint.poll() {
                Poll::Output(output) => output,
                Poll::Until(deadline) => {
                    self.deadline = deadline;
                    break;
                }
            };
            self.tell("out", &output);
            match output {
                Output::Send { flow, bytes } => self.on_send(flow, &bytes),
                Output::SendLarge { peer, bytes } => match self.manners.dials {
                    true => self.on_send(FlowId::Datagram(peer), &bytes),
                    false => self.following.push_back(Input::StreamLost { peer, was_open: false }),
                },
                Output::Answer { peer, bytes, .. } => self.on_send(FlowId::Datagram(peer), &bytes),
                Output::Dial { upstream, .. } => {
                    (upstream.0, "dial").hash(&mut self.outputs);
                    let (flow, transport) = self.new_flow(upstream);
                    self.following.push_back(match self.manners.dials {
                        true => Input::Dialled { upstream, flow, transport },
                        false => Input::DialFailed(upstream),
                    });
                }
                Output::Close(flow) => {
                    format!("{flow:?}").hash(&mut self.outputs);
                    self.oracle.closed(flow);
                    self.following.push_back(Input::Closed(flow));
                }
                Output::Event(event) => self.on_event(event),
            }
        }
        self.oracle.counts(&self.endpoint.counts());
    }

    fn on_send(&mut self, flow: FlowId, bytes: &Bytes) {
        bytes.hash(&mut self.outputs);
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n')) || Endpoint::is_stun(bytes) {
            return;
        }
        let message = Message::parse(bytes, &Limits::COMPOSED).expect("what is sent parses");
        self.oracle.sent(self.now, flow, &message);
        if let Some(challenge) = message.text(Name::WwwAuthenticate).and_then(|it| Challenge::parse(it).ok())
            && let FlowId::Stream(connection @ 0..4) = flow
        {
            self.challenges[connection as usize] = Some((challenge, 0));
        }
        if !message.is_request() {
            return;
        }
        if let Some(path) = message.text(Name::Path) {
            remember(&mut self.paths, path.to_owned());
        }
        let method = message.method_text().unwrap_or_default();
        if method == "INVITE" && matches!(flow, FlowId::Stream(0..4)) {
            remember(&mut self.calls, (flow, message.clone()));
        }
        if method == "REGISTER" && self.manners.grants {
            let gone = message.number(Name::Expires) == Some(0);
            let more = peers::registrars_words(&message, 200, if gone { 0 } else { 600 });
            let text = Bytes::from(peers::response(&message, 200, "x", &more));
            if let (Some(source), Ok(message)) = (self.source_of(flow), Message::parse(&text, &Limits::default())) {
                self.following.push_back(Input::Received { source, message });
            }
        } else if method != "ACK" {
            remember(&mut self.sent, (flow, message));
        }
    }

    fn on_event(&mut self, event: Event) {
        format!("{event:?}").hash(&mut self.outputs);
        self.oracle.event(&event);
        match event {
            Event::Challenged { binding, instance, challenge, nc, cnonce, uri } => {
                let authorization = self.digest("REGISTER", &challenge, nc, &cnonce, &uri);
                self.following.push_back(Input::Authorization { binding, instance, authorization });
            }
            Event::SubscriptionChallenged { binding, challenge, nc, cnonce, uri } => {
                let authorization = self.digest("SUBSCRIBE", &challenge, nc, &cnonce, &uri);
                self.following.push_back(Input::SubscriptionAuthorization { binding, authorization });
            }
            Event::VerifyDevice { verification, instance, method, proof } => {
                let granted = match proof {
                    Proof::Digest(credentials) => {
                        let ha1 = Ha1::compute(credentials.algorithm.hash, &instance.to_string(), "sipwake", SECRET);
                        credentials.verify(&ha1, &method, b"")
                    }
                    Proof::Bearer(token) => &*token == SECRET,
                };
                match self.manners.verifies {
                    true => self.following.push_back(Input::DeviceVerified { verification, granted }),
                    false => self.verifications.push_back((verification, granted)),
                }
            }
            Event::StoreMessage(message) => {
                let (request, instance) = (message.request, message.instance);
                match self.manners.stores {
                    true => {
                        let outcome = StoreOutcome::Stored;
                        self.following.push_back(Input::MessageStored { request, instance, outcome });
                    }
                    false => self.stores.push_back((request, instance)),
                }
            }
            Event::Wake(call) | Event::Forked(call) => remember(&mut self.rung, (call.call, call.instance)),
            Event::Proof(ProofStep::Asked(asked)) => {
                let word = if self.manners.adopts { Ok(()) } else { Err(2) };
                self.following.push_back(Input::ProofAdmitted(asked.proof, word));
            }
            Event::RouteNeeded(asked) => match self.manners.adopts {
                true => {
                    let (upstream, registrar) = (UpstreamId(1), "sip:example.com".into());
                    let services = vec!["apns", "fcm"];
                    let kept_first = true;
                    let route = Ok(RegisterRoute { upstream, registrar, services, by_flow: true, kept_first });
                    self.following.push_back(Input::Route { register: asked.register, route });
                    let addresses: Arc<[IpAddr]> = [peers::server(0, 0).peer.ip()].into();
                    self.following.push_back(Input::Addresses { upstream, addresses, is_whole: true });
                }
                false => self.registers.push_back(asked.register),
            },
            Event::PushBindingAccepted(binding) => {
                self.push_bindings.insert(binding.instance);
                // Of two, the store takes one in time.
                if self.push_bindings.len() % 2 == 1 {
                    self.following.push_back(Input::PushBindingKept(binding.instance));
                }
                remember(&mut self.records, *binding);
            }
            Event::PushBindingEnded { instance, .. } => {
                self.push_bindings.remove(&instance);
            }
            // The shell lets go of a device whose credentials were refused.
            Event::RegistrationFailed { instance, failure, .. } if failure.is_final() => {
                self.oracle.serves(instance, false);
                self.following.push_back(Input::Unbind { instance, deadline: Duration::from_secs(4) });
            }
            _ => {}
        }
    }

    /// With `TRACE` in the environment a program tells what goes in and comes out.
    fn tell(&self, way: &str, what: &dyn std::fmt::Debug) {
        static WANTED: OnceLock<bool> = OnceLock::new();
        if *WANTED.get_or_init(|| std::env::var_os("TRACE").is_some()) {
            let since = self.now - self.began;
            eprintln!("{since:>12?} {way} {what:?}");
        }
    }

    fn digest(&self, method: &str, challenge: &Challenge, nc: u32, cnonce: &str, uri: &str) -> Option<String> {
        let ha1 = Ha1::compute(challenge.algorithm.hash, "alice", &challenge.realm, "password");
        let response = DigestResponse { username: "alice", method, uri, cnonce, nc, body: b"" };
        challenge.answer(&ha1, &response).ok().filter(|_| self.manners.knows_password)
    }
}

/// Two devices share the first binding; the third has one of its own, at the other SIP server.
pub(super) fn ids(device: u8) -> (InstanceId, BindingId, UpstreamId) {
    let number = u128::from(device % 3);
    let own = number / 2;
    let instance = InstanceId::new((0x2222 + number) << 64, ShardTag(0));
    (instance, BindingId::new((0x1111 + own) << 64, ShardTag(0)), UpstreamId(1 + own as u32))
}

/// Puts it first, and lets go of the oldest.
fn remember<T>(all: &mut VecDeque<T>, one: T) {
    all.push_front(one);
    all.truncate(REMEMBERED_MAX);
}
