//! A stand-in for APNs: TLS, HTTP/2 and Apple's own checks on loopback.
//!
//! The stand-in checks method, path, device token, topic, push type, priority, expiration, `apns-id`, payload size and the
//! provider token (signature, team, key, age), answers with Apple's statuses and JSON bodies, echoes `apns-id`, and can
//! be told to fail in every way that Apple does.
//!
//! Invariant: what Apple would object to, and what sipwake promises not to send (a VoIP push that is no call, two for one
//! call, more than one stream before the first good provider token), is in [`PushInbox::violations`].

use std::collections::HashSet;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use relay::config::ApnsCredentials;
use relay::push::apns::Settings;
use serde_json::Value;

use crate::authority::Authority;
use crate::http2::{Call, Head, Line, Reply, Server, Service};
use crate::push_inbox::PushInbox;
use crate::virtual_net::VirtualNet;

/// The bundle id that [`Apns::start`] serves.
pub const BUNDLE: &str = "com.example.phone";
/// The key's id.
pub const KEY_ID: &str = "ABC1234567";
/// The team's id.
pub const TEAM_ID: &str = "DEF1234567";

/// A running stand-in; it stops when the last clone is dropped.
#[derive(Clone)]
pub struct Apns {
    apple: Arc<Apple>,
    server: Arc<Server>,
    settings: Settings,
    key_file: PathBuf,
}

/// A push that the stand-in took.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The device token, hex.
    pub token: String,
    /// When its head arrived.
    pub at: Instant,
    /// The body.
    pub payload: Value,
    /// `apns-topic`.
    pub topic: String,
    /// `apns-push-type`.
    pub push_type: String,
    /// `apns-priority`.
    pub priority: u8,
    /// `apns-expiration`, seconds since 1970.
    pub expiration: u64,
    /// `apns-id`.
    pub apns_id: String,
    /// `apns-collapse-id`.
    pub collapse_id: Option<String>,
    /// The provider token (JWT) that came with it.
    pub provider_token: String,
    /// The connection that it came on: 1 is the first.
    pub connection: usize,
}

/// The stand-in's answer to one push.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200: taken.
    Accept,
    /// 200: taken, after a while.
    Slow(Duration),
    /// An answer of a status, after a while; not that it was taken.
    Late(Duration, Box<Answer>),
    /// 410 `Unregistered`, with the moment in milliseconds since 1970.
    Gone {
        /// Milliseconds since 1970.
        timestamp: u64,
    },
    /// 400 `BadDeviceToken`.
    BadDeviceToken,
    /// 400 `DeviceTokenNotForTopic`.
    DeviceTokenNotForTopic,
    /// 403 `ExpiredProviderToken`.
    ExpiredProviderToken,
    /// 403 `InvalidProviderToken`.
    InvalidProviderToken,
    /// 429 `TooManyRequests`.
    TooManyRequests {
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// 500 `InternalServerError`.
    ServerError,
    /// 503 `ServiceUnavailable`.
    Unavailable {
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// Any status with any reason.
    Error {
        /// The HTTP status.
        status: u16,
        /// The reason in the body.
        reason: &'static str,
    },
    /// The head of an error, whose body never comes.
    StalledErrorBody {
        /// The HTTP status.
        status: u16,
    },
    /// Nothing. The push is not counted as taken.
    Stall,
    /// RST_STREAM with REFUSED_STREAM: not processed.
    RefusedStream,
    /// A GOAWAY that leaves this push out, after which the connection closes: not processed.
    GoAway,
    /// Any answer, header by header.
    Http {
        /// The HTTP status.
        status: u16,
        /// Headers beside those of every answer.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// 200: taken, then a GOAWAY that leaves out what came after.
    AcceptAndGoAway,
    /// RST_STREAM with this error code: whether it was taken nobody says. It is not counted as taken.
    Reset(u32),
    /// The connection falls silent for good, without being closed.
    Freeze,
    /// The push is taken, and the connection is cut instead of an answer.
    ConnectionLost,
}

impl Deref for Apns {
    type Target = PushInbox<ReceivedPush, Answer>;

    fn deref(&self) -> &Self::Target {
        &self.apple.inbox
    }
}

impl Apns {
    /// Starts it on a free loopback port, for the bundle [`BUNDLE`].
    pub async fn start(authority: &Authority) -> Self {
        Self::start_for(authority, BUNDLE).await
    }

    /// Starts it for another bundle.
    pub async fn start_for(authority: &Authority, bundle: &str) -> Self {
        let apple = Apple::new(bundle);
        let mut key_file = PathBuf::new();
        let (server, apple) = Server::start(authority, |port| apple.placed(authority, port, &mut key_file)).await;
        Self::new(authority, server, apple, key_file)
    }

    /// Starts it in a network of this process.
    pub fn start_within(net: &VirtualNet, authority: &Authority, bundle: &str) -> Self {
        let apple = Apple::new(bundle);
        let mut key_file = PathBuf::new();
        let place = |port| apple.placed(authority, port, &mut key_file);
        let (server, apple) = Server::start_within(net, authority, place);
        Self::new(authority, server, apple, key_file)
    }

    fn new(authority: &Authority, server: Server, apple: Arc<Apple>, key_file: PathBuf) -> Self {
        let settings = Settings {
            credentials: ApnsCredentials::Key {
                key_file: key_file.clone(),
                key_id: KEY_ID.into(),
                team_id: TEAM_ID.into(),
            },
            endpoint: Some(server.endpoint().into()),
            ca_file: Some(authority.ca_file()),
        };
        Self { apple, server: Arc::new(server), settings, key_file }
    }

    /// Settings that lead a relay here, by the certificate and key of this file.
    pub fn settings_by(&self, file: PathBuf) -> Settings {
        Settings { credentials: ApnsCredentials::Certificate { file, team_id: None }, ..self.settings() }
    }

    /// The port of its endpoint.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// `https://localhost:port`
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// Settings that lead a relay here.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The signing key as PEM.
    pub fn p8_pem(&self) -> &str {
        &self.apple.p8_pem
    }

    /// The signing key's file.
    pub fn key_file(&self) -> PathBuf {
        self.key_file.clone()
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// How many connections were begun, also those whose handshakes came to nothing.
    pub fn dials(&self) -> usize {
        self.server.dials()
    }

    /// Shows a certificate that has ended, or a good one again, on connections made from now on.
    pub fn let_certificate_end(&self, authority: &Authority, ended: bool) {
        self.server.let_certificate_end(authority, ended);
    }

    /// Ends every connection with a GOAWAY after which open pushes are still answered.
    pub fn drain(&self) {
        self.server.drain();
    }

    /// Lets every connection that is open fall silent for good, without closing it.
    pub fn freeze(&self) {
        self.server.freeze();
    }

    /// How many streams a client may open at once on connections made from now on.
    pub fn allow_streams(&self, limit: usize) {
        self.server.allow_streams(limit);
    }
}

struct Apple {
    bundle: String,
    p8_pem: String,
    public_key: Vec<u8>,
    /// The provider token that was verified last, and when it was issued.
    good: Mutex<Option<(String, u64)>>,
    /// The calls that were rung by a VoIP push.
    rung: Mutex<HashSet<String>>,
    inbox: PushInbox<ReceivedPush, Answer>,
}

/// A refusal of Apple's: status and reason.
type Refusal = (u16, &'static str);

impl Service for Apple {
    fn opened(&self, line: &Line, others: usize) {
        if others > 0 && line.certificate.is_none() && !line.proven.load(Ordering::Relaxed) {
            self.inbox.object("more than one stream before the first good provider token".into());
        }
    }

    fn answer(&self, call: Call) -> Reply {
        self.inbox.arrive();
        let apns_id = header(&call, "apns-id").unwrap_or_default().to_owned();
        // A push that was taken back while it waited for its turn leaves as blanks, should it leave.
        if !call.body.is_empty() && call.body.iter().all(|byte| *byte == b' ') {
            return error(400, "BadPayload", apns_id, None);
        }
        let push = match self.check(&call) {
            Ok(push) => push,
            Err((status, reason)) => {
                self.inbox.object(format!("{status} {reason}"));
                return error(status, reason, apns_id, None);
            }
        };
        if push.push_type == "voip" {
            self.inbox.arrive_for_call();
        }
        let answer = self.inbox.scripted(push.token, call.line.number).unwrap_or(Answer::Accept);
        if matches!(answer, Answer::Accept | Answer::Slow(_) | Answer::AcceptAndGoAway | Answer::ConnectionLost) {
            self.take(&call, &push);
        }
        reply(answer, apns_id)
    }
}

/// The fields of a push that passed the checks.
struct Checked<'a> {
    token: &'a str,
    provider_token: &'a str,
    topic: &'a str,
    push_type: &'a str,
    priority: u8,
    expiration: u64,
}

impl Apple {
    fn new(bundle: &str) -> Self {
        let key = rcgen::KeyPair::generate().expect("a P-256 key can be made");
        Self {
            bundle: bundle.to_owned(),
            p8_pem: key.serialize_pem(),
            public_key: key.public_key_raw().to_vec(),
            good: Mutex::default(),
            rung: Mutex::default(),
            inbox: PushInbox::new(),
        }
    }

    /// Behind a port, with its key in a file.
    fn placed(self, authority: &Authority, port: u16, key_file: &mut PathBuf) -> Arc<Self> {
        *key_file = authority.write(&format!("apns-{}-{port}.p8", self.bundle), &self.p8_pem);
        Arc::new(self)
    }

    fn check<'a>(&self, call: &'a Call) -> Result<Checked<'a>, Refusal> {
        if call.method != Method::POST {
            return Err((405, "MethodNotAllowed"));
        }
        let token = call.path.strip_prefix("/3/device/").ok_or((404, "BadPath"))?;
        if token.is_empty() {
            return Err((400, "MissingDeviceToken"));
        }
        if token.len() < 64 || token.len() % 2 == 1 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err((400, "BadDeviceToken"));
        }
        let provider_token = match header(call, "authorization") {
            None => match &call.line.certificate {
                None => return Err((403, "MissingProviderToken")),
                Some(certificate) if self.is_of(certificate) => "",
                Some(_) => return Err((400, "TopicDisallowed")),
            },
            Some(authorization) => {
                let bearer = authorization.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("bearer "));
                let token = bearer.map(|_| &authorization[7..]).ok_or((403, "MissingProviderToken"))?;
                self.check_provider_token(token)?;
                token
            }
        };
        call.line.proven.store(true, Ordering::Relaxed);
        let push_type = header(call, "apns-push-type").ok_or((400, "InvalidPushType"))?;
        let topic = header(call, "apns-topic").ok_or((400, "MissingTopic"))?;
        let wanted = match push_type {
            "voip" => format!("{}.voip", self.bundle),
            "alert" | "background" => self.bundle.clone(),
            _ => return Err((400, "InvalidPushType")),
        };
        if topic != wanted {
            return Err((400, "BadTopic"));
        }
        let priority = number(call, "apns-priority").ok_or((400, "BadPriority"))?;
        match (push_type, priority) {
            ("voip", 10) | ("alert", 1 | 5 | 10) | ("background", 1 | 5) => {}
            _ => return Err((400, "BadPriority")),
        }
        let expiration = number(call, "apns-expiration").ok_or((400, "BadExpirationDate"))?;
        if push_type == "voip" && expiration != 0 {
            return Err((400, "BadExpirationDate"));
        }
        if !header(call, "apns-id").is_some_and(is_uuid) {
            return Err((400, "BadMessageId"));
        }
        if header(call, "apns-collapse-id").is_some_and(|id| push_type == "voip" || id.len() > 64) {
            return Err((400, "BadCollapseId"));
        }
        let limit = if push_type == "voip" { 5_120 } else { 4_096 };
        match call.body.len() {
            0 => return Err((400, "PayloadEmpty")),
            length if length > limit => return Err((413, "PayloadTooLarge")),
            _ => {}
        }
        let priority = priority as u8;
        Ok(Checked { token, provider_token, topic, push_type, priority, expiration })
    }

    /// Whether a certificate is this app's.
    fn is_of(&self, certificate: &[u8]) -> bool {
        certificate.windows(self.bundle.len()).any(|part| part == self.bundle.as_bytes())
    }

    fn check_provider_token(&self, token: &str) -> Result<(), Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = match &*good {
            Some((verified, issued)) if verified == token => *issued,
            _ => {
                let issued = self.verify(token).ok_or((403, "InvalidProviderToken"))?;
                *good = Some((token.to_owned(), issued));
                issued
            }
        };
        match issued {
            issued if issued > now + 60 => Err((403, "InvalidProviderToken")),
            issued if issued + 3_600 < now => Err((403, "ExpiredProviderToken")),
            _ => Ok(()),
        }
    }

    /// When a provider token with a good signature, key and team was issued.
    fn verify(&self, token: &str) -> Option<u64> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key);
        key.verify(signed.as_bytes(), &signature).ok()?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let ours = header["alg"] == "ES256" && header["kid"] == KEY_ID && claims["iss"] == TEAM_ID;
        claims["iat"].as_u64().filter(|_| ours)
    }

    fn take(&self, call: &Call, push: &Checked) {
        let mut payload = Value::Null;
        if self.inbox.keeps_pushes() {
            match serde_json::from_slice(&call.body) {
                Ok(read) => payload = read,
                Err(why) => self.inbox.object(format!("the payload is not JSON, {why}: {}", call.body.escape_ascii())),
            }
            self.check_contract(&payload, push.push_type == "voip");
        }
        self.inbox.take(push.token, push.push_type == "voip", || ReceivedPush {
            token: push.token.to_owned(),
            at: call.at,
            payload,
            topic: push.topic.to_owned(),
            push_type: push.push_type.to_owned(),
            priority: push.priority,
            expiration: push.expiration,
            apns_id: header(call, "apns-id").unwrap_or_default().to_owned(),
            collapse_id: header(call, "apns-collapse-id").map(str::to_owned),
            provider_token: push.provider_token.to_owned(),
            connection: call.line.number,
        });
    }

    fn check_contract(&self, payload: &Value, voip: bool) {
        if !payload["aps"].is_object() {
            self.inbox.object("the payload has no aps".into());
        }
        if voip != (payload["sipwake"]["event"] == "call") {
            self.inbox.object("a VoIP push is a call, and a call is a VoIP push".into());
        }
        if let (true, Some(call)) = (voip, payload["sipwake"]["call"].as_str()) {
            let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
            if !rung.insert(format!("{}/{call}", payload["sipwake"]["instance"])) {
                self.inbox.object(format!("a second VoIP push for {call}"));
            }
        }
    }
}

fn header<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.headers.get(name)?.to_str().ok()
}

fn number(call: &Call, name: &str) -> Option<u64> {
    header(call, name)?.parse().ok()
}

/// 8-4-4-4-12 lower-case hex digits, as Apple wants them.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn reply(answer: Answer, apns_id: String) -> Reply {
    let accepted = |apns_id| Head { status: 200, headers: vec![("apns-id", apns_id)] };
    match answer {
        Answer::Accept => Reply::Whole(accepted(apns_id), String::new()),
        Answer::Slow(delay) => Reply::Slow(delay, accepted(apns_id), String::new()),
        Answer::Late(delay, answer) => reply(*answer, apns_id).after(delay),
        Answer::AcceptAndGoAway => Reply::LastWord(accepted(apns_id), String::new()),
        Answer::Http { status, headers, body } => {
            let headers = headers.into_iter().chain([("apns-id", apns_id)]).collect();
            Reply::Whole(Head { status, headers }, body)
        }
        Answer::Gone { timestamp } => {
            let body = serde_json::json!({"reason": "Unregistered", "timestamp": timestamp}).to_string();
            Reply::Whole(Head { status: 410, headers: vec![("apns-id", apns_id)] }, body)
        }
        Answer::BadDeviceToken => error(400, "BadDeviceToken", apns_id, None),
        Answer::DeviceTokenNotForTopic => error(400, "DeviceTokenNotForTopic", apns_id, None),
        Answer::ExpiredProviderToken => error(403, "ExpiredProviderToken", apns_id, None),
        Answer::InvalidProviderToken => error(403, "InvalidProviderToken", apns_id, None),
        Answer::TooManyRequests { retry_after } => error(429, "TooManyRequests", apns_id, retry_after),
        Answer::ServerError => error(500, "InternalServerError", apns_id, None),
        Answer::Unavailable { retry_after } => error(503, "ServiceUnavailable", apns_id, retry_after),
        Answer::Error { status, reason } => error(status, reason, apns_id, None),
        Answer::StalledErrorBody { status } => Reply::Headless(Head { status, headers: vec![("apns-id", apns_id)] }),
        Answer::Stall => Reply::Silence,
        Answer::RefusedStream => Reply::RefuseStream,
        Answer::GoAway => Reply::GoAway,
        Answer::Reset(code) => Reply::Reset(code.into()),
        Answer::Freeze => Reply::Freeze,
        Answer::ConnectionLost => Reply::Cut,
    }
}

fn error(status: u16, reason: &str, apns_id: String, retry_after: Option<u64>) -> Reply {
    let mut headers = vec![("apns-id", apns_id)];
    headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
    Reply::Whole(Head { status, headers }, serde_json::json!({"reason": reason}).to_string())
}
