//! The main job, told once from beginning to end on stand-ins: a sleeping phone rings.
//!
//! The demo prints it, the smoke test asserts it. Each step has a deadline; one that does not happen in time ends the
//! story with what was awaited and what was seen.
//!
//! Invariant: everything runs in this process, on loopback alone, and stops when the story ends.

use std::time::{Duration, Instant};

use hyper::Version;
use relay::config::Config;
use relay::serve::{Relay, Running};
use serde_json::{Value, json};

use crate::api_client::{ApiClient, Instance};
use crate::authority::Authority;
use crate::board::Missed;
use crate::caller::CallOptions;
use crate::phone::{self, Phone};
use crate::registrar::{self, Registrar};
use crate::relay_setup::{self, App, Setup};
use crate::scratch::Scratch;
use crate::wire::Transport;
use crate::{apns, fcm};

/// The most that one step may take.
const STEP: Duration = Duration::from_secs(5);

/// Hears each step as it happens: the time since the story began, and what happened.
pub type Listener<'a> = &'a mut (dyn FnMut(Duration, &str) + Send);

/// Everything that takes part.
struct Stage<'a> {
    authority: Authority,
    registrar: Registrar,
    fcm: fcm::Fcm,
    relay: Running,
    api: ApiClient,
    aor: String,
    began: Instant,
    listener: Listener<'a>,
    _apns: apns::Apns,
    _scratch: Scratch,
}

/// Plays the whole story.
///
/// # Errors
/// [`Missed`] for the first step that did not happen.
pub async fn play(listener: Listener<'_>) -> Result<(), Missed> {
    let mut stage = Stage::build(listener).await?;
    let instance = stage.enable().await?;
    stage.sleeping_phone_rings(&instance).await?;
    stage.caller_changes_his_mind(&instance).await?;
    stage.declined(&instance).await?;
    stage.disable(&instance).await?;
    stage.end().await
}

impl<'a> Stage<'a> {
    async fn build(listener: Listener<'a>) -> Result<Self, Missed> {
        let began = Instant::now();
        let failed = |what: &'static str| move |error: std::io::Error| Missed::new(what, error.to_string());
        let authority = Authority::new();
        let users = registrar::Settings { authority: Some(authority.clone()), ..registrar::Settings::default() };
        let registrar = Registrar::start(users).await.map_err(failed("a registrar"))?;
        let (apns, fcm) = (apns::Apns::start(&authority).await, fcm::Fcm::start(&authority).await);
        let setup = Setup::new(&authority, vec![app(&authority, &apns, &fcm)]);
        let scratch = Scratch::new();
        let config =
            Config::load(&setup.write(&scratch)).map_err(|it| Missed::new("a configuration", it.to_string()))?;
        let relay = Relay::start(config).await.map_err(|error| Missed::new("a relay", error.to_string()))?;
        let key = setup.apps.first().map(|app| app.api_key.as_str());
        let api = ApiClient::new(relay.api, Version::HTTP_2, &authority, key);
        let aor = registrar.aor("alice");
        let _apns = apns;
        let mut stage = Self { authority, registrar, fcm, relay, api, aor, began, listener, _apns, _scratch: scratch };
        let (edge, api) = (stage.relay.edge, stage.relay.api);
        stage.say(&format!("the relay serves: devices at {edge} (SIP over TLS), apps at https://{api}"));
        Ok(stage)
    }

    async fn enable(&mut self) -> Result<Instance, Missed> {
        let body = json!({
            "account": {
                "aor": self.aor, "auth_username": "alice", "password": "wonderland",
                "registrar": self.registrar.uri(Transport::Tls),
            },
            "device": {"call_push": {"provider": "fcm", "token": "story-device-token"}, "label": "the story's phone"},
        });
        let answered = self.api.enable(&body).await.map_err(|error| Missed::new("201", error.to_string()))?;
        if answered.status != 201 {
            return Err(Missed::new("201 to enabling", format!("{} {}", answered.status, answered.text())));
        }
        let instance = Instance {
            id: text(&answered.json()["instance"]),
            secret: text(&answered.json()["secret"]),
            edge: text(&answered.json()["edge"]["proxy"]),
            answer: answered.json(),
        };
        let contact = self.registrar.await_contacts(&self.aor, 1, STEP).await?;
        self.say(&format!("the app lends the account of {}: {} (201)", self.aor, instance.id));
        let uri = contact.first().map(|binding| binding.uri.clone()).unwrap_or_default();
        self.say(&format!("the SIP server has the relay's Contact: {uri}; the phone sleeps"));
        Ok(instance)
    }

    async fn sleeping_phone_rings(&mut self, instance: &Instance) -> Result<(), Missed> {
        let caller = self.registrar.call(&self.aor, &CallOptions::default())?;
        self.say("Bob calls: the SIP server sends the INVITE to the relay");
        let push = self.push("call").await?;
        self.say(&format!("the push service has the push: {push}"));
        caller.expect(180, STEP).await?;
        self.say("Bob hears ringing");
        let phone = self.wake(instance).await?;
        self.say("the phone woke, connected to the edge and registered with its instance secret");
        let call = phone.next_invite(STEP).await?;
        self.say("the held INVITE reached the phone");
        call.ring();
        call.answer();
        caller.answered(STEP).await?;
        call.expect_ack(STEP).await?;
        self.expect_state(instance, &push, "answered").await?;
        self.say("Alice answers: 200 and ACK went through");
        caller.bye(STEP).await?;
        call.expect_bye(STEP).await?;
        self.say("Bob hangs up: BYE went through to the phone");

        let again = self.registrar.call(&self.aor, &CallOptions::default())?;
        let call = phone.next_invite(STEP).await?;
        call.answer();
        again.answered(STEP).await?;
        call.expect_ack(STEP).await?;
        self.say("Bob calls again: the phone is there, gets the call at once, and answers");
        call.hang_up(STEP).await?;
        again.expect_bye(STEP).await?;
        self.say("Alice hangs up: BYE went through to Bob; the phone goes to sleep");
        phone.unregister(STEP).await?;
        match phone.violations().is_empty() {
            true => Ok(()),
            false => Err(Missed::new("a phone that is content", phone.violations().join("; "))),
        }
    }

    async fn caller_changes_his_mind(&mut self, instance: &Instance) -> Result<(), Missed> {
        let caller = self.registrar.call(&self.aor, &CallOptions::default())?;
        let push = self.push("call").await?;
        caller.cancel().await?;
        caller.expect(487, STEP).await?;
        self.expect_state(instance, &push, "cancelled").await?;
        self.push("call-ended").await?;
        let phone = self.wake(instance).await?;
        let answer = phone.ping(STEP).await;
        if phone.invited() > 0 {
            return Err(Missed::new("a phone that does not ring", "an INVITE"));
        }
        answer?;
        self.say("Bob calls and gives up while the phone wakes: 487; the phone comes late, asks, and does not ring");
        phone.unregister(STEP).await.map(drop)
    }

    async fn declined(&mut self, instance: &Instance) -> Result<(), Missed> {
        let caller = self.registrar.call(&self.aor, &CallOptions::default())?;
        let push = self.push("call").await?;
        let answer = self.api.decline(instance, &text(&push["call"])).await;
        let answer = answer.map_err(|error| Missed::new("204", error.to_string()))?;
        if answer.status != 204 {
            return Err(Missed::new("204 to a decline", format!("{} {}", answer.status, answer.text())));
        }
        caller.expect(603, STEP).await?;
        self.expect_state(instance, &push, "declined").await?;
        self.push("call-ended").await?;
        self.say("Bob calls once more, Alice declines from the notification: 603");
        Ok(())
    }

    async fn disable(&mut self, instance: &Instance) -> Result<(), Missed> {
        let answer = self.api.disable(instance).await.map_err(|error| Missed::new("200", error.to_string()))?;
        let receipt = answer.json();
        if answer.status != 200 || receipt["unregistered"] != true || receipt["reason"] != "disabled" {
            return Err(Missed::new("a receipt", format!("{} {}", answer.status, answer.text())));
        }
        self.registrar.await_contacts(&self.aor, 0, STEP).await?;
        let gone = self.api.read(instance).await.map_err(|error| Missed::new("404", error.to_string()))?;
        if gone.status != 404 {
            return Err(Missed::new("404 for what was wiped", gone.status.to_string()));
        }
        self.say(&format!("Alice disables push: unregistered, wiped; the receipt: {receipt}"));
        Ok(())
    }

    async fn end(mut self) -> Result<(), Missed> {
        let mut wrong = self.registrar.violations();
        wrong.extend(self.fcm.violations());
        if !wrong.is_empty() {
            return Err(Missed::new("stand-ins that are content", wrong.join("; ")));
        }
        let Self { relay, began, ref mut listener, .. } = self;
        relay.shutdown().await;
        listener(began.elapsed(), "the relay drained and stopped");
        Ok(())
    }

    async fn wake(&self, instance: &Instance) -> Result<Phone, Missed> {
        let settings = phone::Settings::new(&instance.edge, &instance.id, &instance.secret, Some(&self.authority));
        Phone::registered(settings, STEP).await
    }

    /// The next push, which must be of this event.
    async fn push(&self, event: &str) -> Result<Value, Missed> {
        let push = self.fcm.next_push(STEP).await.ok_or_else(|| Missed::new(format!("a push: {event}"), "none"))?;
        match push.payload["event"] == event {
            true => Ok(push.payload),
            false => Err(Missed::new(format!("a push: {event}"), push.payload.to_string())),
        }
    }

    async fn expect_state(&self, instance: &Instance, push: &Value, state: &str) -> Result<(), Missed> {
        let answer = self.api.call(instance, &text(&push["call"])).await;
        let answer = answer.map_err(|error| Missed::new(state, error.to_string()))?;
        match answer.json()["state"] == state {
            true => Ok(()),
            false => Err(Missed::new(format!("a call that is {state}"), answer.text())),
        }
    }

    fn say(&mut self, what: &str) {
        (self.listener)(self.began.elapsed(), what);
    }
}

fn app(authority: &Authority, apns: &apns::Apns, fcm: &fcm::Fcm) -> App {
    let mut app = App::new(apns::BUNDLE);
    app.apns = Some(relay_setup::Apns {
        key_file: apns.key_file(),
        key_id: apns::KEY_ID.to_owned(),
        team_id: apns::TEAM_ID.to_owned(),
        endpoint: apns.endpoint(),
        ca_file: authority.ca_file(),
    });
    app.fcm = Some(relay_setup::Fcm {
        service_account_file: fcm.service_account_file(),
        endpoint: fcm.endpoint(),
        ca_file: authority.ca_file(),
    });
    app
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
