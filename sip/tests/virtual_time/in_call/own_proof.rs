//! The proof of a lent account's device to the relay, in a call: it goes no further (RFC 3261 §22.3, RFC 8898 §3).

use sip::endpoint::Input;
use sip::id::FlowId;
use sip::message::{Message, Name};

use super::leg::{CONTACT, Dialog, End};
use crate::world::{SECRET, World};

const MARKED: &str = "pis_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const OTHERS: &str = "Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:x\", response=\"r\"";

fn values(message: &Message, name: Name) -> Vec<String> {
    message.values(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

#[test]
fn no_request_of_a_device_in_its_call_shows_the_sip_server_what_proves_it_here() {
    let bearer = SECRET.replace(' ', "-");
    for method in [
        "ACK",
        "BYE",
        "INFO",
        "INVITE",
        "MESSAGE",
        "NOTIFY",
        "OPTIONS",
        "PRACK",
        "PUBLISH",
        "REFER",
        "SUBSCRIBE",
        "UPDATE",
        "OTHER",
    ] {
        let mut world = World::registered();
        let dialog = Dialog::begin(&mut world, "call-1", 200, &[]);
        world.sent.clear();
        let own = format!(
            "Digest username=\"{}\", realm=\"sipwake\", nonce=\"n\", uri=\"sip:x\", response=\"r\"",
            world.instance
        );
        let lines = ["Authorization", "Proxy-Authorization"].map(|name| {
            let all = [&format!("Bearer {bearer}"), OTHERS, &own, &format!("Bearer {MARKED}")];
            all.map(|value| format!("{name}: {value}\r\n")).concat()
        });
        let lines = format!("{}X-Key: {MARKED}\r\n", lines.concat());
        let request = dialog.request(End::Device, method, 2, &lines, b"");
        world.receive_bytes(world.device(1), &request);
        let left = world.last(method);
        for carrier in [Name::Authorization, Name::ProxyAuthorization] {
            assert_eq!(values(&left, carrier), [OTHERS], "{method}");
        }
        let text = String::from_utf8_lossy(left.head()).into_owned();
        assert!(!text.contains(&bearer) && !text.contains(MARKED), "{text}");
    }
}

#[test]
fn no_answer_of_a_device_shows_the_caller_what_proves_it_here() {
    let mut world = World::registered();
    let contact = format!("<sip:{}:{MARKED}@10.0.0.5:9>", world.instance);
    let authorization = format!("Bearer {}", SECRET.replace(' ', "-"));
    let claims = [("Contact", &*contact), ("Authorization", &authorization), ("Proxy-Authorization", &authorization)];
    world.invite("call-1");
    world.attach(1);
    let (device, invite) = (world.device(1), world.last("INVITE"));
    for status in [180, 200] {
        world.reply(device, &invite, status, &claims, "");
        let heard = world.last(&format!("INVITE {status}"));
        assert!(!heard.has(Name::Authorization) && !heard.has(Name::ProxyAuthorization), "{status}");
        let gone = contact.replace(MARKED, &format!("pis_{}", "x".repeat(43)));
        assert_eq!(heard.text(Name::Contact), Some(&*gone));
    }
    let dialog = Dialog::of("call-1", invite, &world.last("INVITE 200"));
    dialog.send(&mut world, End::Caller, "INFO", 2);
    let info = world.last("INFO");
    world.reply(device, &info, 603, &claims[1..], "");
    assert!(!world.last("INFO 603").has(Name::Authorization));
}

/// The answers of a server's fork go up together where they are challenges, and otherwise the best of them.
#[test]
fn no_refusal_of_a_call_shows_the_caller_what_proves_its_device_here() {
    for status in [302, 401, 407, 480, 486, 488, 500, 503, 603] {
        let mut world = World::registered();
        world.invite("call-1");
        world.attach(1);
        let (device, invite) = (world.device(1), world.last("INVITE"));
        let contact = format!("<sip:{}:{MARKED}@10.0.0.5:9>", world.instance);
        let challenge = format!("Digest realm=\"{MARKED}\", nonce=\"n\"");
        let bearer = format!("Bearer {}", SECRET.replace(' ', "-"));
        let claims = [
            ("Contact", &*contact),
            ("WWW-Authenticate", &challenge),
            ("Proxy-Authenticate", &challenge),
            ("Authorization", &bearer),
            ("Proxy-Authorization", &bearer),
        ];
        world.reply(device, &invite, status, &claims, "");
        let heard = world.last(&format!("INVITE {}", if status == 503 { 500 } else { status }));
        assert!(!heard.has(Name::Authorization) && !heard.has(Name::ProxyAuthorization), "{status}");
        let text = String::from_utf8_lossy(heard.head()).into_owned();
        assert!(!text.contains(MARKED), "{text}");
    }
}

/// JsSIP's `authorization_jwt` stands in Authorization whatever the method is.
#[test]
fn a_bearer_token_in_authorization_proves_a_device_by_its_next_connection() {
    let mut world = World::registered();
    let dialog = Dialog::begin(&mut world, "call-1", 200, &[CONTACT]);
    world.input(Input::Closed(FlowId::Stream(1)));
    for (token, expected) in [("guessed", "BYE 403"), (&*SECRET.replace(' ', "-"), "BYE")] {
        world.sent.clear();
        let lines = format!("Authorization: Bearer {token}\r\n");
        let request = dialog.request(End::Device, "BYE", 2, &lines, b"");
        world.receive_bytes(world.device(2), &request);
        assert_eq!(world.descriptions(), [expected]);
    }
    assert!(!world.last("BYE").has(Name::Authorization));
}
