//! Many bindings at one registrar that all want to register: how fast they may, and who goes first.

use std::collections::BTreeSet;
use std::time::Duration;

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};
use sip::message::Name;

use crate::world::{World, seconds, server_address};

fn more(number: u128) -> (BindingId, InstanceId) {
    (BindingId::new(number << 64, ShardTag(0)), InstanceId::new(number << 80, ShardTag(0)))
}

/// A world of so many bindings at one registrar that all want to register at once, and how fast they may.
fn crowd(bindings: u128, per_second: u32, flow: FlowId) -> World {
    crowd_that_asks_for(600, bindings, per_second, flow)
}

/// Likewise, for so many seconds.
fn crowd_that_asks_for(expires: u64, bindings: u128, per_second: u32, flow: FlowId) -> World {
    let mut world = World::with_settings(flow, |settings| {
        settings.register_expires = seconds(expires);
        settings.upstream.registrations_per_second = per_second;
    });
    for number in 1..=bindings {
        let (binding, instance) = more(number);
        world.bind_another(binding, instance);
    }
    world
}

fn grant_all(world: &mut World) -> usize {
    let asked: Vec<_> = std::mem::take(&mut world.sent).into_iter().map(|sent| sent.message).collect();
    for register in asked.iter().filter(|it| it.is_request()) {
        let source = world.upstream;
        world.reply(source, register, 200, &[], "");
    }
    asked.len()
}

#[test]
fn a_restart_registers_no_faster_than_the_registrar_may_be_asked() {
    let mut world = crowd(500, 100, FlowId::Stream(1));
    assert_eq!(grant_all(&mut world), 1, "the others wait for their turn");
    assert_eq!(world.endpoint.registrations_waiting(), 499);
    let mut each = Vec::new();
    for _ in 0..5 {
        world.advance(seconds(1));
        each.push((grant_all(&mut world), world.endpoint.registrations_waiting()));
    }
    assert_eq!(each, [(100, 399), (100, 299), (100, 199), (100, 99), (99, 0)]);
}

#[test]
fn who_waits_is_counted_once_and_no_longer_when_it_is_gone() {
    let mut world = crowd(10, 1, FlowId::Stream(1));
    assert_eq!(world.endpoint.registrations_waiting(), 9);
    // The flow is another one, and who waited waits on: the one that was sent, too.
    world.upstream.flow = FlowId::Stream(2);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.advance(seconds(1));
    let waiting = world.endpoint.registrations_waiting();
    assert!((8..=10).contains(&waiting), "{waiting}");
    for number in 1..=10 {
        let (_, instance) = more(number);
        world.input(Input::Unbind { instance, deadline: Duration::ZERO });
        world.advance(Duration::from_millis(1));
    }
    world.advance(seconds(60));
    assert_eq!((world.endpoint.counts().bindings, world.endpoint.registrations_waiting()), (0, 0));
}

#[test]
fn a_lost_flow_is_no_storm_and_each_binding_comes_back_once() {
    let mut world = crowd(1000, 1000, FlowId::Stream(1));
    for _ in 0..200 {
        world.advance(Duration::from_millis(10));
        grant_all(&mut world);
    }
    world.upstream.flow = FlowId::Stream(2);
    world.input(Input::Closed(FlowId::Stream(1)));
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        assert!(world.sent.len() <= 10, "{}", world.sent.len());
        seen.extend(world.sent.iter().map(|sent| sent.message.call_id().unwrap().to_owned()));
        grant_all(&mut world);
        world.advance(Duration::from_millis(10));
    }
    grant_all(&mut world);
    assert!(seen.len() >= 990, "{}", seen.len());
    assert_eq!(world.dialled, 2);
}

#[test]
fn who_ends_and_who_stands_go_before_a_crowd_that_waits() {
    let mut world = crowd(1, 10, FlowId::Stream(1));
    grant_all(&mut world);
    for number in 2..=300 {
        let (binding, instance) = more(number);
        world.bind_another(binding, instance);
    }
    let (_, first) = more(1);
    world.sent.clear();
    world.input(Input::Unbind { instance: first, deadline: seconds(5) });
    world.advance(seconds(1));
    assert!(world.sent.iter().any(|sent| sent.message.number(Name::Expires) == Some(0)), "it did not wait for 29 s");
    grant_all(&mut world);
    assert!(world.events.iter().any(|event| matches!(event, Event::Unbound { outcome: Unbinding::Confirmed, .. })));
}

#[test]
fn a_long_line_costs_few_timers() {
    let world = crowd(5000, 100, FlowId::Stream(1));
    assert!(world.endpoint.counts().timers < 50, "{}", world.endpoint.counts().timers);
}

#[test]
fn a_registration_that_was_begun_anew_is_refreshed_in_its_new_time() {
    // The timer of the first one fires before the second one's refresh is due.
    let mut world = crowd(1, 10, FlowId::Stream(1));
    grant_all(&mut world);
    world.advance(seconds(300));
    world.upstream.flow = FlowId::Stream(2);
    world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!(grant_all(&mut world), 1);
    world.advance(seconds(415));
    assert_eq!(world.sent.len(), 0);
    let begun = world.now;
    while world.sent.is_empty() {
        assert!(world.now < begun + seconds(100));
        world.advance(seconds(1));
    }
    assert_eq!(grant_all(&mut world), 1);
    assert!(world.endpoint.counts().timers <= 3, "one for the binding, and one for each of its flows");
}

#[test]
fn those_that_fail_at_once_do_not_come_back_at_once() {
    // RFC 5626 §4.5: the wait is random between half of its bound and the bound.
    let mut world = World::new(FlowId::Datagram(server_address()));
    for number in 1..=40 {
        let (binding, instance) = more(number);
        world.bind_another(binding, instance);
        world.advance(Duration::from_millis(1));
    }
    while let Some(sent) = world.sent.pop() {
        let source = world.upstream;
        world.reply(source, &sent.message, 500, &[], "");
    }
    let (mut back, mut in_each) = (BTreeSet::new(), Vec::new());
    for _ in 0..31 {
        let before = back.len();
        world.advance(seconds(1));
        let asked: Vec<_> = world.sent.drain(..).map(|sent| sent.message).collect();
        for register in asked {
            back.insert(register.call_id().unwrap().to_owned());
            let source = world.upstream;
            world.reply(source, &register, 500, &[], "");
        }
        in_each.push(back.len() - before);
    }
    assert_eq!((back.len(), in_each[..14].iter().sum::<usize>()), (40, 0), "{in_each:?}");
    assert!(in_each.iter().all(|count| *count <= 10), "{in_each:?}");
}

#[test]
fn when_a_silent_server_answers_again_all_that_wait_for_another_try_register_in_their_turn() {
    let mut world = crowd_that_asks_for(3600, 200, 100, FlowId::Datagram(server_address()));
    let register_all = |world: &mut World, within: u64| {
        let mut granted = BTreeSet::new();
        for _ in 0..within * 10 {
            let asked: Vec<_> = std::mem::take(&mut world.sent).into_iter().map(|sent| sent.message).collect();
            for register in asked.iter().filter(|it| it.is_request()) {
                granted.insert(register.call_id().unwrap().to_owned());
                let source = world.upstream;
                world.reply(source, register, 200, &[("Expires", "3600")], "");
            }
            world.advance(Duration::from_millis(100));
        }
        granted
    };
    assert_eq!(register_all(&mut world, 5).len(), 200);
    // An outage of three hours: every binding that was due for a refresh was tried, again and again.
    world.advance(seconds(3 * 3600));
    world.sent.clear();
    while world.sent.is_empty() {
        world.advance(seconds(1));
    }
    let all = register_all(&mut world, 4);
    assert_eq!(all.len(), 200, "100 in a second");
    // One that is ignored alone makes nobody else begin anew.
    let (ignored, mut others) = (all.first().unwrap(), BTreeSet::new());
    for _ in 0..600 {
        let asked: Vec<_> = std::mem::take(&mut world.sent).into_iter().map(|sent| sent.message).collect();
        for register in asked.iter().filter(|it| it.is_request() && it.call_id() != Some(ignored)) {
            others.insert((register.call_id().unwrap().to_owned(), register.cseq().unwrap().0));
            let source = world.upstream;
            world.reply(source, register, 200, &[("Expires", "3600")], "");
        }
        world.advance(seconds(6));
    }
    assert!(others.len() <= 2 * 199, "{} refreshes in an hour", others.len());
}
