//! One endpoint in virtual time, with a SIP server and a device played by hand.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::endpoint::*;
use sip::id::*;
use sip::message::{Limits, Message, Name};

pub const REGISTRAR: UpstreamId = UpstreamId(1);
pub const SEED: [u8; 32] = [3; 32];
pub const SECRET: &str = "instance secret";
pub const SDP: &str =
    "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n";

/// A message that an endpoint sent, and its flow.
#[derive(Debug)]
pub struct Sent {
    pub flow: FlowId,
    pub message: Message,
}

/// A response that leaves by a stream of its own.
#[derive(Debug)]
pub struct Answered {
    pub upstream: UpstreamId,
    pub peer: SocketAddr,
    pub transport: Transport,
    pub message: Message,
}

/// An input of an endpoint, and its time. Another endpoint with the same settings and seed does the same with the same inputs.
#[derive(Clone)]
pub enum Told {
    Input(Instant, Input),
    Timeout(Instant),
}

pub struct World {
    pub endpoint: Endpoint,
    /// The inputs of the endpoint from now on, where a test replays them to another one.
    pub told: Option<Vec<Told>>,
    pub now: Instant,
    /// When the endpoint wants to be told the time next.
    due: Option<Instant>,
    pub sent: Vec<Sent>,
    pub events: Vec<Event>,
    /// The shell's word for a proof in another request than REGISTER.
    pub word: Result<(), u32>,
    /// The outcomes of flows that were dialled; not among the events.
    pub settled: Vec<(FlowId, FlowOutcome)>,
    pub closed: Vec<FlowId>,
    pub dialled: usize,
    /// The flows that dials asked to avoid, if any.
    pub avoided: Vec<Option<FlowId>>,
    /// How many flows were avoided for a single account.
    pub for_one: usize,
    /// Requests that were too large for a datagram.
    pub large: Vec<(SocketAddr, Message)>,
    /// Responses for which a stream is opened.
    pub answers: Vec<Answered>,
    /// Double CRLFs that were sent.
    pub pings: usize,
    /// STUN requests that were sent.
    pub stun: Vec<bytes::Bytes>,
    /// The algorithms that the shell has a credential for.
    pub hashes: Vec<Hash>,
    pub binding: BindingId,
    pub instance: InstanceId,
    /// Whether the shell answers challenges and knocks by itself, and dials.
    pub upstream: Source,
    pub dial: bool,
    /// Whether the shell judges the proofs of devices.
    pub answers_proofs: bool,
    /// The tag that the answering device puts into To.
    pub tag: &'static str,
    /// Whether a dial that is to avoid an address finds another one.
    pub elsewhere: bool,
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn server_address() -> SocketAddr {
    "192.0.2.10:5060".parse().unwrap()
}

pub fn settings() -> Settings {
    Settings {
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
        upstream: UpstreamPolicy::default(),
        timing: Timing::default(),
        message_bytes: 16 * 1024,
    }
}

impl World {
    pub fn new(upstream: FlowId) -> Self {
        Self::with_policy(upstream, UpstreamPolicy::default())
    }

    pub fn with_policy(upstream: FlowId, policy: UpstreamPolicy) -> Self {
        Self::with_settings(upstream, |settings| settings.upstream = policy)
    }

    pub fn with_settings(upstream: FlowId, set: impl FnOnce(&mut Settings)) -> Self {
        let now = Instant::now();
        let mut settings = settings();
        set(&mut settings);
        let transport = if upstream.is_reliable() { Transport::Tls } else { Transport::Udp };
        Self {
            endpoint: Endpoint::new(now, settings, SEED),
            told: None,
            now,
            due: None,
            sent: Vec::new(),
            events: Vec::new(),
            word: Ok(()),
            settled: Vec::new(),
            closed: Vec::new(),
            dialled: 0,
            avoided: Vec::new(),
            for_one: 0,
            large: Vec::new(),
            answers: Vec::new(),
            pings: 0,
            stun: Vec::new(),
            hashes: vec![Hash::Md5, Hash::Sha256, Hash::Sha512_256],
            binding: BindingId::new(0x1111 << 64, ShardTag(0)),
            instance: InstanceId::new(0x2222 << 64, ShardTag(0)),
            upstream: Source { flow: upstream, side: Side::Upstream, transport, peer: server_address(), split: false },
            dial: true,
            answers_proofs: true,
            tag: "peer",
            elsewhere: false,
        }
    }

    /// A world in which the binding is registered, by UDP.
    pub fn registered() -> Self {
        Self::registered_with(FlowId::Datagram(server_address()), |_| {})
    }

    pub fn registered_with(upstream: FlowId, set: impl FnOnce(&mut Settings)) -> Self {
        let mut world = Self::with_settings(upstream, |settings| {
            settings.register_expires = Duration::from_secs(3600);
            set(settings);
        });
        world.bind();
        world.grant(3600);
        world.sent.clear();
        world.events.clear();
        world
    }

    pub fn bind(&mut self) {
        self.bind_another(self.binding, self.instance);
    }

    pub fn bind_another(&mut self, binding: BindingId, instance: InstanceId) {
        self.bind_new(binding, instance, false);
    }

    /// Binds what is `proven` where an earlier run had it registered.
    pub fn bind_new(&mut self, binding: BindingId, instance: InstanceId, proven: bool) {
        let new = NewBinding {
            binding,
            instance,
            aor: "sip:alice@example.com".into(),
            registrar: "sip:example.com".into(),
            upstream: REGISTRAR,
            sip_instance: [0xab; 16],
            presence: Presence::Background,
            proven,
            same_as: None,
            taken_from: Vec::new(),
        };
        self.input(Input::Bind(Box::new(new)));
    }

    /// Answers the last REGISTER with 200.
    pub fn grant(&mut self, expires: u32) {
        let register = self.last("REGISTER");
        let contact = register.text(Name::Contact).unwrap().split_once('>').unwrap().0;
        let extra = format!("{contact}>;expires={expires}");
        let source = self.upstream;
        self.reply(source, &register, 200, &[("Contact", &extra)], "");
    }

    /// Answers the last REGISTER.
    pub fn respond(&mut self, status: u16, headers: &[(&str, &str)]) {
        let (source, register) = (self.upstream, self.last("REGISTER"));
        self.reply(source, &register, status, headers, "");
    }

    pub fn input(&mut self, input: Input) {
        self.tell(input);
        self.drain();
    }

    fn tell(&mut self, input: Input) {
        if let Some(told) = &mut self.told {
            told.push(Told::Input(self.now, input.clone()));
        }
        self.endpoint.handle(self.now, input);
    }

    pub fn advance(&mut self, by: Duration) {
        let until = self.now + by;
        while let Some(at) = self.due.filter(|at| *at <= until) {
            self.now = at.max(self.now);
            if let Some(told) = &mut self.told {
                told.push(Told::Timeout(self.now));
            }
            self.endpoint.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        loop {
            let output = match self.endpoint.poll() {
                Poll::Output(output) => output,
                Poll::Until(due) => {
                    self.due = due;
                    return;
                }
            };
            match output {
                Output::Send { flow, bytes } => {
                    if bytes.iter().all(|b| matches!(b, b'\r' | b'\n')) {
                        self.pings += usize::from(bytes.len() == 4);
                        continue;
                    }
                    if Endpoint::is_stun(&bytes) {
                        self.stun.push(bytes);
                        continue;
                    }
                    let message = Message::parse(&bytes, &Limits::COMPOSED).expect("what is sent parses");
                    message.check().expect("what is sent is sound");
                    self.sent.push(Sent { flow, message });
                }
                Output::Dial { upstream, avoid, for_one } => {
                    self.dialled += 1;
                    self.for_one += usize::from(for_one);
                    self.avoided.push(avoid);
                    if self.dial {
                        let (flow, transport) = (self.upstream.flow, self.upstream.transport);
                        if self.elsewhere {
                            self.tell(Input::UpstreamAddressChanged(upstream));
                        }
                        self.tell(Input::Dialled { upstream, flow, transport });
                    }
                }
                Output::SendLarge { peer, bytes } => {
                    let message = Message::parse(&bytes, &Limits::COMPOSED).expect("what is sent parses");
                    self.large.push((peer, message));
                }
                Output::Answer { upstream, peer, transport, bytes } => {
                    let message = Message::parse(&bytes, &Limits::COMPOSED).expect("what is sent parses");
                    message.check().expect("what is sent is sound");
                    self.answers.push(Answered { upstream, peer, transport, message });
                }
                Output::Close(flow) => self.closed.push(flow),
                Output::Event(event) => self.on_event(event),
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match &event {
            Event::FlowSettled { flow, outcome, .. } => return self.settled.push((*flow, *outcome)),
            Event::Challenged { binding, instance, challenge, nc, cnonce, uri } => {
                let known = self.hashes.contains(&challenge.algorithm.hash);
                let authorization = known.then(|| answer(challenge, "alice", "secret", uri, *nc, cnonce));
                self.tell(Input::Authorization { binding: *binding, instance: *instance, authorization });
            }
            Event::SubscriptionChallenged { binding, challenge, nc, cnonce, uri } => {
                let authorization = Some(answer_to("SUBSCRIBE", challenge, "alice", "secret", uri, *nc, cnonce));
                self.tell(Input::SubscriptionAuthorization { binding: *binding, authorization });
            }
            Event::VerifyDevice { verification, instance, method, proof } => {
                let granted = match proof {
                    Proof::Digest(credentials) => {
                        let hash = credentials.algorithm.hash;
                        let ha1 = Ha1::compute(hash, &instance.to_string(), "sipwake", SECRET);
                        credentials.verify(&ha1, method, b"")
                    }
                    Proof::Bearer(token) => **token == SECRET.replace(' ', "-"),
                };
                if self.answers_proofs {
                    self.tell(Input::DeviceVerified { verification: *verification, granted });
                }
            }
            Event::Proof(ProofStep::Asked(asked)) => self.tell(Input::ProofAdmitted(asked.proof, self.word)),
            _ => {}
        }
        self.events.push(event);
    }

    pub fn receive(&mut self, source: Source, text: &str) {
        self.receive_bytes(source, text.as_bytes());
    }

    pub fn receive_bytes(&mut self, source: Source, bytes: &[u8]) {
        let bytes = bytes::Bytes::copy_from_slice(bytes);
        let message = Message::parse(&bytes, &Limits::default()).expect("a test sends sound messages");
        self.input(Input::Received { source, message });
    }

    /// Answers a request that the endpoint sent.
    pub fn reply(&mut self, source: Source, request: &Message, status: u16, headers: &[(&str, &str)], body: &str) {
        let mut text = format!("SIP/2.0 {status} Whatever\r\n");
        for name in [Name::Via, Name::RecordRoute, Name::From, Name::CallId, Name::CSeq] {
            for value in request.values(name) {
                text += &format!("{name}: {}\r\n", std::str::from_utf8(value).unwrap());
            }
        }
        let to = request.text(Name::To).unwrap();
        let tag = if to.contains(";tag=") || status == 100 { String::new() } else { format!(";tag={}", self.tag) };
        text += &format!("To: {to}{tag}\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.receive(source, &text);
    }

    /// The last message sent whose method, or method in CSeq and status, is this: `INVITE`, `INVITE 180`.
    pub fn last(&self, what: &str) -> Message {
        let found = self.sent.iter().rev().find(|sent| describe(&sent.message) == what);
        found.unwrap_or_else(|| panic!("no {what} among {:?}", self.descriptions())).message.clone()
    }

    pub fn count(&self, what: &str) -> usize {
        self.sent.iter().filter(|sent| describe(&sent.message) == what).count()
    }

    pub fn descriptions(&self) -> Vec<String> {
        self.sent.iter().map(|sent| describe(&sent.message)).collect()
    }

    /// The SIP server sends an INVITE to the binding.
    pub fn invite(&mut self, call_id: &str) {
        let (source, text) = (self.upstream, self.invite_text(call_id));
        self.receive(source, &text);
    }

    /// The SIP server cancels its INVITE.
    pub fn cancel(&mut self, call_id: &str) {
        let text = self.cancel_text(call_id, "");
        self.receive(self.upstream, &text);
    }

    /// The CANCEL of an INVITE, with these lines beside those of each request.
    pub fn cancel_text(&self, call_id: &str, lines: &str) -> String {
        let head = self.head(call_id, "CANCEL", 1, "");
        format!("CANCEL sip:{}@relay.test:5070 SIP/2.0\r\n{head}{lines}Content-Length: 0\r\n\r\n", self.binding)
    }

    pub fn invite_text(&self, call_id: &str) -> String {
        format!(
            "INVITE sip:{}@relay.test:5070 SIP/2.0\r\n{}{}{SDP}",
            self.binding,
            self.head(call_id, "INVITE", 1, ""),
            format_args!(
                "X-Odd:   kept  as it is\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n",
                SDP.len()
            ),
        )
    }

    /// Via to Contact of the caller's requests.
    pub fn head(&self, call_id: &str, method: &str, cseq: u32, to_tag: &str) -> String {
        format!(
            "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKserver.{call_id}.{cseq}.{}\r\n\
             Via: SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKcaller.{call_id}.{cseq}\r\n\
             Record-Route: <sip:192.0.2.10;lr>\r\n\
             Max-Forwards: 69\r\n\
             From: \"Bob\" <sip:bob@example.com>;tag=bob\r\n\
             To: <sip:alice@example.com>{to_tag}\r\n\
             Call-ID: {call_id}\r\n\
             CSeq: {cseq} {method}\r\n\
             Contact: <sip:bob@192.0.2.77>\r\n",
            if method == "CANCEL" || method == "ACK" { "INVITE" } else { method },
        )
    }

    pub fn device(&self, number: u64) -> Source {
        let peer = "198.51.100.7:40000".parse().unwrap();
        Source { flow: FlowId::Stream(number), side: Side::Device, transport: Transport::Tls, peer, split: false }
    }

    /// The device registers at the edge by a flow, by digest.
    pub fn attach(&mut self, number: u64) {
        let source = self.device(number);
        let register = |world: &Self, cseq: u32, authorization: &str| {
            format!(
                "REGISTER sip:relay.test SIP/2.0\r\n\
                 Via: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKreg{number}.{cseq};rport\r\n\
                 From: <sip:{0}@relay.test>;tag=d\r\nTo: <sip:{0}@relay.test>\r\n\
                 Call-ID: reg{number}\r\nCSeq: {cseq} REGISTER\r\nMax-Forwards: 70\r\n\
                 Contact: <sip:phone{number}@10.0.0.5:9999;transport=tls>\r\nExpires: 300\r\n{authorization}\
                 Content-Length: 0\r\n\r\n",
                world.instance
            )
        };
        let text = register(self, 1, "");
        self.receive(source, &text);
        let challenge = self.last("REGISTER 401");
        let challenge = Challenge::parse(challenge.text(Name::WwwAuthenticate).unwrap()).unwrap();
        let user = self.instance.to_string();
        let value = answer(&challenge, &user, SECRET, "sip:relay.test", 1, "c");
        let text = register(self, 2, &format!("Authorization: {value}\r\n"));
        self.receive(source, &text);
    }

    /// The answer to a REGISTER of the device by a flow, with a Bearer. `lines`: its Contacts, and what else there is.
    pub fn register(&mut self, flow: u64, cseq: u32, lines: &str) -> Message {
        let text = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bK{flow}.{cseq}\r\n\
             From: <sip:{0}@relay.test>;tag=d\r\nTo: <sip:{0}@relay.test>\r\nCall-ID: r{flow}\r\nCSeq: {cseq} REGISTER\r\n\
             {lines}Authorization: Bearer {1}\r\nContent-Length: 0\r\n\r\n",
            self.instance,
            SECRET.replace(' ', "-")
        );
        self.receive(self.device(flow), &text);
        let answers = self.sent.iter().rev().find(|sent| !sent.message.is_request());
        answers.expect("an answer").message.clone()
    }

    /// The final states that calls were told, in order.
    pub fn final_states(&self) -> Vec<CallState> {
        let states = self.events.iter().filter_map(|event| match event {
            Event::Call { state, .. } if state.is_final() => Some(*state),
            _ => None,
        });
        states.collect()
    }

    pub fn wakes(&self) -> Vec<&IncomingCall> {
        let wakes = self.events.iter().filter_map(|event| match event {
            Event::Wake(call) => Some(&**call),
            _ => None,
        });
        wakes.collect()
    }
}

pub fn answer_to(
    method: &str,
    challenge: &Challenge,
    user: &str,
    password: &str,
    uri: &str,
    nc: u32,
    cnonce: &str,
) -> String {
    let ha1 = Ha1::compute(challenge.algorithm.hash, user, &challenge.realm, password);
    let answer = DigestResponse { username: user, method, uri, cnonce, nc, body: b"" };
    challenge.answer(&ha1, &answer).expect("the challenge can be answered")
}

pub fn answer(challenge: &Challenge, user: &str, password: &str, uri: &str, nc: u32, cnonce: &str) -> String {
    let hash: Hash = challenge.algorithm.hash;
    let ha1 = Ha1::compute(hash, user, &challenge.realm, password);
    challenge
        .answer(&ha1, &DigestResponse { username: user, method: "REGISTER", uri, cnonce, nc, body: b"" })
        .expect("the challenge can be answered")
}

fn describe(message: &Message) -> String {
    match message.status() {
        Some(status) => format!("{} {status}", message.cseq().map_or("?", |(_, method)| method)),
        None => message.method_text().unwrap_or("?").to_owned(),
    }
}
