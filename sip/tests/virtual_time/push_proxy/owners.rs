//! A registration belongs to the SIP server that accepted it: what another one accepts changes nothing of it.

use sip::endpoint::*;
use sip::id::UpstreamId;
use sip::message::Name;

use super::through::{PN, Register, Through};
use crate::world::REGISTRAR;

/// Mallory's server, which says 200 to every REGISTER.
const EVIL: UpstreamId = UpstreamId(66);

/// The ways by which a REGISTER for Alice may come to another server than hers.
fn ways() -> Vec<(&'static str, Register)> {
    let by = |uri, header: &str| {
        let register = Register { uri, ..Register::by(66) };
        if header.is_empty() { register } else { register.header(header) }
    };
    vec![
        ("his registrar", by("sip:evil.test", "")),
        ("his proxy", by("sip:example.com", "Route: <sip:evil.test;lr>")),
        ("hers by his port", by("sip:example.com:6666", "")),
        ("hers by maddr", by("sip:example.com;maddr=203.0.113.6", "")),
        ("hers by another transport", by("sip:example.com;transport=tcp", "")),
        ("hers by a user", by("sip:mallory@example.com", "")),
        ("hers by a header", by("sip:example.com?Route=%3Csip:evil.test%3E", "")),
        ("a secure one", by("sips:example.com", "")),
    ]
}

/// The Contacts that Mallory registers, and for how long.
fn claims() -> Vec<(&'static str, String, u32)> {
    vec![
        ("everything away", "*".into(), 0),
        ("her device away", format!("<sip:alice@10.0.0.5:1{PN}>;+sip.instance=\"<urn:uuid:1>\""), 0),
        ("her device without pushes", "<sip:x@evil.test>;+sip.instance=\"<urn:uuid:1>\"".into(), 600),
        (
            "her device with his token",
            "<sip:x@evil.test;pn-provider=fcm;pn-param=project;pn-prid=his>;+sip.instance=\"<urn:uuid:1>\"".into(),
            600,
        ),
        ("her token", format!("<sip:x@evil.test{PN}>;+sip.instance=\"<urn:uuid:66>\""), 600),
        ("all of hers", format!("<sip:alice@10.0.0.5:1{PN}>;+sip.instance=\"<urn:uuid:1>\""), 600),
    ]
}

#[test]
fn what_another_server_accepts_neither_ends_a_registration_nor_gets_its_calls() {
    for (way, register) in ways() {
        for (claim, contact, expires) in claims() {
            let (mut through, path) = Through::asleep();
            through.server = EVIL;
            let his = Register { contact, expires, ..register.clone() };
            let before = through.world.count("REGISTER");
            through.register(&his);
            if through.world.count("REGISTER") > before {
                through.accept(expires);
            }
            assert_eq!(through.ends(), [], "{way}, {claim}");
            through.world.sent.clear();
            through.call("c1", &path);
            assert_eq!(through.world.wakes().len(), 1, "{way}, {claim}: her phone is woken");
            assert_eq!(through.world.count("INVITE"), 0, "{way}, {claim}: he gets no call of hers");
            through.server = REGISTRAR;
            through.registered(&Register::by(2));
            assert_eq!(through.world.count("INVITE"), 1, "{way}, {claim}: she does");
        }
    }
}

#[test]
fn what_another_server_refuses_ends_nothing() {
    for (way, register) in ways() {
        for status in [403, 404, 410, 604] {
            let mut through = Through::new();
            through.registered(&Register::by(1));
            through.server = EVIL;
            // Even by her own connection.
            through.register(&Register { flow: 1, ..register.clone() });
            let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
            through.world.reply(source, &register, status, &[], "");
            assert_eq!(through.ends(), [], "{way}, {status}");
        }
    }
}

#[test]
fn a_stranger_whom_her_own_server_refuses_ends_nothing() {
    for status in [403, 404, 410, 604] {
        let (mut through, path) = Through::asleep();
        through.register(&Register::by(66).header("Authorization: Digest username=\"alice\""));
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        through.world.reply(source, &register, status, &[], "");
        assert_eq!(through.ends(), [], "{status}");
        through.call("c1", &path);
        assert_eq!(through.world.wakes().len(), 1);
    }
}

#[test]
fn a_stranger_cannot_use_up_the_registrations_of_an_aor() {
    let mut through = Through::new();
    through.server = EVIL;
    for number in 0..16 {
        let contact = format!("<sip:x@h;pn-provider=fcm;pn-prid=t{number}>;+sip.instance=\"<urn:uuid:{number}9>\"");
        through.registered(&Register { uri: "sip:evil.test", ..Register::by(60 + number).contact(&contact) });
    }
    through.server = REGISTRAR;
    through.registered(&Register::by(1));
    assert_eq!(through.world.count("REGISTER 403"), 0);
    assert_eq!(through.world.endpoint.counts().push_bindings, 17);
}

#[test]
fn a_second_proxy_behind_her_own_is_not_asked() {
    let (mut through, _) = Through::asleep();
    let detour = "Route: <sip:proxy.example.com;lr>, <sip:evil.test;lr>";
    through.register(&Register::by(66).header(detour));
    assert_eq!((through.world.count("REGISTER"), through.world.count("REGISTER 403")), (0, 1));
}

/// A REGISTER of Mallory's, which Alice's own server accepts because it reads Mallory's address of record in it, is not Alice's here.
#[test]
fn an_address_of_record_that_can_be_read_in_two_ways_is_nobodys() {
    for to in [
        "\"<sip:alice@example.com>\" <sip:mallory@example.com>",
        "\"<sip:mallory@example.com>\" <sip:alice@example.com>",
        "\"\"<sip:alice@example.com>\" <sip:mallory@example.com>",
        "\"\\\"<sip:alice@example.com>\" <sip:mallory@example.com>",
        "sip:mallory@example.com;x=<sip:alice@example.com>",
        "\"x\" sip:mallory@example.com;x=<sip:alice@example.com>",
        "<sip:alice@example.com>, <sip:mallory@example.com>",
        "<sip:alice@example.com> <sip:mallory@example.com>",
        "<sip:alice@example.com>;x=\"<sip:mallory@example.com>\"",
        "<sip:alice@example.com;x=<sip:mallory@example.com>",
        "sip:alice@example.com, sip:mallory@example.com",
        "\"sip:alice@example.com\" sip:mallory@example.com",
        "sip:alice@example.com?x=sip:mallory@example.com",
        "\"<alice@example.com>\" <sip:mallory@example.com>",
        "\"3 > <sip:alice@example.com\" <sip:mallory@example.com>",
        "\"a <3\" \"b\" <sip:alice@example.com>, <sip:mallory@example.com>",
        "\"a <3\\\" <sip:alice@example.com>\" <sip:mallory@example.com>",
    ] {
        let (mut through, path) = Through::asleep();
        let source = through.world.device(66);
        for (cseq, contact, expires) in
            [(1, "*", 0), (2, "<sip:x@h;pn-provider=fcm;pn-prid=his>;+sip.instance=\"<urn:uuid:1>\"", 600)]
        {
            let text = format!(
                "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKe{cseq}\r\nFrom: <sip:m@h>;tag=d\r\n\
                 To: {to}\r\nCall-ID: e\r\nCSeq: {cseq} REGISTER\r\nContact: {contact}\r\nExpires: {expires}\r\n\r\n"
            );
            through.world.receive(source, &text);
        }
        let asked = through.world.events.iter().any(|event| matches!(event, Event::RouteNeeded(_)));
        assert_eq!(
            (asked, through.world.count("REGISTER 400")),
            (false, 2),
            "{to}: {:?}",
            through.world.descriptions()
        );
        through.call("c1", &path);
        assert_eq!(through.world.wakes().len(), 1, "{to}");
    }
}

/// Text beside the one address decides nothing.
#[test]
fn an_odd_address_of_record_that_can_be_read_in_one_way_is_taken() {
    for to in [
        "\"\"Alice\"\" <sip:alice@example.com>",
        "\"Alice, \"A\" W\" <sip:alice@example.com>",
        "\"Alice: home\" <sip:alice@example.com>",
        "Alice, W <sip:alice@example.com;user=phone>",
        "\"open <sip:alice@example.com>",
        "sip:alice@EXAMPLE.com",
        "\"Alice <3\" <sip:alice@example.com>",
        "\"Bob > home\" <sip:alice@example.com;user=phone>",
        " \"<\\\"A\\\">\"  <sip:alice@example.com>",
    ] {
        let mut through = Through::new();
        let hers = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
        let plain = "To: <sip:alice@example.com>";
        let again = through.registered(&Register::by(2).line(plain, &format!("To: {to}")));
        assert_eq!((again.text(Name::Path), through.world.count("REGISTER 200")), (Some(&*hers), 2), "{to}");
    }
}

/// A display name in Latin-1 says nothing of the address beside it.
#[test]
fn a_name_that_is_no_text_keeps_nobody_from_registering() {
    let mut through = Through::new();
    let hers = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    let source = through.world.device(2);
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKe\r\nFrom: <sip:alice@example.com>;tag=d\r\n\
         To: \"Jos#: <3\" <sip:alice@example.com>\r\nCall-ID: e\r\nCSeq: 1 REGISTER\r\nExpires: 600\r\n\
         Contact: \"Jos#, W\" <sip:alice@10.0.0.5:1{PN}>;+sip.instance=\"<urn:uuid:1>\"\r\n\r\n"
    );
    let latin = |text: &str| text.bytes().map(|byte| if byte == b'#' { 0xe9 } else { byte }).collect::<Vec<_>>();
    through.world.receive_bytes(source, &latin(&text));
    assert_eq!(through.world.count("REGISTER 400"), 1, "a colon beside a bracket may begin an address");
    through.world.receive_bytes(source, &latin(&text.replace("#:", "#")));
    through.show_way();
    let passed = through.world.last("REGISTER");
    assert_eq!((through.world.count("REGISTER"), passed.text(Name::Path)), (2, Some(&*hers)));
}

/// A Route that the relay cannot read may lead her proxy on to somebody else's server.
#[test]
fn a_route_that_is_no_text_goes_nowhere() {
    let (mut through, _) = Through::asleep();
    let source = through.world.device(66);
    let head = "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKe\r\nFrom: <sip:m@h>;tag=d\r\n\
                To: <sip:alice@example.com>\r\nCall-ID: e\r\nCSeq: 1 REGISTER\r\nContact: *\r\nExpires: 0\r\nRoute: ";
    let bytes = [head.as_bytes(), b"\xff <sip:evil.test;lr>\r\n\r\n"].concat();
    through.world.receive_bytes(source, &bytes);
    assert_eq!(through.world.count("REGISTER 400"), 1);
}

/// A phone whose instance id is empty is told apart by its address, and takes no other one's place.
#[test]
fn an_empty_instance_id_is_none() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    for (expires, contact) in [(600, ";pn-provider=fcm;pn-prid=other"), (0, "")] {
        let contact = format!("<sip:alice@10.0.0.6{contact}>;+sip.instance=\"\"");
        through.registered(&Register { expires, ..Register::by(2).contact(&contact) });
        assert!(!through.ends().contains(&PushBindingEnd::Replaced), "{expires}");
        assert!(through.world.endpoint.counts().push_bindings >= 1, "{expires}");
    }
    assert_eq!(through.ends(), [PushBindingEnd::Unregistered], "its own, and no other");
}

#[test]
fn each_server_has_its_own_path_and_purr_and_the_same_server_in_another_spelling_has_hers() {
    let mut through = Through::new();
    let hers = through.registered(&Register::by(1));
    let instance = through.instance();
    through.registered(&Register { uri: "sip:Example.COM", ..Register::by(2) });
    assert_eq!(through.instance(), instance);
    through.server = EVIL;
    let his = through.registered(&Register { uri: "sip:evil.test", ..Register::by(66) });
    assert_ne!(his.text(Name::Path), hers.text(Name::Path));
    assert_ne!(through.instance(), instance);
    let purr = through.world.last("REGISTER 200").text(Name::FeatureCaps).unwrap().to_owned();
    assert!(!purr.contains(&instance.to_string()));
}

/// A registration that an earlier version named otherwise runs on, until its device registers again.
#[test]
fn a_restored_registration_keeps_its_name_until_its_device_registers_again() {
    let (mut through, _) = Through::asleep();
    through.registered(&Register::by(1));
    let before = through.world.events.iter().find_map(|event| match event {
        Event::PushBindingAccepted(it) => Some((it.aor.clone(), it.contact.clone(), it.push.clone())),
        _ => None,
    });
    let (aor, contact, push) = before.unwrap();
    let mut through = Through::new();
    let old = sip::id::InstanceId::new(7 << 64, sip::id::ShardTag(9));
    let registration = PushBinding {
        instance: old,
        aor,
        contact,
        registrar: "sip:example.com".into(),
        proxy: None,
        push,
        expires: std::time::Duration::from_secs(600),
        refreshes_itself: false,
        source: None,
        sent_at: None,
    };
    let upstream_registrar = "sip:example.com".into();
    let restored = RestoredPushBinding { registration, upstream: REGISTRAR, upstream_registrar, confirmed_at_ms: 1 };
    through.world.input(Input::RestorePushBinding(Box::new(restored)));
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
    through.registered(&Register::by(1));
    assert_eq!(through.ends(), [PushBindingEnd::Replaced]);
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
    assert_ne!(through.instance(), old);
}

/// A node may have died when it had written the later one, and had not erased the earlier one yet; or a store has that again.
#[test]
fn of_two_restored_registrations_of_a_device_the_later_one_stays_whichever_comes_first() {
    for later_first in [false, true] {
        let (mut through, _) = Through::asleep();
        let kept = |through: &Through| {
            let of = |event: &Event| match event {
                Event::PushBindingAccepted(registration) => Some((**registration).clone()),
                _ => None,
            };
            through.world.events.iter().rev().find_map(of).unwrap()
        };
        through.registered(&Register::by(2));
        let earlier = kept(&through);
        let renamed =
            "<sip:alice@10.0.0.5:2;pn-provider=fcm;pn-param=project;pn-prid=new>;+sip.instance=\"<urn:uuid:1>\"";
        through.registered(&Register::by(2).contact(renamed));
        let later = kept(&through);
        assert_ne!(earlier.instance, later.instance);
        let mut through = Through::new();
        let mut both = [(earlier.clone(), 1_000), (later.clone(), 2_000)];
        if later_first {
            both.reverse();
        }
        for (registration, confirmed_at_ms) in both {
            let upstream_registrar = "sip:example.com".into();
            let restored =
                RestoredPushBinding { registration, upstream: REGISTRAR, upstream_registrar, confirmed_at_ms };
            through.world.input(Input::RestorePushBinding(Box::new(restored)));
        }
        assert_eq!(through.world.endpoint.counts().push_bindings, 1);
        let ended = through.world.events.iter().find_map(|event| match event {
            Event::PushBindingEnded { instance, end: PushBindingEnd::Replaced } => Some(*instance),
            _ => None,
        });
        assert_eq!(ended, Some(earlier.instance), "{later_first}");
    }
}
