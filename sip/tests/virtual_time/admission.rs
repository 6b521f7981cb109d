//! The scope of a device's proof: this resource, and a count that was not seen with its nonce (RFC 7616).

use crate::world::{self, World};
use sip::auth::Hash;
use sip::endpoint::Input;
use sip::id::FlowId;
use sip::message::Name;

/// A REGISTER of the world's device on its first flow, with this Authorization.
fn register_with(world: &mut World, cseq: u32, request_uri: &str, authorization: &str) {
    let source = world.device(1);
    let text = format!(
        "REGISTER {request_uri} SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKwith{cseq}\r\n\
         From: <sip:{0}@relay.test>;tag=d\r\nTo: <sip:{0}@relay.test>\r\nCall-ID: r\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:a@b>\r\nAuthorization: {authorization}\r\nContent-Length: 0\r\n\r\n",
        world.instance
    );
    world.receive(source, &text);
}

fn last_challenge(world: &World) -> sip::auth::Challenge {
    sip::auth::Challenge::parse(world.last("REGISTER 401").text(Name::WwwAuthenticate).unwrap()).unwrap()
}

#[test]
fn an_older_nonce_is_counted_on_after_a_newer_one_was_used() {
    let mut world = World::registered();
    let user = world.instance.to_string();
    let value = |challenge: &_, nc| world::answer(challenge, &user, world::SECRET, "sip:relay.test", nc, "c");
    let uri = "sip:relay.test";
    register_with(&mut world, 1, uri, "Digest");
    let first = last_challenge(&world);
    register_with(&mut world, 2, uri, &value(&first, 1));
    register_with(&mut world, 3, uri, "Digest");
    let second = last_challenge(&world);
    register_with(&mut world, 4, uri, &value(&second, 1));
    assert_eq!((world.count("REGISTER 200"), world.count("REGISTER 401")), (2, 2));
    register_with(&mut world, 5, uri, &value(&first, 1));
    assert_eq!((world.count("REGISTER 200"), world.count("REGISTER 401")), (2, 3), "the recorded one opens nothing");
    assert!(world.last("REGISTER 401").text(Name::WwwAuthenticate).unwrap().contains("stale=true"));
    register_with(&mut world, 6, uri, &value(&first, 2));
    register_with(&mut world, 7, uri, &value(&second, 2));
    assert_eq!(world.count("REGISTER 200"), 4, "each nonce has its own count");
}

#[test]
fn a_nonce_of_another_flow_is_called_stale_and_another_realm_is_not() {
    let mut world = World::registered();
    let user = world.instance.to_string();
    world.attach(2);
    let earlier = sip::auth::Challenge::parse(world.last("REGISTER 401").text(Name::WwwAuthenticate).unwrap()).unwrap();
    let value = |nc| world::answer(&earlier, &user, world::SECRET, "sip:relay.test", nc, "c");
    register_with(&mut world, 1, "sip:relay.test", &value(2));
    let stale = world.last("REGISTER 401");
    assert!(stale.values(Name::WwwAuthenticate).all(|value| value.ends_with(b"stale=true")), "{stale:?}");
    let value = world::answer(&last_challenge(&world), &user, world::SECRET, "sip:relay.test", 1, "c");
    register_with(&mut world, 2, "sip:relay.test", &value);
    assert_eq!(world.count("REGISTER 200"), 2);
    register_with(&mut world, 3, "sip:relay.test", &value.replace("\"sipwake\"", "\"other\""));
    let other = world.last("REGISTER 401");
    assert!(!other.text(Name::WwwAuthenticate).unwrap().contains("stale"), "{other:?}");
}

#[test]
fn a_proof_for_another_resource_is_refused() {
    let mut world = World::registered();
    let user = world.instance.to_string();
    let asked = "sip:relay.test:5061;transport=tls";
    let spellings =
        ["sip:relay.test", "sip:RELAY.test:5061", "sip:relay.test:5061;transport=TLS", "sip:relay.test:7443"];
    for (n, uri) in (0..).zip(spellings) {
        register_with(&mut world, 2 * n, asked, "Digest");
        let value = world::answer(&last_challenge(&world), &user, world::SECRET, uri, 1, "c");
        register_with(&mut world, 2 * n + 1, asked, &value);
        assert_eq!(world.count("REGISTER 200"), n as usize + 1, "{uri}");
    }
    for (n, uri) in (50..).zip(["sip:example.com", "sip:relay.test:9999", "sip:bob@relay.test", "relay.test"]) {
        register_with(&mut world, 2 * n, asked, "Digest");
        let value = world::answer(&last_challenge(&world), &user, world::SECRET, uri, 1, "c");
        register_with(&mut world, 2 * n + 1, asked, &value);
    }
    assert_eq!((world.count("REGISTER 200"), world.count("REGISTER 400")), (spellings.len(), 4));
}

/// RFC 3261 §22.3: a client sends the credentials of every realm that it knows.
#[test]
fn credentials_for_another_realm_beside_its_own_keep_no_device_out() {
    let mut world = World::registered();
    let user = world.instance.to_string();
    let other = "Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:relay.test\", \
                 response=\"00000000000000000000000000000000\"";
    for (n, is_first) in [(0, true), (1, false)] {
        register_with(&mut world, 2 * n, "sip:relay.test", "Digest");
        let own = world::answer(&last_challenge(&world), &user, world::SECRET, "sip:relay.test", 1, "c");
        let (one, two) = if is_first { (own.as_str(), other) } else { (other, own.as_str()) };
        register_with(&mut world, 2 * n + 1, "sip:relay.test", &format!("{one}\r\nAuthorization: {two}"));
        assert_eq!(world.count("REGISTER 200"), n as usize + 1);
    }
}

#[test]
fn a_device_has_one_timer_however_often_it_registers() {
    let mut world = World::registered();
    let user = world.instance.to_string();
    register_with(&mut world, 1, "sip:relay.test", "Digest");
    let challenge = last_challenge(&world);
    let before = world.endpoint.counts().timers;
    for nc in 1..=2_000 {
        let value = world::answer(&challenge, &user, world::SECRET, "sip:relay.test", nc, "c");
        register_with(&mut world, nc + 1, "sip:relay.test", &value);
    }
    assert_eq!(world.count("REGISTER 200"), 2_000);
    // A request that was answered over a stream is over at once.
    world.advance(std::time::Duration::from_millis(1));
    assert!(world.endpoint.counts().timers <= before + 2, "{} timers", world.endpoint.counts().timers);
    // And it is still detached in time: 600 s after the last one.
    world.advance(std::time::Duration::from_secs(599));
    assert_eq!(world.endpoint.counts().attached, 1);
    world.advance(std::time::Duration::from_secs(2));
    assert_eq!(world.endpoint.counts().attached, 0);
}

/// A REGISTER without a proof by a flow; which algorithms it is asked for.
fn offered(world: &mut World, flow: u64, cseq: u32, agent: &str) -> Vec<Hash> {
    let text = format!(
        "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKold{flow}.{cseq}\r\n\
         From: <sip:{0}@relay.test>;tag=d\r\nTo: <sip:{0}@relay.test>\r\nCall-ID: old\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:a@b>\r\n{agent}Content-Length: 0\r\n\r\n",
        world.instance
    );
    world.receive(world.device(flow), &text);
    let asked = world.last("REGISTER 401");
    let challenges = asked.values(Name::WwwAuthenticate).map(|value| std::str::from_utf8(value).unwrap());
    challenges.map(|value| sip::auth::Challenge::parse(value).unwrap().algorithm.hash).collect()
}

const BOTH: [Hash; 2] = [Hash::Sha256, Hash::Md5];

#[test]
fn a_client_that_leaves_two_algorithms_unanswered_is_offered_md5_alone_and_by_turns() {
    let mut world = World::registered();
    assert_eq!(offered(&mut world, 1, 1, ""), BOTH);
    assert_eq!(offered(&mut world, 1, 2, ""), [Hash::Md5]);
    assert_eq!(offered(&mut world, 1, 3, ""), BOTH, "it may know SHA-256 alone");
    assert_eq!(offered(&mut world, 1, 4, ""), [Hash::Md5]);
    for agent in ["baresip v1.0.0 (x86_64/linux)", "sofia-sip/1.12.11devel", "Janus WebRTC Server SIP Plugin 0.0.8"] {
        let agent = format!("User-Agent: {agent}\r\n");
        assert_eq!(offered(&mut World::registered(), 2, 1, &agent), [Hash::Md5], "one that is known to need it");
    }
}

/// As sofia-sip: it registers once by each connection, when a call wakes it, and answers one algorithm alone.
#[test]
fn a_client_that_comes_by_a_new_connection_each_time_is_offered_md5_alone_when_it_has_left_two_twice() {
    let mut world = World::registered();
    for flow in 1..3 {
        assert_eq!(offered(&mut world, flow, 1, ""), BOTH, "its network may have gone");
        world.input(Input::Closed(FlowId::Stream(flow)));
    }
    for flow in 3..6 {
        world.attach(flow);
        assert_eq!(world.last("REGISTER 401").values(Name::WwwAuthenticate).count(), 1);
        assert_eq!(world.count("REGISTER 200"), flow as usize - 2);
        world.input(Input::Closed(FlowId::Stream(flow)));
    }
    assert_eq!(offered(&mut world, 6, 1, ""), [Hash::Md5]);
    world.input(Input::Closed(FlowId::Stream(6)));
    assert_eq!(offered(&mut world, 7, 1, ""), BOTH, "it may know SHA-256 alone");
    assert_eq!(offered(&mut world, 8, 1, ""), [Hash::Md5]);
}

#[test]
fn what_a_client_is_offered_outlives_its_refreshes_and_is_not_chosen_before_it_is_known() {
    let mut world = World::registered();
    for flow in 2..4 {
        offered(&mut world, flow, 1, "");
    }
    assert_eq!(offered(&mut world, 1, 1, ""), [Hash::Md5]);
    let (challenge, user) = (last_challenge(&world), world.instance.to_string());
    for nc in 1..4 {
        let value = world::answer(&challenge, &user, world::SECRET, "sip:relay.test", nc, "c");
        register_with(&mut world, nc + 1, "sip:relay.test", &value);
        assert_eq!(world.count("REGISTER 200"), nc as usize);
    }
    assert_eq!(offered(&mut world, 1, 9, ""), [Hash::Md5], "its nonce has ended");
    assert_eq!(offered(&mut world, 4, 1, ""), [Hash::Md5]);

    let mut world = World::new(FlowId::Datagram(world::server_address()));
    for flow in 2..4 {
        offered(&mut world, flow, 1, "");
    }
    world.bind();
    assert_eq!(offered(&mut world, 4, 1, ""), BOTH);
}

#[test]
fn what_is_left_unanswered_on_one_flow_is_no_affair_of_a_flow_that_is_open() {
    let mut world = World::registered();
    assert_eq!(offered(&mut world, 3, 1, ""), BOTH, "a phone whose connection died after its 401");
    world.attach(9);
    assert_eq!(world.endpoint.counts().attached, 1);
    for stranger in 1..3 {
        assert_eq!(offered(&mut world, stranger, 1, ""), BOTH, "it has answered two since");
    }
    for cseq in 2..4 {
        offered(&mut world, 1, cseq, "");
    }
    assert_eq!(offered(&mut world, 9, 10, ""), BOTH);
}
