//! The stand-ins and the real peers against each other, without the relay: what the other tests lean on stands.

use std::time::Duration;

use tests::api_client::ApiClient;
use tests::authority::Authority;
use tests::baresip::{self, Baresip};
use tests::caller::{CallOptions, Caller};
use tests::digest::Algorithm;
use tests::kamailio::{self, Kamailio};
use tests::phone::{self, Phone, Proof};
use tests::registrar::{self, Behaviour, Registrar};
use tests::sipp::{Scenario, Sipp};
use tests::wire::Transport;

const SOON: Duration = Duration::from_secs(10);

async fn registrar(authority: &Authority) -> Registrar {
    registrar_that_offers(authority, &[Algorithm::Sha256, Algorithm::Md5]).await
}

async fn registrar_that_offers(authority: &Authority, algorithms: &[Algorithm]) -> Registrar {
    let settings = registrar::Settings {
        authority: Some(authority.clone()),
        algorithms: algorithms.to_vec(),
        ..registrar::Settings::default()
    };
    Registrar::start(settings).await.unwrap()
}

/// A registrar with Alice's account.
async fn bench() -> (Authority, Registrar, String) {
    let authority = Authority::new();
    let registrar = registrar(&authority).await;
    let aor = registrar.aor("alice");
    (authority, registrar, aor)
}

fn alice(registrar: &Registrar, transport: Transport, authority: &Authority) -> phone::Settings {
    let aor = registrar.aor("alice");
    phone::Settings { aor, ..phone::Settings::new(&registrar.uri(transport), "alice", "wonderland", Some(authority)) }
}

fn nothing_was_wrong(registrar: &Registrar, phone: &Phone) {
    assert_eq!(registrar.violations(), Vec::<String>::new());
    assert_eq!(phone.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_call_is_answered_and_ended_from_either_side_over_every_transport() {
    let (authority, registrar, aor) = bench().await;
    for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
        let phone = Phone::registered(alice(&registrar, transport, &authority), SOON).await.unwrap();
        assert_eq!(registrar.contacts(&aor).len(), 1);
        for caller_ends in [true, false] {
            let caller = registrar.call(&aor, &CallOptions::default()).unwrap();
            let call = phone.next_invite(SOON).await.unwrap();
            call.ring();
            caller.expect(180, SOON).await.unwrap();
            call.answer();
            caller.answered(SOON).await.unwrap();
            call.expect_ack(SOON).await.unwrap();
            assert_eq!(caller.reinvite(SOON).await.unwrap().status(), Some(200));
            assert_eq!(call.reinvite(SOON).await.unwrap().status(), Some(200));
            if caller_ends {
                caller.bye(SOON).await.unwrap();
                call.expect_bye(SOON).await.unwrap();
            } else {
                call.hang_up(SOON).await.unwrap();
                caller.expect_bye(SOON).await.unwrap();
            }
            assert_eq!(caller.violations(), Vec::<String>::new());
        }
        assert_eq!(phone.unregister(SOON).await.unwrap().status(), Some(200));
        registrar.await_contacts(&aor, 0, SOON).await.unwrap();
        nothing_was_wrong(&registrar, &phone);
    }
}

#[tokio::test]
async fn a_call_is_cancelled_or_declined() {
    let (authority, registrar, aor) = bench().await;
    let phone = Phone::registered(alice(&registrar, Transport::Tls, &authority), SOON).await.unwrap();

    let caller = registrar.call(&aor, &CallOptions::default().private("<sip:bob@example.test>")).unwrap();
    let call = phone.next_invite(SOON).await.unwrap();
    call.ring();
    caller.cancel().await.unwrap();
    call.expect_cancel(SOON).await.unwrap();
    caller.expect(487, SOON).await.unwrap();
    call.expect_ack(SOON).await.unwrap();

    let caller = registrar.call(&aor, &CallOptions::default()).unwrap();
    let call = phone.next_invite(SOON).await.unwrap();
    call.decline(603);
    let refusal = caller.answered(SOON).await;
    assert!(refusal.is_err(), "{refusal:?}");
    assert_eq!(caller.responses().last().map(|(_, status)| *status), Some(603));

    let message = registrar.call(&aor, &CallOptions::request("MESSAGE").body("text/plain", "hello")).unwrap();
    assert_eq!(&phone.next_request("MESSAGE", SOON).await.unwrap().body()[..], b"hello");
    message.expect(200, SOON).await.unwrap();
    nothing_was_wrong(&registrar, &phone);
}

#[tokio::test]
async fn only_the_right_password_registers() {
    let (authority, registrar, aor) = bench().await;
    for (password, algorithm, expected) in [
        ("wonderland", Algorithm::Md5, 200),
        ("wonderland", Algorithm::Sha256, 200),
        ("looking-glass", Algorithm::Sha256, 401),
    ] {
        let settings = phone::Settings {
            password: password.to_owned(),
            proof: Proof::Digest(algorithm),
            ..alice(&registrar, Transport::Tls, &authority)
        };
        let phone = Phone::connect(settings).await.unwrap();
        assert_eq!(phone.register(SOON).await.unwrap().status(), Some(expected));
        phone.ping(SOON).await.unwrap();
    }
    assert_eq!(registrar.registers(&aor).iter().filter(|seen| seen.proven).count(), 2);
    assert_eq!(registrar.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn the_registrar_behaves_as_it_is_told() {
    let (authority, registrar, aor) = bench().await;
    let phone = Phone::connect(alice(&registrar, Transport::Udp, &authority)).await.unwrap();
    for (behaviour, expected) in [
        (Behaviour::Refuse(403), 403),
        (Behaviour::AskForever, 401),
        (Behaviour::StaleForever, 401),
        (Behaviour::MinExpires(1_000), 423),
        (Behaviour::RetryAfter(7), 503),
        (Behaviour::Redirect("sip:elsewhere.test".to_owned()), 302),
        (Behaviour::Grant(42), 200),
        (Behaviour::Slow(Duration::from_millis(20)), 200),
        (Behaviour::Accept, 200),
    ] {
        registrar.behave(&aor, behaviour.clone());
        let status = phone.register(SOON).await.unwrap().status();
        assert_eq!(status, Some(expected), "{behaviour:?}");
    }
    registrar.behave(&aor, Behaviour::Silence);
    assert!(phone.register(Duration::from_millis(50)).await.is_err());
}

#[tokio::test]
async fn kamailio_registers_a_phone_and_forgets_it() {
    let authority = Authority::new();
    let kamailio = Kamailio::start(kamailio::Settings::default(), &authority).await.unwrap();
    for transport in [Transport::Udp, Transport::Tcp, Transport::Tls] {
        let settings = phone::Settings {
            aor: kamailio.aor("alice"),
            proof: Proof::Digest(Algorithm::Md5),
            ..phone::Settings::new(&kamailio.uri(transport), "alice", "wonderland", Some(&authority))
        };
        let phone = Phone::registered(settings, SOON).await.unwrap();
        let contacts = kamailio.await_location("alice", 1, SOON).await.unwrap();
        assert_eq!(contacts[0].uri, phone.contact());
        assert_eq!(
            contacts[0].instance.as_deref().map(|i| i.trim_matches(['<', '>'])),
            phone.settings().instance.as_deref()
        );
        let server = kamailio.address(Transport::Udp);
        let options = CallOptions::default();
        let caller = Caller::direct(server, Transport::Udp, None, &kamailio.aor("alice"), &options).await.unwrap();
        let call = phone.next_invite(SOON).await.unwrap();
        call.answer();
        caller.answered(SOON).await.unwrap();
        call.hang_up(SOON).await.unwrap();
        caller.expect_bye(SOON).await.unwrap();
        assert_eq!(phone.unregister(SOON).await.unwrap().status(), Some(200));
        kamailio.await_location("alice", 0, SOON).await.unwrap();
        assert_eq!(phone.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn baresip_registers_at_the_stand_in_over_tls_and_takes_a_call() {
    let authority = Authority::new();
    // baresip 1.0 gives up (ENOSYS) when any of the challenges names another algorithm than MD5, in whatever order.
    let registrar = registrar_that_offers(&authority, &[Algorithm::Md5]).await;
    let aor = registrar.aor("alice");
    let account = baresip::Account {
        aor: aor.clone(),
        ..baresip::Account::new(&registrar.uri(Transport::Tls), "alice", "wonderland")
    };
    let device = Baresip::start(&account, &authority).await.unwrap();
    device.await_registered(SOON).await.unwrap();
    let contacts = registrar.await_contacts(&aor, 1, SOON).await.unwrap();
    assert_eq!(contacts[0].flow.transport(), Transport::Tls);

    let caller = registrar.call(&aor, &CallOptions::default()).unwrap();
    device.await_event("CALL_INCOMING", SOON).await.unwrap();
    caller.expect(180, SOON).await.unwrap();
    device.accept().await.unwrap();
    caller.answered(SOON).await.unwrap();
    device.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
    device.hang_up().await.unwrap();
    caller.expect_bye(SOON).await.unwrap();
}

#[tokio::test]
async fn sipp_calls_baresip_through_kamailio() {
    let authority = Authority::new();
    let kamailio = Kamailio::start(kamailio::Settings::default(), &authority).await.unwrap();
    let account = baresip::Account {
        aor: kamailio.aor("alice"),
        outbound: false,
        ..baresip::Account::new(&kamailio.uri(Transport::Tls), "alice", "wonderland")
    };
    let device = Baresip::start(&account, &authority).await.unwrap();
    kamailio.await_location("alice", 1, SOON).await.unwrap();
    let server = kamailio.address(Transport::Udp);
    let call = |scenario| Sipp::call(scenario, server, "alice", kamailio.domain(), SOON).unwrap();

    let caller = call(Scenario::CallerHangsUp);
    device.await_event("CALL_INCOMING", SOON).await.unwrap();
    device.accept().await.unwrap();
    caller.finish(SOON).await.unwrap();
    device.await_event("CALL_CLOSED", SOON).await.unwrap();

    let caller = call(Scenario::CalleeHangsUp);
    device.await_event("CALL_INCOMING", SOON).await.unwrap();
    device.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
    device.accept().await.unwrap();
    device.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
    device.hang_up().await.unwrap();
    caller.finish(SOON).await.unwrap();

    let caller = call(Scenario::CallerCancels);
    device.await_event("CALL_INCOMING", SOON).await.unwrap();
    caller.finish(SOON).await.unwrap();

    let caller = call(Scenario::Refused(486));
    device.await_event("CALL_INCOMING", SOON).await.unwrap();
    device.hang_up().await.unwrap();
    caller.finish(SOON).await.unwrap();
}

#[tokio::test]
async fn the_api_client_speaks_both_versions_of_http() {
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let authority = Authority::new();
    let tls = authority.server_config(&["127.0.0.1"], &[b"h2", b"http/1.1"]);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = tokio_rustls::TlsAcceptor::from(tls.clone()).accept(stream).await else { continue };
            let echo = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
                let key = request.headers()["authorization"].to_str().unwrap_or_default();
                let said = format!("{{\"version\": \"{:?}\", \"key\": \"{key}\"}}", request.version());
                Ok::<_, std::convert::Infallible>(hyper::Response::new(said))
            });
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { server.serve_connection(TokioIo::new(stream), echo).await.map_err(drop) });
        }
    });
    for (version, name) in [(hyper::Version::HTTP_11, "HTTP/1.1"), (hyper::Version::HTTP_2, "HTTP/2.0")] {
        let client = ApiClient::new(address, version, &authority, Some("key"));
        for _ in 0..3 {
            let answer = client.get("/v1/instances").await.unwrap();
            assert_eq!((answer.status, answer.json()["version"].as_str()), (200, Some(name)));
            assert_eq!(answer.json()["key"], "Bearer key");
        }
    }
}
