//! Events of an unregistration, in virtual time: that the SIP server confirmed it, when it did.

use std::sync::Arc;

use sip::endpoint::*;
use sip::id::{FlowId, InstanceId};
use sip::message::{Message, Name};

use crate::world::{World, seconds, server_address};

const CHALLENGE: (&str, &str) = ("WWW-Authenticate", "Digest realm=\"x\", nonce=\"n\", qop=\"auth\"");

/// A world that was granted a minute, whose refresh is under way.
fn refreshing() -> World {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    world.grant(60);
    let sent = world.count("REGISTER");
    while world.count("REGISTER") == sent {
        world.advance(seconds(1));
    }
    world
}

/// The result that the shell was told, once its device was disabled; `None`: nothing yet.
fn confirmed(world: &World) -> Option<bool> {
    world.events.iter().find_map(|event| match event {
        Event::Unbound { outcome, .. } => Some(*outcome == Unbinding::Confirmed),
        _ => None,
    })
}

fn answer(world: &mut World, register: &Message, status: u16) {
    world.reply(world.upstream, register, status, &[], "");
}

fn disable(world: &mut World) {
    let instance = world.instance;
    world.input(Input::Unbind { instance, deadline: seconds(3) });
}

#[test]
fn an_account_whose_refresh_was_refused_is_unregistered_before_it_is_said_to_be() {
    for status in [403, 404, 604, 400, 429, 480, 500, 302] {
        let mut world = refreshing();
        world.respond(status, &[]);
        let sent = world.count("REGISTER");
        disable(&mut world);
        assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent + 1, None), "{status}");
        assert_eq!(world.last("REGISTER").number(Name::Expires), Some(0));
        world.respond(200, &[]);
        assert_eq!(confirmed(&world), Some(true), "{status}");
    }
}

#[test]
fn refused_credentials_unregister_nothing_and_that_is_said() {
    let mut world = refreshing();
    for _ in 0..2 {
        world.respond(401, &[CHALLENGE]);
    }
    let sent = world.count("REGISTER");
    disable(&mut world);
    assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent, Some(false)), "they are sent no second time");
    // The Contact has run out before.
    let mut world = refreshing();
    for _ in 0..2 {
        world.respond(401, &[CHALLENGE]);
    }
    world.advance(seconds(60));
    disable(&mut world);
    assert_eq!(confirmed(&world), Some(true));
}

#[test]
fn an_unregistration_after_which_the_contact_is_listed_is_not_confirmed() {
    for (left, gone) in [(571, false), (0, true)] {
        let mut world = World::registered();
        disable(&mut world);
        let register = world.last("REGISTER");
        let contact = register.text(Name::Contact).unwrap().split_once('>').unwrap().0;
        world.respond(200, &[("Contact", &format!("{contact}>;expires={left}"))]);
        assert_eq!(confirmed(&world), Some(gone), "{left}");
    }
}

#[test]
fn an_app_in_the_foreground_whose_unregistration_failed_is_unregistered_at_its_end() {
    for answer in [Some(500), Some(403), None] {
        let mut world = World::registered();
        let instance = world.instance;
        world.input(Input::Suspend(instance));
        match answer {
            Some(status) => world.respond(status, &[]),
            None => world.advance(seconds(40)),
        }
        let sent = world.count("REGISTER");
        disable(&mut world);
        assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent + 1, None), "{answer:?}");
        world.respond(200, &[]);
        assert_eq!(confirmed(&world), Some(true), "{answer:?}");
    }
}

/// A world that was granted so long, and whose app has just come to the foreground; it has sent no other REGISTER.
fn in_the_foreground(granted: u32) -> World {
    let mut world = World::new(FlowId::Stream(1));
    world.bind();
    world.grant(granted);
    world.sent.clear();
    let instance = world.instance;
    world.input(Input::Suspend(instance));
    world
}

/// The ends of unregistrations that the shell was told.
fn told(world: &World) -> Vec<Result<u16, Option<u16>>> {
    let told = world.events.iter().filter_map(|event| match event {
        Event::Unregistered(_, outcome) => Some(*outcome),
        _ => None,
    });
    told.collect()
}

#[test]
fn an_unregistration_that_fails_while_the_app_is_in_the_foreground_is_tried_again_until_it_is_confirmed() {
    for (answer, headers, from, to) in [
        (Some(500), None, 15, 30),
        (Some(503), Some(("Retry-After", "120")), 120, 120),
        (Some(423), Some(("Min-Expires", "3600")), 15, 30),
        (Some(302), Some(("Contact", "<sip:elsewhere.example>")), 15, 30),
        (Some(403), None, 600, 600),
        (None, None, 15, 30),
    ] {
        let mut world = in_the_foreground(3_600);
        match answer {
            Some(status) => world.respond(status, &headers.into_iter().collect::<Vec<_>>()),
            None => world.advance(seconds(32)),
        }
        assert_eq!(told(&world), [Err(answer)]);
        world.sent.clear();
        world.advance(seconds(from - 1));
        assert_eq!(world.count("REGISTER"), 0, "{answer:?}: not so soon");
        world.advance(seconds(to - from + 2));
        assert_eq!((world.count("REGISTER"), world.last("REGISTER").number(Name::Expires)), (1, Some(0)), "{answer:?}");
        world.respond(200, &[]);
        assert_eq!(told(&world), [Err(answer), Ok(200)]);
        world.advance(seconds(7_200));
        assert_eq!(world.count("REGISTER"), 1, "{answer:?}");
    }
}

#[test]
fn an_unregistration_that_fails_is_tried_no_longer_than_the_contact_stands_and_not_when_the_app_has_gone() {
    let mut world = in_the_foreground(60);
    let mut times = 0;
    for _ in 0..600 {
        let sent = world.count("REGISTER");
        if sent > times {
            times = sent;
            world.respond(503, &[]);
        }
        world.advance(seconds(1));
    }
    assert!((2..=4).contains(&times), "{times}");
    // So is one that is granted, and lists the Contact still.
    let mut world = in_the_foreground(600);
    let contact = world.last("REGISTER").text(Name::Contact).unwrap().split_once('>').unwrap().0.to_owned();
    world.respond(200, &[("Contact", &format!("{contact}>;expires=571"))]);
    assert_eq!(told(&world), [Err(Some(200))]);
    assert_eq!(world.next_register().number(Name::Expires), Some(0));
    // The next goal is followed at once.
    let mut world = in_the_foreground(3_600);
    world.respond(503, &[]);
    let instance = world.instance;
    world.input(Input::Resume(instance));
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(600));
    world.grant(3_600);
    world.sent.clear();
    world.advance(seconds(60));
    assert_eq!(world.count("REGISTER"), 0);
    // A late answer to the unregistration is none to the registration that waits.
    let mut world = in_the_foreground(3_600);
    let (late, instance) = (world.last("REGISTER"), world.instance);
    world.advance(seconds(32));
    world.dial = false;
    world.input(Input::Closed(FlowId::Stream(1)));
    world.input(Input::Resume(instance));
    answer(&mut world, &late, 200);
    assert!(!world.events.iter().skip(1).any(|event| matches!(event, Event::Registered { .. })), "{:?}", world.events);
    // Nor are refused credentials shown again.
    let mut world = in_the_foreground(3_600);
    (0..2).for_each(|_| world.respond(401, &[CHALLENGE]));
    let sent = world.count("REGISTER");
    world.advance(seconds(7_200));
    assert_eq!((world.count("REGISTER"), told(&world)), (sent, vec![Err(Some(401))]));
}

#[test]
fn failed_unregistrations_are_no_failures_of_the_registration_that_follows() {
    let mut world = in_the_foreground(3_600);
    for _ in 0..4 {
        world.respond(503, &[]);
        world.next_register();
    }
    world.respond(503, &[]);
    let instance = world.instance;
    world.input(Input::Resume(instance));
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(600));
    world.respond(503, &[]);
    world.sent.clear();
    world.advance(seconds(31));
    assert_eq!(world.count("REGISTER"), 1);
}

/// A server may ban who asks again so soon for an account that it does not know.
#[test]
fn an_unregistration_that_is_tried_again_ends_no_pause_of_the_registration() {
    let mut world = World::new(FlowId::Stream(1));
    world.bind();
    world.grant(3_600);
    for _ in 0..2 {
        world.next_register();
        world.respond(404, &[]);
    }
    let instance = world.instance;
    world.input(Input::Suspend(instance));
    world.respond(503, &[]);
    assert_eq!(world.next_register().number(Name::Expires), Some(0));
    world.respond(200, &[]);
    world.sent.clear();
    world.input(Input::Resume(instance));
    world.advance(seconds(500));
    assert_eq!(world.count("REGISTER"), 0);
    assert_eq!(world.next_register().number(Name::Expires), Some(600));
}

#[test]
fn an_account_of_an_earlier_run_that_ends_before_its_first_answer_is_unregistered() {
    for (presence, registers) in [(Presence::Background, 1), (Presence::Foreground, 0)] {
        let mut world = World::new(FlowId::Datagram(server_address()));
        let new = NewBinding {
            binding: world.binding,
            instance: world.instance,
            aor: "sip:alice@example.com".into(),
            registrar: "sip:example.com".into(),
            upstream: crate::world::REGISTRAR,
            sip_instance: [0xab; 16],
            presence,
            proven: true,
            same_as: None,
            taken_from: Vec::new(),
        };
        world.input(Input::Bind(Box::new(new)));
        assert_eq!(world.count("REGISTER"), registers);
        let register = (registers > 0).then(|| world.last("REGISTER"));
        disable(&mut world);
        assert_eq!((world.last("REGISTER").number(Name::Expires), confirmed(&world)), (Some(0), None));
        if let Some(register) = register {
            answer(&mut world, &register, 403);
        }
        world.respond(200, &[]);
        assert_eq!(confirmed(&world), Some(true));
    }
}

#[test]
fn a_register_under_way_is_not_repeated_once_the_binding_is_to_be_gone() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    assert_eq!(world.count("REGISTER"), 1);
    let instance = world.instance;
    world.input(Input::Unbind { instance, deadline: seconds(3) });
    assert!(world.count("REGISTER") > 1, "its end does not wait for an answer");
    world.sent.clear();
    world.advance(seconds(60));
    let again = world.sent.iter().filter(|sent| sent.message.number(Name::Expires) != Some(0)).count();
    assert_eq!(again, 0, "the registration that nobody wants any more");
}

/// Another relay has one of two devices again, whose Contact stands there: the device that is left, in the foreground, takes it from nobody.
#[test]
fn the_contact_of_another_relay_that_has_a_device_again_is_not_unregistered_for_those_that_are_left() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    let hosts = || -> Box<str> { "earlier.test:5070".into() };
    let taken_from = vec![Arc::new(ContactHosts { udp: hosts(), tcp: hosts(), tls: hosts() })];
    let (first, second) = (world.instance, InstanceId::new(0x77 << 64, world.instance.tag()));
    for (instance, presence) in [(first, Presence::Background), (second, Presence::Foreground)] {
        let new = NewBinding {
            binding: world.binding,
            instance,
            aor: "sip:alice@example.com".into(),
            registrar: "sip:example.com".into(),
            upstream: crate::world::REGISTRAR,
            sip_instance: [0xab; 16],
            presence,
            proven: true,
            same_as: None,
            taken_from: taken_from.clone(),
        };
        world.input(Input::Bind(Box::new(new)));
    }
    assert!(world.last("REGISTER").text(Name::Contact).unwrap().contains("earlier.test"));
    assert!(world.endpoint.is_taking_over(world.binding));
    world.respond(503, &[]);
    assert!(!world.endpoint.is_taking_over(world.binding), "it may fail for long");
    world.sent.clear();
    world.input(Input::Release(first));
    world.advance(seconds(3600));
    assert_eq!(world.count("REGISTER"), 0, "nothing was granted here");
    world.input(Input::Resume(second));
    world.advance(seconds(60));
    assert!(!world.last("REGISTER").text(Name::Contact).unwrap().contains("earlier.test"));
}

/// The answer to the REGISTER that was overtaken, and the confirmation of the unregistration, in both orders.
#[test]
fn a_refresh_that_is_granted_behind_the_unregistration_is_followed_by_another_one() {
    for (status, is_taken) in [(200, true), (500, true), (408, true), (403, false), (401, false)] {
        for is_answered_first in [true, false] {
            let case = (status, is_answered_first);
            let mut world = refreshing();
            let refresh = world.last("REGISTER");
            let sent = world.count("REGISTER");
            disable(&mut world);
            let first = world.last("REGISTER");
            assert_eq!(
                (world.count("REGISTER"), first.number(Name::Expires)),
                (sent + 1, Some(0)),
                "at once, {case:?}"
            );
            if is_answered_first {
                answer(&mut world, &refresh, status);
                assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent + 1, None), "one by one, {case:?}");
            }
            answer(&mut world, &first, 200);
            if !is_answered_first {
                assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent + 1, None), "{case:?}");
                answer(&mut world, &refresh, status);
            }
            if is_taken {
                let second = world.last("REGISTER");
                let asked = (world.count("REGISTER"), second.number(Name::Expires), confirmed(&world));
                assert_eq!(asked, (sent + 2, Some(0), None), "{case:?}");
                answer(&mut world, &second, 200);
            }
            assert_eq!(confirmed(&world), Some(true), "{case:?}");
        }
    }
}

#[test]
fn an_unregistration_that_has_overtaken_what_is_never_answered_ends_in_time_and_is_not_confirmed() {
    let mut world = refreshing();
    world.sent.clear();
    disable(&mut world);
    world.advance(seconds(1));
    let again = world.sent.iter().filter(|sent| sent.message.number(Name::Expires) != Some(0)).count();
    assert_eq!(again, 0, "what was overtaken is not sent again before the answer");
    world.respond(200, &[]);
    world.advance(seconds(1));
    assert_eq!(confirmed(&world), None);
    world.advance(seconds(1));
    assert_eq!(confirmed(&world), Some(false));
    world.sent.clear();
    world.advance(seconds(60));
    assert_eq!(world.count("REGISTER"), 0, "nor behind the end");
}

/// By UDP the refresh is lost, and the registrar has never seen it.
#[test]
fn a_lost_refresh_is_sent_again_behind_the_answer_to_the_unregistration_and_what_it_brings_is_unregistered() {
    for (status, is_taken) in [(200, true), (403, false), (401, false)] {
        let mut world = refreshing();
        let refresh = world.last("REGISTER");
        disable(&mut world);
        world.respond(200, &[]);
        world.advance(seconds(1));
        let again = world.last("REGISTER");
        assert_eq!((again.cseq(), again.number(Name::Expires)), (refresh.cseq(), refresh.number(Name::Expires)));
        let sent = world.count("REGISTER");
        answer(&mut world, &again, status);
        if is_taken {
            let second = world.last("REGISTER");
            assert_eq!((world.count("REGISTER"), second.number(Name::Expires)), (sent + 1, Some(0)));
            assert_eq!(confirmed(&world), None);
            answer(&mut world, &second, 200);
        }
        assert_eq!(confirmed(&world), Some(true), "{status}");
        let sent = world.count("REGISTER");
        world.advance(seconds(60));
        assert_eq!(world.count("REGISTER"), sent, "{status}");
    }
}

/// What it brings could not be unregistered before the end.
#[test]
fn a_lost_refresh_is_sent_again_during_the_first_half_of_the_time_alone() {
    let half = seconds(3) / 2;
    let refreshes = |world: &World| world.sent.iter().filter(|it| it.message.number(Name::Expires) != Some(0)).count();
    for is_late in [false, true] {
        let mut world = refreshing();
        disable(&mut world);
        let before = if is_late {
            world.advance(half);
            let before = refreshes(&world);
            world.respond(200, &[]);
            before
        } else {
            let before = refreshes(&world);
            world.respond(200, &[]);
            world.advance(half);
            assert!(refreshes(&world) > before, "it is sent again");
            refreshes(&world)
        };
        world.advance(half);
        assert_eq!((refreshes(&world), confirmed(&world)), (before, Some(false)), "{is_late}");
    }
}

#[test]
fn an_account_that_is_enabled_again_while_its_end_waits_is_registered() {
    let mut world = refreshing();
    let refresh = world.last("REGISTER");
    disable(&mut world);
    world.respond(200, &[]);
    world.bind();
    let register = world.last("REGISTER");
    assert_eq!(register.number(Name::Expires), Some(600));
    answer(&mut world, &refresh, 200);
    let sent = world.count("REGISTER");
    world.grant(600);
    world.advance(seconds(5));
    assert_eq!(world.count("REGISTER"), sent);
}
