//! The proof in a device's REGISTER: a digest over a fresh nonce of ours, or a bearer token (RFC 7616, RFC 8898).
//!
//! Nonces are not stored: each carries its time and a MAC that binds it to the flow it was given on. What is stored, for
//! a flow, is the highest count seen with its latest nonce, so that an answer counts once.
//!
//! Invariant: an answer is looked at by the shell only when its nonce is ours, fresh, given on this very flow, and its
//! count has not been seen; so a recorded REGISTER opens nothing.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Proof;
use crate::auth::{Credentials, Hash, bearer, challenge_value};
use crate::flow::TokenKey;
use crate::id::{FlowId, InstanceId};
use crate::message::{Message, Name};

/// The realm in which devices prove themselves at the edge (RFC 7616 §3.3); no other is accepted.
pub const EDGE_REALM: &str = "sipwake";
/// How long a nonce is good; an older one is answered 401 with `stale=true`.
pub const NONCE_LIFE: Duration = Duration::from_secs(300);

/// User-Agents that give up when any challenge names another algorithm than MD5, instead of taking the one they know
/// (RFC 8760 §2.4); seen with baresip 1.0. The digest travels inside TLS and over a random secret, so MD5 does no harm.
const MD5_ALONE: &[&str] = &["baresip v0.", "baresip v1.", "baresip v2."];

/// The last nonce and count of one instance on one flow.
#[derive(Debug, Default)]
pub struct Replay {
    nonce: Box<str>,
    nc: u32,
}

/// The decision about a REGISTER at the edge.
#[derive(Debug)]
pub enum Admission {
    /// 401 with these challenges.
    Challenge {
        /// The values of WWW-Authenticate, the strongest first.
        challenges: Vec<String>,
    },
    /// Let the shell verify this.
    Verify(Proof),
    /// 403: its From and its proof name different instances.
    Forbidden,
}

/// Makes and judges nonces.
#[derive(Debug)]
pub struct Nonces {
    key: TokenKey,
    started: Instant,
}

impl Nonces {
    /// A gate whose nonces die with the process.
    pub fn new(key: [u8; 32], now: Instant) -> Self {
        Self { key: TokenKey::new(key), started: now }
    }

    /// Judges a REGISTER from `instance`, which its From names. `md5_alone`: its last challenge was left without an answer,
    /// so it may be a client that only MD5 helps.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of one REGISTER")]
    pub fn check(
        &self,
        now: Instant,
        register: &Message,
        instance: InstanceId,
        flow: FlowId,
        replay: &mut Replay,
        fresh: u64,
        md5_alone: bool,
    ) -> Admission {
        let agent = register.text(Name::UserAgent).unwrap_or_default();
        let md5_alone = md5_alone || MD5_ALONE.iter().any(|known| agent.starts_with(known));
        let hashes = if md5_alone { &[Hash::Md5][..] } else { &[Hash::Sha256, Hash::Md5][..] };
        let challenge = |stale| self.challenge(now, flow, fresh, stale, hashes);
        let Some(value) = register.text(Name::Authorization) else { return challenge(false) };
        if let Some(token) = bearer(value) {
            return Admission::Verify(Proof::Bearer(token.into()));
        }
        let Some(credentials) = Credentials::parse(value) else { return challenge(false) };
        if credentials.username.as_ref() != instance.to_string() {
            return Admission::Forbidden;
        }
        if credentials.realm.as_ref() != EDGE_REALM
            || credentials.algorithm.session
            || !self.is_ours(&credentials.nonce, flow)
        {
            return challenge(false);
        }
        if self.age(now, &credentials.nonce).is_none_or(|age| age > NONCE_LIFE) {
            return challenge(true);
        }
        // A client of RFC 2069 counts nothing; then a nonce is good once.
        let nc = credentials.nc.unwrap_or(1);
        if replay.nonce == credentials.nonce && nc <= replay.nc {
            return challenge(true);
        }
        *replay = Replay { nonce: credentials.nonce.clone(), nc };
        Admission::Verify(Proof::Digest(Box::new(credentials)))
    }

    fn challenge(&self, now: Instant, flow: FlowId, fresh: u64, stale: bool, hashes: &[Hash]) -> Admission {
        let nonce = self.nonce(now, flow, fresh);
        let challenges = hashes.iter().map(|hash| challenge_value(EDGE_REALM, &nonce, *hash, stale)).collect();
        Admission::Challenge { challenges }
    }

    fn nonce(&self, now: Instant, flow: FlowId, fresh: u64) -> String {
        let mut bytes = Vec::with_capacity(26);
        bytes.extend_from_slice(&now.saturating_duration_since(self.started).as_secs().to_be_bytes());
        bytes.extend_from_slice(&fresh.to_be_bytes());
        let mac = self.key.mac(&bytes, &flow_bytes(flow));
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn is_ours(&self, nonce: &str, flow: FlowId) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(nonce) else { return false };
        let Some((payload, mac)) = bytes.split_at_checked(16) else { return false };
        bool::from(subtle::ConstantTimeEq::ct_eq(&self.key.mac(payload, &flow_bytes(flow))[..], mac))
    }

    fn age(&self, now: Instant, nonce: &str) -> Option<Duration> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let made = Duration::from_secs(u64::from_be_bytes(*bytes.first_chunk()?));
        now.saturating_duration_since(self.started).checked_sub(made)
    }
}

fn flow_bytes(flow: FlowId) -> Vec<u8> {
    match flow {
        FlowId::Stream(number) => number.to_be_bytes().into(),
        FlowId::Datagram(peer) => peer.to_string().into_bytes(),
    }
}
