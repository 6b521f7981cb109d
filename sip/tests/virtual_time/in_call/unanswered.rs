//! A SIP server's connection that ends before what it has asked is answered (RFC 3261 §18.2.2).

use std::net::SocketAddr;
use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::leg::{CONTACT, Dialog, End};
use crate::world::{REGISTRAR, World, seconds, server_address};

const FIRST: FlowId = FlowId::Stream(7);
const NEXT: FlowId = FlowId::Stream(8);
const INBOUND: FlowId = FlowId::Stream(99);

/// A world that is registered by a stream, and a SIP server that is trusted by its address, too.
fn registered() -> World {
    let mut world = World::registered_with(FIRST, |_| {});
    let addresses = [server_address().ip()].into();
    world.input(Input::Addresses { upstream: REGISTRAR, addresses, is_whole: true });
    world
}

/// By which flows answers of this kind went, in order.
fn by(world: &World, what: &str) -> Vec<FlowId> {
    let sent = world.sent.iter().zip(world.descriptions()).filter(|(_, said)| said == what);
    sent.map(|(sent, _)| sent.flow).collect()
}

#[test]
fn a_call_whose_connection_ends_is_answered_by_the_flow_of_the_registration() {
    let mut world = registered();
    let (source, text) = (Source { flow: INBOUND, ..world.upstream }, world.invite_text("call-1"));
    world.receive(source, &text);
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    assert_eq!(by(&world, "INVITE 180").last(), Some(&INBOUND));
    world.input(Input::Closed(INBOUND));
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(by(&world, "INVITE 200"), [FIRST]);
}

#[test]
fn a_call_whose_connection_is_that_of_the_registration_is_answered_by_the_next_one() {
    for answered_first in [false, true] {
        let mut world = registered();
        world.invite("call-1");
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, 180, &[], "");
        (world.dial, world.upstream.flow) = (false, NEXT);
        world.input(Input::Closed(FIRST));
        world.sent.clear();
        if answered_first {
            world.reply(device, &invite, 200, &[CONTACT], "");
            assert_eq!(by(&world, "INVITE 200"), [], "there is no way yet");
        }
        world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
        if !answered_first {
            assert_eq!(by(&world, "INVITE 180"), [NEXT], "it still rings");
            world.reply(device, &invite, 200, &[CONTACT], "");
        }
        assert_eq!(by(&world, "INVITE 200"), [NEXT]);
        // The device repeats it until it is acknowledged.
        world.reply(device, &invite, 200, &[CONTACT], "");
        assert_eq!(by(&world, "INVITE 200"), [NEXT, NEXT]);
    }
}

#[test]
fn a_refusal_finds_its_server_by_another_flow() {
    let mut world = registered();
    let (source, text) = (Source { flow: INBOUND, ..world.upstream }, world.invite_text("call-1"));
    world.receive(source, &text);
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.input(Input::Closed(INBOUND));
    world.reply(device, &invite, 486, &[], "");
    assert_eq!(by(&world, "INVITE 486"), [FIRST]);
}

#[test]
fn a_request_of_a_dialog_is_answered_by_the_next_flow_too() {
    let mut world = registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    let bye = dialog.request(End::Caller, "BYE", 2, "", b"");
    let source = Source { flow: INBOUND, ..world.upstream };
    world.receive_bytes(source, &bye);
    let (device, forwarded) = (world.device(1), world.last("BYE"));
    world.input(Input::Closed(INBOUND));
    world.reply(device, &forwarded, 200, &[], "");
    assert_eq!(by(&world, "BYE 200"), [FIRST]);
}

#[test]
fn a_strangers_connection_that_ends_moves_nothing() {
    let mut world = registered();
    world.invite("call-1");
    let stranger = Source { flow: INBOUND, peer: "203.0.113.9:5060".parse().unwrap(), ..world.upstream };
    let text = world.invite_text("call-2");
    world.receive(stranger, &text);
    world.input(Input::Closed(INBOUND));
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(by(&world, "INVITE 200"), [FIRST]);
}

#[test]
fn an_answer_that_comes_before_there_is_a_flow_waits_for_it_whatever_its_method() {
    let mut world = registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Caller, "INFO", 2);
    let (device, forwarded) = (world.device(1), world.last("INFO"));
    (world.dial, world.upstream.flow) = (false, NEXT);
    world.input(Input::Closed(FIRST));
    world.reply(device, &forwarded, 200, &[], "");
    world.advance(Duration::from_secs(2));
    assert_eq!(by(&world, "INFO 200"), [], "there is no way yet");
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    assert_eq!(by(&world, "INFO 200"), [NEXT]);
}

#[test]
fn a_2xx_that_died_with_its_connection_comes_again_by_the_next_one() {
    let mut world = registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(by(&world, "INVITE 200"), [FIRST]);
    world.upstream.flow = NEXT;
    world.input(Input::Closed(FIRST));
    // Nobody has acknowledged it.
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(by(&world, "INVITE 200"), [FIRST, NEXT]);
}

#[test]
fn a_cancel_finds_its_re_invite_by_another_connection() {
    let mut world = registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    let (device, forwarded) = (world.device(1), world.last("INVITE"));
    world.reply(device, &forwarded, 180, &[], "");
    let cancel = dialog.request(End::Caller, "CANCEL", 2, "", b"");
    let stranger = Source { flow: INBOUND, peer: "203.0.113.9:5060".parse().unwrap(), ..world.upstream };
    world.receive_bytes(stranger, &cancel);
    assert_eq!((world.count("CANCEL 481"), world.count("CANCEL")), (1, 0));
    world.advance(Duration::from_secs(1));
    let source = Source { flow: FlowId::Stream(100), ..world.upstream };
    world.receive_bytes(source, &cancel);
    assert_eq!((world.count("CANCEL 200"), world.count("CANCEL")), (1, 1));
}

/// A world that is registered by UDP, or by a stream to `leads_to`; its server calls by a connection of its own, and device 1 rings.
fn called_by_a_connection(flow: FlowId, leads_to: &str, transport: Transport) -> (World, Message) {
    let mut world = World::registered_with(flow, |_| {});
    world.input(Input::Addresses { upstream: REGISTRAR, addresses: [server_address().ip()].into(), is_whole: true });
    if flow.is_reliable() {
        world.input(Input::LeadsTo { flow, address: SocketAddr::new(leads_to.parse().unwrap(), 5060) });
    }
    let peer = SocketAddr::new(server_address().ip(), 40_404);
    let (source, text) = (Source { flow: INBOUND, peer, transport, ..world.upstream }, world.invite_text("call-1"));
    let via = if transport == Transport::Tls { "SIP/2.0/TLS" } else { "SIP/2.0/TCP" };
    world.receive(source, &text.replacen("SIP/2.0/UDP 192.0.2.10:5060", &format!("{via} proxy.test:5099"), 1));
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    (world, invite)
}

/// The answers that left by connections of their own: peer, transport and status.
fn anew(world: &World) -> Vec<(String, Transport, u16)> {
    let answers = world.answers.iter();
    answers.map(|it| (it.peer.to_string(), it.transport, it.message.status().unwrap())).collect()
}

#[test]
fn where_no_stream_leads_to_its_sender_an_answer_gets_one_of_its_own_to_the_port_of_the_via() {
    let udp = FlowId::Datagram(server_address());
    for (flow, leads_to) in [(udp, ""), (FIRST, "192.0.2.11")] {
        for (status, transport) in [(200, Transport::Tcp), (486, Transport::Tls)] {
            let (mut world, invite) = called_by_a_connection(flow, leads_to, transport);
            world.input(Input::Closed(INBOUND));
            assert_eq!(anew(&world), [], "that it rings is worth no connection");
            world.sent.clear();
            let device = world.device(1);
            world.reply(device, &invite, status, &[CONTACT], "");
            assert_eq!(anew(&world), [("192.0.2.10:5099".to_owned(), transport, status)], "{flow:?}");
            assert_eq!(world.answers[0].upstream, REGISTRAR);
            assert_eq!(by(&world, &format!("INVITE {status}")), [], "nowhere else");
        }
    }
}

#[test]
fn an_answer_that_waits_for_the_next_flow_gets_a_connection_of_its_own_when_that_leads_elsewhere() {
    let (mut world, invite) = called_by_a_connection(FIRST, "192.0.2.10", Transport::Tls);
    let device = world.device(1);
    world.dial = false;
    world.input(Input::Closed(FIRST));
    world.input(Input::Closed(INBOUND));
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(anew(&world), [], "the next flow may lead there");
    world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5060".parse().unwrap() });
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    assert_eq!(anew(&world), [("192.0.2.10:5099".to_owned(), Transport::Tls, 200)]);
    assert_eq!(by(&world, "INVITE 200"), []);
    // The device repeats it until it is acknowledged; long after the call nothing is remembered.
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(anew(&world).len(), 2);
    world.advance(seconds(300));
    world.reply(device, &invite, 200, &[CONTACT], "");
    assert_eq!(anew(&world).len(), 2);
}

/// RFC 3261 §18.2.2; a phone repeats its 200 for 32 s (§13.3.1.4), and a server that has ended several connections is dialled more and more seldom.
#[test]
fn an_answer_has_a_server_that_ends_its_connections_dialled_soon() {
    for answered_first in [false, true] {
        let mut world = registered();
        for flow in 20..27 {
            let ended = std::mem::replace(&mut world.upstream.flow, FlowId::Stream(flow));
            world.input(Input::Closed(ended));
            while !world.settled.iter().any(|(settled, _)| *settled == FlowId::Stream(flow)) {
                world.advance(seconds(1));
            }
            world.grant(3600);
        }
        world.invite("call-1");
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        let ended = std::mem::replace(&mut world.upstream.flow, NEXT);
        world.input(Input::Closed(ended));
        if answered_first {
            world.reply(device, &invite, 200, &[CONTACT], "");
        }
        assert_eq!(by(&world, "INVITE 200"), [], "there is no way yet");
        world.advance(Duration::from_millis(1250));
        if !answered_first {
            world.reply(device, &invite, 200, &[CONTACT], "");
        }
        assert_eq!(by(&world, "INVITE 200"), [NEXT], "{answered_first}");
    }
}

#[test]
fn an_answer_waits_for_no_further_dial_when_one_has_failed() {
    for answered_first in [false, true] {
        let (mut world, invite) = called_by_a_connection(FIRST, "192.0.2.10", Transport::Tls);
        let device = world.device(1);
        world.dial = false;
        world.input(Input::Closed(FIRST));
        world.input(Input::Closed(INBOUND));
        for _ in 0..if answered_first { 0 } else { 6 } {
            let dialled = world.dialled;
            world.input(Input::DialFailed(REGISTRAR));
            world.advance(Duration::from_millis(1250));
            assert_eq!(world.dialled, dialled + 1, "a dial that failed is repeated soon");
        }
        world.reply(device, &invite, 200, &[CONTACT], "");
        assert_eq!(anew(&world), [], "the next flow may lead there");
        world.input(Input::DialFailed(REGISTRAR));
        assert_eq!(anew(&world), [("192.0.2.10:5099".to_owned(), Transport::Tls, 200)], "{answered_first}");
        world.reply(device, &invite, 200, &[CONTACT], "");
        assert_eq!(anew(&world).len(), 2, "the device repeats it");
    }
}

#[test]
fn a_bye_that_no_datagram_of_its_server_answers_goes_by_the_flow_that_its_account_has_by_now() {
    // RFC 3263 §4.3: of two proxies the one is gone, and the calls live on at the other.
    let [here, gone]: [SocketAddr; 2] = [server_address(), "192.0.2.12:5060".parse().unwrap()];
    for (method, from) in [("BYE", gone), ("BYE", here), ("INFO", gone)] {
        let mut world = World::registered();
        world.input(Input::Addresses { upstream: REGISTRAR, addresses: [here.ip(), gone.ip()].into(), is_whole: true });
        let of_account = world.upstream;
        world.upstream = Source { flow: FlowId::Datagram(from), peer: from, ..of_account };
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        world.upstream = of_account;
        world.sent.clear();
        dialog.send(&mut world, End::Device, method, 2);
        world.advance(seconds(31));
        assert!(by(&world, method).iter().all(|flow| *flow == FlowId::Datagram(from)));
        world.advance(seconds(2));
        let goes_on = method == "BYE" && from == gone;
        let elsewhere = by(&world, method).iter().any(|flow| *flow != FlowId::Datagram(from));
        assert_eq!(elsewhere, goes_on, "{method} {from}");
        if goes_on {
            let again = world.last("BYE");
            world.reply(of_account, &again, 200, &[], "");
            assert_eq!(world.count("BYE 200"), 0, "its device waits no longer");
        }
    }
}

#[test]
fn nobody_but_its_sip_server_has_the_relay_open_a_connection() {
    let mut world = World::registered_with(FlowId::Datagram(server_address()), |_| {});
    world.input(Input::Addresses { upstream: REGISTRAR, addresses: [server_address().ip()].into(), is_whole: true });
    let stranger =
        Source { flow: INBOUND, transport: Transport::Tcp, peer: "203.0.113.9:4".parse().unwrap(), ..world.upstream };
    let text = world.invite_text("call-1");
    world.receive(stranger, &text);
    world.input(Input::Closed(INBOUND));
    world.attach(1);
    world.advance(seconds(300));
    assert_eq!(anew(&world), []);
}

/// The answer may be the reason why the SIP server closes its streams.
#[test]
fn a_final_answer_is_sent_by_one_more_stream_and_by_no_third() {
    let mut world = registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 486, &[], "");
    (world.dial, world.upstream.flow) = (false, NEXT);
    world.input(Input::Closed(FIRST));
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    assert_eq!(by(&world, "INVITE 486"), [FIRST, NEXT]);
    let third = FlowId::Stream(9);
    world.upstream.flow = third;
    world.input(Input::Closed(NEXT));
    world.input(Input::Dialled { upstream: REGISTRAR, flow: third, transport: Transport::Tls });
    world.advance(seconds(40));
    assert_eq!(by(&world, "INVITE 486"), [FIRST, NEXT]);
}

/// The device repeats its 200 itself.
#[test]
fn a_2xx_follows_to_each_stream_as_its_device_repeats_it() {
    let mut world = registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[CONTACT], "");
    for flow in [NEXT, FlowId::Stream(9)] {
        let before = world.upstream.flow;
        (world.dial, world.upstream.flow) = (false, flow);
        world.input(Input::Closed(before));
        world.advance(seconds(5));
        world.input(Input::Dialled { upstream: REGISTRAR, flow, transport: Transport::Tls });
        let ping = world.invite_text("ping").replace("INVITE", "OPTIONS");
        world.receive(world.upstream, &ping);
        world.reply(device, &invite, 200, &[CONTACT], "");
        assert_eq!(by(&world, "INVITE 200").last(), Some(&flow));
    }
}
