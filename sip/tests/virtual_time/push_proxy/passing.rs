//! A REGISTER on its way to its own registrar, and the answer on its way back.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use crate::world::server_address;

use super::through::{PN, Register, Through, values};

/// RFC 3327 §5.2, RFC 3261 §16.6.
#[test]
fn a_register_passes_with_a_path_and_is_else_as_it_was() {
    let mut through = Through::new();
    through.register(
        &Register::by(1).header("X-Odd:   kept  as it is").header("Authorization: Digest username=\"alice\""),
    );
    let passed = through.world.last("REGISTER");
    assert_eq!(passed.request_uri(), Some("sip:example.com"));
    assert_eq!((passed.max_forwards(), values(&passed, Name::Route)), (Some(69), vec![]), "our Route is taken off");
    assert_eq!(values(&passed, Name::Via).len(), 2);
    let path = passed.text(Name::Path).unwrap();
    assert!(path.ends_with("@relay.test:5070;lr>"), "{path}");
    assert_eq!(passed.text(Name::FeatureCaps), Some("*;+sip.pns=\"fcm\""), "who is behind need not push as well");
    let text = String::from_utf8_lossy(passed.head()).into_owned();
    for line in [
        "X-Odd:   kept  as it is\r\n",
        "Authorization: Digest username=\"alice\"\r\n",
        &format!("alice@10.0.0.5:1{PN}>"),
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// RFC 7616: the digest is between the device and its registrar.
#[test]
fn a_challenge_passes_to_the_device_and_its_answer_to_the_registrar() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    let (source, first) = (through.world.upstream, through.world.last("REGISTER"));
    let challenge = "Digest realm=\"example.com\", nonce=\"n\"";
    through.world.reply(source, &first, 401, &[("WWW-Authenticate", challenge)], "");
    let answer = through.world.last("REGISTER 401");
    assert_eq!(values(&answer, Name::Via).len(), 1);
    assert_eq!(answer.text(Name::WwwAuthenticate), Some(challenge));
    assert_eq!(answer.text(Name::FeatureCaps), None, "nothing is promised before the registrar has accepted");
    assert_eq!((through.world.endpoint.counts().push_bindings, through.left()), (0, 1), "nothing is kept");
    through.registered(&Register::by(1).header("Authorization: Digest x"));
    assert_eq!(through.world.last("REGISTER").text(Name::Authorization), Some("Digest x"));
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

/// §5.6.1.1, §6.2.1; §4.1.4 for a device that refreshes by itself.
#[test]
fn an_accepted_registration_says_which_service_is_pushed_and_by_which_purr() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    let (answer, instance) = (through.world.last("REGISTER 200"), through.instance());
    let expected = format!("*;+sip.pns=\"fcm\";+sip.pnspurr=\"{instance}\"");
    assert_eq!(answer.text(Name::FeatureCaps), Some(&*expected));
    assert!(answer.text(Name::Path).is_some(), "what the registrar said passes");
    through
        .registered(&Register::by(1).contact(&format!("<sip:alice@h{PN}>;+sip.pnsreg;+sip.instance=\"<urn:uuid:1>\"")));
    let expected = format!("*;+sip.pns=\"fcm\";+sip.pnsreg=\"180\";+sip.pnspurr=\"{instance}\"");
    assert_eq!(through.world.last("REGISTER 200").text(Name::FeatureCaps), Some(&*expected), "the same registration");
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

/// Kamailio without `use_path` and Asterisk without `support_path` grant all the same, and call the phone where it is not.
#[test]
fn a_2xx_without_a_path_says_in_a_warning_that_calls_may_not_come() {
    let plain = "<sip:alice@10.0.0.5:9>;+sip.instance=\"<urn:uuid:1>\"";
    for (register, granted) in
        [(Register::by(1), 600), (Register::by(1).contact(plain), 600), (Register::by(1).expires(0), 0)]
    {
        let mut through = Through::new();
        through.by_flow = true;
        let warnings = |through: &Through| values(&through.world.last("REGISTER 200"), Name::Warning).len();
        through.registered(&register);
        assert_eq!(warnings(&through), 0, "{}", register.contact);
        through.register(&register);
        let (source, sent) = (through.world.upstream, through.world.last("REGISTER"));
        let contact = format!("{};expires={granted}", register.contact);
        through.world.reply(source, &sent, 200, &[("Contact", &contact)], "");
        assert_eq!(warnings(&through), usize::from(granted > 0), "{}", register.contact);
    }
}

/// RFC 5626 §5.1, §6: a registrar that knows flows wants to hear that the first hop does.
#[test]
fn the_path_says_ob_when_the_device_registers_as_rfc_5626_has_it() {
    let mut through = Through::over(FlowId::Stream(900));
    through.register(&Register::by(1).contact(&format!("<sip:alice@h{PN}>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"")));
    let path = through.world.last("REGISTER").text(Name::Path).unwrap().to_owned();
    assert!(path.ends_with("@relay.test:5071;transport=tls;lr;ob>"), "{path}");
}

/// RFC 3327 §5.3: a registrar may refuse a Path that `Supported` says nothing of.
#[test]
fn a_device_that_does_not_know_path_is_spoken_for() {
    let mut through = Through::new();
    through.register(&Register { headers: String::new(), ..Register::by(1) });
    assert_eq!(values(&through.world.last("REGISTER"), Name::Supported), ["path"]);
    through.register(&Register::by(2));
    assert_eq!(values(&through.world.last("REGISTER"), Name::Supported), ["path"], "once");
}

/// §4.1.5: the relay answers by itself, so nobody without an account has a SIP server asked.
#[test]
fn a_query_hears_which_services_there_are_and_travels_nowhere() {
    let mut through = Through::new();
    through.register(&Register::by(1).contact("<sip:alice@h;pn-provider>"));
    let all = ["*;+sip.pns=\"apns\"", "*;+sip.pns=\"fcm\""];
    assert_eq!(values(&through.world.last("REGISTER 200"), Name::FeatureCaps), all);
    assert!(!through.world.last("REGISTER 200").has(Name::Contact), "nothing is registered by it");
    let guess = Register::by(1).contact("<sip:alice@h;pn-provider=fcm>").header("Authorization: Digest x");
    through.register(&guess);
    assert_eq!(values(&through.world.last("REGISTER 200"), Name::FeatureCaps), all[1..]);
    assert_eq!((through.world.count("REGISTER"), through.world.dialled), (0, 0));
    let counts = through.world.endpoint.counts();
    assert_eq!((counts.push_bindings, counts.waiting, through.left()), (0, 0, 2));
}

/// The address that has granted one is a SIP server, for a relay that lends nothing as well.
#[test]
fn a_register_that_passes_tells_the_address_that_grants_it_and_one_that_is_refused_tells_none() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    let granted = |through: &Through| {
        let grants = through
            .world
            .events
            .iter()
            .filter(|event| matches!(event, Event::AddressGrants(it) if *it == server_address()));
        grants.count()
    };
    let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
    through.world.reply(source, &register, 403, &[], "");
    assert_eq!(granted(&through), 0);
    through.registered(&Register::by(1));
    assert_eq!(granted(&through), 1);
}

/// The outcome of a proof is told once, however the REGISTER ends.
#[test]
fn each_register_that_passes_ends_once_and_its_proof_is_judged() {
    let judged = |through: &mut Through| {
        let judged = through.world.events.iter().filter_map(|event| match event {
            Event::RegisterEnded { proof, .. } => Some(*proof),
            _ => None,
        });
        let judged: Vec<_> = judged.collect();
        through.world.events.clear();
        judged
    };
    let proof = Register::by(1).header("Authorization: Digest x");
    let stale = "Digest realm=\"r\", nonce=\"n\", stale=true";
    let wrong = [401, 403, 404, 604].map(|status| (status, Some(false)));
    for (status, expected) in wrong.into_iter().chain([(200, Some(true)), (407, None), (500, None)]) {
        let mut through = Through::new();
        through.register(&proof);
        let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
        let headers: &[(&str, &str)] = match status {
            401 => &[("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"")],
            407 => &[("Proxy-Authenticate", stale)],
            _ => &[],
        };
        through.world.reply(source, &register, status, headers, "");
        assert_eq!(judged(&mut through), [expected], "{status}");
    }
    let mut through = Through::new();
    through.register(&proof);
    through.advance(40);
    assert_eq!(judged(&mut through), [None], "silence");
    through.verdict = Err(403);
    through.register(&proof);
    assert_eq!(judged(&mut through), [None], "no way");
    through.verdict = Ok(());
    through.register(&Register::by(1));
    through.accept(600);
    assert_eq!(judged(&mut through), [None], "no proof");
}

#[test]
fn the_outcome_of_each_register_is_told_and_only_a_known_registration_has_refreshes_that_fail() {
    use RegisterOutcome::*;
    let outcomes = |through: &mut Through| {
        let told = through.world.events.iter().filter_map(|event| match event {
            Event::RegisterEnded { outcome, .. } => Some(*outcome),
            _ => None,
        });
        let told: Vec<_> = told.collect();
        through.world.events.clear();
        told
    };
    let answer = |through: &mut Through, register: &Register, status: u16| {
        through.register(register);
        let (source, asked) = (through.world.upstream, through.world.last("REGISTER"));
        let asks: &[(&str, &str)] = match status {
            401 => &[("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"")],
            _ => &[],
        };
        through.world.reply(source, &asked, status, asks, "");
        outcomes(through)
    };
    let (plain, proven) = (Register::by(1), Register::by(1).header("Authorization: Digest x"));
    let mut through = Through::new();
    for (register, status, expected) in [
        (&plain, 401, Challenged),
        (&proven, 401, FirstFailed),
        (&proven, 403, FirstFailed),
        (&plain, 503, FirstFailed),
    ] {
        assert_eq!(answer(&mut through, register, status), [Some(expected)], "{status}");
    }
    through.registered(&plain);
    assert_eq!(outcomes(&mut through), [Some(Registered)]);
    for (register, status, expected) in
        [(&plain, 401, Challenged), (&proven, 401, Unproven), (&proven, 500, Failed), (&proven, 423, Failed)]
    {
        assert_eq!(answer(&mut through, register, status), [Some(expected)], "{status}");
    }
    through.registered(&plain);
    assert_eq!(outcomes(&mut through), [Some(Refreshed)]);
    through.register(&plain);
    through.advance(40);
    assert_eq!(outcomes(&mut through), [Some(TimedOut)]);
    for (status, expected) in [(503, Limited), (504, Unreachable), (403, Refused), (555, Refused)] {
        through.verdict = Err(status);
        through.register(&plain);
        assert_eq!(outcomes(&mut through), [Some(expected)], "by the relay: {status}");
    }
    through.verdict = Ok(());
    assert_eq!(answer(&mut through, &proven, 403), [Some(Refused)]);
    through.registered(&plain);
    outcomes(&mut through);
    through.register(&plain.clone().expires(0));
    through.accept(0);
    assert_eq!(outcomes(&mut through), [Some(Unregistered)]);
}

/// §5.6.1.1, §8.1
#[test]
fn a_service_that_is_not_served_is_555_and_nothing_leaves() {
    let mut through = Through::new();
    through.verdict = Err(555);
    through.register(&Register::by(1));
    assert_eq!(through.world.descriptions(), ["REGISTER 555"]);
    assert_eq!(through.world.last("REGISTER 555").reason(), Some("Push Notification Service Not Supported"));
    assert_eq!(through.world.endpoint.counts().waiting, 0);
}

#[test]
fn a_register_that_wants_no_pushes_goes_nowhere_unless_the_shell_lets_its_domain_or_it_takes_something_back() {
    let mut through = Through::new();
    through.register(&Register::by(1).contact("<sip:alice@h>"));
    through.register(&Register::by(1).contact("<sip:a@h>, <sip:b@h>"));
    through.register(&Register { to: "tel:+4930", ..Register::by(1) });
    assert_eq!(through.world.descriptions(), ["REGISTER 403", "REGISTER 400", "REGISTER 416"]);
    let warning = through.world.last("REGISTER 400").text(Name::Warning).map(str::to_owned);
    assert!(warning.is_some_and(|it| it.contains("one Contact")));
    through.register(&Register::by(1).contact("<sip:alice@h>;expires=0"));
    assert_eq!(through.world.descriptions()[3..], ["REGISTER"]);
}

#[test]
fn a_contact_that_is_no_address_or_is_written_twice_counts_for_nothing_beside_the_phones() {
    let phones = Register::by(1).contact;
    let broken = "<sip:al@192.0.2.10:5060transport=udp>;expires=3600";
    for contact in [format!("{broken}, {phones}"), format!("{phones}, {broken}"), format!("{phones}, {phones}")] {
        let mut through = Through::new();
        through.register(&Register::by(1).contact(&contact));
        assert_eq!(through.world.descriptions(), ["REGISTER"], "{contact}");
        assert_eq!(through.world.last("REGISTER").text(Name::Contact), Some(&*contact), "the registrar judges them");
        let path = through.world.last("REGISTER").has(Name::Path);
        assert!(path, "it is the phone's that is registered: {contact}");
    }
    // One that can be reached is another one, and an odd parameter keeps none from being reached.
    for other in ["<sip:al@192.0.2.10:5060>", "<sip:al@192.0.2.10;x-tiu=\"VGhd==\">"] {
        let mut through = Through::new();
        through.register(&Register::by(1).contact(&format!("{other}, {phones}")));
        assert_eq!(through.world.descriptions(), ["REGISTER 400"], "{other}");
    }
}

/// Another node has it by now, or the store alone.
#[test]
fn what_is_taken_back_and_is_not_known_is_told_to_the_shell_once_its_registrar_has_accepted_that() {
    let (own, all) = (Register::by(1).expires(0), "*");
    let plain = own.clone().contact("<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\"");
    for (last, contact, is_named) in [
        (own.clone(), "<urn:uuid:1>", true),
        (plain.clone(), "<urn:uuid:1>", false),
        (own.clone().contact(all), "", false),
    ] {
        let mut through = Through::new();
        through.register(&last);
        assert_eq!(through.contacts_removed(), []);
        through.accept(0);
        assert_eq!(through.contacts_removed(), [(contact.into(), is_named)], "{}", last.contact);
        assert_eq!(through.left(), 1);
    }
    for last in [own, plain] {
        let mut through = Through::new();
        through.registered(&Register::by(1));
        through.registered(&last);
        assert_eq!((through.ends().len(), through.contacts_removed()), (1, vec![]), "what is known ends here");
    }
}

/// §4.1.2: without `pn-prid`, with `expires=0`, or all at once.
#[test]
fn a_device_that_takes_its_registration_back_is_forgotten() {
    let own = "<sip:alice@10.0.0.5:1>;+sip.instance=\"<urn:uuid:1>\"";
    for (last, granted) in [
        (Register::by(1).expires(0), 0),
        (Register::by(1).contact(own).expires(0), 0),
        (Register::by(1).contact(own), 600),
        (Register::by(1).contact("*").expires(0), 0),
    ] {
        let mut through = Through::new();
        through.registered(&Register::by(1));
        through.register(&last);
        assert_eq!(through.world.endpoint.counts().push_bindings, 1, "not before the registrar has said so");
        through.accept(granted);
        assert_eq!((through.ends(), through.left()), (vec![PushBindingEnd::Unregistered], 2), "{}", last.contact);
        assert_eq!(through.world.endpoint.counts().upstreams, 0);
    }
}

/// RFC 3261 §10.3: a REGISTER that is refused changes no binding, so the registrar goes on calling by the one that it has granted.
#[test]
fn a_refused_refresh_ends_nothing_before_its_grant_does_whoever_sent_it() {
    let stranger = Register::by(2).contact("<sip:m@h;pn-provider=fcm;pn-prid=guess>;+sip.instance=\"<urn:uuid:1>\"");
    let proven = Register::by(1).header("Authorization: Digest username=\"alice\"");
    for refresh in [stranger, Register::by(1), proven, Register::by(3)] {
        for status in [302, 400, 403, 404, 410, 503, 604] {
            let mut through = Through::new();
            let path = through.registered(&Register::by(1)).text(Name::Path).unwrap().to_owned();
            through.advance(60);
            through.register(&refresh);
            let (source, register) = (through.world.upstream, through.world.last("REGISTER"));
            through.world.reply(source, &register, status, &[], "");
            assert_eq!(through.world.count(&format!("REGISTER {status}")), 1);
            through.call("c1", &path);
            let sent = through.world.sent.last().map(|it| it.flow);
            assert_eq!((through.ends(), sent), (vec![], Some(FlowId::Stream(1))), "{status}: its phone rings");
            through.world.input(Input::Closed(FlowId::Stream(1)));
            through.call("c2", &path);
            assert_eq!(through.world.wakes().len(), 2, "{status}: it is woken for both");
            through.advance(600);
            assert_eq!(through.ends(), [PushBindingEnd::Expired], "{status}: its grant is over");
        }
    }
}

#[test]
fn a_device_with_a_new_push_token_replaces_its_earlier_registration() {
    let mut through = Through::new();
    through.registered(&Register::by(1));
    through.registered(
        &Register::by(1).contact("<sip:alice@h;pn-provider=fcm;pn-prid=new>;+sip.instance=\"<urn:uuid:1>\""),
    );
    assert_eq!(through.ends(), [PushBindingEnd::Replaced]);
    assert_eq!(through.world.endpoint.counts().push_bindings, 1);
}

#[test]
fn a_registrar_that_cannot_be_reached_is_504_and_the_way_is_given_back() {
    let mut through = Through::new();
    through.world.dial = false;
    through.register(&Register::by(1));
    assert_eq!(through.world.dialled, 1);
    through.world.input(Input::DialFailed(crate::world::REGISTRAR));
    assert_eq!(through.world.last("REGISTER 504").status(), Some(504));
    assert_eq!((through.left(), through.world.endpoint.counts().upstreams), (1, 0));
    through.register(&Register::by(1));
    through.advance(20);
    assert_eq!(through.world.count("REGISTER 504"), 2, "nor does a dial that never ends hold it");
    assert_eq!(through.world.endpoint.counts().waiting, 0);
}

#[test]
fn a_register_under_which_its_flow_breaks_goes_by_the_next_one_and_is_504_when_that_breaks_too() {
    let leads = |through: &mut Through, number: u64, address: &str| {
        through.world.input(Input::LeadsTo { flow: FlowId::Stream(number), address: address.parse().unwrap() });
    };
    let at = |through: &Through, number: u64| {
        through.world.sent.iter().filter(|sent| sent.flow == FlowId::Stream(number)).count()
    };
    // An address that has closed under it is asked once more, another one as well.
    for (addresses, served_by) in
        [(["192.0.2.10:5060"; 3], None), (["192.0.2.10:5060", "192.0.2.10:5060", "192.0.2.11:5060"], Some(902))]
    {
        let mut through = Through::over(FlowId::Stream(900));
        leads(&mut through, 900, addresses[0]);
        through.register(&Register::by(1));
        for number in 900..902 {
            through.world.upstream.flow = FlowId::Stream(number + 1);
            leads(&mut through, number + 1, addresses[number as usize - 899]);
            through.world.input(Input::Closed(FlowId::Stream(number)));
            through.advance(2);
        }
        assert_eq!((at(&through, 900), at(&through, 901)), (1, 1));
        assert_eq!(at(&through, 902), usize::from(served_by.is_some()));
        assert_eq!(through.world.count("REGISTER 504"), usize::from(served_by.is_none()));
        if served_by.is_some() {
            through.accept(600);
            assert_eq!(through.world.count("REGISTER 200"), 1);
        }
    }
}

#[test]
fn a_register_whose_flow_has_ended_waits_for_a_server_that_is_back_in_seconds() {
    let mut through = Through::over(FlowId::Stream(900));
    through.register(&Register::by(1));
    through.world.dial = false;
    through.world.input(Input::Closed(FlowId::Stream(900)));
    let upstream = through.server;
    through.world.input(Input::DialFailed(upstream));
    assert_eq!(through.world.count("REGISTER 504"), 0);
    (through.world.dial, through.world.upstream.flow) = (true, FlowId::Stream(901));
    through.advance(2);
    through.accept(600);
    assert_eq!(through.world.count("REGISTER 200"), 1);
}

/// A call may wait for it.
#[test]
fn a_register_is_passed_soon_where_its_server_has_ended_one_stream_after_the_other_or_could_not_be_reached() {
    for refuses in [false, true] {
        let mut through = Through::over(FlowId::Stream(900));
        through.registered(&Register::by(1));
        for number in 900..908 {
            let dialled = through.world.dialled;
            through.world.upstream.flow = FlowId::Stream(number + 1);
            through.world.input(Input::Closed(FlowId::Stream(number)));
            through.world.dial = !refuses;
            while number < 907 && through.world.dialled == dialled {
                through.advance(1);
            }
            if refuses {
                (0..3).for_each(|_| through.world.input(Input::DialFailed(crate::world::REGISTRAR)));
                break;
            }
        }
        through.world.dial = true;
        let (passed, dialled) = (through.world.count("REGISTER"), through.world.dialled);
        through.world.advance(std::time::Duration::from_millis(900));
        through.register(&Register::by(1));
        assert_eq!(through.world.dialled, dialled, "{refuses}: not at once");
        through.advance(2);
        assert_eq!(through.world.count("REGISTER"), passed + 1, "{refuses}");
    }
}

#[test]
fn nobody_but_the_server_answers_a_register_that_passes_through_by_udp() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    let register = through.world.last("REGISTER");
    for source in crate::untrusted_sources::strangers() {
        for status in [200, 403, 407] {
            through.world.reply(source, &register, status, &[("Contact", "<sip:alice@10.0.0.5:1>;expires=600")], "");
        }
    }
    let passed = through.world.descriptions().into_iter().filter(|sent| sent.starts_with("REGISTER ")).count();
    assert_eq!((passed, through.world.endpoint.counts().push_bindings), (0, 0), "{:?}", through.world.descriptions());
    through.accept(600);
    assert_eq!((through.world.count("REGISTER 200"), through.world.endpoint.counts().push_bindings), (1, 1));
}

/// The process ends: the phone asks again at once, which leads it to another node, in place of waiting for an answer.
#[test]
fn a_register_that_is_under_way_when_the_process_ends_is_answered() {
    let mut through = Through::new();
    through.register(&Register::by(1));
    assert_eq!(through.world.count("REGISTER 503"), 0);
    through.world.input(Input::EndCalls(Failover::OtherNode));
    let answer = through.world.last("REGISTER 503");
    assert_eq!((answer.text(Name::RetryAfter), through.world.count("REGISTER 503")), (Some("1"), 1));
    assert_eq!(through.world.endpoint.registers_under_way(), 0);
    assert!(through.world.events.iter().any(|event| matches!(event, Event::RegisterEnded { proof: None, .. })));
}
