//! The relay: its shards, and the shell around them as the agent plays it.
//!
//! The shell's reactions to an event: a challenge is answered with the lease's password, a REGISTER of a device is verified, a call that waits is
//! pushed, and the push service's answer becomes `Ring` or `GiveUp`. Answers come a moment later, as from a task.
//!
//! Invariant: each output is done before the next mutation; every output enters the trace; no credential enters an
//! endpoint.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::endpoint::{Endpoint, Event, IncomingCall, Input, Output, Poll, Proof, Settings, Source, Timing, Transport};
use sip::id::{BindingId, FlowId, InstanceId, ShardTag, UpstreamId};
use sip::message::{Limits, Message, Method};

use super::agenda::{At, MS, S};
use super::network::{Frame, Peer, registrar_address, registrar_at};
use super::registrar::Mood;
use super::world::{Happening, World};
use super::{ANSWER_TIMEOUT, REGISTER_EXPIRES, RING_TIMEOUT};

/// The endpoints of one relay.
#[derive(Debug)]
pub struct Relay {
    pub(super) shards: Vec<Endpoint>,
    /// When each of them wants to be told the time next.
    due: Vec<Option<Instant>>,
    start: Instant,
}

impl Relay {
    /// A relay with nothing in it.
    pub(super) fn new(shards: usize, seed: u64) -> Self {
        let start = Instant::now();
        let shard = |index: usize| {
            let settings = Settings {
                tag: ShardTag(index as u16),
                edge: "relay.test:5061".into(),
                edge_websocket: "relay.test:7443".into(),
                upstream_udp: "relay.test:5070".into(),
                upstream_tcp: "relay.test:5070".into(),
                upstream_tls: "relay.test:5071".into(),
                register_expires: Duration::from_micros(REGISTER_EXPIRES),
                ring_timeout: Duration::from_micros(RING_TIMEOUT),
                answer_timeout: Duration::from_micros(ANSWER_TIMEOUT),
                limits: Limits::default(),
                token_key: [9; 32],
                upstream: sip::endpoint::UpstreamPolicy::default(),
                timing: Timing::default(),
                message_bytes: 16 * 1024,
            };
            let mut key = [index as u8; 32];
            key[..8].copy_from_slice(&seed.to_be_bytes());
            Endpoint::new(start, settings, key)
        };
        Self { due: vec![None; shards], shards: (0..shards).map(shard).collect(), start }
    }

    /// When a shard wants to be asked next, and which.
    pub(super) fn next_due(&self) -> Option<(At, usize)> {
        let due = |(index, due): (usize, &Option<Instant>)| {
            let after = due.as_ref()?.saturating_duration_since(self.start);
            // Never early: a part of a microsecond counts as a whole one.
            Some((after.as_nanos().div_ceil(1000) as At, index))
        };
        self.due.iter().enumerate().filter_map(due).min()
    }

    fn instant(&self, at: At) -> Instant {
        self.start + Duration::from_micros(at)
    }
}

impl World {
    pub(super) fn tell(&mut self, shard: usize, input: Input) {
        let now = self.relay.instant(self.agenda.now());
        self.relay.shards[shard].handle(now, input);
        self.drain(shard);
    }

    pub(super) fn tick(&mut self, shard: usize) {
        let now = self.relay.instant(self.agenda.now());
        self.relay.shards[shard].handle_timeout(now);
        self.drain(shard);
    }

    /// Passes a frame from the network to a shard.
    pub(super) fn receive(&mut self, shard: usize, source: Source, frame: Frame) {
        let input = match frame {
            Frame::Ping => Input::Ping(source),
            Frame::Pong => match source.flow {
                FlowId::Stream(_) => Input::Pong(source.flow),
                FlowId::Datagram(_) => return,
            },
            Frame::Message(message) => {
                self.judge_received(shard, &source, &message);
                Input::Received { source, message }
            }
        };
        self.tell(shard, input);
    }

    fn drain(&mut self, shard: usize) {
        loop {
            let output = match self.relay.shards[shard].poll() {
                Poll::Output(output) => output,
                Poll::Until(due) => {
                    self.relay.due[shard] = due;
                    return;
                }
            };
            match output {
                Output::Send { flow, bytes } => self.on_send(shard, flow, bytes),
                Output::Dial { upstream, avoid, .. } => self.on_dial(shard, upstream, avoid),
                Output::Close(FlowId::Stream(flow)) => {
                    self.trace(shard, b"close", &flow.to_be_bytes());
                    self.close_by_relay(flow);
                }
                Output::Close(FlowId::Datagram(_)) => {}
                Output::Answer { peer, bytes, .. } => self.on_send(shard, FlowId::Datagram(peer), bytes),
                Output::SendLarge { .. } => {
                    self.wrong("a large request goes by TCP although that is not allowed".into());
                }
                Output::Event(event) => self.on_event(shard, event),
            }
        }
    }

    fn on_send(&mut self, shard: usize, flow: FlowId, bytes: Bytes) {
        let to = match flow {
            FlowId::Stream(number) => number,
            FlowId::Datagram(peer) => registrar_at(peer).map_or(0, |number| number as u64),
        };
        self.trace(shard, &to.to_be_bytes(), &bytes);
        let frame = match &bytes[..] {
            b"\r\n" => Frame::Pong,
            b"\r\n\r\n" => Frame::Ping,
            stun if Endpoint::is_stun(stun) => Frame::Ping,
            _ => {
                let message = Message::parse(&bytes, &Limits::default());
                // To judge one in eight is enough, and the others are judged by who gets them.
                let judged = self.stats.happenings.is_multiple_of(8);
                let Some(message) = message.ok().filter(|message| !judged || message.check().is_ok()) else {
                    return self.wrong(format!("the relay sent what is no sound message: {bytes:?}"));
                };
                self.judge_sent(flow, &message);
                Frame::Message(message)
            }
        };
        match (flow, frame) {
            (FlowId::Datagram(peer), Frame::Message(message)) => match registrar_at(peer) {
                Some(number) => self.datagram_to_registrar(number, message),
                None => self.wrong(format!("a datagram to nobody: {peer}")),
            },
            // A keep-alive on UDP only keeps a NAT open.
            (FlowId::Datagram(_), _) => {}
            (FlowId::Stream(number), frame) => {
                if !self.send_to_peer(number, frame) {
                    self.agenda.plan(0, Happening::Tell { shard, input: Input::Closed(flow) });
                }
            }
        }
    }

    fn on_dial(&mut self, shard: usize, upstream: UpstreamId, avoid: Option<FlowId>) {
        self.trace(shard, b"dial", &upstream.0.to_be_bytes());
        let number = upstream.0 as usize;
        self.judge_dial(number);
        let registrar = &self.registrars[number];
        let refused = registrar.stream && registrar.mood == Mood::Down;
        let mute = registrar.stream && registrar.mood == Mood::Silent;
        let takes = match () {
            () if refused => self.random.between(10 * MS, 100 * MS),
            // Nobody answers the SYN.
            () if mute => self.random.between(4 * S, 10 * S),
            () => self.random.between(20 * MS, 200 * MS),
        };
        let _ = avoid;
        self.agenda.plan(takes, Happening::DialEnds { shard, number, open: !refused && !mute });
    }

    pub(super) fn on_dial_ends(&mut self, shard: usize, number: usize, open: bool) {
        let upstream = UpstreamId(number as u32);
        let addresses = [registrar_address(number).ip()].into();
        self.tell(shard, Input::Addresses { upstream, addresses, is_whole: true });
        if !open {
            return self.tell(shard, Input::DialFailed(upstream));
        }
        let (flow, transport) = if self.registrars[number].stream {
            (FlowId::Stream(self.open_stream(Peer::Registrar(number), Some(shard))), Transport::Tls)
        } else {
            (FlowId::Datagram(registrar_address(number)), Transport::Udp)
        };
        if let FlowId::Stream(flow) = flow {
            self.registrars[number].streams.push(flow);
        }
        self.tell(shard, Input::Dialled { upstream, flow, transport });
    }

    fn on_event(&mut self, shard: usize, event: Event) {
        self.trace(shard, b"event", event_kind(&event).as_bytes());
        match event {
            Event::Challenged { binding, instance, challenge, nc, cnonce, uri } => {
                let authorization = self.answer_challenge(binding, &challenge, nc, &cnonce, &uri);
                self.tell_soon(shard, 3 * MS, Input::Authorization { binding, instance, authorization });
            }
            Event::Registered { binding, .. } => self.stats.registered += u64::from(self.oracle.lives(binding)),
            Event::RegistrationFailed { binding, failure, .. } => match failure {
                failure if failure.is_final() => {
                    self.stats.refused += 1;
                    self.agenda.plan(0, Happening::Wipe(binding));
                }
                _ => self.stats.retried += 1,
            },
            Event::Unbound { instance, .. } => self.judge_unbound(instance),
            Event::VerifyDevice { verification, instance, method, proof } => {
                let granted = self.verify(instance, &method, &proof);
                self.tell_soon(shard, 20 * MS, Input::DeviceVerified { verification, granted });
            }
            Event::Wake(call) => self.push(shard, &call),
            Event::Forked(_) => self.stats.forked_at_once += 1,
            Event::Call { call, instance, state, .. } => self.judge_call_state(call, instance, state),
            Event::FlowSettled { .. }
            | Event::UpstreamIdle { .. }
            | Event::Unregistered(..)
            | Event::FlowProven(_)
            | Event::Attached(_)
            | Event::Detached(_)
            | Event::GivenUp { .. }
            | Event::Ended { .. } => {}
            Event::PublicAddress { .. } | Event::RequestRefused(_) | Event::EdgeRegister(_) => {}
            Event::ResponseRefused | Event::Unanswerable { .. } | Event::AnswerTooLong { .. } => {}
            Event::DeviceRefused { .. } | Event::InviteExpired { .. } => {}
            // Nobody announces calls here.
            Event::ExpectedCallArrived(_) => {}
            Event::InviteTransaction(_)
            | Event::Name { .. }
            | Event::DialogBegun { .. }
            | Event::DialogEnded { .. } => {}
            Event::InviteRefused { .. } => self.stats.invites_refused += 1,
            Event::Missed { .. } | Event::Refused(_) | Event::Mailbox { .. } | Event::SubscriptionChallenged { .. } => {
            }
            Event::StoreMessage(_) | Event::DiscardMessage { .. } | Event::MessageEnded { .. } => {}
            // No phone here registers through the relay.
            Event::RouteNeeded(asked) => {
                self.tell_soon(shard, MS, Input::Route { register: asked.register, route: Err(403.into()) });
            }
            Event::AddressGrants(_)
            | Event::RegisterEnded { .. }
            | Event::Proof(_)
            | Event::UpstreamKept(_)
            | Event::UpstreamReleased(_)
            | Event::PushBindingAccepted(_)
            | Event::PushBindingEnded { .. }
            | Event::PushBindingSucceeded(_)
            | Event::ContactsRemoved(_)
            | Event::FlowBindingAccepted(_)
            | Event::FlowBindingEnded(_)
            | Event::RefreshNeeded(_) => {}
        }
    }

    fn tell_soon(&mut self, shard: usize, within: At, input: Input) {
        let after = self.random.between(0, within);
        self.agenda.plan(after, Happening::Tell { shard, input });
    }

    fn answer_challenge(
        &mut self,
        binding: BindingId,
        challenge: &Challenge,
        nc: u32,
        cnonce: &str,
        uri: &str,
    ) -> Option<String> {
        let lease = self.oracle.lease(binding)?;
        let (slot, password) = (lease.slot, lease.password.clone());
        let (user, ha1) = (format!("u{slot}"), self.ha1(slot, challenge.algorithm.hash, &password));
        let answer = DigestResponse { username: &user, method: Method::Register.as_str(), uri, cnonce, nc, body: b"" };
        challenge.answer(&ha1, &answer).ok()
    }

    fn verify(&self, instance: InstanceId, method: &str, proof: &Proof) -> bool {
        let Proof::Digest(credentials) = proof else { return false };
        let Some(secret) = self.oracle.secret(instance) else { return false };
        let ha1 = Ha1::compute(credentials.algorithm.hash, &instance.to_string(), "sipwake", &secret);
        credentials.verify(&ha1, method, b"")
    }

    /// Pushes, and plays the push service: its verdict, and whether and when the push arrives.
    fn push(&mut self, shard: usize, call: &IncomingCall) {
        let Some(slot) = self.judge_wake(call) else { return };
        self.stats.pushes += 1;
        let deadline = self.agenda.now() + call.wait.as_micros() as At;
        let verdict = self.random.between(20 * MS, 400 * MS);
        let arrives = match self.random.between(0, 99) {
            0..60 => self.random.between(50 * MS, 2 * S),
            60..90 => self.random.between(S, 20 * S),
            _ => return self.push_fails(shard, call, verdict),
        };
        if self.random.between(0, 99) < 95 {
            self.agenda.plan(
                verdict,
                Happening::Tell { shard, input: Input::Ring { call: call.call, instance: call.instance } },
            );
        }
        self.agenda.plan(arrives, Happening::PushArrives { slot, deadline });
    }

    fn push_fails(&mut self, shard: usize, call: &IncomingCall, verdict: At) {
        self.stats.pushes_lost += 1;
        match self.random.between(0, 9) {
            // Accepted, and never delivered.
            0..7 => self.agenda.plan(
                verdict,
                Happening::Tell { shard, input: Input::Ring { call: call.call, instance: call.instance } },
            ),
            7..9 => self.agenda.plan(
                verdict,
                Happening::Tell { shard, input: Input::DeviceUnreachable { call: call.call, instance: call.instance } },
            ),
            _ => {}
        }
    }

    /// Adds bytes to the trace: the same plan gives the same bytes at the same moments.
    pub(super) fn trace(&mut self, shard: usize, kind: &[u8], bytes: &[u8]) {
        let now = self.agenda.now().to_be_bytes();
        for part in [&now[..], &[shard as u8], kind, bytes] {
            for chunk in part.chunks(8) {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                self.stats.trace = (self.stats.trace ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3);
                self.stats.trace ^= self.stats.trace >> 29;
            }
        }
    }
}

/// The digest that a phone shows at the edge.
pub fn device_answer(
    challenge: &Challenge,
    instance: InstanceId,
    secret: &str,
    nc: u32,
    cnonce: &str,
) -> Option<String> {
    let user = instance.to_string();
    let hash: Hash = challenge.algorithm.hash;
    let ha1 = Ha1::compute(hash, &user, &challenge.realm, secret);
    let answer = DigestResponse { username: &user, method: "REGISTER", uri: "sip:relay.test", cnonce, nc, body: b"" };
    challenge.answer(&ha1, &answer).ok()
}

fn event_kind(event: &Event) -> String {
    match event {
        Event::Challenged { nc, .. } => format!("challenged {nc}"),
        Event::Registered { expires, refresh, .. } => format!("registered {expires:?} {refresh}"),
        Event::AddressGrants(address) => format!("grants {address}"),
        Event::RequestRefused(why) => format!("request refused {why:?}"),
        Event::ResponseRefused => "response refused".to_owned(),
        Event::AnswerTooLong { call, instance } => format!("too long {call} {instance}"),
        Event::DeviceRefused { call, instance, status } => format!("refused {call} {instance} {status}"),
        Event::InviteExpired { call, instance } => format!("expired {call} {instance}"),
        Event::EdgeRegister(outcome) => format!("edge register {outcome:?}"),
        Event::PublicAddress { upstream, address } => format!("public {} {address}", upstream.0),
        Event::FlowSettled { upstream, flow, outcome } => format!("settled {} {flow:?} {outcome:?}", upstream.0),
        Event::UpstreamIdle { upstream, forgotten } => format!("idle {} {forgotten}", upstream.0),
        Event::Unanswerable { unreadable, .. } => format!("unanswerable {unreadable}"),
        Event::RegistrationFailed { failure, .. } => format!("failed {failure:?}"),
        Event::Unregistered(binding, status) => format!("unregistered {binding} {status:?}"),
        Event::Unbound { instance, outcome } => format!("unbound {instance} {outcome:?}"),
        Event::VerifyDevice { instance, .. } => format!("knock {instance}"),
        Event::FlowProven(_) => "flow proven".to_owned(),
        Event::Attached(instance) => format!("attached {instance}"),
        Event::Detached(instance) => format!("detached {instance}"),
        Event::Wake(call) => format!("wake {}", call.call),
        Event::ExpectedCallArrived(call) => format!("announced {}", call.call),
        Event::Forked(call) => format!("forked {}", call.call),
        Event::Call { call, state, woke_after, .. } => format!("call {call} {state:?} {woke_after:?}"),
        Event::Ended { call, state } => format!("ended {call} {state:?}"),
        Event::GivenUp { call, state, .. } => format!("given up {call} {state:?}"),
        Event::DialogBegun { call, .. } => format!("dialog {call}"),
        Event::DialogEnded { by_device, .. } => format!("dialog ended {by_device}"),
        Event::InviteTransaction(change) => format!("invite {}", change.begun),
        Event::Name { name, given } => format!("name {} {given}", name.0),
        Event::InviteRefused { status } => format!("refused {status}"),
        Event::SubscriptionChallenged { nc, .. } => format!("subscription challenged {nc}"),
        Event::Missed { call, state } => format!("missed {} {state:?}", call.call),
        Event::Refused(call) => format!("not for it {}", call.call),
        Event::StoreMessage(message) => format!("message {message:?}"),
        Event::DiscardMessage { message, .. } => format!("message taken {message}"),
        Event::MessageEnded { end, .. } => format!("message ended {end:?}"),
        Event::Mailbox { mailbox, .. } => format!("{mailbox:?}"),
        Event::RouteNeeded(asked) => format!("way {:?}", asked.register),
        Event::RegisterEnded { register, proof, in_doubt, outcome, instance } => {
            format!("register ended {register:?} {proof:?} {in_doubt} {outcome:?} {instance:?}")
        }
        Event::Proof(step) => format!("proof {step:?}"),
        Event::UpstreamKept(upstream) => format!("kept {}", upstream.0),
        Event::UpstreamReleased(upstream) => format!("left {}", upstream.0),
        Event::PushBindingAccepted(registration) => format!("proxied {}", registration.instance),
        Event::PushBindingEnded { instance, end } => format!("proxied {instance} {end:?}"),
        Event::PushBindingSucceeded(it) => format!("proxied {} as {}", it.earlier, it.successor),
        Event::ContactsRemoved(taken) => format!("{taken:?}"),
        Event::FlowBindingAccepted(accepted) => format!("by its flow {}", accepted.instance),
        Event::FlowBindingEnded(instance) => format!("by its flow no more {instance}"),
        Event::RefreshNeeded(instance) => format!("refresh {instance}"),
    }
}
