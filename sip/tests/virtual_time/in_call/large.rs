//! Requests that are too large for a datagram, toward a SIP server that is reached by UDP and may be by TCP (RFC 3261 §18.1.1).

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::leg::{Dialog, End, assert_unharmed};
use crate::world::{World, seconds, server_address};

const INVITE: &str = "INVITE";

/// A call whose device sends a request with a body of 4 kB; the request as the device sent it, and as it left by TCP.
fn asked(method: &str) -> (World, Dialog, Vec<u8>, Message) {
    let mut world = World::registered_with(FlowId::Datagram(server_address()), |settings| {
        settings.upstream.allow_tcp = true;
    });
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    let request = dialog.request(End::Device, method, 3, "Content-Type: text/plain\r\n", &vec![b'x'; 4000]);
    world.sent.clear();
    let device = world.device(1);
    world.receive_bytes(device, &request);
    let (peer, forwarded) = world.large.pop().expect("by TCP");
    assert_eq!((peer, forwarded.via().unwrap().transport), (server_address(), "TCP"));
    (world, dialog, request, forwarded)
}

/// The SIP server's end of a stream beside the flow.
fn stream(world: &World) -> Source {
    Source { flow: FlowId::Stream(5), transport: Transport::Tcp, ..world.upstream }
}

fn lose(world: &mut World, was_open: bool) {
    world.input(Input::StreamLost { peer: server_address(), was_open });
}

/// The requests that have left for the SIP server by UDP: methods, and the transports that their Vias name.
fn by_udp(world: &World) -> Vec<(String, String)> {
    let sent = world.sent.iter().filter(|sent| sent.flow == world.upstream.flow);
    sent.filter_map(|sent| Some((sent.message.method_text()?.into(), sent.message.via()?.transport.into()))).collect()
}

#[test]
fn a_request_of_a_device_that_is_too_large_for_a_datagram_goes_by_tcp() {
    let (mut world, _, request, forwarded) = asked(INVITE);
    assert_unharmed(&request, &forwarded);
    let stream = stream(&world);
    world.reply(stream, &forwarded, 200, &[], "");
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(1));
}

#[test]
fn the_cancel_of_what_went_by_tcp_and_the_ack_of_its_refusal_go_by_tcp() {
    // RFC 3261 §9.1, §17.1.1.3: to the same address and transport, with the same Via.
    let (mut world, dialog, _, forwarded) = asked(INVITE);
    let stream = stream(&world);
    world.reply(stream, &forwarded, 180, &[], "");
    dialog.send(&mut world, End::Device, "CANCEL", 3);
    let (_, cancel) = world.large.pop().expect("a CANCEL by TCP");
    assert_eq!((cancel.method_text(), cancel.via().unwrap().text), (Some("CANCEL"), forwarded.via().unwrap().text));
    world.reply(stream, &cancel, 200, &[], "");
    world.reply(stream, &forwarded, 487, &[], "");
    let (_, ack) = world.large.pop().expect("an ACK by TCP");
    assert_eq!((ack.method_text(), ack.via().unwrap().text), (Some("ACK"), forwarded.via().unwrap().text));
    assert_eq!((world.count("INVITE 487"), by_udp(&world)), (1, vec![]));
}

#[test]
fn what_went_by_tcp_is_not_sent_again_while_its_stream_stands() {
    // RFC 3261 §17.1.1.2, §17.1.2.2: timers A and E are for unreliable transports.
    for method in [INVITE, "MESSAGE"] {
        let (mut world, _, _, forwarded) = asked(method);
        world.advance(seconds(20));
        assert_eq!((world.large.len(), by_udp(&world)), (0, vec![]), "{method}");
        let stream = stream(&world);
        world.reply(stream, &forwarded, 200, &[], "");
        lose(&mut world, true);
        lose(&mut world, false);
        world.advance(seconds(20));
        assert_eq!((world.large.len(), by_udp(&world)), (0, vec![]), "{method} is answered");
    }
}

#[test]
fn what_no_stream_opens_for_goes_by_udp_and_so_does_all_that_belongs_to_it() {
    let (mut world, dialog, request, _) = asked(INVITE);
    let expected = |methods: &[&str]| methods.iter().map(|it| (it.to_string(), "UDP".to_owned())).collect::<Vec<_>>();
    world.advance(seconds(2));
    lose(&mut world, false);
    assert_eq!(by_udp(&world), expected(&[INVITE]));
    let forwarded = world.last(INVITE);
    assert_unharmed(&request, &forwarded);
    world.advance(seconds(1));
    assert_eq!(by_udp(&world), expected(&[INVITE, INVITE]), "timer A");
    let server = world.upstream;
    world.reply(server, &forwarded, 180, &[], "");
    dialog.send(&mut world, End::Device, "CANCEL", 3);
    world.reply(server, &forwarded, 487, &[], "");
    assert_eq!(by_udp(&world), expected(&[INVITE, INVITE, "CANCEL", "ACK"]));
    assert_eq!((world.large.len(), world.count("INVITE 487")), (0, 1));
}

#[test]
fn what_is_unanswered_when_its_stream_ends_goes_by_another_one_as_the_same_request() {
    // RFC 3261 §17.2.3: a SIP server that has it already knows it by its branch, sent-by and method; Kamailio by its transport, too.
    let (mut world, _, request, forwarded) = asked("MESSAGE");
    lose(&mut world, true);
    let (_, again) = world.large.pop().expect("by another stream");
    assert_eq!(again.to_bytes(), forwarded.to_bytes());
    lose(&mut world, true);
    assert_eq!((world.large.len(), by_udp(&world).len()), (0, 1), "a server that ends each stream is not stormed");
    assert_unharmed(&request, &world.last("MESSAGE"));
}

#[test]
fn a_cancel_whose_stream_has_ended_goes_by_another_one() {
    let (mut world, dialog, _, forwarded) = asked(INVITE);
    let stream = stream(&world);
    world.reply(stream, &forwarded, 180, &[], "");
    dialog.send(&mut world, End::Device, "CANCEL", 3);
    let (_, cancel) = world.large.pop().expect("a CANCEL by TCP");
    lose(&mut world, true);
    let (_, again) = world.large.pop().expect("and again");
    assert_eq!(again.to_bytes(), cancel.to_bytes());
    assert_eq!((world.large.len(), by_udp(&world)), (0, vec![]), "its INVITE was heard");
}

/// RFC 3261 §18.1.1 holds for each request; the answer to a delayed offer is in the ACK (§13.2.1).
#[test]
fn the_ack_of_a_2xx_goes_by_tcp_where_it_is_too_large_and_by_udp_where_no_stream_opens() {
    let (mut world, dialog, _, forwarded) = asked(INVITE);
    let (server, device) = (world.upstream, world.device(1));
    let stream = stream(&world);
    world.reply(stream, &forwarded, 200, &[], "");
    let ack = dialog.request(End::Device, "ACK", 3, "Content-Type: application/sdp\r\n", &vec![b'v'; 3000]);
    world.receive_bytes(device, &ack);
    let (peer, passed) = world.large.pop().expect("an ACK by TCP");
    assert_eq!((peer, passed.method_text()), (server_address(), Some("ACK")));
    assert_eq!(passed.via().unwrap().transport, "TCP");
    assert_unharmed(&ack, &passed);
    lose(&mut world, true);
    world.receive_bytes(device, &ack);
    assert!(world.large.pop().is_some(), "a stream that has served opens again");
    assert_eq!(by_udp(&world), vec![]);
    // The 2xx comes again, for no ACK has.
    lose(&mut world, false);
    world.reply(server, &forwarded, 200, &[], "");
    world.receive_bytes(device, &ack);
    assert_eq!((world.large.len(), by_udp(&world)), (0, vec![("ACK".to_owned(), "UDP".to_owned())]));
    assert_unharmed(&ack, &world.last("ACK"));
    world.advance(seconds(65));
    world.receive_bytes(device, &ack);
    assert!(world.large.pop().is_some(), "it is tried again");
    dialog.send(&mut world, End::Device, "ACK", 3);
    assert_eq!((world.large.len(), by_udp(&world).len()), (0, 2), "a small one");
}
