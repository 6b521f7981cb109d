//! Properties of every message and every stream, tried on generated ones.
//!
//! Invariant: no input makes the message module panic, lose a byte, see another message than was sent, or let a value
//! become a line.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use sip::message::{
    Composer, Frame, FrameError, Framer, Limits, Message, Method, Name, NameAddr, Params, Party, Uri, Via,
};

const NAMES: &[Name] = &[Name::Via, Name::Route, Name::RecordRoute, Name::Contact, Name::Reason, Name::UserAgent];

/// Lines that are nearly right, and sometimes are not.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "Via: SIP/2.0/TLS a;branch=z9hG4bK1, SIP/2.0/UDP [::1]:5060",
        "v:SIP / 2.0 / UDP b : 5060 ;\r\n received=1",
        "From: \"A, \\\"B\" <sip:a@b>;tag=1",
        "t: <sip:c@d>",
        "Call-ID: x",
        "CSeq: 1 INVITE",
        "Contact: *",
        "m: <sip:a@b>;q=1, sip:c@d",
        "Max-Forwards: 070",
        "Route: <sip:a,b;lr>,, <sip:c>",
        "l: 3",
        "Content-Length: -1",
        "X: \"open",
        "To\u{b}: x",
        "X: y\nZ: w",
    ]);
    let odd = prop_oneof![
        vec(any::<u8>(), 0..24),
        "[A-Za-z:; <>\",\\\\=\r\n\t\u{0}-\u{b}@\\[\\]]{0,40}".prop_map(String::into_bytes),
        ("[A-Za-z-]{1,12}", "[ -~\u{e9}]{0,40}").prop_map(|(name, value)| format!("{name}: {value}").into_bytes()),
    ];
    prop_oneof![4 => known.prop_map(|line| line.as_bytes().to_vec()), 1 => odd]
}

/// Bytes with the shape of a message, sound or not.
fn message() -> impl Strategy<Value = Bytes> {
    let first = prop_oneof![
        8 => Just(b"INVITE sip:a@b SIP/2.0".to_vec()),
        2 => Just("SIP/2.0 200 \u{41e}\u{41a}".as_bytes().to_vec()),
        1 => "[A-Z ]{0,8}sip:[ -~]{0,20} ?SIP/[0-9.]{0,4} ?".prop_map(String::into_bytes),
    ];
    let broken = (first, vec(line(), 0..6), vec(any::<u8>(), 0..12)).prop_map(|(first, lines, body)| {
        let lines: Vec<_> = std::iter::once(first).chain(lines).collect();
        whole(&lines, &body)
    });
    prop_oneof![broken, sound()]
}

/// A message that passes its check: what it needs, in any order and form, and lines that do no harm.
fn sound() -> impl Strategy<Value = Bytes> {
    let one_of = |lines: &'static [&'static str]| prop::sample::select(lines);
    let needed = (
        one_of(&[
            "Via: SIP/2.0/TLS a;branch=z9hG4bK1, SIP/2.0/UDP [::1]:5060",
            "v:SIP / 2.0 / UDP b : 5060 ;\r\n received=1",
        ]),
        one_of(&["From: \"A, \\\"B\" <sip:a@b>;tag=1", "f : sip:a@b", "FROM:\r\n\tZo\u{eb} <tel:+1> ; x = \"y;z\""]),
        one_of(&["t: <sip:c@d>", "To: sip:c@d ;tag\r\n =2"]),
        one_of(&["Call-ID: x", "i:\"(<>)"]),
        one_of(&["CSeq: 1 INVITE", "cseq: 002147483647\r\n\tINVITE"]),
    );
    let more = one_of(&[
        "Via: , SIP/2.0/TCP c ,,SIP/2.0/WSS d;x=\"1,2\"",
        "m: <sip:a@b>;q=1, sip:c@d",
        "Contact: *",
        "Route: <sip:a,b;lr>,, <sip:c>",
        "Route:",
        "X: \"open, <",
        "s :",
        "Reason: Q.850;cause=16 ,\r\n x",
        "Evil: 0",
        "User-Agent: a",
        "Record-Route: <sip:e;lr>",
    ]);
    let odd = ("X-[a-z]{1,8}", vec(any::<u8>(), 0..20)).prop_map(|(name, value)| {
        let value = value.into_iter().filter(|b| !matches!(b, b'\r' | b'\n'));
        name.bytes().chain(*b": ").chain(value).collect::<Vec<u8>>()
    });
    let more = prop_oneof![3 => more.prop_map(|line| line.as_bytes().to_vec()), 1 => odd];
    let first = one_of(&["INVITE sip:a@b SIP/2.0", "SIP/2.0 486 ", "sip/2.0 200 \u{41e}\u{41a}"]);
    let lines = (needed, vec(more, 0..7)).prop_map(|((a, b, c, d, e), more)| {
        let needed = [a, b, c, d, e].map(|line| line.as_bytes().to_vec());
        needed.into_iter().chain(more).collect::<Vec<_>>()
    });
    let body = vec(any::<u8>(), 0..12);
    (first, lines.prop_shuffle(), body, 0..3usize).prop_map(|(first, lines, body, length)| {
        let mut all = vec![first.as_bytes().to_vec()];
        all.extend(lines);
        if length > 0 {
            all.insert(
                1 + all.len() / 2,
                format!("{}: {}", ["l", "Content-Length"][length - 1], body.len()).into_bytes(),
            );
        }
        whole(&all, &body)
    })
}

fn whole(lines: &[Vec<u8>], body: &[u8]) -> Bytes {
    let mut out = lines.join(&b"\r\n"[..]);
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
    out.into()
}

/// A head whose length is hard to tell, and a body.
fn doubtful() -> impl Strategy<Value = Vec<u8>> {
    let part = prop::sample::select(vec![
        "l: 4",
        "l: 5",
        "Content-Length: 4",
        "CONTENT-LENGTH : 04",
        "l:",
        "l: 4 4",
        "l",
        "Content-Length ",
        ": 4",
        " : 5",
        "4",
        "X: y",
        "X",
        "",
        "c: 4",
        "To\r: x",
        "l: \r4",
    ]);
    let between = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r\n ", "\n\t", "\r", "\n\r\n", "\n\n"]);
    vec((part, between), 1..7).prop_map(|parts| {
        let lines: String = parts.into_iter().flat_map(|(part, between)| [part, between]).collect();
        format!("INVITE sip:a@b SIP/2.0\r\n{lines}X: y\r\n\r\n{}", "b".repeat(60)).into_bytes()
    })
}

/// Where the first message of a stream ends, which comes in pieces of so many bytes; an error where that is in doubt.
fn end_of_first(bytes: &[u8], limits: Limits, piece: usize) -> Result<usize, FrameError> {
    let (mut framer, mut taken, mut told) = (Framer::new(limits), 0, false);
    for piece in bytes.chunks(piece) {
        framer.push(piece);
        taken += piece.len();
        while let Some(frame) = framer.next_frame()? {
            match frame {
                Frame::Message(message) => return Ok(message.len()),
                frame => told |= matches!(frame, Frame::TooLong(_)),
            }
        }
        if told && !framer.is_partial() {
            return Ok(taken);
        }
    }
    panic!("more than came: {}", String::from_utf8_lossy(bytes));
}

/// Text that tries to become more than a value.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~\r\n\t\u{0}\u{b}\u{85}\u{2028}]{0,40}",
        Just("x\r\nEvil: 1\r\nContent-Length: 99\r\n\r\nINVITE sip:evil SIP/2.0\r\n\r\n".to_owned()),
        Just("x\nEvil: 1\rEvil: 2\r\n Evil: 3".to_owned()),
    ]
}

fn every_view(message: &Message) {
    let _ = (message.check(), message.via(), message.from(), message.to(), message.contacts(), message.cseq());
    let _ =
        (message.call_id(), message.max_forwards(), message.route(1), message.reason(), message.number(Name::Expires));
    let _ = message.from().map(|from| (from.name(), from.tag().map(str::len)));
    let _ = message.elements(Name::Via).filter_map(Via::parse).count();
    let _ = Composer::response(message, 400, "Bad Request", Some("t")).finish();
}

fn cut(stream: &[u8], sizes: &[usize]) -> (Vec<Frame>, Option<FrameError>) {
    let mut framer = Framer::new(Limits::default());
    let (mut frames, mut at, mut turn) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let size = sizes[turn % sizes.len()].min(stream.len() - at);
        framer.push(&stream[at..at + size]);
        (at, turn) = (at + size, turn + 1);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #[test]
    fn a_head_that_is_passed_over_ends_where_it_would_if_it_were_kept(bytes in doubtful()) {
        let short = Limits { message_bytes: 24, ..Limits::default() };
        // Which of two doubts is met first depends on how much of the head is known.
        let kept = end_of_first(&bytes, Limits::default(), bytes.len()).map_err(drop);
        prop_assert_eq!(end_of_first(&bytes, short, 1).map_err(drop), kept);
    }

    #[test]
    fn no_bytes_make_parsing_panic(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(message) = Message::parse(&bytes.into(), &Limits::default()) {
            every_view(&message);
        }
    }

    #[test]
    fn no_text_makes_a_view_panic(text in "[a-zSIP/2.0:;,@<>\"\\\\=% \r\n\t\u{0}\\[\\]\u{e9}]{0,60}") {
        let _ = (Uri::parse(&text), Via::parse(&text), Params::parse(&text));
        let _ = (NameAddr::parse(&text), Party::read(text.as_bytes()).name());
        let _ = sip::message::unquote(&text);
    }

    #[test]
    fn what_parses_is_written_as_it_came(bytes in message()) {
        let Ok(message) = Message::parse(&bytes, &Limits::default()) else { return Ok(()) };
        every_view(&message);
        prop_assert!(bytes.starts_with(&message.to_bytes()));
        if message.check().is_ok() {
            let copy = message.edit().finish();
            if message.has(Name::ContentLength) {
                prop_assert_eq!(&copy, &message.to_bytes());
            }
            let again = Message::parse(&copy, &Limits::default()).unwrap();
            prop_assert_eq!((again.check(), again.body()), (Ok(()), message.body()));
        }
    }

    #[test]
    fn a_popped_header_loses_its_top_and_nothing_else(bytes in sound(), times in 0usize..6) {
        let message = Message::parse(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(message.check(), Ok(()));
        let popped = (0..times).fold(message.edit(), |edit, _| edit.pop(Name::Via)).finish();
        let popped = Message::parse(&popped, &Limits::default()).unwrap();
        let strings = |message: &Message| message.elements(Name::Via).map(flat).collect::<Vec<_>>();
        let before = strings(&message);
        prop_assert_eq!(&strings(&popped)[..], &before[times.min(before.len())..]);
        prop_assert!(popped.values(Name::Route).eq(message.values(Name::Route)));
    }

    #[test]
    fn an_edit_lets_no_value_become_a_line(bytes in sound(), values in vec(value(), 4), name in 0..NAMES.len()) {
        let message = Message::parse(&bytes, &Limits::default()).unwrap();
        let name = NAMES[name];
        let edit = message.edit().prepend(name, &*values[1]).append(name, &*values[2]).set(Name::Server, &*values[3]);
        let edit = edit.request_uri(&*values[0]);
        let out = edit.finish();
        let big = Limits { vias: 1000, ..Limits::default() };
        let Ok(edited) = Message::parse(&out, &big) else {
            prop_assert!(message.is_request(), "only an empty Request-URI makes it none");
            return Ok(());
        };
        prop_assert_eq!(edited.values_written("Evil").count(), message.values_written("Evil").count());
        prop_assert_eq!(edited.body(), message.body());
        prop_assert_eq!(edited.values(name).count(), message.values(name).count() + 2);
        prop_assert!(frame_count(&out) == Some(1));
    }

    #[test]
    fn composed_messages_are_sound_whatever_their_values(values in vec(value(), 5), body in vec(any::<u8>(), 0..40)) {
        let bytes = Composer::request(Method::Register, &format!("sip:{}@example.com", "a"))
            .header(Name::Via, "SIP/2.0/TLS a;branch=z9hG4bK1")
            .header(Name::From, "<sip:a@b>;tag=1").header(Name::To, "<sip:a@b>")
            .header(Name::CallId, "x").header(Name::CSeq, "1 REGISTER")
            .header(Name::UserAgent, &values[0]).maybe(Name::Reason, Some(&values[1])).extension("X-Own", &values[2])
            .body(&values[3], &body);
        let message = Message::parse(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(message.check(), Ok(()));
        prop_assert_eq!((message.body().as_ref(), message.values_written("Evil").count()), (&body[..], 0));
        prop_assert_eq!(frame_count(&bytes), Some(1));
        let answer = Composer::response(&message, 400, &values[4], Some(&values[0])).header(Name::Warning, &values[1]).finish();
        let answer = Message::parse(&answer, &Limits::default()).unwrap();
        prop_assert_eq!((answer.status(), answer.values_written("Evil").count()), (Some(400), 0));
    }

    #[test]
    fn a_hostile_request_uri_is_one_or_is_refused(uri in value()) {
        let bytes = Composer::request(Method::Options, &uri).finish();
        if let Ok(message) = Message::parse(&bytes, &Limits::default()) {
            prop_assert_eq!(message.values_written("Evil").count(), 0);
            prop_assert!(message.request_uri().is_none_or(|uri| !uri.contains(char::is_whitespace) || !uri.is_ascii()));
        }
    }

    #[test]
    fn how_a_stream_is_cut_never_changes_its_messages(
        parts in vec(prop_oneof![
            5 => message().prop_map(|message| with_length(&message)),
            1 => Just(Bytes::from_static(b"\r\n\r\n")),
            1 => vec(any::<u8>(), 0..8).prop_map(Bytes::from),
        ], 0..5),
        sizes in vec(1usize..40, 1..6),
    ) {
        let stream = parts.concat();
        let messages = |(frames, error): (Vec<Frame>, Option<FrameError>)| {
            let frames: Vec<_> = frames.into_iter().filter(|frame| matches!(frame, Frame::Message(_))).collect();
            (frames, error)
        };
        let whole = messages(cut(&stream, &[usize::MAX]));
        prop_assert_eq!(&messages(cut(&stream, &[1])), &whole);
        prop_assert_eq!(&messages(cut(&stream, &sizes)), &whole);
    }
}

/// The text with each run of white space as one space, as a line that was joined has it.
fn flat(text: &str) -> String {
    text.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn frame_count(bytes: &[u8]) -> Option<usize> {
    let (frames, error) = cut(bytes, &[usize::MAX]);
    error.is_none().then_some(frames.len())
}

/// The message with a `Content-Length` for all that follows its head, if it can be read at all.
fn with_length(bytes: &Bytes) -> Bytes {
    Message::parse(bytes, &Limits::default()).map_or_else(|_| bytes.clone(), |message| message.edit().finish())
}
