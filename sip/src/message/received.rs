//! The marks that a request gets where its sender's address is another than its topmost Via says (RFC 3261 §18.2.1, RFC 3581 §4).
//!
//! Invariant: the topmost Via alone is changed, and is one line from then on.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::Message;

/// The maximum length of `received` and `rport`, in bytes.
const MARKS_BYTES: usize = 72;

impl Message {
    /// The request with `received`, and with `rport` where it asks for that, as it came from `peer`. `None`: nothing to add, or no Via that can be read.
    pub fn received_from(&self, peer: SocketAddr) -> Option<Self> {
        let via = self.via()?;
        let ip = peer.ip().to_canonical();
        let named = via.host.trim_start_matches('[').trim_end_matches(']').parse() == Ok(ip);
        let wants_port = via.params.get("rport").is_some_and(|value| value.is_none());
        if named && !wants_port {
            return None;
        }
        let mut text = String::with_capacity(via.text.len() + MARKS_BYTES);
        text.push_str(via.text[..via.text.find(';').unwrap_or(via.text.len())].trim_end());
        for (name, value) in via.params.iter() {
            if name.eq_ignore_ascii_case("received") || wants_port && name.eq_ignore_ascii_case("rport") {
                continue;
            }
            text.push(';');
            text.push_str(name);
            if let Some(value) = value {
                text.push('=');
                text.push_str(value);
            }
        }
        // Writing to a String does not fail.
        let _ = write!(text, ";received={ip}");
        if wants_port {
            let _ = write!(text, ";rport={}", peer.port());
        }
        if text.contains(|char: char| char.is_ascii_control()) {
            // A line that is folded is one line from here on.
            text = text.replace(|char: char| char.is_ascii_control(), " ");
        }
        self.with_part(via.text, &text)
    }
}
