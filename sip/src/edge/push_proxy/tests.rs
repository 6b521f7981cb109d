//! The requests that a REGISTER makes of a push proxy, and how its registration is known again.

use super::*;
use crate::message::Limits;

fn register(contact: &str, further: &str) -> Message {
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bK1\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
         To: <sip:alice@Example.COM:5060;x=y>\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\nContact: {contact}\r\n{further}\r\n"
    );
    Message::parse(&text.into(), &Limits::default()).unwrap()
}

fn push_request(contact: &str) -> Result<PushRequest, Unfit> {
    read(&register(contact, ""), 0).map(|intent| intent.push_request)
}

fn push(provider: &str, param: Option<&str>, prid: &str) -> PushContact {
    PushContact { provider: provider.into(), param: param.map(Into::into), prid: prid.into() }
}

#[test]
fn a_contact_says_what_it_asks_for() {
    let all = "<sip:a@h;pn-provider=APNS;pn-param=TEAM.app.voip;pn-prid=00%3Aff>";
    assert_eq!(push_request(all), Ok(PushRequest::Push(push("apns", Some("TEAM.app.voip"), "00:ff"))));
    let escaped = "<sip:a@h;p%6e-provider=%41PNS;pn%2Dparam=TEAM.app.voip;PN-%70rid=00%3Aff>";
    assert_eq!(push_request(escaped), push_request(all), "RFC 3261 §19.1.4");
    assert_eq!(push_request("<sip:a@h;pn-provider>"), Ok(PushRequest::Query(None)));
    assert_eq!(push_request("<sip:a@h;pn-provider=fcm>"), Ok(PushRequest::Query(Some("fcm".into()))));
    assert_eq!(push_request("<sip:a@h>"), Ok(PushRequest::Nothing));
    assert_eq!(push_request("<sip:a@h;pn-provider=fcm;pn-prid=x>;expires=0"), Ok(PushRequest::Nothing));
    for broken in [
        "<sip:a@h;pn-provider;pn-prid=x>",
        "<sip:a@h;pn-provider=fcm;pn-prid=%0d>",
        "<sip:a@h;pn-provider=fcm;pn-prid=%4>",
        "<sip:a@h>, <sip:b@h>",
        "*",
        "*, <sip:a@h>",
        "???",
        "",
    ] {
        assert_eq!(push_request(broken), Err(400), "{broken}");
        assert!(contact_fault(&register(broken, "")).is_some(), "{broken}");
    }
    assert_eq!(read(&register("*", "Expires: 0\r\n"), 0).map(|intent| intent.contact), Ok("".into()));
}

/// RFC 3261 §10.2.4, §16.3: the registrar judges what is odd.
#[test]
fn an_odd_contact_or_what_stands_beside_it_costs_no_registration() {
    let sound = "<sip:a@h;pn-provider=fcm;pn-param=p;pn-prid=t>";
    let expected = Ok(PushRequest::Push(push("fcm", Some("p"), "t")));
    for odd in [
        format!("Last, First {sound}"),
        format!("{sound}, ???"),
        format!("???, , {sound},"),
        format!("<sip:al@192.0.2.10:5060transport=udp>;expires=0, {sound}"),
        sound.replace(";pn-param", ";x-tiu=\"VGhd==\";pn-param"),
        sound.replace(";pn-param", ";x=\"a;pn-prid=u?b\";;pn-param"),
        sound.replace("a@h", "a@h:5060transport=tls"),
        sound.replace("a@h", "a;b?c@h_1"),
        sound.replace(">", "?X=;pn-prid=u>"),
    ] {
        assert_eq!(push_request(&odd), expected, "{odd}");
        let read = read(&register(&odd, ""), 0).expect("a REGISTER");
        assert_eq!((read.expires, contact_fault(&register(&odd, ""))), (3600, None), "{odd}");
    }
    assert_eq!(push_request("<tel:+49;pn-provider=fcm;pn-prid=t>"), Ok(PushRequest::Nothing));
}

#[test]
fn for_how_long_a_contact_lasts_is_read_in_quotes_as_without() {
    let lasts = |contact: &str, further: &str| read(&register(contact, further), 0).map(|intent| intent.expires);
    for (value, expected) in
        [("\"0\"", 0), ("\"60\"", 60), ("60", 60), ("99999999999", u32::MAX), ("soon", 3600), ("\"\"", 3600)]
    {
        assert_eq!(lasts(&format!("<sip:a@h>;expires={value}"), "Expires: 7\r\n"), Ok(expected), "{value}");
    }
    assert_eq!(lasts("<sip:a@h>", "Expires: 7\r\n"), Ok(7));
    assert_eq!(lasts("<sip:b@h>;expires=\"1\", <sip:a@h>;expires=\"0\"", ""), Ok(1));
}

#[test]
fn a_registration_is_known_again_by_its_server_its_aor_and_its_push_parameters() {
    let key = TokenKey::new([7; 32]);
    let intent = read(&register("<sip:a@h;pn-provider=fcm;pn-param=p;pn-prid=t>", ""), 0).unwrap();
    assert_eq!((&*intent.aor, &*intent.server), ("sip:alice@example.com", "sip:example.com"));
    let PushRequest::Push(contact) = &intent.push_request else { panic!("{intent:?}") };
    let instance = identify(&key, &intent.aor, &intent.server, contact);
    assert_eq!(identify(&key, &intent.aor, &intent.server, contact), instance);
    assert_ne!(instance.to_bytes(), binding_of(&key, instance).to_bytes());
    assert_eq!(Some(instance.tag()), shard_of(&register("<sip:a@h>", "")));
    for other in [push("fcm", Some("p"), "u"), push("fcm", Some("q"), "t"), push("fc", Some("mp"), "t")] {
        assert_ne!(identify(&key, &intent.aor, &intent.server, &other), instance);
    }
    assert_ne!(identify(&key, "sip:bob@example.com", &intent.server, contact), instance);
    assert_ne!(identify(&key, &intent.aor, "sip:example.org", contact), instance);
    assert_ne!(identify(&TokenKey::new([8; 32]), &intent.aor, &intent.server, contact), instance);
    assert!(!format!("{intent:?}").contains("alice") && !format!("{intent:?}").contains("prid"));
}

#[test]
fn one_that_its_flow_leads_to_is_known_again_by_its_server_its_aor_and_its_device() {
    let key = TokenKey::new([7; 32]);
    let of = |contact: &str, further: &str| read(&register(contact, further), 0).unwrap().registration(&key);
    let plain = of("<sip:a@h:9;x=1>;+sip.instance=\"<urn:uuid:1>\"", "").unwrap();
    assert_eq!((plain.1, Some(plain.0.tag())), (Reach::ByFlow, shard_of(&register("<sip:a@h>", ""))));
    assert_eq!(of("<sip:a@other:7>;+sip.instance=\"<urn:uuid:1>\"", ""), Some(plain), "by another flow");
    assert_ne!(of("<sip:a@h:9>;+sip.instance=\"<urn:uuid:2>\"", ""), Some(plain));
    assert_ne!(of("<sip:a@h:9>;+sip.instance=\"<urn:uuid:1>\"", "Route: <sip:p;lr>\r\n"), Some(plain));
    assert_eq!(of("<sip:a@h:9>;expires=0", ""), None);
    assert_eq!(of("<sip:a@h:9;pn-provider>", ""), None);
}

#[test]
fn what_is_kept_of_a_registration_is_small_however_much_its_register_says() {
    let key = TokenKey::new([7; 32]);
    let long = "x".repeat(10_000);
    let of = |instance: &str| {
        let contact = format!("<sip:a@h:9;x=1>;+sip.instance=\"<urn:uuid:{instance}>\"");
        read(&register(&contact, ""), 0).unwrap()
    };
    let (one, other) = (of(&format!("{long}1")), of(&format!("{long}2")));
    assert!(one.contact.len() <= CONTACT_MAX && one.contact != other.contact);
    assert_eq!(one.registration(&key), of(&format!("{}1", long.to_uppercase())).registration(&key));
    assert_eq!(&*of("1").contact, "<urn:uuid:1>");
    let target = read(&register(&format!("<sip:{long}@h:9;x=1>"), ""), 0).unwrap();
    assert!(target.contact.len() <= CONTACT_MAX);
    assert!(names_device(&one.contact) && !names_device(&target.contact), "a long address names no device");
    let response = format!("SIP/2.0 200 OK\r\nContact: <sip:{long}@h:9;y=2>;expires=77, <sip:b@h>;expires=5\r\n\r\n");
    let response = Message::parse(&response.into(), &Limits::default()).unwrap();
    assert_eq!(target.granted(&response).as_secs(), 77);

    let plain = |find: &str, put: &str| {
        let text = register("<sip:a@h>", "Route: <sip:p;lr>\r\n").to_bytes();
        let text = String::from_utf8(text.to_vec()).unwrap().replace(find, put);
        read(&Message::parse(&text.into(), &Limits::default()).unwrap(), 0).map(|_| ())
    };
    assert_eq!(plain("", ""), Ok(()));
    assert_eq!(plain("REGISTER sip:example.com", &format!("REGISTER sip:example.com;x={long}")), Err(414));
    assert_eq!(plain("REGISTER sip:example.com", &format!("REGISTER sip:example.com{}", ";lr".repeat(200))), Err(414));
    assert_eq!(plain("sip:alice@Example", &format!("sip:{long}@Example")), Err(400));
    assert_eq!(plain("<sip:p;lr>", &format!("<sip:p;lr;x={long}>")), Err(400));
}

#[test]
fn a_server_is_known_by_all_of_its_registrar_and_its_proxy() {
    let of = |registrar, proxy| server_of(registrar, proxy).unwrap();
    let plain = of("sip:example.com;transport=tls;x=1", Some("sip:proxy.example.com;lr"));
    assert_eq!(plain, of("SIP:Example.COM.;X=1;Transport=TLS", Some("sip:PROXY.example.com")));
    assert_eq!(plain, of("sip:example.com;transport=tls;x=1", Some("sip:proxy.example.com;LR=on")));
    for (registrar, proxy) in [
        ("sip:example.com;transport=tls;x=1", None),
        ("sip:example.com;transport=tls;x=1", Some("sip:proxy.example.org;lr")),
        ("sip:example.com;transport=tls;x=1", Some("sip:proxy.example.com:5070;lr")),
        ("sip:example.com;transport=tls;x=1", Some("sip:proxy.example.com;lr;maddr=192.0.2.66")),
        ("sip:example.com;transport=tls;x=1", Some("sip:mallory@proxy.example.com;lr")),
        ("sip:example.com;transport=tls;x=1", Some("sips:proxy.example.com;lr")),
        ("sip:example.com;transport=tls;x=2", Some("sip:proxy.example.com;lr")),
        ("sip:example.com;transport=tcp;x=1", Some("sip:proxy.example.com;lr")),
        ("sip:example.com:5060;transport=tls;x=1", Some("sip:proxy.example.com;lr")),
        ("sip:example.com;transport=tls;x=1?Route=%3Csip:evil%3E", Some("sip:proxy.example.com;lr")),
    ] {
        assert_ne!(of(registrar, proxy), plain, "{registrar} {proxy:?}");
    }
    assert_eq!((server_of("tel:1", None), server_of("sip:a", Some("mailto:x@y"))), (None, None));
}

#[test]
fn a_register_by_more_than_one_proxy_of_others_is_not_taken() {
    let routed =
        |routes: &str| read(&register("<sip:a@h;pn-provider=fcm;pn-prid=t>", &format!("Route: {routes}\r\n")), 1);
    assert!(routed("<sip:relay;lr>, <sip:p;lr>").is_ok_and(|intent| intent.server.ends_with(" by sip:p")));
    assert_eq!(routed("<sip:relay;lr>, <sip:p;lr>, <sip:evil;lr>"), Err(403));
    assert_eq!(routed("<sip:relay;lr>, <sip:p;lr>\r\nRoute: <sip:evil;lr>"), Err(403));
}

#[test]
fn a_path_leads_back_and_a_forged_one_does_not() {
    let key = TokenKey::new([7; 32]);
    let sent_by = SentBy { host: "relay.test:5071", transport: Transport::Tls };
    let instance = InstanceId::new(77 << 32, ShardTag(3));
    let through = |route: &str| {
        let text = format!("INVITE sip:a@h SIP/2.0\r\nRoute: {route}\r\n\r\n");
        own_path(&key, &Message::parse(&text.into(), &Limits::default()).unwrap())
    };
    let own = path(&key, (instance, Reach::Pushed), sent_by, true);
    assert!(own.ends_with("@relay.test:5071;transport=tls;lr;ob>"), "{own}");
    assert_eq!(through(&own), Some((instance, Reach::Pushed)));
    let by_flow = path(&key, (instance, Reach::ByFlow), sent_by, false);
    assert_eq!(through(&by_flow), Some((instance, Reach::ByFlow)), "none passes for the other");
    assert_eq!(TokenKey::tag_of(&own[5..own.find('@').unwrap()]), Some(ShardTag(3)), "it finds its shard");
    assert_eq!(through(&path(&TokenKey::new([8; 32]), (instance, Reach::Pushed), sent_by, true)), None, "another key");
    let user = &own[5..own.find('@').unwrap()];
    assert!(is_path(user) && !TokenKey::is_one(user));
    for place in [6, 20, 30] {
        let mut forged = own.clone().into_bytes();
        forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
        assert_eq!(through(std::str::from_utf8(&forged).unwrap()), None, "character {place}");
    }
}

#[test]
fn a_first_hop_that_keeps_its_flows_is_known_with_and_without_angle_brackets() {
    for (route, outbound) in [
        ("<sip:t@relay.test:5071;transport=tls;lr;ob>", true),
        ("sip:t@relay.test:5071;transport=tls;lr;ob", true),
        ("<sip:t@relay.test:5071;transport=tls;lr>", false),
        ("sip:t@relay.test:5071;lr", false),
        ("sip:t@relay.test:5071;lr, <sip:other;lr;ob>", false),
    ] {
        let text = format!("INVITE sip:a@h SIP/2.0\r\nRoute: {route}\r\n\r\n");
        let request = Message::parse(&text.into(), &Limits::default()).unwrap();
        assert_eq!(is_outbound(&request), outbound, "{route}");
    }
}

#[test]
fn a_request_is_of_the_shard_of_whom_from_names_or_prefers() {
    let of = |lines: &str| {
        let text = format!("INVITE sip:x@h SIP/2.0\r\n{lines}\r\n");
        shard_of_sender(&Message::parse(&text.into(), &Limits::default()).unwrap())
    };
    let (alice, own) =
        (Some(tag_of("sip:alice@example.com")), "P-Preferred-Identity: tel:+1, <sip:alice@example.com>\r\n");
    let anonymous = "From: \"Anonymous\" <sip:anonymous@Anonymous.invalid>;tag=1\r\n";
    assert_eq!(of("From: <sip:alice@EXAMPLE.com>;tag=1\r\n"), alice);
    assert_eq!(of(&format!("From: <sip:bob@example.com>;tag=1\r\n{own}")), Some(tag_of("sip:bob@example.com")));
    assert_eq!((of(&format!("{anonymous}{own}")), of(anonymous)), (alice, None));
    assert_eq!(of(&format!("From: <tel:+1>;tag=1\r\n{own}")), alice);
}

#[test]
fn a_2xx_grants_to_our_contact_among_many() {
    let contact = "<sip:a@h:9;pn-provider=fcm;pn-prid=t>;+sip.instance=\"<urn:uuid:1>\"";
    let intent = read(&register(contact, "Expires: 900\r\n"), 0).unwrap();
    let granted = |contacts: &str| {
        let text = format!("SIP/2.0 200 OK\r\n{contacts}\r\n");
        intent.granted(&Message::parse(&text.into(), &Limits::default()).unwrap()).as_secs()
    };
    let ours = "Contact: <sip:a@h:9;pn-provider=fcm;pn-prid=t>;expires=700";
    assert_eq!(granted(&format!("Contact: <sip:a@other>;expires=50\r\n{ours}\r\n")), 700);
    let moved = "Contact: <sip:a@other>;expires=50, <sip:a@nat>;expires=\"60\";+sip.instance=\"<urn:uuid:1>\"\r\n";
    assert_eq!(granted(moved), 60);
    // A server that rewrites Contacts has one that the device has left behind, which ends sooner, or tells no instance id, or spells what it has parsed.
    let left_behind = "Contact: <sip:a@nat:1>;expires=20;+sip.instance=\"<urn:uuid:1>\"\r\n";
    assert_eq!(granted(&format!("{left_behind}{moved}")), 60);
    let other = "<sip:a@other;pn-provider=fcm;pn-prid=u>;expires=800";
    for spelt in ["<sip:a@nat;pn-prid=%74;pn-provider=FCM>", "<sip:a@h:9;pn-prid=t;pn-provider=fcm;transport=tls>"] {
        assert_eq!(granted(&format!("Contact: {other}, {spelt};expires=60\r\n")), 60, "{spelt}");
    }
    assert_eq!(granted(&format!("Contact: {other}, <sip:a@sbc>;expires=80\r\n")), 900, "none of them is ours");
    assert_eq!(granted("Contact: <sip:a@sbc>;expires=80\r\n"), 80);
    assert_eq!(granted("Expires: 70\r\n"), 70);
    assert_eq!(granted(""), 900);
}

#[test]
fn a_refresh_is_asked_for_in_time_and_not_too_early() {
    for (life, before) in [(60, 30), (240, 120), (600, 150), (3_600, 900), (86_400, 3_600)] {
        assert_eq!(renew_before(Duration::from_secs(life)).as_secs(), before, "{life}");
    }
}
