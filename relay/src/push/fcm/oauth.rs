//! Google's access tokens: a signed assertion of the service account, exchanged for a bearer token (RFC 7523).
//!
//! Invariant: one exchange is under way at most, however many wait for it; a token is replaced at 80 % of its life, while it still serves. A push
//! that is not urgent begins none while the endpoint rests, so that it delays no call. The private key, the assertion and the token are wiped when
//! dropped and never printed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::clock::since_boot;
use crate::clock::token_times::TokenTimes;
use crate::lock::Mutex;
use crate::push::connection::answer::{Answer, Bearing};
use crate::push::connection::answer_body;
use crate::push::connection::answer_timeout::{Patience, TryTimes, WhenSilent};
use crate::push::connection::backoff::Backoff;
use crate::push::connection::departure::Departure;
use crate::push::connection::http2::{Channel, Request};
use crate::push::connection::not_before::{PROBE_EVERY, PauseFor};
use crate::push::connection::single_flight::{CoolingDown, Freshness, SingleFlight};
use crate::push::connection::urgency::Urgency;
use crate::push::health::{Note, Trouble};
use crate::push::jwt;
use crate::push::setup::Problem;
use crate::regular_file::without_byte_order_mark;

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// The body up to the assertion (RFC 7523 §2.1), form-encoded.
const FORM: &[u8] = b"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
/// How long an assertion may be used; Google's limit.
const ASSERTION_LIFE: Duration = Duration::from_secs(3_600);
/// How long one exchange may take.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two exchanges that fail. Calls wait meanwhile, and of an endpoint that rests no longer than [`PROBE_EVERY`].
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: PROBE_EVERY };
/// How long what is not urgent waits at most before it looks whether there is a token again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// How often a token is replaced because FCM refuses it, whatever its age.
const REPLACED_EVERY: Duration = Duration::from_secs(60);
/// The shortest life that a token is believed to have: one of which none is said, or less, serves those who wait for it, and FCM says
/// what it is worth.
const SHORTEST_LIFE: Duration = Duration::from_secs(5);
/// The longest life that a token is believed to have.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// The content of a service account's key file, as far as it is used.
pub(crate) struct ServiceAccount {
    pub(crate) project_id: Box<str>,
    pub(crate) token_uri: Box<str>,
    client_email: Box<str>,
    key_id: Option<Box<str>>,
    key: RsaKeyPair,
}

/// The token in use and the making of the next.
pub(super) struct Tokens {
    account: Arc<ServiceAccount>,
    channel: Arc<Channel>,
    flight: Arc<SingleFlight<AccessToken, Denial>>,
    /// When one was last replaced because it was refused, since boot, and which: it may have ended while the machine was suspended.
    replaced: Mutex<Option<(Duration, u64)>>,
}

/// The consequence of FCM's refusal of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A new token is fetched.
    Replace,
    /// The token was made for such a refusal, a moment ago: another would be refused as well.
    Pause,
}

/// A bearer token, as a header value.
#[derive(Clone)]
pub(super) struct AccessToken {
    pub(super) header: HeaderValue,
    /// Later ones have higher numbers.
    serial: u64,
    renew_at: Instant,
    ends_at: Instant,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// Google refuses the service account: its key was revoked, or the clock is wrong.
    Refused,
    /// The token endpoint is away or busy.
    Away,
}

impl ServiceAccount {
    /// Reads the key file; its private key must be RSA in PKCS#8.
    pub(crate) fn read(path: &Path) -> Result<Self, Problem> {
        let text = jwt::read_key_file(path)?;
        let file: KeyFile = serde_json::from_slice(without_byte_order_mark(&text))
            .map_err(|error| Problem::NotJson { path: path.into(), line: error.line(), column: error.column() })?;
        let need = |member| move || Problem::Member { path: path.into(), member };
        if file.kind.as_deref() != Some("service_account") {
            return Err(need("type")());
        }
        let plain =
            |id: &String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        let project_id = file.project_id.filter(plain).ok_or_else(need("project_id"))?;
        let client_email = file.client_email.filter(|email| !email.is_empty()).ok_or_else(need("client_email"))?;
        let token_uri = file.token_uri.filter(|uri| !uri.is_empty()).ok_or_else(need("token_uri"))?;
        let pem = file.private_key.ok_or_else(need("private_key"))?;
        let der = jwt::pkcs8_from_pem(pem.0.as_bytes()).ok_or_else(need("private_key"))?;
        let wrong = |_| Problem::WrongKey { path: path.into(), wanted: "an RSA key of 2,048 bits or more" };
        Ok(Self {
            project_id: project_id.into(),
            token_uri: token_uri.into(),
            client_email: client_email.into(),
            key_id: file.private_key_id.map(String::into_boxed_str),
            key: RsaKeyPair::from_pkcs8(&der).map_err(wrong)?,
        })
    }

    /// The assertion that is exchanged for a token. `None` when the system cannot sign.
    pub(crate) fn assertion(&self, now: SystemTime) -> Option<jwt::SecretBytes> {
        let iat = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut header = serde_json::json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = (**id).into();
        }
        let claims = serde_json::json!({
            "iss": &*self.client_email,
            "scope": SCOPE,
            "aud": &*self.token_uri,
            "iat": iat,
            "exp": iat + ASSERTION_LIFE.as_secs(),
        });
        jwt::compact(&header, &claims, |text| {
            let mut signature = vec![0; self.key.public_modulus_len()];
            self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).ok()?;
            Some(signature)
        })
    }
}

#[derive(Deserialize)]
struct KeyFile {
    #[serde(rename = "type")]
    kind: Option<String>,
    project_id: Option<String>,
    private_key_id: Option<String>,
    private_key: Option<Hidden>,
    client_email: Option<String>,
    token_uri: Option<String>,
}

/// A text that is wiped when it is dropped.
struct Hidden(Zeroizing<String>);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl Tokens {
    /// Tokens for `account`, fetched over `channel`, which leads to its `token_uri`.
    pub(super) fn new(account: Arc<ServiceAccount>, channel: Arc<Channel>) -> Self {
        Self { account, channel, flight: SingleFlight::new(BACKOFF), replaced: Mutex::default() }
    }

    /// FCM has refused this one.
    pub(super) fn refused(&self, token: &AccessToken) -> Refusal {
        let mut replaced = self.replaced.lock();
        let now = since_boot();
        match replaced.filter(|(at, _)| now.saturating_sub(*at) < REPLACED_EVERY) {
            Some((_, serial)) if token.serial > serial => Refusal::Pause,
            Some(_) => Refusal::Replace,
            None => {
                *replaced = Some((now, token.serial));
                Refusal::Replace
            }
        }
    }

    /// A token that serves now. `refused` is one that FCM no longer takes, whatever its age. Where none serves any more, an urgent push asks
    /// a token endpoint that rests, and anything else is told to wait.
    pub(super) async fn get(
        &self,
        refused: Option<&AccessToken>,
        urgency: Urgency,
    ) -> Result<AccessToken, CoolingDown<Denial>> {
        let refused = refused.map(|token| token.serial);
        let freshness = |token: &AccessToken| {
            let now = Instant::now();
            if refused.is_some_and(|refused| token.serial <= refused) || now >= token.ends_at {
                Freshness::Spent
            } else if now >= token.renew_at {
                Freshness::Ageing
            } else {
                Freshness::Good
            }
        };
        if !urgency.is_urgent()
            && let Some(rests) = self.channel.pause_left()
        {
            // An exchange that is not given up would fail all who wait for it.
            let after = rests.min(LOOK_AGAIN);
            return self.flight.have(freshness).ok_or(CoolingDown { why: Denial::Away, after, tried: false });
        }
        // The exchange serves all callers that come to wait for it: it is urgent unless a usable token exists.
        let make = || {
            let urgency = Urgency::when(self.flight.have(freshness).is_none());
            exchange(Arc::clone(&self.account), Arc::clone(&self.channel), urgency)
        };
        self.flight.get(freshness, make, Denial::Away).await
    }
}

async fn exchange(
    account: Arc<ServiceAccount>,
    channel: Arc<Channel>,
    urgency: Urgency,
) -> Result<AccessToken, Denial> {
    let TokenTimes { first, other, .. } = TokenTimes::now();
    let outcome = exchange_at(first, &account, &channel, urgency).await;
    match other {
        // One of the two clocks is wrong.
        Some(other) if matches!(outcome, Err(Denial::Refused)) => exchange_at(other, &account, &channel, urgency).await,
        _ => outcome,
    }
}

async fn exchange_at(
    now: SystemTime,
    account: &ServiceAccount,
    channel: &Channel,
    urgency: Urgency,
) -> Result<AccessToken, Denial> {
    let assertion = account.assertion(now).ok_or(Denial::Refused)?;
    let mut form = Zeroizing::new(Vec::with_capacity(FORM.len() + assertion.len()));
    form.extend_from_slice(FORM);
    form.extend_from_slice(&assertion);
    let mut headers = HeaderMap::with_capacity(1);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let body = Bytes::from_owner(Form(form));
    let request = Request { whom: None, path: channel.base_path().to_owned(), headers, body };
    let departure = Departure::unmeasured();
    let (until, when_silent) = (Instant::now() + EXCHANGE_TIMEOUT, WhenSilent::Leaves);
    let patience =
        Patience { times: TryTimes::whole(until), when_silent, urgency, departure: &departure, renewed: None };
    let outcome = channel.send(&request, patience, read).await.unwrap_or(Err(Denial::Away));
    if outcome.is_ok() {
        channel.end_pause();
    }
    outcome
}

/// The meaning of the token endpoint's answer, for the tokens and for the line.
fn read(answer: &Answer) -> (Result<AccessToken, Denial>, Bearing) {
    let status = answer.status;
    let outcome = match status.as_u16() {
        200..=299 => read_token(answer.read_body()).ok_or(Denial::Away),
        408 | 421 | 429 | 500..=599 => Err(Denial::Away),
        _ => Err(Denial::Refused),
    };
    let note = match &outcome {
        // Only a push that is taken says that all is well.
        Ok(_) => Note::Nothing,
        Err(Denial::Away) => Note::Trouble(Trouble::light("TokenEndpointAway")),
        Err(Denial::Refused) => Note::Trouble(Trouble::grave("ServiceAccountRefused")),
    };
    let bearing = answer.bearing();
    // It speaks of the whole project, whatever the message.
    let asked = if status.as_u16() == 429 { answer.retry_after().map(PauseFor::Asked) } else { None };
    (outcome, Bearing { note, pause: bearing.pause.or(asked), ..bearing })
}

struct Form(jwt::SecretBytes);

impl AsRef<[u8]> for Form {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Deserialize)]
struct TokenBody {
    access_token: Hidden,
    /// In seconds.
    #[serde(default)]
    expires_in: Value,
}

fn read_token(body: &[u8]) -> Option<AccessToken> {
    let body: TokenBody = serde_json::from_slice(body).ok()?;
    let told = answer_body::count(&body.expires_in).unwrap_or_default();
    let life = Duration::from_secs(told).clamp(SHORTEST_LIFE, LONGEST_LIFE);
    let now = Instant::now();
    let header = jwt::bearer(body.access_token.0.as_bytes())?;
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    Some(AccessToken { header, serial, renew_at: now + life.mul_f64(0.8), ends_at: now + life })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_asks_to_wait_is_left_alone_so_long_whichever_status_it_says_so_with() {
        for (status, after, pause) in [
            (429, Some("3"), Some(Duration::from_secs(3))),
            (503, Some("4"), Some(Duration::from_secs(4))),
            (429, None, None),
            (400, Some("3"), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(
                after.map(|after| (hyper::header::RETRY_AFTER, hyper::header::HeaderValue::from_static(after))),
            );
            let status = hyper::StatusCode::from_u16(status).unwrap();
            let (_, bearing) = read(&Answer { status, headers, body: Some(Bytes::new()) });
            assert_eq!(bearing.pause, pause.map(PauseFor::Asked), "{status}");
        }
    }

    #[tokio::test]
    async fn a_token_serves_those_who_wait_for_it_however_short_its_life_is_said_to_be() {
        let hour = Duration::from_secs(3_600);
        for (told, believed) in [
            ("0", SHORTEST_LIFE),
            ("1", SHORTEST_LIFE),
            ("-5", SHORTEST_LIFE),
            ("null", SHORTEST_LIFE),
            ("3600", hour),
            ("3599.5", hour),
            ("\"3600\"", hour),
            ("1e30", LONGEST_LIFE),
            ("18446744073709551615", LONGEST_LIFE),
        ] {
            let body = format!(r#"{{"access_token":"x","expires_in":{told}}}"#);
            let token = read_token(body.as_bytes()).expect("it is one");
            let life = token.ends_at.saturating_duration_since(Instant::now());
            assert!(life <= believed && life > believed / 2, "{told}: {life:?}");
        }
    }
}
