//! Routes and other addresses that must be sound to count: `"Bob" <sip:bob@example.com>;lr` (RFC 3261 §20.10, name-addr and addr-spec).
//!
//! Invariant: a view into its text; without angle brackets, parameters belong to the header and not to the URI.

use super::grammar::{find_unquoted, is_lws, is_quoted, trim};
use super::{Params, Uri};

/// A URI with header parameters, behind a display name or not. From, To and Contact, which count however odd they are, are a [`super::Party`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The URI.
    pub uri: Uri<'a>,
    /// The parameters behind the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads an address.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = trim(text);
        match find_unquoted(text, b'<') {
            Some(open) => {
                let display = trim(&text[..open]);
                let close = open + text[open..].find('>')?;
                if !display_is_sound(display) {
                    return None;
                }
                Some(Self { uri: Uri::parse(&text[open + 1..close])?, params: Params::parse(&text[close + 1..])? })
            }
            None => {
                let (uri, params) = text.split_at(text.find(';').unwrap_or(text.len()));
                // RFC 3261 §20: a URI with a comma, question mark or semicolon must be in angle brackets.
                let uri = trim(uri);
                if uri.contains([',', '?']) {
                    return None;
                }
                Some(Self { uri: Uri::parse(uri)?, params: Params::parse(params)? })
            }
        }
    }

    /// As a value of Route: whether it names a strict router (RFC 3261 §12.2.1.1). Without angle brackets, `lr` stands behind
    /// the URI.
    pub fn is_strict_router(&self) -> bool {
        self.uri.params.get("lr").is_none() && self.params.get("lr").is_none()
    }

    /// The URI as Request-URI: without headers, which may not stand there (RFC 3261 §19.1.1).
    pub fn request_uri(&self) -> &'a str {
        self.uri.text.split('?').next().unwrap_or(self.uri.text)
    }
}

/// Tokens with white space between them, or one quoted string. Other characters than those of a token are let pass, as
/// phones send them (RFC 4475 §3.1.2.15), but for those that would read as another structure.
fn display_is_sound(display: &str) -> bool {
    let odd = |b: u8| matches!(b, b'"' | b'>') || b.is_ascii_control() && !is_lws(b);
    is_quoted(display) || !display.bytes().any(odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_angle_brackets() {
        let address = NameAddr::parse("\"Bob <b> \\\"B\\\"\"<sip:bob@example.com;lr>;tag=1").unwrap();
        assert_eq!((address.uri.user, address.params.value("tag")), (Some("bob"), Some("1")));
        assert_eq!(address.uri.params.get("lr"), Some(None));
        let bare = NameAddr::parse("sip:bob@example.com;tag=2").unwrap();
        assert_eq!((bare.params.value("tag"), bare.uri.text), (Some("2"), "sip:bob@example.com"));
        let loose = NameAddr::parse("Zo\u{eb} (home), 2nd <tel:+1>").unwrap();
        assert_eq!(loose.uri.text, "tel:+1");
    }

    #[test]
    fn a_broken_address_is_none() {
        for bad in [
            "",
            "<>",
            "<sip:a@b",
            "sip:a@b>",
            "\"a <sip:a@b>",
            "\"a\" b <sip:a@b>",
            "a \"b\" <sip:a@b>",
            "a\u{0} <sip:a@b>",
            "<sip:a@b>x",
            "<sip:a@b>;tag=\"1",
            "< sip:a@b >",
            "sip:a@b?Route=c",
            "sip:a@b,c",
            "<sip:a@b>;tag=1,<sip:c@d>",
            "a> <sip:a@b>",
            "<<sip:a@b>>",
            "*",
        ] {
            assert_eq!(NameAddr::parse(bad), None, "{bad:?}");
        }
    }
}
