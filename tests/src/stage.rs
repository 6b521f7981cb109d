//! A whole relay in this process with everything around it: a registrar, APNs, FCM, an app's client.
//!
//! Invariant: everything runs on loopback alone, on ports of its own, and stops with the stage.

use std::io;
use std::time::Duration;

use hyper::Version;
use relay::config::Config;
use relay::serve::{Relay, Running};
use relay::timing::Timing;
use serde_json::{Value, json};

use crate::api_client::{Answer, ApiClient, Instance};
use crate::authority::Authority;
use crate::board::Missed;
use crate::caller::{CallOptions, Caller};
use crate::phone::{self, IncomingCall, Phone};
use crate::registrar::{self, Registrar};
use crate::relay_setup::{App, Setup};
use crate::scratch::Scratch;
use crate::wire::Transport;
use crate::{apns, fcm};

/// The most that one step of a story or a test may take; generous, because many tests share a machine.
pub const STEP: Duration = Duration::from_secs(20);

/// Everything that takes part.
pub struct Stage {
    /// Who issues all certificates.
    pub authority: Authority,
    /// The accounts' server: `alice` with the password `wonderland`, at `example.test`.
    pub registrar: Registrar,
    /// Apple's stand-in.
    pub apns: apns::Apns,
    /// Google's stand-in.
    pub fcm: fcm::Fcm,
    /// The relay's configuration.
    pub setup: Setup,
    /// The relay.
    pub relay: Running,
    /// The app.
    pub api: ApiClient,
    /// The operator.
    pub operator: ApiClient,
    _scratch: Scratch,
}

impl Stage {
    /// A relay whose setup `adjust` has changed.
    ///
    /// # Errors
    /// [`Missed`] when something does not start.
    pub async fn with(adjust: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let authority = Authority::new();
        let users = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
        let registrar = Registrar::start(users).await.map_err(|error| Missed::new("a registrar", error.to_string()))?;
        let (apns, fcm) = (apns::Apns::start(&authority).await, fcm::Fcm::start(&authority).await);
        let mut setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
        adjust(&mut setup);
        let scratch = Scratch::new();
        let mut config =
            Config::load(&setup.write(&scratch)).map_err(|it| Missed::new("a configuration", it.to_string()))?;
        config.timing = Timing::scaled(setup.timing);
        let relay = Relay::start(config).await.map_err(|error| Missed::new("a relay", error.to_string()))?;
        let key = setup.apps.first().map(|app| app.api_key.as_str());
        let api = ApiClient::new(relay.api, Version::HTTP_2, &authority, key);
        let operator = ApiClient::new(relay.operator, Version::HTTP_11, &authority, Some(&setup.operator_token));
        Ok(Self { authority, registrar, apns, fcm, setup, relay, api, operator, _scratch: scratch })
    }

    /// Alice's AOR.
    pub fn aor(&self) -> String {
        self.registrar.aor("alice")
    }

    /// What Alice's app asks for: her account over `transport`, woken through FCM by `token`.
    pub fn wish(&self, transport: Transport, token: &str) -> Value {
        json!({
            "account": {
                "aor": self.aor(), "auth_username": "alice", "password": "wonderland",
                "registrar": self.registrar.uri(transport),
            },
            "device": {"call_push": {"provider": "fcm", "token": token}, "label": "Alice's phone"},
        })
    }

    /// Enables what [`Self::wish`] says, which must be answered 201.
    ///
    /// # Errors
    /// [`Missed`] for another answer.
    pub async fn enabled(&self, wish: &Value) -> Result<Instance, Missed> {
        let answer = self.answer(self.api.enable(wish).await)?;
        let json = answer.json();
        match answer.status {
            201 => Ok(Instance {
                id: text(&json["instance"]),
                secret: text(&json["secret"]),
                edge: text(&json["edge"]["proxy"]),
                answer: json,
            }),
            status => Err(Missed::new("201 to enabling", format!("{status} {}", answer.text()))),
        }
    }

    /// An answer that came, as the story has it.
    ///
    /// # Errors
    /// [`Missed`] when none came.
    pub fn answer(&self, answer: io::Result<Answer>) -> Result<Answer, Missed> {
        answer.map_err(|error| Missed::new("an answer over HTTPS", error.to_string()))
    }

    /// The device of an instance, woken, connected to the edge and registered.
    ///
    /// # Errors
    /// [`Missed`] when it is not admitted.
    pub async fn wake(&self, instance: &Instance) -> Result<Phone, Missed> {
        let settings = phone::Settings::new(&instance.edge, &instance.id, &instance.secret, Some(&self.authority));
        Phone::registered(settings, STEP).await
    }

    /// A call wakes the device of an instance, which answers: the caller, the phone and its side of the call.
    ///
    /// # Errors
    /// [`Missed`] when it does not get that far.
    pub async fn answered(&self, instance: &Instance) -> Result<(Caller, Phone, IncomingCall), Missed> {
        let caller = self.registrar.call(&self.aor(), &CallOptions::default())?;
        self.push("call").await?;
        let phone = self.wake(instance).await?;
        let call = phone.next_invite(STEP).await?;
        call.answer();
        caller.answered(STEP).await?;
        Ok((caller, phone, call))
    }

    /// The next push through FCM, which must be of this event.
    ///
    /// # Errors
    /// [`Missed`] when none comes, or another.
    pub async fn push(&self, event: &str) -> Result<Value, Missed> {
        let push = self.fcm.next_push(STEP).await.ok_or_else(|| Missed::new(format!("a push: {event}"), "none"))?;
        match push.payload["event"] == event {
            true => Ok(push.payload),
            false => Err(Missed::new(format!("a push: {event}"), push.payload.to_string())),
        }
    }

    /// The next pushes are of these events, each once, in whatever order they arrive.
    ///
    /// # Errors
    /// [`Missed`] when another comes, or none.
    pub async fn pushes(&self, events: &[&str]) -> Result<(), Missed> {
        let mut awaited = events.to_vec();
        while !awaited.is_empty() {
            let awaits = || format!("pushes: {}", awaited.join(", "));
            let push = self.fcm.next_push(STEP).await.ok_or_else(|| Missed::new(awaits(), "none"))?;
            let Some(at) = awaited.iter().position(|event| push.payload["event"] == *event) else {
                return Err(Missed::new(awaits(), push.payload.to_string()));
            };
            awaited.swap_remove(at);
        }
        Ok(())
    }

    /// The call of a push is in this state.
    ///
    /// # Errors
    /// [`Missed`] when it is in another.
    pub async fn expect_state(&self, instance: &Instance, push: &Value, state: &str) -> Result<(), Missed> {
        let answer = self.answer(self.api.call(instance, &text(&push["call"])).await)?;
        match answer.json()["state"] == state {
            true => Ok(()),
            false => Err(Missed::new(format!("a call that is {state}"), answer.text())),
        }
    }

    /// Waits until an instance is gone: reading it is answered 404.
    ///
    /// # Errors
    /// [`Missed`] when it is not `within` the time.
    pub async fn await_gone(&self, instance: &Instance, within: Duration) -> Result<(), Missed> {
        const LOOK_AGAIN: Duration = Duration::from_millis(20);
        let gone = async {
            while self.api.read(instance).await.map_or(0, |answer| answer.status) != 404 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let gone = tokio::time::timeout(within, gone).await;
        gone.map_err(|_| Missed::new("404 for an instance that has ended", "something else"))
    }

    /// What the stand-ins found wrong.
    pub fn violations(&self) -> Vec<String> {
        [self.registrar.violations(), self.apns.violations(), self.fcm.violations()].concat()
    }
}

/// The text of a JSON string; empty for anything else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
