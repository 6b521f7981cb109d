//! The connections to a push service: when one is asked, given up, replaced, and dialled.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use relay::push::{Event, Push, Verdict};
use tests::apns::Answer;
use tests::fcm;
use tests::virtual_net::Mood;
use tokio::time::{Instant, sleep, timeout};

use super::{APP, World, apple, apple_token, call, google, google_token};

const MS: Duration = Duration::from_millis(1);

fn accepted(deliveries: &[relay::push::Delivery]) -> usize {
    deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Accepted).count()
}

#[tokio::test(start_paused = true)]
async fn a_slow_service_keeps_its_connection_and_every_call() {
    for (answer, calls, gap) in [(3_500, 20, 10), (3_000, 200, 20), (2_500, 20, 10)] {
        let world = World::new();
        world.apns.answer_all(Some(Answer::Slow(answer * MS)));
        let deliveries = world.ring_each(gap * MS, 1, calls, apple).await.ended().await;
        assert_eq!(accepted(&deliveries), calls as usize, "answers after {answer} ms");
        // Nobody knows at first that it is slow for all, and not for one device.
        assert!(world.apns.connections() <= 3, "answers after {answer} ms: {}", world.apns.connections());
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_falls_silent_loses_what_it_had_and_no_later_call() {
    let world = World::new();
    let mut deliveries = world.ring_each(100 * MS, 1, 10, apple).await.ended().await;
    world.apns.freeze();
    deliveries.extend(world.ring_each(100 * MS, 11, 50, apple).await.ended().await);
    let lost = deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Unconfirmed).count();
    assert!(lost <= 3, "of 10 calls a second, those within the first quarter: {lost}");
    assert_eq!(accepted(&deliveries) + lost, 60);
    assert_eq!(world.apns.connections(), 2);
    let slowest = deliveries.iter().filter(|it| it.verdict == Verdict::Accepted).map(|it| it.elapsed).max().unwrap();
    assert!(slowest < 1_000 * MS, "what was held went on in time: {slowest:?}");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_asked_before_a_call_goes_over_it() {
    for idle in [3, 25, 400] {
        let world = World::new();
        assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
        sleep(Duration::from_secs(idle)).await;
        assert_eq!(world.apns.connections(), 1, "an idle connection is kept");
        world.apns.freeze();
        let delivery = world.ring(apple(2), 2).await;
        assert_eq!((delivery.verdict, world.apns.connections()), (Verdict::Accepted, 2), "after {idle} s");
        assert!(delivery.elapsed < 1_000 * MS, "{:?}", delivery.elapsed);
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_of_fcm_leaves_a_silent_connection_for_its_second_copy() {
    let world = World::new();
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Accepted);
    world.fcm.freeze();
    let delivery = world.ring(google(2), 2).await;
    assert_eq!((delivery.verdict, delivery.copies), (Verdict::Accepted, 2));
    assert!(delivery.elapsed < 2_000 * MS, "{:?}", delivery.elapsed);
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_pings_and_no_request_gets_no_further_calls() {
    let world = World::new();
    let mut deliveries = world.ring_each(100 * MS, 1, 10, apple).await.ended().await;
    world.apns.answer_on(1, Answer::Stall);
    deliveries.extend(world.ring_each(100 * MS, 11, 50, apple).await.ended().await);
    let lost = deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Unconfirmed).count();
    assert!(lost <= 21, "of 10 calls a second, those within two seconds: {lost}");
    assert_eq!((accepted(&deliveries) + lost, world.apns.connections()), (60, 2));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn calls_that_end_soon_find_out_together_that_a_connection_answers_nothing() {
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.answer_on(1, Answer::Stall);
    let mut ended = 0;
    while timeout(700 * MS, world.ring(apple(2), 2)).await.is_err() {
        ended += 1;
        assert!(ended < 20, "each goes the same way");
        // While nobody waits, nothing is counted.
        sleep(400 * MS).await;
    }
    assert_eq!((ended, world.apns.connections()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn one_request_without_an_answer_among_others_is_no_fault_of_the_connection() {
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.answer_with(&apple_token(1_000), [Answer::Stall]);
    let stalled = world.ring_each(MS, 1_000, 1, apple).await;
    let deliveries = world.ring_each(500 * MS, 2, 40, apple).await.ended().await;
    assert_eq!((accepted(&deliveries), world.apns.connections()), (40, 1));
    assert_eq!(stalled.ended().await[0].verdict, Verdict::Unconfirmed);
    // Nor when its time ends long after the last of them.
    sleep(10_000 * MS).await;
    assert_eq!(world.ring(apple(100), 100).await.verdict, Verdict::Accepted);
    assert_eq!(world.apns.connections(), 1);
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn callers_who_give_up_before_a_slow_answer_do_not_add_up_for_ever() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::Slow(400 * MS)));
    for number in 0..40 {
        assert!(timeout(350 * MS, world.ring(apple(number), number)).await.is_err());
        sleep(20_000 * MS).await;
    }
    assert_eq!(world.apns.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_slow_is_remembered_as_slow() {
    let world = World::new();
    for number in 0..100 {
        world.apns.answer_with(&apple_token(number), [Answer::Slow((2_100 + number % 10 * 90) * MS)]);
        assert_eq!(world.ring(apple(number), number).await.verdict, Verdict::Accepted);
        sleep(8_000 * MS).await;
    }
    assert!(world.apns.connections() <= 2, "{}", world.apns.connections());
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_makes_no_fresh_connection_impatient() {
    let world = World::new();
    world.apns.answer_with(&apple_token(1), [Answer::Slow(300 * MS)]);
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.answer_all(Some(Answer::Stall));
    let deliveries = world.ring_each(500 * MS, 2, 80, apple).await.ended().await;
    assert_eq!(accepted(&deliveries), 0);
    assert!(world.apns.connections() <= 9, "{}", world.apns.connections());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_fcm_leaves_a_connection_that_answers_nothing_for_its_second_copy() {
    let world = World::new();
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Accepted);
    world.fcm.answer_on(1, fcm::Answer::Stall);
    world.fcm.answer_on(2, fcm::Answer::Stall);
    let deliveries = world.ring_each(500 * MS, 2, 20, google).await.ended().await;
    assert_eq!(accepted(&deliveries), 20);
    assert!(deliveries.iter().all(|delivery| delivery.elapsed < 6_000 * MS), "{deliveries:?}");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_by_a_silent_connection_is_taken_back_once_nobody_waits_for_it() {
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.freeze();
    let (first, second) = (world.ring(apple(2), 2), timeout(5_000 * MS, world.ring(apple(3), 3)));
    let first = timeout(100 * MS, first);
    assert!(tokio::join!(first, second).1.is_err(), "both have ended");
    sleep(MS).await;
    assert_eq!(world.net.withdrawn(), 1);
    assert_eq!(world.apns.count(), 1);
    // Also of a call that ended before anybody could know.
    for ended_after in [1, 100, 200, 240, 260] {
        let world = World::new();
        assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
        world.apns.freeze();
        assert!(timeout(ended_after * MS, world.ring(apple(2), 2)).await.is_err());
        sleep(2_000 * MS).await;
        assert_eq!(world.net.withdrawn(), 1, "{ended_after} ms");
    }
    // While somebody waits it may be answered.
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.freeze();
    let waiting = world.ring_each(MS, 2, 1, apple).await;
    assert!(timeout(100 * MS, world.ring(apple(3), 3)).await.is_err());
    sleep(20_000 * MS).await;
    assert_eq!(world.net.withdrawn(), 0);
    assert_eq!(waiting.ended().await[0].verdict, Verdict::Unconfirmed);
    sleep(MS).await;
    assert_eq!(world.net.withdrawn(), 1);
    // Or it may arrive, of a push that is sent twice.
    let world = World::new();
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Accepted);
    world.fcm.freeze();
    world.fcm.answer_all(Some(fcm::Answer::Stall));
    let waiting = world.ring_each(MS, 2, 1, google).await;
    sleep(20_000 * MS).await;
    assert_eq!(world.net.withdrawn(), 0);
    assert_eq!(waiting.ended().await[0].verdict, Verdict::Unconfirmed);
    sleep(MS).await;
    assert_eq!(world.net.withdrawn(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_alert_keeps_no_push_of_a_call_that_has_ended_on_its_way_by_a_silent_connection() {
    for target in [apple, google] {
        let world = World::new();
        assert_eq!(world.ring(target(1), 1).await.verdict, Verdict::Accepted);
        // It goes on for as long as it is worth anything.
        let busy = || Answer::Unavailable { retry_after: None };
        world.apns.answer_with(&apple_token(2), std::iter::repeat_n(busy(), 1_000));
        let busy = || fcm::Answer::Unavailable { retry_after: None };
        world.fcm.answer_with(&google_token(2), std::iter::repeat_n(busy(), 1_000));
        world.apns.freeze();
        world.fcm.freeze();
        let service = world.service.clone();
        let alert = Push { event: Event::Message, deadline: call(2).deadline + 3_600, ..call(2) };
        let alert = tokio::spawn(async move { service.deliver(APP, &target(2), &alert).await });
        sleep(MS).await;
        assert!(timeout(600 * MS, world.ring(target(3), 3)).await.is_err());
        sleep(1_000 * MS).await;
        assert_eq!(world.net.withdrawn(), 1);
        assert!(!alert.is_finished(), "it is tried on");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_begun_to_leave_by_a_connection_that_falls_silent_goes_by_another() {
    for target in [apple, google] {
        let world = World::new();
        assert_eq!(world.ring(target(1), 1).await.verdict, Verdict::Accepted);
        world.apns.freeze();
        world.fcm.freeze();
        // Before the connection is asked, from when on whoever comes waits.
        let deliveries = world.ring_each(Duration::ZERO, 2, 700, target).await.ended().await;
        // What the system has room for, and TLS: it is on its way.
        let lost = deliveries.iter().filter(|it| it.verdict == Verdict::Unconfirmed || it.copies == 2).count();
        assert!(lost <= 350, "{lost} of 700");
        let moved: Vec<_> = deliveries.iter().filter(|it| it.verdict == Verdict::Accepted && it.copies == 1).collect();
        assert_eq!(moved.len() + lost, 700);
        let slowest = moved.iter().map(|delivery| delivery.elapsed).max().expect("there are some");
        assert!(slowest < 2_500 * MS, "{slowest:?}");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_sticks_to_a_connection_is_left_with_it() {
    let sticky = |status: u16, reason: &str| Answer::Http {
        status,
        headers: Vec::new(),
        body: format!("{{\"reason\":\"{reason}\"}}"),
    };
    for (status, reason) in [
        (500, "InternalServerError"),
        (502, ""),
        (503, "ServiceUnavailable"),
        (503, "Shutdown"),
        (400, "IdleTimeout"),
        (421, ""),
        (408, ""),
    ] {
        let world = World::new();
        world.apns.answer_on(1, sticky(status, reason));
        let delivery = world.ring(apple(1), 1).await;
        assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2), "{status} {reason}");
        assert_eq!(world.apns.connections(), 2, "{status} {reason}");
        assert!(delivery.elapsed < 500 * MS, "{:?}", delivery.elapsed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_serves_is_kept_over_a_single_fault_and_replaced_by_the_way_when_it_sticks() {
    let world = World::new();
    let warm = world.ring_each(10 * MS, 1, 200, apple).await.ended().await;
    assert_eq!(accepted(&warm), 200);
    world.apns.answer_on(1, Answer::ServerError);
    let deliveries = world.ring_each(10 * MS, 201, 200, apple).await.ended().await;
    assert_eq!(accepted(&deliveries), 200);
    assert_eq!(world.apns.connections(), 2);
    assert!(deliveries.iter().all(|delivery| delivery.attempts <= 3), "within three tries");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_device_that_gets_nothing_but_errors_costs_the_connection_of_all_three_times_a_minute_at_most() {
    let world = World::new();
    assert_eq!(accepted(&world.ring_each(10 * MS, 10, 20, apple).await.ended().await), 20);
    world.apns.answer_with(&apple_token(1), std::iter::repeat_n(Answer::ServerError, 1_000));
    let odd: Vec<_> = (0..2)
        .map(|number| {
            let service = world.service.clone();
            tokio::spawn(async move { service.deliver(APP, &apple(1), &call(number)).await })
        })
        .collect();
    let others = world.ring_each(100 * MS, 100, 250, apple).await.ended().await;
    assert_eq!(accepted(&others), 250);
    for odd in odd {
        assert_ne!(odd.await.expect("no panic").verdict, Verdict::Accepted);
    }
    assert!(world.apns.connections() <= 4, "{} connections", world.apns.connections());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_alone_leaves_each_sick_host_of_a_service_until_it_finds_a_well_one() {
    let world = World::new();
    for (alone, answers) in [(apple as fn(u32) -> _, true), (google, false)] {
        assert_eq!(world.ring(alone(1), 1).await.verdict, Verdict::Accepted);
        sleep(Duration::from_secs(3_600)).await;
        for connection in 1..=6 {
            if answers {
                world.apns.answer_on(connection, Answer::ServerError);
            } else {
                world.fcm.answer_on(connection, fcm::Answer::Internal);
            }
        }
        let delivery = world.ring(alone(2), 2).await;
        assert_eq!(delivery.verdict, Verdict::Accepted, "{delivery:?}");
    }
    assert_eq!((world.apns.connections(), world.fcm.connections()), (7, 7));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_ends_each_connection_after_one_push_is_not_dialled_for_each() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::AcceptAndGoAway));
    let deliveries = world.ring_each(20 * MS, 1, 600, apple).await.ended().await;
    let (taken, dialled) = (accepted(&deliveries), world.apns.connections());
    assert!(dialled <= 180, "{dialled} connections for 600 calls");
    assert!(taken >= 100 && taken + 5 >= dialled, "{taken} calls by {dialled} connections");
    // It is well again: one connection for all, and no pause any more.
    world.apns.answer_all(None);
    let first = world.ring(apple(1_000), 1_000).await;
    assert!(first.elapsed < 1_000 * MS, "{:?}", first.elapsed);
    let later = world.ring_each(20 * MS, 1_001, 100, apple).await.ended().await;
    assert_eq!((accepted(&later), world.apns.connections()), (100, dialled + 1));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn calls_are_hardly_late_where_each_push_ends_its_connection_for_a_while() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::AcceptAndGoAway));
    let deliveries = world.ring_each(100 * MS, 1, 40, apple).await.ended().await;
    assert_eq!((accepted(&deliveries), world.apns.connections()), (40, 40));
    let slowest = deliveries.iter().map(|delivery| delivery.elapsed).max().expect("there are some");
    assert!(slowest < 3_000 * MS, "{slowest:?}");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn no_call_is_left_untried_where_each_connection_is_cut_with_its_push() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::ConnectionLost));
    let deliveries = world.ring_each(100 * MS, 1, 40, apple).await.ended().await;
    assert!(deliveries.iter().all(|delivery| delivery.verdict == Verdict::Unconfirmed), "{deliveries:?}");
    assert_eq!((world.apns.count(), world.apns.requests(), world.apns.connections()), (40, 40, 40), "once each");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_mute_service_is_given_few_connections() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::Freeze));
    let deliveries = world.ring_each(100 * MS, 1, 50, apple).await.ended().await;
    assert_eq!(accepted(&deliveries), 0);
    assert!(world.apns.connections() <= 14, "{}", world.apns.connections());
    world.apns.answer_all(None);
    // The last one has been found silent, too.
    sleep(2_000 * MS).await;
    assert_eq!(world.ring(apple(100), 100).await.verdict, Verdict::Accepted);
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn dialling_races_whole_handshakes_over_the_addresses() {
    let address = |last| IpAddr::V4(Ipv4Addr::new(192, 0, 2, last));
    for bad in [Mood::Mute, Mood::MuteAfterConnect, Mood::Refuses] {
        let world = World::new();
        world.net.place(world.apns.port(), &[(address(1), bad), (address(2), bad), (address(3), Mood::Serves)]);
        let delivery = world.ring(apple(1), 1).await;
        assert_eq!(delivery.verdict, Verdict::Accepted, "{bad:?}");
        assert!(delivery.elapsed < 600 * MS, "{bad:?}: {:?}", delivery.elapsed);
        // The next dial begins with the address that was well.
        world.apns.drain();
        sleep(50 * MS).await;
        let delivery = world.ring(apple(2), 2).await;
        assert!(delivery.elapsed < 20 * MS || bad == Mood::Refuses, "{bad:?}: {:?}", delivery.elapsed);
        assert_eq!(world.apns.connections(), 2, "{bad:?}");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_is_away_does_not_matter_once_the_service_was_found() {
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.net.resolver_is_away(true);
    world.apns.drain();
    sleep(50 * MS).await;
    let delivery = world.ring(apple(2), 2).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < 1_500 * MS, "{:?}", delivery.elapsed);
}

#[tokio::test(start_paused = true)]
async fn no_more_streams_are_opened_than_the_service_allows() {
    let world = World::new();
    world.apns.allow_streams(1);
    world.apns.answer_all(Some(Answer::Slow(100 * MS)));
    let began = Instant::now();
    let deliveries = world.ring_each(MS, 1, 50, apple).await.ended().await;
    assert!(accepted(&deliveries) == 50 && world.apns.connections() <= 4, "{}", world.apns.connections());
    assert!(began.elapsed() >= 1_250 * MS, "one after the other on each: {:?}", began.elapsed());
    // Those that wait for a stream have left nothing behind when the connection is lost.
    world.apns.answer_with(&apple_token(100), [Answer::ConnectionLost]);
    let deliveries = world.ring_each(MS, 100, 20, apple).await.ended().await;
    let lost = deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Unconfirmed).count();
    assert_eq!((lost, accepted(&deliveries)), (1, 19));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_slow_message_service_gets_two_copies() {
    let world = World::new();
    world.fcm.answer_all(Some(fcm::Answer::Slow(6_000 * MS)));
    let delivery = world.ring(google(1), 1).await;
    assert_eq!((delivery.verdict, delivery.copies, world.fcm.requests()), (Verdict::Accepted, 2, 2));
    assert_eq!(world.fcm.connections(), 3, "one for each, one for the token endpoint");
}

#[tokio::test(start_paused = true)]
async fn calls_that_find_all_streams_of_a_slow_service_taken_have_spare_connections_which_are_let_go_later() {
    let world = World::new();
    world.apns.allow_streams(10);
    world.fcm.allow_streams(10);
    world.apns.answer_all(Some(Answer::Slow(1_000 * MS)));
    world.fcm.answer_all(Some(fcm::Answer::Slow(1_000 * MS)));
    // Twenty streams are needed.
    let (one, other) = tokio::join!(world.ring_each(50 * MS, 1, 200, apple), world.ring_each(50 * MS, 1, 200, google));
    for (service, deliveries) in [("apns", one.ended().await), ("fcm", other.ended().await)] {
        assert_eq!(accepted(&deliveries), 200, "{service}");
        let slowest = deliveries.iter().skip(100).map(|delivery| delivery.elapsed).max().unwrap();
        assert!(slowest < 2_500 * MS, "{service}: {slowest:?}");
    }
    let connections = (world.apns.connections(), world.fcm.connections());
    assert!((2..=4).contains(&connections.0) && (2..=4).contains(&connections.1), "{connections:?}");
    // A service that has streams left gets no more connections, and a second burst finds those of the first let go.
    sleep(Duration::from_secs(120)).await;
    world.ring_each(200 * MS, 201, 20, apple).await.ended().await;
    assert_eq!(world.apns.connections(), connections.0);
    world.ring_each(50 * MS, 301, 100, apple).await.ended().await;
    assert!(world.apns.connections() > connections.0);
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_on_a_spare_connection_keeps_no_other_from_having_the_next_one() {
    let world = World::new();
    world.apns.allow_streams(1);
    world.apns.answer_all(Some(Answer::Slow(6_000 * MS)));
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    // One by the connection for all, one by a spare one that is not proven, and two that wait.
    let deliveries = world.ring_each(10 * MS, 2, 4, apple).await.ended().await;
    let elapsed: Vec<_> = deliveries.iter().map(|delivery| delivery.elapsed.as_secs()).collect();
    assert_eq!((accepted(&deliveries), elapsed), (4, vec![6, 6, 7, 9]));
    assert_eq!(world.apns.connections(), 4);
    world.assert_clean();
}
