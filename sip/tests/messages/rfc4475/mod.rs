//! The 49 messages of RFC 4475, byte for byte, each with its verdict.
//!
//! Invariant: a message that the RFC calls valid parses, passes its check and is written again as it came. One that it
//! calls invalid gets the answer that the RFC's commentary names; where the commentary leaves a choice, the row says
//! which one was made.

use bytes::Bytes;
use sip::message::{Composer, Fault, Frame, Framer, Limits, Malformed, Message, Name};

/// The outcome of a message at this layer.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The message parses and passes its check.
    Sound,
    /// A request is answered with this status, a response is dropped.
    Faulty(Fault, u16),
    /// The message gets no answer.
    Dropped(Malformed),
}
use Verdict::{Dropped, Faulty, Sound};

macro_rules! rows {
    ($($file:ident $verdict:expr, $why:literal;)*) => {
        const ROWS: &[(&str, &[u8], Verdict, &str)] = &[
            $((stringify!($file), include_bytes!(concat!(stringify!($file), ".dat")), $verdict, $why),)*
        ];
    };
}

rows! {
    // 3.1.1 valid messages
    wsinv Sound, "a short tortuous INVITE";
    intmeth Sound, "a wide range of valid characters";
    esc01 Sound, "valid use of the % escaping";
    escnull Sound, "escaped nulls in URIs";
    esc02 Sound, "use of % when it is not an escape";
    lwsdisp Sound, "no white space between display name and <";
    longreq Sound, "valid, with 34 Vias";
    dblreq Sound, "extra octets behind a datagram's request are ignored";
    semiuri Sound, "semicolon-separated parameters in the user part";
    transports Sound, "varied and unknown transports";
    mpart01 Sound, "a multipart body with nulls";
    unreason Sound, "an unusual reason phrase";
    noreason Sound, "an empty reason phrase";
    // 3.1.2 invalid messages
    badinv01 Faulty(Fault::Broken(Name::Via), 400), "extraneous separators";
    clerr Faulty(Fault::Broken(Name::ContentLength), 400), "Content-Length larger than the datagram";
    ncl Faulty(Fault::Broken(Name::ContentLength), 400), "a negative Content-Length";
    scalar02 Faulty(Fault::Broken(Name::CSeq), 400), "scalars beyond their range in a request";
    scalarlg Faulty(Fault::Broken(Name::CSeq), 400), "scalars beyond their range in a response: it is dropped";
    quotbal Sound, "an unterminated quoted string in To, which the relay only passes on";
    ltgtruri Faulty(Fault::RequestUri, 400), "<> around the Request-URI";
    lwsruri Faulty(Fault::RequestUri, 400), "white space within the Request-URI";
    lwsstart Faulty(Fault::StartLine, 400), "more than one space between the parts of the request line: rejected";
    trws Faulty(Fault::StartLine, 400), "spaces behind the request line: rejected";
    escruri Faulty(Fault::RequestUri, 400), "escaped headers in the Request-URI: rejected";
    baddate Sound, "an invalid time zone in Date: ignored, as nothing here depends on Date";
    regbadct Sound, "a Contact with headers outside angle brackets: what is registered is its registrar's to judge";
    badaspec Sound, "spaces within addr-spec in To, which the relay only passes on";
    baddn Sound, "unquoted characters that are no token in display names: taken, as phones send them";
    badvers Faulty(Fault::Version, 505), "an unknown version";
    mismatch01 Faulty(Fault::CSeqMethod, 400), "method and CSeq differ";
    mismatch02 Faulty(Fault::CSeqMethod, 400), "an unknown method and CSeq differ: 400 rather than 501";
    bigcode Dropped(Malformed::StartLine), "a status code beyond its range";
    // 3.2 transaction layer
    badbranch Faulty(Fault::Broken(Name::Via), 400), "a branch with the cookie alone: rejected";
    // 3.3 application layer
    insuf Faulty(Fault::Missing(Name::From), 400), "Call-ID, From, To and Max-Forwards are missing";
    unkscm Sound, "an unknown scheme in the Request-URI: 416 comes from above";
    novelsc Sound, "a known scheme of another application in the Request-URI: 416 comes from above";
    unksm2 Sound, "unknown schemes in To, From and Contact";
    bext01 Sound, "unknown option tags: 420 comes from above";
    invut Sound, "an unknown media type: 415 comes from above";
    regaut01 Sound, "an unknown authorization scheme";
    multi01 Faulty(Fault::Repeated(Name::CallId), 400), "repeated headers that may stand only once";
    mcl01 Faulty(Fault::Repeated(Name::ContentLength), 400), "conflicting Content-Length";
    bcast Sound, "a response with a broadcast Via: dropped above, it has two Vias";
    zeromf Sound, "Max-Forwards zero: 483 or an answer comes from above";
    cparam01 Sound, "a parameter that belongs to Contact";
    cparam02 Sound, "a parameter that belongs to Contact's URI";
    regescrt Sound, "escaped headers in a Contact's URI";
    sdp01 Sound, "an Accept that nobody can meet: 406 comes from above";
    // 3.4 backward compatibility
    inv2543 Sound, "an INVITE of RFC 2543";
}

fn fixture(name: &str) -> Bytes {
    let row = ROWS.iter().find(|(file, ..)| *file == name).unwrap_or_else(|| panic!("no fixture {name}"));
    Bytes::from_static(row.1)
}

fn parsed(name: &str) -> Message {
    Message::parse(&fixture(name), &Limits::default()).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

fn judge(bytes: &Bytes, limits: &Limits) -> Verdict {
    match Message::parse(bytes, limits) {
        Err(malformed) => Dropped(malformed),
        Ok(message) => match message.check() {
            Ok(()) => Sound,
            Err(fault) => Faulty(fault, fault.status()),
        },
    }
}

#[test]
fn all_49_messages_get_their_verdict() {
    assert_eq!(ROWS.len(), 49);
    let wrong: Vec<_> = ROWS
        .iter()
        .filter_map(|(file, bytes, verdict, why)| {
            let judged = judge(&Bytes::from_static(bytes), &Limits::default());
            (judged != *verdict).then(|| format!("{file}: {judged:?} and not {verdict:?}: {why}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_that_parse_are_written_as_they_came() {
    for (file, bytes, verdict, _) in ROWS {
        if matches!(verdict, Dropped(Malformed::StartLine)) {
            continue;
        }
        let message = parsed(file);
        let whole = message.to_bytes();
        assert!(bytes.starts_with(&whole), "{file}");
        let expected = match *file {
            // The body ends where Content-Length says, or is left out where that is in doubt.
            "dblreq" | "clerr" | "ncl" | "mcl01" | "multi01" => message.head().len(),
            _ => bytes.len(),
        };
        assert_eq!(whole.len(), expected, "{file}");
        if message.check().is_ok() && message.has(Name::ContentLength) {
            assert_eq!(message.edit().finish(), whole, "{file}");
        }
    }
}

#[test]
fn every_faulty_request_can_be_answered() {
    for (file, _, verdict, _) in ROWS {
        let Faulty(fault, status) = verdict else {
            continue;
        };
        let request = parsed(file);
        if !request.is_request() {
            continue;
        }
        let bytes = Composer::response(&request, *status, &fault.to_string(), Some("answer")).finish();
        let answer = Message::parse(&bytes, &Limits::default()).unwrap_or_else(|error| panic!("{file}: {error:?}"));
        assert_eq!(answer.status(), Some(*status), "{file}");
        let vias = |message: &Message| message.values(Name::Via).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(vias(&answer), vias(&request), "{file}");
    }
}

#[test]
fn the_longest_valid_request_is_read_in_full_and_its_limit_is_one_of_vias() {
    let limits = Limits { vias: 33, ..Limits::default() };
    assert_eq!(judge(&fixture("longreq"), &limits), Dropped(Malformed::TooManyVias));
    assert_eq!(parsed("longreq").elements(Name::Via).count(), 34);
    assert_eq!(parsed("longreq").via().unwrap().host, "sip33.example.com");
}

#[test]
fn the_tortuous_invite_is_read_in_full() {
    let message = parsed("wsinv");
    assert_eq!(message.max_forwards(), Some(68));
    assert_eq!(message.cseq(), Some((9, "INVITE")));
    assert_eq!(message.to().unwrap().tag(), Some("1918181833n"));
    let from = message.from().unwrap();
    assert_eq!((from.tag(), from.name().as_deref()), (Some("98asjd8"), Some("J Rosenberg \\\"")));
    let vias: Vec<_> = message.elements(Name::Via).map(|via| sip::message::Via::parse(via).unwrap()).collect();
    let seen: Vec<_> = vias.iter().map(|via| (via.transport, via.host, via.branch())).collect();
    assert_eq!(
        seen,
        [
            ("UDP", "192.0.2.2", Some("390skdjuw")),
            ("TCP", "spindle.example.com", Some("z9hG4bK9ikj8")),
            ("UDP", "192.168.255.111", Some("z9hG4bK30239")),
        ]
    );
    let contact = &message.contacts()[0];
    assert_eq!(contact.name().as_deref(), Some("Quoted string \"\""));
    assert_eq!(contact.params.value("newparam"), Some("newvalue"));
    assert_eq!(contact.params.get("secondparam"), Some(None));
    assert_eq!(contact.params.value("q"), Some("0.33"));
    let route = message.route(0).unwrap();
    assert_eq!((route.uri.host, route.uri.params.get("lr")), ("services.example.com", Some(None)));
    assert_eq!(message.values_written("UnknownHeaderWithUnusualValue").next(), Some(&b";;,,;;,;"[..]));
    assert_eq!(message.values_written("S").next(), Some(&b""[..]));
    assert_eq!(message.body().len(), 150);
}

#[test]
fn unusual_characters_keep_their_place() {
    let message = parsed("intmeth");
    assert_eq!(message.method_text(), Some("!interesting-Method0123456789_*+`.%indeed'~"));
    let uri = sip::message::Uri::parse(message.request_uri().unwrap()).unwrap();
    assert_eq!(uri.user, Some("1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"));
    assert_eq!(uri.host, "example.com");
    assert_eq!(message.call_id(), Some("intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{"));
    assert_eq!(message.from().unwrap().tag(), Some("_token~1'+`*%!-."));
    assert_eq!(message.to().unwrap().name().as_deref(), Some("BEL:  NUL:  DEL:"), "no control character gets out");
    let semi = parsed("semiuri");
    assert_eq!(sip::message::Uri::parse(semi.request_uri().unwrap()).unwrap().user, Some("user;par=u%40example.net"));
    let escaped = parsed("esc02");
    assert_eq!(escaped.method_text(), Some("RE%47IST%45R"), "no escape outside a URI");
    assert_eq!(escaped.contacts().len(), 2, "C%6Fntact is no Contact");
}

#[test]
fn a_contact_parameter_belongs_to_the_header_without_angle_brackets_and_to_the_uri_within() {
    let bare = parsed("cparam01");
    let bare = &bare.contacts()[0];
    assert_eq!((bare.params.get("unknownparam"), bare.uri().unwrap().params.get("unknownparam")), (Some(None), None));
    let angled = parsed("cparam02");
    let angled = &angled.contacts()[0];
    assert_eq!(
        (angled.params.get("unknownparam"), angled.uri().unwrap().params.get("unknownparam")),
        (None, Some(None))
    );
}

#[test]
fn on_a_stream_each_sound_message_is_one_frame() {
    for (file, bytes, verdict, _) in ROWS {
        let mut framer = Framer::new(Limits::default());
        framer.push(bytes);
        let frame = framer.next_frame();
        match *file {
            "ncl" | "mcl01" | "inv2543" => assert!(frame.is_err(), "{file}: the length is in doubt"),
            "clerr" | "multi01" => assert_eq!(frame, Ok(None), "{file}: the rest is waited for"),
            "dblreq" => {
                assert_eq!(frame.unwrap().map(|f| matches!(f, Frame::Message(m) if m.len() < bytes.len())), Some(true));
            }
            _ => assert_eq!(frame, Ok(Some(Frame::Message(fixture(file)))), "{file}: {verdict:?}"),
        }
    }
}
