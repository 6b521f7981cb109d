//! Subscriptions to mailboxes (RFC 3842, RFC 6665), in virtual time.
//!
//! Invariant: a server that refuses is asked once; what is asked goes by the flow of the registration.

use std::time::Duration;

use sip::auth::{Credentials, Ha1};
use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::{Message, Name};

use crate::world::{REGISTRAR, World, server_address};

const SUMMARY: &str = "Event: message-summary\r\nContent-Type: application/simple-message-summary\r\n";

fn subscribed() -> (World, Message) {
    let mut world = World::registered();
    let binding = world.binding;
    world.input(Input::Subscribe(binding));
    world.advance(Duration::from_secs(25));
    let subscribe = world.last("SUBSCRIBE");
    (world, subscribe)
}

impl World {
    fn next_subscribe(&mut self) -> Message {
        let before = self.count("SUBSCRIBE");
        for _ in 0..2_000 {
            if self.count("SUBSCRIBE") > before {
                return self.last("SUBSCRIBE");
            }
            self.advance(Duration::from_secs(1));
        }
        panic!("no SUBSCRIBE came");
    }
}

fn reply(world: &mut World, subscribe: &Message, status: u16, headers: &[(&str, &str)]) {
    let source = world.upstream;
    world.reply(source, subscribe, status, headers, "");
}

/// RFC 6665 §4.1.2.1.
#[test]
fn a_server_that_wants_a_longer_subscription_is_asked_once_for_it() {
    for (wanted, asked) in [("7200", true), ("60", false), ("4294967295", false)] {
        let (mut world, subscribe) = subscribed();
        world.sent.clear();
        reply(&mut world, &subscribe, 423, &[("Min-Expires", wanted)]);
        assert_eq!(world.count("SUBSCRIBE"), usize::from(asked), "{wanted}");
        if asked {
            let longer = world.last("SUBSCRIBE");
            assert_eq!(longer.number(Name::Expires), Some(7_200));
            reply(&mut world, &longer, 423, &[("Min-Expires", "9000")]);
            assert_eq!(world.count("SUBSCRIBE"), 1, "once");
        }
    }
}

#[test]
fn a_subscription_whose_refresh_failed_once_is_refreshed_before_it_ends_and_not_before_its_server_says() {
    for (retry_after, from, to) in [(None, 0, 9), (Some("1"), 1, 9), (Some("40"), 39, 41)] {
        let (mut world, subscribe) = subscribed();
        let contact = ("Contact", "<sip:mail@192.0.2.10>");
        reply(&mut world, &subscribe, 200, &[contact, ("Expires", "60")]);
        world.sent.clear();
        while world.count("SUBSCRIBE") == 0 {
            world.advance(Duration::from_millis(100));
        }
        let refresh = world.last("SUBSCRIBE");
        let headers: Vec<_> = retry_after.map(|value| ("Retry-After", value)).into_iter().collect();
        reply(&mut world, &refresh, 503, &headers);
        world.sent.clear();
        world.advance(Duration::from_millis(from * 1_000));
        assert_eq!(world.count("SUBSCRIBE"), 0, "{retry_after:?}");
        world.advance(Duration::from_millis((to - from) * 1_000));
        assert!(world.count("SUBSCRIBE") > 0, "{retry_after:?}");
    }
}

fn notify(world: &mut World, subscribe: &Message, state: &str, body: &str) {
    notify_from(world, subscribe, state, body, false);
}

/// `is_reached`: it says where its sender is reached.
fn notify_from(world: &mut World, subscribe: &Message, state: &str, body: &str, is_reached: bool) {
    let (text, source) = (notify_text(world, subscribe, state, body), world.upstream);
    let contact = if is_reached { "Contact: <sip:vm@192.0.2.44>\r\nEvent:" } else { "Event:" };
    world.receive(source, &text.replacen("Event:", contact, 1));
}

fn notify_text(world: &World, subscribe: &Message, state: &str, body: &str) -> String {
    format!(
        "NOTIFY sip:{}@relay.test:5070 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKn{state}{}\r\n\
         From: <sip:alice@example.com>;tag=peer\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: 1 NOTIFY\r\n{SUMMARY}\
         Subscription-State: {state}\r\nContent-Length: {}\r\n\r\n{body}",
        world.binding,
        body.len(),
        subscribe.text(Name::From).unwrap(),
        subscribe.call_id().unwrap(),
        body.len()
    )
}

#[test]
fn a_subscription_answers_its_challenge_is_refreshed_in_its_dialog_and_ends_with_the_binding() {
    let (mut world, first) = subscribed();
    assert_eq!(first.request_uri(), Some("sip:alice@example.com"));
    assert_eq!((first.text(Name::Event), first.number(Name::Expires)), (Some("message-summary"), Some(3600)));
    reply(&mut world, &first, 489, &[("Via", "SIP/2.0/UDP of-another")]);
    reply(&mut world, &first, 401, &[("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"")]);
    let proven = world.last("SUBSCRIBE");
    let credentials = Credentials::parse(proven.text(Name::Authorization).unwrap()).unwrap();
    let ha1 = Ha1::compute(credentials.algorithm.hash, "alice", "example.com", "secret");
    assert!(credentials.verify(&ha1, "SUBSCRIBE", b""));
    let made = [("Contact", "<sip:vm@192.0.2.33>"), ("Expires", "600"), ("Record-Route", "<sip:192.0.2.10;lr>")];
    reply(&mut world, &proven, 200, &made);
    notify(&mut world, &proven, "active", "Messages-Waiting: yes\r\nVoice-Message: 1/0\r\n");
    assert_eq!(world.count("NOTIFY 200"), 1);
    let told =
        world.events.iter().any(|event| matches!(event, Event::Mailbox { mailbox, .. } if mailbox.new == Some(1)));
    assert!(told);
    world.advance(Duration::from_secs(520));
    let refresh = world.last("SUBSCRIBE");
    assert_eq!(refresh.request_uri(), Some("sip:vm@192.0.2.33"));
    assert_eq!(refresh.call_id(), proven.call_id());
    assert_eq!((refresh.to().unwrap().tag(), refresh.text(Name::Route)), (Some("peer"), Some("<sip:192.0.2.10;lr>")));
    reply(&mut world, &refresh, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
    let instance = world.instance;
    world.input(Input::Unbind { instance, deadline: Duration::from_secs(3) });
    assert_eq!(world.last("SUBSCRIBE").number(Name::Expires), Some(0));
}

#[test]
fn a_server_that_does_not_want_it_is_asked_once() {
    for status in [489, 403, 404, 405, 481, 501, 603] {
        let (mut world, subscribe) = subscribed();
        reply(&mut world, &subscribe, status, &[]);
        let asked = world.count("SUBSCRIBE");
        let binding = world.binding;
        world.input(Input::Subscribe(binding));
        world.advance(Duration::from_secs(500));
        assert_eq!(world.count("SUBSCRIBE"), asked, "{status}");
    }
}

/// A SIP server that has restarted knows no dialog: RFC 6665 §4.1.2.2, RFC 5057 §5.1.
#[test]
fn a_server_that_has_forgotten_the_dialog_is_asked_for_a_new_one() {
    for status in [481, 404, 410, 403] {
        let (mut world, first) = subscribed();
        reply(&mut world, &first, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
        world.advance(Duration::from_secs(520));
        let refresh = world.last("SUBSCRIBE");
        assert!(refresh.to().unwrap().tag().is_some());
        reply(&mut world, &refresh, status, &[]);
        let asked = world.count("SUBSCRIBE");
        while world.count("SUBSCRIBE") == asked {
            world.advance(Duration::from_secs(1));
        }
        let anew = world.last("SUBSCRIBE");
        assert_eq!((anew.to().unwrap().tag(), anew.request_uri()), (None, Some("sip:alice@example.com")), "{status}");
        reply(&mut world, &anew, status, &[]);
        let asked = world.count("SUBSCRIBE");
        world.advance(Duration::from_secs(5_000));
        assert_eq!(world.count("SUBSCRIBE"), asked, "{status}: it is not wanted");
    }
    let (mut world, first) = subscribed();
    reply(&mut world, &first, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
    let asked = world.count("SUBSCRIBE");
    notify(&mut world, &first, "terminated", "");
    world.advance(Duration::from_secs(100));
    assert!(world.count("SUBSCRIBE") > asked, "without a reason it may come again (§4.1.3)");
}

#[test]
fn a_server_that_fails_is_asked_ever_more_seldom_and_one_that_refuses_the_password_no_more() {
    let (mut world, mut subscribe) = subscribed();
    // Its registration stands for longer.
    for failures in 0..6 {
        reply(&mut world, &subscribe, 503, &[]);
        let asked = world.now;
        subscribe = world.next_subscribe();
        let (waited, most) = ((world.now - asked).as_secs(), 30 << failures);
        assert!((most / 2..=most + 1).contains(&waited), "{failures}: {waited}");
    }

    let (mut world, mut subscribe) = subscribed();
    let challenge = ("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"");
    for _ in 0..5 {
        reply(&mut world, &subscribe, 401, &[challenge]);
        subscribe = world.last("SUBSCRIBE");
    }
    assert!(subscribe.cseq().is_some_and(|(number, _)| number <= 3), "a wrong password is offered once");
}

#[test]
fn a_notify_of_no_subscription_is_481_and_one_that_ends_it_is_heard() {
    let (mut world, subscribe) = subscribed();
    reply(&mut world, &subscribe, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
    notify(&mut world, &subscribe, "terminated;reason=rejected", "");
    assert_eq!(world.count("NOTIFY 200"), 1);
    notify(&mut world, &subscribe, "active", "Messages-Waiting: no\r\n");
    assert_eq!(world.count("NOTIFY 481"), 1);
    let asked = world.count("SUBSCRIBE");
    world.advance(Duration::from_secs(500));
    assert_eq!(world.count("SUBSCRIBE"), asked);
}

#[test]
fn a_subscription_is_refreshed_before_it_ends_whoever_says_when() {
    let contact = ("Contact", "<sip:vm@192.0.2.33>");
    for (granted, told) in [(3_600, Some(20)), (20, None), (20, Some(3_600)), (600, Some(60)), (60, Some(0))] {
        for first in [false, true] {
            let (mut world, subscribe) = subscribed();
            let state = told.map(|told| format!("active;expires={told}"));
            let tell = |world: &mut World| {
                if let Some(state) = &state {
                    notify(world, &subscribe, state, "");
                }
            };
            if first {
                tell(&mut world);
            }
            reply(&mut world, &subscribe, 200, &[("Expires", &granted.to_string()), contact]);
            if !first {
                tell(&mut world);
            }
            world.sent.clear();
            // No server makes it ask more often than that.
            let lasts = told.map_or(granted, |told| granted.min(told)).max(15);
            world.advance(Duration::from_secs(lasts * 6 / 10));
            assert_eq!(world.count("SUBSCRIBE"), 0, "{granted} {told:?} {first}");
            world.advance(Duration::from_secs(lasts * 3 / 10));
            assert!(world.count("SUBSCRIBE") > 0, "{granted} {told:?} {first}");
        }
    }
}

#[test]
fn a_subscription_by_a_strict_router_has_its_target_as_last_route() {
    // RFC 3261 §12.2.1.1: the first of the route set, without lr, is the Request-URI.
    let (mut world, first) = subscribed();
    let made = [
        ("Contact", "<sip:vm@192.0.2.33>"),
        ("Expires", "600"),
        ("Record-Route", "<sip:192.0.2.11;lr>, <sip:192.0.2.10>"),
    ];
    reply(&mut world, &first, 200, &made);
    world.advance(Duration::from_secs(520));
    let refresh = world.last("SUBSCRIBE");
    assert_eq!(refresh.request_uri(), Some("sip:192.0.2.10"));
    assert_eq!(refresh.elements(Name::Route).collect::<Vec<_>>(), ["<sip:192.0.2.11;lr>", "<sip:vm@192.0.2.33>"]);
}

/// RFC 6665 §4.4.1: the NOTIFY names both.
#[test]
fn a_2xx_without_a_contact_or_a_to_tag_leaves_the_dialog_to_the_notify() {
    for (headers, tagless) in [(&[][..], false), (&[("Contact", "<sip:vm@192.0.2.33>")][..], true)] {
        // By datagrams the NOTIFY may come before the 2xx.
        for (is_told, is_before) in [(true, false), (false, false), (true, true)] {
            let (mut world, first) = subscribed();
            let source = world.upstream;
            if is_before {
                notify_from(&mut world, &first, "active", "Messages-Waiting: yes\r\n", is_told);
            }
            if tagless {
                let copied = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq]
                    .map(|name| (name, first.text(name).unwrap()));
                let copied: String =
                    copied.iter().map(|(name, value)| format!("{}: {value}\r\n", name.as_str())).collect();
                world.receive(source, &format!("SIP/2.0 200 OK\r\n{copied}Contact: <sip:vm@192.0.2.33>\r\nExpires: 600\r\nContent-Length: 0\r\n\r\n"));
            } else {
                reply(&mut world, &first, 200, &[headers, &[("Expires", "600")]].concat());
            }
            if !is_before {
                notify_from(&mut world, &first, "active", "Messages-Waiting: yes\r\n", is_told);
            }
            assert_eq!(world.count("NOTIFY 200"), 1, "{tagless}");
            assert!(world.events.iter().any(|event| matches!(event, Event::Mailbox { .. })));
            world.advance(Duration::from_secs(520));
            let refresh = world.last("SUBSCRIBE");
            let dialog = (refresh.request_uri(), refresh.to().unwrap().tag());
            let expected = if is_told { ("sip:vm@192.0.2.44", Some("peer")) } else { ("sip:alice@example.com", None) };
            assert_eq!(dialog, (Some(expected.0), expected.1), "{tagless}");
            assert_eq!(refresh.call_id(), first.call_id());
        }
    }
}

/// RFC 7616 §3.4.
#[test]
fn a_nonce_that_registers_is_counted_on_where_it_subscribes() {
    let challenge = [("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"one\", qop=\"auth\"")];
    let count = |request: &Message| Credentials::parse(request.text(Name::Authorization).unwrap()).unwrap().nc;
    let mut world = crate::registration::begun();
    world.respond(401, &challenge);
    assert_eq!(count(&world.last("REGISTER")), Some(1));
    world.grant(600);
    let binding = world.binding;
    world.input(Input::Subscribe(binding));
    world.advance(Duration::from_secs(25));
    let subscribe = world.last("SUBSCRIBE");
    reply(&mut world, &subscribe, 401, &challenge);
    let proven = world.last("SUBSCRIBE");
    assert_eq!(count(&proven), Some(2));
    reply(&mut world, &proven, 200, &[("Contact", "<sip:vm@192.0.2.33>")]);
    assert_eq!(count(&world.next_register()), Some(3));
}

#[test]
fn white_space_about_the_slash_makes_no_other_media_type() {
    for media in ["application / simple-message-summary", "application/\r\n simple-message-summary;charset=utf-8"] {
        let (mut world, subscribe) = subscribed();
        reply(&mut world, &subscribe, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
        let text = notify_text(&world, &subscribe, "active", "Messages-Waiting: yes\r\n");
        let source = world.upstream;
        world.receive(source, &text.replace("application/simple-message-summary", media));
        assert_eq!(world.count("NOTIFY 200"), 1, "{media:?}");
    }
}

/// A server that is away, and an app that registers by itself meanwhile, say nothing of what the server thinks of the subscription.
#[test]
fn a_subscription_comes_again_with_its_registration_however_long_that_was_away() {
    let granted = [("Contact", "<sip:vm@192.0.2.33>"), ("Expires", "600")];
    let hour = Duration::from_secs(3_600);
    let comes_again = |world: &mut World, why: &str| {
        world.sent.clear();
        world.advance(Duration::from_secs(60));
        assert!(world.count("SUBSCRIBE") > 0, "{why}");
    };
    for (flow, next) in
        [(FlowId::Stream(1), FlowId::Stream(2)), (FlowId::Stream(1), FlowId::Datagram(server_address()))]
    {
        let mut world = World::registered_with(flow, |_| {});
        let binding = world.binding;
        world.input(Input::Subscribe(binding));
        world.advance(Duration::from_secs(25));
        let subscribe = world.last("SUBSCRIBE");
        reply(&mut world, &subscribe, 200, &granted);
        world.dial = false;
        world.input(Input::Closed(flow));
        world.sent.clear();
        world.advance(hour);
        assert_eq!(world.count("SUBSCRIBE"), 0);
        let transport = if next.is_reliable() { Transport::Tls } else { Transport::Udp };
        (world.upstream.flow, world.upstream.transport) = (next, transport);
        world.input(Input::Dialled { upstream: REGISTRAR, flow: next, transport });
        world.advance(Duration::from_secs(5));
        world.grant(3_600);
        comes_again(&mut world, "it is back");
    }
    // By datagrams a server that is away is only silent.
    let (mut world, subscribe) = subscribed();
    reply(&mut world, &subscribe, 200, &granted);
    let failed = |event: &Event| matches!(event, Event::RegistrationFailed { .. });
    while !world.events.iter().any(failed) {
        world.advance(Duration::from_secs(1));
    }
    world.sent.clear();
    world.advance(4 * hour);
    assert_eq!(world.count("SUBSCRIBE"), 0, "who is not registered does not subscribe");
    world.next_register();
    world.grant(3_600);
    world.next_subscribe();

    let (mut world, subscribe) = subscribed();
    reply(&mut world, &subscribe, 200, &granted);
    let instance = world.instance;
    world.input(Input::Suspend(instance));
    world.advance(Duration::from_secs(1));
    world.respond(200, &[]);
    world.sent.clear();
    world.advance(hour);
    assert_eq!(world.count("SUBSCRIBE"), 0, "the app is subscribed by itself");
    world.input(Input::Resume(instance));
    world.advance(Duration::from_secs(1));
    world.grant(3_600);
    comes_again(&mut world, "it is in the background again");
}

/// RFC 6665 §4.1.3.
#[test]
fn a_subscription_that_its_server_ends_comes_again_no_sooner_than_the_server_says() {
    let (mut world, subscribe) = subscribed();
    reply(&mut world, &subscribe, 200, &[("Expires", "600"), ("Contact", "<sip:vm@192.0.2.33>")]);
    notify(&mut world, &subscribe, "terminated;reason=probation;retry-after=300", "");
    world.sent.clear();
    world.advance(Duration::from_secs(299));
    assert_eq!(world.count("SUBSCRIBE"), 0);
    world.advance(Duration::from_secs(2));
    assert!(world.count("SUBSCRIBE") > 0);
}
