//! The limits that keep a device from using the relay as a flooder, an open proxy or a memory hog.

use std::time::Duration;

use sip::endpoint::forwarded_registers::REGISTERS_PER_SOURCE;
use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::{Message, Name};

use super::through::{Register, Through};
use crate::world::{World, server_address};

#[test]
fn ten_thousand_registrations_on_a_flow_reach_nobody_and_close_it() {
    let mut through = Through::new();
    for number in 0..10_000 {
        let contact = format!("<sip:x{number}@h;pn-provider=fcm;pn-prid=t{number}>");
        through.register(&Register::by(1).contact(&contact));
    }
    assert!(through.world.count("REGISTER") <= 8, "so many may be under way");
    assert!(through.world.closed.contains(&FlowId::Stream(1)));
    assert_eq!(through.world.endpoint.counts().push_bindings, 0, "nothing is kept that was not accepted");
    assert!(through.world.last("REGISTER 503").has(sip::message::Name::RetryAfter));
}

#[test]
fn a_flow_and_an_aor_have_so_many_registrations_at_most() {
    let mut through = Through::new();
    for number in 0..20 {
        let contact = format!("<sip:x@h;pn-provider=fcm;pn-prid=t{number}>;+sip.instance=\"<urn:uuid:{number}>\"");
        let register = Register::by(number).contact(&contact);
        through.register(&register);
        if number < 16 {
            through.accept(600);
        }
    }
    assert_eq!(
        (through.world.endpoint.counts().push_bindings, through.world.count("REGISTER 403")),
        (16, 4),
        "of one AOR"
    );
    let mut through = Through::new();
    let aors: Vec<&'static str> =
        (0..18).map(|n| &*Box::leak(format!("sip:u{n}@example.com").into_boxed_str())).collect();
    for (number, aor) in aors.into_iter().enumerate() {
        through.register(&Register { to: aor, ..Register::by(1) });
        if number < 16 {
            through.accept(600);
        }
    }
    assert_eq!(
        (through.world.endpoint.counts().push_bindings, through.world.count("REGISTER 403")),
        (16, 2),
        "of one flow"
    );
}

/// RFC 3261 §22: a client that guesses passwords through the relay loses the connection.
#[test]
fn a_flow_that_fails_to_prove_anybody_five_times_is_closed() {
    let mut through = Through::new();
    let guess = Register::by(1).header("Authorization: Digest x");
    for round in 1..=5 {
        assert!(through.world.closed.is_empty(), "{round}");
        through.register(&guess);
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        through.world.reply(source, &register, 401, &[("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"")], "");
    }
    assert_eq!(through.world.closed, [FlowId::Stream(1)]);
    let mut through = Through::new();
    for _ in 0..8 {
        through.register(&guess);
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        let stale = "Digest realm=\"r\", nonce=\"n\", stale=TRUE";
        through.world.reply(source, &register, 401, &[("WWW-Authenticate", stale)], "");
    }
    assert!(through.world.closed.is_empty(), "an old nonce is no wrong password");
}

/// RFC 3261 §22.3: a proxy challenges, and then the registrar behind it; and some say of no old nonce that it is stale.
#[test]
fn a_challenge_that_a_register_had_no_proof_for_and_an_old_nonce_close_no_flow() {
    let challenged = |through: &mut Through, register: &Register| {
        through.register(register);
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        let challenge = ("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"");
        through.world.reply(source, &register, 401, &[challenge], "");
    };
    let proof = Register::by(1).header("Authorization: Digest x");
    let mut through = Through::new();
    for _ in 0..8 {
        challenged(&mut through, &Register::by(1).header("Proxy-Authorization: Digest x"));
    }
    assert!(through.world.closed.is_empty(), "the registrar's own challenge comes behind the proxy's");
    let mut through = Through::new();
    for _ in 0..8 {
        challenged(&mut through, &proof);
        through.registered(&proof);
    }
    assert!(through.world.closed.is_empty(), "a proof that is right takes back what was counted for its AOR");
    let another = Register { to: "sip:bob@example.com", ..proof.clone() };
    let elsewhere = Register { uri: "sip:elsewhere.example", ..proof.clone() };
    // The REGISTER whose proof fails, and one whose proof is right: another AOR; and another server, which may be the client's own.
    for (fails, right) in [(&another, &proof), (&proof, &elsewhere)] {
        let mut through = Through::new();
        for _ in 0..5 {
            assert!(through.world.closed.is_empty());
            challenged(&mut through, fails);
            through.registered(right);
        }
        assert_eq!(through.world.closed, [FlowId::Stream(1)], "{} and {}", fails.uri, right.uri);
    }
}

#[test]
fn a_register_that_has_been_here_or_hopped_too_often_goes_no_further() {
    let mut through = Through::new();
    let source = through.world.device(1);
    let text = "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nMax-Forwards: 0\r\n\
                From: <sip:a@example.com>;tag=d\r\nTo: <sip:a@example.com>\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\n\
                Contact: <sip:a@h;pn-provider=fcm;pn-prid=t>\r\nContent-Length: 0\r\n\r\n";
    through.world.receive(source, text);
    assert_eq!(through.world.descriptions(), ["REGISTER 483"]);
}

#[test]
fn a_device_gets_so_many_calls_and_no_more() {
    let (mut through, path) = Through::asleep();
    for number in 0..60 {
        through.call(&format!("c{number}"), &path);
    }
    assert!(through.world.wakes().len() <= 8);
}

#[test]
fn the_shards_of_a_register_its_path_and_its_aor_are_one() {
    let mut through = Through::new();
    let register = through.registered(&Register::by(1));
    let shard = Endpoint::shard_of(&register);
    assert_eq!(shard, Some(through.instance().tag()));
    let path = register.text(sip::message::Name::Path).unwrap();
    let invite = through.request("INVITE", "c1", path);
    let invite = sip::message::Message::parse(&invite.into(), &sip::message::Limits::default()).unwrap();
    assert_eq!(Endpoint::shard_of(&invite), shard);
}

/// The owner of a SIP server that says 200 to everything can register and unregister as often as desired.
#[test]
fn registrations_that_come_and_go_leave_no_timers() {
    let mut through = Through::new();
    // Somebody else keeps the SIP server known.
    through.world.bind();
    through.world.grant(3600);
    for round in 0..6_000 {
        let flow = 1 + round / 20;
        through.registered(&Register::by(flow));
        through.registered(&Register::by(flow).expires(0));
        through.world.sent.clear();
        through.world.events.clear();
        through.world.advance(std::time::Duration::from_millis(5));
        through.world.input(Input::Closed(FlowId::Stream(flow)));
    }
    // Transactions are over by then, and registrations would not be.
    through.advance(40);
    let counts = through.world.endpoint.counts();
    assert_eq!(counts.push_bindings, 0);
    assert!(counts.timers < 5_000, "{} timers", counts.timers);
    let mut through = Through::new();
    // Somebody else keeps the SIP server known.
    through.world.bind();
    through.world.grant(3600);
    for round in 0..6_000 {
        through.registered(&Register::by(1 + round / 20));
        through.world.sent.clear();
        through.world.events.clear();
        through.world.advance(std::time::Duration::from_millis(5));
        through.world.input(Input::Closed(FlowId::Stream(1 + round / 20)));
    }
    // Transactions are over by then, and registrations would not be.
    through.advance(40);
    let counts = through.world.endpoint.counts();
    assert_eq!(counts.push_bindings, 1);
    assert!(counts.timers < 5_000, "{} timers", counts.timers);
}

/// A world with ten turns in a second at each SIP server and address, and so many phones that register at once by flows of
/// their own, at a server to which a flow is up after this time.
fn crowd(phones: u64, dialled: Duration) -> Through {
    let policy = UpstreamPolicy { registrations_per_second: 10, ..UpstreamPolicy::default() };
    let flow = FlowId::Stream(7_000);
    let mut through = Through::over(flow);
    through.world = World::with_policy(flow, policy);
    through.world.dial = false;
    for flow in 1..=phones {
        let to = &*Box::leak(format!("sip:u{flow}@example.com").into_boxed_str());
        through.register(&Register { to, ..Register::by(flow) });
    }
    through.world.advance(dialled);
    let upstream = through.server;
    through.world.input(Input::LeadsTo { flow, address: server_address() });
    through.world.input(Input::Dialled { upstream, flow, transport: Transport::Tls });
    through
}

#[test]
fn phones_that_register_at_once_at_a_new_server_wait_for_their_turns_and_none_is_sent_away() {
    for dialled in [0, 150, 2_500].map(Duration::from_millis) {
        let mut through = crowd(30, dialled);
        let mut before = through.world.count("REGISTER");
        for _ in 0..60 {
            through.world.advance(Duration::from_millis(100));
            let sent = through.world.count("REGISTER");
            assert!(sent - before <= 1, "ten in a second: {}", sent - before);
            before = sent;
        }
        assert_eq!((before, through.world.count("REGISTER 503")), (30, 0), "{dialled:?}");
    }
}

#[test]
fn who_would_wait_for_longer_than_a_device_should_is_sent_away_at_once() {
    let mut through = crowd(60, Duration::ZERO);
    let away = through.world.count("REGISTER 503");
    assert!((15..=20).contains(&away), "{away} of sixty, at ten in a second and four seconds");
    assert!(through.world.last("REGISTER 503").has(Name::RetryAfter));
    through.advance(5);
    assert_eq!((through.world.count("REGISTER"), through.world.count("REGISTER 503")), (60 - away, away));
}

#[test]
fn a_phone_that_leaves_while_it_waits_for_its_turn_gives_everything_back() {
    let mut through = crowd(20, Duration::ZERO);
    for flow in 1..=20 {
        through.world.input(Input::Closed(FlowId::Stream(flow)));
    }
    let sent = through.world.count("REGISTER");
    through.advance(40);
    assert!(sent < 5 && through.world.count("REGISTER") == sent, "{sent}");
    assert_eq!(through.left(), 20, "every way is given back");
}

/// REGISTERs to a stranger's silent server take room from no other source.
#[test]
fn registers_that_a_silent_server_keeps_are_so_many_of_one_source() {
    let mut through = Through::new();
    let mut send = |number: u64, address: &str| {
        let source = Source { peer: address.parse().unwrap(), ..through.world.device(number / 8 + 1) };
        let text = format!(
            "REGISTER sip:silent.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKs{number}\r\n\
             From: <sip:m@h>;tag=d\r\nTo: <sip:u{number}@silent.test>\r\nCall-ID: {number}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:x@h;pn-provider=fcm;pn-prid=t{number}>\r\nExpires: 600\r\n\r\n"
        );
        through.world.receive(source, &text);
        let Counts { waiting, transactions, .. } = through.world.endpoint.counts();
        assert_eq!(transactions, waiting, "what is answered 503 leaves none");
        waiting
    };
    let neighbours = ["[2001:db8::1]:9", "[2001:db8::2]:9", "[2001:db8::ffff:1]:9"];
    let held = (0..3_000).map(|number| send(number, neighbours[number as usize % 3])).last();
    assert_eq!(held, Some(REGISTERS_PER_SOURCE as usize));
    assert_eq!(send(9_000, "192.0.2.66:9"), REGISTERS_PER_SOURCE as usize + 1, "somebody else's");
    let asked = std::mem::take(&mut through.world.events);
    for event in asked {
        if let Event::RouteNeeded(asked) = event {
            through.world.input(Input::Route { register: asked.register, route: Err(RouteRefusal::from(403)) });
        }
    }
    assert_eq!(through.world.endpoint.counts().waiting, 0);
}

/// A phone that is registered here may have been woken for a call: others behind its address that wait for a silent server do not keep it out.
#[test]
fn a_phone_that_is_registered_finds_room_where_its_address_has_as_many_registers_under_way_as_it_may() {
    let mut through = Through::asleep().0;
    for number in 0..600_u64 {
        let source = through.world.device(100 + number / 8);
        let text = format!(
            "REGISTER sip:silent.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKs{number}\r\n\
             From: <sip:m@h>;tag=d\r\nTo: <sip:u{number}@silent.test>\r\nCall-ID: {number}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:x@h;pn-provider=fcm;pn-prid=t{number}>\r\nExpires: 600\r\n\r\n"
        );
        through.world.receive(source, &text);
    }
    assert_eq!(through.world.endpoint.counts().waiting, REGISTERS_PER_SOURCE as usize, "of one address");
    through.world.events.clear();
    let refused = through.world.count("REGISTER 503");
    let bob = Register { to: "sip:bob@example.com", ..Register::by(3) };
    through.register(&bob);
    assert_eq!(
        (through.world.count("REGISTER"), through.world.count("REGISTER 503")),
        (0, refused + 1),
        "a stranger's"
    );
    through.register(&Register::by(2));
    assert_eq!((through.world.count("REGISTER"), through.world.count("REGISTER 503")), (1, refused + 1), "hers");
    // Another may hang on a connection that has died. Its account has no more than two for each of its phones.
    through.register(&Register::by(4));
    assert_eq!(through.world.count("REGISTER 503"), refused + 1);
    through.register(&Register::by(5));
    assert_eq!(through.world.count("REGISTER 503"), refused + 2);
}

/// REGISTERs of three phones that nobody knows.
fn strangers(through: &mut Through, number: &mut u64) {
    for _ in 0..3 {
        *number += 1;
        let to = &*Box::leak(format!("sip:u{number}@example.com").into_boxed_str());
        let contact = format!("<sip:x@h;pn-provider=fcm;pn-prid=t{number}>");
        through.register(&Register { to, ..Register::by(*number).contact(&contact) });
    }
}

/// They come without end, three times as fast as the SIP server may be asked, which refuses them.
fn flooded(through: &mut Through, number: &mut u64, tenths: usize) {
    for _ in 0..tenths {
        strangers(through, number);
        through.world.advance(Duration::from_millis(100));
        let is_theirs = |message: &Message| message.contacts().iter().any(|it| it.user() == Some("x"));
        let theirs = through.world.sent.extract_if(.., |sent| sent.message.is_request() && is_theirs(&sent.message));
        let theirs: Vec<_> = theirs.map(|sent| sent.message).collect();
        let source = through.world.upstream;
        theirs.iter().for_each(|register| through.world.reply(source, register, 403, &[], ""));
    }
}

/// A world with ten turns in a second, in which a phone is registered, and asleep.
fn paced(flow: FlowId) -> Through {
    let policy = UpstreamPolicy { registrations_per_second: 10, ..UpstreamPolicy::default() };
    let mut through = Through::over(flow);
    through.world = World::with_policy(flow, policy);
    through.registered(&Register::by(1));
    through.world.input(Input::Closed(FlowId::Stream(1)));
    through.world.sent.clear();
    through
}

#[test]
fn who_registers_for_the_first_time_leaves_turns_to_a_phone_that_is_registered() {
    let (mut through, mut number) = (paced(FlowId::Stream(7_000)), 10_000);
    flooded(&mut through, &mut number, 100);
    let away = through.world.count("REGISTER 503");
    assert!(away > 100, "there are more than may be asked: {away}");
    for flow in 2..6 {
        strangers(&mut through, &mut number);
        let away = through.world.count("REGISTER 503");
        through.register(&Register::by(flow));
        assert_eq!(through.world.count("REGISTER 503"), away, "it waits for its turn");
        flooded(&mut through, &mut number, 60);
        assert_eq!(through.world.count("REGISTER"), 1, "it had its turn");
        through.accept(600);
        through.world.sent.clear();
    }
}

#[test]
fn phones_that_pass_through_leave_turns_to_accounts_that_are_lent() {
    // By a datagram the address is paced as well.
    for flow in [FlowId::Stream(7_000), FlowId::Datagram(server_address())] {
        let (mut through, mut number) = (paced(flow), 10_000);
        flooded(&mut through, &mut number, 50);
        for other in 0..100 {
            let (binding, instance) = (BindingId::new((9 + other) << 64, ShardTag(0)), (9 + other) << 80);
            through.world.bind_another(binding, InstanceId::new(instance, ShardTag(0)));
        }
        let (mut lent, before, away) = (0, number, through.world.count("REGISTER 503"));
        for _ in 0..100 {
            flooded(&mut through, &mut number, 1);
            let asked: Vec<_> = through.world.sent.extract_if(.., |sent| sent.message.is_request()).collect();
            lent += asked.len();
            let source = through.world.upstream;
            asked.iter().for_each(|sent| through.world.reply(source, &sent.message, 200, &[], ""));
        }
        // Each have half of the turns, as long as both want them.
        let passed = (number - before) as usize - (through.world.count("REGISTER 503") - away);
        assert!((45..=55).contains(&lent) && (45..=60).contains(&passed), "{lent} and {passed}");
    }
}

/// A proof is counted by each name that its server may read in it, and as a renewal only from who knows the device.
#[test]
fn all_user_names_of_a_proof_are_told_and_a_star_renews_nothing() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    let mut number = 0;
    let mut asked = |register: &Register, headers: &[&str]| {
        let register = headers.iter().fold(register.clone(), |register, header| register.header(header));
        number += 1;
        through.world.events.clear();
        let source = through.world.device(register.flow);
        let Register { to, contact, expires, headers, .. } = register;
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9;branch=z9hG4bKp{number}\r\nFrom: <{to}>;tag=d\r\n\
             To: <{to}>\r\nCall-ID: e\r\nCSeq: 1 REGISTER\r\nContact: {contact}\r\nExpires: {expires}\r\n{headers}\r\n"
        );
        through.world.receive(source, &text);
        let asked = through.world.events.iter().find_map(|event| match event {
            Event::RouteNeeded(it) => Some((it.familiar, it.proof.as_ref().map(|proof| proof.usernames.join(" ")))),
            _ => None,
        });
        asked.ok_or_else(|| through.world.count("REGISTER 400"))
    };
    let stranger = Register::by(66).contact("*").expires(0);
    let (decoy, hers) =
        ("Authorization: Digest username=\"decoy\", x=\"y\"", "Authorization: Digest username=\"alice\"");
    assert_eq!(asked(&stranger, &[hers]), Ok((false, Some("alice".into()))));
    assert_eq!(asked(&Register::by(1), &[hers]), Ok((true, Some("alice".into()))));
    assert_eq!(asked(&stranger, &[decoy, hers]), Ok((false, Some("alice decoy".into()))));
    let proxy = "Proxy-Authorization: Digest realm=r, username*=UTF-8''al%69ce";
    assert_eq!(asked(&stranger, &[decoy, hers, proxy]), Ok((false, Some("al%69ce alice decoy".into()))));
    // Anybody whom she has called has read this name of her device.
    let called = Register::by(66).contact("<sip:m@h>;+sip.instance=\"<urn:uuid:1>\"");
    assert_eq!(asked(&called, &[hers]), Ok((false, Some("alice".into()))));
    let other_token = "<sip:m@h;pn-provider=fcm;pn-prid=guess>;+sip.instance=\"<urn:uuid:1>\"";
    assert_eq!(asked(&called.clone().contact(other_token), &[hers]), Ok((false, Some("alice".into()))));
    assert_eq!(asked(&Register { flow: 1, ..called }, &[hers]), Ok((true, Some("alice".into()))), "her connection");
    assert_eq!(asked(&Register { flow: 2, ..Register::by(1) }, &[hers]), Ok((true, Some("alice".into()))), "her token");
    let crowd: Vec<String> = (0..5).map(|n| format!("Authorization: Digest username=\"u{n}\"")).collect();
    let crowd: Vec<&str> = crowd.iter().map(String::as_str).collect();
    assert_eq!(asked(&stranger, &crowd), Err(1), "so many are nobody's");
}
