//! Pushes that are refused for a mistake of the operator's: a call ends at once, all else waits until the mistake is put right.

use std::time::Duration;

use relay::config::ApnsCredentials;
use relay::push::{Delivery, Event, Push, Verdict};
use tests::apns::{Answer, KEY_ID, TEAM_ID};
use tests::fcm::{self, TokenAnswer};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::{APP, World, apple, call, google};

const SECOND: Duration = Duration::from_secs(1);

impl World {
    /// A message that is worth delivering for an hour.
    fn write(&self, target: relay::vault::record::PushTarget, event: Event) -> JoinHandle<Delivery> {
        let now = call(1);
        let push = Push { event, call: None, deadline: now.sent_at + 3_600, ..now };
        let service = self.service.clone();
        tokio::spawn(async move { service.deliver(APP, &target, &push).await })
    }
}

fn denied(status: u16, general: &str) -> fcm::Answer {
    let body = format!(r#"{{"error":{{"code":{status},"status":"{general}"}}}}"#);
    fcm::Answer::Http { status, headers: Vec::new(), body }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_arrives_once_the_mistake_is_put_right() {
    for (apns, fcm) in [
        (Answer::InvalidProviderToken, Some(denied(403, "PERMISSION_DENIED"))),
        (Answer::Error { status: 400, reason: "TopicDisallowed" }, Some(denied(404, "NOT_FOUND"))),
        (Answer::Error { status: 403, reason: "SomethingNew" }, None),
    ] {
        let world = World::new();
        world.apns.answer_all(Some(apns.clone()));
        let fcm_is_denied = fcm.is_some();
        match fcm {
            Some(answer) => world.fcm.answer_all(Some(answer)),
            None => world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::InvalidGrant, 6)),
        }
        let events = [Event::Message, Event::MissedCall, Event::Voicemail, Event::Expired];
        let waiting: Vec<_> = events
            .into_iter()
            .flat_map(|event| [world.write(apple(1), event), world.write(google(1), event)])
            .collect();
        sleep(SECOND).await;
        // A call, its end, and a test are for now.
        for event in [Event::Call, Event::Test] {
            let push = Push { event, ..call(2) };
            let refused = world.service.deliver(APP, &apple(2), &push).await;
            assert!(matches!(refused.verdict, Verdict::Refused { .. }), "{refused:?}");
            assert!(refused.elapsed < SECOND, "{refused:?}");
        }
        sleep(900 * SECOND).await;
        assert!(world.apns.requests() < 80, "{} requests in a quarter of an hour", world.apns.requests());
        let unfinished = waiting.iter().filter(|push| !push.is_finished()).count();
        assert_eq!(unfinished, if fcm_is_denied { 8 } else { 4 }, "{apns:?}");
        world.apns.answer_all(None);
        world.fcm.answer_all(None);
        let well = Instant::now();
        for push in waiting {
            assert_eq!(push.await.expect("no panic").verdict, Verdict::Accepted);
        }
        assert!(well.elapsed() < 200 * SECOND, "{:?}", well.elapsed());
        assert_eq!(world.apns.count(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_by_the_key_that_a_reload_names_and_what_is_never_put_right_is_refused() {
    let world = World::new();
    let another = rcgen::KeyPair::generate().expect("a P-256 key can be made").serialize_pem();
    let wrong = world.authority.write("wrong.p8", &another);
    let credentials = ApnsCredentials::Key { key_file: wrong, key_id: KEY_ID.into(), team_id: TEAM_ID.into() };
    world.service.become_like(&world.renewed(|app| app.apns.as_mut().expect("it is there").credentials = credentials));
    let waiting: Vec<_> = (1..=100).map(|number| world.write(apple(number), Event::Message)).collect();
    let gone = world.service.deliver(APP, &apple(200), &Push { event: Event::Message, call: None, ..call(200) }).await;
    assert_eq!(gone.verdict, Verdict::Refused { reason: "InvalidProviderToken" }, "with its time");
    sleep(1_000 * SECOND).await;
    assert_eq!(world.apns.count(), 0);
    let well = Instant::now();
    world.service.become_like(&world.renewed(|_| {}));
    for push in waiting {
        let delivery = push.await.expect("no panic");
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.attempts >= 2, "{delivery:?}");
    }
    assert!(well.elapsed() < 3 * SECOND, "{:?}", well.elapsed());
    assert_eq!(world.apns.count(), 100);
}
