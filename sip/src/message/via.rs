//! Via (RFC 3261 §20.42, RFC 3581).
//!
//! Invariant: a view into its text. The host that a Via names is compared here alone, as it is read and not as it is written.

use std::fmt::Write as _;
use std::net::Ipv6Addr;

use memchr::memchr;

use super::grammar::{has_control, is_lws, is_token, split_once, trim};
use super::{
    Params,
    uri::{parse_port, split_host_port},
};

/// One Via value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// The transport as written: `UDP`, `TCP`, `TLS`, `WSS`, …
    pub transport: &'a str,
    /// The sent-by host.
    pub host: &'a str,
    /// The sent-by port.
    pub port: Option<u16>,
    /// The parameters.
    pub params: Params<'a>,
    /// The whole value as written.
    pub text: &'a str,
}

impl<'a> Via<'a> {
    /// Reads one Via value; white space around the slashes and the colon is allowed, as the grammar does. Of a sent-by that breaks it
    /// the first word is the host, and of parameters that are none the others count: an answer goes to where its request came from.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (protocol, rest) = split_once(text, b'/')?;
        let (version, rest) = split_once(rest, b'/')?;
        if !trim(protocol).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return None;
        }
        let rest = rest.trim_start_matches(LWS);
        let (transport, rest) = rest.split_at(rest.bytes().position(is_lws)?);
        let (sent_by, params) = rest.split_at(memchr(b';', rest.as_bytes()).unwrap_or(rest.len()));
        let sent_by = trim(sent_by);
        let (host, port) = strict_sent_by(sent_by).or_else(|| loose_sent_by(sent_by))?;
        if !is_token(transport.as_bytes()) || has_control(params) && Params::parse(params).is_none() {
            return None;
        }
        Some(Self { transport, host, port, params: Params::loose(params), text })
    }

    /// The branch.
    pub fn branch(&self) -> Option<&'a str> {
        let value = self.params.value("branch")?;
        // Text after the token is a comment of RFC 2543.
        let end = value.bytes().position(|b| is_lws(b) || b == b'(').unwrap_or(value.len());
        Some(&value[..end]).filter(|branch| !branch.is_empty())
    }

    /// Whether its sent-by is this one, a host with its port or without.
    pub fn is_sent_by(&self, other: &str) -> bool {
        strict_sent_by(other).is_some_and(|(host, port)| {
            is_same_host(self.host, host) && self.port_or_default() == port.unwrap_or(self.default_port())
        })
    }

    /// Writes the sent-by so that those that are the same, however they are written, are the same text: without white space.
    pub(crate) fn push_sent_by(&self, out: &mut String) {
        // Writing to a String cannot fail.
        match ipv6(self.host) {
            Some(address) => drop(write!(out, "[{address}]")),
            None => {
                let begin = out.len();
                out.push_str(without_root(self.host));
                out[begin..].make_ascii_lowercase();
            }
        }
        let port = self.port_or_default();
        if port != self.default_port() {
            let _ = write!(out, ":{port}");
        }
    }

    fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(self.default_port())
    }

    /// The port of a sent-by without one (RFC 3261 §20.42, §18.2.2; RFC 7118 §3).
    fn default_port(&self) -> u16 {
        match self.transport {
            it if it.eq_ignore_ascii_case("TLS") => 5061,
            it if it.eq_ignore_ascii_case("WS") => 80,
            it if it.eq_ignore_ascii_case("WSS") => 443,
            _ => 5060,
        }
    }
}

/// Whether two hosts are the same: names without case, addresses as addresses (RFC 5118 §4.5).
fn is_same_host(one: &str, other: &str) -> bool {
    let is_same_name = without_root(one).eq_ignore_ascii_case(without_root(other));
    is_same_name || ipv6(one).is_some_and(|address| ipv6(other) == Some(address))
}

/// A name without the dot of the root behind it.
fn without_root(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// An address of IPv6, in brackets or not.
fn ipv6(host: &str) -> Option<Ipv6Addr> {
    if !host.contains(':') {
        return None;
    }
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse().ok()
}

const LWS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Host and port as the grammar has them.
fn strict_sent_by(sent_by: &str) -> Option<(&str, Option<u16>)> {
    if let Some(parts) = split_host_port(sent_by) {
        return Some(parts);
    }
    let (host, port) = sent_by.rsplit_once(':')?;
    let (host, none) = split_host_port(trim(host))?;
    none.is_none().then_some((host, Some(parse_port(trim(port))?)))
}

/// The first word, and the port behind its one colon or its closing bracket, if it is one.
fn loose_sent_by(sent_by: &str) -> Option<(&str, Option<u16>)> {
    let word = sent_by.split(LWS).next()?.split('(').next()?;
    if word.is_empty() || word.contains(char::is_control) {
        return None;
    }
    let is_port_behind = |host: &&str| host.ends_with(']') || !host.contains([':', '[']);
    match word.rsplit_once(':').filter(|(host, _)| !host.is_empty() && is_port_behind(host)) {
        Some((host, port)) => Some((host, parse_port(port))),
        None => Some((word, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_via_is_read_with_white_space_wherever_the_grammar_lets_it_stand() {
        let via =
            Via::parse("SIP  / 2.0\r\n / TLS\t[2001:db8::9] : 5061 ; branch =\r\n z9hG4bK1;received=2001:db8::7;rport")
                .unwrap();
        assert_eq!((via.transport, via.host, via.port), ("TLS", "[2001:db8::9]", Some(5061)));
        assert_eq!((via.branch(), via.params.value("received")), (Some("z9hG4bK1"), Some("2001:db8::7")));
        assert_eq!(via.params.get("rport"), Some(None));
        assert_eq!(Via::parse("SIP/2.0/UDP a:5060").unwrap().port, Some(5060));
        assert_eq!(Via::parse("sip/2.0/udp a;branch=").unwrap().branch(), None);
    }

    #[test]
    fn a_sent_by_is_the_same_however_it_is_written() {
        let written = |via: &str| {
            let mut out = String::new();
            Via::parse(via).unwrap().push_sent_by(&mut out);
            out
        };
        for (one, other, text, is_same) in [
            ("UDP Proxy.Example.com", "UDP proxy.example.COM:5060", "proxy.example.com", true),
            ("TLS proxy.example.com.", "TLS proxy.example.com:5061 ;x", "proxy.example.com", true),
            ("tls a : 5060", "tls a:5060", "a:5060", true),
            ("WSS a", "WSS a:443", "a", true),
            ("WS a", "WS a:80", "a", true),
            ("UDP [2001:DB8:0::9]:5070", "UDP [2001:db8::9] : 5070", "[2001:db8::9]:5070", true),
            ("UDP [2001:db8::9]", "UDP 2001:db8::9", "[2001:db8::9]", true),
            ("UDP a", "UDP a:5061", "a", false),
            ("TLS a", "TLS a:5060", "a", false),
            ("UDP a.example", "UDP b.example", "a.example", false),
            ("UDP 192.0.2.1", "UDP 192.0.2.10", "192.0.2.1", false),
            ("UDP [2001:db8::9]", "UDP [2001:db8::90]", "[2001:db8::9]", false),
        ] {
            let (one, other) = (format!("SIP/2.0/{one}"), format!("SIP / 2.0/{other}"));
            assert_eq!((written(&one), written(&one) == written(&other)), (text.to_owned(), is_same), "{one} {other}");
            let (one, other) = (Via::parse(&one).unwrap(), Via::parse(&other).unwrap());
            let name = |via: &Via<'_>| via.port.map_or(via.host.to_owned(), |port| format!("{}:{port}", via.host));
            if !other.host.contains(':') || other.host.starts_with('[') {
                assert_eq!(one.is_sent_by(&name(&other)), is_same, "{one:?} {other:?}");
            }
            assert_eq!(other.is_sent_by(&name(&one)), is_same, "{one:?} {other:?}");
        }
    }

    #[test]
    fn an_odd_via_says_what_can_be_read_of_it() {
        for (odd, host, port) in [
            ("a;branch=z9hG4bK1;", "a", None),
            ("a:5062;;branch=z9hG4bK1;;", "a", Some(5062)),
            ("a:0;branch=z9hG4bK1;rport", "a", None),
            ("a:99999;branch=z9hG4bK1", "a", None),
            ("a: ;branch=z9hG4bK1", "a", None),
            ("[fe80::1%eth0]:5062;branch=z9hG4bK1", "[fe80::1%eth0]", Some(5062)),
            ("2001:db8::9;branch=z9hG4bK1", "2001:db8::9", None),
            ("[2001:db8::9;branch=z9hG4bK1", "[2001:db8::9", None),
            ("a (home);branch=z9hG4bK1", "a", None),
            ("a:5062 (home) ; branch = z9hG4bK1 (first)", "a", Some(5062)),
            ("a b;x=\"y;z\";branch=z9hG4bK1", "a", None),
            ("a;x=<y>;branch=z9hG4bK1", "a", None),
            ("a;branch=z9hG4bK1;x=\"y", "a", None),
        ] {
            let text = format!("SIP/2.0/UDP {odd}");
            let via = Via::parse(&text).expect(odd);
            assert_eq!((via.host, via.port, via.branch()), (host, port, Some("z9hG4bK1")), "{odd:?}");
        }
    }

    #[test]
    fn a_broken_via_is_none() {
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0/UDP ",
            "SIP/2.0 UDP a",
            "SIP/3.0/UDP a",
            "HTTP/2.0/UDP a",
            "SIP/2.0/U:P a",
            "SIP/2.0/UDP/x a",
            "SIP/2.0/UDP ;b=c",
            "SIP/2.0/UDP (a)",
            "SIP/2.0/UDP a\u{0}",
            "SIP/2.0/UDP a;b=\u{7}",
            "SIP/2.0/ a",
        ] {
            assert_eq!(Via::parse(bad), None, "{bad:?}");
        }
    }
}
