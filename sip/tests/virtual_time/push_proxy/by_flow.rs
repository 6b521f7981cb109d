//! Registrations without push parameters, which their flow alone leads to (RFC 5626).

use sip::endpoint::push_bindings::CONTACTS_PER_AOR;
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use super::outgoing::{Begun, flow_of, in_dialog, refused};
use super::through::{Register, Through, values};
use crate::world::seconds;

/// A desk client's Contact, by RFC 5626.
const OUTBOUND: &str = "<sip:alice@10.0.0.5:9>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"";
/// That of one that does not know RFC 5626.
const PLAIN: &str = "<sip:alice@10.0.0.5:9;transport=tls>";

fn register(flow: u64, contact: &str) -> Register {
    Register::by(flow).contact(contact)
}

fn serving() -> Through {
    let mut through = Through::over(FlowId::Stream(99));
    through.by_flow = true;
    through
}

/// Alice's client is registered by flow 1; its Path.
fn registered(contact: &str) -> (Through, String) {
    let mut through = serving();
    let path = through.registered(&register(1, contact)).text(Name::Path).unwrap().to_owned();
    through.world.sent.clear();
    (through, path)
}

fn close(through: &mut Through, flow: u64) {
    through.world.input(Input::Closed(FlowId::Stream(flow)));
}

/// Nothing is left of what was registered, and nobody was pushed.
fn nothing_is_left(through: &Through) {
    let counts = through.world.endpoint.counts();
    assert_eq!(
        (counts.push_bindings, counts.devices, counts.attached, counts.upstreams, counts.waiting),
        (0, 0, 0, 0, 0)
    );
    assert!(through.world.wakes().is_empty() && through.refreshes() == 0 && through.ends().is_empty());
}

#[test]
fn it_passes_with_a_path_of_its_own_kind_and_without_a_word_of_pushes() {
    let mut through = serving();
    let passed = through.registered(&register(1, OUTBOUND));
    let path = passed.text(Name::Path).unwrap();
    assert!(path.ends_with("@relay.test:5071;transport=tls;lr;ob>"), "{path}");
    assert_eq!((values(&passed, Name::Supported), passed.has(Name::FeatureCaps)), (vec!["path".to_owned()], false));
    assert!(!through.world.last("REGISTER 200").has(Name::FeatureCaps));
    assert_eq!((through.by_flow(), through.world.endpoint.counts().attached), ((1, 0), 1));
    let leads = |event: &Event| matches!(event, Event::FlowBindingAccepted(it) if it.flow == FlowId::Stream(1));
    assert!(through.world.events.iter().any(leads), "whoever keeps it alive knows which");
    let plain = through.registered(&register(2, PLAIN)).text(Name::Path).unwrap().to_owned();
    assert!(plain.ends_with(";transport=tls;lr>"), "{plain}");
    assert!(!through.world.events.iter().any(|event| matches!(event, Event::PushBindingAccepted(_))));
}

#[test]
fn it_calls_out_as_one_that_is_pushed_does_and_no_further() {
    let (mut through, _) = registered(PLAIN);
    Begun::new("INVITE").send(&mut through.world);
    assert_eq!(flow_of(&through.world, "INVITE"), through.world.upstream.flow);
    for method in ["MESSAGE", "SUBSCRIBE", "PUBLISH", "OPTIONS", "REFER"] {
        Begun { call_id: method.into(), ..Begun::new(method) }.send(&mut through.world);
        assert_eq!(through.world.count(method), 1);
    }
    let elsewhere = Begun { uri: "sip:bob@elsewhere.example", call_id: "t".into(), ..Begun::new("INVITE") };
    elsewhere.send(&mut through.world);
    assert_eq!(flow_of(&through.world, "INVITE"), through.world.upstream.flow, "its SIP server judges the target");
    let other = Begun { from: "<sip:alice@elsewhere.example>;tag=a", call_id: "f".into(), ..Begun::new("INVITE") };
    assert!(refused(&mut through, &other).contains("domain of From"));
    let stranger = Begun { flow: 2, call_id: "s".into(), ..Begun::new("INVITE") };
    assert!(refused(&mut through, &stranger).contains("register through this relay first"));
}

#[test]
fn it_is_called_by_its_flow_and_hangs_up() {
    let (mut through, path) = registered(PLAIN);
    through.call("in", &path);
    let (device, server) = (through.world.device(1), through.world.upstream);
    let world = &mut through.world;
    assert_eq!(
        (flow_of(world, "INVITE"), world.descriptions()),
        (device.flow, vec!["INVITE 100".into(), "INVITE".into()])
    );
    let invite = world.last("INVITE");
    assert!(invite.request_uri().is_some_and(|uri| uri.contains("alice@10.0.0.5:1")) && !invite.has(Name::Route));
    world.reply(device, &invite, 180, &[], "");
    world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
    assert_eq!((world.count("INVITE 180"), world.count("INVITE 200")), (1, 1));
    let routes = values(&invite, Name::RecordRoute);
    let bye = in_dialog(
        "BYE",
        "sip:bob@192.0.2.77",
        &routes,
        "<sip:alice@example.com>;tag=peer",
        "<sip:bob@example.com>;tag=bob",
        "10.0.0.5:9",
    );
    world.receive(device, &bye.replace("Call-ID: out", "Call-ID: in"));
    assert_eq!(flow_of(world, "BYE"), server.flow);
    assert!(world.wakes().is_empty());
}

/// RFC 5626 §5.3: the registrar hears at once that the flow is gone.
#[test]
fn without_its_flow_a_call_is_refused_at_once_and_nobody_is_pushed() {
    for (contact, status) in [(OUTBOUND, 430), (PLAIN, 480)] {
        let (mut through, path) = registered(contact);
        close(&mut through, 1);
        for late in [0, 60] {
            through.advance(late);
            through.world.sent.clear();
            for method in ["INVITE", "MESSAGE", "OPTIONS"] {
                let (source, text) =
                    (through.world.upstream, through.request(method, &format!("{method}{late}"), &path));
                through.world.receive(source, &text);
                assert_eq!(through.world.descriptions().last(), Some(&format!("{method} {status}")), "{late} s later");
            }
            assert_eq!(through.world.sent.len(), 3, "nothing else, no 100 either");
        }
        assert_eq!(through.by_flow(), (1, 1));
        nothing_is_left(&through);
    }
}

#[test]
fn a_path_is_asked_for_nowhere_else_and_a_stranger_with_it_learns_nothing() {
    let (mut through, path) = registered(OUTBOUND);
    let invite = through.request("INVITE", "c", &path);
    let parsed = sip::message::Message::parse(&invite.clone().into(), &Default::default()).unwrap();
    let peer = "203.0.113.66:5060".parse().unwrap();
    let stranger = Source { flow: FlowId::Stream(98), peer, ..through.world.upstream };
    through.world.receive(stranger, &invite);
    assert_eq!(through.world.descriptions(), ["INVITE 403"]);
    close(&mut through, 1);
    through.advance(60);
    assert_eq!(
        through.world.endpoint.missing_by_path(through.world.now, &stranger, &parsed),
        None,
        "no store is asked"
    );
}

#[test]
fn a_device_that_loses_its_flow_while_it_rings_leaves_its_caller_waiting_for_nobody() {
    for rings in [false, true] {
        let (mut through, path) = registered(OUTBOUND);
        through.call("c", &path);
        let (device, invite) = (through.world.device(1), through.world.last("INVITE"));
        if rings {
            through.world.reply(device, &invite, 180, &[], "");
        }
        close(&mut through, 1);
        if rings {
            through.advance(4);
            assert_eq!(through.world.count("INVITE 430"), 0, "it may be between two connections");
            through.advance(2);
        }
        assert_eq!(through.world.count("INVITE 430"), 1, "rings: {rings}");
        assert_eq!(through.world.final_states(), [CallState::TimedOut]);
        through.advance(60);
        nothing_is_left(&through);
    }
}

#[test]
fn a_device_that_closes_its_flow_before_it_opens_the_next_rings_on() {
    let (mut through, path) = registered(OUTBOUND);
    through.call("c", &path);
    let invite = through.world.last("INVITE");
    through.world.reply(through.world.device(1), &invite, 180, &[], "");
    close(&mut through, 1);
    through.advance(4);
    through.registered(&register(2, OUTBOUND));
    let copy = through.world.last("INVITE");
    through.world.reply(through.world.device(2), &copy, 482, &[], "");
    through.advance(20);
    assert_eq!((through.world.count("INVITE 430"), through.world.count("CANCEL")), (0, 0));
    through.world.reply(through.world.device(2), &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
    assert_eq!((through.world.count("INVITE 200"), through.world.final_states()), (1, vec![CallState::Answered]));
}

#[test]
fn one_that_comes_by_a_new_flow_before_the_old_one_breaks_takes_its_calls_there() {
    let (mut through, path) = registered(OUTBOUND);
    through.call("c", &path);
    through.registered(&register(2, OUTBOUND));
    assert_eq!((through.world.count("INVITE"), flow_of(&through.world, "INVITE")), (2, FlowId::Stream(2)));
    close(&mut through, 1);
    through.advance(25);
    let (device, invite) = (through.world.device(2), through.world.last("INVITE"));
    through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
    assert_eq!((through.world.count("INVITE 200"), through.by_flow()), (1, (2, 0)));
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

/// A call goes on over a change of network: what comes in it waits for the device.
#[test]
fn a_dialog_waits_for_a_device_that_comes_back_and_not_for_long() {
    for back in [true, false] {
        let (mut through, path) = registered(PLAIN);
        through.call("out", &path);
        let (device, server, invite) = (through.world.device(1), through.world.upstream, through.world.last("INVITE"));
        through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
        close(&mut through, 1);
        let mut routes = values(&invite, Name::RecordRoute);
        routes.truncate(2);
        routes.reverse();
        let bye = in_dialog(
            "BYE",
            "sip:alice@10.0.0.5:9",
            &routes,
            "<sip:bob@example.com>;tag=bob",
            "<sip:alice@example.com>;tag=peer",
            "192.0.2.10",
        );
        through.world.receive(server, &bye);
        assert_eq!((through.world.count("BYE"), through.world.count("BYE 480")), (0, 0));
        if back {
            through.registered(&register(2, PLAIN));
            assert_eq!(flow_of(&through.world, "BYE"), FlowId::Stream(2));
        } else {
            through.advance(25);
            assert_eq!(through.world.count("BYE 480"), 1);
        }
    }
}

#[test]
fn it_lives_as_long_as_it_is_granted_and_a_refresh_lets_it_live_on() {
    let (mut through, path) = registered(PLAIN);
    through.advance(500);
    through.registered(&register(1, PLAIN));
    through.advance(500);
    assert_eq!((through.by_flow(), through.refreshes()), ((2, 0), 0), "nobody is asked to refresh it");
    through.advance(101);
    assert_eq!(through.by_flow(), (2, 1));
    through.world.sent.clear();
    through.call("late", &path);
    assert_eq!(through.world.descriptions(), ["INVITE 480"]);
    refused(&mut through, &Begun::new("INVITE"));
    close(&mut through, 1);
    nothing_is_left(&through);
}

/// A dialog depends on no registration (RFC 3261 §12).
#[test]
fn a_call_is_hung_up_by_either_side_after_the_registration_has_run_out_or_was_taken_back_or_refused() {
    let ends: [&dyn Fn(&mut Through); 3] =
        [&|_| {}, &|through| drop(through.registered(&register(1, PLAIN).expires(0))), &|through| {
            through.register(&register(1, PLAIN));
            let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
            through.world.reply(source, &register, 403, &[], "");
        }];
    for (end, way) in ends.iter().enumerate() {
        for by_device in [true, false] {
            let (mut through, path) = registered(PLAIN);
            through.call("out", &path);
            let (device, server) = (through.world.device(1), through.world.upstream);
            let invite = through.world.last("INVITE");
            through.world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
            way(&mut through);
            // The grant was for 600 s.
            through.advance(601);
            assert_eq!(through.world.endpoint.counts().push_bindings, 0, "{end}");
            through.advance(400);
            let mut routes = values(&invite, Name::RecordRoute);
            let (source, bye) = if by_device {
                let (own, others) = ("<sip:alice@example.com>;tag=peer", "<sip:bob@example.com>;tag=bob");
                (device, in_dialog("BYE", "sip:bob@192.0.2.77", &routes, own, others, "10.0.0.5:9"))
            } else {
                routes.truncate(2);
                routes.reverse();
                let (own, others) = ("<sip:bob@example.com>;tag=bob", "<sip:alice@example.com>;tag=peer");
                (server, in_dialog("BYE", "sip:alice@10.0.0.5:9", &routes, own, others, "192.0.2.10"))
            };
            assert!(!through.world.closed.contains(&server.flow), "{end}: the call may need it");
            through.world.receive(source, &bye);
            let next = if by_device { server.flow } else { device.flow };
            assert_eq!((through.world.count("BYE"), flow_of(&through.world, "BYE")), (1, next), "{end} {by_device}");
            close(&mut through, 1);
            through.advance(40);
            assert!(through.world.closed.contains(&server.flow), "{end}");
            nothing_is_left(&through);
        }
    }
}

#[test]
fn it_is_over_when_its_device_takes_it_back_and_not_when_its_registrar_refuses_to_renew_it() {
    for last in [register(1, OUTBOUND).expires(0), register(1, "*").expires(0)] {
        let (mut through, _) = registered(OUTBOUND);
        through.registered(&last);
        assert_eq!((through.by_flow(), through.left()), ((1, 1), 2), "{}", last.contact);
        refused(&mut through, &Begun::new("INVITE"));
    }
    let (mut through, path) = registered(OUTBOUND);
    for flow in [2, 1] {
        through.register(&register(flow, OUTBOUND));
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        through.world.reply(source, &register, 403, &[], "");
        assert_eq!(through.by_flow(), (1, 0), "{flow}");
    }
    through.call("c1", &path);
    assert_eq!(flow_of(&through.world, "INVITE"), FlowId::Stream(1), "its grant stands");
    through.advance(600);
    assert_eq!(through.by_flow(), (1, 1), "and is over");
}

/// One that the relay has forgotten meanwhile can be taken back at its registrar all the same.
#[test]
fn an_end_passes_also_when_nothing_is_known_of_it() {
    let mut through = serving();
    through.registered(&register(1, PLAIN).expires(0));
    assert_eq!((through.world.count("REGISTER 200"), through.world.last("REGISTER").has(Name::Path)), (1, false));
    nothing_is_left(&through);
}

/// A REGISTER that its registrar has not accepted, or accepts too late, leaves nothing.
#[test]
fn a_challenge_a_silent_registrar_and_a_flow_that_ends_first_leave_nothing() {
    let mut through = serving();
    through.register(&register(1, PLAIN));
    let (source, first) = (through.world.upstream, through.world.last("REGISTER"));
    through.world.reply(source, &first, 401, &[("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"")], "");
    refused(&mut through, &Begun::new("INVITE"));
    through.register(&register(1, PLAIN));
    through.advance(40);
    through.register(&register(1, PLAIN));
    close(&mut through, 1);
    through.accept(600);
    assert_eq!(through.by_flow(), (0, 0));
    nothing_is_left(&through);
}

#[test]
fn a_device_that_turns_to_pushes_or_from_them_has_one_registration() {
    let (mut through, flows) = registered(OUTBOUND);
    let pushed = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
    assert_eq!((through.by_flow(), through.world.endpoint.counts().push_bindings), ((1, 1), 1));
    through.registered(&register(1, OUTBOUND));
    assert_eq!((through.ends(), through.by_flow()), (vec![PushBindingEnd::Replaced], (2, 1)));
    through.advance(6);
    through.world.sent.clear();
    through.call("c1", &pushed);
    through.call("c2", &flows);
    assert_eq!(through.world.descriptions(), ["INVITE 404", "INVITE 100", "INVITE"]);
}

/// A registration that another server accepts changes nothing at this one (as of RFC 8599).
#[test]
fn one_at_another_server_has_another_path_and_ends_nothing() {
    let (mut through, path) = registered(OUTBOUND);
    let mut other = register(2, OUTBOUND);
    other.uri = "sip:elsewhere.example";
    let others = through.registered(&other).text(Name::Path).unwrap().to_owned();
    assert_ne!(path, others);
    through.registered(&Register { expires: 0, ..other });
    assert_eq!(through.by_flow(), (2, 1));
    through.world.sent.clear();
    through.call("c", &path);
    assert_eq!(flow_of(&through.world, "INVITE"), FlowId::Stream(1));
}

#[test]
fn an_account_and_a_connection_have_so_many() {
    let mut through = serving();
    for number in 0..CONTACTS_PER_AOR as u64 {
        through.registered(&register(100 + number, &format!("<sip:alice@10.0.0.5:{}>", 5000 + number)));
    }
    through.advance(1);
    through.register(&register(200, "<sip:alice@10.0.0.5:9999>"));
    let refused = through.world.last("REGISTER 403");
    assert!(refused.text(Name::Warning).is_some_and(|text| text.contains("address of record")), "{refused:?}");
    through.registered(&register(200, "<sip:alice@10.0.0.5:5003>"));
    assert_eq!(through.world.count("REGISTER 403"), 1, "one that it has may come again");

    let mut through = serving();
    for number in 0..16 {
        let to: &'static str = Box::leak(format!("sip:user{number}@example.com").into_boxed_str());
        through.registered(&Register { to, ..register(1, PLAIN) });
        through.advance(2);
    }
    through.register(&register(1, PLAIN));
    let refused = through.world.last("REGISTER 403");
    assert!(refused.text(Name::Warning).is_some_and(|text| text.contains("this connection")), "{refused:?}");
}

/// An accepted REGISTER has a place: of more accounts than a connection carries, those beyond are refused before they register.
#[test]
fn accounts_that_register_by_a_connection_at_once_are_no_more_than_it_carries() {
    let mut through = serving();
    let of = |number: usize| {
        let to: &'static str = Box::leak(format!("sip:user{number}@example.com").into_boxed_str());
        Register { to, ..register(1, PLAIN) }
    };
    for number in 0..12 {
        through.registered(&of(number));
        through.advance(2);
    }
    through.world.sent.clear();
    for number in 12..19 {
        through.register(&of(number));
    }
    let count = |through: &Through| (through.world.count("REGISTER"), through.world.count("REGISTER 403"));
    assert_eq!(count(&through), (4, 3));
    // One that it carries, and one that is under way already, take no further place.
    for number in [0, 15] {
        through.register(&of(number));
    }
    assert_eq!(count(&through), (6, 3));
}

#[test]
fn it_gets_and_begins_so_much_at_most() {
    let (mut through, path) = registered(PLAIN);
    for number in 0..40 {
        Begun { call_id: format!("m{number}"), ..Begun::new("MESSAGE") }.send(&mut through.world);
    }
    assert_eq!((through.world.count("MESSAGE"), through.world.count("MESSAGE 503")), (30, 10));
    for number in 0..12 {
        through.call(&format!("c{number}"), &path);
    }
    assert_eq!((through.world.count("INVITE"), through.world.count("INVITE 486")), (8, 4));
    through.world.advance(seconds(31));
    assert_eq!(through.world.count("INVITE 480"), 8, "a device that says nothing is given up");
    assert!(through.world.wakes().is_empty());
}

#[test]
fn a_strangers_account_that_its_server_turns_away_leaves_its_flow_and_its_calls_alone() {
    let (mut through, path) = registered(OUTBOUND);
    through.call("in", &path);
    let world = &mut through.world;
    let (device, server, invite) = (world.device(1), world.upstream, world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.upstream.flow = FlowId::Stream(100);
    world.elsewhere = true;
    for number in 1..=8_u128 {
        let tag = sip::id::ShardTag(0);
        world.bind_another(sip::id::BindingId::new(number << 64, tag), sip::id::InstanceId::new(number << 80, tag));
        let register = world.last("REGISTER");
        world.reply(server, &register, 503, &[("Retry-After", "60")], "");
    }
    assert_eq!((world.dialled, world.closed.len()), (1, 0));
    world.reply(device, &invite, 200, &[("Contact", "<sip:alice@10.0.0.5:9>")], "");
    let answered = world.sent.last().unwrap();
    assert_eq!((answered.message.status(), answered.flow), (Some(200), server.flow));
}

/// The REGISTER that pjsip sends after its network has changed, or when it has learned its address: the new Contact, and the old one that is to go
/// (RFC 3261 §10.2.2).
#[test]
fn a_new_contact_comes_in_the_register_that_takes_the_old_one_away() {
    let new = "<sip:alice@198.51.100.7:4711;transport=tls>";
    let old = PLAIN.to_owned() + ";expires=0";
    for both in [format!("{new}, {old}"), format!("{old}, {new}"), format!("{new};expires=600\r\nContact: {old}")] {
        let (mut through, _) = registered(PLAIN);
        through.registered(&register(1, &both));
        assert_eq!((through.by_flow(), through.world.endpoint.counts().push_bindings), ((2, 1), 1), "{both}");
        through.registered(&register(1, new).expires(0));
        assert_eq!((through.by_flow(), through.world.endpoint.counts().push_bindings), ((2, 2), 0), "{both}");
    }
    for refused in [format!("{new}, {PLAIN}"), format!("{new}, *")] {
        let (mut through, _) = registered(PLAIN);
        through.register(&register(1, &refused));
        assert_eq!((through.world.count("REGISTER 400"), through.by_flow()), (1, (1, 0)), "{refused}");
    }
    let (mut through, _) = registered(PLAIN);
    through.register(&register(1, &format!("{new}, <, {old}")));
    assert_eq!(through.world.count("REGISTER 400"), 0, "what cannot be read beside it is for the registrar to judge");
    let (mut through, _) = registered(PLAIN);
    through.register(&register(1, &format!("{new}, {old}")));
    let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
    through.world.reply(source, &register, 500, &[], "");
    assert_eq!(through.by_flow(), (1, 0), "what the registrar has not taken away stands");
}

/// RFC 3261 §10.2.3.
#[test]
fn a_register_without_a_contact_asks_and_ends_nothing() {
    let (mut through, _) = registered(PLAIN);
    let asks = register(1, PLAIN).line(&format!("Contact: {PLAIN}"), "X-None: 1");
    through.registered(&asks);
    assert_eq!((through.by_flow(), through.world.last("REGISTER").has(Name::Path)), ((1, 0), false));
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}
