//! A SIP server whose stream ends in the middle of a call and that is back some moments later: who hangs up meanwhile is heard.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;

use super::leg::{Dialog, End};
use crate::world::{REGISTRAR, World, seconds};

const FIRST: FlowId = FlowId::Stream(7);
const NEXT: FlowId = FlowId::Stream(8);

/// An established call whose SIP server's stream has ended; dials are left unanswered.
fn cut_off(wanted: bool) -> (World, Dialog) {
    let mut world = World::registered_with(FIRST, |_| {});
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    if !wanted {
        // The app is in the foreground: nothing but the call wants a stream.
        world.input(Input::Suspend(world.instance));
        world.respond(200, &[]);
    }
    (world.dial, world.dialled) = (false, 0);
    world.input(Input::Closed(FIRST));
    world.sent.clear();
    (world, dialog)
}

/// The server cannot be reached, so many times in a row.
fn fail(world: &mut World, times: usize) {
    for failures in 1..=times {
        world.input(Input::DialFailed(REGISTRAR));
        if failures < times {
            let dialled = world.dialled;
            while world.dialled == dialled {
                world.advance(seconds(1));
            }
        }
    }
    world.dialled = 0;
}

fn back(world: &mut World) -> Vec<String> {
    world.sent.clear();
    world.upstream.flow = NEXT;
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    world.descriptions()
}

#[test]
fn a_server_that_is_refused_once_is_registered_at_and_hung_up_to_a_second_later() {
    let (mut world, dialog) = cut_off(true);
    assert_eq!(world.dialled, 1);
    fail(&mut world, 1);
    dialog.send(&mut world, End::Device, "BYE", 2);
    world.advance(Duration::from_millis(990));
    assert_eq!(world.dialled, 0, "it is not stormed");
    world.advance(Duration::from_millis(270));
    assert_eq!(world.dialled, 1);
    assert_eq!(back(&mut world), ["REGISTER", "BYE"]);
}

#[test]
fn a_request_of_a_call_has_its_server_dialled_soon_however_long_that_was_away() {
    let (mut world, dialog) = cut_off(true);
    fail(&mut world, 8);
    world.advance(seconds(3));
    assert_eq!(world.dialled, 0, "RFC 5626 §4.5");
    for (cseq, method) in [(2, "INFO"), (3, "BYE")] {
        dialog.send(&mut world, End::Device, method, cseq);
        assert_eq!(world.dialled, 0);
    }
    world.advance(Duration::from_millis(1260));
    assert_eq!(world.dialled, 1);
    assert_eq!(back(&mut world), ["REGISTER", "INFO", "BYE"]);
}

#[test]
fn a_request_of_a_call_has_its_server_dialled_where_nothing_else_wants_it() {
    let (mut world, dialog) = cut_off(false);
    assert_eq!(world.dialled, 0);
    dialog.send(&mut world, End::Device, "BYE", 2);
    assert_eq!(world.dialled, 1);
    assert_eq!(back(&mut world), ["BYE"]);
}

#[test]
fn a_device_that_asks_again_and_again_has_its_server_dialled_once_a_second() {
    let (mut world, dialog) = cut_off(true);
    fail(&mut world, 8);
    for cseq in 2..12 {
        dialog.send(&mut world, End::Device, "INFO", cseq);
        let dialled = world.dialled;
        world.advance(Duration::from_millis(500));
        if world.dialled > dialled {
            world.input(Input::DialFailed(REGISTRAR));
        }
    }
    assert!((2..=5).contains(&world.dialled), "{}", world.dialled);
}

/// Its device was answered 480 meanwhile. Nobody else would tell the other party.
#[test]
fn a_server_that_comes_back_late_hears_that_its_calls_are_over_unless_the_account_was_wiped() {
    for (away, is_wiped, hears) in [(60, false, true), (800, false, true), (60, true, false), (1_000, false, false)] {
        let (mut world, dialog) = cut_off(true);
        dialog.send(&mut world, End::Device, "BYE", 2);
        world.advance(seconds(25));
        assert_eq!(world.count("BYE 480"), 1);
        if is_wiped {
            let instance = world.instance;
            world.input(Input::Unbind { instance, deadline: seconds(120) });
        }
        world.advance(seconds(away - 25));
        let told = back(&mut world);
        assert_eq!(told.iter().any(|it| it == "BYE"), hears, "{away} {is_wiped}: {told:?}");
        if hears {
            let (bye, server) = (world.last("BYE"), world.upstream);
            assert_eq!(bye.cseq(), Some((2, "BYE")));
            world.reply(server, &bye, 200, &[], "");
            assert_eq!(world.count("BYE 200"), 0, "its device was answered");
        }
    }
}
