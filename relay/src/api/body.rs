//! The body of a request, taken in within a size, a time and a media type.
//!
//! Invariant: a body lies in one buffer that was sized beforehand, never grows and is wiped when it is dropped; what is
//! over [`MAX_BODY`] is refused before it is kept.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use zeroize::Zeroizing;

use super::problem::{Problem, ProblemType};

/// The largest body, in bytes; a larger one is 413.
pub const MAX_BODY: usize = 16 * 1024;
/// How long a body may take to arrive; a slower one is 408.
pub const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The media types of a new resource.
pub const JSON: &[&str] = &["application/json"];
/// The media types of a change.
pub const JSON_OR_MERGE_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];

/// Takes in the body of a request with `headers`, whose media type must be one of `accepted`.
pub async fn take(
    headers: &HeaderMap,
    body: Body,
    accepted: &'static [&'static str],
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    take_within(BODY_DEADLINE, headers, body, accepted).await
}

/// Takes in a body of whatever kind, as far as it is not larger and not slower than one that is taken.
pub(crate) async fn take_any(body: Body) -> Result<Zeroizing<Vec<u8>>, Problem> {
    within(BODY_DEADLINE, collect(body, MAX_BODY)).await
}

async fn take_within(
    deadline: Duration,
    headers: &HeaderMap,
    body: Body,
    accepted: &'static [&'static str],
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    check_media_type(headers, accepted)?;
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let capacity = declared.map_or(MAX_BODY, |length| length as usize);
    within(deadline, collect(body, capacity)).await
}

async fn within<T>(deadline: Duration, taken: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let slow = |_| Problem::new(ProblemType::BodyTooSlow, "Send the whole body within 10 seconds.");
    tokio::time::timeout(deadline, taken).await.map_err(slow)?
}

async fn collect(mut body: Body, capacity: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut whole = Zeroizing::new(Vec::with_capacity(capacity));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Problem::new(ProblemType::BadRequest, "Send the whole body."))?;
        let Some(data) = frame.data_ref() else { continue };
        if whole.len() + data.len() > MAX_BODY {
            return Err(too_large());
        }
        if whole.len() + data.len() > whole.capacity() {
            // More than was declared: HTTP itself forbids it, and growing would leave a copy behind.
            return Err(Problem::new(ProblemType::BadRequest, "Send a body of the declared length."));
        }
        whole.extend_from_slice(data);
    }
    Ok(whole)
}

fn check_media_type(headers: &HeaderMap, accepted: &'static [&'static str]) -> Result<(), Problem> {
    let wrong = || Problem::new(ProblemType::UnsupportedMediaType, format!("Send Content-Type: {}.", accepted[0]));
    // Of several the first counts: Kamailio's http_client sends one of its own behind what it is told.
    let value = headers.get(CONTENT_TYPE).ok_or_else(wrong)?;
    let value = value.to_str().map_err(|_| wrong())?;
    let (essence, params) = value.split_once(';').unwrap_or((value, ""));
    let essence = essence.trim();
    if !accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence)) {
        return Err(wrong());
    }
    if !is_utf8(params) {
        return Err(Problem::new(ProblemType::UnsupportedMediaType, "Send the body in UTF-8."));
    }
    let is_identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        Ok(())
    } else {
        Err(Problem::new(ProblemType::UnsupportedMediaType, "Send the body without a content coding."))
    }
}

/// Whether the parameters of a media type name UTF-8, or no character set: empty ones count for nothing (RFC 9110 §5.6.6), nor do
/// others, for JSON has none (RFC 8259 §11).
fn is_utf8(params: &str) -> bool {
    let charset = |param: &str| {
        let (name, value) = param.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    };
    // US-ASCII is UTF-8, too.
    params.split(';').filter_map(charset).all(|charset| matches!(&*charset, "utf-8" | "utf8" | "us-ascii"))
}

fn too_large() -> Problem {
    Problem::new(ProblemType::BodyTooLarge, "Send at most 16384 bytes.")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use hyper::body::Frame;

    use super::*;

    /// A body that never says anything.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    fn headers(content_type: &str) -> HeaderMap {
        [(CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect()
    }

    #[tokio::test]
    async fn a_body_that_never_comes_is_given_up() {
        let headers = headers("application/json");
        let taken = take_within(Duration::from_millis(5), &headers, Body::new(Silent), JSON).await;
        assert_eq!(taken.err().map(|problem| problem.kind()), Some(ProblemType::BodyTooSlow));
    }

    #[tokio::test]
    async fn a_body_of_sixteen_kibibytes_passes_and_one_more_byte_does_not() {
        let headers = headers("application/json; charset=UTF-8");
        let whole = take(&headers, Body::from(vec![b' '; MAX_BODY]), JSON).await;
        assert_eq!(whole.map(|body| body.len()).ok(), Some(MAX_BODY));
        let over = take(&headers, Body::from(vec![b' '; MAX_BODY + 1]), JSON).await;
        assert_eq!(over.err().map(|problem| problem.kind()), Some(ProblemType::BodyTooLarge));
    }

    #[test]
    fn only_json_in_utf_8_without_a_coding_is_taken() {
        for (content_type, fits) in [
            ("application/json", true),
            ("Application/JSON;charset=\"utf-8\"", true),
            ("application/json;charset=UTF-8;", true),
            ("application/json; ; charset = utf-8 ;v=1", true),
            ("application/json; profile=\"urn:x\"", true),
            ("application/json; charset=latin1", false),
            ("application/json; v=1; charset=utf-16", false),
            ("application/json; charset=", false),
            ("application/problem+json", false),
            ("text/plain", false),
            ("", false),
        ] {
            assert_eq!(check_media_type(&headers(content_type), JSON).is_ok(), fits, "{content_type}");
        }
        let mut two = headers("application/json");
        two.append(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert!(check_media_type(&two, JSON).is_ok(), "Kamailio's http_client sends both");
        let mut coded = headers("application/json");
        coded.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert!(check_media_type(&coded, JSON).is_err());
        assert!(check_media_type(&HeaderMap::new(), JSON).is_err());
    }
}
