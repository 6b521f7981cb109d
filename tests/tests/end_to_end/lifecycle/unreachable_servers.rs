//! One of two nodes reaches the store and not a SIP server: the other one has its accounts soon. Where no node reaches the server, none goes anywhere.

use std::time::Duration;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::dns::{Dns, Record};
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::registrar::Settings;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World, apple, google};
use tokio::time::sleep;

use super::Outcome;

const DOMAIN: &str = "example.test";
const GIVEN: &str = "sipwake_instances_given_total";
/// What makes of a minute of silence 1.2 s, and of the ten that are waited at most 12 s.
const MINUTES: f64 = 0.02;
/// Longer than both nodes need to ask each other several times.
const A_WHILE: Duration = Duration::from_secs(7);

/// A world whose node reaches the SIP server through a door, and what a second node needs for another one.
struct Cluster {
    redis: RedisServer,
    world: World,
    door: Gate,
    name_servers: [Dns; 2],
}

fn upstream(dns: &Dns) -> String {
    format!("name_servers = [\"{}\"]\nfailback_interval = \"1s\"\n", dns.address())
}

/// The server of the domain is at this port.
fn lead_to(dns: &Dns, port: u16) {
    let service = "_sips._tcp.provider.test";
    dns.set(vec![
        Record::naptr(DOMAIN, 10, 10, "SIPS+D2T", service),
        Record::srv(service, 1, 0, port, "host.example.test"),
        Record::address("host.example.test", "127.0.0.1"),
    ]);
}

fn account(user: &str, password: &str, device: Value) -> Value {
    let aor = format!("sip:{user}@{DOMAIN}");
    json!({"account": {"aor": aor, "auth_username": user, "password": password}, "device": {"call_push": device}})
}

async fn enabled(node: &RelayProcess, request: &Value) -> Result<Instance, Missed> {
    Ok(node.api().enabled(request).await?)
}

impl Cluster {
    async fn begin() -> Result<Self, Missed> {
        let redis = RedisServer::start();
        let name_servers = [Dns::start(Vec::new()).await?, Dns::start(Vec::new()).await?];
        let server = |settings: &mut Settings| {
            settings.contacts = 2;
            settings.users.insert("carol".to_owned(), "carols-password".to_owned());
        };
        let change = |setup: &mut Setup| {
            setup.store = redis.url();
            setup.upstream = upstream(&name_servers[0]);
            setup.minutes = MINUTES;
        };
        let world = World::between(server, change).await?;
        let mut door = Gate::closed(world.registrar.address(Transport::Tls));
        door.open()?;
        lead_to(&name_servers[0], door.address().port());
        Ok(Self { redis, world, door, name_servers })
    }

    /// A second node, which finds the SIP server at this port.
    async fn second_node(&self, port: u16) -> Result<RelayProcess, Missed> {
        lead_to(&self.name_servers[1], port);
        let mut setup = self.world.relay.setup().clone();
        setup.ports = Ports::default();
        setup.upstream = upstream(&self.name_servers[1]);
        RelayProcess::start(setup).await
    }

    async fn await_registered(&self, node: &RelayProcess, count: f64) -> Outcome {
        let look = || async {
            let registered = node.metric("sipwake_instances{state=\"registered\"}").await?;
            (registered == count).then_some(())
        };
        self.world.until(&format!("{count} instances that are registered"), look).await
    }

    /// A call to Alice rings, because a push was taken; the push.
    async fn rings(&self) -> Result<Value, Missed> {
        let caller = self.world.call_to(&self.world.aor(), &CallOptions::default())?;
        let push = self.world.push().await?;
        caller.expect(180, SOON).await?;
        caller.cancel().await?;
        caller.final_response(SOON).await?;
        Ok(push)
    }
}

async fn given(node: &RelayProcess) -> f64 {
    node.metric(GIVEN).await.unwrap_or(-1.0)
}

#[tokio::test]
async fn accounts_go_to_the_node_that_reaches_their_sip_server_and_a_call_rings_there() -> Outcome {
    let mut cluster = Cluster::begin().await?;
    let other = cluster.second_node(cluster.world.registrar.address(Transport::Tls).port()).await?;
    let node = &cluster.world.relay;
    let alice = enabled(node, &account("alice", "wonderland", apple(TOKEN))).await?;
    let tablet = enabled(node, &account("alice", "wonderland", google(FCM_TOKEN))).await?;
    let carol = enabled(node, &account("carol", "carols-password", google("carols-token"))).await?;
    cluster.await_registered(node, 3.0).await?;
    cluster.door.close();
    let node = &cluster.world.relay;
    cluster.await_registered(&other, 3.0).await?;
    node.await_log("sip-server-reached-elsewhere", SOON).await?;
    let all = || async { (given(node).await == 3.0).then_some(()) };
    cluster.world.until("three that were given", all).await?;
    let push = cluster.rings().await?;
    let edge = format!("{}:{}", other.setup().edge_ip, other.setup().ports.edge);
    assert_eq!(push["edge"], json!(edge), "{push}");
    // The first node has none of them any more, and asks for them.
    cluster.world.await_metric("sipwake_instances{state=\"retrying\"}", 0.0).await?;
    for instance in [&alice, &tablet, &carol] {
        let read = cluster.world.api.read(instance).await?;
        assert_eq!((read.status, &read.json()["registration"]["state"]), (200, &json!("registered")));
    }
    let receipt = cluster.world.api.disable(&carol).await?;
    assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &json!(true)), "{}", receipt.text());
    assert_eq!(cluster.world.registrar.contacts(&format!("sip:carol@{DOMAIN}")).len(), 0);
    // The way is well again: what is lent here from now on stays, and nothing comes back.
    cluster.door.open()?;
    let node = &cluster.world.relay;
    let again = enabled(node, &account("carol", "carols-password", google("another-token"))).await?;
    cluster.await_registered(node, 1.0).await?;
    assert_eq!((given(node).await, given(&other).await), (3.0, 0.0));
    assert_eq!(cluster.world.api.read(&again).await?.json()["registration"]["state"], "registered");
    assert_eq!(cluster.world.api.disable(&alice).await?.status, 200);
    assert_eq!(cluster.redis.instance_keys().iter().filter(|key| key.contains(&alice.id)).count(), 0);
    Ok(())
}

#[tokio::test]
async fn while_no_node_reaches_the_sip_server_accounts_do_not_go_to_and_fro() -> Outcome {
    for both_have_accounts in [true, false] {
        let mut cluster = Cluster::begin().await?;
        let other = cluster.second_node(cluster.door.address().port()).await?;
        let node = &cluster.world.relay;
        enabled(node, &account("alice", "wonderland", apple(TOKEN))).await?;
        if both_have_accounts {
            enabled(&other, &account("carol", "carols-password", google("carols-token"))).await?;
        }
        cluster.door.close();
        sleep(A_WHILE).await;
        let node = &cluster.world.relay;
        let moved = given(node).await + given(&other).await;
        // A node that has nothing there does not know whether it reaches the server: it tries one account.
        let may_move = if both_have_accounts { 0.0 } else { 1.0 };
        assert_eq!(moved, may_move, "both have accounts: {both_have_accounts}");
        sleep(A_WHILE).await;
        assert_eq!(given(node).await + given(&other).await, moved);
        cluster.door.open()?;
        let stands = || async {
            let contacts = cluster.world.registrar.contacts(&cluster.world.aor());
            contacts.first().filter(|contact| contact.flow.is_open()).map(|_| ())
        };
        cluster.world.until("its registration", stands).await?;
        cluster.rings().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_is_alone_keeps_what_it_has() -> Outcome {
    let mut cluster = Cluster::begin().await?;
    enabled(&cluster.world.relay, &account("alice", "wonderland", apple(TOKEN))).await?;
    cluster.door.close();
    cluster.world.await_metric("sipwake_instances{state=\"retrying\"}", 1.0).await?;
    sleep(A_WHILE).await;
    assert_eq!(given(&cluster.world.relay).await, 0.0);
    cluster.door.open()?;
    cluster.await_registered(&cluster.world.relay, 1.0).await?;
    cluster.rings().await.map(drop)
}

#[tokio::test]
async fn what_a_node_cannot_push_for_goes_to_one_that_can_and_stays_while_there_is_none() -> Outcome {
    let redis = RedisServer::start();
    let mut world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let instance = world.enable().await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    setup.apps[0].apns = None;
    let other = RelayProcess::start(setup).await?;
    let is_registered_at = async |node: &RelayProcess| {
        let answer = node.api().read(&instance).await.ok()?.json();
        (answer["registration"]["state"] == "registered").then_some(())
    };
    world.relay.kill_9().await?;
    world.until("the other node has it", || is_registered_at(&other)).await?;
    let warns =
        async || other.operator().get("/readyz").await.ok().map(|answer| answer.text().contains("app: 1 account"));
    world.until("a warning", || async { warns().await.filter(|warns| *warns) }).await?;
    assert_eq!(other.setup().metric(GIVEN).await, Some(0.0), "nobody else is there");
    world.relay.restart().await?;
    let is_given = || async { (other.setup().metric(GIVEN).await? >= 1.0).then_some(()) };
    world.until("given back", is_given).await?;
    world.until("the first node has it", || is_registered_at(&world.relay)).await?;
    world.until("no warning", || async { warns().await.filter(|warns| !*warns) }).await?;
    Ok(())
}
