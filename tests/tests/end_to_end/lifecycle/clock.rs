//! The wall clock jumps, under the real process: nothing ends by it before it is believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tests::api_client::Instance;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::skewed_clock::SkewedClock;
use tests::world::{OTHER_TOKEN, SOON, World};

use super::Outcome;

const DAY_S: i64 = 86_400;

async fn world_by(clock: &SkewedClock, redis: &RedisServer) -> Result<World, tests::board::Missed> {
    World::with(|setup| {
        setup.store = redis.url();
        setup.environment.extend(clock.environment());
    })
    .await
}

async fn await_warning(world: &World, there: bool) -> Outcome {
    let operator = world.relay.operator();
    let look = || async {
        let answer = operator.get("/readyz").await.ok()?;
        (answer.text().contains("the system's clock is") == there).then_some(())
    };
    world.until("what /readyz says of the clock", look).await
}

async fn await_registered(world: &World, instance: &Instance) -> Outcome {
    let look = || async {
        let answer = world.api.read(instance).await.ok()?;
        (answer.status == 200 && answer.json()["registration"]["state"] == "registered").then_some(())
    };
    world.until("the instance, registered", look).await
}

/// The ids and days of the sealing keys, in the order of the file; a day is told by its first second since 1970.
fn epochs(world: &World) -> Vec<(u32, u64)> {
    let keyring = std::fs::read_to_string(world.relay.setup().keyring.as_ref().expect("a file")).expect("the keyring");
    let read = |line: &str| {
        let mut fields = line.strip_prefix("epoch ")?.split(' ');
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    keyring.lines().filter_map(read).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_wipes_nobody_destroys_no_key_and_is_told_to_the_operator() -> Outcome {
    let (clock, redis) = (SkewedClock::new(), RedisServer::start());
    let mut world = world_by(&clock, &redis).await?;
    let instance = world.enable().await?;
    let first = epochs(&world);
    for ahead in [DAY_S, 30 * DAY_S, 365 * DAY_S] {
        clock.set(ahead);
        await_warning(&world, true).await?;
        // The store was asked before the jump counted: the clock that the nodes share has not jumped.
        world.relay.await_log("set right the wrong one (NTP)", SOON).await?;
        await_registered(&world, &instance).await?;
        clock.set(0);
        await_warning(&world, false).await?;
        world.whole_call(&instance).await?;
    }
    // A relay that starts, and stops, under such a clock.
    clock.set(30 * DAY_S);
    world.relay.kill_9().await?;
    world.relay.relaunch()?;
    world.relay.await_log("serving", SOON).await?;
    await_warning(&world, true).await?;
    await_registered(&world, &instance).await?;
    let enabled_ahead = world.enable_other().await?;
    assert!(epochs(&world).contains(&first[0]), "what was sealed before opens");
    assert_eq!(world.relay.terminate(Duration::from_secs(20)).await?.code(), Some(0));
    // Right again.
    clock.set(0);
    world.relay.restart().await?;
    for instance in [&instance, &enabled_ahead] {
        await_registered(&world, instance).await?;
        let ends = world.api.read(instance).await?.json()["expires_at"].as_str().unwrap_or_default().to_owned();
        assert!(ends <= relay::clock::rfc3339(now() + 6 * DAY_S as u64 + 3_600), "{ends}");
    }
    // A change that says nothing of the end leaves it where it was cut.
    let changed = world.change(&enabled_ahead, json!({"wake_for": ["call"]})).await?;
    let ends = changed["expires_at"].as_str().unwrap_or("no end");
    assert!(*ends <= *relay::clock::rfc3339(now() + 6 * DAY_S as u64 + 3_600), "{ends}");
    world.whole_call(&instance).await?;
    world.change(&instance, json!({"lifetime_s": 300_000})).await?;
    let epochs = epochs(&world);
    assert!(epochs.iter().all(|(_, day)| *day <= now()), "each ends 7 days from now at most: {epochs:?}");
    assert!(epochs.contains(&first[0]), "{epochs:?}");
    await_warning(&world, false).await?;
    world.disable(&instance).await?;
    Ok(())
}

#[tokio::test]
async fn a_call_is_known_as_long_as_it_waits_whatever_the_clock_of_the_node_says() -> Outcome {
    let (clock, redis) = (SkewedClock::new(), RedisServer::start());
    let world = world_by(&clock, &redis).await?;
    let alice = world.enable_android().await?;
    clock.set(-120);
    let goes_by_store = || async {
        world.relay.operator().get("/readyz").await.ok()?.text().contains("This node goes by the store's").then_some(())
    };
    world.until("that it goes by the store's clock", goes_by_store).await?;
    let caller = world.call()?;
    let push = world.android_push().await?;
    // The phone's clock is right, and so is what it is told.
    let known = world.api.call(&alice, push["call"].as_str().unwrap_or_default()).await?.json();
    let right = now();
    for deadline in [&push["deadline"], &known["deadline"]] {
        let deadline = deadline.as_u64().unwrap_or_default();
        assert!((right..right + 35).contains(&deadline), "{deadline} at {right}: {push} {known}");
    }
    assert!(push["sent_at"].as_u64().is_some_and(|at| at.abs_diff(right) < 5), "{push}");
    caller.expect(180, SOON).await?;
    assert_eq!(world.state(&alice, &push).await?, "ringing");
    world.cancel(&caller).await?;
    let ended = world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &push["call"]));
    assert_eq!(world.state(&alice, &push).await?, "cancelled");
    world.await_metric("sipwake_calls_waiting", 0.0).await?;
    world.whole_call(&alice).await
}

#[tokio::test]
async fn a_clock_that_went_back_to_1970_costs_nothing_either() -> Outcome {
    let (clock, redis) = (SkewedClock::new(), RedisServer::start());
    let mut world = world_by(&clock, &redis).await?;
    let instance = world.enable().await?;
    clock.set(-(now() as i64) + 1_000);
    await_warning(&world, true).await?;
    let meanwhile = world.enable_other().await?;
    clock.set(0);
    await_warning(&world, false).await?;
    world.relay.restart().await?;
    for instance in [&instance, &meanwhile] {
        await_registered(&world, instance).await?;
    }
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_node_whose_clock_is_a_day_off_goes_by_the_stores_and_says_so() -> Outcome {
    for off in [DAY_S, -DAY_S] {
        let (clock, redis) = (SkewedClock::new(), RedisServer::start());
        clock.set(off);
        let world = World::with(|setup| setup.store = redis.url()).await?;
        let mut setup = world.relay.setup().clone();
        setup.ports = Ports::default();
        setup.environment.extend(clock.environment());
        let wrong = RelayProcess::launch(setup)?;
        let told = world.until("ready, with a warning", || async {
            let answer = wrong.operator().get("/readyz").await.ok().filter(|answer| answer.status == 200)?.text();
            answer.contains("more than 30 s apart").then_some(answer)
        });
        assert!(told.await?.contains(if off > 0 { " s ahead of the store" } else { " s behind the store" }));
        let instance = wrong.api().enabled(&world.enable_request(OTHER_TOKEN)).await?;
        let told = instance.answer["expires_at"].as_str().unwrap_or_default().to_owned();
        let right = now() + 5 * DAY_S as u64;
        let (least, most) = (relay::clock::rfc3339(right - 60), relay::clock::rfc3339(right + 60));
        assert!(least <= told && told <= most, "{told} is not about {least}");
        let left: i64 = redis.ask(redis::cmd("PTTL").arg(format!("sipwake:i:{{{}}}", instance.id)));
        assert!((left / 1_000 - 5 * DAY_S).abs() < 60, "{left}");
        // Another node goes by the same end.
        wrong.kill_9().await?;
        world
            .until("the other node has it", || async {
                let answer = world.api.read(&instance).await.ok()?.json();
                (answer["registration"]["state"] == "registered" && answer["expires_at"] == told.as_str()).then_some(())
            })
            .await?;
        // Right again, it is ready.
        clock.set(0);
        let mut wrong = wrong;
        wrong.restart().await?;
    }
    Ok(())
}
