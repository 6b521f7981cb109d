//! The messages of RFC 5118, IPv6 torture, each with its verdict; bodies are left out where no view looks at them.
//!
//! Invariant: all but the one of §4.2 are sound, those of §4.5 and §4.10 too, which the RFC asks to read although they
//! bend the grammar.

use bytes::Bytes;
use sip::message::{Fault, Limits, Message, Uri, Via};

/// Section, request line, To, the other lines in which the messages differ, verdict.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str], Result<(), Fault>);

const ROWS: &[Row] = &[
    ("4.1", "REGISTER sip:[2001:db8::10]", "sip:user@example.com", &[VIA, CONTACT], Ok(())),
    ("4.2", "REGISTER sip:2001:db8::10", "sip:user@example.com", &[VIA, CONTACT], Err(Fault::RequestUri)),
    ("4.3", "REGISTER sip:[2001:db8::10:5070]", "sip:user@example.com", &[VIA, CONTACT], Ok(())),
    ("4.4", "REGISTER sip:[2001:db8::10]:5070", "sip:user@example.com", &[VIA, CONTACT], Ok(())),
    (
        "4.5 with delimiters",
        "BYE sip:[2001:db8::10]",
        "sip:user@example.com;tag=bd76ya",
        &["Via: SIP/2.0/UDP [2001:db8::9:1];received=[2001:db8::9:255];branch=z9hG4bKas3-111"],
        Ok(()),
    ),
    (
        "4.5 without delimiters",
        "OPTIONS sip:[2001:db8::10]",
        "sip:user@example.com",
        &["Via: SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bKas3", CONTACT],
        Ok(()),
    ),
    (
        "4.6",
        "INVITE sip:user@[2001:db8::10]",
        "sip:user@[2001:db8::10]",
        &["Via: SIP/2.0/UDP [2001:db8::20];branch=z9hG4bKas3-111", "Contact: \"Caller\" <sip:caller@[2001:db8::20]>"],
        Ok(()),
    ),
    (
        "4.7",
        "BYE sip:user@host.example.net",
        "sip:user@example.net;tag=9817--94",
        &[
            "Via: SIP/2.0/UDP [2001:db8::9:1]:6050;branch=z9hG4bKas3-111",
            "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKjhja8781hjuaij65144",
            "Via: SIP/2.0/TCP [2001:db8::9:255];branch=z9hG4bK451jj;received=192.0.2.200",
        ],
        Ok(()),
    ),
    ("4.8", "INVITE sip:user@[2001:db8::10]", "sip:user@[2001:db8::10]", &[VIA, CONTACT], Ok(())),
    (
        "4.9",
        "INVITE sip:user@example.com",
        "sip:user@example.com",
        &[
            "Via: SIP/2.0/UDP [::ffff:192.0.2.10]:19823;branch=z9hG4bKbh19",
            "Via: SIP/2.0/UDP [::ffff:192.0.2.2];branch=z9hG4bKas3-111",
            "Contact: \"T. desk phone\" <sip:ted@[::ffff:192.0.2.2]>",
        ],
        Ok(()),
    ),
    (
        "4.10 with three colons",
        "OPTIONS sip:user@[2001:db8:::192.0.2.1]",
        "sip:user@[2001:db8:::192.0.2.1]",
        &["Via: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111"],
        Ok(()),
    ),
    (
        "4.10 with two colons",
        "OPTIONS sip:user@[2001:db8::192.0.2.1]",
        "sip:user@[2001:db8::192.0.2.1]",
        &["Via: SIP/2.0/UDP lab1.east.example.com;branch=z9hG4bKas3-111"],
        Ok(()),
    ),
];

const VIA: &str = "Via: SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bKas3-111";
const CONTACT: &str = "Contact: \"Caller\" <sip:caller@[2001:db8::1]>";

fn message(row: &Row) -> Message {
    let (section, request, to, lines, _) = row;
    let method = request.split(' ').next().unwrap_or_default();
    let text = format!(
        "{request} SIP/2.0\r\nTo: {to}\r\nFrom: sip:user@example.com;tag=81x2\r\n{}\r\n\
         Call-ID: SSG9559905523997077@hlau_4100\r\nMax-Forwards: 70\r\nCSeq: 98176 {method}\r\nContent-Length: 0\r\n\r\n",
        lines.join("\r\n")
    );
    let message = Message::parse(&Bytes::from(text.clone()), &Limits::default());
    let message = message.unwrap_or_else(|error| panic!("{section}: {error:?}"));
    assert_eq!(message.to_bytes(), text);
    message
}

#[test]
fn all_messages_get_their_verdict() {
    for row in ROWS {
        assert_eq!(message(row).check(), row.4, "{}", row.0);
    }
}

#[test]
fn a_port_is_what_stands_behind_the_brackets() {
    let uri = |at: usize| {
        let message = message(&ROWS[at]);
        Uri::parse(message.request_uri().unwrap()).map(|uri| (uri.host.to_owned(), uri.port))
    };
    assert_eq!(uri(2), Some(("[2001:db8::10:5070]".into(), None)));
    assert_eq!(uri(3), Some(("[2001:db8::10]".into(), Some(5070))));
}

#[test]
fn received_is_read_with_and_without_brackets() {
    for (row, received) in [(4, "[2001:db8::9:255]"), (5, "2001:db8::9:255")] {
        let message = message(&ROWS[row]);
        let via: Via<'_> = message.via().unwrap();
        assert_eq!((via.host, via.params.value("received")), ("[2001:db8::9:1]", Some(received)));
    }
}
