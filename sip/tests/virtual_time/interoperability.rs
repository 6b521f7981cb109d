//! Odd but real peers: what the relay does not need decides nothing (RFC 3261 §8.1.3, §8.2.2.2, §9.2, §16.3, §16.10).

use std::time::Duration;

use sip::endpoint::CallState;
use sip::id::FlowId;
use sip::message::{Fault, Limits, Message, Name};

use crate::world::{SDP, World, server_address};

/// The INVITE of the world with one line of its head in another form.
fn with_line(world: &World, call_id: &str, name: &str, line: &str) -> String {
    let text = world.invite_text(call_id);
    let lines: Vec<&str> = text.split("\r\n").collect();
    let at = lines.iter().position(|line| line.starts_with(name)).expect("a line of this name");
    let mut lines = lines;
    lines[at] = line;
    lines.join("\r\n")
}

const ODD: &[(&str, &str)] = &[
    ("To", "To: \"\"unknown\"\" <sip:alice@example.com>"),
    ("To", "To: \"alice <sip:alice@example.com>"),
    ("To", "To: <sip:alice@example.com>;tag="),
    ("To", "To: alice"),
    ("From", "From: \"John \"Duke\" W\" <sip:bob@example.com>;tag=1"),
    ("From", "From: <sip:@192.0.2.1>;tag=1"),
    ("From", "From: <>;tag=1"),
    ("From", "From: anonymous;tag=1"),
    ("From", "From:"),
    ("Contact", "Contact: <sip:x@h;x-tiu=\"VGhd==\">"),
    ("Contact", "Contact: Lastname, Firstname <sip:x@h>"),
    ("Contact", "Contact: <sip:x@192.0.2.10:5060transport=udp>"),
    ("Contact", "Contact: \"open <sip:x@h>"),
    ("X-Odd", "Subject: hello\r\n>world"),
    ("X-Odd", "no colon in this line"),
    ("X-Odd", "Subject: hello\r\n>world: how are you"),
    ("X-Odd", "Subject: hi\r\nsee you at 10:30"),
    ("X-Odd", "Alert-Info:\r\n<http://127.0.0.1/ring>;info=x"),
    ("X-Odd", "User Agent: Foo/1.0"),
    ("X-Odd", "X-CallerName(CNAM): Bob"),
    ("X-Odd", ": x"),
    ("From", "From: \"Bob\"\r\n<sip:bob@example.com>;tag=1"),
    ("X-Odd", "P-Asserted-Identity: \"broken"),
];

#[test]
fn an_invite_with_odd_headers_rings_and_reaches_the_device_as_it_came() {
    for (number, (name, line)) in ODD.iter().enumerate() {
        let mut world = World::registered();
        let (source, text) = (world.upstream, with_line(&world, "odd", name, line));
        world.receive(source, &text);
        assert_eq!(world.wakes().len(), 1, "{line}: {:?}", world.descriptions());
        world.attach(number as u64 + 1);
        let forked = world.last("INVITE");
        let bytes = forked.to_bytes();
        let passed = bytes.windows(line.len()).any(|window| window == line.as_bytes());
        assert!(passed, "{line}: {}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn of_several_from_or_to_the_first_goes_on_and_of_several_max_forwards_the_lowest_counts() {
    for (name, line) in
        [("From", "From: <sip:eve@h>;tag=2"), ("To", "t: <sip:eve@h>"), ("Max-Forwards", "Max-Forwards: 9")]
    {
        let mut world = World::registered();
        let (source, text) = (world.upstream, with_line(&world, "odd", "X-Odd", line));
        world.receive(source, &text);
        assert_eq!(world.wakes().len(), 1, "{name}: {:?}", world.descriptions());
        world.attach(1);
        let forked = world.last("INVITE");
        let counts = [Name::From, Name::To, Name::MaxForwards].map(|name| forked.values(name).count());
        assert_eq!(counts, [1, 1, 1], "{name}");
        assert_eq!(forked.from().and_then(|from| from.user()), Some("bob"), "{name}");
        assert_eq!(forked.max_forwards() == Some(8), name == "Max-Forwards");
        world.reply(world.device(1), &forked, 200, &[], SDP);
        assert_eq!(world.count("INVITE 200"), 1, "{name}");
    }
    let mut world = World::registered();
    let source = world.upstream;
    let text = with_line(&world, "odd", "X-Odd", "Max-Forwards: 0");
    world.receive(source, &text);
    assert_eq!(world.count("INVITE 483"), 1, "{:?}", world.descriptions());
}

#[test]
fn an_invite_with_an_odd_via_rings_and_its_answers_go_to_where_it_came_from() {
    for odd in [
        "192.0.2.10:5060;branch=z9hG4bK1;",
        "192.0.2.10:5060;;branch=z9hG4bK1;;rport",
        "192.0.2.10:0;branch=z9hG4bK1;rport",
        "[fe80::1%eth0]:5060;branch=z9hG4bK1;rport",
        "2001:db8::9;branch=z9hG4bK1;rport",
        "192.0.2.10 (a proxy);branch=z9hG4bK1;rport",
        "192.0.2.10:5060;branch=z9hG4bK1 (a comment)",
        "192.0.2.10:5060;branch=z9hG4bK1;x=\"open",
    ] {
        let mut world = World::registered();
        let line = format!("Via: SIP/2.0/UDP {odd}");
        let (source, text) = (world.upstream, with_line(&world, "odd", "Via", &line));
        world.receive(source, &text);
        assert_eq!((world.count("INVITE 100"), world.wakes().len()), (1, 1), "{odd}: {:?}", world.descriptions());
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, 486, &[], "");
        let busy = world.sent.iter().rev().find(|sent| sent.message.status() == Some(486)).expect("an answer");
        assert_eq!(busy.flow, source.flow, "{odd}");
        let via = busy.message.elements(Name::Via).next().unwrap_or_default();
        assert!(via.contains("branch=z9hG4bK1"), "{odd}: {via}");
        // The ACK has the same Via, and ends it.
        let ack = text.replace("INVITE", "ACK");
        world.receive(source, &ack);
        let sent = world.sent.len();
        world.advance(Duration::from_secs(30));
        assert!(!world.descriptions()[sent..].contains(&"INVITE 486".to_owned()), "{odd}");
    }
}

#[test]
fn a_device_that_adds_to_our_via_is_heard() {
    for more in [";", ";;", ";x=\"y", " (phone)", ";received=10.0.0.5;"] {
        let mut world = World::registered();
        world.attach(1);
        world.invite("odd");
        let (device, invite) = (world.device(1), world.last("INVITE"));
        let own = invite.elements(Name::Via).next().unwrap_or_default();
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: {own}{more}\r\nTo: <sip:alice@example.com>;tag=phone\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:phone@10.0.0.5>\r\nContent-Length: 0\r\n\r\n"
        );
        world.receive(device, &text);
        assert_eq!(world.count("INVITE 200"), 1, "{more}: {:?}", world.descriptions());
    }
}

#[test]
fn a_line_that_others_may_read_as_a_header_is_answered_400_and_wakes_nobody() {
    for line in ["To\u{b}: x", "T o: x", "(To): x", "Subject: hello\n>world", "X: a\nTo: x", "X: a\rY", "X: a\n"] {
        let mut world = World::registered();
        let (source, text) = (world.upstream, with_line(&world, "odd", "X-Odd", line));
        world.receive(source, &text);
        assert_eq!((world.count("INVITE 400"), world.wakes().len()), (1, 0), "{line:?}");
    }
}

#[test]
fn a_response_of_a_device_passes_however_odd_its_headers_are() {
    for odd in [
        "To: \"\"alice\"\" <sip:alice@example.com>;tag=phone",
        "To: \"alice <sip:alice@example.com>;tag=phone",
        "From: Jos\u{e9}, the \"Duke <sip:bob@example.com>;tag=bob",
    ] {
        let mut world = World::registered();
        world.attach(1);
        world.invite("odd");
        let invite = world.last("INVITE");
        let mut text = String::from("SIP/2.0 200 OK\r\n");
        for name in [Name::Via, Name::RecordRoute, Name::From, Name::To, Name::CallId, Name::CSeq] {
            let written = odd.split(':').next().unwrap_or_default();
            if format!("{name}") == written {
                text += &format!("{odd}\r\n");
                continue;
            }
            for value in invite.values(name) {
                text += &format!("{name}: {}\r\n", String::from_utf8_lossy(value));
            }
        }
        text += "Contact: <sip:phone@10.0.0.5;x-tiu=\"VGhd==\">\r\nContent-Length: 0\r\n\r\n";
        let device = world.device(1);
        world.receive(device, &text);
        assert_eq!(world.count("INVITE 200"), 1, "{odd}: {:?}", world.descriptions());
        assert_eq!(world.final_states(), [CallState::Answered], "{odd}");
    }
}

/// Nobody can be told that a response is broken: what only some would read as a line break is none for anybody behind the relay.
#[test]
fn a_response_with_a_bare_line_break_passes_without_it() {
    for (odd, passed) in [
        ("Server: a\nP-Asserted-Identity: <sip:evil@h>", "Server: a P-Asserted-Identity: <sip:evil@h>\r\n"),
        ("Server: a\rb", "Server: a b\r\n"),
        ("Server: a\r\n\tb\n", "Server: a\r\n\tb \r\n"),
        ("Server: \n\r\r\n\nb", "Server: \u{20}\u{20}\r\n b\r\n"),
    ] {
        let mut world = World::registered();
        world.attach(1);
        world.invite("odd");
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, 200, &[("Contact", "<sip:phone@10.0.0.5>"), ("X", &format!("y\r\n{odd}"))], SDP);
        assert_eq!(world.final_states(), [CallState::Answered], "{odd:?}");
        let answer = world.last("INVITE 200");
        let text = String::from_utf8_lossy(answer.head()).into_owned();
        assert!(text.contains(passed) && answer.body() == SDP, "{odd:?}: {text:?}");
        assert_eq!(answer.check(), Ok(()));
    }
    let mut world = World::new(World::registered().upstream.flow);
    world.bind();
    world.respond(200, &[("Server", "a\nb"), ("Expires", "300")]);
    world.advance(Duration::from_secs(200));
    assert_eq!(world.count("REGISTER"), 1, "it is registered: {:?}", world.descriptions());
}

#[test]
fn a_contact_of_another_device_that_is_none_costs_no_registration() {
    let mut world = World::new(World::registered().upstream.flow);
    world.bind();
    let register = world.last("REGISTER");
    let ours = register.text(Name::Contact).unwrap().split(';').next().unwrap_or_default();
    let contact = format!("{ours}>;expires=300, <sip:al@192.0.2.10:5060transport=udp>;expires=3600").replace(">>", ">");
    world.respond(200, &[("Contact", &contact)]);
    assert_eq!(world.count("REGISTER"), 1);
    world.advance(Duration::from_secs(300));
    assert!(world.count("REGISTER") > 1, "the lifetime is that of our own Contact: {:?}", world.descriptions());
}

/// RFC 3323 §5: gateways require it of proxies with every call.
#[test]
fn privacy_that_is_required_of_proxies_costs_no_call_and_what_is_unknown_is_named() {
    for (required, unknown) in [
        ("Proxy-Require: privacy\r\nPrivacy: id", None),
        ("Proxy-Require: Privacy\r\nPrivacy: none", None),
        ("Proxy-Require: privacy, holograms", Some("holograms")),
    ] {
        for method in ["INVITE", "MESSAGE"] {
            let mut world = World::registered();
            world.attach(1);
            let text = with_line(&world, "odd", "X-Odd", required).replace("INVITE", method);
            let source = world.upstream;
            world.receive(source, &text);
            assert_eq!(world.count(method), usize::from(unknown.is_none()), "{required}: {:?}", world.descriptions());
            if unknown.is_some() {
                assert_eq!(world.last(&format!("{method} 420")).text(Name::Unsupported), unknown);
            }
        }
    }
}

/// Suffixes that topology hiding and NAT helpers put onto addresses of others.
const PUT_ON: &[&str] = &[";x-tiu=\"VGhd==\"", ";;lr", ";", ";alias=192.0.2.10~5060~1;", "transport=udp", ":0"];

#[test]
fn a_request_for_our_contact_finds_it_whatever_was_put_onto_it() {
    for put_on in PUT_ON {
        for method in ["INVITE", "OPTIONS", "MESSAGE", "NOTIFY"] {
            let mut world = World::registered();
            let uri = format!("sip:{}@relay.test:5070", world.binding);
            let text = world.invite_text("odd").replace("INVITE", method).replace(&uri, &format!("{uri}{put_on}"));
            let source = world.upstream;
            world.receive(source, &text);
            assert_eq!(world.count(&format!("{method} 400")), 0, "{put_on}");
            assert_eq!(world.count(&format!("{method} 404")), 0, "{put_on}");
            assert_eq!(world.wakes().len(), usize::from(method == "INVITE"), "{put_on}: {:?}", world.descriptions());
        }
    }
}

#[test]
fn our_contact_is_known_again_whatever_was_put_onto_it() {
    for put_on in PUT_ON {
        let mut world = World::new(World::registered().upstream.flow);
        world.bind();
        let register = world.last("REGISTER");
        let ours = register.text(Name::Contact).unwrap().split('>').next().unwrap_or_default().to_owned();
        world.respond(200, &[("Contact", &format!("{ours}{put_on}>;expires=300")), ("Expires", "3600")]);
        world.advance(Duration::from_secs(300));
        assert!(world.count("REGISTER") > 1, "{put_on}: {:?}", world.descriptions());
    }
}

#[test]
fn our_contact_is_found_beside_what_breaks_its_line() {
    for odd in [
        "<sip:al@h;x=\"open>;expires=3600, OURS;expires=300",
        "\"Anne, \"O\" <sip:x@h>;expires=3600, OURS;+sip.instance=\"<urn:uuid:1>\";expires=300",
        "\"open <sip:x@h>;expires=3600, OURS;expires=300",
        "OURS;expires=300, \"open <sip:x@h>;expires=3600",
        "al <sip:al@h, OURS;expires=300",
        "<>;expires=3600, <unknown:x>, OURS;;expires=300;=",
        "*, OURS ; expires = \"300\"",
    ] {
        let mut world = World::new(World::registered().upstream.flow);
        world.bind();
        let register = world.last("REGISTER");
        let ours = register.text(Name::Contact).unwrap().split('>').next().unwrap_or_default().to_owned() + ">";
        world.respond(200, &[("Contact", &odd.replace("OURS", &ours)), ("Expires", "3600")]);
        world.advance(Duration::from_secs(300));
        assert!(world.count("REGISTER") > 1, "{odd}: {:?}", world.descriptions());
    }
}

#[test]
fn where_hosts_are_rewritten_an_older_contact_of_ours_does_not_set_the_lifetime() {
    for older in ["EARLIER;expires=7200", "EARLIER;expires=5"] {
        for first in [true, false] {
            let mut world = World::new(World::registered().upstream.flow);
            world.bind();
            let earlier = format!("<sip:{}@earlier.test:5070>", world.binding);
            let (older, ours) =
                (older.replace("EARLIER", &earlier), format!("<sip:{}@nat.test:1024>;expires=300", world.binding));
            let contacts = if first { format!("{older}, {ours}") } else { format!("{ours}, {older}") };
            world.respond(200, &[("Contact", &contacts)]);
            world.advance(Duration::from_secs(60));
            assert_eq!(world.count("REGISTER"), 1, "{contacts}");
            world.advance(Duration::from_secs(240));
            assert!(world.count("REGISTER") > 1, "{contacts}");
        }
    }
}

#[test]
fn an_older_contact_of_ours_at_another_host_does_not_set_the_lifetime() {
    let mut world = World::new(World::registered().upstream.flow);
    world.bind();
    let register = world.last("REGISTER");
    let ours = register.text(Name::Contact).unwrap().split('>').next().unwrap_or_default().to_owned() + ">";
    let older = format!("<sip:{}@earlier.test:5070>;expires=7200", world.binding);
    world.respond(200, &[("Contact", &format!("{older}, {ours};expires=60"))]);
    world.advance(Duration::from_secs(60));
    assert!(world.count("REGISTER") > 1, "{:?}", world.descriptions());
}

#[test]
fn an_invite_that_comes_by_two_branches_is_one_call_and_one_push() {
    let mut world = World::registered();
    let (source, text) = (world.upstream, world.invite_text("merged"));
    world.receive(source, &text);
    world.receive(source, &text.replace("z9hG4bKserver.merged", "z9hG4bKother.merged"));
    assert_eq!((world.wakes().len(), world.count("INVITE 482")), (1, 1), "{:?}", world.descriptions());
    // Another caller with the same Call-ID is another call.
    let other = text.replace("z9hG4bKserver.merged", "z9hG4bKthird.merged").replace("tag=bob", "tag=carol");
    world.receive(source, &other);
    assert_eq!(world.wakes().len(), 2);
}

#[test]
fn a_copy_of_an_invite_that_comes_late_rings_nobody_again() {
    for end in ["answered", "declined", "cancelled", "timed-out"] {
        let mut world = World::registered();
        let (source, text) = (world.upstream, world.invite_text("merged"));
        world.receive(source, &text);
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        match end {
            "answered" => world.reply(device, &invite, 200, &[("Contact", "<sip:phone@10.0.0.5>")], ""),
            "declined" => world.reply(device, &invite, 603, &[], ""),
            "cancelled" => {
                world.cancel("merged");
                world.reply(device, &invite, 487, &[], "");
            }
            _ => world.advance(Duration::from_secs(151)),
        }
        let forked = world.count("INVITE");
        world.receive(source, &text.replace("z9hG4bKserver.merged", "z9hG4bKother.merged"));
        // Nobody was found, or the server has ended it itself: it may try again.
        let tries_again = matches!(end, "timed-out" | "cancelled");
        let expected = if tries_again { (forked + 1, 0) } else { (forked, 1) };
        assert_eq!((world.count("INVITE"), world.count("INVITE 482")), expected, "{end}: {:?}", world.descriptions());
        world.advance(Duration::from_secs(600));
    }
}

#[test]
fn a_hunt_group_that_tries_a_phone_again_with_the_same_call_rings_it_again() {
    // How the first try ended, whether its end was acknowledged, and after how many seconds the next one comes.
    for (end, acknowledged, after, rings) in [
        ("busy", false, 5, true),
        ("busy", true, 1, true),
        ("busy", true, 0, true),
        ("busy", false, 1, false),
        ("declined", false, 5, true),
        ("declined", true, 1, true),
        ("cancelled", false, 5, true),
        ("cancelled", true, 1, true),
        ("cancelled", false, 0, true),
        ("cancelled-asleep", true, 1, true),
        ("cancelled-asleep", false, 0, true),
        ("answered", false, 5, false),
        ("answered-elsewhere", true, 1, false),
    ] {
        let mut world = World::registered();
        let (source, text) = (world.upstream, world.invite_text("hunted"));
        let by_server = |world: &mut World, method: &str, reason: &str| {
            let head = world.head("hunted", method, 1, "");
            world.receive(
                source,
                &format!("{method} sip:{}@relay.test:5070 SIP/2.0\r\n{head}{reason}\r\n", world.binding),
            );
        };
        world.receive(source, &text);
        if end == "cancelled-asleep" {
            by_server(&mut world, "CANCEL", "");
            world.attach(1);
        } else {
            world.attach(1);
            let (device, invite) = (world.device(1), world.last("INVITE"));
            match end {
                "busy" => world.reply(device, &invite, 486, &[], ""),
                "declined" => world.reply(device, &invite, 603, &[], ""),
                "answered" => world.reply(device, &invite, 200, &[("Contact", "<sip:phone@10.0.0.5>")], ""),
                _ => {
                    world.reply(device, &invite, 180, &[], "");
                    let elsewhere = if end == "cancelled" { "" } else { "Reason: SIP;cause=200\r\n" };
                    by_server(&mut world, "CANCEL", elsewhere);
                    world.reply(device, &invite, 487, &[], "");
                }
            }
        }
        if acknowledged {
            by_server(&mut world, "ACK", "");
        }
        let forked = world.count("INVITE");
        world.advance(Duration::from_secs(after));
        world.receive(source, &text.replace("z9hG4bKserver.hunted", "z9hG4bKnext.hunted"));
        assert_eq!(world.count("INVITE") > forked, rings, "{end} {acknowledged} {after}: {:?}", world.descriptions());
        assert_eq!(world.count("INVITE 482") == 0, rings, "{end} {acknowledged} {after}");
    }
}

/// The status that the SIP server hears to a request for this URI.
fn status_of(world: &mut World, method: &str, uri: &str, extra: &str) -> Option<u16> {
    let (source, head) = (world.upstream, world.head(&format!("odd-{}", world.sent.len()), method, 1, ""));
    world.receive(source, &format!("{method} {uri} SIP/2.0\r\n{head}{extra}Content-Length: 0\r\n\r\n"));
    world.sent.iter().rev().find_map(|sent| sent.message.status())
}

#[test]
fn a_contact_is_ours_however_its_user_is_escaped() {
    // RFC 3261 §19.1.4.
    let mut world = World::registered();
    let user = world.binding.to_string();
    let escaped = format!("%62{}%{:02X}", &user[1..user.len() - 1], user.as_bytes()[user.len() - 1]);
    let uri = format!("sip:{escaped}@relay.test:5070");
    assert_eq!(status_of(&mut world, "OPTIONS", &uri, ""), Some(200));
    assert_eq!(status_of(&mut world, "INVITE", &uri, ""), Some(100));
    assert_eq!(world.wakes().len(), 1);
    // And in a registrar's answer, whose lifetime for it counts.
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    let (source, register) = (world.upstream, world.last("REGISTER"));
    let contact = register.text(Name::Contact).unwrap().replace(&user, &escaped);
    let contact = contact.split_once('>').unwrap().0;
    world.reply(source, &register, 200, &[("Contact", &format!("{contact}>;expires=100")), ("Expires", "600")], "");
    world.sent.clear();
    world.advance(Duration::from_secs(90));
    assert!(world.count("REGISTER") > 0, "it is refreshed within 100 s");
}

#[test]
fn what_nobody_understands_is_refused_in_its_own_words() {
    let mut world = World::registered();
    let uri = format!("sip:{}@relay.test:5070", world.binding);
    // RFC 3261 §8.2.2.3.
    assert_eq!(status_of(&mut world, "OPTIONS", &uri, "Require: path, time-travel, PATH\r\n"), Some(420));
    let refused = world.last("OPTIONS 420");
    assert_eq!(refused.elements(Name::Unsupported).collect::<Vec<_>>(), ["time-travel"]);
    assert_eq!(status_of(&mut world, "OPTIONS", &uri, "Require: path, Outbound\r\n"), Some(200));
    // RFC 3261 §8.2.2.1.
    for (uri, status) in
        [("tel:+4930123456", 416), ("mailto:alice@example.com", 416), ("sip:nobody@relay.test:5070", 404)]
    {
        assert_eq!(status_of(&mut world, "INVITE", uri, ""), Some(status), "{uri}");
    }
}

#[test]
fn a_cancel_that_comes_after_the_final_response_is_200_with_the_tag_of_the_call() {
    let mut world = World::registered();
    world.invite("late");
    world.advance(Duration::from_secs(31));
    let refused = world.last("INVITE 480");
    world.cancel("late");
    let answer = world.last("CANCEL 200");
    let tag = |message: &Message| message.to().and_then(|to| to.tag().map(str::to_owned));
    assert!(tag(&answer).is_some());
    assert_eq!(tag(&answer), tag(&refused));
}

/// RFC 3261 §9.2: also where the call was answered, whether the caller has heard a 180 or acknowledged the 200 or not.
#[test]
fn a_cancel_that_comes_after_the_answer_is_200_with_the_tag_of_the_answer() {
    for (rings, acknowledged) in [(false, false), (true, false), (true, true)] {
        let mut world = World::registered();
        world.attach(1);
        world.invite("late");
        let (device, leg) = (world.device(1), world.last("INVITE"));
        if rings {
            world.reply(device, &leg, 180, &[], "");
        }
        world.reply(device, &leg, 200, &[("Contact", "<sip:phone@10.0.0.5>")], SDP);
        let tag = |message: &Message| message.to().and_then(|to| to.tag().map(str::to_owned));
        let answered = tag(&world.last("INVITE 200"));
        assert!(answered.is_some());
        if acknowledged {
            let source = world.upstream;
            let head = world.head("late", "ACK", 1, ";tag=peer").replace("CSeq: 1 INVITE", "CSeq: 1 ACK");
            world.receive(source, &format!("ACK sip:{}@relay.test:5070 SIP/2.0\r\n{head}\r\n", world.binding));
        }
        for _ in 0..2 {
            world.cancel("late");
            assert_eq!(tag(&world.last("CANCEL 200")), answered, "{rings} {acknowledged}");
        }
        assert_eq!(world.count("CANCEL"), 0, "the call stands");
    }
}

#[test]
fn an_invite_of_the_field_rings_or_is_answered_400() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/messages/field");
    let mut rang = 0;
    for entry in std::fs::read_dir(folder).expect("the fixtures") {
        let path = entry.expect("a fixture").path();
        if path.extension().is_none_or(|extension| extension != "dat") {
            continue;
        }
        let mut world = World::registered();
        let (source, bytes) = (world.upstream, std::fs::read(&path).expect("a fixture"));
        let Some(rest) = bytes.strip_prefix(b"INVITE sip:alice@relay.test ") else { continue };
        let invite = [format!("INVITE sip:{}@relay.test:5070 ", world.binding).as_bytes(), rest].concat();
        let message = Message::parse(&invite.clone().into(), &Limits::default()).expect("a message");
        let fault = message.check().err();
        if fault.is_some_and(|fault| fault != Fault::HeaderLine) {
            // The world takes no answer that repeats a broken CSeq.
            continue;
        }
        world.receive_bytes(source, &invite);
        if fault.is_some() {
            assert_eq!((world.count("INVITE 400"), world.wakes().len()), (1, 0), "{path:?}");
        } else if message.to().is_some_and(|to| to.tag().is_some()) {
            assert_eq!(world.count("INVITE 481"), 1, "{path:?}");
        } else {
            assert_eq!(world.wakes().len(), 1, "{path:?}: {:?}", world.descriptions());
            rang += 1;
        }
    }
    assert!(rang >= 20, "{rang}");
}
