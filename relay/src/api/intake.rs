//! The body of a request, taken in within a size, a time and a media type.
//!
//! Invariant: a body lies in one buffer that was sized beforehand, never grows and is wiped when it is dropped; what is
//! over [`MAX_BODY`] is refused before it is kept.

use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
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
    check_media_type(headers, accepted)?;
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    let capacity = declared.map_or(MAX_BODY, |length| length as usize);
    match tokio::time::timeout(BODY_DEADLINE, collect(body, capacity)).await {
        Ok(body) => body,
        Err(_) => Err(Problem::new(ProblemType::BodyTooSlow, "Send the whole body within 10 seconds.")),
    }
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
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
    let (essence, params) = value.split_once(';').unwrap_or((value, ""));
    let essence = essence.trim();
    if !accepted.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence)) {
        return Err(wrong());
    }
    let charset = params.trim().to_ascii_lowercase();
    if !matches!(charset.as_str(), "" | "charset=utf-8" | "charset=\"utf-8\"") {
        return Err(Problem::new(ProblemType::UnsupportedMediaType, "Send the body in UTF-8."));
    }
    match headers.get(CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Problem::new(ProblemType::UnsupportedMediaType, "Send the body without a content coding."))
        }
        _ => Ok(()),
    }
}

fn too_large() -> Problem {
    Problem::new(ProblemType::BodyTooLarge, "Send at most 16384 bytes.")
}
