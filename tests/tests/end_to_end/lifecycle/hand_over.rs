//! A node leaves, restarts or stands still while calls come: none is lost, and none is pushed twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::world::{SOON, TOKEN, World};

use super::Outcome;
use super::seeded::seed;

const PASSWORD: &str = "a password of theirs";
/// Few enough that each device's call budget suffices.
const ACCOUNTS: usize = 10;

/// Some accounts that are lent to the first node of several.
struct Callees {
    world: World,
    aors: Vec<String>,
    instances: Vec<Instance>,
}

impl Callees {
    async fn enabled(redis: &RedisServer) -> Result<Self, Missed> {
        Self::enabled_over(&redis.url()).await
    }

    async fn enabled_over(store: &str) -> Result<Self, Missed> {
        Self::enabled_with(|setup| setup.store = store.to_owned()).await
    }

    async fn enabled_with(set: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("u{n}")).collect();
        let accounts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), PASSWORD)).collect();
        let world = World::among(&accounts, set).await?;
        let (mut aors, mut instances) = (Vec::new(), Vec::new());
        for name in &names {
            let mut request = world.enable_request(TOKEN);
            request["account"]["aor"] = json!(world.registrar.aor(name));
            request["account"]["auth_username"] = json!(name);
            request["account"]["password"] = json!(PASSWORD);
            instances.push(world.enable_as(&request).await?);
            aors.push(world.registrar.aor(name));
        }
        Ok(Self { world, aors, instances })
    }

    /// Each account is registered at `node`, and the Contact of the node that had it is gone.
    async fn are_registered_at(&self, node: &RelayProcess) -> Outcome {
        for (aor, instance) in self.aors.iter().zip(&self.instances) {
            assert_eq!(self.world.registrar.contacts(aor).len(), 1, "the Contact of the node that left is gone");
            assert_eq!(node.api().read(instance).await?.json()["registration"]["state"], "registered");
        }
        Ok(())
    }

    async fn second_node(&self) -> Result<RelayProcess, Missed> {
        let mut setup = self.world.relay.setup().clone();
        setup.ports = Ports::default();
        RelayProcess::start(setup).await
    }

    /// One call after the other, to one account after the other, until `end`.
    async fn calls_until(&self, end: impl Future<Output = Outcome>) -> Result<Vec<Call>, Missed> {
        const EVERY: Duration = Duration::from_millis(60);
        let (begun, mut calls, mut ticks) = (Instant::now(), Vec::new(), tokio::time::interval(EVERY));
        tokio::pin!(end);
        loop {
            tokio::select! {
                ended = &mut end => {
                    ended?;
                    return Ok(calls);
                }
                _ = ticks.tick() => {
                    let aor = &self.aors[calls.len() % ACCOUNTS];
                    calls.push(ring(self.world.call_to(aor, &CallOptions::default())?, begun.elapsed()));
                }
            }
        }
    }

    /// Each call has rung: its push was accepted. No call was pushed twice.
    async fn all_rang(&self, calls: Vec<Call>) -> Outcome {
        let count = calls.len();
        for call in calls {
            call.await.map_err(|error| Missed::new("a call", error.to_string()))??;
        }
        let mut pushes = BTreeMap::new();
        while let Some(push) = self.world.apns.next_push(Duration::from_millis(300)).await {
            let call = push.payload["sipwake"]["call"].as_str().unwrap_or_default().to_owned();
            *pushes.entry(call).or_insert(0) += 1;
        }
        assert!(pushes.values().all(|count| *count == 1), "{pushes:?}");
        assert_eq!(pushes.len(), count, "a push for each call");
        Ok(())
    }
}

/// A call that is to ring, and is cancelled then.
type Call = tokio::task::JoinHandle<Outcome>;

fn ring(caller: Caller, at: Duration) -> Call {
    tokio::spawn(async move {
        caller.expect(180, SOON).await.map_err(|missed| {
            Missed::new("180", format!("the call that began after {at:?} got {:?}: {missed}", caller.responses()))
        })?;
        caller.cancel().await?;
        caller.final_response(SOON).await.map(drop)
    })
}

/// A while, in which calls go on coming.
async fn meanwhile(seconds: f32) {
    tokio::time::sleep(Duration::from_secs_f32(seconds)).await;
}

#[tokio::test]
async fn a_node_that_is_told_to_end_hands_its_instances_over_and_no_call_is_lost() -> Outcome {
    let redis = RedisServer::start();
    let callees = Callees::enabled(&redis).await?;
    let other = callees.second_node().await?;
    let leaves = async {
        meanwhile(0.6).await;
        let status = callees.world.relay.terminate(SOON).await?;
        assert!(status.success(), "{status:?}");
        meanwhile(0.6).await;
        Ok(())
    };
    let calls = callees.calls_until(leaves).await?;
    callees.all_rang(calls).await?;
    callees.are_registered_at(&other).await
}

#[tokio::test]
async fn a_node_that_leaves_pushes_on_while_the_registrations_of_the_others_fail() -> Outcome {
    let redis = RedisServer::start();
    let callees = Callees::enabled_with(|setup| {
        setup.store = redis.url();
        // They are tried again after seconds.
        setup.minutes = 0.05;
    })
    .await?;
    let other = callees.second_node().await?;
    let behave = |behaviour: &Behaviour| {
        callees.aors.iter().for_each(|aor| callees.world.registrar.behave(aor, behaviour.clone()));
    };
    behave(&Behaviour::Refuse(503));
    let leaves = async {
        let granted = async {
            meanwhile(5.0).await;
            behave(&Behaviour::Accept);
        };
        let (left, ()) = tokio::join!(callees.world.relay.terminate(SOON * 2), granted);
        assert!(left?.success());
        meanwhile(0.6).await;
        Ok(())
    };
    let calls = callees.calls_until(leaves).await?;
    callees.all_rang(calls).await?;
    callees.are_registered_at(&other).await
}

/// Two nodes end and start again together; whether they were back while others wait for a node.
async fn end_and_start_together() -> Result<bool, tests::board::Missed> {
    let redis = RedisServer::start();
    let mut callees = Callees::enabled(&redis).await?;
    let mut other = callees.second_node().await?;
    let contact = |callees: &Callees, aor: &str| callees.world.registrar.contacts(aor)[0].uri.clone();
    let before: Vec<_> = callees.aors.iter().map(|aor| contact(&callees, aor)).collect();
    assert!(other.terminate(SOON).await?.success());
    assert!(callees.world.relay.terminate(SOON).await?.success());
    let ended = Instant::now();
    // The node that had nothing is there first.
    other.restart().await?;
    meanwhile(1.0).await;
    callees.world.relay.restart().await?;
    if ended.elapsed() > Duration::from_secs(4) {
        return Ok(false);
    }
    let mut calls = Vec::new();
    for aor in &callees.aors {
        let relay = callees.world.relay.upstream(tests::wire::Transport::Tls);
        calls.push(ring(callees.world.registrar.call_anew(aor, relay, &CallOptions::default()).await?, Duration::ZERO));
    }
    callees.all_rang(calls).await?;
    let after: Vec<_> = callees.aors.iter().map(|aor| contact(&callees, aor)).collect();
    assert_eq!(before, after);
    Ok(true)
}

#[tokio::test]
async fn nodes_that_end_and_start_again_together_take_nothing_from_each_other() -> Outcome {
    // A machine on which a start takes longer tells nothing.
    for _ in 0..5 {
        if end_and_start_together().await? {
            return Ok(());
        }
    }
    panic!("a start takes longer than others wait for a node");
}

#[tokio::test]
async fn instances_that_nobody_can_take_hold_up_no_hand_over() -> Outcome {
    let redis = RedisServer::start();
    let callees = Callees::enabled(&redis).await?;
    let other = callees.second_node().await?;
    let (unreadable, rest) = callees.instances.split_at(3);
    let key = |instance: &Instance| format!("sipwake:i:{{{}}}", instance.id);
    redis.ask::<()>(redis::cmd("HSET").arg(key(&unreadable[0])).arg("s").arg("what nobody has sealed"));
    redis.ask::<()>(redis::cmd("DEL").arg(key(&unreadable[1])));
    redis.ask::<()>(redis::cmd("HSET").arg(key(&unreadable[2])).arg("e").arg("never"));
    let begun = Instant::now();
    assert!(callees.world.relay.terminate(SOON).await?.success());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    for instance in rest {
        assert_eq!(other.api().read(instance).await?.json()["registration"]["state"], "registered");
    }
    Ok(())
}

#[tokio::test]
async fn calls_that_come_while_a_node_starts_again_wait_for_their_instances() -> Outcome {
    let redis = RedisServer::start();
    let mut callees = Callees::enabled(&redis).await?;
    callees.world.relay.kill_9().await?;
    callees.world.relay.relaunch()?;
    // The first calls come with the first connection that the new run accepts.
    let mut calls = Vec::new();
    for aor in &callees.aors {
        let relay = callees.world.relay.upstream(tests::wire::Transport::Tls);
        let call = || async { callees.world.registrar.call_anew(aor, relay, &CallOptions::default()).await.ok() };
        let caller = callees.world.until("the new run listens", call).await?;
        calls.push(ring(caller, Duration::ZERO));
    }
    callees.all_rang(calls).await
}

#[tokio::test]
async fn a_call_that_comes_in_a_long_start_is_opened_first_and_waits_for_none_of_the_others() -> Outcome {
    const OTHERS: u128 = 2_000;
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open().expect("a door");
    let mut callees = Callees::enabled_over(&format!("redis://{}", gate.address())).await?;
    seed(&callees.world, &redis.url(), OTHERS).await?;
    callees.world.relay.kill_9().await?;
    gate.close();
    while gate.open_slow(Duration::from_millis(150)).is_err() {
        // The last one has not gone yet.
        meanwhile(0.02).await;
    }
    callees.world.relay.relaunch()?;
    let mut calls = Vec::new();
    for aor in &callees.aors {
        let relay = callees.world.relay.upstream(tests::wire::Transport::Tls);
        let call = || async { callees.world.registrar.call_anew(aor, relay, &CallOptions::default()).await.ok() };
        let caller = callees.world.until("the new run listens", call).await?;
        calls.push(ring(caller, Duration::ZERO));
    }
    callees.all_rang(calls).await?;
    let opened = || async { callees.world.relay.metric_sum("sipwake_instances{").await };
    let when_all_had_rung = callees.world.until("metrics", opened).await?;
    assert!(when_all_had_rung < OTHERS as f64 / 2.0, "{when_all_had_rung} were opened before the last call rang");
    // And the others come.
    let all = || async { opened().await.filter(|count| *count == OTHERS as f64 + ACCOUNTS as f64) };
    callees.world.until("all instances", all).await.map(drop)
}

#[tokio::test]
async fn a_node_that_stood_still_longer_than_its_lease_pushes_nothing_that_another_one_has_pushed() -> Outcome {
    let redis = RedisServer::start();
    let callees = Callees::enabled(&redis).await?;
    let other = callees.second_node().await?;
    let pid = Pid::from_raw(callees.world.relay.pid().cast_signed()).ok_or_else(|| Missed::new("a process", "none"))?;
    kill_process(pid, Signal::STOP).map_err(|error| Missed::new("SIGSTOP", error.to_string()))?;
    callees.world.until("each of its threads stands still", || async { stands_still(pid).then_some(()) }).await?;
    // Calls wait in its socket, and are not answered; their SIP server calls the other node.
    let waiting: Vec<Caller> =
        callees.aors.iter().filter_map(|aor| callees.world.call_to(aor, &CallOptions::default()).ok()).collect();
    assert_eq!(waiting.len(), ACCOUNTS);
    callees
        .world
        .until("the other node has all", || async {
            (other.metric("sipwake_instances{state=\"registered\"}").await == Some(ACCOUNTS as f64)).then_some(())
        })
        .await?;
    kill_process(pid, Signal::CONT).map_err(|error| Missed::new("SIGCONT", error.to_string()))?;
    for caller in &waiting {
        let refused = caller.final_response(SOON).await?;
        assert!(matches!(refused.status(), Some(404 | 480 | 503)), "{refused:?}");
    }
    let pushed = callees.world.apns.next_push(Duration::from_millis(300)).await;
    assert!(pushed.is_none(), "it owns none of them: {pushed:?}");
    let mut calls = Vec::new();
    for aor in &callees.aors {
        calls.push(ring(callees.world.call_to(aor, &CallOptions::default())?, Duration::ZERO));
    }
    callees.all_rang(calls).await
}

/// A signal has come when each thread was next scheduled, which takes its time on a busy machine.
fn stands_still(process: Pid) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())) else { return false };
    let mut states = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("stat")));
    states.all(|stat| stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))))
}
