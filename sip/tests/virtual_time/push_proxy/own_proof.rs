//! Of a device that passes through: what proves some instance to this relay goes no further, and what is for its own SIP server does.

use sip::id::FlowId;
use sip::message::Name;

use super::outgoing::{Begun, in_dialog};
use super::through::{Register, Through, values};

const OWN: [&str; 3] = [
    "Bearer pis_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "Digest username=\"pi_aaaaaaaaaaaaaaaaaaaaaaaaaa\", realm=\"sipwake\", nonce=\"n\", uri=\"sip:x\", response=\"r\"",
    "bearer\tpis_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB",
];
const OTHERS: [&str; 3] = [
    "Bearer eyJhbGciOiJub25lIn0.e30.AAAA",
    "Digest username=\"alice\", realm=\"sipwake\", nonce=\"n\", uri=\"sip:x\", response=\"r\"",
    "Digest username=\"alice\", realm=\"example.com\", nonce=\"n\", uri=\"sip:x\", response=\"r\"",
];

/// Header lines with all of these, and a secret where none belongs.
fn lines() -> String {
    let all =
        |name: &str| [OWN, OTHERS].concat().iter().map(|value| format!("{name}: {value}\r\n")).collect::<String>();
    format!("{}{}X-Key: {}\r\n", all("Authorization"), all("Proxy-Authorization"), &OWN[0][7..])
}

fn assert_kept(through: &Through, method: &str) {
    let left = through.world.last(method);
    for carrier in [Name::Authorization, Name::ProxyAuthorization] {
        assert_eq!(left.values(carrier).map(String::from_utf8_lossy).collect::<Vec<_>>(), OTHERS, "{method}");
    }
    assert!(!String::from_utf8_lossy(left.head()).contains(&OWN[0][7..]), "{method}");
}

#[test]
fn a_register_shows_the_registrar_its_own_credentials_and_no_secret_of_an_instance() {
    let mut through = Through::new();
    let lines = lines();
    through.registered(&Register::by(1).header(lines.trim_end()));
    assert_kept(&through, "REGISTER");
    // One that shows nothing else shows nothing: no failure is counted for it.
    through.register(&Register::by(1).header(&format!("Authorization: {}", OWN[0])));
    assert!(!through.world.last("REGISTER").has(Name::Authorization));
}

#[test]
fn nothing_that_such_a_device_begins_or_sends_in_a_dialog_shows_a_secret_of_an_instance() {
    let mut through = Through::over(FlowId::Stream(99));
    through.registered(&Register::by(1));
    let device = through.world.device(1);
    for method in ["MESSAGE", "SUBSCRIBE", "PUBLISH", "OPTIONS", "REFER", "INVITE"] {
        let begun = Begun { call_id: format!("out-{method}"), ..Begun::new(method) };
        through.world.receive(device, &begun.text(1, &lines()));
        assert_kept(&through, method);
    }
    let invite = through.world.last("INVITE");
    through.world.reply(through.world.upstream, &invite, 200, &[("Contact", "<sip:bob@192.0.2.77>")], "");
    let answer = through.world.last("INVITE 200");
    let routes: Vec<_> = values(&answer, Name::RecordRoute).into_iter().rev().collect();
    let to = answer.text(Name::To).unwrap().to_owned();
    for method in ["ACK", "BYE"] {
        let text = in_dialog(method, "sip:bob@192.0.2.77", &routes, "<sip:alice@example.com>;tag=a", &to, "10.0.0.5:9");
        let text = text.replace("Call-ID: out\r\n", &format!("Call-ID: out-INVITE\r\n{}", lines()));
        through.world.receive(device, &text);
        assert_kept(&through, method);
    }
}
