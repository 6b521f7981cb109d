//! What of a message is kept in a trace.
//!
//! | part | is kept |
//! | --- | --- |
//! | headers that say how SIP works (Via, CSeq, Expires, …) | as they are |
//! | addresses (From, Contact, Route, …) and the Request-URI | the first character of each user, host, port and the parameters that route; no display name |
//! | challenges | realm, algorithm, qop and stale |
//! | credentials | nothing |
//! | every other header | its name |
//! | SDP | its `m=` lines; of another body nothing |
//!
//! Invariant: what is not known to be harmless is left out. The result is a message again.

use std::collections::HashSet;
use std::fmt::Write as _;

use sip::message::{Composer, Message, Name, NameAddr, Scheme, Uri};

/// What stands in place of what is left out.
const CUT: &str = "...";
/// The parameters of a URI whose values are kept.
const URI_PARAMETERS: [&str; 5] = ["transport", "lr", "ob", "user", "pn-provider"];
/// Likewise of an address.
const ADDRESS_PARAMETERS: [&str; 5] = ["tag", "expires", "reg-id", "q", "refresher"];
/// Likewise of a challenge.
const CHALLENGE_PARAMETERS: [&str; 4] = ["realm", "algorithm", "qop", "stale"];
/// Headers beside those with a [`Name`] that say nothing of anybody.
const HARMLESS: [&str; 5] = ["rack", "rseq", "allow-events", "content-disposition", "p-early-media"];

/// A message without what is nobody's business.
pub(crate) fn scrub(message: &Message) -> Vec<u8> {
    let mut out = match message.status() {
        Some(status) => format!("SIP/2.0 {status} {}\r\n", Composer::reason(status)),
        None => {
            let uri = message.request_uri().and_then(Uri::parse).map_or_else(|| CUT.into(), |uri| shortened(&uri));
            format!("{} {uri} SIP/2.0\r\n", message.method_text().unwrap_or("?"))
        }
    };
    let head = String::from_utf8_lossy(message.head()).replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut done = HashSet::new();
    for line in head.split("\r\n").skip(1) {
        let Some((written, value)) = line.split_once(':') else { continue };
        let (written, value) = (written.trim(), value.trim());
        let name = Name::from_bytes(written.as_bytes());
        // Writing to a String cannot fail.
        let _ = match kept(name, written) {
            Kept::Whole => write!(out, "{written}: {value}\r\n"),
            Kept::Addresses if !done.insert(name) => Ok(()),
            Kept::Addresses => {
                let all: Vec<String> = message.elements(name).map(address).collect();
                write!(out, "{name}: {}\r\n", all.join(", "))
            }
            Kept::Challenge => write!(out, "{written}: {}\r\n", challenge(value)),
            Kept::Name => write!(out, "{written}: {CUT}\r\n"),
            Kept::Nothing => Ok(()),
        };
    }
    let is_sdp = message.text(Name::ContentType).is_some_and(|kind| kind.to_ascii_lowercase().contains("sdp"));
    let body = String::from_utf8_lossy(message.body());
    let media: String =
        body.lines().filter(|line| is_sdp && line.starts_with("m=")).map(|it| format!("{it}\r\n")).collect();
    let _ = write!(out, "Content-Length: {}\r\n\r\n{media}", media.len());
    out.into_bytes()
}

enum Kept {
    Whole,
    Addresses,
    Challenge,
    Name,
    Nothing,
}

fn kept(name: Name, written: &str) -> Kept {
    match name {
        Name::Via | Name::CallId | Name::CSeq | Name::MaxForwards | Name::ContentType => Kept::Whole,
        Name::Allow | Name::Supported | Name::Require | Name::ProxyRequire | Name::Unsupported => Kept::Whole,
        Name::Expires | Name::MinExpires | Name::RetryAfter | Name::FlowTimer | Name::Timestamp => Kept::Whole,
        Name::SessionExpires | Name::MinSe | Name::Event | Name::SubscriptionState | Name::Accept => Kept::Whole,
        Name::UserAgent | Name::Server | Name::Date | Name::Privacy | Name::FeatureCaps => Kept::Whole,
        Name::Reason | Name::Warning | Name::Replaces => Kept::Whole,
        Name::From | Name::To | Name::Contact | Name::Route | Name::RecordRoute | Name::Path => Kept::Addresses,
        Name::ServiceRoute | Name::PAssertedIdentity | Name::PAssociatedUri => Kept::Addresses,
        Name::WwwAuthenticate | Name::ProxyAuthenticate => Kept::Challenge,
        Name::Authorization | Name::ProxyAuthorization | Name::AuthenticationInfo | Name::ContentLength => {
            Kept::Nothing
        }
        Name::Other if HARMLESS.iter().any(|known| written.eq_ignore_ascii_case(known)) => Kept::Whole,
        Name::Other => Kept::Name,
    }
}

fn address(element: &str) -> String {
    let Some(parsed) = NameAddr::parse(element) else {
        return if element.trim() == "*" { "*".into() } else { format!("<sip:{CUT}@invalid>") };
    };
    let mut out = format!("<{}>", shortened(&parsed.uri));
    parameters(&mut out, parsed.params.iter(), &ADDRESS_PARAMETERS);
    out
}

fn shortened(uri: &Uri<'_>) -> String {
    let scheme = uri.text.split(':').next().unwrap_or("sip");
    if uri.scheme == Scheme::Other {
        return format!("{scheme}:{CUT}");
    }
    let mut out = format!("{scheme}:");
    if let Some(user) = uri.user {
        out.extend(user.chars().next().filter(char::is_ascii_alphanumeric));
        out += CUT;
        out.push('@');
    }
    out += uri.host;
    if let Some(port) = uri.port {
        let _ = write!(out, ":{port}");
    }
    parameters(&mut out, uri.params.iter(), &URI_PARAMETERS);
    out
}

fn parameters<'a>(out: &mut String, all: impl Iterator<Item = (&'a str, Option<&'a str>)>, kept: &[&str]) {
    for (name, value) in all {
        let _ = match value {
            None => write!(out, ";{name}"),
            Some(value) if kept.iter().any(|known| name.eq_ignore_ascii_case(known)) => write!(out, ";{name}={value}"),
            Some(_) => write!(out, ";{name}={CUT}"),
        };
    }
}

fn challenge(value: &str) -> String {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let kept = rest.split(',').map(str::trim).filter(|part| {
        let name = part.split('=').next().unwrap_or_default().trim();
        CHALLENGE_PARAMETERS.iter().any(|known| name.eq_ignore_ascii_case(known))
    });
    format!("{scheme} {}", kept.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use sip::message::Limits;

    use super::*;

    fn scrubbed(text: &str) -> String {
        let message = Message::parse(&text.to_owned().into(), &Limits::default()).unwrap();
        let out = scrub(&message);
        let again = Message::parse(&out.clone().into(), &Limits::default()).expect("it is a message again");
        assert_eq!(again.check(), Ok(()), "{}", String::from_utf8_lossy(&out));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nobody_and_no_secret_is_left_in_a_request() {
        let sdp = "v=0\r\no=geheim 1 1 IN IP4 10.9.8.7\r\ns=geheim\r\nc=IN IP4 10.9.8.7\r\nm=audio 4000 RTP/SAVPF 111\r\na=crypto:geheim\r\nm=video 0 RTP/AVP 97\r\n";
        let out = scrubbed(&format!(
            "INVITE sip:geheim-alice@10.0.0.5:5060;transport=tls;pn-provider=fcm;pn-param=geheim;pn-prid=geheim SIP/2.0\r\n\
             Via: SIP/2.0/TLS 192.0.2.1;branch=z9hG4bKvia\r\nMax-Forwards: 70\r\n\
             f: \"Geheim Bob\" <sip:geheim-bob@example.com;x=geheim>;tag=bob\r\nTo:\r\n <sip:geheim-alice@example.com>\r\n\
             Call-ID: call\r\nCSeq: 7 INVITE\r\nContact: <sip:geheim@10.0.0.1>;+sip.instance=\"<urn:uuid:geheim>\";reg-id=1\r\n\
             Route: <sip:geheimtoken@relay.test;lr>, <sip:geheim@next.test;lr>\r\nP-Asserted-Identity: <tel:+49geheim>\r\n\
             Subject: geheim\r\nX-Secret:\r\n\tgeheim\r\nAuthorization: Digest username=\"geheim\", response=\"geheim\"\r\n\
             Proxy-Authorization: Bearer geheim\r\nContent-Type: application/sdp\r\nSupported: 100rel\r\n\
             Content-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        ));
        assert!(!out.to_ascii_lowercase().contains("geheim"), "{out}");
        for kept in [
            "INVITE sip:g...@10.0.0.5:5060;transport=tls;pn-provider=fcm;pn-param=...;pn-prid=... SIP/2.0",
            "branch=z9hG4bKvia",
            "From: <sip:g...@example.com;x=...>;tag=bob",
            "To: <sip:g...@example.com>",
            "Contact: <sip:g...@10.0.0.1>;+sip.instance=...;reg-id=1",
            "Route: <sip:g...@relay.test;lr>, <sip:g...@next.test;lr>",
            "P-Asserted-Identity: <tel:...>",
            "Supported: 100rel",
            "Subject: ...",
            "m=audio 4000 RTP/SAVPF 111\r\nm=video 0 RTP/AVP 97\r\n",
        ] {
            assert!(out.contains(kept), "{kept}: {out}");
        }
    }

    #[test]
    fn a_challenge_says_what_it_wants_and_not_its_nonce() {
        let out = scrubbed(
            "SIP/2.0 401 Geheim\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
             Call-ID: c\r\nCSeq: 1 REGISTER\r\nWWW-Authenticate: Digest realm=\"example.com\", nonce=\"geheim\", \
             opaque=\"geheim\", algorithm=MD5, qop=\"auth\"\r\nContent-Type: text/plain\r\n\r\ngeheim m=x",
        );
        assert!(!out.to_ascii_lowercase().contains("geheim"), "{out}");
        assert!(
            out.contains("WWW-Authenticate: Digest realm=\"example.com\", algorithm=MD5, qop=\"auth\"\r\n"),
            "{out}"
        );
    }
}
