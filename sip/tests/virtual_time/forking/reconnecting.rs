//! A device whose connection breaks while it rings, and that comes back by another one.

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Message;

use super::*;
use crate::world::World;

/// The device rings by flow 1. Its connection has ended, or nobody knows yet.
fn ringing(noticed: bool) -> (World, Message) {
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    answer(&mut world, 1, 180);
    let first = to_device(&world, 1, "INVITE");
    if noticed {
        world.input(Input::Closed(FlowId::Stream(1)));
    }
    world.sent.clear();
    (world, first)
}

/// The device comes by flow 2; the INVITE that it gets there.
pub(super) fn come_back(world: &mut World) -> Message {
    world.attach(2);
    to_device(world, 2, "INVITE")
}

/// The device answers an INVITE by flow 2, with this To tag.
pub(super) fn reply(world: &mut World, invite: &Message, status: u16, tag: &'static str) {
    let device = world.device(2);
    world.tag = tag;
    let contact: &[_] = if (200..300).contains(&status) { &[("Contact", "<sip:phone2@10.0.0.5:9999>")] } else { &[] };
    world.reply(device, invite, status, contact, "");
}

pub(super) fn cancel(world: &mut World) {
    world.cancel("call-1");
}

/// The branches of what went to the device by flow 2, for each request of this method.
pub(super) fn branches(world: &World, method: &str) -> Vec<String> {
    branches_by(world, 2, method)
}

/// Likewise by the flow with this number.
pub(super) fn branches_by(world: &World, number: u64, method: &str) -> Vec<String> {
    let sent = world.sent.iter().filter(|sent| sent.flow == FlowId::Stream(number));
    let sent = sent.filter(|sent| sent.message.method_text() == Some(method));
    sent.map(|sent| branch(&sent.message)).collect()
}

pub(super) fn branch(message: &Message) -> String {
    message.via().unwrap().branch().unwrap().to_owned()
}

#[test]
fn a_phone_that_rings_on_answers_by_its_next_connection_whatever_it_says_to_the_copy() {
    for noticed in [true, false] {
        for copy in [482, 486] {
            for (status, state) in [(200, CallState::Answered), (486, CallState::Declined)] {
                let (mut world, first) = ringing(noticed);
                let second = come_back(&mut world);
                assert_ne!(branch(&first), branch(&second));
                reply(&mut world, &second, copy, "copy");
                world.advance(seconds(5));
                assert_eq!((finals(&world), ended(&world)), (vec![], vec![]), "{copy} says nothing of the call");
                reply(&mut world, &first, status, "one");
                assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]), "{noticed} {copy}");
                let answer = world.last(&format!("INVITE {status}"));
                assert_eq!(answer.to().unwrap().tag(), Some("one"));
                assert_eq!(world.count("BYE"), 0);
            }
        }
    }
}

#[test]
fn a_caller_that_hangs_up_ends_the_ringing_of_a_phone_that_has_moved() {
    for noticed in [true, false] {
        let (mut world, first) = ringing(noticed);
        let second = come_back(&mut world);
        reply(&mut world, &second, 486, "copy");
        cancel(&mut world);
        assert_eq!(branches(&world, "CANCEL"), [branch(&first)]);
        assert_eq!(finals(&world), []);
        reply(&mut world, &first, 487, "one");
        assert_eq!((finals(&world), ended(&world)), (vec![487], vec![CallState::Cancelled]));
    }
}

#[test]
fn a_call_that_ends_while_its_phone_is_away_stops_ringing_when_it_comes_back() {
    let (mut world, first) = ringing(true);
    cancel(&mut world);
    assert_eq!(finals(&world), [487], "nobody is waited for");
    world.advance(seconds(25));
    world.attach(2);
    assert_eq!((branches(&world, "CANCEL"), branches(&world, "INVITE")), (vec![branch(&first)], vec![]));
    reply(&mut world, &first, 487, "one");
    assert_eq!(ended(&world), [CallState::Cancelled]);

    // The CANCEL has gone where nobody heard it.
    let (mut world, first) = ringing(false);
    cancel(&mut world);
    world.attach(2);
    assert_eq!((branches(&world, "CANCEL"), branches(&world, "INVITE")), (vec![branch(&first)], vec![]));
    assert_eq!(finals(&world), [487]);
    reply(&mut world, &first, 200, "one");
    assert_eq!((world.count("ACK"), world.count("BYE")), (1, 1), "an answer that crosses it is hung up");
}

#[test]
fn a_phone_that_is_away_hears_that_another_one_has_answered() {
    let mut world = devices(2);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    for number in [1, 2] {
        answer(&mut world, number, 180);
    }
    let first = to_device(&world, 1, "INVITE");
    world.input(Input::Closed(FlowId::Stream(1)));
    answer(&mut world, 2, 200);
    world.instance = device(1);
    world.attach(3);
    let cancel = to_device(&world, 3, "CANCEL");
    assert_eq!((branch(&cancel), reason(&cancel).is_some_and(|why| why.contains("elsewhere"))), (branch(&first), true));
}

#[test]
fn a_phone_that_is_away_and_given_up_stops_ringing_when_it_comes_back() {
    for late in [false, true] {
        let mut world = devices(2);
        for number in [1, 2] {
            attach(&mut world, number);
        }
        world.invite("call-1");
        answer(&mut world, 2, 180);
        let first = to_device(&world, 2, "INVITE");
        if !late {
            answer(&mut world, 1, 486);
        }
        world.input(Input::Closed(FlowId::Stream(2)));
        let call = world.wakes()[0].call;
        world.input(Input::DeviceUnreachable { call, instance: device(2) });
        world.advance(seconds(6));
        if late {
            answer(&mut world, 1, 486);
        }
        assert_eq!((finals(&world)[0], ended(&world)), (486, vec![CallState::Declined]), "{late}");
        world.instance = device(2);
        world.attach(3);
        let cancel = to_device(&world, 3, "CANCEL");
        assert_eq!((branch(&cancel), reason(&cancel)), (branch(&first), None), "it has missed the call: {late}");
        assert_eq!(branches_by(&world, 3, "CANCEL").len(), 1);
    }
}

#[test]
fn a_phone_that_has_the_call_needs_no_push_to_come_back_with_it() {
    for back in [true, false] {
        let (mut world, first) = ringing(true);
        let call = world.wakes()[0].call;
        world.input(Input::DeviceUnreachable { call, instance: device(1) });
        world.advance(seconds(4));
        assert_eq!(finals(&world), [], "it may be between two connections");
        if back {
            let second = come_back(&mut world);
            reply(&mut world, &second, 482, "copy");
            world.advance(seconds(20));
            reply(&mut world, &first, 200, "one");
        } else {
            world.advance(seconds(2));
        }
        assert_eq!(finals(&world)[0], if back { 200 } else { 480 });
    }
}

#[test]
fn a_phone_that_has_started_again_takes_the_call_by_its_second_invite() {
    for (status, state) in [(200, CallState::Answered), (486, CallState::Declined)] {
        let (mut world, first) = ringing(true);
        let second = come_back(&mut world);
        reply(&mut world, &second, 180, "two");
        assert_eq!(branches(&world, "CANCEL"), [branch(&first)], "what it does not know it does not ring for");
        reply(&mut world, &second, status, "two");
        assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]));
    }
}

#[test]
fn a_phone_that_moves_while_it_rings_is_not_pushed() {
    let (mut world, _) = ringing(false);
    come_back(&mut world);
    world.advance(seconds(20));
    assert_eq!(world.wakes().len(), 0);
}

#[test]
fn a_phone_whose_earlier_connection_lives_answers_where_the_invite_came() {
    for (status, state) in [(200, CallState::Answered), (486, CallState::Declined)] {
        let (mut world, first) = ringing(false);
        let second = come_back(&mut world);
        reply(&mut world, &second, 482, "copy");
        let earlier = world.device(1);
        world.tag = "one";
        world.reply(earlier, &first, 180, &[], "");
        world.reply(earlier, &first, status, &[("Contact", "<sip:phone1@10.0.0.5:9999>")], "");
        assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]));
        let acknowledged = branches_by(&world, 1, "ACK").contains(&branch(&first));
        assert_eq!(acknowledged, status == 486, "where its refusal came from");
    }
    // The device's answer by its next connection counts after that, too.
    let (mut world, first) = ringing(false);
    come_back(&mut world);
    let earlier = world.device(1);
    world.reply(earlier, &first, 180, &[], "");
    world.input(Input::Closed(FlowId::Stream(1)));
    reply(&mut world, &first, 200, "one");
    assert_eq!(finals(&world), [200]);
    // A device that has nothing to do with the leg says nothing of it.
    let (mut world, first) = ringing(false);
    come_back(&mut world);
    let stranger = world.device(3);
    world.reply(stranger, &first, 200, &[("Contact", "<sip:phone3@10.0.0.5:9999>")], "");
    assert_eq!(finals(&world), []);
}

#[test]
fn of_two_phones_with_one_secret_the_first_one_ceases_to_ring_when_the_second_one_does() {
    let (mut world, first) = ringing(false);
    let second = come_back(&mut world);
    reply(&mut world, &second, 180, "two");
    assert_eq!(branches_by(&world, 1, "CANCEL"), [branch(&first)]);
    let cancel = to_device(&world, 1, "CANCEL");
    reply(&mut world, &cancel, 481, "two");
    let earlier = world.device(1);
    world.tag = "one";
    world.reply(earlier, &cancel, 200, &[], "");
    world.reply(earlier, &first, 487, &[], "");
    assert_eq!(branches_by(&world, 1, "ACK"), [branch(&first)]);
    reply(&mut world, &second, 200, "two");
    assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));
}

#[test]
fn a_caller_that_hangs_up_ends_the_ringing_by_each_connection_that_is_open() {
    for open in [true, false] {
        let (mut world, first) = ringing(false);
        come_back(&mut world);
        if !open {
            world.input(Input::Closed(FlowId::Stream(1)));
        }
        cancel(&mut world);
        assert_eq!(branches(&world, "CANCEL").iter().filter(|it| **it == branch(&first)).count(), 1);
        assert_eq!(branches_by(&world, 1, "CANCEL").len(), usize::from(open));
    }
    // One that has not moved is told once.
    let (mut world, _) = ringing(false);
    cancel(&mut world);
    assert_eq!(branches_by(&world, 1, "CANCEL").len(), 1);
}

#[test]
fn a_phone_that_speaks_by_its_earlier_connection_is_cancelled_by_its_next_one_as_well() {
    let speaks_by_the_earlier = || {
        let (mut world, first) = ringing(false);
        come_back(&mut world);
        world.reply(world.device(1), &first, 183, &[], "");
        (world, first)
    };
    let (mut world, first) = speaks_by_the_earlier();
    cancel(&mut world);
    for number in [1, 2] {
        assert_eq!(branches_by(&world, number, "CANCEL").iter().filter(|it| **it == branch(&first)).count(), 1);
    }
    // Its earlier connection ends before anybody hears the CANCEL, and it does not register again.
    let (mut world, first) = speaks_by_the_earlier();
    world.input(Input::Closed(FlowId::Stream(1)));
    cancel(&mut world);
    assert!(branches(&world, "CANCEL").contains(&branch(&first)), "{:?}", world.descriptions());
}

#[test]
fn a_phone_that_moves_again_and_again_is_followed() {
    let (mut world, first) = ringing(true);
    for number in 2..6 {
        world.attach(number);
        let copy = to_device(&world, number, "INVITE");
        let device = world.device(number);
        world.reply(device, &copy, 486, &[], "");
        world.input(Input::Closed(FlowId::Stream(number)));
        world.advance(seconds(3));
    }
    assert_eq!(finals(&world), []);
    world.attach(2);
    reply(&mut world, &first, 200, "one");
    assert_eq!(finals(&world), [200]);
}

#[test]
fn a_phone_that_does_not_come_back_keeps_its_caller_no_longer_than_any() {
    let (mut world, _) = ringing(true);
    world.advance(seconds(121));
    assert_eq!((finals(&world)[0], ended(&world), world.wakes().len()), (480, vec![CallState::TimedOut], 1));
    world.advance(seconds(16 * 60));
    assert_eq!(world.endpoint.counts().transactions, 0, "{:?}", world.descriptions());
}

/// The device refuses the first INVITE in the moment in which its connection ends, comes back, and calls the copy one.
fn refused_in_vain(noticed: bool, copy: u16) -> (World, Message) {
    let (mut world, first) = ringing(noticed);
    let second = come_back(&mut world);
    world.sent.clear();
    reply(&mut world, &second, copy, "one");
    (world, first)
}

#[test]
fn a_refusal_that_was_lost_with_its_connection_is_asked_for_again() {
    for noticed in [true, false] {
        for (status, state) in [(603, CallState::Declined), (486, CallState::Declined), (480, CallState::Declined)] {
            let (mut world, first) = refused_in_vain(noticed, 482);
            assert_eq!(branches(&world, "INVITE"), [branch(&first)], "the earlier one, as a retransmission: {noticed}");
            assert_eq!(to_device(&world, 2, "INVITE").head(), first.head());
            reply(&mut world, &first, status, "one");
            assert_eq!((finals(&world), ended(&world)), (vec![status], vec![state]));
            assert!(branches(&world, "ACK").contains(&branch(&first)));
        }
    }
}

#[test]
fn a_phone_that_rings_on_says_so_to_the_repetition_and_is_waited_for() {
    let (mut world, first) = refused_in_vain(true, 482);
    reply(&mut world, &first, 180, "one");
    world.advance(seconds(30));
    assert_eq!((branches(&world, "INVITE").len(), finals(&world)), (1, vec![]));
    reply(&mut world, &first, 200, "one");
    assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));
}

#[test]
fn a_phone_that_calls_the_repetition_a_copy_as_well_is_out() {
    let (mut world, first) = refused_in_vain(true, 482);
    reply(&mut world, &first, 482, "one");
    assert_eq!((finals(&world), ended(&world)), (vec![480], vec![CallState::Declined]), "482 says nothing to a caller");
    assert_eq!(world.count("CANCEL"), 0);
}

#[test]
fn a_phone_that_says_busy_to_the_copy_is_asked_again_where_its_earlier_connection_has_ended() {
    let (mut world, first) = refused_in_vain(true, 486);
    assert_eq!(branches(&world, "INVITE"), [branch(&first)]);
    reply(&mut world, &first, 486, "one");
    assert_eq!((finals(&world), ended(&world)), (vec![486], vec![CallState::Declined]));
    // The one that says so may be another phone with the same secret.
    let (world, _) = refused_in_vain(false, 486);
    assert_eq!(branches(&world, "INVITE"), Vec::<String>::new());
}

#[test]
fn a_phone_that_moves_again_is_asked_again_and_linphone_never() {
    let (mut world, first) = refused_in_vain(true, 482);
    world.input(Input::Closed(FlowId::Stream(2)));
    world.attach(3);
    let third = to_device(&world, 3, "INVITE");
    let device = world.device(3);
    world.reply(device, &third, 482, &[], "");
    assert_eq!(branches_by(&world, 3, "INVITE"), [branch(&third), branch(&first)]);

    let (mut world, _) = ringing(true);
    world.register(
        2,
        1,
        "Contact: <sip:phone2@10.0.0.5:9999>\r\nUser-Agent: LinphoneAndroid/5.1.0 (belle-sip/5.2)\r\n",
    );
    let second = to_device(&world, 2, "INVITE");
    reply(&mut world, &second, 482, "one");
    world.advance(seconds(20));
    assert_eq!((branches(&world, "INVITE"), finals(&world)), (vec![branch(&second)], vec![]));
}

#[test]
fn a_stack_that_has_forgotten_the_invite_with_its_connection_and_rings_on_is_hung_up() {
    let rings_as = |tag| {
        let mut world = devices(1);
        attach(&mut world, 1);
        world.invite("call-1");
        let first = to_device(&world, 1, "INVITE");
        world.tag = tag;
        world.reply(world.device(1), &first, 180, &[], "");
        world.input(Input::Closed(FlowId::Stream(1)));
        world.sent.clear();
        (world, first)
    };
    let (mut world, first) = rings_as("one");
    cancel(&mut world);
    world.attach(2);
    let cancelled = to_device(&world, 2, "CANCEL");
    reply(&mut world, &cancelled, 481, "other");
    let bye = to_device(&world, 2, "BYE");
    assert_eq!((bye.to().unwrap().tag(), bye.call_id()), (Some("one"), first.call_id()));
    assert_eq!((bye.cseq(), bye.request_uri()), (Some((17, "BYE")), first.request_uri()));
    assert_eq!(bye.from().unwrap().tag(), first.from().unwrap().tag());
    assert_ne!(branch(&bye), branch(&first));
    reply(&mut world, &bye, 200, "one");
    world.advance(seconds(20));
    assert_eq!(world.count("BYE"), 1);

    // One that has the call by its next leg is not ended by its earlier one.
    let (mut world, _) = rings_as("one");
    let second = come_back(&mut world);
    reply(&mut world, &second, 180, "two");
    let cancelled = to_device(&world, 2, "CANCEL");
    reply(&mut world, &cancelled, 481, "two");
    assert_eq!(world.count("BYE"), 0, "some stacks find a call by its Call-ID");
}

/// What the shell is told of the devices of a call: how it stands for each, and when it came.
fn told(world: &World) -> Vec<(CallState, Option<Duration>)> {
    let told = world.events.iter().filter_map(|event| match event {
        Event::Call { state, woke_after, .. } => Some((*state, *woke_after)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_phone_that_is_woken_although_it_was_attached_has_come_once_it_comes_by_its_next_connection() {
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    assert_eq!(told(&world), [(CallState::Waking, Some(Duration::ZERO))]);
    world.advance(seconds(2));
    assert_eq!(world.wakes().len(), 1, "it has left its INVITE without any response");
    let call = world.wakes()[0].call;
    world.events.clear();
    world.input(Input::Ring { call, instance: world.instance });
    world.advance(seconds(3));
    come_back(&mut world);
    assert_eq!(told(&world), [(CallState::Ringing, None), (CallState::Ringing, Some(seconds(5)))]);
}

#[test]
fn a_phone_that_has_only_another_connection_is_not_told_as_one_that_rings() {
    let mut world = devices(1);
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.input(Input::Ring { call, instance: world.instance });
    world.advance(seconds(1));
    attach(&mut world, 1);
    world.events.clear();
    let second = come_back(&mut world);
    assert_eq!(told(&world), []);
    reply(&mut world, &second, 180, "two");
    assert_eq!(told(&world), [(CallState::Ringing, None)], "now it rings");
}
