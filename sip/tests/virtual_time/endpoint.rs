//! The endpoint in virtual time: what a SIP server and a device see of it.

use std::time::{Duration, Instant};

use sip::endpoint::*;
use sip::id::{CallId, FlowId, InstanceId, ShardTag};
use sip::message::Name;

use crate::world::{self, SDP, World, seconds, server_address};

#[test]
fn a_sleeping_device_is_woken_once_and_gets_the_invite_when_it_attaches() {
    let mut world = World::registered();
    world.invite("call-1");
    assert_eq!(world.count("INVITE 100"), 1);
    let wakes = world.wakes();
    assert_eq!(wakes.len(), 1);
    assert_eq!((&*wakes[0].from, wakes[0].name.as_deref()), ("sip:bob@example.com", Some("Bob")));
    assert_eq!(wakes[0].wait, seconds(30));
    let call = wakes[0].call;
    assert_eq!(world.count("INVITE 180"), 0);
    world.input(Input::Ring { call, instance: world.instance });
    world.input(Input::Ring { call, instance: world.instance });
    assert_eq!(world.count("INVITE 180"), 1);
    world.advance(seconds(3));
    world.attach(1);
    let invite = world.last("INVITE");
    assert_eq!(world.sent.iter().filter(|s| s.flow == FlowId::Stream(1) && s.message.is_request()).count(), 1);
    assert_eq!(invite.request_uri(), Some("sip:phone1@10.0.0.5:9999;transport=tls"));
    assert_eq!(invite.max_forwards(), Some(68));
    assert_eq!(&invite.body()[..], SDP.as_bytes());
    assert_eq!(invite.elements(Name::Via).count(), 3);
    assert_eq!(invite.elements(Name::RecordRoute).count(), 3);
    let head = std::str::from_utf8(invite.head()).unwrap().to_owned();
    assert!(head.contains("X-Odd:   kept  as it is\r\n"), "{head}");
    assert!(
        world.events.iter().any(|e| matches!(e, Event::Call { woke_after: Some(after), .. } if *after == seconds(3)))
    );
    assert_eq!(world.wakes().len(), 1);
}

/// A call that is answered, from the device's side, with the dialog's routes.
fn answered(world: &mut World) -> sip::message::Message {
    world.invite("call-1");
    world.attach(1);
    let invite = world.last("INVITE");
    let device = world.device(1);
    world.reply(device, &invite, 180, &[], "");
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], SDP);
    let ok = world.last("INVITE 200");
    assert_eq!(ok.elements(Name::Via).count(), 2, "our Via is off again");
    assert_eq!(world.final_states(), [CallState::Answered]);
    ok
}

/// The Route headers that the caller's side makes of the Record-Route it got.
fn caller_routes(ok: &sip::message::Message) -> String {
    let mut routes: Vec<_> = ok.elements(Name::RecordRoute).map(str::to_owned).collect();
    routes.reverse();
    // The SIP server takes itself off before it sends to the relay.
    routes.iter().filter(|r| !r.contains("192.0.2.10")).map(|r| format!("Route: {r}\r\n")).collect()
}

#[test]
fn ack_and_bye_from_the_caller_reach_the_device_and_its_answer_comes_back() {
    let mut world = World::registered();
    let ok = answered(&mut world);
    let routes = caller_routes(&ok);
    assert_eq!(routes.matches("Route:").count(), 2);
    for (method, cseq) in [("ACK", 1), ("BYE", 2)] {
        let head =
            world.head("call-1", method, cseq, ";tag=peer").replace("Record-Route: <sip:192.0.2.10;lr>\r\n", &routes);
        let head = head.replace("z9hG4bKserver", &format!("z9hG4bKserver{method}"));
        let text =
            format!("{method} sip:phone1@10.0.0.5:9999;transport=tls SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n");
        let source = world.upstream;
        world.receive(source, &text);
        let forwarded = world.last(method);
        assert!(!forwarded.has(Name::Route), "both routes of ours are off");
        assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(1));
    }
    let (device, bye) = (world.device(1), world.last("BYE"));
    world.reply(device, &bye, 200, &[], "");
    assert_eq!(world.last("BYE 200").elements(Name::Via).count(), 2);
    let call = world.wakes()[0].call;
    assert_eq!(dialogs(&world), [(Some(call), world.instance, false), (None, world.instance, false)]);
}

/// The begins and ends of dialogs that were told, all of the same one: the call of a begin, and whether the device hung up.
fn dialogs(world: &World) -> Vec<(Option<CallId>, InstanceId, bool)> {
    let mark = DialogMark::of("call-1");
    let told = world.events.iter().filter_map(|event| match event {
        Event::DialogBegun { call, instance, dialog } => Some((*dialog, (Some(*call), *instance, false))),
        Event::DialogEnded { instance, dialog, by_device } => Some((*dialog, (None, *instance, *by_device))),
        _ => None,
    });
    told.inspect(|(dialog, _)| assert_eq!(*dialog, mark)).map(|(_, told)| told).collect()
}

fn device_bye(ok: &sip::message::Message, call_id: &str) -> String {
    let routes: String = ok.elements(Name::RecordRoute).map(|r| format!("Route: {r}\r\n")).collect();
    format!(
        "BYE sip:bob@192.0.2.77 SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKbye{call_id};rport\r\n{routes}\
         Max-Forwards: 70\r\nFrom: <sip:alice@example.com>;tag=peer\r\nTo: \"Bob\" <sip:bob@example.com>;tag=bob\r\n\
         Call-ID: {call_id}\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn a_bye_from_the_device_goes_to_the_sip_server_and_nowhere_else() {
    let mut world = World::registered();
    let ok = answered(&mut world);
    let device = world.device(1);
    world.receive(device, &device_bye(&ok, "call-1"));
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Datagram(server_address()));
    let bye = world.last("BYE");
    assert_eq!(bye.elements(Name::Route).collect::<Vec<_>>(), ["<sip:192.0.2.10;lr>"]);
    let source = world.upstream;
    world.reply(source, &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
    assert_eq!(dialogs(&world).last(), Some(&(None, world.instance, true)));

    world.sent.clear();
    world.receive(device, &device_bye(&ok, "call-2"));
    assert_eq!(world.descriptions(), ["BYE 403"], "the token opens its own dialog only");
    let stranger = world.device(2);
    world.receive(stranger, &device_bye(&ok, "call-1").replace("z9hG4bKbye", "z9hG4bKother"));
    assert_eq!((world.count("BYE 407"), world.count("BYE")), (1, 0), "another device's flow");
}

/// RFC 3261 §12.2.2, §15.1.2, RFC 3262 §3, RFC 3311 §5.2, RFC 6086 §4.2.2.
#[test]
fn what_means_something_in_a_dialog_alone_is_told_that_there_is_none() {
    let mut world = World::registered();
    let mut ask = |method: &str, to_tag: &str| {
        let head = world.head(&format!("{method}{to_tag}"), method, 1, to_tag);
        let text = format!("{method} sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n", world.binding);
        world.receive(world.upstream, &text);
        let answers = std::mem::take(&mut world.sent);
        answers.iter().map(|sent| sent.message.status().unwrap()).collect::<Vec<_>>()
    };
    for method in ["BYE", "INFO", "PRACK", "UPDATE"] {
        assert_eq!((ask(method, ""), ask(method, ";tag=gone")), (vec![481], vec![481]), "{method}");
    }
    for method in ["REFER", "SUBSCRIBE", "PUBLISH", "REGISTER", "BREW"] {
        assert_eq!((ask(method, ""), ask(method, ";tag=gone")), (vec![405], vec![481]), "{method}");
    }
    assert_eq!(
        (ask("NOTIFY", ""), ask("NOTIFY", ";tag=gone")),
        (vec![489], vec![481]),
        "without a package that is known"
    );
    assert_eq!((ask("CANCEL", ""), ask("OPTIONS", ""), ask("ACK", "")), (vec![481], vec![200], vec![]));
}

#[test]
fn a_cancel_ends_its_call_however_its_via_is_spelled() {
    for spelled in [
        "SIP/2.0/UDP SBC.Example.com:5060;branch=z9hG4bK1;rport;i=7",
        "SIP / 2.0 / UDP sbc.example.com : 5060 ; i=7 ; branch = z9hG4bK1",
        "SIP/2.0/UDP sbc.example.com.;branch=z9hG4bK1",
    ] {
        let mut world = World::registered();
        world.attach(1);
        let via = "Via: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKserver.call-1.1.INVITE\r\n";
        let text = world.invite_text("call-1").replace(via, "Via: SIP/2.0/UDP sbc.example.com;branch=z9hG4bK1;i=7\r\n");
        world.receive(world.upstream, &text);
        let invite = world.last("INVITE");
        world.reply(world.device(1), &invite, 180, &[], "");
        let cancel = world.cancel_text("call-1", "").replace(via, &format!("Via: {spelled}\r\n"));
        world.receive(world.upstream, &cancel);
        assert_eq!((world.count("CANCEL 200"), world.count("CANCEL")), (1, 1), "{spelled}: the phone stops ringing");
        world.reply(world.device(1), &invite, 487, &[], "");
        assert_eq!(world.count("INVITE 487"), 1, "{spelled}");
    }
}

#[test]
fn a_cancelled_call_never_rings_the_device_that_wakes_late() {
    let mut world = World::registered();
    world.invite("call-1");
    world.cancel("call-1");
    assert_eq!((world.count("CANCEL 200"), world.count("INVITE 487")), (1, 1));
    assert_eq!(world.final_states(), [CallState::Cancelled]);
    world.attach(1);
    assert_eq!(world.count("INVITE"), 0);
}

#[test]
fn a_call_cancelled_while_the_device_rings_is_cancelled_there_too() {
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.cancel("call-1");
    assert_eq!(world.last("CANCEL").via().unwrap().text, invite.via().unwrap().text);
    assert_eq!(world.count("INVITE 487"), 0, "the device may still have answered");
    world.reply(device, &invite, 487, &[], "");
    assert_eq!((world.count("INVITE 487"), world.count("ACK")), (1, 1));
    assert_eq!(world.final_states(), [CallState::Cancelled]);
}

/// RFC 3261 §15, §15.1.2.
#[test]
fn a_bye_in_the_early_dialog_of_the_relays_own_ringing_ends_the_call_at_once() {
    for attached in [false, true] {
        let mut world = World::registered();
        world.invite("call-1");
        world.input(Input::Ring { call: world.wakes()[0].call, instance: world.instance });
        let tag = world.last("INVITE 180").to().unwrap().tag().unwrap().to_owned();
        if attached {
            world.attach(1);
        }
        let bye = |world: &World, call_id: &str, cseq: u32, tag: &str| {
            let head = world.head(call_id, "BYE", cseq, &format!(";tag={tag}"));
            format!("BYE sip:{}@relay.test:5070 SIP/2.0\r\n{head}Content-Length: 0\r\n\r\n", world.binding)
        };
        for other in [bye(&world, "call-2", 2, &tag), bye(&world, "call-1", 2, "other")] {
            world.receive(world.upstream, &other);
        }
        let text = bye(&world, "call-1", 3, &tag);
        world.receive(world.upstream, &text.replace("<sip:bob@example.com>;tag=bob", "<sip:bob@example.com>;tag=eve"));
        assert_eq!((world.count("BYE 481"), world.count("INVITE 487")), (3, 0), "of other dialogs");
        let text = bye(&world, "call-1", 4, &tag);
        for _ in 0..2 {
            world.receive(world.upstream, &text);
        }
        assert_eq!((world.count("BYE 200"), world.count("INVITE 487")), (2, 1), "{attached}");
        assert_eq!(world.final_states(), [CallState::Cancelled]);
        if attached {
            let (device, invite) = (world.device(1), world.last("INVITE"));
            world.reply(device, &invite, 180, &[], "");
            assert_eq!(world.count("CANCEL"), 1, "the device rings no longer");
        } else {
            world.attach(1);
            assert_eq!(world.count("INVITE"), 0, "a device that comes then finds nothing");
        }
    }
}

#[test]
fn a_call_that_another_device_answered_says_so_to_the_shell_and_to_its_device() {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    let cancel = world.cancel_text("call-1", "Reason: Q.850;cause=16, sip ;cause=200;text=\"elsewhere\"\r\n");
    world.receive(world.upstream, &cancel);
    let passed = world.last("CANCEL");
    assert_eq!(passed.text(Name::Reason), Some("Q.850;cause=16, sip ;cause=200;text=\"elsewhere\""));
    world.reply(device, &invite, 487, &[], "");
    assert_eq!(world.count("INVITE 487"), 1);
    assert_eq!(world.final_states(), [CallState::AnsweredElsewhere]);
}

/// RFC 3261 §9.2.
#[test]
fn a_cancel_and_its_invite_are_answered_with_one_to_tag_whether_the_caller_has_heard_ringing_or_not() {
    for rings in [false, true] {
        let mut world = World::registered();
        world.invite("call-1");
        if rings {
            world.input(Input::Ring { call: world.wakes()[0].call, instance: world.instance });
        }
        world.cancel("call-1");
        let tag = |what: &str| world.last(what).to().unwrap().tag().unwrap().to_owned();
        assert_eq!(tag("CANCEL 200"), tag("INVITE 487"), "{rings}");
    }
}

#[test]
fn a_cancel_that_crosses_the_answer_loses_and_one_that_the_device_ignores_ends_anyway() {
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.cancel("call-1");
    world.advance(seconds(4));
    assert_eq!(world.count("INVITE 487"), 1);
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone1@10.0.0.5:9999;transport=tls>")], SDP);
    assert_eq!(world.count("INVITE 200"), 0);
    assert_eq!((world.count("ACK"), world.count("BYE")), (1, 1), "the late answer is ended");
}

#[test]
fn nobody_comes_is_480_and_nobody_answers_is_408() {
    let mut world = World::registered();
    world.invite("call-1");
    world.advance(seconds(29));
    assert_eq!(world.count("INVITE 480"), 0);
    world.advance(seconds(1));
    assert_eq!(world.count("INVITE 480"), 1);

    let mut world = World::registered();
    world.invite("call-1");
    world.advance(seconds(10));
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.advance(seconds(119));
    assert_eq!(world.count("INVITE 408"), 0);
    world.advance(seconds(1));
    assert_eq!((world.count("INVITE 408"), world.count("CANCEL")), (1, 1));
    assert_eq!(world.final_states(), [CallState::TimedOut]);
}

#[test]
fn a_decline_is_603_by_the_api_and_what_the_device_says_by_its_flow() {
    let mut world = World::registered();
    world.invite("call-1");
    let call = world.wakes()[0].call;
    world.input(Input::Decline(call));
    assert_eq!(world.count("INVITE 603"), 1);
    assert_eq!(world.final_states(), [CallState::Declined]);

    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 486, &[], "");
    assert_eq!((world.count("INVITE 486"), world.count("ACK")), (1, 1));
    assert_eq!(world.final_states(), [CallState::Declined]);
}

#[test]
fn an_attached_device_gets_the_call_at_once_and_a_push_only_when_it_stays_silent() {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    assert_eq!((world.count("INVITE"), world.wakes().len()), (1, 0));
    world.advance(seconds(2));
    assert_eq!(world.wakes().len(), 1, "its flow may be dead");
    world.attach(2);
    assert_eq!(world.count("INVITE"), 2);
    let (device, invite) = (world.device(2), world.last("INVITE"));
    world.reply(device, &invite, 200, &[("Contact", "<sip:phone2@10.0.0.5:9999;transport=tls>")], SDP);
    assert_eq!(world.final_states(), [CallState::Answered]);

    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 100, &[], "");
    world.advance(seconds(20));
    assert_eq!(world.wakes().len(), 0);
}

#[test]
fn a_device_whose_flow_breaks_while_it_rings_is_woken_and_gets_the_call_again() {
    let mut world = World::registered();
    world.attach(1);
    world.invite("call-1");
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.input(Input::Closed(FlowId::Stream(1)));
    assert_eq!(world.wakes().len(), 1);
    world.attach(2);
    assert_eq!(world.count("INVITE"), 2);
}

#[test]
fn a_device_that_refreshes_on_its_flow_gets_no_second_invite() {
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    world.attach(1);
    assert_eq!(world.count("INVITE"), 1);
}

#[test]
fn two_calls_at_once_are_two_pushes_and_two_invites() {
    let mut world = World::registered();
    world.invite("call-1");
    world.invite("call-2");
    assert_eq!(world.wakes().len(), 2);
    world.attach(1);
    assert_eq!(world.count("INVITE"), 2);
}

#[test]
fn a_retransmitted_invite_is_one_call() {
    let mut world = World::registered();
    world.invite("call-1");
    world.invite("call-1");
    assert_eq!((world.wakes().len(), world.count("INVITE 100")), (1, 2));
}

#[test]
fn disabling_while_a_call_waits_answers_the_caller_and_forgets_everything() {
    let mut world = World::registered();
    world.invite("call-1");
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    assert_eq!(world.count("INVITE 480"), 1);
    let register = world.last("REGISTER");
    assert_eq!(register.number(Name::Expires), Some(0));
    world.attach(1);
    assert_eq!(world.count("INVITE"), 0);
    assert_eq!(world.count("REGISTER 403"), 1, "the instance is unknown now");
    let source = world.upstream;
    world.reply(source, &register, 200, &[], "");
    assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Confirmed, .. })));
    world.invite("call-2");
    assert_eq!(world.count("INVITE 404"), 1);
}

#[test]
fn a_call_that_outlives_its_instance_is_hung_up_by_the_stream_it_came_by() {
    let mut world = World::new(FlowId::Stream(77));
    world.bind();
    world.grant(600);
    let ok = answered(&mut world);
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    let (source, register) = (world.upstream, world.last("REGISTER"));
    world.reply(source, &register, 200, &[], "");
    assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Confirmed, .. })));
    assert_eq!(world.closed, []);
    let device = world.device(1);
    world.receive(device, &device_bye(&ok, "call-1"));
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(77));
    world.advance(seconds(306));
    assert_eq!(world.closed, [FlowId::Stream(77)], "hardly longer than the device's own registration");
}

#[test]
fn a_silent_sip_server_does_not_keep_a_binding() {
    let mut world = World::registered();
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    world.advance(seconds(3));
    assert!(matches!(world.events.last(), Some(Event::Unbound { outcome: Unbinding::Unconfirmed, .. })));
    let sent = world.sent.len();
    world.advance(seconds(3600));
    assert_eq!(world.sent.len(), sent, "not even a retransmission");
}

#[test]
fn a_call_from_a_stranger_is_403_and_pushes_nothing() {
    let mut world = World::registered();
    let stranger = "203.0.113.9:5060".parse().unwrap();
    let source = Source { flow: FlowId::Datagram(stranger), peer: stranger, ..world.upstream };
    let text = world.invite_text("call-1");
    world.receive(source, &text);
    assert_eq!(world.descriptions(), ["INVITE 403"]);
    assert!(world.wakes().is_empty());
    let addresses = [stranger.ip()].into();
    world.input(Input::Addresses { upstream: world::REGISTRAR, addresses, is_whole: true });
    world.receive(source, &text.replace("call-1", "call-2"));
    assert_eq!(world.wakes().len(), 1, "an address of the account's server");
}

#[test]
fn calls_beyond_the_budget_of_a_device_push_nothing() {
    let mut world = World::registered();
    for n in 0..100 {
        world.invite(&format!("call-{n}"));
        let call = world.wakes().last().unwrap().call;
        world.input(Input::Decline(call));
    }
    assert_eq!(world.wakes().len(), 20);
    assert_eq!(world.count("INVITE 480"), 80);
    world.advance(seconds(2));
    world.invite("later");
    assert_eq!(world.wakes().len(), 21);
}

#[test]
fn a_request_out_of_dialog_from_a_device_is_403() {
    let mut world = World::registered();
    world.attach(1);
    world.sent.clear();
    let text = world.invite_text("call-9").replace(&world.binding.to_string(), "bob");
    let device = world.device(1);
    world.receive(device, &text);
    assert_eq!(world.descriptions(), ["INVITE 403"]);
}

#[test]
fn a_wrong_proof_is_403_and_five_of_them_close_the_flow() {
    let mut world = World::registered();
    let instance = world.instance;
    for n in 0..5 {
        let source = world.device(1);
        let text = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKw{n}\r\n\
             From: <sip:{instance}@relay.test>;tag=d\r\nTo: <sip:{instance}@relay.test>\r\nCall-ID: w\r\n\
             CSeq: {} REGISTER\r\nContact: <sip:a@b>\r\nAuthorization: Bearer wrong\r\nContent-Length: 0\r\n\r\n",
            n + 1
        );
        world.receive(source, &text);
    }
    assert_eq!(world.count("REGISTER 403"), 5);
    assert_eq!(world.closed, [FlowId::Stream(1)]);
}

#[test]
fn a_recorded_register_opens_nothing() {
    let mut world = World::registered();
    world.attach(1);
    let knocks = |world: &World| world.events.iter().filter(|e| matches!(e, Event::VerifyDevice { .. })).count();
    assert_eq!(knocks(&world), 1);
    // The same nonce and count again, on the same flow and on another one.
    let challenge =
        sip::auth::Challenge::parse(world.last("REGISTER 401").text(Name::WwwAuthenticate).unwrap()).unwrap();
    let value = world::answer(&challenge, &world.instance.to_string(), world::SECRET, "sip:relay.test", 1, "c");
    for number in [1, 2] {
        let source = world.device(number);
        let text = format!(
            "REGISTER sip:relay.test SIP/2.0\r\nVia: SIP/2.0/TLS 10.0.0.5:9999;branch=z9hG4bKreplay{number}\r\n\
             From: <sip:{0}@relay.test>;tag=d\r\nTo: <sip:{0}@relay.test>\r\nCall-ID: r\r\nCSeq: 9 REGISTER\r\n\
             Contact: <sip:evil@b>\r\nAuthorization: {value}\r\nContent-Length: 0\r\n\r\n",
            world.instance
        );
        world.receive(source, &text);
    }
    assert_eq!(knocks(&world), 1);
    assert_eq!(world.count("REGISTER 401"), 3);
}

#[test]
fn a_broken_stream_to_the_registrar_is_dialled_again_and_its_bindings_register_again() {
    let mut world = World::new(FlowId::Stream(77));
    world.bind();
    world.grant(600);
    world.sent.clear();
    world.upstream.flow = FlowId::Stream(78);
    world.input(Input::Closed(FlowId::Stream(77)));
    assert_eq!(world.dialled, 2);
    assert_eq!(world.sent.len(), 1);
    assert_eq!(world.sent[0].flow, FlowId::Stream(78));
    world.grant(600);
    assert!(matches!(world.events.last(), Some(Event::Registered { refresh: true, .. })));
}

#[test]
fn a_loop_and_too_many_hops_are_refused() {
    let mut world = World::registered();
    let source = world.upstream;
    let text = world.invite_text("call-1").replace("Max-Forwards: 69", "Max-Forwards: 0");
    world.receive(source, &text);
    assert_eq!(world.count("INVITE 483"), 1);
    assert!(world.wakes().is_empty());
}

#[test]
fn a_server_that_closes_every_connection_is_not_hammered() {
    let mut world = World::new(FlowId::Stream(77));
    world.bind();
    for number in 78..178 {
        let earlier = world.upstream.flow;
        world.upstream.flow = FlowId::Stream(number);
        world.input(Input::Closed(earlier));
        world.advance(seconds(1));
    }
    assert!((3..=8).contains(&world.dialled), "{} dials in 100 s", world.dialled);
    let told =
        |event: &Event| matches!(event, Event::RegistrationFailed { failure: RegistrationFailure::Retry { .. }, .. });
    assert!(world.events.iter().any(told), "whoever enables is told");
    // When it stays up, all is well, and the next break is mended at once.
    while !matches!(world.events.last(), Some(Event::Registered { .. })) {
        world.sent.clear();
        world.advance(seconds(60));
        if world.count("REGISTER") > 0 {
            world.grant(3600);
        }
    }
    world.advance(seconds(120));
    let before = world.dialled;
    world.input(Input::Closed(world.upstream.flow));
    assert_eq!(world.dialled, before + 1);
}

#[test]
fn nothing_that_goes_in_or_comes_out_shows_a_secret_or_a_person_when_it_is_printed() {
    let world = World::new(FlowId::Datagram(server_address()));
    let (binding, instance) = (world.binding, world.instance);
    let call = IncomingCall {
        call: CallId::new(1, ShardTag(0)),
        instance,
        from: "sip:bob@hidden.test".into(),
        name: Some("hidden".into()),
        caller: CallerKeys::default().of("sip:bob@hidden.test"),
        arrived: Instant::now(),
        wait: Duration::from_secs(30),
        valid: None,
        mark: None,
        replaces: None,
    };
    let answer = Input::Authorization { binding, instance, authorization: Some("Digest response=\"hidden\"".into()) };
    let printed = [
        format!("{:?}", Event::Wake(Box::new(call))),
        format!(
            "{:?}",
            Event::VerifyDevice {
                verification: VerificationId(1),
                instance,
                method: "REGISTER".into(),
                proof: Proof::Bearer("hidden".into())
            }
        ),
        format!("{answer:?}"),
    ];
    for text in printed {
        assert!(!text.contains("hidden") && !text.is_empty(), "{text}");
    }
}

#[test]
fn each_refusal_says_why_and_each_register_at_the_edge_how_it_ended() {
    let mut world = World::registered();
    let (server, device) = (world.upstream, world.device(1));
    let stranger = Source { flow: FlowId::Stream(66), peer: "203.0.113.9:5060".parse().unwrap(), ..server };
    let text = |world: &World, method: &str, call_id: &str| {
        world.invite_text(call_id).replace("INVITE", method).replace(SDP, "").replace(&SDP.len().to_string(), "0")
    };
    let unknown = text(&world, "INVITE", "a").replace(&world.binding.to_string(), "nobody");
    world.receive(server, &unknown);
    let invite = text(&world, "INVITE", "b");
    world.receive(stranger, &invite);
    for (source, call_id) in [(server, "c"), (device, "d")] {
        let publish = text(&world, "PUBLISH", call_id);
        world.receive(source, &publish);
    }
    let refusals = world.events.iter().filter_map(|event| match event {
        Event::RequestRefused(refusal) => Some(*refusal),
        _ => None,
    });
    let refusals: Vec<_> = refusals.collect();
    use RequestRefusal::{Method, Unknown, WrongSource};
    assert_eq!(refusals, [Unknown, WrongSource, Method, Method]);

    world.attach(1);
    world.instance = InstanceId::new(0x3333 << 64, ShardTag(0));
    world.attach(2);
    let outcomes = world.events.iter().filter_map(|event| match event {
        Event::EdgeRegister(outcome) => Some(*outcome),
        _ => None,
    });
    let outcomes: Vec<_> = outcomes.collect();
    use EdgeRegister::Challenged;
    assert_eq!(outcomes, [Challenged, Challenged, EdgeRegister::Unknown]);
}
