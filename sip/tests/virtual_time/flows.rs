//! Flows toward SIP servers in virtual time: kept alive, lost, found again (RFC 5626, RFC 3581, RFC 8489, RFC 3263 §4.3).

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::{Frame, Framer, Limits, Message, Method, Name};

use crate::world::{REGISTRAR, Sent, World, seconds, server_address};

const STREAM: FlowId = FlowId::Stream(1);

fn udp() -> FlowId {
    FlowId::Datagram(server_address())
}

/// A world whose binding is registered by a flow, for an hour.
pub fn registered(flow: FlowId, headers: &[(&str, &str)]) -> World {
    let mut world = World::with_settings(flow, |settings| settings.register_expires = seconds(3600));
    world.bind();
    let (source, register) = (world.upstream, world.last("REGISTER"));
    let headers = [&[("Expires", "3600")], headers].concat();
    world.reply(source, &register, 200, &headers, "");
    world.sent.clear();
    world
}

impl World {
    fn respond_and_forget(&mut self, status: u16, headers: &[(&str, &str)]) {
        let (source, register) = (self.upstream, self.last("REGISTER"));
        self.sent.clear();
        self.reply(source, &register, status, headers, "");
    }

    /// Advances until a ping of either kind is sent; how long that took.
    fn next_ping(&mut self) -> Duration {
        let (start, before) = (self.now, self.pings + self.stun.len());
        while self.pings + self.stun.len() == before {
            assert!(self.now < start + seconds(300), "no ping");
            self.advance(Duration::from_millis(100));
        }
        self.now - start
    }

    /// The server answers the last STUN request: it came from `mapped`.
    fn answer_stun(&mut self, from: FlowId, mapped: &str) {
        let SocketAddr::V4(mapped) = mapped.parse().unwrap() else { panic!() };
        let request = self.stun.last().unwrap();
        let mut bytes = vec![0x01, 0x01, 0, 12];
        bytes.extend_from_slice(&request[4..20]);
        bytes.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
        bytes.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
        bytes.extend(mapped.ip().octets().iter().zip([0x21, 0x12, 0xa4, 0x42]).map(|(a, b)| a ^ b));
        self.input(Input::Stun { flow: from, bytes: bytes.into() });
    }

    fn addresses(&self) -> Vec<String> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::PublicAddress { upstream: REGISTRAR, address } => Some(address.to_string()),
            _ => None,
        });
        told.collect()
    }

    pub fn bind_more(&mut self, number: u128) {
        let tag = ShardTag(0);
        self.bind_another(BindingId::new(number << 64, tag), InstanceId::new(number << 80, tag));
    }
}

#[test]
fn a_stream_that_stops_answering_is_replaced_within_the_pong_time() {
    let mut world = registered(STREAM, &[]);
    let first = world.next_ping();
    assert!(first >= seconds(88) && first <= seconds(111), "{first:?}");
    world.input(Input::Pong(STREAM));
    world.next_ping();
    world.upstream.flow = FlowId::Stream(2);
    world.advance(seconds(11));
    assert_eq!((world.closed.as_slice(), world.dialled), (&[STREAM][..], 2));
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(2));
    assert_eq!(world.count("REGISTER"), 1);
}

#[test]
fn a_stream_that_never_answers_pings_is_left_standing() {
    let mut world = registered(STREAM, &[]);
    world.advance(seconds(2000));
    assert!(world.pings > 15 && world.dialled == 1);
}

/// Two answers with nothing between them look as the halves of a ping do that was split on its way (RFC 5626 §4.4.1).
#[test]
fn a_stream_whose_server_answers_each_ping_is_kept() {
    let mut world = registered(STREAM, &[]);
    let mut framer = Framer::new(Limits::default());
    framer.is_of_server();
    for _ in 0..6 {
        world.next_ping();
        framer.push(b"\r\n");
        let input = match framer.next_frame() {
            Ok(Some(Frame::Pong)) => Input::Pong(STREAM),
            Ok(Some(Frame::Ping)) => Input::Ping(world.upstream),
            other => panic!("{other:?}"),
        };
        world.input(input);
        world.advance(seconds(11));
        assert_eq!((world.closed.len(), world.dialled), (0, 1));
    }
    world.next_ping();
    world.advance(seconds(11));
    assert_eq!(world.closed, [STREAM], "it answers no more");
}

#[test]
fn a_server_that_pings_and_answers_no_ping_is_left_standing() {
    let mut world = registered(STREAM, &[]);
    for _ in 0..6 {
        world.next_ping();
        world.input(Input::Ping(world.upstream));
    }
    world.advance(seconds(600));
    assert_eq!((world.closed.len(), world.dialled), (0, 1));
}

#[test]
fn flow_timer_is_honoured_as_an_interval_and_as_a_promise() {
    // RFC 5626 §4.4.
    let mut world = registered(STREAM, &[("Flow-Timer", "40")]);
    let first = world.next_ping();
    assert!(first >= seconds(32) && first <= seconds(41), "{first:?}");
    world.advance(seconds(11));
    assert_eq!(world.dialled, 2, "who sends Flow-Timer answers pings");
}

#[test]
fn over_udp_stun_keeps_the_flow_and_a_server_without_it_gets_crlf() {
    let mut world = registered(udp(), &[]);
    let first = world.next_ping();
    assert!(first >= seconds(23) && first <= seconds(30) && world.stun.len() == 1, "{first:?}");
    world.advance(seconds(60));
    assert!(world.stun.len() == 5 && world.pings > 0, "the same request five times, and then no more");
    let pings = world.pings;
    world.advance(seconds(290));
    assert_eq!(world.stun.len(), 5);
    assert!((10..=13).contains(&(world.pings - pings)), "{}", world.pings - pings);
    assert_eq!((world.dialled, world.count("REGISTER")), (1, 0), "silently");
}

/// Anybody may be at that address: it gets the REGISTERs alone, which are paced.
#[test]
fn over_udp_a_server_that_never_answered_gets_no_keep_alive_until_it_does() {
    let mut world = World::with_settings(udp(), |settings| settings.register_expires = seconds(3600));
    world.bind();
    world.advance(seconds(600));
    assert!(world.count("REGISTER") > 5);
    assert_eq!((world.stun.len(), world.pings), (0, 0));
    // It answers the next one.
    let asked = world.count("REGISTER");
    while world.count("REGISTER") == asked {
        world.advance(seconds(1));
    }
    let (source, register) = (world.upstream, world.last("REGISTER"));
    world.reply(source, &register, 200, &[("Expires", "3600")], "");
    let first = world.next_ping();
    assert!(first <= seconds(60) && world.stun.len() == 1, "{first:?}");
}

/// The account that the server knows is taken back while a ping waits for its answer; another one, which it never accepted, stays.
#[test]
fn over_udp_a_ping_that_is_needed_no_more_is_not_sent_again() {
    let mut world = World::with_settings(udp(), |settings| settings.register_expires = seconds(3600));
    world.bind_new(world.binding, world.instance, true);
    world.bind_more(7);
    world.next_ping();
    assert_eq!((world.stun.len(), world.dialled), (1, 1), "the flow is kept for the known one");
    world.input(Input::Unbind { instance: world.instance, deadline: Duration::ZERO });
    world.advance(Duration::from_millis(1));
    assert!(world.events.iter().any(|event| matches!(event, Event::Unbound { .. })), "{:?}", world.events);
    world.told = Some(Vec::new());
    world.advance(seconds(20));
    assert_eq!((world.stun.len(), world.pings), (1, 0));
    let looks = world.told.take().map_or(0, |told| told.len());
    assert!(looks < 100, "it is looked at {looks} times");
}

#[test]
fn a_datagram_flow_that_answers_no_keep_alive_any_more_is_left_for_another_address() {
    let mut world = registered(udp(), &[]);
    world.next_ping();
    world.answer_stun(udp(), "198.51.100.1:5070");
    let next = FlowId::Datagram("192.0.2.12:5060".parse().unwrap());
    (world.upstream.flow, world.elsewhere) = (next, true);
    world.next_ping();
    world.advance(seconds(45));
    assert_eq!(world.avoided[..2], [None, Some(udp())]);
    assert_eq!(world.sent.first().map(|sent| sent.flow), Some(next));
}

#[test]
fn an_address_that_changes_under_a_flow_has_its_bindings_register_again() {
    // RFC 5626 §4.4.2.
    let mut world = registered(udp(), &[]);
    for number in 1..=30 {
        world.bind_more(number);
        world.advance(Duration::from_millis(1));
        world.respond(200, &[("Expires", "3600")]);
    }
    world.sent.clear();
    for _ in 0..3 {
        world.next_ping();
        world.answer_stun(udp(), "198.51.100.1:5070");
    }
    assert_eq!((world.addresses(), world.count("REGISTER")), (vec!["198.51.100.1:5070".into()], 0));
    world.next_ping();
    world.answer_stun(udp(), "198.51.100.1:6111");
    assert!(world.count("REGISTER") <= 20, "in turn");
    world.advance(Duration::from_millis(100));
    assert_eq!(world.count("REGISTER"), 31);
    assert_eq!(world.addresses(), ["198.51.100.1:5070", "198.51.100.1:6111"]);
    assert_eq!(world.dialled, 1, "the flow itself stands");
}

/// As ejabberd's mod_sip, which drops what is registered by a flow that it does not find, 29 s after each REGISTER.
#[test]
fn a_flow_that_a_stun_error_calls_failed_has_its_bindings_register_again_sooner_than_the_server_forgets_them() {
    let flow_timer = [("Require", "outbound"), ("Flow-Timer", "29")];
    for (headers, code, fails) in
        [(&flow_timer[..], 430, true), (&flow_timer, 400, true), (&[], 430, true), (&[], 400, false)]
    {
        let mut world = registered(udp(), headers);
        let mut since = world.now;
        for _ in 0..5 {
            world.next_ping();
            let request = world.stun.last().unwrap().clone();
            let mut bytes = vec![0x01, 0x11, 0, 8];
            bytes.extend_from_slice(&request[4..20]);
            bytes.extend_from_slice(&[0, 9, 0, 4, 0, 0, (code / 100) as u8, (code % 100) as u8]);
            world.input(Input::Stun { flow: udp(), bytes: bytes.into() });
            assert_eq!(world.count("REGISTER"), usize::from(fails), "{headers:?} {code}");
            if fails {
                assert!(world.now - since < seconds(29), "{:?}", world.now - since);
                since = world.now;
                let headers = [&[("Expires", "3600")], headers].concat();
                world.respond_and_forget(200, &headers);
            }
        }
        assert_eq!(world.dialled, 1, "the flow itself stands");
    }
}

#[test]
fn a_server_that_stops_answering_stun_is_registered_at_anew() {
    let mut world = registered(udp(), &[]);
    world.next_ping();
    world.answer_stun(udp(), "198.51.100.1:5070");
    world.next_ping();
    world.advance(seconds(11));
    assert_eq!(world.dialled, 2);
    assert!(world.count("REGISTER") > 0);
}

#[test]
fn a_stun_answer_that_nobody_asked_for_is_nothing() {
    let mut world = registered(udp(), &[]);
    world.next_ping();
    let stranger = FlowId::Datagram("203.0.113.9:5060".parse().unwrap());
    world.answer_stun(stranger, "203.0.113.9:1");
    let mut other = world.stun.last().unwrap().to_vec();
    (other[0], other[1], other[19]) = (1, 1, other[19] ^ 1);
    world.input(Input::Stun { flow: udp(), bytes: other.into() });
    let request = world.stun.last().unwrap().clone();
    assert!(Endpoint::is_stun(&request) && Endpoint::shard_of_stun(&request).is_none());
    world.input(Input::Stun { flow: udp(), bytes: request });
    world.input(Input::Stun { flow: udp(), bytes: Bytes::new() });
    assert_eq!(world.addresses(), [""; 0]);
    world.advance(seconds(60));
    assert_eq!(world.dialled, 1, "it has never answered, for all that is known");
}

#[test]
fn a_stun_answer_finds_the_shard_that_asked() {
    let mut world = registered(udp(), &[]);
    world.next_ping();
    let mut answer = world.stun.last().unwrap().to_vec();
    (answer[0], answer[1]) = (1, 1);
    assert_eq!(Endpoint::shard_of_stun(&answer), Some(ShardTag(0)));
}

#[test]
fn where_the_server_sees_the_relay_is_told_once_and_changes_nothing_for_an_account_alone() {
    // RFC 3581 §4: a registrar behind a balancer may see one and the other.
    let mut world = World::new(udp());
    world.bind();
    let seen = |world: &mut World, via: &str| {
        let register = world.last("REGISTER");
        let own = register.text(Name::Via).unwrap().replace(";rport", via);
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: {own}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {}\r\nExpires: 600\r\n\r\n",
            register.text(Name::From).unwrap(),
            register.text(Name::To).unwrap(),
            register.call_id().unwrap(),
            register.text(Name::CSeq).unwrap(),
        );
        let source = world.upstream;
        world.receive(source, &text);
        world.sent.clear();
        while world.count("REGISTER") == 0 {
            world.advance(seconds(1));
        }
    };
    seen(&mut world, ";received=198.51.100.1;rport=5070");
    seen(&mut world, ";received=198.51.100.1;rport=5070");
    seen(&mut world, ";received=198.51.100.2;rport=5070");
    seen(&mut world, ";received=nonsense;rport=0");
    seen(&mut world, ";rport");
    assert_eq!(world.addresses(), ["198.51.100.1:5070", "198.51.100.2:5070"]);
    assert_eq!(world.dialled, 1);
}

impl World {
    /// Answers all REGISTERs that were sent with 200; the server saw them come from this port. How many there were.
    fn grant_seen_at(&mut self, port: u16) -> usize {
        let mut sent = std::mem::take(&mut self.sent);
        sent.retain(|sent| sent.message.method() == Some(Method::Register));
        for Sent { message: register, .. } in &sent {
            let seen = format!(";received=198.51.100.1;rport={port}");
            let text = format!(
                "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {}\r\nExpires: 600\r\n\r\n",
                register.text(Name::Via).unwrap().replace(";rport", &seen),
                register.text(Name::From).unwrap(),
                register.text(Name::To).unwrap(),
                register.call_id().unwrap(),
                register.text(Name::CSeq).unwrap(),
            );
            let source = self.upstream;
            self.receive(source, &text);
        }
        sent.len()
    }
}

/// A router on the way has forgotten the flow, and calls to all that stand are lost in it.
#[test]
fn another_public_address_in_one_answer_has_the_others_registered_again_at_once() {
    let mut world = World::new(udp());
    world.bind();
    (1..=2).for_each(|number| world.bind_more(number));
    assert_eq!(world.grant_seen_at(5070), 3);
    while world.count("REGISTER") == 0 {
        world.advance(Duration::from_millis(10));
    }
    assert_eq!((world.grant_seen_at(6070), world.grant_seen_at(6070), world.grant_seen_at(6070)), (1, 2, 0));
    world.advance(seconds(60));
    assert_eq!(world.count("REGISTER"), 0);
    // A server that sees another address each time is asked no more often than it would be otherwise.
    let (start, mut sent, mut port) = (world.now, 0, 7_000);
    while world.now < start + seconds(4 * 3600) {
        let granted = world.grant_seen_at(port);
        (port, sent) = (port + granted.min(1) as u16, sent + granted);
        world.advance(Duration::from_millis(100));
    }
    assert!(sent <= 3 * 4 * 3600 / 420 + 3, "{sent}");
}

#[test]
fn a_balancer_that_ends_what_is_idle_sooner_than_servers_do_is_kept_from_that_by_pings() {
    for idle in [20, 30, 50, 60] {
        let mut world = World::new(STREAM);
        world.bind();
        let (start, mut number, mut dials, mut seen) = (world.now, 1, 0, 0);
        let (mut written_at, mut without) = (world.now, Duration::ZERO);
        while world.now < start + seconds(4 * 3600) {
            if world.count("REGISTER") > 0 {
                (seen, written_at) = (seen + 1, world.now);
                world.grant(600);
                world.sent.clear();
            }
            let is_up = world.dialled > dials;
            if is_up && world.now >= written_at + seconds(idle) {
                (number, dials) = (number + 1, world.dialled);
                world.upstream.flow = FlowId::Stream(number);
                world.input(Input::Closed(FlowId::Stream(number - 1)));
            }
            let pings = world.pings;
            world.advance(Duration::from_millis(500));
            if world.pings > pings {
                written_at = world.now;
            }
            without += if is_up { Duration::ZERO } else { Duration::from_millis(500) };
        }
        assert!(world.dialled <= 12 && without < seconds(30), "{idle} s: {} dials, away {without:?}", world.dialled);
        assert!(seen <= 4 * 3600 / 420 + 12, "{idle} s: {seen} REGISTERs");
    }
}

/// Of two dials that were under way for a server, which was forgotten and came back, the later one may fail.
#[test]
fn a_dial_that_fails_beside_a_flow_that_is_up_takes_nothing_from_it() {
    let mut world = registered(STREAM, &[]);
    let dialled = world.dialled;
    world.input(Input::DialFailed(REGISTRAR));
    assert!(!world.events.iter().any(|event| matches!(event, Event::RegistrationFailed { .. })));
    world.next_register();
    assert_eq!((world.dialled, world.sent.last().map(|sent| sent.flow)), (dialled, Some(STREAM)));
}

#[test]
fn a_server_that_ends_flow_after_flow_is_not_stormed() {
    let mut world = registered(STREAM, &[]);
    let start = world.now;
    for number in 2..60 {
        let FlowId::Stream(current) = world.upstream.flow else { panic!() };
        if world.dialled == number as usize - 1 {
            world.upstream.flow = FlowId::Stream(number);
            world.input(Input::Closed(FlowId::Stream(current)));
        }
        world.advance(seconds(60));
    }
    let hour = world.now - start;
    assert!(hour < seconds(3600) && world.dialled < 16, "{} dials in {hour:?}", world.dialled);
    assert!(world.dialled > 5, "and it is tried again");
}

#[test]
fn a_server_that_closes_young_connections_keeps_the_registrations_that_it_grants() {
    for (lives, grants) in [(25, 60), (3, 60), (100, 120), (40, 600), (7, 3600)] {
        let mut world = World::new(STREAM);
        world.bind();
        world.grant(grants);
        let (start, mut granted_at, mut dials) = (world.now, world.now, world.dialled);
        let mut up = Some((STREAM, world.now));
        while world.now < start + seconds(4 * 3600) {
            if let Some((flow, since)) = up
                && world.now >= since + seconds(lives)
            {
                let FlowId::Stream(number) = flow else { panic!() };
                world.upstream.flow = FlowId::Stream(number + 1);
                up = None;
                world.input(Input::Closed(flow));
            }
            if world.dialled > dials {
                (dials, up) = (world.dialled, Some((world.upstream.flow, world.now)));
            }
            if world.count("REGISTER") > 0 {
                world.grant(grants);
                world.sent.clear();
                granted_at = world.now;
            }
            let stands = world.now < granted_at + seconds(u64::from(grants));
            assert!(stands, "{lives} s, {grants} s: ended after {:?}", world.now - start);
            world.advance(Duration::from_millis(500));
        }
        // Half of an eighth of what it grants, and what a connection lives.
        let fewest = Duration::from_secs_f64(f64::from(grants) / 16.0) + seconds(lives);
        let most = 10 + (4.0 * 3600.0 / fewest.as_secs_f64()) as usize;
        assert!(world.dialled < most, "{lives} s, {grants} s: {} dials, not {most}", world.dialled);
    }
}

#[test]
fn a_flow_that_had_settled_is_replaced_at_once() {
    let mut world = registered(STREAM, &[]);
    for number in 2..6 {
        world.advance(seconds(130));
        let before = world.upstream.flow;
        world.upstream.flow = FlowId::Stream(number);
        world.input(Input::Closed(before));
        assert_eq!(world.dialled, number as usize);
        world.respond(200, &[("Expires", "3600")]);
    }
}

#[test]
fn a_server_that_serves_nobody_is_left_for_another_address_and_one_that_serves_others_is_not() {
    // RFC 3263 §4.3, RFC 3261 §21.5.4.
    for status in [503, 430] {
        let mut world = World::new(STREAM);
        world.bind();
        world.respond(status, &[]);
        assert_eq!(world.avoided, [None, Some(STREAM)], "{status}");
        assert_eq!(world.closed, [STREAM]);
    }
    let mut world = registered(STREAM, &[]);
    world.bind_more(1);
    world.respond(503, &[]);
    assert_eq!((world.dialled, world.closed.len()), (1, 0), "another is registered by this flow");
}

#[test]
fn whom_one_server_turned_away_asks_the_next_at_once_and_the_same_one_later() {
    // RFC 3263 §4.3: the next address; RFC 3261 §21.5.4: Retry-After is for the server that said it.
    for (elsewhere, expected) in [(true, 1), (false, 0)] {
        for refusal in [&[][..], &[("Retry-After", "600")]] {
            let mut world = World::new(STREAM);
            world.bind();
            world.sent.retain(|sent| sent.message.is_request());
            world.elsewhere = elsewhere;
            world.respond_and_forget(503, refusal);
            assert_eq!((world.dialled, world.count("REGISTER")), (2, expected), "{elsewhere} {refusal:?}");
            if elsewhere {
                world.respond_and_forget(503, &[]);
                assert_eq!((world.dialled, world.count("REGISTER")), (2, 0), "both turn it away: it waits");
            }
        }
    }
    let mut world = World::new(udp());
    world.bind();
    world.elsewhere = true;
    world.sent.clear();
    world.advance(Duration::from_millis(31_900));
    world.sent.clear();
    world.advance(Duration::from_millis(100));
    assert_eq!((world.dialled, world.count("REGISTER")), (2, 1), "after 32 s of silence, and at once");
}

#[test]
fn many_bindings_that_are_told_503_move_their_flow_once() {
    let mut world = World::new(udp());
    for number in 1..=200 {
        world.bind_more(number);
    }
    for _ in 0..50 {
        for sent in std::mem::take(&mut world.sent) {
            let source = world.upstream;
            world.reply(source, &sent.message, 503, &[], "");
        }
        world.advance(Duration::from_millis(20));
    }
    assert_eq!(world.dialled, 2);
}

#[test]
fn one_account_that_is_ignored_does_not_take_the_flow_from_the_others() {
    let mut world = registered(STREAM, &[]);
    world.bind_more(1);
    world.advance(seconds(20));
    let options = "OPTIONS sip:x@relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 192.0.2.10;branch=z9hG4bKo\r\n\
                   From: <sip:s@example.com>;tag=1\r\nTo: <sip:x@relay.test>\r\nCall-ID: o\r\nCSeq: 1 OPTIONS\r\n\r\n";
    let message = Message::parse(&options.into(), &Limits::default()).unwrap();
    let source = world.upstream;
    world.input(Input::Received { source, message });
    world.advance(seconds(13));
    assert!(matches!(
        world.events.last(),
        Some(Event::RegistrationFailed { failure: RegistrationFailure::Retry { status: None, .. }, .. })
    ));
    assert_eq!((world.dialled, world.closed.len()), (1, 0), "the server is there, it only ignores one account");
}

#[test]
fn a_dead_flow_is_left_for_another_address_by_all_of_its_bindings() {
    let mut world = World::new(STREAM);
    world.bind();
    world.bind_more(1);
    world.upstream.flow = FlowId::Stream(2);
    world.advance(seconds(33));
    assert_eq!(world.avoided, [None, Some(STREAM)]);
    let by_second = world.sent.iter().filter(|sent| sent.flow == FlowId::Stream(2)).count();
    assert_eq!(by_second, 1, "the one that was not the first to time out comes along, the other backs off");
}

#[test]
fn a_server_that_cannot_be_reached_is_dialled_less_and_less_often() {
    let mut world = World::new(STREAM);
    world.dial = false;
    world.bind();
    let mut waits = Vec::new();
    for _ in 0..13 {
        let (dialled, start) = (world.dialled, world.now);
        world.input(Input::DialFailed(REGISTRAR));
        while world.dialled == dialled {
            world.advance(Duration::from_millis(100));
        }
        waits.push((world.now - start).as_millis());
    }
    // A server that is only restarted is back within some seconds; after that, RFC 5626 §4.5.
    for (failures, wait) in waits.iter().enumerate() {
        let (from, to) = match failures {
            ..4 => (1000 << failures, 1250 << failures),
            _ => ((15_000 << (failures - 4)).min(900_000), (30_000 << (failures - 4)).min(1_800_000)),
        };
        assert!((from..=to + 100).contains(wait), "{waits:?}");
    }
}

impl World {
    /// The dial that is under way fails; how long until the next one, if that takes no longer than `most`.
    fn redial(&mut self, most: Duration) -> Option<Duration> {
        self.input(Input::DialFailed(REGISTRAR));
        self.next_dial(most)
    }

    /// Ten dials fail, and no other one follows `soon`.
    fn fail_often(&mut self, soon: Duration) {
        for _ in 0..10 {
            assert!(self.redial(seconds(1_900)).is_some());
        }
        assert_eq!(self.redial(soon), None);
    }

    fn next_dial(&mut self, most: Duration) -> Option<Duration> {
        let (dialled, start) = (self.dialled, self.now);
        while self.dialled == dialled && self.now < start + most {
            self.advance(Duration::from_millis(100));
        }
        (self.dialled > dialled).then(|| self.now - start)
    }
}

#[test]
fn a_server_that_has_registered_an_account_in_an_earlier_run_is_dialled_before_its_registration_ends() {
    let mut world = World::with_settings(STREAM, |settings| settings.register_expires = seconds(600));
    world.dial = false;
    world.bind_new(world.binding, world.instance, true);
    let waits: Vec<_> = (0..13).map(|_| world.redial(seconds(1_800)).unwrap()).collect();
    assert!(waits[4..].iter().all(|wait| (seconds(15)..=seconds(76)).contains(wait)), "{waits:?}");
}

#[test]
fn who_is_to_be_registered_anew_waits_for_no_back_off_of_others() {
    let soon = Duration::from_millis(1_400);
    let mut world = World::new(STREAM);
    world.dial = false;
    world.bind();
    world.fail_often(soon);
    // Another device is enabled, or the same asks for calls once more.
    world.bind_more(7);
    assert!(world.next_dial(soon).is_some());
    for input in [Input::RetryNow(world.instance), Input::Suspend(world.instance), Input::Resume(world.instance)] {
        world.redial(soon);
        let is_request = !matches!(input, Input::Suspend(_));
        world.input(input);
        assert_eq!(world.next_dial(soon).is_some(), is_request);
    }
}

#[test]
fn a_server_that_serves_another_shard_is_dialled_once_before_its_time() {
    let soon = Duration::from_millis(1_400);
    let mut world = World::new(STREAM);
    world.dial = false;
    world.bind();
    world.fail_often(soon);
    world.input(Input::UpstreamServes(REGISTRAR));
    assert!(world.next_dial(soon).is_some());
    // The server lets in others alone: it is not dialled each time that one of them is granted something.
    assert_eq!(world.redial(soon), None);
    world.input(Input::UpstreamServes(REGISTRAR));
    assert_eq!(world.next_dial(soon), None);
    assert!(world.next_dial(seconds(1_900)).is_some());
    // In half an hour it may be another matter.
    assert!(world.redial(seconds(1_900)).is_some());
    assert_eq!(world.redial(soon), None);
    world.input(Input::UpstreamServes(REGISTRAR));
    assert!(world.next_dial(soon).is_some());
}

#[test]
fn a_request_that_is_too_large_for_a_datagram_goes_by_tcp_where_tcp_is_allowed() {
    // RFC 3261 §18.1.1.
    let nonce = format!("Digest realm=\"example.com\", nonce=\"{}\"", "n".repeat(1000));
    let challenged = |allow_tcp| {
        let mut world = World::with_policy(udp(), UpstreamPolicy { allow_tcp, ..UpstreamPolicy::default() });
        world.bind();
        world.respond(401, &[("WWW-Authenticate", &nonce)]);
        world
    };
    let mut world = challenged(true);
    assert_eq!((world.large.len(), world.count("REGISTER")), (1, 1), "the first one was small");
    let (peer, register) = world.large[0].clone();
    assert_eq!(peer, server_address());
    assert_eq!(register.via().unwrap().transport, "TCP");
    let stream = Source { flow: FlowId::Stream(5), transport: Transport::Tcp, ..world.upstream };
    world.reply(stream, &register, 200, &[], "");
    assert!(matches!(world.events.last(), Some(Event::Registered { .. })), "its answer comes by the stream");
    let mut lost = challenged(true);
    lost.input(Input::StreamLost { peer, was_open: false });
    assert_eq!((lost.large.len(), lost.last("REGISTER").via().unwrap().transport), (1, "UDP"), "after all");
    lost.respond(200, &[]);
    assert!(matches!(lost.events.last(), Some(Event::Registered { .. })));
    let forbidden = challenged(false);
    assert_eq!((forbidden.large.len(), forbidden.count("REGISTER")), (0, 2));
}
