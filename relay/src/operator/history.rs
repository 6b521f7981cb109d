//! The last hour of the metrics, for the status page: the values five minutes ago, and an hour ago.
//!
//! Invariant: it holds numbers of the metrics and nothing else, at most [`SAMPLES`] times [`WATCHED`]'s values. A relay that
//! is younger than a span is compared with its own start, when everything was zero.

use std::collections::VecDeque;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, interval};

use crate::lock::Mutex;
use crate::metrics::reading::Reading;
use crate::metrics::{Metric, Metrics};

/// How often a sample is taken.
pub const EVERY: Duration = Duration::from_secs(15);
/// Samples that are kept: an hour, and one more to compare with.
const SAMPLES: usize = 241;

/// A series, or the sum of several: a metric and the labels that must be there.
pub type Watched = (Metric, &'static [(&'static str, &'static str)]);

/// The metrics that are remembered.
pub(super) const WATCHED: &[Metric] = &[
    Metric::Instances,
    Metric::RegistrationsWaiting,
    Metric::Registrations,
    Metric::Invites,
    Metric::Pushes,
    Metric::AppPushes,
    Metric::PushTokensDoubted,
    Metric::Wake,
    Metric::Wipes,
    Metric::Messages,
    Metric::MissedCalls,
    Metric::SipRefused,
    Metric::Limits,
    Metric::PushRegistrations,
    Metric::PushRegistrationsEnded,
    Metric::PassedRegisters,
    Metric::EdgeRegisters,
    Metric::Handshakes,
    Metric::StoreErrors,
    Metric::LogLinesDropped,
];

/// The samples of one relay; cheap to clone, all clones are one.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<VecDeque<(Instant, Reading)>>>);

impl History {
    /// Takes a sample each [`EVERY`], for ever; give it a task of its own.
    pub async fn keep(self, metrics: Metrics) {
        let mut ticks = interval(EVERY);
        loop {
            ticks.tick().await;
            self.take(Instant::now(), Reading::of(&metrics));
        }
    }

    /// Keeps a sample.
    pub fn take(&self, at: Instant, mut reading: Reading) {
        reading.retain(WATCHED);
        let mut samples = self.lock();
        if let Some((_, earlier)) = samples.back() {
            reading.share_names(earlier);
        }
        samples.push_back((at, reading));
        if samples.len() > SAMPLES {
            samples.pop_front();
        }
    }

    /// By how much a counter has grown within `span` before `now`.
    pub fn growth(&self, now: (Instant, &Reading), span: Duration, (metric, labels): Watched) -> f64 {
        let value = now.1.value(metric, labels);
        (value - self.before(now.0, span, |reading| reading.value(metric, labels))).max(0.0)
    }

    /// The bound, in seconds, that this share of a histogram's samples of the last `span` kept; `None` without samples.
    pub fn within(&self, now: (Instant, &Reading), span: Duration, metric: Metric, share: f64) -> Option<f64> {
        let buckets = now.1.buckets(metric);
        let earlier = |bound: f64| self.before(now.0, span, |reading| reading.bucket(metric, bound));
        let grown: Vec<(f64, f64)> = buckets.iter().map(|(bound, count)| (*bound, count - earlier(*bound))).collect();
        let all = grown.last().map_or(0.0, |(_, count)| *count);
        grown.iter().find(|(_, count)| all > 0.0 && *count >= share * all).map(|(bound, _)| *bound)
    }

    /// A value at each minute of the last hour, oldest first; minutes before the start are left out.
    pub fn minutes(&self, now: (Instant, &Reading), value: impl Fn(&Reading) -> f64) -> Vec<f64> {
        let samples = self.lock();
        let mut values = Vec::with_capacity(61);
        for minute in (0..=60u64).rev() {
            let Some(at) = now.0.checked_sub(Duration::from_secs(minute * 60)) else { continue };
            if minute == 0 {
                values.push(value(now.1));
            } else if let Some((_, reading)) = samples.iter().rev().find(|(taken, _)| *taken <= at) {
                values.push(value(reading));
            }
        }
        values
    }

    /// A value as it was `span` before `now`; 0 when the relay had not started.
    pub fn before(&self, now: Instant, span: Duration, value: impl Fn(&Reading) -> f64) -> f64 {
        let samples = self.lock();
        let Some(at) = now.checked_sub(span) else { return 0.0 };
        samples.iter().rev().find(|(taken, _)| *taken <= at).map_or(0.0, |(_, reading)| value(reading))
    }

    /// Whether something was so all the time since `span` before `now`; not while the relay is younger than that.
    pub fn held(&self, now: Instant, span: Duration, is_so: impl Fn(&Reading) -> bool) -> bool {
        let samples = self.lock();
        let Some(at) = now.checked_sub(span) else { return false };
        let Some(first) = samples.iter().rposition(|(taken, _)| *taken <= at) else { return false };
        samples.iter().skip(first).all(|(_, reading)| is_so(reading))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, Reading)>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PushOutcome, PushProvider};

    #[test]
    fn growth_is_counted_from_the_span_before_or_from_the_start() {
        let (metrics, history) = (Metrics::new(), History::default());
        let accepted: Watched = (Metric::Pushes, &[("provider", "fcm"), ("outcome", "accepted")]);
        let push = |count: u32| {
            for _ in 0..count {
                metrics.push(PushProvider::Fcm, PushOutcome::Accepted, Duration::from_millis(3));
                metrics.wake(Duration::from_millis(40));
            }
        };
        let start = Instant::now();
        push(2);
        let reading = Reading::of(&metrics);
        assert_eq!(history.growth((start, &reading), Duration::from_secs(300), accepted), 2.0, "since the start");
        history.take(start, Reading::of(&metrics));
        push(3);
        let later = start + Duration::from_secs(600);
        let reading = Reading::of(&metrics);
        let now = (later, &reading);
        assert_eq!(history.growth(now, Duration::from_secs(300), accepted), 3.0);
        assert_eq!(history.growth(now, Duration::from_secs(3_600), accepted), 5.0);
        assert_eq!(history.within(now, Duration::from_secs(300), Metric::Wake, 0.9), Some(0.05));
        assert_eq!(history.within(now, Duration::from_secs(300), Metric::StoreDuration, 0.9), None);
        assert_eq!(
            history.minutes(now, |reading| reading.value(accepted.0, accepted.1)),
            [2.0; 10].into_iter().chain([5.0]).collect::<Vec<_>>()
        );
    }
}
