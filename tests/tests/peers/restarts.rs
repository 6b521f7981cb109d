//! What fails in the middle: the relay is killed, Redis goes away, certificates are renewed.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tokio_rustls::TlsConnector;

use crate::world::{Plan, SOON, World, new_push_token};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_that_returns_registers_its_instances_again_and_the_next_call_rings() {
    for transport in [Transport::Tls, Transport::Udp] {
        let mut world = World::start(Plan { redis: true, ..Plan::over(transport) }).await;
        let instance = world.enable().await;
        world.relay.kill_9().await.unwrap();
        // What comes after this is a registration of the second life.
        world.kamailio.forget(&world.user).await.unwrap();
        world.restart().await;
        world.kamailio.await_location(&world.user, 1, SOON).await.unwrap();

        let (caller, _, _phone) = world.answered(&instance, Scenario::CallerHangsUp).await;
        caller.finish(SOON).await.unwrap();
        assert_eq!(world.pushes(), 1);
        world.disable(&instance).await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_of_one_account_both_return_after_a_crash_and_both_are_woken() {
    let mut world = World::start(Plan { redis: true, max_contacts: 1, ..Plan::over(Transport::Tls) }).await;
    let first = world.enable().await;
    let first_token = std::mem::replace(&mut world.push_token, new_push_token("apns"));
    world.keep("the other push token", &world.push_token.clone());
    let second = world.enable_another().await;
    assert_ne!(first.id, second.id);
    world.relay.kill_9().await.unwrap();
    world.kamailio.forget(&world.user).await.unwrap();
    world.restart().await;
    world.kamailio.await_location(&world.user, 1, SOON).await.unwrap();

    let caller = world.call(Scenario::CallerHangsUp);
    world.both_are_pushed(&first_token).await;
    let phone = world.wake(&second).await;
    phone.await_rung(1, SOON).await.unwrap();
    phone.accept().await.unwrap();
    caller.finish(SOON).await.unwrap();
    // The other device comes late: the call is no longer its own.
    let late = world.wake(&first).await;
    assert_eq!((late.rung(), world.pushes()), (0, 2));
    world.leave(&first).await;
    world.disable(&second).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_known_accounts_ring_and_enabling_is_503_until_it_returns() {
    let mut world = World::start(Plan { redis: true, ..Plan::over(Transport::Tls) }).await;
    let instance = world.enable().await;
    let mut redis = world.redis.take().expect("a world with Redis");
    redis.stop();
    let (caller, _, _phone) = world.answered(&instance, Scenario::CallerHangsUp).await;
    caller.finish(SOON).await.unwrap();

    let mut wish = world.wish();
    wish["device"]["call_push"]["token"] = new_push_token("apns").into();
    let answer = world.api.enable(&wish).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    let ready = await_standing(&world, "degraded").await;
    assert!(ready.contains("store"), "{ready}");
    assert_eq!(world.location().await.len(), 1, "what could not be stored is not left registered");

    redis.restart();
    await_standing(&world, "ready").await;
    world.redis = Some(redis);
    world.push_token = new_push_token("apns");
    world.enable_another().await;
    assert_eq!(world.location().await.len(), 1, "the devices of one account share a Contact");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_served_without_a_restart() {
    let mut world = World::start(Plan::over(Transport::Tls)).await;
    let instance = world.enable().await;
    let renewed = world.authority.loopback();
    // The files that the relay was started with are the first that the authority issued to it.
    let (certificate, key) = world.relay.certificate_files();
    for (new, old) in [(&renewed.key_file, &key), (&renewed.certificate_file, &certificate)] {
        let beside = old.with_extension("new");
        std::fs::copy(new, &beside).unwrap();
        std::fs::rename(&beside, old).unwrap();
    }
    let ports = world.relay.setup().ports;
    for port in [ports.edge, ports.api, ports.operator, ports.tls] {
        let until = std::time::Instant::now() + SOON;
        while served(&world, port).await != renewed.chain[0].as_ref() {
            assert!(std::time::Instant::now() < until, "port {port} still serves the old certificate");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let phone = world.wake(&instance).await;
    let caller = world.call(Scenario::Refused(486));
    phone.await_rung(1, SOON).await.unwrap();
    phone.hang_up().await.unwrap();
    caller.finish(SOON).await.unwrap();
    world.end().await;
}

/// The leaf that a listener shows.
async fn served(world: &World, port: u16) -> Vec<u8> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let tls = TlsConnector::from(world.authority.client_config(&[]));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tls.connect(name, stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].as_ref().to_vec()
}

/// Waits until `/readyz` says so with 200, and gives its text.
async fn await_standing(world: &World, says: &str) -> String {
    let until = std::time::Instant::now() + SOON;
    loop {
        let answer = world.relay.operator().get("/readyz").await.unwrap();
        if answer.status == 200 && answer.json()["status"] == says {
            return answer.text();
        }
        assert!(std::time::Instant::now() < until, "{}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
