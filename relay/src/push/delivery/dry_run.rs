//! The push services' verdict on our keys, asked for with pushes that reach no device.
//!
//! | service | request | sign of health |
//! | --- | --- | --- |
//! | APNs | an alert and a call to a token of zeros, for which Apple checks the credentials and the topic | `BadDeviceToken` |
//! | FCM | a message to be validated alone (`validate_only`), to an invalid token | `INVALID_ARGUMENT` for the token |
//!
//! Web Push has no service of its own to ask: there the key must sign.
//!
//! A failing service is asked each [`ASK_EVERY`]. Many failing services are asked a few at a time, and each again [`ASK_EVERY`] after all have been. So a
//! service recovers ([`crate::push::health`]) once it takes our credentials again, or can be reached again, even if nobody calls. A dry run does not show
//! whether it takes pushes that it did not take, or good tokens that it refused.
//!
//! Invariant: no device gets anything, and no other push is delayed or hastened. A dry run ends within [`DRY_RUN_TIMEOUT`] for each service.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use sip::id::{CallId, InstanceId, ShardTag};
use tokio::time::{Instant, sleep};

use crate::clock::{self, advertised_now};
use crate::push::apns::Environment;
use crate::push::delivery::service::{App, DeliveryRun, Mode, PushService};
use crate::push::health::Note;
use crate::push::health::reasons;
use crate::push::health::token_refusals::is_of_a_token;
use crate::push::{Event, Push, Verdict};
use crate::secret::PushToken;
use crate::vault::record::{Provider, PushTarget};

/// How long one service may take.
const DRY_RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a service that fails is asked.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// How many failing services are asked at once: each costs a connection with its handshake, on a core that has calls.
const ASKED_AT_ONCE: usize = 8;

/// The answer of one service of one app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// The app's id.
    pub app: Box<str>,
    /// `apns`, `apns-sandbox`, `fcm`, `webpush`.
    pub service: &'static str,
    /// The service's reason and what it means, if it would take no push of ours.
    pub problem: Option<(&'static str, Box<str>)>,
}

impl PushService {
    /// Asks every service of every app, all at once. The answers are in the order of the apps' names.
    pub async fn try_out(&self) -> Vec<DryRun> {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return Vec::new() };
        let mut apps: Vec<_> = apps.iter().collect();
        apps.sort_by_key(|(id, _)| *id);
        let trials = apps.into_iter().map(|(id, app)| async move {
            let mut trials = join_all(runs(app).into_iter().map(|runs| tried(id, runs))).await;
            trials.extend(app.webpush.as_ref().map(|webpush| DryRun {
                app: id.clone(),
                service: "webpush",
                problem: webpush.trial(),
            }));
            trials
        });
        join_all(trials).await.concat()
    }

    /// Asks failing services, each [`ASK_EVERY`], for ever.
    pub async fn tend(self) {
        loop {
            sleep(ASK_EVERY).await;
            self.ask_failing().await;
        }
    }

    async fn ask_failing(&self) {
        let mode = self.mode();
        let Mode::Sent(apps) = &*mode else { return };
        let services = apps.iter().flat_map(|(id, app)| runs(app).into_iter().map(move |runs| (id, runs)));
        let asked = services.map(|(id, runs)| async move {
            let Some(record) = runs.first().map(|run| Arc::clone(run.record())) else { return };
            let fails = record.report().reason.is_some_and(|(reason, _)| !is_of_a_token(reason));
            if fails && tried(id, runs).await.problem.is_none() {
                record.note(Note::LetIn);
            }
        });
        let asked: Vec<_> = asked.collect();
        stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect::<()>().await;
    }
}

/// The test pushes for each service.
fn runs(app: &App) -> Vec<Vec<DeliveryRun<'_>>> {
    let mut all = Vec::new();
    if let Some(apns) = &app.apns {
        let nobody = PushTarget::new(Provider::ApnsProduction, PushToken::new(&"0".repeat(64)), 0);
        let environments = [Environment::Production, Environment::Sandbox];
        for environment in environments.into_iter().take(apns.records().len()) {
            let prepared = [Event::Test, Event::Call].map(|event| apns.prepared(environment, &nobody, &push(event)));
            // A short push to a token of the right form can be prepared.
            all.push(prepared.into_iter().flatten().map(|prepared| DeliveryRun::Apns(apns, prepared)).collect());
        }
    }
    if let Some(fcm) = &app.fcm {
        let prepared = fcm.prepared_trial(&push(Event::Test));
        all.push(prepared.into_iter().map(|prepared| DeliveryRun::Fcm(fcm, prepared)).collect());
    }
    all
}

async fn tried(app: &str, runs: Vec<DeliveryRun<'_>>) -> DryRun {
    let mut trial = DryRun { app: app.into(), service: "", problem: None };
    for run in runs {
        let record = Arc::clone(run.record());
        trial.service = record.report().service;
        let deadline = Instant::now() + DRY_RUN_TIMEOUT;
        let (verdict, said) = run.try_out(deadline).await;
        trial.problem = match verdict {
            Verdict::Accepted | Verdict::Gone { .. } | Verdict::BadToken => None,
            Verdict::Refused { reason: "InvalidToken" } => None,
            Verdict::Refused { reason } => Some((reason, reasons::words(reason).into())),
            Verdict::Retry { .. } | Verdict::TooLate | Verdict::Unconfirmed | Verdict::Moved => {
                // The service's own reason says more than what followed from it.
                let latest = record.latest().filter(|(reason, _)| said.is_none_or(|said| said == *reason));
                let reason = said.unwrap_or("Silent");
                Some(latest.unwrap_or_else(|| (reason, reasons::words(reason).into())))
            }
        };
        if trial.problem.is_some() {
            break;
        }
    }
    trial
}

fn push(event: Event) -> Push {
    let now = advertised_now();
    let call = (event == Event::Call).then(|| CallId::new(0, ShardTag(0)));
    Push {
        event,
        instance: InstanceId::new(0, ShardTag(0)),
        call,
        from: None,
        name: None,
        edge: "".into(),
        sent_at: now,
        deadline: now + DRY_RUN_TIMEOUT.as_secs(),
        made_at: clock::now(),
        extra: Vec::new(),
    }
}
