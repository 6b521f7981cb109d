//! Callers: they come by their SIP server, wait as long as their patience lasts, and hang up or are hung up on.
//!
//! The caller and the proxy before it are one here: INVITE, CANCEL and BYE are repeated on UDP as RFC 3261 §17.1 says,
//! each 2xx is acknowledged, and a 2xx that comes behind the caller's back is hung up at once.
//!
//! Invariant: what a call came to is written down in its [`Facts`], for the oracle.

use sip::message::{Message, Method, Name};

use super::agenda::{At, MINUTE, MS, S};
use super::network::Peer;
use super::oracle::{Check, Facts};
use super::registrar::{Mood, Registrar, Target, respond, sound};
use super::world::{Happening, World};

/// The event that a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDue {
    /// Time to send again what is unanswered; of this serial.
    Resend(u32),
    /// The caller's patience ends.
    Patience,
    /// The caller hangs up.
    HangUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Calling,
    Proceeding,
    Cancelling,
    Up,
    HangingUp,
    Over,
}

#[derive(Debug)]
struct Resend {
    message: Message,
    interval: At,
    until: At,
}

/// The way to the phone, once it has answered.
#[derive(Clone, Debug, Default)]
struct Dialog {
    target: String,
    routes: String,
    to: String,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    /// The slot of the phone that is called.
    pub slot: usize,
    /// The server that the call goes by.
    pub registrar: usize,
    /// The binding that is called.
    pub binding: String,
    /// The facts of the call.
    pub facts: Facts,
    /// The troubles of its server when it began.
    pub troubles: u64,
    /// How long both talk.
    pub talk: At,
    /// The caller hangs up, else the phone does.
    pub caller_hangs_up: bool,
    contact: String,
    stream: Option<u64>,
    stage: Stage,
    resend: Option<Resend>,
    serial: u32,
    cancel_wanted: bool,
    cseq: u32,
    dialog: Dialog,
}

impl Call {
    /// Whether the caller is done with it.
    pub fn is_over(&self) -> bool {
        self.stage == Stage::Over
    }

    /// The stream that it goes by.
    pub fn stream(&self) -> Option<u64> {
        self.stream
    }
}

/// The call that a Call-ID names.
pub fn call_of(message: &Message) -> Option<usize> {
    message.call_id()?.strip_prefix("call")?.parse().ok()
}

/// The offer of a call, or its answer; of every third call as large as with SRTP and ICE, 4 to 8 kB.
pub fn body_of(call: usize, is_answer: bool) -> String {
    let bytes = match call % 3 {
        0 => 4_000 + (call * 7_919 + usize::from(is_answer) * 1_231) % 4_000,
        _ => 150,
    };
    let mut sdp = format!("v=0\r\no=- {call} {} IN IP4 192.0.2.77\r\ns=-\r\nt=0 0\r\n", u8::from(is_answer));
    while sdp.len() < bytes {
        sdp += &format!("a=candidate:{} 1 udp 2113937151 192.0.2.77 40000 typ host\r\n", sdp.len());
    }
    sdp
}

impl World {
    /// Somebody calls a slot.
    pub(super) fn place_call(&mut self, slot: usize) {
        let (now, number) = (self.agenda.now(), self.slots[slot].registrar);
        self.stats.calls += 1;
        let targets = self.registrars[number].targets(now, slot);
        let usable = |target: &&Target| target.stream.is_none_or(|flow| self.is_peer_open(flow));
        let Some(target) = targets.iter().find(usable).cloned() else {
            self.stats.not_registered += 1;
            return;
        };
        if matches!(self.registrars[number].mood, Mood::Silent | Mood::Down) {
            return;
        }
        let index = self.calls.len();
        let patience = match self.random.between(0, 9) {
            0 => self.random.between(200 * MS, 5 * S),
            1 | 2 => self.random.between(5 * S, 30 * S),
            3..7 => self.random.between(30 * S, 90 * S),
            _ => 10 * MINUTE,
        };
        let call = Call {
            slot,
            registrar: number,
            binding: target.binding,
            facts: Facts::default(),
            troubles: self.registrars[number].troubles,
            talk: self.random.between(40 * S, 10 * MINUTE),
            caller_hangs_up: self.random.between(0, 1) == 0,
            contact: target.contact,
            stream: target.stream,
            stage: Stage::Calling,
            resend: None,
            serial: 0,
            cancel_wanted: false,
            cseq: 1,
            dialog: Dialog::default(),
        };
        self.calls.push(call);
        self.slots[slot].calls.push(index);
        self.watch(slot, || format!("call {index} begins; patience {} ms", patience / MS));
        self.agenda.plan(patience, Happening::Call(index, CallDue::Patience));
        let invite = self.compose(index, "INVITE");
        self.send_until_answered(index, invite);
    }

    pub(super) fn on_call_due(&mut self, index: usize, due: CallDue) {
        let stage = self.calls[index].stage;
        match due {
            CallDue::Resend(serial) if serial == self.calls[index].serial => self.resend(index),
            CallDue::Resend(_) => {}
            CallDue::Patience if matches!(stage, Stage::Calling | Stage::Proceeding) => self.cancel(index),
            CallDue::HangUp if stage == Stage::Up => self.hang_up(index),
            CallDue::Patience | CallDue::HangUp => {}
        }
    }

    /// Passes a message from the relay that is no REGISTER to the server's other half.
    pub(super) fn caller_receives(&mut self, number: usize, stream: Option<u64>, message: Message) {
        let Some(index) = call_of(&message) else { return };
        if message.is_request() {
            let is_bye = message.method() == Some(Method::Bye);
            // Another phone's BYE than that of the one that answered is for no dialog of the caller's.
            let of_dialog = || message.text(Name::From) == Some(&*self.calls[index].dialog.to);
            let answer = respond(&message, if is_bye && !of_dialog() { 481 } else { 200 }, &[]);
            if is_bye && of_dialog() {
                self.calls[index].stage = Stage::Over;
                self.calls[index].facts.caller_hung_up_on = true;
                self.calls[index].resend = None;
            }
            return self.send_from_registrar(number, stream, answer);
        }
        let (Some(status), Some((_, method))) = (message.status(), message.cseq()) else { return };
        match method {
            "INVITE" => self.on_invite_response(index, status, &message),
            "CANCEL" if status >= 200 && self.calls[index].stage == Stage::Cancelling => {
                self.calls[index].resend = None;
            }
            "BYE" if status >= 200 && self.calls[index].stage == Stage::HangingUp => {
                self.calls[index].stage = Stage::Over;
                self.calls[index].resend = None;
                self.calls[index].facts.bye_status = Some(status);
            }
            _ => {}
        }
    }

    fn on_invite_response(&mut self, index: usize, status: u16, message: &Message) {
        let call = &mut self.calls[index];
        match (call.stage, status) {
            (Stage::Calling, ..200) => {
                call.stage = Stage::Proceeding;
                call.resend = None;
                if call.cancel_wanted {
                    self.cancel(index);
                }
            }
            (_, ..200) => {
                let ringing = status == 180;
                call.facts.caller_heard_ringing |= ringing;
            }
            (_, 200..300) => self.on_answered(index, status, message),
            (Stage::Calling | Stage::Proceeding | Stage::Cancelling, _) => {
                call.stage = Stage::Over;
                call.resend = None;
                self.note_caller_final(index, status);
                self.acknowledge_failure(index, message);
            }
            _ => self.acknowledge_failure(index, message),
        }
    }

    fn on_answered(&mut self, index: usize, status: u16, message: &Message) {
        let first = self.calls[index].facts.caller_final.is_none();
        if message.body()[..] != *body_of(index, true).as_bytes() {
            self.wrong(format!("the answer of call {index} is not its phone's"));
        }
        if first {
            self.note_caller_final(index, status);
            let host = Registrar::host(self.calls[index].registrar);
            let call = &mut self.calls[index];
            let mut routes: Vec<_> = message.elements(Name::RecordRoute).collect();
            routes.reverse();
            let routes = routes.iter().filter(|route| !route.contains(&host));
            call.dialog = Dialog {
                target: message.contacts().first().and_then(|it| it.target().map(str::to_owned)).unwrap_or_default(),
                routes: routes.map(|route| format!("Route: {route}\r\n")).collect(),
                to: message.text(Name::To).unwrap_or_default().to_owned(),
            };
            let gave_up = call.stage == Stage::Cancelling;
            call.stage = Stage::Up;
            call.resend = None;
            if gave_up {
                self.agenda.plan(50 * MS, Happening::Call(index, CallDue::HangUp));
            } else if call.caller_hangs_up {
                let talk = call.talk;
                self.agenda.plan(talk, Happening::Call(index, CallDue::HangUp));
            }
        }
        let ack = self.compose(index, "ACK");
        self.send(index, ack);
    }

    fn cancel(&mut self, index: usize) {
        let call = &mut self.calls[index];
        call.cancel_wanted = true;
        call.facts.gave_up = true;
        // RFC 3261 §9.1: not before a provisional response.
        if call.stage == Stage::Proceeding {
            call.stage = Stage::Cancelling;
            let cancel = self.compose(index, "CANCEL");
            self.send_until_answered(index, cancel);
        }
    }

    fn hang_up(&mut self, index: usize) {
        self.calls[index].stage = Stage::HangingUp;
        self.calls[index].cseq += 1;
        let bye = self.compose(index, "BYE");
        self.send_until_answered(index, bye);
        self.plan_bye_check(index, false);
    }

    pub(super) fn plan_bye_check(&mut self, index: usize, by_phone: bool) {
        let flow = self.winner_of(index).and_then(|slot| self.slots[slot].phone.flow);
        let troubles = self.registrars[self.calls[index].registrar].troubles;
        self.agenda.plan(10 * S, Happening::Check(Check::Bye { call: index, by_phone, flow, troubles }));
    }

    fn send_until_answered(&mut self, index: usize, message: Message) {
        let until = self.agenda.now() + 32 * S;
        let call = &mut self.calls[index];
        call.serial += 1;
        call.resend = Some(Resend { message: message.clone(), interval: 500 * MS, until });
        let serial = call.serial;
        self.agenda.plan(500 * MS, Happening::Call(index, CallDue::Resend(serial)));
        self.send(index, message);
    }

    fn resend(&mut self, index: usize) {
        let now = self.agenda.now();
        let call = &mut self.calls[index];
        let (serial, on_stream, is_invite) = (call.serial, call.stream.is_some(), call.stage == Stage::Calling);
        let Some(resend) = &mut call.resend else { return };
        if resend.until <= now {
            call.resend = None;
            return match call.stage {
                Stage::Calling => {
                    call.stage = Stage::Over;
                    self.note_caller_final(index, 408);
                }
                Stage::HangingUp => call.stage = Stage::Over,
                _ => {}
            };
        }
        resend.interval = if is_invite { resend.interval * 2 } else { (resend.interval * 2).min(4 * S) };
        let (message, next) = (resend.message.clone(), (now + resend.interval).min(resend.until));
        self.agenda.plan_at(next, Happening::Call(index, CallDue::Resend(serial)));
        if !on_stream {
            self.send(index, message);
        }
    }

    fn send(&mut self, index: usize, message: Message) {
        let number = self.calls[index].registrar;
        let stream = match self.calls[index].stream {
            Some(flow) if !self.is_peer_open(flow) => {
                if matches!(self.registrars[number].mood, Mood::Silent | Mood::Down) {
                    return;
                }
                // RFC 3261 §18.1.1: by a new connection to where the Route points.
                let flow = self.open_stream(Peer::Registrar(number), None);
                self.registrars[number].streams.push(flow);
                self.calls[index].stream = Some(flow);
                Some(flow)
            }
            stream => stream,
        };
        self.send_from_registrar(number, stream, message);
    }

    fn note_caller_final(&mut self, index: usize, status: u16) {
        let slot = self.calls[index].slot;
        self.watch(slot, || format!("call {index}: the caller gets {status}"));
        self.calls[index].facts.caller_final = Some(status);
        self.stats.count_final(status);
    }

    pub(super) fn is_peer_open(&self, flow: u64) -> bool {
        self.network.stream(flow).is_some_and(|stream| stream.peer_open)
    }

    fn acknowledge_failure(&mut self, index: usize, response: &Message) {
        let to = response.text(Name::To).unwrap_or_default().to_owned();
        self.calls[index].dialog.to = to;
        let ack = self.compose(index, "ACK to a failure");
        self.send(index, ack);
    }

    fn compose(&self, index: usize, what: &str) -> Message {
        let call = &self.calls[index];
        let host = Registrar::host(call.registrar);
        let (transport, slot) = (if call.stream.is_some() { "TLS" } else { "UDP" }, call.slot);
        let hop = matches!(what, "CANCEL" | "ACK to a failure");
        let method = what.split(' ').next().unwrap_or_default();
        let branch =
            if hop || what == "INVITE" { format!("{index}i") } else { format!("{index}{method}{}", call.cseq) };
        let in_dialog = matches!(what, "ACK" | "BYE");
        let (uri, routes) =
            if in_dialog { (&call.dialog.target, call.dialog.routes.as_str()) } else { (&call.contact, "") };
        let to = match what {
            "INVITE" | "CANCEL" => format!("<sip:u{slot}@r.test>"),
            _ => call.dialog.to.clone(),
        };
        let below =
            if hop { String::new() } else { format!("Via: SIP/2.0/UDP 192.0.2.77:5060;branch=z9hG4bKc{branch}\r\n") };
        let own = if what == "INVITE" { format!("Record-Route: <sip:{host};lr>\r\n") } else { String::new() };
        let body = if what == "INVITE" { body_of(index, false) } else { String::new() };
        let cseq = if method == "ACK" || method == "CANCEL" { 1 } else { call.cseq };
        let text = format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {host}:5060;branch=z9hG4bKr{branch}\r\n{below}{own}{routes}\
             Max-Forwards: 69\r\nFrom: <sip:c{index}@callers.test>;tag=f{index}\r\nTo: {to}\r\nCall-ID: call{index}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:c{index}@192.0.2.77>\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        sound(&text.into())
    }
}
