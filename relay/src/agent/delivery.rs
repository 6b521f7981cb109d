//! The delivery of one push: it is sent and counted, and its verdict gets a name.
//!
//! Invariant: every push of the agent leaves by [`deliver`], so that each is counted once, and none is retried with a token that the device has replaced.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, oneshot};

use super::{ShardInput, Shared};
use crate::domain::story::{ANSWER_LOST, TOKEN_CHANGED};
use crate::domain::{PushOutcome, PushProvider};
use crate::push::{
    ANSWERED_WITHIN, Delivery, Departure, Event, IsGoneFuture, Push, Recalled, Recipient, StaysFuture, Verdict,
};
use crate::vault::record::{Provider, PushTarget};

/// How long the answer to a push is waited for that is to go elsewhere, where its service may take it twice.
const ANSWERED_SOON: Duration = Duration::from_secs(5);

/// Delivers a push of an instance on this shard, and counts it; also how many copies of it the service may have taken. It is tried until `until` at
/// most; `departure` is told when it leaves. `None`: it was recalled before anything of it had left.
pub(crate) async fn deliver(
    shared: &Arc<Shared>,
    shard: usize,
    app: &str,
    target: &PushTarget,
    push: &Push,
    until: Instant,
    departure: &Departure,
) -> Option<(Verdict, u32)> {
    let judging = Mutex::new(());
    let (device, began) = (Device { shared, shard, app, push, target, judging: &judging }, Instant::now());
    let ended_so = |verdict| {
        let (attempts, copies) = (departure.count(), departure.lost());
        Delivery { verdict, attempts, copies, elapsed: began.elapsed(), is_in_force: false }
    };
    let within = || if departure.moves() && !target.provider.is_apple() { ANSWERED_SOON } else { ANSWERED_WITHIN };
    let delivery = tokio::select! {
        biased;
        delivery = shared.push.deliver_measured(app, target, push, until, departure, &device) => delivery,
        recalled = recalled(departure, within, &judging) => match recalled {
            Recalled::Unanswered => ended_so(Verdict::Unconfirmed),
            Recalled::Withdrawn | Recalled::Answered if departure.goes_on() => ended_so(Verdict::Moved),
            Recalled::Withdrawn => return None,
            Recalled::Answered => ended_so(Verdict::Retry { after: None }),
        },
    };
    let Delivery { verdict, attempts, copies, elapsed, is_in_force } = delivery;
    let verdict = match verdict {
        Verdict::BadToken
            if is_in_force && shared.believes_bad_token(app, target.provider, push.event, &target.token).await =>
        {
            Verdict::Gone { since: None }
        }
        Verdict::BadToken => Verdict::Refused { reason: "BadDeviceToken" },
        verdict => verdict,
    };
    if verdict == Verdict::Accepted && is_in_force {
        shared.note_accepted(app, target.provider, push.event);
        if target.provider == Provider::WebPush {
            shared.note_taken(app, target);
        }
    }
    let provider = shared.provider(target.provider);
    for _ in 1..attempts {
        shared.metrics.push_retry(provider);
    }
    let outcome = outcome_of(&verdict);
    shared.metrics.push(provider, outcome, elapsed);
    shared.push.count(app, target.provider, outcome);
    Some((verdict, copies))
}

/// Waits until the push is recalled; an answer that is being judged counts.
async fn recalled(departure: &Departure, within: impl Fn() -> Duration, judging: &Mutex<()>) -> Recalled {
    let recalled = departure.recalled(within).await;
    let _judged = judging.lock().await;
    recalled
}

/// The device that a push is for.
struct Device<'a> {
    shared: &'a Shared,
    shard: usize,
    app: &'a str,
    push: &'a Push,
    /// The token that is tried.
    target: &'a PushTarget,
    /// Held while it is asked whether an answer is believed.
    judging: &'a Mutex<()>,
}

impl Recipient for Device<'_> {
    fn stays(&self) -> StaysFuture<'_> {
        Box::pin(async {
            let Push { instance, event, .. } = *self.push;
            let (reply, answer) = oneshot::channel();
            self.shared.shards.send(self.shard, ShardInput::TargetAsked { instance, event, reply }).await;
            match answer.await {
                Ok(Some((_, target))) => target.takes_the_same(self.target),
                // Of an instance that has ended, or wants no calls any more, no call is pushed; what tells of the end has no other token.
                Ok(None) => event != Event::Call,
                // The process ends, and there is nobody to ask.
                Err(_) => true,
            }
        })
    }

    fn is_gone(&self) -> IsGoneFuture<'_> {
        Box::pin(async {
            let _judging = self.judging.lock().await;
            self.shared.believes_not_found(self.app, self.target).await
        })
    }
}

/// How a push ended, as metrics and timelines name it.
pub(crate) fn outcome_of(verdict: &Verdict) -> PushOutcome {
    match verdict {
        Verdict::Accepted => PushOutcome::Accepted,
        Verdict::Gone { .. } => PushOutcome::Gone,
        Verdict::Refused { .. } | Verdict::BadToken => PushOutcome::Refused,
        Verdict::Retry { .. } | Verdict::Unconfirmed | Verdict::Moved => PushOutcome::Failed,
        Verdict::TooLate => PushOutcome::TooLate,
    }
}

/// Why it ended so, where that is known; `said`: why it was not taken.
pub(crate) fn reason_of(verdict: &Verdict, said: Option<&'static str>) -> Option<&'static str> {
    match verdict {
        Verdict::Refused { reason } => Some(reason),
        Verdict::Unconfirmed => Some(ANSWER_LOST),
        Verdict::Moved => Some(TOKEN_CHANGED),
        Verdict::Retry { .. } | Verdict::TooLate => said,
        _ => None,
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

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_being_judged_when_its_call_ends_counts() {
        let (departure, judging) = (Departure::unmeasured(), Mutex::new(()));
        let judged = async {
            let _judging = judging.lock().await;
            departure.recall().ask();
            sleep(Duration::from_secs(1)).await;
        };
        let counts = tokio::select! {
            biased;
            () = judged => true,
            _ = recalled(&departure, || ANSWERED_WITHIN, &judging) => false,
        };
        assert!(counts);
        // Nothing is.
        assert_eq!(recalled(&departure, || ANSWERED_WITHIN, &judging).await, Recalled::Withdrawn);
    }
}
