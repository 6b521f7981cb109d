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

#[test]
fn the_text_of_a_message_goes_with_the_device_that_was_sent_it_and_its_sender_is_told() {
    let mut world = World::registered();
    world.register(1, 1, BINDS);
    let message = |world: &mut World, call_id: &str| {
        let (source, head) = (world.upstream, world.head(call_id, "MESSAGE", 1, ""));
        let text = format!(
            "MESSAGE sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Type: text/plain\r\nContent-Length: 11\r\n\r\nsecret text",
            world.binding
        );
        world.receive(source, &text);
    };
    message(&mut world, "m1");
    assert!(holds(&world, "secret text") && holds(&world, "secret-user"));
    // The other one has been given to the store, and waits for its device all the same.
    world.advance(seconds(3));
    message(&mut world, "m2");
    assert_eq!((world.count("MESSAGE"), world.count("MESSAGE 480")), (2, 0));
    wipe(&mut world);
    assert!(!holds(&world, "secret text") && !holds(&world, "secret-user"));
    assert_eq!(world.count("MESSAGE 480"), 1, "the store still has to speak of the other one");
    world.advance(seconds(60));
    assert_eq!((world.endpoint.counts().messages, world.count("MESSAGE")), (0, 2));
}

#[test]
fn of_a_call_that_was_sent_to_a_wiped_device_no_more_is_left_than_its_cancel_needs() {
    let mut world = World::registered();
    world.register(1, 1, BINDS);
    world.invite("call-1");
    assert!(holds(&world, "m=audio"));
    let invite = world.last("INVITE");
    wipe(&mut world);
    assert!(!holds(&world, "m=audio"));
    // The device rings all the same, and is sent a CANCEL.
    let device = world.device(1);
    world.reply(device, &invite, 180, &[], "");
    assert_eq!(world.last("CANCEL").via().map(|it| it.text.to_owned()), invite.via().map(|it| it.text.to_owned()));
    world.reply(device, &invite, 487, &[], "");
    assert_eq!((world.count("CANCEL"), world.count("ACK")), (1, 1));
}

#[test]
fn what_a_phone_that_passed_through_was_sent_goes_with_it() {
    let mut through = Through::new();
    let register = Register::by(1);
    through.registered(&register);
    let path = through.world.last("REGISTER").text(sip::message::Name::Path).expect("ours").to_owned();
    let head = through.world.head("m1", "MESSAGE", 1, "");
    let source = through.world.upstream;
    let text = format!(
        "MESSAGE sip:alice@10.0.0.5:1 SIP/2.0\r\n{head}Route: {path}\r\nContent-Type: text/plain\r\nContent-Length: 11\r\n\r\nsecret text"
    );
    through.world.receive(source, &text);
    assert!(holds(&through.world, "secret text"));
    through.registered(&register.expires(0));
    assert!(!holds(&through.world, "secret text"));
    let (device, message) = (through.world.device(1), through.world.last("MESSAGE"));
    through.world.reply(device, &message, 200, &[], "");
    assert_eq!(through.world.count("MESSAGE 200"), 1, "who wrote it hears that it has come");
}
