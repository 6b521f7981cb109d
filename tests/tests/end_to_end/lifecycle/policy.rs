//! What the operator decides about SIP servers: which digests are made, how many registrations begin in a second.

use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tests::digest::Algorithm;
use tests::redis_server::RedisServer;
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World, text};

use super::Outcome;

#[tokio::test]
async fn where_md5_is_refused_a_server_that_knows_nothing_else_is_refused_in_words() -> Outcome {
    let md5 = |settings: &mut tests::registrar::Settings| settings.algorithms = vec![Algorithm::Md5];
    let world = World::between(md5, |setup| setup.upstream = "allow_md5 = false\n".to_owned()).await?;
    let answer = world.api.enable(&world.enable_request(TOKEN)).await?;
    let problem = answer.json();
    assert_eq!((answer.status, text(&problem["type"]).as_str()), (422, "urn:sipwake:problem:upstream-refused"));
    assert_eq!(problem["sip_status"], 401);
    let detail = text(&problem["detail"]);
    assert!(detail.contains("SHA-256") && detail.contains("upstream.allow_md5"), "{detail}");
    let registers = world.registrar.registers(&world.aor());
    assert_eq!(registers.len(), 1, "nothing was sent that was made with MD5");
    // One that knows better is asked with that.
    let world = World::with(|setup| setup.upstream = "allow_md5 = false\n".to_owned()).await?;
    world.whole_call(&world.enable().await?).await
}

#[tokio::test]
async fn a_server_that_knows_md5_alone_is_served_unless_the_operator_refuses_it() -> Outcome {
    let md5 = |settings: &mut tests::registrar::Settings| settings.algorithms = vec![Algorithm::Md5];
    let world = World::between(md5, |_| {}).await?;
    world.whole_call(&world.enable().await?).await
}

#[tokio::test]
async fn a_restart_asks_the_sip_server_no_faster_than_the_operator_says() -> Outcome {
    const INSTANCES: usize = 12;
    const PER_SECOND: usize = 4;
    let redis = RedisServer::start();
    // Each is an account of its own: the devices of one account are one registration.
    let users: Vec<String> = (0..INSTANCES).map(|number| format!("user{number}")).collect();
    let further = |server: &mut tests::registrar::Settings| {
        server.users.extend(users.iter().map(|user| (user.clone(), "wonderland".to_owned())));
    };
    let mut world = World::between(further, |setup| {
        setup.store = redis.url();
        setup.upstream = format!("registrations_per_second = {PER_SECOND}\n");
    })
    .await?;
    for (number, user) in users.iter().enumerate() {
        let mut request = world.enable_request(&format!("{number:02x}{}", &OTHER_TOKEN[2..]));
        request["account"]["aor"] = world.registrar.aor(user).into();
        request["account"]["auth_username"] = user.as_str().into();
        world.enable_as(&request).await?;
    }
    let all = |world: &World| -> Vec<tests::registrar::RegisterSeen> {
        users.iter().flat_map(|user| world.registrar.registers(&world.registrar.aor(user))).collect()
    };
    world.relay.kill_9().await?;
    world.registrar.forget();
    let began = Instant::now();
    world.relay.restart().await?;
    let some = || async { world.metric("sipwake_registrations_waiting").await.filter(|waiting| *waiting > 0.0) };
    let waiting = world.until("registrations that wait", some).await?;
    assert!(waiting <= INSTANCES as f64, "{waiting}");
    for user in &users {
        world.registrar.await_contacts(&world.registrar.aor(user), 1, SOON * 3).await?;
    }
    world.await_metric("sipwake_registrations_waiting", 0.0).await?;
    // Each core has its share of the pace, and one core has at least its share of the instances: the last of them cannot
    // have begun earlier than this. What a slow machine adds is no fault.
    let shards = available_parallelism().map_or(1, Into::into);
    let (pace, most) = ((PER_SECOND / shards).max(1), INSTANCES.div_ceil(shards));
    let least = Duration::from_secs(1) * (most - 1) as u32 / pace as u32;
    let last = all(&world).iter().filter(|it| it.status == Some(200)).map(|it| it.at).max();
    let took = last.expect("they are registered").duration_since(began);
    assert!(took >= least, "{INSTANCES} were registered in {took:?}, not in {least:?} or more");
    Ok(())
}
