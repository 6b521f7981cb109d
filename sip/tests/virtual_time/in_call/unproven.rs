//! A phone that goes on in its call by another connection before it has proved itself there.

use sip::auth::Challenge;
use sip::endpoint::unproven::{UNPROVEN_BYTES_PER_FLOW, UNPROVEN_PER_FLOW};
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::leg::{CONTACT, Dialog, End};
use crate::world::{SECRET, World, answer_to, seconds, server_address};

const SERVER: FlowId =
    FlowId::Datagram(std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)), 5060));

/// A call stands whose device had flow 1, and has lost it.
fn lost() -> (World, Dialog) {
    assert_eq!(SERVER, FlowId::Datagram(server_address()));
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.sent.clear();
    (world, dialog)
}

/// The device sends a request of its call by a flow.
fn send(world: &mut World, dialog: &Dialog, flow: u64, method: &str, cseq: u32, middle: &str) {
    let (source, request) = (world.device(flow), dialog.request(End::Device, method, cseq, middle, b""));
    world.receive_bytes(source, &request);
}

/// The device asks to register by a flow. `lines`: its credentials, if it has any.
fn ask(world: &mut World, flow: u64, lines: &str) {
    let text = format!(
        "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bKask{flow}{}\r\nFrom: <sip:{1}@relay.test>;tag=d\r\n\
         To: <sip:{1}@relay.test>\r\nCall-ID: ask{flow}\r\nCSeq: 1 REGISTER\r\n{lines}Content-Length: 0\r\n\r\n",
        lines.len(),
        world.instance
    );
    world.receive(world.device(flow), &text);
}

/// The credentials that answer the last 407 to this method.
fn proof(world: &World, method: &str, password: &str) -> String {
    let refusal = world.last(&format!("{method} 407"));
    let challenge = Challenge::parse(refusal.text(Name::ProxyAuthenticate).unwrap()).unwrap();
    let user = world.instance.to_string();
    let value = answer_to(method, &challenge, &user, password, "sip:bob@192.0.2.77", 1, "c");
    format!("Proxy-Authorization: {value}\r\n")
}

/// The messages by a flow, in order.
fn by(world: &World, flow: FlowId) -> Vec<String> {
    let sent = world.sent.iter().zip(world.descriptions()).filter(|(sent, _)| sent.flow == flow);
    sent.map(|(_, what)| what).collect()
}

#[test]
fn what_comes_while_a_register_is_under_way_waits_for_its_proof_and_passes_in_order() {
    let (mut world, dialog) = lost();
    ask(&mut world, 2, "");
    for (cseq, method) in [(2, "INVITE"), (3, "INFO"), (4, "BYE")] {
        send(&mut world, &dialog, 2, method, cseq, "");
    }
    assert_eq!(world.descriptions(), ["REGISTER 401"]);
    world.sent.clear();
    world.attach(2);
    assert_eq!(by(&world, SERVER), ["INVITE", "INFO", "BYE"]);
    let bye = world.last("BYE");
    world.reply(world.upstream, &bye, 200, &[], "");
    assert_eq!(by(&world, FlowId::Stream(2)), ["REGISTER 401", "REGISTER 200", "INVITE 100", "BYE 200"]);
    assert_eq!(world.endpoint.counts().waiting, 0);
}

#[test]
fn an_ack_waits_likewise_and_a_cancel_goes_with_its_invite() {
    let (mut world, dialog) = lost();
    send(&mut world, &dialog, 2, "ACK", 1, "");
    ask(&mut world, 2, "");
    send(&mut world, &dialog, 2, "INVITE", 2, "");
    send(&mut world, &dialog, 2, "CANCEL", 2, "");
    assert_eq!(world.descriptions(), ["REGISTER 401"]);
    world.attach(2);
    assert_eq!(by(&world, SERVER), ["ACK", "INVITE"]);
    let invite = world.last("INVITE");
    world.reply(world.upstream, &invite, 180, &[], "");
    assert_eq!(
        (by(&world, SERVER), world.count("CANCEL 200")),
        (vec!["ACK".into(), "INVITE".into(), "CANCEL".into()], 1)
    );
    // One that is for nothing waits for nobody.
    let (mut world, dialog) = lost();
    send(&mut world, &dialog, 2, "CANCEL", 2, "");
    assert_eq!(world.descriptions(), ["CANCEL 481"]);
}

#[test]
fn a_wrong_proof_refuses_what_waits_for_it() {
    let (mut world, dialog) = lost();
    ask(&mut world, 2, "");
    send(&mut world, &dialog, 2, "BYE", 2, "");
    ask(&mut world, 2, "Authorization: Bearer wrong\r\n");
    assert_eq!(world.descriptions(), ["REGISTER 401", "REGISTER 403", "BYE 403"]);
    assert_eq!(world.endpoint.counts().waiting, 0);
}

#[test]
fn without_a_register_a_request_is_challenged_and_its_answer_proves_the_device_for_its_dialogs() {
    for method in ["BYE", "INVITE", "INFO"] {
        let (mut world, dialog) = lost();
        // The caller has asked something meanwhile.
        dialog.send(&mut world, End::Caller, "INFO", 2);
        send(&mut world, &dialog, 2, method, 2, "");
        assert_eq!(world.descriptions(), [format!("{method} 407")]);
        let others = "Proxy-Authorization: Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:x\", response=\"r\"\r\n";
        let lines = proof(&world, method, SECRET) + others;
        world.sent.clear();
        send(&mut world, &dialog, 2, method, 3, &lines);
        assert_eq!(by(&world, SERVER), [method]);
        let passed = world.sent.iter().find(|sent| sent.flow == SERVER).unwrap().message.clone();
        let left: Vec<_> = passed.values(Name::ProxyAuthorization).map(String::from_utf8_lossy).collect();
        assert!(left.len() == 1 && left[0].contains("realm=\"example.com\""), "{left:?}");
        assert!(by(&world, FlowId::Stream(2)).iter().any(|it| it == "INFO"), "what has waited goes there");
        dialog.send(&mut world, End::Caller, "MESSAGE", 3);
        assert_eq!(by(&world, FlowId::Stream(2)).last().unwrap(), "MESSAGE");
        // The device is in its dialogs, and nowhere else.
        assert_eq!(world.endpoint.counts().attached, 0);
        world.invite("call-2");
        assert_eq!(by(&world, FlowId::Stream(2)).iter().filter(|it| *it == "INVITE").count(), 0);
        world.reply(world.upstream, &passed, 200, &[], "");
        assert_eq!(world.endpoint.counts().waiting, 0);
    }
}

#[test]
fn a_wrong_answer_is_refused_and_the_fifth_closes_the_connection() {
    let (mut world, dialog) = lost();
    for cseq in 0..5 {
        send(&mut world, &dialog, 2, "BYE", 2 * cseq + 2, "");
        let lines = proof(&world, "BYE", "guessed");
        send(&mut world, &dialog, 2, "BYE", 2 * cseq + 3, &lines);
    }
    assert_eq!((world.count("BYE 403"), world.count("BYE")), (5, 0));
    assert_eq!(world.closed, [FlowId::Stream(2)]);
}

#[test]
fn what_has_waited_long_enough_is_challenged_and_leaves_nothing() {
    let (mut world, dialog) = lost();
    ask(&mut world, 2, "");
    send(&mut world, &dialog, 2, "ACK", 1, "");
    send(&mut world, &dialog, 2, "INVITE", 2, "");
    world.advance(seconds(7));
    assert_eq!(world.descriptions(), ["REGISTER 401"]);
    world.advance(seconds(1));
    assert_eq!(world.descriptions(), ["REGISTER 401", "INVITE 407"]);
    let invite = dialog.request(End::Device, "INVITE", 2, "", b"");
    // The ACK of what was refused here goes nowhere, also after the proof.
    let ack = String::from_utf8(invite).unwrap().replace("INVITE sip", "ACK sip").replace("2 INVITE", "2 ACK");
    world.receive(world.device(2), &ack);
    world.attach(2);
    assert_eq!(by(&world, SERVER), [] as [&str; 0]);
    world.advance(seconds(40));
    let counts = world.endpoint.counts();
    assert_eq!((counts.waiting, counts.transactions), (0, 0));
}

#[test]
fn what_waits_is_bounded_and_ends_with_its_connection() {
    let (mut world, dialog) = lost();
    ask(&mut world, 2, "");
    for cseq in 0..40 {
        send(&mut world, &dialog, 2, "INFO", cseq + 2, "");
    }
    assert_eq!((world.endpoint.counts().waiting, world.count("INFO 403")), (UNPROVEN_PER_FLOW, 40 - UNPROVEN_PER_FLOW));
    world.input(Input::Closed(FlowId::Stream(2)));
    assert_eq!(world.endpoint.counts().waiting, 0);
    ask(&mut world, 3, "");
    let large = vec![b'x'; UNPROVEN_BYTES_PER_FLOW / 5];
    for cseq in 0..6 {
        let request = dialog.request(End::Device, "INFO", cseq + 60, "Content-Type: text/plain\r\n", &large);
        world.receive_bytes(world.device(3), &request);
    }
    assert_eq!(world.endpoint.counts().waiting, 4);
}

/// The device rings by flow 1, and has lost it.
fn ringing() -> (World, Message) {
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[CONTACT], "");
    world.input(Input::Closed(FlowId::Stream(1)));
    world.sent.clear();
    (world, invite)
}

#[test]
fn a_phone_that_answers_by_a_connection_without_a_register_has_the_call() {
    let (mut world, invite) = ringing();
    world.reply(world.device(2), &invite, 200, &[CONTACT], "");
    world.reply(world.device(2), &invite, 200, &[CONTACT], "");
    assert_eq!((by(&world, SERVER), world.final_states()), (vec!["INVITE 200".into(); 2], vec![CallState::Answered]));
    let dialog = Dialog::of("call-1", invite, &world.last("INVITE 200"));
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Caller, "INFO", 2);
    assert_eq!(by(&world, FlowId::Stream(2)), ["ACK", "INFO"]);
    let info = world.last("INFO");
    world.reply(world.device(2), &info, 200, &[], "");
    assert_eq!(world.count("INFO 200"), 1);
    // A request of the device's own needs a proof.
    send(&mut world, &dialog, 2, "BYE", 2, "");
    assert_eq!((world.count("BYE 407"), world.count("BYE")), (1, 0));
    let lines = proof(&world, "BYE", SECRET);
    send(&mut world, &dialog, 2, "BYE", 3, &lines);
    assert_eq!(by(&world, SERVER).last().unwrap(), "BYE");
}

#[test]
fn no_other_dialog_goes_by_such_a_connection_and_this_one_not_for_longer_than_it_stands() {
    let (mut world, invite) = ringing();
    world.reply(world.device(2), &invite, 200, &[CONTACT], "");
    let dialog = Dialog::of("call-1", invite, &world.last("INVITE 200"));
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.invite("call-2");
    assert_eq!(by(&world, FlowId::Stream(2)), ["ACK"]);
    // The device proves itself by another one: all of it goes there.
    world.attach(3);
    dialog.send(&mut world, End::Caller, "INFO", 2);
    assert_eq!(
        (by(&world, FlowId::Stream(2)), by(&world, FlowId::Stream(3)).last().unwrap().as_str()),
        (vec!["ACK".into()], "INFO")
    );

    let (mut world, invite) = ringing();
    world.reply(world.device(2), &invite, 200, &[CONTACT], "");
    let dialog = Dialog::of("call-1", invite, &world.last("INVITE 200"));
    world.input(Input::Closed(FlowId::Stream(2)));
    dialog.send(&mut world, End::Caller, "BYE", 2);
    assert_eq!(by(&world, FlowId::Stream(2)), [] as [&str; 0]);
    world.attach(3);
    assert!(by(&world, FlowId::Stream(3)).contains(&"BYE".into()));
    assert_eq!(world.endpoint.counts().waiting, 0);
}

#[test]
fn a_phone_that_declines_by_a_connection_without_a_register_is_heard() {
    let (mut world, invite) = ringing();
    world.reply(world.device(2), &invite, 486, &[], "");
    assert_eq!((by(&world, SERVER), by(&world, FlowId::Stream(2))), (vec!["INVITE 486".into()], vec!["ACK".into()]));
    assert_eq!(world.final_states(), [CallState::Declined]);
    // A device that does not know the branch is ignored.
    let (mut world, invite) = ringing();
    let other = String::from_utf8(invite.to_bytes().to_vec()).unwrap();
    let branch = invite.via().unwrap().branch().unwrap().to_owned();
    let guessed = branch.replacen(&branch[12..16], "0000", 1);
    let other = Message::parse(&other.replace(&branch, &guessed).into(), &sip::message::Limits::default()).unwrap();
    world.reply(world.device(2), &other, 486, &[], "");
    assert_eq!(world.descriptions(), [] as [&str; 0]);
}

#[test]
fn what_a_caller_has_asked_is_answered_by_such_a_connection_too() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    let asked = world.last("INVITE");
    world.input(Input::Closed(FlowId::Stream(1)));
    world.sent.clear();
    world.reply(world.device(2), &asked, 200, &[CONTACT], "");
    dialog.send(&mut world, End::Caller, "ACK", 2);
    assert_eq!((by(&world, SERVER), by(&world, FlowId::Stream(2))), (vec!["INVITE 200".into()], vec!["ACK".into()]));
}
