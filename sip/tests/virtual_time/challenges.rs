//! Challenges of odd servers, in virtual time.

use sip::endpoint::*;
use sip::message::{Message, Name};

use crate::registration::begun;

fn nc(register: &Message, nonce: &str) -> Option<String> {
    let answer = register.text(Name::Authorization)?;
    let nc = answer.split("nc=").nth(1)?.get(..8)?.to_owned();
    answer.contains(&format!("nonce=\"{nonce}\"")).then_some(nc)
}

/// RFC 7616 §3.4; two registrars stand behind one name.
#[test]
fn a_nonce_that_comes_back_after_another_one_is_counted_on() {
    let challenge = |nonce: &str| format!("Digest realm=\"example.com\", nonce=\"{nonce}\", qop=\"auth\"");
    let mut world = begun();
    let mut counts = Vec::new();
    for nonce in ["a", "b", "a", "b", "c", "a", "b"] {
        let register = world.last("REGISTER");
        counts.extend(register.text(Name::Authorization).map(|_| 0));
        world.respond(401, &[("WWW-Authenticate", &challenge(nonce))]);
        let register = world.last("REGISTER");
        counts.push(nc(&register, nonce).unwrap().parse().unwrap());
        world.grant(600);
        world.next_register();
    }
    // Each is shown once more with the next refresh, before the other one asks.
    assert_eq!(counts, [1, 0, 1, 0, 3, 0, 3, 0, 1, 0, 5, 0, 5]);
    // The nonce of a 2xx, too.
    world.respond(200, &[("Authentication-Info", "nextnonce=\"c\"")]);
    assert_eq!(nc(&world.next_register(), "c").as_deref(), Some("00000003"));
}

#[test]
fn eight_registrars_behind_one_name_take_turns_each_with_its_own_nonce() {
    let mut world = begun();
    for round in 0..3 {
        for registrar in 0..8 {
            let nonce = format!("nonce-{registrar}");
            world
                .respond(401, &[("WWW-Authenticate", &format!("Digest realm=\"r\", nonce=\"{nonce}\", qop=\"auth\""))]);
            let count = format!("{:08}", 2 * round + 1);
            assert_eq!(nc(&world.last("REGISTER"), &nonce), Some(count), "{registrar} in round {round}");
            world.grant(600);
            world.next_register();
        }
    }
}

/// RFC 7616 §3.4: where each count is taken once, a count that begins anew is refused as a replay.
#[test]
fn a_nonce_whose_answer_was_refused_is_counted_on() {
    let challenge = [("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"")];
    // Once forbidden, once asked again by the nonce that was just answered, and once without an answer of the shell.
    for refuse in [403, 401] {
        let mut world = begun();
        world.respond(401, &challenge);
        world.grant(600);
        for before in [1, 4] {
            assert_eq!(nc(&world.next_register(), "n"), Some(format!("{:08}", before + 1)));
            world.respond(refuse, &challenge);
            let asked = u32::from(refuse == 401);
            if refuse == 401 {
                assert_eq!(nc(&world.last("REGISTER"), "n"), Some(format!("{:08}", before + 2)));
                world.respond(401, &challenge);
            }
            assert!(matches!(world.failure(), Some(RegistrationFailure::CredentialsRefused { in_a_row: 1, .. })));
            assert!(
                !world.next_register().has(Name::Authorization),
                "{refuse}: the next attempt begins without a nonce"
            );
            world.respond(401, &challenge);
            assert_eq!(nc(&world.last("REGISTER"), "n"), Some(format!("{:08}", before + 2 + asked)));
            world.grant(600);
            if refuse == 401 {
                break;
            }
            // The second time round counts on from here.
            assert_eq!(nc(&world.next_register(), "n"), Some(format!("{:08}", before + 3)));
            world.grant(600);
        }
    }
}

/// Not every server answers an old nonce with 401.
#[test]
fn a_nonce_whose_answer_was_turned_down_in_another_way_is_shown_again_only_when_it_is_asked_for() {
    for status in [400, 404, 410, 488, 604] {
        let mut world = begun();
        world.respond(401, &[("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"")]);
        world.grant(600);
        assert_eq!(nc(&world.next_register(), "n").as_deref(), Some("00000002"));
        world.respond(status, &[]);
        assert!(!world.next_register().has(Name::Authorization), "{status}");
        world.respond(401, &[("WWW-Authenticate", "Digest realm=\"example.com\", nonce=\"m\", qop=\"auth\"")]);
        assert_eq!(nc(&world.last("REGISTER"), "m").as_deref(), Some("00000001"));
        world.grant(600);
        assert_eq!(nc(&world.next_register(), "m").as_deref(), Some("00000002"));
    }
}

#[test]
fn a_challenge_in_the_header_of_the_other_status_is_answered_as_it_is_meant() {
    let challenge = "Digest realm=\"example.com\", nonce=\"n\", qop=\"auth\"";
    for (status, header, answered, other) in [
        (401, "Proxy-Authenticate", Name::ProxyAuthorization, Name::Authorization),
        (407, "WWW-Authenticate", Name::Authorization, Name::ProxyAuthorization),
    ] {
        let mut world = begun();
        world.respond(status, &[(header, challenge)]);
        let register = world.last("REGISTER");
        assert!(register.has(answered) && !register.has(other), "{status} {header}");
        // It is the same challenge, and a wrong password is shown once.
        world.respond(status, &[(header, challenge)]);
        assert_eq!(world.count("REGISTER"), 2);
        assert!(matches!(world.failure(), Some(RegistrationFailure::Refused { .. })), "{:?}", world.failure());
        let mut world = begun();
        world.respond(status, &[(header, challenge)]);
        world.grant(600);
        let refresh = world.next_register();
        assert!(refresh.text(answered).unwrap().contains("nc=00000002"));
        // Where both have one, that of the status is meant.
        let mut world = begun();
        let own = if status == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
        world.respond(status, &[(header, challenge), (own, challenge)]);
        assert!(world.last("REGISTER").has(other));
    }
}
