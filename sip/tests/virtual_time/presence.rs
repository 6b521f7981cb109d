//! An app that comes to the foreground and goes again, in virtual time: however fast it changes its mind and however slowly
//! the registrar answers, the last word counts, and no call is lost in between.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sip::endpoint::*;
use sip::message::{Message, Name};

use crate::world::World;

/// A registrar that takes its time, differently for each REGISTER.
struct Registrar {
    delays: Vec<Duration>,
    /// The REGISTERs that are being answered, each with the time of its answer.
    waiting: VecDeque<(Instant, Message)>,
    /// The CSeq of the last REGISTER that was seen.
    seen: u32,
    count: usize,
    /// Whether it has the relay's Contact.
    has_relay: bool,
    /// How many REGISTERs were with it at once, at most.
    at_once: usize,
}

impl Registrar {
    fn new(delays: &[u64]) -> Self {
        let delays = delays.iter().map(|ms| Duration::from_millis(*ms)).collect();
        Self { delays, waiting: VecDeque::new(), seen: 0, count: 0, has_relay: true, at_once: 0 }
    }

    /// Takes in what was sent, and answers what is due.
    fn serve(&mut self, world: &mut World) {
        let now = world.now;
        for sent in &world.sent {
            let cseq = sent.message.cseq().map_or(0, |(number, _)| number);
            // A retransmission has the CSeq of what it repeats.
            if sent.message.method_text() == Some("REGISTER") && cseq > self.seen {
                self.seen = cseq;
                let delay = self.delays[self.count % self.delays.len()];
                self.count += 1;
                self.waiting.push_back((now + delay, sent.message.clone()));
            }
        }
        self.at_once = self.at_once.max(self.waiting.len());
        while let Some(place) = self.waiting.iter().position(|(due, _)| *due <= now)
            && let Some((_, register)) = self.waiting.remove(place)
        {
            self.answer(world, &register);
        }
    }

    fn answer(&mut self, world: &mut World, register: &Message) {
        let expires = register.number(Name::Expires).unwrap_or(0);
        self.has_relay = expires > 0;
        let contact = register.text(Name::Contact).unwrap().split_once('>').unwrap().0;
        let contact = format!("{contact}>;expires={expires}");
        let headers: &[(&str, &str)] = if expires > 0 { &[("Contact", &contact)] } else { &[] };
        let source = world.upstream;
        world.reply(source, register, 200, headers, "");
    }

    /// Lets time pass.
    fn run(&mut self, world: &mut World, time: Duration) {
        let until = world.now + time;
        while world.now < until {
            self.serve(world);
            world.advance(Duration::from_millis(10));
        }
        self.serve(world);
    }
}

/// The app comes to the foreground, or goes to the background.
fn say(world: &mut World, foreground: bool) {
    let instance = world.instance;
    world.input(if foreground { Input::Suspend(instance) } else { Input::Resume(instance) });
}

const DELAYS: [&[u64]; 5] = [&[10], &[900], &[3_000, 10], &[10, 700, 50, 2_500], &[400, 20, 20, 5_000, 1]];

#[test]
fn ten_changes_in_a_second_end_in_the_last_one_whatever_the_registrar_does() {
    for delays in DELAYS {
        for changes in [9, 10] {
            for pause in [0, 30, 100] {
                let (mut world, mut registrar) = (World::registered(), Registrar::new(delays));
                for change in 0..changes {
                    say(&mut world, change % 2 == 0);
                    registrar.run(&mut world, Duration::from_millis(pause));
                }
                registrar.run(&mut world, Duration::from_secs(60));
                let foreground = changes % 2 == 1;
                assert_eq!(registrar.has_relay, !foreground, "{delays:?} {changes} {pause}");
                assert!(registrar.at_once <= 1, "one REGISTER after the other: {delays:?} {changes} {pause}");
                assert!(registrar.count <= changes, "never more than was asked for");
                if pause == 0 {
                    assert!(registrar.count <= 2, "what nobody waits for any more is not sent: {}", registrar.count);
                }
                let refused = |event: &Event| matches!(event, Event::RegistrationFailed { .. } | Event::Unbound { .. });
                assert!(!world.events.iter().any(refused), "{delays:?}");
            }
        }
    }
}

#[test]
fn who_is_in_the_foreground_is_not_said_to_be_registered_by_an_answer_that_came_late() {
    let (mut world, mut registrar) = (World::registered(), Registrar::new(&[10, 2_000, 10]));
    say(&mut world, true);
    registrar.run(&mut world, Duration::from_millis(100));
    say(&mut world, false);
    registrar.run(&mut world, Duration::from_millis(100));
    world.events.clear();
    // The REGISTER of the background is still with the registrar.
    say(&mut world, true);
    registrar.run(&mut world, Duration::from_secs(10));
    assert!(!registrar.has_relay);
    assert!(!world.events.iter().any(|event| matches!(event, Event::Registered { .. })));
}

#[test]
fn what_comes_to_a_contact_that_the_registrar_has_long_let_go_of_is_404() {
    let options = |world: &World, call_id: &str| {
        let head = world.head(call_id, "OPTIONS", 1, "");
        format!("OPTIONS sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n", world.binding)
    };
    for let_go in [true, false] {
        let (mut world, mut registrar) = (World::registered(), Registrar::new(&[10]));
        say(&mut world, true);
        if let_go {
            registrar.run(&mut world, Duration::from_secs(1));
        }
        world.advance(Duration::from_secs(30));
        world.invite("crossing");
        let ask = options(&world, "o1");
        world.receive(world.upstream, &ask);
        assert_eq!((world.wakes().len(), world.count("OPTIONS 200")), (1, 1), "{let_go}");
        world.advance(Duration::from_secs(5));
        world.invite("late");
        let ask = options(&world, "o2");
        world.receive(world.upstream, &ask);
        // As long as it may have the Contact, its calls are taken.
        let (calls, refused) = if let_go { (1, 1) } else { (2, 0) };
        assert_eq!(world.wakes().len(), calls, "{let_go}");
        assert_eq!((world.count("INVITE 404"), world.count("OPTIONS 404")), (refused, refused), "{let_go}");
        say(&mut world, false);
        registrar.run(&mut world, Duration::from_secs(1));
        world.invite("again");
        assert_eq!(world.wakes().len(), calls + 1, "{let_go}");
    }
}

#[test]
fn a_call_that_comes_to_the_relays_contact_is_held_and_pushed_at_every_moment_of_a_switch() {
    for delays in DELAYS {
        // Every 50 ms of a second in which the app comes, goes, comes and goes.
        for moment in 0..40 {
            let (mut world, mut registrar) = (World::registered(), Registrar::new(delays));
            let mut called = false;
            for step in 0..40 {
                if step % 10 == 0 {
                    say(&mut world, step % 20 == 0);
                }
                // The registrar sends it where it has, or had a moment ago, the relay's Contact.
                if step == moment {
                    world.invite("in-between");
                    called = true;
                }
                registrar.run(&mut world, Duration::from_millis(50));
            }
            registrar.run(&mut world, Duration::from_secs(15));
            assert!(called && world.count("INVITE 100") > 0, "{delays:?} {moment}");
            assert_eq!(world.wakes().len(), 1, "pushed, once: {delays:?} {moment}");
            assert!(registrar.has_relay, "the last word was background");
            world.attach(1);
            assert_eq!(world.count("INVITE"), 1, "handed over: {delays:?} {moment}");
        }
    }
}

#[test]
fn at_every_moment_somebody_is_registered_when_the_app_does_as_it_is_told() {
    // The app registers by itself before it says foreground, and unregisters when the relay has registered again.
    for delays in DELAYS {
        let (mut world, mut registrar) = (World::registered(), Registrar::new(delays));
        let mut app = false;
        for change in 0..10 {
            if change % 2 == 0 {
                app = true;
                say(&mut world, true);
            } else {
                world.events.clear();
                say(&mut world, false);
            }
            for _ in 0..20 {
                registrar.run(&mut world, Duration::from_millis(5));
                let registered = |event: &Event| matches!(event, Event::Registered { .. });
                if change % 2 == 1 && world.events.iter().any(registered) {
                    app = false;
                }
                assert!(app || registrar.has_relay, "{delays:?}, change {change}");
            }
        }
    }
}
