//! What kind of SIP server a connection leads to, where that decides how its stream is read: some see a bare LF as the end of a line, and
//! pass on what a caller wrote.
//!
//! Invariant: a server says so itself, in its answer to a REGISTER that the relay wrote on this connection, and that goes through no other server: a stranger
//! knows no branch of those. At most [`KNOWN_MAX`] addresses are remembered.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sip::message::{Message, Name};

/// Addresses of servers that are remembered; a further one is known on its own connections alone.
const KNOWN_MAX: usize = 4_096;
/// REGISTERs of one connection whose answers are waited for.
const ASKED_MAX: usize = 32;
/// Products that read so, as `Server` names them (RFC 3261 §20.35): in lower case.
const SEE_BARE_LF: [&[u8]; 3] = [b"kamailio", b"opensips", b"ser "];

/// The addresses of servers that see bare LFs; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LfServers(Arc<Mutex<HashSet<IpAddr>>>);

impl LfServers {
    /// Whether the server there is known to.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.lock().contains(&address.to_canonical())
    }

    fn add(&self, address: IpAddr) {
        let mut known = self.lock();
        if known.len() < KNOWN_MAX {
            known.insert(address.to_canonical());
        }
    }

    fn remove(&self, address: IpAddr) {
        self.lock().remove(&address.to_canonical());
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<IpAddr>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The REGISTERs of one connection, until an answer says what the server is.
#[derive(Debug, Default)]
pub(super) struct Acquaintance {
    asked: Vec<Box<[u8]>>,
    is_made: bool,
}

impl Acquaintance {
    /// This is written.
    pub(super) fn note_written(&mut self, bytes: &Bytes) {
        if self.is_made || !bytes.starts_with(b"REGISTER ") || has(bytes, b"\r\nRoute: ") {
            return;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.remove(0);
        }
        self.asked.extend(branch_of(bytes).map(Box::from));
    }

    /// This came: whether it says that the server sees bare LFs.
    pub(super) fn says_lf(&mut self, message: &Message, address: IpAddr, known: &LfServers) -> bool {
        if self.asked.is_empty() || message.is_request() {
            return false;
        }
        let branch = message.via().and_then(|via| via.branch());
        let is_its = branch.is_some_and(|branch| self.asked.iter().any(|asked| **asked == *branch.as_bytes()));
        if !is_its || message.status().is_none_or(|status| status < 200) {
            return false;
        }
        // One that names nothing is not asked again: refreshes come for ever.
        (self.asked, self.is_made) = (Vec::new(), true);
        let Some(product) = message.values(Name::Server).next() else { return false };
        let product = product.to_ascii_lowercase();
        let says = SEE_BARE_LF.iter().any(|known| product.starts_with(known));
        match says {
            true => known.add(address),
            false => known.remove(address),
        }
        says
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|some| some == part)
}

/// The branch of a message that the relay has composed.
fn branch_of(bytes: &[u8]) -> Option<&[u8]> {
    const PARAM: &[u8] = b";branch=";
    let begin = bytes.windows(PARAM.len()).position(|some| some == PARAM)? + PARAM.len();
    let length = bytes[begin..].iter().position(|byte| matches!(byte, b';' | b',' | b'\r' | b' '))?;
    Some(&bytes[begin..begin + length])
}

#[cfg(test)]
mod tests {
    use sip::message::Limits;

    use super::*;

    const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn answer(branch: &str, server: &str) -> Message {
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/TLS a;branch={branch};rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
             Call-ID: i\r\nCSeq: 1 REGISTER\r\nServer: {server}\r\nContent-Length: 0\r\n\r\n"
        );
        Message::parse(&text.into(), &Limits::default()).expect("a response")
    }

    #[test]
    fn a_server_is_known_by_its_answer_to_a_register_of_the_relays_own() {
        for (branch, server, says) in [
            ("z9hG4bKone", "kamailio (5.6.3 (x86_64/linux))", true),
            ("z9hG4bKone", "OpenSIPS (3.2.2 (x86_64/linux))", true),
            ("z9hG4bKone", "Asterisk PBX 20.0.0", false),
            ("z9hG4bKtwo", "kamailio", false),
        ] {
            let (mut acquaintance, known) = (Acquaintance::default(), LfServers::default());
            let register = "REGISTER sip:b SIP/2.0\r\nVia: SIP/2.0/TLS a;branch=z9hG4bKone;rport\r\n\r\n";
            acquaintance.note_written(&Bytes::from(register));
            assert_eq!(acquaintance.says_lf(&answer(branch, server), THERE, &known), says, "{branch} {server}");
            assert_eq!(known.has(THERE), says);
        }
        let (mut acquaintance, known) = (Acquaintance::default(), LfServers::default());
        let register = "REGISTER sip:b SIP/2.0\r\nVia: SIP/2.0/TLS a;branch=z9hG4bKone;rport\r\n";
        acquaintance.note_written(&Bytes::from(format!("{register}Route: <sip:p;lr>\r\n\r\n")));
        assert!(!acquaintance.says_lf(&answer("z9hG4bKone", "kamailio"), THERE, &known), "it goes through another");
        let (mut never_asked, known) = (Acquaintance::default(), LfServers::default());
        assert!(!never_asked.says_lf(&answer("z9hG4bKone", "kamailio"), THERE, &known));
    }
}
