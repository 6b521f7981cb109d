//! A real redis-server for one test.
//!
//! Invariant: it listens on loopback alone, on a port of its own, keeps nothing on disk but in a directory of its own,
//! and is killed when it is dropped. It starts empty, also after [`RedisServer::restart`] unless it is durable. A missing redis-server fails
//! the test, with the way to install it.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::{Cmd, Connection, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};

/// How long it may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often another port is tried when somebody else took the first.
const PORT_ATTEMPTS: usize = 5;

/// A running redis-server.
pub struct RedisServer {
    port: u16,
    mode: Mode,
    place: PathBuf,
    process: Option<Child>,
    ca: Option<Vec<u8>>,
    durable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Tls,
    Cluster,
    Sentinel { master: u16 },
}

impl RedisServer {
    /// One that speaks plain TCP.
    pub fn start() -> Self {
        Self::start_as(Mode::Plain)
    }

    /// One that has on disk what it was told, and has it again after [`Self::restart`].
    pub fn start_durable() -> Self {
        let mut server = Self::start();
        server.durable = true;
        server.restart();
        server
    }

    /// One that speaks only TLS, for `localhost`, with a certificate of [`Self::ca`].
    pub fn start_tls() -> Self {
        Self::start_as(Mode::Tls)
    }

    /// A Redis Cluster of one node that serves all slots, and refuses what spans two.
    pub fn start_cluster() -> Self {
        let server = Self::start_as(Mode::Cluster);
        server.ask::<()>(redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16_383));
        wait_until("the cluster is complete", || {
            server.ask::<String>(redis::cmd("CLUSTER").arg("INFO")).contains("cluster_state:ok")
        });
        server
    }

    /// A sentinel that watches this server under the name `main`.
    pub fn start_sentinel(&self) -> Self {
        Self::start_as(Mode::Sentinel { master: self.port })
    }

    fn start_as(mode: Mode) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("sipwake-redis-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&place).expect("a directory for redis-server");
        let ca = (mode == Mode::Tls).then(|| write_certificates(&place));
        let mut server = Self { port: 0, mode, place, process: None, ca, durable: false };
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port();
            if server.run() {
                return server;
            }
        }
        panic!("redis-server does not come up on any of {PORT_ATTEMPTS} ports");
    }

    /// What a vault is opened with.
    pub fn url(&self) -> String {
        let port = self.port;
        match self.mode {
            Mode::Plain => format!("redis://127.0.0.1:{port}"),
            Mode::Tls => format!("rediss://localhost:{port}"),
            Mode::Cluster => format!("redis+cluster://127.0.0.1:{port}"),
            Mode::Sentinel { .. } => format!("redis+sentinel://127.0.0.1:{port}/main"),
        }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The CA of a TLS server, in PEM.
    pub fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
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

    /// Stops it from running without ending it: connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it something over a connection of the test's own (not for a TLS server).
    pub fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        command.query(&mut self.connection().expect("redis-server is up")).expect("redis-server answers")
    }

    /// The keys that belong to instances: without what nodes hold of themselves.
    pub fn instance_keys(&self) -> Vec<String> {
        const OF_NODES: [&str; 6] =
            ["sipwake:lease:", "sipwake:letters:", "sipwake:mark:", "sipwake:memo:", "sipwake:nodes", "sipwake:note:"];
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
        redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?.get_connection()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("redis-server is up");
        kill_process(Pid::from_child(process), signal).expect("a signal to our own child");
    }

    /// Starts the process and waits until it answers; false when it ends instead, as it does when the port is taken.
    fn run(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.current_dir(&self.place).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if let Mode::Sentinel { master } = self.mode {
            let config = self.place.join("sentinel.conf");
            std::fs::write(&config, format!("sentinel monitor main 127.0.0.1 {master} 1\n")).expect("a configuration");
            command.arg(config).arg("--sentinel");
        }
        let port = self.port.to_string();
        command.args(["--bind", "127.0.0.1", "--daemonize", "no"]);
        match self.mode {
            Mode::Tls => command.args(["--port", "0", "--tls-port", &port, "--tls-auth-clients", "no"]).args([
                "--tls-cert-file",
                "leaf.pem",
                "--tls-key-file",
                "leaf.key",
            ]),
            _ => command.args(["--port", &port]),
        };
        if !matches!(self.mode, Mode::Sentinel { .. }) {
            // Uncompressed, so that a test sees in a DUMP what is there.
            let append_only = if self.durable { "yes" } else { "no" };
            command.args(["--save", "", "--appendonly", append_only, "--appendfsync", "always"]);
            command.args(["--rdbcompression", "no"]);
        }
        if self.mode == Mode::Cluster {
            // The bus port is the port and 10,000 unless told; free ports may be too high for that.
            let bus = free_port().to_string();
            command.args(["--cluster-enabled", "yes", "--cluster-port", &bus]);
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
        // An answer may have come from whoever took the port before us.
        if process.try_wait().expect("our own child").is_some() {
            return false;
        }
        self.process = Some(process);
        true
    }

    fn answers(&self) -> bool {
        if self.mode == Mode::Tls {
            return std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        }
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

/// Writes a certificate for `localhost` and its key; its CA, in PEM.
fn write_certificates(place: &Path) -> Vec<u8> {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new([]).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).expect("a CA");
    let issuer = Issuer::new(ca, ca_key);
    let leaf_key = KeyPair::generate().expect("a key");
    let leaf = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("a certificate");
    std::fs::write(place.join("leaf.pem"), leaf.pem()).expect("written");
    std::fs::write(place.join("leaf.key"), leaf_key.serialize_pem()).expect("written");
    ca_certificate.pem().into_bytes()
}
