//! Refusals of a registration: which are final, which are tried again, and when.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};

use crate::registration::{MD5, begun, is_pause};
use crate::world::{REGISTRAR, World, seconds};

#[test]
fn an_account_that_was_registered_is_refused_for_good_by_the_third_refusal_in_a_row_and_asked_for_until_it_is_unbound()
{
    let refused = 403;
    let mut world = begun();
    world.grant(600);
    for pause in [600, 3_600] {
        world.next_register();
        world.respond(refused, &[]);
        assert!(is_pause(&world, refused, pause), "{:?}", world.failure());
    }
    for _ in 0..3 {
        world.next_register();
        world.respond(refused, &[]);
        let failure = world.failure().unwrap();
        assert!(failure.is_final(), "{failure:?}");
        // As long as the shell does not unbind it, it is asked for again.
        assert!(
            matches!(failure, RegistrationFailure::CredentialsRefused { status, in_a_row: REFUSALS_MAX, after }
                if status == refused && after >= Duration::from_secs(3_600)),
            "{failure:?}"
        );
    }
    world.next_register();
    world.grant(600);
    world.next_register();
    world.respond(refused, &[]);
    assert!(is_pause(&world, refused, 600), "{:?}", world.failure());
}

/// The next REGISTER is answered so; the wait that follows.
fn put_off_by(world: &mut World, status: u16, headers: &[(&str, &str)]) -> Duration {
    world.next_register();
    world.respond(status, headers);
    match world.failure() {
        Some(RegistrationFailure::Retry { status: Some(told), after }) if told == status => after,
        other => panic!("{status}: {other:?}"),
    }
}

/// A server that loads its users anew says so of each, and one that has other challenges than before has refused nothing.
#[test]
fn an_account_that_was_registered_and_is_unknown_or_has_no_answer_is_asked_for_seldom_and_for_ever() {
    let challenge = &[("WWW-Authenticate", MD5)][..];
    for (status, headers) in [(404, &[][..]), (604, &[]), (401, challenge), (407, &[("Proxy-Authenticate", MD5)])] {
        let mut world = begun();
        world.grant(600);
        world.hashes.clear();
        let once = put_off_by(&mut world, status, headers).as_secs();
        assert!((60..=66).contains(&once), "{status}: {once} s");
        let mut waits: Vec<_> = (0..20).map(|_| put_off_by(&mut world, status, headers).as_secs()).collect();
        assert!(waits.iter().all(|wait| (600..=3_600).contains(wait)), "{status}: {waits:?}");
        assert!(waits.split_off(10).iter().all(|wait| *wait >= 1_800), "{status}");
        // Refusals before it are not in a row with those after it.
        world.next_register();
        world.grant(600);
        for refused in [403, status, 403, status, 403] {
            world.next_register();
            world.respond(refused, if refused == status { headers } else { &[] });
            assert!(!world.failure().unwrap().is_final(), "{status}");
        }
        world.next_register();
        world.grant(600);
    }
}

#[test]
fn what_another_server_had_refused_is_asked_of_the_one_that_has_taken_its_place_at_once() {
    for refused in [403, 404] {
        let mut world = begun();
        world.grant(600);
        for _ in 0..2 {
            world.next_register();
            world.respond(refused, &[]);
        }
        let before = world.count("REGISTER");
        world.advance(Duration::from_secs(60));
        world.input(Input::UpstreamReplaced(REGISTRAR));
        world.advance(Duration::from_millis(200));
        assert_eq!(world.count("REGISTER") - before, 1, "{refused}");
        world.respond(403, &[]);
        assert!(is_pause(&world, 403, 600), "the first of its own: {:?}", world.failure());
        // One that stands goes on.
        world.next_register();
        world.grant(600);
        let before = world.count("REGISTER");
        world.input(Input::UpstreamReplaced(REGISTRAR));
        world.advance(Duration::from_millis(200));
        assert_eq!(world.count("REGISTER"), before);
    }
}

#[test]
fn refusals_with_a_success_between_them_are_not_in_a_row() {
    let mut world = begun();
    world.grant(600);
    for _ in 0..4 {
        world.next_register();
        world.respond(403, &[]);
        assert!(is_pause(&world, 403, 600), "{:?}", world.failure());
        world.next_register();
        world.grant(600);
    }
}

#[test]
fn a_refresh_that_fails_otherwise_ends_no_account() {
    for status in [400, 402, 405, 410, 416, 420, 477, 481, 488, 503, 600, 603, 606] {
        let mut world = begun();
        world.grant(600);
        for _ in 0..6 {
            world.next_register();
            world.respond(status, &[]);
            let failure = world.failure();
            assert!(matches!(failure, Some(RegistrationFailure::Retry { status: Some(it), .. }) if it == status));
        }
    }
}

#[test]
fn a_first_registration_is_refused_at_once() {
    for status in [400, 403, 404, 410, 477, 604] {
        let mut world = begun();
        world.respond(status, &[]);
        assert_eq!(world.failure(), Some(RegistrationFailure::Refused { status }));
    }
}

#[test]
fn a_registration_whose_way_is_free_is_tried_again_at_once_unless_its_server_has_named_the_time() {
    for (status, headers, tries) in [(503, &[][..], 1), (500, &[], 1), (503, &[("Retry-After", "20")], 0)] {
        let mut world = begun();
        world.respond(status, headers);
        let before = world.count("REGISTER");
        world.input(Input::RetryNow(world.instance));
        world.advance(Duration::from_millis(200));
        assert_eq!(world.count("REGISTER") - before, tries, "{status} {headers:?}");
        world.input(Input::RetryNow(world.instance));
        world.advance(Duration::from_millis(200));
        assert_eq!(world.count("REGISTER") - before, tries, "one that is under way is left alone");
    }
    // Refused credentials are not shown again before their time.
    let mut world = World::registered();
    let registered = world.next_register();
    let source = world.upstream;
    world.reply(source, &registered, 403, &[], "");
    assert!(is_pause(&world, 403, 600));
    let before = world.count("REGISTER");
    world.input(Input::RetryNow(world.instance));
    world.advance(Duration::from_millis(200));
    assert_eq!(world.count("REGISTER"), before);
}

#[test]
fn what_another_relay_may_have_unregistered_is_registered_again_at_once_and_counts_as_registered_meanwhile() {
    let mut world = World::registered();
    let before = world.count("REGISTER");
    for _ in 0..2 {
        world.input(Input::RegisterAgain(world.instance));
        world.advance(Duration::from_millis(200));
        assert_eq!(world.count("REGISTER") - before, 1, "one that is under way is left alone");
    }
    assert!(world.endpoint.is_registered(world.binding));
    world.grant(600);
    assert_eq!(world.failure(), None);
    // One whose app is in the foreground stays silent.
    world.input(Input::Suspend(world.instance));
    world.grant(0);
    let before = world.count("REGISTER");
    world.input(Input::RegisterAgain(world.instance));
    world.advance(Duration::from_millis(200));
    assert_eq!(world.count("REGISTER"), before);
}

#[test]
fn refused_credentials_are_not_shown_sooner_because_the_app_changes_its_presence() {
    let mut world = begun();
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.grant(600);
    world.next_register();
    world.respond(403, &[]);
    let sent = world.count("REGISTER");
    for _ in 0..5 {
        let instance = world.instance;
        world.input(sip::endpoint::Input::Suspend(instance));
        world.input(sip::endpoint::Input::Resume(instance));
    }
    assert_eq!(world.count("REGISTER"), sent, "{:?}", world.descriptions());
    world.next_register();
}

/// Its server's trouble shall not cost a user the account because the app changed its presence at that moment.
#[test]
fn a_refusal_that_crosses_a_change_of_presence_is_one_of_three() {
    let mut world = begun();
    world.grant(600);
    let instance = world.instance;
    world.input(sip::endpoint::Input::Suspend(instance));
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    world.input(sip::endpoint::Input::Resume(instance));
    world.respond(401, &[("WWW-Authenticate", MD5)]);
    assert!(is_pause(&world, 401, 600), "{:?} {:?}", world.failure(), world.descriptions());
    world.next_register();
    world.grant(600);
}

/// No credentials were refused: none were asked for in a way that anybody could answer.
#[test]
fn a_refresh_that_is_challenged_without_a_challenge_ends_no_account() {
    for challenge in [
        None,
        Some("Basic realm=\"r\""),
        Some("Digest realm=\"r\""),
        Some("Digest realm=\"r\", nonce=\"n\", algorithm=X"),
    ] {
        for (status, name) in [(401, "WWW-Authenticate"), (407, "Proxy-Authenticate")] {
            let mut world = begun();
            world.grant(600);
            for _ in 0..6 {
                world.next_register();
                let headers: Vec<_> = challenge.map(|value| (name, value)).into_iter().collect();
                world.respond(status, &headers);
                let failure = world.failure();
                assert!(
                    matches!(failure, Some(RegistrationFailure::Retry { status: Some(it), .. }) if it == status),
                    "{challenge:?}: {failure:?}"
                );
            }
        }
    }
}

/// A registrar with room for one Contact has none yet for an account that another node had, whose Contact it knows under another URI. Nothing is wrong with
/// that server, and another account that it grants tells nothing about that room.
#[test]
fn a_contact_too_many_leaves_no_address_and_does_not_begin_sooner_because_another_account_is_granted() {
    let mut world = World::new(FlowId::Stream(71));
    let hosts = ContactHosts { udp: "u:1".into(), tcp: "t:1".into(), tls: "gone:2".into() };
    world.input(Input::Bind(Box::new(NewBinding {
        binding: world.binding,
        instance: world.instance,
        aor: "sip:alice@example.com".into(),
        registrar: "sip:example.com".into(),
        upstream: REGISTRAR,
        sip_instance: [0xab; 16],
        presence: Presence::Background,
        proven: true,
        same_as: None,
        taken_from: vec![hosts.into()],
    })));
    let granted = [("Contact", "<sip:another@192.0.2.1>")];
    for answers in [&[401, 403, 403][..], &[200, 403]] {
        if world.failure().is_some() {
            world.next_register();
        }
        for status in answers {
            let headers: &[_] = if *status == 401 { &[("WWW-Authenticate", MD5)] } else { &granted };
            world.respond(*status, headers);
        }
        let failure = world.failure();
        assert!(matches!(failure, Some(RegistrationFailure::Retry { status: Some(403), .. })), "{failure:?}");
        assert_eq!((world.dialled, &world.closed[..]), (1, &[][..]));
    }
    let waits = world.count("REGISTER");
    world.bind_another(BindingId::new(7 << 64, ShardTag(0)), InstanceId::new(7 << 80, ShardTag(0)));
    world.advance(seconds(1));
    assert_eq!(world.count("REGISTER"), waits + 1);
    world.grant(600);
    world.advance(seconds(5));
    assert_eq!(world.count("REGISTER"), waits + 1, "its room comes with time");
}
