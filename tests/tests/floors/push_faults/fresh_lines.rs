//! The first pushes on a fresh connection to APNs: one that is not answered, and a connection that is cut.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relay::push::{Delivery, Verdict};
use tests::apns::Answer;
use tokio::io::AsyncWriteExt as _;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{RING, World, apple, apple_token, google};

const MS: Duration = Duration::from_millis(1);

fn accepted(deliveries: &[Delivery]) -> usize {
    deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Accepted).count()
}

fn slowest(deliveries: &[Delivery]) -> Duration {
    deliveries.iter().map(|delivery| delivery.elapsed).max().expect("there are some")
}

#[tokio::test(start_paused = true)]
async fn a_device_whose_push_goes_unanswered_on_a_fresh_connection_holds_the_calls_of_others_up_for_two_seconds() {
    for (stalled, after_goaway) in [(1, false), (1, true), (2, false), (2, true)] {
        let world = World::new();
        if after_goaway {
            assert_eq!(world.ring(apple(100), 100).await.verdict, Verdict::Accepted);
            world.apns.drain();
            sleep(10 * MS).await;
        }
        let before = world.apns.connections();
        for number in 1_000..1_000 + stalled {
            world.apns.answer_with(&apple_token(number), [Answer::Stall]);
        }
        let held = world.ring_each(MS, 1_000, stalled, apple).await;
        let deliveries = world.ring_each(300 * MS, 1, 40, apple).await.ended().await;
        assert_eq!(accepted(&deliveries), 40, "{stalled} {after_goaway}");
        assert!(slowest(&deliveries) < stalled * 1_600 * MS, "{stalled}: {:?}", slowest(&deliveries));
        assert!(world.apns.connections() - before <= 1 + stalled as usize, "{stalled}: {}", world.apns.connections());
        // What the further connections showed to be well is used on.
        assert_eq!(world.ring(apple(200), 200).await.elapsed / 100, Duration::ZERO);
        assert!(held.ended().await.iter().all(|delivery| delivery.verdict == Verdict::Unconfirmed), "sent once");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_answers_nothing_gets_two_further_connections_and_no_more_until_it_answers() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::Stall));
    let calls = world.ring_each(100 * MS, 1, 130, apple).await;
    assert_eq!((world.apns.connections(), world.apns.call_requests()), (3, 3), "in 13 s");
    world.apns.answer_all(None);
    let later = world.ring_each(100 * MS, 200, 30, apple).await.ended().await;
    let (later, earlier) = (accepted(&later), accepted(&calls.ended().await));
    assert_eq!((later, earlier), (30, 127), "all but those that it took and did not answer");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn no_call_is_spent_on_a_connection_that_ends_before_the_service_has_said_anything_in_it() {
    // SETTINGS without a parameter, and the connection's end behind it (RFC 9113 §6.5).
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (says, lost) in [(&[][..], 0), (&SETTINGS[..], 1)] {
        let world = World::new();
        let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
        world.net.intercept(world.apns.port(), 5, move |stream| {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = tls.accept(stream).await else { return };
                drop(stream.write_all(says).await);
                drop(stream.flush().await);
                sleep(20 * MS).await;
                drop(stream.shutdown().await);
            });
        });
        let deliveries = world.ring_each(500 * MS, 1, 6, apple).await.ended().await;
        assert_eq!(accepted(&deliveries), 6 - lost, "{deliveries:?}");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_silent_at_first_gets_its_push_when_it_speaks_or_by_another_connection_two_seconds_later() {
    for silent_for in [500, 3_000] {
        let world = World::new();
        let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
        world.net.intercept(world.apns.port(), 1, move |stream| {
            let tls = tls.clone();
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                sleep(silent_for * MS).await;
                let Ok(mut served) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = served.accept().await {
                    let answer = hyper::Response::builder().status(200).body(()).expect("a status");
                    drop(respond.send_response(answer, true));
                }
            });
        });
        let delivery = world.ring(apple(1), 1).await;
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.elapsed < (silent_for.min(2_000) + 100) * MS, "{silent_for}: {delivery:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_and_one_that_is_cut_keep_no_call_from_the_third_that_is_well() {
    for (hangs_again, most) in [(false, 4_100), (true, 6_100)] {
        let world = World::new();
        let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
        let came = AtomicUsize::new(0);
        world.net.intercept(world.apns.port(), 2 + usize::from(hangs_again), move |stream| {
            if came.fetch_add(1, Ordering::Relaxed) == 1 {
                return drop(stream);
            }
            let tls = tls.clone();
            tokio::spawn(async move {
                let _hangs = tls.accept(stream).await;
                std::future::pending::<()>().await;
            });
        });
        let delivery = world.ring(apple(1), 1).await;
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.elapsed < most * MS, "{delivery:?}");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_that_a_mute_service_keeps_from_leaving_ends_right_before_its_call() {
    for target in [apple, google] {
        let world = World::new();
        let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
        let port = if target(1).provider.is_apple() { world.apns.port() } else { world.fcm.port() };
        world.net.intercept(port, 1_000, move |stream| {
            let tls = tls.clone();
            tokio::spawn(async move {
                let _hangs = tls.accept(stream).await;
                std::future::pending::<()>().await;
            });
        });
        let delivery = world.ring(target(1), 1).await;
        assert_eq!(delivery.verdict, Verdict::Retry { after: None });
        let left = Duration::from_secs(RING).saturating_sub(delivery.elapsed);
        assert!(left > 50 * MS && left < 1_100 * MS, "{delivery:?}");
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_is_spent_on_connections_that_never_say_anything_and_the_first_that_speaks_is_used_two_seconds_later() {
    for target in [apple, google] {
        let world = World::new();
        let port = if target(1).provider.is_apple() { world.apns.port() } else { world.fcm.port() };
        // The access token, and what a service was before it hung.
        assert_eq!(world.ring(target(1), 1).await.verdict, Verdict::Accepted);
        let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
        world.net.intercept(port, 3, move |stream| {
            let tls = tls.clone();
            tokio::spawn(async move {
                let _hangs = tls.accept(stream).await;
                std::future::pending::<()>().await;
            });
        });
        world.apns.drain();
        world.fcm.drain();
        sleep(10 * MS).await;
        let deliveries = world.ring_each(500 * MS, 100, 16, target).await.ended().await;
        assert_eq!(accepted(&deliveries), 16, "{deliveries:?}");
        assert!(deliveries.iter().all(|it| it.attempts == 1 && it.copies == 1), "{deliveries:?}");
        assert!(slowest(&deliveries) < 6_500 * MS, "three hang, and a further one begins each 2 s: {deliveries:?}");
        world.assert_clean();
    }
}
