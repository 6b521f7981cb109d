//! An app that Apple knows by its certificate (mutual TLS) in place of a provider key.

use std::sync::Arc;
use std::time::Duration;

use relay::config::ApnsCredentials;
use relay::metrics::Metrics;
use relay::push::{AppPush, Event, Problem, Push, PushService, State, Verdict, apns as settings, check};
use tests::apns::{self, Apns};
use tests::authority::{Authority, Issued};
use tests::virtual_net::VirtualNet;

use super::{APP, apple, apple_token, call};

/// Apple's service, and a relay that shows it a certificate.
struct Shown {
    apns: Apns,
    service: PushService,
    _authority: Authority,
}

impl Shown {
    fn by(certificate: impl FnOnce(&Authority) -> Issued) -> Self {
        let (net, authority) = (VirtualNet::new(), Authority::new());
        let apns = Apns::start_within(&net, &authority, APP);
        let file = authority.write("push.pem", &certificate(&authority).both());
        let app = AppPush { apns: Some(apns.settings_by(file)), fcm: None, ..AppPush::default() };
        let service = PushService::new(Arc::new(net), vec![(APP.into(), app)], &Metrics::new());
        Self { apns, service: service.expect("the certificate is one"), _authority: authority }
    }

    /// What became of a call's push, and what the operator is told then.
    async fn told(&self) -> (Verdict, String) {
        let delivery = self.service.deliver(APP, &apple(1), &call(1)).await;
        let report = &self.service.health()[0];
        assert_eq!(report.state, State::Failing, "{report:?}");
        let (reason, words) = report.reason.clone().expect("it fails");
        (delivery.verdict, format!("{reason}: {words}"))
    }
}

#[tokio::test(start_paused = true)]
async fn an_app_with_a_certificate_pushes_without_a_token_and_all_at_once() {
    let shown = Shown::by(|authority| authority.issue(&[APP]));
    let Shown { apns, service, .. } = &shown;
    apns.answer_all(Some(apns::Answer::Slow(Duration::from_millis(200))));
    let calls = (1..=50).map(|number| async move { service.deliver(APP, &apple(number), &call(number)).await.verdict });
    let started = tokio::time::Instant::now();
    let verdicts = futures_util::future::join_all(calls).await;
    assert_eq!(verdicts, vec![Verdict::Accepted; 50]);
    assert!(
        started.elapsed() < Duration::from_millis(400),
        "no call waits for another's answer: {:?}",
        started.elapsed()
    );
    assert_eq!((apns.count(), apns.connections()), (50, 1));
    let voip = format!("{APP}.voip");
    assert!(apns.pushes().iter().all(|push| push.provider_token.is_empty() && push.topic == voip));
    let message = Push { event: Event::Message, call: None, ..call(51) };
    assert_eq!(service.deliver(APP, &apple(51), &message).await.verdict, Verdict::Accepted);
    assert_eq!(apns.pushes().last().map(|push| push.topic.clone()), Some(APP.to_owned()));
    assert_eq!(apns.violations(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_the_service_takes_no_connection_with_ends_the_call_at_once_and_is_told() {
    let stranger = Authority::new();
    for (certificate, reason, remedy) in [
        (Shown::by(|authority| authority.issue_ended(&[APP])), "CertificateExpired", "get a new one"),
        (Shown::by(|_| stranger.issue(&[APP])), "CertificateRefused", "that Apple gave for this app"),
    ] {
        let started = tokio::time::Instant::now();
        let (verdict, told) = certificate.told().await;
        assert_eq!(verdict, Verdict::Refused { reason }, "{told}");
        assert!(told.starts_with(reason) && told.contains(remedy), "{told}");
        assert!(started.elapsed() < Duration::from_secs(2), "the caller is not kept waiting: {:?}", started.elapsed());
        assert_eq!((certificate.apns.requests(), certificate.apns.count()), (0, 0));
        let trial = &certificate.service.try_out().await[0];
        assert_eq!(trial.problem.as_ref().map(|(reason, _)| *reason), Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_app_or_one_that_apple_calls_bad_is_told() {
    let others = Shown::by(|authority| authority.issue(&["com.example.other"]));
    let (verdict, told) = others.told().await;
    assert_eq!(verdict, Verdict::Refused { reason: "TopicDisallowed" });
    assert!(told.contains("app.id must be"), "{told}");
    let ended = Shown::by(|authority| authority.issue(&[APP]));
    ended.apns.answer_with(&apple_token(1), [apns::Answer::Error { status: 403, reason: "BadCertificate" }]);
    let (verdict, told) = ended.told().await;
    assert_eq!(verdict, Verdict::Refused { reason: "BadCertificate" });
    assert!(told.contains("get a new one"), "{told}");
}

#[test]
fn a_file_without_the_certificate_or_without_its_key_is_told_before_a_start() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(&[APP]), authority.issue(&[APP]));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("it is there");
    let apns = |text: &str| {
        let credentials = ApnsCredentials::Certificate { file: authority.write("push.pem", text), team_id: None };
        let settings = settings::Settings { credentials, endpoint: None, ca_file: Some(authority.ca_file()) };
        check(APP, &AppPush { apns: Some(settings), fcm: None, ..AppPush::default() })
    };
    assert!(apns(&one.both()).is_empty());
    for text in [
        read(&one.certificate_file),
        read(&one.key_file),
        read(&one.certificate_file) + &read(&other.key_file),
        one.both().replace('A', "!"),
        String::new(),
    ] {
        let found = apns(&text);
        assert!(matches!(found[..], [ref error] if matches!(error.problem, Problem::Certificate { .. })), "{found:?}");
        assert!(found[0].to_string().contains("push.pem") && !found[0].to_string().contains("BEGIN"), "{found:?}");
    }
}
