//! How a push is sent, counted and its verdict named.
//!
//! Invariant: every push of the agent leaves by [`deliver`], so that each is counted once.

use std::sync::Arc;

use super::Shared;
use crate::domain::{PushOutcome, PushProvider};
use crate::push::{Delivery, Departure, Push, Verdict};
use crate::vault::record::{Provider, PushTarget};

/// Delivers a push and counts it.
pub(crate) async fn deliver(shared: &Arc<Shared>, app: &str, target: &PushTarget, push: &Push) -> Verdict {
    deliver_copies(shared, app, target, push, &Departure::unmeasured()).await.0
}

/// Likewise; also how many copies of it the service may have taken. `departure` is told when it leaves.
pub(crate) async fn deliver_copies(
    shared: &Arc<Shared>,
    app: &str,
    target: &PushTarget,
    push: &Push,
    departure: &Departure,
) -> (Verdict, u32) {
    let delivery = shared.push.deliver_measured(app, target, push, departure).await;
    let Delivery { verdict, attempts, copies, elapsed } = delivery;
    let verdict = match verdict {
        Verdict::BadToken if shared.believes_bad_token(app, target.provider).await => Verdict::Gone { since: None },
        Verdict::BadToken => Verdict::Refused { reason: "BadDeviceToken" },
        verdict => verdict,
    };
    if verdict == Verdict::Accepted {
        shared.note_accepted(app, target.provider);
    }
    let provider = shared.provider(target.provider);
    for _ in 1..attempts {
        shared.metrics.push_retry(provider);
    }
    let outcome = outcome_of(&verdict);
    shared.metrics.push(provider, outcome, elapsed);
    shared.push.count(app, target.provider, outcome);
    (verdict, copies)
}

/// How a push ended, as metrics and timelines name it.
pub(crate) fn outcome_of(verdict: &Verdict) -> PushOutcome {
    match verdict {
        Verdict::Accepted => PushOutcome::Accepted,
        Verdict::Gone { .. } => PushOutcome::Gone,
        Verdict::Refused { .. } | Verdict::BadToken => PushOutcome::Refused,
        Verdict::Retry { .. } | Verdict::Unconfirmed => PushOutcome::Failed,
        Verdict::TooLate => PushOutcome::TooLate,
    }
}

impl Shared {
    /// The push service, as metrics and timelines name it.
    pub(crate) fn provider(&self, provider: Provider) -> PushProvider {
        match provider {
            _ if self.push_is_printed => PushProvider::Printed,
            Provider::ApnsProduction | Provider::ApnsSandbox => PushProvider::Apns,
            Provider::Fcm => PushProvider::Fcm,
            Provider::WebPush => PushProvider::WebPush,
        }
    }
}
