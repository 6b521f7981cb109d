//! Registrations that are granted for a minute or so, as by servers that serve phones behind NAT, in virtual time.
//!
//! Invariant: a refresh that fails once costs no call: the next one comes while the Contact stands.

use sip::id::FlowId;
use sip::message::Name;

use crate::world::{World, seconds};

/// A world whose binding has sent its first REGISTER, by a stream: nothing is repeated.
fn begun() -> World {
    let mut world = World::new(FlowId::Stream(1));
    world.bind();
    world
}

/// A world whose refresh is under way after it was granted so many seconds, and the seconds that are left of these.
fn refreshing(granted: u32) -> (World, u64) {
    let mut world = begun();
    world.grant(granted);
    let granted_at = world.now;
    world.next_register();
    let left = granted_at + seconds(granted.into()) - world.now;
    (world, left.as_secs())
}

#[test]
fn a_refresh_that_is_refused_once_comes_again_while_the_contact_stands() {
    for granted in [20, 60, 120, 180, 600] {
        for status in [302, 400, 408, 423, 429, 480, 488, 500, 503, 504, 600] {
            for retry_after in [None, Some("1")] {
                let (mut world, left) = refreshing(granted);
                let headers: Vec<_> = retry_after.map(|value| ("Retry-After", value)).into_iter().collect();
                world.respond(status, &headers);
                let sent = world.count("REGISTER");
                world.advance(seconds(left));
                assert!(world.count("REGISTER") > sent, "{status} to a refresh of {granted} s");
            }
        }
    }
}

#[test]
fn a_refresh_that_is_refused_is_no_storm_and_no_sooner_than_its_server_says() {
    let (mut world, _) = refreshing(600);
    world.respond(503, &[]);
    let sent = world.count("REGISTER");
    world.advance(seconds(14));
    assert_eq!(world.count("REGISTER"), sent, "where there is time it backs off as ever");
    let (mut world, left) = refreshing(60);
    world.respond(503, &[("Retry-After", "25")]);
    let sent = world.count("REGISTER");
    world.advance(seconds(left.max(24)));
    assert_eq!(world.count("REGISTER"), sent);
    // Each further failure backs off.
    let (mut world, _) = refreshing(60);
    world.respond(503, &[]);
    world.next_register();
    world.respond(503, &[]);
    let sent = world.count("REGISTER");
    world.advance(seconds(14));
    assert_eq!(world.count("REGISTER"), sent);
    // And of nothing that stands there is no hurry.
    let mut world = begun();
    world.respond(503, &[]);
    world.advance(seconds(14));
    assert_eq!(world.count("REGISTER"), 1);
}

#[test]
fn a_refresh_that_is_not_answered_or_loses_its_flow_comes_again_while_the_contact_stands() {
    let (mut world, left) = refreshing(300);
    world.advance(seconds(left));
    let last = world.last("REGISTER").cseq().map(|(number, _)| number);
    assert_eq!(last, Some(3), "another than the one that was silent");
    let mut world = begun();
    world.grant(20);
    world.next_register();
    let sent = world.count("REGISTER");
    world.upstream.flow = FlowId::Stream(2);
    world.input(sip::endpoint::Input::Closed(FlowId::Stream(1)));
    assert_eq!(world.count("REGISTER"), sent + 1);
    assert_eq!(world.last("REGISTER").number(Name::Expires), Some(600));
}
