//! The names by which a device may begin requests on a connection, and the shards of their registrations.
//!
//! | From | is told by |
//! | --- | --- |
//! | the address that it has registered | itself: its hash names the shard |
//! | another one of that domain, or an identity that its SIP server has given it (P-Associated-URI, RFC 7315 §4.1) | the 2xx to its REGISTER; of one that was answered before there was one at another shard, the next 2xx |
//!
//! Invariant: it holds a keyed hash of each name, and no name, for as long as the connection lives. A hit grants no right: the endpoint judges whose
//! request it is.

use std::hash::{BuildHasher as _, RandomState};

use bytes::Bytes;
use sip::endpoint::Endpoint;
use sip::message::{Limits, Message};

/// Registrations of which the names are kept; a device that has more begins requests by the addresses that it has registered.
const REGISTRATIONS: usize = 32;

/// The names of a connection.
#[derive(Default)]
pub(super) struct SenderNames {
    hash: RandomState,
    registered: Vec<Registered>,
}

struct Registered {
    address: u64,
    domain: u64,
    identities: Box<[u64]>,
    shard: usize,
}

impl SenderNames {
    /// Whether what is written to a device may be a 2xx to a REGISTER: few other messages are.
    pub(super) fn may_tell(bytes: &[u8]) -> bool {
        bytes.starts_with(b"SIP/2.0 2") && bytes.windows(8).any(|word| word == b"REGISTER")
    }

    /// Such a message is written: from now on its registration has these names, or none.
    pub(super) fn on_written(&mut self, bytes: &Bytes, limits: &Limits, shards: usize) {
        let Ok(response) = Message::parse(bytes, limits) else { return };
        let Some(names) = Endpoint::names_of_registration(&response) else { return };
        let address = self.hash.hash_one(&*names.address);
        self.registered.retain(|it| it.address != address);
        if names.stands && self.registered.len() < REGISTRATIONS {
            let identities = names.identities.iter().map(|it| self.hash.hash_one(&**it)).collect();
            let domain = self.hash.hash_one(domain_of(&names.address));
            self.registered.push(Registered { address, domain, identities, shard: names.shard.shard(shards) });
        }
    }

    /// The shard of the registration that a request is begun with: as an endpoint chooses among those that it has.
    pub(super) fn shard_of(&self, request: &Message) -> Option<usize> {
        let address = Endpoint::address_of_sender(request)?;
        let (named, domain) = (self.hash.hash_one(&*address), self.hash.hash_one(domain_of(&address)));
        let find = |is_it: &dyn Fn(&Registered) -> bool| self.registered.iter().find(|it| is_it(it));
        let exact = find(&|it| it.address == named);
        let found = exact.or_else(|| find(&|it| it.domain == domain));
        found.or_else(|| find(&|it| it.identities.contains(&named))).map(|it| it.shard)
    }
}

fn domain_of(address: &str) -> String {
    let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
    host.trim_start_matches("sip:").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARDS: usize = 4;

    fn message(first: &str, from: &str, to: &str, method: &str, more: &str) -> Bytes {
        let text = format!(
            "{first}\r\nVia: SIP/2.0/TLS h;branch=z9hG4bK1\r\nFrom: <{from}>;tag=1\r\nTo: <{to}>\r\nCall-ID: i\r\n\
             CSeq: 1 {method}\r\n{more}Content-Length: 0\r\n\r\n"
        );
        text.into()
    }

    fn granted(aor: &str, more: &str) -> Bytes {
        message("SIP/2.0 200 OK", aor, aor, "REGISTER", more)
    }

    fn invite(from: &str) -> Message {
        let invite = message("INVITE sip:b@h SIP/2.0", from, "sip:b@h", "INVITE", "");
        Message::parse(&invite, &Limits::default()).expect("an INVITE")
    }

    #[test]
    fn a_request_by_another_name_of_an_account_goes_where_that_is_registered() {
        let mut names = SenderNames::default();
        let own = |aor: &str| Endpoint::shard_of_sender(&invite(aor)).expect("a shard").shard(SHARDS);
        let contact = "Contact: <sip:a@192.0.2.1>;expires=600\r\n";
        for number in 0..8 {
            let aor = format!("sip:alice@d{number}.example");
            let given = format!("{contact}P-Associated-URI: <{aor}>, <sip:+4930{number}@carrier.example>\r\n");
            assert!(SenderNames::may_tell(&granted(&aor, &given)));
            names.on_written(&granted(&aor, &given), &Limits::default(), SHARDS);
        }
        for number in 0..8 {
            let aor = format!("sip:alice@d{number}.example");
            let others = [format!("sip:bob@D{number}.example"), format!("sip:+4930{number}@carrier.example")];
            for from in others.iter().chain([&aor]) {
                assert_eq!(names.shard_of(&invite(from)), Some(own(&aor)), "{from}");
            }
        }
        assert_eq!(names.shard_of(&invite("sip:alice@elsewhere.example")), None);
        assert_eq!(names.shard_of(&invite("sip:a@anonymous.invalid")), None);
        names.on_written(&granted("sip:alice@d0.example", ""), &Limits::default(), SHARDS);
        assert_eq!(names.shard_of(&invite("sip:+49300@carrier.example")), None, "it is taken back");
        assert!(!SenderNames::may_tell(&message("SIP/2.0 401 Unauthorized", "sip:a@h", "sip:a@h", "REGISTER", "")));
        assert!(!SenderNames::may_tell(&message("SIP/2.0 200 OK", "sip:a@h", "sip:a@h", "INVITE", "")));
    }

    #[test]
    fn the_names_of_a_connection_are_bounded() {
        let mut names = SenderNames::default();
        for number in 0..2 * REGISTRATIONS {
            let contact = "Contact: <sip:a@192.0.2.1>;expires=600\r\n";
            names.on_written(&granted(&format!("sip:alice@d{number}.example"), contact), &Limits::default(), SHARDS);
        }
        assert_eq!(names.registered.len(), REGISTRATIONS);
    }
}
