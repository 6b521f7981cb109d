//! Proofs for a SIP server in other requests than REGISTER.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use super::outgoing::{Begun, in_dialog, registered};
use super::through::{Register, Through, values};
use crate::world::World;

const CHALLENGE: &str = "Digest realm=\"example.com\", nonce=\"n\"";

fn digest(user: &str) -> String {
    format!("Digest username=\"{user}\", realm=\"example.com\", nonce=\"n\", uri=\"sip:x\", response=\"r\"")
}

/// The user names of each proof that the shell was asked about since, and the outcomes that it was told.
fn told(world: &mut World) -> (Vec<String>, Vec<bool>) {
    let (mut asked, mut ended) = (Vec::new(), Vec::new());
    for event in world.events.drain(..) {
        match event {
            Event::Proof(ProofStep::Asked(it)) => asked.push(it.usernames.join(" ")),
            Event::Proof(ProofStep::Ended { refused, .. }) => ended.push(refused),
            _ => {}
        }
    }
    (asked, ended)
}

/// A phone whose REGISTER was accepted with the proof of `alice`.
fn proven() -> Through {
    let mut through = Through::over(FlowId::Stream(99));
    through.registered(&Register::by(1).header(&format!("Authorization: {}", digest("alice"))));
    through.world.sent.clear();
    through.world.events.clear();
    through
}

fn send(world: &mut World, method: &'static str, call_id: &str, header: &str, proof: &str) {
    let begun = Begun { call_id: call_id.to_owned(), ..Begun::new(method) };
    let (device, text) = (world.device(1), begun.text(1, &format!("{header}: {proof}\r\n")));
    world.receive(device, &text);
}

#[test]
fn whatever_begins_with_another_users_proof_waits_for_the_shells_word() {
    for header in ["Proxy-Authorization", "Authorization"] {
        for method in ["INVITE", "MESSAGE", "SUBSCRIBE", "PUBLISH", "OPTIONS", "REFER"] {
            for proof in [digest("victim"), format!("{}, username=victim", digest("alice")), "Basic eDp5".to_owned()] {
                let mut through = proven();
                let world = &mut through.world;
                world.word = Err(7);
                send(world, method, "guess", header, &proof);
                assert_eq!(world.count(method), 0, "{method} {proof}");
                let answer = world.last(&format!("{method} 503"));
                assert_eq!(answer.text(Name::RetryAfter), Some("7"));
                assert_eq!(told(world).0.len(), 1);
                world.word = Ok(());
                send(world, method, "again", header, &proof);
                assert_eq!(world.count(method), 1, "{method}: the shell has let it");
            }
        }
    }
}

/// A server of several domains may look a user up by the realm: the same name is another's there.
#[test]
fn a_proof_of_the_own_name_in_another_realm_waits_for_the_shells_word() {
    let mut through = proven();
    let world = &mut through.world;
    world.word = Err(7);
    send(world, "SUBSCRIBE", "guess", "Proxy-Authorization", &digest("alice").replace("example.com", "victim.example"));
    assert_eq!((world.count("SUBSCRIBE"), told(world).0.len()), (0, 1));
}

#[test]
fn a_refusal_of_another_users_proof_is_told_once_and_nothing_else_is_taken_for_a_right_one() {
    let stale = "Digest realm=\"example.com\", nonce=\"n\", stale=true";
    let cases = [(401, CHALLENGE, true), (407, CHALLENGE, true), (403, "", true), (407, stale, false)];
    let others = [200, 404, 489, 503].map(|status| (status, "", false));
    for (status, challenge, refused) in cases.into_iter().chain(others) {
        let mut through = proven();
        let world = &mut through.world;
        // The header that a server does not ask for is read by some all the same.
        send(world, "SUBSCRIBE", "guess", "Authorization", &digest("victim"));
        let (server, subscribe) = (world.upstream, world.last("SUBSCRIBE"));
        let header = if status == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
        let headers: &[(&str, &str)] = if challenge.is_empty() { &[] } else { &[(header, challenge)] };
        world.reply(server, &subscribe, status, headers, "");
        assert_eq!(told(world), (vec!["victim".to_owned()], vec![refused]), "{status}");
    }
    let mut through = proven();
    send(&mut through.world, "SUBSCRIBE", "silent", "Authorization", &digest("victim"));
    through.advance(60);
    assert_eq!(told(&mut through.world).1, [false], "nobody answered");
}

#[test]
fn a_call_that_rings_keeps_the_permit_of_its_proof_no_longer() {
    let mut through = proven();
    let world = &mut through.world;
    send(world, "INVITE", "ringing", "Proxy-Authorization", &digest("victim"));
    let (server, invite) = (world.upstream, world.last("INVITE"));
    let mut told_after = |status| {
        world.reply(server, &invite, status, &[], "");
        told(world).1
    };
    assert!(told_after(100).is_empty());
    assert_eq!(told_after(180), [false]);
    assert!(told_after(183).is_empty() && told_after(403).is_empty(), "it is told once");
}

#[test]
fn a_phones_own_proof_waits_for_nothing_however_often_its_server_wants_a_fresh_nonce_or_bars_a_number() {
    let mut through = proven();
    through.world.word = Err(7);
    let mine = digest("alice");
    for number in 0..40 {
        send(&mut through.world, "SUBSCRIBE", &format!("s{number}"), "Proxy-Authorization", &mine);
    }
    let world = &mut through.world;
    assert_eq!((world.count("SUBSCRIBE"), told(world).0.len()), (40, 0));
    let server = world.upstream;
    // A number that is barred, and a proxy of another domain behind its own server.
    for (status, challenge) in [(403, CHALLENGE), (407, "Digest realm=\"elsewhere\", nonce=\"n\"")] {
        send(world, "INVITE", &format!("call{status}"), "Proxy-Authorization", &mine);
        let invite = world.last("INVITE");
        world.reply(server, &invite, status, &[("Proxy-Authenticate", challenge)], "");
    }
    for number in 0..650 {
        for (status, challenge) in [(407, CHALLENGE), (if number % 2 == 0 { 200 } else { 486 }, "")] {
            send(world, "SUBSCRIBE", &format!("s{number}.{status}"), "Proxy-Authorization", &mine);
            let subscribe = world.last("SUBSCRIBE");
            world.reply(server, &subscribe, status, &[("Proxy-Authenticate", challenge)], "");
        }
        world.sent.clear();
        world.advance(Duration::from_millis(400));
    }
    assert_eq!(told(world).0.len(), 0);
}

/// A phone whose own proof was refused for all that it has sent since its REGISTER.
fn refused_in_everything() -> Through {
    let mut through = proven();
    let world = &mut through.world;
    world.word = Err(7);
    for number in 0..600 {
        send(world, "SUBSCRIBE", &format!("s{number}"), "Proxy-Authorization", &digest("alice"));
        let (server, subscribe) = (world.upstream, world.last("SUBSCRIBE"));
        world.reply(server, &subscribe, 407, &[("Proxy-Authenticate", CHALLENGE)], "");
        world.sent.clear();
    }
    assert_eq!(told(world).0.len(), 0);
    through
}

#[test]
fn a_phones_own_proof_is_asked_about_once_it_was_refused_for_all_that_a_phone_sends_at_once_until_it_is_right() {
    let mine = digest("alice");
    let mut through = refused_in_everything();
    send(&mut through.world, "MESSAGE", "wrong", "Proxy-Authorization", &mine);
    assert_eq!((through.world.count("MESSAGE"), told(&mut through.world).0.len()), (0, 1));
    through.registered(&Register::by(1).header(&format!("Authorization: {mine}")));
    send(&mut through.world, "MESSAGE", "right", "Proxy-Authorization", &mine);
    assert_eq!((through.world.count("MESSAGE"), told(&mut through.world).0.len()), (1, 0), "it is right again");

    for (status, refused, waits) in [(403, false, true), (407, true, true), (200, false, false)] {
        let mut through = refused_in_everything();
        let world = &mut through.world;
        world.word = Ok(());
        send(world, "MESSAGE", "asked", "Proxy-Authorization", &mine);
        let (server, message) = (world.upstream, world.last("MESSAGE"));
        world.reply(server, &message, status, &[("Proxy-Authenticate", CHALLENGE)], "");
        assert_eq!(told(world), (vec!["alice".to_owned()], vec![refused]), "{status}");
        world.word = Err(7);
        send(world, "REFER", "next", "Proxy-Authorization", &mine);
        assert_eq!(world.count("REFER"), usize::from(!waits), "{status}");
    }
}

#[test]
fn nothing_passes_beside_a_phones_own_proof() {
    let mut through = proven();
    let world = &mut through.world;
    world.word = Err(7);
    let proof = format!("{}\r\nAuthorization: Basic eDp5", digest("alice"));
    send(world, "MESSAGE", "beside", "Proxy-Authorization", &proof);
    assert_eq!((world.count("MESSAGE"), told(world).0.len()), (0, 1));
}

#[test]
fn tokens_wait_for_nothing_and_a_register_of_two_users_makes_none_of_them_its_own() {
    let mut through = Through::over(FlowId::Stream(99));
    let both = format!("Authorization: {}\r\nProxy-Authorization: {}", digest("alice"), digest("victim"));
    through.registered(&Register::by(1).header(&both));
    let world = &mut through.world;
    world.word = Err(7);
    send(world, "SUBSCRIBE", "token", "Authorization", "Bearer eyJhbGciOiJub25lIn0.e30.AAAA");
    assert_eq!(world.count("SUBSCRIBE"), 1);
    for user in ["alice", "victim"] {
        send(world, "PUBLISH", user, "Authorization", &digest(user));
    }
    assert_eq!(world.count("PUBLISH"), 0);
}

/// The device has a call; what it sends by a method in its dialog, from an address, with a proof.
fn in_a_call(mut through: Through) -> (Through, impl Fn(&str, &str, &str) -> String) {
    let world = &mut through.world;
    let device = world.device(1);
    world.receive(device, &Begun::new("INVITE").text(1, ""));
    let (server, invite) = (world.upstream, world.last("INVITE"));
    world.reply(server, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
    let answer = world.last("INVITE 200");
    let routes: Vec<_> = values(&answer, Name::RecordRoute).into_iter().rev().collect();
    let to = answer.text(Name::To).unwrap().to_owned();
    let text = move |method: &str, via: &str, proof: &str| {
        let from = "<sip:alice@example.com>;tag=a";
        let proof = format!("Proxy-Authorization: {proof}\r\nContent-Length");
        in_dialog(method, "sip:bob@192.0.2.77", &routes, from, &to, via).replace("Content-Length", &proof)
    };
    (through, text)
}

#[test]
fn in_a_dialog_another_users_proof_waits_likewise_but_what_ends_it_passes_without() {
    let (mut through, text) = in_a_call(registered(&[]));
    let world = &mut through.world;
    let (device, server) = (world.device(1), world.upstream);
    for (method, goes_bare) in [("INFO", false), ("UPDATE", false), ("MESSAGE", false), ("PRACK", true), ("BYE", true)]
    {
        world.word = Err(3);
        world.receive(device, &text(method, "10.0.0.5:9", &digest("victim")));
        let passed = usize::from(goes_bare);
        assert_eq!((world.count(method), world.count(&format!("{method} 503"))), (passed, 1 - passed), "{method}");
        if goes_bare {
            assert!(!world.last(method).has(Name::ProxyAuthorization));
            assert_eq!(told(world).1.len(), 0, "it has no proof");
        }
        world.word = Ok(());
        world.receive(device, &text(method, "10.0.0.5:10", &digest("victim")));
        assert_eq!(world.count(method), passed + 1, "{method}");
        let passed = world.last(method);
        assert!(passed.has(Name::ProxyAuthorization));
        told(world);
        world.reply(server, &passed, 407, &[("Proxy-Authenticate", CHALLENGE)], "");
        assert_eq!(told(world).1, [true], "{method}");
    }
}

/// The other party may be the one who refuses.
#[test]
fn refusals_in_a_dialog_say_nothing_of_a_phones_own_proof() {
    let (mut through, text) = in_a_call(proven());
    let world = &mut through.world;
    let (device, server) = (world.device(1), world.upstream);
    for number in 0..700 {
        world.receive(device, &text("INFO", &format!("10.0.0.5:{}", 1_000 + number), &digest("alice")));
        let info = world.last("INFO");
        world.reply(server, &info, 407, &[("Proxy-Authenticate", CHALLENGE)], "");
        world.sent.clear();
    }
    world.word = Err(7);
    send(world, "MESSAGE", "next", "Proxy-Authorization", &digest("alice"));
    assert_eq!((world.count("MESSAGE"), told(world).0.len()), (1, 0));
}

#[test]
fn an_emergency_call_whose_proof_may_not_pass_goes_without_it() {
    let mut through = proven();
    let world = &mut through.world;
    world.word = Err(7);
    let begun = Begun { uri: "urn:service:sos", ..Begun::new("INVITE") };
    let (device, proof) = (world.device(1), format!("Proxy-Authorization: {}\r\n", digest("other")));
    world.receive(device, &begun.text(1, &proof));
    assert!(!world.last("INVITE").has(Name::ProxyAuthorization));
}
