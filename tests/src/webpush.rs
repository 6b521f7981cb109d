//! A stand-in for a Web Push service and for the devices that have subscribed at it: TLS and HTTP/2 on loopback.
//!
//! The stand-in checks the VAPID token (RFC 8292), the headers (RFC 8030), and decrypts each push as its device does (RFC 8291), by a
//! receiver of its own. It can be told to fail in every way that a push service does.
//!
//! Invariant: what a push service would object to, and what sipwake promises not to send, is in [`PushInbox::violations`].

use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use relay::push::webpush::{Settings, public_key};
use relay::secret::PushToken;
use relay::vault::record::{Provider, PushTarget, WebPushKeys};
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::digest::token;
use crate::http2::{Call, Head, Reply, Server, Service};
use crate::push_inbox::PushInbox;
use crate::virtual_net::VirtualNet;

/// The App's VAPID key as PEM, worth nothing anywhere.
const KEY: &str = include_str!("webpush-key.pem");
/// The operator that the relay names.
pub const SUBJECT: &str = "mailto:push@relay.test";

/// A running stand-in; it stops when the last clone is dropped.
#[derive(Clone)]
pub struct WebPush {
    push_server: Arc<PushServer>,
    server: Arc<Server>,
    settings: Settings,
}

/// A push that the stand-in took.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The end of the endpoint's path.
    pub token: String,
    /// When its head arrived.
    pub at: Instant,
    /// The payload as the device reads it.
    pub payload: Value,
    /// `TTL`, in seconds.
    pub ttl: u64,
    /// `Urgency`
    pub urgency: String,
    /// `Topic`
    pub topic: Option<String>,
    /// The body as it travelled.
    pub body: Vec<u8>,
    /// The connection that it came on: 1 is the first.
    pub connection: usize,
}

/// The stand-in's answer to one push.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This status, and perhaps `Retry-After`.
    Status(u16, Option<u64>),
    /// 201: taken, after a while.
    Slow(Duration),
    /// Nothing. The push is not counted as taken.
    Stall,
    /// RST_STREAM with REFUSED_STREAM: not processed.
    RefusedStream,
    /// A GOAWAY that leaves this push out, after which the connection closes: not processed.
    GoAway,
    /// RST_STREAM with this error code: whether it was taken nobody says.
    Reset(u32),
    /// The push is taken, and the connection is cut instead of an answer.
    ConnectionLost,
}

/// A device's subscription.
pub struct Subscription {
    /// Where it is pushed to.
    pub endpoint: String,
    /// The end of its path.
    pub token: String,
    /// Its public key, and its secret.
    pub keys: WebPushKeys,
}

impl Subscription {
    /// As `device.call_push` names it.
    pub fn target(&self) -> Value {
        json!({
            "provider": "webpush", "endpoint": self.endpoint,
            "p256dh": URL_SAFE_NO_PAD.encode(self.keys.p256dh), "auth": URL_SAFE_NO_PAD.encode(self.keys.auth),
        })
    }

    /// As a browser writes it (`PushSubscription.toJSON()`).
    pub fn to_json(&self) -> Value {
        let target = self.target();
        let keys = json!({"p256dh": target["p256dh"], "auth": target["auth"]});
        json!({"endpoint": self.endpoint, "expirationTime": null, "keys": keys})
    }

    /// As the relay holds it.
    pub fn push_target(&self) -> PushTarget {
        PushTarget {
            web: Some(Box::new(self.keys.clone())),
            ..PushTarget::new(Provider::WebPush, PushToken::new(&self.endpoint), 0)
        }
    }
}

impl Deref for WebPush {
    type Target = PushInbox<ReceivedPush, Answer>;

    fn deref(&self) -> &Self::Target {
        &self.push_server.inbox
    }
}

impl WebPush {
    /// Starts it on a free loopback port.
    pub async fn start(authority: &Authority) -> Self {
        let (server, push_server) = Server::start(authority, |port| Arc::new(PushServer::new(port))).await;
        Self::new(authority, server, push_server)
    }

    /// Starts it in a network of this process.
    pub fn start_within(net: &VirtualNet, authority: &Authority) -> Self {
        let (server, push_server) = Server::start_within(net, authority, |port| Arc::new(PushServer::new(port)));
        Self::new(authority, server, push_server)
    }

    fn new(authority: &Authority, server: Server, push_server: Arc<PushServer>) -> Self {
        let settings = Settings {
            key_file: key_file(authority),
            subject: SUBJECT.into(),
            ca_file: Some(authority.ca_file()),
            allow_addresses: vec!["127.0.0.0/8".parse().expect("a network")],
        };
        Self { push_server, server: Arc::new(server), settings }
    }

    /// Settings by which a relay pushes here.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// How many connections were begun, also those whose handshakes came to nothing.
    pub fn dials(&self) -> usize {
        self.server.dials()
    }

    /// How many streams a client may open at once on connections made from now on.
    pub fn allow_streams(&self, limit: usize) {
        self.server.allow_streams(limit);
    }

    /// A device subscribes.
    pub fn subscribe(&self) -> Subscription {
        self.subscribe_as(token())
    }

    /// A device subscribes, and its endpoint's path ends so.
    ///
    /// # Panics
    /// When the system has no randomness.
    pub fn subscribe_as(&self, name: String) -> Subscription {
        let private = PrivateKey::generate(&ECDH_P256).expect("randomness");
        let p256dh: [u8; 65] = private.compute_public_key().expect("a key").as_ref().try_into().expect("a point");
        let auth: [u8; 16] = rand16();
        let keys = WebPushKeys { p256dh, auth };
        let device = Receiver { private, keys: keys.clone() };
        lock(&self.push_server.devices).insert(name.clone(), device);
        Subscription { endpoint: format!("{}/push/{name}", self.server.endpoint()), token: name, keys }
    }
}

/// The App's VAPID key in a file.
pub fn key_file(authority: &Authority) -> PathBuf {
    authority.write("webpush.pem", KEY)
}

fn rand16() -> [u8; 16] {
    let text = token();
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(text.bytes()).for_each(|(byte, random)| *byte = random);
    bytes
}

/// A device's side of RFC 8291.
struct Receiver {
    private: PrivateKey,
    keys: WebPushKeys,
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derived<const N: usize>(prk: &Prk, info: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    prk.expand(&[info], Length(N)).and_then(|okm| okm.fill(&mut out)).expect("a short key");
    out
}

impl Receiver {
    /// Reads one record of `aes128gcm` (RFC 8188 §2).
    fn open(&self, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (salt, rest) = body.split_at_checked(16).ok_or("no salt")?;
        let (size, rest) = rest.split_at_checked(4).ok_or("no record size")?;
        let size = u32::from_be_bytes(size.try_into().map_err(|_| "record size")?) as usize;
        let (length, rest) = rest.split_first().ok_or("no key length")?;
        let (sender, record) = rest.split_at_checked(usize::from(*length)).ok_or("no key")?;
        if *length != 65 || record.len() > size || size < 18 {
            return Err("key or record size");
        }
        let peer = agreement::UnparsedPublicKey::new(&ECDH_P256, sender);
        let key_info = [&b"WebPush: info\0"[..], &self.keys.p256dh, sender].concat();
        let input: [u8; 32] = agreement::agree(&self.private, peer, "the sender's key", |shared| {
            Ok(derived(&Salt::new(HKDF_SHA256, &self.keys.auth).extract(shared), &key_info))
        })?;
        let prk = Salt::new(HKDF_SHA256, salt).extract(&input);
        let key: [u8; 16] = derived(&prk, b"Content-Encoding: aes128gcm\0");
        let nonce: [u8; NONCE_LEN] = derived(&prk, b"Content-Encoding: nonce\0");
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).map_err(|_| "key")?);
        let mut record = record.to_vec();
        let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record);
        let plain = plain.map_err(|_| "it does not open")?;
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or("no delimiter")?;
        if plain[end] != 2 {
            return Err("the delimiter of the last record is 2");
        }
        Ok(plain[..end].to_vec())
    }
}

struct PushServer {
    origin: String,
    devices: Mutex<HashMap<String, Receiver>>,
    inbox: PushInbox<ReceivedPush, Answer>,
}

impl Service for PushServer {
    fn answer(&self, call: Call) -> Reply {
        self.inbox.arrive();
        let name = call.path.strip_prefix("/push/").unwrap_or_default().to_owned();
        let length = call.headers.get("content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        if length != Some(call.body.len()) {
            self.inbox.object("no content-length: some services read no body then (RFC 9110 §8.6)".to_owned());
        }
        let read = self.read(&call, &name);
        let push = match read {
            Ok(push) => push,
            Err(objection) => {
                self.inbox.object(objection.to_owned());
                return status(400, None);
            }
        };
        let rings = push.payload["event"] == "call";
        if rings {
            self.inbox.arrive_for_call();
        }
        let answer = self.inbox.scripted(&name, call.line.number).unwrap_or(Answer::Status(201, None));
        if matches!(answer, Answer::Status(200..=299, _) | Answer::Slow(_) | Answer::ConnectionLost) {
            self.inbox.take(&name, rings, || push);
        }
        match answer {
            Answer::Status(code, retry_after) => status(code, retry_after),
            Answer::Slow(delay) => Reply::Slow(delay, Head { status: 201, headers: Vec::new() }, String::new()),
            Answer::Stall => Reply::Silence,
            Answer::RefusedStream => Reply::RefuseStream,
            Answer::GoAway => Reply::GoAway,
            Answer::Reset(code) => Reply::Reset(code.into()),
            Answer::ConnectionLost => Reply::Cut,
        }
    }
}

impl PushServer {
    fn new(port: u16) -> Self {
        Self { origin: crate::http2::endpoint(port), devices: Mutex::default(), inbox: PushInbox::new() }
    }

    fn read(&self, call: &Call, name: &str) -> Result<ReceivedPush, &'static str> {
        let header = |name: &str| call.headers.get(name).and_then(|value| value.to_str().ok());
        if call.method != Method::POST {
            return Err("a push is a POST");
        }
        self.check_token(header("authorization").ok_or("no authorization")?)?;
        if header("content-encoding") != Some("aes128gcm") {
            return Err("content-encoding");
        }
        let ttl = header("ttl").and_then(|value| value.parse().ok()).ok_or("TTL (RFC 8030 §5.2)")?;
        let urgency = header("urgency").ok_or("no urgency")?.to_owned();
        if !matches!(&*urgency, "very-low" | "low" | "normal" | "high") {
            return Err("urgency (RFC 8030 §5.3)");
        }
        let topic = header("topic").map(str::to_owned);
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if topic.as_ref().is_some_and(|topic| topic.len() > 32 || !topic.bytes().all(is_base64url)) {
            return Err("topic (RFC 8030 §5.4)");
        }
        if call.body.len() > 4_096 {
            return Err("a body of more than 4096 bytes (RFC 8030 §7.2)");
        }
        let devices = lock(&self.devices);
        let device = devices.get(name).ok_or("no such device")?;
        let plaintext = device.open(&call.body)?;
        let payload: Value = serde_json::from_slice(&plaintext).map_err(|_| "what the device reads is no JSON")?;
        let urgent = payload["event"] == "call";
        if urgent && topic.is_some() {
            return Err("a call takes the place of none");
        }
        if urgent != (urgency == "high") || urgent && ttl != 0 {
            return Err("a call, and a call alone, is high, and its TTL is 0");
        }
        Ok(ReceivedPush {
            token: name.to_owned(),
            at: call.at,
            payload,
            ttl,
            urgency,
            topic,
            body: call.body.to_vec(),
            connection: call.line.number,
        })
    }

    /// RFC 8292 §2 and §3.
    fn check_token(&self, header: &str) -> Result<(), &'static str> {
        let parameters = header.strip_prefix("vapid ").ok_or("the scheme is vapid")?;
        let parameter = |name: &str| {
            let of = |part: &str| {
                part.trim().split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
            };
            parameters.split(',').find_map(of)
        };
        let (token, key) = (parameter("t").ok_or("no t")?, parameter("k").ok_or("no k")?);
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "not unpadded base64url");
        let (signed, signature) = token.rsplit_once('.').ok_or("the token")?;
        let (header, claims) = signed.split_once('.').ok_or("the token")?;
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, decode(&key)?);
        public.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| "signature")?;
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| "header")?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).map_err(|_| "claims")?;
        if header["alg"] != "ES256" || claims["aud"] != self.origin.as_str() || claims["sub"] != SUBJECT {
            return Err("alg, aud or sub");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        match claims["exp"].as_u64() {
            Some(exp) if exp > now && exp <= now + 86_400 => Ok(()),
            _ => Err("exp is in the future, by a day at most"),
        }
    }
}

/// The public key of the App, as pages subscribe with it.
pub fn application_key(authority: &Authority) -> String {
    public_key(&key_file(authority)).expect("the key is good").into()
}

fn status(code: u16, retry_after: Option<u64>) -> Reply {
    let headers = retry_after.map(|seconds| ("retry-after", seconds.to_string())).into_iter().collect();
    Reply::Whole(Head { status: code, headers }, String::new())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        URL_SAFE_NO_PAD.decode(text).expect("base64url").try_into().expect("its length")
    }

    /// RFC 8291, Appendix A.
    #[test]
    fn the_receiver_reads_the_example_of_the_rfc() {
        let private = bytes::<32>("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94");
        let p256dh = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        let receiver = Receiver {
            private: PrivateKey::from_private_key(&ECDH_P256, &private).expect("a key"),
            keys: WebPushKeys { p256dh: bytes(p256dh), auth: bytes("BTBZMqHH6r4Tts7J_aSIgg") },
        };
        let body = URL_SAFE_NO_PAD.decode(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK\
             6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        );
        let read = receiver.open(&body.expect("base64url"));
        assert_eq!(read.as_deref(), Ok(&b"When I grow up, I want to be a watermelon"[..]));
    }
}
