//! The proof in a device's REGISTER: a digest over a fresh nonce of ours, or a bearer token (RFC 7616, RFC 8898).
//!
//! Nonces are not stored: each carries its time, its number and a MAC that binds it to the flow it was given on. For a device on a flow the highest
//! count seen with each of its latest nonces is stored, so that an answer counts once.
//!
//! Invariant: an answer is looked at by the shell only when its nonce is ours, fresh, given on this very flow, its count
//! has not been seen with it, and its `uri` is what the REGISTER asks for; so a recorded REGISTER opens nothing.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::Proof;
use crate::auth::{Credentials, Hash, bearer, challenge_value};
use crate::flow::TokenKey;
use crate::id::{FlowId, InstanceId};
use crate::message::{Message, Method, Name, Uri};

/// The realm in which devices prove themselves at the edge (RFC 7616 §3.3); no other is accepted.
pub const EDGE_REALM: &str = "sipwake";
/// How long a nonce is good; an older one, and one that was not given on the flow, is answered 401 with `stale=true` (RFC 7616 §3.3).
pub const NONCE_LIFE: Duration = Duration::from_secs(300);

/// User-Agents that give up when any challenge names another algorithm than MD5, instead of taking the one they know
/// (RFC 8760 §2.4); seen with baresip 1.0, and with sofia-sip 1.12.11 and the SIP plugin of Janus, which is built with it. The digest travels inside
/// TLS and over a random secret, so MD5 does no harm.
const MD5_ALONE: &[&str] =
    &["baresip v0.", "baresip v1.", "baresip v2.", "sofia-sip/1.12.", "Janus WebRTC Server SIP Plugin"];

/// Nonces of one device on one flow whose counts are remembered; an older one than these is answered with `stale=true`.
const NONCES_REMEMBERED: usize = 4;
/// Ports that a URI need not name (RFC 3261 §19.1.2).
const DEFAULT_PORTS: [u16; 2] = [5060, 5061];

/// The counts of the latest nonces of one device on one flow.
#[derive(Debug, Default)]
pub struct Replay {
    /// The latest nonces that were answered, by number, and the highest count seen with each.
    counts: Vec<(u64, u32)>,
    /// Nonces up to this number are not remembered any more, and not taken.
    forgotten: u64,
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
    /// 400: its proof is for another resource than its Request-URI (RFC 7616 §3.4.6).
    OtherResource,
}

/// Makes and judges nonces.
#[derive(Debug)]
pub struct Nonces {
    key: TokenKey,
    started: Instant,
    /// Nonces made so far; the next one's number less one.
    made: u64,
}

/// The contents of one of our nonces.
struct Nonce {
    age: Option<Duration>,
    number: u64,
}

impl Nonces {
    /// A gate whose nonces die with the process.
    pub fn new(key: [u8; 32], now: Instant) -> Self {
        Self { key: TokenKey::new(key), started: now, made: 0 }
    }

    /// Judges a REGISTER from `instance`, which its From names. `md5_alone`: it has left two algorithms without an answer
    /// on this flow, so it may be a client that only MD5 helps. `own`: `host:port` of each listener for devices.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of one REGISTER")]
    pub fn check(
        &mut self,
        now: Instant,
        register: &Message,
        instance: InstanceId,
        flow: FlowId,
        replay: &mut Replay,
        own: &[&str],
        md5_alone: bool,
    ) -> Admission {
        let hashes = hashes_for(register, md5_alone);
        let Some(value) = own_proof(register) else {
            return self.challenge(now, flow, false, hashes);
        };
        if let Some(token) = bearer(value) {
            return Admission::Verify(Proof::Bearer(token.into()));
        }
        let Some(credentials) = Credentials::parse(value) else {
            return self.challenge(now, flow, false, hashes);
        };
        if credentials.username.as_ref() != instance.to_string() {
            return Admission::Forbidden;
        }
        if credentials.realm.as_ref() != EDGE_REALM || credentials.algorithm.session {
            return self.challenge(now, flow, false, hashes);
        }
        // A nonce of another flow, or of the process before, says nothing of the secret: its client needs no user to try anew.
        let nonce = self.open(now, &credentials.nonce, flow);
        let Some(nonce) = nonce.filter(|nonce| nonce.age.is_some_and(|age| age <= NONCE_LIFE)) else {
            return self.challenge(now, flow, true, hashes);
        };
        if !is_same_resource(&credentials.uri, register.request_uri().unwrap_or_default(), own) {
            return Admission::OtherResource;
        }
        // A client of RFC 2069 counts nothing; then a nonce is good once.
        if !replay.note(nonce.number, credentials.nc.unwrap_or(1)) {
            return self.challenge(now, flow, true, hashes);
        }
        Admission::Verify(Proof::Digest(Box::new(credentials)))
    }

    /// The challenges that a request in a call gets, whose device has not proved itself: by a proxy (RFC 3261 §22.3).
    pub fn challenges(&mut self, now: Instant, request: &Message, flow: FlowId) -> Vec<String> {
        match self.challenge(now, flow, false, hashes_for(request, false)) {
            Admission::Challenge { challenges } => challenges,
            _ => Vec::new(),
        }
    }

    fn challenge(&mut self, now: Instant, flow: FlowId, stale: bool, hashes: &[Hash]) -> Admission {
        let nonce = self.nonce(now, flow);
        let challenges = hashes.iter().map(|hash| challenge_value(EDGE_REALM, &nonce, *hash, stale)).collect();
        Admission::Challenge { challenges }
    }

    fn nonce(&mut self, now: Instant, flow: FlowId) -> String {
        self.made += 1;
        let mut bytes = Vec::with_capacity(26);
        bytes.extend_from_slice(&now.saturating_duration_since(self.started).as_secs().to_be_bytes());
        bytes.extend_from_slice(&self.made.to_be_bytes());
        let mac = self.key.mac(&bytes, &flow_bytes(flow));
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a nonce; `None` unless it was given on this flow.
    fn open(&self, now: Instant, nonce: &str, flow: FlowId) -> Option<Nonce> {
        let bytes = URL_SAFE_NO_PAD.decode(nonce).ok()?;
        let (payload, mac) = bytes.split_first_chunk::<16>()?;
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&self.key.mac(payload, &flow_bytes(flow))[..], mac)) {
            return None;
        }
        let (made, number) = payload.split_first_chunk::<8>()?;
        let made = Duration::from_secs(u64::from_be_bytes(*made));
        let age = now.saturating_duration_since(self.started).checked_sub(made);
        Some(Nonce { age, number: u64::from_be_bytes(*number.first_chunk()?) })
    }
}

impl Replay {
    /// Notes an answer; whether its count is a new one.
    fn note(&mut self, number: u64, nc: u32) -> bool {
        if let Some((_, highest)) = self.counts.iter_mut().find(|(known, _)| *known == number) {
            let is_new = nc > *highest;
            *highest = (*highest).max(nc);
            return is_new;
        }
        if number <= self.forgotten {
            return false;
        }
        self.counts.push((number, nc));
        if self.counts.len() > NONCES_REMEMBERED {
            self.counts.sort_unstable();
            self.forgotten = self.counts.remove(0).0;
        }
        number > self.forgotten
    }
}

/// The algorithms that a request is challenged with, the strongest first. One in a call often does not say what its client is: MD5 alone is
/// what they all know.
fn hashes_for(request: &Message, md5_alone: bool) -> &'static [Hash] {
    let agent = request.text(Name::UserAgent);
    let unknown = agent.is_none() && request.method() != Some(Method::Register);
    let md5_alone = md5_alone || unknown || MD5_ALONE.iter().any(|known| agent.is_some_and(|it| it.starts_with(known)));
    if md5_alone { &[Hash::Md5] } else { &[Hash::Sha256, Hash::Md5] }
}

/// The headers that the credentials for this relay may be in, the likelier first: it is the registrar of a REGISTER, and a proxy for any other
/// request; but a client may send one and the same header with all that it sends (JsSIP does, with a bearer token).
fn carriers_of(request: &Message) -> &'static [Name] {
    match request.method() {
        Some(Method::Register) => &[Name::Authorization],
        _ => &[Name::ProxyAuthorization, Name::Authorization],
    }
}

/// Whether a request in a call carries a proof for this relay.
pub fn shows_proof(request: &Message) -> bool {
    own_proof(request).is_some()
}

/// The credentials that are for this relay: a client may send those for other realms beside them (RFC 3261 §22.3).
fn own_proof(request: &Message) -> Option<&str> {
    let values = || carriers_of(request).iter().flat_map(|carrier| request.values(*carrier));
    let texts = || values().filter_map(|value| std::str::from_utf8(value).ok());
    // Credentials in a REGISTER are for nobody else.
    let any = || texts().next().filter(|_| request.method() == Some(Method::Register));
    texts().find(|value| is_own_proof(value)).or_else(any)
}

fn is_own_proof(value: &str) -> bool {
    bearer(value).is_some() || Credentials::parse(value).is_some_and(|it| it.realm.as_ref() == EDGE_REALM)
}

/// Whether the `uri` of a digest means what the REGISTER asks for. Clients write it with and without the port, the
/// `transport` and the name by which they have dialled; none of these is another resource.
fn is_same_resource(uri: &str, request_uri: &str, own: &[&str]) -> bool {
    if uri == request_uri {
        return true;
    }
    let (Some(uri), Some(asked)) = (Uri::parse(uri), Uri::parse(request_uri)) else { return false };
    let host = |uri: &Uri<'_>| uri.host.trim_end_matches('.').to_ascii_lowercase();
    let is_default = |port: u16| DEFAULT_PORTS.contains(&port) || own.iter().any(|own| names_port(own, port));
    let same_port = match (uri.port, asked.port) {
        (Some(one), Some(other)) => one == other,
        (Some(port), None) | (None, Some(port)) => is_default(port),
        (None, None) => true,
    };
    let same_place = host(&uri) == host(&asked) && same_port || is_own(&uri, own) && is_own(&asked, own);
    let same = |name| uri.params.value(name) == asked.params.value(name);
    same_place && uri.user == asked.user && uri.headers == asked.headers && same("maddr") && same("method")
}

fn names_port(own: &str, port: u16) -> bool {
    own.rsplit_once(':').is_some_and(|(_, own)| own.parse() == Ok(port))
}

/// Whether a URI names the edge itself, by one of its listeners or by its realm.
fn is_own(uri: &Uri<'_>, own: &[&str]) -> bool {
    let named = |own: &&str| {
        let host = own.rsplit_once(':').map_or(*own, |(host, _)| host);
        host.eq_ignore_ascii_case(uri.host) && uri.port.is_none_or(|port| names_port(own, port))
    };
    uri.host.eq_ignore_ascii_case(EDGE_REALM) && uri.port.is_none() || own.iter().any(named)
}

fn flow_bytes(flow: FlowId) -> Vec<u8> {
    match flow {
        FlowId::Stream(number) => number.to_be_bytes().into(),
        FlowId::Datagram(peer) => peer.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [&str; 2] = ["relay.test:5061", "relay.test:7443"];

    #[test]
    fn a_digest_uri_may_be_spelt_otherwise_and_must_mean_the_same() {
        for same in [
            "sip:relay.test",
            "sip:relay.test:5061",
            "sip:relay.test:5061;transport=tls",
            "sip:Relay.TEST;transport=TLS",
            "sips:relay.test",
            "sip:relay.test:7443;transport=ws",
            "sip:sipwake",
        ] {
            assert!(is_same_resource(same, "sip:relay.test:5061;transport=tls", &OWN), "{same}");
            assert!(is_same_resource("sip:relay.test", same, &OWN), "{same}");
        }
        for other in [
            "sip:example.com",
            "sip:relay.test.example.com",
            "sip:relay.test:9999",
            "sip:bob@relay.test",
            "sip:relay.test;maddr=192.0.2.1",
            "sip:relay.test?Route=x",
            "tel:5061",
            "relay.test",
            "*",
            "",
        ] {
            assert!(!is_same_resource(other, "sip:relay.test:5061;transport=tls", &OWN), "{other}");
        }
        assert!(is_same_resource("sip:192.0.2.7", "sip:192.0.2.7:5061", &OWN), "dialled by an address");
        assert!(!is_same_resource("sip:192.0.2.7:5070", "sip:192.0.2.7:5061", &OWN));
    }

    #[test]
    fn each_nonce_has_its_count_and_a_forgotten_one_is_not_taken() {
        let mut replay = Replay::default();
        assert!(replay.note(7, 1) && replay.note(9, 1) && replay.note(7, 2));
        assert!(!replay.note(7, 2) && !replay.note(9, 1), "seen");
        for number in 10..14 {
            assert!(replay.note(number, 1));
        }
        for number in [7, 9] {
            assert!(!replay.note(number, 9), "{number} is forgotten");
        }
        assert!(!replay.note(8, 1), "older than what is remembered");
        assert!(replay.note(13, 2));
        assert!(replay.counts.len() <= NONCES_REMEMBERED);
    }
}
