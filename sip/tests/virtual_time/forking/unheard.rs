//! A device whose connection breaks before anything was heard of the INVITE that it was sent there: it may ring by it, or know nothing of it.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::reconnecting::{branch, branches, branches_by, cancel, come_back, reply};
use super::*;
use crate::world::World;

/// The device has come before the call or has been woken for it, and is sent the INVITE by flow 1. Its connection has ended, or nobody knows yet.
pub(super) fn unheard(woken: bool, noticed: bool) -> (World, Message) {
    let mut world = devices(1);
    if woken {
        world.invite("call-1");
        attach(&mut world, 1);
    } else {
        attach(&mut world, 1);
        world.invite("call-1");
    }
    let first = to_device(&world, 1, "INVITE");
    lose(&mut world, noticed);
    (world, first)
}

fn lose(world: &mut World, noticed: bool) {
    if noticed {
        world.input(Input::Closed(FlowId::Stream(1)));
    }
    world.sent.clear();
}

pub(super) fn each() -> impl Iterator<Item = (bool, bool)> {
    [true, false].into_iter().flat_map(|woken| [true, false].map(|noticed| (woken, noticed)))
}

#[test]
fn a_phone_whose_180_was_lost_with_its_connection_rings_on_and_answers_by_the_next_one() {
    for (woken, noticed) in each() {
        for copy in [482, 486] {
            for says_copy_first in [true, false] {
                for (status, state) in [(200, CallState::Answered), (486, CallState::Declined)] {
                    let told = format!("{woken} {noticed} {copy} {says_copy_first} {status}");
                    let (mut world, first) = unheard(woken, noticed);
                    let second = come_back(&mut world);
                    let says = |world: &mut World, copies: bool| {
                        if copies { reply(world, &second, copy, "copy") } else { reply(world, &first, 180, "one") }
                    };
                    says(&mut world, says_copy_first);
                    says(&mut world, !says_copy_first);
                    world.advance(seconds(60));
                    assert_eq!((finals(&world), branches(&world, "CANCEL")), (vec![], vec![]), "{told}");
                    reply(&mut world, &first, status, "one");
                    assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]), "{told}");
                    assert_eq!(world.count("BYE"), 0, "{told}");
                }
            }
        }
    }
}

#[test]
fn a_phone_that_says_that_it_has_the_call_is_believed_without_a_180() {
    for (woken, noticed) in each() {
        let (mut world, first) = unheard(woken, noticed);
        let second = come_back(&mut world);
        reply(&mut world, &second, 482, "copy");
        world.advance(seconds(20));
        assert_eq!(world.wakes().len(), usize::from(woken || noticed), "a push would tell it nothing");
        reply(&mut world, &first, 200, "one");
        assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));

        // The device may be sent a CANCEL, for it has the INVITE (RFC 3261 §9.1).
        let (mut world, first) = unheard(woken, noticed);
        let second = come_back(&mut world);
        reply(&mut world, &second, 482, "copy");
        cancel(&mut world);
        assert_eq!((branches(&world, "CANCEL"), finals(&world)), (vec![branch(&first)], vec![]));
        reply(&mut world, &first, 487, "one");
        assert_eq!((finals(&world), ended(&world)), (vec![487], vec![CallState::Cancelled]));

        // Also when it says so after the call's end.
        let (mut world, first) = unheard(woken, noticed);
        let second = come_back(&mut world);
        cancel(&mut world);
        assert_eq!((branches(&world, "CANCEL"), finals(&world)), (vec![branch(&first)], vec![487]));
        reply(&mut world, &second, 482, "copy");
        assert_eq!(branches(&world, "CANCEL"), [branch(&first)], "once");
    }
}

#[test]
fn a_phone_that_knows_nothing_of_the_first_invite_has_the_call_by_the_second_one() {
    for (woken, noticed) in each() {
        for (status, state) in [(200, CallState::Answered), (486, CallState::Declined)] {
            let (mut world, first) = unheard(woken, noticed);
            let second = come_back(&mut world);
            reply(&mut world, &second, 180, "two");
            reply(&mut world, &second, status, "two");
            assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]));
            // Should it ring by that one after all, it is told.
            reply(&mut world, &first, 180, "one");
            assert_eq!(branches(&world, "CANCEL"), [branch(&first)]);
        }
    }
}

#[test]
fn a_phone_that_never_rang_refuses_the_call_when_it_comes_back() {
    for (woken, noticed) in each() {
        let (mut world, first) = unheard(woken, noticed);
        world.advance(seconds(2));
        let second = come_back(&mut world);
        reply(&mut world, &second, 486, "two");
        world.advance(seconds(4));
        assert_eq!(finals(&world), [], "a phone that rings by the first one says the same");
        world.advance(seconds(1));
        assert_eq!((finals(&world), ended(&world)), (vec![486], vec![CallState::Declined]));
        reply(&mut world, &first, 180, "one");
        assert_eq!(branches(&world, "CANCEL"), [branch(&first)]);

        let (mut world, _) = unheard(woken, noticed);
        let second = come_back(&mut world);
        reply(&mut world, &second, 603, "two");
        assert_eq!((finals(&world), ended(&world)), (vec![603], vec![CallState::Declined]), "for all, at once");
    }
}

#[test]
fn a_phone_that_moves_before_it_rings_hears_that_its_caller_has_hung_up() {
    for (woken, noticed) in each() {
        for moves_first in [true, false] {
            let (mut world, first) = unheard(woken, noticed);
            if moves_first {
                let second = come_back(&mut world);
                reply(&mut world, &second, 486, "copy");
                cancel(&mut world);
            } else {
                cancel(&mut world);
                world.attach(2);
            }
            assert_eq!((finals(&world), branches(&world, "CANCEL")), (vec![487], vec![branch(&first)]));
            reply(&mut world, &first, 180, "one");
            assert_eq!(branches(&world, "CANCEL").len(), 1, "{woken} {noticed} {moves_first}");
            reply(&mut world, &first, 487, "one");
            assert!(branches(&world, "ACK").contains(&branch(&first)));
        }
    }
}

#[test]
fn a_phone_that_moves_twice_after_the_end_of_the_call_is_told_by_its_last_connection() {
    let (mut world, first) = unheard(false, true);
    cancel(&mut world);
    world.attach(2);
    world.input(Input::Closed(FlowId::Stream(2)));
    world.advance(seconds(20));
    world.attach(3);
    let device = world.device(3);
    world.reply(device, &first, 180, &[], "");
    assert_eq!(branches_by(&world, 3, "CANCEL"), [branch(&first)]);
}

#[test]
fn each_late_200_of_a_phone_that_has_moved_is_ended() {
    for (woken, noticed) in each() {
        let (mut world, first) = unheard(woken, noticed);
        cancel(&mut world);
        world.attach(2);
        for times in 1..=4 {
            reply(&mut world, &first, 200, "one");
            assert_eq!((branches(&world, "ACK").len(), branches(&world, "BYE").len()), (times, times), "{noticed}");
            world.advance(seconds(1));
        }
        assert_eq!((finals(&world)[0], ended(&world)), (487, vec![CallState::Cancelled]));
        assert!(finals(&world).iter().all(|status| *status == 487), "until its ACK, which a datagram may lose");
    }
}

#[test]
fn a_phone_that_was_away_before_it_rang_hears_that_another_one_has_answered() {
    for noticed in [true, false] {
        let mut world = devices(2);
        for number in [1, 2] {
            attach(&mut world, number);
        }
        world.invite("call-1");
        let first = to_device(&world, 1, "INVITE");
        answer(&mut world, 2, 200);
        lose(&mut world, noticed);
        world.attach(3);
        let device = world.device(3);
        world.reply(device, &first, 180, &[], "");
        let told = to_device(&world, 3, "CANCEL");
        assert_eq!((branch(&told), reason(&told).is_some_and(|why| why.contains("elsewhere"))), (branch(&first), true));
        world.reply(device, &first, 200, &[("Contact", "<sip:phone3@10.0.0.5:9999>")], "");
        assert_eq!((branches_by(&world, 3, "ACK").len(), branches_by(&world, 3, "BYE").len()), (1, 1));
    }
}
