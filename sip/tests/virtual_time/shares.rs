//! The share of one caller at a device, in virtual time: repeated calls of one keep no other caller out, and refused calls are told.

use std::time::Duration;

use sip::endpoint::calls::CALLS_PER_INSTANCE;
use sip::endpoint::*;
use sip::id::{FlowId, InstanceId, ShardTag};

use crate::world::{self, World, seconds};

impl World {
    /// A caller of this name calls the binding.
    fn called_by(&mut self, caller: &str, call_id: &str) {
        let (source, text) = (self.upstream, self.invite_text(call_id).replace("sip:bob@", &format!("sip:{caller}@")));
        self.receive(source, &text);
    }

    /// A caller of this name calls, and hangs up at once, so many times; by so many calls more the device was sent one.
    fn nagged_by(&mut self, caller: &str, times: usize) -> usize {
        let before = self.count("INVITE");
        for number in 0..times {
            let call_id = format!("{caller}.{number}.{}", self.sent.len());
            self.called_by(caller, &call_id);
            self.cancel(&call_id);
        }
        self.count("INVITE") - before
    }

    /// The callers that the shell was told were refused, each with the device.
    fn told_refused(&self) -> Vec<(InstanceId, &str)> {
        let told = self.events.iter().filter_map(|event| match event {
            Event::Refused(call) => Some((call.instance, &*call.from)),
            _ => None,
        });
        told.collect()
    }
}

/// The world's binding is shared by one more device.
pub fn another_device(world: &mut World) -> InstanceId {
    let instance = InstanceId::new(0x3333 << 64, ShardTag(0));
    world.input(Input::Bind(Box::new(NewBinding {
        binding: world.binding,
        instance,
        aor: "sip:alice@example.com".into(),
        registrar: "sip:example.com".into(),
        upstream: world::REGISTRAR,
        sip_instance: [0xab; 16],
        presence: Presence::Background,
        proven: true,
        same_as: Some(world.instance),
        taken_from: Vec::new(),
    })));
    instance
}

#[test]
fn a_stranger_who_calls_again_and_again_keeps_nobody_from_a_phone_that_is_there() {
    let mut world = World::registered();
    world.attach(1);
    assert_eq!(world.nagged_by("stranger", 25), 20);
    for round in 0..20 {
        world.nagged_by("stranger", 10);
        let before = world.count("INVITE");
        world.called_by(&format!("friend{round}"), &format!("f{round}"));
        assert_eq!(world.count("INVITE"), before + 1, "{round}");
        world.cancel(&format!("f{round}"));
        world.advance(Duration::from_millis(500));
    }
    assert!(world.told_refused().iter().all(|(_, from)| from.contains("stranger")));
}

/// RFC 3325 §9.1: their server asserts who they are, and the device is not told.
#[test]
fn those_who_withhold_their_numbers_have_a_share_each_where_their_server_says_who_they_are() {
    let mut world = World::registered();
    let call = |world: &mut World, asserted: &str, call_id: &str| {
        let lines = format!("Privacy: id\r\n{asserted}Contact:");
        let text = world.invite_text(call_id).replacen("Contact:", &lines, 1);
        world.receive(world.upstream, &text);
    };
    let who = |number: usize| format!("P-Asserted-Identity: <sip:{number}@example.com>\r\n");
    for number in 0..CALLS_PER_INSTANCE {
        call(&mut world, &who(1), &format!("a{number}"));
    }
    assert_eq!(world.count("INVITE 486"), CALLS_PER_INSTANCE / 2);
    call(&mut world, &who(2), "another");
    call(&mut world, "", "nobody");
    assert_eq!(world.count("INVITE 486"), CALLS_PER_INSTANCE / 2, "neither of these");
    for number in 0..40 {
        call(&mut world, &who(1), &format!("b{number}"));
    }
    let told = world.told_refused();
    assert!(!told.is_empty() && told.iter().all(|(_, from)| *from == "sip:anonymous@anonymous.invalid"));
}

/// Pushes are fewer than calls: one who sleeps is woken for friends all the same.
#[test]
fn strangers_who_call_again_and_again_leave_pushes_for_friends() {
    let mut world = World::registered();
    for stranger in ["one", "two", "three"] {
        world.nagged_by(stranger, 100);
    }
    let pushed = world.wakes().len();
    assert!((20..=40).contains(&pushed), "{pushed}");
    for round in 0..8 {
        world.called_by(&format!("friend{round}"), &format!("f{round}"));
        assert_eq!(world.wakes().len(), pushed + round + 1);
        world.cancel(&format!("f{round}"));
    }
    // A caller with many names gets the rest, and no more.
    for number in 0..500 {
        world.nagged_by(&format!("name{number}"), 1);
    }
    assert_eq!(world.wakes().len(), 40);
}

#[test]
fn calls_of_one_stranger_that_wait_leave_room_for_others() {
    for attached in [false, true] {
        let mut world = World::registered();
        if attached {
            world.attach(1);
        }
        for number in 0..CALLS_PER_INSTANCE {
            world.called_by("stranger", &format!("s{number}"));
        }
        assert_eq!(world.count("INVITE 486"), CALLS_PER_INSTANCE / 2);
        for caller in ["friend", "mother", "boss"] {
            world.called_by(caller, caller);
        }
        assert_eq!(world.count("INVITE 486"), CALLS_PER_INSTANCE / 2, "none of these");
        for number in 0..CALLS_PER_INSTANCE {
            world.called_by(&format!("name{number}"), &format!("n{number}"));
        }
        assert_eq!(world.endpoint.open_calls(), CALLS_PER_INSTANCE);
    }
}

#[test]
fn a_call_that_is_refused_is_told_with_its_caller_and_few_of_one() {
    let mut world = World::registered();
    for number in 0..100 {
        world.called_by("stranger", &format!("s{number}"));
    }
    assert_eq!(world.told_refused(), [(world.instance, "sip:stranger@example.com"); 5]);
    for number in 0..CALLS_PER_INSTANCE {
        world.called_by(&format!("name{number}"), &format!("n{number}"));
    }
    let (before, refused) = (world.told_refused().len(), world.count("INVITE 486"));
    world.called_by("friend", "f");
    assert_eq!((world.told_refused().len(), world.count("INVITE 486")), (before + 1, refused + 1));
    assert_eq!(world.told_refused().last(), Some(&(world.instance, "sip:friend@example.com")));
    world.advance(seconds(60));
    world.called_by("stranger", "later");
    assert_eq!(world.endpoint.open_calls(), 1);
}

/// One of two devices is there; the sleeping one has been woken too often, and gets no call more: it misses what the other one does not answer, and
/// nothing else.
fn woken_too_often(callers: usize) -> (World, InstanceId) {
    let mut world = World::registered();
    let other = another_device(&mut world);
    world.attach(1);
    // Only the attached one may have so many.
    for number in 0..callers {
        world.nagged_by(&format!("name{number}"), 1);
    }
    assert_eq!(world.wakes().iter().filter(|wake| wake.instance == other).count(), 40);
    world.events.clear();
    (world, other)
}

#[test]
fn a_device_that_does_not_get_a_call_of_its_account_misses_it_when_nobody_answers() {
    let (mut world, other) = woken_too_often(60);
    world.advance(seconds(1));
    world.nagged_by("again", 3);
    assert_eq!(world.told_refused(), [(other, "sip:again@example.com")], "two more pushes were there");
    world.events.clear();
    world.called_by("friend", "answered");
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999>")], "");
    assert_eq!(world.told_refused(), []);
}

#[test]
fn a_device_that_does_not_get_a_call_misses_it_when_the_others_stack_refuses_it_and_not_when_its_user_does() {
    for (status, rings, after, told) in [
        (500, false, 0, 1),
        (404, false, 0, 1),
        (488, false, 5, 1),
        (500, true, 0, 1),
        (480, true, 0, 0),
        (486, false, 0, 0),
        (603, false, 0, 0),
    ] {
        let (mut world, other) = woken_too_often(42);
        world.called_by("friend", "refused");
        let (device, invite) = (world.device(1), world.last("INVITE"));
        if rings {
            world.reply(device, &invite, 180, &[], "");
        }
        world.reply(device, &invite, status, &[], "");
        let missed = |world: &World| {
            let missed = world.events.iter().filter(|event| matches!(event, Event::Missed { .. })).count();
            (missed, world.told_refused().len())
        };
        if after > 0 {
            assert_eq!(missed(&world), (0, 0), "its server may send it again");
            world.advance(seconds(after));
        }
        assert_eq!(missed(&world), (told, told), "{status}, rings: {rings}");
        assert!(world.told_refused().iter().all(|it| *it == (other, "sip:friend@example.com")));
    }
}

/// A phone whose connection breaks while a call is forked to it is woken, but no oftener than it may be.
#[test]
fn a_phone_that_seemed_to_be_there_is_woken_within_its_budget() {
    let mut world = World::registered();
    for flow in 0..60 {
        world.attach(flow);
        world.called_by(&format!("name{flow}"), &format!("c{flow}"));
        world.input(Input::Closed(FlowId::Stream(flow)));
        if world.endpoint.open_calls() > 0 {
            world.cancel(&format!("c{flow}"));
        }
    }
    assert_eq!((world.wakes().len(), world.endpoint.open_calls()), (40, 0));
    assert_eq!(world.count("INVITE 480"), 20);
}
