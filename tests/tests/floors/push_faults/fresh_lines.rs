//! The first pushes on a fresh connection to APNs: one that is not answered, and a connection that is cut.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relay::push::{Delivery, Event, Push, Verdict};
use tests::apns::Answer;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{APP, RING, World, apple, apple_token, call, google};

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
async fn one_call_at_most_is_spent_on_connections_that_begin_to_speak_and_then_fall_silent() {
    // SETTINGS without a parameter, and the acknowledgement of the relay's.
    const SAID: [u8; 18] = [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
    for (octets, lost) in [(1, 0), (8, 0), (9, 1), (18, 1)] {
        for connections in [3, 5] {
            let world = World::new();
            let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
            world.net.intercept(world.apns.port(), connections, move |stream| {
                let tls = tls.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = tls.accept(stream).await else { return };
                    drop(stream.write_all(&SAID[..octets]).await);
                    drop(stream.flush().await);
                    std::future::pending::<()>().await;
                });
            });
            let deliveries = world.ring_each(500 * MS, 1, 18, apple).await.ended().await;
            assert_eq!(accepted(&deliveries), 18 - lost, "{octets} {connections}: {deliveries:?}");
            world.assert_clean();
        }
    }
}

/// Serves HTTP/2 to a client that sends small requests with bodies: takes `most` of them, and then ends the connection with GOAWAY. What it has taken.
async fn take_few(mut stream: impl AsyncRead + AsyncWrite + Unpin, most: usize) -> io::Result<Vec<Vec<u8>>> {
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await?;
    stream.flush().await?;
    let mut taken = Vec::new();
    while taken.len() < most {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [_, high, low, kind, flags, id @ ..] = head;
        let mut body = vec![0; usize::from(high) << 8 | usize::from(low)];
        stream.read_exact(&mut body).await?;
        if kind == DATA && flags & END_STREAM > 0 {
            taken.push(body);
            // HEADERS: status 200, and no more (RFC 7541 §6.1).
            let answer = [&[0, 0, 1, 1, 5][..], &id, &[0x88]].concat();
            stream.write_all(&answer).await?;
            if taken.len() == most {
                stream.write_all(&[&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &id, &[0; 4]].concat()).await?;
            }
            stream.flush().await?;
        }
    }
    stream.shutdown().await?;
    Ok(taken)
}

#[tokio::test(start_paused = true)]
async fn calls_come_first_where_a_service_takes_few_requests_by_each_connection() {
    let world = World::new();
    let tls = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
    let order = Arc::new(Mutex::new(Vec::new()));
    let taken = Arc::clone(&order);
    world.net.intercept(world.apns.port(), 1_000, move |stream| {
        let (tls, taken) = (tls.clone(), Arc::clone(&taken));
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            let bodies = take_few(stream, 5).await.unwrap_or_default();
            let is_call = |body: &Vec<u8>| String::from_utf8_lossy(body).contains("\"event\":\"call\"");
            taken.lock().expect("no panic").extend(bodies.iter().map(is_call));
        });
    });
    let deliver = |number, event| {
        let (service, push) = (world.service.clone(), Push { event, ..call(number) });
        tokio::spawn(async move { service.deliver(APP, &apple(number), &push).await })
    };
    let alerts: Vec<_> = (1..=20).map(|number| deliver(number, Event::MissedCall)).collect();
    let calls: Vec<_> = (101..=120).map(|number| deliver(number, Event::Call)).collect();
    for delivery in calls.into_iter().chain(alerts) {
        assert_eq!(delivery.await.expect("no panic").verdict, Verdict::Accepted);
    }
    let order = order.lock().expect("no panic").clone();
    assert!(order[..20].iter().all(|is_call| *is_call) && !order[20..].contains(&true), "{order:?}");
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
