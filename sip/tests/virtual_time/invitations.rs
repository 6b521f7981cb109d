//! How long an INVITE invites: its Expires (RFC 3261 §13.2.1, §13.3.1), in virtual time.

use std::time::Duration;

use sip::endpoint::*;

use crate::world::{SDP, World, seconds};

/// An INVITE whose Expires says this.
fn invite(world: &mut World, call_id: &str, expires: &str) {
    let (source, text) = (world.upstream, world.invite_text(call_id));
    world.receive(source, &text.replace("X-Odd:", &format!("Expires: {expires}\r\nX-Odd:")));
}

fn missed(world: &World) -> Vec<CallState> {
    let missed = world.events.iter().filter_map(|event| match event {
        Event::Missed { state, .. } => Some(*state),
        _ => None,
    });
    missed.collect()
}

#[test]
fn a_phone_that_comes_after_the_invitation_ended_is_not_rung() {
    let mut world = World::registered();
    invite(&mut world, "short", "3");
    assert_eq!(world.wakes()[0].wait, seconds(3), "its push is worth as much");
    world.advance(Duration::from_millis(2999));
    assert_eq!(world.count("INVITE 487"), 0);
    world.advance(Duration::from_millis(1));
    assert_eq!(world.count("INVITE 487"), 1, "{:?}", world.descriptions());
    world.attach(1);
    assert_eq!((world.count("INVITE"), world.endpoint.open_calls()), (0, 0), "{:?}", world.descriptions());
    assert_eq!((world.final_states(), missed(&world)), (vec![CallState::Cancelled], vec![CallState::Cancelled]));
    world.advance(seconds(300));
    assert_eq!((world.count("INVITE 480"), world.count("INVITE 408")), (0, 0), "one final answer");
}

#[test]
fn a_phone_that_rings_when_the_invitation_ends_is_cancelled() {
    for answers_late in [false, true] {
        let mut world = World::registered();
        world.attach(1);
        invite(&mut world, "rings", "20");
        let (device, leg) = (world.device(1), world.last("INVITE"));
        world.reply(device, &leg, 180, &[], "");
        world.advance(seconds(20));
        assert_eq!((world.count("CANCEL"), world.count("INVITE 487")), (1, 0), "the leg has its word first");
        // The 200 and the CANCEL cross: the 200 wins (RFC 3261 §9.1).
        world.reply(device, &leg, if answers_late { 200 } else { 487 }, &[("Contact", "<sip:phone@10.0.0.5>")], "");
        let answers = (world.count("INVITE 200"), world.count("INVITE 487"));
        assert_eq!(answers, if answers_late { (1, 0) } else { (0, 1) });
        world.advance(seconds(200));
        assert_eq!(world.final_states().len(), 1, "{:?}", world.final_states());
    }
}

#[test]
fn a_call_that_is_answered_in_time_goes_on_beyond_its_expires() {
    let mut world = World::registered();
    world.attach(1);
    invite(&mut world, "answered", "5");
    let (device, leg) = (world.device(1), world.last("INVITE"));
    world.reply(device, &leg, 200, &[("Contact", "<sip:phone@10.0.0.5>")], SDP);
    world.advance(seconds(60));
    assert_eq!((world.final_states(), world.count("CANCEL")), (vec![CallState::Answered], 0));
}

#[test]
fn an_expires_that_says_no_time_or_a_longer_one_limits_nothing() {
    for expires in ["0", "", "-1", "3.5", "soon", "Thu, 01 Dec 2094 16:00:00 GMT", "180", "4294967295", "99999999999"] {
        let mut world = World::registered();
        invite(&mut world, "odd", expires);
        assert_eq!(world.wakes()[0].wait, seconds(30), "{expires:?}");
        world.advance(seconds(29));
        assert_eq!(world.endpoint.open_calls(), 1, "{expires:?}");
        world.advance(seconds(1));
        assert_eq!((world.count("INVITE 480"), world.count("INVITE 487")), (1, 0), "{expires:?}");
    }
}

#[test]
fn an_announced_call_ends_with_its_invitation() {
    let mut world = World::registered();
    let instance = world.instance;
    world.input(Input::ExpectCall { instance, from: "sip:bob@example.com".into(), name: None, wait: seconds(30) });
    world.advance(seconds(10));
    invite(&mut world, "announced", "5");
    world.advance(seconds(5));
    assert_eq!((world.count("INVITE 487"), world.final_states()), (1, vec![CallState::Cancelled]));
}

#[test]
fn an_invitation_that_waits_for_the_first_register_ends_in_time() {
    for granted_after in [2, 6] {
        let mut world = World::new(World::registered().upstream.flow);
        world.bind();
        invite(&mut world, "overtakes", "5");
        world.advance(seconds(granted_after));
        world.grant(600);
        assert_eq!(world.wakes().len(), usize::from(granted_after < 5), "{granted_after}");
        world.advance(seconds(7 - granted_after));
        assert!(world.count("INVITE 487") > 0, "{granted_after}");
        assert_eq!(world.endpoint.open_calls(), 0, "{granted_after}");
    }
}

#[test]
fn a_caller_hears_of_its_end_though_a_provisional_response_is_due_before_and_the_phone_is_mute() {
    let mut world = World::registered();
    world.attach(1);
    invite(&mut world, "long", "60");
    world.advance(seconds(2));
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.advance(seconds(58));
    assert_eq!((world.count("CANCEL"), world.count("INVITE 487")), (1, 0));
    world.advance(seconds(4));
    assert_eq!((world.count("INVITE 487"), world.count("INVITE 180")), (1, 1), "{:?}", world.descriptions());
}

/// The machine is suspended for so long, or its clock is set ahead.
fn lose(world: &mut World, lost: u64, is_sure: bool) {
    let lost = seconds(lost);
    world.input(Input::TimeLost { lost, for_sure: if is_sure { lost } else { Duration::ZERO } });
}

#[test]
fn a_call_that_waited_while_the_machine_was_suspended_ends_and_no_phone_rings_for_it() {
    for (expires, answer, state) in
        [("7200", "INVITE 480", CallState::TimedOut), ("300", "INVITE 487", CallState::Cancelled)]
    {
        let mut world = World::registered();
        invite(&mut world, "call-1", expires);
        world.advance(seconds(1));
        lose(&mut world, 600, true);
        assert_eq!(world.count(answer), 1, "{:?}", world.descriptions());
        assert_eq!((world.final_states(), missed(&world)), (vec![state], vec![state]));
        world.attach(1);
        assert_eq!((world.count("INVITE"), world.wakes().len(), world.endpoint.open_calls()), (0, 1, 0));
    }
}

#[test]
fn a_phone_that_rang_when_the_machine_was_suspended_is_cancelled() {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    let (device, leg) = (world.device(1), world.last("INVITE"));
    world.reply(device, &leg, 180, &[], "");
    lose(&mut world, 600, true);
    assert_eq!((world.count("CANCEL"), world.endpoint.open_calls()), (1, 0), "{:?}", world.descriptions());
    assert_eq!(world.final_states().len(), 1);
}

#[test]
fn a_call_whose_time_is_not_over_waits_for_what_is_left_and_all_of_it_where_a_clock_was_set() {
    let ring_timeout = seconds(30);
    for (lost, is_sure, left) in [(5, true, ring_timeout - seconds(5)), (600, false, ring_timeout)] {
        let mut world = World::registered();
        world.invite("call-1");
        lose(&mut world, lost, is_sure);
        world.advance(left - Duration::from_millis(1));
        assert_eq!(world.endpoint.open_calls(), 1, "lost {lost} s");
        world.advance(Duration::from_millis(1));
        assert_eq!((world.endpoint.open_calls(), world.count("INVITE 480")), (0, 1), "lost {lost} s");
    }
}

#[test]
fn a_device_that_has_said_nothing_is_not_woken_for_a_call_that_is_over() {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    assert_eq!((world.count("INVITE"), world.wakes().len()), (1, 0));
    lose(&mut world, 600, true);
    assert_eq!((world.wakes().len(), world.endpoint.open_calls()), (0, 0), "{:?}", world.descriptions());
}

#[test]
fn a_call_that_was_announced_before_the_machine_was_suspended_is_expected_no_more() {
    let mut world = World::registered();
    let instance = world.instance;
    world.input(Input::ExpectCall { instance, from: "sip:bob@example.com".into(), name: None, wait: seconds(30) });
    assert_eq!(world.wakes().len(), 1);
    lose(&mut world, 600, true);
    assert_eq!(world.final_states(), [CallState::TimedOut]);
}
