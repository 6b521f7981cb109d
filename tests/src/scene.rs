//! Everything that a test of the whole relay needs at once: a registrar with Alice's account, the push services, and the
//! real binary between them.
//!
//! Invariant: each scene has its own authority, ports and processes, and all of it stops when the scene is dropped.

use std::future::Future;
use std::io;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api_client::{ApiClient, Instance};
use crate::authority::Authority;
use crate::board::Missed;
use crate::caller::{CallOptions, Caller};
use crate::phone::{self, IncomingCall, Phone};
use crate::push_phone::{PushPhone, Service};
use crate::registrar::{self, Registrar};
use crate::relay_process::RelayProcess;
use crate::relay_setup::{App, Setup};
pub use crate::stage::text;
use crate::wire::Transport;
use crate::{apns, fcm};

/// How long a step may take that is expected at once; generous, because many tests share a machine.
pub const SOON: Duration = Duration::from_secs(20);
/// How often a condition is looked at that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The APNs token of Alice's first device.
pub const TOKEN: &str = "a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000a11ce000";
/// The APNs token of another device.
pub const OTHER_TOKEN: &str = "0123456701234567012345670123456701234567012345670123456701234567";
/// The FCM token of an Android device.
pub const FCM_TOKEN: &str = "fcm-device:Alice_1";

/// What takes part.
pub struct Scene {
    /// Whom everybody trusts.
    pub authority: Authority,
    /// The account's SIP server.
    pub registrar: Registrar,
    /// Apple's push service.
    pub apns: apns::Apns,
    /// Google's push service.
    pub fcm: fcm::Fcm,
    /// The relay.
    pub relay: RelayProcess,
    /// Its API, as the app sees it.
    pub api: ApiClient,
    /// How the account's SIP server is reached.
    pub transport: Transport,
    /// How devices reach the edge: TLS, or secure WebSocket.
    pub edge: Transport,
}

/// A call that has reached the device that its push has woken.
pub struct Ringing {
    /// Bob.
    pub caller: Caller,
    /// The push that woke the device.
    pub push: Value,
    /// Alice's phone.
    pub phone: Phone,
    /// The INVITE, as her phone has it.
    pub call: IncomingCall,
}

impl Scene {
    /// With the contract's defaults; TLS toward the SIP server.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn start() -> Result<Self, Missed> {
        Self::with(|_| {}).await
    }

    /// With the contract's defaults, and push enabled for Alice's iPhone.
    ///
    /// # Errors
    /// [`Missed`] when something does not start, or for another answer than 201.
    pub async fn enabled() -> Result<(Self, Instance), Missed> {
        let scene = Self::start().await?;
        let instance = scene.enable().await?;
        Ok((scene, instance))
    }

    /// With another transport toward the SIP server.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn over(transport: Transport) -> Result<Self, Missed> {
        let mut scene = Self::with(|setup| setup.transports = vec![Transport::Tls, transport]).await?;
        scene.transport = transport;
        Ok(scene)
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
        let authority = Authority::new();
        let mut settings = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
        // Whatever the devices of an account are, one Contact is enough for them.
        settings.contacts = 1;
        server(&mut settings);
        let registrar = Registrar::start(settings).await?;
        let (apns, fcm) = (apns::Apns::start(&authority).await, fcm::Fcm::start(&authority).await);
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        setup.keyring = Some(authority.directory().join("keyring"));
        change(&mut setup);
        let relay = RelayProcess::start(setup).await?;
        let api = relay.api();
        let (transport, edge) = (Transport::Tls, Transport::Tls);
        Ok(Self { authority, registrar, apns, fcm, relay, api, transport, edge })
    }

    /// Alice's AOR.
    pub fn aor(&self) -> String {
        self.registrar.aor("alice")
    }

    /// The body that enables push for Alice on an iPhone with this token.
    pub fn wish(&self, token: &str) -> Value {
        self.wish_for(json!({"call_push": {"provider": "apns", "token": token}}))
    }

    /// The body that enables push for Alice on any device.
    pub fn wish_for(&self, device: Value) -> Value {
        json!({
            "account": {
                "aor": self.aor(), "auth_username": "alice", "password": "wonderland",
                "registrar": self.registrar.uri(self.transport),
            },
            "device": device,
        })
    }

    /// Enables push with this body; it must be answered 201.
    ///
    /// # Errors
    /// [`Missed`] for another answer.
    pub async fn enable_as(&self, wish: &Value) -> Result<Instance, Missed> {
        let instance = self.api.enabled(wish).await?;
        match instance.answer["registration"]["state"] == "registered" {
            true => Ok(instance),
            false => Err(Missed::new("a registered instance", instance.answer.to_string())),
        }
    }

    /// Enables push for an iPhone with [`TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn enable(&self) -> Result<Instance, Missed> {
        self.enable_as(&self.wish(TOKEN)).await
    }

    /// Enables push for an Android phone with [`FCM_TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] for another answer than 201.
    pub async fn enable_android(&self) -> Result<Instance, Missed> {
        self.enable_as(&self.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}))).await
    }

    /// Bob calls Alice.
    ///
    /// # Errors
    /// [`Missed`] when the SIP server has no Contact of hers.
    pub fn call(&self) -> Result<Caller, Missed> {
        self.registrar.call(&self.aor(), &CallOptions::default())
    }

    /// The object of the next push that APNs took.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn push(&self) -> Result<Value, Missed> {
        let push = self.apns.next_push(SOON).await;
        push.map(|push| push.payload["sipwake"].clone()).ok_or_else(|| self.none("a push on APNs"))
    }

    /// The object of the next push that FCM took.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn android_push(&self) -> Result<Value, Missed> {
        self.fcm.next_push(SOON).await.map(|push| push.payload).ok_or_else(|| self.none("a push on FCM"))
    }

    /// The device wakes: it registers at the edge with the instance's secret.
    ///
    /// # Errors
    /// [`Missed`] when it is not let in.
    pub async fn wake(&self, instance: &Instance) -> Result<Phone, Missed> {
        Phone::registered(self.device(instance), SOON).await
    }

    /// Alice's phone that lends nothing: it registers through the relay, and this service wakes it (RFC 8599).
    pub fn push_phone(&self, service: &Service) -> PushPhone {
        let edge = match self.edge {
            Transport::Wss => format!("sip:{};transport=ws", self.relay.websocket_address()),
            _ => self.relay.edge_uri(),
        };
        let registrar = self.registrar.uri(self.transport);
        let alice = ("alice", "wonderland");
        PushPhone::new(&edge, &registrar, &self.aor(), alice, &self.authority).woken_by(service)
    }

    /// The device's settings.
    pub fn device(&self, instance: &Instance) -> phone::Settings {
        phone::Settings::new(&instance.edge_over(self.edge), &instance.id, &instance.secret, Some(&self.authority))
    }

    /// Bob calls Alice's sleeping iPhone, which is pushed.
    ///
    /// # Errors
    /// [`Missed`] when no push comes.
    pub async fn call_and_push(&self) -> Result<(Caller, Value), Missed> {
        let caller = self.call()?;
        Ok((caller, self.push().await?))
    }

    /// Bob calls Alice's sleeping iPhone, whose push wakes it: her phone has the INVITE.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn rings(&self, instance: &Instance) -> Result<Ringing, Missed> {
        let (caller, push) = self.call_and_push().await?;
        let phone = self.wake(instance).await?;
        let call = phone.next_invite(SOON).await?;
        Ok(Ringing { caller, push, phone, call })
    }

    /// The same, and she answers.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered(&self, instance: &Instance) -> Result<Ringing, Missed> {
        let ringing = self.rings(instance).await?;
        self.answer(&ringing.caller, &ringing.call).await?;
        Ok(ringing)
    }

    /// Bob calls Alice's phone, which is there.
    ///
    /// # Errors
    /// [`Missed`] when no INVITE reaches it.
    pub async fn rings_at(&self, phone: &Phone) -> Result<(Caller, IncomingCall), Missed> {
        let caller = self.call()?;
        Ok((caller, phone.next_invite(SOON).await?))
    }

    /// The same, and she answers.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered_at(&self, phone: &Phone) -> Result<(Caller, IncomingCall), Missed> {
        let (caller, call) = self.rings_at(phone).await?;
        self.answer(&caller, &call).await?;
        Ok((caller, call))
    }

    /// Bob gives up.
    ///
    /// # Errors
    /// [`Missed`] when he does not hear 487.
    pub async fn cancel(&self, caller: &Caller) -> Result<(), Missed> {
        caller.cancel().await?;
        caller.expect(487, SOON).await.map(drop)
    }

    /// Bob hangs up.
    ///
    /// # Errors
    /// [`Missed`] when he or the device does not hear so.
    pub async fn hang_up(&self, caller: &Caller, call: &IncomingCall) -> Result<(), Missed> {
        caller.bye(SOON).await?;
        call.expect_bye(SOON).await.map(drop)
    }

    /// Alice hangs up.
    ///
    /// # Errors
    /// [`Missed`] when she or Bob does not hear so.
    pub async fn phone_hangs_up(&self, caller: &Caller, call: &IncomingCall) -> Result<(), Missed> {
        call.hang_up(SOON).await?;
        caller.expect_bye(SOON).await.map(drop)
    }

    /// One of them hangs up.
    ///
    /// # Errors
    /// [`Missed`] when one of them does not hear so.
    pub async fn end(&self, caller_ends: bool, caller: &Caller, call: &IncomingCall) -> Result<(), Missed> {
        match caller_ends {
            true => self.hang_up(caller, call).await,
            false => self.phone_hangs_up(caller, call).await,
        }
    }

    /// The device answers, and the caller and the device hear so.
    ///
    /// # Errors
    /// [`Missed`] when one of them does not.
    pub async fn answer(&self, caller: &Caller, call: &IncomingCall) -> Result<(), Missed> {
        call.answer();
        caller.answered(SOON).await?;
        call.expect_ack(SOON).await.map(drop)
    }

    /// Waits until a call is in this state, as the device is told.
    ///
    /// # Errors
    /// [`Missed`] when it does not get there.
    pub async fn await_state(&self, instance: &Instance, push: &Value, state: &str) -> Result<(), Missed> {
        let call = text(&push["call"]);
        let looked = self.until(state, || async {
            let answer = self.api.call(instance, &call).await.ok()?;
            (answer.json()["state"] == state).then_some(())
        });
        if looked.await.is_err() {
            return Err(Missed::new(format!("the state {state}"), self.api.call(instance, &call).await?.text()));
        }
        Ok(())
    }

    /// Waits until a metric has this value.
    ///
    /// # Errors
    /// [`Missed`] when it does not get there.
    pub async fn await_metric(&self, series: &str, value: f64) -> Result<(), Missed> {
        let there = || async { self.relay.metric(series).await.filter(|found| (found - value).abs() < 0.5).map(drop) };
        self.until(&format!("{series} {value}"), there).await
    }

    /// Waits until an instance is unknown to the API.
    ///
    /// # Errors
    /// [`Missed`] when it stays known.
    pub async fn await_gone(&self, instance: &Instance) -> Result<(), Missed> {
        let gone = || async { self.api.read(instance).await.ok().filter(|answer| answer.status == 404).map(drop) };
        self.until("404 for the instance", gone).await
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

    /// Nobody had anything to object to.
    ///
    /// # Errors
    /// [`Missed`] with the objections.
    pub fn content(&self) -> Result<(), Missed> {
        let mut wrong = self.registrar.violations();
        wrong.extend(self.apns.violations());
        wrong.extend(self.fcm.violations());
        match wrong.is_empty() {
            true => Ok(()),
            false => Err(Missed::new("stand-ins that are content", wrong.join("; "))),
        }
    }

    /// Neither had the two sides of a call.
    ///
    /// # Errors
    /// [`Missed`] with the objections.
    pub fn content_with(&self, callers: &[&Caller], phones: &[&Phone]) -> Result<(), Missed> {
        let wrong: Vec<String> = callers.iter().flat_map(|caller| caller.violations()).collect();
        let wrong = wrong.into_iter().chain(phones.iter().flat_map(|phone| phone.violations())).collect::<Vec<_>>();
        match wrong.is_empty() {
            true => self.content(),
            false => Err(Missed::new("callers and phones that are content", wrong.join("; "))),
        }
    }

    fn none(&self, what: &str) -> Missed {
        let log = self.relay.log();
        let lines: Vec<&str> = log.lines().collect();
        Missed::new(
            what,
            format!("none; the relay's log ends:\n{}", lines[lines.len().saturating_sub(15)..].join("\n")),
        )
    }
}

impl From<io::Error> for Missed {
    fn from(error: io::Error) -> Self {
        Self::new("an answer", error.to_string())
    }
}
