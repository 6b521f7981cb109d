//! The calls of a process that is about to end.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use crate::in_call::leg::{Dialog, End};
use crate::world::{World, seconds};

/// What the end of the process waits for beside calls that are being set up.
fn open(world: &World) -> usize {
    world.endpoint.open_requests() + world.endpoint.unacknowledged(world.now)
}

#[test]
fn the_end_of_the_process_ends_the_calls_that_ring_and_those_that_wait() {
    let mut world = World::registered();
    world.invite("waiting");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.invite("forked");
    world.input(Input::EndCalls(Failover::Nobody));
    assert_eq!((world.count("INVITE 480"), world.count("CANCEL")), (2, 1));
    assert_eq!((world.final_states(), world.endpoint.open_calls()), (vec![CallState::TimedOut; 2], 0));
    world.input(Input::EndCalls(Failover::Nobody));
    assert_eq!(world.count("INVITE 480"), 2);
}

#[test]
fn a_call_that_comes_when_the_process_is_about_to_end_is_tried_again_elsewhere_and_wakes_nobody() {
    let mut world = World::registered();
    world.invite("waiting");
    let wakes = world.wakes().len();
    world.input(Input::RefuseCalls(Failover::OtherNode));
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
    world.input(Input::RefuseCalls(Failover::Nobody));
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
    world.input(Input::RefuseCalls(Failover::Nobody));
    world.invite("announced");
    assert_eq!((world.count("INVITE 503"), world.endpoint.open_calls()), (0, 1));
}

#[test]
fn the_calls_of_a_process_that_ends_go_to_another_node_where_there_is_one() {
    let mut world = World::registered();
    world.invite("waiting");
    world.input(Input::EndCalls(Failover::OtherNode));
    assert_eq!((world.count("INVITE 503"), world.count("INVITE 480")), (1, 0));
    assert_eq!(world.last("INVITE 503").text(Name::RetryAfter), Some("1"));
}

/// By the RFC a request that was taken gets a final response (RFC 3261 §17.2); no other re-INVITE may go meanwhile (§14.1).
#[test]
fn a_request_in_a_call_is_waited_for_and_answered_at_the_end() {
    for (from, method, is_away) in [
        (End::Caller, "INVITE", false),
        (End::Caller, "INVITE", true),
        (End::Caller, "BYE", true),
        (End::Device, "INVITE", false),
        (End::Device, "BYE", false),
    ] {
        let case = format!("{from:?} {method} {is_away}");
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        dialog.send(&mut world, End::Caller, "ACK", 1);
        assert_eq!(open(&world), 0, "a call that asks for nothing");
        if is_away {
            world.input(Input::Closed(FlowId::Stream(1)));
        }
        dialog.send(&mut world, from, method, 2);
        if from == End::Caller && !is_away {
            let (device, invite) = (world.device(1), world.last("INVITE"));
            world.reply(device, &invite, 180, &[], "");
        }
        world.advance(seconds(5));
        assert_eq!(open(&world), 1, "{case}");
        world.input(Input::EndCalls(Failover::Nobody));
        let answer = format!("{method} 503");
        assert_eq!((world.count(&answer), open(&world)), (1, 0), "{case}");
        assert_eq!(world.last(&answer).text(Name::RetryAfter), Some("1"));
        let is_cancelled = from == End::Caller && method == "INVITE" && !is_away;
        assert_eq!(world.count("CANCEL"), usize::from(is_cancelled), "{case}");
        world.input(Input::EndCalls(Failover::Nobody));
        assert_eq!(world.count(&answer), 1, "{case}");
    }
}

#[test]
fn a_request_in_a_call_that_is_answered_in_time_is_waited_for_no_longer() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Device, "BYE", 2);
    world.advance(seconds(2));
    let copies = world.count("BYE");
    assert_eq!((copies > 1, open(&world)), (true, 1), "a datagram may be lost");
    let (server, bye) = (world.upstream, world.last("BYE"));
    world.reply(server, &bye, 200, &[], "");
    assert_eq!((world.count("BYE 200"), open(&world)), (1, 0));
    world.input(Input::EndCalls(Failover::Nobody));
    assert_eq!(world.count("BYE 503"), 0);
}

/// RFC 3261 §13.3.1.4: the device repeats its 200 until it is acknowledged, for 32 s.
#[test]
fn a_2xx_is_waited_for_until_its_ack_or_a_bye_passes_and_no_longer_than_it_is_repeated() {
    for settled_by in ["ACK", "BYE", "nothing"] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        assert_eq!((world.endpoint.open_calls(), world.endpoint.unacknowledged(world.now)), (0, 1));
        match settled_by {
            "nothing" => world.advance(seconds(33)),
            method => drop(dialog.send(&mut world, End::Caller, method, 1)),
        }
        assert_eq!(world.endpoint.unacknowledged(world.now), 0, "{settled_by}");
    }
}

#[test]
fn a_message_that_nobody_has_confirmed_is_waited_for_until_it_is_kept_and_else_answered() {
    let message = |world: &World, call_id: &str| world.invite_text(call_id).replace("INVITE", "MESSAGE");
    let mut world = World::registered();
    world.attach(1);
    let (server, text) = (world.upstream, message(&world, "text-1"));
    world.receive(server, &text);
    assert_eq!(open(&world), 1, "the device is silent");
    world.advance(seconds(2));
    let stored = world.events.iter().rev().find_map(|event| match event {
        Event::StoreMessage(message) => Some((message.request, message.instance)),
        _ => None,
    });
    let (request, instance) = stored.expect("it is kept instead");
    assert_eq!(open(&world), 1, "the store has not answered");
    world.input(Input::MessageStored { request, instance, outcome: StoreOutcome::Stored });
    assert_eq!((world.count("MESSAGE 202"), open(&world)), (1, 0));
    let text = message(&world, "text-2");
    world.receive(server, &text);
    world.input(Input::EndCalls(Failover::Nobody));
    assert_eq!((world.count("MESSAGE 503"), open(&world)), (1, 0));
    assert_eq!(world.last("MESSAGE 503").text(Name::RetryAfter), Some("1"));
}
