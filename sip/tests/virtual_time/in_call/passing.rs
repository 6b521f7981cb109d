//! Requests that pass inside a dialog, in both directions and to the byte; and those that do not pass outside of one.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use super::leg::{CONTACT, Dialog, End, assert_unharmed};
use crate::world::{SDP, World, seconds, server_address};

const SDP_TYPE: &str = "Content-Type: application/sdp\r\n";
const DTMF: &[u8] = b"Signal=5\r\nDuration=160\r\n";

/// Method, header lines, body, and the RFC that it is of.
const MID_DIALOG: &[(&str, &str, &[u8], &str)] = &[
    ("PRACK", "RAck: 17 1 INVITE\r\n", b"", "RFC 3262 §7.2"),
    ("UPDATE", SDP_TYPE, SDP.as_bytes(), "RFC 3311 §5"),
    ("UPDATE", "Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\n", b"", "RFC 4028 §7.4"),
    ("INFO", "Info-Package: dtmf\r\nContent-Type: application/dtmf-relay\r\n", DTMF, "RFC 6086"),
    (
        "REFER",
        "Refer-To: <sip:carol@example.com?Replaces=x%3Bto-tag%3D1%3Bfrom-tag%3D2>\r\nReferred-By: <sip:a@b>\r\n",
        b"",
        "RFC 3515 §2.4.2, RFC 3891",
    ),
    (
        "NOTIFY",
        "o: refer\r\nSubscription-State: active;expires=60\r\nContent-Type: message/sipfrag\r\n",
        b"SIP/2.0 100 Trying",
        "RFC 3515 §2.4.5",
    ),
    ("SUBSCRIBE", "Event: refer\r\nExpires: 60\r\n", b"", "RFC 6665"),
    ("MESSAGE", "Content-Type: text/plain;charset=utf-8\r\n", "Grüße\0".as_bytes(), "RFC 3428 §4"),
    ("OPTIONS", "Accept: application/sdp\r\n", b"", "RFC 3261 §11"),
    (
        "BREW",
        "X-Folded: one\r\n two\r\n\tthree\r\nx:90\r\n",
        b"\0\r\n\n\r",
        "RFC 3261 §8.2.1: a method that nobody knows",
    ),
    ("INVITE", SDP_TYPE, SDP.as_bytes(), "RFC 3261 §14"),
    ("BYE", "Reason: Q.850;cause=16\r\n", b"", "RFC 3261 §15"),
];

fn pass(world: &mut World, dialog: &Dialog, end: End, cseq: u32, row: &(&str, &str, &[u8], &str)) {
    let (method, lines, body, rfc) = row;
    let (near, far, to_flow) = match end {
        End::Caller => (world.upstream, world.device(1), FlowId::Stream(1)),
        End::Device => (world.device(1), world.upstream, FlowId::Datagram(server_address())),
    };
    let request = dialog.request(end, method, cseq, lines, body);
    world.receive_bytes(near, &request);
    let forwarded = world.last(method);
    assert_eq!(world.sent.last().unwrap().flow, to_flow, "{rfc}");
    assert_unharmed(&request, &forwarded);
    assert_eq!(forwarded.max_forwards(), Some(68));
    let status = if *method == "SUBSCRIBE" { 202 } else { 200 };
    let extra = [CONTACT, ("Session-Expires", "1800;refresher=uas"), ("X-Own", "a  b")];
    world.reply(far, &forwarded, status, &extra, "v=0\n\r\0");
    let back = world.sent.last().unwrap();
    assert_eq!((back.message.status(), back.flow), (Some(status), near.flow), "{rfc}");
    assert_eq!(&back.message.body()[..], b"v=0\n\r\0");
    assert_eq!(back.message.values_written("X-Own").next(), Some(&b"a  b"[..]));
    assert_eq!(back.message.elements(Name::Via).count(), 1);
}

#[test]
fn every_method_passes_in_both_directions_of_a_confirmed_dialog() {
    for end in [End::Caller, End::Device] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        dialog.send(&mut world, End::Caller, "ACK", 1);
        for (cseq, row) in (2..).zip(MID_DIALOG) {
            pass(&mut world, &dialog, end, cseq, row);
        }
    }
}

/// Who sends an ACK or a BYE hears no 400 that would help.
#[test]
fn odd_and_repeated_lines_cost_no_ack_and_no_bye() {
    for lines in [
        "User Agent: Foo/1.0\r\n",
        "Subject: hi\r\nsee you at 10:30\r\n",
        "From: <sip:other@h>;tag=x\r\n",
        "t: <sip:other@h>;tag=y\r\n",
        "Max-Forwards: 90\r\n",
    ] {
        for end in [End::Caller, End::Device] {
            let mut world = World::registered();
            let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
            let (near, far) = match end {
                End::Caller => (world.upstream, world.device(1)),
                End::Device => (world.device(1), world.upstream),
            };
            if matches!(end, End::Caller) {
                world.receive_bytes(near, &dialog.request(end, "ACK", 1, lines, b""));
                assert_eq!(world.count("ACK"), 1, "{lines:?}");
            }
            world.receive_bytes(near, &dialog.request(end, "BYE", 2, lines, b""));
            let bye = world.last("BYE");
            assert_eq!(world.sent.last().unwrap().flow, far.flow, "{lines:?}: {:?}", world.descriptions());
            let count = |name| bye.values(name).count();
            assert_eq!((count(Name::From), count(Name::To), bye.max_forwards()), (1, 1, Some(68)), "{lines:?}");
            world.reply(far, &bye, 200, &[], "");
            assert_eq!(world.sent.last().unwrap().message.values(Name::To).count(), 1, "{lines:?}");
            assert_eq!(world.count("BYE 200"), 1, "{lines:?}");
        }
    }
}

#[test]
fn prack_update_info_and_bye_pass_in_both_directions_of_an_early_dialog() {
    // RFC 3262 §4, RFC 3311 §5.1, RFC 3261 §15: the dialog is there from the first response with a tag.
    for end in [End::Caller, End::Device] {
        let mut world = World::registered();
        let reliable = [("Require", "100rel"), ("RSeq", "17")];
        let dialog = Dialog::begin(&mut world, "call-1", 183, &reliable);
        let heard = world.last("INVITE 183");
        assert_eq!((heard.text(Name::Require), heard.values_written("RSeq").count()), (Some("100rel"), 1));
        for (cseq, row) in (2..).zip(MID_DIALOG.iter().filter(|row| row.0 != "INVITE")) {
            pass(&mut world, &dialog, end, cseq, row);
        }
        assert_eq!(world.final_states(), [], "{end:?}: the call itself still waits");
        let device = world.device(1);
        world.reply(device, &dialog.invite, 200, &[CONTACT], SDP);
        assert_eq!(world.final_states(), [CallState::Answered]);
    }
}

#[test]
fn early_dialogs_of_several_answerers_pass_side_by_side() {
    // RFC 3261 §12.1, §13.2.2.4: a device behind which something forks answers with one tag after the other; the relay's own
    // ringing is a further early dialog.
    let mut world = World::registered();
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.input(Input::Ring { call, instance: world.instance });
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    let own = world.last("INVITE 180").to().unwrap().tag().unwrap().to_owned();
    for (tag, status) in [("one", 183), ("two", 180), ("three", 199), ("one", 181)] {
        let to = format!("{};tag={tag}", invite.text(Name::To).unwrap());
        let text = format!(
            "SIP/2.0 {status} Odd  Phrase\r\n{}From: {}\r\nTo: {to}\r\nCall-ID: call-1\r\nCSeq: 1 INVITE\r\n\
             P-Early-Media: sendrecv\r\nContent-Length: 4\r\n\r\n{tag:.4}\0",
            invite.elements(Name::Via).map(|via| format!("Via: {via}\r\n")).collect::<String>(),
            invite.text(Name::From).unwrap(),
        );
        let text = text.replace("Content-Length: 4", &format!("Content-Length: {}", tag.len().min(4) + 1));
        world.receive(device, &text);
        let heard = world.sent.last().unwrap();
        assert_unharmed(text.as_bytes(), &heard.message);
        assert_ne!(heard.message.to().unwrap().tag(), Some(own.as_str()));
    }
}

#[test]
fn a_session_interval_that_is_too_small_comes_back_as_422_and_the_next_invite_goes_the_same_way() {
    // RFC 4028 §6, §9.
    let mut world = World::registered();
    world.attach(1);
    let timers = "Supported: timer\r\nSession-Expires: 60;refresher=uac\r\nMin-SE: 60\r\nX-Odd:";
    let text = world.invite_text("call-1").replace("X-Odd:", timers);
    let source = world.upstream;
    world.receive(source, &text);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    assert_unharmed(text.as_bytes(), &invite);
    world.reply(device, &invite, 422, &[("Min-SE", "90")], "");
    assert_eq!(world.last("INVITE 422").number(Name::MinSe), Some(90));
    let again = text.replace("CSeq: 1 ", "CSeq: 2 ").replace("call-1.1", "call-1.2").replace(": 60", ": 90");
    world.receive(source, &again);
    let second = world.last("INVITE");
    assert_eq!((second.cseq(), second.number(Name::MinSe)), (Some((2, "INVITE")), Some(90)));
    world.reply(device, &second, 200, &[CONTACT, ("Require", "timer"), ("Session-Expires", "90;refresher=uas")], SDP);
    assert_eq!(world.last("INVITE 200").text(Name::SessionExpires), Some("90;refresher=uas"));
    assert!(world.wakes().is_empty());
}

#[test]
fn a_call_that_replaces_another_reaches_the_device_beside_it() {
    // RFC 3891 §3: what it replaces is the device's to find out.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    let replaces = "Require: replaces\r\nReplaces: call-1;to-tag=peer;from-tag=bob\r\nX-Odd:";
    let text = world.invite_text("call-2").replace("X-Odd:", replaces);
    let source = world.upstream;
    world.receive(source, &text);
    let invite = world.last("INVITE");
    assert_eq!(invite.call_id(), Some("call-2"));
    assert_unharmed(text.as_bytes(), &invite);
    let device = world.device(1);
    world.reply(device, &invite, 200, &[CONTACT], SDP);
    // The device ends the replaced one.
    let bye = dialog.request(End::Device, "BYE", 1, "", b"");
    world.receive_bytes(device, &bye);
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Datagram(server_address()));
    assert_eq!(world.last("BYE").call_id(), Some("call-1"));
}

#[test]
fn bodies_pass_to_the_byte_whatever_is_in_them() {
    // RFC 3261 §16.6: the body is not a proxy's to touch.
    let multipart =
        "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b\nContent-Type: application/isup\r\n\r\n\0\u{1}--b--";
    let large = "a=candidate:1 1 UDP 1 192.0.2.1 1 typ host\n\r".repeat(1400);
    for body in ["v=0\no=-\rs=\n\n\r\r\n", "\0\0v=0\0", multipart, &large[..60 * 1024 - 2000], "", "\r\n\r\n"] {
        let stream = FlowId::Stream(77);
        let mut world = World::registered_with(stream, |_| {});
        let text = world.invite_text("call-1");
        let (head, _) = text.split_once("Content-Length").unwrap();
        let came = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        let source = world.upstream;
        world.receive(source, &came);
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        assert_unharmed(came.as_bytes(), &invite);
        // A device's may be as long as its SIP server's buffer lets it.
        let answer = &body[..body.len().min(15 * 1024 - 1024)];
        world.reply(device, &invite, 200, &[CONTACT, ("Content-Type", "application/sdp")], answer);
        assert_eq!(&world.last("INVITE 200").body()[..], answer.as_bytes());
    }
}

#[test]
fn what_is_sent_again_is_answered_from_its_transaction() {
    // RFC 3261 §17.2.1, §17.2.2.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    let (upstream, device) = (world.upstream, world.device(1));
    let update = dialog.request(End::Caller, "UPDATE", 2, "", b"");
    world.receive_bytes(upstream, &update);
    world.receive_bytes(upstream, &update);
    assert_eq!(world.count("UPDATE"), 1);
    let forwarded = world.last("UPDATE");
    world.reply(device, &forwarded, 200, &[], "");
    world.receive_bytes(upstream, &update);
    assert_eq!((world.count("UPDATE"), world.count("UPDATE 200")), (1, 2));
    let again = dialog.request(End::Caller, "INVITE", 3, "", b"");
    world.receive_bytes(upstream, &again);
    world.receive_bytes(upstream, &again);
    let forwarded = world.last("INVITE");
    world.reply(device, &forwarded, 488, &[], "");
    world.receive_bytes(upstream, &again);
    assert_eq!((world.count("INVITE 488"), world.count("INVITE")), (2, 2), "the first INVITE, and this one once");
    assert_eq!(
        world.sent.iter().filter(|sent| sent.message.method_text() == Some("ACK")).count(),
        1,
        "ours to the 488"
    );
}

#[test]
fn what_a_device_sends_outside_a_dialog_is_403_and_an_ack_is_nothing() {
    // Nothing but a device's own dialogs passes; RFC 3261 §21.4.4, §17: an ACK is never answered.
    let mut world = World::registered();
    world.attach(1);
    let (device, stranger) = (world.device(1), world.device(2));
    let methods = [
        "INVITE",
        "MESSAGE",
        "SUBSCRIBE",
        "OPTIONS",
        "PUBLISH",
        "REFER",
        "NOTIFY",
        "INFO",
        "UPDATE",
        "PRACK",
        "BYE",
        "BREW",
    ];
    for (n, source, to_tag) in [(1, device, ""), (2, device, ";tag=x"), (3, stranger, "")] {
        for method in methods {
            world.sent.clear();
            let text = format!(
                "{method} sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 198.51.100.7:40000;branch=z9hG4bK{method}{n}\r\n\
                 Route: <sip:relay.test:5061;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=a\r\n\
                 To: <sip:bob@example.com>{to_tag}\r\nCall-ID: out\r\nCSeq: 1 {method}\r\nContact: <sip:a@b>\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            world.receive(source, &text);
            assert_eq!(world.descriptions(), [format!("{method} 403")]);
            assert_eq!(world.sent[0].flow, source.flow);
        }
    }
    world.sent.clear();
    let ack = "ACK sip:bob@example.com SIP/2.0\r\nVia: SIP/2.0/TLS 198.51.100.7:40000;branch=z9hG4bKack\r\n\
               From: <sip:alice@example.com>;tag=a\r\nTo: <sip:bob@example.com>;tag=b\r\nCall-ID: out\r\nCSeq: 1 ACK\r\n\
               Content-Length: 0\r\n\r\n";
    world.receive(device, ack);
    world.advance(seconds(60));
    assert_eq!(world.descriptions(), [""; 0]);
}

fn swapped(request: &[u8], pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut text = String::from_utf8(request.to_vec()).expect("text");
    for (old, new) in pairs {
        assert!(text.contains(old), "{old}: {text}");
        text = text.replacen(old, new, 1);
    }
    text.into_bytes()
}

#[test]
fn a_strict_router_gets_its_own_uri_as_request_uri_and_the_target_as_last_route() {
    // RFC 3261 §16.6 step 6.
    for (written, is_strict) in [
        ("<sip:192.0.2.10;lr>", false),
        ("<sip:192.0.2.10>", true),
        ("<sip:192.0.2.10;transport=udp?X=y>", true),
        ("sip:192.0.2.10;lr", false),
        ("sip:192.0.2.10", true),
        ("\"A, B\" <sip:192.0.2.10>;lr2", true),
    ] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        let next = format!("{written}, <sip:192.0.2.11;lr>");
        for (cseq, method) in [(1, "ACK"), (2, "INFO"), (3, "BYE")] {
            let request = dialog.request(End::Device, method, cseq, "", b"x");
            let device = world.device(1);
            world.receive_bytes(device, &swapped(&request, &[("<sip:192.0.2.10;lr>", &next)]));
            let forwarded = world.last(method);
            let routes: Vec<_> = forwarded.elements(Name::Route).collect();
            let rest = "<sip:192.0.2.11;lr>";
            if is_strict {
                let uri = if written.contains("udp") { "sip:192.0.2.10;transport=udp" } else { "sip:192.0.2.10" };
                assert_eq!(forwarded.request_uri(), Some(uri), "{method} {written}");
                assert_eq!(routes, [rest, "<sip:bob@192.0.2.77>"], "{method} {written}");
            } else {
                assert_eq!(forwarded.request_uri(), Some("sip:bob@192.0.2.77"), "{method} {written}");
                assert_eq!(routes, [written, rest], "{method} {written}");
            }
            assert_unharmed(&request, &forwarded);
        }
    }
}

#[test]
fn a_device_may_name_this_relay_as_its_outbound_proxy_in_front_of_the_routes_of_its_dialog() {
    // RFC 3261 §16.4.
    for proxy in [
        "Route: <sip:relay.test;lr>\r\n",
        "Route: <sip:Relay.TEST:5061;transport=tls;lr>\r\n",
        "Route: <sips:relay.test:5061;lr>, <sip:relay.test:5061;lr>\r\n",
    ] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        for (cseq, method) in [(1, "ACK"), (2, "INFO"), (3, "INVITE"), (4, "BYE")] {
            let request = dialog.request(End::Device, method, cseq, "", b"x");
            let device = world.device(1);
            world.receive_bytes(device, &swapped(&request, &[("Route: ", &format!("{proxy}Route: "))]));
            let forwarded = world.last(method);
            let routes: Vec<_> = forwarded.elements(Name::Route).collect();
            assert_eq!(routes, ["<sip:192.0.2.10;lr>"], "{method} {proxy}");
            assert_eq!(world.sent.last().unwrap().flow, world.upstream.flow, "{method} {proxy}");
            assert_unharmed(&request, &forwarded);
        }
    }
}

#[test]
fn another_name_in_front_of_the_routes_of_a_dialog_is_no_way_into_it() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    for (cseq, proxy) in
        (1..).zip(["<sip:elsewhere.test;lr>", "<sip:x@relay.test:5061;lr>", "<sip:relay.test:9999;lr>"])
    {
        let request = dialog.request(End::Device, "BYE", cseq, "", b"");
        let device = world.device(1);
        world.receive_bytes(device, &swapped(&request, &[("Route: ", &format!("Route: {proxy}\r\nRoute: "))]));
        let refused = world.last("BYE 403");
        assert!(refused.text(Name::Warning).unwrap().contains("Record-Route"), "{proxy}");
    }
    assert_eq!(world.count("BYE"), 0);
}

#[test]
fn what_a_strict_router_sends_reaches_the_device_with_its_target() {
    // RFC 3261 §16.4: it has put our Record-Route into the Request-URI.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    for (cseq, method) in [(1, "ACK"), (2, "INFO"), (3, "BYE")] {
        let request = dialog.request(End::Caller, method, cseq, "", b"x");
        let text = String::from_utf8(request.clone()).unwrap();
        let target = "sip:phone1@10.0.0.5:9999;transport=tls";
        let first = text.split("Route: <").nth(1).unwrap().split('>').next().unwrap();
        let strict = swapped(
            &request,
            &[
                (&format!(" {target} "), &format!(" {first} ")),
                (&format!("Route: <{first}>\r\n"), ""),
                ("Max-", &format!("Route: <{target}>\r\nMax-")),
            ],
        );
        let upstream = world.upstream;
        world.receive_bytes(upstream, &strict);
        let forwarded = world.last(method);
        assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(1), "{method}");
        assert_eq!((forwarded.request_uri(), forwarded.has(Name::Route)), (Some(target), false), "{method}");
        assert_unharmed(&request, &forwarded);
    }
}
