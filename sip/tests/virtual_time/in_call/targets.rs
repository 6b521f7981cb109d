//! Contacts that break the grammar of a URI: what the other end sends to them passes, for it is the Route that leads it here.

use super::leg::{Dialog, End};
use crate::world::{World, seconds};
use sip::message::Name;

/// URIs that peers write into Contact, and send to each other as Request-URI from then on.
const ODD: &[&str] = &[
    "sip:x@h;x-tiu=\"VGhd==\"",
    "sip:x@h;a=\"b;c\";lr",
    "sip:@192.0.2.1",
    "sip:x@h;;lr",
    "sip:x@h;",
    "sip:al@192.0.2.10:5060transport=udp",
    "sip:x@192.0.2.1:0;transport=udp",
    "sip:x@192.0.2.1:",
    "sip:x@2001:db8::1",
    "sip:PBX#1000@192.0.2.9@192.0.2.10",
    "sip:Jos\u{e9}@h\u{f6}st",
    "sip:sipp@;rinstance=1234",
    "sip:x@[fe80::1%25eth0]",
    "sip:{x}|^`@h",
    "tel:+1-201-555-0123;phone-context=x",
    "urn:service:sos",
];

#[test]
fn what_is_sent_to_an_odd_contact_reaches_the_other_end_and_is_answered() {
    for odd in ODD {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "odd", 200, &[]);
        for (end, to, method, cseq) in [
            (End::Caller, End::Device, "ACK", 1),
            (End::Device, End::Caller, "INFO", 2),
            (End::Caller, End::Device, "INVITE", 2),
            (End::Caller, End::Device, "BYE", 3),
            (End::Device, End::Caller, "BYE", 3),
        ] {
            world.sent.clear();
            let text = String::from_utf8(dialog.request(end, method, cseq, "", b"")).unwrap();
            let (first, rest) = text.split_once("\r\n").unwrap();
            let uri = first.split(' ').nth(1).unwrap();
            let text = format!("{}\r\n{rest}", first.replace(uri, odd));
            let source = Dialog::source(&world, end);
            world.receive(source, &text);
            let passed = world.sent.iter().find(|it| it.message.method_text() == Some(method));
            let passed = passed.unwrap_or_else(|| panic!("{odd} {method} by {end:?}: {:?}", world.descriptions()));
            assert_eq!((passed.flow, passed.message.request_uri()), (Dialog::source(&world, to).flow, Some(*odd)));
            if method == "ACK" {
                continue;
            }
            let passed = passed.message.clone();
            let answerer = Dialog::source(&world, to);
            world.reply(answerer, &passed, 200, &[], "");
            assert_eq!(world.count(&format!("{method} 200")), 1, "{odd} {method} by {end:?}");
        }
    }
}

#[test]
fn the_headers_and_the_method_of_a_contact_stay_out_of_a_request_uri() {
    // RFC 3261 §19.1.1.
    let contact = "sip:p@10.0.0.5;transport=tls;method=BYE?Subject=1&Route=%3Csip:h%3E";
    let mut world = World::registered();
    let answer = world.register(1, 1, &format!("Contact: <{contact}>;expires=600\r\n"));
    assert_eq!(answer.text(Name::Contact), Some(&*format!("<{contact}>;expires=600")), "it stands as it came");
    world.invite("call-1");
    let message = world.invite_text("message").replace("INVITE", "MESSAGE");
    world.receive(world.upstream, &message);
    for method in ["INVITE", "MESSAGE"] {
        assert_eq!(world.last(method).request_uri(), Some("sip:p@10.0.0.5;transport=tls"), "{method}");
    }
    // A 2xx that comes when the call is over is ended at the device's Contact.
    let (device, invite) = (world.device(1), world.last("INVITE"));
    world.reply(device, &invite, 180, &[], "");
    world.cancel("call-1");
    world.advance(seconds(5));
    world.reply(device, &invite, 200, &[("Contact", &format!("<{contact}>"))], "");
    for method in ["ACK", "BYE"] {
        assert_eq!(world.last(method).request_uri(), Some("sip:p@10.0.0.5;transport=tls"), "{method}");
    }
}
