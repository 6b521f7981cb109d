//! A node that had an account, has ended and started again, while another one has taken the account over: the calls that it has begun go on through it, for its
//! address is in their Record-Routes (RFC 3261 §12.2.1.1, §16.6).

use sip::endpoint::early_proofs::EARLY_PER_FLOW;
use sip::endpoint::elsewhere::ELSEWHERE_MAX;
use sip::endpoint::*;
use sip::id::{FlowId, InstanceId, ShardTag, UpstreamId};
use sip::message::{Limits, Message, Name};

use super::leg::{Dialog, End};
use crate::world::{REGISTRAR, World, seconds, server_address};

const CONTACT: &str = "Contact: <sip:phone1@10.0.0.5:9999;transport=tls>\r\n";
const NEXT: FlowId = FlowId::Stream(8);

/// An established call whose account is another node's by now; its device has no flow, and none leads to the SIP server. `upstream`: that of the call.
fn taken(upstream: FlowId) -> (World, Dialog) {
    let mut world = World::registered_with(upstream, |_| {});
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.input(Input::Closed(FlowId::Stream(1)));
    world.input(Input::Release(world.instance));
    if upstream.is_reliable() {
        world.input(Input::Closed(upstream));
    }
    world.advance(seconds(3));
    world.endpoint.expect_other_nodes();
    world.dialled = 0;
    world.sent.clear();
    world.events.clear();
    (world, dialog)
}

/// The store has told of the account.
fn find(world: &mut World) {
    let registrar = "sip:example.com".into();
    let known = KnownElsewhere { instance: world.instance, upstream: REGISTRAR, registrar };
    world.input(Input::KnownElsewhere(Box::new(known)));
}

/// The last proof that the shell was asked for.
fn asked(world: &World) -> VerificationId {
    let asked = world.events.iter().rev().find_map(|event| match event {
        Event::VerifyDevice { verification, .. } => Some(*verification),
        _ => None,
    });
    asked.expect("a proof")
}

fn flow_of(world: &World, method: &str) -> Option<FlowId> {
    world.sent.iter().rev().find(|sent| sent.message.method_text() == Some(method)).map(|sent| sent.flow)
}

#[test]
fn its_device_registers_and_the_requests_of_the_call_pass_both_ways() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    let answer = world.register(2, 1, &format!("{CONTACT}Expires: 300\r\n"));
    assert_eq!(answer.status(), Some(200));
    let contact = answer.text(Name::Contact).unwrap();
    assert!(contact.ends_with(";expires=60") && answer.text(Name::Warning).is_some(), "{contact}");
    assert_eq!(world.endpoint.counts().attached, 0, "calls are its owner's");
    for (cseq, method) in [(2, "INFO"), (3, "INVITE"), (4, "BYE")] {
        dialog.send(&mut world, End::Caller, method, cseq);
        assert_eq!(flow_of(&world, method), Some(FlowId::Stream(2)), "{method}");
        let (device, forwarded) = (world.device(2), world.last(method));
        world.reply(device, &forwarded, 200, &[], "");
        assert_eq!(world.count(&format!("{method} 200")), 1);
        world.sent.clear();
    }
    for (cseq, method) in [(2, "INFO"), (3, "INVITE"), (4, "BYE")] {
        dialog.send_by(&mut world, 2, method, cseq);
        assert_eq!(flow_of(&world, method), Some(FlowId::Datagram(server_address())), "{method}");
    }
    // And nothing else does.
    let text = world.invite_text("out").replace("192.0.2.10", "10.0.0.5");
    world.receive(world.device(2), &text);
    assert_eq!(world.count("INVITE 403"), 1);
}

#[test]
fn what_its_caller_sends_meanwhile_waits_for_the_device() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    dialog.send(&mut world, End::Caller, "BYE", 2);
    assert_eq!((world.count("BYE"), world.count("BYE 480")), (0, 0));
    world.register(2, 1, CONTACT);
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Stream(2)));

    // Longer than its sender waits.
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    dialog.send(&mut world, End::Caller, "BYE", 2);
    world.advance(seconds(60));
    assert_eq!(world.count("BYE 480"), 1);
    world.register(2, 1, CONTACT);
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Stream(2)));
}

#[test]
fn a_device_without_a_register_proves_itself_by_its_request() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    let bye = Message::parse(&dialog.request(End::Device, "BYE", 2, "", b"").into(), &Limits::default()).unwrap();
    let missing = |world: &World| world.endpoint.missing_by_device(world.now, &world.device(2), &bye);
    assert_eq!(missing(&world), Some(world.instance));
    dialog.send_by(&mut world, 2, "BYE", 2);
    assert_eq!((world.count("BYE 403"), world.count("BYE 407")), (1, 0), "the store has not told of it");
    find(&mut world);
    assert_eq!(missing(&world), None);
    dialog.send_by(&mut world, 2, "BYE", 2);
    assert_eq!(world.count("BYE 407"), 1);
    let proof = format!("Proxy-Authorization: Bearer {}\r\n", crate::world::SECRET.replace(' ', "-"));
    let bye = dialog.request(End::Device, "BYE", 3, &proof, b"");
    let device = world.device(2);
    world.receive_bytes(device, &bye);
    assert_eq!(flow_of(&world, "BYE"), Some(FlowId::Datagram(server_address())));
}

#[test]
fn its_sip_server_is_dialled_for_what_its_device_sends() {
    let (mut world, dialog) = taken(FlowId::Stream(7));
    world.dial = false;
    find(&mut world);
    world.register(2, 1, CONTACT);
    dialog.send_by(&mut world, 2, "BYE", 2);
    assert_eq!((world.dialled, world.count("BYE")), (1, 0));
    world.input(Input::Dialled { upstream: REGISTRAR, flow: NEXT, transport: Transport::Tls });
    assert_eq!((world.descriptions().last().map(String::as_str), flow_of(&world, "BYE")), (Some("BYE"), Some(NEXT)));
    assert_eq!(world.count("REGISTER"), 0, "another node registers it");
}

#[test]
fn one_that_no_node_has_is_refused_as_ever_and_one_that_nobody_can_tell_of_is_told_to_come_again() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    assert_eq!(world.register(2, 1, CONTACT).status(), Some(403));
    dialog.send(&mut world, End::Caller, "BYE", 2);
    assert_eq!(world.count("BYE 480"), 1);

    world.answers_proofs = false;
    world.register(3, 1, CONTACT);
    let asked = asked(&world);
    world.input(Input::DeviceUnverified(asked));
    let answer = world.last("REGISTER 503");
    assert!(answer.text(Name::RetryAfter).is_some());
}

#[test]
fn a_verdict_after_the_end_of_its_flow_changes_nothing() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    world.register(3, 1, CONTACT);
    world.answers_proofs = false;
    let flows = world.endpoint.counts().flows;
    for (flow, says) in [Some(true), Some(false), None].into_iter().enumerate() {
        let flow = 4 + flow as u64;
        world.register(flow, 1, CONTACT);
        let verification = asked(&world);
        world.input(Input::Closed(FlowId::Stream(flow)));
        world.sent.clear();
        world.input(match says {
            Some(granted) => Input::DeviceVerified { verification, granted },
            None => Input::DeviceUnverified(verification),
        });
        assert_eq!((world.descriptions(), world.endpoint.counts().flows), (vec![], flows), "{says:?}");
        dialog.send(&mut world, End::Caller, "INFO", 2 + flow as u32);
        assert_eq!(flow_of(&world, "INFO"), Some(FlowId::Stream(3)), "{says:?}");
        let (device, forwarded) = (world.device(3), world.last("INFO"));
        world.reply(device, &forwarded, 200, &[], "");
    }
    world.advance(seconds(64));
    assert_eq!(world.endpoint.counts().transactions, 0);
}

#[test]
fn one_that_no_node_has_any_more_has_no_dialogs_here() {
    let (mut world, dialog) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    world.register(2, 1, CONTACT);
    world.input(Input::NotElsewhere(world.instance));
    assert_eq!(world.endpoint.counts().elsewhere, 0);
    dialog.send_by(&mut world, 2, "INFO", 2);
    assert_eq!((world.count("INFO"), world.count("INFO 403")), (0, 1));
}

#[test]
fn a_store_that_is_away_for_long_costs_a_device_neither_its_connection_nor_its_call() {
    let (mut world, _) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    world.register(2, 1, CONTACT);
    world.answers_proofs = false;
    for number in 0..2 * u32::from(EARLY_PER_FLOW) {
        for flow in [2, 3] {
            world.register(flow, 2 + number, CONTACT);
            let verification = asked(&world);
            world.input(Input::DeviceUnverified(verification));
        }
    }
    assert!(world.closed.contains(&FlowId::Stream(3)) && !world.closed.contains(&FlowId::Stream(2)));
}

#[test]
fn a_right_proof_without_room_is_no_failure() {
    let (mut world, _) = taken(FlowId::Datagram(server_address()));
    for number in 0..ELSEWHERE_MAX as u128 {
        let instance = InstanceId::new((0x9999 + number) << 64, ShardTag(0));
        let registrar = "sip:example.com".into();
        world.input(Input::KnownElsewhere(Box::new(KnownElsewhere { instance, upstream: REGISTRAR, registrar })));
    }
    find(&mut world);
    for cseq in 1..10 {
        assert_eq!(world.register(2, cseq, CONTACT).status(), Some(503));
    }
    assert_eq!(world.closed, []);
}

#[test]
fn one_that_comes_back_here_or_is_over_leaves_nothing_behind() {
    let (mut world, _) = taken(FlowId::Datagram(server_address()));
    find(&mut world);
    find(&mut world);
    world.input(Input::KnownElsewhere(Box::new(KnownElsewhere {
        instance: world.instance,
        upstream: UpstreamId(REGISTRAR.0 + 1),
        registrar: "sip:other.example".into(),
    })));
    world.register(2, 1, CONTACT);
    world.advance(seconds(3600));
    assert_eq!(world.endpoint.counts().elsewhere, 1, "its flow is open");
    let released = |world: &World| world.events.iter().filter(|it| matches!(it, Event::UpstreamReleased(_))).count();
    assert_eq!(released(&world), 2);
    world.input(Input::Closed(FlowId::Stream(2)));
    world.advance(seconds(3600));
    assert_eq!((world.endpoint.counts().elsewhere, released(&world)), (0, 3));

    find(&mut world);
    world.bind();
    assert_eq!((world.endpoint.counts().elsewhere, released(&world)), (0, 4));
}
