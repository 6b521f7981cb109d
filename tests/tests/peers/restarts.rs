//! What fails in the middle: the relay is killed, Redis goes away, certificates are renewed.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tests::board::Missed;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};
use tokio_rustls::TlsConnector;

use crate::{Outcome, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_that_returns_registers_its_instances_again_and_the_next_call_rings() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp] {
        let (mut world, instance) = World::real_and_lent(Plan { redis: true, ..Plan::over(transport) }).await?;
        world.relay.kill_9().await?;
        // What comes after this is a registration of the second life.
        world.registrar.forget(&world.registrar.user).await?;
        world.restart().await?;
        world.await_location(1).await?;

        world.a_call_is_answered(&instance).await?;
        assert_eq!(world.pushes(), 1);
        world.farewell(&instance).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_of_one_account_both_return_after_a_crash_and_both_are_woken() -> Outcome {
    let (mut world, first) =
        World::real_and_lent(Plan { redis: true, max_contacts: 1, ..Plan::over(Transport::Tls) }).await?;
    let second = world.lend_another().await?;
    assert_ne!(first.id, second.id);
    world.relay.kill_9().await?;
    world.registrar.forget(&world.registrar.user).await?;
    world.restart().await?;
    world.await_location(1).await?;

    let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
    world.both_are_pushed([&first, &second]).await?;
    let phone = world.baresip(&second).await?;
    phone.answer(1, SOON).await?;
    world.finished(caller).await?;
    // The other device comes late: the call is no longer its own.
    let late = world.baresip(&first).await?;
    assert_eq!((late.rung(), world.pushes()), (0, 2));
    world.leave(&first).await?;
    world.farewell(&second).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_known_accounts_ring_and_enabling_is_503_until_it_returns() -> Outcome {
    let (mut world, instance) = World::real_and_lent(Plan { redis: true, ..Plan::over(Transport::Tls) }).await?;
    let mut redis = world.registrar.redis.take().expect("a world with Redis");
    redis.stop();
    world.a_call_is_answered(&instance).await?;

    let answer = world.api.enable(&world.new_enable_request()).await?;
    assert_eq!(answer.status, 503, "{}", answer.text());
    let ready = world.await_readiness("degraded").await?;
    assert!(ready.contains("store"), "{ready}");
    assert_eq!(world.location().await?.len(), 1, "what could not be stored is not left registered");

    redis.restart();
    world.await_readiness("ready").await?;
    world.registrar.redis = Some(redis);
    world.lend_another().await?;
    assert_eq!(world.location().await?.len(), 1, "the devices of one account share a Contact");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_served_without_a_restart() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
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
        while served(&world, port).await? != renewed.chain[0].as_ref() {
            assert!(std::time::Instant::now() < until, "port {port} still serves the old certificate");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let phone = world.baresip(&instance).await?;
    world.sipp_is_refused(&phone, 1).await?;
    world.end().await
}

/// The leaf that a listener shows.
async fn served(world: &World, port: u16) -> Result<Vec<u8>, Missed> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let tls = TlsConnector::from(world.authority.client_config(&[]));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = tls.connect(name, stream).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].as_ref().to_vec())
}
