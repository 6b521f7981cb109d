//! A relay under attack, and somebody whom the attack is none of the business of: a user whose calls must ring on.
//!
//! Invariant: the relay logs at trace level, and every secret that this stage hands out is known to it, so that
//! [`Stage::unharmed`] can say that none was logged.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api_client::{ApiClient, Instance};
use crate::apns::{Apns, ReceivedPush};
use crate::authority::Authority;
use crate::caller::{CallOptions, Caller};
use crate::digest::{Algorithm, token};
use crate::fcm::Fcm;
use crate::phone::{self, IncomingCall, Phone};
use crate::registrar::{self, Registrar};
use crate::relay_process::{App, RelayProcess, Setup};
use crate::wire::Transport;

/// How long one step may take.
pub const SOON: Duration = Duration::from_secs(15);
/// How much the relay's resident memory may grow under an attack, unless the test says otherwise: 96 MiB.
pub const GROWTH: u64 = 96 << 20;
/// The user who is left alone.
const BYSTANDER: &str = "alice";
/// The users whom the registrar knows.
const USERS: [&str; 4] = [BYSTANDER, "mallory", "trent", "peggy"];

/// The relay and everything around it.
pub struct Stage {
    /// Issues every certificate.
    pub authority: Authority,
    /// The SIP server of `example.test`.
    pub registrar: Registrar,
    /// APNs.
    pub apns: Apns,
    /// FCM.
    pub fcm: Fcm,
    /// The relay: the real binary.
    pub relay: RelayProcess,
    /// Its API, with the app's key.
    pub api: ApiClient,
    bystander: Option<Lent>,
    began_with: u64,
    secrets: Mutex<Vec<String>>,
}

/// An account that was lent to the relay.
#[derive(Clone)]
pub struct Lent {
    /// Its push instance.
    pub instance: Instance,
    /// The AOR.
    pub aor: String,
    /// The token of its device.
    pub push_token: String,
}

impl Stage {
    /// A relay with every transport toward SIP servers, and the bystander's account lent to it.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with other settings.
    pub async fn start_with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut stage = Self::start_alone(change).await;
        let bystander = stage.lend(BYSTANDER).await;
        stage.bystander = Some(bystander);
        stage.ring_bystander().await;
        // The first call and the first push have taken what they take once.
        stage.began_with = stage.relay.resident().expect("the relay runs");
        stage
    }

    /// A relay that nobody has lent an account to.
    pub async fn start_alone(change: impl FnOnce(&mut Setup)) -> Self {
        let authority = Authority::new();
        let mut settings = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
        settings.users = USERS.map(|user| (user.to_owned(), format!("password-{}", token()))).into();
        let registrar = Registrar::start(settings.clone()).await.expect("a registrar");
        let (apns, fcm) = (Apns::start(&authority).await, Fcm::start(&authority).await);
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        setup.transports = vec![Transport::Tls, Transport::Tcp, Transport::Udp];
        setup.log = "trace".to_owned();
        change(&mut setup);
        let relay = RelayProcess::start(setup).await.expect("the relay starts");
        let (api, began_with) = (relay.api(), relay.resident().expect("the relay runs"));
        let mut secrets = vec![
            relay.setup().apps[0].api_key.clone(),
            relay.setup().operator_token.clone(),
            "bob@example.test".to_owned(),
            "response=\"".to_owned(),
        ];
        for (user, password) in &settings.users {
            for algorithm in [Algorithm::Md5, Algorithm::Sha256] {
                secrets.push(algorithm.ha1(user, &settings.domain, password));
            }
            secrets.extend([password.clone(), format!("{user}@{}", settings.domain)]);
        }
        let (bystander, secrets) = (None, Mutex::new(secrets));
        Self { authority, registrar, apns, fcm, relay, api, bystander, began_with, secrets }
    }

    /// What must not be logged from now on.
    pub fn keep_secret(&self, secret: &str) {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).push(secret.to_owned());
    }

    /// Every secret so far.
    pub fn secrets(&self) -> Vec<String> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The password of a user whom the registrar knows.
    pub fn password(&self, user: &str) -> String {
        self.registrar.password(user).expect("the registrar knows the user")
    }

    /// A body that enables the account of a user whom the registrar knows, over TLS, for a new APNs token.
    pub fn wish(&self, user: &str) -> Value {
        let token = token() + &token() + &token() + &token();
        self.keep_secret(&token);
        json!({
            "account": {
                "aor": self.registrar.aor(user), "auth_username": user, "password": self.password(user),
                "registrar": self.registrar.uri(Transport::Tls),
            },
            "device": {"call_push": {"provider": "apns", "token": token, "environment": "production"}},
        })
    }

    /// Lends the account of a user; it is registered when this returns.
    pub async fn lend(&self, user: &str) -> Lent {
        self.lend_as(&self.wish(user)).await
    }

    /// Lends the account of this body.
    pub async fn lend_as(&self, wish: &Value) -> Lent {
        let instance = self.api.enabled(wish).await.expect("the account is enabled");
        assert_eq!(instance.answer["registration"]["state"], "registered", "{}", instance.answer);
        self.keep_secret(&instance.secret);
        let text = |pointer: &str| wish.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        Lent { instance, aor: text("/account/aor"), push_token: text("/device/call_push/token") }
    }

    /// The account that nobody may disturb.
    pub fn bystander(&self) -> &Lent {
        self.bystander.as_ref().expect("the stage has a bystander")
    }

    /// The device of an account, awake and attached at the edge.
    pub async fn phone(&self, lent: &Lent) -> Phone {
        Phone::registered(self.phone_settings(lent), SOON).await.expect("the phone registers at the edge")
    }

    /// What the device of an account is set to.
    pub fn phone_settings(&self, lent: &Lent) -> phone::Settings {
        self.phone_settings_over(lent, Transport::Tls)
    }

    /// The same for a device that comes by TLS or by secure WebSocket.
    pub fn phone_settings_over(&self, lent: &Lent, edge: Transport) -> phone::Settings {
        let Instance { id, secret, .. } = &lent.instance;
        phone::Settings::new(&lent.instance.edge_over(edge), id, secret, Some(&self.authority))
    }

    /// Waits for the next APNs push to this account's device; those to others are passed over.
    pub async fn push_for(&self, lent: &Lent) -> ReceivedPush {
        loop {
            let push = self.apns.next_push(SOON).await.expect("a push");
            if push.token == lent.push_token {
                return push;
            }
        }
    }

    /// Calls an account and answers at its device: the two ends of the call.
    pub async fn answered_call(&self, lent: &Lent, phone: &Phone) -> (Caller, IncomingCall) {
        let caller = self.registrar.call(&lent.aor, &CallOptions::default()).expect("a contact");
        let call = phone.next_invite(SOON).await.expect("the call at the phone");
        call.answer();
        caller.answered(SOON).await.expect("200 at the caller");
        call.expect_ack(SOON).await.expect("the ACK at the phone");
        (caller, call)
    }

    /// Calls the bystander: push, the device comes, rings, answers, and the caller hangs up.
    pub async fn ring_bystander(&self) {
        let lent = self.bystander();
        let caller = self.registrar.call(&lent.aor, &CallOptions::default()).expect("the bystander is registered");
        self.push_for(lent).await;
        let phone = self.phone(lent).await;
        let call = phone.next_invite(SOON).await.expect("the bystander's phone rings");
        call.answer();
        caller.answered(SOON).await.expect("the bystander answers");
        call.expect_ack(SOON).await.expect("the ACK comes");
        caller.bye(SOON).await.expect("the caller hangs up");
        call.expect_bye(SOON).await.expect("the phone is told");
        let gone = phone.unregister(SOON).await.expect("the phone leaves");
        assert_eq!(gone.status(), Some(200));
        assert_eq!(phone.violations(), Vec::<String>::new());
    }

    /// After an attack: the process is well, the bystander's phone rings, memory has grown by less than [`GROWTH`], and
    /// the log at trace level names no secret.
    pub async fn unharmed(&self) {
        self.unharmed_within(GROWTH).await;
    }

    /// The same, with another bound on what memory may have grown by, in bytes.
    pub async fn unharmed_within(&self, growth: u64) {
        assert!(self.relay.is_running(), "{}", self.relay.log());
        let health = self.relay.operator().get("/healthz").await.expect("/healthz answers");
        assert_eq!(health.status, 200);
        if self.bystander.is_some() {
            self.ring_bystander().await;
        }
        let resident = self.relay.resident().expect("the relay runs");
        let grown = resident.saturating_sub(self.began_with);
        assert!(grown < growth, "memory grew by {} KiB, to {} KiB", grown >> 10, resident >> 10);
        self.nothing_secret_in("the log at trace level", &self.relay.log());
        assert!(!self.relay.log().contains("panicked"), "{}", self.relay.log());
    }

    /// That none of the secrets stands in `text`.
    pub fn nothing_secret_in(&self, place: &str, text: &str) {
        for secret in self.secrets() {
            if let Some(line) = text.lines().find(|line| line.contains(&secret)) {
                panic!("{place} holds {secret:?}: {line}");
            }
        }
    }
}
