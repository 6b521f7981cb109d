//! Messages of one device to a SIP server by a stream that carries the calls of others, too: the server closes it for a message it cannot read.

use sip::endpoint::{CallState, Side, Source};
use sip::message::{Message, Name};

use super::leg::{CONTACT, Dialog, End};
use crate::world::{SDP, World};

/// Bytes that no message of a device to its SIP server has.
const MAX: usize = 15 * 1024;
const IDENTITY: [Name; 4] = [Name::Via, Name::From, Name::CallId, Name::CSeq];

/// A device's copies of the headers that it must copy: none, fewer, more, or others. The Via of this relay is there, without which nothing tells
/// which request the response is for.
fn odd_copies(request: &Message, status: u16) -> Vec<String> {
    let via = request.text(Name::Via).unwrap();
    let number = request.text(Name::CSeq).unwrap();
    let with = |lines: &str| format!("SIP/2.0 {status} x\r\nVia: {via}\r\n{lines}");
    vec![
        with(&format!("CSeq: {number}\r\nTo: <sip:alice@example.com>;tag=phone\r\n")),
        with(&format!(
            "Via: garbage\r\nFrom: \"\r\nTo: \"x <sip:a@b>;tag=phone\r\nCall-ID: another\r\nCSeq: {number}\r\n"
        )),
        with(&format!(
            "{}To: x;tag=phone\r\nCSeq: {number}\r\nCSeq: 99 BYE\r\n",
            "Via: SIP/2.0/UDP h;branch=z9hG4bK7\r\n".repeat(20)
        )),
        with(&format!("To: x;tag=phone\r\nCSeq:\r\n {number}\r\nCall-ID: \u{1} x\r\nFrom: <sip:x@y>;tag=\r\n"))
            .replace("SIP/2.0 ", "sip/2.0 ")
            .replace(" x\r\nVia", "\r\nVia"),
    ]
}

/// The answer tells its transaction as the request did.
fn assert_answers(answer: &Message, asked: &Message) {
    for name in IDENTITY {
        assert_eq!(answer.values(name).collect::<Vec<_>>(), asked.values(name).collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(answer.check(), Ok(()));
    assert_eq!((answer.values(Name::To).count(), answer.to().and_then(|to| to.tag()).is_some()), (1, true));
}

fn parsed(bytes: impl AsRef<[u8]>) -> Message {
    Message::parse(&bytes::Bytes::copy_from_slice(bytes.as_ref()), &sip::message::Limits::default()).unwrap()
}

#[test]
fn a_call_is_answered_to_its_server_whatever_the_device_has_made_of_the_copies() {
    for status in [180, 200, 407, 486, 603] {
        for odd in 0..4 {
            let mut world = World::registered();
            let asked = parsed(world.invite_text("call-1"));
            world.invite("call-1");
            world.attach(1);
            let (device, invite) = (world.device(1), world.last("INVITE"));
            let text =
                format!("{}Contact: <sip:phone@h>\r\nl: {}\r\n\r\n{SDP}", odd_copies(&invite, status)[odd], SDP.len());
            world.receive(device, &text);
            let answer = world.last(&format!("INVITE {status}"));
            assert_answers(&answer, &asked);
            assert_eq!((answer.to().unwrap().tag(), answer.body()), (Some("phone"), &SDP.into()), "{text}");
            if status == 200 {
                world.receive(device, &text);
                assert_eq!(world.count("INVITE 200"), 2, "it is repeated until it is acknowledged");
                assert_answers(&world.last("INVITE 200"), &asked);
            }
        }
    }
}

#[test]
fn what_comes_within_a_dialog_and_beside_calls_is_answered_likewise() {
    for odd in 0..4 {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        let (upstream, device) = (world.upstream, world.device(1));
        dialog.send(&mut world, End::Caller, "ACK", 1);
        for (number, method) in ["INFO", "INVITE", "BYE"].into_iter().enumerate() {
            let asked = dialog.request(End::Caller, method, number as u32 + 2, "", b"");
            world.receive_bytes(upstream, &asked);
            let text = format!("{}{}: {}\r\n\r\n", odd_copies(&world.last(method), 200)[odd], CONTACT.0, CONTACT.1);
            for _ in 0..if method == "INVITE" { 2 } else { 1 } {
                world.receive(device, &text);
                assert_answers(&world.last(&format!("{method} 200")), &parsed(&asked));
            }
        }
        let head = world.head("message", "MESSAGE", 1, "");
        let asked =
            format!("MESSAGE sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 2\r\n\r\nhi", world.binding);
        world.receive(upstream, &asked);
        let text = format!("{}\r\n", odd_copies(&world.last("MESSAGE"), 200)[odd]);
        world.receive(device, &text);
        assert_answers(&world.last("MESSAGE 200"), &parsed(&asked));
    }
}

#[test]
fn no_message_of_a_device_is_longer_than_its_server_reads() {
    let long = "x".repeat(MAX);
    for (status, heard) in [(183, 183), (200, 500), (302, 500), (486, 500), (603, 500)] {
        let mut world = World::registered();
        let asked = parsed(world.invite_text("call-1"));
        world.invite("call-1");
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, status, &[CONTACT, ("X-Long", &long)], SDP);
        let answer = world.last(&format!("INVITE {heard}"));
        assert_answers(&answer, &asked);
        assert!(answer.to_bytes().len() < 1024);
        let is_ended = status == 200;
        let said = (world.count("BYE"), world.final_states().contains(&CallState::Answered));
        assert_eq!(said, (usize::from(is_ended), false), "{status}: {:?}", world.descriptions());
    }
    let sent_up = |message: &Message, to: Source| to.side == Side::Upstream && message.to_bytes().len() > MAX + 1024;
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-2", 200, &[]);
    let (upstream, device) = (world.upstream, world.device(1));
    dialog.send(&mut world, End::Caller, "ACK", 1);
    for (number, extra) in [(2, 0), (3, MAX)] {
        let info = dialog.request(End::Device, "INFO", number, "", &vec![b'x'; extra]);
        world.receive_bytes(device, &info);
    }
    assert_eq!((world.count("INFO"), world.count("INFO 513")), (1, 1));
    let update = dialog.request(End::Caller, "UPDATE", 9, "", b"");
    world.receive_bytes(upstream, &update);
    let forwarded = world.last("UPDATE");
    world.reply(device, &forwarded, 200, &[("X-Long", &long)], "");
    assert_answers(&world.last("UPDATE 500"), &parsed(&update));
    assert!(
        !world
            .sent
            .iter()
            .any(|sent| sent_up(&sent.message, if sent.flow == upstream.flow { upstream } else { device }))
    );
}
