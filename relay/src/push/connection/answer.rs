//! The answer of a push service, and what its status means beyond its own push.
//!
//! Invariant: an incomplete body is not interpreted; the status alone decides then.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{DATE, RETRY_AFTER};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::not_before::PauseFor;
use crate::push::connection::state::LineFate;
use crate::push::health::{Note, Trouble};

/// The longest wait that a service is believed to ask for; no push is tried for longer than that.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(86_400);

/// How long the body may come after the head of an answer.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest body of an answer, in bytes; of a larger one nothing is used.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `None`: it did not come in time, broke off or was too large, and nobody knows what it would have said.
    pub(crate) body: Option<Bytes>,
}

/// The meaning of an answer beside its meaning for its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bearing {
    /// For the line that it came by.
    pub(crate) line: LineFate,
    /// Whether the service took our credentials.
    pub(crate) proves: bool,
    /// For all who come later.
    pub(crate) pause: Option<PauseFor>,
    /// Where the service's health is reported.
    pub(crate) note: Note,
}

impl Answer {
    /// An answer by HTTP/1.1, and its body, should that come until then. Its head has the service's verdict: a body without an end must not keep that back.
    pub(crate) async fn read(response: Response<Incoming>, until: Instant) -> Self {
        let (head, body) = response.into_parts();
        let read = timeout_at(until.min(Instant::now() + BODY_TIMEOUT), Limited::new(body, MAX_BODY).collect()).await;
        let body = read.ok().and_then(Result::ok).map(|body| body.to_bytes());
        Self { status: head.status, headers: head.headers, body }
    }

    /// Its body, empty when that was not read: absent members count as absent.
    pub(crate) fn read_body(&self) -> &[u8] {
        self.body.as_deref().unwrap_or_default()
    }

    /// How long `Retry-After` asks to wait: seconds, or a date (RFC 9110 §10.2.3), which is one of the service's clock: its `Date` says what that
    /// shows (§6.6.1). At most [`LONGEST_RETRY_AFTER`].
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let date = |text: &str| httpdate::parse_http_date(text).ok();
        let text = self.headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let now = || self.headers.get(DATE).and_then(|now| date(now.to_str().ok()?.trim()));
        let at = || date(text)?.duration_since(now().unwrap_or_else(SystemTime::now)).ok();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let seconds = is_number.then(|| Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
        let asked = seconds.or_else(at);
        // No time asks for no pause.
        asked.filter(|asked| !asked.is_zero()).map(|asked| asked.min(LONGEST_RETRY_AFTER))
    }

    /// The meaning of its status alone: a fault of the service may stick to the host behind the line, and a service that is
    /// overloaded may ask all to wait.
    pub(crate) fn bearing(&self) -> Bearing {
        let status = self.status.as_u16();
        let line = match status {
            // Too Early: the host may hold what comes by this connection for early data of TLS, and none is of another (RFC 8470 §5.2).
            425 => LineFate::Faulty,
            // Request Timeout and Misdirected Request: another connection is what they ask for (RFC 9110 §15.5.9, §15.5.20).
            408 | 421 => LineFate::Ending,
            500..=599 => LineFate::Faulty,
            _ => LineFate::Good,
        };
        let pause = self.retry_after().filter(|_| (500..600).contains(&status)).map(PauseFor::Asked);
        let note = match (status, pause) {
            (200..=299, _) => Note::Accepted,
            (_, Some(_)) => Note::Trouble(Trouble::light("AskedToWait")),
            (500..=599, _) => Note::Trouble(Trouble::light("ServerError")),
            _ => Note::Nothing,
        };
        let proves = self.status != StatusCode::FORBIDDEN && line == LineFate::Good;
        Bearing { line, proves, pause, note }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_of_retry_after_is_one_of_the_services_clock() {
        let text = |at: SystemTime| httpdate::fmt_http_date(at).parse().unwrap();
        let now = SystemTime::now();
        let (hour, second) = (Duration::from_secs(3_600), Duration::from_secs(1));
        let asked = |at: SystemTime, date: Option<SystemTime>| {
            let mut headers = HeaderMap::from_iter([(RETRY_AFTER, text(at))]);
            headers.extend(date.map(|date| (DATE, text(date))));
            Answer { status: StatusCode::TOO_MANY_REQUESTS, headers, body: None }.retry_after()
        };
        for theirs in [now - hour, now, now + hour] {
            assert_eq!(asked(theirs + second * 2, Some(theirs)), Some(second * 2));
            assert_eq!(asked(theirs - second * 2, Some(theirs)), None, "it is past");
        }
        let alone = asked(now + hour, None).unwrap();
        assert!(hour - second * 2 < alone && alone <= hour, "{alone:?}");
    }

    #[test]
    fn a_fault_that_may_stick_to_the_connection_is_no_proof_of_it() {
        for (status, line) in [(425, LineFate::Faulty), (503, LineFate::Faulty), (421, LineFate::Ending)] {
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), HeaderMap::new());
            let bearing = Answer { status, headers, body: None }.bearing();
            assert_eq!((bearing.line, bearing.proves), (line, false), "{status}");
        }
    }
}
