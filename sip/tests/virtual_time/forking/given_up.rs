//! A caller that gives up while one device rings and its siblings do not.

use sip::endpoint::*;
use sip::id::InstanceId;

use super::reconnecting::cancel;
use super::*;
use crate::world::World;

/// Device 1 rings, device 2 has left the INVITE without an answer, device 3 is being woken, and the caller has given up.
fn given_up() -> World {
    let mut world = devices(3);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    answer(&mut world, 1, 180);
    world.advance(seconds(1));
    cancel(&mut world);
    world
}

/// The devices that may still answer, as the shell was told.
fn crossing(world: &World) -> Vec<(InstanceId, CallState)> {
    let told = world.events.iter().filter_map(|event| match event {
        Event::GivenUp { instance, state, .. } => Some((*instance, *state)),
        _ => None,
    });
    told.collect()
}

fn missed(world: &World) -> Vec<InstanceId> {
    let missed = world.events.iter().filter_map(|event| match event {
        Event::Missed { call, .. } => Some(call.instance),
        _ => None,
    });
    missed.collect()
}

#[test]
fn a_call_that_its_caller_gives_up_is_over_at_once_for_all_devices_but_the_one_that_rings() {
    let mut world = given_up();
    let over = [(device(2), CallState::Cancelled), (device(3), CallState::Cancelled)];
    assert_eq!((ends(&world), crossing(&world)), (over.to_vec(), vec![(device(1), CallState::Cancelled)]));
    assert_eq!(finals(&world), [], "the 200 of the one that rings may cross the CANCEL");
    let before = world.count("INVITE");
    attach(&mut world, 3);
    assert_eq!(world.count("INVITE"), before);
    world.advance(seconds(4));
    assert_eq!((finals(&world), ended(&world)), (vec![487], vec![CallState::Cancelled]));
    assert_eq!(ends(&world).last(), Some(&(device(1), CallState::Cancelled)));
    assert_eq!((missed(&world), world.wakes().len()), (vec![device(1), device(2), device(3)], 1));
}

#[test]
fn a_device_that_answers_as_its_caller_gives_up_has_the_call_and_nobody_misses_it() {
    let mut world = given_up();
    answer(&mut world, 1, 200);
    assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));
    assert_eq!((ends(&world).last(), missed(&world)), (Some(&(device(1), CallState::Answered)), vec![]));
}

#[test]
fn a_device_that_had_said_nothing_when_its_caller_gave_up_is_late() {
    let mut world = given_up();
    answer(&mut world, 2, 200);
    assert_eq!((finals(&world), world.count("ACK"), world.count("BYE")), (vec![], 1, 1));
    answer(&mut world, 1, 487);
    assert_eq!((finals(&world), ended(&world)), (vec![487], vec![CallState::Cancelled]));
}
