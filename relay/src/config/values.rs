//! The values of settings, each parsed from its text.
//!
//! Invariant: every parser either gives a value that is right by construction or says in a few words what it wants
//! instead; none looks at the file system or the clock.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// A host and a port that others are told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// A host name in lower case, an IPv4 address, or an IPv6 address in brackets.
    pub host: Box<str>,
    /// The port; 0 stands for the port that the listener got.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The SIP domains that accounts may belong to: `*` for any, `example.com` for itself, `*.example.com` for what is below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRules(Vec<DomainRule>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum DomainRule {
    Any,
    Exactly(Box<str>),
    /// With the leading dot.
    Below(Box<str>),
}

/// The address that reaches a listener of this machine.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl DomainRules {
    /// Whether an account of `domain` (any case, a trailing dot allowed, an IPv6 address in any of its forms) is served.
    pub fn allow(&self, domain: &str) -> bool {
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let address = host(domain).filter(|_| domain.starts_with('['));
        let domain = address.unwrap_or_else(|| domain.to_ascii_lowercase().into());
        self.0.iter().any(|rule| match rule {
            DomainRule::Any => true,
            DomainRule::Exactly(name) => **name == *domain,
            DomainRule::Below(suffix) => domain.len() > suffix.len() && domain.ends_with(&**suffix),
        })
    }

    /// Whether there is no domain that these do not allow.
    pub(super) fn allow_any(&self) -> bool {
        self.0.contains(&DomainRule::Any)
    }

    /// The first of these that allows what `others` do not, as it is written.
    pub(super) fn first_beyond(&self, others: &Self) -> Option<String> {
        let holds = |suffix: &str| {
            others.0.iter().any(|other| match other {
                DomainRule::Any => true,
                DomainRule::Exactly(_) => false,
                DomainRule::Below(wider) => suffix.ends_with(&**wider),
            })
        };
        self.0.iter().find_map(|rule| match rule {
            DomainRule::Any => (!others.allow_any()).then(|| "\"*\"".to_owned()),
            DomainRule::Exactly(name) => (!others.allow(name)).then(|| format!("{name:?}")),
            DomainRule::Below(suffix) => (!holds(suffix)).then(|| format!("\"*{suffix}\"")),
        })
    }

    /// Allows nothing.
    pub(super) fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads the list; fails with the entry that is no rule.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        entries
            .iter()
            .map(|entry| {
                if entry == "*" {
                    return Ok(DomainRule::Any);
                }
                let (name, below) = match entry.strip_prefix("*.") {
                    Some(name) => (name, true),
                    None => (&**entry, false),
                };
                let name = host(name).ok_or_else(|| format!("{entry:?} is not a domain"))?;
                Ok(if below { DomainRule::Below(format!(".{name}").into()) } else { DomainRule::Exactly(name) })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// A duration: digits and one of `ms`, `s`, `m`, `h`, `d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// A size in bytes: digits and `B` or `KiB`.
pub(super) fn size(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "B" => 1,
        "KiB" => 1024,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// A duration as a person writes it: `90m`, `3d`, `1500ms`.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    for (size, unit) in units {
        if milliseconds >= size && milliseconds.is_multiple_of(size) {
            return format!("{}{unit}", milliseconds / size);
        }
    }
    format!("{milliseconds}ms")
}

/// A host in the form it is written into SIP: a lower-case name (RFC 1123, without a trailing dot), an IPv4 address
/// in canonical dotted form, or an IPv6 address in brackets.
pub(crate) fn host(text: &str) -> Option<Box<str>> {
    if let Some(inner) = text.strip_prefix('[') {
        let address: Ipv6Addr = inner.strip_suffix(']')?.parse().ok()?;
        return Some(format!("[{address}]").into());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(match address {
            IpAddr::V4(address) => address.to_string().into(),
            IpAddr::V6(address) => format!("[{address}]").into(),
        });
    }
    is_host_name(text).then(|| text.to_ascii_lowercase().into())
}

/// `host[:port]`, the port defaulting to `default_port`.
pub(super) fn host_port(text: &str, default_port: u16) -> Option<HostPort> {
    if let Some(host) = host(text) {
        return Some(HostPort { host, port: default_port });
    }
    let (name, port) = text.rsplit_once(':')?;
    let port = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())??;
    // An IPv6 address before a port stands in brackets; without them the text is ambiguous.
    let host = (name.starts_with('[') || !name.contains(':')).then(|| host(name))??;
    Some(HostPort { host, port })
}

/// `address:port`, numeric.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// A network (`10.0.0.0/8`) or a single address.
pub(super) fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)).map(|net| net.trunc())
}

/// `https://host[:port]`, without path, query or user; given back without a trailing slash.
pub(super) fn https_origin(text: &str) -> Option<Box<str>> {
    let authority = text.strip_prefix("https://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let HostPort { host, port } = host_port(authority, 443)?;
    (port != 0).then(|| format!("https://{host}:{port}").into())
}

/// A collector of OTLP over HTTP, and whether by TLS: without it only on this machine.
pub(super) fn collector(text: &str) -> Option<(bool, HostPort)> {
    let (is_tls, authority) = match text.strip_prefix("https://") {
        Some(authority) => (true, authority),
        None => (false, text.strip_prefix("http://")?),
    };
    let place = host_port(authority.strip_suffix('/').unwrap_or(authority), 4318)?;
    let is_own = matches!(&*place.host, "localhost" | "127.0.0.1" | "[::1]");
    (place.port != 0 && (is_tls || is_own)).then_some((is_tls, place))
}

/// The origin of a web page, as browsers write it: `https://host[:port]`; `http` only where a browser trusts it, on its own machine.
pub(super) fn page_origin(text: &str) -> Option<Box<str>> {
    let (scheme, authority) = text.split_once("://")?;
    let default_port = match scheme {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let HostPort { host, port } = host_port(&authority.to_ascii_lowercase(), default_port)?;
    let is_own = matches!(&*host, "localhost" | "127.0.0.1" | "[::1]");
    let port_text = if port == default_port { String::new() } else { format!(":{port}") };
    (port != 0 && (scheme == "https" || is_own)).then(|| format!("{scheme}://{host}{port_text}").into())
}

/// Whether `text` is a host name (RFC 1123): at most 253 characters, labels of letters, digits, hyphens and (as
/// seen in practice) underscores; the last label not numeric, so that no odd spelling of an address is a name.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(label)
        && text.parse::<Ipv4Addr>().is_err()
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && !last.to_ascii_lowercase().starts_with("0x")
}

/// Whether the URL of a store holds a password: it stands before the host.
pub(super) fn has_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':'));
    user.is_some_and(|(_, password)| !password.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_as_a_browser_writes_it_and_no_wildcard() {
        for (text, origin) in [
            ("https://phone.example.com", "https://phone.example.com"),
            ("https://Phone.Example.com:443", "https://phone.example.com"),
            ("https://phone.example.com:8443", "https://phone.example.com:8443"),
            ("http://localhost:8000", "http://localhost:8000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
        ] {
            assert_eq!(page_origin(text).as_deref(), Some(origin), "{text}");
        }
        for text in ["*", "null", "phone.example.com", "http://phone.example.com", "https://a/", "https://*.a.com", ""]
        {
            assert_eq!(page_origin(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        for (text, seconds) in [("600s", 600), ("3d", 259_200), ("12h", 43_200), ("90m", 5_400), ("1500ms", 1)] {
            assert_eq!(duration(text).unwrap().as_secs(), seconds, "{text}");
            assert_eq!(duration(&duration_text(duration(text).unwrap())), duration(text));
        }
        for text in ["", "3", "d", "-3d", "3 d", "3w", "1.5h", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn a_size_is_a_number_and_its_unit() {
        for (text, expected) in
            [("16KiB", Some(16_384)), ("1B", Some(1)), ("16", None), ("16kb", None), ("", None), ("-1B", None)]
        {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn a_public_name_has_one_written_form() {
        let forms = [
            ("Relay1.Example.net:5061", "relay1.example.net:5061"),
            ("relay1.example.net", "relay1.example.net:5061"),
            ("192.0.2.1:6061", "192.0.2.1:6061"),
            ("[2001:DB8::1]:6061", "[2001:db8::1]:6061"),
            ("[2001:db8::1]", "[2001:db8::1]:5061"),
        ];
        for (text, form) in forms {
            assert_eq!(host_port(text, 5061).map(|it| it.to_string()).as_deref(), Some(form), "{text}");
        }
        for text in [
            "",
            ":5061",
            "a b:1",
            "host:",
            "host:65536",
            "host:+1",
            "0x7f.1:5061",
            "0177.0.0.1",
            "2130706433",
            "-a.example",
        ] {
            assert_eq!(host_port(text, 5061), None, "{text}");
        }
    }

    #[test]
    fn a_domain_rule_allows_itself_and_no_neighbour() {
        let rules = DomainRules::parse(&["example.com".into(), "*.Example.org".into()]).unwrap();
        for domain in ["example.com", "EXAMPLE.com.", "a.example.org", "a.b.example.org"] {
            assert!(rules.allow(domain), "{domain}");
        }
        for domain in ["a.example.com", "badexample.com", "example.org", ".example.org", "example.com.evil.net", ""] {
            assert!(!rules.allow(domain), "{domain}");
        }
        assert!(DomainRules::parse(&["*".into()]).unwrap().allow("anything.example"));
        assert!(DomainRules::parse(&["ex ample.com".into()]).is_err());
        assert!(DomainRules::parse(&["a.*.com".into()]).is_err());
    }

    #[test]
    fn an_endpoint_is_an_https_origin() {
        assert_eq!(https_origin("https://127.0.0.1:2197/").as_deref(), Some("https://127.0.0.1:2197"));
        assert_eq!(https_origin("https://push.example").as_deref(), Some("https://push.example:443"));
        for text in ["http://push.example", "https://", "https://a/b", "https://user@push.example", "push.example"] {
            assert_eq!(https_origin(text), None, "{text}");
        }
    }
}
