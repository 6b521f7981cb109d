//! A response on its way back to the sender of the request (RFC 3261 §16.7).
//!
//! A connection to a SIP server carries the calls of all its accounts, and a server that cannot read what comes by it closes it. So what one
//! device sends there must neither be without what tells its transaction nor fill the server's buffer.
//!
//! | of the response | comes from |
//! | --- | --- |
//! | Via, From, Call-ID, CSeq, To | the request that it answers, as that came |
//! | the tag of To, where the request had none; status, reason, Contact, every other header, the body | whoever answers |
//!
//! A 503 of a device speaks of the device alone. By RFC 3261 §21.5.4 its reader takes it for the relay's, which all devices share, and may leave
//! that address for as long as its Retry-After says: 500 goes in its place (§16.7 step 6).
//!
//! Invariant: a forwarded response answers its request, even where its sender has miscopied the headers of that; a response of a device is at most
//! [`FROM_DEVICE_BYTES`] long.

use std::borrow::Cow;

use bytes::Bytes;

use super::{forward, own_proof};
use crate::flow::Side;
use crate::message::{Composer, Edit, Limits, Message, Name};

/// Bytes of one message that a device has sent to its SIP server: a buffer of such a server, 16 KiB in many, holds it with what this relay
/// adds. A longer request is answered 513; in place of a longer response goes 500, or its status alone where it is provisional.
pub const FROM_DEVICE_BYTES: usize = 15 * 1024;

/// A response to `asked` as it is forwarded, without what the side that it came from may not say.
pub fn forward_response(asked: &Message, response: &Message, from: Side) -> Bytes {
    forward_with(asked, response, from, |edit| edit)
}

/// Likewise, with headers in its head that the answering party has not written.
pub fn forward_with<'a>(
    asked: &'a Message,
    response: &'a Message,
    from: Side,
    more: impl FnOnce(Edit<'a>) -> Edit<'a>,
) -> Bytes {
    let edit = more(forward::strip_asserted_identity(response.edit().answering(asked), from));
    match from {
        Side::Device => own_proof::withheld(own_proof::take_all(edit).finish(), response.body().len()),
        Side::Upstream => edit.finish(),
    }
}

/// The response that is forwarded: what came, or what goes in its place because it is a device's and beyond [`FROM_DEVICE_BYTES`], or 503.
pub fn fitting<'a>(asked: &Message, response: &'a Message, from: Side) -> Cow<'a, Message> {
    let bound = asked.head().len() + response.head().len() + response.body().len();
    let is_short = || bound <= FROM_DEVICE_BYTES || forward_response(asked, response, from).len() <= FROM_DEVICE_BYTES;
    if from == Side::Upstream || response.status() != Some(503) && is_short() {
        return Cow::Borrowed(response);
    }
    let status = response.status().filter(|status| *status < 200).unwrap_or(500);
    let to = response.to();
    let bare =
        Composer::response(asked, status, Composer::reason(status), to.as_ref().and_then(|to| to.tag())).finish();
    Message::parse(&bare, &Limits::COMPOSED).map_or(Cow::Borrowed(response), Cow::Owned)
}

/// Whether a device's request is one that its SIP server should get.
pub fn is_fit(request: &Message) -> bool {
    request.head().len() + request.body().len() <= FROM_DEVICE_BYTES
}

/// Whether a challenge says that the proof was merely old.
pub fn is_stale(response: &Message) -> bool {
    let mut challenges = response.elements(Name::WwwAuthenticate).chain(response.elements(Name::ProxyAuthenticate));
    challenges.any(|part| part.to_ascii_lowercase().replace([' ', '"'], "").contains("stale=true"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Name;

    const INVITE: &str = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bK1\r\nv: SIP/2.0/UDP i;branch=z9hG4bK2, SIP/2.0/UDP j\r\n\
        Max-Forwards: 70\r\nf: \"Bob\" <sip:bob@example.com>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 7 INVITE\r\nl: 0\r\n\r\n";
    const IDENTITY: &str = "Via: SIP/2.0/TLS p;branch=z9hG4bK1\r\nv: SIP/2.0/UDP i;branch=z9hG4bK2, SIP/2.0/UDP j\r\n\
        f: \"Bob\" <sip:bob@example.com>;tag=1\r\nTo: <sip:a@b>;tag=phone@1\r\nCall-ID: i\r\nCSeq: 7 INVITE\r\n";

    fn parse(text: &str) -> Message {
        Message::parse(&Bytes::copy_from_slice(text.as_bytes()), &Limits::default().of_responses()).unwrap()
    }

    fn forwarded(answer: &str) -> String {
        let bytes = forward_response(&parse(INVITE), &parse(answer), Side::Device);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_response_answers_its_request_whatever_its_sender_has_made_of_the_copies() {
        let own = "Via: SIP/2.0/TLS relay;branch=z9hG4bK9\r\n";
        let rest = "Contact: <sip:phone@h>\r\nX-Own: \u{fc}\r\n y\r\n";
        let expected = format!("SIP/2.0 486 Busy\r\n{IDENTITY}{rest}Content-Length: 4\r\n\r\nbody");
        let tagged = "To: <sip:a@b>;tag=phone@1\r\n";
        for copies in [
            format!("{own}{IDENTITY}"),
            format!("{own}{tagged}CSeq: 7 INVITE\r\n"),
            format!(
                "{own}Via: SIP/2.0\r\n{tagged}From: \"\r\nCall-ID: a b\r\nCall-ID: c\r\nCSeq: 8 BYE\r\nFrom: x\r\n"
            ),
            format!("{own}{}To: sip:else@h;tag=phone@1\r\nTo: y\r\n", "Via: SIP/2.0/UDP x\r\n".repeat(9)),
        ] {
            assert_eq!(forwarded(&format!("SIP/2.0 486 Busy\r\n{copies}{rest}l:\r\n 4\r\n\r\nbody")), expected);
        }
        for tag in ["", ";tag=", ";tag=\"", ";tag=a\"b", ";tag=a,b", ";tag=\u{fc}"] {
            let answer = forwarded(&format!("sip/2.0 180\r\n{own}To: <sip:a@b>{tag}\r\n\r\n"));
            assert!(
                answer.starts_with("SIP/2.0 180 \r\n") && answer.contains("\r\nTo: <sip:a@b>\r\n"),
                "{tag:?}: {answer}"
            );
        }
        assert!(!forwarded("SIP/2.0 200 OK\r\nP-Asserted-Identity: <sip:x@y>\r\n\r\n").contains("Asserted"));
    }

    #[test]
    fn a_tag_that_the_request_has_stays() {
        let asked = parse(&INVITE.replace("<sip:a@b>", "<sip:a@b>;tag=old"));
        let bytes = forward_response(&asked, &parse("SIP/2.0 200 OK\r\nTo: <sip:a@b>;tag=new\r\n\r\n"), Side::Device);
        let answer = Message::parse(&bytes, &Limits::default()).unwrap();
        assert_eq!(answer.to().and_then(|to| to.tag()), Some("old"));
    }

    #[test]
    fn an_empty_tag_of_the_request_gives_way_to_that_of_the_answer() {
        for (empty, kept) in [(";tag=", ""), (" ; TAG = ", ""), (";tag", ""), (";x=\"a;b\";tag=", ";x=\"a;b\"")] {
            let asked = parse(&INVITE.replace("To: <sip:a@b>", &format!("To: <sip:a@b>{empty}")));
            let expected = format!("\r\nTo: <sip:a@b>{kept};tag=new\r\n");
            for to in ["<sip:a@b>;tag=new".to_owned(), format!("<sip:a@b>{empty};tag=new")] {
                let answer = parse(&format!("SIP/2.0 200 OK\r\nTo: {to}\r\n\r\n"));
                let bytes = forward_response(&asked, &answer, Side::Device);
                let text = std::str::from_utf8(&bytes).unwrap();
                assert!(text.contains(&expected), "{empty:?}, {to}: {text}");
            }
            let own = Composer::response(&asked, 180, "Ringing", Some("new")).finish();
            assert!(std::str::from_utf8(&own).unwrap().contains(&expected), "{empty:?}: {own:?}");
        }
    }

    #[test]
    fn a_503_of_a_device_goes_as_500_and_says_nothing_of_the_address_that_all_share() {
        let asked = parse(INVITE);
        let away = parse("SIP/2.0 503 x\r\nTo: <sip:a@b>;tag=t\r\nRetry-After: 86400\r\nWarning: 399 x\r\n\r\n");
        let goes = fitting(&asked, &away, Side::Device);
        assert_eq!((goes.status(), goes.has(Name::RetryAfter)), (Some(500), false));
        assert_eq!(goes.to().and_then(|to| to.tag()), Some("t"));
        assert_eq!(fitting(&asked, &away, Side::Upstream).status(), Some(503), "of a server");
        let other = parse("SIP/2.0 504 x\r\nTo: <sip:a@b>;tag=t\r\n\r\n");
        assert_eq!(fitting(&asked, &other, Side::Device).status(), Some(504));
    }

    #[test]
    fn what_is_beyond_the_limit_goes_as_a_status_alone() {
        let asked = parse(INVITE);
        let answer = |status: u16, bytes: usize| {
            let head = format!("SIP/2.0 {status} x\r\nTo: <sip:a@b>;tag=t\r\nX: ");
            parse(&format!("{head}{}\r\n\r\n", "x".repeat(bytes)))
        };
        for (status, goes_as) in [(183, 183), (200, 500), (302, 500), (486, 500), (603, 500)] {
            let large = answer(status, FROM_DEVICE_BYTES);
            let fits = fitting(&asked, &large, Side::Device);
            assert_eq!(fits.status(), Some(goes_as), "{status}");
            assert_eq!(fits.to().and_then(|to| to.tag()), Some("t"));
            assert!(forward_response(&asked, &fits, Side::Device).len() < 512);
            assert_eq!(fitting(&asked, &large, Side::Upstream).status(), Some(status), "of a server");
        }
        let added = forward_response(&asked, &answer(486, 0), Side::Device).len();
        let largest = answer(486, FROM_DEVICE_BYTES - added);
        assert_eq!(fitting(&asked, &largest, Side::Device).status(), Some(486), "at its edge");
        let beyond = answer(486, FROM_DEVICE_BYTES - added + 1);
        assert_eq!(fitting(&asked, &beyond, Side::Device).status(), Some(500));
    }
}
