//! The metrics read back, for the status page: a person sees the same numbers as Prometheus.
//!
//! Invariant: reads only what [`Metrics::render`] gave out; a series that is not there reads as zero.

use std::sync::Arc;

use super::{Metric, Metrics};

/// One scrape, ready to be asked.
pub struct Reading {
    series: Vec<Series>,
}

struct Series {
    /// Readings that are kept share it.
    key: Arc<Key>,
    value: f64,
}

#[derive(PartialEq, Eq)]
struct Key {
    name: String,
    labels: Vec<(String, String)>,
}

impl Reading {
    /// Scrapes `metrics` now.
    pub fn of(metrics: &Metrics) -> Self {
        Self { series: metrics.render().lines().filter_map(parse).collect() }
    }

    /// The sum over all series of `metric` whose labels include `labels`.
    pub fn value(&self, metric: Metric, labels: &[(&str, &str)]) -> f64 {
        self.sum(metric.name(), labels)
    }

    /// Shares the names of series with a reading that is kept already: they take some 60 KB, the values 2.
    pub fn share_names(&mut self, other: &Self) {
        for (at, series) in self.series.iter_mut().enumerate() {
            let is_same = |known: &&Series| known.key == series.key;
            // Both readings have one order, but for a new series now and then.
            let known = other.series.get(at).filter(is_same).or_else(|| other.series.iter().find(is_same));
            if let Some(known) = known {
                series.key = known.key.clone();
            }
        }
    }

    /// Keeps the series of these metrics alone.
    pub fn retain(&mut self, metrics: &[Metric]) {
        let of = |series: &Series, metric: &Metric| {
            let rest = series.key.name.strip_prefix(metric.name());
            rest.is_some_and(|rest| matches!(rest, "" | "_bucket" | "_count" | "_sum"))
        };
        self.series.retain(|series| metrics.iter().any(|metric| of(series, metric)));
        self.series.shrink_to_fit();
    }

    /// The buckets of a histogram, by their upper bounds in seconds: how many samples are within each.
    pub fn buckets(&self, metric: Metric) -> Vec<(f64, f64)> {
        let name = format!("{}_bucket", metric.name());
        let buckets = self.series.iter().filter(|series| series.key.name == name).filter_map(|series| {
            let (_, bound) = series.key.labels.iter().find(|(label, _)| label == "le")?;
            Some((bound.parse::<f64>().ok()?, series.value))
        });
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        buckets
    }

    /// How many samples of a histogram are within this bound of a bucket; 0 where there is none such.
    pub fn bucket(&self, metric: Metric, bound: f64) -> f64 {
        self.buckets(metric).iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, count)| *count)
    }

    /// How many samples the histogram `metric` holds.
    pub fn count(&self, metric: Metric) -> f64 {
        self.sum(&format!("{}_count", metric.name()), &[])
    }

    /// The upper bound, in seconds, of the bucket that holds the given share (0 to 1) of a histogram's samples; `None`
    /// without samples, infinite beyond the last bucket.
    pub fn within(&self, metric: Metric, share: f64) -> Option<f64> {
        let wanted = share * self.count(metric);
        if wanted <= 0.0 {
            return None;
        }
        self.buckets(metric).into_iter().find(|(_, count)| *count >= wanted).map(|(bound, _)| bound)
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |series: &&Series| {
            let has = |label: &str, value: &str| series.key.labels.iter().any(|(l, v)| l == label && v == value);
            series.key.name == name && labels.iter().all(|(label, value)| has(label, value))
        };
        self.series.iter().filter(fits).map(|series| series.value).sum()
    }
}

/// One line of the exposition; label values of ours hold neither quotes nor commas.
fn parse(line: &str) -> Option<Series> {
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (left, value) = line.rsplit_once(' ')?;
    let (name, labels) = match left.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (left, ""),
    };
    let labels = labels.split(',').filter_map(|pair| {
        let (label, value) = pair.split_once('=')?;
        Some((label.to_owned(), value.trim_matches('"').to_owned()))
    });
    let key = Key { name: name.to_owned(), labels: labels.collect() };
    Some(Series { key: Arc::new(key), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::WipeReason;
    use crate::metrics::labels::InviteOutcome;

    #[test]
    fn what_was_counted_is_read_back_by_label_and_in_sum() {
        let metrics = Metrics::new();
        metrics.wipe(WipeReason::Expired);
        metrics.wipe(WipeReason::Expired);
        metrics.wipe(WipeReason::Disabled);
        metrics.invite(InviteOutcome::Answered);
        let reading = Reading::of(&metrics);
        assert_eq!(reading.value(Metric::Wipes, &[("reason", "expired")]), 2.0);
        assert_eq!(reading.value(Metric::Wipes, &[]), 3.0);
        assert_eq!(reading.value(Metric::Invites, &[]), 1.0);
    }

    #[test]
    fn readings_that_are_kept_have_their_names_once() {
        let metrics = Metrics::new();
        metrics.wipe(WipeReason::Expired);
        let first = Reading::of(&metrics);
        metrics.invite(InviteOutcome::Answered);
        metrics.wipe(WipeReason::Disabled);
        let mut second = Reading::of(&metrics);
        second.share_names(&first);
        let own = second.series.iter().filter(|series| Arc::strong_count(&series.key) == 1).count();
        assert_eq!(own, second.series.len() - first.series.len(), "what was there before is shared");
        assert_eq!((second.value(Metric::Wipes, &[]), first.value(Metric::Wipes, &[])), (2.0, 1.0));
    }

    #[test]
    fn a_share_of_a_histogram_is_bounded_by_its_bucket() {
        let metrics = Metrics::new();
        assert_eq!(Reading::of(&metrics).within(Metric::Wake, 0.5), None);
        for ms in [2, 2, 2, 40] {
            metrics.wake(Duration::from_millis(ms));
        }
        let reading = Reading::of(&metrics);
        assert_eq!(reading.count(Metric::Wake), 4.0);
        assert_eq!(reading.within(Metric::Wake, 0.5), Some(0.0025));
        assert_eq!(reading.within(Metric::Wake, 0.99), Some(0.05));
    }
}
