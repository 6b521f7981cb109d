//! A call that ends while its device is away, and of whose INVITE nothing was heard: the device may ring, for its 180 may be lost with its connection.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::reconnecting::{branch, branches, branches_by, cancel, come_back, reply};
use super::unheard::{each, unheard};
use super::*;
use crate::world::World;

/// Device 1 has got the INVITE by flow 1 and nothing was heard of it; device 2 rings.
fn beside_another(noticed: bool) -> (World, Message) {
    let mut world = devices(2);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    let first = to_device(&world, 1, "INVITE");
    answer(&mut world, 2, 180);
    if noticed {
        world.input(Input::Closed(FlowId::Stream(1)));
    }
    (world, first)
}

/// Device 1 comes by flow 3; the CANCELs that it gets there, with their Reason.
fn told_by_next(world: &mut World) -> Vec<(String, Option<String>)> {
    world.instance = device(1);
    world.attach(3);
    let sent = world.sent.iter().filter(|sent| sent.flow == FlowId::Stream(3));
    let cancels = sent.filter(|sent| sent.message.method_text() == Some("CANCEL"));
    cancels.map(|sent| (branch(&sent.message), reason(&sent.message).map(str::to_owned))).collect()
}

#[test]
fn a_phone_that_comes_back_after_the_end_is_cancelled_at_once_however_the_call_has_ended() {
    type End = fn(&mut World);
    let ends: [(&str, End); 4] = [
        ("its caller hangs up", cancel),
        ("it is declined by the API", |world| {
            let calls = world.events.iter();
            let call = calls.rev().find_map(|it| if let Event::Call { call, .. } = it { Some(*call) } else { None });
            let call = call.expect("a call");
            world.input(Input::Decline(call));
        }),
        ("nobody answers", |world| world.advance(seconds(200))),
        ("the relay ends", |world| world.input(Input::EndCalls(Failover::Nobody))),
    ];
    for (how, end) in ends {
        for (woken, noticed) in each() {
            for after in [0, 25, 300] {
                let told = format!("{how}, {woken} {noticed} {after}");
                let (mut world, first) = unheard(woken, noticed);
                end(&mut world);
                world.advance(seconds(after));
                assert_eq!(world.count("CANCEL"), 0, "none by the flow of the INVITE (RFC 3261 §9.1): {told}");
                world.attach(2);
                assert_eq!((branches(&world, "CANCEL"), world.count("INVITE")), (vec![branch(&first)], 0), "{told}");
                let sent = to_device(&world, 2, "CANCEL");
                assert_eq!(sent.request_uri(), first.request_uri(), "{told}");
                reply(&mut world, &sent, 200, "one");
                reply(&mut world, &first, 487, "one");
                assert_eq!(branches(&world, "ACK"), [branch(&first)], "{told}");
                assert_eq!(ended(&world).len(), 1, "{told}");
            }
        }
    }
}

#[test]
fn a_phone_that_comes_back_hears_how_the_call_has_ended_elsewhere() {
    for noticed in [true, false] {
        for (status, why) in [(200, Some("cause=200")), (603, Some("cause=603"))] {
            let (mut world, first) = beside_another(noticed);
            answer(&mut world, 2, status);
            let told = told_by_next(&mut world);
            let [(cancelled, reason)] = &told[..] else { panic!("{status} {noticed}: {told:?}") };
            assert_eq!(*cancelled, branch(&first));
            assert!(reason.as_deref().is_some_and(|it| it.contains(why.unwrap())), "{reason:?}");
        }
        let (mut world, first) = beside_another(noticed);
        cancel(&mut world);
        answer(&mut world, 2, 487);
        assert_eq!(told_by_next(&mut world), [(branch(&first), None)]);
    }
}

#[test]
fn a_phone_that_came_back_before_the_end_is_cancelled_by_the_first_invite_too() {
    for (woken, noticed) in each() {
        let (mut world, first) = unheard(woken, noticed);
        let second = come_back(&mut world);
        cancel(&mut world);
        assert_eq!(branches(&world, "CANCEL"), [branch(&first)], "the second one waits for a response");
        assert_eq!(branches_by(&world, 1, "CANCEL"), Vec::<String>::new());
        reply(&mut world, &second, 180, "two");
        assert_eq!(branches(&world, "CANCEL"), [branch(&first), branch(&second)]);
    }
}

#[test]
fn a_phone_that_has_the_call_by_another_invite_is_not_told_that_the_first_one_is_over() {
    for (woken, noticed) in each() {
        let (mut world, _) = unheard(woken, noticed);
        let second = come_back(&mut world);
        reply(&mut world, &second, 180, "two");
        reply(&mut world, &second, 200, "two");
        for (number, after) in [(3, 1), (4, 60)] {
            world.advance(seconds(after));
            world.attach(number);
            assert_eq!(world.count("CANCEL"), 0, "some stacks find a call by its Call-ID: {woken} {noticed} {number}");
        }
    }
}

#[test]
fn a_phone_that_knows_nothing_of_the_invite_is_asked_no_more_and_one_that_reads_it_late_is_cancelled() {
    for (woken, noticed) in each() {
        let (mut world, first) = unheard(woken, noticed);
        cancel(&mut world);
        world.attach(2);
        let sent = to_device(&world, 2, "CANCEL");
        reply(&mut world, &sent, 481, "one");
        world.advance(seconds(20));
        assert_eq!(branches(&world, "CANCEL").len(), 1, "{woken} {noticed}");
        // By the flow that the INVITE went by, if that lives.
        let number = if noticed { 2 } else { 1 };
        world.reply(world.device(number), &first, 180, &[], "");
        assert_eq!(branches_by(&world, number, "CANCEL").last(), Some(&branch(&first)), "{woken} {noticed}");
        let contact = [("Contact", "<sip:phone1@10.0.0.5:9999>")];
        world.reply(world.device(number), &first, 200, &contact, "");
        assert_eq!((world.count("ACK"), world.count("BYE")), (1, 1), "{woken} {noticed}");
    }
}

#[test]
fn a_phone_that_answers_by_its_next_connection_what_is_over_is_hung_up() {
    for (woken, noticed) in each() {
        for after in [0, 40, 600] {
            let (mut world, first) = unheard(woken, noticed);
            cancel(&mut world);
            world.advance(seconds(after));
            world.attach(2);
            reply(&mut world, &first, 200, "one");
            assert_eq!((branches(&world, "ACK").len(), branches(&world, "BYE").len()), (1, 1), "{noticed} {after}");
        }
    }
}

#[test]
fn a_phone_that_does_not_have_the_invite_gets_no_cancel_by_a_further_connection() {
    for (woken, noticed) in each() {
        let (mut world, _) = unheard(woken, noticed);
        cancel(&mut world);
        world.attach(2);
        let sent = to_device(&world, 2, "CANCEL");
        reply(&mut world, &sent, 481, "one");
        for (number, after) in [(3, 1), (4, 40)] {
            world.advance(seconds(after));
            world.attach(number);
            let again = branches_by(&world, number, "CANCEL");
            assert_eq!((again, world.count("INVITE")), (vec![], 0), "{woken} {noticed} {number}");
        }
    }
}
