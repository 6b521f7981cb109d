//! Calls that a SIP server announces before it sends their INVITE, in virtual time.

use sip::endpoint::*;
use sip::id::CallId;

use crate::shares::another_device;
use crate::world::{World, seconds};

fn announce(world: &mut World) {
    announce_by(world, "sip:bob@example.com", "Bob");
}

fn announce_by(world: &mut World, from: &str, name: &str) {
    announce_for(world, from, name, 30);
}

/// A SIP server announces a call, and waits so many seconds for the device.
fn announce_for(world: &mut World, from: &str, name: &str, wait: u64) {
    let (instance, wait) = (world.instance, seconds(wait));
    world.input(Input::ExpectCall { instance, from: from.into(), name: Some(name.into()), wait });
}

/// Bob is announced by a server that waits so many seconds.
fn bob_for(world: &mut World, wait: u64) {
    announce_for(world, "sip:bob@example.com", "Bob", wait);
}

/// The device closes its connection.
fn leave(world: &mut World, number: u64) {
    let flow = world.device(number).flow;
    world.input(Input::Closed(flow));
}

/// The calls that the device has missed.
fn missed(world: &World) -> Vec<CallId> {
    let missed = world.events.iter().filter_map(|event| match event {
        Event::Missed { call, .. } => Some(call.call),
        _ => None,
    });
    missed.collect()
}

/// The announced call, whose device was woken.
fn announced(world: &mut World) -> CallId {
    announce(world);
    let wakes = world.wakes();
    assert_eq!(wakes.len(), 1);
    assert_eq!((&*wakes[0].from, wakes[0].name.as_deref()), ("sip:bob@example.com", Some("Bob")));
    assert_eq!(wakes[0].wait, seconds(30));
    wakes[0].call
}

/// The call that the INVITE has become.
fn arrived(world: &World) -> Vec<CallId> {
    let come = world.events.iter().filter_map(|event| match event {
        Event::ExpectedCallArrived(call) => Some(call.call),
        _ => None,
    });
    come.collect()
}

#[test]
fn an_announced_call_is_handed_over_at_once_to_a_device_that_came_for_it() {
    let mut world = World::registered();
    let call = announced(&mut world);
    world.advance(seconds(4));
    world.attach(1);
    assert_eq!(world.count("INVITE"), 0, "there is none yet");
    world.invite("a");
    assert_eq!((world.count("INVITE"), world.wakes().len()), (1, 1), "one push for it, before it came");
    assert_eq!(arrived(&world), [call]);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.reply(device, &invite, 200, &[], "");
    assert_eq!(world.final_states(), [CallState::Answered]);
    world.advance(seconds(3600));
    assert_eq!(world.final_states().len(), 1);
    assert_eq!(world.endpoint.counts().calls, 0);
}

#[test]
fn an_announced_call_waits_for_its_device_until_the_pushs_own_deadline() {
    let mut world = World::registered();
    let call = announced(&mut world);
    world.advance(seconds(10));
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![call], 1));
    world.advance(seconds(19));
    assert_eq!(world.count("INVITE 480"), 0);
    world.advance(seconds(2));
    assert!(world.count("INVITE 480") > 0);
    assert_eq!(world.final_states(), [CallState::TimedOut]);
}

#[test]
fn a_device_that_came_and_is_silent_is_not_pushed_a_second_time() {
    let mut world = World::registered();
    announced(&mut world);
    world.attach(1);
    world.invite("a");
    world.advance(seconds(40));
    assert_eq!((world.wakes().len(), world.final_states()), (1, vec![CallState::TimedOut]));
}

#[test]
fn an_announced_call_without_an_invite_times_out() {
    let mut world = World::registered();
    announced(&mut world);
    world.advance(seconds(29));
    assert_eq!(world.final_states(), []);
    world.advance(seconds(2));
    assert_eq!(world.final_states(), [CallState::TimedOut]);
    // The next INVITE is a call of its own.
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![], 2));
}

#[test]
fn who_declines_an_announced_call_declines_its_invite_and_not_the_next() {
    let mut world = World::registered();
    let call = announced(&mut world);
    world.input(Input::Decline(call));
    assert_eq!(world.final_states(), [CallState::Declined]);
    world.invite("a");
    assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 1));
    world.invite("b");
    assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 2));
    world.input(Input::Decline(call));
    assert_eq!(world.final_states(), [CallState::Declined], "told once");
}

/// The INVITE of a caller of this name comes.
fn called_by(world: &mut World, caller: &str, call_id: &str) {
    let (source, text) = (world.upstream, world.invite_text(call_id).replace("sip:bob@", &format!("sip:{caller}@")));
    world.receive(source, &text);
}

/// A world in which Bob was announced and declined; `before` and `after` are the callers that were announced before and after that.
fn declined(before: &[&str], after: &[&str]) -> World {
    let mut world = World::registered();
    let announce_all = |world: &mut World, callers: &[&str]| {
        for caller in callers {
            announce_by(world, &format!("sip:{caller}@example.com"), caller);
        }
    };
    announce_all(&mut world, before);
    announce(&mut world);
    let call = world.wakes().last().unwrap().call;
    world.input(Input::Decline(call));
    announce_all(&mut world, after);
    world
}

#[test]
fn who_declines_one_of_several_announced_calls_hears_the_others() {
    for (before, after) in [(&["carol"][..], &[][..]), (&[], &["carol"])] {
        let mut world = declined(before, after);
        called_by(&mut world, "carol", "c1");
        assert_eq!((arrived(&world).len(), world.wakes().len()), (1, 2));
        called_by(&mut world, "dave", "d");
        called_by(&mut world, "carol", "c2");
        assert_eq!((world.count("INVITE 603"), world.wakes().len()), (0, 4), "{before:?} {after:?}");
        world.invite("b1");
        assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 4), "Bob was declined");
        world.invite("b2");
        assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 5));
        world.advance(seconds(600));
        assert_eq!(world.endpoint.counts().calls, 0);
    }
}

#[test]
fn an_announcement_for_which_nobody_may_be_woken_tells_callers_apart_all_the_same() {
    let carol = "sip:carol@example.com";
    let mut world = World::registered();
    let instance = world.instance;
    for _ in 0..100 {
        announce_by(&mut world, carol, "Carol");
        let call = world.wakes().last().unwrap().call;
        world.input(Input::DeviceUnreachable { call, instance });
    }
    announce(&mut world);
    let woken = world.wakes().len();
    let bobs = world.wakes()[woken - 1];
    assert_eq!(&*bobs.from, "sip:bob@example.com");
    let bobs = bobs.call;
    world.input(Input::Decline(bobs));
    announce_by(&mut world, carol, "Carol");
    assert_eq!(world.wakes().len(), woken, "she has had her share");
    called_by(&mut world, "carol", "c");
    assert_eq!((world.count("INVITE 603"), world.count("INVITE 480")), (0, 1));
    world.invite("b");
    assert_eq!(world.count("INVITE 603"), 1, "Bob was declined");
}

#[test]
fn who_is_announced_by_one_name_and_calls_by_another_is_declined_where_nobody_else_was_announced() {
    let mut world = declined(&[], &["bob"]);
    let again = world.wakes().last().unwrap().call;
    world.input(Input::Decline(again));
    called_by(&mut world, "+15550100", "a");
    assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 2));
    called_by(&mut world, "+15550100", "b");
    assert_eq!((world.count("INVITE 603"), world.wakes().len()), (1, 3));
}

#[test]
fn a_device_that_rings_before_the_invite_has_the_caller_hear_it_with_the_invite() {
    let mut world = World::registered();
    let call = announced(&mut world);
    world.input(Input::Ring { call, instance: world.instance });
    let rings = |event: &&Event| matches!(event, Event::Call { state: CallState::Ringing, .. });
    assert_eq!(world.events.iter().filter(rings).count(), 1);
    assert_eq!(world.count("INVITE 180"), 0);
    world.invite("a");
    assert_eq!(world.count("INVITE 180"), 1);
}

#[test]
fn what_is_announced_again_before_its_invite_is_the_same_call_and_after_it_another() {
    let mut world = World::registered();
    let call = announced(&mut world);
    announce(&mut world);
    assert_eq!(world.wakes().len(), 1, "joined");
    world.invite("a");
    assert_eq!(arrived(&world), [call]);
    announce(&mut world);
    let calls: Vec<CallId> = world.wakes().iter().map(|wake| wake.call).collect();
    assert!(calls.len() == 2 && calls[1] != call, "{calls:?}");
    let declined = calls[1];
    world.input(Input::Decline(declined));
    announce(&mut world);
    assert_eq!(world.wakes().len(), 3, "who declined is asked anew");
}

#[test]
fn announcing_is_bounded_as_calls_are() {
    let mut world = World::registered();
    let mut woken = 0;
    for _ in 0..100 {
        announce(&mut world);
        let call = world.wakes().last().map(|wake| wake.call);
        woken = world.wakes().len();
        let instance = world.instance;
        world.input(Input::DeviceUnreachable { call: call.unwrap(), instance });
    }
    assert_eq!(woken, 20, "the budget of a device");
    assert_eq!(world.final_states().len(), 20);
    assert!(world.endpoint.expected_call(world.now, world.instance, "sip:bob@example.com").is_none());
}

#[test]
fn a_device_that_is_wiped_or_a_process_that_ends_leaves_no_announced_call() {
    for end in [true, false] {
        let mut world = World::registered();
        announced(&mut world);
        assert!(world.endpoint.expected_call(world.now, world.instance, "sip:bob@example.com").is_some());
        let instance = world.instance;
        world.input(if end {
            Input::EndCalls(Failover::Nobody)
        } else {
            Input::Unbind { instance, deadline: seconds(3) }
        });
        assert_eq!(world.final_states(), [CallState::TimedOut]);
        assert_eq!(world.endpoint.counts().calls, 0);
    }
}

#[test]
fn two_callers_who_are_announced_are_two_calls_each_with_its_push_and_its_time_and_each_invite_finds_its_own() {
    let carol = "sip:carol@example.com";
    let mut world = World::registered();
    let bobs = announced(&mut world);
    world.advance(seconds(25));
    announce_by(&mut world, carol, "Carol");
    let wakes = world.wakes();
    assert_eq!((wakes.len(), &*wakes[1].from, wakes[1].wait), (2, carol, seconds(30)), "a push of its own");
    let carols = wakes[1].call;
    assert!(carols != bobs);
    world.advance(seconds(10));
    assert_eq!(world.final_states(), [CallState::TimedOut], "Bob's alone");
    let expected =
        |world: &World, from| world.endpoint.expected_call(world.now, world.instance, from).map(|(call, _)| call);
    assert_eq!((expected(&world, carol), expected(&world, "sip:bob@example.com")), (Some(carols), None));
    announce(&mut world);
    let again = world.wakes()[2].call;
    world.invite("a");
    assert_eq!(arrived(&world), [again], "the default caller is Bob, who was announced last");
    assert_eq!((expected(&world, carol), world.wakes().len()), (Some(carols), 3));
    world.invite("b");
    assert_eq!(
        (arrived(&world), world.wakes().len()),
        (vec![again, carols], 3),
        "any other INVITE is the first that is expected"
    );
}

#[test]
fn a_caller_who_is_announced_again_is_waited_for_as_long_from_then_on() {
    let mut world = World::registered();
    let call = announced(&mut world);
    world.advance(seconds(25));
    announce(&mut world);
    world.advance(seconds(29));
    assert_eq!((world.wakes().len(), world.final_states()), (1, vec![]));
    world.attach(1);
    world.invite("a");
    assert_eq!((arrived(&world), world.count("INVITE")), (vec![call], 1));
    let mut world = World::registered();
    announced(&mut world);
    world.advance(seconds(25));
    announce(&mut world);
    world.advance(seconds(31));
    assert_eq!((world.final_states(), world.endpoint.counts().calls), (vec![CallState::TimedOut], 0));
}

#[test]
fn a_binding_expects_a_bounded_number_of_callers() {
    let mut world = World::registered();
    for number in 0..100 {
        announce_by(&mut world, &format!("sip:caller-{number}@example.com"), "Caller");
    }
    assert!(world.wakes().len() <= 16 && world.endpoint.counts().calls <= 16, "{}", world.wakes().len());
    let instance = world.instance;
    world.input(Input::Unbind { instance, deadline: seconds(3) });
    assert_eq!((world.final_states().len(), world.endpoint.counts().calls), (world.wakes().len(), 0));
}

#[test]
fn a_caller_who_is_announced_again_after_nobody_was_found_is_pushed_again_each_time_and_each_call_is_missed_once() {
    let mut world = World::registered();
    for redial in 1..=5 {
        bob_for(&mut world, 8);
        assert_eq!(world.wakes().len(), redial);
        world.advance(seconds(12));
    }
    let mut calls: Vec<CallId> = world.wakes().iter().map(|wake| wake.call).collect();
    world.advance(seconds(60));
    assert_eq!((missed(&world), world.final_states().len()), (calls.clone(), 5));
    assert_eq!(world.endpoint.counts().calls, 0);
    calls.dedup();
    assert_eq!(calls.len(), 5);
}

#[test]
fn a_call_for_which_nobody_was_found_in_time_is_over_for_a_device_that_comes_too_late() {
    let mut world = World::registered();
    bob_for(&mut world, 2);
    let call = world.wakes()[0].call;
    world.advance(seconds(3));
    world.attach(1);
    world.advance(seconds(3));
    assert_eq!(world.final_states(), [], "its INVITE may be on its way");
    world.advance(seconds(2));
    assert_eq!((world.final_states(), missed(&world)), (vec![CallState::TimedOut], vec![call]));
    world.invite("late");
    assert_eq!(
        (world.count("INVITE"), world.wakes().len(), arrived(&world)),
        (1, 1, vec![]),
        "handed over all the same"
    );
}

#[test]
fn an_invite_that_follows_although_nobody_was_found_is_the_same_call_and_a_later_one_is_pushed() {
    let mut world = World::registered();
    bob_for(&mut world, 2);
    let call = world.wakes()[0].call;
    world.advance(seconds(4));
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![call], 1));
    world.advance(seconds(25));
    assert_eq!(world.count("INVITE 480"), 0, "as long as its device was told");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[], "");
    assert_eq!((world.final_states(), missed(&world)), (vec![CallState::Answered], vec![]));

    let mut world = World::registered();
    bob_for(&mut world, 2);
    world.advance(seconds(8));
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![], 2));
}

#[test]
fn a_device_that_has_come_and_gone_is_woken_for_the_next_call() {
    let mut world = World::registered();
    bob_for(&mut world, 8);
    world.advance(seconds(1));
    world.attach(1);
    bob_for(&mut world, 8);
    assert_eq!(world.wakes().len(), 1, "it is there");
    leave(&mut world, 1);
    bob_for(&mut world, 8);
    let calls: Vec<CallId> = world.wakes().iter().map(|wake| wake.call).collect();
    assert!(calls.len() == 2 && calls[0] != calls[1], "{calls:?}");
    assert_eq!((world.final_states(), missed(&world)), (vec![CallState::TimedOut], vec![calls[0]]));
    world.attach(2);
    leave(&mut world, 2);
    // Likewise when it is not announced.
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![], 3));
    assert_eq!(missed(&world).len(), 1, "the same caller rings now");
    assert_eq!(world.final_states(), [CallState::TimedOut; 2]);
}

#[test]
fn a_push_whose_time_is_over_is_not_enough_for_a_call_that_is_announced_on_and_on() {
    let mut world = World::registered();
    for _ in 0..3 {
        bob_for(&mut world, 20);
        assert_eq!(world.wakes().len(), 1);
        world.advance(seconds(14));
    }
    bob_for(&mut world, 20);
    assert_eq!(world.wakes().len(), 2, "the device was told 30 s");
    let mut world = World::registered();
    bob_for(&mut world, 20);
    world.advance(seconds(15));
    bob_for(&mut world, 20);
    world.advance(seconds(17));
    world.invite("a");
    assert_eq!((arrived(&world), world.wakes().len()), (vec![], 2));
}

#[test]
fn a_call_whose_server_waits_no_longer_ends_unless_its_device_has_come_or_its_invite_comes() {
    for (comes, invited) in [(false, false), (true, false), (false, true)] {
        let mut world = World::registered();
        bob_for(&mut world, 20);
        let call = world.wakes()[0].call;
        world.advance(seconds(1));
        if comes {
            world.attach(1);
        }
        world.input(Input::StopExpecting(call));
        world.advance(seconds(4));
        if invited {
            world.invite("a");
        }
        world.advance(seconds(10));
        let expected = if comes || invited { vec![] } else { vec![CallState::TimedOut] };
        assert_eq!(
            (world.final_states(), missed(&world).len()),
            (expected.clone(), expected.len()),
            "{comes} {invited}"
        );
        world.advance(seconds(60));
        assert_eq!(missed(&world), [call], "{comes} {invited}");
    }
}

#[test]
fn a_decline_counts_as_long_as_the_device_was_told() {
    let mut world = World::registered();
    bob_for(&mut world, 2);
    let call = world.wakes()[0].call;
    world.input(Input::Decline(call));
    world.advance(seconds(28));
    world.invite("a");
    assert_eq!((world.count("INVITE 603"), world.wakes().len(), missed(&world).len()), (1, 1, 0));
}

#[test]
fn an_app_that_comes_to_the_foreground_or_wants_no_calls_expects_none() {
    for foreground in [true, false] {
        let mut world = World::registered();
        bob_for(&mut world, 20);
        let instance = world.instance;
        world.input(if foreground { Input::Suspend(instance) } else { Input::LeaveExpected(instance) });
        assert_eq!((world.final_states(), missed(&world)), (vec![CallState::TimedOut], vec![]));
        assert!(world.endpoint.expected_call(world.now, instance, "sip:bob@example.com").is_none());
    }
}

#[test]
fn a_call_whose_push_reaches_nobody_is_over_at_once_and_is_missed_unless_its_invite_follows() {
    for (waits, invited) in [(true, false), (true, true), (false, false)] {
        let mut world = World::registered();
        bob_for(&mut world, 2);
        let call = world.wakes()[0].call;
        world.advance(seconds(if waits { 1 } else { 3 }));
        let instance = world.instance;
        world.input(Input::DeviceUnreachable { call, instance });
        let at_once = if waits { vec![] } else { vec![call] };
        assert_eq!((world.final_states(), missed(&world)), (vec![CallState::TimedOut], at_once), "{waits} {invited}");
        world.advance(seconds(4));
        if invited {
            world.invite("a");
            assert_eq!((arrived(&world), world.wakes().len()), (vec![], 2), "a call of its own, with a push");
            world.attach(1);
            let (device, invite) = (world.device(1), world.last("INVITE"));
            world.reply(device, &invite, 200, &[], "");
        }
        world.advance(seconds(40));
        let expected = if invited { vec![] } else { vec![call] };
        assert_eq!(missed(&world), expected, "{waits} {invited}");
        world.advance(seconds(3600));
        assert_eq!(world.endpoint.counts().calls, 0);
    }
}

#[test]
fn a_device_that_no_push_reached_misses_an_announced_call_with_the_others_and_is_woken_by_its_invite() {
    for invited in [false, true] {
        let mut world = World::registered();
        let other = another_device(&mut world);
        bob_for(&mut world, 20);
        let (from, wait) = ("sip:bob@example.com".into(), seconds(20));
        world.input(Input::ExpectCall { instance: other, from, name: None, wait });
        let calls: Vec<CallId> = world.wakes().iter().map(|wake| wake.call).collect();
        assert!(calls.len() == 2 && calls[0] == calls[1], "{calls:?}");
        world.input(Input::DeviceUnreachable { call: calls[0], instance: other });
        assert_eq!(
            (world.final_states(), missed(&world)),
            (vec![CallState::TimedOut], vec![]),
            "the other one may come"
        );
        if invited {
            world.invite("a");
            let woken: Vec<_> = world.wakes().iter().map(|wake| (wake.call, wake.instance)).collect();
            assert_eq!(woken, [(calls[0], world.instance), (calls[0], other), (calls[0], other)]);
        }
        world.advance(seconds(60));
        assert_eq!(missed(&world), calls, "{invited}");
    }
}

#[test]
fn a_call_whose_push_reaches_nobody_is_pushed_anew_when_it_is_announced_again_and_is_missed_once_each_time() {
    let mut world = World::registered();
    let instance = world.instance;
    for number in 1..4 {
        bob_for(&mut world, 20);
        assert_eq!((world.wakes().len(), missed(&world).len()), (number, number - 1));
        let call = world.wakes()[number - 1].call;
        world.input(Input::DeviceUnreachable { call, instance });
        world.advance(seconds(2));
    }
    world.advance(seconds(5));
    assert_eq!(missed(&world).len(), 3);
}
