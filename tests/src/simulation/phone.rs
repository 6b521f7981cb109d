//! Phones: they sleep, wake for a push or by themselves, answer, decline, ignore, move between networks, and crash.
//!
//! A phone that wakes opens a stream to the edge, by TLS or by WebSocket, and registers with the instance secret. Its reaction to a call is drawn
//! when the INVITE comes. In a call it stays awake; else it falls asleep after a while, with a word or without.
//!
//! Invariant: a phone rings only for an INVITE on the flow that it has; a 200 is repeated until the ACK comes (RFC 3261
//! §13.3.1.4).

use sip::auth::Challenge;
use sip::message::{Composer, Message, Method, Name};

use super::agenda::{At, HOUR, MINUTE, MS, S};
use super::caller::{body_of, call_of};
use super::network::{Frame, Peer};
use super::oracle::Check;
use super::registrar::sound;
use super::relay::device_answer;
use super::world::{Happening, World};

/// The event that a phone waits for; an event of a flow that it has no more is void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneDue {
    /// The dial of this serial ends.
    Dialled(u32),
    /// The app is opened by its user.
    Opened,
    /// The app starts again after a crash.
    Restarted,
    /// Time to register again at the edge.
    Refresh(u64),
    /// Nothing to do any more.
    Sleep(u64),
    /// The phone begins to ring for this call.
    Ring(u64, usize),
    /// The act that was drawn for a call.
    Act(u64, usize, Act),
    /// The 200 is not acknowledged: for the nth time.
    Again(u64, usize, u32),
    /// The phone hangs up.
    HangUp(usize),
}

/// A phone's reaction to a call that rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its user answers.
    Answer,
    /// Its user declines, with this status.
    Decline(u16),
    /// The phone leaves its network for another one.
    Move,
    /// The phone crashes.
    Crash,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Invited,
    Ringing,
    Answered,
    Up,
    HangingUp,
    Over,
}

/// A call as its phone sees it.
#[derive(Debug)]
pub struct PhoneCall {
    /// Which.
    pub call: usize,
    invite: Message,
    flow: u64,
    stage: Stage,
}

/// One phone.
#[derive(Debug, Default)]
pub struct Phone {
    /// Its flow to the edge.
    pub flow: Option<u64>,
    /// Whether it was told 200 on this flow.
    pub registered: bool,
    calls: Vec<PhoneCall>,
    dialling: bool,
    serial: u32,
    cseq: u32,
    challenges: u32,
}

impl Phone {
    /// Whether it rings for a call.
    pub fn rings_for(&self, index: usize) -> bool {
        let rings = |call: &PhoneCall| call.call == index && Some(call.flow) == self.flow;
        self.calls.iter().any(|call| rings(call) && matches!(call.stage, Stage::Invited | Stage::Ringing))
    }

    /// Whether a call is over for it.
    pub fn is_done_with(&self, index: usize) -> bool {
        self.calls.iter().all(|call| call.call != index || call.stage == Stage::Over)
    }

    /// By which flow it got a call.
    pub fn answered_by(&self, index: usize) -> Option<u64> {
        self.calls.iter().find(|call| call.call == index).map(|call| call.flow)
    }

    fn call(&mut self, index: usize) -> Option<&mut PhoneCall> {
        self.calls.iter_mut().find(|call| call.call == index)
    }
}

impl World {
    /// A push arrives, or the user opens the app.
    pub(super) fn wake_phone(&mut self, slot: usize) {
        if self.slots[slot].lease.is_none() || self.slots[slot].phone.dialling {
            return;
        }
        match self.slots[slot].phone.flow {
            Some(flow) if self.network.is_alive(flow) => self.register_phone(slot, None),
            Some(flow) => {
                self.leave_flow(slot);
                self.close_by_peer(flow);
                self.dial_edge(slot);
            }
            None => self.dial_edge(slot),
        }
    }

    pub(super) fn on_phone_due(&mut self, slot: usize, due: PhoneDue) {
        let flow = self.slots[slot].phone.flow;
        match due {
            PhoneDue::Dialled(serial) if serial == self.slots[slot].phone.serial => self.on_edge_dialled(slot),
            PhoneDue::Opened if !self.quiet => {
                self.wake_phone(slot);
                let next = self.random.between(HOUR, 20 * HOUR);
                self.agenda.plan(next, Happening::Phone(slot, PhoneDue::Opened));
            }
            PhoneDue::Restarted => self.wake_phone(slot),
            PhoneDue::Refresh(of) if flow == Some(of) => self.register_phone(slot, None),
            PhoneDue::Sleep(of) if flow == Some(of) => self.fall_asleep(slot, of),
            PhoneDue::Ring(of, call) if flow == Some(of) => self.ring(slot, of, call),
            PhoneDue::Act(of, call, act) if flow == Some(of) => self.act(slot, of, call, act),
            PhoneDue::Again(of, call, nth) if flow == Some(of) => self.answer_again(slot, call, nth),
            PhoneDue::HangUp(call) => self.phone_hangs_up(slot, call),
            _ => {}
        }
    }

    fn dial_edge(&mut self, slot: usize) {
        let phone = &mut self.slots[slot].phone;
        phone.dialling = true;
        phone.serial += 1;
        let serial = phone.serial;
        let takes = self.random.between(50 * MS, 900 * MS);
        self.agenda.plan(takes, Happening::Phone(slot, PhoneDue::Dialled(serial)));
    }

    fn on_edge_dialled(&mut self, slot: usize) {
        let flow = self.open_stream(Peer::Phone(slot), None);
        let phone = &mut self.slots[slot].phone;
        phone.dialling = false;
        phone.flow = Some(flow);
        phone.registered = false;
        phone.challenges = 0;
        self.watch(slot, || format!("the phone dials the edge: flow {flow}"));
        self.register_phone(slot, None);
        let sleep = self.random.between(20 * S, 180 * S);
        self.agenda.plan(sleep, Happening::Phone(slot, PhoneDue::Sleep(flow)));
    }

    fn register_phone(&mut self, slot: usize, authorization: Option<String>) {
        let (Some(flow), Some(lease)) = (self.slots[slot].phone.flow, self.slots[slot].lease.as_ref()) else { return };
        self.compose_register(slot, flow, lease.instance.to_string(), 600, authorization);
    }

    fn compose_register(&mut self, slot: usize, flow: u64, user: String, expires: u32, authorization: Option<String>) {
        let phone = &mut self.slots[slot].phone;
        phone.cseq += 1;
        if authorization.is_none() {
            phone.challenges = 0;
        }
        let cseq = phone.cseq;
        let authorization = authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let text = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:5061;branch=z9hG4bKp{slot}.{cseq}\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{user}@relay.test>;tag=d{cseq}\r\nTo: <sip:{user}@relay.test>\r\n\
             Call-ID: edge{slot}\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:p{slot}@10.0.0.5:5061;transport=tls>\r\n\
             Expires: {expires}\r\n{authorization}Content-Length: 0\r\n\r\n"
        );
        self.send_to_relay(flow, Frame::Message(sound(&text.into())));
    }

    fn fall_asleep(&mut self, slot: usize, flow: u64) {
        if self.slots[slot].phone.calls.iter().any(|call| call.stage != Stage::Over) {
            self.agenda.plan(20 * S, Happening::Phone(slot, PhoneDue::Sleep(flow)));
            return;
        }
        self.watch(slot, || "the phone falls asleep".to_owned());
        self.leave_flow(slot);
        match self.random.between(0, 9) {
            0 | 1 => self.vanish(flow),
            _ => self.close_by_peer(flow),
        }
    }

    /// The phone has no flow from now on; what rang on it rings no more.
    fn leave_flow(&mut self, slot: usize) {
        let phone = &mut self.slots[slot].phone;
        phone.flow = None;
        phone.registered = false;
        phone.calls.retain(|call| matches!(call.stage, Stage::Up | Stage::HangingUp));
    }

    /// The relay closed its stream.
    pub(super) fn phone_lost_flow(&mut self, slot: usize, flow: u64) {
        if self.slots[slot].phone.flow == Some(flow) {
            let in_call = self.slots[slot].phone.calls.iter().any(|call| call.stage != Stage::Over);
            self.leave_flow(slot);
            if in_call {
                self.wake_phone(slot);
            }
        }
    }

    /// The instance is not served any more, and the app knows.
    pub(super) fn phone_forgets(&mut self, slot: usize) {
        if let Some(flow) = self.slots[slot].phone.flow {
            self.leave_flow(slot);
            self.close_by_peer(flow);
        }
        let phone = &mut self.slots[slot].phone;
        phone.calls.clear();
        phone.dialling = false;
        phone.serial += 1;
    }

    pub(super) fn phone_receives(&mut self, slot: usize, flow: u64, frame: Frame) {
        let Frame::Message(message) = frame else { return };
        if self.slots[slot].phone.flow != Some(flow) {
            return;
        }
        let call = call_of(&message);
        match (message.method(), call) {
            (None, None) => self.on_edge_answer(slot, flow, &message),
            (None, Some(call)) => self.on_bye_answer(slot, call),
            (Some(Method::Invite), Some(call)) => self.on_offer(slot, flow, call, message),
            (Some(Method::Ack), Some(call)) => self.on_ack(slot, call),
            (Some(Method::Cancel), Some(call)) => self.on_cancel(slot, flow, call, &message),
            (Some(Method::Bye), Some(call)) => {
                if let Some(known) = self.slots[slot].phone.call(call) {
                    known.stage = Stage::Over;
                    let answered_by = known.flow;
                    self.calls[call].facts.hung_up_on.push(answered_by);
                }
                self.answer(flow, &message, 200, "p");
            }
            (Some(method), _) => self.wrong(format!("a phone gets a {method} that belongs to no call of its own")),
        }
    }

    fn on_edge_answer(&mut self, slot: usize, flow: u64, response: &Message) {
        let Some(lease) = self.slots[slot].lease.clone() else { return };
        match response.status() {
            Some(200) => {
                self.slots[slot].phone.registered = true;
                self.watch(slot, || format!("the phone is attached by flow {flow}"));
                let expires = At::from(response.number(Name::Expires).unwrap_or(600)) * S;
                self.agenda.plan(expires / 2, Happening::Phone(slot, PhoneDue::Refresh(flow)));
                self.expect_offers(slot, flow);
            }
            Some(401) if self.slots[slot].phone.challenges < 3 => {
                self.slots[slot].phone.challenges += 1;
                let Some(challenge) = response.text(Name::WwwAuthenticate).and_then(|it| Challenge::parse(it).ok())
                else {
                    return self.wrong("a challenge of the edge cannot be read".to_owned());
                };
                let cnonce = self.random.tag();
                let value = device_answer(&challenge, lease.instance, &lease.secret, 1, &cnonce);
                self.register_phone(slot, value);
            }
            status => {
                let lives = self.oracle.lives(lease.binding);
                if lives {
                    self.wrong(format!("the edge answers {status:?} to the phone of slot {slot}"));
                }
                self.phone_forgets(slot);
            }
        }
    }

    fn on_offer(&mut self, slot: usize, flow: u64, index: usize, invite: Message) {
        self.watch(slot, || format!("call {index}: the phone gets the INVITE by flow {flow}"));
        self.stats.seconds_invited += u64::from(self.slots[slot].first.is_some());
        self.calls[index].facts.invited.push((slot, flow));
        if invite.body()[..] != *body_of(index, false).as_bytes() {
            self.wrong(format!("the offer of call {index} is not its caller's"));
        }
        self.answer(flow, &invite, 100, "p");
        let phone = &mut self.slots[slot].phone;
        phone.calls.retain(|call| call.call != index && call.stage != Stage::Over);
        phone.calls.push(PhoneCall { call: index, invite, flow, stage: Stage::Invited });
        let after = self.random.between(20 * MS, 500 * MS);
        self.agenda.plan(after, Happening::Phone(slot, PhoneDue::Ring(flow, index)));
    }

    fn ring(&mut self, slot: usize, flow: u64, index: usize) {
        let tag = format!("p{flow}");
        let Some(call) = self.slots[slot].phone.call(index).filter(|call| call.stage == Stage::Invited) else { return };
        call.stage = Stage::Ringing;
        let invite = call.invite.clone();
        self.answer(flow, &invite, 180, &tag);
        let think = self.random.between(500 * MS, 25 * S);
        // Now and then all phones of an account are picked up in one moment.
        let moment = self.calls[index].facts.delivered.filter(|_| index.is_multiple_of(3)).unwrap_or(0) + 12 * S;
        let think = match moment.checked_sub(self.agenda.now()).filter(|left| *left > 500 * MS) {
            Some(left) => left + self.random.between(0, 60 * MS),
            None => think,
        };
        let act = match self.random.between(0, 19) {
            0..4 if self.slots[slot].first.is_some() => return,
            4..6 if self.slots[slot].first.is_some() => Act::Decline(486),
            0..13 => Act::Answer,
            13 => Act::Decline(486),
            14 => Act::Decline(603),
            15 => Act::Move,
            16 => Act::Crash,
            _ => return,
        };
        self.agenda.plan(think, Happening::Phone(slot, PhoneDue::Act(flow, index, act)));
    }

    fn act(&mut self, slot: usize, flow: u64, index: usize, act: Act) {
        let Some(call) = self.slots[slot].phone.call(index).filter(|call| call.stage == Stage::Ringing) else { return };
        let invite = call.invite.clone();
        match act {
            Act::Answer => {
                call.stage = Stage::Answered;
                let at = self.agenda.now();
                self.watch(slot, || format!("call {index}: the phone answers"));
                self.agenda.plan(36 * S, Happening::Check(Check::Answered { call: index, flow, at }));
                self.answer_again(slot, index, 0);
            }
            Act::Decline(status) => {
                call.stage = Stage::Over;
                self.calls[index].facts.declined.push(slot);
                self.answer(flow, &invite, status, &format!("p{flow}"));
            }
            Act::Move => self.move_phone(slot, flow),
            Act::Crash => {
                self.watch(slot, || "the phone crashes".to_owned());
                self.phone_crashes(slot, flow);
            }
        }
    }

    fn move_phone(&mut self, slot: usize, flow: u64) {
        self.watch(slot, || "the phone moves".to_owned());
        self.leave_flow(slot);
        if self.random.between(0, 1) == 0 {
            self.vanish(flow);
        } else {
            self.close_by_peer(flow);
        }
        self.dial_edge(slot);
    }

    fn phone_crashes(&mut self, slot: usize, flow: u64) {
        self.leave_flow(slot);
        self.slots[slot].phone.calls.clear();
        if self.random.between(0, 1) == 0 {
            self.vanish(flow);
        } else {
            self.close_by_peer(flow);
        }
        if self.random.between(0, 1) == 0 {
            let after = self.random.between(S, 20 * S);
            self.agenda.plan(after, Happening::Phone(slot, PhoneDue::Restarted));
        }
    }

    fn answer_again(&mut self, slot: usize, index: usize, nth: u32) {
        let Some(call) = self.slots[slot].phone.call(index).filter(|call| call.stage == Stage::Answered) else {
            return;
        };
        let (flow, invite) = (call.flow, call.invite.clone());
        if nth > 10 {
            // RFC 3261 §13.3.1.4: no ACK within 64·T1 ends the call.
            return self.say_bye(slot, index);
        }
        let wait = ((500 * MS) << nth.min(3)).min(4 * S);
        self.agenda.plan(wait, Happening::Phone(slot, PhoneDue::Again(flow, index, nth + 1)));
        self.answer(flow, &invite, 200, &format!("p{flow}"));
    }

    fn on_ack(&mut self, slot: usize, index: usize) {
        let Some(call) = self.slots[slot].phone.call(index).filter(|call| call.stage == Stage::Answered) else {
            return;
        };
        call.stage = Stage::Up;
        let answered_by = call.flow;
        self.calls[index].facts.acknowledged.push(answered_by);
        if !self.calls[index].facts.is_won_by(answered_by) {
            // The relay's BYE follows.
            return;
        }
        let talk = self.calls[index].talk;
        self.agenda.plan(talk + 5 * MINUTE, Happening::ForgetPhoneCall(slot, index));
        if !self.calls[index].caller_hangs_up {
            self.agenda.plan(talk, Happening::Phone(slot, PhoneDue::HangUp(index)));
        }
        let moves = self.random.between(0, 9) == 0;
        if let (true, Some(flow)) = (moves, self.slots[slot].phone.flow) {
            self.move_phone(slot, flow);
        }
    }

    fn on_cancel(&mut self, slot: usize, flow: u64, index: usize, cancel: &Message) {
        self.answer(flow, cancel, 200, &format!("p{flow}"));
        let Some(call) = self.slots[slot].phone.call(index) else { return };
        if matches!(call.stage, Stage::Invited | Stage::Ringing) {
            call.stage = Stage::Over;
            let invite = call.invite.clone();
            self.answer(flow, &invite, 487, &format!("p{flow}"));
        }
    }

    fn phone_hangs_up(&mut self, slot: usize, index: usize) {
        let phone = &mut self.slots[slot].phone;
        let registered = phone.registered;
        let Some(call) = phone.call(index).filter(|call| call.stage == Stage::Up) else { return };
        if registered {
            call.stage = Stage::HangingUp;
            self.say_bye(slot, index);
            self.plan_bye_check(index, true);
        } else {
            self.agenda.plan(2 * S, Happening::Phone(slot, PhoneDue::HangUp(index)));
        }
    }

    fn say_bye(&mut self, slot: usize, index: usize) {
        let Some(flow) = self.slots[slot].phone.flow else { return };
        let Some(call) = self.slots[slot].phone.call(index) else { return };
        let invite = call.invite.clone();
        let tag = format!("p{}", call.flow);
        call.stage = Stage::HangingUp;
        let routes: String = invite.elements(Name::RecordRoute).map(|route| format!("Route: {route}\r\n")).collect();
        let (from, to) = (invite.text(Name::To).unwrap_or_default(), invite.text(Name::From).unwrap_or_default());
        let text = format!(
            "BYE sip:c{index}@192.0.2.77 SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:5061;branch=z9hG4bKpb{index}.{flow}\r\n{routes}\
             Max-Forwards: 70\r\nFrom: {from};tag={tag}\r\nTo: {to}\r\nCall-ID: call{index}\r\nCSeq: 7 BYE\r\n\
             Content-Length: 0\r\n\r\n"
        );
        self.send_to_relay(flow, Frame::Message(sound(&text.into())));
        self.agenda.plan(MINUTE, Happening::ForgetPhoneCall(slot, index));
    }

    fn on_bye_answer(&mut self, slot: usize, index: usize) {
        if let Some(call) = self.slots[slot].phone.call(index).filter(|call| call.stage == Stage::HangingUp) {
            call.stage = Stage::Over;
        }
    }

    pub(super) fn forget_phone_call(&mut self, slot: usize, index: usize) {
        self.slots[slot].phone.calls.retain(|call| call.call != index);
    }

    fn answer(&mut self, flow: u64, request: &Message, status: u16, tag: &str) {
        let response = Composer::response(request, status, Composer::reason(status), Some(tag));
        let contact = (101..300).contains(&status).then_some("<sip:p@10.0.0.5:5061;transport=tls>");
        let response = response.maybe(Name::Contact, contact);
        let answered = request.method() == Some(Method::Invite) && status == 200;
        let bytes = match call_of(request).filter(|_| answered) {
            Some(call) => response.body("application/sdp", body_of(call, true).as_bytes()),
            None => response.finish(),
        };
        self.send_to_relay(flow, Frame::Message(sound(&bytes)));
    }
}
