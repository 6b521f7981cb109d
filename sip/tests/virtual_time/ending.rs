//! The calls of a process that is about to end.

use sip::endpoint::*;
use sip::message::Name;

use crate::world::{World, seconds};

#[test]
fn the_end_of_the_process_ends_the_calls_that_ring_and_those_that_wait() {
    let mut world = World::registered();
    world.invite("waiting");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.invite("forked");
    world.input(Input::EndCalls { elsewhere: false });
    assert_eq!((world.count("INVITE 480"), world.count("CANCEL")), (2, 1));
    assert_eq!((world.final_states(), world.endpoint.open_calls()), (vec![CallState::TimedOut; 2], 0));
    world.input(Input::EndCalls { elsewhere: false });
    assert_eq!(world.count("INVITE 480"), 2);
}

#[test]
fn a_call_that_comes_when_the_process_is_about_to_end_is_tried_again_elsewhere_and_wakes_nobody() {
    let mut world = World::registered();
    world.invite("waiting");
    let wakes = world.wakes().len();
    world.input(Input::RefuseCalls { elsewhere: true });
    world.invite("late");
    assert_eq!((world.count("INVITE 503"), world.wakes().len(), world.endpoint.open_calls()), (1, wakes, 1));
    assert_eq!(world.last("INVITE 503").text(Name::RetryAfter), Some("1"));
    // What waited before is answered.
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 486, &[], "");
    assert_eq!((world.count("INVITE 486"), world.endpoint.open_calls()), (1, 0));
}

#[test]
fn a_call_that_no_other_node_takes_is_missed_once_however_often_its_invite_comes() {
    let mut world = World::registered();
    world.input(Input::RefuseCalls { elsewhere: false });
    world.invite("late");
    world.invite("late");
    let told = |world: &World| world.events.iter().filter(|event| matches!(event, Event::Refused(_))).count();
    assert_eq!((world.count("INVITE 503"), told(&world), world.wakes().len()), (2, 1, 0));
    world.invite("later");
    assert_eq!((world.count("INVITE 503"), told(&world)), (3, 2));
}

#[test]
fn the_invite_of_an_announced_call_is_taken_until_the_end() {
    let mut world = World::registered();
    let instance = world.instance;
    world.input(Input::ExpectCall { instance, from: "sip:bob@example.com".into(), name: None, wait: seconds(30) });
    world.input(Input::RefuseCalls { elsewhere: false });
    world.invite("announced");
    assert_eq!((world.count("INVITE 503"), world.endpoint.open_calls()), (0, 1));
}

#[test]
fn the_calls_of_a_process_that_ends_go_to_another_node_where_there_is_one() {
    let mut world = World::registered();
    world.invite("waiting");
    world.input(Input::EndCalls { elsewhere: true });
    assert_eq!((world.count("INVITE 503"), world.count("INVITE 480")), (1, 0));
    assert_eq!(world.last("INVITE 503").text(Name::RetryAfter), Some("1"));
}
