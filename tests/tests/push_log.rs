//! What push delivery writes to the log; alone in its process, because the log is the process's.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::push::{Event, Push};
use relay::secret::PushToken;
use relay::vault::record::{Provider, PushTarget};
use sip::id::{CallId, InstanceId, ShardTag};
use tests::apns;
use tests::push_services::PushServices;

/// A place for log lines.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_at_trace_level_holds_no_token_and_no_key() {
    let log = Log::default();
    let writer = log.clone();
    // Together with the records of libraries that use `log`, such as rustls.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    let services = PushServices::start().await;
    let PushServices { apns, fcm, service, .. } = &services;

    let (first, second) = ("feed".repeat(16), "beef".repeat(16));
    let third = "cRegistration:APA91bExample".to_owned();
    apns.answer_with(&second, [apns::Answer::ServerError, apns::Answer::BadDeviceToken]);
    fcm.answer_with(&third, [tests::fcm::Answer::Unauthenticated]);
    let targets = [(Provider::ApnsProduction, &first), (Provider::ApnsProduction, &second), (Provider::Fcm, &third)];
    for (provider, token) in targets {
        let target = PushTarget::new(provider, PushToken::new(token), 0);
        service.deliver(apns::BUNDLE, &target, &call()).await;
    }
    let received = apns.next_push(Duration::from_secs(5)).await.expect("one was taken");
    assert_eq!(fcm.count(), 1);

    let text = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(text.contains("connected to the push service") && text.contains("rustls"), "the log was on");
    let account: serde_json::Value = serde_json::from_str(fcm.service_account_json()).unwrap();
    let key_line = account["private_key"].as_str().unwrap().lines().nth(3).unwrap().to_owned();
    let secrets = [first, second, third, received.provider_token, "ya29.".into(), key_line, "sip:bob@".into()];
    for secret in secrets {
        let at = text.find(&secret);
        assert_eq!(at, None, "{}", at.map_or("", |at| &text[at.saturating_sub(300)..at]));
    }
}

fn call() -> Push {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    Push {
        event: Event::Call,
        instance: InstanceId::new(1 << 20, ShardTag(1)),
        call: Some(CallId::new(1 << 20, ShardTag(1))),
        from: Some("sip:bob@example.com".into()),
        name: None,
        edge: "relay1.example.net:5061".into(),
        sent_at: now,
        deadline: now + 20,
        made_at: relay::clock::now(),
        extra: Vec::new(),
    }
}
