//! Bytes to and from the network: listen, dial, resolve (RFC 3263), TLS and its reload, HTTPS, WebSocket.
//!
//! | room | contents |
//! | --- | --- |
//! | `listen` | a TCP listener that no peer can fill alone |
//! | `slots` | how many connections it has, and which gives way |
//! | `udp` | datagrams, many with one system call |
//! | `dial`, `web_host` | connecting to a SIP server, and to a host of the web |
//! | `dns` | from a name to addresses |
//! | `address_policy` | the addresses and ports that an account may name |
//! | *on a connection* | |
//! | `stream`, `socket` | plain or TLS, and the TCP below |
//! | `write_by_stream` | writing of streams that wrap another one |
//! | `tls`, `tls_fault` | certificates and their reload; the words for its failures |
//! | `https`, `https_port` | a router over HTTP/1.1 and HTTP/2; the port of a URL |
//! | `websocket` | SIP over WebSocket (RFC 7118) |
//! | *beside them* | |
//! | `tcp_options` | TCP that sends at once |
//! | `file_stamp` | changes of files, seen without reading them |
//! | `drain` | the signal that the process is ending |
//!
//! Invariant: this floor knows bytes and addresses, not SIP and not who is served. Everything it opens has a limit and
//! a timeout, named where it is used; an address that an account named is dialled only after [`address_policy::Reach`] has
//! allowed the very address dialled.

pub mod address_policy;
pub mod dial;
pub mod dns;
pub mod drain;
mod file_stamp;
pub mod https;
pub(crate) mod https_port;
pub mod listen;
mod slots;
mod socket;
pub mod stream;
mod tcp_options;
pub mod tls;
pub mod tls_fault;
pub mod udp;
pub mod web_host;
pub mod websocket;
pub(crate) mod write_by_stream;

use std::fmt;

/// The transport of a message.
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
