//! The registration of a metric, and the handles that count it.
//!
//! Invariant: each value of a label has its series from the first scrape on, found by index.

use std::marker::PhantomData;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{self, Registry};

use super::Metric;
use super::labels::{Label, OneLabel, TwoLabels};

/// The upper bounds of the buckets of each histogram of durations, in seconds.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// The handles of one metric, one for each value of a label.
pub(super) struct Series<L, H> {
    handles: Box<[H]>,
    label: PhantomData<L>,
}

impl<L: Label, H> Series<L, H> {
    pub fn of(&self, value: L) -> &H {
        &self.handles[value.index()]
    }
}

/// The counters of one metric, one for each pair of values of two labels.
pub(super) struct Table<A, B> {
    counters: Box<[Counter]>,
    labels: PhantomData<(A, B)>,
}

impl<A: Label, B: Label> Table<A, B> {
    pub fn of(&self, a: A, b: B) -> &Counter {
        &self.counters[a.index() * B::ALL.len() + b.index()]
    }
}

pub(super) fn register(registry: &mut Registry, metric: Metric, what: impl registry::Metric) {
    // The library ends each HELP with a full stop, and each counter's name with `_total`, by itself.
    let name = metric.name().trim_end_matches("_total");
    registry.register(name, metric.help().trim_end_matches('.'), what);
}

pub(super) fn single<M: registry::Metric + Default + Clone>(registry: &mut Registry, metric: Metric) -> M {
    let handle = M::default();
    register(registry, metric, handle.clone());
    handle
}

pub(super) fn histogram(registry: &mut Registry, metric: Metric) -> Histogram {
    let handle = Histogram::new(SECONDS.iter().copied());
    register(registry, metric, handle.clone());
    handle
}

pub(super) fn series<L: Label, M>(registry: &mut Registry, metric: Metric) -> Series<L, M>
where
    M: Default + Clone,
    Family<OneLabel<L>, M>: registry::Metric,
    OneLabel<L>: EncodeLabelSet,
{
    let family = Family::<OneLabel<L>, M>::default();
    let handles = L::ALL.iter().map(|value| family.get_or_create_owned(&OneLabel(*value))).collect();
    register(registry, metric, family);
    Series { handles, label: PhantomData }
}

pub(super) fn family<S, M>(registry: &mut Registry, metric: Metric) -> Family<S, M>
where
    S: Clone + std::hash::Hash + Eq,
    M: Default + Clone,
    Family<S, M>: registry::Metric + Default,
{
    let family = Family::default();
    register(registry, metric, Family::clone(&family));
    family
}

pub(super) fn table<A: Label, B: Label>(registry: &mut Registry, metric: Metric) -> Table<A, B> {
    let family = Family::<TwoLabels<A, B>, Counter>::default();
    let pairs = A::ALL.iter().flat_map(|a| B::ALL.iter().map(|b| TwoLabels(*a, *b)));
    let counters = pairs.map(|pair| family.get_or_create_owned(&pair)).collect();
    register(registry, metric, family);
    Table { counters, labels: PhantomData }
}
