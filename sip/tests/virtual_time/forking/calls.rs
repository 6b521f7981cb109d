//! A call for several devices.

use sip::endpoint::CallState::{AnsweredElsewhere, Cancelled, Declined, TimedOut};
use sip::endpoint::*;
use sip::id::{BindingId, FlowId, ShardTag};
use sip::message::Name;

use super::*;
use crate::world::World;

const ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";

/// Two devices that ring.
fn ringing() -> World {
    let mut world = devices(2);
    for number in [1, 2] {
        attach(&mut world, number);
    }
    world.invite("call-1");
    for number in [1, 2] {
        answer(&mut world, number, 180);
    }
    world
}

#[test]
fn each_sleeping_device_is_woken_once_and_the_first_answer_has_the_call() {
    let mut world = devices(3);
    world.invite("call-1");
    let wakes: Vec<_> = world.wakes().iter().map(|wake| (wake.call, wake.instance)).collect();
    assert_eq!(wakes.iter().map(|(_, instance)| *instance).collect::<Vec<_>>(), [1, 2, 3].map(device));
    assert!(wakes.iter().all(|(call, _)| *call == wakes[0].0), "one call");
    let call = wakes[0].0;
    for number in [1, 2, 3] {
        world.input(Input::Ring { call, instance: device(number) });
    }
    assert_eq!(world.count("INVITE 180"), 1, "the caller hears the pushes ring once");
    attach(&mut world, 2);
    attach(&mut world, 3);
    answer(&mut world, 3, 180);
    answer(&mut world, 2, 200);
    assert_eq!(finals(&world), [200]);
    assert_eq!(reason(&to_device(&world, 3, "CANCEL")), Some(ELSEWHERE));
    let expected = [(1, AnsweredElsewhere), (2, CallState::Answered), (3, AnsweredElsewhere)];
    assert_eq!(ends(&world), expected.map(|(number, state)| (device(number), state)));
    assert_eq!(ended(&world), [CallState::Answered]);
    answer(&mut world, 3, 487);
    attach(&mut world, 1);
    assert_eq!(
        world
            .sent
            .iter()
            .filter(|sent| sent.flow == FlowId::Stream(1) && sent.message.method_text() == Some("INVITE"))
            .count(),
        0
    );
    assert_eq!((world.wakes().len(), finals(&world).len()), (3, 1));
}

#[test]
fn of_two_answers_that_cross_the_second_is_ended_with_ack_and_bye() {
    let mut world = ringing();
    answer(&mut world, 1, 200);
    answer(&mut world, 2, 200);
    assert_eq!(finals(&world), [200]);
    let (ack, bye) = (to_device(&world, 2, "ACK"), to_device(&world, 2, "BYE"));
    assert_eq!(ack.to().unwrap().tag(), Some("two"));
    assert_eq!(bye.to().unwrap().tag(), Some("two"));
    assert_eq!(ends(&world), [(device(1), CallState::Answered), (device(2), AnsweredElsewhere)]);
}

#[test]
fn provisional_responses_of_different_devices_pass_as_early_dialogs_of_their_own() {
    let mut world = devices(2);
    attach(&mut world, 1);
    attach(&mut world, 2);
    world.invite("call-1");
    answer(&mut world, 1, 180);
    answer(&mut world, 2, 183);
    let tag = |what| world.last(what).to().unwrap().tag().map(str::to_owned);
    assert_eq!((tag("INVITE 180").as_deref(), tag("INVITE 183").as_deref()), (Some("one"), Some("two")));
    answer(&mut world, 1, 183);
    assert_eq!(world.last("INVITE 183").to().unwrap().tag(), Some("one"));
}

#[test]
fn the_best_refusal_goes_up_when_no_device_is_left() {
    for (first, second, best) in [
        (480, 486, 486),
        (486, 480, 486),
        (408, 480, 480),
        (486, 404, 486),
        (500, 486, 486),
        (486, 302, 302),
        (486, 484, 484),
        (401, 486, 401),
        (503, 503, 500),
    ] {
        let mut world = ringing();
        answer(&mut world, 1, first);
        let state = if matches!(first, 408 | 500 | 503) { TimedOut } else { Declined };
        assert_eq!((finals(&world), ends(&world)), (vec![], vec![(device(1), state)]), "{first}: the other rings on");
        answer(&mut world, 2, second);
        assert_eq!(finals(&world), [best], "{first} and {second}");
        assert_eq!(world.count("ACK"), 2);
        assert_eq!((ends(&world).len(), ended(&world)), (2, vec![Declined]));
    }
}

#[test]
fn a_device_that_declines_for_all_ends_the_call_at_once() {
    for status in [600, 603, 607] {
        let mut world = ringing();
        answer(&mut world, 2, status);
        assert_eq!(finals(&world), [status]);
        assert!(reason(&to_device(&world, 1, "CANCEL")).is_some_and(|reason| reason.contains("cause=603")));
        assert_eq!(ends(&world), [(device(2), Declined), (device(1), Declined)]);
        answer(&mut world, 1, 487);
        assert_eq!(finals(&world).len(), 1);
    }
    let mut world = ringing();
    let call = world.events.iter().find_map(|event| match event {
        Event::Forked(call) => Some(call.call),
        _ => None,
    });
    world.input(Input::Decline(call.unwrap()));
    assert_eq!((finals(&world), world.count("CANCEL")), (vec![603], 2));
    assert_eq!(ends(&world), [(device(1), Declined), (device(2), Declined)]);
}

#[test]
fn a_refusal_waits_for_the_device_that_still_sleeps_and_goes_up_at_the_deadline() {
    let mut world = devices(2);
    world.invite("call-1");
    attach(&mut world, 1);
    answer(&mut world, 1, 486);
    world.advance(seconds(29));
    assert_eq!(finals(&world), []);
    world.advance(seconds(1));
    assert_eq!(finals(&world), [486], "it says more than 480");
    assert_eq!(ends(&world), [(device(1), Declined), (device(2), TimedOut)]);
    assert_eq!(ended(&world), [TimedOut]);
}

#[test]
fn a_device_that_comes_late_answers_although_another_has_declined() {
    let mut world = devices(2);
    world.invite("call-1");
    attach(&mut world, 1);
    answer(&mut world, 1, 486);
    world.advance(seconds(20));
    attach(&mut world, 2);
    answer(&mut world, 2, 200);
    assert_eq!(finals(&world), [200]);
    assert_eq!(ends(&world), [(device(1), Declined), (device(2), CallState::Answered)]);
    attach(&mut world, 1);
    assert_eq!(world.count("INVITE"), 2, "who declined is not asked again");
}

#[test]
fn a_cancel_ends_the_ringing_of_all_and_waits_for_the_last_of_them() {
    let mut world = ringing();
    world.cancel("call-1");
    assert_eq!(world.count("CANCEL"), 2);
    answer(&mut world, 1, 487);
    assert_eq!(finals(&world), []);
    answer(&mut world, 2, 487);
    assert_eq!(finals(&world), [487]);
    assert_eq!(ends(&world), [(device(1), Cancelled), (device(2), Cancelled)]);
    assert_eq!(ended(&world), [Cancelled]);
}

#[test]
fn an_answer_that_crosses_the_cancel_wins_over_the_other_device_too() {
    let mut world = ringing();
    world.cancel("call-1");
    answer(&mut world, 1, 487);
    answer(&mut world, 2, 200);
    assert_eq!(finals(&world), [200]);
    assert_eq!(ends(&world), [(device(1), AnsweredElsewhere), (device(2), CallState::Answered)]);
}

#[test]
fn a_device_whose_flow_is_dead_is_woken_while_the_other_rings() {
    let mut world = devices(2);
    attach(&mut world, 1);
    attach(&mut world, 2);
    world.invite("call-1");
    answer(&mut world, 1, 180);
    world.advance(seconds(2));
    assert_eq!(world.wakes().iter().map(|wake| wake.instance).collect::<Vec<_>>(), [device(2)]);
    world.input(Input::Closed(FlowId::Stream(2)));
    assert_eq!((world.wakes().len(), finals(&world)), (1, vec![]));
    // By another flow.
    world.instance = device(2);
    world.attach(3);
    answer(&mut world, 3, 200);
    assert_eq!(finals(&world), [200]);
    assert_eq!(ends(&world), [(device(1), AnsweredElsewhere), (device(2), CallState::Answered)]);
}

#[test]
fn what_a_device_has_said_is_not_said_again_when_it_has_refused() {
    for refuses in [true, false] {
        let mut world = devices(2);
        for number in [1, 2] {
            attach(&mut world, number);
        }
        world.invite("call-1");
        answer(&mut world, 2, 180);
        answer(&mut world, 1, 183);
        if refuses {
            answer(&mut world, 1, 486);
        }
        world.advance(seconds(61));
        let again = world.last("INVITE 183");
        let tag = again.to().unwrap().tag().map(str::to_owned);
        assert_eq!((world.count("INVITE 183"), tag.as_deref() == Some("one")), (2, !refuses), "{tag:?}");
        // RFC 6228: an early dialog is over, and nobody rings by it.
        answer(&mut world, 2, 199);
        world.advance(seconds(58));
        assert_eq!((world.count("INVITE 199"), finals(&world)), (1, vec![]));
        world.advance(seconds(2));
        assert_eq!(finals(&world)[0], if refuses { 486 } else { 408 }, "120 s after it began to ring");
    }
}

#[test]
fn a_push_that_reaches_nobody_leaves_the_call_to_the_others() {
    let mut world = devices(2);
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.input(Input::DeviceUnreachable { call, instance: device(1) });
    assert_eq!(finals(&world), []);
    attach(&mut world, 2);
    answer(&mut world, 2, 486);
    assert_eq!(finals(&world), [486], "nobody is left to wait for");
    assert_eq!(ends(&world), [(device(2), Declined), (device(1), TimedOut)]);

    let mut world = devices(2);
    world.invite("call-1");
    let call = world.wakes()[0].call;
    for number in [1, 2] {
        world.input(Input::DeviceUnreachable { call, instance: device(number) });
    }
    assert_eq!((finals(&world), ended(&world)), (vec![480], vec![TimedOut]));

    let mut world = devices(2);
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.input(Input::DeviceUnreachable { call, instance: device(1) });
    attach(&mut world, 1);
    answer(&mut world, 1, 200);
    assert_eq!(finals(&world), [200], "it came by itself");
}

#[test]
fn a_device_that_leaves_during_a_call_is_cancelled_and_the_other_rings_on() {
    let mut world = ringing();
    world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
    assert!(to_device(&world, 1, "CANCEL").cseq().is_some());
    assert_eq!(world.count("CANCEL"), 1);
    assert_eq!((finals(&world), ends(&world)), (vec![], vec![(device(1), TimedOut)]));
    assert_eq!(world.count("REGISTER"), 0, "the other keeps the registration");
    answer(&mut world, 1, 487);
    answer(&mut world, 2, 200);
    assert_eq!((finals(&world), ended(&world)), (vec![200], vec![CallState::Answered]));

    let mut world = ringing();
    for number in [1, 2] {
        world.input(Input::Unbind { instance: device(number), deadline: seconds(3) });
    }
    assert_eq!((finals(&world), ended(&world)), (vec![480], vec![TimedOut]));
}

#[test]
fn a_device_that_joins_during_a_call_gets_the_next_one() {
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    join(&mut world, 2, true);
    attach(&mut world, 2);
    assert_eq!(world.count("INVITE"), 1);
    world.invite("call-2");
    assert_eq!(world.count("INVITE"), 3);
}

#[test]
fn a_device_that_joins_twice_while_the_last_one_is_unregistered_has_one_end_of_a_call() {
    let mut world = devices(1);
    world.input(Input::Unbind { instance: device(1), deadline: seconds(30) });
    join(&mut world, 2, false);
    join(&mut world, 2, true);
    world.invite("call-1");
    world.advance(seconds(40));
    assert_eq!((world.wakes().len(), ends(&world)), (1, vec![(device(2), TimedOut)]));
}

#[test]
fn a_device_beyond_its_limit_is_spared_and_the_others_ring() {
    let mut world = devices(2);
    for n in 0..8 {
        world.invite(&format!("call-{n}"));
    }
    assert_eq!(world.wakes().len(), 16);
    join(&mut world, 3, true);
    world.invite("one-more");
    assert_eq!(world.wakes().len(), 17);
    assert_eq!(world.wakes().last().unwrap().instance, device(3));
    world.input(Input::Unbind { instance: device(3), deadline: seconds(3) });
    world.sent.clear();
    world.invite("too-many");
    assert_eq!(finals(&world), [486]);
}

#[test]
fn requests_inside_the_dialog_go_to_the_device_that_answered() {
    let mut world = ringing();
    answer(&mut world, 2, 200);
    let ok = world.last("INVITE 200");
    let mut routes: Vec<_> = ok.elements(Name::RecordRoute).filter(|route| !route.contains("192.0.2.10")).collect();
    routes.reverse();
    let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
    let head = world.head("call-1", "BYE", 2, ";tag=two").replace("Record-Route: <sip:192.0.2.10;lr>\r\n", &routes);
    let source = world.upstream;
    world.receive(
        source,
        &format!("BYE sip:phone2@10.0.0.5:9999;transport=tls SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"),
    );
    assert_eq!(to_device(&world, 2, "BYE").call_id(), Some("call-1"));
    assert_eq!(world.count("BYE"), 1);
}

/// A server that forks to a stale second Contact of a phone, too: each branch gets its own final answer at once.
#[test]
fn a_device_that_has_a_call_already_ends_the_other_branch_of_a_fork_without_a_push() {
    for first in [486, 180] {
        let mut world = World::registered();
        let stale = BindingId::new(0x77 << 64, ShardTag(0));
        world.bind_another(stale, device(2));
        world.respond(200, &[("Contact", &format!("<sip:{stale}@relay.test:5070>;expires=600"))]);
        attach(&mut world, 1);
        attach(&mut world, 2);
        world.sent.clear();
        let (source, text) = (world.upstream, world.invite_text("forked"));
        world.receive(source, &text);
        answer(&mut world, 1, first);
        let other = text.replace("z9hG4bKserver.forked", "z9hG4bKother.forked");
        world.receive(source, &other.replace(&world.binding.to_string(), &stale.to_string()));
        answer(&mut world, 2, 482);
        let expected = if first == 486 { vec![486, 482] } else { vec![482] };
        assert_eq!(finals(&world), expected, "{:?}", world.descriptions());
        world.advance(seconds(20));
        assert!(finals(&world).iter().all(|status| expected.contains(status)), "{:?}", world.descriptions());
        assert_eq!(world.wakes().len(), 0, "nobody is pushed for it");
    }
}

#[test]
fn a_device_that_takes_its_second_leg_for_a_copy_is_waited_for_without_a_push() {
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    world.input(Input::Closed(FlowId::Stream(1)));
    let pushes = world.wakes().len();
    let own = world.instance;
    world.attach(2);
    let second = to_device(&world, 2, "INVITE");
    let source = world.device(2);
    world.reply(source, &second, 482, &[], "");
    world.advance(seconds(5));
    assert_eq!((finals(&world), world.wakes().len()), (vec![], pushes));
    world.attach(3);
    assert_eq!(world.instance, own);
    answer(&mut world, 3, 200);
    assert_eq!(finals(&world), [200]);
}
