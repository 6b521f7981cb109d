//! A device that drops in the middle of a call and comes back finds its dialog again by its flow token (RFC 5626 §5.3).

use sip::endpoint::*;
use sip::id::FlowId;
use sip::message::Name;

use super::leg::{CONTACT, Dialog, End};
use crate::world::{SDP, World, seconds, server_address};

/// A world with a call that stands, and its dialog.
fn in_call() -> (World, Dialog) {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.sent.clear();
    (world, dialog)
}

fn drop_device(world: &mut World) {
    world.input(Input::Closed(FlowId::Stream(1)));
}

/// The requests that were sent to device 2, in order, without the answers to its REGISTERs.
fn to_new_flow(world: &World) -> Vec<String> {
    let sent = world.sent.iter().filter(|sent| sent.flow == FlowId::Stream(2) && sent.message.is_request());
    sent.map(|sent| sent.message.method_text().unwrap().to_owned()).collect()
}

#[test]
fn a_device_that_comes_back_hangs_up_by_its_new_flow() {
    // RFC 5626 §5.3: the token names the device and not the stream that it had.
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    world.advance(seconds(100));
    world.attach(2);
    let (device, bye) = (world.device(2), dialog.request(End::Device, "BYE", 2, "", b""));
    world.receive_bytes(device, &bye);
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Datagram(server_address()));
    let (upstream, forwarded) = (world.upstream, world.last("BYE"));
    world.reply(upstream, &forwarded, 200, &[], "");
    assert_eq!(world.sent.last().unwrap().flow, FlowId::Stream(2));
}

#[test]
fn requests_for_a_device_that_is_away_wait_for_it_in_order() {
    // RFC 3261 §17.1.2.2: a sender waits 64·T1.
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    dialog.send(&mut world, End::Caller, "INFO", 2);
    world.advance(seconds(1));
    let info = dialog.send(&mut world, End::Caller, "INFO", 3);
    let upstream = world.upstream;
    world.receive_bytes(upstream, &info);
    dialog.send(&mut world, End::Caller, "INVITE", 4);
    dialog.send(&mut world, End::Caller, "BYE", 5);
    assert_eq!(world.descriptions(), ["INVITE 100"], "a re-INVITE's sender stops sending it again");
    world.advance(seconds(20));
    world.attach(2);
    assert_eq!(to_new_flow(&world), ["INFO", "INFO", "INVITE", "BYE"]);
    assert_eq!(world.sent.iter().filter(|sent| sent.message.has(Name::Route)).count(), 0);
    let (device, bye) = (world.device(2), world.last("BYE"));
    world.reply(device, &bye, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
    world.advance(seconds(60));
    assert_eq!(world.count("BYE 480"), 0);
}

#[test]
fn a_device_that_does_not_come_back_is_480_before_its_peer_gives_up() {
    // RFC 4320 §4.2: no late answer to a request other than INVITE; a re-INVITE waits as long as a device may take to answer.
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    dialog.send(&mut world, End::Caller, "BYE", 3);
    world.advance(seconds(23));
    assert_eq!((world.count("BYE 480"), world.count("INVITE 480")), (0, 0));
    world.advance(seconds(2));
    assert_eq!((world.count("BYE 480"), world.count("INVITE 480")), (1, 0));
    world.advance(seconds(94));
    assert_eq!(world.count("INVITE 480"), 0);
    world.advance(seconds(2));
    assert!(world.count("INVITE 480") > 0);
    world.attach(2);
    assert_eq!(to_new_flow(&world), ["BYE"], "it is in a call with nobody, and has no ear for another one");
}

#[test]
fn a_device_that_comes_back_late_hears_that_its_call_is_over() {
    for noticed in [true, false] {
        let (mut world, dialog) = in_call();
        if noticed {
            drop_device(&mut world);
        }
        dialog.send(&mut world, End::Caller, "BYE", 2);
        world.advance(seconds(33));
        assert_eq!(world.count("BYE 480"), usize::from(noticed), "its sender gives up after 32 s");
        world.advance(seconds(300));
        for flow in [2, 3] {
            world.sent.clear();
            world.attach(flow);
            let heard = world.sent.iter().filter(|sent| sent.message.method_text() == Some("BYE"));
            assert_eq!(heard.map(|sent| sent.flow).collect::<Vec<_>>(), [FlowId::Stream(flow)], "noticed: {noticed}");
            if flow == 2 {
                // The device is away again, and nobody knows whether it has heard the BYE.
                world.input(Input::Closed(FlowId::Stream(2)));
                world.advance(seconds(30));
            }
        }
        let (device, bye) = (world.device(3), world.last("BYE"));
        world.reply(device, &bye, 481, &[], "");
        assert_eq!(world.count("BYE 481"), 0, "nobody asks any more");
        world.attach(4);
        assert_eq!(world.count("BYE"), 1);
    }
}

#[test]
fn a_device_that_hears_a_bye_by_a_stream_that_was_slow_answers_nobody() {
    let (mut world, dialog) = in_call();
    dialog.send(&mut world, End::Caller, "BYE", 2);
    world.advance(seconds(120));
    let (device, bye) = (world.device(1), world.last("BYE"));
    world.reply(device, &bye, 200, &[], "");
    assert_eq!((world.count("BYE"), world.count("BYE 200")), (1, 0));
    world.attach(2);
    assert_eq!(to_new_flow(&world), [""; 0]);
}

#[test]
fn byes_that_a_device_is_to_hear_late_are_bounded_and_end_with_it_and_with_their_time() {
    let calls = ["c-0", "c-1", "c-2", "c-3", "c-4", "c-5", "c-6", "c-7", "c-8", "c-9"];
    for wiped in [false, true] {
        let mut world = World::registered();
        let dialogs = calls.map(|call_id| Dialog::begin(&mut world, call_id, 200, &[]));
        drop_device(&mut world);
        for (cseq, dialog) in dialogs.iter().enumerate() {
            dialog.send(&mut world, End::Caller, "BYE", 10 + cseq as u32);
            dialog.send(&mut world, End::Caller, "BYE", 30 + cseq as u32);
            world.advance(seconds(25));
        }
        if wiped {
            world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
            world.advance(seconds(100));
            assert_eq!(world.endpoint.counts().transactions, 0);
        } else {
            world.attach(2);
            assert_eq!(to_new_flow(&world).len(), sip::endpoint::parked::OWED_PER_DEVICE, "one of each call");
        }
    }
    // The BYEs are as late as what a stream delivers, and no later.
    for (after, heard) in [(15 * 60, 1), (15 * 60 + 26, 0)] {
        let (mut world, dialog) = in_call();
        drop_device(&mut world);
        dialog.send(&mut world, End::Caller, "BYE", 2);
        world.advance(seconds(after));
        world.attach(2);
        assert_eq!(to_new_flow(&world).len(), heard, "{after} s");
    }
}

#[test]
fn a_re_invite_that_went_into_a_dead_stream_waits_for_its_device_as_one_that_came_later() {
    // RFC 3261 §12.2.1.2: a 408 would end the dialog of a device that is in a dead spot for half a minute.
    for noticed_after in [None, Some(5), Some(35)] {
        for back in [true, false] {
            let (mut world, dialog) = in_call();
            dialog.send(&mut world, End::Caller, "INVITE", 2);
            let invite = world.last("INVITE");
            world.advance(seconds(noticed_after.unwrap_or(5)));
            if noticed_after.is_some() {
                drop_device(&mut world);
            }
            world.advance(seconds(110 - noticed_after.unwrap_or(5)));
            if !back {
                world.advance(seconds(8));
                assert_eq!((world.count("INVITE 408"), world.count("INVITE 480")), (0, 0), "{noticed_after:?}");
                world.advance(seconds(3));
                assert!(world.count("INVITE 480") > 0, "{noticed_after:?}");
                continue;
            }
            world.attach(2);
            assert_eq!(to_new_flow(&world), ["INVITE"], "{noticed_after:?}");
            world.reply(world.device(2), &invite, 200, &[CONTACT], SDP);
            assert_eq!(world.count("INVITE 200"), 1);
        }
    }
}

#[test]
fn a_re_invite_that_waits_can_be_cancelled() {
    // RFC 3261 §9.2.
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    dialog.send(&mut world, End::Caller, "CANCEL", 2);
    assert_eq!(world.descriptions(), ["INVITE 100", "CANCEL 200", "INVITE 487"]);
    world.attach(2);
    assert_eq!(to_new_flow(&world), [""; 0]);
    world.advance(seconds(200));
    assert_eq!(world.count("INVITE 480"), 0);
}

#[test]
fn what_was_lost_with_a_flow_is_sent_again_on_the_next_one_as_a_retransmission() {
    // RFC 3261 §17.2.3: with the same branch, a device that had received it knows it again.
    for noticed in [true, false] {
        let (mut world, dialog) = in_call();
        dialog.send(&mut world, End::Caller, "BYE", 2);
        let first = world.last("BYE");
        world.advance(seconds(3));
        if noticed {
            drop_device(&mut world);
            assert_eq!(world.count("BYE 480"), 0);
        }
        world.attach(2);
        assert_eq!(to_new_flow(&world), ["BYE"], "noticed: {noticed}");
        assert_eq!(world.last("BYE").to_bytes(), first.to_bytes());
        drop_device(&mut world);
        let device = world.device(2);
        world.reply(device, &first, 200, &[], "");
        assert_eq!((world.count("BYE 200"), world.count("BYE 480")), (1, 0));
    }
}

#[test]
fn what_has_moved_to_the_next_flow_outlives_the_end_of_the_earlier_one() {
    let (mut world, dialog) = in_call();
    dialog.send(&mut world, End::Caller, "INVITE", 2);
    let first = world.last("INVITE");
    world.attach(2);
    assert_eq!(to_new_flow(&world), ["INVITE"]);
    drop_device(&mut world);
    world.advance(seconds(28));
    assert_eq!(world.count("INVITE 408"), 0);
    let device = world.device(2);
    world.reply(device, &first, 200, &[CONTACT], SDP);
    assert_eq!(world.count("INVITE 200"), 1);
}

#[test]
fn an_answer_whose_ack_was_lost_with_the_flow_is_acknowledged_by_the_next_one() {
    // RFC 3261 §13.3.1.4: the device sends its 2xx again until the ACK comes, by whatever flow it has.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    drop_device(&mut world);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    assert_eq!(world.count("ACK"), 0);
    world.advance(seconds(5));
    world.attach(2);
    let device = world.device(2);
    world.reply(device, &dialog.invite, 200, &[CONTACT], SDP);
    assert_eq!(world.count("INVITE 200"), 2);
    let ack = dialog.request(End::Caller, "ACK", 1, "", b"");
    let upstream = world.upstream;
    world.receive_bytes(upstream, &ack);
    assert_eq!(to_new_flow(&world), ["ACK"]);
    assert_eq!(world.final_states(), [CallState::Answered], "and not twice");
}

#[test]
fn what_waits_is_bounded_and_ends_with_the_instance() {
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    for cseq in 2..42 {
        dialog.send(&mut world, End::Caller, "INFO", cseq);
    }
    assert_eq!(world.count("INFO 480"), 40 - sip::endpoint::parked::WAITING_PER_DEVICE / 2);
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    assert_eq!(world.count("INFO 480"), 40);
    dialog.send(&mut world, End::Caller, "BYE", 50);
    assert_eq!(world.count("BYE 480"), 1, "nobody comes back");
    world.advance(seconds(100));
    assert_eq!(world.endpoint.counts().transactions, 0);
}

#[test]
fn who_once_called_leaves_room_for_what_others_say_to_a_device_that_is_away() {
    let mut world = World::registered();
    let [earlier, current] = ["call-1", "call-2"].map(|call_id| Dialog::begin(&mut world, call_id, 200, &[]));
    drop_device(&mut world);
    for cseq in 2..42 {
        let request = earlier.request(End::Caller, "INVITE", cseq, "", b"");
        let request = String::from_utf8(request).unwrap().replace("tag=peer", &format!("tag=made-up.{cseq}"));
        world.receive(world.upstream, &request);
    }
    assert_eq!(world.count("INVITE 480"), 40 - sip::endpoint::parked::WAITING_PER_DEVICE / 2);
    current.send(&mut world, End::Caller, "BYE", 2);
    assert_eq!(world.count("BYE 480"), 0);
    world.attach(2);
    assert!(to_new_flow(&world).contains(&"BYE".to_owned()), "{:?}", to_new_flow(&world));
}

#[test]
fn what_was_answered_long_ago_does_not_keep_what_was_not_from_the_next_connection() {
    let (mut world, dialog) = in_call();
    let device = world.device(1);
    dialog.send(&mut world, End::Caller, "REFER", 2);
    for cseq in 3..103 {
        dialog.send(&mut world, End::Caller, "INFO", cseq);
        let info = world.last("INFO");
        world.reply(device, &info, 200, &[], "");
    }
    drop_device(&mut world);
    world.attach(2);
    assert_eq!(to_new_flow(&world), ["REFER"]);
}

#[test]
fn another_device_finds_nothing_by_the_token() {
    // RFC 5626 §5.3.1: the token is bound to its dialog and its device.
    let (mut world, dialog) = in_call();
    drop_device(&mut world);
    let (stranger, bye) = (world.device(9), dialog.request(End::Device, "BYE", 2, "", b""));
    world.receive_bytes(stranger, &bye);
    assert_eq!(world.descriptions(), ["BYE 407"]);
    let bye = String::from_utf8(bye).unwrap().replace("z9hG4bKd", "z9hG4bKe");
    let bearer = "Proxy-Authorization: Bearer guessed\r\nContent-Length";
    world.receive(stranger, &bye.replace("Content-Length", bearer));
    assert_eq!(world.descriptions(), ["BYE 407", "BYE 403"]);
}

#[test]
fn what_a_device_sends_while_the_flow_to_its_server_is_opened_again_goes_by_the_new_one() {
    // RFC 5626 §4.2.1: the flow is replaced; a BYE must not be lost in between, or the caller talks to nobody.
    let stream = FlowId::Stream(77);
    let mut world = World::registered_with(stream, |_| {});
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    dialog.send(&mut world, End::Caller, "ACK", 1);
    world.sent.clear();
    world.dial = false;
    world.input(Input::Closed(stream));
    let bye = dialog.request(End::Device, "BYE", 2, "", b"");
    let device = world.device(1);
    world.receive_bytes(device, &bye);
    assert_eq!(world.count("BYE"), 0);
    world.advance(seconds(5));
    let (upstream, flow) = (crate::world::REGISTRAR, FlowId::Stream(78));
    world.input(Input::Dialled { upstream, flow, transport: Transport::Tls });
    assert_eq!(world.sent.last().map(|sent| sent.flow), Some(flow));
    let forwarded = world.last("BYE");
    let source = Source { flow, ..world.upstream };
    world.reply(source, &forwarded, 200, &[], "");
    assert_eq!(world.count("BYE 200"), 1);
}

#[test]
fn a_server_that_cannot_be_reached_again_is_480_to_its_device() {
    // RFC 4320 §4.2.
    let stream = FlowId::Stream(77);
    let mut world = World::registered_with(stream, |_| {});
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    world.dial = false;
    world.input(Input::Closed(stream));
    let (device, bye) = (world.device(1), dialog.request(End::Device, "BYE", 2, "", b""));
    world.receive_bytes(device, &bye);
    world.advance(seconds(23));
    assert_eq!(world.count("BYE 480"), 0);
    world.advance(seconds(2));
    assert_eq!(world.count("BYE 480"), 1);
    // A wiped device loses its requests, too.
    let info = dialog.request(End::Device, "INFO", 3, "", b"");
    world.receive_bytes(device, &info);
    world.input(Input::Unbind { instance: world.instance, deadline: seconds(3) });
    world.advance(seconds(4));
    assert_eq!(world.count("INFO 480"), 1);
}
