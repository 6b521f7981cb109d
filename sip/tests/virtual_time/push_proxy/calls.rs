//! Calls that come back by our Path (RFC 3327 §5.4, RFC 8599 §5.6.2).

use std::net::SocketAddr;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::through::{PN, Register, Through, values};

#[test]
fn a_sleeping_device_is_woken_registers_and_gets_the_call_as_it_was() {
    let (mut through, path) = Through::asleep();
    through.call("c1", &path);
    assert_eq!(through.world.descriptions(), ["INVITE 100"]);
    assert_eq!(through.world.wakes().len(), 1);
    assert_eq!(&*through.world.wakes()[0].from, "sip:bob@example.com");
    through.register(&Register::by(2));
    assert_eq!(through.world.count("INVITE"), 0, "not before its registrar has accepted the refresh");
    through.accept(600);
    let invite = through.world.last("INVITE");
    assert_eq!(
        invite.request_uri(),
        Some(format!("sip:alice@10.0.0.5:1{PN}").as_str()),
        "the Request-URI is the registrar's"
    );
    let call = through.world.wakes()[0].call.to_string();
    assert_eq!(values(&invite, Name::SipwakeCall), [call], "as its push names it");
    assert!(!invite.has(Name::Route), "our Path is taken off");
    assert_eq!(values(&invite, Name::RecordRoute).len(), 3);
    let order: Vec<String> = through.world.descriptions();
    assert_eq!(&order[order.len() - 2..], ["REGISTER 200", "INVITE"], "its 200 comes first");
    let device = through.world.device(2);
    through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:2>")], "");
    assert_eq!(through.world.count("INVITE 200"), 1);
    assert_eq!(through.world.final_states(), [CallState::Answered]);
}

#[test]
fn a_device_that_is_there_gets_the_call_without_a_push() {
    let mut through = Through::new();
    let path = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    through.call("c1", &path);
    assert_eq!((through.world.count("INVITE"), through.world.wakes().len()), (1, 0));
}

#[test]
fn no_device_in_time_is_480_and_a_cancel_is_487() {
    let (mut through, path) = Through::asleep();
    through.call("c1", &path);
    through.advance(30);
    assert_eq!(through.world.count("INVITE 480"), 1);
    through.call("c2", &path);
    let (source, text) = (through.world.upstream, through.request("CANCEL", "c2", &path));
    through.world.receive(source, &text.replace("z9hG4bKserver.c2.1.CANCEL", "z9hG4bKserver.c2.1.INVITE"));
    assert_eq!((through.world.count("CANCEL 200"), through.world.count("INVITE 487")), (1, 1));
    assert_eq!(through.world.final_states(), [CallState::TimedOut, CallState::Cancelled]);
    through.registered(&Register::by(2));
    assert_eq!(through.world.count("INVITE"), 0, "a device that comes late finds no call");
}

/// A push is sent only for what came from the account's own SIP server.
#[test]
fn a_call_from_another_source_wakes_nobody() {
    let (mut through, path) = Through::asleep();
    let peer: SocketAddr = "203.0.113.66:5060".parse().unwrap();
    let text = through.request("INVITE", "c1", &path);
    let stranger = Source { flow: FlowId::Datagram(peer), peer, ..through.world.upstream };
    through.world.receive(stranger, &text);
    assert_eq!(through.world.descriptions(), ["INVITE 403"]);
    let device = through.world.device(9);
    through.world.receive(device, &text.replace("c1", "c2"));
    assert_eq!(through.world.descriptions()[1..], ["INVITE 403"], "nor does one from a device");
    assert!(through.world.wakes().is_empty());
}

/// RFC 5626 §5.3: 430 tells a registrar that knows flows to try another one.
#[test]
fn a_path_that_is_forged_or_whose_registration_is_over_leads_nowhere() {
    let (mut through, path) = Through::asleep();
    let mut forged = path.clone().into_bytes();
    forged[12] = if forged[12] == b'A' { b'B' } else { b'A' };
    through.call("c1", std::str::from_utf8(&forged).unwrap());
    assert_eq!(through.world.descriptions(), ["INVITE 404"]);
    through.advance(601);
    assert_eq!(through.ends(), [PushBindingEnd::Expired]);
    through.world.sent.clear();
    through.call("c2", &path);
    through.call("c3", &path.replace(";lr>", ";lr;ob>"));
    assert_eq!(through.world.descriptions(), ["INVITE 404", "INVITE 430"]);
    assert!(through.world.wakes().is_empty());
}

#[test]
fn a_path_of_another_registration_reaches_that_one_alone() {
    let mut through = Through::new();
    let other = Register { to: "sip:bob@example.com", ..Register::by(2) }
        .contact("<sip:bob@h;pn-provider=fcm;pn-prid=bobs>;+sip.instance=\"<urn:uuid:2>\"");
    let alices = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    let bobs = through.registered(&other).text(Name::Path).unwrap().to_owned();
    assert_ne!(alices, bobs);
    through.call("c1", &bobs);
    let sent = through.world.sent.last().unwrap();
    assert_eq!(sent.flow, FlowId::Stream(2));
}

#[test]
fn after_a_restart_the_path_still_leads_to_the_registration_that_was_adopted() {
    let (before, path) = {
        let mut through = Through::new();
        let path = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
        let kept = through.world.events.into_iter().find_map(|event| match event {
            Event::PushBindingAccepted(registration) => Some(*registration),
            _ => None,
        });
        (kept.unwrap(), path)
    };
    let mut through = Through::new();
    let upstream = crate::world::REGISTRAR;
    let registrar = "sip:example.com".into();
    through.world.input(Input::RestorePushBinding(Box::new(RestoredPushBinding {
        registration: before,
        upstream,
        upstream_registrar: registrar,
        confirmed_at_ms: 1,
    })));
    assert_eq!(through.world.dialled, 1, "its addresses must be known");
    through.world.input(Input::Addresses {
        upstream,
        addresses: [crate::world::server_address().ip()].into(),
        is_whole: true,
    });
    through.call("c1", &path);
    assert_eq!(through.world.wakes().len(), 1);
    through.registered(&Register::by(2));
    assert_eq!(through.world.count("INVITE"), 1);
}

#[test]
fn a_dead_push_token_ends_the_registration_and_its_calls() {
    let (mut through, path) = Through::asleep();
    through.call("c1", &path);
    let instance = through.world.wakes()[0].instance;
    through.world.input(Input::RemovePushBinding(instance));
    assert_eq!((through.ends(), through.world.count("INVITE 480")), (vec![PushBindingEnd::Removed], 1));
}

/// The identifier that somebody else's proxy knows its own by is no token of ours.
#[test]
fn a_path_leads_to_its_shard_and_another_ones_route_to_none() {
    let (_, path) = Through::asleep();
    let shard = |route: &str| {
        let text = format!("INVITE sip:x@h SIP/2.0\r\nRoute: {route}\r\nFrom: <sip:a@h>;tag=1\r\n\r\n");
        Endpoint::shard_of(&Message::parse(&text.into(), &Default::default()).unwrap())
    };
    assert!(shard(&path).is_some());
    for user in ["0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5bd9cb469fa16570867728950e", "a-user-of-22-bytes-long"]
    {
        assert_eq!(shard(&format!("<sip:{user}@proxy.example.com;lr>")), None, "{user}");
    }
}
