//! The nonces that addresses of SIP servers have given to devices, and what they say of a proof that is refused.
//!
//! A REGISTER that one address has not served is sent to another one, and its proof is for the first. The nodes of many SIP servers do not know each other's
//! nonces, and challenge such a proof as they do a wrong one.
//!
//! | the REGISTER that is challenged | its proof has failed |
//! | --- | --- |
//! | its nonce is called stale | no |
//! | was sent once | yes |
//! | was sent once, and answers a nonce that another address of its SIP server has given, and this one has not | in doubt |
//! | was sent again, and answers a nonce that this address has given | yes |
//! | was sent again, and answers a nonce for which this address has challenged the account before: the nodes may know each other's | yes |
//! | was sent again to the address whose flow had ended: the server may have begun anew | in doubt |
//! | was sent again, and answers any other nonce | in doubt |
//!
//! Either way the challenge goes to the device, which then has a nonce of this address. Whoever guesses passwords chooses the nonce, and the AOR: so one in
//! doubt counts against the connection as one that has failed, and the shell excuses few of a user.
//!
//! Invariant: at most [`KNOWN_MAX`] keyed hashes of nonces are known, two of each; the oldest gives way.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher as _;

use super::Endpoint;
use super::register_outcomes::{ProofWord, is_failed_proof};
use super::register_table::ForwardedRegister;
use super::upstreams::Destination;
use crate::auth::digest_nonce;
use crate::edge::push_proxy::RegisterIntent;
use crate::message::{Message, Name};

/// Hashes that are known on one shard.
const KNOWN_MAX: usize = 32_768;

/// A SIP server and an AOR.
type Account<'a> = (&'a str, &'a str);

/// The nonces that addresses have given, and those that they have refused an account.
#[derive(Debug, Default)]
pub(super) struct GivenNonces {
    known: HashSet<u64>,
    /// The same, the oldest first.
    order: VecDeque<u64>,
}

impl GivenNonces {
    /// An address has challenged with this response.
    pub(super) fn note(&mut self, place: Destination, server: &str, response: &Message) {
        let values = response.values(Name::WwwAuthenticate).chain(response.values(Name::ProxyAuthenticate));
        for (nonce, _) in values.filter_map(nonce_of) {
            self.add(self.key(place, &nonce, None));
            self.add(self.key_of_any(server, &nonce));
        }
    }

    /// An address has challenged a REGISTER of this account: what it has answered once is no other address's nonce the next time.
    pub(super) fn note_answered(&mut self, place: Destination, account: Account<'_>, register: &Message) {
        let values = register.values(Name::Authorization).chain(register.values(Name::ProxyAuthorization));
        for (nonce, _) in values.filter_map(nonce_of) {
            self.add(self.key(place, &nonce, Some(account)));
        }
    }

    fn add(&mut self, key: u64) {
        if !self.known.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > KNOWN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether any of the proofs in a header is for this address. One whose nonce cannot be read is for any.
    fn has_proof_for(&self, place: Destination, account: Account<'_>, register: &Message, proof: Name) -> bool {
        let is_known = |nonce: &str| {
            [None, Some(account)].into_iter().any(|whose| self.known.contains(&self.key(place, nonce, whose)))
        };
        register.values(proof).any(|value| nonce_of(value).is_none_or(|(nonce, is_all)| !is_all || is_known(&nonce)))
    }

    /// Whether all the proofs in a header are for other addresses of this SIP server.
    fn has_proofs_for_others(&self, place: Destination, server: &str, register: &Message, proof: Name) -> bool {
        let is_of_another = |nonce: &str| {
            !self.known.contains(&self.key(place, nonce, None)) && self.known.contains(&self.key_of_any(server, nonce))
        };
        register
            .values(proof)
            .all(|value| nonce_of(value).is_some_and(|(nonce, is_all)| is_all && is_of_another(&nonce)))
    }

    /// The key of a nonce that any address of a SIP server has given.
    fn key_of_any(&self, server: &str, nonce: &str) -> u64 {
        self.known.hasher().hash_one((server, nonce))
    }

    fn key(&self, place: Destination, nonce: &str, whose: Option<Account<'_>>) -> u64 {
        self.known.hasher().hash_one((place, nonce, whose))
    }
}

impl Endpoint {
    /// What a response says of the proof in a REGISTER.
    pub(super) fn judge_proof(&self, register: &ForwardedRegister, status: u16, response: &Message) -> ProofWord {
        if !is_failed_proof(&register.request, status, response) {
            return ProofWord::Nothing;
        }
        let proof = match status {
            401 => Name::Authorization,
            407 => Name::ProxyAuthorization,
            _ => return ProofWord::Failed,
        };
        let RegisterIntent { server, aor, .. } = &register.intent;
        let is_for_it = match register.sent {
            Some(sent) if register.was_sent_again() => {
                !register.failed_at.contains(&sent.place)
                    && self.given_nonces.has_proof_for(sent.place, (server, aor), &register.request, proof)
            }
            Some(sent) => !self.given_nonces.has_proofs_for_others(sent.place, server, &register.request, proof),
            None => true,
        };
        if is_for_it { ProofWord::Failed } else { ProofWord::InDoubt }
    }
}

fn nonce_of(value: &[u8]) -> Option<(Cow<'_, str>, bool)> {
    digest_nonce(std::str::from_utf8(value).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::FlowId;
    use crate::message::Limits;

    fn challenge(nonce: usize) -> Message {
        let text = format!("SIP/2.0 401 x\r\nWWW-Authenticate: Digest realm=\"r\", nonce=\"{nonce}\"\r\n\r\n");
        Message::parse(&text.into(), &Limits::default()).unwrap()
    }

    fn proof(value: &str) -> Message {
        let text = format!("REGISTER sip:h SIP/2.0\r\nAuthorization: {value}\r\n\r\n");
        Message::parse(&text.into(), &Limits::default()).unwrap()
    }

    #[test]
    fn the_oldest_give_way_and_what_cannot_be_read_may_be_for_any() {
        let mut given = GivenNonces::default();
        let [here, there] = [1, 2].map(|flow| Destination::Unknown(FlowId::Stream(flow)));
        for nonce in 0..KNOWN_MAX / 2 {
            given.note(here, "h", &challenge(nonce));
            given.note(here, "h", &challenge(nonce));
        }
        const ALICE: Account<'_> = ("h", "sip:alice@h");
        let is_of = |given: &GivenNonces, place, account, value: &str| {
            given.has_proof_for(place, account, &proof(value), Name::Authorization)
        };
        let is_for = |given: &GivenNonces, place, value: &str| is_of(given, place, ALICE, value);
        let first = "Digest realm=\"r\", nonce=\"0\"";
        assert!(is_for(&given, here, first) && !is_for(&given, there, first));
        given.note(here, "h", &challenge(KNOWN_MAX));
        assert!(!is_for(&given, here, first) && is_for(&given, here, "digest nonce = 1"));
        assert_eq!((given.known.len(), given.order.len()), (KNOWN_MAX, KNOWN_MAX));
        for odd in ["Digest nonce=\"x\", nonce=\"1\"", "Digest nonce=x, Digest nonce=1", "Basic eDp5", "Digest realm=r"]
        {
            assert!(is_for(&given, there, odd), "{odd}");
        }
        // What another address has given.
        let is_of_another = |value| given.has_proofs_for_others(there, "h", &proof(value), Name::Authorization);
        assert!(is_of_another("Digest nonce=1") && !is_of_another("Digest nonce=0") && !is_of_another("Basic eDp5"));
        assert!(!given.has_proofs_for_others(here, "h", &proof("Digest nonce=1"), Name::Authorization));
        assert!(!given.has_proofs_for_others(there, "other", &proof("Digest nonce=1"), Name::Authorization));
        // What an address has refused an account once.
        given.note_answered(there, ALICE, &proof(first));
        assert!(is_for(&given, there, first) && !is_of(&given, there, ("h", "sip:bob@h"), first));
    }
}
