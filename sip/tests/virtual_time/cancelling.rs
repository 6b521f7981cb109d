//! A CANCEL that crosses an answer, and one by another connection than its INVITE's.

use sip::endpoint::*;
use sip::id::FlowId;

use crate::world::{self, World, seconds, server_address};

#[test]
fn a_call_that_is_answered_while_its_cancel_is_under_way_has_one_final_state() {
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.cancel("call-1");
    assert_eq!(world.final_states(), []);
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], "");
    assert_eq!(world.count("INVITE 200"), 1, "the 200 crossed the CANCEL and wins");
    assert_eq!(world.final_states(), [CallState::Answered]);
}

#[test]
fn a_cancel_by_another_connection_of_the_sip_server_ends_the_call_and_a_strangers_does_not() {
    let mut world = World::new(FlowId::Stream(7));
    world.bind();
    world.grant(600);
    let addresses = [server_address().ip()].into();
    world.input(Input::Addresses { upstream: world::REGISTRAR, addresses, is_whole: true });
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    let cancel = world.cancel_text("call-1", "");
    let stranger = Source { flow: FlowId::Stream(9), peer: "203.0.113.9:5060".parse().unwrap(), ..world.upstream };
    world.receive(stranger, &cancel);
    assert_eq!((world.count("CANCEL 481"), world.count("CANCEL")), (1, 0));
    world.input(Input::Closed(FlowId::Stream(7)));
    // Another transaction than the stranger's, for a table that remembers what it answered.
    let again = Source { flow: FlowId::Stream(8), ..world.upstream };
    world.advance(seconds(1));
    world.receive(again, &cancel);
    assert_eq!((world.count("CANCEL 200"), world.count("CANCEL")), (1, 1), "the device stops ringing");
}
