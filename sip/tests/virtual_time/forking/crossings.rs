//! A device joins whose credentials are not judged yet, and whatever else happens to the devices of the account happens before, meanwhile or
//! afterwards: all crossings with two such events, and of the frequent ones with three, at a SIP server that takes its time.

use std::collections::{BTreeMap, VecDeque};

use sip::endpoint::*;
use sip::message::{Message, Name};

use super::*;
use crate::world::World;

/// The SIP server's word on the credentials of the second device.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Right,
    /// The credentials are those of the first device.
    Same,
    Wrong,
    Broken,
    Silent,
}

/// What may happen; the first device is lent and registered.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Join,
    Suspend(u64),
    Resume(u64),
    Unbind(u64),
    Release(u64),
    /// The shell knows that the second device has the credentials of the first.
    Vouch,
    /// Another relay has taken the first device, and lets this one know.
    Taken,
    Succeed,
}

use Act::*;

const ACTS: [Act; 11] =
    [Suspend(1), Resume(1), Unbind(1), Release(1), Suspend(2), Resume(2), Unbind(2), Release(2), Vouch, Taken, Succeed];

/// One account of two devices at most, its SIP server, and the shell's part of it.
struct Crossing {
    world: World,
    verdict: Verdict,
    /// The REGISTERs that are not answered yet, each with whose credentials it shows.
    waiting: VecDeque<(Message, Option<u64>)>,
    /// The messages and events that were looked at, and the last REGISTER among them.
    seen: (usize, usize, (String, u32)),
    has_contact: bool,
    /// The devices that are there, each with whether its app is in the foreground.
    there: BTreeMap<u64, bool>,
    accepted: bool,
    taken: bool,
    released: bool,
    /// How often the credentials of the second device were shown.
    shown: usize,
    asked: VecDeque<u64>,
}

impl Crossing {
    /// `third`: whether the app of a third device is in the foreground, where there is one; it has the credentials of the first.
    fn new(verdict: Verdict, third: Option<bool>) -> Self {
        let mut world = World::new(FlowId::Datagram(world::server_address()));
        world.bind();
        let mut crossing = Self {
            world,
            verdict,
            waiting: VecDeque::new(),
            seen: (0, 0, Default::default()),
            has_contact: false,
            there: BTreeMap::from([(1, false)]),
            accepted: false,
            taken: false,
            released: false,
            shown: 0,
            asked: VecDeque::new(),
        };
        crossing.serve_all();
        assert!(crossing.has_contact);
        if let Some(foreground) = third {
            crossing.there.insert(3, foreground);
            join(&mut crossing.world, 3, true);
            if foreground {
                crossing.world.input(Input::Suspend(device(3)));
            }
            crossing.serve_all();
        }
        crossing
    }

    /// Takes in what the endpoint has sent and told.
    fn look(&mut self) {
        loop {
            let (mut refused, sent, told) = (None, self.world.sent.len(), self.world.events.len());
            for event in &self.world.events[self.seen.1..] {
                match event {
                    Event::Challenged { instance, .. } => {
                        self.asked.extend((1..4).find(|number| *instance == device(*number)));
                    }
                    Event::Registered { instance, .. } => self.accepted |= *instance == device(2),
                    Event::RegistrationFailed { instance, failure, .. } if failure.is_final() => {
                        assert_eq!(*instance, device(2), "{failure:?}");
                        refused = Some(2);
                    }
                    _ => {}
                }
            }
            for sent in &self.world.sent[self.seen.0..] {
                let cseq = sent.message.cseq().map_or(0, |(number, _)| number);
                let call_id = sent.message.call_id().unwrap_or_default().to_owned();
                let is_new = call_id != self.seen.2.0 || cseq > self.seen.2.1;
                // A retransmission has the CSeq of what it repeats.
                if sent.message.method_text() == Some("REGISTER") && is_new {
                    self.seen.2 = (call_id, cseq);
                    let by = sent.message.has(Name::Authorization).then(|| self.asked.pop_front().unwrap());
                    self.shown += usize::from(by == Some(2));
                    self.waiting.push_back((sent.message.clone(), by));
                }
            }
            (self.seen.0, self.seen.1) = (sent, told);
            match refused.filter(|number| self.there.remove(number).is_some()) {
                Some(number) => {
                    self.world.input(Input::Unbind { instance: device(number), deadline: seconds(3) });
                }
                None => return,
            }
        }
    }

    /// The SIP server answers the REGISTER that came first; whether there was one.
    fn serve(&mut self) -> bool {
        let Some((register, by)) = self.waiting.pop_front() else { return false };
        let (source, expires) = (self.world.upstream, register.number(Name::Expires).unwrap_or(0));
        match (by, self.verdict) {
            (Some(2), Verdict::Silent) => {}
            (Some(2), Verdict::Broken) => self.world.reply(source, &register, 503, &[], ""),
            (None, _) | (Some(2), Verdict::Wrong) => {
                self.world.reply(source, &register, 401, &[("WWW-Authenticate", CHALLENGE)], "");
            }
            _ => {
                self.has_contact = expires > 0;
                let contact = register.text(Name::Contact).unwrap().to_owned();
                let listed: &[(&str, &str)] =
                    if self.has_contact { &[("Contact", &contact), ("Expires", "600")] } else { &[] };
                self.world.reply(source, &register, 200, listed, "");
            }
        }
        self.look();
        true
    }

    fn serve_all(&mut self) {
        self.look();
        while self.serve() {}
    }

    fn act(&mut self, act: Act) {
        let input = match act {
            Join => {
                self.there.insert(2, false);
                let same_as = (self.verdict == Verdict::Same).then_some(1);
                join_as(&mut self.world, 2, false, same_as);
                return self.look();
            }
            Suspend(number) => {
                self.there.entry(number).and_modify(|foreground| *foreground = true);
                Input::Suspend(device(number))
            }
            Resume(number) => {
                self.there.entry(number).and_modify(|foreground| *foreground = false);
                Input::Resume(device(number))
            }
            Unbind(number) => {
                self.there.remove(&number);
                Input::Unbind { instance: device(number), deadline: seconds(3) }
            }
            Release(number) => {
                self.there.remove(&number);
                self.released = true;
                Input::Release(device(number))
            }
            Vouch => {
                self.accepted = true;
                Input::Vouch(device(2))
            }
            Taken => {
                self.taken = true;
                Input::Taken(device(1))
            }
            Succeed => Input::Succeed { earlier: device(1), successor: device(2) },
        };
        self.world.input(input);
        self.look();
    }

    /// The first thing that is not as it should be, at any moment: what is said to stand must stand.
    fn fault(&self) -> Option<&'static str> {
        let stands = self.world.endpoint.stands_until(self.world.binding).is_some();
        (stands && !self.has_contact).then_some("it is said to stand")
    }

    /// The same when all has been answered.
    fn last_fault(&self) -> Option<&'static str> {
        let (binding, endpoint) = (self.world.binding, &self.world.endpoint);
        let wants = |(number, foreground): (&u64, &bool)| !foreground && (*number != 2 || self.accepted);
        let wanting: Vec<_> = self.there.iter().filter(|it| wants(*it)).map(|(number, _)| device(*number)).collect();
        let (called, counts) = (endpoint.callable_instances(binding), endpoint.counts());
        let is_right = matches!(self.verdict, Verdict::Right | Verdict::Same) && self.there.get(&2) == Some(&false);
        let faults = [
            (!self.taken && is_right && !self.accepted, "it has the right password, and is never asked for it"),
            (
                !(self.taken || wanting.is_empty() || self.has_contact && endpoint.stands_until(binding).is_some()),
                "nobody can call it",
            ),
            (!wanting.iter().all(|it| called.contains(it)), "it is not called"),
            (wanting.is_empty() && !self.released && !self.taken && self.has_contact, "a Contact is left"),
            (self.there.is_empty() && (counts.bindings, counts.devices) != (0, 0), "something is kept"),
        ];
        self.fault().or(faults.iter().find(|(is_so, _)| *is_so).map(|(_, what)| *what))
    }
}

/// Whether each act can happen after those before it.
fn can_be(acts: &[Act]) -> bool {
    // Whether the app of each device is in the foreground; `None`: it is not there.
    let (mut apps, mut told) = ([None, Some(false), None], Vec::new());
    acts.iter().all(|act| match act {
        Join => apps[2].replace(false).is_none(),
        Suspend(number) => apps[*number as usize].replace(true) == Some(false),
        Resume(number) => apps[*number as usize].replace(false) == Some(true),
        Unbind(number) | Release(number) => apps[*number as usize].take().is_some(),
        Vouch | Taken | Succeed => {
            let is_first = !told.contains(act);
            told.push(*act);
            is_first && (*act == Vouch || apps[1].is_some()) && (*act == Taken || apps[2].is_some())
        }
    })
}

/// The acts come one after the other, and after each the SIP server answers so many REGISTERs; the first fault, and how often the second device's password
/// was shown.
fn play(verdict: Verdict, third: Option<bool>, acts: &[Act], answers: usize) -> (Option<&'static str>, usize) {
    let (mut crossing, mut fault) = (Crossing::new(verdict, third), None);
    for act in acts {
        crossing.act(*act);
        for _ in 0..answers {
            fault = fault.or(crossing.fault());
            crossing.serve();
        }
    }
    for _ in 0..14 {
        crossing.serve_all();
        fault = fault.or(crossing.fault());
        crossing.world.advance(seconds(3));
        crossing.look();
    }
    crossing.serve_all();
    (fault.or(crossing.last_fault()), crossing.shown)
}

#[test]
fn whoever_is_lent_is_called_and_whoever_has_left_is_unregistered_however_a_joining_device_crosses_that() {
    let mut sequences = vec![vec![]];
    let (mut faults, mut shown) = (Vec::new(), 0);
    for length in 1..=3 {
        let longer = |acts: &Vec<Act>| ACTS.map(|act| [acts.clone(), vec![act]].concat());
        sequences = sequences.iter().flat_map(longer).collect();
        let thirds: &[_] = if length < 3 { &[None, Some(false), Some(true)] } else { &[None] };
        for (acts, place) in sequences.iter().flat_map(|acts| (0..=length).map(move |place| (acts, place))) {
            let acts = [&acts[..place], &[Join], &acts[place..]].concat();
            // Of three acts those alone by which devices come, go and change their minds.
            let is_rare = |act: &Act| matches!(act, Release(_) | Vouch | Taken | Succeed);
            if !can_be(&acts) || length == 3 && acts.iter().any(is_rare) {
                continue;
            }
            for verdict in [Verdict::Right, Verdict::Same, Verdict::Wrong, Verdict::Broken, Verdict::Silent] {
                if acts.contains(&Vouch) && verdict != Verdict::Same {
                    continue;
                }
                for (third, answers) in thirds.iter().flat_map(|third| (0..4).map(move |answers| (*third, answers))) {
                    let (fault, times) = play(verdict, third, &acts, answers);
                    faults.extend(fault.map(|fault| (fault, verdict, third, acts.clone(), answers)));
                    shown = shown.max(if verdict == Verdict::Wrong { times } else { 0 });
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}: {:?}", faults.len(), &faults[..faults.len().min(30)]);
    assert!(shown <= 4, "a wrong password was shown {shown} times: oftener than acts broke its check off");
}
