//! The end of a message on a stream of a server that sees bare LFs, as Kamailio and OpenSIPS do.
//!
//! Invariant: the server's own reading is the only judge of that: it has ended the head, and has written or corrected the first length in it. What
//! others read otherwise decides only whether the message is taken or passed over.

use memchr::{memchr2_iter, memmem};

use super::head_reader::{Breaks, HeadReader};
use super::length::{self, InDoubt};
use super::long_head::{end_by_silence, first_of};

/// The reading of the message that has begun.
#[derive(Debug)]
pub(super) struct ByLf {
    reader: HeadReader,
    /// The length of its body, once its head is over.
    body: Option<usize>,
}

impl Default for ByLf {
    fn default() -> Self {
        Self { reader: HeadReader::new(Breaks::Kamailio), body: None }
    }
}

impl ByLf {
    /// Reads on in `buffer`, which begins with the message. A message that is measured is forgotten here.
    ///
    /// # Errors
    /// [`InDoubt::Length`]: no server of that kind wrote it.
    pub(super) fn measure(&mut self, buffer: &[u8], limit: usize) -> Result<Measured, InDoubt> {
        let measured = self.read(buffer, limit)?;
        if !matches!(measured, Measured::Partial) {
            *self = Self::default();
        }
        Ok(measured)
    }

    fn read(&mut self, buffer: &[u8], limit: usize) -> Result<Measured, InDoubt> {
        let body = match self.body {
            Some(body) => body,
            None if self.reader.read(&buffer[self.reader.bytes()..]) => {
                if self.reader.bytes() > limit {
                    return Ok(Measured::TooLong(limit));
                }
                *self.body.insert(first_of(&self.reader)?)
            }
            None if buffer.len() < limit => return Ok(Measured::Partial),
            None => return Ok(Measured::TooLong(limit)),
        };
        let head = self.reader.bytes();
        let whole = head.saturating_add(body);
        let here = &buffer[..whole.min(buffer.len())];
        // An empty line of CRLF that some take for the end may be in the body.
        let end = match buffer[..head].ends_with(b"\r\n\r\n") {
            true => memmem::find(&buffer[..head], b"\r\n\r\n"),
            false if whole <= limit && here.len() < whole => return Ok(Measured::Partial),
            false => memmem::find(here, b"\r\n\r\n"),
        };
        let end = end.map(|at| at + 4);
        let is_response = here.get(..4).is_some_and(|begins| begins.eq_ignore_ascii_case(b"SIP/"));
        Ok(match end {
            // A request's sender can be told, by the lines that the server sees: others might miss one that an answer needs.
            Some(end) if !is_response && is_torn(&here[..end]) => Measured::BareLf(head, body),
            Some(end) if length::of_head(&here[..end]).is_ok_and(|body| end + body == whole) => {
                Measured::Whole(end, whole - end)
            }
            _ => Measured::BareLf(head, body),
        })
    }

    /// See [`super::Framer::end_by_silence`].
    pub(super) fn end_by_silence(&mut self) -> bool {
        end_by_silence(&mut self.reader)
    }
}

/// The measured lengths of a message that has begun.
pub(super) enum Measured {
    /// The lengths of a head that other readers would end elsewhere, or its message, and of its body.
    BareLf(usize, usize),
    /// The head is incomplete.
    Partial,
    /// The lengths of the head and of the body.
    Whole(usize, usize),
    /// The head is longer than so many bytes.
    TooLong(usize),
}

/// Whether some would break the head at a CR or a LF that stands alone.
fn is_torn(head: &[u8]) -> bool {
    memchr2_iter(b'\r', b'\n', head).any(|at| match head[at] {
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || head[at - 1] != b'\r',
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use crate::message::{Frame, FrameError, Framer, Limits, Malformed, Message};

    const INVITE: &[u8] = b"INVITE sip:a@b SIP/2.0\r\nContent-Length: 4\r\n\r\nbody";
    const FIRST: &str = "INVITE sip:a@b SIP/2.0\r\n";
    const FILLING: &str = "X-Filling: yyyyyyyy\r\n";

    fn framer() -> Framer {
        let mut framer = Framer::new(Limits::default());
        framer.sees_bare_lf();
        framer
    }

    /// The frames of a stream that comes in pieces of these sizes, one after the other.
    fn cut(stream: &[u8], sizes: &[usize]) -> Result<Vec<Frame>, (Vec<Frame>, FrameError)> {
        let (mut framer, mut all, mut rest) = (framer(), Vec::new(), stream);
        for size in sizes.iter().cycle() {
            let (piece, behind) = rest.split_at((*size).min(rest.len()));
            framer.push(piece);
            loop {
                match framer.next_frame() {
                    Ok(Some(frame)) => all.push(frame),
                    Ok(None) => break,
                    Err(error) => return Err((all, error)),
                }
            }
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        Ok(all)
    }

    /// The frame of `came`, behind which two messages are found.
    fn first_of(came: &str) -> Frame {
        let stream = [came.as_bytes(), INVITE, INVITE].concat();
        let invite = Frame::Message(Bytes::from_static(INVITE));
        let mut first = None;
        for chunk in [1, 3, stream.len()] {
            let mut all = cut(&stream, &[chunk]).unwrap_or_else(|error| panic!("{came:?}: {error:?}"));
            all.retain(|frame| !matches!(frame, Frame::Ping | Frame::Pong));
            let found = all.remove(0);
            assert_eq!(all, [invite.clone(), invite.clone()], "{came:?} in pieces of {chunk}");
            assert_eq!(first.get_or_insert(found.clone()), &found, "{came:?} in pieces of {chunk}");
        }
        first.expect("a frame")
    }

    #[test]
    fn the_servers_own_end_counts_and_what_others_read_otherwise_is_passed_over() {
        for (lines, body, is_message) in [
            ("l: 11\r\nX: b\n\n", "hello world", false),
            ("l: 25\r\nX: b\n\n", "foo\r\nl: 3\r\n\r\nhello world!", false),
            ("l: 12\r\nX: b\n\n", "foo\r\n\r\nhello", false),
            ("l: 4\r\nX: b\n\n", "\r\n\r\n", false),
            ("l: 5\r\n\n", "hello", false),
            ("l: 5\n\r\n", "hello", false),
            ("l: 0\n\n", "", false),
            ("l: 5\r\n\r", "hello", false),
            ("l: 0\r\n\r", "", false),
            ("l: 5\r\nl: 7\r\n\r\n", "hello", false),
            ("l: 5\r\nl: x\r\n\r\n", "hello", false),
            ("X: y\nl: 5\r\nl: 4\r\n\r\n", "hello", false),
            ("l: 4\nl: x\n\n", "body", false),
            ("l: 2\n\r", "\r\n", false),
            ("l: 18\r\nX: b\n\n", "foo\r\nl: 5\r\n\r\nhello", false),
            ("X: b\nl: 3\r\nl: 3\r\n\r\n", "hey", false),
            ("X: b\nl: 4\r\n\r\n", "body", false),
            ("l: 4\r\n\r\n", "b\n\nd", true),
            // A CR alone ends To and Via, and nothing else.
            ("X: a\rl: 0\r\nTo: <sip:b@h>\rl: 29\r\nl: 0\r\n\r\n", "INVITE x SIP/2.0\r\nl: 9000\r\n\r\n", false),
            ("X: a\rl: 9\r\nTo: <sip:b@h>\rl: 5\r\nl: 9\r\n\r\n", "hello", false),
            ("v: SIP/2.0/UDP h\rl: 5\r\nl: 9\r\n\r\n", "hello", false),
            ("VIA : SIP/2.0/UDP h\r\tl: 9\r\nl: 5\r\n\r\n", "hello", false),
            ("To: <sip:b@h>\r l: 9\r\nl: 5\r\n\r\n", "hello", false),
            ("From: x\rl: 9\r\nl: 0\r\n\r\n", "", false),
            ("User-Agent: x\rl: 9\r\nl: 5\r\n\r\n", "hello", false),
            ("X: a\rb\r\nl: 5\r\n\r\n", "hello", false),
            ("X: a\r\rb\r\nl: 5\r\n\r\n", "hello", false),
            ("l: 5\r\nTo: <sip:b@h>\r\r\n", "hello", false),
            ("l: 5\r\nTo: <sip:b@h>\r\r", "hello", false),
            ("l: 5\r\nv: SIP/2.0/UDP h\r\r\n", "hello", false),
            ("l: 5\r\nTo: <sip:b@h>\r\n\r", "hello", false),
            // An escaped break in a quoted name of To is text.
            ("To: \"a\\\nl: 9\" <sip:b@h>\r\nl: 5\r\n\r\n", "hello", false),
            ("To:\r\n \"a\\\rl: 9\" <sip:b@h>\r\nl: 5\r\n\r\n", "hello", false),
            ("t: a \"a\\\nl: 5\r\nl: 9\r\n\r\n", "hello", false),
            ("To: <sip:b@h>\r\nX: \"a\\\nl: 5\r\nl: 9\r\n\r\n", "hello", false),
            // A name goes on to its colon, and a value in its foldings.
            ("odd\r\nl: 9\r\nl: 5\r\n\r\n", "hello", false),
            ("X: y\r\n l: 9\r\nl: 5\r\n\r\n", "hello", true),
            ("X: y\n\tl: 9\r\nl: 5\r\n\r\n", "hello", false),
            ("Content_Length: 9\r\nl: 5\r\n\r\n", "hello", true),
            // The first line ends with its LF.
            ("\rVia: x\r\nl: 5\r\n\r\n", "hello", false),
            ("\rl: 5\r\nl: 9\r\n\r\n", "hello", false),
            ("l: 5\r\n\r\n", "\r\n\r\n\n", true),
        ] {
            let came = format!("{FIRST}{lines}{body}");
            match first_of(&came) {
                Frame::Message(bytes) => assert!(is_message && bytes == came, "{came:?}"),
                Frame::BareLf(lines) => {
                    assert!(!is_message && lines.starts_with(FIRST.as_bytes()), "{came:?}");
                    assert!(
                        lines.ends_with(b"\r\n\r\n") && !lines[..lines.len() - 3].windows(3).any(|it| it == b"\n\r\n")
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        for first in ["INVITE sip:a@b SIP/2.0\rl: 9\r\n", "SIP/2.0 200 \rl: 9\r\n", "l: sip:a@b SIP/2.0\n"] {
            assert!(matches!(first_of(&format!("{first}l: 5\r\n\r\nhello")), Frame::BareLf(_) | Frame::Message(_)));
        }
    }

    #[test]
    fn what_is_passed_over_has_the_lines_that_the_server_sees() {
        let identity = "From: x\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\nl: 0\r\n\r\n";
        for (lines, to) in [
            ("Subject: a\n l: 9\nTo: <sip:b@h>\r\n", "To: <sip:b@h>;tag="),
            ("v: SIP/2.0/UDP h\rTo: <sip:b@h>\r\n", "To: <sip:b@h>;tag="),
            ("\rTo: <sip:b@h>\r\n", "To: <sip:b@h>;tag="),
            ("To: \"a\\\nl: 9\" <sip:b@h>\r\n", "To: \"a\\ l: 9\" <sip:b@h>;tag="),
        ] {
            let came = format!("{FIRST}{lines}Via: SIP/2.0/TLS h;branch=z9hG4bKa\r\n{identity}");
            let Frame::BareLf(head) = first_of(&came) else { panic!("{came:?}") };
            let peer = ([192, 0, 2, 1], 5060).into();
            let answer = Message::refusal(&head, Malformed::BareLf, &Limits::default(), peer).expect("an answer");
            assert!(String::from_utf8_lossy(&answer).contains(to), "{answer:?}");
        }
        let response = "SIP/2.0 200 OK\r\nSubject: a\nb: c\r\nl: 5\r\n\r\nhello";
        assert_eq!(first_of(response), Frame::Message(response.into()), "it is mended");
    }

    #[test]
    fn a_length_that_no_such_server_writes_ends_the_stream() {
        for lines in ["X: y\n\n", "l: x\n\n", "l: x\r\nl: 4\r\n\r\n", "X: y\r\n l: 4\r\n\r\n"] {
            let error = cut(format!("{FIRST}{lines}body").as_bytes(), &[7]).expect_err(lines).1;
            assert_eq!(error, FrameError::ContentLength, "{lines:?}");
        }
    }

    #[test]
    fn a_head_beyond_the_limit_ends_where_a_short_one_does() {
        let blanks = " ".repeat(5_000);
        for long in [
            "l: 5\r\n\n",
            "l: 5\r\nl: 7\r\n\r\n",
            "l: 5\n\r\n",
            "l: 5\r\n\r",
            "X: a\rl: 9\r\nl: 5\r\n\r\n",
            "To: <sip:b@h>\rl: 5\r\nl: 9\r\n\r\n",
            "l: 5\r\nTo: <sip:b@h>\r\r\n",
            "To: \"a\\\nl: 9\" <sip:b@h>\r\nl: 5\r\n\r\n",
            &format!("l: 5{blanks}\r\n\r\n"),
            &format!("l: {}5\r\n\r\n", blanks.replace(' ', "0")),
        ] {
            let came = format!("{FIRST}{}{long}hello", FILLING.repeat(5_000));
            let stream = [came.as_bytes(), INVITE].concat();
            for chunk in [1, 1_000, stream.len()] {
                let mut all = cut(&stream, &[chunk]).unwrap_or_else(|error| panic!("{long:?}: {error:?}"));
                assert!(matches!(all.remove(0), Frame::TooLong(_)), "{long:?}");
                assert_eq!(all, [Frame::Message(Bytes::from_static(INVITE))], "{long:?} in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn a_cr_that_may_be_the_empty_line_is_one_when_nothing_follows() {
        for filling in ["", &FILLING.repeat(5_000)] {
            for (lines, is_over) in
                [("l: 0\r\n\r", true), ("l: 0\r\nTo: x\r\r", true), ("l: 5\r\n\r", false), ("l: 0\r\n", false)]
            {
                let mut framer = framer();
                framer.push(format!("{FIRST}{filling}{lines}").as_bytes());
                while let Some(frame) = framer.next_frame().unwrap() {
                    assert!(matches!(frame, Frame::TooLong(_)), "{frame:?}");
                }
                assert_eq!(framer.end_by_silence(), is_over, "{lines:?}");
                if is_over {
                    let ended = framer.next_frame().unwrap();
                    assert_eq!(matches!(ended, Some(Frame::BareLf(_))), filling.is_empty(), "{ended:?}");
                    assert!(!framer.is_partial() && !framer.end_by_silence());
                    framer.push(b"\n");
                    framer.push(INVITE);
                    assert_eq!(framer.next_frame(), Ok(Some(Frame::Message(Bytes::from_static(INVITE)))));
                }
            }
        }
    }

    /// Where the parsers of Kamailio and OpenSIPS end a head, and the first length in it, each line looked at whole.
    fn by_lines(bytes: &[u8]) -> Option<(usize, Option<usize>)> {
        let mut at = end_of_field(bytes, 0, LineEnd::Lf)?;
        at += usize::from(bytes.get(at) == Some(&b'\r'));
        let mut length = None;
        loop {
            match bytes.get(at..)? {
                [b'\n', ..] => return Some((at + 1, length)),
                [b'\r', b'\n', ..] => return Some((at + 2, length)),
                [b'\r', _, ..] => return Some((at + 1, length)),
                [] | [b'\r'] => return None,
                _ => {}
            }
            let (name, value) = match end_of_name(bytes, at)? {
                NameEnd::Colon(colon) => (field_name(&bytes[at..colon]), colon + 1),
                NameEnd::EmptyLine(line) => {
                    at = line;
                    continue;
                }
            };
            at = match &name[..] {
                b"t" | b"to" => end_of_field(bytes, behind_quoted_name(bytes, value)?, LineEnd::CrOrLf)?,
                b"v" | b"via" => end_of_field(bytes, value, LineEnd::CrOrLf)?,
                _ => end_of_field(bytes, value, LineEnd::Lf)?,
            };
            if matches!(&name[..], b"l" | b"content-length") && length.is_none() {
                length = Some(digits(&bytes[value..at])?);
            }
        }
    }

    /// What ends a line in a header field.
    #[derive(Clone, Copy)]
    enum LineEnd {
        Lf,
        CrOrLf,
    }

    /// The end of the header field that reaches on from `at`, with the lines that are folded into it.
    fn end_of_field(bytes: &[u8], mut at: usize, line_end: LineEnd) -> Option<usize> {
        loop {
            at = (at..bytes.len()).find_map(|at| match (&bytes[at..], line_end) {
                ([b'\r', b'\n', ..], LineEnd::CrOrLf) => Some(at + 2),
                ([b'\r', ..], LineEnd::CrOrLf) | ([b'\n', ..], _) => Some(at + 1),
                _ => None,
            })?;
            if !matches!(bytes.get(at), Some(b' ' | b'\t')) {
                return Some(at);
            }
        }
    }

    /// What ends the name of a header field.
    enum NameEnd {
        /// The colon, at this place.
        Colon(usize),
        /// An empty line, which begins here: there is no colon.
        EmptyLine(usize),
    }

    fn end_of_name(bytes: &[u8], from: usize) -> Option<NameEnd> {
        let mut at = from;
        loop {
            match bytes.get(at)? {
                b':' => return Some(NameEnd::Colon(at)),
                b'\n' if matches!(bytes.get(at + 1), Some(b'\n' | b'\r')) => return Some(NameEnd::EmptyLine(at + 1)),
                _ => at += 1,
            }
        }
    }

    /// The name in lower case, without the blanks behind it; blanks alone are a name.
    fn field_name(bytes: &[u8]) -> Vec<u8> {
        let mut name = bytes.to_ascii_lowercase();
        if let Some(last) = name.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')) {
            name.truncate(last + 1);
        }
        name
    }

    /// The place of the closing quote of a display name, or of the line end in it; `from` where no quoted name begins the value.
    fn behind_quoted_name(bytes: &[u8], from: usize) -> Option<usize> {
        let mut begin = from;
        loop {
            begin = match &bytes[begin..] {
                [b' ' | b'\t', ..] => begin + 1,
                [b'\r', b'\n', b' ' | b'\t', ..] => begin + 3,
                [b'\r' | b'\n', b' ' | b'\t', ..] => begin + 2,
                _ => break,
            };
        }
        if bytes.get(begin) != Some(&b'"') {
            return Some(from);
        }
        let mut at = begin + 1;
        while !matches!(bytes.get(at)?, b'"' | b'\r' | b'\n') {
            at += if bytes[at] == b'\\' { 2 } else { 1 };
        }
        Some(at)
    }

    fn digits(value: &[u8]) -> Option<usize> {
        let value = std::str::from_utf8(value.trim_ascii()).ok()?;
        value.bytes().all(|it| it.is_ascii_digit()).then(|| value.parse().ok())?
    }

    fn odd_head() -> impl Strategy<Value = Vec<u8>> {
        let part = prop::sample::select(vec![
            "\r\n",
            "\r\n",
            "\r\n",
            "\n",
            "\r",
            " ",
            "\t",
            ":",
            "\"",
            "\\",
            "l",
            "l: 3",
            "l:0",
            "l: 12",
            "Content-Length: 7",
            "To: ",
            "t: ",
            "t:\"",
            "Via:",
            "v: x",
            "From: x",
            "X: y",
            "odd",
            "a",
            "\0",
            ";tag=1",
            "INVITE sip:a SIP/2.0",
        ]);
        prop::collection::vec(part, 0..40).prop_map(|parts| [FIRST, &parts.concat()].concat().into_bytes())
    }

    proptest! {
        #[test]
        fn a_message_ends_where_whole_lines_end_it(head in odd_head()) {
            let mut stream = head;
            // Enough for any body, and no line's beginning.
            stream.extend_from_slice(&[b'z'; 64]);
            let Some((end, Some(body))) = by_lines(&stream) else { return Ok(()) };
            prop_assume!(end + body <= stream.len() && end <= stream.len() - 64 + 2);
            stream.truncate(end + body);
            stream.extend_from_slice(INVITE);
            let frames = cut(&stream, &[usize::MAX]).map_err(|error| TestCaseError::fail(format!("{error:?}")))?;
            prop_assert!(matches!(frames[0], Frame::Message(_) | Frame::BareLf(_)));
            prop_assert_eq!(&frames[1..], [Frame::Message(Bytes::from_static(INVITE))], "{:?}", String::from_utf8_lossy(&stream));
        }

        #[test]
        fn any_stream_is_cut_alike_however_it_is_split(heads in prop::collection::vec(odd_head(), 1..4), sizes in prop::collection::vec(1usize..40, 1..8)) {
            let sip = |cut: Result<Vec<Frame>, (Vec<Frame>, FrameError)>| {
                // A half ping is a pong until the rest comes.
                let (mut frames, error) = match cut { Ok(frames) => (frames, None), Err((frames, error)) => (frames, Some(error)) };
                frames.retain(|frame| !matches!(frame, Frame::Ping | Frame::Pong));
                (frames, error)
            };
            let stream = heads.concat();
            let whole = sip(cut(&stream, &[usize::MAX]));
            prop_assert_eq!(&sip(cut(&stream, &sizes)), &whole);
            prop_assert_eq!(&sip(cut(&stream, &[1])), &whole);
        }
    }

    #[test]
    fn a_megabyte_of_breaks_is_read_in_a_time_that_grows_as_it_does() {
        let odd = ["\r", "To: \r", "X: y\r", "X\n", "t:\"\\\n", "\0\n", "\r\0", "l: 1\r\n\r"];
        for part in odd {
            let head = [FIRST.as_bytes(), &part.as_bytes().repeat(60_000 / part.len())].concat();
            let took = |times: usize| {
                let began = std::time::Instant::now();
                let _ = cut(&head.repeat(times), &[1]);
                began.elapsed()
            };
            let (short, long) = (took(1), took(8));
            assert!(long < short * 40 + std::time::Duration::from_millis(400), "{part:?}: {short:?} {long:?}");
        }
    }
}
