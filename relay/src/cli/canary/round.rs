//! One round of a canary: lend, call, be pushed, come, be rung, answer, hang up, take back.
//!
//! Invariant: the lent account is taken back and a ringing call is given up, however the round goes. A step is told as done
//! when it was seen, and not before.

use std::cell::RefCell;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::caller::{CallError, Caller, Identity};
use crate::cli::device::Instance;
use crate::cli::https::Https;
use crate::doctor::{Doctor, Patient};
use crate::domain::{CanaryStep, Word};
use crate::secret::{ApiKey, InstanceSecret};
use crate::softphone::{Answering, Softphone};

/// How often the timeline is looked at for the push.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the account may take to be registered.
const REGISTERED_WITHIN: Duration = Duration::from_secs(30);

/// Why a round that was told to end did not reach a step.
const STOPPED: &str = "stopped before it was reached";

/// The inputs of a canary's rounds.
pub(super) struct Canary {
    pub https: Https,
    pub key: ApiKey,
    pub callee: Identity,
    pub caller: Option<Identity>,
    pub registrar: Option<Box<str>>,
    pub outbound_proxy: Option<Box<str>>,
    /// The push target of calls: `device.call_push`.
    pub target: Value,
    pub doctor: Doctor,
    /// How long a call may take to be answered.
    pub within: Duration,
    /// The account lent at this moment.
    pub lent: RefCell<Option<Lent>>,
    /// Whether the rounds are to end: what is lent is taken back, and nothing else begins.
    pub stop: watch::Receiver<bool>,
}

/// An instance that is to be taken back.
#[derive(Clone)]
pub(super) struct Lent {
    path: String,
    secret: InstanceSecret,
}

/// The result of a round.
pub(super) struct RoundResult {
    /// The step that failed, and why.
    pub failed: Option<(CanaryStep, String)>,
    /// The steps that were reached, with the seconds from the INVITE on; `enable` and `wipe`: that they took.
    pub seconds: Vec<(CanaryStep, f64)>,
}

impl RoundResult {
    /// As the operator listener takes it.
    pub(super) fn to_json(&self, app: &str) -> Value {
        let ms = |seconds: f64| json!((seconds * 1_000.0).round() as u64);
        let steps: serde_json::Map<_, _> =
            self.seconds.iter().map(|(step, seconds)| (step.word().to_owned(), ms(*seconds))).collect();
        let mut told = json!({"app": app, "ms": steps});
        if let Some((step, why)) = &self.failed {
            told["failed"] = step.word().into();
            // One line, as the listener takes it: a refusal of the relay's has several, and may name what was sent.
            let lines: Vec<_> = why.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let line = lines.join("; ");
            let plain = line.chars().filter(|character| !character.is_control());
            told["why"] = plain.take(WHY_MAX).collect::<String>().into();
        }
        told
    }
}

/// The steps of a round, as they are reached.
struct Steps {
    begun: Instant,
    reached: RefCell<Vec<(CanaryStep, f64)>>,
}

type Failure = (CanaryStep, String);

/// Characters of a reason that are reported at most.
const WHY_MAX: usize = 1_000;

impl Steps {
    fn new() -> Self {
        Self { begun: Instant::now(), reached: RefCell::default() }
    }

    fn reach(&self, step: CanaryStep) {
        let after = self.begun.elapsed().as_secs_f64();
        let mut reached = self.reached.borrow_mut();
        if reached.iter().all(|(other, _)| *other != step) {
            reached.push((step, after));
        }
    }

    fn has(&self, step: CanaryStep) -> bool {
        self.reached.borrow().iter().any(|(other, _)| *other == step)
    }

    /// The first of a call's steps that was not reached.
    fn missing(&self) -> CanaryStep {
        use CanaryStep::{Answer, Attach, End, Invite, Push, Ring};
        [Invite, Push, Attach, Ring, Answer].into_iter().find(|step| !self.has(*step)).unwrap_or(End)
    }
}

impl Canary {
    /// Plays a round.
    pub(super) async fn round(&self) -> RoundResult {
        let begun = Instant::now();
        let mut told = RoundResult { failed: None, seconds: Vec::new() };
        match self.enable().await {
            Ok(instance) => {
                told.seconds.push((CanaryStep::Enable, begun.elapsed().as_secs_f64()));
                let steps = Steps::new();
                told.failed = self.call(instance, &steps).await.err();
                told.seconds.extend(steps.reached.into_inner());
            }
            Err(why) => told.failed = Some((CanaryStep::Enable, why)),
        }
        let begun = Instant::now();
        match self.take_back().await {
            Ok(true) => told.seconds.push((CanaryStep::Wipe, begun.elapsed().as_secs_f64())),
            Ok(false) => {}
            Err(why) => {
                told.failed = Some(match told.failed {
                    Some((step, first)) => (step, format!("{first}; and the account was not taken back: {why}")),
                    None => (CanaryStep::Wipe, why),
                });
            }
        }
        told
    }

    /// Whether the rounds are to end.
    pub(super) fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the rounds are to end.
    pub(super) async fn stopped(&self) {
        if self.stop.clone().wait_for(|is| *is).await.is_err() {
            std::future::pending().await
        }
    }

    /// Takes back what is lent; whether anything was.
    async fn take_back(&self) -> Result<bool, String> {
        let Some(Lent { path, secret }) = self.lent.take() else { return Ok(false) };
        let receipt =
            self.https.ask("DELETE", &path, secret.expose(), None).await.map_err(|error| error.to_string())?;
        if receipt["signature"].is_string() {
            Ok(true)
        } else {
            Err("the relay's store is away, and there is no receipt".to_owned())
        }
    }

    /// Lends the account, until it is registered. The answer that says how to take it back is waited for, even where the rounds are to end.
    async fn enable(&self) -> Result<Instance, String> {
        let Identity { aor, username, password } = &self.callee;
        let mut body = json!({
            "account": {"aor": aor, "auth_username": username, "password": password.expose()},
            "device": {"call_push": self.target, "label": "sipwake canary"},
            "wake_for": ["call"],
        });
        for (name, uri) in [("registrar", &self.registrar), ("outbound_proxy", &self.outbound_proxy)] {
            if let Some(uri) = uri {
                body["account"][name] = uri.as_ref().into();
            }
        }
        let enabled = self.https.ask("POST", "/v1/instances", self.key.expose(), Some(&body)).await;
        drop(body);
        let enabled = enabled.map_err(|error| error.to_string())?;
        let instance = Instance::read(&enabled).ok_or("the answer is not a relay's")?;
        let path = format!("/v1/instances/{}", instance.who.user);
        let lent = Lent { path, secret: instance.who.secret.clone() };
        self.lent.replace(Some(lent.clone()));
        let mut registration = enabled["registration"].clone();
        let until = Instant::now() + REGISTERED_WITHIN;
        while registration["state"] != "registered" {
            if self.is_stopped() {
                return Err(STOPPED.to_owned());
            }
            if Instant::now() > until {
                return Err("the SIP server has not registered the account in time".to_owned());
            }
            sleep(LOOK_EVERY * 5).await;
            let seen = self.https.ask("GET", &lent.path, lent.secret.expose(), None).await;
            registration = seen.map_err(|error| error.to_string())?["registration"].clone();
        }
        Ok(instance)
    }

    /// Both ends of a call, from the INVITE to the BYE.
    async fn call(&self, instance: Instance, steps: &Steps) -> Result<(), Failure> {
        let who = self.caller.as_ref().unwrap_or(&self.callee);
        let patient = Patient {
            aor: who.aor.as_str().into(),
            registrar: self.registrar.clone(),
            outbound_proxy: self.outbound_proxy.clone(),
            credentials: None,
        };
        let line = tokio::select! {
            biased;
            () = self.stopped() => return Err((CanaryStep::Invite, STOPPED.to_owned())),
            line = self.doctor.connect(&patient) => line.map_err(|why| (CanaryStep::Invite, why))?,
        };
        let mut caller = Caller::new(line, who, &self.callee.aor);
        let outcome = timeout(self.within, async {
            tokio::try_join!(self.place(&mut caller, steps), self.attend(instance, steps)).map(drop)
        });
        let outcome = tokio::select! {
            biased;
            () = self.stopped() => Err((steps.missing(), STOPPED.to_owned())),
            outcome = outcome => outcome.unwrap_or_else(|_| {
                Err((steps.missing(), format!("not reached within {} s of the INVITE", self.within.as_secs())))
            }),
        };
        if outcome.is_err() {
            caller.give_up().await;
        }
        outcome
    }

    /// The caller's part.
    async fn place(&self, caller: &mut Caller<'_>, steps: &Steps) -> Result<(), Failure> {
        let rung = caller.ring().await;
        if let Err(error) = rung {
            // The push service's answer explains more than the refusal that follows from it.
            let verdict =
                if matches!(error, CallError::Refused(_)) { self.verdict().await.and_then(Result::err) } else { None };
            return Err(match verdict {
                Some(why) => (CanaryStep::Push, why),
                None => (steps.missing(), error.to_string()),
            });
        }
        steps.reach(CanaryStep::Answer);
        caller.hang_up().await.map_err(|error| (CanaryStep::End, error.to_string()))?;
        steps.reach(CanaryStep::End);
        Ok(())
    }

    /// The device's part: it comes when the push service has taken the push, as a phone does when the push has reached it.
    async fn attend(&self, instance: Instance, steps: &Steps) -> Result<(), Failure> {
        loop {
            match self.verdict().await {
                Some(Ok(())) => break,
                Some(Err(why)) => return Err((CanaryStep::Push, why)),
                None => sleep(LOOK_EVERY).await,
            }
            if self.has_invite().await {
                steps.reach(CanaryStep::Invite);
            }
        }
        steps.reach(CanaryStep::Invite);
        steps.reach(CanaryStep::Push);
        let attached = |why: String| (CanaryStep::Attach, why);
        let stream = self.https.dial(&instance.who.host, instance.port).await.map_err(|it| attached(it.to_string()))?;
        let phone = Softphone::register(instance.who, stream).await;
        let mut phone = phone.map_err(|error| attached(error.to_string()))?;
        steps.reach(CanaryStep::Attach);
        let answering = Answering { answer: true, ring: Duration::ZERO, talk: None, calls: 1, wait: Some(self.within) };
        let taken = phone.take_calls(&answering, |said| {
            if said.starts_with("call from") {
                steps.reach(CanaryStep::Ring);
            }
        });
        taken.await.map_err(|error| (steps.missing(), error.to_string()))?;
        // The lease ends at once.
        let _ = phone.unregister().await;
        Ok(())
    }

    /// The push service's answer to the call's push; `None` while there is none.
    async fn verdict(&self) -> Option<Result<(), String>> {
        let steps = self.timeline().await;
        let ended = steps.iter().find(|step| step["step"] == "push-ended" && step["event"] == "call")?;
        if ended["outcome"] == "accepted" {
            return Some(Ok(()));
        }
        let text = |name: &str| ended[name].as_str().unwrap_or_default().to_owned();
        Some(Err(format!("the push ended as {} {}", text("outcome"), text("reason")).trim_end().to_owned()))
    }

    async fn has_invite(&self) -> bool {
        self.timeline().await.iter().any(|step| step["step"] == "invite")
    }

    async fn timeline(&self) -> Vec<Value> {
        let Some(Lent { path, secret }) = self.lent.borrow().clone() else { return Vec::new() };
        let told = self.https.ask("GET", &format!("{path}/timeline"), secret.expose(), None).await;
        told.ok().and_then(|mut told| told["steps"].as_array_mut().map(std::mem::take)).unwrap_or_default()
    }
}
