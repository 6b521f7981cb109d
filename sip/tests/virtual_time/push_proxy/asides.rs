//! A further address of a SIP server to which single REGISTERs go, while others are served by the flow in use.

use std::time::Duration;

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use super::failover::{FIRST, NEXT, THIRD, asked, challenge_by, judged, of, proof, refuse, registered};
use super::through::Through;
use crate::world::World;

/// A lent account and phones are registered by the first address; their dials lead to the next one.
fn beside_a_lent_account(phones: u64) -> Through {
    let mut through = registered(0);
    through.world.upstream.flow = FIRST;
    through.world.bind();
    through.world.grant(3600);
    (1..=phones).for_each(|phone| drop(through.registered(&of(phone))));
    through.world.upstream.flow = NEXT;
    through.world.avoided.clear();
    through.world.sent.clear();
    through
}

#[test]
fn a_phone_beside_others_that_its_server_refuses_is_registered_by_a_further_address_and_nobody_moves() {
    for (phones, phone, status) in [(1, 1, 503), (1, 1, 430), (0, 1, 503), (2, 3, 503)] {
        let mut through = beside_a_lent_account(phones);
        let server = through.server;
        for round in 1..=3 {
            through.register(&of(phone));
            refuse(&mut through, status);
            assert_eq!(asked(&through, NEXT).len(), round, "{phones} {status}");
            let (register, next) = (asked(&through, NEXT).pop().unwrap(), through.world.upstream);
            through.accept_this(&register, 600);
            assert_eq!(next.flow, NEXT);
            assert_eq!(through.world.count("REGISTER 200"), round);
            through.advance(5);
        }
        assert_eq!(
            (through.world.count(&format!("REGISTER {status}")), through.world.dialled),
            (0, 2),
            "{phones} {status}"
        );
        assert_eq!(through.world.for_one, 1, "no other shard takes the address for a bad one");
        assert_eq!(through.world.endpoint.flow_to(server), Some(FIRST));
        assert!(through.world.endpoint.is_registered(through.world.binding) && through.world.closed.is_empty());
        // Its flow is closed when no call by it can need an answer any more.
        through.advance(400);
        assert_eq!(through.world.closed, [NEXT]);
    }
}

#[test]
fn a_refusal_by_a_further_address_too_or_without_any_goes_to_the_phone_and_none_is_dialled_for_a_while() {
    let mut through = beside_a_lent_account(1);
    for _ in 0..10 {
        through.register(&of(1));
        refuse(&mut through, 503);
        let (register, next) = (asked(&through, NEXT).pop().unwrap(), through.world.upstream);
        through.world.reply(next, &register, 503, &[("Retry-After", "7")], "");
        through.advance(1);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.dialled), (10, 2));
    // None is there.
    let mut through = beside_a_lent_account(1);
    through.world.elsewhere = false;
    for _ in 0..10 {
        through.register(&of(1));
        refuse(&mut through, 503);
        through.advance(1);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.dialled), (10, 2));
    assert_eq!((through.world.closed.as_slice(), asked(&through, NEXT).len()), (&[NEXT][..], 0));
    // None can be dialled.
    let mut through = beside_a_lent_account(1);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(through.world.count("REGISTER 503"), 0);
    let server = through.server;
    through.world.input(Input::DialFailed(server));
    assert_eq!(through.world.count("REGISTER 503"), 1);
}

#[test]
fn a_flow_to_a_further_address_that_ends_hands_on_the_refusal_and_is_dialled_anew() {
    let mut through = beside_a_lent_account(1);
    through.register(&of(1));
    refuse(&mut through, 503);
    through.world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5061".parse().unwrap() });
    through.world.input(Input::Closed(NEXT));
    assert_eq!(through.world.count("REGISTER 503"), 1);
    assert_eq!(asked(&through, FIRST).len(), 1, "those that stand there are not disturbed");
    through.advance(33);
    through.world.upstream.flow = THIRD;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!(asked(&through, THIRD).len(), 1);
}

/// How many proofs the shell was told to be in doubt, and what it was told of others, since.
fn doubted_and_judged(through: &mut Through) -> (usize, Vec<bool>) {
    let is_doubt = |event: &&Event| matches!(event, Event::RegisterEnded { in_doubt: true, proof: None, .. });
    (through.world.events.iter().filter(is_doubt).count(), judged(through))
}

#[test]
fn a_proof_for_a_nonce_that_the_further_address_knows_counts_and_any_other_is_in_doubt() {
    let mut through = beside_a_lent_account(1);
    judged(&mut through);
    // The phone has nonces of the first address, of which the further one knows nothing.
    for said in 1..=4 {
        through.register(&of(1).header(&proof(&format!("of-the-first-{said}"))));
        refuse(&mut through, 503);
        challenge_by(&mut through, NEXT, &format!("of-the-next-{said}"));
        assert_eq!((through.world.count("REGISTER 401"), through.world.count("REGISTER 503")), (said, 0));
        through.advance(2);
    }
    assert_eq!((doubted_and_judged(&mut through), through.world.closed.len()), ((4, vec![]), 0));
    // One that it has refused that account, and not another one. The connection has no more of either.
    for (phone, doubted, counted) in [(3, 1, &[][..]), (1, 0, &[false])] {
        through.register(&of(phone).header(&proof("of-the-first-1")));
        refuse(&mut through, 503);
        challenge_by(&mut through, NEXT, "one-more");
        assert_eq!(doubted_and_judged(&mut through), (doubted, counted.to_vec()), "{phone}");
    }
    assert_eq!(through.world.closed, [FlowId::Stream(1)]);
    // Somebody guesses by another connection with what the further address has given.
    for guess in 1..=5 {
        through.register(&of(2).header(&proof("of-the-next-1")));
        refuse(&mut through, 503);
        challenge_by(&mut through, NEXT, "another");
        assert_eq!(through.world.count("REGISTER 401"), 6 + guess, "the owner hears what is wrong");
        through.advance(2);
    }
    assert_eq!(doubted_and_judged(&mut through), (0, vec![false; 5]));
    assert_eq!(through.world.closed, [1, 2].map(FlowId::Stream));
}

#[test]
fn a_phone_whose_proofs_are_taken_in_the_end_keeps_its_connection() {
    let mut through = beside_a_lent_account(1);
    for said in 1..=8 {
        through.register(&of(1).header(&proof(&format!("of-the-first-{said}"))));
        refuse(&mut through, 503);
        challenge_by(&mut through, NEXT, &format!("of-the-next-{said}"));
        through.register(&of(1).header(&proof(&format!("of-the-next-{said}"))));
        refuse(&mut through, 503);
        let register = asked(&through, NEXT).pop().unwrap();
        through.accept_this(&register, 600);
        assert_eq!(through.world.count("REGISTER 200"), said);
        through.advance(5);
    }
    assert!(through.world.closed.is_empty());
    // The first address serves again: the phone has a nonce of the other one.
    judged(&mut through);
    for (nonce, told) in [("of-the-next-8", (1, vec![])), ("of-nobody", (0, vec![false]))] {
        through.register(&of(1).header(&proof(nonce)));
        challenge_by(&mut through, FIRST, "of-the-first");
        assert_eq!(doubted_and_judged(&mut through), told, "{nonce}");
    }
}

#[test]
fn a_further_address_that_drops_what_one_phone_sends_is_there_for_all_others() {
    let mut through = beside_a_lent_account(1);
    through.register(&of(3));
    refuse(&mut through, 503);
    for _ in 0..2 {
        through.advance(4);
        through.register(&of(1));
        refuse(&mut through, 503);
        let register = asked(&through, NEXT).pop().unwrap();
        through.accept_this(&register, 600);
    }
    assert_eq!((through.world.count("REGISTER 503"), through.world.count("REGISTER 200")), (1, 2));
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, NEXT).len(), through.world.dialled), (4, 2));
}

#[test]
fn a_further_address_that_goes_on_with_a_register_has_longer_for_it() {
    for (provisional, ends) in [(false, 8), (true, 16)] {
        let mut through = beside_a_lent_account(1);
        through.register(&of(1));
        refuse(&mut through, 503);
        let (register, next) = (asked(&through, NEXT).pop().unwrap(), through.world.upstream);
        if provisional {
            through.world.reply(next, &register, 100, &[], "");
        }
        through.advance(ends - 1);
        assert_eq!(through.world.count("REGISTER 503"), 0, "{provisional}");
        through.advance(1);
        assert_eq!(through.world.count("REGISTER 503"), 1, "{provisional}");
    }
}

#[test]
fn a_register_that_its_device_follows_up_while_it_waits_is_not_sent_to_the_further_address() {
    let mut through = beside_a_lent_account(1);
    through.world.dial = false;
    through.register(&of(1));
    refuse(&mut through, 503);
    through.register(&of(1).expires(0));
    let removal = asked(&through, FIRST).pop().unwrap();
    let upstream = through.server;
    through.world.upstream.flow = FIRST;
    through.accept_this(&removal, 0);
    through.world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5061".parse().unwrap() });
    through.world.input(Input::UpstreamAddressChanged(upstream));
    through.world.input(Input::Dialled { upstream, flow: NEXT, transport: Transport::Tls });
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (0, 1));
}

#[test]
fn a_further_address_that_is_silent_hands_on_the_refusal_soon_and_is_asked_no_more_for_a_while() {
    let mut through = beside_a_lent_account(1);
    through.register(&of(1));
    refuse(&mut through, 503);
    through.advance(7);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0));
    through.advance(1);
    assert_eq!(through.world.last("REGISTER 503").text(Name::RetryAfter), Some("5"), "its server's own");
    through.world.upstream.flow = THIRD;
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((through.world.count("REGISTER 503"), through.world.dialled), (2, 2));
    assert_eq!((asked(&through, NEXT).len(), through.world.closed.len()), (1, 0), "calls may come by it");
    through.advance(33);
    through.register(&of(1));
    refuse(&mut through, 503);
    assert_eq!((asked(&through, THIRD).len(), through.world.count("REGISTER 503")), (1, 2));
}

#[test]
fn a_register_that_is_under_way_when_the_further_flow_is_closed_in_its_time_has_its_refusal_at_once() {
    let mut through = beside_a_lent_account(1);
    for _ in 0..200 {
        through.register(&of(1));
        refuse(&mut through, 503);
        through.advance(2);
        if !through.world.closed.is_empty() {
            break;
        }
        let register = asked(&through, NEXT).pop().unwrap();
        through.accept_this(&register, 600);
        assert_eq!(through.world.count("REGISTER 503"), 0);
    }
    assert_eq!((through.world.closed.as_slice(), through.world.count("REGISTER 503")), (&[NEXT][..], 1));
}

#[test]
fn phones_that_wait_for_the_further_address_go_there_each_in_its_turn() {
    let mut through = Through::over(FIRST);
    let policy = UpstreamPolicy { registrations_per_second: 10, ..UpstreamPolicy::default() };
    through.world = World::with_policy(FIRST, policy);
    through.world.bind();
    through.world.grant(3600);
    through.world.dial = false;
    for phone in 1..=4 {
        through.world.advance(Duration::from_millis(200));
        through.register(&of(phone));
        refuse(&mut through, 503);
    }
    let upstream = through.server;
    through.world.input(Input::LeadsTo { flow: NEXT, address: "192.0.2.11:5061".parse().unwrap() });
    through.world.input(Input::UpstreamAddressChanged(upstream));
    through.world.input(Input::Dialled { upstream, flow: NEXT, transport: Transport::Tls });
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (1, 0));
    through.advance(1);
    assert_eq!((asked(&through, NEXT).len(), through.world.count("REGISTER 503")), (4, 0));
}
