//! A phone takes its registration back by a node that does not know it: nobody pushes it any more.

use tests::caller::CallOptions;
use tests::push_phone::sleep;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::world::{SOON, World};

use super::calls::android;
use super::keeping::{REGISTRATIONS, TakenOver, stored, taken_over};

type Outcome = tests::world::Outcome;

async fn is_nobodys(world: &World, redis: &RedisServer, other: &RelayProcess) -> Outcome {
    world.registrar.await_contacts(&world.aor(), 0, SOON).await?;
    stored(world, redis, 0).await?;
    world
        .until("the other node has let go", || async { other.metric(REGISTRATIONS).await.filter(|it| *it == 0.0) })
        .await?;
    assert_eq!(world.metric(REGISTRATIONS).await, Some(0.0));
    let pushed = world.fcm.count();
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await;
    assert!(caller.is_err(), "its SIP server knows no Path any more");
    assert_eq!(world.fcm.count(), pushed);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_logs_out_by_a_node_whose_registration_another_one_has_taken_over() -> Outcome {
    let TakenOver { world, redis, other, phone, learned: _ } = taken_over().await?;
    let (device, answer) = phone.expires(0).try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(200));
    sleep(device);
    is_nobodys(&world, &redis, &other).await
}

/// As one does whose stack forgets the parameters with the Contact's lifetime: its device is known by its key alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_logs_out_likewise_without_a_word_of_its_push_token() -> Outcome {
    let TakenOver { world, redis, other, phone, learned: _ } = taken_over().await?;
    let (device, answer) = phone.contact("", "").expires(0).try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(200));
    sleep(device);
    is_nobodys(&world, &redis, &other).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_logs_out_by_a_node_that_has_kept_nothing_over_its_restart() -> Outcome {
    let mut world = World::start().await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    for pn in [None, Some("")] {
        let phone = pn.map_or_else(|| phone.clone(), |pn| phone.clone().contact(pn, ""));
        let (device, answer) = phone.expires(0).try_to_register(SOON).await?;
        assert_eq!(answer.status(), Some(200), "{pn:?}");
        sleep(device);
    }
    world.registrar.await_contacts(&world.aor(), 0, SOON).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_of_one_phone_leaves_the_others_of_its_account_alone() -> Outcome {
    let TakenOver { world, redis, other, phone, learned: _ } = taken_over().await?;
    let (device, answer) = phone.another_device().contact("", "").expires(0).try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(200));
    sleep(device);
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    assert_eq!(world.android_push().await?["event"], "call");
    world.cancel(&caller).await?;
    stored(&world, &redis, 1).await?;
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    world.content()
}
