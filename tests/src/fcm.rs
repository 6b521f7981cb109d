//! A stand-in for Firebase Cloud Messaging and for Google's OAuth token endpoint: TLS and HTTP/2 on loopback.
//!
//! The stand-in checks the assertion (RS256, issuer, audience, scope, life), the bearer token, the message (data alone, size,
//! Android priority and ttl, token form), answers with Google's JSON error shape, and can be told to fail in every way
//! that Google does.
//!
//! Invariant: what Google would object to, and what sipwake promises not to send, is in [`PushInbox::violations`].

use std::collections::{HashMap, VecDeque};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use relay::push::fcm::Settings;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::http2::{self, Call, Head, Reply, Server, Service};
use crate::push_inbox::PushInbox;
use crate::virtual_net::VirtualNet;

/// The Firebase project that it serves.
pub const PROJECT: &str = "sipwake-test";
const EMAIL: &str = "push@sipwake-test.iam.gserviceaccount.com";
const KEY_ID: &str = "0123456789abcdef0123456789abcdef01234567";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
const DATA_LIMIT: usize = 4_096;

/// A running stand-in; it stops when the last clone is dropped.
#[derive(Clone)]
pub struct Fcm {
    google: Arc<Google>,
    server: Arc<Server>,
    settings: Settings,
}

/// A message that the stand-in took.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The registration token.
    pub token: String,
    /// When its head arrived.
    pub at: Instant,
    /// The object in the data entry `sipwake`.
    pub payload: Value,
    /// `android.priority`.
    pub priority: String,
    /// `android.ttl`.
    pub ttl: String,
    /// The connection that it came on: 1 is the first.
    pub connection: usize,
}

impl Answer {
    /// 403 `PERMISSION_DENIED`: the service account may not push for this project.
    pub fn denied() -> Self {
        let error = serde_json::json!({"code": 403, "message": "denied", "status": "PERMISSION_DENIED"});
        Self::Http { status: 403, headers: Vec::new(), body: serde_json::json!({"error": error}).to_string() }
    }
}

/// The stand-in's answer to one message.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200: taken.
    Accept,
    /// 200: taken, after a while.
    Slow(Duration),
    /// An answer of a status, after a while; not that it was taken.
    Late(Duration, Box<Answer>),
    /// 404 `UNREGISTERED`.
    Unregistered,
    /// 403 `SENDER_ID_MISMATCH`.
    SenderIdMismatch,
    /// 429 `QUOTA_EXCEEDED`.
    QuotaExceeded {
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// 503 `UNAVAILABLE`.
    Unavailable {
        /// `Retry-After`, in seconds.
        retry_after: Option<u64>,
    },
    /// 500 `INTERNAL`.
    Internal,
    /// 400 `INVALID_ARGUMENT`, for something in the message.
    InvalidArgument,
    /// 400 `INVALID_ARGUMENT`, for the token.
    InvalidToken,
    /// 401 `THIRD_PARTY_AUTH_ERROR`.
    ThirdPartyAuthError,
    /// 401 `UNAUTHENTICATED`: the access token is no longer taken.
    Unauthenticated,
    /// 502 with a page of HTML.
    BadGateway,
    /// The head of an error, whose body never comes.
    StalledErrorBody {
        /// The HTTP status.
        status: u16,
    },
    /// Nothing. The message is not counted as taken.
    Stall,
    /// RST_STREAM with REFUSED_STREAM: not processed.
    RefusedStream,
    /// A GOAWAY that leaves this message out, after which the connection closes: not processed.
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
    /// The message is taken, and the connection is cut instead of an answer.
    ConnectionLost,
}

/// The token endpoint's answer to one exchange.
#[derive(Clone, Debug)]
pub enum TokenAnswer {
    /// An access token, after a while.
    Slow(Duration),
    /// 400 `invalid_grant`.
    InvalidGrant,
    /// 503.
    Unavailable,
    /// 503 with `Retry-After`, in seconds.
    Busy(u64),
    /// Nothing.
    Stall,
}

impl Deref for Fcm {
    type Target = PushInbox<ReceivedPush, Answer>;

    fn deref(&self) -> &Self::Target {
        &self.google.inbox
    }
}

impl Fcm {
    /// Starts it on a free loopback port.
    pub async fn start(authority: &Authority) -> Self {
        let mut file = PathBuf::new();
        let (server, google) = Server::start(authority, |port| Google::placed(authority, port, &mut file)).await;
        Self::new(authority, server, google, file)
    }

    /// Starts it in a network of this process.
    pub fn start_within(net: &VirtualNet, authority: &Authority) -> Self {
        let mut file = PathBuf::new();
        let place = |port| Google::placed(authority, port, &mut file);
        let (server, google) = Server::start_within(net, authority, place);
        Self::new(authority, server, google, file)
    }

    fn new(authority: &Authority, server: Server, google: Arc<Google>, service_account_file: PathBuf) -> Self {
        let endpoint = Some(server.endpoint().into());
        let settings = Settings { service_account_file, endpoint, ca_file: Some(authority.ca_file()) };
        Self { google, server: Arc::new(server), settings }
    }

    /// `https://localhost:port`
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// The port of the service, and of its token endpoint.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Settings that lead a relay here.
    pub fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// The service account's key file, as text.
    pub fn service_account_json(&self) -> &str {
        &self.google.account
    }

    /// The service account's key file.
    pub fn service_account_file(&self) -> PathBuf {
        self.settings.service_account_file.clone()
    }

    /// The answer of a token endpoint elsewhere, with an access token that is taken here.
    pub fn issue_token(&self) -> String {
        self.google.grant().1
    }

    /// Scripts the answers of the token endpoint, one each; then it grants again.
    pub fn answer_token_with(&self, answers: impl IntoIterator<Item = TokenAnswer>) {
        lock(&self.google.token_answers).extend(answers);
    }

    /// How long the access tokens issued from now on live, in seconds.
    pub fn token_life(&self, seconds: u64) {
        self.google.life.store(seconds, Ordering::Relaxed);
    }

    /// Takes none of the access tokens issued so far any longer.
    pub fn revoke_tokens(&self) {
        lock(&self.google.bearers).clear();
    }

    /// How many exchanges the token endpoint saw.
    pub fn token_requests(&self) -> u64 {
        self.google.exchanges.load(Ordering::Relaxed)
    }

    /// How many connections were made; the token endpoint is on a connection of its own.
    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// How many connections were begun, also those whose handshakes came to nothing.
    pub fn dials(&self) -> usize {
        self.server.dials()
    }

    /// Ends every connection with a GOAWAY after which open messages are still answered.
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

/// The service account's key as PEM, worth nothing anywhere: making one takes half a second.
const KEY: &str = include_str!("fcm-key.pem");

fn signing_key() -> RsaKeyPair {
    let der = PrivatePkcs8KeyDer::from_pem_slice(KEY.as_bytes()).expect("the key is PEM");
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).expect("the key is RSA")
}

fn service_account(token_uri: &str) -> String {
    let account = json!({
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": KEY_ID,
        "private_key": KEY,
        "client_email": EMAIL,
        "client_id": "100000000000000000000",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": token_uri,
        "universe_domain": "googleapis.com",
    });
    account.to_string()
}

struct Google {
    token_uri: String,
    account: String,
    public_key: Vec<u8>,
    /// The access tokens that are taken, and until when.
    bearers: Mutex<HashMap<String, Instant>>,
    issued: AtomicU64,
    exchanges: AtomicU64,
    life: AtomicU64,
    token_answers: Mutex<VecDeque<TokenAnswer>>,
    inbox: PushInbox<ReceivedPush, Answer>,
}

impl Service for Google {
    fn answer(&self, call: Call) -> Reply {
        if call.path == "/token" { self.exchange(&call) } else { self.send(&call) }
    }
}

impl Google {
    /// Behind a port, with its service account in a file.
    fn placed(authority: &Authority, port: u16, file: &mut PathBuf) -> Arc<Self> {
        let token_uri = format!("{}/token", http2::endpoint(port));
        let account = service_account(&token_uri);
        *file = authority.write(&format!("fcm-{port}.json"), &account);
        Arc::new(Self {
            token_uri,
            account,
            public_key: signing_key().public_key().as_ref().to_vec(),
            bearers: Mutex::default(),
            issued: AtomicU64::new(0),
            exchanges: AtomicU64::new(0),
            life: AtomicU64::new(3_599),
            token_answers: Mutex::default(),
            inbox: PushInbox::new(),
        })
    }

    fn exchange(&self, call: &Call) -> Reply {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        if let Err(objection) = self.check_exchange(call) {
            self.inbox.object(format!("token endpoint: {objection}"));
            return oauth_error(400, "invalid_grant");
        }
        let scripted = lock(&self.token_answers).pop_front();
        match scripted {
            Some(TokenAnswer::InvalidGrant) => oauth_error(400, "invalid_grant"),
            Some(TokenAnswer::Unavailable) => oauth_error(503, "temporarily_unavailable"),
            Some(TokenAnswer::Busy(retry_after)) => error(503, "UNAVAILABLE", "Busy.", Vec::new(), Some(retry_after)),
            Some(TokenAnswer::Stall) => Reply::Silence,
            Some(TokenAnswer::Slow(delay)) => {
                let (head, body) = self.grant();
                Reply::Slow(delay, head, body)
            }
            None => {
                let (head, body) = self.grant();
                Reply::Whole(head, body)
            }
        }
    }

    fn grant(&self) -> (Head, String) {
        let life = self.life.load(Ordering::Relaxed);
        let token = format!("ya29.sipwake-test-{:06}", self.issued.fetch_add(1, Ordering::Relaxed));
        lock(&self.bearers).insert(token.clone(), Instant::now() + Duration::from_secs(life));
        (json_head(200), json!({"access_token": token, "expires_in": life, "token_type": "Bearer"}).to_string())
    }

    /// RFC 7523 §2.1 and §3, with Google's limits.
    fn check_exchange(&self, call: &Call) -> Result<(), &'static str> {
        let form = std::str::from_utf8(&call.body).map_err(|_| "the form is not UTF-8")?;
        let content_type = call.headers.get("content-type").and_then(|value| value.to_str().ok());
        if call.method != Method::POST || content_type != Some("application/x-www-form-urlencoded") {
            return Err("it wants a POST of a form");
        }
        let field = |name| form.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        if field("grant_type").is_none_or(|(_, value)| value != GRANT) {
            return Err("grant_type");
        }
        let (_, assertion) = field("assertion").ok_or("no assertion")?;
        let (signed, signature) = assertion.rsplit_once('.').ok_or("assertion")?;
        let (header, claims) = signed.split_once('.').ok_or("assertion")?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "not unpadded base64url");
        let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key);
        key.verify(signed.as_bytes(), &decode(signature)?).map_err(|_| "signature")?;
        let header: Value = serde_json::from_slice(&decode(header)?).map_err(|_| "header")?;
        let claims: Value = serde_json::from_slice(&decode(claims)?).map_err(|_| "claims")?;
        if header["alg"] != "RS256" || header["typ"] != "JWT" || header["kid"] != KEY_ID {
            return Err("alg, typ or kid");
        }
        if claims["iss"] != EMAIL || claims["aud"] != self.token_uri.as_str() || claims["scope"] != SCOPE {
            return Err("iss, aud or scope");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let iat = claims["iat"].as_u64().ok_or("iat")?;
        let exp = claims["exp"].as_u64().ok_or("exp")?;
        if iat > now + 60 || exp <= now || exp > iat + 3_600 {
            return Err("iat or exp");
        }
        Ok(())
    }

    fn send(&self, call: &Call) -> Reply {
        self.inbox.arrive();
        if call.method != Method::POST || call.path != format!("/v1/projects/{PROJECT}/messages:send") {
            self.inbox.object(format!("{} {}", call.method, call.path));
            return error(404, "NOT_FOUND", "Requested entity was not found.", Vec::new(), None);
        }
        if !self.is_authorised(call) {
            return unauthenticated();
        }
        let message = match read_message(&call.body) {
            Ok(message) => message,
            Err((field, description)) => {
                if !is_trial(&call.body) {
                    self.inbox.object(format!("{field}: {description}"));
                }
                return invalid(field, description);
            }
        };
        for objection in contract(&message) {
            self.inbox.object(objection.to_owned());
        }
        let rings = message.payload["event"] == "call";
        if rings {
            self.inbox.arrive_for_call();
        }
        let answer = self.inbox.scripted(&message.token, call.line.number).unwrap_or(Answer::Accept);
        if matches!(answer, Answer::Accept | Answer::Slow(_) | Answer::AcceptAndGoAway | Answer::ConnectionLost) {
            let token = message.token.clone();
            self.inbox.take(&token, rings, || ReceivedPush {
                token: message.token,
                at: call.at,
                payload: message.payload,
                priority: message.priority,
                ttl: message.ttl,
                connection: call.line.number,
            });
        }
        reply(answer)
    }

    fn is_authorised(&self, call: &Call) -> bool {
        let bearer = call.headers.get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = bearer.and_then(|bearer| bearer.strip_prefix("Bearer ")) else {
            self.inbox.object("no bearer token".into());
            return false;
        };
        lock(&self.bearers).get(token).is_some_and(|until| *until > Instant::now())
    }
}

/// Whether a message is only to be validated.
fn is_trial(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|body| body["validate_only"] == true)
}

struct ReadMessage {
    token: String,
    payload: Value,
    priority: String,
    ttl: String,
}

/// Reads a message as Google does: the field and what is wrong with it otherwise.
fn read_message(body: &[u8]) -> Result<ReadMessage, (&'static str, &'static str)> {
    let body: Value = serde_json::from_slice(body).map_err(|_| ("body", "Invalid JSON payload received."))?;
    let message = body["message"].as_object().ok_or(("message", "Recipient of the message is not set."))?;
    let known = |key: &String| matches!(key.as_str(), "message" | "validate_only");
    if body.as_object().is_none_or(|body| !body.keys().all(known)) {
        return Err(("body", "Unknown name"));
    }
    if message.keys().any(|key| !matches!(key.as_str(), "token" | "data" | "android")) {
        return Err(("message", "it holds more than token, data and android"));
    }
    let token = message.get("token").and_then(Value::as_str).unwrap_or_default();
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:".contains(&byte);
    if token.len() < 10 || !token.bytes().all(is_token) {
        return Err(("message.token", "Invalid registration token"));
    }
    let data = message.get("data").and_then(Value::as_object).ok_or(("message.data", "no data"))?;
    let mut size = 0;
    for (key, value) in data {
        size += key.len() + value.as_str().ok_or(("message.data[0].value", "Invalid value (TYPE_STRING)"))?.len();
    }
    if size > DATA_LIMIT {
        return Err(("message", "Message is too big"));
    }
    let text = data.get("sipwake").and_then(Value::as_str).ok_or(("message.data", "no entry sipwake"))?;
    let payload = serde_json::from_str(text).map_err(|_| ("message.data", "the entry sipwake is not JSON"))?;
    let android = |key: &str| message.get("android").and_then(|android| android[key].as_str()).unwrap_or_default();
    let (priority, ttl) = (android("priority"), android("ttl"));
    if !matches!(priority, "HIGH" | "NORMAL") {
        return Err(("message.android.priority", "Invalid value"));
    }
    if ttl.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok()).is_none() {
        return Err(("message.android.ttl", "Illegal duration format; duration must end with 's'"));
    }
    if body["validate_only"] == true {
        // The message was looked at, and found to be for nobody.
        return Err(("message.token", "The registration token is not a valid FCM registration token"));
    }
    Ok(ReadMessage { token: token.into(), payload, priority: priority.into(), ttl: ttl.into() })
}

/// The objections to a message that Google accepts, and that sipwake promises not to send.
fn contract(message: &ReadMessage) -> Vec<&'static str> {
    let urgent = message.payload["event"] == "call";
    let mut objections = Vec::new();
    if urgent != (message.priority == "HIGH") {
        objections.push("HIGH is for calls, and for calls alone");
    }
    if urgent && message.ttl != "0s" {
        objections.push("a call's ttl is 0s");
    }
    objections
}

fn reply(answer: Answer) -> Reply {
    let name = || json!({"name": format!("projects/{PROJECT}/messages/0:1")}).to_string();
    match answer {
        Answer::Accept => Reply::Whole(json_head(200), name()),
        Answer::Slow(delay) => Reply::Slow(delay, json_head(200), name()),
        Answer::Late(delay, answer) => reply(*answer).after(delay),
        Answer::AcceptAndGoAway => Reply::LastWord(json_head(200), name()),
        Answer::Http { status, headers, body } => {
            let headers = headers.into_iter().chain(json_head(status).headers).collect();
            Reply::Whole(Head { status, headers }, body)
        }
        Answer::Unregistered => fcm_error(404, "NOT_FOUND", "UNREGISTERED", None),
        Answer::SenderIdMismatch => fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", None),
        Answer::QuotaExceeded { retry_after } => fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", retry_after),
        Answer::Unavailable { retry_after } => fcm_error(503, "UNAVAILABLE", "UNAVAILABLE", retry_after),
        Answer::Internal => fcm_error(500, "INTERNAL", "INTERNAL", None),
        Answer::InvalidArgument => invalid("message.data[0].value", "Invalid value (TYPE_STRING)"),
        Answer::InvalidToken => invalid("message.token", "Invalid registration token"),
        Answer::ThirdPartyAuthError => fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", None),
        Answer::Unauthenticated => unauthenticated(),
        Answer::BadGateway => {
            let head = Head { status: 502, headers: vec![("content-type", "text/html; charset=UTF-8".into())] };
            Reply::Whole(head, "<!DOCTYPE html><title>Error 502 (Server Error)</title>".into())
        }
        Answer::StalledErrorBody { status } => Reply::Headless(json_head(status)),
        Answer::Stall => Reply::Silence,
        Answer::RefusedStream => Reply::RefuseStream,
        Answer::GoAway => Reply::GoAway,
        Answer::Reset(code) => Reply::Reset(code.into()),
        Answer::Freeze => Reply::Freeze,
        Answer::ConnectionLost => Reply::Cut,
    }
}

fn json_head(status: u16) -> Head {
    Head { status, headers: vec![("content-type", "application/json; charset=UTF-8".into())] }
}

fn error(status: u16, general: &str, message: &str, details: Vec<Value>, retry_after: Option<u64>) -> Reply {
    let mut head = json_head(status);
    head.headers.extend(retry_after.map(|seconds| ("retry-after", seconds.to_string())));
    let mut error = json!({"code": status, "message": message, "status": general});
    if !details.is_empty() {
        error["details"] = details.into();
    }
    Reply::Whole(head, json!({"error": error}).to_string())
}

fn fcm_detail(code: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
}

fn fcm_error(status: u16, general: &str, code: &str, retry_after: Option<u64>) -> Reply {
    error(status, general, "The stand-in was told to answer this.", vec![fcm_detail(code)], retry_after)
}

fn invalid(field: &str, description: &str) -> Reply {
    let violation = json!({"field": field, "description": description});
    let request = json!({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]});
    let details = vec![fcm_detail("INVALID_ARGUMENT"), request];
    error(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", details, None)
}

fn unauthenticated() -> Reply {
    let info = json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "ACCESS_TOKEN_EXPIRED",
        "domain": "googleapis.com",
    });
    error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", vec![info], None)
}

fn oauth_error(status: u16, code: &str) -> Reply {
    let body = json!({"error": code, "error_description": "The stand-in was told to answer this."});
    Reply::Whole(json_head(status), body.to_string())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
