//! A real Redis Cluster of several nodes for one test.
//!
//! Invariant: its masters share the slots evenly; the last one has a replica, which takes its place when it is silent for a second or so.

use std::time::{Duration, Instant};

use redis::{Cmd, cmd};

use crate::redis_server::RedisServer;

/// How long the nodes may take to know each other, and to replace one.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SLOTS: usize = 16_384;
const MASTERS: usize = 3;

/// Three masters and the last one's replica.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// One in which each node knows each other one, and the replica is up to date.
    pub fn start() -> Self {
        let cluster = Self { nodes: (0..=MASTERS).map(|_| RedisServer::start_cluster_node()).collect() };
        let first = &cluster.nodes[0];
        for node in &cluster.nodes[1..] {
            first.ask::<()>(cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(node.port()).arg(bus_port(node)));
        }
        for (place, node) in cluster.nodes[..MASTERS].iter().enumerate() {
            let (from, to) = (place * SLOTS / MASTERS, (place + 1) * SLOTS / MASTERS - 1);
            node.ask::<()>(cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(from).arg(to));
        }
        let (replica, master) = (&cluster.nodes[MASTERS], cluster.last_master());
        let name: String = master.ask(cmd("CLUSTER").arg("MYID"));
        wait_until("all know each other", || {
            cluster.nodes.iter().all(|node| info(node, cmd("CLUSTER").arg("INFO")).contains("cluster_known_nodes:4"))
        });
        wait_until("the replica knows its master", || {
            info(replica, cmd("CLUSTER").arg("NODES")).contains(&name) && replicate(replica, &name)
        });
        wait_until("the replica is up to date", || {
            info(replica, cmd("INFO").arg("replication")).contains("master_link_status:up")
        });
        wait_until("each node says that the cluster is whole", || cluster.nodes.iter().all(says_it_is_whole));
        cluster
    }

    /// The URL that a vault is opened with: every node, the last master first.
    pub fn url(&self) -> String {
        let ports: Vec<String> = self.nodes.iter().rev().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", ports.join(","))
    }

    /// The master that has a replica.
    pub fn last_master(&self) -> &RedisServer {
        &self.nodes[MASTERS - 1]
    }

    /// The last master and its replica are silent: nobody takes its place.
    pub fn freeze_the_last(&self) {
        self.nodes[MASTERS - 1..].iter().for_each(RedisServer::freeze);
    }

    /// They answer again.
    pub fn thaw_the_last(&self) {
        self.nodes[MASTERS - 1..].iter().for_each(RedisServer::thaw);
    }

    /// From now on the last master and its replica are gone, for good, and the others serve what they have.
    pub fn lose_the_last(&mut self) {
        for node in &self.nodes {
            node.ask::<()>(cmd("CONFIG").arg("SET").arg("cluster-require-full-coverage").arg("no"));
        }
        self.nodes.truncate(MASTERS - 1);
    }

    /// Whether the last master, or its replica, has this key's slot.
    pub fn is_of_the_last(&self, key: &str) -> bool {
        let slot: usize = self.nodes[0].ask(cmd("CLUSTER").arg("KEYSLOT").arg(key));
        slot >= (MASTERS - 1) * SLOTS / MASTERS
    }

    /// Waits until the masters that answer serve all slots, the replica for a master that is silent.
    pub fn wait_until_whole(&self) {
        wait_until("the cluster is whole", || self.nodes[..MASTERS - 1].iter().all(says_it_is_whole));
    }

    /// Waits until the replica has taken its master's place.
    pub fn wait_until_replaced(&self) {
        wait_until("the replica is a master", || {
            info(&self.nodes[MASTERS], cmd("INFO").arg("replication")).contains("role:master")
        });
        self.wait_until_whole();
    }
}

fn says_it_is_whole(node: &RedisServer) -> bool {
    info(node, cmd("CLUSTER").arg("INFO")).contains("cluster_state:ok")
}

fn info(node: &RedisServer, question: &Cmd) -> String {
    node.ask(question)
}

/// False while the replica does not know that its master is one.
fn replicate(replica: &RedisServer, master: &str) -> bool {
    replica.try_to_ask::<()>(cmd("CLUSTER").arg("REPLICATE").arg(master)).is_ok()
}

/// Where the other nodes reach it.
fn bus_port(node: &RedisServer) -> u16 {
    let nodes: String = node.ask(cmd("CLUSTER").arg("NODES"));
    let port = nodes.split(['@', ',', ' ']).nth(2).and_then(|port| port.parse().ok());
    port.unwrap_or_else(|| panic!("no bus port in {nodes:?}"))
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}
