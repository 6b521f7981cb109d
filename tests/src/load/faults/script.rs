//! The faults: what is wrong with a push service, from when to when.
//!
//! Invariant: a fault is told by what the service does on the wire; nothing here knows how a relay deals with it.

use std::time::{Duration, SystemTime};

use super::services::Troubled;
use crate::apns::Answer as Apple;
use crate::fcm::{Answer as Google, TokenAnswer};
use crate::webpush::Answer as Web;

/// A fault of the push service of one app.
pub struct Fault {
    /// How the command line names it; it begins with the service.
    pub name: &'static str,
    /// The description of the fault.
    pub words: &'static str,
    /// Which of the app's services has it.
    pub service: Service,
    /// Whether the service had taken pushes before.
    pub warm: bool,
    /// The behaviour of the first of the two addresses that the service's name has; `None`: it has one.
    pub first_address: Option<Mood>,
    /// The events of the fault, with their times counted from the first call.
    deeds: Deeds,
}

/// Events, each with its time.
type Deeds = &'static [(Duration, fn(&Troubled))];

/// A push service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Apple's.
    Apns,
    /// Google's.
    Fcm,
    /// One that a device has chosen.
    WebPush,
}

/// The reaction of an address to a dial.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// The address takes the connection, and says nothing on it.
    Mute,
    /// The address does not even answer the SYN.
    Silent,
}

impl Fault {
    /// Does what is due at the beginning.
    pub(super) fn begin(&self, service: &Troubled) {
        self.at(Duration::ZERO).for_each(|deed| deed(service));
    }

    /// Does the rest, each at its time from now.
    pub(super) async fn go_on(&self, service: &Troubled) {
        let begun = tokio::time::Instant::now();
        for (at, deed) in self.deeds.iter().filter(|(at, _)| !at.is_zero()) {
            tokio::time::sleep_until(begun + *at).await;
            deed(service);
        }
    }

    fn at(&self, moment: Duration) -> impl Iterator<Item = fn(&Troubled)> {
        self.deeds.iter().filter(move |(at, _)| *at == moment).map(|(_, deed)| *deed)
    }
}

const fn warm(service: Service, name: &'static str, words: &'static str, deeds: Deeds) -> Fault {
    Fault { name, words, service, warm: true, first_address: None, deeds }
}

const fn cold(service: Service, name: &'static str, words: &'static str, deeds: Deeds) -> Fault {
    Fault { warm: false, ..warm(service, name, words, deeds) }
}

const fn dialled(name: &'static str, words: &'static str, mood: Mood) -> Fault {
    Fault { first_address: Some(mood), ..cold(Service::Apns, name, words, &[]) }
}

const START: Duration = Duration::ZERO;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// When a fault that does not last is over.
const OVER: Duration = ms(5_000);

fn apple_is_slow(service: &Troubled, millis: u64) {
    service.apns.answer_all(Some(Apple::Slow(ms(millis))));
}

/// The fault stays with the connections that there are; fresh ones are well.
fn sticks(service: &Troubled, status: u16, reason: &'static str) {
    for connection in 1..=service.apns.connections() {
        service.apns.answer_on(connection, Apple::Error { status, reason });
    }
}

fn apple_is_well(service: &Troubled) {
    service.apns.answer_all(None);
}

fn google_is_well(service: &Troubled) {
    service.fcm.answer_all(None);
}

/// The first push of each call is answered so.
fn first_of_each(service: &Troubled, answer: &Apple) {
    service.own_tokens.iter().for_each(|token| service.apns.answer_with(token, [answer.clone()]));
}

fn in_a_while() -> String {
    httpdate::fmt_http_date(SystemTime::now() + OVER)
}

/// All of them.
pub static FAULTS: &[Fault] = &[
    warm(Service::Apns, "apns-well", "none, APNs", &[]),
    warm(Service::Fcm, "fcm-well", "none, FCM", &[]),
    warm(Service::WebPush, "webpush-well", "none, Web Push", &[]),
    cold(
        Service::Apns,
        "apns-2.5s",
        "APNs answers after 2.5 s, from the start",
        &[(START, |it| apple_is_slow(it, 2_500))],
    ),
    cold(
        Service::Apns,
        "apns-3.5s",
        "APNs answers after 3.5 s, from the start",
        &[(START, |it| apple_is_slow(it, 3_500))],
    ),
    warm(
        Service::Apns,
        "apns-3.5s-warm",
        "APNs answers after 3.5 s, was fast before",
        &[(START, |it| apple_is_slow(it, 3_500))],
    ),
    warm(
        Service::Apns,
        "apns-6s-warm",
        "APNs answers after 6 s, was fast before",
        &[(START, |it| apple_is_slow(it, 6_000))],
    ),
    warm(
        Service::Apns,
        "apns-falls-silent",
        "after 1 s the connections fall silent, without RST; fresh ones are well",
        &[(ms(1_000), |it| it.apns.freeze())],
    ),
    warm(
        Service::Apns,
        "apns-answers-nothing",
        "from 1 s to 3 s APNs takes pushes and answers none of them; the connection lives",
        &[(ms(1_000), |it| it.apns.answer_all(Some(Apple::Stall))), (ms(3_000), apple_is_well)],
    ),
    dialled("apns-mute-address", "the first of two addresses takes connections and says nothing", Mood::Mute),
    dialled("apns-silent-address", "the first of two addresses answers no SYN", Mood::Silent),
    warm(
        Service::Apns,
        "apns-500-sticks",
        "500 on the connections that there are; fresh ones are well",
        &[(START, |it| sticks(it, 500, "InternalServerError"))],
    ),
    warm(
        Service::Apns,
        "apns-503-sticks",
        "503 `ServiceUnavailable`, likewise",
        &[(START, |it| sticks(it, 503, "ServiceUnavailable"))],
    ),
    warm(Service::Apns, "apns-shutdown", "503 `Shutdown`, likewise", &[(START, |it| sticks(it, 503, "Shutdown"))]),
    warm(
        Service::Apns,
        "apns-idle-timeout",
        "400 `IdleTimeout`, likewise",
        &[(START, |it| sticks(it, 400, "IdleTimeout"))],
    ),
    warm(
        Service::Apns,
        "apns-503",
        "503 everywhere for 5 s",
        &[(START, |it| it.apns.answer_all(Some(Apple::Unavailable { retry_after: None }))), (OVER, apple_is_well)],
    ),
    warm(
        Service::Apns,
        "apns-503-retry-after",
        "503 everywhere for 5 s, with `Retry-After: 5`",
        &[(START, |it| it.apns.answer_all(Some(Apple::Unavailable { retry_after: Some(5) }))), (OVER, apple_is_well)],
    ),
    warm(
        Service::Apns,
        "apns-503-date",
        "503 everywhere for 5 s, with that end as the date of `Retry-After`",
        &[
            (START, |it| {
                let headers = vec![("retry-after", in_a_while())];
                it.apns.answer_all(Some(Apple::Http { status: 503, headers, body: String::new() }));
            }),
            (OVER, apple_is_well),
        ],
    ),
    warm(
        Service::Apns,
        "apns-429",
        "429 to the first push for each device, with `Retry-After: 3`",
        &[(START, |it| first_of_each(it, &Apple::TooManyRequests { retry_after: Some(3) }))],
    ),
    warm(
        Service::Apns,
        "apns-429-date",
        "429, likewise, with a date 5 s after the first call",
        &[(START, |it| {
            let headers = vec![("retry-after", in_a_while())];
            first_of_each(it, &Apple::Http { status: 429, headers, body: r#"{"reason":"TooManyRequests"}"#.into() });
        })],
    ),
    warm(
        Service::Apns,
        "apns-token-updates",
        "429 `TooManyProviderTokenUpdates` for 5 s",
        &[
            (START, |it| {
                it.apns.answer_all(Some(Apple::Error { status: 429, reason: "TooManyProviderTokenUpdates" }));
            }),
            (OVER, apple_is_well),
        ],
    ),
    warm(
        Service::Apns,
        "apns-goaway",
        "each push is taken, and GOAWAY ends its connection",
        &[(START, |it| it.apns.answer_all(Some(Apple::AcceptAndGoAway)))],
    ),
    cold(Service::Apns, "apns-one-stream", "one stream at a time", &[(START, |it| it.apns.allow_streams(1))]),
    warm(
        Service::Apns,
        "apns-refused-stream",
        "RST_STREAM with REFUSED_STREAM to the first push of each call",
        &[(START, |it| first_of_each(it, &Apple::RefusedStream))],
    ),
    warm(
        Service::Apns,
        "apns-reset",
        "RST_STREAM with INTERNAL_ERROR to the first push of each call: nobody knows whether it was taken",
        &[(START, |it| first_of_each(it, &Apple::Reset(2)))],
    ),
    warm(
        Service::Apns,
        "apns-cut",
        "each push is taken, and its connection cut in place of an answer",
        &[(START, |it| it.apns.answer_all(Some(Apple::ConnectionLost)))],
    ),
    cold(
        Service::Apns,
        "apns-certificate",
        "the certificate of APNs has ended; a new one after 5 s",
        &[
            (START, |it| it.apns.let_certificate_end(&it.authority, true)),
            (OVER, |it| it.apns.let_certificate_end(&it.authority, false)),
        ],
    ),
    cold(
        Service::Fcm,
        "fcm-oauth-hangs",
        "the token endpoint leaves two requests unanswered",
        &[(START, |it| it.fcm.answer_token_with([TokenAnswer::Stall, TokenAnswer::Stall]))],
    ),
    cold(
        Service::Fcm,
        "fcm-oauth-503",
        "the token endpoint answers 503 ten times",
        &[(START, |it| it.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 10)))],
    ),
    warm(
        Service::Fcm,
        "fcm-401",
        "FCM answers each access token 401 for 5 s",
        &[(START, |it| it.fcm.answer_all(Some(Google::Unauthenticated))), (OVER, google_is_well)],
    ),
    warm(
        Service::Fcm,
        "fcm-503",
        "FCM answers 503 for 5 s",
        &[(START, |it| it.fcm.answer_all(Some(Google::Unavailable { retry_after: None }))), (OVER, google_is_well)],
    ),
    warm(
        Service::Fcm,
        "fcm-6s",
        "FCM answers after 6 s, was fast before",
        &[(START, |it| it.fcm.answer_all(Some(Google::Slow(ms(6_000)))))],
    ),
    warm(
        Service::Fcm,
        "fcm-falls-silent",
        "after 1 s the connections fall silent, without RST; fresh ones are well",
        &[(ms(1_000), |it| it.fcm.freeze())],
    ),
    warm(
        Service::WebPush,
        "webpush-429",
        "429 to the first push for each device, with `Retry-After: 3`",
        &[(START, |it| {
            it.own_tokens.iter().for_each(|token| it.webpush.answer_with(token, [Web::Status(429, Some(3))]));
        })],
    ),
    warm(
        Service::WebPush,
        "webpush-6s",
        "Web Push answers after 6 s, was fast before",
        &[(START, |it| it.webpush.answer_all(Some(Web::Slow(ms(6_000)))))],
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_name_of_its_own_that_begins_with_its_service_and_happens_in_order() {
        let mut names: Vec<_> = FAULTS.iter().map(|fault| fault.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FAULTS.len());
        for fault in FAULTS {
            let service = match fault.service {
                Service::Apns => "apns-",
                Service::Fcm => "fcm-",
                Service::WebPush => "webpush-",
            };
            assert!(fault.name.starts_with(service), "{}", fault.name);
            assert!(fault.deeds.is_sorted_by_key(|(at, _)| *at), "{}", fault.name);
        }
    }
}
