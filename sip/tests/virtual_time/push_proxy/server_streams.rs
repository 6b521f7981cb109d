//! Requests of a device that are unanswered when the stream to its SIP server ends (RFC 3261 §18.2.2, RFC 3263 §4.3).

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::outgoing::{Begun, flow_of, in_dialog};
use super::through::{Register, Through, values};
use crate::world::{REGISTRAR, World};

const FIRST: FlowId = FlowId::Stream(99);
const NEXT: FlowId = FlowId::Stream(100);
const BOB: (&str, &str) = ("Contact", "<sip:bob@192.0.2.77>");

/// Alice's phone is registered by flow 1, and her SIP server's stream is the first one.
fn registered() -> Through {
    let mut through = Through::over(FIRST);
    through.registered(&Register::by(1));
    through.world.sent.clear();
    through
}

/// She calls; her server has answered with these.
fn calling(statuses: &[u16]) -> (Through, Message) {
    let mut through = registered();
    let world = &mut through.world;
    Begun::new("INVITE").send(world);
    let (invite, server) = (world.last("INVITE"), world.upstream);
    for status in statuses {
        world.reply(server, &invite, *status, &[BOB], "");
    }
    world.sent.clear();
    (through, invite)
}

/// The server's stream ends, and the next dial leads to the next one.
fn lose(world: &mut World, next: FlowId) {
    let before = std::mem::replace(&mut world.upstream.flow, next);
    world.input(Input::Closed(before));
}

/// The requests by a flow, each with its branch.
fn by(world: &World, flow: FlowId) -> Vec<(String, String)> {
    let sent = world.sent.iter().filter(|sent| sent.flow == flow && sent.message.is_request());
    let told = sent.map(|sent| (sent.message.method_text().unwrap().to_owned(), branch(&sent.message)));
    told.filter(|(method, _)| method != "REGISTER").collect()
}

fn branch(message: &Message) -> String {
    message.via().unwrap().branch().unwrap().to_owned()
}

fn bye(invite: &Message) -> String {
    let mut routes = values(invite, Name::RecordRoute);
    routes.reverse();
    let (alice, bob) = ("<sip:alice@example.com>;tag=a", "<sip:bob@example.com>;tag=peer");
    in_dialog("BYE", "sip:bob@192.0.2.77", &routes, alice, bob, "10.0.0.5:9")
}

#[test]
fn a_server_answers_by_a_stream_of_its_own_and_a_stranger_does_not() {
    for lost in [true, false] {
        let (mut through, invite) = calling(&[180]);
        let world = &mut through.world;
        world.dial = false;
        if lost {
            world.input(Input::Closed(FIRST));
        }
        let own = Source { flow: FlowId::Stream(77), peer: "192.0.2.10:41000".parse().unwrap(), ..world.upstream };
        for other in [
            Source { flow: FlowId::Stream(78), peer: "203.0.113.9:5061".parse().unwrap(), ..own },
            Source { flow: FlowId::Stream(79), side: Side::Device, ..own },
        ] {
            world.reply(other, &invite, 200, &[BOB], "");
        }
        assert_eq!(world.count("INVITE 200"), 0);
        for answers in 1..=2 {
            // Again, for the ACK was lost with the stream.
            world.reply(own, &invite, 200, &[BOB], "");
            assert_eq!((world.count("INVITE 200"), world.last("INVITE 200").vias()), (answers, 1), "{lost}");
        }
    }
}

#[test]
fn a_call_out_is_asked_for_again_by_the_next_stream_and_answered_there() {
    for statuses in [&[][..], &[100], &[180]] {
        let (mut through, invite) = calling(statuses);
        let world = &mut through.world;
        lose(world, NEXT);
        assert_eq!(by(world, NEXT), [("INVITE".to_owned(), branch(&invite))], "{statuses:?}");
        let again = world.last("INVITE");
        assert_eq!(again.to_bytes(), invite.to_bytes(), "as the retransmission that it is");
        let server = world.upstream;
        world.reply(server, &again, 200, &[BOB], "");
        assert_eq!(world.count("INVITE 200"), 1);
    }
}

#[test]
fn a_caller_that_hangs_up_ends_the_ringing_also_when_the_stream_has_ended() {
    let cancel = Begun { method: "CANCEL", ..Begun::new("INVITE") }.text(1, "");
    for hangs_up_first in [true, false] {
        let (mut through, invite) = calling(&[180]);
        let world = &mut through.world;
        let device = world.device(1);
        if hangs_up_first {
            world.receive(device, &cancel);
            lose(world, NEXT);
        } else {
            lose(world, NEXT);
            world.receive(device, &cancel);
        }
        let told = by(world, NEXT);
        assert_eq!(told.last(), Some(&("CANCEL".to_owned(), branch(&invite))), "{hangs_up_first}");
        assert_eq!(told.len(), if hangs_up_first { 1 } else { 2 }, "what is cancelled is not begun anew");
        let server = world.upstream;
        world.reply(server, &invite, 487, &[], "");
        assert_eq!((world.count("INVITE 487"), by(world, NEXT).last().map(|it| &*it.0)), (1, Some("ACK")));
    }
}

/// An INVITE is sent again once, and the CANCEL that comes behind that by each stream there is until it is answered.
#[test]
fn a_caller_that_hangs_up_ends_the_ringing_however_often_the_stream_has_ended() {
    let cancel = Begun { method: "CANCEL", ..Begun::new("INVITE") }.text(1, "");
    let (mut through, invite) = calling(&[180]);
    let world = &mut through.world;
    lose(world, NEXT);
    world.dial = false;
    lose(world, FIRST);
    world.receive(world.device(1), &cancel);
    let streams = [101, 102].map(FlowId::Stream);
    for stream in streams {
        world.input(Input::Dialled { upstream: REGISTRAR, flow: stream, transport: Transport::Tls });
        world.upstream.flow = stream;
        assert_eq!(by(world, stream), [("CANCEL".to_owned(), branch(&invite))], "{stream:?}");
        world.input(Input::Closed(stream));
    }
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    world.upstream.flow = NEXT;
    let server = world.upstream;
    world.reply(server, &world.last("CANCEL"), 200, &[], "");
    world.reply(server, &invite, 487, &[], "");
    assert_eq!(world.count("INVITE 487"), 1);
}

#[test]
fn a_bye_into_a_dead_stream_goes_by_the_next_one_however_late_that_is_noticed() {
    for noticed_after in [1, 31, 60, 130, 500] {
        let (mut through, invite) = calling(&[200]);
        let world = &mut through.world;
        let device = world.device(1);
        world.receive(device, &bye(&invite));
        let sent = by(world, FIRST);
        assert_eq!(sent.len(), 1);
        world.dial = false;
        // The keep-alive may have found it out before.
        world.advance(crate::world::seconds(noticed_after));
        world.dial = true;
        if world.dialled == 1 {
            lose(world, NEXT);
        } else {
            let (upstream, transport) = (REGISTRAR, Transport::Tls);
            world.upstream.flow = NEXT;
            world.input(Input::Dialled { upstream, flow: NEXT, transport });
        }
        assert_eq!(by(world, NEXT), sent, "{noticed_after}");
        let (server, bye) = (world.upstream, world.last("BYE"));
        world.reply(server, &bye, 200, &[], "");
        assert_eq!(world.count("BYE 200"), usize::from(noticed_after < 32), "RFC 4320 §4.2: not later");
        world.sent.clear();
        lose(world, FlowId::Stream(101));
        assert_eq!(by(world, FlowId::Stream(101)), [], "it was answered");
    }
}

#[test]
fn a_server_that_comes_back_late_hears_that_a_call_is_over_unless_its_phone_is_not_served_any_more() {
    for is_removed in [false, true] {
        let (mut through, invite) = calling(&[200]);
        let instance = through.instance();
        let world = &mut through.world;
        world.dial = false;
        world.input(Input::Closed(FIRST));
        let device = world.device(1);
        world.receive(device, &bye(&invite));
        world.advance(crate::world::seconds(25));
        assert_eq!(world.count("BYE 480"), 1);
        if is_removed {
            world.input(Input::RemovePushBinding(instance));
        }
        world.advance(crate::world::seconds(275));
        world.upstream.flow = NEXT;
        world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
        assert_eq!(by(world, NEXT).len(), usize::from(!is_removed));
    }
}

#[test]
fn what_was_heard_at_one_address_is_not_asked_for_at_another() {
    // RFC 3263 §4.3.
    for (status, told) in [(None, 1), (Some(180), 0)] {
        let (mut through, _) = calling(&status.into_iter().collect::<Vec<_>>());
        let world = &mut through.world;
        let address = "192.0.2.11:5060".parse().unwrap();
        world.input(Input::LeadsTo { flow: NEXT, address });
        lose(world, NEXT);
        assert_eq!(by(world, NEXT).len(), told, "{status:?}");
        let device = world.device(1);
        world.receive(device, &Begun { method: "CANCEL", ..Begun::new("INVITE") }.text(1, ""));
        let server = world.upstream;
        if status.is_none() {
            let invite = world.last("INVITE");
            world.reply(server, &invite, 180, &[], "");
        }
        assert_eq!(flow_of(world, "CANCEL"), NEXT);
    }
}

#[test]
fn what_may_be_the_cause_of_the_end_of_streams_is_sent_once_more_and_not_again() {
    let (mut through, invite) = calling(&[180]);
    let world = &mut through.world;
    lose(world, NEXT);
    let third = FlowId::Stream(101);
    world.sent.clear();
    lose(world, third);
    world.advance(crate::world::seconds(5));
    assert_eq!(by(world, third), []);
    let server = world.upstream;
    world.reply(server, &invite, 200, &[BOB], "");
    assert_eq!(world.count("INVITE 200"), 1, "and its answer is taken");
}

#[test]
fn a_caller_whose_server_does_not_come_back_is_told_at_once() {
    let (mut through, _) = calling(&[180]);
    let world = &mut through.world;
    world.dial = false;
    world.input(Input::Closed(FIRST));
    world.advance(crate::world::seconds(23));
    assert_eq!(world.count("INVITE 408"), 0);
    world.advance(crate::world::seconds(2));
    assert_eq!(world.count("INVITE 408"), 1);
}
