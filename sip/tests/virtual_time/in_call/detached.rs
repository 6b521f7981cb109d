//! A dialog does not depend on a registration (RFC 3261 §12, RFC 5626 §5.3): that of a device which has unregistered, or whose
//! registration has run out, goes on by the flow that it has proved itself on.

use sip::endpoint::*;
use sip::id::FlowId;

use super::leg::{Dialog, End};
use crate::world::{World, seconds, server_address};

const REMOVE: &str = "Contact: <sip:phone1@10.0.0.5:9999;transport=tls>\r\nExpires: 0\r\n";

/// A world with a call that stands, whose device is attached no more by its open flow.
fn detached(by_its_request: bool) -> (World, Dialog) {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    if by_its_request {
        world.register(1, 3, REMOVE);
    } else {
        world.advance(seconds(301));
    }
    assert_eq!(world.endpoint.counts().attached, 0);
    world.sent.clear();
    (world, dialog)
}

fn flow_of(world: &World, method: &str) -> Option<FlowId> {
    world.sent.iter().rev().find(|sent| sent.message.method_text() == Some(method)).map(|sent| sent.flow)
}

#[test]
fn the_requests_of_a_call_pass_both_ways_after_the_registration_has_ended() {
    for by_its_request in [true, false] {
        let (mut world, dialog) = detached(by_its_request);
        for (cseq, method) in [(2, "INFO"), (3, "INVITE"), (4, "BYE")] {
            dialog.send(&mut world, End::Caller, method, cseq);
            assert_eq!(flow_of(&world, method), Some(FlowId::Stream(1)), "{method}");
            let (device, forwarded) = (world.device(1), world.last(method));
            world.reply(device, &forwarded, 200, &[], "");
            assert_eq!(world.count(&format!("{method} 200")), 1);
            world.sent.clear();
        }
        for (cseq, method) in [(2, "INFO"), (3, "INVITE"), (4, "BYE")] {
            dialog.send(&mut world, End::Device, method, cseq);
            assert_eq!(flow_of(&world, method), Some(FlowId::Datagram(server_address())), "{method}");
        }
        assert_eq!(world.sent.iter().filter(|sent| sent.message.status() == Some(403)).count(), 0);
    }
}

#[test]
fn a_new_call_for_a_device_that_is_detached_in_a_call_is_pushed() {
    for by_its_request in [true, false] {
        let (mut world, _) = detached(by_its_request);
        world.invite("call-2");
        assert_eq!((world.wakes().len(), flow_of(&world, "INVITE")), (2, None), "the first one woke it, too");
        // And it begins nothing itself.
        let text = world.invite_text("out").replace("192.0.2.10", "10.0.0.5");
        world.receive(world.device(1), &text);
        assert_eq!(world.count("INVITE 403"), 1);
    }
}

#[test]
fn the_dialogs_of_a_detached_device_end_with_its_flow_its_account_or_its_next_proof() {
    // Its flow ends: requests wait, as for any device that is away.
    let (mut world, dialog) = detached(true);
    world.input(Input::Closed(FlowId::Stream(1)));
    let flows = world.endpoint.counts().flows;
    dialog.send(&mut world, End::Caller, "BYE", 2);
    assert_eq!(flow_of(&world, "BYE"), None);
    world.attach(2);
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Stream(2)));
    world.input(Input::Closed(FlowId::Stream(2)));
    assert_eq!(world.endpoint.counts().flows, flows, "nothing of it is kept");

    // Another flow of the device takes over, whether it is attached by that or only asks.
    for (lines, attached) in [("Contact: <sip:p@h>\r\n", 1), ("", 0)] {
        let (mut world, dialog) = detached(false);
        world.register(2, 1, lines);
        assert_eq!(world.endpoint.counts().attached, attached);
        dialog.send(&mut world, End::Device, "BYE", 2);
        assert_eq!((world.count("BYE 407"), world.count("BYE")), (1, 0), "the earlier one speaks for it no more");
        dialog.send(&mut world, End::Caller, "BYE", 3);
        assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Stream(2)));
    }

    // The account is wiped.
    let (mut world, dialog) = detached(true);
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    dialog.send(&mut world, End::Device, "BYE", 2);
    assert_eq!((world.count("BYE 403"), world.count("BYE")), (1, 0));
}

#[test]
fn who_has_not_proved_to_be_a_device_has_no_part_in_its_dialogs() {
    let (mut world, dialog) = detached(true);
    let text = String::from_utf8(dialog.request(End::Device, "BYE", 2, "", b"")).unwrap();
    world.receive(world.device(3), &text);
    // An unanswered challenge proves nothing.
    let unproved = "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKr\r\nFrom: <sip:DEVICE@relay.test>;tag=d\r\n\
                    To: <sip:DEVICE@relay.test>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\nContent-Length: 0\r\n\r\n";
    world.receive(world.device(3), &unproved.replace("DEVICE", &world.instance.to_string()));
    world.receive(world.device(3), &text.replace("z9hG4bKd", "z9hG4bKe"));
    assert_eq!(world.count("REGISTER 401"), 1);
    assert_eq!((world.count("BYE 407"), world.count("BYE")), (1, 0), "the second one waits for the proof");
    world.advance(seconds(8));
    assert_eq!((world.count("BYE 407"), world.count("BYE")), (2, 0));
}
