//! URIs: `sip:` and `sips:` taken apart, others kept whole (RFC 3261 §19.1, §25.1).
//!
//! Invariant: a view into its text. Whatever [`Uri::parse`] accepts has no white space, no control character, no angle
//! bracket and no quote, so it can stand in a message again.

use std::borrow::Cow;
use std::net::Ipv6Addr;

use memchr::memchr;

use super::Params;
use super::grammar::{Class, all, digits, find_unquoted, split_once};

/// The longest URI that is compared part by part, in bytes: the time grows with the square of it.
const COMPARED_BYTES: usize = 512;

/// The scheme of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// Any other, such as `tel:`.
    Other,
}

/// A URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// The scheme.
    pub scheme: Scheme,
    /// The user part as written, escapes kept; `None` when there is none. Empty for another scheme.
    pub user: Option<&'a str>,
    /// The host as written; an IPv6 address keeps its brackets. Empty for another scheme.
    pub host: &'a str,
    /// The port, 1 to 65,535.
    pub port: Option<u16>,
    /// The parameters, up to the headers.
    pub params: Params<'a>,
    /// The headers behind `?`, as written.
    pub headers: Option<&'a str>,
    /// The whole URI as written.
    pub text: &'a str,
}

impl<'a> Uri<'a> {
    /// Reads a URI that stands alone.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_at(memchr(b':', text.as_bytes())?);
        let rest = &rest[1..];
        let known = match () {
            () if scheme.eq_ignore_ascii_case("sip") => Scheme::Sip,
            () if scheme.eq_ignore_ascii_case("sips") => Scheme::Sips,
            () => Scheme::Other,
        };
        if known == Scheme::Other && !is_scheme(scheme) || rest.is_empty() || !all(text.as_bytes(), Class::Plain) {
            return None;
        }
        if known == Scheme::Other {
            let params = Params::default();
            return Some(Self { scheme: known, user: None, host: "", port: None, params, headers: None, text });
        }
        // The user part may hold `;` and `?`, so it is cut off first (RFC 4475 §3.1.1.1, semicolons in the user part).
        let (user, rest) = match memchr(b'@', rest.as_bytes()) {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (rest, headers) = match memchr(b'?', rest.as_bytes()) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let (address, params) = rest.split_at(memchr(b';', rest.as_bytes()).unwrap_or(rest.len()));
        let (host, port) = split_host_port(address)?;
        if user.is_some_and(|user| user.is_empty() || user.starts_with(':')) {
            return None;
        }
        let user = user.map(|user| split_once(user, b':').map_or(user, |(user, _password)| user));
        Some(Self { scheme: known, user, host, port, params: Params::parse(params)?, headers, text })
    }

    /// Whether its scheme is `sip` or `sips`.
    pub fn is_sip(text: &str) -> bool {
        let scheme = split_once(text, b':').map(|(scheme, _)| scheme);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips"))
    }

    /// The user of a SIP URI, also of one that breaks its grammar behind the user: what somebody has put onto an address of ours
    /// on the way does not hide whose it is.
    pub fn user_of(text: &'a str) -> Option<&'a str> {
        let (_, rest) = split_once(text, b':').filter(|_| Self::is_sip(text))?;
        let user = split_once(rest, b'@')?.0;
        Some(split_once(user, b':').map_or(user, |(user, _password)| user)).filter(|user| !user.is_empty())
    }

    /// The parameters of a SIP URI, also of one that breaks its grammar: what a server on the way has put into it hides no others.
    pub fn params_of(text: &'a str) -> Params<'a> {
        let Some((_, rest)) = split_once(text, b':').filter(|_| Self::is_sip(text)) else { return Params::default() };
        let rest = split_once(rest, b'@').map_or(rest, |(_, behind)| behind);
        let rest = &rest[..find_unquoted(rest, b'?').unwrap_or(rest.len())];
        Params::loose(&rest[find_unquoted(rest, b';').unwrap_or(rest.len())..])
    }

    /// A user as it is compared (RFC 3261 §19.1.4): without its escapes, but for those of what is reserved. It may hold what no URI may.
    pub fn unescaped_user(user: &str) -> Cow<'_, str> {
        unescaped(user)
    }

    /// User and host of what stands behind the scheme of a URI, also of one that breaks its grammar behind the host; `None` where there is no
    /// user, and where more than one `@` leaves open which is which.
    pub fn user_and_host_of(rest: &'a str) -> Option<(&'a str, &'a str)> {
        let (user_info, behind) = split_once(rest, b'@').filter(|(_, behind)| !behind.contains('@'))?;
        let user = split_once(user_info, b':').map_or(user_info, |(user, _password)| user);
        if user.is_empty() || !all(user.as_bytes(), Class::Plain) {
            return None;
        }
        let is_end = |port: &str| match port.as_bytes() {
            [] | [b':'] => true,
            [b':', first, more @ ..] => first.is_ascii_digit() && !more.contains(&b':'),
            _ => false,
        };
        let address = &behind[..behind.find([';', '?', '/']).unwrap_or(behind.len())];
        let (host, port) = match address.find(']').filter(|_| address.starts_with('[')) {
            Some(close) => address.split_at(close + 1),
            None => address.split_at(address.find(':').unwrap_or(address.len())),
        };
        let sound = split_host_port(host).is_some_and(|(whole, _)| whole == host);
        (sound && is_end(port)).then_some((user, host))
    }

    /// Whether a request may have it as its target although it breaks its grammar: it has a scheme, and nothing in it is taken
    /// for the end of it. One with headers behind `?` is none.
    pub(super) fn is_legible(text: &str) -> bool {
        let scheme = text.split_once(':').filter(|(_, rest)| !rest.is_empty()).map(|(scheme, _)| scheme);
        let plain = |b: u8| b > b' ' && !matches!(b, b'<' | b'>' | b'?' | 0x7f);
        scheme.is_some_and(is_scheme) && text.bytes().all(plain)
    }

    /// Whether two URIs are equal (RFC 3261 §19.1.4); those of another scheme, or of more than 512 bytes, when they are
    /// written alike.
    pub fn is_equivalent(&self, other: &Uri<'_>) -> bool {
        let long = self.text.len().max(other.text.len()) > COMPARED_BYTES;
        if self.scheme == Scheme::Other || long || self.text == other.text {
            return self.text == other.text;
        }
        self.scheme == other.scheme
            && match (self.user_info(), other.user_info()) {
                (Some(one), Some(other)) => units(one).eq(units(other)),
                (one, other) => one == other,
            }
            && self.has_host_of(other)
            && self.port == other.port
            && self.has_params_of(other)
            && other.has_params_of(self)
            && self.has_headers_of(other)
            && other.has_headers_of(self)
    }

    /// The host in one form: a name in lower case, an IPv6 address as RFC 5952 writes it, for it is compared by its value (RFC 5954 §4.2).
    pub fn canonical_host(&self) -> String {
        let inside = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = inside.and_then(|host| host.parse::<Ipv6Addr>().ok());
        address.map_or_else(|| self.host.to_ascii_lowercase(), |address| format!("[{address}]"))
    }

    fn has_host_of(&self, other: &Uri<'_>) -> bool {
        self.host.eq_ignore_ascii_case(other.host)
            || self.host.starts_with('[') && self.canonical_host() == other.canonical_host()
    }

    /// User and password as written.
    fn user_info(&self) -> Option<&'a str> {
        self.user.and_then(|_| Some(self.text.split_once(':')?.1.split_once('@')?.0))
    }

    /// Whether no parameter of another URI contradicts this one: some that stand in one of two alone make them two.
    fn has_params_of(&self, other: &Uri<'_>) -> bool {
        const DECIDES: &[&str] = &["transport", "user", "ttl", "method", "maddr"];
        other.params.iter().all(|(name, value)| match self.params.get(name) {
            Some(own) => match (own, value) {
                (Some(own), Some(value)) => units(own).map(lower).eq(units(value).map(lower)),
                (own, value) => own == value,
            },
            None => !DECIDES.iter().any(|known| known.eq_ignore_ascii_case(name)),
        })
    }

    fn has_headers_of(&self, other: &Uri<'_>) -> bool {
        let own = || self.headers.unwrap_or_default().split('&');
        let is_own = |header: &str| own().any(|own| units(own).map(lower).eq(units(header).map(lower)));
        self.headers.is_some() == other.headers.is_some() && other.headers.unwrap_or_default().split('&').all(is_own)
    }

    /// The part of a Contact that may be a Request-URI: without the headers after `?`, and without `method` (RFC 3261 §19.1.1). `text` may also be no
    /// URI.
    pub fn request_uri_of(text: &'a str) -> Cow<'a, str> {
        let Some(uri) = Self::parse(text) else {
            let host = text.find('@').unwrap_or_default();
            return memchr(b'?', &text.as_bytes()[host..]).map_or(text, |at| &text[..host + at]).into();
        };
        let end = uri.headers.map_or(text.len(), |headers| text.len() - headers.len() - 1);
        if uri.params.get("method").is_none() {
            return text[..end].into();
        }
        let mut target = text[..end - uri.params.as_str().len()].to_owned();
        for (name, value) in uri.params.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("method")) {
            target.push(';');
            target.push_str(name);
            if let Some(value) = value {
                target.push('=');
                target.push_str(value);
            }
        }
        target.into()
    }

    /// The `transport` parameter as written.
    pub fn transport(&self) -> Option<&'a str> {
        self.params.value("transport")
    }
}

/// Characters that mean something else where they are escaped in a part of a URI (RFC 3261 §25.1).
const RESERVED: &[u8] = b";/?:@&=+$,%";

/// The byte that an escape at the beginning stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'%', high, low, ..] = text else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    Some((digit(high)? * 16 + digit(low)?) as u8)
}

/// A user as it is compared: `%41` is `A`, and what is reserved stays escaped, in upper case (RFC 3261 §19.1.4). Of one that is no text then
/// only ASCII is unescaped.
pub(crate) fn unescaped(user: &str) -> Cow<'_, str> {
    let Some(first) = memchr(b'%', user.as_bytes()) else { return Cow::Borrowed(user) };
    let unescape = |is_plain: fn(u8) -> bool| {
        let (mut bytes, mut rest) = (Vec::with_capacity(user.len()), &user.as_bytes()[first..]);
        bytes.extend_from_slice(&user.as_bytes()[..first]);
        while let Some((byte, behind)) = rest.split_first() {
            match escape(rest) {
                Some(plain) if is_plain(plain) => bytes.push(plain),
                Some(_) => bytes.extend([b'%', behind[0].to_ascii_uppercase(), behind[1].to_ascii_uppercase()]),
                None => bytes.push(*byte),
            }
            rest = if escape(rest).is_some() { &behind[2..] } else { behind };
        }
        String::from_utf8(bytes).map_err(drop)
    };
    let text = unescape(|plain| !RESERVED.contains(&plain));
    let text = text.or_else(|()| unescape(|plain| plain.is_ascii() && !RESERVED.contains(&plain)));
    text.map_or(Cow::Borrowed(user), Cow::Owned)
}

/// A part of a URI with each escape as the byte that it stands for.
pub(crate) fn wholly_unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        let escaped = escape(rest);
        bytes.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// The characters of a part of a URI, an escape as what it stands for, unless that is reserved (RFC 3261 §19.1.4).
fn units(text: &str) -> impl Iterator<Item = u16> {
    const ESCAPED: u16 = 0x100;
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (byte, behind) = rest.split_first()?;
        let Some(escaped) = escape(rest) else {
            rest = behind;
            return Some((*byte).into());
        };
        rest = &behind[2..];
        Some(if RESERVED.contains(&escaped) { ESCAPED | u16::from(escaped) } else { escaped.into() })
    })
}

fn lower(unit: u16) -> u16 {
    u8::try_from(unit).map_or(unit, |byte| byte.to_ascii_lowercase().into())
}

/// Takes `host`, `host:port`, `[v6]` or `[v6]:port` apart; `None` when the host or the port breaks the grammar.
pub(super) fn split_host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if text.starts_with('[') {
        let (host, rest) = text.split_at(text.find(']')? + 1);
        is_ipv6(&host[1..host.len() - 1]).then_some(())?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        let (host, port) = split_once(text, b':').map_or((text, None), |(host, port)| (host, Some(port)));
        if host.is_empty() || !all(host.as_bytes(), Class::Host) {
            return None;
        }
        (host, port)
    };
    let Some(port) = port else {
        return Some((host, None));
    };
    Some((host, Some(parse_port(port)?)))
}

fn is_scheme(text: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.bytes().all(legal)
}

/// A port, 1 to 65,535; leading zeros are allowed, as the grammar does.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    digits(text.as_bytes()).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// RFC 3261 §25.1 put one colon too many before an embedded IPv4 address, and RFC 5118 §4.10 asks to read it.
fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
        || text.contains(":::") && text.replacen(":::", "::", 1).parse::<Ipv6Addr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_is_compared_by_its_value() {
        let one = Uri::parse("sip:a@[2001:DB8::1]:5060").unwrap();
        for (other, is_equal) in [
            ("sip:a@[2001:db8:0:0:0:0:0:1]:5060", true),
            ("sip:a@[2001:db8::0001]:5060", true),
            ("sip:a@[2001:db8::2]:5060", false),
            ("sip:a@example.com:5060", false),
        ] {
            assert_eq!(one.is_equivalent(&Uri::parse(other).unwrap()), is_equal, "{other}");
        }
        assert_eq!(one.canonical_host(), "[2001:db8::1]");
        assert_eq!(Uri::parse("sip:a@Example.COM").unwrap().canonical_host(), "example.com");
    }

    #[test]
    fn a_user_is_compared_without_its_escapes() {
        for (written, means) in [
            ("alice", "alice"),
            ("%61lice", "alice"),
            ("a%6C%69ce%", "alice%"),
            ("a%40b%3B%63", "a%40b%3Bc"),
            ("100%zz%4", "100%zz%4"),
            ("%ff", "%FF"),
            ("%61%fflice%3b", "a%FFlice%3B"),
            ("%C3%BC", "ü"),
        ] {
            assert_eq!(unescaped(written), means, "{written}");
        }
    }

    #[test]
    fn a_sip_uri_is_taken_apart() {
        let uri = Uri::parse("SIPS:+1-212:pw@[2001:db8::1]:05061;transport=tls;lr?Route=%3Ca%3E").unwrap();
        assert_eq!(
            (uri.scheme, uri.user, uri.host, uri.port),
            (Scheme::Sips, Some("+1-212"), "[2001:db8::1]", Some(5061))
        );
        assert_eq!(
            (uri.transport(), uri.params.get("LR"), uri.headers),
            (Some("tls"), Some(None), Some("Route=%3Ca%3E"))
        );
        let bare = Uri::parse("sip:example.com").unwrap();
        assert_eq!((bare.user, bare.host, bare.port), (None, "example.com", None));
        let tel = Uri::parse("tel:+1-201-555-0123;phone-context=x").unwrap();
        assert_eq!((tel.scheme, tel.host), (Scheme::Other, ""));
    }

    /// The examples of RFC 3261 §19.1.4.
    #[test]
    fn uris_are_equal_by_what_they_mean() {
        let equal = |one: &str, other: &str| {
            let (one, other) = (Uri::parse(one).expect("a URI"), Uri::parse(other).expect("a URI"));
            assert_eq!(one.is_equivalent(&other), other.is_equivalent(&one), "{} {}", one.text, other.text);
            one.is_equivalent(&other)
        };
        for (one, other) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtlanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("sip:h;lr", "sip:h"),
        ] {
            assert!(equal(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:bob@h", "sips:bob@h"),
            ("sip:bob@h", "sip:h"),
            ("sip:bob:1@h", "sip:bob:2@h"),
            ("sip:a%3Bb@h", "sip:a;b@h"),
            ("sip:a%2541@h", "sip:aA@h"),
            ("tel:+1", "tel:+2"),
        ] {
            assert!(!equal(one, other), "{one} {other}");
        }
    }

    #[test]
    fn a_request_uri_has_no_headers_and_no_method() {
        for (contact, target) in [
            ("sip:x@y", "sip:x@y"),
            ("sip:x@y?Subject=1", "sip:x@y"),
            ("sip:x@y;transport=tls?Route=%3Ca%3E&Subject=1", "sip:x@y;transport=tls"),
            ("sip:x@y;a;Method=BYE;lr;transport=tls?X=1", "sip:x@y;a;lr;transport=tls"),
            ("sip:x?m@y;method=BYE", "sip:x?m@y"),
            ("sip:x;method=BYE@y", "sip:x;method=BYE@y"),
            ("sip:x@y?", "sip:x@y"),
            ("sip:x@y;;lr?Subject=1", "sip:x@y;;lr"),
            ("sip:x@y;;lr?To=sip:z@y?", "sip:x@y;;lr"),
            ("sip:x@y;a=\"b\"?Subject=1", "sip:x@y;a=\"b\""),
            ("tel:+1;phone-context=x", "tel:+1;phone-context=x"),
        ] {
            assert_eq!(Uri::request_uri_of(contact), target, "{contact}");
        }
    }

    #[test]
    fn what_breaks_the_grammar_is_no_uri() {
        for bad in [
            "",
            "sip",
            "sip:",
            ":a",
            "1sip:a",
            "s p:a",
            "sip:@b",
            "sip::pw@b",
            "sip:a@",
            "sip:a@b@c",
            "sip:a@b c",
            "sip:a@b\r\nX:",
            "sip:a@b>",
            "<sip:a@b>",
            "sip:a@\"b\"",
            "sip:a@b:0",
            "sip:a@b:65536",
            "sip:a@b:-1",
            "sip:a@b:",
            "sip:a@b:5060x",
            "sip:a@b:99999999999",
            "sip:a@[::1",
            "sip:a@[::1]x",
            "sip:a@[]",
            "sip:a@[::g]",
            "sip:a@[fe80::1%25eth0]",
            "sip:a@[fe80::1%eth0]",
            "sip:a@2001:db8::1",
            "sip:a@[1.2.3.4]",
            "sip:a@b;",
            "sip:a@b;=x",
            "sip:a@b;;lr",
            "sip:a@b\u{7f}",
            "sip:a@b\u{0}",
            "sip:a@h\u{e9}",
            "tel:",
            "sip:a@[:::::]",
        ] {
            assert_eq!(Uri::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_user_is_read_whatever_stands_behind_it() {
        for text in ["sip:u@h;x=\"y\"", "SIP:u:pw@h;;", "sips:u@", "sip:u@h:0;lr", "sip:u@h@h"] {
            assert_eq!(Uri::user_of(text), Some("u"), "{text}");
        }
        for text in ["sip:h;x=\"u\"", "tel:u@h", "sip:@h", "sip::pw@h", "u@h"] {
            assert_eq!(Uri::user_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_target_may_break_its_grammar_and_end_nowhere_else() {
        for text in ["sip:a@h;x=\"y\"", "sip:@h", "sip:a@h;;lr", "sip:a@h\u{f6}st", "sip:2001:db8::10", "x:y"] {
            assert!(Uri::is_legible(text), "{text}");
        }
        for text in
            ["", "sip", "sip:", ":a", "<sip:a@h>", "sip:a b", "sip:a\tb", "sip:a\r\nb", "sip:a;;?X=y", "s p:a", "*"]
        {
            assert!(!Uri::is_legible(text), "{text}");
        }
    }

    #[test]
    fn the_colon_too_many_of_rfc_3261_is_read() {
        assert!(Uri::parse("sip:user@[2001:db8:::192.0.2.1]").is_some());
        assert!(Uri::parse("sip:user@[2001:db8::192.0.2.1]").is_some());
        assert!(Uri::parse("sip:user@[::ffff:192.0.2.10]:19823").is_some());
    }
}
