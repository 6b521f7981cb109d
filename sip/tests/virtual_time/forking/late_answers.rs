//! REGISTERs that are answered after they were given up, when another device's credentials have taken the place of those that they went with.

use sip::endpoint::*;
use sip::message::Message;

use super::*;
use crate::world::World;

/// The first device is being refreshed, its SIP server has left that unanswered, and no flow is up; the REGISTER.
fn given_up() -> (World, Message) {
    let mut world = devices(1);
    until_refreshed(&mut world);
    let register = world.last("REGISTER");
    world.dial = false;
    world.advance(seconds(33));
    assert!(!world.endpoint.is_registered(world.binding));
    world.sent.clear();
    (world, register)
}

/// Another device joins, with another password.
fn joins(world: &mut World) {
    join_as(world, 2, false, None);
}

fn leaves(world: &mut World) {
    world.input(Input::Unbind { instance: device(1), deadline: seconds(60) });
}

/// Whether a device was told to be registered.
fn is_told(world: &World, number: u64) -> bool {
    let is = |event: &Event| matches!(event, Event::Registered { instance, .. } if *instance == device(number));
    world.events.iter().any(is)
}

#[test]
fn what_one_device_is_granted_late_proves_no_other_ones_password() {
    type Steps = &'static [fn(&mut World)];
    let ways: [(&str, Steps); 3] = [
        ("it is checked", &[joins]),
        ("it is checked, and the first one is gone", &[joins, leaves]),
        ("the first one is being unregistered", &[leaves, joins]),
    ];
    for (way, steps) in ways {
        let (mut world, register) = given_up();
        steps.iter().for_each(|step| step(&mut world));
        let source = world.upstream;
        world.reply(source, &register, 200, &[("Expires", "3600")], "");
        assert!(!is_told(&world, 2), "{way}");
        assert!(!members(&world).contains(&device(2)), "{way}");
        // Its own password is what its SIP server is asked.
        world.input(Input::Dialled {
            upstream: world::REGISTRAR,
            flow: world.upstream.flow,
            transport: world.upstream.transport,
        });
        world.advance(seconds(1));
        if world.last("REGISTER").number(Name::Expires) == Some(0) {
            world.respond(200, &[]);
        }
        world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
        assert_eq!(asked(&world).last(), Some(&device(2)), "{way}");
        world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
        assert!(world.events.iter().any(|event| refused(event, 2)), "{way}");
    }
}

#[test]
fn what_one_device_is_granted_late_counts_for_it_where_none_has_taken_its_place() {
    let (mut world, register) = given_up();
    let source = world.upstream;
    world.reply(source, &register, 200, &[("Expires", "3600")], "");
    assert!(is_told(&world, 1) && world.endpoint.is_registered(world.binding));
}

#[test]
fn a_late_challenge_to_a_device_that_joins_shows_no_refused_credentials_before_their_pause_is_over() {
    let mut world = devices(1);
    until_refreshed(&mut world);
    world.respond(403, &[]);
    world.sent.clear();
    joins(&mut world);
    let register = world.last("REGISTER");
    world.advance(seconds(33));
    world.sent.clear();
    let source = world.upstream;
    world.reply(source, &register, 401, &[("WWW-Authenticate", CHALLENGE)], "");
    assert_eq!((asked(&world), world.count("REGISTER")), (vec![], 0));
}
