//! Calls that overtake the answer to the first REGISTER of their binding.

use sip::endpoint::calls::CALLS_PER_INSTANCE;
use sip::endpoint::calls::overtaking::OVERTAKING_MAX;
use sip::endpoint::*;
use sip::id::{BindingId, FlowId, InstanceId, ShardTag};

use crate::world::{self, World, seconds, server_address};

/// A world whose first REGISTER is under way, and the flow that a call comes by meanwhile: that of the REGISTER, or another one.
fn overtaken(flow: FlowId, by_another: bool) -> (World, Source) {
    let mut world = World::new(flow);
    world.bind();
    let addresses = [server_address().ip()].into();
    world.input(Input::Addresses { upstream: world::REGISTRAR, addresses, is_whole: true });
    let other = Source { flow: FlowId::Stream(99), ..world.upstream };
    let source = if by_another { other } else { world.upstream };
    (world, source)
}

/// By which flow the REGISTER goes, and whether the call comes by another one.
fn ways() -> [(FlowId, bool); 3] {
    [(FlowId::Stream(7), false), (FlowId::Stream(7), true), (FlowId::Datagram(server_address()), false)]
}

fn call_by(world: &mut World, source: Source, method: &str) {
    let head = world.head("call-1", method, 1, "");
    let request = format!("{method} sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n", world.binding);
    world.receive(source, &request);
}

fn wakes(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::Wake(_))).count()
}

#[test]
fn a_call_that_overtakes_the_200_of_the_first_register_waits_for_it_and_rings() {
    for (flow, by_another) in ways() {
        let (mut world, source) = overtaken(flow, by_another);
        call_by(&mut world, source, "INVITE");
        assert_eq!(
            (world.count("INVITE 100"), wakes(&world)),
            (1, 0),
            "nobody is callable yet, and in a moment somebody is"
        );
        // The INVITE is sent again, as over UDP.
        call_by(&mut world, source, "INVITE");
        world.grant(600);
        assert_eq!(wakes(&world), 1, "{flow:?}");
        assert_eq!((world.count("INVITE 480"), world.endpoint.open_calls()), (0, 1));
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], "");
        assert_eq!(world.count("INVITE 200"), 1);
    }
}

#[test]
fn a_call_that_overtook_and_is_cancelled_wakes_nobody() {
    for (flow, by_another) in ways() {
        let (mut world, source) = overtaken(flow, by_another);
        call_by(&mut world, source, "INVITE");
        let stranger = Source { flow: FlowId::Stream(66), peer: "203.0.113.9:5060".parse().unwrap(), ..source };
        call_by(&mut world, stranger, "CANCEL");
        assert_eq!(world.count("INVITE 487"), 0, "a stranger cancels nobody's call");
        world.advance(seconds(1));
        call_by(&mut world, source, "CANCEL");
        assert_eq!((world.count("CANCEL 200"), world.count("INVITE 487")), (1, 1));
        world.grant(600);
        assert_eq!((wakes(&world), world.endpoint.open_calls()), (0, 0));
    }
}

#[test]
fn a_call_that_overtook_a_register_which_fails_is_refused() {
    for (flow, by_another) in ways() {
        for refused in [true, false] {
            let (mut world, source) = overtaken(flow, by_another);
            call_by(&mut world, source, "INVITE");
            if refused {
                let (upstream, register) = (world.upstream, world.last("REGISTER"));
                world.reply(upstream, &register, 403, &[], "");
            } else {
                world.advance(seconds(33));
            }
            let last =
                world.sent.iter().rfind(|sent| sent.message.status().is_some()).map(|sent| sent.message.status());
            assert_eq!((last, wakes(&world)), (Some(Some(480)), 0), "{flow:?} {refused}");
        }
        // The process ends, or the account goes.
        let (mut world, source) = overtaken(flow, by_another);
        call_by(&mut world, source, "INVITE");
        world.input(Input::EndCalls(Failover::OtherNode));
        assert_eq!(world.count("INVITE 503"), 1);
        let (mut world, source) = overtaken(flow, by_another);
        call_by(&mut world, source, "INVITE");
        let instance = world.instance;
        world.input(Input::Unbind { instance, deadline: seconds(3) });
        world.advance(seconds(4));
        assert!(world.count("INVITE 480") > 0);
        assert_eq!(wakes(&world), 0);
    }
}

#[test]
fn no_more_calls_overtake_than_are_told() {
    let (mut world, source) = overtaken(FlowId::Stream(7), false);
    for number in 0..=CALLS_PER_INSTANCE {
        let head = world.head(&format!("call-{number}"), "INVITE", 1, "");
        let head = head.replace("sip:bob@", &format!("sip:bob{number}@"));
        let uri = format!("sip:{}@relay.test:5070", world.binding);
        world.receive(source, &format!("INVITE {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
    }
    assert_eq!((world.count("INVITE 100"), world.count("INVITE 486")), (CALLS_PER_INSTANCE, 1));
    world.advance(seconds(33));
    assert_eq!(world.count("INVITE 480"), CALLS_PER_INSTANCE, "none waits for longer");
    let told = world.events.iter().filter(|event| matches!(event, Event::Refused(_))).count();
    assert_eq!(told, 1, "the one that there was no room for");
}

#[test]
fn of_calls_that_overtake_those_of_one_caller_leave_room() {
    let (mut world, source) = overtaken(FlowId::Stream(7), false);
    let uri = format!("sip:{}@relay.test:5070", world.binding);
    for number in 0..CALLS_PER_INSTANCE {
        let head = world.head(&format!("call-{number}"), "INVITE", 1, "");
        world.receive(source, &format!("INVITE {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
    }
    let head = world.head("friend", "INVITE", 1, "").replace("sip:bob@", "sip:friend@");
    world.receive(source, &format!("INVITE {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
    let half = CALLS_PER_INSTANCE / 2;
    assert_eq!((world.count("INVITE 100"), world.count("INVITE 486")), (half + 1, half));
}

#[test]
fn calls_that_a_server_sends_which_answers_no_register_leave_room_for_those_of_others() {
    let (mut world, source) = overtaken(FlowId::Stream(7), false);
    let stranger = Source { flow: FlowId::Stream(66), peer: "203.0.113.9:5060".parse().unwrap(), ..source };
    let addresses = [server_address().ip(), stranger.peer.ip()].into();
    world.input(Input::Addresses { upstream: world::REGISTRAR, addresses, is_whole: true });
    for number in 1..=(OVERTAKING_MAX / CALLS_PER_INSTANCE) as u128 {
        let binding = BindingId::new(number << 80, ShardTag(0));
        world.bind_another(binding, InstanceId::new(number << 80, ShardTag(0)));
        for call in 0..CALLS_PER_INSTANCE {
            let head = world.head(&format!("call-{number}-{call}"), "INVITE", 1, "");
            let head = head.replace("sip:bob@", &format!("sip:bob{call}@"));
            let uri = format!("sip:{binding}@relay.test:5070");
            world.receive(stranger, &format!("INVITE {uri} SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n"));
        }
    }
    let half = OVERTAKING_MAX / 2;
    assert_eq!((world.count("INVITE 100"), world.count("INVITE 480")), (half, half));
    call_by(&mut world, source, "INVITE");
    assert_eq!((world.count("INVITE 100"), world.count("INVITE 480")), (half + 1, half));
}

#[test]
fn a_call_that_overtook_rings_also_when_the_register_is_challenged_first() {
    for (flow, by_another) in ways() {
        let (mut world, source) = overtaken(flow, by_another);
        call_by(&mut world, source, "INVITE");
        let challenge = "Digest realm=\"example.com\", nonce=\"n1\", algorithm=MD5, qop=\"auth\"";
        world.respond(401, &[("WWW-Authenticate", challenge)]);
        assert_eq!((world.count("INVITE 480"), wakes(&world)), (0, 0), "{flow:?}");
        world.grant(600);
        assert_eq!(wakes(&world), 1, "{flow:?}");
    }
}
