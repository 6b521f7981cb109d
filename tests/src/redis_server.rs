//! A real redis-server for one test.
//!
//! Invariant: it listens on loopback alone, on a port of its own, keeps nothing on disk but in a directory of its own,
//! and is killed when it is dropped. It starts empty, also after [`RedisServer::restart`] unless it is durable or has a dump. A missing redis-server fails
//! the test, with the way to install it.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::skewed_clock::SkewedClock;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::{Cmd, Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};

/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often another port is tried when somebody else took the first.
const PORT_ATTEMPTS: usize = 5;

/// The file that it reads when it starts.
const DUMP: &str = "dump.rdb";

/// A running redis-server.
pub struct RedisServer {
    port: u16,
    /// Where the test itself asks it, in plain TCP; the same port where it speaks no TLS.
    own_port: u16,
    mode: Mode,
    place: PathBuf,
    process: Option<Child>,
    tls: Option<Tls>,
    durable: bool,
    environment: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    One,
    Cluster,
    Sentinel { master: u16 },
}

/// The files of a server that speaks TLS.
#[derive(Clone)]
struct Tls {
    ca: Vec<u8>,
    client: (Vec<u8>, Vec<u8>),
    /// Whether it wants to know who comes.
    mutual: bool,
}

impl RedisServer {
    /// One that speaks plain TCP.
    pub fn start() -> Self {
        Self::start_as(Mode::One, None)
    }

    /// One whose wall clock is this one.
    pub fn start_by(clock: &SkewedClock) -> Self {
        Self::start_in(directory(), Mode::One, None, clock.environment())
    }

    /// One that has on disk what it was told, and has it again after [`Self::restart`].
    pub fn start_durable() -> Self {
        let mut server = Self::start();
        server.durable = true;
        server.restart();
        server
    }

    /// One that speaks TLS, for `localhost`, with a certificate of [`Self::ca`].
    pub fn start_tls() -> Self {
        Self::start_as(Mode::One, Some(false))
    }

    /// Likewise, with a certificate for other names, or one that is over since 1990.
    pub fn start_tls_for(names: &[&str], is_over: bool) -> Self {
        let place = directory();
        let tls = write_certificates(&place, false, names, is_over);
        Self::start_in(place, Mode::One, Some(tls), Vec::new())
    }

    /// One that speaks TLS with those alone that show a certificate of [`Self::client`].
    pub fn start_mutual_tls() -> Self {
        Self::start_as(Mode::One, Some(true))
    }

    /// A Cluster as [`Self::start_cluster`], which speaks TLS as [`Self::start_mutual_tls`].
    pub fn start_mutual_tls_cluster() -> Self {
        Self::start_as(Mode::Cluster, Some(true)).with_all_slots()
    }

    /// A Redis Cluster of one node that serves all slots, and refuses what spans two.
    pub fn start_cluster() -> Self {
        Self::start_as(Mode::Cluster, None).with_all_slots()
    }

    fn with_all_slots(self) -> Self {
        self.ask::<()>(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383));
        wait_until("the cluster is complete", || {
            self.ask::<String>(redis::cmd("CLUSTER").arg("INFO")).contains("cluster_state:ok")
        });
        self
    }

    /// A node of a Redis Cluster that knows no other one, and has no slots yet.
    pub(crate) fn start_cluster_node() -> Self {
        Self::start_as(Mode::Cluster, None)
    }

    /// A sentinel that watches this server under the name `main`, and speaks TLS if this one does.
    pub fn start_sentinel(&self) -> Self {
        let place = directory();
        if self.tls.is_some() {
            for file in FILES {
                std::fs::copy(self.place.join(file), place.join(file)).expect("copied");
            }
        }
        Self::start_in(place, Mode::Sentinel { master: self.port }, self.tls.clone(), Vec::new())
    }

    fn start_as(mode: Mode, mutual: Option<bool>) -> Self {
        let place = directory();
        let tls = mutual.map(|mutual| write_certificates(&place, mutual, &NAMES, false));
        Self::start_in(place, mode, tls, Vec::new())
    }

    fn start_in(place: PathBuf, mode: Mode, tls: Option<Tls>, environment: Vec<(String, String)>) -> Self {
        let mut server = Self { port: 0, own_port: 0, mode, place, process: None, tls, durable: false, environment };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port();
            server.own_port = if server.tls.is_some() { free_port() } else { server.port };
            if server.run() {
                return server;
            }
        }
        panic!("redis-server does not come up on any of {PORT_ATTEMPTS} ports");
    }

    /// The URL that a vault is opened with.
    pub fn url(&self) -> String {
        let port = self.port;
        let (scheme, host) = if self.tls.is_some() { ("rediss", "localhost") } else { ("redis", "127.0.0.1") };
        match self.mode {
            Mode::One => format!("{scheme}://{host}:{port}"),
            Mode::Cluster => format!("{scheme}+cluster://{host}:{port}"),
            Mode::Sentinel { .. } => format!("{scheme}+sentinel://{host}:{port}/main"),
        }
    }

    /// Whether it serves the slots of a Cluster.
    pub fn is_cluster(&self) -> bool {
        self.mode == Mode::Cluster
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA of a TLS server, in PEM.
    pub fn ca(&self) -> Option<&[u8]> {
        self.tls.as_ref().map(|tls| &*tls.ca)
    }

    /// A certificate and key of the CA, in PEM, that a TLS server knows.
    pub fn client(&self) -> Option<&(Vec<u8>, Vec<u8>)> {
        self.tls.as_ref().map(|tls| &tls.client)
    }

    /// Kills it, as a crash would; what it held is lost unless it is durable.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again on the same port, empty unless it is durable.
    pub fn restart(&mut self) {
        self.stop();
        wait_until("redis-server is back on its port", || self.run());
    }

    /// Makes it a replica of `master`, and waits until it has what that has; it follows no more after [`Self::follow_nobody`].
    pub fn follow(&self, master: &Self) {
        self.ask::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port));
        wait_until("the replica has what its master has", || {
            self.ask::<String>(redis::cmd("INFO").arg("replication")).contains("master_link_status:up")
                && master.ask::<u64>(redis::cmd("WAIT").arg(1).arg(1_000)) == 1
                // What sent it may outlive that (Redis 8), and while it runs the master saves nothing else.
                && master.ask::<String>(redis::cmd("INFO").arg("persistence")).contains("rdb_bgsave_in_progress:0")
        });
    }

    /// Takes away the directory that it would write to.
    pub fn lose_disk(&self) {
        std::fs::remove_dir_all(&self.place).expect("removed");
    }

    /// A replica hears nothing more of its master, and is one itself.
    pub fn follow_nobody(&self) {
        self.ask::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
    }

    /// A dump of its present data, as it would lie on its disk.
    pub fn dump(&self) -> Vec<u8> {
        self.ask::<()>(&redis::cmd("SAVE"));
        let file = self.place.join(DUMP);
        let dump = std::fs::read(&file).expect("a dump");
        std::fs::remove_file(file).expect("removed");
        dump
    }

    /// Starts it again on the same port with what it held when this was [dumped](Self::dump).
    pub fn restart_with(&mut self, dump: &[u8]) {
        self.stop();
        let file = self.place.join(DUMP);
        std::fs::write(&file, dump).expect("written");
        self.restart();
        std::fs::remove_file(file).expect("removed");
    }

    /// Stops it from running without ending it: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it something over a connection of the test's own.
    pub fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut self.connection().expect("redis-server is up")).expect("redis-server answers")
    }

    /// Likewise; its own error, where it has one.
    pub fn try_to_ask<T: FromRedisValue>(&self, command: &Cmd) -> redis::RedisResult<T> {
        command.query(&mut self.connection().expect("redis-server is up"))
    }

    /// The keys that belong to instances: without what nodes hold of themselves.
    pub fn instance_keys(&self) -> Vec<String> {
        const OF_NODES: [&str; 9] = [
            "sipwake:check:",
            // Ids alone, for a node that is to hear of their end.
            "sipwake:ended:",
            "sipwake:lease:",
            "sipwake:letters:",
            "sipwake:mark:",
            "sipwake:memo:",
            "sipwake:nodes",
            "sipwake:note:",
            "sipwake:ring",
        ];
        let is_nodes = |key: &String| OF_NODES.iter().any(|prefix| key.starts_with(prefix));
        self.keys().into_iter().filter(|key| !is_nodes(key)).collect()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self.ask(redis::cmd("KEYS").arg("*"));
        keys.sort_unstable();
        keys
    }

    /// Breaks every connection but the one that asks for it.
    pub fn kill_connections(&self) -> u64 {
        self.ask(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"))
    }

    fn connection(&self) -> redis::RedisResult<Connection> {
        redis::Client::open(format!("redis://127.0.0.1:{}", self.own_port))?.get_connection()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("redis-server is up");
        kill_process(Pid::from_child(process), signal).expect("a signal to our own child");
    }

    /// Starts the process and waits until it answers; false when it ends instead, as it does when the port is taken.
    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.envs(self.environment.iter().cloned());
        command.current_dir(&self.place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Mode::Sentinel { master } = self.mode {
            let config = self.place.join("sentinel.conf");
            std::fs::write(&config, format!("sentinel monitor main 127.0.0.1 {master} 1\n")).expect("a configuration");
            command.arg(config).arg("--sentinel");
        }
        command.args(["--bind", "127.0.0.1", "--daemonize", "no", "--port", &self.own_port.to_string()]);
        if let Some(tls) = &self.tls {
            command.args(["--tls-port", &self.port.to_string(), "--tls-replication", "yes"]);
            command.args(["--tls-auth-clients", if tls.mutual { "yes" } else { "no" }]);
            command.args(["--tls-ca-cert-file", "ca.pem", "--tls-cert-file", "leaf.pem", "--tls-key-file", "leaf.key"]);
        }
        if !matches!(self.mode, Mode::Sentinel { .. }) {
            // Uncompressed, so that a test sees in a DUMP what is there.
            let append_only = if self.durable { "yes" } else { "no" };
            command.args(["--save", "", "--appendonly", append_only, "--appendfsync", "always"]);
            command.args(["--rdbcompression", "no", "--repl-diskless-sync-delay", "0"]);
        }
        if self.mode == Mode::Cluster {
            // The bus port is the port and 10,000 unless told; free ports may be too high for that.
            let bus = free_port().to_string();
            command.args(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            // So that a node that is silent is replaced soon.
            command.args(["--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"]);
            if self.tls.is_some() {
                command.args(["--tls-cluster", "yes"]);
            }
        }
        let mut process = match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                panic!("redis-server is missing; run: apt-get install -y redis-server")
            }
            started => started.expect("redis-server starts"),
        };
        let deadline = Instant::now() + START_LIMIT;
        while !self.answers() {
            if process.try_wait().expect("our own child").is_some() {
                return false;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(LOOK_EVERY);
        }
        // The answer may be from a process that took the port before us.
        if process.try_wait().expect("our own child").is_some() {
            return false;
        }
        self.process = Some(process);
        true
    }

    fn answers(&self) -> bool {
        let ping = |mut connection: Connection| redis::cmd("PING").query::<String>(&mut connection);
        self.connection().and_then(ping).is_ok()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + START_LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// The files that [`write_certificates`] writes.
const FILES: [&str; 3] = ["ca.pem", "leaf.pem", "leaf.key"];

fn directory() -> PathBuf {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let number = STARTED.fetch_add(1, Ordering::Relaxed);
    let place = std::env::temp_dir().join(format!("sipwake-redis-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&place).expect("a directory for redis-server");
    place
}

/// The names in a certificate.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// Writes a CA, a certificate for these names, which may be over, and its key; and makes one for a client.
fn write_certificates(place: &Path, mutual: bool, names: &[&str], is_over: bool) -> Tls {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new([]).expect("parameters");
    // OpenSSL takes a certificate for self-signed whose names are both the same.
    ca.distinguished_name.push(rcgen::DnType::CommonName, "a CA of the tests");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a CA").pem();
    let issuer = Issuer::new(ca, ca_key);
    let issue = |names: &[&str], is_over: bool| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut certificate = CertificateParams::new(names).expect("parameters");
        if is_over {
            certificate.not_after = rcgen::date_time_ymd(1990, 1, 1);
        }
        let certificate = certificate.signed_by(&key, &issuer);
        (certificate.expect("a certificate").pem(), key.serialize_pem())
    };
    let (leaf, key) = issue(names, is_over);
    for (file, text) in FILES.iter().zip([&ca_certificate, &leaf, &key]) {
        std::fs::write(place.join(file), text).expect("written");
    }
    let (client, client_key) = issue(&["relay.example.net"], false);
    Tls { ca: ca_certificate.into_bytes(), client: (client.into_bytes(), client_key.into_bytes()), mutual }
}
