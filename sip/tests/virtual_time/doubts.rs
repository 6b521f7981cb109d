//! A stream whose messages cannot be told apart any more, in virtual time: no failure of the SIP server that passed on what a stranger wrote.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;

use crate::world::{World, seconds};

fn stream(number: u64) -> FlowId {
    FlowId::Stream(900 + number)
}

/// A world whose binding is registered by the first stream.
fn registered() -> World {
    World::registered_with(stream(0), |_| {})
}

/// The stream in use is in doubt; the next dial leads to this one.
fn doubt(world: &mut World, next: u64) -> FlowId {
    let before = std::mem::replace(&mut world.upstream.flow, stream(next));
    world.input(Input::Doubted(before));
    before
}

fn has_failed(world: &World) -> bool {
    world.events.iter().any(|event| matches!(event, Event::RegistrationFailed { .. }))
}

#[test]
fn a_doubt_is_no_failure_and_the_accounts_are_registered_by_another_stream_before_the_old_one_is_closed() {
    let mut world = registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.sent.clear();
    let before = doubt(&mut world, 1);
    assert_eq!((world.dialled, world.avoided.last()), (2, Some(&None)), "the same address, at once");
    assert_eq!((world.count("REGISTER"), world.sent[0].flow), (1, stream(1)));
    world.reply(device, &invite, 180, &[], "");
    let rings = world.sent.iter().find(|sent| sent.message.status() == Some(180)).map(|sent| sent.flow);
    assert_eq!(rings, Some(before), "what came by it is answered by it");
    assert!(!world.closed.contains(&before));
    world.grant(3600);
    assert!(world.closed.contains(&before) && !has_failed(&world));
    world.input(Input::Closed(before));
    world.sent.clear();
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], "");
    let answered = world.sent.iter().find(|sent| sent.message.status() == Some(200)).map(|sent| sent.flow);
    assert_eq!((answered, world.dialled), (Some(stream(1)), 2), "and then by the next one");
}

#[test]
fn doubts_that_follow_each_other_have_a_server_dialled_once_a_second_and_make_nothing_wait_longer() {
    let mut world = registered();
    let start = world.now;
    for number in 1..=60 {
        let dialled = world.dialled;
        doubt(&mut world, number);
        let mut waited = Duration::ZERO;
        while world.dialled == dialled {
            assert!(waited < seconds(1), "{number}");
            world.advance(Duration::from_millis(50));
            waited += Duration::from_millis(50);
        }
        world.grant(600);
    }
    let took = world.now - start;
    assert!(took >= seconds(58) && took <= seconds(62), "60 dials in {took:?}");
    assert!(world.avoided.iter().all(Option::is_none) && !has_failed(&world), "{:?}", world.avoided);
    // A stream that its server ends for the first time is replaced at once.
    let before = std::mem::replace(&mut world.upstream.flow, stream(61));
    world.input(Input::Closed(before));
    assert_eq!(world.dialled, 62);
}

#[test]
fn a_stream_that_has_granted_nothing_and_cannot_be_read_is_the_servers_own_failure() {
    let mut world = World::new(stream(0));
    world.bind();
    let before = doubt(&mut world, 1);
    assert_eq!((world.dialled, world.closed.as_slice()), (1, &[before][..]));
    world.input(Input::Closed(before));
    assert_eq!(world.avoided.last(), Some(&Some(before)), "another address has its turn");
    world.advance(seconds(1));
    let before = doubt(&mut world, 2);
    world.input(Input::Closed(before));
    assert!(has_failed(&world) && world.dialled == 2, "and it is not stormed");
}

#[test]
fn what_is_asked_in_a_call_after_a_doubt_goes_by_a_stream_whose_answer_is_read() {
    let mut world = registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], "");
    doubt(&mut world, 1);
    world.sent.clear();
    let routes: Vec<_> = invite
        .values(sip::message::Name::RecordRoute)
        .map(|route| format!("Route: {}\r\n", String::from_utf8_lossy(route)))
        .collect();
    let bye = format!(
        "BYE sip:caller@192.0.2.10:5060 SIP/2.0\r\nVia: SIP/2.0/TLS phone;branch=z9hG4bKbye\r\nMax-Forwards: 70\r\n{}From: {};tag=peer\r\nTo: {}\r\n\
         Call-ID: {}\r\nCSeq: 2 BYE\r\nContent-Length: 0\r\n\r\n",
        routes.concat(),
        invite.text(sip::message::Name::To).unwrap(),
        invite.text(sip::message::Name::From).unwrap(),
        invite.call_id().unwrap(),
    );
    world.receive(device, &bye);
    let byes: Vec<_> = world.sent.iter().filter(|sent| sent.message.method_text() == Some("BYE")).collect();
    assert_eq!(byes.iter().map(|sent| sent.flow).collect::<Vec<_>>(), [stream(1)], "{:?}", world.descriptions());
}
