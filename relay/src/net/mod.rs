//! Bytes to and from the network: listen, dial, resolve (RFC 3263), TLS and its reload, HTTPS, WebSocket.
//!
//! Invariant: this floor knows bytes and addresses, not SIP and not who is served. Whatever it opens has a limit and
//! a timeout, named where it is used; an address that an account named is dialled only after [`reach::Reach`] has
//! allowed the very address dialled.

mod addresses;
mod answered;
mod answers;
mod descriptors;
pub mod dial;
pub mod drain;
mod host_names;
pub mod https;
pub(crate) mod https_port;
pub mod listen;
mod look;
mod name_files;
mod name_server;
mod name_servers;
mod naptr;
mod places;
mod progress;
mod prompt;
pub mod questions;
pub mod reach;
pub mod resolve;
mod slots;
mod socket;
mod srv;
pub mod stream;
pub mod tls;
pub mod tls_fault;
pub mod trail;
pub mod udp;
mod unread;
pub mod web_host;
pub mod websocket;

use std::fmt;

/// What carries a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TLS over TCP.
    Tls,
    /// Plain TCP.
    Tcp,
    /// Datagrams.
    Udp,
}

impl Transport {
    /// The default port (RFC 3261 §19.1.2).
    pub fn default_port(self) -> u16 {
        match self {
            Transport::Tls => 5061,
            Transport::Tcp | Transport::Udp => 5060,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tls => "tls",
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        })
    }
}
