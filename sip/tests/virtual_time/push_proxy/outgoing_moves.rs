//! A call that a device has begun, and the device's connections: the one that it was begun by ends, another one comes, or none.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::outgoing::{Begun, SERVICE, flow_of, in_dialog, registered};
use super::through::{Register, Through, values};
use crate::world;

#[test]
fn a_call_out_is_cancelled_by_the_connection_that_it_was_begun_on_and_by_the_devices_next_one() {
    for flow in [1, 2] {
        let mut through = registered(&[]);
        let call = Begun::new("INVITE");
        call.send(&mut through.world);
        let (invite, server) = (through.world.last("INVITE"), through.world.upstream);
        through.world.reply(server, &invite, 180, &[], "");
        through.registered(&Register::by(2));
        let world = &mut through.world;
        world.sent.clear();
        world.receive(world.device(flow), &call.text(1, ""));
        let again = world.sent.iter().find(|sent| sent.message.status() == Some(180)).expect("its answer again");
        assert_eq!(
            (again.flow, world.count("INVITE")),
            (FlowId::Stream(flow), 0),
            "a copy is answered where it comes from"
        );
        let cancel = Begun { method: "CANCEL", ..call }.text(1, "");
        world.receive(world.device(3), &cancel);
        assert_eq!((world.count("CANCEL 481"), world.count("CANCEL")), (1, 0), "a stranger's");
        world.receive(world.device(flow), &cancel);
        assert_eq!((world.count("CANCEL 200"), flow_of(world, "CANCEL")), (1, server.flow), "{flow}");
    }
}

/// A call is answered when the flow of the device that has made it has just ended.
fn answered_too_late() -> (Through, Message) {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    let world = &mut through.world;
    Begun::new("INVITE").send(world);
    let (invite, server) = (world.last("INVITE"), world.upstream);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.reply(server, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
    (through, invite)
}

#[test]
fn a_call_that_is_answered_as_its_callers_connection_breaks_is_the_callers_when_it_comes_back() {
    let (mut through, invite) = answered_too_late();
    assert_eq!(through.world.count("INVITE 200"), 0);
    through.registered(&Register::by(2));
    let server = through.world.upstream;
    let contact = [("Contact", "<sip:bob@192.0.2.77>")];
    through.world.reply(server, &invite, 200, &contact, "");
    let answers = through.world.sent.iter().filter(|sent| sent.message.cseq().unwrap().1 == "INVITE");
    let answers = answers.filter(|sent| sent.message.status() == Some(200));
    assert_eq!(answers.map(|sent| sent.flow).collect::<Vec<_>>(), [FlowId::Stream(2); 2]);
    through.advance(60);
    assert_eq!((through.world.count("ACK"), through.world.count("BYE")), (0, 0), "the device says both itself");
}

#[test]
fn a_call_that_is_answered_when_its_caller_is_gone_for_good_is_ended() {
    let (mut through, invite) = answered_too_late();
    through.advance(23);
    assert_eq!((through.world.count("ACK"), through.world.count("BYE")), (0, 0));
    through.advance(2);
    for (method, cseq) in [("ACK", "1 ACK"), ("BYE", "2 BYE")] {
        let request = through.world.last(method);
        assert_eq!(flow_of(&through.world, method), through.world.upstream.flow);
        assert_eq!((request.request_uri(), request.text(Name::CSeq)), (Some("sip:bob@192.0.2.77"), Some(cseq)));
        assert!(!request.has(Name::Route), "our own are taken off");
        assert_eq!((request.call_id(), request.from().unwrap().tag()), (invite.call_id(), Some("a")));
    }
}

#[test]
fn a_call_out_goes_on_when_its_device_has_moved_before_the_earlier_connection_ends() {
    let mut through = registered(&[]);
    Begun::new("INVITE").send(&mut through.world);
    let (invite, server) = (through.world.last("INVITE"), through.world.upstream);
    through.registered(&Register::by(2));
    through.world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!(through.world.count("CANCEL"), 0);
    through.world.reply(server, &invite, 180, &[], "");
    let ringing = through.world.sent.iter().rfind(|sent| sent.message.status() == Some(180)).unwrap();
    assert_eq!(ringing.flow, FlowId::Stream(2));
    through.world.input(Input::Closed(FlowId::Stream(2)));
    through.advance(6);
    assert_eq!(flow_of(&through.world, "CANCEL"), server.flow);
}

#[test]
fn a_call_out_waits_a_moment_for_a_device_that_is_between_two_connections() {
    for (uri, waits) in [("sip:bob@example.com", 5), ("urn:service:sos", 24)] {
        let placed = || {
            let mut through = registered(&[]);
            Begun { uri, ..Begun::new("INVITE") }.send(&mut through.world);
            let (invite, server) = (through.world.last("INVITE"), through.world.upstream);
            through.world.reply(server, &invite, 100, &[], "");
            through.world.input(Input::Closed(FlowId::Stream(1)));
            through.advance(waits - 1);
            assert_eq!(through.world.count("CANCEL"), 0, "{uri}");
            (through, invite)
        };
        let (mut through, invite) = placed();
        through.registered(&Register::by(2));
        through.advance(60);
        assert_eq!(through.world.count("CANCEL"), 0, "{uri}");
        let server = through.world.upstream;
        through.world.reply(server, &invite, 180, &[], "");
        let ringing = through.world.sent.iter().rfind(|sent| sent.message.status() == Some(180)).unwrap();
        assert_eq!(ringing.flow, FlowId::Stream(2));

        let (mut through, invite) = placed();
        let server = through.world.upstream;
        through.world.reply(server, &invite, 180, &[], "");
        through.advance(2);
        assert_eq!(through.world.count("CANCEL"), 1, "{uri}: whoever is called does not ring for nobody");
        through.world.reply(server, &invite, 487, &[], "");
        through.advance(100);
        assert_eq!(through.world.endpoint.counts().transactions, 0);
    }
}

/// A server's flow breaks, and its phones watch others, call, and hang up.
#[test]
fn what_devices_begin_while_their_sip_server_is_away_leaves_room_for_their_calls() {
    let mut through = registered(&[("Service-Route", SERVICE)]);
    let world = &mut through.world;
    Begun::new("INVITE").send(world);
    let (device, server, invite) = (world.device(1), world.upstream, world.last("INVITE"));
    world.reply(server, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
    let answer = world.last("INVITE 200");
    let routes: Vec<_> = values(&answer, Name::RecordRoute).into_iter().rev().collect();
    let to = answer.text(Name::To).unwrap().to_owned();
    world.dial = false;
    world.input(Input::Closed(server.flow));
    world.sent.clear();
    let most = sip::endpoint::parked::BEGUN_PER_SERVER;
    for number in 0..most + 20 {
        Begun { call_id: format!("s{number}"), ..Begun::new("SUBSCRIBE") }.send(world);
    }
    assert_eq!(world.count("SUBSCRIBE 503"), 20);
    Begun { call_id: "next".to_owned(), ..Begun::new("INVITE") }.send(world);
    world.receive(
        device,
        &in_dialog("BYE", "sip:bob@192.0.2.77", &routes, "<sip:alice@example.com>;tag=a", &to, "10.0.0.5:9"),
    );
    assert_eq!((world.count("INVITE 503"), world.count("BYE 480")), (0, 0));
    world.input(Input::Dialled { upstream: world::REGISTRAR, flow: FlowId::Stream(98), transport: Transport::Tls });
    assert_eq!((world.count("SUBSCRIBE"), world.count("INVITE"), world.count("BYE")), (most, 1, 1));
}
