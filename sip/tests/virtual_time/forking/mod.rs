//! One account on several devices: one Contact, all of them rung, the best answer passed (RFC 3261 §16.7).

mod calls;
mod crossings;
mod given_up;
mod joining;
mod late;
mod late_answers;
mod missed;
mod out;
mod passwords;
mod reconnecting;
mod unheard;
mod unheard_end;

use std::time::Duration;

use sip::endpoint::*;
use sip::id::{FlowId, InstanceId, ShardTag};
use sip::message::{Message, Name};

use crate::world::{self, SDP, World, seconds};

const CHALLENGE: &str = "Digest realm=\"example.com\", nonce=\"n9\", qop=\"auth\", algorithm=MD5";

/// The instance of the device with this number; 1 is the world's own.
fn device(number: u64) -> InstanceId {
    InstanceId::new((0x2221_u128 + u128::from(number)) << 64, ShardTag(0))
}

/// A device shares the binding, with the credentials of the first one.
fn join(world: &mut World, number: u64, proven: bool) {
    join_as(world, number, proven, Some(1));
}

/// A device shares the binding, with the credentials of another one or with others than any.
fn join_as(world: &mut World, number: u64, proven: bool, same_as: Option<u64>) {
    let new = NewBinding {
        binding: world.binding,
        instance: device(number),
        aor: "sip:alice@example.com".into(),
        registrar: "sip:example.com".into(),
        upstream: world::REGISTRAR,
        sip_instance: [0xab; 16],
        presence: Presence::Background,
        proven,
        same_as: same_as.map(device),
        taken_from: Vec::new(),
    };
    world.input(Input::Bind(Box::new(new)));
}

/// A registered binding of this many devices, all of which have proven themselves.
fn devices(count: u64) -> World {
    let mut world = World::registered();
    for number in 2..=count {
        join(&mut world, number, true);
    }
    assert_eq!(world.endpoint.callable_instances(world.binding), (1..=count).map(device).collect::<Vec<_>>());
    world.sent.clear();
    world.events.clear();
    world
}

/// The device with this number attaches by the flow with the same number.
fn attach(world: &mut World, number: u64) {
    let own = std::mem::replace(&mut world.instance, device(number));
    world.attach(number);
    world.instance = own;
}

/// The last message of this kind that went to this device.
fn to_device(world: &World, number: u64, method: &str) -> Message {
    let flow = FlowId::Stream(number);
    let to = |sent: &&world::Sent| sent.flow == flow && sent.message.method_text() == Some(method);
    let found = world.sent.iter().rev().find(to);
    found.unwrap_or_else(|| panic!("no {method} to device {number} among {:?}", world.descriptions())).message.clone()
}

/// A device answers the INVITE that it was sent.
fn answer(world: &mut World, number: u64, status: u16) {
    let (source, invite) = (world.device(number), to_device(world, number, "INVITE"));
    world.tag = ["", "one", "two", "three"][number as usize];
    let contact = format!("<sip:phone{number}@10.0.0.5:9999;transport=tls>");
    match status {
        200..300 => world.reply(source, &invite, status, &[("Contact", &contact)], SDP),
        401 => world.reply(source, &invite, status, &[("WWW-Authenticate", "Digest realm=\"r\", nonce=\"n\"")], ""),
        _ => world.reply(source, &invite, status, &[], ""),
    }
}

/// How the call has ended for each device, in the order of the events.
fn ends(world: &World) -> Vec<(InstanceId, CallState)> {
    let ends = world.events.iter().filter_map(|event| match event {
        Event::Call { instance, state, .. } if state.is_final() => Some((*instance, *state)),
        _ => None,
    });
    ends.collect()
}

/// How the call as a whole has ended.
fn ended(world: &World) -> Vec<CallState> {
    let ended = world.events.iter().filter_map(|event| match event {
        Event::Ended { state, .. } => Some(*state),
        _ => None,
    });
    ended.collect()
}

/// The final answers that the caller got.
fn finals(world: &World) -> Vec<u16> {
    let to_caller = world.sent.iter().filter(|sent| matches!(sent.flow, FlowId::Datagram(_)));
    let invite = to_caller.filter(|sent| sent.message.cseq().is_some_and(|(_, method)| method == "INVITE"));
    invite.filter_map(|sent| sent.message.status()).filter(|status| *status >= 200).collect()
}

fn reason(message: &Message) -> Option<&str> {
    message.text(Name::Reason)
}

/// Waits for the next REGISTER, which is a refresh, and gives how long that took.
fn until_refreshed(world: &mut World) -> Duration {
    let (since, before) = (world.now, world.count("REGISTER"));
    while world.count("REGISTER") == before {
        assert!(world.now < since + seconds(3600), "no refresh in an hour");
        world.advance(seconds(1));
    }
    world.now - since
}

/// The instances that are called.
fn members(world: &World) -> Vec<InstanceId> {
    world.endpoint.callable_instances(world.binding)
}

/// The devices whose credentials were to answer a challenge, in order.
fn asked(world: &World) -> Vec<InstanceId> {
    let asked = world.events.iter().filter_map(|event| match event {
        Event::Challenged { instance, .. } => Some(*instance),
        _ => None,
    });
    asked.collect()
}

/// Whether it says that a device is refused for good.
fn refused(event: &Event, number: u64) -> bool {
    matches!(event, Event::RegistrationFailed { instance, failure, .. } if failure.is_final() && *instance == device(number))
}
