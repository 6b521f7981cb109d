//! Session tickets: a client that was here before resumes the session (RFC 8446 §4.6.1, RFC 5077), without a certificate and without a
//! signature, and nothing of it is kept here.
//!
//! | ticket | what becomes of it |
//! | --- | --- |
//! | sealed with the key of this [`PERIOD`] | resumed |
//! | with the key of the period before | resumed |
//! | with an older key, another node's or another run's | a full handshake |
//!
//! Invariant: the keys are random, in memory alone, and gone two periods after they were made: a thief of the keyring, the
//! certificate's key or a later memory image reads no session of before. They are no node's but this one's: a phone that is woken
//! comes to the node that woke it, by its name, and a client keeps its tickets by name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::random;

/// How long one key seals tickets; it opens them for as long again.
pub(super) const PERIOD: Duration = Duration::from_secs(12 * 3_600);
/// The length of a key's name.
const NAME_LEN: usize = 16;

/// The keys of one relay's tickets.
#[derive(Debug)]
pub(super) struct Tickets(ArcSwap<Keys>);

#[derive(Debug)]
struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    since: Instant,
}

#[derive(Debug)]
struct Key {
    name: [u8; NAME_LEN],
    aead: RandomizedNonceKey,
}

impl Tickets {
    pub(super) fn new() -> Self {
        Self(ArcSwap::from_pointee(Keys { current: Key::new(), previous: None, since: Instant::now() }))
    }

    /// Begins a period; tickets sealed before the last one are accepted no more.
    pub(super) fn rotate(&self) {
        let previous = self.0.load().current.clone();
        self.0.store(Arc::new(Keys { current: Key::new(), previous: Some(previous), since: Instant::now() }));
    }

    /// Resumes nothing that was begun before.
    pub(super) fn forget(&self) {
        self.0.store(Arc::new(Keys { current: Key::new(), previous: None, since: Instant::now() }));
    }

    /// The keys at a moment. After two periods without a handshake none of the old ones is left.
    fn keys(&self, now: Instant) -> Arc<Keys> {
        let keys = self.0.load_full();
        let age = now.saturating_duration_since(keys.since);
        if age < PERIOD {
            return keys;
        }
        let previous = (age < 2 * PERIOD).then(|| keys.current.clone());
        let next = Arc::new(Keys { current: Key::new(), previous, since: now });
        let found = self.0.compare_and_swap(&keys, next.clone());
        // Another thread may have been faster; its keys are as good.
        if Arc::ptr_eq(&found, &keys) { next } else { self.0.load_full() }
    }

    fn seal(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        let keys = self.keys(now);
        let Key { name, aead } = &*keys.current;
        let mut sealed = Vec::with_capacity(plain.len() + AES_256_GCM.tag_len());
        sealed.extend_from_slice(plain);
        let nonce = aead.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn open(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys(now);
        let key = std::iter::once(&keys.current).chain(&keys.previous).find(|key| key.name == *name)?;
        let mut plain = sealed.to_vec();
        let len = key.aead.open_in_place(Nonce::from(nonce), Aad::from(name), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        PERIOD.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(plain, Instant::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket, Instant::now())
    }
}

impl Key {
    fn new() -> Arc<Self> {
        let secret = Zeroizing::new(random::bytes::<32>());
        let aead = RandomizedNonceKey::new(&AES_256_GCM, &*secret).expect("AES-256 takes a key of 32 bytes");
        Arc::new(Self { name: random::bytes(), aead })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_good_for_the_rest_of_its_period_and_one_more() {
        let (tickets, begun) = (Tickets::new(), Instant::now());
        let ticket = tickets.seal(b"session", begun).unwrap();
        assert_eq!(tickets.open(&ticket, begun + PERIOD / 2).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets.open(&ticket, begun + PERIOD + PERIOD / 2).as_deref(), Some(&b"session"[..]));
        assert_eq!(tickets.open(&ticket, begun + 3 * PERIOD), None);
        let late = tickets.seal(b"later", begun + 3 * PERIOD).unwrap();
        assert!(tickets.open(&late, begun + 3 * PERIOD).is_some());
        assert_eq!(tickets.open(&late, begun + 6 * PERIOD), None, "nobody came for two periods");
    }

    #[test]
    fn what_is_no_ticket_of_ours_opens_nothing() {
        let (tickets, now) = (Tickets::new(), Instant::now());
        let ticket = tickets.seal(b"session", now).unwrap();
        for place in 0..ticket.len() {
            let mut bent = ticket.clone();
            bent[place] ^= 1;
            assert_eq!(tickets.open(&bent, now), None, "byte {place}");
            assert_eq!(tickets.open(&ticket[..place], now), None, "{place} bytes");
        }
        assert_eq!(Tickets::new().open(&ticket, now), None, "another node's");
        assert_ne!(ticket, tickets.seal(b"session", now).unwrap());
        tickets.rotate();
        assert!(tickets.open(&ticket, now).is_some());
        tickets.forget();
        assert_eq!(tickets.open(&ticket, now), None);
    }
}
