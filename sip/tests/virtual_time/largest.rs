//! Calls whose INVITE has as much as a request may have: what this relay adds to it is not too much for anybody here.

use sip::endpoint::Event;
use sip::message::{Limits, Message, Name};

use crate::world::{SDP, World};

/// An INVITE with so many Vias and header lines and so many bytes, which none of the limits is beyond.
fn invite(world: &World, call_id: &str, [vias, headers, bytes]: [usize; 3]) -> String {
    let text = world.invite_text(call_id);
    let (line, rest) = text.split_once("\r\n").unwrap();
    let rest = rest.replace("Max-Forwards: 69\r\n", "");
    // The topmost is the sender's.
    let (first, rest) = rest.split_once("\r\n").unwrap();
    let text = format!("{line}\r\n{first}\r\n{}{rest}", "Via: SIP/2.0/UDP h;branch=z9hG4bKx\r\n".repeat(vias - 2));
    let lines = text.split_once("\r\n\r\n").unwrap().0.split("\r\n").count() - 1;
    let text = text.replace("\r\n\r\n", &format!("\r\n{}\r\n", "X: y\r\n".repeat(headers - lines)));
    let more = "y".repeat(bytes - text.len());
    text.replacen("X-Odd:", &format!("X-Odd:{more}"), 1)
}

/// Each limit alone, and all.
fn largest() -> Vec<[usize; 3]> {
    let Limits { message_bytes, headers, vias } = Limits::default();
    let few = [2, 96, 8_000];
    let mut all = vec![[vias, few[1], few[2]], [few[0], few[1], message_bytes], [vias, headers, message_bytes]];
    all.extend((headers - 3..=headers).map(|headers| [few[0], headers, few[2]]));
    all
}

/// A device that is there has the INVITE.
fn ringing(limits: [usize; 3]) -> (World, Message) {
    let mut world = World::registered();
    world.attach(1);
    world.sent.clear();
    let text = invite(&world, "large", limits);
    assert_eq!(text.len(), limits[2]);
    world.receive(world.upstream, &text);
    let invite = world.last("INVITE");
    assert_eq!(invite.elements(Name::Via).count(), limits[0] + 1);
    (world, invite)
}

#[test]
fn a_refusal_of_the_largest_invite_is_acknowledged_and_heard_by_its_caller() {
    for limits in largest() {
        let (mut world, invite) = ringing(limits);
        world.reply(world.device(1), &invite, 486, &[], "");
        assert_eq!((world.count("ACK"), world.count("INVITE 486")), (1, 1), "{limits:?}");
        assert_eq!(world.last("INVITE 486").elements(Name::Via).count(), limits[0]);
    }
}

#[test]
fn an_answer_to_the_largest_invite_reaches_its_caller() {
    for limits in largest() {
        let (mut world, invite) = ringing(limits);
        let further: Vec<_> = (0..20).map(|_| ("Allow", "INVITE")).chain([("Contact", "<sip:p@10.0.0.5>")]).collect();
        for status in [180, 200] {
            world.reply(world.device(1), &invite, status, &further, SDP);
        }
        assert_eq!((world.count("INVITE 180"), world.count("INVITE 200")), (1, 1), "{limits:?}");
    }
}

#[test]
fn the_cancel_of_the_largest_invite_reaches_its_device() {
    for limits in largest() {
        let (mut world, invite) = ringing(limits);
        world.reply(world.device(1), &invite, 180, &[], "");
        let cancel = world.head("large", "CANCEL", 1, "");
        let uri = format!("sip:{}@relay.test:5070", world.binding);
        world.receive(world.upstream, &format!("CANCEL {uri} SIP/2.0\r\n{cancel}Content-Length: 0\r\n\r\n"));
        assert_eq!((world.count("CANCEL 200"), world.count("CANCEL")), (1, 1), "{limits:?}");
        world.reply(world.device(1), &invite, 487, &[], "");
        assert_eq!((world.count("ACK"), world.count("INVITE 487")), (1, 1), "{limits:?}");
    }
}

#[test]
fn the_largest_invite_from_another_address_than_it_says_is_marked_with_it() {
    let mut world = World::registered();
    let Limits { message_bytes, .. } = Limits::default();
    let text = invite(&world, "large", [2, 64, message_bytes + 1]).replacen("192.0.2.10:5060", "192.0.2.9:5060", 1);
    world.receive(world.upstream, &text);
    let trying = world.last("INVITE 100");
    assert!(trying.via().unwrap().text.ends_with(";received=192.0.2.10"), "{:?}", trying.via());
}

#[test]
fn a_registrar_lists_as_many_contacts_as_its_response_has_room_for_each_on_its_line() {
    for others in [100, 250, 1_400] {
        let mut world = World::new(World::registered().upstream.flow);
        world.bind();
        let register = world.last("REGISTER");
        let ours = register.text(Name::Contact).unwrap().split_once('>').unwrap().0.to_owned() + ">;expires=300";
        let listed: Vec<_> = (0..others).map(|it| format!("<sip:o{it}@192.0.2.9>;expires=60")).chain([ours]).collect();
        let lines: Vec<_> = listed.iter().map(|contact| ("Contact", &**contact)).collect();
        world.respond(200, &lines);
        let lasts = world.events.iter().find_map(|event| match event {
            Event::Registered { expires, .. } => Some(expires.as_secs()),
            _ => None,
        });
        assert_eq!(lasts, Some(300), "{others} others");
    }
}

/// A server whose buffer an answer does not fit into closes the connection that all its accounts share.
#[test]
fn a_420_names_what_is_not_understood_on_one_line_and_is_no_longer_than_its_request() {
    let repeated = "a,".repeat(25_000);
    let various = (0..10_000).map(|it| format!("o{it}")).collect::<Vec<_>>().join(",");
    let long = format!("{},{},b", "x".repeat(513), "y".repeat(511));
    for (options, named) in [(&repeated, 1), (&various, 16), (&long, 2)] {
        for (method, line) in
            [("INVITE", "Proxy-Require"), ("MESSAGE", "Proxy-Require"), ("MESSAGE", "Require"), ("OPTIONS", "Require")]
        {
            let mut world = World::registered();
            let mut text = world.invite_text("many").replace("INVITE", method);
            text = text.replace("X-Odd:", &format!("{line}: {options}\r\nX-Odd:"));
            world.receive(world.upstream, &text);
            let refused = world.last(&format!("{method} 420"));
            assert_eq!(refused.values(Name::Unsupported).count(), 1, "{method} {line}");
            assert_eq!(refused.elements(Name::Unsupported).count(), named, "{method} {line}");
            assert!(refused.to_bytes().len() < text.len() && refused.head().len() < 1_500, "{method} {line}");
        }
    }
}

#[test]
fn a_refusal_that_is_long_is_sent_and_not_kept() {
    for (name_bytes, kept) in [(3_000, 1), (5_000, 0), (60_000, 0)] {
        let mut world = World::registered();
        let before = world.endpoint.counts().transactions;
        let text = world.invite_text("long").replace("\"Bob\"", &format!("\"{}\"", "b".repeat(name_bytes)));
        world.receive(world.upstream, &text.replace("X-Odd:", "Proxy-Require: time-travel\r\nX-Odd:"));
        assert_eq!(world.count("INVITE 420"), 1, "{name_bytes}");
        assert_eq!(world.endpoint.counts().transactions - before, kept, "{name_bytes}");
    }
}
