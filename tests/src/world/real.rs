//! A world whose SIP server is a real Kamailio; its callers and phones are in [`stock`](super::stock).
//!
//! Invariant: so many worlds run at once as `WORLDS` says, for each is several processes; [`World::end`] looks through
//! everything that the relay logged, at the level trace.

use std::ops::Deref;
use std::time::Duration;

use relay::domain::Word as _;
use relay::vault::{Keyring, Receipt, verify_receipt};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Outcome, SipServer, World, apple, google};
use crate::api_client::Instance;
use crate::board::Missed;
use crate::digest::{Algorithm, token};
use crate::dns::{Dns, Record};
use crate::kamailio::{self, Kamailio, Located, Manner, Reach};
use crate::redis_server::RedisServer;
use crate::relay_process::RelayProcess;
use crate::relay_setup::{Ports, Setup};
use crate::wire::Transport;

/// The most that one step may take; the machine may be busy with other tests, and each of these starts programs.
pub const SOON: Duration = Duration::from_secs(30);

/// Worlds that run at once; each is half a dozen processes, which mostly wait.
static WORLDS: Semaphore = Semaphore::const_new(8);

/// The components of a world.
#[derive(Clone)]
pub struct Plan {
    /// How the relay reaches the SIP server.
    pub transport: Transport,
    /// How the SIP server reaches the relay.
    pub reach: Reach,
    /// The SIP server's digest.
    pub algorithm: Algorithm,
    /// `apns` or `fcm`.
    pub provider: &'static str,
    /// How long a call waits for its device.
    pub ring_timeout: &'static str,
    /// Whether the store is a Redis.
    pub redis: bool,
    /// The lifetime of a registration, as the relay is configured.
    pub register_expires: &'static str,
    /// The shortest registration that the SIP server takes, in seconds.
    pub min_expires: u32,
    /// The most Contacts that the SIP server takes of the account; 0: as many as come.
    pub max_contacts: u32,
    /// How the SIP server treats REGISTERs beside that.
    pub manner: Manner,
    /// The name by which devices know the edge.
    pub edge_host: &'static str,
    /// Calls wait at the SIP server until the relay has woken a device.
    pub wake: bool,
    /// How long a call waits there for that, in milliseconds.
    pub wake_wait_ms: u32,
    /// Whether a caller from the SIP server's domain must authenticate.
    pub asks_callers: bool,
    /// The relay finds the SIP server by its domain, which is all that some devices name.
    pub by_domain: bool,
}

impl Plan {
    /// An account behind this transport; MD5, APNs, 30 seconds of patience, the store in memory.
    pub fn over(transport: Transport) -> Self {
        Self {
            transport,
            reach: Reach::Flow,
            algorithm: Algorithm::Md5,
            provider: "apns",
            ring_timeout: "30s",
            redis: false,
            register_expires: "600s",
            min_expires: 0,
            max_contacts: 0,
            manner: Manner::Plain,
            edge_host: "127.0.0.1",
            wake: false,
            wake_wait_ms: 20_000,
            asks_callers: false,
            by_domain: false,
        }
    }
}

/// A Kamailio with Alice's account and Bob's, and what else is there once for each world.
pub struct RealServer {
    /// The components of the world.
    pub plan: Plan,
    /// Alice's user, who appears in her AOR.
    pub user: String,
    /// Her password.
    pub password: String,
    /// Bob's user and password.
    pub other: (String, String),
    /// The relay's store, if it is one.
    pub redis: Option<RedisServer>,
    kamailio: Kamailio,
    /// The logs of the relay's earlier lives.
    earlier_logs: Vec<String>,
    _dns: Option<Dns>,
    _permit: SemaphorePermit<'static>,
}

impl World<RealServer> {
    /// Starts everything.
    ///
    /// # Errors
    /// [`Missed`] when something is not installed or does not start.
    pub async fn real(plan: Plan) -> Result<Self, Missed> {
        Self::real_with(plan, |_| {}).await
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Self::real`].
    pub async fn real_with(plan: Plan, change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let permit = WORLDS.acquire().await.expect("the semaphore is never closed");
        let mut world = Self::around(async |authority, setup| {
            let [(user, password), other] =
                ["alice", "bob"].map(|name| (format!("{name}-{}", token()), format!("pass-{}", token())));
            let wake = plan.wake.then(|| kamailio::Wake {
                api: ([127, 0, 0, 1], setup.ports.api).into(),
                key: setup.sip_server("kamailio", &["example.test"]),
                wait_ms: plan.wake_wait_ms,
            });
            let settings = kamailio::Settings {
                users: vec![(user.clone(), password.clone()), other.clone()],
                algorithm: plan.algorithm,
                reach: plan.reach,
                min_expires: plan.min_expires,
                max_contacts: plan.max_contacts,
                manner: plan.manner,
                asks_callers: plan.asks_callers,
                wake,
                ..kamailio::Settings::default()
            };
            let kamailio = Kamailio::start(settings, authority).await?;
            let redis = plan.redis.then(RedisServer::start);
            let dns = if plan.by_domain { Some(names(&kamailio, plan.transport).await?) } else { None };
            configure(setup, &plan, redis.as_ref(), dns.as_ref());
            change(setup);
            let (plan, earlier_logs) = (plan.clone(), Vec::new());
            Ok(RealServer { plan, user, password, other, redis, kamailio, earlier_logs, _dns: dns, _permit: permit })
        })
        .await?;
        world.transport = world.registrar.plan.transport;
        for (name, secret) in [
            ("the account's user", world.registrar.user.as_str()),
            ("the caller's address", &format!("carol@{}", world.registrar.domain())),
            ("the caller's name", "Carol"),
            ("an Authorization", "Digest username"),
            ("an Authorization", "Bearer "),
        ] {
            world.secrets.keep(name, secret);
        }
        Ok(world)
    }

    /// Starts everything, and Alice lends her account.
    ///
    /// # Errors
    /// As [`Self::real`] and [`Self::lend_own`].
    pub async fn real_and_lent(plan: Plan) -> Result<(Self, Instance), Missed> {
        let world = Self::real(plan).await?;
        let alice = world.lend_own().await?;
        Ok((world, alice))
    }

    /// Alice lends her account by another device, whose push token is new: 201. Devices of one account may share a Contact.
    ///
    /// # Errors
    /// [`Missed`] for another answer.
    pub async fn lend_another(&self) -> Result<Instance, Missed> {
        let instance = self.enable_as(&self.new_enable_request()).await?;
        assert_eq!(instance.answer["registration"]["status"], 200);
        let edge = (self.registrar.plan.edge_host, self.relay.setup().ports.edge);
        assert_eq!(instance.edge, format!("sip:{}:{};transport=tls", edge.0, edge.1));
        self.secrets.keep_ha1("the instance's", &instance.id, "sipwake", &instance.secret);
        Ok(instance)
    }

    /// Alice lends her account: 201, and Kamailio has one Contact more.
    ///
    /// # Errors
    /// [`Missed`] for another answer, or without the Contact.
    pub async fn lend_own(&self) -> Result<Instance, Missed> {
        let already = self.location().await?.len();
        let instance = self.lend_another().await?;
        self.await_location(already + 1).await?;
        Ok(instance)
    }

    /// The body that enables push for Alice on a device of the plan's push service that nobody else has.
    pub fn new_enable_request(&self) -> Value {
        self.enable_request_for(json!({"call_push": new_target(self.registrar.plan.provider), "label": "a phone"}))
    }

    /// The Contacts that Kamailio has for the account.
    ///
    /// # Errors
    /// [`Missed`] when it does not tell.
    pub async fn location(&self) -> Result<Vec<Located>, Missed> {
        self.registrar.location(&self.registrar.user).await
    }

    /// Waits until Kamailio has so many Contacts of the account.
    ///
    /// # Errors
    /// [`Missed`] when it has others.
    pub async fn await_location(&self, count: usize) -> Result<Vec<Located>, Missed> {
        self.registrar.await_location(&self.registrar.user, count, SOON).await
    }

    /// Alice's push ends: the receipt is right and signed by this relay's keyring, and Kamailio has no Contact of it.
    ///
    /// # Errors
    /// [`Missed`] when the Contact stays.
    pub async fn leave_last(&self, instance: &Instance) -> Outcome {
        let before = self.location().await?.len();
        self.end_push(instance, true).await?;
        self.await_location(before - 1).await.map(drop)
    }

    /// The same for one of several devices: the others keep the Contact.
    ///
    /// # Errors
    /// [`Missed`] without an answer.
    ///
    /// # Panics
    /// When the Contact goes or changes.
    pub async fn leave(&self, instance: &Instance) -> Outcome {
        let before = self.location().await?;
        self.end_push(instance, false).await?;
        let after = self.location().await?;
        assert_eq!(after.len(), before.len());
        assert_eq!(after[0].uri, before[0].uri);
        Ok(())
    }

    async fn end_push(&self, instance: &Instance, unregistered: bool) -> Outcome {
        let answer = self.disable(instance).await?;
        let receipt: Receipt = serde_json::from_value(answer.clone()).expect("a receipt");
        assert_eq!((receipt.instance.as_str(), receipt.reason.word()), (instance.id.as_str(), "disabled"));
        assert_eq!(receipt.unregistered, unregistered);
        let keyring = Keyring::open(&self.authority.directory().join("keyring")).expect("the relay's keyring");
        verify_receipt(&receipt, &keyring.receipt_public_key()).expect("a receipt of this relay");
        assert_eq!(self.disable(instance).await?, answer, "the receipt, for a day");
        assert_eq!(self.api.read(instance).await?.status, 404);
        Ok(())
    }

    /// Starts a second node with the relay's store and keyring.
    ///
    /// # Errors
    /// [`Missed`] when it does not start.
    pub async fn another_node(&self) -> Result<RelayProcess, Missed> {
        let mut setup = self.relay.setup().clone();
        setup.ports = Ports::default();
        publish(&mut setup, self.registrar.plan.edge_host);
        RelayProcess::start(setup).await
    }

    /// Starts a second node and goes on with it; gives the first, which lives on.
    ///
    /// # Errors
    /// As [`Self::another_node`].
    pub async fn move_to_another_node(&mut self) -> Result<RelayProcess, Missed> {
        let other = self.another_node().await?;
        self.api = other.api();
        Ok(std::mem::replace(&mut self.relay, other))
    }

    /// Ends a node whose log is to be looked through at the end.
    pub fn keep_log_of(&mut self, node: RelayProcess) {
        self.registrar.earlier_logs.push(node.log());
    }

    /// Goes on with another node; gives the instance as its device finds it there.
    pub fn go_on_with(&mut self, other: RelayProcess, instance: &Instance) -> Instance {
        self.registrar.earlier_logs.push(self.relay.log());
        self.relay = other;
        self.api = self.relay.api();
        let (host, port) = (self.registrar.plan.edge_host, self.relay.setup().ports.edge);
        Instance { edge: format!("sip:{host}:{port};transport=tls"), ..instance.clone() }
    }

    /// Waits until Kamailio has one Contact of the account, and not `earlier`.
    ///
    /// # Errors
    /// [`Missed`] when it does not come to that.
    pub async fn await_moved(&self, earlier: &Located) -> Outcome {
        let moved = || async {
            let contacts = self.location().await.ok()?;
            (contacts.len() == 1 && contacts[0].uri != earlier.uri).then_some(())
        };
        let moved = self.until("a Contact of the other node", moved).await;
        moved.map_err(|missed| Missed::new(missed.awaited, format!("{}\n{}", missed.seen, self.registrar.output())))
    }

    /// Starts the relay again after its end.
    ///
    /// # Errors
    /// [`Missed`] when it does not get ready.
    pub async fn restart(&mut self) -> Outcome {
        self.registrar.earlier_logs.push(self.relay.log());
        self.relay.restart().await
    }

    /// The secrets that must not be in the memory of a relay that has nothing to do with the account at the moment: Alice's password and its HA1s, as
    /// text and as bytes.
    pub fn credentials(&self) -> Vec<(String, Vec<u8>)> {
        let RealServer { user, password, .. } = &self.registrar;
        let mut all = vec![("the password".to_owned(), password.clone().into_bytes())];
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let (name, ha1) = (algorithm.name(), algorithm.ha1(user, self.registrar.domain(), password));
            let pairs = ha1.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
            let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex digits")).collect();
            all.push((format!("the HA1 ({name}), as bytes"), bytes));
            all.push((format!("the HA1 ({name})"), ha1.into_bytes()));
        }
        all
    }

    /// Waits until none of `needles` stands in the relay's memory.
    ///
    /// # Errors
    /// [`Missed`] when the memory may not be read.
    ///
    /// # Panics
    /// When one stays.
    pub async fn await_clean_memory(&self, needles: &[(String, Vec<u8>)], within: Duration) -> Outcome {
        let held = self.relay.memory_keeps(needles, within).await?;
        assert_eq!(held, Vec::<String>::new(), "the relay's memory holds it still");
        Ok(())
    }

    /// Alice's push ends, and with it the world.
    ///
    /// # Errors
    /// As [`Self::leave_last`] and [`Self::end`].
    pub async fn farewell(self, instance: &Instance) -> Outcome {
        self.leave_last(instance).await?;
        self.end().await
    }

    /// The end: nobody objected to anything, and the log told nothing.
    ///
    /// # Errors
    /// [`Missed`] with the objections.
    ///
    /// # Panics
    /// When a log told a secret, or nothing at all.
    pub async fn end(self) -> Outcome {
        self.content()?;
        assert!(self.relay.is_running(), "{}", self.relay.log());
        let mut logs = self.registrar.earlier_logs.clone();
        logs.push(self.relay.log());
        for log in &logs {
            self.secrets.assert_none_in("the log at trace level", log);
            assert!(!log.contains("panicked"), "{log}");
            assert!(log.contains("event=\"serving\""), "the log says nothing at all");
        }
        Ok(())
    }
}

/// A push target as the service would give one.
pub fn new_target(provider: &str) -> Value {
    match provider {
        "apns" => {
            let mut target = apple(&(0..4).map(|_| token()).collect::<String>());
            target["environment"] = json!("production");
            target
        }
        _ => google(&format!("device-{}:{}", token(), token())),
    }
}

fn configure(setup: &mut Setup, plan: &Plan, redis: Option<&RedisServer>, dns: Option<&Dns>) {
    setup.transports = vec![plan.transport];
    setup.ring_timeout = plan.ring_timeout.to_owned();
    setup.register_expires = plan.register_expires.to_owned();
    setup.log = "trace".to_owned();
    setup.store = redis.map_or_else(|| setup.store.clone(), RedisServer::url);
    setup.upstream = dns.map(|dns| format!("name_servers = [\"{}\"]\n", dns.address())).unwrap_or_default();
    publish(setup, plan.edge_host);
}

/// Devices know the edge by this name.
fn publish(setup: &mut Setup, edge_host: &str) {
    const VARIABLE: &str = "SIPWAKE_EDGE__PUBLIC";
    setup.environment.retain(|(name, _)| name != VARIABLE);
    setup.environment.push((VARIABLE.to_owned(), format!("{edge_host}:{}", setup.ports.edge)));
}

/// The DNS records of Kamailio's domain.
async fn names(kamailio: &Kamailio, transport: Transport) -> Result<Dns, Missed> {
    let service = match transport {
        Transport::Udp => "_sip._udp",
        Transport::Tcp => "_sip._tcp",
        Transport::Tls | Transport::Wss => "_sips._tcp",
    };
    let port = kamailio.address(transport).port();
    let records = vec![
        Record::srv(&format!("{service}.{}", kamailio.domain()), 0, 0, port, "host.example.test"),
        Record::address("host.example.test", "127.0.0.1"),
    ];
    Ok(Dns::start(records).await?)
}

impl Deref for RealServer {
    type Target = Kamailio;

    fn deref(&self) -> &Kamailio {
        &self.kamailio
    }
}

impl SipServer for RealServer {
    fn uri(&self, transport: Transport) -> String {
        self.kamailio.uri(transport)
    }

    fn aor(&self, user: &str) -> String {
        self.kamailio.aor(user)
    }

    fn domain(&self) -> &str {
        self.kamailio.domain()
    }

    fn alice(&self) -> &str {
        &self.user
    }

    fn password(&self, user: &str) -> Option<String> {
        let (other, password) = &self.other;
        if user == self.user { Some(self.password.clone()) } else { (user == other).then(|| password.clone()) }
    }

    fn users(&self) -> Vec<String> {
        vec![self.user.clone(), self.other.0.clone()]
    }

    /// No violations are recorded: the tests concerned read the log.
    fn violations(&self) -> Vec<String> {
        Vec::new()
    }
}
