//! Oddities of the field: what real servers and phones have sent, each with where it was met, and its verdict.
//!
//! The messages are written anew, each around one oddity that its source tells of.
//!
//! Invariant: a message that is read is written again as it came; of From, To and Contact each part is read that is there. What
//! cannot be read is answered, and never met with silence.

use bytes::Bytes;
use sip::message::{Composer, Fault, Limits, Message, Name};

/// The outcome of a message.
enum Verdict {
    /// The message passes. The fields read from it: the caller's name, the From tag, the To tag, the targets of its Contacts.
    Read(Option<&'static str>, Option<&'static str>, Option<&'static str>, &'static [&'static str]),
    /// The message is a request that is answered with this fault.
    Answered(Fault),
}
use Verdict::{Answered, Read};

struct Oddity {
    file: &'static str,
    bytes: &'static [u8],
    source: &'static str,
    verdict: Verdict,
    shows: &'static str,
}

macro_rules! oddities {
    ($($file:literal, $source:literal, $verdict:expr, $shows:literal;)*) => {
        const ODDITIES: &[Oddity] = &[
            $(Oddity {
                file: $file,
                bytes: include_bytes!(concat!($file, ".dat")),
                source: $source,
                verdict: $verdict,
                shows: $shows,
            },)*
        ];
    };
}

oddities! {
    "twice-quoted-to", "https://github.com/erlnets/nksip/issues/20",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a Cisco phone quotes a name that is quoted";
    "no-user", "https://github.com/irontec/sngrep/issues/114",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "an @ and no user before it";
    "quoted-uri-parameter", "https://github.com/onsip/SIP.js/issues/419",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1;transport=wss;thinfo=\"VG8+==\""]),
        "topology hiding that quotes a parameter of the URI";
    "quoted-uri-parameter-answer", "https://github.com/onsip/SIP.js/issues/593",
        Read(None, Some("1"), Some("2"), &["sip:bob@192.0.2.1;thinfo=\"VGhd==\""]),
        "likewise in an answer";
    "contact-of-another-phone", "https://github.com/kamailio/kamailio/issues/4926",
        Read(None, Some("1"), Some("2"), &["sip:own@192.0.2.1", "sip:al@192.0.2.10:5060transport=udp"]),
        "a registrar that lists the broken Contact of another phone";
    "empty-name", "https://github.com/theintencity/sip-js/issues/3",
        Read(None, Some("1"), Some("4adc"), &["sip:bob@192.0.2.1"]),
        "an empty name, and a parameter before the tag";
    "comma-in-quoted-parameter", "https://github.com/versatica/JsSIP/issues/11",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1;transport=udp"]),
        "a comma in a quoted parameter ends no Contact";
    "header-within-contact", "https://github.com/onsip/SIP.js/issues/560",
        Read(None, Some("1"), Some("2"), &["sip:own@h.invalid;transport=ws", "sip:PBX#1000@192.0.2.9", "Date:Thu"]),
        "a user with #, and a Date that has run into the list";
    "comma-without-brackets", "https://github.com/poroh/ersip/issues/17",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a comma in a URI without angle brackets";
    "semicolon-in-user", "https://github.com/signalwire/freeswitch/issues/2824",
        Read(None, Some("1"), None, &["sip:+358-555;postd=pp22@192.0.2.1;user=phone"]),
        "a semicolon in the user of a Contact";
    "colon-before-contact", "https://github.com/versatica/JsSIP/issues/698",
        Read(None, Some("1"), Some("2"), &["sip:a@192.0.2.4:5060;transport=udp", "sip:own@h.invalid;transport=ws"]),
        "a colon between two Contacts";
    "comma-in-name", "https://github.com/OpenSIPS/opensips/issues/1290",
        Read(Some("Bond, James"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a comma in a quoted name";
    "ampersand-in-name", "https://github.com/kamailio/kamailio/issues/3421",
        Read(Some("COVER JERRY & M"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "two spaces and an ampersand";
    "folded-identity", "https://github.com/kamailio/kamailio/issues/2837",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "P-Asserted-Identity folded by a tab";
    "uri-parameter-outside", "https://github.com/versatica/JsSIP/issues/66",
        Read(None, Some("1"), None, &["sip:123@h.invalid;transport=ws"]),
        "a parameter of the URI behind the angle brackets, too";
    "sips-from", "https://github.com/versatica/JsSIP/pull/342",
        Read(None, Some("Ka7al2s~f"), None, &["sip:bob@192.0.2.1"]),
        "sips, and a tilde in the tag";
    "bare-record-route", "https://github.com/onsip/SIP.js/issues/319",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "Record-Routes without angle brackets";
    "brackets-in-reason", "https://github.com/onsip/SIP.js/issues/996",
        Read(None, Some("1"), Some("2"), &[]),
        "a reason phrase with square brackets";
    "host-begins-with-digit", "https://github.com/versatica/JsSIP/issues/938",
        Read(Some("phone"), Some("1"), None, &["sip:asterisk@1af019b2ba08:5060;transport=ws"]),
        "a container for a host";
    "folded-challenge", "https://github.com/emiago/sipgo/issues/251",
        Read(Some("30123456789"), Some("1"), Some("2"), &[]),
        "a challenge folded over five lines";
    "line-break-in-uri", "https://github.com/pjsip/pjproject/issues/2724",
        Read(None, None, None, &["sip:bob@192.0.2.1"]),
        "an end of line within the URI of From: its tag is on a line of its own, which is no header";
    "lf-between-headers", "https://github.com/aboutsip/pkts/pull/110",
        Answered(Fault::HeaderLine),
        "LF alone between From and To";
    "anonymous-without-user", "https://github.com/meetecho/janus-gateway/issues/3164",
        Read(Some("Anonymous"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "an anonymous caller has no user";
    "backslash-space", "https://github.com/team-telnyx/freeswitch/pull/589",
        Read(Some("Sami"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "an escaped space at the end of a name";
    "backslash-quote", "https://github.com/team-telnyx/freeswitch/pull/589",
        Read(Some("Wood\\"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a backslash that takes the closing quote away";
    "unquoted-accents", "https://github.com/davehorton/sofia-sip/issues/3",
        Read(Some("Virtuális kolléga"), None, None, &["sip:bob@192.0.2.1"]),
        "an unquoted name beyond ASCII, and no tag";
    "half-quoted-name", "https://github.com/DoubangoTelecom/doubango/issues/333",
        Read(Some("中文字符"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a quote that was never opened";
    "utf-8-name", "https://github.com/DoubangoTelecom/imsdroid/issues/308",
        Read(Some("会议室"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a name beyond ASCII";
    "latin-1-name", "https://github.com/sipcapture/heplify-server/pull/26",
        Read(Some("Jos�"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a name that is no UTF-8";
    "address-within-address", "https://github.com/versatica/JsSIP/issues/12",
        Read(Some("pippo"), Some("awlan9h021"), None, &["sip:bob@192.0.2.1"]),
        "an address written into an address";
    "headers-without-brackets", "https://github.com/OpenSIPS/opensips/issues/952",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "tags that belong to the headers of a URI without angle brackets";
    "comma-in-user", "https://github.com/OpenSIPS/opensips/issues/1385",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a comma in the user";
    "no-host", "https://github.com/OpenSIPS/opensips/issues/729",
        Read(None, Some("1"), None, &["sip:sipp@;rinstance=1234"]),
        "a Contact without a host";
    "tel-with-parameter", "https://github.com/BelledonneCommunications/linphone-android/issues/1225",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "tel: on both sides";
    "empty-uri-parameter", "https://github.com/BelledonneCommunications/linphone-android/issues/1366",
        Read(Some("Ananth"), Some("1"), Some("2"), &["sip:1826@192.0.2.4:60414;pn-tok=fmoX:APA91;app-imei=;transport=tls"]),
        "a parameter without a value, and a token with a colon";
    "name-without-brackets", "https://github.com/onsip/SIP.js/issues/100",
        Read(Some("Anonymous"), Some("as4b6e3ad0"), None, &["sip:bob@192.0.2.1"]),
        "a quoted name before a URI without angle brackets";
    "no-scheme", "https://github.com/juha-h/baresip-studio/issues/365",
        Read(Some("dongle1 aāuū"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a URI without a scheme";
    "headers-run-together", "https://github.com/baresip/baresip/issues/1487",
        Answered(Fault::Missing(Name::CSeq)),
        "a CSeq that has been lost between two headers";
    "cseq-without-number", "https://github.com/kirm/sip.js/issues/136",
        Answered(Fault::Broken(Name::CSeq)),
        "a CSeq that is none";
    "identity-with-name", "https://github.com/android-rcs/rcsjta/issues/47",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a name before a tel: URI in P-Asserted-Identity";
    "answer-without-to", "https://github.com/SIPp/sipp/issues/152",
        Read(None, Some("1"), None, &[]),
        "an answer without To: nobody who waits for it needs one";
    "bad-header-before-via", "https://github.com/OpenSIPS/opensips/issues/2187",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a broken header before the Via";
    "unquoted-referrer", "https://github.com/resiprocate/resiprocate/pull/455",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "an unquoted name in Referred-By";
    "name-with-space", "https://github.com/pjsip/pjproject/issues/747",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a header's name that is none passes as what is no header";
    "folding-without-space", "https://github.com/DoubangoTelecom/doubango/issues/27",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "foldings that have lost their white space, with a colon in what was folded";
    "repeated-max-forwards", "https://github.com/restsend/rsipstack/pull/49",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "Max-Forwards twice in each INVITE: the lowest counts";
    "parse-error-is-answered", "https://github.com/versatica/JsSIP/issues/125",
        Answered(Fault::HeaderLine),
        "what cannot be read is answered 400, so that a network does not take its receiver for gone";
    "quotes-within-quotes", "https://www.rfc-editor.org/rfc/rfc3261#section-25.1",
        Read(Some("John Duke W"), Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a nickname in quotes within a quoted name";
    "unquoted-comma", "https://www.rfc-editor.org/rfc/rfc3261#section-20.10",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "an unquoted comma in the name of a Contact";
    "line-without-colon", "https://www.rfc-editor.org/rfc/rfc3261#section-7.3.1",
        Read(None, Some("1"), None, &["sip:bob@192.0.2.1"]),
        "a folding without its white space";
    "first-line-folded", "https://www.rfc-editor.org/rfc/rfc3261#section-7.3.1",
        Answered(Fault::HeaderLine),
        "a folding of the request line: some read a header there, some do not";
}

fn parsed(oddity: &Oddity) -> Message {
    let Oddity { file, bytes, source, shows, .. } = oddity;
    Message::parse(&Bytes::from_static(bytes), &Limits::default())
        .unwrap_or_else(|error| panic!("{file}: {error:?}: {shows} ({source})"))
}

#[test]
fn each_oddity_gets_its_verdict() {
    for oddity in ODDITIES {
        let Oddity { file, source, shows, .. } = oddity;
        let message = parsed(oddity);
        match oddity.verdict {
            Answered(fault) => assert_eq!(message.check(), Err(fault), "{file}: {shows} ({source})"),
            Read(name, from_tag, to_tag, contacts) => {
                assert_eq!(message.check(), Ok(()), "{file}: {shows} ({source})");
                let (from, to) = (message.from(), message.to());
                let read = from.and_then(|from| from.name()).map(|name| name.into_owned());
                assert_eq!(read.as_deref(), name, "{file}: {shows} ({source})");
                let tags = (from.and_then(|from| from.tag()), to.and_then(|to| to.tag()));
                assert_eq!(tags, (from_tag, to_tag), "{file}: {shows} ({source})");
                let read = message.contacts();
                let targets: Vec<_> = read.iter().filter_map(|contact| contact.target()).collect();
                assert_eq!(targets, contacts, "{file}: {shows} ({source})");
            }
        }
    }
}

#[test]
fn each_oddity_is_passed_on_as_it_came() {
    for oddity in ODDITIES {
        let message = parsed(oddity);
        assert_eq!(message.to_bytes(), oddity.bytes, "{}", oddity.file);
        if message.check().is_ok() {
            let via = "SIP/2.0/TLS relay.test;branch=z9hG4bKnext";
            let forwarded = Message::parse(&message.edit().prepend(Name::Via, via).finish(), &Limits::default());
            let back = forwarded.expect("a message").edit().pop(Name::Via).finish();
            assert_eq!(back, oddity.bytes, "{}", oddity.file);
        }
    }
}

#[test]
fn each_request_that_is_refused_can_be_answered() {
    for oddity in ODDITIES {
        let request = parsed(oddity);
        let Answered(fault) = oddity.verdict else { continue };
        assert!(request.is_request(), "{}: nobody hears that a response is refused", oddity.file);
        let bytes = Composer::response(&request, fault.status(), &fault.to_string(), Some("answer")).finish();
        let answer = Message::parse(&bytes, &Limits::default()).expect("an answer");
        assert_eq!((answer.status(), answer.via()), (Some(400), request.via()), "{}", oddity.file);
    }
}

#[test]
fn each_oddity_says_where_it_was_met() {
    let mut trackers: Vec<_> = ODDITIES.iter().map(|it| it.source).filter(|it| it.contains("github.com")).collect();
    trackers.sort_unstable();
    trackers.dedup();
    assert!(trackers.len() >= 30 && ODDITIES.iter().all(|it| it.source.starts_with("https://")), "{}", trackers.len());
}
