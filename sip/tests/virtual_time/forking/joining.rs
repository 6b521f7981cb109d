//! Devices that join a binding, and leave it.

use sip::endpoint::*;
use sip::message::Name;

use super::*;
use crate::world::World;

/// A device has joined that is being tried: its REGISTER is under way.
fn trial() -> World {
    let mut world = devices(1);
    join(&mut world, 2, false);
    assert_eq!((world.count("REGISTER"), members(&world)), (1, vec![device(1)]));
    world
}

#[test]
fn a_device_that_joins_proves_its_credentials_by_registering_the_binding_again() {
    let mut world = trial();
    let first = world.last("REGISTER");
    assert!(!first.has(Name::Authorization), "no nonce of another's is used: a wrong password is offered once");
    world.invite("early");
    assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(1)]);
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    assert_eq!(asked(&world), [device(2)]);
    let second = world.last("REGISTER");
    assert_eq!((second.text(Name::Contact), second.call_id()), (first.text(Name::Contact), first.call_id()));
    world.grant(600);
    assert!(
        world.events.iter().any(|event| {
            matches!(event, Event::Registered { instance, refresh: true, .. } if *instance == device(2))
        })
    );
    let mut both = members(&world);
    both.sort_unstable();
    assert_eq!(both, [device(1), device(2)]);
    until_refreshed(&mut world);
    assert!(world.last("REGISTER").text(Name::Authorization).is_some_and(|value| value.contains("nc=00000002")));
    assert_eq!(asked(&world).last(), Some(&device(2)), "whose credentials were accepted last");
}

#[test]
fn a_device_with_a_wrong_password_offers_it_once_and_the_binding_stands_as_it_stood() {
    let mut world = trial();
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    assert!(refused(world.events.last().unwrap(), 2), "{:?}", world.events.last());
    assert!(world.endpoint.is_registered(world.binding));
    assert_eq!(members(&world), [device(1)]);
    world.input(Input::Unbind { instance: device(2), deadline: seconds(3) });
    assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Shared, .. })));
    assert_eq!(world.count("REGISTER"), 2, "and nothing is sent for it any more");
    world.sent.clear();
    world.invite("call-1");
    assert_eq!(world.wakes().len(), 1);
    assert!(until_refreshed(&mut world) > seconds(300), "it is refreshed in its own time");
    world.grant(600);
    assert!(matches!(world.events.last(), Some(Event::Registered { instance, .. }) if *instance == device(1)));
}

/// RFC 7616 §3.4: for a server that takes each count of a nonce once they are one client.
#[test]
fn the_devices_of_a_binding_count_on_with_one_nonce() {
    let count = |world: &World| {
        let register = world.last("REGISTER");
        let answer = register.text(Name::Authorization).unwrap_or_default();
        answer.split("nc=").nth(1).and_then(|nc| nc.get(..8)?.parse::<u32>().ok())
    };
    let challenge = [("WWW-Authenticate", CHALLENGE)];
    let mut world = World::new(FlowId::Datagram(world::server_address()));
    world.bind();
    world.respond(401, &challenge);
    assert_eq!(count(&world), Some(1));
    world.grant(600);
    // One is refused, and one is accepted.
    for (number, expected) in [(2, 2), (3, 3)] {
        join(&mut world, number, false);
        assert_eq!(count(&world), None, "it begins without a nonce");
        world.respond(401, &challenge);
        assert_eq!((count(&world), asked(&world).last()), (Some(expected), Some(&device(number))));
        match number {
            2 => {
                world.respond(403, &[]);
                world.input(Input::Unbind { instance: device(2), deadline: seconds(3) });
            }
            _ => world.grant(600),
        }
    }
    until_refreshed(&mut world);
    assert_eq!(count(&world), Some(4));
    world.respond(503, &[]);
    join(&mut world, 4, false);
    world.respond(401, &challenge);
    assert_eq!(count(&world), Some(5));
    world.respond(403, &[]);
    world.input(Input::Unbind { instance: device(4), deadline: seconds(3) });
    until_refreshed(&mut world);
    assert_eq!(count(&world), Some(6), "the credentials of another one have used the fifth");
}

#[test]
fn a_trial_that_the_server_leaves_unanswered_is_tried_again_after_its_back_off_or_the_next_success() {
    let mut world = trial();
    let backs_off = |event: &Event| match event {
        Event::RegistrationFailed { instance, failure: RegistrationFailure::Retry { after, .. }, .. } => {
            (*instance == device(2)).then_some(*after)
        }
        _ => None,
    };
    world.respond(503, &[]);
    let after = backs_off(world.events.last().unwrap()).unwrap();
    assert!(world.endpoint.is_registered(world.binding));
    assert_eq!(members(&world), [device(1)], "it gets no call before it has proven itself");
    assert!(until_refreshed(&mut world).abs_diff(after) <= seconds(1), "long before the binding is refreshed");
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    assert_eq!(asked(&world), [device(2)]);
    world.respond(503, &[("Retry-After", "3000")]);
    assert!(backs_off(world.events.last().unwrap()).unwrap() > seconds(600));
    assert_eq!(members(&world), [device(1)]);
    until_refreshed(&mut world);
    let before = world.count("REGISTER");
    world.grant(600);
    assert_eq!(world.count("REGISTER"), before + 1, "after the binding's own refresh, the trial");
    world.grant(600);
    assert_eq!(members(&world).len(), 2);
}

#[test]
fn a_device_that_is_vouched_for_gets_the_next_call_and_stays_when_the_one_before_leaves() {
    // While its trial is under way, and while that backs off.
    for answered in [false, true] {
        let mut world = trial();
        if answered {
            world.respond(503, &[]);
        }
        world.input(Input::Vouch(device(2)));
        world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
        assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Shared, .. })));
        assert_eq!(members(&world), [device(2)]);
        world.invite("call-1");
        assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(2)]);
        // One refusal ends nothing: the SIP server has accepted these credentials before.
        until_refreshed(&mut world);
        world.respond(403, &[]);
        assert!(!world.events.iter().any(|event| refused(event, 2)));
        assert_eq!(members(&world), [device(2)]);
    }
}

#[test]
fn a_device_that_is_vouched_for_takes_the_place_of_one_whose_app_is_in_the_foreground() {
    let mut world = devices(1);
    world.input(Input::Suspend(device(1)));
    world.respond(200, &[]);
    join(&mut world, 2, false);
    assert_ne!(world.last("REGISTER").number(Name::Expires), Some(0), "it is registered with its own credentials");
    world.input(Input::Vouch(device(2)));
    world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
    assert_eq!(members(&world), [device(2)]);
    world.respond(403, &[]);
    assert!(!world.events.iter().any(|event| refused(event, 2)));
}

#[test]
fn a_speaker_that_is_refused_gives_way_to_another_device_once_it_is_let_go() {
    let mut world = devices(2);
    for _ in 0..3 {
        let before = world.count("REGISTER");
        while world.count("REGISTER") == before {
            world.advance(seconds(1));
        }
        world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
        world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
        assert!(!world.endpoint.is_registered(world.binding));
    }
    assert!(refused(world.events.last().unwrap(), 1));
    world.sent.clear();
    world.advance(seconds(60));
    assert_eq!(world.count("REGISTER"), 0, "the shell says first who else would offer the same");
    world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
    assert!(!world.last("REGISTER").has(Name::Authorization));
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    assert_eq!(asked(&world).last(), Some(&device(2)));
    world.grant(600);
    assert_eq!(members(&world), [device(2)]);
    assert_ne!(world.last("REGISTER").number(Name::Expires), Some(0));
}

#[test]
fn the_binding_is_unregistered_when_its_last_device_leaves() {
    let mut world = devices(3);
    for number in [2, 1] {
        world.input(Input::Unbind { instance: device(number), deadline: seconds(3) });
        assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Shared, .. })));
        assert_eq!(world.count("REGISTER"), 0);
    }
    assert_eq!(members(&world), [device(3)]);
    world.input(Input::Unbind { instance: device(3), deadline: seconds(3) });
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(0));
    world.respond(200, &[]);
    assert!(matches!(
        world.events.last(),
        Some(Event::Unbound { instance, outcome: Unbinding::Confirmed }) if *instance == device(3)
    ));
    let counts = world.endpoint.counts();
    assert_eq!((counts.bindings, counts.devices, counts.shared, counts.upstreams), (0, 0, 0, 0));
}

#[test]
fn a_device_that_comes_while_the_last_one_is_unregistered_keeps_the_binding() {
    let mut world = devices(1);
    world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
    let gone = world.last("REGISTER");
    join(&mut world, 2, true);
    let ends = |event: &Event| matches!(event, Event::Unbound { instance, outcome: Unbinding::Shared } if *instance == device(1));
    assert!(world.events.iter().any(ends));
    let back = world.last("REGISTER");
    assert_eq!(back.number(Name::Expires), Some(3600));
    assert!(back.cseq().unwrap().0 > gone.cseq().unwrap().0);
    world.grant(600);
    world.advance(seconds(5));
    assert_eq!(members(&world), [device(2)], "the deadline of the other's end means nothing any more");
}

/// The password of who joins may be wrong: then nobody could take the Contact away.
#[test]
fn a_device_that_is_not_proven_comes_behind_the_unregistration_of_the_last_one() {
    for (joins_first, answers) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut world = devices(1);
        if joins_first {
            join_as(&mut world, 2, false, None);
        }
        world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
        if !joins_first {
            join_as(&mut world, 2, false, None);
        }
        assert_eq!(world.last("REGISTER").number(Name::Expires), Some(0));
        assert!(!world.events.iter().any(|event| matches!(event, Event::Unbound { .. })));
        if answers {
            world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
            assert_eq!(asked(&world).last(), Some(&device(1)));
            world.respond(200, &[]);
        } else {
            world.advance(seconds(3));
        }
        let end = world.events.iter().find_map(|event| match event {
            Event::Unbound { instance, outcome } => Some((*instance, *outcome)),
            _ => None,
        });
        let outcome = if answers { Unbinding::Confirmed } else { Unbinding::Unconfirmed };
        assert_eq!(end, Some((device(1), outcome)));
        let first = world.last("REGISTER");
        assert_eq!((first.number(Name::Expires), first.has(Name::Authorization)), (Some(3600), false));
        world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
        assert_eq!(asked(&world).last(), Some(&device(2)));
        assert_eq!(members(&world), [], "until it has proven itself");
        world.grant(600);
        assert!(matches!(world.events.last(), Some(Event::Registered { refresh: false, .. })));
        assert_eq!(members(&world), [device(2)]);
    }
}

#[test]
fn a_binding_that_comes_again_has_another_call_id() {
    let mut world = devices(1);
    let before = {
        world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
        world.last("REGISTER")
    };
    world.respond(200, &[]);
    world.bind();
    let again = world.last("REGISTER");
    assert_eq!(
        again.text(Name::Contact).unwrap().split(';').next(),
        before.text(Name::Contact).unwrap().split(';').next()
    );
    assert_ne!(again.call_id(), before.call_id(), "its CSeq begins anew");
}

#[test]
fn an_app_in_the_foreground_is_not_rung_and_the_binding_is_silent_when_all_are() {
    let mut world = devices(2);
    world.input(Input::Suspend(device(1)));
    assert_eq!((members(&world), world.count("REGISTER")), (vec![device(2)], 0));
    world.invite("call-1");
    assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(2)]);
    world.input(Input::Suspend(device(2)));
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(0));
    world.respond(200, &[]);
    world.input(Input::Resume(device(1)));
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(3600));
    world.grant(600);
    assert_eq!(members(&world), [device(1)]);
    world.sent.clear();
    world.input(Input::Resume(device(2)));
    assert_eq!((world.count("REGISTER"), members(&world).len()), (0, 2));
}

#[test]
fn a_call_that_crosses_the_unregistration_reaches_the_app_in_the_foreground() {
    let mut world = devices(2);
    for number in [1, 2] {
        world.input(Input::Suspend(device(number)));
    }
    world.invite("call-1");
    assert_eq!(world.wakes().len(), 2);
}

#[test]
fn a_trial_is_broken_off_when_its_device_leaves_or_wakes_up() {
    for leaves in [true, false] {
        let mut world = trial();
        world.input(if leaves {
            Input::Unbind { instance: device(2), deadline: seconds(3) }
        } else {
            Input::Suspend(device(2))
        });
        world.sent.clear();
        world.advance(seconds(100));
        assert_eq!(world.count("REGISTER"), 0, "not even a retransmission");
        assert!(world.endpoint.is_registered(world.binding));
        assert_eq!(members(&world), [device(1)]);
    }
}

#[test]
fn devices_that_join_at_once_are_tried_one_after_the_other() {
    let mut world = World::new(sip::id::FlowId::Datagram(world::server_address()));
    world.bind();
    for number in [2, 3] {
        join(&mut world, number, false);
    }
    assert_eq!((world.count("REGISTER"), members(&world)), (1, vec![]));
    for count in 1..=3 {
        assert_eq!(world.count("REGISTER"), count);
        world.grant(600);
        assert_eq!(members(&world).len(), count);
    }
    assert_eq!(world.count("REGISTER"), 3);
}

#[test]
fn a_trial_that_moves_to_another_flow_leaves_nobody_unregistered() {
    let mut world = World::new(sip::id::FlowId::Stream(71));
    world.bind();
    world.grant(600);
    join(&mut world, 2, false);
    world.upstream.flow = sip::id::FlowId::Stream(72);
    world.input(Input::Closed(sip::id::FlowId::Stream(71)));
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    world.respond(401, &[("WWW-Authenticate", CHALLENGE)]);
    assert!(world.events.iter().any(|event| refused(event, 2)));
    world.grant(600);
    assert!(matches!(world.events.last(), Some(Event::Registered { instance, .. }) if *instance == device(1)));
}

#[test]
fn an_expected_call_wakes_no_device_that_has_not_proven_itself() {
    let mut world = trial();
    let expect = |number| Input::ExpectCall {
        instance: device(number),
        from: "sip:bob@example.com".into(),
        name: None,
        wait: seconds(30),
    };
    world.input(expect(2));
    assert!(
        world.wakes().is_empty() && world.endpoint.expected_call(world.now, device(2), "sip:bob@example.com").is_none()
    );
    world.input(expect(1));
    assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(1)]);
}

#[test]
fn no_call_is_announced_to_an_app_in_the_foreground_whether_another_one_is_in_the_background_or_not() {
    let mut world = devices(2);
    let expect = |number| Input::ExpectCall {
        instance: device(number),
        from: "sip:bob@example.com".into(),
        name: None,
        wait: seconds(30),
    };
    world.input(Input::Suspend(device(2)));
    assert_eq!([1, 2].map(|number| world.endpoint.is_announced_to(device(number))), [true, false]);
    world.input(expect(2));
    assert!(world.wakes().is_empty());
    world.input(Input::Suspend(device(1)));
    world.input(expect(1));
    assert!(world.wakes().is_empty() && !world.endpoint.is_announced_to(device(1)));
    world.input(Input::Resume(device(1)));
    world.input(expect(1));
    assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(1)]);
}

#[test]
fn a_device_whose_app_comes_to_the_foreground_before_an_expected_call_stops_ringing() {
    let mut world = devices(2);
    for number in [1, 2] {
        world.input(Input::ExpectCall {
            instance: device(number),
            from: "sip:bob@example.com".into(),
            name: None,
            wait: seconds(30),
        });
    }
    world.input(Input::Suspend(device(2)));
    world.invite("a");
    let ended = |number| {
        let state = world.events.iter().rev().find_map(|event| match event {
            Event::Call { instance, state, .. } if *instance == device(number) => Some(*state),
            _ => None,
        });
        state.is_some_and(CallState::is_final)
    };
    assert_eq!((ended(1), ended(2)), (false, true));
}
