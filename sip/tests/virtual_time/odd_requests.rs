//! Requests that break the rules of every message, or name the relay in their Route, in virtual time.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use crate::world::{World, server_address};

const CALL: &str = "odd";

/// The CANCEL or the ACK of the caller's server, as it should be.
fn sound(world: &World, method: &str) -> String {
    let head = world.head(CALL, method, 1, "");
    format!("{method} sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n", world.binding)
}

/// The text with a line in place of the one that begins so.
fn with(text: &str, begins: &str, line: &str) -> String {
    let lines: Vec<String> = text
        .split_inclusive("\r\n")
        .map(|it| if it.starts_with(begins) { line.to_owned() } else { it.to_owned() })
        .collect();
    assert_ne!(lines.concat(), text, "{begins}");
    lines.concat()
}

/// A sound request in the ways in which its answerer may find it broken though it names its transaction.
fn broken(text: &str) -> Vec<String> {
    let mut all: Vec<String> = ["From", "To", "Call-ID", "CSeq"].iter().map(|name| with(text, name, "")).collect();
    all.push(with(text, "To", "To: <sip:a@b>\r\nTo: <sip:a@b>\r\n"));
    all.push(with(text, "CSeq", "CSeq: 1 INVITE\r\n"));
    all.push(with(text, "Max-Forwards", "Max-Forwards: 300\r\n"));
    all.push(with(text, "Contact", "Contact: <sip:a@b>\nX: y\r\n"));
    all.push(with(text, "From", "From: <sip:a\n@b>\r\n"));
    all.push(with(text, "Call-ID", "Call-ID: a b\r\n"));
    all.push(with(text, "Content-Length", "Content-Length: x\r\n"));
    let line = text.lines().next().unwrap();
    let method = line.split(' ').next().unwrap();
    all.push(text.replacen(line, &format!("{method} <sip:x> SIP/2.0"), 1));
    all.push(text.replacen(line, &format!("{method} sip:x?y SIP/2.0"), 1));
    all
}

fn by_datagram_and_stream() -> [FlowId; 2] {
    [FlowId::Datagram(server_address()), FlowId::Stream(900)]
}

#[test]
fn a_cancel_that_names_its_invite_ends_the_call_however_broken_it_is() {
    for flow in by_datagram_and_stream() {
        let count = broken(&sound(&World::registered(), "CANCEL")).len();
        for at in 0..count {
            for awake in [false, true] {
                let mut world = World::registered_with(flow, |_| {});
                let source = world.upstream;
                if awake {
                    world.attach(1);
                }
                world.invite(CALL);
                if awake {
                    let (device, leg) = (world.device(1), world.last("INVITE"));
                    world.reply(device, &leg, 180, &[], "");
                }
                let cancel = with(&broken(&sound(&world, "CANCEL"))[at], "Record-Route", "Reason: SIP;cause=200\r\n");
                world.receive(source, &cancel);
                let taken = world.last("CANCEL 200");
                let (call_id, cseq) = (taken.call_id(), taken.cseq());
                assert_eq!((call_id, cseq), (Some(CALL), Some((1, "CANCEL"))), "{cancel}");
                assert_eq!(taken.from().unwrap().tag(), Some("bob"));
                if awake {
                    assert_eq!(taken.to().unwrap().tag(), Some("peer"), "that of its INVITE (RFC 3261 §9.2)");
                    let (device, leg) = (world.device(1), world.last("INVITE"));
                    assert_eq!(world.last("CANCEL").text(Name::Reason), Some("SIP;cause=200"));
                    world.reply(device, &leg, 487, &[], "");
                }
                assert_eq!(world.count("INVITE 487"), 1, "{cancel}");
                world.receive(source, &cancel);
                assert_eq!(world.count("CANCEL 400"), 0, "the same one again");
            }
        }
    }
}

#[test]
fn a_broken_cancel_that_names_no_invite_is_refused() {
    for (branch, from) in [("z9hG4bKother", "192.0.2.10"), ("z9hG4bKserver.odd", "198.51.100.9")] {
        let mut world = World::registered();
        world.invite(CALL);
        let cancel = with(&sound(&world, "CANCEL"), "To", "").replacen("z9hG4bKserver.odd", branch, 1);
        let peer = std::net::SocketAddr::new(from.parse().unwrap(), 5060);
        let source = Source { flow: FlowId::Datagram(peer), peer, ..world.upstream };
        world.receive(source, &cancel);
        let counts = (world.count("CANCEL 200"), world.count("INVITE 487"), world.endpoint.open_calls());
        assert_eq!(counts, (0, 0, 1), "{branch} {from}");
    }
}

#[test]
fn an_ack_that_names_a_refused_invite_ends_its_repetition_however_broken_it_is() {
    let count = broken(&sound(&World::registered(), "ACK")).len();
    for at in 0..count {
        let mut world = World::registered();
        world.attach(1);
        world.invite(CALL);
        let (source, device, leg) = (world.upstream, world.device(1), world.last("INVITE"));
        world.reply(device, &leg, 603, &[], "");
        let ack = broken(&sound(&world, "ACK")).swap_remove(at);
        world.receive(source, &ack);
        let before = world.descriptions();
        world.advance(std::time::Duration::from_secs(40));
        assert_eq!((world.count("INVITE 603"), world.count("ACK 400")), (1, 0), "{ack}: {before:?}");
    }
}

#[test]
fn a_refusal_of_a_broken_request_says_where_that_came_from() {
    let mut world = World::registered();
    let peer = std::net::SocketAddr::from(([198, 51, 100, 9], 7000));
    let source = Source { flow: FlowId::Datagram(peer), peer, ..world.upstream };
    for (broken, status) in [("SIP/2.0\r\nMax-Forwards: x", 400), ("SIP/3.0\r\nX: y", 505)] {
        world.receive(
            source,
            &format!(
                "OPTIONS sip:relay.test {broken}\r\nVia: SIP/2.0/UDP other.example:5999;branch=z9hG4bK1;rport\r\n\
                 From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n\r\n"
            ),
        );
        let refused = world.last(&format!("OPTIONS {status}"));
        let via = "SIP/2.0/UDP other.example:5999;branch=z9hG4bK1;received=198.51.100.9;rport=7000";
        assert_eq!(refused.text(Name::Via), Some(via), "RFC 3581 §4");
    }
}

/// The Routes of the INVITE that the device gets.
fn routes_at_device(routes: &str) -> Vec<String> {
    let mut world = World::registered();
    world.attach(1);
    let (source, text) = (world.upstream, world.invite_text(CALL));
    let routes = routes.replace("BINDING", &world.binding.to_string());
    world.receive(source, &text.replace("X-Odd:", &format!("{routes}X-Odd:")));
    let invite = world.last("INVITE");
    assert_eq!(invite.values_written("X-Odd").next(), Some(&b"kept  as it is"[..]));
    invite.elements(Name::Route).map(str::to_owned).collect()
}

#[test]
fn a_route_that_names_the_relay_is_taken_off_a_first_invite() {
    for (routes, left) in [
        ("Route: <sip:relay.test:5070;lr>\r\n", &[][..]),
        ("Route: <sip:RELAY.test:5071;transport=tls;lr>\r\n", &[]),
        ("Route: <sip:relay.test;lr>, <sip:relay.test:5070;transport=tcp;lr>\r\n", &[]),
        ("Route: <sip:BINDING@192.0.2.1:5070;lr>\r\n", &[]),
        ("Route: <sip:relay.test:5070;lr>, <sip:next.example;lr>\r\n", &["<sip:next.example;lr>"]),
        ("Route: <sip:relay.test:5070;lr>\r\nRoute: <tel:+1>\r\n", &["<tel:+1>"]),
        (
            "Route: <sip:next.example;lr>, <sip:relay.test:5070;lr>\r\n",
            &["<sip:next.example;lr>", "<sip:relay.test:5070;lr>"],
        ),
        ("Route: <sip:relay.test:9;lr>\r\n", &["<sip:relay.test:9;lr>"]),
        ("Route: x\r\n", &["x"]),
        ("", &[]),
    ] {
        assert_eq!(routes_at_device(routes), left, "{routes}");
    }
}

#[test]
fn a_loop_is_seen_with_and_without_a_route_that_names_the_relay() {
    for routes in ["", "Route: <sip:relay.test:5070;lr>\r\n"] {
        let mut world = World::registered();
        world.attach(1);
        world.invite(CALL);
        let forwarded = world.last("INVITE");
        let (source, text) = (world.upstream, world.invite_text(CALL));
        let own = forwarded.text(Name::Via).unwrap();
        let back =
            text.replace("X-Odd:", &format!("{routes}X-Odd:")).replacen("Via:", &format!("Via: {own}\r\nVia:"), 1);
        world.receive(source, &with_branch_on_top(&back));
        assert_eq!(world.count("INVITE 482"), 1, "{routes}");
    }
}

/// The request as another hop would have passed it on.
fn with_branch_on_top(text: &str) -> String {
    text.replacen("Via:", "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKback\r\nVia:", 1)
}

#[test]
fn a_request_in_a_dialog_that_is_not_here_is_481_whatever_contact_it_names() {
    let mut world = World::registered();
    let source = world.upstream;
    for (method, tag, status) in
        [("INFO", ";tag=x", 481), ("BYE", "", 481), ("INVITE", ";tag=x", 481), ("INVITE", "", 404)]
    {
        world.sent.clear();
        let head = world.head(&format!("{method}{status}"), method, 2, tag);
        world.receive(source, &format!("{method} sip:phone1@10.0.0.5:9999 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
        let statuses: Vec<Option<u16>> = world.sent.iter().map(|sent| sent.message.status()).collect();
        assert_eq!(statuses, [Some(status)], "{method} {tag}");
    }
}

/// The end of a call that its caller cancels; `tags`: those of the device's 180, if it says one, and 487.
fn ended_by(tags: (&'static str, &'static str)) -> Message {
    let mut world = World::registered();
    world.attach(1);
    world.invite(CALL);
    let (source, device, leg) = (world.upstream, world.device(1), world.last("INVITE"));
    if !tags.0.is_empty() {
        world.tag = tags.0;
        world.reply(device, &leg, 180, &[], "");
    }
    let cancel = sound(&world, "CANCEL");
    world.receive(source, &cancel);
    world.tag = tags.1;
    world.reply(device, &leg, 487, &[("Reason", "Q.850;cause=16"), ("X-From", "phone")], "");
    assert_eq!(world.count("INVITE 487"), 1);
    let (taken, ended) = (world.last("CANCEL 200"), world.last("INVITE 487"));
    assert_eq!(
        taken.to().unwrap().tag() == ended.to().unwrap().tag(),
        tags.0 == tags.1 || tags.0.is_empty(),
        "{tags:?}"
    );
    ended
}

#[test]
fn the_487_of_the_device_that_rang_is_what_the_caller_gets() {
    let ended = ended_by(("dev1", "dev1"));
    let has = |ended: &Message| (ended.reason().unwrap().to_owned(), ended.values_written("X-From").count());
    assert_eq!(has(&ended), ("Whatever".to_owned(), 1));
    assert_eq!((ended.to().unwrap().tag(), ended.text(Name::Reason)), (Some("dev1"), Some("Q.850;cause=16")));
    // One with another tag than the CANCEL was answered by, is said in the relay's own words.
    for tags in [("dev1", "dev2"), ("", "dev1")] {
        assert_eq!(has(&ended_by(tags)), ("Request Terminated".to_owned(), 0), "{tags:?}");
    }
}
