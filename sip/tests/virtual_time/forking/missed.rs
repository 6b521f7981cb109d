//! The devices that are told of a call which a device's stack has refused, and when: its caller's server may send it again in another form (RFC 3261
//! §8.1.3.5).

use sip::endpoint::*;
use sip::id::InstanceId;

use super::*;

/// After these a caller's server may send the call again.
const FORMS: [u16; 15] = [401, 407, 413, 414, 415, 416, 420, 421, 422, 484, 488, 428, 433, 437, 494];

/// The devices that have missed a call, and its caller, as the shell was told.
fn missed(world: &World) -> Vec<(InstanceId, &str)> {
    let missed = world.events.iter().filter_map(|event| match event {
        Event::Missed { call, .. } => Some((call.instance, &*call.from)),
        _ => None,
    });
    missed.collect()
}

/// Bob's call.
fn bobs(number: u64) -> (InstanceId, &'static str) {
    (device(number), "sip:bob@example.com")
}

/// Device 1 is there, and its stack refuses Bob's call; the other ones cannot be woken. The server acknowledges the refusal.
fn refused_by(devices_there: u64, status: u16) -> World {
    let mut world = devices(devices_there);
    attach(&mut world, 1);
    world.invite("call-1");
    answer(&mut world, 1, status);
    for number in 2..=devices_there {
        let call = world.wakes().last().unwrap().call;
        world.input(Input::DeviceUnreachable { call, instance: device(number) });
    }
    assert_eq!(finals(&world), [status]);
    let ack = format!(
        "ACK sip:{}@relay.test:5070 SIP/2.0\r\n{}Content-Length: 0\r\n\r\n",
        world.binding,
        world.head("call-1", "ACK", 1, ";tag=one")
    );
    world.receive(world.upstream, &ack);
    world
}

/// An INVITE comes: another one with this Call-ID where there was one.
fn called_again(world: &mut World, caller: &str, call_id: &str) {
    let text = world.invite_text(call_id).replace("sip:bob@", &format!("sip:{caller}@"));
    world.receive(world.upstream, &text.replace("z9hG4bKserver", &format!("z9hG4bKagain{}", world.sent.len())));
}

#[test]
fn a_call_that_comes_again_in_another_form_and_is_answered_was_missed_by_nobody() {
    for status in FORMS {
        for (call_id, after) in [("call-1", 0), ("call-2", 0), ("call-1", 4)] {
            let mut world = refused_by(2, status);
            assert_eq!(ends(&world), [(device(1), CallState::TimedOut), (device(2), CallState::TimedOut)]);
            world.advance(seconds(after));
            called_again(&mut world, "bob", call_id);
            assert_eq!(world.count("INVITE"), 2, "{:?}", world.descriptions());
            answer(&mut world, 1, 200);
            world.advance(seconds(600));
            assert_eq!((missed(&world), finals(&world)), (vec![], vec![status, 200]));
            assert_eq!(world.endpoint.counts().calls, 0);
        }
    }
}

#[test]
fn a_call_that_does_not_come_again_is_missed_once_its_time_is_over() {
    for status in FORMS {
        let mut world = refused_by(2, status);
        world.advance(seconds(4));
        assert_eq!((missed(&world), world.endpoint.open_calls()), (vec![], 1), "a shutdown waits for it");
        world.advance(seconds(1));
        assert_eq!((missed(&world), world.endpoint.open_calls()), (vec![bobs(1), bobs(2)], 0));
        called_again(&mut world, "bob", "call-2");
        answer(&mut world, 1, 200);
        world.advance(seconds(600));
        assert_eq!((missed(&world).len(), world.endpoint.counts().calls), (2, 0), "told once");
    }
    for status in [400, 404, 480, 500] {
        let world = refused_by(2, status);
        assert_eq!(missed(&world), [bobs(1), bobs(2)], "{status} mends nothing");
    }
}

#[test]
fn a_call_that_comes_again_in_vain_is_missed_once() {
    let mut world = refused_by(1, 488);
    world.advance(seconds(4));
    called_again(&mut world, "bob", "call-1");
    answer(&mut world, 1, 488);
    world.advance(seconds(4));
    assert_eq!(missed(&world), []);
    world.advance(seconds(1));
    assert_eq!(missed(&world), [bobs(1)]);
    let mut world = refused_by(1, 488);
    called_again(&mut world, "bob", "call-1");
    answer(&mut world, 1, 500);
    world.advance(seconds(600));
    assert_eq!(missed(&world), [bobs(1)]);
}

#[test]
fn another_callers_call_and_one_for_another_device_are_not_the_one_that_comes_again() {
    let mut world = refused_by(1, 488);
    called_again(&mut world, "carol", "call-2");
    answer(&mut world, 1, 200);
    world.advance(seconds(5));
    assert_eq!(missed(&world), [bobs(1)]);
    let mut world = refused_by(2, 488);
    world.input(Input::Suspend(device(2)));
    assert_eq!(members(&world), [device(1)]);
    called_again(&mut world, "bob", "call-1");
    answer(&mut world, 1, 200);
    world.advance(seconds(5));
    assert_eq!(missed(&world), [bobs(2)], "its app is in the foreground by now");
}

#[test]
fn a_process_that_ends_tells_what_it_has_not_told_yet() {
    let mut world = refused_by(2, 488);
    world.input(Input::EndCalls(Failover::Nobody));
    assert_eq!((missed(&world), world.endpoint.open_calls()), (vec![bobs(1), bobs(2)], 0));
    world.advance(seconds(600));
    assert_eq!((missed(&world).len(), world.endpoint.counts().calls), (2, 0));
}

#[test]
fn what_the_device_of_an_earlier_instance_has_missed_its_successor_is_told() {
    let mut world = refused_by(1, 488);
    join(&mut world, 2, true);
    world.input(Input::Succeed { earlier: device(1), successor: device(2) });
    world.input(Input::Unbind { instance: device(1), deadline: seconds(3) });
    world.advance(seconds(5));
    assert_eq!(missed(&world), [bobs(2)]);
}

#[test]
fn a_call_that_may_come_again_was_missed_when_another_node_takes_its_device_over() {
    let mut world = refused_by(2, 488);
    world.events.clear();
    world.input(Input::Release(device(1)));
    assert_eq!(missed(&world), [bobs(1)]);
    let of = |event: &Event| match event {
        Event::Missed { .. } => Some("missed"),
        Event::Unbound { .. } => Some("unbound"),
        _ => None,
    };
    assert_eq!(world.events.iter().filter_map(of).collect::<Vec<_>>(), ["missed", "unbound"]);
    world.advance(seconds(10));
    assert_eq!(missed(&world), [bobs(1), bobs(2)], "each once");
}

#[test]
fn the_status_of_each_device_that_refuses_is_told_once_before_its_end() {
    for status in [300, 400, 420, 480, 482, 486, 488, 500, 503, 603] {
        for rings in [false, true] {
            let mut world = devices(1);
            attach(&mut world, 1);
            world.invite("call-1");
            if rings {
                answer(&mut world, 1, 180);
            }
            answer(&mut world, 1, status);
            let told = world.events.iter().filter_map(|event| match event {
                Event::DeviceRefused { instance, status, .. } => Some((*instance, Some(*status))),
                Event::Call { instance, state, .. } if state.is_final() => Some((*instance, None)),
                _ => None,
            });
            assert_eq!(told.collect::<Vec<_>>(), [(device(1), Some(status)), (device(1), None)], "{status} {rings}");
        }
    }
    // The 487 to the caller's CANCEL is no refusal.
    let mut world = devices(1);
    attach(&mut world, 1);
    world.invite("call-1");
    answer(&mut world, 1, 180);
    world.cancel("call-1");
    answer(&mut world, 1, 487);
    assert!(!world.events.iter().any(|event| matches!(event, Event::DeviceRefused { .. })));
}

#[test]
fn an_answer_that_is_too_long_to_be_passed_is_a_missed_call() {
    for rings in [true, false] {
        let mut world = devices(1);
        attach(&mut world, 1);
        world.invite("call-1");
        if rings {
            answer(&mut world, 1, 180);
        }
        let (source, invite) = (world.device(1), to_device(&world, 1, "INVITE"));
        let long = "x".repeat(15 * 1024);
        world.reply(source, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999>"), ("X-Long", &long)], SDP);
        assert_eq!((finals(&world), world.count("ACK"), world.count("BYE")), (vec![500], 1, 1), "{rings}");
        assert_eq!(ends(&world), [(device(1), CallState::TimedOut)], "{rings}");
        assert_eq!(missed(&world), [bobs(1)], "{rings}");
        let told = world.events.iter().filter(|it| matches!(it, Event::AnswerTooLong { .. })).count();
        assert_eq!(told, 1, "{rings}");
        assert!(!world.events.iter().any(|it| matches!(it, Event::DeviceRefused { .. })), "{rings}");
    }
}
