//! Callers that wait: they hear that their call lives, and it ends when nobody answers.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::leg::{CONTACT, Dialog, End};
use crate::world::{SDP, World, seconds, server_address};

fn patient() -> World {
    World::registered_with(FlowId::Datagram(server_address()), |settings| {
        settings.ring_timeout = seconds(170);
        settings.answer_timeout = seconds(600);
    })
}

#[test]
fn a_caller_that_heard_nothing_hears_each_minute_that_its_call_is_held() {
    // RFC 3261 §13.3.1.1, §16.6 (Timer C): a 100 would not keep a proxy on the way from giving up.
    let mut world = patient();
    world.invite("call-1");
    world.advance(seconds(59));
    assert_eq!(world.count("INVITE 183"), 0);
    world.advance(seconds(2));
    let progress = world.last("INVITE 183");
    assert!(progress.to().unwrap().tag().is_some() && progress.body().is_empty());
    let contact = progress.text(Name::Contact).unwrap();
    assert!(contact.contains(&world.binding.to_string()), "it makes a dialog (RFC 3261 §12.1.1): {contact}");
    world.advance(seconds(108));
    assert_eq!((world.count("INVITE 183"), world.count("INVITE 480")), (2, 0));
    world.advance(seconds(2));
    assert!(world.count("INVITE 480") > 0);
    world.advance(seconds(50));
    assert_eq!(world.count("INVITE 183"), 2, "no more of it after the end");
}

#[test]
fn a_caller_that_heard_ringing_hears_it_again_each_minute() {
    // RFC 3261 §13.3.1.1.
    let mut world = patient();
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.advance(seconds(30));
    world.input(Input::Ring { call, instance: world.instance });
    world.advance(seconds(59));
    assert_eq!(world.count("INVITE 180"), 1);
    world.advance(seconds(2));
    assert_eq!((world.count("INVITE 180"), world.count("INVITE 183")), (2, 0));
}

#[test]
fn what_the_device_said_last_is_said_again_to_the_byte() {
    // RFC 3261 §13.3.1.1: early media stays early media.
    let mut world = patient();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[CONTACT], "");
    world.reply(device, &invite, 183, &[CONTACT, ("Content-Type", "application/sdp")], SDP);
    let first = world.last("INVITE 183");
    world.advance(seconds(61));
    assert_eq!((world.count("INVITE 183"), world.count("INVITE 180")), (2, 1));
    assert_eq!(world.last("INVITE 183").to_bytes(), first.to_bytes());
    world.reply(device, &invite, 180, &[CONTACT], "");
    world.advance(seconds(600));
    assert_eq!(world.count("INVITE 183"), 2, "the device has said something else since");
    assert_eq!(world.final_states(), [CallState::TimedOut]);
}

#[test]
fn a_reliable_response_is_not_repeated_as_such() {
    // RFC 3262 §3: it would want another PRACK.
    let mut world = patient();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    let routes = invite.elements(Name::RecordRoute).collect::<Vec<_>>().join(", ");
    let said = [CONTACT, ("Record-Route", &*routes), ("Require", "100rel"), ("RSeq", "17")];
    world.reply(device, &invite, 183, &said, SDP);
    let first = world.last("INVITE 183");
    world.advance(seconds(61));
    let again = world.last("INVITE 183");
    assert!(!again.has(Name::Require) && again.values_written("RSeq").next().is_none() && again.body().is_empty());
    assert_eq!(again.to().unwrap().tag(), Some("peer"), "of the same early dialog");
    let way = |message: &Message, name| message.elements(name).map(str::to_owned).collect::<Vec<_>>();
    for name in [Name::RecordRoute, Name::Contact] {
        assert_eq!(way(&again, name), way(&first, name), "its next request goes the same way (RFC 3261 §12.1.2)");
        assert!(!way(&again, name).is_empty());
    }
}

#[test]
fn a_caller_that_wants_everything_reliably_hears_only_the_device() {
    // RFC 3262 §3: with Require: 100rel every response above 100 must be reliable.
    let mut world = patient();
    let text = world.invite_text("call-1").replace("X-Odd:", "Require: 100rel\r\nX-Odd:");
    let source = world.upstream;
    world.receive(source, &text);
    let call = world.wakes()[0].call;
    world.input(Input::Ring { call, instance: world.instance });
    world.advance(seconds(169));
    assert_eq!(world.descriptions(), ["INVITE 100"]);
}

#[test]
fn a_re_invite_that_rings_for_ever_is_cancelled_and_answered() {
    // RFC 3261 §16.8: Timer C fires after a provisional response, so the client transaction is cancelled.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    let (device, again) = (world.device(1), world.last("INVITE"));
    world.reply(device, &again, 180, &[CONTACT], "");
    for _ in 0..3 {
        // Its registration at the edge would end before.
        world.advance(seconds(219));
        world.attach(1);
    }
    assert_eq!(world.count("CANCEL"), 0);
    world.advance(seconds(4));
    assert_eq!(world.last("CANCEL").via().unwrap().text, again.via().unwrap().text);
    world.advance(seconds(33));
    assert!(world.count("INVITE 480") > 0, "the device said nothing to it");
}

/// A world in which a call has waited for so many milliseconds when its device comes.
fn comes_at(after_ms: u64, expires: &str) -> World {
    let mut world = World::registered();
    let (source, text) = (world.upstream, world.invite_text("call-1"));
    world.receive(source, &text.replace("X-Odd:", &format!("{expires}X-Odd:")));
    world.advance(Duration::from_millis(after_ms));
    world.attach(1);
    assert_eq!(world.count("INVITE"), 1);
    world
}

fn says(world: &mut World, status: u16) {
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, status, &[CONTACT], "");
}

#[test]
fn a_device_that_comes_at_the_end_of_the_time_has_time_to_ring() {
    let mut world = comes_at(29_900, "");
    world.advance(seconds(4));
    assert_eq!((world.count("INVITE 480"), world.count("CANCEL")), (0, 0));
    says(&mut world, 180);
    world.advance(seconds(100));
    says(&mut world, 200);
    assert_eq!((world.count("INVITE 200"), world.final_states()), (1, vec![CallState::Answered]));
}

#[test]
fn a_device_that_comes_at_the_end_of_the_time_and_does_not_ring_is_not_waited_for_long() {
    for (trying, status) in [(false, 480), (true, 408)] {
        let mut world = comes_at(29_900, "");
        if trying {
            says(&mut world, 100);
        }
        world.advance(Duration::from_millis(4_900));
        assert_eq!(world.count(&format!("INVITE {status}")), 0);
        world.advance(Duration::from_millis(200));
        assert!(world.count(&format!("INVITE {status}")) > 0);
    }
}

#[test]
fn a_device_that_comes_again_and_again_does_not_hold_a_call_for_ever() {
    let mut world = comes_at(29_000, "");
    for flow in 2..60 {
        world.advance(seconds(4));
        world.attach(flow);
    }
    // As long as one that rings: 30 s, and 120 s more.
    let (legs, answered) = (world.count("INVITE"), world.count("INVITE 480"));
    assert!((30..35).contains(&legs) && answered > 0, "{legs} {answered}");
}

#[test]
fn a_device_that_comes_late_has_no_more_time_than_the_invitation() {
    // RFC 3261 §13.3.1.
    let mut world = comes_at(29_000, "Expires: 30\r\n");
    world.advance(seconds(1));
    assert_eq!(world.count("INVITE 487"), 1, "{:?}", world.descriptions());
}

#[test]
fn a_device_that_says_100_before_it_rings_has_the_whole_time_to_be_answered() {
    for (comes_after, trying) in [(10, true), (25, true), (25, false)] {
        let mut world = World::registered();
        world.invite("call-1");
        let call = world.wakes()[0].call;
        // Its push is accepted, and the caller hears that it rings.
        world.input(Input::Ring { call, instance: world.instance });
        world.advance(seconds(comes_after));
        world.attach(1);
        if trying {
            says(&mut world, 100);
        }
        says(&mut world, 180);
        world.advance(seconds(119));
        assert_eq!((world.count("INVITE 408"), world.count("CANCEL")), (0, 0), "{comes_after} {trying}");
        says(&mut world, 200);
        assert_eq!(world.final_states(), [CallState::Answered], "{comes_after} {trying}");
    }
}

#[test]
fn a_device_that_rings_again_and_again_does_not_hold_a_call_for_ever() {
    let mut world = comes_at(29_000, "");
    for flow in 2..8 {
        says(&mut world, 180);
        world.advance(seconds(20));
        world.attach(flow);
        world.reply(world.device(flow), &world.last("INVITE"), 180, &[CONTACT], "");
    }
    assert_eq!(world.count("INVITE 408"), 0);
    // 30 s to come, and 120 s from then on.
    world.advance(seconds(2));
    assert!(world.count("INVITE 408") > 0, "{:?}", world.descriptions());
}
