//! What is left after the end: nothing in Redis, in Kamailio, in the relay's memory, in its log.

use std::time::Duration;

use tests::api_client::Instance;
use tests::digest::Algorithm;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

/// How long a credential may be seen in memory after its use.
const MOMENT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_leaves_nothing_in_redis_in_the_location_table_and_in_memory() -> Outcome {
    for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
        let plan = Plan { redis: true, algorithm, ..Plan::over(Transport::Tls) };
        let (mut world, instance) = World::real_and_lent(plan).await?;
        assert!(of_instances(&world).len() >= 2, "{:?}", keys(&world));
        redis_tells_nothing(&world, &instance);
        // Also while it is in use, a credential is there for moments only.
        let credentials = world.credentials();
        let known = format!("127.0.0.1:{}", world.relay.setup().ports.edge);
        assert!(world.relay.memory_contains(known.as_bytes()).unwrap(), "what is looked for is found when it is there");
        world.await_clean_memory(&credentials, MOMENT).await?;

        world.a_call_is_answered(&instance).await?;
        world.await_clean_memory(&credentials, MOMENT).await?;

        world.leave_last(&instance).await?;
        assert_eq!(of_instances(&world), Vec::<String>::new());
        world.await_clean_memory(&credentials, MOMENT).await?;
        // What the app's own connection carried ends with it.
        world.api = world.relay.api();
        let gone = [("the instance's secret", &instance.secret), ("the push token", &instance.push_token)];
        let gone = gone.map(|(name, secret)| (name.to_owned(), secret.clone().into_bytes()));
        world.await_clean_memory(&gone, SOON).await?;
        world.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_while_a_call_waits_answers_the_caller_and_rings_nobody() -> Outcome {
    let plan = Plan { redis: true, ..Plan::over(Transport::Udp) };
    let (world, instance) = World::real_and_lent(plan).await?;
    let caller = world.sipp_calls(Scenario::Refused(480))?;
    world.next_call_push(&instance).await?;
    world.leave_last(&instance).await?;
    world.finished(caller).await?;
    assert_eq!(of_instances(&world), Vec::<String>::new());
    assert_eq!(world.pushes(), 1);
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_said_so_and_nothing_is_kept() -> Outcome {
    let plan = Plan { redis: true, ..Plan::over(Transport::Udp) };
    let world = World::real(plan).await?;
    let mut request = world.new_enable_request();
    let wrong = format!("wrong-{}", tests::digest::token());
    request["account"]["password"] = wrong.as_str().into();
    world.secrets.keep("the wrong password", &wrong);
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert_eq!(of_instances(&world), Vec::<String>::new());
    assert!(world.location().await?.is_empty());
    world.await_clean_memory(&[("the wrong password".to_owned(), wrong.into_bytes())], SOON).await?;
    world.end().await
}

fn keys(world: &World) -> Vec<String> {
    world.registrar.redis.as_ref().expect("a world with Redis").keys()
}

/// What Redis has of instances: their records, their look-ups, and their mention in any set.
fn of_instances(world: &World) -> Vec<String> {
    let redis = world.registrar.redis.as_ref().expect("a world with Redis");
    let mut found = Vec::new();
    for key in keys(world) {
        if key.starts_with("sipwake:i:") || key.starts_with("sipwake:l:") {
            found.push(key);
        } else if redis.ask::<String>(redis::cmd("TYPE").arg(&key)) == "set" {
            let members: Vec<String> = redis.ask(redis::cmd("SMEMBERS").arg(&key));
            found
                .extend(members.into_iter().filter(|member| member.contains("pi_")).map(|it| format!("{it} in {key}")));
        }
    }
    found
}

/// Nothing that Redis holds, keys and values, has a secret, the account or the device in it.
fn redis_tells_nothing(world: &World, instance: &Instance) {
    let redis = world.registrar.redis.as_ref().expect("a world with Redis");
    for key in redis.keys() {
        let dump: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&key));
        for needle in [&world.registrar.user, &world.registrar.password, &instance.push_token] {
            assert!(!key.contains(needle.as_str()), "{key}");
            assert!(memchr::memmem::find(&dump, needle.as_bytes()).is_none(), "the value of {key}");
        }
    }
}
