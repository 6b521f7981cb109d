//! What a reload of the configuration keeps of the push services, and what is told of them meanwhile.

use std::sync::Arc;
use std::time::Duration;

use relay::config::ApnsCredentials;
use relay::metrics::Metric;
use relay::metrics::reading::Reading;
use relay::push::{AppPush, Event, Push, PushService, State, Verdict};
use tests::apns::{Answer, KEY_ID, TEAM_ID};
use tests::fcm::{self, Fcm};

use super::{APP, World, apple, apple_token, call, google, google_token};

impl World {
    /// What a reload would put in force.
    pub(super) fn renewed(&self, change: impl FnOnce(&mut AppPush)) -> PushService {
        let (apns, fcm) = (Some(self.apns.settings()), Some(self.fcm.settings()));
        let mut app = AppPush { apns, fcm, ..AppPush::default() };
        change(&mut app);
        let renewed = self.service.renewed(&[], Arc::new(self.net.clone()), vec![(APP.into(), app)], &self.metrics);
        renewed.expect("the settings are good")
    }

    async fn taken_by_apple(&self, number: u32) -> tests::apns::ReceivedPush {
        assert_eq!(self.ring(apple(number), number).await.verdict, Verdict::Accepted);
        self.apns.next_push(Duration::from_secs(1)).await.expect("it is there")
    }

    fn apns_is_up(&self) -> f64 {
        Reading::of(&self.metrics).value(Metric::PushServiceUp, &[("provider", "apns"), ("app", APP)])
    }

    fn apns_standing(&self) -> State {
        let reports = self.service.health();
        reports.iter().find(|report| report.service == "apns").expect("it is configured").state
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_without_a_change_keeps_tokens_connections_and_rests() {
    let world = World::new();
    let before = world.taken_by_apple(1).await;
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Accepted);
    world.fcm.answer_with(&google_token(2), [fcm::Answer::Unavailable { retry_after: Some(120) }]);
    let alert = |number| Push { event: Event::Message, call: None, ..call(number) };
    let tried = async |number| world.service.deliver(APP, &google(number), &alert(number)).await.verdict;
    assert!(matches!(tried(2).await, Verdict::Retry { .. }));
    for number in 3..6 {
        world.service.become_like(&world.renewed(|_| {}));
        let after = world.taken_by_apple(number).await;
        assert_eq!((after.provider_token, after.connection), (before.provider_token.clone(), before.connection));
        assert!(matches!(tried(number).await, Verdict::Retry { .. }), "it rests");
    }
    assert_eq!((world.fcm.requests(), world.fcm.token_requests()), (2, 1));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_its_token_as_long_as_it_is_the_same_wherever_it_lies() {
    let world = World::new();
    let before = world.taken_by_apple(1).await;
    let key_file = world.authority.write("the-same.p8", world.apns.p8_pem());
    let of_file =
        |key_file, key_id: &str| ApnsCredentials::Key { key_file, key_id: key_id.into(), team_id: TEAM_ID.into() };
    let moved = of_file(key_file.clone(), KEY_ID);
    world
        .service
        .become_like(&world.renewed(|app| app.apns.as_mut().expect("it is there").credentials = moved.clone()));
    let after = world.taken_by_apple(2).await;
    assert_eq!(after.provider_token, before.provider_token);
    assert_ne!(after.connection, before.connection, "what is made anew dials anew");
    // Another key behind the same name.
    let another = rcgen::KeyPair::generate().expect("a P-256 key can be made").serialize_pem();
    assert_eq!(world.authority.write("the-same.p8", &another), key_file);
    world.service.become_like(&world.renewed(|app| app.apns.as_mut().expect("it is there").credentials = moved));
    assert!(matches!(world.ring(apple(3), 3).await.verdict, Verdict::Refused { reason: "InvalidProviderToken" }));
    assert_eq!(world.apns.violations().len(), 1, "it is signed with the new one");
}

#[tokio::test(start_paused = true)]
async fn the_metric_of_a_failing_service_changes_only_with_what_is_in_force() {
    let world = World::new();
    assert_eq!(world.apns_is_up(), 1.0);
    world.apns.answer_with(&apple_token(1), [Answer::InvalidProviderToken]);
    world.ring(apple(1), 1).await;
    assert_eq!((world.apns_is_up(), world.apns_standing()), (0.0, State::Failing));
    let other_ca = world
        .authority
        .write("other-ca.pem", &std::fs::read_to_string(world.authority.ca_file()).expect("it is there"));
    let changed = |app: &mut AppPush| app.apns.as_mut().expect("it is there").ca_file = Some(other_ca.clone());
    // A reload that is refused after it was read, and one that changes nothing of it.
    drop(world.renewed(changed));
    assert_eq!(world.apns_is_up(), 0.0);
    world.service.become_like(&world.renewed(|app| app.fcm = None));
    assert_eq!((world.apns_is_up(), world.apns_standing()), (0.0, State::Failing));
    // What is made anew is not known to be away; what the earlier one meets is not told of it.
    let earlier = world.renewed(|_| {});
    world.service.become_like(&world.renewed(changed));
    assert_eq!((world.apns_is_up(), world.apns_standing()), (1.0, State::Unknown));
    world.apns.answer_with(&apple_token(2), [Answer::InvalidProviderToken]);
    earlier.deliver(APP, &apple(2), &super::call(2)).await;
    assert_eq!((world.apns_is_up(), world.apns_standing()), (1.0, State::Unknown));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_and_second_copies_go_by_the_services_of_a_reload_and_what_has_left_for_apns_does_not() {
    let world = World::new();
    let (apns, fcm, elsewhere) =
        (world.apns.settings(), world.fcm.settings(), Fcm::start_within(&world.net, &world.authority));
    // Nothing listens there.
    let away = |app: &mut AppPush| {
        app.apns.as_mut().expect("it is there").endpoint = Some("https://localhost:9".into());
        app.fcm.as_mut().expect("it is there").endpoint = Some("https://localhost:9".into());
    };
    world.service.become_like(&world.renewed(away));
    let ring = |target, number| {
        let service = world.service.clone();
        tokio::spawn(async move { service.deliver(APP, &target, &call(number)).await })
    };
    let waiting = [ring(apple(1), 1), ring(google(2), 2)];
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((world.apns.requests(), world.fcm.requests()), (0, 0));
    world.service.become_like(&world.renewed(|app| (app.apns, app.fcm) = (Some(apns), Some(fcm))));
    for delivery in waiting {
        let delivery = delivery.await.expect("no panic");
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.elapsed < Duration::from_secs(4) && delivery.attempts > 1, "{delivery:?}");
    }
    // The second copy of what may have been taken does, too.
    world.fcm.answer_with(&google_token(4), [fcm::Answer::Stall]);
    let moved = ring(google(4), 4);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = world.fcm.requests();
    world.service.become_like(&world.renewed(|app| app.fcm = Some(elsewhere.settings())));
    let delivery = moved.await.expect("no panic");
    assert_eq!((delivery.verdict, delivery.attempts, delivery.copies), (Verdict::Accepted, 2, 2));
    assert_eq!((world.fcm.requests() - before, elsewhere.count()), (0, 1));
    world.service.become_like(&world.renewed(|_| {}));
    // What has left waits for its answer.
    world.apns.answer_with(&apple_token(3), [Answer::Slow(Duration::from_secs(5))]);
    let under_way = ring(apple(3), 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.service.become_like(&world.renewed(away));
    assert_eq!(under_way.await.expect("no panic").verdict, Verdict::Accepted);
    world.assert_clean();
}
