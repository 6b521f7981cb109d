//! A node dies, and the SIP server does not register what another one takes over: the Contact of the first one is all that it has, and calls come by it when
//! that node is back.

use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::wire::Transport;
use tests::world::{SOON, World};

use super::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_back_is_called_by_its_contact_while_the_node_that_took_its_account_is_refused() -> Outcome {
    let redis = RedisServer::start();
    let mut world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let instance = world.enable().await?;
    world.registrar.behave(&world.aor(), Behaviour::Refuse(503));
    world.relay.kill_9().await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let retries =
        || async { other.metric("sipwake_instances{state=\"retrying\"}").await.filter(|count| *count == 1.0) };
    world.until("an account that was taken over, and refused", retries).await?;
    world.relay.restart().await?;
    // At once: it waits for the account.
    let address = world.relay.upstream(Transport::Tls);
    let caller = world.registrar.call_anew(&world.aor(), address, &CallOptions::default()).await?;
    caller.expect(180, SOON).await?;
    let push = world.push().await?;
    assert_eq!(push["edge"], world.relay.edge_address().to_string(), "{}", other.log());
    caller.cancel().await?;
    caller.final_response(SOON).await?;
    // It stays there.
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    let registered = || async {
        (world.relay.api().read(&instance).await.ok()?.json()["registration"]["state"] == "registered").then_some(())
    };
    world.until("a registration", registered).await?;
    assert_eq!(world.registrar.contacts(&world.aor()).len(), 1);
    Ok(())
}
