//! SIP servers: each with its own nature, and moods that come and go.
//!
//! A server of good nature is well most of the time. It falls silent, dies and comes back with an empty location table,
//! is busy (503 with Retry-After), slow, loses datagrams, or breaks its streams. A hostile one misbehaves all the time in
//! its own way, and nothing is expected of it but that it cannot make the relay spin.
//!
//! Invariant: a REGISTER without the right digest changes nothing; a repeated datagram gets the same answer; a REGISTER
//! whose CSeq does not rise within its Call-ID changes nothing (RFC 3261 §10.3).

use std::collections::{BTreeMap, HashMap, VecDeque};

use sip::auth::{Credentials, Hash, challenge_value};
use sip::message::{Composer, Limits, Message, Method, Name};

use super::agenda::{At, HOUR, MINUTE, MS, S};
use super::network::{Frame, Peer};
use super::world::{Happening, World};

/// The realm of every server.
pub const REALM: &str = "r.test";

/// How a server feels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// The server is well.
    Well,
    /// The server answers nothing; its streams stay up.
    Silent,
    /// The process is gone.
    Down,
    /// 503 with this Retry-After, in seconds.
    Busy(u32),
    /// The server answers after seconds.
    Slow,
    /// Its network loses datagrams.
    Lossy,
}

/// How a server misbehaves for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hostility {
    /// The server calls every nonce stale.
    StaleForever,
    /// The server grants a second, for one hour of six.
    GrantsOne,
    /// The server grants nothing.
    GrantsZero,
    /// The server closes the stream at every REGISTER; on UDP it is silent.
    Hangs,
    /// 401 to every answer.
    NeverPleased,
    /// A failure of one kind or another.
    Fails,
}

const HOSTILITIES: [Hostility; 6] = [
    Hostility::StaleForever,
    Hostility::GrantsOne,
    Hostility::GrantsZero,
    Hostility::Hangs,
    Hostility::NeverPleased,
    Hostility::Fails,
];

/// The properties of a server.
#[derive(Clone, Debug)]
pub struct Nature {
    /// The way in which it misbehaves, if it does.
    pub hostile: Option<Hostility>,
    hash: Hash,
    nonce_life: At,
    /// A nonce is good once.
    once: bool,
    shortest: u32,
    /// The longest lifetime that it grants, in seconds.
    pub longest: u32,
    pongs: bool,
    /// Whether it knows `+sip.instance` (RFC 5626).
    outbound: bool,
}

#[derive(Clone, Debug)]
struct Place {
    contact: String,
    binding: String,
    instance: Option<String>,
    stream: Option<u64>,
    expires_at: At,
    call_id: String,
    cseq: u32,
}

/// One SIP server.
#[derive(Debug)]
pub struct Registrar {
    /// Whether it is reached by streams.
    pub stream: bool,
    /// Its properties.
    pub nature: Nature,
    /// Its present mood.
    pub mood: Mood,
    /// Since when it is well and promised nothing else.
    pub well_since: At,
    /// Rises with each trouble, so that a call knows whether its way was good.
    pub troubles: u64,
    /// Streams from the relay that may stand.
    pub streams: Vec<u64>,
    nonces: HashMap<String, (At, u32)>,
    nonce_order: VecDeque<String>,
    answered: HashMap<String, Message>,
    answered_order: VecDeque<(At, String)>,
    /// By slot.
    places: BTreeMap<usize, Vec<Place>>,
    /// REGISTERs with a wrong digest, by binding.
    pub wrong: BTreeMap<String, u32>,
}

/// Where a call goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The Request-URI.
    pub contact: String,
    /// Its user.
    pub binding: String,
    /// The stream that it was registered by.
    pub stream: Option<u64>,
}

impl Registrar {
    /// Whether calls and registrations are answered in good time.
    pub fn serves(&self) -> bool {
        self.nature.hostile.is_none() && matches!(self.mood, Mood::Well | Mood::Lossy)
    }

    /// Whether a binding is registered at this moment.
    pub fn knows(&self, now: At, slot: usize, binding: &str) -> bool {
        let places = self.places.get(&slot).map(Vec::as_slice).unwrap_or_default();
        places.iter().any(|place| place.binding == binding && place.expires_at > now)
    }

    /// Where the calls of a slot go, the newest first.
    pub fn targets(&self, now: At, slot: usize) -> Vec<Target> {
        let places = self.places.get(&slot).map(Vec::as_slice).unwrap_or_default();
        let target = |place: &Place| Target {
            contact: place.contact.clone(),
            binding: place.binding.clone(),
            stream: place.stream,
        };
        places.iter().rev().filter(|place| place.expires_at > now).map(target).collect()
    }

    /// The host that its messages name.
    pub fn host(number: usize) -> String {
        super::network::registrar_address(number).ip().to_string()
    }

    fn remember(&mut self, now: At, branch: String, answer: Message) {
        while self.answered_order.front().is_some_and(|(at, _)| *at + 40 * S < now) {
            if let Some((_, old)) = self.answered_order.pop_front() {
                self.answered.remove(&old);
            }
        }
        self.answered_order.push_back((now, branch.clone()));
        self.answered.insert(branch, answer);
    }
}

impl World {
    pub(super) fn new_registrar(&mut self, number: usize, of: usize) -> Registrar {
        // Each kind of hostility once, when there are enough servers.
        let hostile = number.checked_sub(of - of / 6).map(|at| HOSTILITIES[at % HOSTILITIES.len()]);
        let pick =
            |random: &mut sip::random::Random, from: &[u32]| from[random.between(0, from.len() as u64 - 1) as usize];
        let nature = Nature {
            hostile,
            hash: if self.random.between(0, 3) == 0 { Hash::Sha256 } else { Hash::Md5 },
            nonce_life: At::from(pick(&mut self.random, &[60, 1_800, 7_200, 7_200])) * S,
            once: self.random.between(0, 9) == 0,
            shortest: pick(&mut self.random, &[1, 1, 60, 60, 900, 1_800]),
            longest: pick(&mut self.random, &[300, 600, 600, 600, 3_600, 3_600]),
            pongs: self.random.between(0, 1) == 0,
            outbound: self.random.between(0, 1) == 0,
        };
        let first = self.random.between(20 * MINUTE, 8 * HOUR);
        self.agenda.plan(first, Happening::Trouble(number));
        Registrar {
            stream: number % 2 == 1,
            nature: Nature { longest: nature.longest.max(nature.shortest), ..nature },
            mood: Mood::Well,
            well_since: 0,
            troubles: 0,
            streams: Vec::new(),
            nonces: HashMap::new(),
            nonce_order: VecDeque::new(),
            answered: HashMap::new(),
            answered_order: VecDeque::new(),
            places: BTreeMap::new(),
            wrong: BTreeMap::new(),
        }
    }

    /// A trouble begins.
    pub(super) fn on_trouble(&mut self, number: usize) {
        if self.quiet || self.registrars[number].nature.hostile.is_some() {
            return;
        }
        let (mood, lasts) = match self.random.between(0, 9) {
            0 => (Mood::Silent, self.random.between(MINUTE, 3 * HOUR)),
            1 | 2 => (Mood::Silent, self.random.between(5 * S, 5 * MINUTE)),
            3 | 4 => (Mood::Down, self.random.between(5 * S, 20 * MINUTE)),
            5 => (Mood::Busy(self.random.between(5, 600) as u32), self.random.between(MINUTE, 20 * MINUTE)),
            6 => (Mood::Slow, self.random.between(MINUTE, HOUR)),
            7 => (Mood::Lossy, self.random.between(MINUTE, HOUR)),
            _ => (Mood::Well, 0),
        };
        self.watch_registrar(number, || format!("feels {mood:?} for {} s", lasts / S));
        let registrar = &mut self.registrars[number];
        registrar.mood = mood;
        registrar.troubles += 1;
        registrar.well_since = At::MAX;
        if matches!(mood, Mood::Down | Mood::Well) {
            self.break_streams(number);
        }
        if mood == Mood::Down {
            let registrar = &mut self.registrars[number];
            registrar.places.clear();
            registrar.nonces.clear();
            registrar.nonce_order.clear();
        }
        self.agenda.plan(lasts, Happening::Recovery(number));
    }

    pub(super) fn on_recovery(&mut self, number: usize) {
        let now = self.agenda.now();
        let registrar = &mut self.registrars[number];
        let promised = if let Mood::Busy(seconds) = registrar.mood { At::from(seconds) * S } else { 0 };
        registrar.mood = Mood::Well;
        registrar.troubles += 1;
        registrar.well_since = now + promised;
        self.watch_registrar(number, || "is well".to_owned());
        let next = self.random.between(30 * MINUTE, 12 * HOUR);
        self.agenda.plan(next, Happening::Trouble(number));
    }

    pub(super) fn break_streams(&mut self, number: usize) {
        for flow in std::mem::take(&mut self.registrars[number].streams) {
            if self.random.between(0, 3) == 0 {
                self.vanish(flow);
            } else {
                self.close_by_peer(flow);
            }
        }
    }

    /// Passes a frame from the relay to a server.
    pub(super) fn registrar_receives(&mut self, number: usize, stream: Option<u64>, frame: Frame) {
        if matches!(self.registrars[number].mood, Mood::Silent | Mood::Down) {
            return;
        }
        let message = match frame {
            Frame::Ping => {
                if let Some(flow) = stream.filter(|_| self.registrars[number].nature.pongs) {
                    self.send_to_relay(flow, Frame::Pong);
                }
                return;
            }
            Frame::Pong => return,
            Frame::Message(message) => message,
        };
        match message.method() {
            Some(Method::Register) => self.on_register(number, stream, &message),
            _ => self.caller_receives(number, stream, message),
        }
    }

    fn on_register(&mut self, number: usize, stream: Option<u64>, register: &Message) {
        let Some(branch) = register.via().and_then(|via| via.branch()).map(str::to_owned) else { return };
        let again = self.registrars[number].answered.get(&branch).filter(|_| stream.is_none());
        if let Some(answer) = again.cloned() {
            return self.send_from_registrar(number, stream, answer);
        }
        if self.registrars[number].nature.hostile == Some(Hostility::Hangs) {
            if let Some(flow) = stream {
                self.close_by_peer(flow);
            }
            return;
        }
        let answer = self.answer_register(number, stream, register);
        let now = self.agenda.now();
        if stream.is_none() {
            self.registrars[number].remember(now, branch, answer.clone());
        }
        let after = match self.registrars[number].mood {
            Mood::Slow => self.random.between(S, 20 * S),
            _ => self.random.between(0, 5 * MS),
        };
        self.agenda.plan(after, Happening::RegistrarSends { number, stream, message: answer });
    }

    pub(super) fn send_from_registrar(&mut self, number: usize, stream: Option<u64>, message: Message) {
        if matches!(self.registrars[number].mood, Mood::Silent | Mood::Down) {
            return;
        }
        match stream {
            Some(flow) => self.send_to_relay(flow, Frame::Message(message)),
            None => self.datagram_to_relay(number, message),
        }
    }

    fn answer_register(&mut self, number: usize, stream: Option<u64>, register: &Message) -> Message {
        let now = self.agenda.now();
        let plain = |status| respond(register, status, &[]);
        match (self.registrars[number].mood, self.registrars[number].nature.hostile) {
            (Mood::Busy(seconds), _) => return respond(register, 503, &[(Name::RetryAfter, seconds.to_string())]),
            (_, Some(Hostility::StaleForever)) => return self.challenge(number, register, true),
            (_, Some(Hostility::NeverPleased)) => return self.challenge(number, register, false),
            (_, Some(Hostility::Fails)) => {
                let statuses = [500, 503, 408, 480, 302, 600, 500, 503];
                return plain(statuses[self.random.between(0, 7) as usize]);
            }
            _ => {}
        }
        let wanted = register.number(Name::Expires).unwrap_or(3_600);
        let shortest = self.registrars[number].nature.shortest;
        if wanted > 0 && wanted < shortest {
            return respond(register, 423, &[(Name::MinExpires, shortest.to_string())]);
        }
        match self.judge_digest(number, register) {
            Digest::Right => {}
            Digest::Stale => return self.challenge(number, register, true),
            Digest::Absent => return self.challenge(number, register, false),
            Digest::Wrong => {
                self.note_wrong(number, register);
                return self.challenge(number, register, false);
            }
        }
        self.place(now, number, stream, register, wanted)
    }

    fn place(&mut self, now: At, number: usize, stream: Option<u64>, register: &Message, wanted: u32) -> Message {
        let Some((slot, mut place)) = read_place(register) else { return respond(register, 400, &[]) };
        place.stream = stream;
        let registrar = &mut self.registrars[number];
        let granted = match registrar.nature.hostile {
            Some(Hostility::GrantsOne) if now / HOUR % 6 == 1 => wanted.min(1),
            Some(Hostility::GrantsZero) => 0,
            _ => wanted.min(registrar.nature.longest),
        };
        place.expires_at = now + At::from(granted) * S;
        let outbound = registrar.nature.outbound;
        let places = registrar.places.entry(slot).or_default();
        places.retain(|other| other.expires_at > now);
        if places.iter().any(|other| other.call_id == place.call_id && other.cseq >= place.cseq) {
            return respond(register, 500, &[]);
        }
        places.retain(|other| {
            let same = other.contact == place.contact
                || outbound && other.instance.is_some() && other.instance == place.instance;
            !same
        });
        if granted > 0 {
            places.push(place);
        }
        let line =
            |place: &Place| (Name::Contact, format!("<{}>;expires={}", place.contact, (place.expires_at - now) / S));
        let contacts: Vec<_> = places.iter().map(line).collect();
        respond(register, 200, &contacts)
    }

    fn challenge(&mut self, number: usize, register: &Message, stale: bool) -> Message {
        let nonce = self.random.tag();
        let now = self.agenda.now();
        let registrar = &mut self.registrars[number];
        registrar.nonces.insert(nonce.clone(), (now, 0));
        registrar.nonce_order.push_back(nonce.clone());
        if registrar.nonce_order.len() > 5_000
            && let Some(old) = registrar.nonce_order.pop_front()
        {
            registrar.nonces.remove(&old);
        }
        let value = challenge_value(REALM, &nonce, registrar.nature.hash, stale);
        respond(register, 401, &[(Name::WwwAuthenticate, value)])
    }

    fn judge_digest(&mut self, number: usize, register: &Message) -> Digest {
        let Some(credentials) = register.text(Name::Authorization).and_then(Credentials::parse) else {
            return Digest::Absent;
        };
        let slot = register.to().and_then(|to| slot_of(to.user()?));
        let Some(slot) = slot else { return Digest::Wrong };
        let password = self.slots[slot].password.clone();
        let ha1 = self.ha1(slot, credentials.algorithm.hash, &password);
        let now = self.agenda.now();
        let registrar = &mut self.registrars[number];
        let (life, once) = (registrar.nature.nonce_life, registrar.nature.once);
        let right = credentials.verify(&ha1, "REGISTER", b"");
        let Some((made, seen)) = registrar.nonces.get_mut(&*credentials.nonce) else {
            // Forgotten, or never ours: RFC 7616 §3.3 says stale only when the digest is right.
            return if right { Digest::Stale } else { Digest::Wrong };
        };
        let nc = credentials.nc.unwrap_or(1);
        if !right {
            return Digest::Wrong;
        }
        if *made + life < now || nc <= *seen || once && *seen > 0 {
            return Digest::Stale;
        }
        *seen = nc;
        Digest::Right
    }

    fn note_wrong(&mut self, number: usize, register: &Message) {
        let Some((slot, place)) = read_place(register) else { return };
        let count = self.registrars[number].wrong.entry(place.binding.clone()).or_default();
        *count += 1;
        let count = *count;
        self.judge_wrong_password(slot, &place.binding, count);
    }

    /// Passes a stream's frame from the relay to its server or phone.
    pub(super) fn on_to_peer(&mut self, flow: u64, frame: Frame) {
        let Some(stream) = self.network.stream(flow).filter(|stream| stream.peer_open) else { return };
        match stream.peer {
            Peer::Registrar(number) => self.registrar_receives(number, Some(flow), frame),
            Peer::Phone(slot) => self.phone_receives(slot, flow, frame),
        }
    }
}

enum Digest {
    Right,
    Stale,
    Absent,
    Wrong,
}

/// A response with these lines.
pub fn respond(request: &Message, status: u16, lines: &[(Name, String)]) -> Message {
    let response = Composer::response(request, status, Composer::reason(status), Some("srv"));
    let response = lines.iter().fold(response, |response, (name, value)| response.header(*name, value));
    sound(&response.finish())
}

/// Parses a message of a stand-in, which is always sound.
pub fn sound(bytes: &bytes::Bytes) -> Message {
    Message::parse(bytes, &Limits::default()).expect("a simulated peer writes sound messages")
}

/// The slot that a user name of the simulation names.
pub fn slot_of(user: &str) -> Option<usize> {
    user.strip_prefix('u')?.parse().ok()
}

fn read_place(register: &Message) -> Option<(usize, Place)> {
    let slot = slot_of(register.to()?.user()?)?;
    let contacts = register.contacts();
    let contact = contacts.first()?;
    let place = Place {
        contact: contact.target()?.to_owned(),
        binding: contact.user()?.to_owned(),
        instance: contact.params.value("+sip.instance").map(str::to_owned),
        stream: None,
        expires_at: 0,
        call_id: register.call_id()?.to_owned(),
        cseq: register.cseq()?.0,
    };
    Some((slot, place))
}
