//! A device whose app enables again while a call waits for it, rings, or stands: the later instance takes over from the earlier one.

use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};

use super::leg::{CONTACT, Dialog, End};
use crate::world::{World, seconds, server_address};

fn later() -> InstanceId {
    InstanceId::new(0x7777 << 64, ShardTag(0))
}

/// The device is enabled again. The world's instance is the later one from now on.
fn enable_again(world: &mut World) {
    let binding = world.binding;
    enable_as(world, binding, true);
}

/// Likewise for this binding, with credentials that are accepted or not.
fn enable_as(world: &mut World, binding: BindingId, proven: bool) {
    world.bind_another(binding, later());
    if proven {
        world.input(Input::Vouch(later()));
    }
    let earlier = std::mem::replace(&mut world.instance, later());
    world.input(Input::Succeed { earlier, successor: later() });
    world.input(Input::Unbind { instance: earlier, deadline: seconds(3) });
}

fn flow_of(world: &World, method: &str) -> Option<FlowId> {
    world.sent.iter().rev().find(|sent| sent.message.method_text() == Some(method)).map(|sent| sent.flow)
}

fn answers(world: &World) -> Vec<u16> {
    let to_caller = world.sent.iter().filter(|sent| sent.flow == FlowId::Datagram(server_address()));
    let invite = to_caller.filter(|sent| sent.message.cseq().is_some_and(|(_, method)| method == "INVITE"));
    invite.filter_map(|sent| sent.message.status()).filter(|status| *status >= 200).collect()
}

/// The device answers the last INVITE by this flow.
fn answer(world: &mut World, flow: u64) {
    let (device, invite) = (world.device(flow), world.last("INVITE"));
    world.reply(device, &invite, 200, &[CONTACT], "");
}

/// The requests of a call pass both ways by this flow, and the call ends.
fn talks(world: &mut World, dialog: &Dialog, flow: u64) {
    let first = 10 * u32::try_from(flow).unwrap();
    for (cseq, method) in [(first, "INFO"), (first + 1, "BYE")] {
        world.sent.clear();
        dialog.send(world, End::Caller, method, cseq);
        assert_eq!(flow_of(world, method), Some(FlowId::Stream(flow)), "{method}");
        world.sent.clear();
        let source = world.device(flow);
        world.receive_bytes(source, &dialog.request(End::Device, method, cseq, "", b""));
        assert_eq!(flow_of(world, method), Some(FlowId::Datagram(server_address())), "{method}");
    }
}

#[test]
fn a_call_that_waits_goes_to_the_later_instance_without_another_push() {
    let mut world = World::registered();
    world.invite("call-1");
    enable_again(&mut world);
    assert_eq!((answers(&world), world.wakes().len()), (vec![], 1));
    world.attach(1);
    answer(&mut world, 1);
    assert_eq!((answers(&world), world.wakes().len()), (vec![200], 1));
    assert!(
        world.events.iter().any(|event| matches!(event, Event::DialogBegun { instance, .. } if *instance == later()))
    );
    let dialog = Dialog::of("call-1", world.last("INVITE"), &world.last("INVITE 200"));
    talks(&mut world, &dialog, 1);
}

#[test]
fn a_call_that_the_later_instance_was_offered_as_well_goes_on_for_it_alone() {
    let mut world = World::registered();
    world.bind_another(world.binding, later());
    world.input(Input::Vouch(later()));
    world.invite("call-1");
    assert_eq!(world.wakes().len(), 2);
    enable_again(&mut world);
    world.attach(1);
    answer(&mut world, 1);
    assert_eq!((answers(&world), world.wakes().len()), (vec![200], 2));
    assert_eq!(world.final_states(), [CallState::Answered]);
}

#[test]
fn a_call_that_was_announced_finds_the_later_instance_woken() {
    let mut world = World::registered();
    world.input(Input::ExpectCall {
        instance: world.instance,
        from: "sip:bob@example.com".into(),
        name: None,
        wait: seconds(30),
    });
    enable_again(&mut world);
    assert!(world.endpoint.expected_call(world.now, later(), "sip:bob@example.com").is_some());
    world.attach(1);
    world.invite("call-1");
    answer(&mut world, 1);
    assert_eq!((answers(&world), world.wakes().len()), (vec![200], 1));
}

#[test]
fn a_phone_that_rings_as_the_earlier_instance_rings_on_and_its_answer_counts() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 180, &[]);
    enable_again(&mut world);
    assert_eq!((world.count("CANCEL"), answers(&world)), (0, vec![]));
    answer(&mut world, 1);
    assert_eq!((answers(&world), world.wakes().len()), (vec![200], 1));
    dialog.send(&mut world, End::Caller, "ACK", 1);
    assert_eq!(flow_of(&world, "ACK"), Some(FlowId::Stream(1)));
    talks(&mut world, &dialog, 1);
}

#[test]
fn a_phone_that_rings_and_loses_its_connection_as_it_is_enabled_again_answers_by_the_next_one() {
    for is_lost_before in [true, false] {
        let mut world = World::registered();
        let first = Dialog::begin(&mut world, "call-1", 180, &[]).invite;
        if is_lost_before {
            world.input(Input::Closed(FlowId::Stream(1)));
            enable_again(&mut world);
        } else {
            enable_again(&mut world);
            world.input(Input::Closed(FlowId::Stream(1)));
        }
        world.attach(2);
        assert_eq!(
            flow_of(&world, "INVITE"),
            Some(FlowId::Stream(2)),
            "it may have let the call go with its connection"
        );
        let (device, copy) = (world.device(2), world.last("INVITE"));
        world.reply(device, &copy, 482, &[], "");
        world.reply(device, &first, 200, &[CONTACT], "");
        assert_eq!((answers(&world), world.count("CANCEL"), world.wakes().len()), (vec![200], 0, 1));
    }
}

#[test]
fn a_call_that_stands_goes_on_by_the_connection_of_the_earlier_instance_and_by_the_next_one() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    enable_again(&mut world);
    talks(&mut world, &dialog, 1);
    world.invite("call-2");
    assert_eq!((world.wakes().len(), flow_of(&world, "INVITE")), (2, None), "a new call is pushed");

    world.input(Input::Closed(FlowId::Stream(1)));
    world.sent.clear();
    dialog.send(&mut world, End::Caller, "UPDATE", 9);
    assert_eq!((flow_of(&world, "UPDATE"), world.count("UPDATE 480")), (None, 0), "it waits for the device");
    world.attach(2);
    assert_eq!(flow_of(&world, "UPDATE"), Some(FlowId::Stream(2)));
    talks(&mut world, &dialog, 2);
}

#[test]
fn a_request_that_waits_for_the_earlier_instance_goes_to_the_later_one_and_may_be_cancelled() {
    for is_cancelled in [false, true] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        world.input(Input::Closed(FlowId::Stream(1)));
        world.sent.clear();
        dialog.send(&mut world, End::Caller, "INVITE", 2);
        enable_again(&mut world);
        if is_cancelled {
            dialog.send(&mut world, End::Caller, "CANCEL", 2);
            assert_eq!(answers(&world), [487]);
        }
        world.attach(2);
        assert_eq!(flow_of(&world, "INVITE"), (!is_cancelled).then_some(FlowId::Stream(2)));
    }
}

#[test]
fn a_device_that_has_come_in_its_new_name_before_its_earlier_one_ends_has_what_that_one_had() {
    let mut world = World::registered();
    world.bind_another(world.binding, later());
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    world.sent.clear();
    dialog.send(&mut world, End::Caller, "INFO", 2);
    let earlier = std::mem::replace(&mut world.instance, later());
    world.attach(2);
    world.sent.clear();
    world.instance = earlier;
    enable_again(&mut world);
    assert_eq!(flow_of(&world, "INFO"), Some(FlowId::Stream(2)), "its earlier connection may be dead");
    // The earlier connection may be the one that the phone still talks by.
    dialog.send(&mut world, End::Device, "INFO", 3);
    assert_eq!(world.count("INFO 403"), 0);
    talks(&mut world, &dialog, 2);
}

/// The later one is enabled again, too.
fn enable_a_third_time(world: &mut World) {
    let third = InstanceId::new(0x8888 << 64, ShardTag(0));
    world.bind_another(world.binding, third);
    world.input(Input::Vouch(third));
    world.input(Input::Succeed { earlier: later(), successor: third });
    world.input(Input::Unbind { instance: later(), deadline: seconds(3) });
    world.instance = third;
}

#[test]
fn a_dialog_outlives_two_successions_and_a_wipe() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    enable_again(&mut world);
    enable_a_third_time(&mut world);
    assert_eq!(world.endpoint.predecessors(world.instance).len(), 2);
    talks(&mut world, &dialog, 1);
    world.attach(2);
    talks(&mut world, &dialog, 2);

    // As of any that is wiped: who is in a call can hang up.
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    world.sent.clear();
    dialog.send(&mut world, End::Caller, "BYE", 30);
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Stream(2)));
    world.sent.clear();
    let source = world.device(2);
    world.receive_bytes(source, &dialog.request(End::Device, "BYE", 30, "", b""));
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Datagram(server_address())));
}

#[test]
fn a_call_goes_on_by_the_connection_of_the_earlier_instance_when_the_later_one_is_wiped() {
    for is_enabled_twice in [false, true] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        enable_again(&mut world);
        if is_enabled_twice {
            enable_a_third_time(&mut world);
        }
        world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
        talks(&mut world, &dialog, 1);
        // No longer than a device that is wiped itself.
        world.advance(seconds(700));
        world.sent.clear();
        dialog.send(&mut world, End::Caller, "BYE", 90);
        assert_eq!((flow_of(&world, "BYE"), world.count("BYE 480")), (None, 1));
    }
}

#[test]
fn who_is_not_proven_or_registers_otherwise_gets_nothing_of_the_earlier_one() {
    for (binding, proven) in [(0x1111, false), (0x9999, true)] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        world.sent.clear();
        world.input(Input::Closed(FlowId::Stream(1)));
        world.invite("call-2");
        let binding = BindingId::new(binding << 64, ShardTag(0));
        enable_as(&mut world, binding, proven);
        assert_eq!(answers(&world), [480]);
        world.attach(2);
        assert_eq!(flow_of(&world, "INVITE"), None);
        let source = world.device(2);
        world.receive_bytes(source, &dialog.request(End::Device, "BYE", 2, "", b""));
        assert_eq!((world.count("BYE"), world.count("BYE 403")), (0, 1));
    }
}
