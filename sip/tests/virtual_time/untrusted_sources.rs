//! Messages from a source that is not trusted: a request gets one answer, to where it came from, and nothing is kept; a response is dropped.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::world::{REGISTRAR, World, server_address};
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Limits, Message, Name};

fn stranger(peer: &str) -> Source {
    let peer: SocketAddr = peer.parse().unwrap();
    Source { flow: FlowId::Datagram(peer), side: Side::Upstream, transport: Transport::Udp, peer, split: false }
}

fn request(method: &str, uri: &str, branch: &str, further: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.9:4444;branch=z9hG4bK{branch}\r\nFrom: <sip:x@y>;tag=1\r\n\
         To: <sip:u@relay.test>\r\nCall-ID: {branch}\r\nCSeq: 1 {method}\r\nMax-Forwards: 70\r\n{further}\r\n"
    )
}

/// Everything that the endpoint says to one request in two minutes, and how large that is beside the request.
fn answers(world: &mut World, source: Source, text: &str) -> Vec<(FlowId, String)> {
    world.sent.clear();
    let quiet = world.endpoint.counts();
    world.receive(source, text);
    assert_eq!(world.endpoint.counts(), quiet, "nothing is kept");
    world.advance(Duration::from_secs(120));
    // The relay's own REGISTERs go on meanwhile.
    world.sent.retain(|sent| !sent.message.is_request());
    let all: usize = world.sent.iter().map(|sent| sent.message.to_bytes().len()).sum();
    assert!(all * 2 <= text.len() * 3, "{all} bytes for {}: {text}", text.len());
    world.sent.iter().map(|sent| (sent.flow, String::from_utf8(sent.message.to_bytes().to_vec()).unwrap())).collect()
}

#[test]
fn what_a_stranger_is_refused_comes_once_to_where_it_came_from() {
    let mut world = World::registered();
    let source = stranger("198.51.100.66:33333");
    let known = format!("sip:{}@relay.test", world.binding);
    let none = "sip:00000000000000000000000000@relay.test".to_owned();
    for (n, method) in (0..).zip(["INVITE", "OPTIONS", "MESSAGE", "NOTIFY", "REGISTER", "SUBSCRIBE", "CANCEL", "FOO"]) {
        for (m, uri) in [&known, &none].into_iter().enumerate() {
            for (r, via) in ["", ";rport", ";rport=9", ";maddr=203.0.113.8", ";received=203.0.113.8"].iter().enumerate()
            {
                let text = request(method, uri, &format!("{n}.{m}.{r}"), "");
                let text = text.replacen("\r\nFrom", &format!("{via}\r\nFrom"), 1);
                let got = answers(&mut world, source, &text);
                assert_eq!(got.len(), 1, "{text}");
                assert_eq!(got[0].0, source.flow, "{text}");
                assert!(got[0].1.starts_with("SIP/2.0 4"), "{}", got[0].1);
            }
        }
    }
}

#[test]
fn a_broken_request_is_answered_to_where_it_came_from_and_a_tiny_one_not_at_all() {
    let mut world = World::registered();
    let source = stranger("198.51.100.66:33333");
    let text = request("INVITE", "sip:u@relay.test", "b", "").replace("CSeq: 1 INVITE", "CSeq: 1 BYE");
    let got = answers(&mut world, source, &text);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].0, source.flow);
    let tiny = "A sip:a SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n";
    assert!(answers(&mut world, source, tiny).is_empty(), "its answer would be twice as large");
}

/// Parameters that are written into the Via before it is answered count for nothing.
#[test]
fn an_answer_is_at_most_half_as_large_again_as_what_came() {
    let mut world = World::registered();
    let source = stranger("198.51.100.66:33333");
    let mut answered = 0;
    for padding in 0..120 {
        let text = format!(
            "OPTIONS sip:relay.test SIP/2.0\r\nv:SIP/2.0/UDP h;rport;branch=z9hG4bK{padding}\r\nf:<sip:a>;tag=1\r\nt:<sip:a>\r\ni:{padding}\r\nCSeq:1 OPTIONS\r\nX:{}\r\n\r\n",
            "x".repeat(padding)
        );
        answered += answers(&mut world, source, &text).len();
    }
    assert!((1..120).contains(&answered), "{answered}: the bound lies among these lengths");
}

#[test]
fn a_ping_is_answered_to_anybody_without_state_and_one_for_a_name_is_not() {
    let mut world = World::registered();
    for source in [world.upstream, stranger("198.51.100.66:33333")] {
        for uri in ["sip:relay.test", "sip:relay.test:5071;transport=tls", "sip:192.0.2.1:5070"] {
            let answered = answers(&mut world, source, &request("OPTIONS", uri, "ping", ""));
            assert_eq!(answered.len(), 1, "{uri}");
            assert!(
                answered[0].1.starts_with("SIP/2.0 200 ") && answered[0].1.contains("\r\nAllow: INVITE"),
                "{answered:?}"
            );
        }
        let unknown = answers(&mut world, source, &request("OPTIONS", "sip:u@relay.test", "other", ""));
        assert!(unknown[0].1.starts_with("SIP/2.0 404 "), "{unknown:?}");
        let other = answers(&mut world, source, &request("MESSAGE", "sip:relay.test", "message", ""));
        assert!(other[0].1.starts_with("SIP/2.0 404 "), "{other:?}");
    }
    assert!(world.events.iter().all(|event| !matches!(event, Event::Wake(_))));
}

#[test]
fn a_refused_invite_gets_the_same_answer_again_and_its_ack_is_swallowed() {
    let mut world = World::registered();
    let source = stranger("198.51.100.66:33333");
    let text = request("INVITE", "sip:u@relay.test", "once", "");
    let first = answers(&mut world, source, &text);
    let again = answers(&mut world, source, &text);
    assert_eq!(first, again, "To tag and all");
    let other = answers(&mut world, source, &request("INVITE", "sip:u@relay.test", "other", ""));
    let tag = |text: &str| text.split("relay.test>;tag=").nth(1).map(|rest| rest[..16].to_owned()).unwrap();
    assert_ne!(tag(&first[0].1), tag(&other[0].1));
    assert!(answers(&mut world, source, &request("ACK", "sip:u@relay.test", "once", "")).is_empty());
    let refused = world.events.iter().filter(|event| matches!(event, Event::InviteRefused { status: 404 })).count();
    assert_eq!(refused, 3);
}

/// The flows of the answers to a copy of the INVITE of the world's call.
fn to_a_copy(world: &mut World, source: Source) -> Vec<FlowId> {
    world.sent.clear();
    let text = world.invite_text("call-1");
    world.receive(source, &text);
    world.sent.iter().map(|sent| sent.flow).collect()
}

#[test]
fn a_copy_of_a_servers_request_makes_nobody_a_target() {
    for flow in [FlowId::Datagram(server_address()), FlowId::Stream(7)] {
        for answered in [false, true] {
            let mut world = World::registered_with(flow, |_| {});
            world.attach(1);
            world.invite("call-1");
            if answered {
                let (phone, invite) = (world.device(1), world.last("INVITE"));
                world.reply(phone, &invite, 486, &[], "");
            }
            for source in strangers() {
                // At the edge, what has this branch is another request.
                let got = to_a_copy(&mut world, source);
                assert!(got.is_empty() || source.side == Side::Device, "{source:?}: {:?}", world.descriptions());
                assert!(!world.descriptions().iter().any(|sent| sent == "INVITE 100" || sent == "INVITE 486"));
            }
            let own = world.upstream;
            assert_eq!(to_a_copy(&mut world, own), [flow], "its own sender");
        }
    }
}

#[test]
fn a_copy_from_another_port_or_address_of_its_server_is_answered() {
    let mut world = World::registered();
    world.invite("call-1");
    world.input(Input::Addresses {
        upstream: REGISTRAR,
        addresses: ["192.0.2.11".parse().unwrap()].into(),
        is_whole: true,
    });
    for peer in ["192.0.2.10:5099", "192.0.2.11:5060"] {
        assert_eq!(
            to_a_copy(&mut world, stranger(peer)),
            [world.upstream.flow],
            "{peer}: to where the INVITE came from"
        );
    }
}

#[test]
fn a_copy_by_the_next_connection_of_its_server_is_answered_there() {
    let mut world = World::registered_with(FlowId::Stream(7), |_| {});
    let addresses = [server_address().ip()].into();
    world.input(Input::Addresses { upstream: REGISTRAR, addresses, is_whole: true });
    world.invite("call-1");
    let next = Source { flow: FlowId::Stream(8), ..world.upstream };
    assert_eq!(to_a_copy(&mut world, next), [next.flow]);
}

#[test]
fn only_the_sender_of_an_invite_acknowledges_its_refusal_whatever_route_its_ack_has() {
    let peer: SocketAddr = "192.0.2.10:5060".parse().unwrap();
    let mut world = World::registered_with(FlowId::Datagram(peer), |_| {});
    let invite = world.invite_text("call-1");
    world.receive(world.upstream, &invite);
    let of_invite =
        |method: &str, uri: &str, head: String| format!("{method} {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n");
    let (cancel, ack) = (world.head("call-1", "CANCEL", 1, ""), world.head("call-1", "ACK", 1, ";tag=x"));
    let own = format!("sip:{}@relay.test:5070", world.binding);
    world.receive(world.upstream, &of_invite("CANCEL", &own, cancel));
    let refusals = |world: &World| world.sent.iter().filter(|sent| sent.message.status() == Some(487)).count();
    assert_eq!(refusals(&world), 1);
    world.receive(stranger("203.0.113.9:5060"), &of_invite("ACK", &own, ack.clone()));
    world.advance(Duration::from_secs(2));
    let again = refusals(&world);
    assert!(again > 1, "it is sent again until its ACK comes");
    world.receive(world.upstream, &of_invite("ACK", "sip:somebody@else.test", ack));
    world.advance(Duration::from_secs(30));
    assert_eq!(refusals(&world), again);
}

/// Sources that may not answer a request sent to the SIP server by UDP, though they know the branch.
pub fn strangers() -> Vec<Source> {
    let device = "198.51.100.7:40000".parse().unwrap();
    let at_the_edge =
        |peer| Source { flow: FlowId::Stream(66), side: Side::Device, transport: Transport::Tls, peer, split: false };
    let by_tcp = Source { flow: FlowId::Stream(67), transport: Transport::Tcp, ..stranger("203.0.113.9:5060") };
    vec![stranger("203.0.113.9:5060"), by_tcp, at_the_edge(device), at_the_edge(server_address())]
}

fn refused(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::ResponseRefused)).count()
}

#[test]
fn nobody_but_its_own_server_answers_a_register_by_udp() {
    for status in [200, 401, 403, 407, 503] {
        let mut world = World::new(FlowId::Datagram(server_address()));
        world.bind();
        let register = world.last("REGISTER");
        let contact = register.text(Name::Contact).unwrap().to_owned();
        let challenge = "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"";
        let headers = [("Contact", &*contact), ("WWW-Authenticate", challenge), ("Proxy-Authenticate", challenge)];
        let headers = if status == 200 { &headers[..1] } else { &headers[1..] };
        for source in strangers() {
            world.reply(source, &register, status, headers, "");
        }
        assert_eq!((world.count("REGISTER"), refused(&world)), (1, strangers().len()), "{status}");
        assert!(world.events.iter().all(|event| matches!(event, Event::ResponseRefused)), "{:?}", world.events);
        world.grant(600);
        assert!(matches!(world.events.last(), Some(Event::Registered { .. })), "{:?}", world.events);
    }
}

#[test]
fn a_server_answers_by_another_port_by_tcp_and_by_each_of_its_addresses() {
    let other = |peer: &str| stranger(peer);
    let by_tcp = Source { flow: FlowId::Stream(67), transport: Transport::Tcp, ..other("192.0.2.10:39999") };
    for source in [other("192.0.2.10:5099"), other("[::ffff:192.0.2.10]:5060"), by_tcp, other("192.0.2.11:5060")] {
        let mut world = World::new(FlowId::Datagram(server_address()));
        world.bind();
        let addresses = ["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()].into();
        world.input(Input::Addresses { upstream: REGISTRAR, addresses, is_whole: true });
        world.upstream = source;
        world.grant(600);
        assert!(matches!(world.events.last(), Some(Event::Registered { .. })), "{source:?}: {:?}", world.events);
    }
}

/// Whether an INVITE is believed to come from the account's SIP server.
fn is_believed(world: &mut World, source: Source) -> bool {
    let text = world.invite_text(&format!("call-{}", world.sent.len()));
    let before = world.count("INVITE 403");
    world.receive(source, &text);
    let believed = world.count("INVITE 403") == before;
    assert_eq!(world.endpoint.is_sip_server(&source), believed, "{source:?}");
    believed
}

#[test]
fn nobody_is_judged_by_addresses_that_are_not_all_unless_he_is_one_of_them() {
    let mut world = World::registered();
    let invite = Message::parse(&world.invite_text("call-1").into(), &Limits::COMPOSED).unwrap();
    let [own, other] = ["192.0.2.12", "192.0.2.11"].map(|ip| ip.parse().unwrap());
    let (upstream, by_own, by_other) = (world.upstream, stranger("192.0.2.12:5099"), stranger("192.0.2.11:5060"));
    let unserved = |world: &World| {
        assert_eq!(world.endpoint.unserved(&upstream, &invite), None, "by the flow of its registration");
        [by_own, by_other].map(|source| world.endpoint.unserved(&source, &invite).is_some())
    };
    assert_eq!(unserved(&world), [true, true], "nothing was told");
    let all: [(&[IpAddr], bool, [bool; 2]); 4] = [
        (&[own], false, [false, true]),
        (&[own, other], false, [false, false]),
        (&[own], true, [false, false]),
        (&[own], false, [false, true]),
    ];
    for (addresses, is_whole, expected) in all {
        world.input(Input::Addresses { upstream: REGISTRAR, addresses: addresses.into(), is_whole });
        assert_eq!(unserved(&world), expected, "{addresses:?} {is_whole}");
    }
}

#[test]
fn a_server_that_dns_names_no_more_is_believed_as_long_as_what_it_has_granted_may_stand() {
    let by_tcp = Source { flow: FlowId::Stream(67), transport: Transport::Tcp, ..stranger("192.0.2.10:39999") };
    let by_another_port = stranger("192.0.2.10:5099");
    let next = stranger("192.0.2.20:5060");
    let named =
        || Input::Addresses { upstream: REGISTRAR, addresses: ["192.0.2.20".parse().unwrap()].into(), is_whole: true };
    for flow in [FlowId::Datagram(server_address()), FlowId::Stream(1)] {
        let mut world = World::new(flow);
        if flow.is_reliable() {
            world.input(Input::LeadsTo { flow, address: server_address() });
        }
        world.bind();
        world.grant(3600);
        world.input(named());
        assert!(is_believed(&mut world, by_tcp) && is_believed(&mut world, by_another_port), "{flow:?}");
        for source in strangers().into_iter().filter(|source| source.side == Side::Upstream) {
            assert!(!is_believed(&mut world, source), "{source:?}");
        }
        // The registration moves, and the server that it leaves may not know.
        world.dial = false;
        world.input(Input::FailbackDialled { upstream: REGISTRAR, flow: next.flow, transport: Transport::Udp });
        let ask = world.last("OPTIONS");
        world.reply(next, &ask, 200, &[], "");
        world.upstream = next;
        world.grant(600);
        world.advance(Duration::from_secs(300));
        world.input(named());
        assert!(is_believed(&mut world, by_tcp) && is_believed(&mut world, next), "{flow:?}");
        world.advance(Duration::from_secs(3_301));
        world.input(named());
        assert!(!is_believed(&mut world, by_tcp) && !is_believed(&mut world, by_another_port), "{flow:?}");
        assert!(is_believed(&mut world, next));
    }
}

/// A call that the device has answered by its first connection, and its BYE.
fn talking() -> (World, String) {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    let (phone, invite) = (world.device(1), world.last("INVITE"));
    world.reply(phone, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], "");
    let ours = invite.elements(Name::RecordRoute).filter(|route| !route.contains("192.0.2.10"));
    let routes: String = ours.map(|route| format!("Route: {route}\r\n")).collect();
    let text = format!(
        "BYE sip:bob@192.0.2.77 SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKbye\r\nMax-Forwards: 70\r\n{routes}\
         From: <sip:alice@example.com>;tag=peer\r\nTo: <sip:bob@example.com>;tag=bob\r\nCall-ID: call-1\r\nCSeq: 1 BYE\r\n\
         Content-Length: 0\r\n\r\n"
    );
    (world, text)
}

#[test]
fn nobody_but_the_server_answers_a_request_of_a_dialog_by_udp() {
    let (mut world, text) = talking();
    world.receive(world.device(1), &text);
    let bye = world.last("BYE");
    for source in strangers() {
        world.reply(source, &bye, 481, &[], "");
    }
    assert_eq!((world.count("BYE 481"), refused(&world)), (0, strangers().len()));
    world.input(Input::Addresses {
        upstream: REGISTRAR,
        addresses: ["192.0.2.11".parse().unwrap()].into(),
        is_whole: true,
    });
    world.reply(stranger("192.0.2.11:5060"), &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
}

#[test]
fn a_devices_request_that_comes_again_by_its_next_connection_is_answered_there_and_by_no_other() {
    let (mut world, text) = talking();
    world.receive(world.device(1), &text);
    let bye = world.last("BYE");
    world.reply(world.upstream, &bye, 200, &[], "");
    world.attach(2);
    for (number, expected) in [(66, vec![]), (2, vec![FlowId::Stream(2)])] {
        world.sent.clear();
        world.receive(world.device(number), &text);
        assert_eq!(world.sent.iter().map(|sent| sent.flow).collect::<Vec<_>>(), expected, "{:?}", world.descriptions());
    }
}

fn at_the_edge() -> Source {
    strangers().into_iter().find(|source| source.side == Side::Device).unwrap()
}

#[test]
fn what_a_device_sends_is_never_taken_for_what_a_server_does() {
    for flow in [FlowId::Datagram(server_address()), FlowId::Stream(7)] {
        let mut world = World::registered_with(flow, |_| {});
        let (server, stranger, text) = (world.upstream, at_the_edge(), world.invite_text("call-1"));
        world.receive(stranger, &text);
        assert_eq!(world.count("INVITE 403"), 1);
        world.sent.clear();
        world.receive(server, &text);
        assert_eq!((world.descriptions(), world.wakes().len()), (vec!["INVITE 100".to_owned()], 1));
        let begun = world.events.iter().filter_map(|event| match event {
            Event::InviteTransaction(change) => Some(change.key.to_string()),
            _ => None,
        });
        let begun: Vec<String> = begun.collect();
        let uri = format!("sip:{}@relay.test:5070", world.binding);
        let cancel = format!("CANCEL {uri} SIP/2.0\r\n{}\r\n", world.head("call-1", "CANCEL", 1, ""));
        let parsed = Message::parse(&cancel.clone().into(), &Limits::default()).unwrap();
        assert_eq!(Endpoint::key_of_cancelled_or_acked(&parsed, Side::Upstream).into_iter().collect::<Vec<_>>(), begun);
        assert_ne!(Endpoint::key_of_cancelled_or_acked(&parsed, Side::Device).into_iter().collect::<Vec<_>>(), begun);
        world.receive(stranger, &cancel);
        assert_eq!((world.count("CANCEL 481"), world.count("INVITE 487")), (1, 0));
        world.receive(server, &cancel);
        assert_eq!((world.count("CANCEL 200"), world.count("INVITE 487")), (1, 1));
    }
}

#[test]
fn what_a_device_is_refused_leaves_nothing_that_stands_in_the_way_of_anothers() {
    let (mut world, bye) = talking();
    let before = world.endpoint.counts().transactions;
    let own = format!("sip:{}@relay.test", world.instance);
    for method in ["INVITE", "OPTIONS", "MESSAGE", "SUBSCRIBE", "REGISTER", "CANCEL", "BYE", "FOO"] {
        for uri in ["sip:bob@example.com", &own] {
            let header = if method == "REGISTER" { "Contact: <\r\n" } else { "" };
            world.receive(at_the_edge(), &request(method, uri, method, header));
        }
    }
    for method in ["BYE", "INVITE"] {
        world.receive(
            at_the_edge(),
            &bye.replace("BYE sip", &format!("{method} sip")).replace("1 BYE", &format!("1 {method}")),
        );
    }
    assert_eq!(world.endpoint.counts().transactions, before, "{:?}", world.descriptions());
    world.sent.clear();
    world.receive(world.device(1), &bye);
    assert_eq!(world.descriptions(), ["BYE"]);
}

#[test]
fn a_sip_server_is_told_from_a_stranger_by_its_flow_and_by_its_addresses() {
    for flow in [FlowId::Stream(7), FlowId::Datagram(server_address())] {
        let mut world = World::new(flow);
        world.bind();
        let (by_flow, other): (_, SocketAddr) = (world.upstream, "192.0.2.11:5060".parse().unwrap());
        let accepted = |peer| Source { flow: FlowId::Stream(99), peer, ..by_flow };
        assert!(world.endpoint.is_sip_server(&by_flow));
        assert!(!world.endpoint.is_sip_server(&accepted(server_address())), "nothing is known of its addresses");
        world.input(Input::Addresses {
            upstream: REGISTRAR,
            addresses: [server_address().ip(), other.ip()].into(),
            is_whole: true,
        });
        assert!(world.endpoint.is_sip_server(&accepted(other)));
        assert!(!world.endpoint.is_sip_server(&accepted("192.0.2.12:5060".parse().unwrap())));
        world.input(Input::Unbind { instance: world.instance, deadline: Duration::ZERO });
        world.advance(Duration::from_secs(120));
        assert!(!world.endpoint.is_sip_server(&by_flow) && !world.endpoint.is_sip_server(&accepted(other)));
    }
}

/// The 200 to a REGISTER, with something else in place of one of its texts.
fn odd_grant(world: &mut World, odd: &str, instead: &str) {
    let register = world.last("REGISTER");
    let lines = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq, Name::Contact];
    let line = |name| format!("{name}: {}\r\n", register.text(name).unwrap());
    let text: String = lines.into_iter().map(line).collect();
    assert!(text.contains(odd), "{text}");
    let text = format!("SIP/2.0 200 OK\r\n{}Content-Length: 0\r\n\r\n", text.replacen(odd, instead, 1));
    world.receive(world.upstream, &text);
}

/// RFC 3261 §17.1.3, §18.1.2
#[test]
fn a_response_to_another_method_or_for_another_client_is_none() {
    for flow in [FlowId::Datagram(server_address()), FlowId::Stream(7)] {
        let mut world = World::new(flow);
        world.bind();
        for (odd, instead) in [
            ("1 REGISTER", "1 INVITE"),
            ("1 REGISTER", "1 register"),
            ("1 REGISTER", "1 CANCEL"),
            ("1 REGISTER", "1 OTHER"),
            ("relay.test:507", "10.0.0.1:507"),
            ("relay.test:507", "relay.test:990"),
        ] {
            odd_grant(&mut world, odd, instead);
            assert!(!world.endpoint.is_registered(world.binding), "{instead}");
        }
        odd_grant(&mut world, "relay.test", "Relay.TEST.");
        assert!(world.endpoint.is_registered(world.binding), "the same name");
    }
}
