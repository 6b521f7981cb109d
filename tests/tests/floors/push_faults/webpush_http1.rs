//! Web Push services that speak HTTP/1.1 alone.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use relay::metrics::Metrics;
use relay::push::{AppPush, Departure, Fixed, PushService, Verdict};
use relay::secret::PushToken;
use relay::vault::record::PushTarget;
use tests::authority::Authority;
use tests::push_services::system;
use tests::virtual_net::{Mood, VirtualNet};
use tests::webpush::WebPush;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::webpush::{Web, alert, lone};
use super::{APP, call};

#[tokio::test]
async fn a_service_that_speaks_http_1_alone_gets_its_pushes_too() {
    let authority = Authority::new();
    let answers = [201, 410];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let tls = TlsAcceptor::from(authority.server_config(&["localhost"], &[b"http/1.1"]));
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(tcp).await else { continue };
            let mut request = Vec::new();
            let length = loop {
                let mut buffer = [0; 8_192];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let head = String::from_utf8_lossy(&request).into_owned();
                if let Some((head, _)) = head.split_once("\r\n\r\n") {
                    noted.lock().expect("no panic").push(head.to_owned());
                    break head.len() + 4;
                }
                if read == 0 {
                    break 0;
                }
            };
            if length == 0 {
                // A connection that was only looked at.
                continue;
            }
            let status = answers[counted.fetch_add(1, Ordering::Relaxed) % 2];
            let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let push_server = WebPush::start(&authority).await;
    let app = AppPush { webpush: Some(push_server.settings()), ..AppPush::default() };
    let service = PushService::new(system(), vec![(APP.into(), app)], &Metrics::new()).expect("the settings are good");
    let target = PushTarget {
        token: PushToken::new(&format!("https://localhost:{port}/up?id=7")),
        ..push_server.subscribe().push_target()
    };
    assert_eq!(service.deliver(APP, &target, &call(1)).await.verdict, Verdict::Accepted);
    assert_eq!(service.deliver(APP, &target, &alert()).await.verdict, Verdict::Gone { since: None });
    assert_eq!(served.load(Ordering::Relaxed), 2);
    let heads = heads.lock().expect("no panic").join("\n");
    for says in [
        "POST /up?id=7 HTTP/1.1",
        "ttl: 0",
        "urgency: high",
        "authorization: vapid t=",
        &format!("host: localhost:{port}"),
    ] {
        assert!(heads.contains(says), "{says}: {heads}");
    }
    serving.abort();
}

/// A service in the network that speaks HTTP/1.1 alone and answers this to each request; nothing is closed.
fn listens_by_http1(net: &VirtualNet, authority: &Authority, port: u16, answer: &'static [u8]) -> Arc<AtomicUsize> {
    let tls = TlsAcceptor::from(authority.server_config(&["localhost"], &[b"http/1.1"]));
    let served = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&served);
    net.listen(port, move |stream| {
        let (tls, counted) = (tls.clone(), Arc::clone(&counted));
        tokio::spawn(async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            let mut buffer = [0; 16_384];
            if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                counted.fetch_add(1, Ordering::Relaxed);
                drop(stream.write_all(answer).await);
                drop(stream.flush().await);
                std::future::pending::<()>().await;
            }
        });
    });
    served
}

#[tokio::test(start_paused = true)]
async fn a_service_that_speaks_http_1_alone_is_found_behind_addresses_that_are_dead() {
    let authority = Authority::new();
    let address = |last| [203, 0, 114, last].into();
    for dead in [Mood::Mute, Mood::MuteAfterConnect, Mood::Refuses] {
        let web = Web::new(&authority);
        let served = listens_by_http1(&web.net, &authority, 8443, b"HTTP/1.1 201 x\r\ncontent-length: 0\r\n\r\n");
        for places in [[dead, dead, Mood::Serves], [Mood::Serves, dead, dead], [dead, Mood::Serves, dead]] {
            let places: Vec<_> = (1..).map(address).zip(places).collect();
            web.net.place(8443, &places);
            let token = PushToken::new("https://localhost:8443/x");
            let target = PushTarget { token, ..web.server.subscribe().push_target() };
            let delivery = web.service.deliver(APP, &target, &call(1)).await;
            assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1), "{places:?}");
            assert!(delivery.elapsed < Duration::from_secs(2), "{places:?}: {:?}", delivery.elapsed);
        }
        assert_eq!(served.load(Ordering::Relaxed), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_by_http_1_counts_although_its_body_has_no_end() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let served = listens_by_http1(&web.net, &authority, 8443, b"HTTP/1.1 201 x\r\n\r\nno end");
    web.net.place(8443, &[([203, 0, 114, 1].into(), Mood::Serves)]);
    let token = PushToken::new("https://localhost:8443/x");
    let target = PushTarget { token, ..web.server.subscribe().push_target() };
    for push in [call(1), alert()] {
        let delivery = web.service.deliver(APP, &target, &push).await;
        assert_eq!((delivery.verdict, delivery.copies), (Verdict::Accepted, 1));
        assert!(delivery.elapsed < Duration::from_secs(4), "{:?}", delivery.elapsed);
    }
    assert_eq!(served.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_push_by_http_1_that_has_left_may_have_been_taken_until_it_is_answered() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let served = listens_by_http1(&web.net, &authority, 8443, b"");
    web.net.place(8443, &[([203, 0, 114, 1].into(), Mood::Serves)]);
    let token = PushToken::new("https://localhost:8443/x");
    let target = PushTarget { token, ..web.server.subscribe().push_target() };
    let (departure, push, until) = (Departure::unmeasured(), call(1), relay::clock::now() + Duration::from_secs(30));
    let mut sending = pin!(web.service.deliver_measured(APP, &target, &push, until, &departure, &Fixed));
    while served.load(Ordering::Relaxed) == 0 {
        let pause = tokio::time::sleep(Duration::from_millis(10));
        tokio::select! {
            ended = &mut sending => panic!("no answer comes: {ended:?}"),
            () = pause => {}
        }
    }
    assert!(departure.recall().ask(), "its answer is waited for");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_by_http_1_keeps_few_connections() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let served = listens_by_http1(&web.net, &authority, 8443, b"");
    web.net.place(8443, &[([203, 0, 114, 1].into(), Mood::Serves)]);
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let token = PushToken::new(&format!("https://localhost:8443/{number}"));
            let target = PushTarget { token, ..web.server.subscribe().push_target() };
            let service = web.service.clone();
            tokio::spawn(async move { service.deliver(APP, &target, &call(number)).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!((1..=8).contains(&served.load(Ordering::Relaxed)), "{served:?}");
    let honest = web.service.deliver(APP, &web.server.subscribe().push_target(), &call(200)).await;
    assert!(honest.verdict == Verdict::Accepted && honest.elapsed < Duration::from_secs(1), "{honest:?}");
    for call in calls {
        assert_ne!(call.await.expect("no panic").verdict, Verdict::Accepted);
    }
}

#[tokio::test]
async fn a_service_that_comes_to_speak_http_2_alone_gets_its_pushes_at_once() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (service, target) = lone(&authority, listener.local_addr().expect("an address").port()).await;
    let accepting = |protocol: &'static [u8]| TlsAcceptor::from(authority.server_config(&["localhost"], &[protocol]));
    let (old, new) = (accepting(b"http/1.1"), accepting(b"h2"));
    let changed = Arc::new(AtomicBool::new(false));
    let is_new = Arc::clone(&changed);
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if is_new.load(Ordering::Relaxed) {
                let Ok(stream) = new.accept(tcp).await else { continue };
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let answer = hyper::Response::builder().status(201).body(()).expect("an answer");
                        drop(respond.send_response(answer, true));
                    }
                });
                continue;
            }
            let Ok(mut stream) = old.accept(tcp).await else { continue };
            let mut request = vec![0; 16_384];
            if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                let _ = stream.write_all(b"HTTP/1.1 201 x\r\ncontent-length: 0\r\n\r\n").await;
            }
            let _ = stream.shutdown().await;
        }
    });
    assert_eq!(service.deliver(APP, &target, &call(1)).await.verdict, Verdict::Accepted);
    changed.store(true, Ordering::Relaxed);
    let delivery = service.deliver(APP, &target, &call(2)).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    // It is not asked for HTTP/2 again within a tenth of a second.
    assert!(delivery.attempts <= 3, "{}", delivery.attempts);
    serving.abort();
}
