//! Apple's push service: HTTP/2 with a provider token or a certificate, one connection for each App and environment.
//!
//! The package `a2` (now `apns-h2`) was meant to do this. Its client cannot: it leaves the body of an answer out of
//! its timeout, drops Retry-After and every reason that it does not know, cannot be told to sign anew, cannot tell a
//! push that may have arrived from one that did not, and writes padded tokens. Of its types only three small enums
//! would be left, and its closed list of reasons makes the whole answer unreadable when Apple adds one; for that it
//! would bring a second HTTP client and a second verifier. So nothing of it is used.
//!
//! Invariant: a VoIP push carries a call and nothing else, and is never sent twice once the service may have taken it.
//! All tries of one push carry the same `apns-id`.

pub(super) mod provider_token;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;
use uuid::Builder;

use self::provider_token::Signer;
use super::connection::answer::{Answer, Bearing};
use super::connection::answer_body;
use super::connection::answer_timeout::{Patience, Renewed, TryTimes, WhenSilent};
use super::connection::attempt::Attempt;
use super::connection::backoff::Backoff;
use super::connection::departure::Departure;
use super::connection::endpoint::{Endpoint, trust};
use super::connection::http2::{Channel, Failure, Request};
use super::connection::identity::chain;
use super::connection::network::Network;
use super::connection::not_before::PauseFor;
use super::connection::state::LineFate;
use super::health::device_faults::name_of;
use super::health::reasons;
use super::health::{Note, Record, Trouble};
use super::payload::collapse;
use super::setup::Problem;
use super::setup::reusable::{Fingerprint, fingerprint};
use super::{Event, Push, Verdict, payload};
use crate::clock::token_times::TokenTimes;
use crate::config::ApnsCredentials;
use crate::push::connection::urgency::Urgency;
use crate::random;
use crate::vault::record::PushTarget;

const PRODUCTION: &str = "https://api.push.apple.com:443";
const SANDBOX: &str = "https://api.sandbox.push.apple.com:443";

/// How long Apple is left alone that sees too many provider tokens of one key. Calls wait meanwhile, and get their try.
const TOKEN_UPDATES: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(5) };

/// The words for a token that is too old, and for one that is none, or is of a time to come.
const EXPIRED: &str = "ExpiredProviderToken";
const INVALID: &str = "InvalidProviderToken";

/// How to reach APNs for one App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The App's credentials at Apple.
    pub credentials: ApnsCredentials,
    /// Another service instead of Apple's two: `https://host:port`.
    pub endpoint: Option<Box<str>>,
    /// CA certificates (PEM) trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// The files that they name.
    pub(super) fn files(&self) -> Vec<&Path> {
        let (ApnsCredentials::Key { key_file: file, .. } | ApnsCredentials::Certificate { file, .. }) =
            &self.credentials;
        [Some(&**file), self.ca_file.as_deref()].into_iter().flatten().collect()
    }
}

/// One signer for each key, whichever Apps use it and wherever its file lies.
#[derive(Default)]
pub(super) struct Signers(HashMap<SignerKey, Arc<Signer>>);

/// The hash of the key's file, the key's id and the team's.
type SignerKey = (Fingerprint, Box<str>, Box<str>);

impl Signers {
    /// The tokens that are in use already: Apple objects to a key whose token changes more than once in 20 minutes.
    pub(super) fn beside<'a>(used: impl Iterator<Item = &'a Apns>) -> Self {
        let of = |apns: &Apns| match &apns.known_by {
            KnownBy::Key { signer, key, .. } => Some((key.clone(), Arc::clone(signer))),
            KnownBy::Certificate(..) => None,
        };
        Self(used.filter_map(of).collect())
    }

    fn get(&mut self, key_file: &Path, key_id: &str, team_id: &str) -> Result<(SignerKey, Arc<Signer>), Problem> {
        let unread = Fingerprint::default();
        let key = (fingerprint(key_file).unwrap_or(unread), key_id.into(), team_id.into());
        let signer = match self.0.get(&key).filter(|_| key.0 != unread) {
            Some(signer) => Arc::clone(signer),
            None => Arc::new(Signer::new(key_file, key_id, team_id)?),
        };
        self.0.insert(key.clone(), Arc::clone(&signer));
        Ok((key, signer))
    }
}

/// APNs for one App.
pub(crate) struct Apns {
    /// The bundle id.
    topic: HeaderValue,
    /// The topic of calls.
    voip_topic: HeaderValue,
    team: Option<Box<str>>,
    known_by: KnownBy,
    production: Arc<Channel>,
    sandbox: Arc<Channel>,
}

/// The credential that a request shows.
enum KnownBy {
    /// A token that this signer makes.
    Key { signer: Arc<Signer>, key: SignerKey },
    /// No token: its connection has shown this certificate, of this file.
    Certificate(PathBuf, CertificateDer<'static>),
}

/// Apple's two services.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Environment {
    Production,
    Sandbox,
}

/// A push, ready to be tried.
pub(super) struct PreparedPush {
    environment: Environment,
    voip: bool,
    request: Request,
}

impl PreparedPush {
    /// The APNs environment.
    pub(super) fn environment(&self) -> Environment {
        self.environment
    }
}

impl Apns {
    /// Reads the key and prepares the connections; nothing is dialled before the first push.
    pub(super) fn new(
        app: &str,
        settings: &Settings,
        signers: &mut Signers,
        network: &Arc<dyn Network>,
        record: impl Fn(&'static str) -> Arc<Record>,
    ) -> Result<Self, Problem> {
        let (known_by, team, certificate) = match &settings.credentials {
            ApnsCredentials::Key { key_file, key_id, team_id } => {
                let (key, signer) = signers.get(key_file, key_id, team_id)?;
                (KnownBy::Key { signer, key }, Some(team_id.clone()), None)
            }
            ApnsCredentials::Certificate { file, team_id } => {
                let shown = chain(file)?.swap_remove(0);
                (KnownBy::Certificate(file.clone(), shown), team_id.clone(), Some(file.as_path()))
            }
        };
        let bad = |_| Problem::Setting { setting: "id", wanted: "the App's bundle id" };
        let topic = HeaderValue::try_from(app).map_err(bad)?;
        let voip_topic = HeaderValue::try_from(format!("{app}.voip")).map_err(bad)?;
        let tls = trust(settings.ca_file.as_deref(), certificate)?;
        // Apple opens a connection for all at once to who shows a certificate, and to others with the first good token.
        let cautious = certificate.is_none();
        let channel = |url: &str, kind: &'static str| {
            let endpoint = Endpoint::new(url, "endpoint", Arc::clone(&tls), Arc::clone(network))?;
            Ok(Arc::new(Channel::new(format!("{app}/{kind}"), endpoint, cautious, record(kind))))
        };
        let (production, sandbox) = match &settings.endpoint {
            Some(url) => {
                let both = channel(url, "apns")?;
                (Arc::clone(&both), both)
            }
            None => (channel(PRODUCTION, "apns")?, channel(SANDBOX, "apns-sandbox")?),
        };
        Ok(Self { topic, voip_topic, team, known_by, production, sandbox })
    }

    /// The environment, and by which key and endpoint it is reached.
    pub(super) fn identity(&self, environment: Environment) -> String {
        let kind = match environment {
            Environment::Production => "production",
            Environment::Sandbox => "sandbox",
        };
        let origin = self.channel(environment).origin();
        match &self.known_by {
            KnownBy::Key { key: (_, key_id, _), .. } => {
                format!("{kind} {origin} {} {key_id}", self.team.as_deref().unwrap_or(""))
            }
            KnownBy::Certificate(file, _) => format!("{kind} {origin} {}", file.display()),
        }
    }

    /// How it stands there.
    pub(super) fn record(&self, environment: Environment) -> &Arc<Record> {
        self.channel(environment).record()
    }

    /// Every record: one where both environments are one service.
    pub(super) fn records(&self) -> Vec<&Arc<Record>> {
        if Arc::ptr_eq(&self.production, &self.sandbox) {
            vec![self.production.record()]
        } else {
            vec![self.production.record(), self.sandbox.record()]
        }
    }

    /// The way there.
    pub(super) fn channel(&self, environment: Environment) -> &Channel {
        match environment {
            Environment::Production => &self.production,
            Environment::Sandbox => &self.sandbox,
        }
    }

    /// The certificate that it is known by, and its file.
    pub(super) fn certificate(&self) -> Option<(&Path, &CertificateDer<'static>)> {
        match &self.known_by {
            KnownBy::Key { .. } => None,
            KnownBy::Certificate(file, shown) => Some((file, shown)),
        }
    }

    /// Whether it belongs to this team.
    pub(super) fn is_team(&self, id: &str) -> bool {
        self.team.as_deref() == Some(id)
    }

    /// Puts a push into the form of a request; the verdict when it cannot be one.
    pub(super) fn prepared(
        &self,
        environment: Environment,
        target: &PushTarget,
        push: &Push,
    ) -> Result<PreparedPush, Verdict> {
        if push.event == Event::CallEnded {
            return Err(Verdict::Refused { reason: "CallEndedIsForFcmAlone" });
        }
        let token = target.token.expose();
        if token.len() < 64 || token.len() > 200 || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            // The case that APNs itself calls BadDeviceToken.
            return Err(Verdict::Gone { since: None });
        }
        let too_large = |payload::Oversized| Verdict::Refused { reason: "PayloadTooLarge" };
        let body = payload::apns(push, target.public_key.as_deref()).map_err(too_large)?;
        let headers = self.headers(push);
        let request = Request { whom: Some(name_of(token)), path: format!("/3/device/{token}"), headers, body };
        Ok(PreparedPush { environment, voip: push.event == Event::Call, request })
    }

    /// The request's headers, all but the provider token.
    fn headers(&self, push: &Push) -> HeaderMap {
        let (kind, priority, topic, expiration) = match push.event {
            Event::Call => ("voip", "10", &self.voip_topic, 0),
            _ if push.is_silent() => ("background", "5", &self.topic, push.deadline),
            _ => ("alert", "10", &self.topic, push.deadline),
        };
        let mut headers = HeaderMap::with_capacity(9);
        headers.insert(HeaderName::from_static("apns-topic"), topic.clone());
        headers.insert(HeaderName::from_static("apns-push-type"), HeaderValue::from_static(kind));
        headers.insert(HeaderName::from_static("apns-priority"), HeaderValue::from_static(priority));
        headers.insert(HeaderName::from_static("apns-expiration"), HeaderValue::from(expiration));
        headers.insert(HeaderName::from_static("apns-id"), uuid());
        if let Some(key) = collapse::key(push) {
            headers.insert(HeaderName::from_static("apns-collapse-id"), key);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }

    /// Tries once; a stale provider token is replaced and the push sent again within this one try.
    pub(super) async fn attempt(
        &self,
        prepared: &mut PreparedPush,
        deadline: Instant,
        departure: &Departure,
        renewed: Renewed<'_>,
    ) -> Attempt {
        let channel = self.channel(prepared.environment);
        let times = TryTimes::new(prepared.voip, deadline);
        let when_silent = if prepared.voip { WhenSilent::Stays } else { WhenSilent::Leaves };
        let urgency = Urgency::when(prepared.voip);
        let patience = Patience { times, when_silent, urgency, departure, renewed };
        let signer = match &self.known_by {
            KnownBy::Key { signer, .. } => Some(signer),
            KnownBy::Certificate(..) => None,
        };
        let refused = |reason| {
            channel.record().trouble(Trouble::grave(reason), "");
            Attempt::Done(Verdict::Refused { reason })
        };
        let mut pass = match signer.map(|signer| signer.pass(&TokenTimes::now())) {
            Some(None) => return refused("CannotSign"),
            pass => pass.flatten(),
        };
        let mut resigned = false;
        loop {
            if let Some(pass) = &pass {
                prepared.request.headers.insert(AUTHORIZATION, pass.header.clone());
            }
            match channel.send(&prepared.request, patience, classify).await {
                Err(Failure::Unconfirmed) if prepared.voip => return Attempt::Done(Verdict::Unconfirmed),
                Err(failure) => return failure.into(),
                Ok(Meaning::Settled(attempt)) => {
                    if matches!(attempt, Attempt::Limited { .. }) {
                        departure.say(reasons::TOO_MANY_REQUESTS);
                    }
                    return attempt;
                }
                Ok(Meaning::TokenRefused(reason)) => {
                    let times = TokenTimes::now();
                    let next = signer.zip(pass.as_ref()).and_then(|(signer, pass)| {
                        signer.refused(pass);
                        // One that is no token for Apple becomes one by another clock, if by anything.
                        let may_become = !resigned && (reason == EXPIRED || times.other.is_some());
                        may_become.then(|| signer.pass_instead_of(pass, &times)).flatten()
                    });
                    match next {
                        Some(next) => (pass, resigned) = (Some(next), true),
                        None if reason == EXPIRED => return refused(EXPIRED),
                        None => return Attempt::Done(Verdict::Refused { reason }),
                    }
                }
            }
        }
    }
}

/// The body of a call's push that has waited, as it is said now.
pub(super) fn renewed_body(of: Option<(&Push, &PushTarget)>) -> Option<Bytes> {
    let (push, target) = of?;
    payload::apns(&push.renewed()?, target.public_key.as_deref()).ok()
}

/// A random UUID (RFC 9562 §5.4) in lower case.
fn uuid() -> HeaderValue {
    let id = Builder::from_random_bytes(random::bytes()).into_uuid();
    // Digits and dashes stand in a header.
    HeaderValue::try_from(id.to_string()).unwrap_or(HeaderValue::from_static("00000000-0000-4000-8000-000000000000"))
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Settled(Attempt),
    TokenRefused(&'static str),
}

/// The reason of a refusal; of these two statuses each reason is of the credentials, or of the path.
fn refused_for(status: u16, reason: &str) -> &'static str {
    match (status, reasons::of_apns(reason)) {
        (403, reasons::OTHER) => "Forbidden",
        (404, reasons::OTHER) => "BadPath",
        (_, reason) => reason,
    }
}

/// The meaning of an answer for its push and for the channel; where the body did not come, the status alone decides, and it wipes
/// nothing.
fn classify(answer: &Answer) -> (Meaning, Bearing) {
    let body = answer_body::read(answer.read_body());
    let (status, reason) = (answer.status.as_u16(), answer_body::text(&body, "reason"));
    let since = answer_body::time_ms(&body["timestamp"]);
    // Its body came whole, and is none, or one that Apple may have written.
    let has_said_all = answer.body.as_ref().is_some_and(|whole| whole.is_empty() || body.is_object());
    let done = |verdict| Meaning::Settled(Attempt::Done(verdict));
    let meaning = match (status, reason) {
        (200, _) => done(Verdict::Accepted),
        // A proxy in between may say this, too; and a body that did not come may name a time before the token was confirmed.
        (410, "") if since.is_none() && !has_said_all => done(Verdict::Refused { reason: "GoneWithoutReason" }),
        // Beside a reason, a time that cannot be read says as little as none: the token is gone.
        (410, _) => done(Verdict::Gone { since }),
        (400, "BadDeviceToken") => done(Verdict::BadToken),
        (403, EXPIRED) => Meaning::TokenRefused(EXPIRED),
        (403, INVALID) => Meaning::TokenRefused(INVALID),
        (429, "TooManyRequests") => Meaning::Settled(Attempt::Limited { after: answer.retry_after() }),
        (400, "IdleTimeout") | (408 | 421 | 425 | 429 | 500..=599, _) => {
            Meaning::Settled(Attempt::Again { after: answer.retry_after() })
        }
        (status, reason) => done(Verdict::Refused { reason: refused_for(status, reason) }),
    };
    let bearing = answer.bearing();
    let bearing = match (status, reason) {
        (400, "IdleTimeout") | (503, "Shutdown") => Bearing { line: LineFate::Ending, proves: false, ..bearing },
        // The token is used on: a new one is what Apple objects to.
        (429, "TooManyProviderTokenUpdates") => Bearing {
            proves: false,
            pause: Some(answer.retry_after().map_or(PauseFor::Growing(TOKEN_UPDATES), PauseFor::Asked)),
            note: Note::Trouble(Trouble::grave("TooManyProviderTokenUpdates")),
            ..bearing
        },
        (410, "") if since.is_none() && !has_said_all => {
            Bearing { note: Note::Trouble(Trouble::light("GoneWithoutReason")), ..bearing }
        }
        (410, _) => Bearing { note: Note::Well, ..bearing },
        (400, "BadTopic" | "MissingTopic" | "TopicDisallowed" | "BadEnvironmentKeyIdInToken" | "BadPath") => {
            Bearing { note: Note::Trouble(Trouble::grave(reasons::of_apns(reason))), ..bearing }
        }
        (403, EXPIRED) => bearing,
        (403 | 404, _) => Bearing { note: Note::Trouble(Trouble::grave(refused_for(status, reason))), ..bearing },
        _ => bearing,
    };
    (meaning, bearing)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use hyper::StatusCode;
    use hyper::header::RETRY_AFTER;

    use super::*;

    const LONGEST: Duration = Duration::from_secs(86_400);

    fn answer(status: u16, body: &'static str) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Some(body.as_bytes().into()) }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let done = |verdict| Meaning::Settled(Attempt::Done(verdict));
        let refused = |reason| done(Verdict::Refused { reason });
        let again = || Meaning::Settled(Attempt::Again { after: Some(Duration::from_secs(7)) });
        for (status, body, meaning) in [
            (200, "", done(Verdict::Accepted)),
            (
                410,
                r#"{"reason":"Unregistered","timestamp":1795000000123}"#,
                done(Verdict::Gone { since: Some(1_795_000_000_123) }),
            ),
            (410, "", done(Verdict::Gone { since: None })),
            (410, "{}", done(Verdict::Gone { since: None })),
            (410, "<html><h1>410 Gone</h1></html>", refused("GoneWithoutReason")),
            (410, r#"{"reason":"Unregistered","timest"#, refused("GoneWithoutReason")),
            (410, r#"{"timestamp":null}"#, done(Verdict::Gone { since: None })),
            (
                410,
                r#"{"reason":null,"timestamp":"1795000000123"}"#,
                done(Verdict::Gone { since: Some(1_795_000_000_123) }),
            ),
            (410, r#"{"reason":"Unregistered","timestamp":"soon"}"#, done(Verdict::Gone { since: None })),
            (400, r#"{"reason":"BadDeviceToken","timestamp":{}}"#, done(Verdict::BadToken)),
            (400, r#"{"reason":"BadDeviceToken"}"#, done(Verdict::BadToken)),
            (400, r#"{"reason":"DeviceTokenNotForTopic"}"#, refused("DeviceTokenNotForTopic")),
            (400, r#"{"reason":"SomethingNew","more":{}}"#, refused("OtherReason")),
            (400, "<html>", refused("OtherReason")),
            (403, r#"{"reason":"ExpiredProviderToken"}"#, Meaning::TokenRefused(EXPIRED)),
            (403, r#"{"reason":"InvalidProviderToken"}"#, Meaning::TokenRefused(INVALID)),
            (413, r#"{"reason":"PayloadTooLarge"}"#, refused("PayloadTooLarge")),
            (
                429,
                r#"{"reason":"TooManyRequests"}"#,
                Meaning::Settled(Attempt::Limited { after: Some(Duration::from_secs(7)) }),
            ),
            (429, r#"{"reason":"TooManyProviderTokenUpdates"}"#, again()),
            (500, r#"{"reason":"InternalServerError"}"#, again()),
            (503, "", again()),
            (302, "", refused("OtherReason")),
        ] {
            assert_eq!(classify(&answer(status, body)).0, meaning, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let after = |value: &str| {
            let mut answer = answer(503, "");
            answer.headers.insert(RETRY_AFTER, HeaderValue::try_from(value).unwrap());
            answer.retry_after()
        };
        assert_eq!(after(" 7 "), Some(Duration::from_secs(7)));
        let date = after(&httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(60))).unwrap();
        assert!((Duration::from_secs(50)..=Duration::from_secs(60)).contains(&date), "{date:?}");
        assert_eq!(after("Thu, 01 Jan 1970 00:00:00 GMT"), None, "it is over");
        assert_eq!(after("soon"), None);
        let longest = [u64::MAX.to_string(), httpdate::fmt_http_date(SystemTime::now() + 2 * LONGEST)];
        for value in longest {
            assert_eq!(after(&value), Some(LONGEST), "{value}");
        }
    }

    #[test]
    fn an_apns_id_is_a_random_uuid() {
        let id = uuid();
        let id = id.to_str().unwrap();
        let parts: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert!(id.bytes().all(|byte| matches!(byte, b'-' | b'0'..=b'9' | b'a'..=b'f')), "{id}");
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(b"89ab".contains(&id.as_bytes()[19]));
        assert_ne!(id, uuid());
    }
}
