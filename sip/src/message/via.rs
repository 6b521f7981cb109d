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
