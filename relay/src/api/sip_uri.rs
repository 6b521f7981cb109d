//! SIP URIs as an account names them (RFC 3261 §19.1): read by [`Uri`], and then held to a policy.
//!
//! Invariant: what passes holds no header, no password and no parameter but those named here, and nothing that could end
//! a SIP header field; so it may be put into one. The written form has scheme, host and parameters in lower case.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use sip::message::{Scheme, Uri};

/// The longest URI, in characters.
pub const MAX_URI: usize = 255;
/// The longest host name (RFC 1035 §2.3.4).
const MAX_HOST: usize = 253;
/// The longest label of a host name (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// The error for a host with non-ASCII letters: SIP has none (RFC 3261 §25.1), and the DNS none but by RFC 5890.
pub(super) const IN_ASCII: &str =
    "expected a host in ASCII; write a name of other letters in its xn-- form (punycode, RFC 5890)";

/// A SIP URI that may be used.
#[derive(Clone, PartialEq, Eq)]
pub struct SipUri {
    secure: bool,
    user: Option<Box<str>>,
    host: Box<str>,
    port: Option<u16>,
    transport: Option<&'static str>,
    loose: bool,
}

impl SipUri {
    /// An address of record: `sip:` or `sips:`, a user, a host and at most a port. The error says what is expected.
    pub fn address_of_record(text: &str) -> Result<Self, &'static str> {
        let uri = Self::parse(text, |_, _| Err("expected an address of record without parameters: sip:user@host"))?;
        match uri {
            Self { user: None, .. } => Err("expected a user before the host: sip:user@host"),
            uri => Ok(uri),
        }
    }

    /// A registrar or a proxy: `sip:` or `sips:`, a host, at most a port, `transport` and `lr`.
    pub fn server(text: &str) -> Result<Self, &'static str> {
        let uri = Self::parse(text, Self::take_param)?;
        match uri {
            Self { user: Some(_), .. } => Err("expected a server without a user: sip:host"),
            Self { secure: true, transport: Some("udp" | "tcp"), .. } => {
                Err("expected transport=tls or none beside sips:")
            }
            _ => Ok(uri),
        }
    }

    /// Whether it is a `sips:` one, whose every hop is TLS (RFC 3261 §26.2.2).
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether it names a transport in the clear.
    pub fn is_in_the_clear(&self) -> bool {
        matches!(self.transport, Some("udp" | "tcp"))
    }

    /// The user with its escapes resolved; `None` when there is none or it is not text without control characters.
    pub fn plain_user(&self) -> Option<String> {
        let escaped = self.user.as_deref()?;
        let mut plain = Vec::with_capacity(escaped.len());
        let mut bytes = escaped.bytes();
        while let Some(byte) = bytes.next() {
            plain.push(if byte == b'%' { hex(bytes.next()?)? << 4 | hex(bytes.next()?)? } else { byte });
        }
        String::from_utf8(plain).ok().filter(|user| !user.chars().any(char::is_control))
    }

    /// Reads with the one reader of URIs there is, and then asks more than that does. `param` judges each parameter.
    fn parse(text: &str, param: impl Fn(&mut Self, &str) -> Result<(), &'static str>) -> Result<Self, &'static str> {
        if text.len() > MAX_URI {
            return Err("expected at most 255 characters");
        }
        let (scheme, rest) = text.split_once(':').unwrap_or_default();
        if !["sip", "sips"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err("expected a URI that begins with sip: or sips:");
        }
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
        if !place[..place.find([':', ';', '?']).unwrap_or(place.len())].is_ascii() {
            return Err(IN_ASCII);
        }
        check_port(place.split(';').next().unwrap_or(place))?;
        let uri = Uri::parse(text).ok_or("expected a URI such as sip:user@host or sip:host:5061;transport=tls")?;
        if uri.headers.is_some() {
            return Err("expected a URI without headers");
        }
        // The reader leaves a password out; here it is one character too many.
        let user = rest.rsplit_once('@').map(|(user, _)| check_user(user)).transpose()?;
        let secure = uri.scheme == Scheme::Sips;
        let mut own = Self { secure, user, host: check_host(uri.host)?, port: uri.port, transport: None, loose: false };
        for each in uri.params.as_str().split(';').skip(1) {
            param(&mut own, each)?;
        }
        Ok(own)
    }

    fn take_param(&mut self, param: &str) -> Result<(), &'static str> {
        let param = param.to_ascii_lowercase();
        let transport = match param.as_str() {
            "lr" if !self.loose => {
                self.loose = true;
                return Ok(());
            }
            "transport=udp" => "udp",
            "transport=tcp" => "tcp",
            "transport=tls" => "tls",
            _ => return Err("expected no parameters but transport=udp, tcp or tls, and lr, each once"),
        };
        match self.transport.replace(transport) {
            None => Ok(()),
            Some(_) => Err("expected one transport"),
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(transport) = self.transport {
            write!(f, ";transport={transport}")?;
        }
        f.write_str(if self.loose { ";lr" } else { "" })
    }
}

/// RFC 3261 §25.1, `user`: unreserved, escaped or user-unreserved. A colon would begin a password.
fn check_user(user: &str) -> Result<Box<str>, &'static str> {
    const EXPECTED: &str = "expected a user of letters, digits, -_.!~*'()&=+$,;?/ and %-escapes, and no password";
    let mut bytes = user.bytes();
    if user.is_empty() {
        return Err(EXPECTED);
    }
    while let Some(byte) = bytes.next() {
        let fits = match byte {
            b'%' => bytes.next().and_then(hex).is_some() && bytes.next().and_then(hex).is_some(),
            _ => byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte),
        };
        if !fits {
            return Err(EXPECTED);
        }
    }
    Ok(user.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

/// A port is written in one way: without leading zeros.
fn check_port(place: &str) -> Result<(), &'static str> {
    let behind_address = place.rfind(']').map_or(place, |end| &place[end..]);
    let Some((_, digits)) = behind_address.split_once(':') else { return Ok(()) };
    let canonical = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u16>() {
        Ok(_) if canonical => Ok(()),
        _ => Err("expected a port from 1 to 65535"),
    }
}

/// A host name (with underscores, as names of machines and containers have them), an IPv4 address in its one usual form, or an IPv6 address
/// in brackets.
fn check_host(host: &str) -> Result<Box<str>, &'static str> {
    const EXPECTED: &str = "expected a host name, an IPv4 address, or an IPv6 address in brackets";
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(address) => Ok(format!("[{address}]").into()),
            Err(_) => Err(EXPECTED),
        };
    }
    let label_fits = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > MAX_HOST || !host.split('.').all(label_fits) {
        return Err(EXPECTED);
    }
    // A last label that is a number makes resolvers read an address, in octal or hexadecimal too: only the usual form.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.starts_with(|first: char| first.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return Err(EXPECTED);
    }
    Ok(host.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_record_is_read_and_written_in_one_form() {
        for (text, written) in [
            ("sip:alice@example.com", "sip:alice@example.com"),
            ("SIPS:Alice@EXAMPLE.com:5061", "sips:Alice@example.com:5061"),
            ("sip:+4930123@192.0.2.1", "sip:+4930123@192.0.2.1"),
            ("sip:alice@Asterisk_PBX.lan", "sip:alice@asterisk_pbx.lan"),
            ("sip:alice@_pbx", "sip:alice@_pbx"),
            ("sip:a%40b@[2001:DB8::1]", "sip:a%40b@[2001:db8::1]"),
        ] {
            assert_eq!(SipUri::address_of_record(text).ok().map(|uri| uri.to_string()).as_deref(), Some(written));
        }
        let uri = SipUri::address_of_record("sip:a%40b@example.com").unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(uri.plain_user().as_deref(), Some("a@b"));
    }

    #[test]
    fn what_is_no_address_of_record_is_refused() {
        for text in [
            "",
            "alice",
            "sip:",
            "sip:@example.com",
            "sip:example.com",
            "tel:+4930",
            "mailto:alice@example.com",
            "sip:alice:secret@example.com",
            "sip:alice@example.com;transport=tls",
            "sip:alice@example.com?Route=x",
            "sip:alice@example.com\r\nVia: x",
            "sip:al ice@example.com",
            "sip:al%4@example.com",
            "sip:a@b@example.com",
            "sip:alice@exa mple.com",
            "sip:alice@-example.com",
            "sip:alice@example..com",
            "sip:alice@example.com.",
            "sip:alice@example.com:0",
            "sip:alice@example.com:65536",
            "sip:alice@example.com:05061",
            "sip:alice@example.com:",
            "sip:alice@2130706433",
            "sip:alice@0177.0.0.1",
            "sip:alice@127.1",
            "sip:alice@0x7f.0.0.0x1",
            "sip:alice@[::1",
            "sip:alice@[fe80::1%25eth0]",
            "sip:ålice@example.com",
        ] {
            assert!(SipUri::address_of_record(text).is_err(), "{text:?}");
        }
        assert!(SipUri::address_of_record(&format!("sip:{}@example.com", "a".repeat(250))).is_err());
    }

    #[test]
    fn whatever_parameter_an_address_of_record_has_it_is_to_have_none() {
        let odd = ["user=phone", "transport=udp", "lr", "transport=ws", "gr", "user=phone;transport=udp"];
        for text in odd.map(|params| format!("sip:+4930123@example.com;{params}")) {
            let error = SipUri::address_of_record(&text).err();
            assert_eq!(error, Some("expected an address of record without parameters: sip:user@host"), "{text}");
        }
    }

    #[test]
    fn a_host_of_other_letters_is_to_be_written_in_its_xn_form() {
        for text in ["sip:alice@münchen.example", "sip:alice@例え.jp:5061", "sips:alice@xn--mnchen-3ya.ü"] {
            assert_eq!(SipUri::address_of_record(text).err(), Some(IN_ASCII), "{text}");
        }
        assert_eq!(SipUri::server("sip:münchen.example;transport=tls").err(), Some(IN_ASCII));
        assert!(SipUri::address_of_record("sip:alice@xn--mnchen-3ya.example").is_ok());
        assert_ne!(SipUri::address_of_record("sip:ålice@example.com").err(), Some(IN_ASCII), "its user is odd");
    }

    #[test]
    fn a_server_may_name_its_transport_and_nothing_else() {
        for (text, written) in [
            ("sip:example.com", "sip:example.com"),
            ("sip:Edge.example.com:5061;Transport=TLS;lr", "sip:edge.example.com:5061;transport=tls;lr"),
            ("sips:example.com;transport=tls", "sips:example.com;transport=tls"),
            ("sip:my_pbx:5061;transport=tls", "sip:my_pbx:5061;transport=tls"),
        ] {
            assert_eq!(SipUri::server(text).ok().map(|uri| uri.to_string()).as_deref(), Some(written));
        }
        for text in [
            "sip:alice@example.com",
            "sips:example.com;transport=udp",
            "sip:example.com;transport=ws",
            "sip:example.com;transport=tls;transport=tls",
            "sip:example.com;maddr=10.0.0.1",
            "sip:example.com;",
        ] {
            assert!(SipUri::server(text).is_err(), "{text}");
        }
    }
}
