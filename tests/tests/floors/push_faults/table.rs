//! Every status, reason and fault of each service, walked row by row: what the call hears, what the connection does, what
//! becomes of the token; and the same for an alert.
//!
//! Each row tells what the service answers to the first request; the next one it takes.

use std::time::Duration;

use relay::push::{Event, Push, Verdict};
use serde_json::json;
use tests::authority::Authority;
use tests::{apns, fcm};

use super::{APP, World, apple, apple_token, call, google, google_token};

/// What the caller hears of the push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    /// 180: a service has taken it.
    Ringing,
    /// Nothing yet: the device may come.
    Waits,
    /// 480.
    Unavailable,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Lives,
    Dies,
    /// It dies when the app's other pushes are taken.
    Doubted,
}

use Hears::{Ringing, Unavailable, Waits};
use Token::{Dies, Doubted, Lives};

/// What a push came to: the caller, the requests and the connections that it took, the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome(Hears, u64, usize, Token);

const TAKEN: Outcome = Outcome(Ringing, 1, 1, Lives);
/// It was tried again over the same connection, or over a fresh one.
const AGAIN: Outcome = Outcome(Ringing, 2, 1, Lives);
const AFRESH: Outcome = Outcome(Ringing, 2, 2, Lives);
const REFUSED: Outcome = Outcome(Unavailable, 1, 1, Lives);
const GONE: Outcome = Outcome(Unavailable, 1, 1, Dies);
/// Nobody knows whether it was taken: it is not sent again.
const UNSURE: Outcome = Outcome(Waits, 1, 1, Lives);

/// The answer; what it means for a call, and for an alert.
struct Row<A>(A, Outcome, Outcome);

#[tokio::test(start_paused = true)]
async fn each_answer_and_fault_of_apns_has_its_consequence_for_call_connection_and_token() {
    let (authority, rows) = (Authority::new(), apns_rows());
    assert!(rows.len() >= 100, "{}", rows.len());
    let mut wrong = Vec::new();
    for Row(answer, for_call, for_alert) in rows {
        for (push, wanted) in [(call(1), for_call), (alert(), for_alert)] {
            let push = Push { made_at: relay::clock::now(), ..push };
            let world = World::within(&authority);
            world.apns.answer_with(&apple_token(1), [answer.clone()]);
            let delivery = world.service.deliver(APP, &apple(1), &push).await;
            let (hears, token) = read(&delivery.verdict);
            let found = Outcome(hears, world.apns.requests(), world.apns.connections(), token);
            if found != wanted || !world.apns.violations().is_empty() {
                wrong.push(format!(
                    "{answer:?} {:?}: {found:?}, not {wanted:?}; {:?}",
                    push.event,
                    world.apns.violations()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn each_answer_and_fault_of_fcm_has_its_consequence_for_call_connection_and_token() {
    let (authority, rows) = (Authority::new(), fcm_rows());
    assert!(rows.len() >= 60, "{}", rows.len());
    let mut wrong = Vec::new();
    for Row(answer, for_call, for_alert) in rows {
        for (push, wanted) in [(call(1), for_call), (alert(), for_alert)] {
            let push = Push { made_at: relay::clock::now(), ..push };
            let world = World::within(&authority);
            world.fcm.answer_with(&google_token(1), [answer.clone()]);
            let delivery = world.service.deliver(APP, &google(1), &push).await;
            let (hears, token) = read(&delivery.verdict);
            // The token endpoint has a connection of its own.
            let found = Outcome(hears, world.fcm.requests(), world.fcm.connections() - 1, token);
            if found != wanted || !world.fcm.violations().is_empty() || delivery.copies > 2 {
                wrong.push(format!(
                    "{answer:?} {:?}: {found:?}, not {wanted:?}; {:?}",
                    push.event,
                    world.fcm.violations()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn alert() -> Push {
    Push { event: Event::Message, call: None, ..call(1) }
}

fn read(verdict: &Verdict) -> (Hears, Token) {
    let hears = match verdict {
        Verdict::Accepted => Ringing,
        Verdict::Unconfirmed => Waits,
        _ => Unavailable,
    };
    let token = match verdict {
        Verdict::BadToken => Doubted,
        verdict if verdict.token_is_dead(0) => Dies,
        _ => Lives,
    };
    (hears, token)
}

fn seconds(tenths: u64) -> Duration {
    Duration::from_millis(100 * tenths)
}

fn apns_rows() -> Vec<Row<apns::Answer>> {
    use apns::Answer;
    let http = |status: u16, reason: &str, headers| {
        let body = if reason.is_empty() { String::new() } else { json!({"reason": reason}).to_string() };
        Answer::Http { status, headers, body }
    };
    let mut rows = Vec::new();
    for (status, outcome, reasons) in [
        (200, TAKEN, &[""][..]),
        (
            400,
            REFUSED,
            &[
                "BadCollapseId",
                "BadExpirationDate",
                "BadMessageId",
                "BadPriority",
                "BadTopic",
                "DeviceTokenNotForTopic",
                "DuplicateHeaders",
                "InvalidPushType",
                "MissingDeviceToken",
                "MissingTopic",
                "PayloadEmpty",
                "TopicDisallowed",
                "BadEnvironmentKeyIdInToken",
                "SomethingNew",
                "",
            ],
        ),
        (400, Outcome(Unavailable, 1, 1, Doubted), &["BadDeviceToken"]),
        (400, AFRESH, &["IdleTimeout"]),
        (401, REFUSED, &[""]),
        (
            403,
            REFUSED,
            &[
                "BadCertificate",
                "BadCertificateEnvironment",
                "Forbidden",
                "InvalidProviderToken",
                "MissingProviderToken",
                "UnrelatedKeyIdInToken",
                "SomethingNew",
                "",
            ],
        ),
        (403, AGAIN, &["ExpiredProviderToken"]),
        (404, REFUSED, &["BadPath", ""]),
        (405, REFUSED, &["MethodNotAllowed"]),
        (408, AFRESH, &[""]),
        (410, GONE, &["Unregistered", "ExpiredToken", "SomethingNew", ""]),
        (413, REFUSED, &["PayloadTooLarge"]),
        (421, AFRESH, &[""]),
        (425, AFRESH, &[""]),
        (429, AGAIN, &["TooManyRequests", "TooManyProviderTokenUpdates", "SomethingNew", ""]),
        (500, AFRESH, &["InternalServerError", "SomethingNew", ""]),
        (503, AFRESH, &["ServiceUnavailable", "Shutdown", ""]),
    ] {
        rows.extend(reasons.iter().map(|reason| {
            // What is no call waits for the operator to put it right.
            let is_of_configuration = matches!(
                (status, *reason),
                (400, "BadTopic" | "MissingTopic" | "TopicDisallowed" | "BadEnvironmentKeyIdInToken") | (403 | 404, _)
            );
            let for_alert = if is_of_configuration { AGAIN } else { outcome };
            Row(http(status, reason, Vec::new()), outcome, for_alert)
        }));
    }
    for (status, outcome) in [
        (301, REFUSED),
        (302, REFUSED),
        (402, REFUSED),
        (406, REFUSED),
        (415, REFUSED),
        (418, REFUSED),
        (431, REFUSED),
        (501, AFRESH),
        (502, AFRESH),
        (504, AFRESH),
        (520, AFRESH),
        (407, REFUSED),
        (410, REFUSED),
        (451, REFUSED),
        (505, AFRESH),
        (599, AFRESH),
    ] {
        let page =
            Answer::Http { status, headers: Vec::new(), body: "<html>A page of somebody between</html>".to_owned() };
        rows.push(Row(page, outcome, outcome));
    }
    let after = |text: &str| vec![("retry-after", text.to_owned())];
    for (status, text, outcome) in [
        (503, "5", AFRESH),
        (503, "0", AFRESH),
        (503, "soon", AFRESH),
        (503, "-1", AFRESH),
        (503, "600", REFUSED),
        (503, "18446744073709551615", REFUSED),
        (503, "99999999999999999999", REFUSED),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", REFUSED),
        (503, "Thu, 01 Jan 1970 00:00:00 GMT", AFRESH),
        (429, "5", AGAIN),
        (429, "600", REFUSED),
        (429, "18446744073709551615", REFUSED),
        (500, "5", AFRESH),
        (500, "9223372036854775807", REFUSED),
    ] {
        // A call waits for what may come sooner than was asked, as long as it rings.
        let for_call = match outcome {
            REFUSED if status == 429 => AGAIN,
            REFUSED => AFRESH,
            outcome => outcome,
        };
        rows.push(Row(http(status, "", after(text)), for_call, outcome));
    }
    rows.extend([
        Row(Answer::Gone { timestamp: 1_795_000_000_123 }, GONE, GONE),
        Row(Answer::StalledErrorBody { status: 410 }, REFUSED, REFUSED),
        Row(Answer::StalledErrorBody { status: 400 }, REFUSED, REFUSED),
        Row(Answer::StalledErrorBody { status: 500 }, AFRESH, AFRESH),
        Row(Answer::StalledErrorBody { status: 503 }, AFRESH, AFRESH),
        Row(Answer::Slow(seconds(2)), TAKEN, TAKEN),
        Row(Answer::Slow(seconds(35)), TAKEN, TAKEN),
        Row(Answer::Slow(seconds(280)), TAKEN, AGAIN),
        Row(Answer::Stall, UNSURE, AGAIN),
        Row(Answer::Freeze, UNSURE, AFRESH),
        Row(Answer::ConnectionLost, UNSURE, AFRESH),
        Row(Answer::RefusedStream, AGAIN, AGAIN),
        Row(Answer::GoAway, AFRESH, AFRESH),
        Row(Answer::AcceptAndGoAway, TAKEN, TAKEN),
    ]);
    // RFC 9113 §7, all but REFUSED_STREAM.
    for code in [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 0xff] {
        rows.push(Row(Answer::Reset(code), UNSURE, AFRESH));
    }
    rows
}

fn fcm_rows() -> Vec<Row<fcm::Answer>> {
    use fcm::Answer;
    let http = |status: u16, general: &str, code: &str, headers| {
        let kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError";
        let details = if code.is_empty() { json!([]) } else { json!([{"@type": kind, "errorCode": code}]) };
        let error = json!({"code": status, "message": "m", "status": general, "details": details});
        Answer::Http { status, headers, body: json!({"error": error}).to_string() }
    };
    let mut rows = Vec::new();
    for (status, general, code, outcome) in [
        (400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", REFUSED),
        (400, "INVALID_ARGUMENT", "", REFUSED),
        (400, "FAILED_PRECONDITION", "", REFUSED),
        (400, "OUT_OF_RANGE", "", REFUSED),
        (401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR", REFUSED),
        (401, "UNAUTHENTICATED", "", AGAIN),
        (403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", REFUSED),
        (403, "PERMISSION_DENIED", "", REFUSED),
        (404, "NOT_FOUND", "UNREGISTERED", GONE),
        (404, "NOT_FOUND", "", REFUSED),
        (409, "ABORTED", "", REFUSED),
        (429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", AGAIN),
        (429, "RESOURCE_EXHAUSTED", "", AGAIN),
        (499, "CANCELLED", "", REFUSED),
        (500, "INTERNAL", "INTERNAL", AFRESH),
        (500, "UNKNOWN", "UNSPECIFIED_ERROR", AFRESH),
        (501, "UNIMPLEMENTED", "", AFRESH),
        (503, "UNAVAILABLE", "UNAVAILABLE", AFRESH),
        (504, "DEADLINE_EXCEEDED", "", AFRESH),
        (400, "SOMETHING_NEW", "SOMETHING_NEW", REFUSED),
        (418, "SOMETHING_NEW", "", REFUSED),
    ] {
        let is_of_configuration = matches!((general, code), ("PERMISSION_DENIED" | "NOT_FOUND", ""));
        let for_alert = if is_of_configuration { AGAIN } else { outcome };
        rows.push(Row(http(status, general, code, Vec::new()), outcome, for_alert));
    }
    for (status, outcome) in [
        // Whoever has taken a message names it.
        (200, AGAIN),
        (204, AGAIN),
        (301, REFUSED),
        (302, REFUSED),
        (400, REFUSED),
        (401, AGAIN),
        (403, REFUSED),
        (404, REFUSED),
        (405, REFUSED),
        (407, REFUSED),
        (408, AFRESH),
        (413, REFUSED),
        (421, AFRESH),
        (425, AFRESH),
        (429, AGAIN),
        (500, AFRESH),
        (502, AFRESH),
        (503, AFRESH),
        (504, AFRESH),
        (599, AFRESH),
    ] {
        let page =
            Answer::Http { status, headers: Vec::new(), body: "<html>A page of somebody between</html>".to_owned() };
        rows.push(Row(page, outcome, if matches!(status, 403 | 404) { AGAIN } else { outcome }));
    }
    let after = |text: &str| vec![("retry-after", text.to_owned())];
    for (status, text, outcome) in [
        (503, "5", AFRESH),
        (503, "0", AFRESH),
        (503, "600", REFUSED),
        (503, "18446744073709551615", REFUSED),
        (503, "Fri, 31 Dec 9999 23:59:59 GMT", REFUSED),
        (429, "5", AGAIN),
        (429, "600", REFUSED),
        (429, "18446744073709551615", REFUSED),
        (500, "9223372036854775807", REFUSED),
    ] {
        let for_call = match outcome {
            REFUSED if status == 429 => AGAIN,
            REFUSED => AFRESH,
            outcome => outcome,
        };
        rows.push(Row(http(status, "", "", after(text)), for_call, outcome));
    }
    rows.extend([
        Row(Answer::Accept, TAKEN, TAKEN),
        Row(Answer::InvalidToken, REFUSED, REFUSED),
        // It may have named the message.
        Row(Answer::StalledErrorBody { status: 200 }, AGAIN, AGAIN),
        Row(Answer::StalledErrorBody { status: 404 }, REFUSED, AGAIN),
        Row(Answer::StalledErrorBody { status: 503 }, AFRESH, AFRESH),
        Row(Answer::Slow(seconds(35)), TAKEN, TAKEN),
        Row(Answer::Slow(seconds(60)), AFRESH, TAKEN),
        Row(Answer::Slow(seconds(110)), AFRESH, AFRESH),
        Row(Answer::Stall, AFRESH, AFRESH),
        Row(Answer::Freeze, AFRESH, AFRESH),
        Row(Answer::ConnectionLost, AFRESH, AFRESH),
        Row(Answer::RefusedStream, AGAIN, AGAIN),
        Row(Answer::GoAway, AFRESH, AFRESH),
        Row(Answer::AcceptAndGoAway, TAKEN, TAKEN),
    ]);
    for code in [1, 2, 8, 11] {
        rows.push(Row(Answer::Reset(code), AFRESH, AFRESH));
    }
    rows
}
