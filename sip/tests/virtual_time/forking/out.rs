//! A device that has rung and is out, while the caller waits for another one.

use sip::endpoint::*;

use super::*;

/// Devices 1 and 2 are woken; device 1 comes at once, and rings for so many seconds.
fn rung_for(rings: u64) -> World {
    let mut world = devices(2);
    world.invite("call-1");
    attach(&mut world, 1);
    answer(&mut world, 1, 180);
    world.advance(seconds(rings));
    assert_eq!(finals(&world), []);
    world
}

#[test]
fn a_device_that_sleeps_is_waited_for_as_long_as_if_no_other_one_had_rung() {
    for (status, best) in [(480, 480), (486, 486), (500, 480)] {
        let mut world = rung_for(1);
        answer(&mut world, 1, status);
        world.advance(seconds(28));
        assert_eq!(finals(&world), []);
        world.advance(seconds(1));
        assert_eq!(finals(&world), [best]);
        assert_eq!(ends(&world).last(), Some(&(device(2), CallState::TimedOut)));
    }
    let mut world = rung_for(1);
    answer(&mut world, 1, 486);
    world.advance(seconds(20));
    attach(&mut world, 2);
    answer(&mut world, 2, 180);
    world.advance(seconds(60));
    answer(&mut world, 2, 200);
    assert_eq!(finals(&world), [200], "it came in time, and rings as long as any");
}

#[test]
fn a_device_that_may_come_no_more_is_not_waited_for() {
    let mut world = rung_for(40);
    answer(&mut world, 1, 486);
    assert_eq!(finals(&world), [486]);
    assert_eq!(ends(&world), [(device(1), CallState::Declined), (device(2), CallState::TimedOut)]);
}

#[test]
fn a_device_that_has_the_invite_is_waited_for_until_it_says_something() {
    let mut world = devices(2);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    answer(&mut world, 1, 180);
    world.advance(seconds(40));
    answer(&mut world, 1, 486);
    world.advance(seconds(4));
    assert_eq!(finals(&world), []);
    world.advance(seconds(1));
    assert_eq!(finals(&world), [486]);
}

#[test]
fn a_device_that_says_it_has_the_invite_already_rings_on_when_another_one_refuses() {
    let mut world = devices(2);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    answer(&mut world, 1, 180);
    // Its 180 is lost with its connection; the copy that it gets by the next one is none to it (RFC 3261 §8.2.2.2).
    world.input(Input::Closed(FlowId::Stream(2)));
    world.instance = device(2);
    world.attach(3);
    answer(&mut world, 3, 482);
    world.advance(seconds(40));
    answer(&mut world, 1, 486);
    world.advance(seconds(60));
    assert_eq!(finals(&world), [], "its user has as long as any");
}
