//! A phone that says its first word long after the INVITE, or is back long after the CANCEL: it was suspended, or in a tunnel, and its stream
//! has lost nothing.

use sip::endpoint::*;
use sip::id::FlowId;

use super::reconnecting::{branch, branches_by, cancel};
use super::*;
use crate::world::World;

/// The device is there, and reads nothing for now.
fn suspended() -> World {
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    world
}

#[test]
fn a_phone_that_wakes_late_for_a_call_that_is_over_is_sent_the_cancel() {
    for after in [23, 30, 120, 600] {
        let mut world = suspended();
        let invite = to_device(&world, 1, "INVITE");
        world.advance(seconds(10));
        cancel(&mut world);
        assert_eq!((finals(&world), branches_by(&world, 1, "CANCEL")), (vec![487], vec![]));
        world.advance(seconds(after));
        answer(&mut world, 1, 180);
        assert_eq!(branches_by(&world, 1, "CANCEL"), [branch(&invite)], "{after}");
        let cancel = to_device(&world, 1, "CANCEL");
        assert_eq!(cancel.request_uri(), invite.request_uri());
        answer(&mut world, 1, 487);
        assert_eq!(branches_by(&world, 1, "ACK"), [branch(&invite)], "{after}");
        assert_eq!(ended(&world), [CallState::Cancelled]);
    }
}

#[test]
fn a_phone_that_answers_late_a_call_that_is_over_is_hung_up() {
    for after in [23, 120, 600] {
        let mut world = suspended();
        world.advance(seconds(10));
        cancel(&mut world);
        world.advance(seconds(after));
        answer(&mut world, 1, 200);
        assert_eq!((branches_by(&world, 1, "ACK").len(), branches_by(&world, 1, "BYE").len()), (1, 1), "{after}");
        assert_eq!(ended(&world), [CallState::Cancelled]);
    }
}

#[test]
fn a_phone_that_wakes_while_another_one_rings_may_have_the_call() {
    for after in [33, 60, 110] {
        let mut world = devices(2);
        for number in [1, 2] {
            attach(&mut world, number);
        }
        world.invite("call-1");
        answer(&mut world, 1, 180);
        world.advance(seconds(after));
        answer(&mut world, 2, 180);
        answer(&mut world, 2, 200);
        assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]), "{after}");
        assert_eq!((branches_by(&world, 1, "CANCEL").len(), world.count("BYE")), (1, 0));
    }
}

#[test]
fn a_call_waits_for_a_phone_that_is_slow_as_long_as_it_is_to() {
    let mut world = World::registered_with(FlowId::Datagram(world::server_address()), |settings| {
        settings.ring_timeout = seconds(90);
    });
    attach(&mut world, 1);
    world.invite("call-1");
    world.advance(seconds(80));
    answer(&mut world, 1, 180);
    answer(&mut world, 1, 200);
    assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));
}

#[test]
fn a_phone_that_rang_and_is_back_long_after_the_cancel_is_told() {
    for (noticed, away) in [(true, 40), (false, 40), (true, 600), (false, 600)] {
        let mut world = suspended();
        let invite = to_device(&world, 1, "INVITE");
        answer(&mut world, 1, 180);
        if noticed {
            world.input(Input::Closed(FlowId::Stream(1)));
        }
        cancel(&mut world);
        world.advance(seconds(away));
        world.attach(2);
        assert_eq!(branches_by(&world, 2, "CANCEL"), [branch(&invite)], "{noticed} {away}");
    }
}

#[test]
fn what_a_phone_never_says_is_not_waited_for_longer_than_a_stream_delivers() {
    let mut world = suspended();
    answer(&mut world, 1, 180);
    world.invite("call-2");
    world.advance(seconds(10));
    cancel(&mut world);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.advance(seconds(30 * 60));
    assert_eq!(world.endpoint.counts().transactions, 0);
}

#[test]
fn an_account_that_is_wiped_leaves_no_call_that_its_phone_may_hear_late() {
    let mut world = suspended();
    world.advance(seconds(10));
    cancel(&mut world);
    world.advance(seconds(60));
    assert_ne!(world.endpoint.counts().transactions, 0);
    world.input(Input::Release(world.instance));
    world.advance(seconds(40));
    assert_eq!(world.endpoint.counts().transactions, 0);
}
