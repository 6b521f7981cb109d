//! One account at one real SIP server, one relay, the push stand-ins, and everything that must never be told.
//!
//! Invariant: a world has ports, names and secrets of its own; two worlds at most run at once, for each is several
//! processes; [`World::end`] looks through everything that the relay logged, at the level trace.

use std::time::{Duration, Instant};

use relay::domain::Word as _;
use relay::vault::{Keyring, Receipt, verify_receipt};
use serde_json::{Value, json};
use tests::api_client::{ApiClient, Instance};
use tests::apns::Apns;
use tests::authority::Authority;
use tests::baresip::{Account, Baresip};
use tests::digest::{Algorithm, token};
use tests::fcm::Fcm;
use tests::kamailio::{self, Kamailio, Located, Manner, Reach};
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{App, Ports, Setup};
use tests::sipp::{Scenario, Sipp};
use tests::wire::Transport;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most that one step may take; the machine may be busy with other tests.
pub const SOON: Duration = Duration::from_secs(30);

/// Worlds that run at once; each is half a dozen processes, which mostly wait.
static WORLDS: Semaphore = Semaphore::const_new(8);

/// Waits for its turn to start a world, which it has until the permit is dropped.
pub async fn turn() -> SemaphorePermit<'static> {
    WORLDS.acquire().await.expect("the semaphore is never closed")
}

/// What a world is made of.
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
    /// The SIP server holds calls until the relay has woken a device.
    pub wake: bool,
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
        }
    }
}

/// Everything that takes part but the phone and the caller.
pub struct World {
    pub plan: Plan,
    pub authority: Authority,
    pub kamailio: Kamailio,
    pub apns: Apns,
    pub fcm: Fcm,
    pub redis: Option<RedisServer>,
    pub relay: RelayProcess,
    pub api: ApiClient,
    /// The account's user; appears in its AOR.
    pub user: String,
    pub password: String,
    pub push_token: String,
    /// What must never stand in the log, each with a name for the report.
    secrets: Vec<(String, String)>,
    /// The logs of the relay's earlier lives.
    earlier_logs: Vec<String>,
    _permit: SemaphorePermit<'static>,
}

impl World {
    /// Starts everything.
    pub async fn start(plan: Plan) -> Self {
        let permit = turn().await;
        let authority = Authority::new();
        let (user, password) = (format!("alice-{}", token()), format!("pass-{}", token()));
        let (apns, fcm) = tokio::join!(Apns::start(&authority), Fcm::start(&authority));
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        let wake = plan.wake.then(|| kamailio::Wake {
            api: ([127, 0, 0, 1], setup.ports.api).into(),
            key: setup.sip_server("kamailio", &["example.test"]),
        });
        let settings = kamailio::Settings {
            users: vec![(user.clone(), password.clone())],
            algorithm: plan.algorithm,
            reach: plan.reach,
            min_expires: plan.min_expires,
            max_contacts: plan.max_contacts,
            manner: plan.manner,
            wake,
            ..kamailio::Settings::default()
        };
        let kamailio = Kamailio::start(settings, &authority).await.unwrap();
        let redis = plan.redis.then(RedisServer::start);
        setup.transports = vec![plan.transport];
        setup.ring_timeout = plan.ring_timeout.to_owned();
        setup.register_expires = plan.register_expires.to_owned();
        setup.log = "trace".to_owned();
        if let Some(redis) = &redis {
            setup.store = redis.url();
        }
        setup.keyring = Some(authority.directory().join("keyring"));
        let public = format!("{}:{}", plan.edge_host, setup.ports.edge);
        setup.environment.push(("SIPWAKE_EDGE__PUBLIC".to_owned(), public));
        let relay = RelayProcess::start(setup).await.unwrap();
        let push_token = new_push_token(plan.provider);
        let mut world = Self {
            api: relay.api(),
            plan,
            authority,
            kamailio,
            apns,
            fcm,
            redis,
            relay,
            user,
            password,
            push_token,
            secrets: Vec::new(),
            earlier_logs: Vec::new(),
            _permit: permit,
        };
        world.keep_the_first_secrets();
        world
    }

    /// The body that enables push for the account.
    pub fn wish(&self) -> Value {
        json!({
            "account": {
                "aor": self.kamailio.aor(&self.user), "auth_username": self.user, "password": self.password,
                "registrar": self.kamailio.uri(self.plan.transport),
            },
            "device": {
                "call_push": self.push_target(&self.push_token),
                "label": "a phone",
            },
        })
    }

    /// A push target of the plan's provider.
    pub fn push_target(&self, token: &str) -> Value {
        match self.plan.provider {
            "apns" => json!({"provider": "apns", "token": token, "environment": "production"}),
            provider => json!({"provider": provider, "token": token}),
        }
    }

    /// Enables push for the account: 201, and Kamailio has the relay's Contact.
    pub async fn enable(&mut self) -> Instance {
        let already = self.location().await.len();
        let instance = self.enable_another().await;
        self.kamailio.await_location(&self.user, already + 1, SOON).await.unwrap();
        instance
    }

    /// Enables push for one more device of the account, which shares the relay's Contact: 201.
    pub async fn enable_another(&mut self) -> Instance {
        let answer = self.api.enable(&self.wish()).await.unwrap();
        assert_eq!(answer.status, 201, "{}\n{}", answer.text(), self.relay.log());
        let json = answer.json();
        assert_eq!(
            (&json["registration"]["state"], &json["registration"]["status"]),
            (&json!("registered"), &json!(200))
        );
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let instance = Instance {
            id: text(&json["instance"]),
            secret: text(&json["secret"]),
            edge: text(&json["edge"]["proxy"]),
            answer: json,
        };
        let port = self.relay.setup().ports.edge;
        assert_eq!(instance.edge, format!("sip:{}:{port};transport=tls", self.plan.edge_host));
        self.keep("the instance's secret", &instance.secret);
        self.keep_ha1("the instance's", &instance.id, "sipwake", &instance.secret.clone());
        instance
    }

    /// What Kamailio has for the account.
    pub async fn location(&self) -> Vec<Located> {
        self.kamailio.location(&self.user).await.unwrap()
    }

    /// The real SIPp calls the account through Kamailio.
    pub fn call(&self, scenario: Scenario) -> Sipp {
        let server = self.kamailio.address(Transport::Udp);
        Sipp::call(scenario, server, &self.user, self.kamailio.domain(), SOON * 2).unwrap()
    }

    /// The next push, wherever the plan sends it: when it came, and what it says.
    pub async fn next_push(&self) -> Value {
        let push = match self.plan.provider {
            "apns" => self.apns.next_push(SOON).await.map(|push| (push.token, push.payload["sipwake"].clone())),
            _ => self.fcm.next_push(SOON).await.map(|push| (push.token, push.payload)),
        };
        let (token, payload) =
            push.unwrap_or_else(|| panic!("no push came\n{}\n{}", self.kamailio.output(), self.relay.log()));
        assert_eq!(token, self.push_token);
        payload
    }

    /// The push for a call, checked against the contract; gives the call's id.
    pub async fn next_call_push(&self, instance: &Instance) -> String {
        let push = self.next_push().await;
        assert_eq!((&push["v"], &push["event"]), (&json!(1), &json!("call")), "{push}");
        assert_eq!(push["instance"], instance.id.as_str());
        assert_eq!(push["from"], format!("sip:carol@{}", self.kamailio.domain()));
        // The recipe by which a SIP server wakes does not tell the name.
        assert_eq!(push["name"].as_str(), (!self.plan.wake).then_some("Carol"), "{push}");
        assert_eq!(format!("sip:{};transport=tls", push["edge"].as_str().unwrap()), instance.edge);
        assert!(push["deadline"].as_u64() > push["sent_at"].as_u64(), "{push}");
        push["call"].as_str().unwrap().to_owned()
    }

    /// The next two pushes go to the device with this token and to the one with the account's own.
    pub async fn both_are_pushed(&self, other_token: &str) {
        let mut woken = Vec::new();
        for _ in 0..2 {
            woken.push(self.apns.next_push(SOON).await.unwrap().token);
        }
        let mut both = [other_token.to_owned(), self.push_token.clone()];
        both.sort_unstable();
        woken.sort_unstable();
        assert_eq!(woken, both);
    }

    /// How many pushes came that were taken.
    pub fn pushes(&self) -> u64 {
        self.apns.count() + self.fcm.count()
    }

    /// The stock client wakes up, connects to the edge and registers.
    pub async fn wake(&self, instance: &Instance) -> Baresip {
        let phone = Baresip::start(&Self::account(instance), &self.authority).await.unwrap();
        if let Err(missed) = phone.await_registered(SOON).await {
            panic!("{missed}\n{}", self.relay.log());
        }
        phone
    }

    /// SIPp calls, and the phone that the push wakes answers: the caller, the call's id, the phone.
    pub async fn answered(&self, instance: &Instance, scenario: Scenario) -> (Sipp, String, Baresip) {
        let caller = self.call(scenario);
        let call = self.next_call_push(instance).await;
        let phone = self.wake(instance).await;
        phone.await_rung(1, SOON).await.unwrap();
        phone.accept().await.unwrap();
        (caller, call, phone)
    }

    /// The instance as a stock client is configured with it.
    pub fn account(instance: &Instance) -> Account {
        Account::new(&instance.edge, &instance.id, &instance.secret)
    }

    /// What the relay says about a call.
    pub async fn call_state(&self, instance: &Instance, call: &str) -> String {
        let answer = self.api.call(instance, call).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["state"].as_str().unwrap_or_default().to_owned()
    }

    /// Disables push: the receipt is right and signed by this relay's keyring, and Kamailio has no Contact of it.
    pub async fn disable(&self, instance: &Instance) {
        let before = self.location().await.len();
        self.end_push(instance, true).await;
        self.kamailio.await_location(&self.user, before - 1, SOON).await.unwrap();
    }

    /// Disables push for one of several devices: the others keep the Contact.
    pub async fn leave(&self, instance: &Instance) {
        let before = self.location().await;
        self.end_push(instance, false).await;
        let after = self.location().await;
        assert_eq!(after.len(), before.len());
        assert_eq!(after[0].uri, before[0].uri);
    }

    async fn end_push(&self, instance: &Instance, unregistered: bool) {
        let answer = self.api.disable(instance).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let receipt: Receipt = serde_json::from_value(answer.json()).unwrap();
        assert_eq!((receipt.instance.as_str(), receipt.reason.word()), (instance.id.as_str(), "disabled"));
        assert_eq!(receipt.unregistered, unregistered);
        let keyring = Keyring::open(&self.authority.directory().join("keyring")).unwrap();
        verify_receipt(&receipt, &keyring.receipt_public_key()).unwrap();
        let again = self.api.disable(instance).await.unwrap();
        assert_eq!((again.status, again.json()), (200, answer.json()), "the receipt, for a day");
        assert_eq!(self.api.read(instance).await.unwrap().status, 404);
    }

    /// Starts a second node with the relay's store and keyring.
    pub async fn another_node(&self) -> RelayProcess {
        let mut setup = self.relay.setup().clone();
        setup.ports = Ports::default();
        let public = format!("{}:{}", self.plan.edge_host, setup.ports.edge);
        setup.environment.retain(|(name, _)| name != "SIPWAKE_EDGE__PUBLIC");
        setup.environment.push(("SIPWAKE_EDGE__PUBLIC".to_owned(), public));
        RelayProcess::start(setup).await.unwrap()
    }

    /// Starts a second node and goes on with it; gives the first, which lives on.
    pub async fn move_to_another_node(&mut self) -> RelayProcess {
        let other = self.another_node().await;
        self.api = other.api();
        std::mem::replace(&mut self.relay, other)
    }

    /// Ends a node whose log is to be looked through at the end.
    pub fn keep_log_of(&mut self, node: RelayProcess) {
        self.earlier_logs.push(node.log());
    }

    /// Goes on with another node; gives the instance as its device finds it there.
    pub fn go_on_with(&mut self, other: RelayProcess, instance: &Instance) -> Instance {
        self.earlier_logs.push(self.relay.log());
        self.relay = other;
        self.api = self.relay.api();
        let edge = format!("sip:{}:{};transport=tls", self.plan.edge_host, self.relay.setup().ports.edge);
        Instance { edge, ..instance.clone() }
    }

    /// Waits until Kamailio has one Contact of the account, and not `earlier`.
    pub async fn await_moved(&self, earlier: &Located) {
        let until = Instant::now() + SOON;
        loop {
            let contacts = self.location().await;
            if contacts.len() == 1 && contacts[0].uri != earlier.uri {
                return;
            }
            assert!(Instant::now() < until, "{contacts:?}\n{}", self.kamailio.output());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts the relay again after its end.
    pub async fn restart(&mut self) {
        self.earlier_logs.push(self.relay.log());
        self.relay.restart().await.unwrap();
    }

    /// Notes what the log must never tell.
    pub fn keep(&mut self, name: &str, secret: &str) {
        self.secrets.push((name.to_owned(), secret.to_owned()));
    }

    /// Notes both HA1s of a password.
    fn keep_ha1(&mut self, whose: &str, user: &str, realm: &str, password: &str) {
        for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
            let ha1 = algorithm.ha1(user, realm, password);
            self.keep(&format!("{whose} HA1 ({})", algorithm.name()), &ha1);
        }
    }

    fn keep_the_first_secrets(&mut self) {
        let (user, password, domain) = (self.user.clone(), self.password.clone(), self.kamailio.domain().to_owned());
        self.keep("the password", &password);
        self.keep_ha1("the account's", &user, &domain, &password);
        self.keep("the account's user", &user);
        self.keep("the caller's address", &format!("carol@{domain}"));
        self.keep("the caller's name", "Carol");
        self.keep("the push token", &self.push_token.clone());
        self.keep("the app's key", &self.relay.setup().apps[0].api_key.clone());
        self.keep("the operator's token", &self.relay.setup().operator_token.clone());
        self.keep("credentials", "response=\"");
        self.keep("an Authorization", "Digest username");
        self.keep("an Authorization", "Bearer ");
    }

    /// Everything that must not stand in the memory of a relay that has nothing to do with the account at the moment:
    /// the password and its HA1s, as text and as bytes.
    pub fn credentials(&self) -> Vec<(String, Vec<u8>)> {
        let named = |(name, secret): &(String, String)| {
            let text = (name.clone(), secret.clone().into_bytes());
            let bytes = unhex(secret).map(|bytes| (format!("{name}, as bytes"), bytes));
            [Some(text), bytes].into_iter().flatten()
        };
        let credentials =
            self.secrets.iter().filter(|(name, _)| name == "the password" || name.starts_with("the account's HA1"));
        credentials.flat_map(named).collect()
    }

    /// Waits until none of `needles` stands in the relay's memory.
    pub async fn await_clean_memory(&self, needles: &[(String, Vec<u8>)], within: Duration) {
        let until = Instant::now() + within;
        let bytes: Vec<&[u8]> = needles.iter().map(|(_, needle)| needle.as_slice()).collect();
        loop {
            let held = self.relay.memory_holds(&bytes).unwrap();
            let found: Vec<&str> =
                needles.iter().zip(held).filter(|(_, held)| *held).map(|((name, _), _)| name.as_str()).collect();
            if found.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "the relay's memory still holds {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end: nobody objected to anything, and the log told nothing.
    pub async fn end(self) {
        assert_eq!(self.apns.violations(), Vec::<String>::new());
        assert_eq!(self.fcm.violations(), Vec::<String>::new());
        assert!(self.relay.is_running(), "{}", self.relay.log());
        let mut logs = self.earlier_logs.clone();
        logs.push(self.relay.log());
        for line in logs.iter().flat_map(|log| log.lines()) {
            for (name, secret) in &self.secrets {
                assert!(!line.contains(secret.as_str()), "the log tells {name}: {line}");
            }
            assert!(!line.contains("panicked"), "{line}");
        }
        assert!(logs.iter().all(|log| log.contains("serving edge=")), "the log says nothing at all");
    }
}

/// A push token as the service would give one.
pub fn new_push_token(provider: &str) -> String {
    match provider {
        "apns" => (0..8).flat_map(|_| token().into_bytes()).map(|byte| format!("{byte:02x}")).collect::<String>()[..64]
            .to_owned(),
        _ => format!("device-{}:{}", token(), token()),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2).map(std::str::from_utf8);
    pairs.map(|pair| u8::from_str_radix(pair.ok()?, 16).ok()).collect()
}
