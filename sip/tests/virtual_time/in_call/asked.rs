//! Requests of a device in its call whose connection breaks before the answer (RFC 3261 §18.2.2).

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::leg::{Dialog, End};
use crate::world::{World, seconds};

/// A call stands, in which the device has asked something; as it was sent on.
fn asked(method: &str) -> (World, Dialog, Message) {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.sent.clear();
    dialog.send(&mut world, End::Device, method, 2);
    let request = world.last(method);
    world.sent.clear();
    (world, dialog, request)
}

/// By which flows answers of this kind went, in order.
fn by(world: &World, what: &str) -> Vec<u64> {
    let sent = world.sent.iter().zip(world.descriptions()).filter(|(_, said)| said == what);
    let number = |flow| if let FlowId::Stream(number) = flow { number } else { 0 };
    sent.map(|(sent, _)| number(sent.flow)).collect()
}

const SERVERS: (&str, &str) = ("Contact", "<sip:bob@192.0.2.77>");

#[test]
fn an_answer_waits_for_the_next_connection_of_a_device_whose_own_has_broken() {
    for method in ["INVITE", "REFER", "INFO"] {
        for back_first in [true, false] {
            let (mut world, _, request) = asked(method);
            world.input(Input::Closed(FlowId::Stream(1)));
            if back_first {
                world.attach(2);
            }
            world.reply(world.upstream, &request, 200, &[SERVERS], "");
            if !back_first {
                assert_eq!(by(&world, &format!("{method} 200")), [] as [u64; 0], "there is no way yet");
                world.advance(seconds(10));
                world.attach(2);
            }
            assert_eq!(by(&world, &format!("{method} 200")), [2], "{method} {back_first}");
        }
    }
}

#[test]
fn a_2xx_that_comes_again_goes_there_too_and_its_ack_comes_from_there() {
    let (mut world, dialog, request) = asked("INVITE");
    world.input(Input::Closed(FlowId::Stream(1)));
    world.attach(2);
    for _ in 0..2 {
        world.reply(world.upstream, &request, 200, &[SERVERS], "");
    }
    assert_eq!(by(&world, "INVITE 200"), [2, 2]);
    let ack = dialog.request(End::Device, "ACK", 2, "", b"");
    world.receive_bytes(world.device(2), &ack);
    assert_eq!(by(&world, "ACK"), [0]);
}

#[test]
fn a_device_whose_earlier_connection_may_live_is_answered_by_both() {
    for method in ["INVITE", "REFER"] {
        let (mut world, _, request) = asked(method);
        world.attach(2);
        world.reply(world.upstream, &request, 202, &[SERVERS], "");
        assert_eq!(by(&world, &format!("{method} 202")), [2, 1]);
    }
    // The earlier one ends: by the later one alone, and by the one after that.
    let (mut world, _, request) = asked("REFER");
    world.attach(2);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.input(Input::Closed(FlowId::Stream(2)));
    world.attach(3);
    world.reply(world.upstream, &request, 202, &[], "");
    assert_eq!(by(&world, "REFER 202"), [3]);
}

#[test]
fn what_nobody_comes_back_for_leaves_nothing() {
    for answered in [true, false] {
        let (mut world, _, request) = asked("INVITE");
        world.input(Input::Closed(FlowId::Stream(1)));
        if answered {
            world.reply(world.upstream, &request, 200, &[SERVERS], "");
        }
        world.advance(seconds(25));
        assert_eq!((world.count("ACK"), world.count("BYE")), (0, 0), "the call is still the device's");
        world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
        world.advance(seconds(900));
        assert_eq!(world.endpoint.counts().transactions, 0);
    }
}
