//! The caller: places INVITEs at their times, cancels or hangs up what they become, and answers what comes back.
//!
//! Each call is an INVITE to the Contact that the relay registered, on the flow that it was registered on, as a registrar
//! with RFC 5626 does it. Calls are placed at a constant rate whatever becomes of them (an open loop), so that a slow relay
//! shows as latency and not as a lower rate.
//!
//! Invariant: every call is ended by a CANCEL or a BYE; a final answer gets its ACK; nothing is sent twice.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sip::message::{Message, Name};

use super::accounts::{self, Accounts, DOMAIN};
use super::calls::{Book, Call};
use super::measure::{Clock, Count, Spread};
use super::plan::{CALL_LENGTH, Upstream};

/// The longest sleep of the placing thread, so that what became due meanwhile is late by no more.
const NAP: Duration = Duration::from_millis(1);
/// How long calls may take to end after the last INVITE, where it is not about the slow ones.
pub const GRACE: Duration = Duration::from_secs(5);
/// How long cancelled calls may take to end; then they are given up as unanswered.
const LAST_GRACE: Duration = Duration::from_secs(3);

/// The caller.
pub struct Caller {
    accounts: Accounts,
    /// The events of all calls, and their times.
    pub book: Book,
    clock: Clock,
    upstream: Upstream,
    local: SocketAddr,
    /// Makes this run's Call-IDs its own.
    run: String,
    /// One of [`Cancels`].
    cancels: AtomicU8,
    /// Calls to end, and when; the delay is the same for all, so it is in order.
    agenda: Mutex<VecDeque<(u64, u32)>>,
    ended: AtomicU64,
    /// Pushes for which there was no call.
    pub stray_pushes: Count,
}

/// Calls to place.
pub struct Round {
    /// Their numbers in the book.
    pub numbers: Range<u32>,
    /// Their accounts, taken in turn.
    pub order: Vec<u32>,
    /// Calls in a second.
    pub rate: u32,
    /// Which of them are cancelled.
    pub cancels: Cancels,
    /// How long calls may take to end after the last INVITE; then they are cancelled.
    pub patience: Duration,
}

/// When a call is cancelled, [`CALL_LENGTH`] later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cancels {
    /// A device answers it.
    Never,
    /// The push service has its push.
    OncePushed,
    /// The caller heard 180: the relay knows that the push service has taken it.
    OnceRinging,
}

impl Caller {
    /// A caller at `local` with room for so many calls.
    pub fn new(accounts: Accounts, calls: u32, clock: Clock, upstream: Upstream, local: SocketAddr) -> Self {
        Self {
            accounts,
            book: Book::new(calls),
            clock,
            upstream,
            local,
            run: crate::digest::token(),
            cancels: AtomicU8::new(Cancels::OncePushed as u8),
            agenda: Mutex::default(),
            ended: AtomicU64::new(0),
            stray_pushes: Count::default(),
        }
    }

    /// Places a round's calls and sees them end; how late each INVITE was. Blocks its thread for the round's length.
    pub fn place(&self, round: &Round) -> Spread {
        self.cancels.store(round.cancels as u8, Ordering::Relaxed);
        self.ended.store(0, Ordering::Relaxed);
        let interval = Duration::from_secs(1) / round.rate.max(1);
        let begun = Instant::now();
        let mut late = Vec::with_capacity(round.numbers.len());
        for (turn, number) in round.numbers.clone().enumerate() {
            let due = begun + interval * turn as u32;
            self.keep_agenda_until(due);
            late.push(due.elapsed().as_nanos() as u64);
            self.invite(number, round.order[turn % round.order.len()]);
        }
        let wait = |patience: Duration| {
            let deadline = Instant::now() + patience;
            while self.ended.load(Ordering::Relaxed) < round.numbers.len() as u64 && Instant::now() < deadline {
                self.keep_agenda_until(Instant::now() + NAP);
            }
        };
        wait(round.patience);
        for number in round.numbers.clone() {
            self.end(number);
        }
        wait(LAST_GRACE);
        Spread::of(late)
    }

    /// A push came for an account; whether it was the first one for its call.
    pub fn on_push(&self, account: u32, at: Instant) -> bool {
        let number = self.accounts.get(account as usize).map_or(0, |account| account.call.load(Ordering::Relaxed));
        let Some(call) = number.checked_sub(1).and_then(|number| self.book.call(number)) else {
            self.stray_pushes.add();
            return false;
        };
        call.pushes.fetch_add(1, Ordering::Relaxed);
        let first = Call::note(&call.pushed, self.clock.at(at));
        if first {
            self.cancel_once(Cancels::OncePushed, number - 1);
        }
        first
    }

    /// A device got an INVITE.
    pub fn on_offer(&self, invite: &Message, at: Instant) {
        if let Some(call) = self.number_of(invite).and_then(|number| self.book.call(number)) {
            Call::note(&call.offered, self.clock.at(at));
        }
    }

    /// A response came from the relay.
    pub fn on_response(&self, response: &Message) {
        let now = self.clock.now();
        let Some(number) = self.number_of(response) else { return };
        let (Some(call), Some(status)) = (self.book.call(number), response.status()) else { return };
        match response.cseq().map(|(_, method)| method) {
            Some("INVITE") => match status {
                180 if Call::note(&call.rung, now) => self.cancel_once(Cancels::OnceRinging, number),
                0..200 => {}
                200..300 => self.on_answer(number, call, now, status, response),
                _ => {
                    self.acknowledge_failure(number, call, response);
                    self.on_end(call, now, status);
                }
            },
            Some("BYE") => self.on_end(call, now, 200),
            _ => {}
        }
    }

    fn on_answer(&self, number: u32, call: &Call, now: u64, status: u16, response: &Message) {
        let Some(contact) = self.contact_of(call) else { return };
        contact.way.send(self.in_dialog("ACK", 1, number, response));
        if Call::note(&call.answered, now) {
            call.status.store(status, Ordering::Relaxed);
            *lock(&call.bye) = Some(self.in_dialog("BYE", 2, number, response));
            self.end_later(number);
        }
    }

    fn on_end(&self, call: &Call, now: u64, status: u16) {
        if Call::note(&call.ended, now) {
            call.status.store(status, Ordering::Relaxed);
            self.ended.fetch_add(1, Ordering::Relaxed);
            self.accounts[call.account.load(Ordering::Relaxed) as usize].call.store(0, Ordering::Relaxed);
        }
    }

    fn cancel_once(&self, happened: Cancels, number: u32) {
        if self.cancels.load(Ordering::Relaxed) == happened as u8 {
            self.end_later(number);
        }
    }

    fn end_later(&self, number: u32) {
        let due = self.clock.now() + CALL_LENGTH.as_nanos() as u64;
        lock(&self.agenda).push_back((due, number));
    }

    /// Ends the calls that are due, until a moment.
    fn keep_agenda_until(&self, moment: Instant) {
        loop {
            let now = self.clock.now();
            while let Some(number) = self.next_due(now) {
                self.end(number);
            }
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    fn next_due(&self, now: u64) -> Option<u32> {
        let mut agenda = lock(&self.agenda);
        agenda.front().filter(|(due, _)| *due <= now)?;
        agenda.pop_front().map(|(_, number)| number)
    }

    /// Cancels a call that rings, hangs up one that was answered.
    fn end(&self, number: u32) {
        let Some(call) = self.book.call(number).filter(|call| call.ended.load(Ordering::Relaxed) == 0) else { return };
        let Some(contact) = self.contact_of(call) else { return };
        let bye = lock(&call.bye).take();
        if let Some(bye) = bye {
            contact.way.send(bye);
        } else if call.answered.load(Ordering::Relaxed) == 0 {
            let account = call.account.load(Ordering::Relaxed);
            contact.way.send(self.head("CANCEL", &contact.uri, number, account, None) + "Content-Length: 0\r\n\r\n");
        }
    }

    fn invite(&self, number: u32, account: u32) {
        let (Some(call), Some(place)) = (self.book.call(number), self.accounts.get(account as usize)) else { return };
        call.account.store(account, Ordering::Relaxed);
        let Some(contact) = place.contact() else {
            // Unregistered: an INVITE that the SIP server has nowhere to send.
            call.sent.store(self.clock.now(), Ordering::Relaxed);
            return self.on_end(call, self.clock.now(), 480);
        };
        let bytes = self.compose_invite(number, account, &contact.uri);
        let _ = call.contact.set(contact.clone());
        place.call.store(number + 1, Ordering::Relaxed);
        call.sent.store(self.clock.now(), Ordering::Relaxed);
        contact.way.send(bytes);
    }

    fn contact_of(&self, call: &Call) -> Option<Arc<accounts::Contact>> {
        call.contact.get().cloned()
    }

    fn number_of(&self, message: &Message) -> Option<u32> {
        let (number, run) = message.call_id()?.split_once('.')?;
        number.parse().ok().filter(|_| run == self.run)
    }
}

/// The numbers below `count` in an order that looks random and is the same each time.
pub fn shuffled(count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for place in (1..order.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(place, ((state >> 33) as usize) % (place + 1));
    }
    order
}

/// The messages that the caller writes.
impl Caller {
    /// A request's head up to CSeq. `to` is the To of an answer; without it the call has none yet.
    fn head(&self, method: &str, uri: &str, number: u32, account: u32, to: Option<&str>) -> String {
        let (via, local, run) = (self.via(), self.local, &self.run);
        let user = accounts::user(account);
        let own = format!("<sip:{user}@{DOMAIN}>");
        let to = to.unwrap_or(&own);
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{via} {local};branch=z9hG4bK{run}{number};rport\r\n\
             Max-Forwards: 70\r\nFrom: \"Load Test Caller\" <sip:caller{number}@{DOMAIN}>;tag=f{number}\r\nTo: {to}\r\n\
             Call-ID: {number}.{run}\r\nCSeq: 1 {method}\r\n"
        )
    }

    fn via(&self) -> &'static str {
        match self.upstream {
            Upstream::Udp => "UDP",
            Upstream::Tls => "TLS",
        }
    }

    /// As long as the INVITE of a desk phone behind a PBX: about 1,500 bytes.
    fn compose_invite(&self, number: u32, account: u32, uri: &str) -> Bytes {
        let (via, local) = (self.via(), self.local);
        let ip = local.ip();
        let sdp = format!(
            "v=0\r\no=- {number} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio 40000 RTP/AVP 96 9 8 0 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1;maxptime=60\r\n\
             a=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
             a=fmtp:101 0-16\r\na=ptime:20\r\na=rtcp:40001 IN IP4 {ip}\r\na=sendrecv\r\n"
        );
        let head = self.head("INVITE", uri, number, account, None);
        let body = format!(
            "Contact: <sip:caller{number}@{local};transport={}>\r\nUser-Agent: sipwake load generator\r\n\
             Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, INFO, MESSAGE, UPDATE, PRACK\r\n\
             Supported: replaces, timer, outbound, path\r\nSession-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\n\
             P-Asserted-Identity: \"Load Test Caller\" <sip:caller{number}@{DOMAIN}>\r\nP-Preferred-Service: voice\r\n\
             Date: Sat, 21 Nov 2026 09:00:00 GMT\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}",
            via.to_ascii_lowercase(),
            sdp.len()
        );
        (head + &body).into()
    }

    /// ACK of a failure: in the INVITE's transaction (RFC 3261 §17.1.1.3).
    fn acknowledge_failure(&self, number: u32, call: &Call, response: &Message) {
        let Some(contact) = self.contact_of(call) else { return };
        let head =
            self.head("ACK", &contact.uri, number, call.account.load(Ordering::Relaxed), response.text(Name::To));
        contact.way.send(head + "Content-Length: 0\r\n\r\n");
    }

    /// A request in the dialog that an answer made (RFC 3261 §12.2.1.1).
    fn in_dialog(&self, method: &str, cseq: u32, number: u32, answer: &Message) -> Bytes {
        let contacts = answer.contacts();
        let target = contacts.first().and_then(|it| it.target()).unwrap_or_default();
        let mut routes: Vec<&str> = answer.elements(Name::RecordRoute).collect();
        routes.reverse();
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let (via, local, run) = (self.via(), self.local, &self.run);
        let to = answer.text(Name::To).unwrap_or_default();
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{via} {local};branch=z9hG4bK{method}{run}{number};rport\r\n\
             {routes}Max-Forwards: 70\r\nFrom: \"Load Test Caller\" <sip:caller{number}@{DOMAIN}>;tag=f{number}\r\n\
             To: {to}\r\nCall-ID: {number}.{run}\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n"
        );
        text.into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
