//! Events of an unregistration, in virtual time: that the SIP server confirmed it, when it did.

use sip::endpoint::*;
use sip::message::Name;

use crate::world::{World, seconds, server_address};
use sip::id::FlowId;

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
        Event::Unbound { confirmed, .. } => Some(*confirmed),
        _ => None,
    })
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
        world.advance(seconds(300));
        assert_eq!(world.count("REGISTER"), sent, "once, {answer:?}");
        disable(&mut world);
        assert_eq!((world.count("REGISTER"), confirmed(&world)), (sent + 1, None), "{answer:?}");
        world.respond(200, &[]);
        assert_eq!(confirmed(&world), Some(true), "{answer:?}");
    }
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
            taken_from: None,
        };
        world.input(Input::Bind(Box::new(new)));
        assert_eq!(world.count("REGISTER"), registers);
        disable(&mut world);
        assert_eq!((world.last("REGISTER").number(Name::Expires), confirmed(&world)), (Some(0), None));
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
