//! A node ends and starts again while a call stands that it has begun, and another node has its accounts by then: the phone, which knows that one edge, and its
//! caller go on through it.

use sip::message::Name;
use tests::board::Missed;
use tests::phone::{Phone, Proof, Settings};
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::wire::Transport;
use tests::world::{Ringing, SOON, World};

use super::Outcome;

/// A world whose first node has ended and started again, while the second one has taken over what it had, and a call that stands.
async fn restarted(redis: &RedisServer) -> Result<(World, RelayProcess, Settings, Ringing), Missed> {
    let mut world = World::over_with(Transport::Udp, |setup| setup.store = redis.url()).await?;
    let instance = world.enable().await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let ringing = world.answered(&instance).await?;
    assert!(world.relay.terminate(SOON).await?.success());
    world.relay.restart().await?;
    assert_eq!(other.api().read(&instance).await?.json()["registration"]["state"], "registered");
    let device = world.device(&instance);
    Ok((world, other, device, ringing))
}

#[tokio::test]
async fn a_call_goes_on_and_is_hung_up_by_either_side_through_a_node_that_has_its_account_no_more() -> Outcome {
    for caller_ends in [true, false] {
        let redis = RedisServer::start();
        let (world, _other, device, Ringing { caller, call, .. }) = restarted(&redis).await?;
        let phone = Phone::connect(device).await.map_err(|error| Missed::new("a connection", error.to_string()))?;
        let answer = phone.register(SOON).await?;
        assert_eq!((answer.status(), answer.has(Name::Warning)), (Some(200), true), "{caller_ends}");
        let contact = answer.text(Name::Contact).unwrap_or_default();
        assert!(contact.ends_with(";expires=60"), "{contact}");
        let call = phone.take_over(&call);
        world.end(caller_ends, &caller, &call).await?;
        world.await_metric("sipwake_edge_registers_total{outcome=\"elsewhere\"}", 1.0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_a_caller_sends_waits_there_for_the_phone_and_a_wrong_secret_is_wrong_at_any_node() -> Outcome {
    let redis = RedisServer::start();
    let (world, _other, device, Ringing { caller, call, .. }) = restarted(&redis).await?;
    let wrong = Settings { proof: Proof::Bearer, ..device.clone() };
    let stranger = Phone::connect(wrong).await.map_err(|error| Missed::new("a connection", error.to_string()))?;
    let answer = stranger.register_once(Some("Bearer wrong".to_owned()), 600, SOON).await?;
    assert_eq!(answer.status(), Some(403));
    let comes_back = async {
        world.await_metric("sipwake_edge_registers_total{outcome=\"unknown\"}", 1.0).await?;
        let phone = Phone::connect(device).await.map_err(|error| Missed::new("a connection", error.to_string()))?;
        // The BYE follows the 200 at once.
        let call = phone.take_over(&call);
        phone.register(SOON).await?;
        call.expect_bye(SOON).await?;
        Outcome::Ok(())
    };
    let (hung_up, came_back) = tokio::join!(caller.bye(SOON), comes_back);
    came_back?;
    hung_up
}

/// Whether an account has ended cannot be told before its owner has had the time to write it again.
#[tokio::test]
async fn a_phone_whose_call_goes_on_there_is_not_refused_when_the_store_has_just_lost_everything() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, device, Ringing { caller, call, .. }) = restarted(&redis).await?;
    let phone = Phone::registered(device, SOON).await?;
    other.freeze();
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    let answer = phone.register(SOON).await?;
    other.thaw();
    assert_eq!(answer.status(), Some(503));
    let is_back = || async { (phone.register(SOON).await.ok()?.status() == Some(200)).then_some(()) };
    world.until("200 again", is_back).await?;
    let call = phone.take_over(&call);
    world.end(false, &caller, &call).await
}
