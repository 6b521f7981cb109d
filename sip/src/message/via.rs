//! Via (RFC 3261 §20.42, RFC 3581).
//!
//! Invariant: a view into its text.

use super::grammar::{is_token, trim};
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
    /// Reads one Via value; white space around the slashes and the colon is allowed, as the grammar does.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (protocol, rest) = text.split_once('/')?;
        let (version, rest) = rest.split_once('/')?;
        if !trim(protocol).eq_ignore_ascii_case("SIP") || trim(version) != "2.0" {
            return None;
        }
        let rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let (transport, rest) = rest.split_at(rest.find([' ', '\t', '\r', '\n'])?);
        let (sent_by, params) = rest.split_at(rest.find(';').unwrap_or(rest.len()));
        let sent_by = trim(sent_by);
        let (host, port) = match split_host_port(sent_by) {
            Some(parts) => parts,
            None => {
                let (host, port) = sent_by.rsplit_once(':')?;
                let (host, none) = split_host_port(trim(host))?;
                if none.is_some() {
                    return None;
                }
                (host, Some(parse_port(trim(port))?))
            }
        };
        is_token(transport.as_bytes()).then_some(())?;
        Some(Self { transport, host, port, params: Params::parse(params)?, text })
    }

    /// The branch.
    pub fn branch(&self) -> Option<&'a str> {
        self.params.value("branch").filter(|branch| !branch.is_empty())
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
            "SIP/2.0/UDP a b",
            "SIP/2.0/UDP a:b",
            "SIP/2.0/UDP a:0",
            "SIP/2.0/UDP a:1:2",
            "SIP/2.0/UDP a;",
            "SIP/2.0/UDP a;;",
            "SIP/2.0/UDP a;branch=\"x",
            "SIP/2.0/UDP a;branch=<x",
            "SIP/2.0/UDP ;b=c",
            "SIP/2.0/UDP a;branch=x y",
            "SIP/2.0/UDP a\u{0}",
            "SIP/2.0/UDP [::1",
            "SIP/2.0/ a",
        ] {
            assert_eq!(Via::parse(bad), None, "{bad:?}");
        }
    }
}
