//! The parts of a message that are kept in a trace.
//!
//! | part | is kept |
//! | --- | --- |
//! | headers that say how SIP works (CSeq, Expires, Supported, Event, …) | numbers, and [words that name nobody](super::known) |
//! | Call-ID | the first 16 hexadecimal digits of its SHA-256, by which a reader who knows it finds it |
//! | tags and branches | likewise, of the Call-ID, a line feed and them: the same in one call, and in no other |
//! | addresses (From, Contact, Route, …) and the Request-URI | the first character of each user, host, port and the parameters that route; no display name |
//! | Via | transport, sent-by, and where it came from |
//! | User-Agent, Server | products with a version, and the names of some SIP servers; no comment |
//! | Reason, Warning | protocol, cause and code; no text |
//! | a host that is a telephone number (a URI without `@`), or has one in it | no more than of a user; of labels that are a number none |
//! | challenges | a realm that is a host name, algorithm, qop and stale |
//! | credentials | nothing |
//! | every other header | its name |
//! | a list of more than 128 elements, or more than 16 parameters of one | so many of them |
//! | a head that is longer than 16 KiB without all this | its first lines |
//! | SDP | its `m=` lines; of another body nothing |
//!
//! Invariant: any part that is not known to be harmless is left out. The result is a message again.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use aws_lc_rs::digest::{Context, SHA256, digest};
use sip::message::{Composer, Message, Name, NameAddr, Params, Scheme, Uri, Via};

use super::known::{self, is_one_of};
use crate::vault::hex;

/// The replacement of text that is left out.
const CUT: &str = "...";
/// Likewise in place of a host.
const NO_HOST: &str = "invalid";
/// The prefix of every branch (RFC 3261 §8.1.1.7).
const BRANCH_COOKIE: &str = "z9hG4bK";
/// The digits of a number that are kept at most: more may be those of a phone.
const DIGITS_MAX: usize = 7;
/// The bytes of a digest that stand in place of a name.
const NAME_BYTES: usize = 8;
/// The limits on the kept lists and parameters of a header, and on a head, in bytes.
const ELEMENTS_MAX: usize = 128;
const PARAMETERS_MAX: usize = 16;
const HEAD_BYTES: usize = 16 * 1024;

/// A message without what is nobody's business.
pub(crate) fn scrub(message: &Message) -> Vec<u8> {
    let call = &Call::of(message.call_id().unwrap_or_default());
    let mut out = match message.status() {
        Some(status) => format!("SIP/2.0 {status} {}\r\n", Composer::reason(status)),
        None => {
            let uri =
                message.request_uri().and_then(Uri::parse).map_or_else(|| CUT.into(), |uri| shortened(call, &uri));
            format!("{} {uri} SIP/2.0\r\n", word(message.method_text().unwrap_or_default(), known::METHODS))
        }
    };
    let head = String::from_utf8_lossy(message.head()).replace("\r\n ", " ").replace("\r\n\t", " ");
    let mut done = HashSet::new();
    for line in head.split("\r\n").skip(1) {
        if out.len() > HEAD_BYTES {
            break;
        }
        let Some((written, value)) = line.split_once(':') else { continue };
        let (written, value) = (written.trim(), value.trim());
        let name = Name::from_bytes(written.as_bytes());
        let list = |element: &dyn Fn(&str) -> String| {
            split(value, ',').take(ELEMENTS_MAX).map(element).collect::<Vec<_>>().join(", ")
        };
        let scrubbed = match kept(name, written) {
            Kept::Addresses if !done.insert(name) => continue,
            Kept::Addresses => {
                let first = message.elements(name).take(ELEMENTS_MAX);
                first.map(|element| address(call, element)).collect::<Vec<_>>().join(", ")
            }
            Kept::Nothing => continue,
            Kept::Name => CUT.to_owned(),
            Kept::Words(words) => list(&|element| known_element(call, element, words)),
            Kept::Number => number_element(call, value),
            Kept::Via => list(&|element| via(call, element)),
            Kept::CallId => name_of(value),
            Kept::OwnCall => sip::id::CallId::parse(value).map_or_else(|| CUT.to_owned(), |call| call.to_string()),
            Kept::Dialog => dialog(value),
            Kept::CSeq => match value.split_once([' ', '\t']) {
                Some((number, method)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    format!("{number} {}", word(method.trim(), known::METHODS))
                }
                _ => CUT.to_owned(),
            },
            Kept::Products => products(value),
            Kept::Date => date(value),
            Kept::Warning => list(&warning),
            Kept::Challenge => challenge(value),
        };
        // Writing to a String cannot fail.
        let _ = write!(out, "{}: {scrubbed}\r\n", if name == Name::Other { written } else { name.as_str() });
    }
    let media = media(message);
    let _ = write!(out, "Content-Length: {}\r\n\r\n{media}", media.len());
    out.into_bytes()
}

enum Kept {
    Addresses,
    /// Elements of these words, with the parameters that are known.
    Words(&'static [&'static str]),
    Number,
    Via,
    CallId,
    /// The relay's own identifier of a call.
    OwnCall,
    /// The Call-ID and the tags of another dialog.
    Dialog,
    CSeq,
    Products,
    Date,
    Warning,
    Challenge,
    Name,
    Nothing,
}

fn kept(name: Name, written: &str) -> Kept {
    match name {
        Name::Via => Kept::Via,
        Name::CallId => Kept::CallId,
        Name::SipwakeCall => Kept::OwnCall,
        Name::CSeq => Kept::CSeq,
        Name::MaxForwards | Name::Expires | Name::MinExpires | Name::RetryAfter => Kept::Number,
        Name::FlowTimer | Name::SessionExpires | Name::MinSe => Kept::Number,
        Name::Allow => Kept::Words(known::METHODS),
        Name::Supported | Name::Require | Name::ProxyRequire | Name::Unsupported => Kept::Words(known::OPTION_TAGS),
        Name::ContentType | Name::Accept => Kept::Words(known::MEDIA_TYPES),
        Name::Event => Kept::Words(known::EVENTS),
        Name::SubscriptionState => Kept::Words(known::SUBSCRIPTION_STATES),
        Name::Privacy => Kept::Words(known::PRIVACY),
        Name::FeatureCaps => Kept::Words(known::ANY),
        Name::Reason => Kept::Words(known::REASONS),
        Name::Warning => Kept::Warning,
        Name::UserAgent | Name::Server => Kept::Products,
        Name::Date => Kept::Date,
        Name::Replaces => Kept::Dialog,
        Name::From | Name::To | Name::Contact | Name::Route | Name::RecordRoute | Name::Path => Kept::Addresses,
        Name::ServiceRoute | Name::PAssociatedUri => Kept::Addresses,
        Name::PAssertedIdentity | Name::PPreferredIdentity | Name::RemotePartyId => Kept::Addresses,
        Name::WwwAuthenticate | Name::ProxyAuthenticate => Kept::Challenge,
        Name::Authorization | Name::ProxyAuthorization | Name::AuthenticationInfo | Name::ContentLength => {
            Kept::Nothing
        }
        Name::Timestamp => Kept::Name,
        Name::Other => match written.to_ascii_lowercase().as_str() {
            "rseq" => Kept::Number,
            "allow-events" => Kept::Words(known::EVENTS),
            "content-disposition" => Kept::Words(known::DISPOSITIONS),
            "p-early-media" => Kept::Words(known::EARLY_MEDIA),
            _ => Kept::Name,
        },
    }
}

/// The replacement of a name that means nothing by itself.
fn name_of(name: &str) -> String {
    hex(&digest(&SHA256, name.as_bytes()).as_ref()[..NAME_BYTES])
}

/// The call that names are heard in; its Call-ID is hashed once.
struct Call(Context);

impl Call {
    fn of(call_id: &str) -> Self {
        let mut begun = Context::new(&SHA256);
        begun.update(call_id.as_bytes());
        begun.update(b"\n");
        Self(begun)
    }

    /// The replacement of a name that occurs in this call alone.
    fn name(&self, name: &str) -> String {
        let mut digest = self.0.clone();
        digest.update(name.as_bytes());
        hex(&digest.finish().as_ref()[..NAME_BYTES])
    }
}

fn word<'a>(word: &'a str, known: &[&str]) -> &'a str {
    if is_one_of(word, known) { word } else { CUT }
}

/// Whether this is a number that is too short for one of a phone.
fn is_number(text: &str) -> bool {
    (1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

fn number(text: &str) -> &str {
    if is_number(text) { text } else { CUT }
}

/// The parts between separators that stand outside quotes and angle brackets.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped, mut inside) = (false, false, false);
    text.split(move |letter| {
        let is_escaped = std::mem::take(&mut escaped);
        match letter {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            '<' if !quoted => inside = true,
            '>' if !quoted => inside = false,
            letter => return letter == separator && !quoted && !inside,
        }
        false
    })
    .map(str::trim)
}

/// A word with its parameters.
fn known_element(call: &Call, element: &str, words: &[&str]) -> String {
    let (head, rest) = element.split_at(element.find(';').unwrap_or(element.len()));
    with_parameters(call, word(head.trim(), words), rest)
}

/// A number with its parameters; its comment is left out, and whatever stands behind that.
fn number_element(call: &Call, value: &str) -> String {
    let value = value.split('(').next().unwrap_or_default();
    let (head, rest) = value.split_at(value.find(';').unwrap_or(value.len()));
    with_parameters(call, number(head.trim()), rest)
}

fn with_parameters(call: &Call, head: &str, rest: &str) -> String {
    let mut out = head.to_owned();
    match Params::parse(rest) {
        Some(params) => parameters(&mut out, call, params.iter()),
        None => out.push_str(";..."),
    }
    out
}

/// The names of a dialog, as they stand in its own messages.
fn dialog(value: &str) -> String {
    let (call_id, rest) = value.split_at(value.find(';').unwrap_or(value.len()));
    let call_id = call_id.trim();
    with_parameters(&Call::of(call_id), &name_of(call_id), rest)
}

fn via(call: &Call, element: &str) -> String {
    let Some(via) = Via::parse(element) else { return format!("SIP/2.0/{CUT} {CUT}") };
    let host = host(via.host).unwrap_or(Cow::Borrowed(NO_HOST));
    let mut out = format!("SIP/2.0/{} {host}", word(via.transport, known::VALUES));
    if let Some(port) = via.port {
        let _ = write!(out, ":{port}");
    }
    parameters(&mut out, call, via.params.iter());
    out
}

fn address(call: &Call, element: &str) -> String {
    let Some(parsed) = NameAddr::parse(element) else {
        return if element.trim() == "*" { "*".into() } else { format!("<sip:{CUT}@invalid>") };
    };
    let mut out = format!("<{}>", shortened(call, &parsed.uri));
    parameters(&mut out, call, parsed.params.iter());
    out
}

fn shortened(call: &Call, uri: &Uri<'_>) -> String {
    let scheme = word(uri.text.split(':').next().unwrap_or("sip"), known::URI_SCHEMES);
    if uri.scheme == Scheme::Other {
        return format!("{}:{CUT}", if scheme == CUT { "urn" } else { scheme });
    }
    if uri.text.matches('@').count() > 1 {
        // Its host may be a piece of a password.
        return format!("{scheme}:{CUT}@invalid");
    }
    let mut out = format!("{scheme}:");
    let host = host(uri.host);
    if let Some(user) = uri.user.or(host.is_none().then_some(uri.host)) {
        out.extend(user.chars().next().filter(char::is_ascii_alphanumeric));
        out += CUT;
        out.push('@');
    }
    out += host.as_deref().unwrap_or(NO_HOST);
    if let Some(port) = uri.port {
        let _ = write!(out, ":{port}");
    }
    parameters(&mut out, call, uri.params.iter());
    out
}

/// A host as it may be shown: an address, or a name whose labels are no telephone number; `None`: it is one as a whole. Text in the place of a host
/// that is neither (RFC 3261 §25.1: the last label begins with a letter), counts as a number.
fn host(text: &str) -> Option<Cow<'_, str>> {
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Some(text.into());
    }
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
    let is_number = |label: &&str| !label.is_empty() && !label.bytes().any(|byte| byte.is_ascii_alphabetic());
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels: Vec<&str> = name.split('.').collect();
    let is_name = labels.last().is_some_and(|last| last.starts_with(|first: char| first.is_ascii_alphabetic()));
    let is_mostly_digits = digits(name) > DIGITS_MAX && 2 * digits(name) > name.len();
    if !is_name || labels.len() == 1 && is_mostly_digits {
        return None;
    }
    // ENUM (RFC 6116 §3.2) has a label for each digit.
    let has_number =
        |label: &str| label.split(|letter: char| !letter.is_ascii_digit()).any(|run| run.len() > DIGITS_MAX);
    let is_shown = |label: &&str| !is_number(label) && !has_number(label);
    let hidden: usize = labels.iter().filter(|label| !is_shown(label)).map(|label| digits(label)).sum();
    if hidden <= DIGITS_MAX {
        return Some(text.into());
    }
    let shown: Vec<&str> = labels.into_iter().map(|label| if is_shown(&label) { label } else { "x" }).collect();
    Some(shown.join(".").into())
}

fn parameters<'a>(out: &mut String, call: &Call, all: impl Iterator<Item = (&'a str, Option<&'a str>)>) {
    for (name, value) in all.take(PARAMETERS_MAX) {
        let name = name.to_ascii_lowercase();
        let _ = match value {
            _ if !is_one_of(&name, known::PARAMETERS) => write!(out, ";{CUT}"),
            None => write!(out, ";{name}"),
            Some(value) => write!(out, ";{name}={}", parameter(call, &name, value)),
        };
    }
}

fn parameter(call: &Call, name: &str, value: &str) -> String {
    let is_kept = match name {
        "tag" | "to-tag" | "from-tag" => return call.name(value),
        "branch" => {
            let cookie = if value.starts_with(BRANCH_COOKIE) { BRANCH_COOKIE } else { "" };
            return format!("{cookie}{}", call.name(value));
        }
        "received" => value.trim_matches(['[', ']']).parse::<IpAddr>().is_ok(),
        name if is_one_of(name, known::NUMBERS) => is_number(value),
        name if is_one_of(name, known::WORDS) => is_one_of(value.trim_matches('"'), known::VALUES),
        _ => false,
    };
    if is_kept { value.to_owned() } else { CUT.to_owned() }
}

/// The products of a User-Agent or Server, without comments.
fn products(value: &str) -> String {
    let mut depth = 0usize;
    let outside: String = value
        .chars()
        .filter(|letter| {
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => return depth == 0,
            }
            false
        })
        .collect();
    let is_token = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'!' | b'+' | b'~'))
    };
    let is_long = |text: &str| text.split(|letter: char| !letter.is_ascii_digit()).any(|run| run.len() > DIGITS_MAX);
    let is_product = |text: &&str| match text.split_once('/') {
        Some((name, version)) => {
            let is_version = version.starts_with(|first: char| first.is_ascii_digit());
            is_version && is_token(name) && is_token(version) && !is_long(name) && !is_long(version)
        }
        None => is_one_of(text, known::PRODUCTS),
    };
    let all: Vec<&str> = outside.split_ascii_whitespace().filter(is_product).collect();
    if all.is_empty() { CUT.to_owned() } else { all.join(" ") }
}

fn date(value: &str) -> String {
    let is_time = |part: &str| part.len() <= 8 && part.bytes().all(|byte| byte.is_ascii_digit() || byte == b':');
    let is_part = |part: &str| is_time(part) || is_one_of(part, known::DATE_WORDS);
    if value.split(' ').all(is_part) { value.to_owned() } else { CUT.to_owned() }
}

fn warning(element: &str) -> String {
    let code = element.split(' ').next().filter(|code| code.len() == 3 && is_number(code));
    format!("{} {CUT} \"{CUT}\"", code.unwrap_or("399"))
}

fn challenge(value: &str) -> String {
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    let kept = split(rest, ',').filter(|part| {
        let Some((name, value)) = part.split_once('=') else { return false };
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
        match name.as_str() {
            "realm" => host(value).is_some_and(|host| host == value) && is_host_name(value),
            "algorithm" | "qop" | "stale" => value.split(',').all(|one| is_one_of(one.trim(), known::CHALLENGE_WORDS)),
            _ => false,
        }
    });
    format!("{} {}", word(scheme, known::CHALLENGES), kept.collect::<Vec<_>>().join(", "))
}

/// Whether this is written as a host, and could be one.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    text.split('.').all(is_label) || text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// The `m=` lines of SDP.
fn media(message: &Message) -> String {
    let is_sdp = message.text(Name::ContentType).is_some_and(|kind| kind.to_ascii_lowercase().contains("sdp"));
    let body = String::from_utf8_lossy(message.body());
    let lines = body.lines().filter(|_| is_sdp).filter_map(|line| line.trim_end().strip_prefix("m="));
    lines.map(|line| format!("m={}\r\n", media_line(line))).collect()
}

fn media_line(line: &str) -> String {
    let part = |(at, part): (usize, &str)| match at {
        0 => word(part, known::MEDIA).to_owned(),
        2 => word(part, known::MEDIA_TRANSPORTS).to_owned(),
        _ => if part.split('/').all(is_number) || part == "*" { part } else { CUT }.to_owned(),
    };
    line.split(' ').enumerate().map(part).collect::<Vec<_>>().join(" ")
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
    fn a_telephone_number_that_stands_as_a_host_is_cut_like_a_user() {
        let of = |uri: &str| {
            let out = scrubbed(&format!(
                "INVITE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKv\r\nMax-Forwards: 70\r\nFrom: <{uri}>;tag=b\r\n\
                 To: <{uri}>\r\nCall-ID: c\r\nCSeq: 7 INVITE\r\nContact: <{uri}>\r\nP-Asserted-Identity: <{uri}>\r\nContent-Length: 0\r\n\r\n"
            ));
            let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
            for line in out.lines().filter(|line| line.contains("sip:")) {
                assert!(
                    !uri.contains("49") || digits(line.split(";tag=").next().unwrap()) <= DIGITS_MAX,
                    "{uri}: {line}"
                );
            }
            out.lines().next().unwrap().trim_start_matches("INVITE ").trim_end_matches(" SIP/2.0").to_owned()
        };
        for (uri, shown) in [
            ("sip:4915112345678", "sip:4...@invalid"),
            ("sip:4915112345678:5060;user=phone", "sip:4...@invalid:5060;user=phone"),
            ("sip:4915112345678.", "sip:4...@invalid"),
            ("sip:0049-151-12345678", "sip:0...@invalid"),
            ("sip:49.151.12345678", "sip:4...@invalid"),
            ("sip:tel4915112345678", "sip:t...@invalid"),
            ("sip:4915112345678.gw.example.net", "sip:x.gw.example.net"),
            ("sip:8.7.6.5.4.3.2.1.1.5.1.9.4.e164.arpa", "sip:x.x.x.x.x.x.x.x.x.x.x.x.x.e164.arpa"),
            ("sip:192.0.2.1", "sip:192.0.2.1"),
            ("sip:a@[2001:db8::1]", "sip:a...@[2001:db8::1]"),
            ("sip:a@sip3.example.com.", "sip:a...@sip3.example.com."),
            ("sip:a@tel4915112345678.example.net", "sip:a...@x.example.net"),
            ("sip:a@ec2-52-14-123-45.compute.example", "sip:a...@ec2-52-14-123-45.compute.example"),
        ] {
            assert_eq!(of(uri), shown, "{uri}");
        }
        for (realm, is_kept) in [
            ("example.com", true),
            ("asterisk", true),
            ("4915112345678", false),
            ("Smith of Elm Street", false),
            ("a@b", false),
        ] {
            assert_eq!(
                challenge(&format!("Digest realm=\"{realm}\", nonce=\"n\"")).contains(realm),
                is_kept,
                "{realm}"
            );
        }
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
            &format!("branch=z9hG4bK{}", Call::of("call").name("z9hG4bKvia")),
            &format!("From: <sip:g...@example.com;...>;tag={}", Call::of("call").name("bob")),
            // As `printf %s call | sha256sum | cut -c1-16` has it.
            "Call-ID: 7edb360f06acaef2\r\n",
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
    fn a_piece_of_a_password_is_no_host() {
        let out = scrubbed(
            "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:bob:p@geheim;x@h>;tag=1\r\n\
             To: <sip:a:p@geheim?x@b>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContact: <sip:a:geheim@b>\r\n\r\n",
        );
        assert!(!out.to_ascii_lowercase().contains("geheim"), "{out}");
        assert!(out.contains("From: <sip:...@invalid>;tag=") && out.contains("Contact: <sip:a...@b>"), "{out}");
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

    #[test]
    fn words_that_anybody_may_have_written_are_left_out_wherever_they_stand() {
        let out = scrubbed(
            "NOTIFY sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK-geheim-4917099887766;rport=5060;received=192.0.2.1;geheim=1\r\n\
             From: <sip:a@b;geheim>;tag=4917099887766;geheim\r\nTo: <sip:a@b>;tag=geheim\r\nCall-ID: 4917099887766-geheim@gw\r\n\
             CSeq: 1 NOTIFY\r\nMax-Forwards: 70\r\n\
             Reason: SIP;cause=200;text=\"for Geheim, +4917099887766\", Q.850;cause=16;geheim=1, geheim;cause=4917099887766\r\n\
             Warning: 399 geheim \"caller 4917099887766, geheim\"\r\n\
             User-Agent: Geheims iPhone Linphone/5.2.1 (Geheims iPhone (4917099887766)) x/4917099887766\r\nServer: kamailio (geheim)\r\n\
             Event: geheim;id=4917099887766\r\nSubscription-State: terminated;reason=geheim;expires=60\r\n\
             Allow-Events: presence, geheim\r\nContent-Disposition: geheim;handling=optional\r\nSupported: timer, geheim\r\n\
             Allow: INVITE, GEHEIM\r\nAccept: application/sdp;q=0.5, text/geheim\r\nRetry-After: 5 (geheim, 4917099887766);duration=60\r\n\
             Session-Expires: 1800;refresher=uac;geheim=1\r\nExpires: 4917099887766\r\nDate: Sat, 13 Nov 2010 23:29:00 GMT\r\n\
             Privacy: id;geheim\r\nP-Early-Media: geheim\r\nTimestamp: 4917099887766\r\nFeature-Caps: *;+geheim=\"x\"\r\n\
             Contact: <geheim:4917099887766>\r\nContent-Type: application/sdp;geheim=geheim\r\n\r\n\
             m=geheim 4917099887766 RTP/GEHEIM 0 geheim\r\n",
        );
        let lower = out.to_ascii_lowercase();
        assert!(!lower.contains("geheim") && !lower.contains("49170"), "{out}");
        for kept in [
            ";rport=5060;received=192.0.2.1;...\r\n",
            "Reason: SIP;cause=200;text=..., Q.850;cause=16;..., ...;cause=...\r\n",
            "Warning: 399 ... \"...\"\r\n",
            "User-Agent: Linphone/5.2.1\r\n",
            "Server: kamailio\r\n",
            "Event: ...;id=...\r\n",
            "Subscription-State: terminated;reason=...;expires=60\r\n",
            "Allow-Events: presence, ...\r\n",
            "Content-Disposition: ...;handling=optional\r\n",
            "Supported: timer, ...\r\n",
            "Accept: application/sdp;q=0.5, ...\r\n",
            "Retry-After: 5\r\n",
            "Session-Expires: 1800;refresher=uac;...\r\n",
            "Date: Sat, 13 Nov 2010 23:29:00 GMT\r\n",
            "m=... ... ... 0 ...\r\n",
        ] {
            assert!(out.contains(kept), "{kept}: {out}");
        }
    }

    #[test]
    fn one_call_is_one_call_in_a_trace_and_its_tags_are_nobodys_elsewhere() {
        let of = |call: &str| {
            scrubbed(&format!(
                "BYE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>;tag=2\r\n\
                 i: {call}\r\nCSeq: 2 BYE\r\n\r\n"
            ))
        };
        let from = |text: &str| text.lines().find(|line| line.starts_with("From:")).map(str::to_owned);
        let (once, again, other) = (of("one"), of("one"), of("another"));
        assert_eq!(once, again);
        assert_ne!(from(&once), from(&other));
        // Another call that takes its place names it alike.
        let replacing = scrubbed(
            "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=9\r\nTo: <sip:a@b>\r\n\
             i: third\r\nCSeq: 1 INVITE\r\nReplaces: one ;to-tag=2;from-tag=1;geheim\r\n\r\n",
        );
        let (call, to, of) = (name_of("one"), Call::of("one").name("2"), Call::of("one").name("1"));
        assert!(replacing.contains(&format!("Replaces: {call};to-tag={to};from-tag={of};...\r\n")), "{replacing}");
        assert!(once.contains(&call) && once.contains(&format!(";tag={to}")));
    }

    #[test]
    fn of_what_no_call_has_so_much_of_the_first_is_kept() {
        let head = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
                    i: c\r\nCSeq: 1 INVITE\r\n";
        let many = |text: &str, count: usize| text.repeat(count);
        let contact = many(";tag=a", 10_000);
        let out = scrubbed(&format!("{head}Contact: <sip:a@b{0}>{0}\r\n\r\n", &contact[..contact.len() / 2]));
        assert_eq!(out.matches(&Call::of("c").name("a")).count(), 2 * PARAMETERS_MAX);
        for (name, element) in [("Contact", "<sip:a@b>"), ("Supported", "100rel"), ("Via", "SIP/2.0/UDP a")] {
            let out = scrubbed(&format!("{head}{name}: {element}{}\r\n\r\n", many(&format!(",{element}"), 70)));
            assert_eq!(out.lines().rfind(|line| line.starts_with(name)).unwrap().split(", ").count(), 71, "{name}");
        }
        let out = scrubbed(&format!("{head}Contact: <sip:a@b>{}\r\n\r\n", many(",<sip:a@b>", 2_000)));
        assert_eq!(out.matches("<sip:a...@b>, ").count(), ELEMENTS_MAX - 1);
        let lines = many("Supported: x;tag=a;tag=b;tag=c;tag=d;tag=e;tag=f;tag=g;tag=h\r\n", 500);
        let out = scrubbed(&format!("{head}{lines}Content-Type: application/sdp\r\n\r\nm=audio 4000 RTP/AVP 0"));
        assert!((HEAD_BYTES..HEAD_BYTES + 512).contains(&out.len()), "{}", out.len());
        assert!(out.ends_with("m=audio 4000 RTP/AVP 0\r\n"));
    }
}
