//! The caller's identity: as the device and the push are told, and as the two sides may say it.

use sip::message::Name;

use super::leg::{CONTACT, Dialog, End, assert_unharmed};
use crate::world::World;

/// The caller in the push for a call with these header lines in place of its From.
fn shown(lines: &str) -> (String, Option<String>) {
    let mut world = World::registered();
    let text = world.invite_text("call-1").replace("From: \"Bob\" <sip:bob@example.com>;tag=bob\r\n", lines);
    let source = world.upstream;
    world.receive(source, &text);
    let wake = world.wakes()[0];
    (wake.from.to_string(), wake.name.as_deref().map(str::to_owned))
}

const BOB: &str = "From: \"Bob\" <sip:bob@example.com>;tag=bob\r\n";

#[test]
fn the_identity_that_the_accounts_server_asserts_is_shown_before_what_the_caller_says_of_itself() {
    // RFC 3325 §9.1.
    for (lines, uri, name) in [
        ("", "sip:bob@example.com", Some("Bob")),
        (
            "P-Asserted-Identity: \"Robert\" <sip:+4930@example.com;user=phone>\r\n",
            "sip:+4930@example.com",
            Some("Robert"),
        ),
        ("P-Asserted-Identity: <sip:bob@gateway.example>\r\n", "sip:bob@gateway.example", Some("Bob")),
        ("P-Asserted-Identity: <sip:mallory@example.com>\r\n", "sip:mallory@example.com", None),
        ("P-Asserted-Identity: tel:+4930123\r\n", "tel:+4930123", None),
        ("P-Asserted-Identity: tel:+4930123, \"R\" <sips:r@example.com>\r\n", "sip:r@example.com", Some("R")),
        (
            "P-Asserted-Identity: <tel:+4930123>\r\nP-Asserted-Identity: <sip:r@example.com>\r\n",
            "sip:r@example.com",
            None,
        ),
        ("P-Asserted-Identity: >broken<\r\n", "sip:bob@example.com", Some("Bob")),
        ("P-Preferred-Identity: <sip:x@example.com>\r\n", "sip:bob@example.com", Some("Bob")),
        ("Privacy: none\r\nP-Asserted-Identity: <sip:r@example.com>\r\n", "sip:r@example.com", None),
    ] {
        let (from, display) = shown(&format!("{BOB}{lines}"));
        assert_eq!((from.as_str(), display.as_deref()), (uri, name), "{lines}");
    }
}

#[test]
fn a_caller_is_told_by_user_and_host_however_odd_its_uri_is() {
    for (lines, uri, name) in [
        ("From: Bob <sip:bob:hunter2@h;x=\"y\">;tag=bob\r\n", "sip:bob@h", Some("Bob")),
        ("From: sips:bob:hunter2@h:5061;tag=bob\r\n", "sip:bob@h", None),
        ("From: \"sip:bob:hunter2@h\" <xmpp:bob:hunter2@h>;tag=bob\r\n", "xmpp:bob@h", Some("sip:bob@h")),
        ("From: Bob <sip:bob:hun@ter2@h>;tag=bob\r\n", "sip:anonymous@anonymous.invalid", Some("Bob")),
        ("From: <https://bob:hunter2@h>;tag=bob\r\n", "sip:anonymous@anonymous.invalid", None),
        ("From: <sip:x@anonymous.invalid;x=\"y\">;tag=bob\r\n", "sip:anonymous@anonymous.invalid", None),
        (
            "From: Bob <sip:bob@h>;tag=bob\r\nP-Asserted-Identity: <sip:bob:hunter2@h;;>, <tel:+1;pw=hunter2>\r\n",
            "sip:bob@h",
            Some("Bob"),
        ),
    ] {
        let (from, display) = shown(lines);
        assert_eq!((from.as_str(), display.as_deref()), (uri, name), "{lines}");
    }
}

#[test]
fn a_number_and_the_name_beside_it_are_one_caller() {
    // RFC 3325 §9.1: the From of a gateway's call names the number that the tel: identity asserts.
    let (from, name) =
        shown("From: \"Bob\" <sip:+4930@gw>;tag=bob\r\nP-Asserted-Identity: <tel:+4930;phone-context=x>\r\n");
    assert_eq!((from.as_str(), name.as_deref()), ("tel:+4930;phone-context=x", Some("Bob")));
}

#[test]
fn a_caller_who_asks_for_privacy_is_anonymous_whatever_its_server_asserts() {
    // RFC 3323 §4.2, §4.1.1.3; RFC 3325 §9.3.
    for lines in [
        format!("{BOB}Privacy: id\r\nP-Asserted-Identity: \"Bob\" <sip:bob@example.com>\r\n"),
        format!("{BOB}P-Asserted-Identity: \"Bob\" <sip:bob@example.com>\r\nPrivacy: critical; ID\r\n"),
        format!("{BOB}Privacy: user\r\n"),
        format!("{BOB}Privacy: header;session\r\n"),
        "From: \"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=bob\r\nP-Asserted-Identity: <sip:bob@example.com>\r\n"
            .to_owned(),
        "From: <sip:x@ANONYMOUS.invalid>;tag=bob\r\n".to_owned(),
    ] {
        assert_eq!(shown(&lines), ("sip:anonymous@anonymous.invalid".to_owned(), None), "{lines}");
    }
}

#[test]
fn a_device_asserts_nothing_about_itself_and_may_prefer() {
    // RFC 3325 §5, §6: what an untrusted peer asserts is removed; what it prefers is its server's to judge.
    let lines = "P-Asserted-Identity: <sip:boss@example.com>\r\nP-Preferred-Identity: <sip:alice@example.com>\r\n\
                 p-asserted-identity: <tel:+1>\r\nremote-party-id: \"Boss\" <sip:boss@example.com>;party=calling\r\nPrivacy: id\r\n";
    let mut world = World::registered();
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    let asserted = [("P-Asserted-Identity", "<sip:boss@example.com>"), ("Remote-Party-ID", "<sip:boss@example.com>")];
    let claims = [&[CONTACT, ("Privacy", "id")], &asserted[..]].concat();
    for status in [180, 200] {
        world.reply(device, &invite, status, &claims, "");
        let heard = world.last(&format!("INVITE {status}"));
        assert!(!heard.has(Name::PAssertedIdentity) && heard.has(Name::Privacy), "{status}");
        assert!(!heard.has(Name::RemotePartyId), "{status}");
    }
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
    let request = dialog.request(End::Device, "INVITE", 5, lines, b"");
    world.receive_bytes(device, &request);
    let forwarded = world.last("INVITE");
    assert!(!forwarded.has(Name::PAssertedIdentity) && !forwarded.has(Name::RemotePartyId));
    assert_eq!(forwarded.values_written("P-Preferred-Identity").count(), 1);
    assert_eq!(forwarded.text(Name::Privacy), Some("id"));
    // The server's own assertions pass to the device, in requests and responses.
    let upstream = world.upstream;
    world.reply(upstream, &forwarded, 200, &asserted, "");
    let heard = world.last("INVITE 200");
    assert!(heard.has(Name::PAssertedIdentity) && heard.has(Name::RemotePartyId));
    let request = dialog.request(End::Caller, "UPDATE", 9, lines, b"");
    world.receive_bytes(upstream, &request);
    assert_unharmed(&request, &world.last("UPDATE"));
}

#[test]
fn a_signed_identity_reaches_the_device_with_all_that_it_signs() {
    // RFC 8224 §4, §6.2: the signature covers From, To, Date and, in RFC 4474's form, Call-ID, CSeq, Contact and the body.
    let mut world = World::registered();
    let identity = "Identity:  eyJhbGciOiJFUzI1NiIsInR5cCI6InBhc3Nwb3J0In0.eyJkZXN0Ijp7InRuIjpbIjEyMTU1NTUxMjEzIl19fQ.\
                    sig==;info=<https://cert.example/c.cer>;alg=ES256;ppt=\"shaken\"\r\n\tfolded\r\n\
                    Identity-Info: <https://cert.example/c.cer>;alg=rsa-sha1\r\n\
                    Date: Sun, 22  Nov 2026 09:00:00 GMT\r\nX-Odd:";
    let text = world.invite_text("call-1").replace("X-Odd:", identity);
    let source = world.upstream;
    world.receive(source, &text);
    world.attach(1);
    assert_unharmed(text.as_bytes(), &world.last("INVITE"));
}
