//! Refusals, as `application/problem+json` (RFC 9457).
//!
//! Invariant: every refusal of the HTTPS listeners is one of [`ProblemType`]; its text is ours, never what a peer sent,
//! so that no answer repeats a secret.

use std::borrow::Cow;

use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::BadHead;

/// At most this many errors of one body are listed; the rest is counted in a last entry.
pub const MAX_FIELD_ERRORS: usize = 64;

macro_rules! problems {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $title:literal;)*) => {
        /// Every kind of refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemType { $($(#[$doc])* $variant,)* }

        impl ProblemType {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The last part of `urn:sipwake:problem:NAME`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status, which never differs for one type.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The title, for a person.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

problems! {
    /// The body is not JSON.
    MalformedJson = "malformed-json", 400, "The body is not JSON";
    /// The body ended before it was complete, or a query parameter does not fit.
    BadRequest = "bad-request", 400, "The request is not complete or not right";
    /// The key or secret is missing or wrong.
    Unauthorized = "unauthorized", 401, "The key or secret is missing or wrong";
    /// The operator does not serve the AOR's domain.
    DomainNotAllowed = "domain-not-allowed", 403, "The SIP domain is not allowed here";
    /// The SIP server's address is private, loopback or otherwise not to be reached from here.
    AddressNotAllowed = "address-not-allowed", 403, "The SIP server's address is not allowed here";
    /// The operator does not offer the SIP transport.
    TransportNotAllowed = "transport-not-allowed", 403, "The SIP transport is not allowed here";
    /// Nothing is recorded of the instance.
    NoTrace = "no-trace", 404, "Nothing is recorded of the instance";
    /// No such path.
    NotFound = "not-found", 404, "There is nothing at this path";
    /// No such instance, or it was wiped.
    UnknownInstance = "unknown-instance", 404, "There is no such push instance";
    /// No such call, or it is forgotten.
    UnknownCall = "unknown-call", 404, "There is no such call";
    /// This node knows no device of the AOR.
    UnknownAor = "unknown-aor", 404, "No device of this address is known";
    /// No such message, or it is forgotten.
    UnknownMessage = "unknown-message", 404, "There is no such message";
    /// The path does not know the method; `Allow` names those it knows.
    MethodNotAllowed = "method-not-allowed", 405, "The path does not know this method";
    /// The body did not arrive in time.
    BodyTooSlow = "body-too-slow", 408, "The body did not arrive in time";
    /// The call has ended; `state` tells how.
    CallOver = "call-over", 409, "The call is over";
    /// The instance has only a VoIP token, which takes nothing but calls.
    NoAlertTarget = "no-alert-target", 409, "The instance has no target that takes a test push";
    /// A condition of the request is false; nothing was done.
    PreconditionFailed = "precondition-failed", 412, "A condition of the request is false";
    /// The body is over 16 KiB.
    BodyTooLarge = "body-too-large", 413, "The body is too large";
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported-media-type", 415, "The body's media type is not supported";
    /// The body is JSON, but not what is asked for; `errors` lists every place.
    InvalidBody = "invalid-body", 422, "The body is not what is asked for";
    /// The request has more than 64 header fields.
    TooManyFields = "too-many-fields", 431, "The request has too many header fields";
    /// The body has another transfer coding than `chunked`.
    TransferCoding = "transfer-coding", 501, "The body's transfer coding is not supported";
    /// The account's SIP server refused it; `sip_status` tells how. Nothing is kept.
    UpstreamRefused = "upstream-refused", 422, "The SIP server refused the account";
    /// The SIP server's name leads to no address. Nothing is kept.
    UpstreamNotFound = "upstream-not-found", 422, "The SIP server's name leads to no address";
    /// The same device was enabled later, by another request, which stands. Nothing is kept of this one.
    Overtaken = "overtaken", 422, "A later enabling of the device stands";
    /// The instance ended while it was being enabled; `reason` tells why, where that is known. Nothing is kept.
    Ended = "ended", 422, "The instance ended while it was being enabled";
    /// Too many requests or failures; `Retry-After` tells when to come back.
    TooManyRequests = "too-many-requests", 429, "Too many requests";
    /// The store does not answer.
    StoreAway = "store-away", 503, "The relay's store is away";
    /// The node that looks after the instance has died or is slow; another one takes the instance over within seconds.
    OwnerAway = "owner-away", 503, "The node that looks after this instance does not answer";
    /// The relay is shutting down.
    Draining = "draining", 503, "The relay is shutting down";
    /// The relay holds as many instances as it may.
    Full = "full", 503, "The relay is full";
    /// Something the relay needs is not there; `checks` lists it.
    NotReady = "not-ready", 503, "The relay is not ready";
    /// The configuration that was read again has problems; `problems` lists them.
    NotReloaded = "not-reloaded", 422, "The configuration cannot be used";
    /// No device of the AOR came in time, or none can.
    NoDeviceInTime = "no-device-in-time", 504, "No device came in time";
}

impl ProblemType {
    /// The whole `type` member.
    pub fn urn(self) -> String {
        format!("urn:sipwake:problem:{}", self.name())
    }
}

/// One place of a body that is not right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// A JSON pointer (RFC 6901) into the body; empty for the whole.
    pub pointer: String,
    /// The expected form; never the value found.
    pub detail: Cow<'static, str>,
}

/// A refusal, ready to be answered.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemType,
    detail: Cow<'static, str>,
    members: Map<String, Value>,
    challenge: Option<&'static str>,
    retry_after_s: Option<u64>,
}

impl Problem {
    /// A refusal with a `detail` that says what to do.
    pub fn new(kind: ProblemType, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), members: Map::new(), challenge: None, retry_after_s: None }
    }

    /// The answer to a request whose head is refused, whatever it asks for.
    pub(crate) fn bad_head(bad: BadHead) -> Self {
        let (kind, detail) = match bad {
            BadHead::Host => (ProblemType::BadRequest, "Send one Host header, with the name of this relay."),
            BadHead::Fields => (ProblemType::TooManyFields, "Send at most 64 header fields."),
            BadHead::Coding => (ProblemType::TransferCoding, "Send Transfer-Encoding: chunked, or Content-Length."),
        };
        Self::new(kind, detail)
    }

    /// 401 to a request without a key, with the challenge of RFC 6750 §3.
    pub fn unauthorized(detail: &'static str) -> Self {
        Self { challenge: Some(r#"Bearer realm="sipwake""#), ..Self::new(ProblemType::Unauthorized, detail) }
    }

    /// 401 to a wrong key, with the challenge of RFC 6750 §3.1.
    pub fn invalid_token(detail: &'static str) -> Self {
        let challenge = Some(r#"Bearer realm="sipwake", error="invalid_token""#);
        Self { challenge, ..Self::new(ProblemType::Unauthorized, detail) }
    }

    /// 422 with every error of a body, the first [`MAX_FIELD_ERRORS`] of them listed.
    pub fn invalid_body(mut errors: Vec<FieldError>) -> Self {
        let more = errors.len().saturating_sub(MAX_FIELD_ERRORS);
        errors.truncate(MAX_FIELD_ERRORS);
        let mut list: Vec<_> =
            errors.into_iter().map(|error| json!({"pointer": error.pointer, "detail": error.detail})).collect();
        if more > 0 {
            list.push(json!({"pointer": "", "detail": format!("and {more} more")}));
        }
        Self::new(ProblemType::InvalidBody, "Correct each place that errors lists, and send the body again.")
            .with("errors", Value::Array(list))
    }

    /// With a further member.
    pub fn with(mut self, member: &str, value: Value) -> Self {
        self.members.insert(member.to_owned(), value);
        self
    }

    /// With `Retry-After`, in seconds.
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The `errors` member, empty unless a body is refused.
    pub fn errors(&self) -> impl Iterator<Item = &Value> {
        self.members.get("errors").and_then(Value::as_array).into_iter().flatten()
    }

    /// The kind of refusal.
    pub fn kind(&self) -> ProblemType {
        self.kind
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = self.members;
        body.insert("type".to_owned(), self.kind.urn().into());
        body.insert("title".to_owned(), self.kind.title().into());
        body.insert("status".to_owned(), self.kind.status().into());
        body.insert("detail".to_owned(), self.detail.into());
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(challenge) = self.challenge {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The answer for a path that no route has.
pub async fn not_found() -> Problem {
    Problem::new(ProblemType::NotFound, "See /v1/openapi.json for the paths that this relay serves.")
}

/// The answer for a method that a route does not have; the router adds `Allow`.
pub async fn method_not_allowed() -> Problem {
    Problem::new(ProblemType::MethodNotAllowed, format!("Use a method that the {ALLOW} header names."))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_problem_has_a_name_of_its_own_and_an_error_status() {
        let names: BTreeSet<_> = ProblemType::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), ProblemType::ALL.len());
        for kind in ProblemType::ALL {
            assert!((400..600).contains(&kind.status()), "{kind:?}");
            assert!(kind.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{kind:?}");
        }
    }

    #[test]
    fn a_body_wrong_in_a_thousand_places_gets_a_bounded_answer() {
        let error = |place| FieldError { pointer: format!("/{place}"), detail: "expected a string".into() };
        let problem = Problem::invalid_body((0..1000).map(error).collect());
        let errors = problem.members["errors"].as_array().unwrap();
        assert_eq!(errors.len(), MAX_FIELD_ERRORS + 1);
        assert_eq!(errors[MAX_FIELD_ERRORS]["detail"], "and 936 more");
    }
}
