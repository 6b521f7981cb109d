//! Registrations in virtual time, as SIP servers really answer them.

use std::time::Duration;

use sip::auth::Hash;
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use crate::world::{World, seconds, server_address};

pub(crate) const MD5: &str = "Digest realm=\"example.com\", nonce=\"n1\", qop=\"auth\", algorithm=MD5";
const SHA256: &str = "Digest realm=\"example.com\", nonce=\"n2\", qop=\"auth\", algorithm=SHA-256";

fn udp() -> FlowId {
    FlowId::Datagram(server_address())
}

/// A world whose binding has sent its first REGISTER.
pub(crate) fn begun() -> World {
    let mut world = World::new(udp());
    world.bind();
    world
}

impl World {
    pub(crate) fn failure(&self) -> Option<RegistrationFailure> {
        self.events.iter().rev().find_map(|event| match event {
            Event::RegistrationFailed { failure, .. } => Some(*failure),
            _ => None,
        })
    }

    /// Waits for the next REGISTER.
    pub(crate) fn next_register(&mut self) -> Message {
        let before = self.count("REGISTER");
        for _ in 0..4000 {
            if self.count("REGISTER") > before {
                return self.last("REGISTER");
            }
            self.advance(seconds(1));
        }
        panic!("no REGISTER came");
    }
}

/// Whether the last failure is a refusal after which the account is tried once more, this many seconds later and at most a
/// tenth longer.
pub(crate) fn is_pause(world: &World, refused: u16, seconds: u64) -> bool {
    let range = Duration::from_secs(seconds)..=Duration::from_secs(seconds * 11 / 10);
    matches!(world.failure(), Some(RegistrationFailure::CredentialsRefused { status, after, in_a_row: 1 | 2 })
        if status == refused && range.contains(&after))
}

/// RFC 3261 §8.1.3.3.
#[test]
fn a_response_with_the_via_of_another_is_no_answer_to_what_the_relay_has_asked() {
    for beside in
        [("Via", "SIP/2.0/UDP 192.0.2.99"), ("v", "SIP/2.0/UDP 192.0.2.98, SIP/2.0/UDP 192.0.2.99"), ("Via", "\u{e9}")]
    {
        let mut world = begun();
        let register = world.last("REGISTER");
        let contact = register.text(Name::Contact).unwrap().to_owned();
        for (status, name, value) in [(200, "Contact", &*contact), (401, "WWW-Authenticate", MD5), (403, "X", "y")] {
            world.respond(status, &[(name, value), beside]);
        }
        assert_eq!((world.count("REGISTER"), world.events.len()), (1, 0), "{beside:?}: {:?}", world.events);
        world.advance(seconds(1));
        assert_eq!(world.count("REGISTER"), 2, "it is asked again, as if nothing had come");
        world.grant(3600);
        assert!(world.events.iter().any(|event| matches!(event, Event::Registered { .. })), "{:?}", world.events);
    }
}

fn lost_for_sure(lost: Duration) -> Input {
    Input::TimeLost { lost, for_sure: lost }
}

fn answers(register: &Message, name: Name) -> Vec<String> {
    register.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

fn answer(register: &Message) -> String {
    answers(register, Name::Authorization).concat()
}

#[test]
fn a_refresh_comes_forward_by_the_time_that_was_lost_and_what_waits_after_a_failure_too() {
    for (lost, from, to) in [(1_000, 1_519, 2_060), (0, 2_519, 3_060), (3_060, 0, 1)] {
        let mut world = World::registered();
        world.input(lost_for_sure(seconds(lost)));
        if from > 0 {
            world.advance(seconds(from));
            assert_eq!(world.count("REGISTER"), 0, "lost {lost} s: not before it is due");
        }
        world.advance(seconds(to - from + 1));
        assert!(world.count("REGISTER") >= 1, "lost {lost} s");
    }
    let mut world = World::registered();
    world.input(lost_for_sure(seconds(3_600)));
    world.advance(Duration::from_millis(200));
    world.respond(503, &[("Retry-After", "900")]);
    world.advance(seconds(10));
    assert_eq!(world.count("REGISTER"), 1);
    world.input(lost_for_sure(seconds(900)));
    world.advance(seconds(800));
    assert_eq!(world.count("REGISTER"), 1, "a clock may have been set: its server has asked for this wait");
    world.next_register();
    assert_eq!(world.count("REGISTER"), 2);
    world.grant(3_600);
    // A node that hands over goes by its own rule still.
    world.input(Input::HandOver);
    world.input(lost_for_sure(seconds(3_600)));
    world.advance(seconds(60));
    assert_eq!(world.count("REGISTER"), 2);
}

#[test]
fn no_wait_after_a_refusal_is_shorter_by_time_that_was_lost() {
    let mut world = begun();
    world.grant(600);
    world.next_register();
    world.respond(403, &[]);
    let before = world.count("REGISTER");
    world.input(lost_for_sure(seconds(7 * 24 * 3_600)));
    world.advance(seconds(590));
    assert_eq!(world.count("REGISTER"), before);
    world.next_register();
}

#[test]
fn a_flow_is_asked_at_once_whether_it_lives_when_time_was_lost() {
    let mut world = World::registered_with(FlowId::Stream(1), |_| {});
    world.advance(seconds(1));
    let before = world.pings;
    world.input(lost_for_sure(seconds(60)));
    world.advance(Duration::from_millis(100));
    assert_eq!(world.pings, before + 1);
}

#[test]
fn a_node_that_hands_over_refreshes_nothing_whether_credentials_are_asked_for_or_not_and_unregisters_on() {
    for asks in [false, true] {
        let mut world = begun();
        if asks {
            world.respond(401, &[("WWW-Authenticate", MD5)]);
        }
        world.grant(600);
        let before = world.count("REGISTER");
        world.input(Input::HandOver);
        world.advance(seconds(590));
        assert_eq!(world.count("REGISTER"), before, "asked: {asks}");
        world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
        assert_eq!(world.count("REGISTER"), before + 1, "asked: {asks}");
    }
}

#[test]
fn what_another_relay_has_taken_over_is_not_refreshed_while_its_calls_end_here_and_is_when_it_comes_back() {
    let mut world = begun();
    world.grant(600);
    world.invite("waiting");
    let before = world.count("REGISTER");
    world.input(Input::Taken(world.instance));
    world.advance(seconds(590));
    assert_eq!((world.count("REGISTER"), world.wakes().len()), (before, 1));
    world.bind();
    world.next_register();
    assert!(world.count("REGISTER") > before);
}

#[test]
fn a_phone_whose_account_comes_back_from_another_relay_is_attached_no_longer_than_it_has_registered_for() {
    let mut world = begun();
    world.grant(3_600);
    world.attach(1);
    world.input(Input::Taken(world.instance));
    world.bind();
    let is_detached = |world: &World| world.events.iter().any(|event| matches!(event, Event::Detached(_)));
    world.advance(seconds(200));
    assert!(!is_detached(&world));
    world.advance(seconds(400));
    assert!(is_detached(&world));
}

#[test]
fn of_several_challenges_the_topmost_that_is_known_is_answered() {
    // RFC 8760 §2.4: the order is the server's preference.
    let unknown = "Digest realm=\"example.com\", nonce=\"n0\", algorithm=SHA3-512, qop=\"auth\"";
    let odd_qop = "Digest realm=\"example.com\", nonce=\"n0\", algorithm=MD5, qop=\"auth-conf\"";
    for (offered, taken) in [
        (vec![SHA256, MD5], "algorithm=SHA-256"),
        (vec![MD5, SHA256], "algorithm=MD5"),
        (vec![unknown, "Bearer realm=\"example.com\"", odd_qop, SHA256, MD5], "algorithm=SHA-256"),
        // HTTP's grammar lets them stand in one line, and some servers do.
        (vec![&*format!("{unknown}, {SHA256}, {MD5}")], "algorithm=SHA-256"),
    ] {
        let mut world = begun();
        let headers: Vec<_> = offered.iter().map(|value| ("WWW-Authenticate", *value)).collect();
        world.respond(401, &headers);
        let answer = answer(&world.last("REGISTER"));
        assert!(answer.contains(taken), "{answer}");
    }
}

#[test]
fn a_challenge_without_a_credential_gives_way_to_the_next_one_of_the_same_response() {
    let mut world = begun();
    world.hashes = vec![Hash::Md5];
    world.respond(401, &[("WWW-Authenticate", SHA256), ("WWW-Authenticate", MD5)]);
    let register = world.last("REGISTER");
    assert!(answer(&register).contains("algorithm=MD5") && answer(&register).contains("nc=00000001"));
    world.grant(600);
    let refresh = world.next_register();
    assert!(answer(&refresh).contains("algorithm=MD5") && answer(&refresh).contains("nc=00000002"));
    let mut none = begun();
    none.hashes = vec![];
    none.respond(401, &[("WWW-Authenticate", SHA256), ("WWW-Authenticate", MD5)]);
    assert_eq!(none.count("REGISTER"), 1, "nothing is sent that cannot be right");
    assert_eq!(none.failure(), Some(RegistrationFailure::Refused { status: 401 }));
}

#[test]
fn md5_is_not_used_where_the_operator_refuses_it() {
    let policy = UpstreamPolicy { allow_md5: false, ..UpstreamPolicy::default() };
    let mut world = World::with_policy(udp(), policy);
    world.bind();
    world.respond(401, &[("WWW-Authenticate", MD5), ("WWW-Authenticate", SHA256)]);
    assert!(answer(&world.last("REGISTER")).contains("algorithm=SHA-256"));
    let mut world = World::with_policy(udp(), policy);
    world.bind();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status: 401 }));
    assert_eq!(world.count("REGISTER"), 1);
}

#[test]
fn a_proxy_and_a_registrar_that_both_ask_are_both_answered_from_then_on() {
    // RFC 3261 §22.3.
    let mut world = begun();
    let (first, second) = ("Digest realm=\"p1\", nonce=\"a\", qop=\"auth\"", "Digest realm=\"p2\", nonce=\"b\"");
    world.respond(407, &[("Proxy-Authenticate", first)]);
    assert_eq!(answers(&world.last("REGISTER"), Name::ProxyAuthorization).len(), 1);
    world.respond(407, &[("Proxy-Authenticate", second)]);
    assert_eq!(answers(&world.last("REGISTER"), Name::ProxyAuthorization).len(), 2, "two proxies in a row");
    world.respond(401, &[("WWW-Authenticate", SHA256)]);
    let register = world.last("REGISTER");
    let proxies = answers(&register, Name::ProxyAuthorization);
    assert!(proxies[0].contains("realm=\"p1\"") && proxies[0].contains("nc=00000003"), "{proxies:?}");
    assert!(proxies[1].contains("realm=\"p2\"") && !proxies[1].contains("nc="), "{proxies:?}");
    assert!(answer(&register).contains("realm=\"example.com\""));
    world.grant(600);
    assert_eq!(world.count("REGISTER"), 4);
    let refresh = world.next_register();
    assert_eq!(answers(&refresh, Name::ProxyAuthorization).len(), 2);
    assert!(answer(&refresh).contains("nc=00000002"));
    world.grant(600);
    assert!(matches!(world.events.last(), Some(Event::Registered { refresh: true, .. })), "one round trip");
}

#[test]
fn a_proxy_that_refuses_and_one_that_goes_round_in_circles_are_left_alone() {
    let mut world = begun();
    let ask = |realm: &str| format!("Digest realm=\"{realm}\", nonce=\"a\"");
    world.respond(407, &[("Proxy-Authenticate", &ask("p"))]);
    world.respond(407, &[("Proxy-Authenticate", &ask("p"))]);
    assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status: 407 }));
    let mut world = begun();
    for n in 0..9 {
        if world.failure().is_none() {
            world.respond(407, &[("Proxy-Authenticate", &ask(&n.to_string()))]);
        }
    }
    assert!(matches!(world.failure(), Some(RegistrationFailure::Retry { status: Some(407), .. })));
    assert_eq!(world.count("REGISTER"), 4, "three realms, and no more");
}

#[test]
fn a_stale_nonce_is_replaced_and_a_spent_one_without_the_word_too() {
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.grant(600);
    world.next_register();
    let stale = MD5.replace("n1", "n7") + ", stale=TRUE";
    world.respond(401, &[("WWW-Authenticate", &stale)]);
    let register = world.last("REGISTER");
    assert!(answer(&register).contains("nonce=\"n7\"") && answer(&register).contains("nc=00000001"));
    world.grant(600);
    world.next_register();
    // Many servers leave `stale` out: what was right an hour ago is tried once with the new nonce.
    world.respond(401, &[("WWW-Authenticate", &MD5.replace("n1", "n8"))]);
    assert!(answer(&world.last("REGISTER")).contains("nonce=\"n8\""));
    world.respond(401, &[("WWW-Authenticate", &MD5.replace("n1", "n9"))]);
    assert!(is_pause(&world, 401, 600), "the password may have been changed: {:?}", world.failure());
}

#[test]
fn a_realm_that_changes_between_registrations_is_followed_and_within_one_is_not() {
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.grant(600);
    world.next_register();
    let moved = MD5.replace("example.com", "new.example.com");
    world.respond(401, &[("WWW-Authenticate", &moved)]);
    let register = world.last("REGISTER");
    assert_eq!(answers(&register, Name::Authorization).len(), 1, "the old realm's answer is dropped");
    assert!(answer(&register).contains("realm=\"new.example.com\""));
    // An answer for each realm that a hostile server thinks of is an answer too many, `stale` or not.
    world.respond(401, &[("WWW-Authenticate", &(moved.replace("new.", "third.") + ", stale=true"))]);
    assert!(is_pause(&world, 401, 600), "{:?}", world.failure());
}

#[test]
fn the_nonce_that_a_2xx_names_is_the_next_one() {
    // RFC 7616 §3.5.
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.respond(200, &[("Authentication-Info", "qop=auth, nextnonce=\"n \\\"2\\\"\", rspauth=\"00\"")]);
    let refresh = world.next_register();
    assert!(answer(&refresh).contains("nonce=\"n \\\"2\\\"\""), "{}", answer(&refresh));
    assert!(answer(&refresh).contains("nc=00000001"));
    world.respond(200, &[("Authentication-Info", "nextnonce=\"\", broken")]);
    let again = world.next_register();
    assert!(answer(&again).contains("nonce=\"n \\\"2\\\"\"") && answer(&again).contains("nc=00000002"));
}

#[test]
fn a_challenge_without_qop_is_answered_as_rfc_2069_has_it_and_an_unknown_qop_not_at_all() {
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", "Digest realm=example.com , nonce=n1,opaque=\"o\"")]);
    let register = world.last("REGISTER");
    let first = answer(&register);
    assert!(first.contains("opaque=\"o\"") && !first.contains("qop") && !first.contains("nc="), "{first}");
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", "Digest realm=\"e\", nonce=\"n\", qop=\"auth-conf\"")]);
    assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status: 401 }));
}

#[test]
fn of_many_contacts_our_own_says_how_long_the_registration_lasts() {
    // RFC 3261 §10.2.4.
    let mut world = begun();
    let others = format!(
        "<sip:desk@192.0.2.5>;expires=60, \"Alice, mobile\" <sip:{}@relay.test:5070>;q=0.5;expires=\"300\", \
         <sip:lab@192.0.2.6>;expires=3600",
        world.binding
    );
    world.respond(200, &[("Contact", &others), ("Expires", "7200")]);
    assert!(matches!(world.events.last(), Some(Event::Registered { expires, .. }) if *expires == seconds(300)));
    for (others, granted) in [("<sip:desk@192.0.2.5>;expires=60", 60), ("<sip:a@h>;expires=60, <sip:b@h>", 120)] {
        let mut world = begun();
        world.respond(200, &[("Contact", others), ("Expires", "120")]);
        assert!(matches!(world.events.last(), Some(Event::Registered { expires, .. }) if *expires == seconds(granted)));
    }
}

#[test]
fn one_binding_keeps_its_call_id_contact_instance_and_reg_id_and_its_cseq_rises() {
    let mut world = begun();
    let first = world.last("REGISTER");
    let contact = first.text(Name::Contact).unwrap().to_owned();
    assert!(contact.contains(";+sip.instance=\"<urn:uuid:") && contact.contains(";reg-id=1;"), "{contact}");
    let mut cseq = first.cseq().unwrap().0;
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    for status in [200, 500, 200, 200, 503, 200] {
        world.respond(status, &[("Expires", "600")]);
        let next = world.next_register();
        assert!(next.cseq().unwrap().0 > cseq);
        cseq = next.cseq().unwrap().0;
        assert_eq!((next.call_id(), next.text(Name::Contact)), (first.call_id(), Some(&*contact)));
        assert_eq!(next.text(Name::From), first.text(Name::From));
    }
}

#[test]
fn a_refusal_is_final_and_a_failure_is_not() {
    for status in [400, 402, 403, 404, 405, 410, 416, 420, 484, 485, 488, 493, 600, 603, 604] {
        let mut world = begun();
        world.respond(status, &[("Retry-After", "60")]);
        assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status }), "{status}");
        world.advance(seconds(24 * 3600));
        assert_eq!(world.count("REGISTER"), 1, "{status}: repeated, it would get the user banned");
    }
    for status in [408, 429, 430, 480, 500, 502, 503, 504, 513, 580] {
        let mut world = begun();
        world.respond(status, &[]);
        let Some(RegistrationFailure::Retry { status: Some(told), after }) = world.failure() else {
            panic!("{status}")
        };
        assert!(told == status && after >= seconds(15) && after <= seconds(30), "{status}: {after:?}");
        world.next_register();
    }
}

#[test]
fn retry_after_is_waited_for_whatever_stands_behind_it_and_not_for_ever() {
    // RFC 3261 §20.33.
    for (value, from, to) in [
        ("120", 120, 120),
        ("18000;duration=3600", 3600, 3600),
        ("120 (I'm in a meeting)", 120, 120),
        ("99999999999999", 3600, 3600),
        ("1", 15, 30),
        ("soon", 15, 30),
        ("-5", 15, 30),
    ] {
        let mut world = begun();
        world.respond(503, &[("Retry-After", value)]);
        let Some(RegistrationFailure::Retry { after, .. }) = world.failure() else { panic!("{value}") };
        assert!(after >= seconds(from) && after <= seconds(to), "{value}: {after:?}");
        let start = world.now;
        world.next_register();
        assert!(world.now >= start + after && world.now <= start + after + seconds(2), "{value}");
    }
}

#[test]
fn of_the_qop_values_that_are_offered_the_one_that_is_known_is_taken() {
    // RFC 7616 §3.3, §3.4: quoted or not, in any order, beside what nobody knows.
    for qop in ["\"auth,auth-int\"", "\"auth-conf, auth\"", "auth", "\" AUTH \""] {
        let mut world = begun();
        world.respond(401, &[("WWW-Authenticate", &format!("Digest nonce=n1 ,qop={qop},realm=\"example.com\""))]);
        let answer = answer(&world.last("REGISTER"));
        assert!(answer.contains("qop=auth,") && answer.contains("nc=00000001"), "{qop}: {answer}");
    }
}

#[test]
fn a_redirection_leads_nowhere_but_to_the_registrar_itself() {
    let mut world = begun();
    for inside in ["<sip:127.0.0.1>", "<sip:169.254.169.254:80>", "<sip:other.example>", "<sip:example.com:6379>"] {
        let mut world = begun();
        world.respond(302, &[("Contact", inside)]);
        assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status: 302 }), "{inside}");
        assert_eq!((world.count("REGISTER"), world.dialled), (1, 1));
    }
    world.respond(302, &[("Contact", "<sip:EXAMPLE.com;transport=udp>")]);
    assert_eq!(world.count("REGISTER"), 2);
    world.respond(302, &[("Contact", "<sip:example.com>")]);
    assert_eq!(world.count("REGISTER"), 2, "once");
    assert!(matches!(world.failure(), Some(RegistrationFailure::Retry { status: Some(302), .. })));
}

#[test]
fn a_first_hop_without_outbound_is_registered_through_without_it() {
    // RFC 5626 §11.6.
    let mut world = begun();
    world.respond(439, &[]);
    let register = world.last("REGISTER");
    assert!(!register.text(Name::Contact).unwrap().contains("reg-id"));
    assert!(register.text(Name::Contact).unwrap().contains("+sip.instance"));
    assert_eq!(register.text(Name::Supported), Some("path, gruu"));
    world.grant(600);
    assert!(!world.next_register().text(Name::Contact).unwrap().contains("reg-id"), "nor later");
}

#[test]
fn a_call_to_a_name_that_the_registrar_gave_finds_its_binding() {
    let mut world = begun();
    let gruu = "sip:alice@example.com;gr=urn:uuid:x";
    let own = format!("sip:{}@relay.test:5070", world.binding);
    world.respond(200, &[("Contact", &format!("<{own}>;expires=600;pub-gruu=\"{gruu}\""))]);
    let mut call = |target: &str, call_id: &str| {
        let source = world.upstream;
        let text = world.invite_text(call_id).replace(&format!("INVITE {own} "), &format!("INVITE {target} "));
        world.receive(source, &text);
        world.wakes().len()
    };
    assert_eq!(call(&own, "plain"), 1);
    assert_eq!(call(&format!("{own};ob"), "ob"), 2, "RFC 5626 §5.4");
    assert_eq!(call(&format!("{own};gr=urn:uuid:x;transport=udp"), "gr"), 3);
    assert_eq!(call(gruu, "gruu"), 4, "a proxy that leaves the translation to us (RFC 5627 §6.2)");
    assert_eq!(call("SIP:%61lice@Example.COM;gr=urn:uuid:x", "case"), 5, "RFC 3261 §19.1.4");
    assert_eq!(call("sip:alice@example.com;gr=urn:uuid:y", "other"), 5);
    assert_eq!(world.count("INVITE 404"), 1);
    let peer = "203.0.113.9:5060".parse().unwrap();
    let source = Source { peer, flow: FlowId::Datagram(peer), ..world.upstream };
    let text = world.invite_text("stranger").replace(&format!("INVITE {own} "), &format!("INVITE {gruu} "));
    world.receive(source, &text);
    assert_eq!((world.wakes().len(), world.count("INVITE 404")), (5, 2), "the name is no key for a stranger");
    // The shell, which divides requests among endpoints, is told of the name until the binding is gone.
    let told = |world: &World| -> Vec<(String, bool)> {
        let names = world.events.iter().filter_map(|event| match event {
            Event::Name { name, given } => Some((name.0.to_string(), *given)),
            _ => None,
        });
        names.collect()
    };
    assert_eq!(told(&world), [(gruu.to_owned(), true)]);
    assert!(!format!("{:?}", world.events).contains(gruu), "it prints nowhere");
    assert_eq!(&*Endpoint::canonical_name("SIP:%61lice@Example.COM;gr=urn:uuid:x").0, gruu);
    let instance = world.instance;
    world.input(Input::Release(instance));
    assert_eq!(told(&world).last(), Some(&(gruu.to_owned(), false)));
}

#[test]
fn a_goal_that_changes_while_a_register_is_under_way_leaves_one_register_under_way() {
    let mut world = begun();
    let instance = world.instance;
    world.sent.clear();
    world.input(Input::Suspend(instance));
    world.advance(seconds(20));
    assert!(world.count("REGISTER") > 0, "it is sent again until it is answered");
    assert!(world.sent.iter().all(|sent| sent.message.number(Name::Expires) != Some(0)), "one after the other");
    world.respond(200, &[]);
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(0));
    world.respond(200, &[]);
    world.sent.clear();
    world.advance(seconds(3600));
    assert_eq!(world.count("REGISTER"), 0);
}

#[test]
fn the_count_goes_on_while_the_nonce_is_the_same_also_when_a_challenge_repeats_it() {
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    assert!(answer(&world.last("REGISTER")).contains("nc=00000001"));
    world.grant(600);
    let refresh = world.next_register();
    assert!(answer(&refresh).contains("nc=00000002"));
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    assert!(answer(&world.last("REGISTER")).contains("nc=00000003"), "{}", answer(&world.last("REGISTER")));
    world.grant(600);
    assert_eq!(world.failure(), None);
}

#[test]
fn a_challenge_that_cannot_be_read_is_told_apart_from_one_for_a_digest_that_is_not_made() {
    let long = format!("Digest realm=\"r\", nonce=\"{}\"", "n".repeat(1_500));
    for (challenges, unreadable) in [
        (vec![], false),
        (vec!["Basic realm=\"r\""], false),
        (vec!["Digest realm=\"r\", nonce=\"n\", algorithm=X"], false),
        (vec!["Digest realm=\"r\", nonce=\"n\", qop=\"auth-conf\""], false),
        (vec!["Digest realm=\"r\" nonce=\"n\" qop=\"auth\""], true),
        (vec!["Digest realm=\"r\"; nonce=\"n\"; qop=\"auth\""], true),
        (vec!["Digest realm=\"r\", realm=\"r\", nonce=\"n\""], true),
        (vec!["Digest realm=\"r\", nonce=\"n\", qop=\"auth\", stale"], true),
        (vec!["Digest nonce=\"n\""], true),
        (vec!["Digest realm=\"r\", nonce=\"n"], true),
        (vec![&long], true),
        (vec!["Basic realm=\"r\"", &long], true),
    ] {
        for (status, name) in [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")] {
            // At the first registration, and at a refresh.
            for established in [false, true] {
                let mut world = begun();
                if established {
                    world.grant(600);
                    world.next_register();
                }
                let headers: Vec<_> = challenges.iter().map(|value| (name, *value)).collect();
                world.respond(status, &headers);
                let told: Vec<_> = world
                    .events
                    .iter()
                    .filter_map(|event| match event {
                        Event::Unanswerable { unreadable, .. } => Some(*unreadable),
                        _ => None,
                    })
                    .collect();
                assert_eq!(told, [unreadable], "{challenges:?}");
                assert!(matches!(world.events.last(), Some(Event::RegistrationFailed { .. })), "{challenges:?}");
            }
        }
    }
    // An answer that was refused is no challenge without an answer, whatever comes with the refusal.
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.respond(401, &[("WWW-Authenticate", &long)]);
    assert!(!world.events.iter().any(|event| matches!(event, Event::Unanswerable { .. })));
    assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status: 401 }));
}

#[test]
fn a_binding_registers_through_a_challenge_and_refreshes_before_it_expires() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    let (source, first) = (world.upstream, world.last("REGISTER"));
    assert!(first.text(Name::Authorization).is_none());
    assert!(first.text(Name::Contact).unwrap().contains("+sip.instance=\"<urn:uuid:abababab-abab-"));
    assert_eq!(first.text(Name::Supported), Some("path, outbound, gruu"));
    world.reply(source, &first, 401, &[("WWW-Authenticate", MD5)], "");
    let second = world.last("REGISTER");
    assert!(second.text(Name::Authorization).unwrap().contains("nc=00000001"));
    assert_eq!(second.call_id(), first.call_id());
    assert!(second.cseq().unwrap().0 > first.cseq().unwrap().0);
    world.grant(600);
    assert!(
        matches!(world.events.last(), Some(Event::Registered { refresh: false, expires, .. }) if *expires == seconds(600))
    );
    world.sent.clear();
    let granted_at = world.now;
    world.advance(seconds(419));
    assert_eq!(world.count("REGISTER"), 0, "never before 70 % of the lifetime");
    while world.count("REGISTER") == 0 {
        assert!(world.now < granted_at + seconds(510), "before 85 % of the lifetime");
        world.advance(seconds(1));
    }
    let refresh = world.last("REGISTER");
    assert!(
        refresh.text(Name::Authorization).unwrap().contains("nc=00000002"),
        "the nonce serves again: one round trip"
    );
    world.grant(600);
    assert!(matches!(world.events.last(), Some(Event::Registered { refresh: true, .. })));
}

#[test]
fn refused_credentials_are_tried_once_and_never_again() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    for _ in 0..2 {
        let (source, register) = (world.upstream, world.last("REGISTER"));
        world.reply(source, &register, 401, &[("WWW-Authenticate", MD5)], "");
    }
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Refused { status: 401 }, .. })
    ));
    world.sent.clear();
    world.advance(seconds(24 * 3600));
    assert_eq!(world.count("REGISTER"), 0);
}

#[test]
fn a_server_that_changes_its_realm_gets_no_digest_for_the_other() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    let other = "Digest realm=\"bank.example\", nonce=\"n2\", qop=\"auth\", algorithm=MD5, stale=true";
    let own = format!("{}, stale=true", MD5.replace("n1", "n3"));
    let (source, first) = (world.upstream, world.last("REGISTER"));
    world.reply(source, &first, 401, &[("WWW-Authenticate", MD5)], "");
    let second = world.last("REGISTER");
    let both = [("WWW-Authenticate", other), ("WWW-Authenticate", own.as_str())];
    world.reply(source, &second, 401, &both, "");
    let third = world.last("REGISTER");
    assert!(third.text(Name::Authorization).unwrap().contains("realm=\"example.com\", nonce=\"n3\""));
    world.reply(source, &third, 401, &[("WWW-Authenticate", other)], "");
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Refused { status: 401 }, .. })
    ));
    assert_eq!(world.last("REGISTER").text(Name::CSeq), third.text(Name::CSeq), "no further REGISTER");
}

#[test]
fn an_endless_stale_is_answered_three_times_and_then_backed_off_from() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    let stale = format!("{MD5}, stale=true");
    for _ in 0..4 {
        let (source, register) = (world.upstream, world.last("REGISTER"));
        world.reply(source, &register, 401, &[("WWW-Authenticate", &stale)], "");
    }
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Retry { after, .. }, .. }) if *after >= seconds(15)
    ));
}

#[test]
fn an_interval_that_is_too_brief_is_lengthened_once() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    let (source, register) = (world.upstream, world.last("REGISTER"));
    world.reply(source, &register, 423, &[("Min-Expires", "1800")], "");
    let register = world.last("REGISTER");
    assert_eq!(register.number(Name::Expires), Some(1800));
    world.reply(source, &register, 423, &[("Min-Expires", "3600")], "");
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Retry { status: Some(423), .. }, .. })
    ));
}

#[test]
fn a_register_over_udp_is_repeated_and_given_up_after_64_t1() {
    let mut world = World::new(FlowId::Datagram(server_address()));
    world.bind();
    world.advance(seconds(31));
    assert_eq!(world.count("REGISTER"), 10, "T1 doubling to T2: 0, .5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5 s");
    world.advance(seconds(2));
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Retry { status: None, .. }, .. })
    ));
    assert_eq!(world.dialled, 2, "another address is asked for");
}
