//! Devices of one account whose passwords differ, for it was changed at the SIP server.

use sip::message::Name;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::world::{FCM_TOKEN, World};

use super::Outcome;

/// Alice's iPhone and tablet have the old password, her Android phone the new one. Also how many REGISTERs there were when it had joined.
async fn changed(world: &World) -> Result<([Instance; 3], usize), Missed> {
    let (phone, tablet) = (world.enable().await?, world.enable_other().await?);
    world.registrar.change_password("alice", "looking glass");
    let mut request = world.android_enable_request(FCM_TOKEN);
    request["account"]["password"] = "looking glass".into();
    let android = world.enable_as(&request).await?;
    Ok(([phone, tablet, android], world.registrar.registers(&world.aor()).len()))
}

/// How many wrong answers the SIP server has got behind the first so many REGISTERs.
fn wrong(world: &World, behind: usize) -> usize {
    let seen = world.registrar.registers(&world.aor());
    let wrong = seen[behind..].iter().filter(|it| !it.proven && it.request.text(Name::Authorization).is_some());
    wrong.count()
}

#[tokio::test]
async fn a_changed_password_leaves_the_calls_to_the_device_that_knows_it() -> Outcome {
    let world = World::start().await?;
    let ([phone, tablet, android], joined) = changed(&world).await?;
    for old in [&phone, &tablet] {
        let retries = || async {
            let answer = world.api.read(old).await.ok()?;
            (answer.json()["registration"]["state"] == "retrying").then_some(())
        };
        world.until("its registration is retried", retries).await?;
    }
    assert_eq!(wrong(&world, joined), 1, "the tablet would have offered the same");
    let caller = world.call()?;
    let push = world.android_push().await?;
    world.talks(&caller, &android).await?;
    world.await_state(&android, &push, "answered").await?;
    assert_eq!(world.apns.count(), 0, "no call wakes who knows the old password alone");
    world.content()
}

#[tokio::test]
async fn a_changed_password_ends_those_that_have_the_old_one_and_not_who_has_the_new_one() -> Outcome {
    let world = World::with(|setup| setup.minutes = 0.001).await?;
    let ([phone, tablet, android], joined) = changed(&world).await?;
    for gone in [&phone, &tablet] {
        world.await_gone(gone).await?;
    }
    assert_eq!(wrong(&world, joined), 3);
    let caller = world.call()?;
    let push = world.android_push().await?;
    world.talks(&caller, &android).await?;
    world.await_state(&android, &push, "answered").await?;
    world.content()
}

#[tokio::test]
async fn after_a_restart_an_outdated_password_keeps_no_device_with_the_right_one_from_its_calls() -> Outcome {
    let (mut world, _redis) = World::on_redis(|_| {}).await?;
    let ([.., android], _) = changed(&world).await?;
    world.relay.kill_9().await?;
    world.registrar.forget();
    world.relay.restart().await?;
    world.await_contacts(1).await?;
    let caller = world.call()?;
    let push = world.android_push().await?;
    world.talks(&caller, &android).await?;
    world.await_state(&android, &push, "answered").await?;
    world.content()
}
