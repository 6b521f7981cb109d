//! A replica that lagged takes over for the store: what a device has deleted does not come back with it.

use std::net::SocketAddr;

use serde_json::Value;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::world::{SOON, World, text};

use super::{Outcome, await_kept, write};

fn address(redis: &RedisServer) -> SocketAddr {
    ([127, 0, 0, 1], redis.port()).into()
}

#[tokio::test]
async fn what_was_deleted_stays_deleted_when_a_replica_takes_over_that_has_not_heard_of_it() -> Outcome {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    let mut gate = Gate::closed(address(&master));
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let mut deleted = Vec::new();
    for body in ["read and deleted", "deleted, too"] {
        write(&world, body)?.expect(202, SOON).await?;
        deleted.push(format!("/messages/{}", text(&world.alert("message").await?["message"])));
    }
    let (caller, _) = world.call_and_push().await?;
    world.cancel(&caller).await?;
    let missed = await_kept(&world, &instance, "missed-calls", 1).await?;
    deleted.push(format!("/missed-calls/{}", text(&missed[0]["call"])));
    replica.follow(&master);
    replica.follow_nobody();
    for path in &deleted {
        assert_eq!(world.api.of("DELETE", &instance, path).await?.status, 204);
    }
    gate.lead_to(address(&replica)).await?;
    let beside = |redis: &RedisServer| {
        let keys = redis.keys().into_iter();
        keys.filter(|key| key.starts_with("sipwake:m:") || key.starts_with("sipwake:c:")).count()
    };
    assert_eq!(beside(&master), 0);
    let deleted_again = || async {
        for shelf in ["messages", "missed-calls"] {
            // Until the node has its connection again it is 503.
            let kept = world.kept(&instance, shelf).await.ok()?;
            assert_eq!(kept, Vec::<Value>::new(), "{shelf}");
        }
        (beside(&replica) == 0).then_some(())
    };
    world.until("what was deleted, deleted again", deleted_again).await?;
    write(&world, "a new one")?.expect(202, SOON).await?;
    let new = await_kept(&world, &instance, "messages", 1).await?;
    assert_eq!(text(&new[0]["body"]), "a new one");
    world.whole_call(&instance).await?;
    world.content()
}
