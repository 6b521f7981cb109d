//! The reach of the token in our Route: the dialogs of the request that it was made for, and no other one.

use super::leg::{CONTACT, Dialog, End};
use crate::world::World;

const METHODS: [&str; 8] = ["INVITE", "MESSAGE", "SUBSCRIBE", "REFER", "OPTIONS", "PUBLISH", "NOTIFY", "BREW"];
/// From and To of the device's requests, as [`Dialog`] writes them.
const FROM: &str = "f: <sip:alice@example.com>;tag=peer";
const TO: &str = "To: \"Bob\" <sip:bob@example.com>;tag=bob";

/// The result of a device's request with another From and To: its answer, else the request that reached the SIP server.
fn sent_with(world: &mut World, dialog: &Dialog, method: &str, (from, to): (&str, &str), n: usize) -> String {
    let text = String::from_utf8(dialog.request(End::Device, method, 7, "", b"")).unwrap();
    assert!(text.contains(FROM) && text.contains(TO), "{text}");
    let text = text.replace(FROM, from).replace(TO, to).replace("z9hG4bKd", &format!("z9hG4bKd{n}"));
    let text = text.replace(&format!("{method} sip:bob@192.0.2.77"), &format!("{method} sip:+1900premium@example.com"));
    world.sent.clear();
    world.receive(world.device(1), &text);
    world.descriptions().into_iter().find(|it| it != "INVITE 100").unwrap_or_default()
}

#[test]
fn the_token_of_a_call_that_a_device_declined_begins_nothing() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 180, &[]);
    let (device, invite) = (world.device(1), dialog.invite.clone());
    world.reply(device, &invite, 603, &[CONTACT], "");
    let forged = [
        ("f: <sip:ceo@example.com>;tag=x", "To: <sip:+1900premium@example.com>"),
        ("f: <sip:ceo@example.com>;tag=x", "To: <sip:+1900premium@example.com>;tag=y"),
        ("f: <sip:ceo@example.com>", "To: <sip:+1900premium@example.com>;tag=y"),
        // The tag of the caller, as if the caller had sent it.
        ("f: <sip:bob@example.com>;tag=bob", "To: <sip:+1900premium@example.com>;tag=y"),
        ("f: <sip:bob@example.com>;tag=bob", "To: <sip:+1900premium@example.com>"),
        (FROM, "To: \"Bob\" <sip:bob@example.com>;tag=BOB"),
        (FROM, "To: \"Bob\" <sip:bob@example.com>;x=\";tag=bob\""),
    ];
    for (n, parties) in (0..).step_by(10).zip(forged) {
        for (m, method) in METHODS.iter().enumerate() {
            let came_to = sent_with(&mut world, &dialog, method, parties, n + m);
            assert_eq!(came_to, format!("{method} 403"), "{parties:?}");
        }
    }
}

#[test]
fn the_requests_of_a_forked_calls_dialogs_pass_by_the_tag_of_its_caller() {
    // RFC 3261 §12.1: one From tag, and as many To tags as there are answers.
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    for (n, tag) in ["peer", "another"].into_iter().enumerate() {
        let own = format!("f: <sip:alice@example.com>;tag={tag}");
        assert_eq!(sent_with(&mut world, &dialog, "UPDATE", (&own, TO), n), "UPDATE");
        assert_eq!(sent_with(&mut world, &dialog, "INVITE", (&own, TO), n), "INVITE");
    }
}

#[test]
fn a_caller_without_a_tag_can_be_hung_up_on_and_lends_no_way_out() {
    // RFC 3261 §12.1.1, §12.2.1.1: what was no tag in the INVITE is none in the device's requests.
    let mut world = World::registered();
    world.attach(1);
    let text = world.invite_text("call-1").replace("<sip:bob@example.com>;tag=bob", "<sip:bob@example.com>");
    world.receive(world.upstream, &text);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 200, &[CONTACT], "");
    let dialog = Dialog::of("call-1", invite, &world.last("INVITE 200"));
    let untagged = "To: \"Bob\" <sip:bob@example.com>";
    for (n, (method, to, came_to)) in [
        ("INVITE", untagged, "INVITE 403"),
        ("MESSAGE", untagged, "MESSAGE 403"),
        ("INVITE", "To: <sip:bob@example.com>;tag=x", "INVITE 403"),
        ("BYE", "To: <sip:bob@example.com>;tag=x", "BYE 403"),
        ("BYE", untagged, "BYE"),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(sent_with(&mut world, &dialog, method, (FROM, to), n), came_to);
    }
}

#[test]
fn what_a_server_adds_to_our_route_hides_no_dialog() {
    for end in [";>", ";;x=>", ";x=\"y>", ";transport=tls;x y>"] {
        let mut world = World::registered();
        let mut dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        dialog.change_routes(|routes| routes.replace('>', end));
        dialog.send(&mut world, End::Caller, "ACK", 1);
        for (side, cseq, method) in [(End::Caller, 2, "INFO"), (End::Device, 3, "UPDATE"), (End::Caller, 4, "BYE")] {
            world.sent.clear();
            dialog.send(&mut world, side, method, cseq);
            assert_eq!(world.descriptions(), [method], "{end}");
        }
    }
}
