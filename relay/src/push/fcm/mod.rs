//! Firebase Cloud Messaging, HTTP v1: data messages with an OAuth token of the App's service account.
//!
//! Ours, because no published crate speaks this API to an endpoint of one's choice and is maintained: the package
//! `fcm` knows only the server-key API that Google has switched off.
//!
//! `QUOTA_EXCEEDED` without a Retry-After is tried again by our own back-off within the deadline: Google advises a
//! minute, which no call has.
//!
//! `quota.rs` judges whose quota a 429 is about.
//!
//! Invariant: a message holds one data entry and no notification, so that the app alone decides what is shown. Only
//! `UNREGISTERED` kills a token: an `INVALID_ARGUMENT` that names the token is told apart in its reason, but a token
//! that never had the right form is a mistake of the app, which the app's next enabling mends.

pub(super) mod oauth;
mod quota;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use self::oauth::{AccessToken, Denial, Refusal, ServiceAccount, Tokens};
use self::quota::{QuotaHolder, UnattributedQuotas};
use super::connection::answer::{Answer, Bearing};
use super::connection::answer_body;
use super::connection::answer_timeout::{Patience, Renewed, TryTimes, WhenSilent};
use super::connection::attempt::Attempt;
use super::connection::backoff::Backoff;
use super::connection::departure::Departure;
use super::connection::endpoint::{Endpoint, trust};
use super::connection::http2::{Channel, Request};
use super::connection::network::Network;
use super::connection::not_before::{PROBE_EVERY, PauseFor};
use super::connection::single_flight::CoolingDown;
use super::health::device_faults::name_of;
use super::health::{Note, Record, Trouble};
use super::payload::json_body::json_body;
use super::setup::Problem;
use super::{Event, Push, Verdict, payload};
use crate::push::connection::urgency::Urgency;
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

const SERVICE: &str = "https://fcm.googleapis.com";
/// How long a call's push has no answer when a second copy goes out.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long FCM is left alone that takes no fresh access token.
const TOKEN_PAUSE: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };
/// The longest `ttl` that FCM takes: four weeks.
const LONGEST_TTL: u64 = 28 * 24 * 3_600;
/// The longest token that is sent, in bytes; Google's are about 150.
const LONGEST_TOKEN: usize = 4_096;

/// How to reach FCM for one App.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The service account's key file (JSON); its `token_uri` is honoured.
    pub service_account_file: PathBuf,
    /// Another service instead of `https://fcm.googleapis.com`.
    pub endpoint: Option<Box<str>>,
    /// CA certificates (PEM) trusted beside the system's, at the endpoint and at the `token_uri`.
    pub ca_file: Option<PathBuf>,
}

impl Settings {
    /// The files that they name.
    pub(super) fn files(&self) -> Vec<&Path> {
        [Some(&*self.service_account_file), self.ca_file.as_deref()].into_iter().flatten().collect()
    }
}

/// FCM for one App.
pub(crate) struct Fcm {
    project: Box<str>,
    path: String,
    channel: Channel,
    tokens: Tokens,
    /// Recent answers that do not say whose quota was met.
    told: UnattributedQuotas,
}

/// A push, ready to be tried.
#[derive(Clone)]
pub(super) struct PreparedPush {
    request: Request,
    urgency: Urgency,
    when_silent: WhenSilent,
}

impl Fcm {
    /// Reads the service account and prepares the connections; nothing is dialled before the first push.
    pub(super) fn new(
        app: &str,
        settings: &Settings,
        network: &Arc<dyn Network>,
        record: Arc<Record>,
    ) -> Result<Self, Problem> {
        let account = Arc::new(ServiceAccount::read(&settings.service_account_file)?);
        let tls = trust(settings.ca_file.as_deref(), None)?;
        // Google speaks HTTP/2; a proxy on the way there may not.
        let dialled = |url: &str, setting| {
            Endpoint::new(url, setting, Arc::clone(&tls), Arc::clone(network)).map(Endpoint::or_http1)
        };
        let endpoint = dialled(settings.endpoint.as_deref().unwrap_or(SERVICE), "endpoint")?;
        let oauth = dialled(&account.token_uri, "token_uri")?;
        let path = format!("{}/v1/projects/{}/messages:send", endpoint.path(), account.project_id);
        let oauth =
            Arc::new(Channel::new(format!("{app}/fcm-oauth"), oauth, false, Record::of_token_endpoint(&record)));
        Ok(Self {
            project: account.project_id.clone(),
            path,
            channel: Channel::new(format!("{app}/fcm"), endpoint, false, record),
            tokens: Tokens::new(account, oauth),
            told: UnattributedQuotas::default(),
        })
    }

    /// The way there.
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// How it stands.
    pub(super) fn record(&self) -> &Arc<Record> {
        self.channel.record()
    }

    /// Whether it is this project's.
    pub(super) fn is_project(&self, id: &str) -> bool {
        *self.project == *id
    }

    /// Puts a push into the form of a request; the verdict when it cannot be one.
    pub(super) fn prepared(&self, target: &PushTarget, push: &Push) -> Result<PreparedPush, Verdict> {
        self.message(target, push, false)
    }

    /// The body of a call's push that has waited, as it is said now.
    pub(super) fn renewed_body(&self, of: Option<(&Push, &PushTarget)>) -> Option<Bytes> {
        let (push, target) = of?;
        Some(self.prepared(target, &push.renewed()?).ok()?.request.body)
    }

    /// A message that is only validated, to a token that is none.
    pub(super) fn prepared_trial(&self, push: &Push) -> Result<PreparedPush, Verdict> {
        let nobody = PushTarget::new(Provider::Fcm, PushToken::new("sipwake-check-this-is-no-token"), 0);
        self.message(&nobody, push, true)
    }

    fn message(&self, target: &PushTarget, push: &Push, validate_only: bool) -> Result<PreparedPush, Verdict> {
        let token = target.token.expose();
        if token.is_empty() || token.len() > LONGEST_TOKEN {
            return Err(Verdict::Refused { reason: "InvalidToken" });
        }
        let object = payload::fcm(push, target.public_key.as_deref())
            .map_err(|_| Verdict::Refused { reason: "PayloadTooLarge" })?;
        let android = match push.event {
            Event::Call => Android { priority: "HIGH", ttl: "0s".into() },
            // `call-ended` as well: it shows nothing, and what is HIGH and shows nothing costs the device's calls their priority.
            _ => {
                let ttl = push.life_s().min(LONGEST_TTL);
                Android { priority: "NORMAL", ttl: format!("{ttl}s") }
            }
        };
        let message = Message { token, data: Data { sipwake: &object }, android };
        let body = json_body(&Envelope { validate_only, message });
        let mut headers = HeaderMap::with_capacity(2);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = Request { whom: Some(name_of(token)), path: self.path.clone(), headers, body: Bytes::from(body) };
        let urgency = Urgency::when(push.event.is_of_a_call() && !validate_only);
        let when_silent = if push.event == Event::Call { WhenSilent::IsKept } else { WhenSilent::Leaves };
        Ok(PreparedPush { request, urgency, when_silent })
    }

    /// Tries once; an access token that FCM no longer takes is replaced and the push sent again within this one try. One
    /// that is refused although it is fresh grounds the channel.
    pub(super) async fn attempt(
        &self,
        prepared: &mut PreparedPush,
        deadline: Instant,
        departure: &Departure,
        renewed: Renewed<'_>,
    ) -> Attempt {
        let is_call = prepared.when_silent == WhenSilent::IsKept;
        let times = TryTimes::new(is_call, deadline);
        let mut refused: Option<AccessToken> = None;
        loop {
            let token = match timeout_at(times.leaves_until, self.tokens.get(refused.as_ref(), prepared.urgency)).await
            {
                Err(_) => return Attempt::Again { after: None },
                Ok(Err(CoolingDown { why: Denial::Refused, tried: true, .. })) => {
                    return Attempt::Done(Verdict::Refused { reason: "ServiceAccountRefused" });
                }
                // The refusal was of another request: that is no answer to this one.
                Ok(Err(CoolingDown { after, .. })) => return Attempt::Again { after: Some(after) },
                Ok(Ok(token)) => token,
            };
            prepared.request.headers.insert(AUTHORIZATION, token.header.clone());
            let PreparedPush { ref request, urgency, when_silent } = *prepared;
            let patience = Patience { times, when_silent, urgency, departure, renewed };
            let read = |answer: &Answer| self.judged(request.whom.unwrap_or_default(), urgency, answer);
            match self.channel.send(request, patience, read).await {
                Err(failure) => return failure.into(),
                Ok(Meaning::Settled(attempt)) => {
                    if matches!(attempt, Attempt::Limited { .. }) {
                        departure.say("QUOTA_EXCEEDED");
                    }
                    return attempt;
                }
                Ok(Meaning::TokenRefused) => match self.tokens.refused(&token) {
                    Refusal::Replace => {
                        self.channel.pause(PauseFor::Probe);
                        refused = Some(token);
                    }
                    Refusal::Pause => {
                        self.channel.pause(PauseFor::Growing(TOKEN_PAUSE));
                        self.channel.record().trouble(Trouble::grave("UNAUTHENTICATED"), "");
                        return Attempt::Again { after: None };
                    }
                },
            }
        }
    }

    /// The meaning of an answer to a message for `whom`, of a call or of none, also beside other devices' answers.
    fn judged(&self, whom: u64, urgency: Urgency, answer: &Answer) -> (Meaning, Bearing) {
        let (meaning, bearing) = classify(answer);
        if bearing.note == Note::Accepted {
            self.told.clear();
        }
        let is_unsaid =
            answer.status.as_u16() == 429 && quota::whose(&ErrorStatus::of(answer).0) == QuotaHolder::Unknown;
        match meaning {
            Meaning::Settled(Attempt::Again { after }) if is_unsaid => {
                if self.told.note(|devices| devices.add(whom)) {
                    (meaning, of_the_project(answer, bearing))
                } else {
                    let after = after.map(|after| if urgency.is_urgent() { after.min(PROBE_EVERY) } else { after });
                    (Meaning::Settled(Attempt::Limited { after }), bearing)
                }
            }
            meaning => (meaning, bearing),
        }
    }
}

#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    validate_only: bool,
    message: Message<'a>,
}

#[derive(Serialize)]
struct Message<'a> {
    token: &'a str,
    data: Data<'a>,
    android: Android,
}

/// The one data entry; its key is [`payload::KEY`].
#[derive(Serialize)]
struct Data<'a> {
    sipwake: &'a str,
}

#[derive(Serialize)]
struct Android {
    priority: &'static str,
    ttl: String,
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Settled(Attempt),
    TokenRefused,
}

/// Why a message was not taken: the `error` of an answer.
struct ErrorStatus(Value);

impl ErrorStatus {
    fn of(answer: &Answer) -> Self {
        let mut body = answer_body::read(answer.read_body());
        // Some answers are a list of one.
        let body = body.get_mut(0).map(Value::take).unwrap_or(body);
        Self(body["error"].clone())
    }

    /// FCM's own code where there is one, else the general status.
    fn code(&self) -> &str {
        let codes = self.details().iter().map(|detail| answer_body::text(detail, "errorCode"));
        codes.into_iter().find(|code| !code.is_empty()).unwrap_or(answer_body::text(&self.0, "status"))
    }

    /// Whether an invalid argument is the token.
    fn is_about_the_token(&self) -> bool {
        let mut violations = self.details().iter().flat_map(|detail| answer_body::list(detail, "fieldViolations"));
        violations.any(|violation| answer_body::text(violation, "field") == "message.token")
            || answer_body::text(&self.0, "message").contains("registration token")
    }

    fn details(&self) -> &[Value] {
        answer_body::list(&self.0, "details")
    }
}

/// The meaning of an answer for its message and for the channel.
fn classify(answer: &Answer) -> (Meaning, Bearing) {
    let meaning = meaning(answer);
    let bearing = answer.bearing();
    let note = match &meaning {
        Meaning::Settled(Attempt::Done(Verdict::Gone { .. })) => Note::Well,
        Meaning::Settled(Attempt::Done(Verdict::Refused { reason })) => match *reason {
            // Its form alone may have been looked at.
            "InvalidToken" => Note::LetIn,
            // SENDER_ID_MISMATCH, THIRD_PARTY_AUTH_ERROR: whose token it is, its device decides (`token_refusals`).
            "PERMISSION_DENIED" | "NOT_FOUND" => Note::Trouble(Trouble::grave(reason)),
            _ => Note::Nothing,
        },
        // A page of somebody between.
        Meaning::Settled(Attempt::Again { .. } | Attempt::Lost) if answer.status.is_success() => {
            Note::Trouble(Trouble::light("ServerError"))
        }
        _ => bearing.note,
    };
    let bearing = Bearing { note, ..bearing };
    let is_the_projects =
        answer.status.as_u16() == 429 && quota::whose(&ErrorStatus::of(answer).0) == QuotaHolder::Project;
    (meaning, if is_the_projects { of_the_project(answer, bearing) } else { bearing })
}

/// The further meaning of an exhausted quota of the project: all are to wait.
fn of_the_project(answer: &Answer, bearing: Bearing) -> Bearing {
    match answer.retry_after() {
        Some(asked) => {
            let note = Note::Trouble(Trouble::light("AskedToWait"));
            Bearing { pause: Some(PauseFor::Asked(asked)), note, ..bearing }
        }
        None => bearing,
    }
}

/// The status alone decides, if the body of an error did not come.
fn meaning(answer: &Answer) -> Meaning {
    if answer.status.is_success() {
        // A service that has taken a message names it (`projects/PROJECT/messages/ID`); the page of a proxy in between does not.
        let named = |body: &Bytes| !answer_body::text(&answer_body::read(body), "name").is_empty();
        return Meaning::Settled(match &answer.body {
            Some(body) if named(body) => Attempt::Done(Verdict::Accepted),
            Some(_) => Attempt::Again { after: None },
            // The body may have named it.
            None => Attempt::Lost,
        });
    }
    let error = ErrorStatus::of(answer);
    let refused = |reason| Meaning::Settled(Attempt::Done(Verdict::Refused { reason }));
    let again = || Meaning::Settled(Attempt::Again { after: answer.retry_after() });
    match (error.code(), answer.status.as_u16()) {
        ("UNREGISTERED", _) => Meaning::Settled(Attempt::Done(Verdict::Gone { since: None })),
        ("SENDER_ID_MISMATCH", _) => refused("SENDER_ID_MISMATCH"),
        ("THIRD_PARTY_AUTH_ERROR", _) => refused("THIRD_PARTY_AUTH_ERROR"),
        (_, 429) if quota::whose(&error.0) == QuotaHolder::Device => {
            Meaning::Settled(Attempt::Limited { after: answer.retry_after() })
        }
        ("QUOTA_EXCEEDED" | "UNAVAILABLE" | "INTERNAL", _) => again(),
        ("INVALID_ARGUMENT", _) if error.is_about_the_token() => refused("InvalidToken"),
        ("INVALID_ARGUMENT", _) => refused("INVALID_ARGUMENT"),
        (_, 401) => Meaning::TokenRefused,
        (_, 408 | 421 | 425 | 429 | 500..=599) => again(),
        (_, 403) => refused("PERMISSION_DENIED"),
        (_, 404) => refused("NOT_FOUND"),
        (_, 400) => refused("INVALID_ARGUMENT"),
        _ => refused("OtherReason"),
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::RETRY_AFTER;

    use super::*;

    fn answer(status: u16, body: String) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("7"));
        Answer { status: StatusCode::from_u16(status).unwrap(), headers, body: Some(body.into()) }
    }

    fn fcm_error(status: u16, general: &str, code: &str) -> Answer {
        let detail =
            serde_json::json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
        let error = serde_json::json!({"code": status, "message": "m", "status": general, "details": [detail]});
        answer(status, serde_json::json!({"error": error}).to_string())
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let refused = |reason| Meaning::Settled(Attempt::Done(Verdict::Refused { reason }));
        let gone = || Meaning::Settled(Attempt::Done(Verdict::Gone { since: None }));
        let again = || Meaning::Settled(Attempt::Again { after: Some(Duration::from_secs(7)) });
        let token = serde_json::json!({"error": {"status": "INVALID_ARGUMENT", "details": [
            {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "INVALID_ARGUMENT"},
            {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": "message.token"}]},
        ]}});
        for (answer, meaning) in [
            (
                answer(200, r#"{"name": "projects/p/messages/1"}"#.to_owned()),
                Meaning::Settled(Attempt::Done(Verdict::Accepted)),
            ),
            (answer(200, String::new()), Meaning::Settled(Attempt::Again { after: None })),
            (answer(200, "<html>".to_owned()), Meaning::Settled(Attempt::Again { after: None })),
            (fcm_error(404, "NOT_FOUND", "UNREGISTERED"), gone()),
            (
                answer(404, r#"{"error":{"status":"NOT_FOUND","message":null,"details":[null,{"fieldViolations":null},{"errorCode":"UNREGISTERED"}]}}"#.into()),
                gone(),
            ),
            (answer(404, r#"[{"error":{"code":[],"details":[{"errorCode":"UNREGISTERED"}]}}]"#.into()), gone()),
            (fcm_error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH"), refused("SENDER_ID_MISMATCH")),
            (fcm_error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), again()),
            (
                answer(429, r#"{"error":{"status":"RESOURCE_EXHAUSTED","message":"device message rate"}}"#.into()),
                Meaning::Settled(Attempt::Limited { after: Some(Duration::from_secs(7)) }),
            ),
            (fcm_error(503, "UNAVAILABLE", "UNAVAILABLE"), again()),
            (fcm_error(500, "INTERNAL", "INTERNAL"), again()),
            (fcm_error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT"), refused("INVALID_ARGUMENT")),
            (fcm_error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), refused("THIRD_PARTY_AUTH_ERROR")),
            (answer(400, token.to_string()), refused("InvalidToken")),
            (answer(401, r#"{"error":{"status":"UNAUTHENTICATED"}}"#.into()), Meaning::TokenRefused),
            (answer(404, r#"{"error":{"status":"NOT_FOUND"}}"#.into()), refused("NOT_FOUND")),
            (answer(502, "<html>".into()), again()),
            (answer(418, String::new()), refused("OtherReason")),
        ] {
            let status = answer.status;
            assert_eq!(super::meaning(&answer), meaning, "{status}");
        }
    }
}
