//! Removal of a device's proof to this relay from messages that leave it (RFC 3261 §22.3, RFC 8898 §3).
//!
//! A stack may put one header into all that it sends: JsSIP does so with `authorization_jwt`, in ACK and BYE, too. A SIP server writes what it
//! gets into its logs, and a proxy passes `Authorization` on to the other party of a call (RFC 3261 §22.2).
//!
//! | in the head of what a device sends to a SIP server | its account is lent | it passes through |
//! | --- | --- | --- |
//! | `Authorization` or `Proxy-Authorization` with an instance's secret | left out | left out |
//! | `Digest` of [`EDGE_REALM`] | left out | left out, where its user name is an instance's |
//! | `Digest` of another realm | passes | passes |
//! | `Bearer`, another scheme, what cannot be read | left out: the intended verifier is unknown | passes: it is for the device's own SIP server |
//! | a secret in another header, or in a URI | as many `x` | as many `x` |
//! | either header in a response, which it means nothing in | left out | left out |
//!
//! Invariant: no secret that has the form of [`SECRET_MARK`] leaves in a head, whoever sends it, by whatever method and in whatever header.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

use super::admission::EDGE_REALM;
use crate::auth::digest_names;
use crate::id::InstanceId;
use crate::message::{Edit, Limits, Message, Name};

/// How the secret of an instance begins, so that it is known wherever it stands.
pub const SECRET_MARK: &str = "pis_";
/// How many characters of base64url follow: 256 bits.
const SECRET_CHARS: usize = 43;
/// The headers that a proof may be in.
const CARRIERS: [Name; 2] = [Name::Authorization, Name::ProxyAuthorization];

/// The kind of device that sends a message to a SIP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// A device that proves itself to this relay, by the secret of its instance.
    Lent,
    /// A device that proves itself to its SIP server (RFC 8599, RFC 5626).
    Passing,
}

/// Leaves out the credentials that are for this relay; those for others pass.
pub fn take<'a>(edit: Edit<'a>, request: &'a Message, sender: Sender) -> Edit<'a> {
    CARRIERS.into_iter().fold(edit, |edit, carrier| {
        let passes = |value: &&[u8]| is_for_others(value, sender);
        if request.values(carrier).all(|value| passes(&value)) {
            return edit;
        }
        let others = request.values(carrier).filter(passes).filter_map(|value| std::str::from_utf8(value).ok());
        others.fold(edit.remove(carrier), |edit, value| edit.append(carrier, value))
    })
}

/// A request of a device that passes through, without the credentials that are for this relay; `None`: it has none.
pub fn without(request: &Message) -> Option<Message> {
    let is_own = |carrier| request.values(carrier).any(|value| !is_for_others(value, Sender::Passing));
    let has_own = CARRIERS.into_iter().any(is_own);
    let bytes = has_own.then(|| take(request.edit(), request, Sender::Passing).finish())?;
    Message::parse(&bytes, &Limits::COMPOSED).ok()
}

/// The credentials of a request that pass: they are for others.
pub fn of_others(request: &Message, sender: Sender) -> impl Iterator<Item = &[u8]> {
    let all = CARRIERS.into_iter().flat_map(|carrier| request.values(carrier));
    all.filter(move |value| is_for_others(value, sender))
}

/// Leaves out both headers.
pub fn take_all(edit: Edit<'_>) -> Edit<'_> {
    CARRIERS.into_iter().fold(edit, Edit::remove)
}

/// The message with `x` in place of each secret before its body, which has so many bytes.
pub fn withheld(bytes: Bytes, body: usize) -> Bytes {
    let head = &bytes[..bytes.len().saturating_sub(body)];
    let found: Vec<Range<usize>> = secrets(head).collect();
    if found.is_empty() {
        return bytes;
    }
    let mut bytes = BytesMut::from(bytes);
    for secret in found {
        bytes[secret].fill(b'x');
    }
    bytes.freeze()
}

/// The places of secrets in a text, each from after the first mark of its word to the end of the word: another mark may stand before it.
/// No byte is looked at for two of them, for a device may send a text that is full of marks.
fn secrets(text: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut looked_at = 0;
    memmem::find_iter(text, SECRET_MARK).filter_map(move |at| {
        if at < looked_at {
            return None;
        }
        let begin = at + SECRET_MARK.len();
        let end = begin + text[begin..].iter().take_while(|byte| is_of_word(**byte)).count();
        looked_at = end;
        (end - begin >= SECRET_CHARS).then_some(begin..end)
    })
}

fn is_of_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

fn is_for_others(value: &[u8], sender: Sender) -> bool {
    if secrets(value).next().is_some() {
        return false;
    }
    let names = std::str::from_utf8(value).ok().and_then(digest_names);
    match (sender, names) {
        (Sender::Lent, names) => names.is_some_and(|(realm, _)| !realm.eq_ignore_ascii_case(EDGE_REALM)),
        (Sender::Passing, Some((realm, user))) => {
            realm != EDGE_REALM || user.is_none_or(|user| InstanceId::parse(&user).is_none())
        }
        (Sender::Passing, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "pis_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const OWN: &str = "Digest username=\"pi_aaaaaaaaaaaaaaaaaaaaaaaaaa\", realm=\"sipwake\", nonce=\"n\", uri=\"sip:x\", response=\"r\"";
    const OTHERS: &str = "Digest username=\"alice\", realm=\"example.com\", nonce=\"Bearer , x\", algorithm=AKAv1-MD5";

    fn left(sender: Sender, values: &[&str]) -> Vec<String> {
        ["Authorization", "Proxy-Authorization", "AUTHORIZATION"]
            .map(|name| {
                let lines: String = values.iter().map(|value| format!("{name}: {value}\r\n")).collect();
                let text = format!("BYE sip:a@b SIP/2.0\r\nTo: x\r\n{lines}Content-Length: 2\r\n\r\nhi");
                let request = Message::parse(&text.into(), &Limits::default()).unwrap();
                let bytes = take(request.edit(), &request, sender).finish();
                let request = Message::parse(&bytes, &Limits::default()).unwrap();
                let all = CARRIERS.into_iter().flat_map(|carrier| request.values(carrier));
                all.map(|value| String::from_utf8_lossy(value).into_owned()).collect::<Vec<_>>()
            })
            .into_iter()
            .reduce(|one, other| if one == other { one } else { panic!("{one:?} {other:?}") })
            .unwrap()
    }

    #[test]
    fn of_a_lent_account_nothing_passes_but_a_digest_for_another_realm() {
        let (bearer, bare, basic) =
            (format!("Bearer {SECRET}"), format!("{OTHERS}, Bearer {SECRET}"), "Basic cGk6c2VjcmV0");
        let hidden = format!("{OTHERS}, Bearer x={SECRET}");
        for own in [
            &*bearer,
            &bare,
            &hidden,
            basic,
            OWN,
            "bEARER\tolder-secret",
            "Bearer",
            "older-secret",
            "Digest realm=sipwake",
            "Digest x",
            "Digest realm=\"example.com\", Bearer older-secret",
            "Digest realm=\"example.com\", Bearer older=secret",
        ] {
            assert_eq!(left(Sender::Lent, &[own, OTHERS]), [OTHERS], "{own}");
            assert_eq!(left(Sender::Lent, &[own]), [] as [&str; 0], "{own}");
        }
        assert_eq!(left(Sender::Lent, &[OTHERS, OTHERS]), [OTHERS, OTHERS]);
    }

    #[test]
    fn what_passes_through_keeps_what_is_for_its_own_sip_server() {
        let (bearer, named) = (format!("Bearer {SECRET}"), OTHERS.replace("example.com", "sipwake"));
        let others =
            [OTHERS, &named, "Bearer eyJhbGciOi.J9", "Bearer AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "Unknown x"];
        for value in others {
            assert_eq!(left(Sender::Passing, &[value, &bearer, OWN]), [value]);
        }
        let text = format!("REGISTER sip:a SIP/2.0\r\nAuthorization: {OTHERS}\r\n\r\n");
        assert!(without(&Message::parse(&text.into(), &Limits::default()).unwrap()).is_none());
    }

    #[test]
    fn a_secret_is_withheld_wherever_it_stands_in_a_head_and_nothing_else_is() {
        let withheld = |text: &str, body: usize| {
            String::from_utf8(withheld(Bytes::copy_from_slice(text.as_bytes()), body).to_vec()).unwrap()
        };
        let shown = |secret: &str| {
            format!(
                "BYE sip:a:{secret}@b SIP/2.0\r\nContact: <sip:pi_x:{secret}@h;x={secret}>\r\nX-Key: \"{secret}\"\r\n\r\n"
            )
        };
        let gone = format!("pis_{}", "x".repeat(SECRET_CHARS));
        assert_eq!(withheld(&shown(SECRET), 0), shown(&gone));
        assert_eq!(withheld(&shown(&format!("pis_{SECRET}")), 0), shown(&format!("{gone}xxxx")));
        for other in [&SECRET[..46], "pis_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.AAAAAA", "PIS_AAA"] {
            assert_eq!(withheld(&shown(other), 0), shown(other));
        }
        let body = format!("{}{SECRET}", shown("x"));
        assert_eq!(withheld(&body, SECRET.len()), body, "a body is the sender's own");
    }

    #[test]
    fn a_word_that_is_full_of_marks_is_gone_over_once() {
        for marks in [11, 12, 4_000] {
            let word = format!("{SECRET_MARK}{}", SECRET_MARK.repeat(marks));
            let text = format!("X: {word}\r\nY: a-{word} {word}\r\n\r\n");
            let found: Vec<_> = secrets(text.as_bytes()).map(|secret| secret.len()).collect();
            assert_eq!(found, [marks * SECRET_MARK.len(); 3]);
            let gone = text.replace(&word, &format!("{SECRET_MARK}{}", "x".repeat(marks * SECRET_MARK.len())));
            assert_eq!(withheld(text.into(), 0), gone);
        }
        let short = format!("X: {}.{}", SECRET_MARK.repeat(10), SECRET_MARK.repeat(10));
        assert_eq!(secrets(short.as_bytes()).count(), 0);
    }
}
