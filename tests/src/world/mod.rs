//! The world of one test: an account's SIP server, the push services, the relay between them and the app.
//!
//! A test of the whole relay is told on a [`World`]: `World::lent()` lends Alice's account, `world.rings(&alice)` has Bob call
//! her sleeping phone, `world.answer(…)`, `world.refuse(…)`, `world.cancel(…)` go on, and [`World::content`] ends it. Its SIP server is
//! a stand-in or a real Kamailio ([`real`]), its relay a process or in this one ([`in_process`]); what is told is the same.
//!
//! Invariant: each world has its own authority, ports, names and processes on loopback, and all of it stops when it is dropped; every party is asked
//! for objections at the end.

pub mod attack;
mod calls;
pub mod in_process;
mod lending;
mod pushes;
pub mod real;
pub mod secrets;
pub mod stock;

use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

use self::attack::Attacked;
pub use self::calls::{Device, Ringing};
pub use self::lending::{FCM_TOKEN, OTHER_TOKEN, TOKEN, apple, google};
use self::secrets::Secrets;
use crate::api_client::{ApiClient, Instance};
use crate::apns::Apns;
use crate::authority::Authority;
use crate::board::Missed;
use crate::caller::Caller;
use crate::fcm::Fcm;
use crate::phone::Phone;
use crate::redis_server::RedisServer;
use crate::registrar::{self, Registrar};
use crate::relay_process::RelayProcess;
use crate::relay_setup::{App, Setup};
use crate::wire::Transport;

/// How long a step may take that is expected at once; generous, because many tests share a machine.
pub const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Of a relay's log, what a failure shows.
const LAST_LINES: usize = 15;

/// The outcome of a test: nothing was missed.
pub type Outcome = Result<(), Missed>;

/// The parties of a test, except callers and phones.
pub struct World<S = Registrar, N = RelayProcess> {
    /// The authority that everybody trusts.
    pub authority: Authority,
    /// The account's SIP server.
    pub registrar: S,
    /// Apple's push service.
    pub apns: Apns,
    /// Google's push service.
    pub fcm: Fcm,
    /// The relay.
    pub relay: N,
    /// Its API, as the app sees it.
    pub api: ApiClient,
    /// How the account's SIP server is reached.
    pub transport: Transport,
    /// How devices reach the edge: TLS, or secure WebSocket.
    pub edge: Transport,
    /// The secrets that no log, store, file or answer may contain.
    pub secrets: Secrets,
    attacked: Option<Attacked>,
    /// The parties of the test, each asked for its objections.
    witnesses: Mutex<Vec<Witness>>,
}

type Witness = Box<dyn Fn() -> Vec<String> + Send>;

/// The SIP server of a world.
pub trait SipServer {
    /// Its URI over a transport.
    fn uri(&self, transport: Transport) -> String;
    /// The AOR of a user.
    fn aor(&self, user: &str) -> String;
    /// The domain of its accounts.
    fn domain(&self) -> &str;
    /// The user whose account it is where a test names nobody.
    fn alice(&self) -> &str;
    /// The password of a user that it knows.
    fn password(&self, user: &str) -> Option<String>;
    /// The users that it knows.
    fn users(&self) -> Vec<String>;
    /// Violations of the RFCs by the other side.
    fn violations(&self) -> Vec<String>;
}

/// The relay of a world.
pub trait Node: Sized {
    /// Starts it and waits until it is ready.
    fn start(setup: Setup) -> impl Future<Output = Result<Self, Missed>> + Send;
    /// The settings that it was started with.
    fn setup(&self) -> &Setup;
    /// The log, where a world can tell.
    fn log(&self) -> String;
}

impl World {
    /// With the default settings; TLS toward the SIP server.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn start() -> Result<Self, Missed> {
        Self::with(|_| {}).await
    }

    /// With the default settings, and push enabled for Alice's iPhone, which sleeps.
    ///
    /// # Errors
    /// [`Missed`] when something does not start, or for another answer than 201.
    pub async fn lent() -> Result<(Self, Instance), Missed> {
        Self::lent_with(|_| {}).await
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// As [`Self::lent`].
    pub async fn lent_with(change: impl FnOnce(&mut Setup)) -> Result<(Self, Instance), Missed> {
        let world = Self::with(change).await?;
        let alice = world.enable().await?;
        Ok((world, alice))
    }

    /// With another transport toward the SIP server.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn over(transport: Transport) -> Result<Self, Missed> {
        Self::over_with(transport, |_| {}).await
    }

    /// The same with another configuration.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn over_with(transport: Transport, change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let mut world = Self::with(|setup| {
            setup.transports = vec![Transport::Tls, transport];
            change(setup);
        })
        .await?;
        world.transport = transport;
        Ok(world)
    }

    /// With a Redis as its store, and another configuration.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn on_redis(change: impl FnOnce(&mut Setup)) -> Result<(Self, RedisServer), Missed> {
        let redis = RedisServer::start();
        let world = Self::with(|setup| {
            setup.store = redis.url();
            change(setup);
        })
        .await?;
        Ok((world, redis))
    }

    /// With a Redis as its store, and push enabled for Alice's iPhone.
    ///
    /// # Errors
    /// As [`Self::lent`].
    pub async fn lent_on_redis() -> Result<(Self, RedisServer, Instance), Missed> {
        let (world, redis) = Self::on_redis(|_| {}).await?;
        let alice = world.enable().await?;
        Ok((world, redis, alice))
    }

    /// With another configuration.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn with(change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        Self::between(|_| {}, change).await
    }

    /// With another configuration, and further accounts at the SIP server: user and password.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn among(others: &[(&str, &str)], change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let more = others.iter().map(|(user, password)| ((*user).to_owned(), (*password).to_owned()));
        Self::between(|settings| settings.users.extend(more), change).await
    }

    /// With another SIP server and another configuration.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn between(
        server: impl FnOnce(&mut registrar::Settings),
        change: impl FnOnce(&mut Setup),
    ) -> Result<Self, Missed> {
        Self::around(async |authority, setup| {
            change(setup);
            stand_in(authority, server).await
        })
        .await
    }
}

impl<S: SipServer, N: Node> World<S, N> {
    /// Around any SIP server, which is started before the relay and may change what the relay is told.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn around(server: impl AsyncFnOnce(&Authority, &mut Setup) -> Result<S, Missed>) -> Result<Self, Missed> {
        let authority = Authority::new();
        let (apns, fcm) = tokio::join!(Apns::start(&authority), Fcm::start(&authority));
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        setup.keyring = Some(authority.directory().join("keyring"));
        let registrar = server(&authority, &mut setup).await?;
        let secrets = Secrets::of(&registrar, &setup);
        let relay = N::start(setup).await?;
        let api = relay.setup().api();
        let (transport, edge, attacked, witnesses) = (Transport::Tls, Transport::Tls, None, Mutex::default());
        Ok(Self { authority, registrar, apns, fcm, relay, api, transport, edge, secrets, attacked, witnesses })
    }

    /// The state of a call, as the device is told now.
    ///
    /// # Errors
    /// [`Missed`] when it is not told.
    pub async fn state(&self, instance: &Instance, push: &Value) -> Result<String, Missed> {
        let answer = self.api.call(instance, &text(&push["call"])).await?;
        match answer.status {
            200 => Ok(text(&answer.json()["state"])),
            status => Err(Missed::new("the state of a call", format!("{status} {}", answer.text()))),
        }
    }

    /// Waits until a call is in this state, as the device is told.
    ///
    /// # Errors
    /// [`Missed`] when it does not get there.
    pub async fn await_state(&self, instance: &Instance, push: &Value, state: &str) -> Outcome {
        let there = || async { self.state(instance, push).await.ok().filter(|found| found == state).map(drop) };
        if self.until(state, there).await.is_err() {
            return Err(Missed::new(format!("the state {state}"), self.state(instance, push).await?));
        }
        Ok(())
    }

    /// The value of a metric, as [`Setup::metric`] has it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        self.relay.setup().metric(series).await
    }

    /// Waits until a metric has this value.
    ///
    /// # Errors
    /// [`Missed`] when it does not get there.
    pub async fn await_metric(&self, series: &str, value: f64) -> Outcome {
        let there = || async { self.metric(series).await.filter(|found| (found - value).abs() < 0.5).map(drop) };
        self.until(&format!("{series} {value}"), there).await
    }

    /// Waits until no device has a connection to the edge any more, as far as the relay knows.
    ///
    /// # Errors
    /// [`Missed`] when one stays.
    pub async fn await_all_asleep(&self) -> Outcome {
        self.await_metric("sipwake_edge_flows", 0.0).await
    }

    /// Waits until `/readyz` says so: "ready" and "degraded" are 200, "not-ready" is 503. Gives what it says beside.
    ///
    /// # Errors
    /// [`Missed`] when it does not.
    pub async fn await_readiness(&self, says: &str) -> Result<String, Missed> {
        let operator = self.relay.setup().operator();
        let status = if says == "not-ready" { 503 } else { 200 };
        let look = || async {
            let answer = operator.get("/readyz").await.ok().filter(|answer| answer.status == status)?;
            let told = answer.problem().unwrap_or_else(|| text(&answer.json()["status"]));
            (told == says).then(|| answer.text())
        };
        self.until(&format!("{says} from /readyz"), look).await
    }

    /// Waits until `look` finds something that cannot be awaited otherwise.
    ///
    /// # Errors
    /// [`Missed`] when it does not within twice [`SOON`].
    pub async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        mut look: impl FnMut() -> F,
    ) -> Result<T, Missed> {
        let looking = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(SOON * 2, looking).await.map_err(|_| self.none(what))
    }

    /// Asks this caller, too, for objections at the end; for one that did not come through [`Self::call_to`].
    pub fn watch_caller(&self, caller: &Caller) {
        let leg = caller.leg().clone();
        self.watch(Box::new(move || leg.violations()));
    }

    /// Asks this phone, too, for objections at the end; for one that did not come through [`Self::wake`].
    pub fn watch_phone(&self, phone: &Phone) {
        self.watch(Box::new(phone.witness()));
    }

    /// Nobody who took part had anything to object to: the SIP server, the push services, callers, phones.
    ///
    /// # Errors
    /// [`Missed`] with the objections.
    pub fn content(&self) -> Outcome {
        let mut wrong = self.registrar.violations();
        wrong.extend(self.apns.violations());
        wrong.extend(self.fcm.violations());
        let witnesses = self.witnesses.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.extend(witnesses.iter().flat_map(|witness| witness()));
        if wrong.is_empty() { Ok(()) } else { Err(Missed::new("nobody with an objection", wrong.join("; "))) }
    }

    fn watch(&self, witness: Witness) {
        self.witnesses.lock().unwrap_or_else(PoisonError::into_inner).push(witness);
    }

    fn none(&self, what: &str) -> Missed {
        let log = self.relay.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        Missed::new(what, format!("none; the relay's log ends:\n{last}"))
    }
}

/// A SIP server that stands in, with changed settings.
async fn stand_in(authority: &Authority, change: impl FnOnce(&mut registrar::Settings)) -> Result<Registrar, Missed> {
    let mut settings = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
    // One Contact is enough for all devices of an account.
    settings.contacts = 1;
    change(&mut settings);
    Ok(Registrar::start(settings).await?)
}

impl SipServer for Registrar {
    fn uri(&self, transport: Transport) -> String {
        self.uri(transport)
    }

    fn aor(&self, user: &str) -> String {
        self.aor(user)
    }

    fn domain(&self) -> &str {
        self.domain()
    }

    fn alice(&self) -> &str {
        "alice"
    }

    fn password(&self, user: &str) -> Option<String> {
        self.password(user)
    }

    fn users(&self) -> Vec<String> {
        self.users()
    }

    fn violations(&self) -> Vec<String> {
        self.violations()
    }
}

impl Node for RelayProcess {
    async fn start(setup: Setup) -> Result<Self, Missed> {
        Self::start(setup).await
    }

    fn setup(&self) -> &Setup {
        self.setup()
    }

    fn log(&self) -> String {
        self.log()
    }
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        Self::new("an answer", error.to_string())
    }
}

/// The text of a JSON string; empty for anything else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Registrations of 5 s, and a thousandth of the waits of minutes: what a user is told after an hour comes in seconds.
pub fn hasty(setup: &mut Setup) {
    setup.register_expires = "5s".to_owned();
    setup.minutes = 0.001;
}
