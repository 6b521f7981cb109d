//! Devices whose account is wiped while they have a connection: nothing of what they said or were sent is left, and their place is free.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};

use crate::in_call::leg::{Dialog, End};
use crate::push_proxy::through::{Register, Through};
use crate::world::{World, seconds};

const BINDS: &str = "Contact: <sip:secret-user@10.0.0.5:9999;transport=tls>;expires=300\r\n";

fn wipe(world: &mut World) {
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
}

/// All that the endpoint holds of bytes that it has composed or keeps as text.
fn holds(world: &World, text: &str) -> bool {
    format!("{:?}", world.endpoint).contains(text)
}

fn flow_of(world: &World, method: &str) -> Option<FlowId> {
    world.sent.iter().rev().find(|sent| sent.message.method_text() == Some(method)).map(|sent| sent.flow)
}

#[test]
fn an_app_that_disables_and_enables_again_on_one_connection_is_always_let_in() {
    let mut world = World::registered();
    world.register(1, 1, BINDS);
    for round in 2..40 {
        wipe(&mut world);
        assert_eq!(world.endpoint.counts().attached, 0, "{round}");
        world.binding = BindingId::new(u128::from(round) << 64, ShardTag(0));
        world.instance = InstanceId::new(u128::from(round) << 64, ShardTag(0));
        world.bind();
        world.grant(3600);
        let answer = world.register(1, round, BINDS);
        assert_eq!((answer.status(), world.endpoint.counts().attached), (Some(200), 1), "{round}");
        // The app takes its registration back a moment after its account.
        if round % 3 == 0 {
            wipe(&mut world);
            let text = "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKgone\r\nFrom: <sip:DEVICE@relay.test>;tag=d\r\n\
                        To: <sip:DEVICE@relay.test>\r\nCall-ID: r\r\nCSeq: 1 REGISTER\r\nContact: *\r\nExpires: 0\r\nContent-Length: 0\r\n\r\n";
            let text = text.replace("DEVICE", &world.instance.to_string()).replace("gone", &round.to_string());
            world.receive(world.device(1), &text);
            world.advance(seconds(10));
        }
    }
    assert!(world.closed.is_empty());
    world.input(Input::Closed(FlowId::Stream(1)));
    wipe(&mut world);
    world.advance(seconds(60));
    assert_eq!(world.endpoint.counts().flows, 0, "nothing of them is left");
}

/// Each other token is another registration (RFC 8599).
#[test]
fn a_phone_that_signs_in_and_out_on_one_connection_is_always_let_in() {
    let mut through = Through::new();
    for number in 0..40 {
        let contact = format!("<sip:x@h;pn-provider=fcm;pn-prid=t{number}>;+sip.instance=\"<urn:uuid:{number}>\"");
        let register = Register::by(1).contact(&contact);
        through.registered(&register);
        assert_eq!(through.world.endpoint.counts().attached, 1, "{number}");
        through.registered(&register.expires(0));
        assert_eq!(through.world.endpoint.counts().attached, 0, "{number}");
        through.world.advance(Duration::from_secs(20));
    }
    assert_eq!(through.world.count("REGISTER 403"), 0);
}

#[test]
fn sixteen_that_are_there_keep_their_places() {
    let mut world = World::registered();
    world.register(1, 1, BINDS);
    for number in 2..=17 {
        let binding = BindingId::new(u128::from(number) << 64, ShardTag(0));
        world.instance = InstanceId::new(u128::from(number) << 64, ShardTag(0));
        world.bind_new(binding, world.instance, true);
        let status = if number <= 16 { 200 } else { 403 };
        assert_eq!(world.register(1, number, BINDS).status(), Some(status), "{number}");
    }
    assert_eq!(world.endpoint.counts().attached, 16);
}

#[test]
fn of_a_wiped_device_its_contact_goes_at_once_and_its_call_may_be_hung_up_until_it_would_have_been_detached() {
    for (from, wait, passes) in [(End::Caller, 250, true), (End::Device, 250, true), (End::Caller, 301, false)] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        dialog.send(&mut world, End::Caller, "ACK", 1);
        world.register(1, 3, BINDS);
        assert!(holds(&world, "secret-user"));
        wipe(&mut world);
        world.advance(Duration::from_millis(1));
        assert!(!holds(&world, "secret-user") && world.endpoint.counts().attached == 0);
        world.advance(seconds(wait));
        dialog.send(&mut world, from, "BYE", 2);
        assert_eq!(flow_of(&world, "BYE").is_some(), passes, "{wait}");
    }
}
