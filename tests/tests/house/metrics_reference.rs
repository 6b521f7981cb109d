//! `docs/metrics.md` is the list of the metrics, as a relay exposes them before anything has happened.
//!
//! Invariant: each metric of the code is on the page, with its help, its labels and their values.

use std::collections::{BTreeMap, BTreeSet};

use relay::domain::{CanaryStep, Word as _};
use relay::metrics::{Metric, Metrics};

use super::page::{code, is_current, row, table};

/// What stands above the table.
const HEAD: &str = "# Metrics

Made from the code; `SIPWAKE_REWRITE=1 cargo test -p tests --test house reference` writes this page. What to watch them for is told in [Operators](operators.md#5-watch), what
to do about an alert in the [runbooks](runbooks.md). No label names a person; of `app`, `route` and `status` the values are your Apps' ids, the API's paths and HTTP's statuses.

";

/// Labels whose values are not in the code.
const OPEN: [&str; 4] = ["app", "route", "status", "version"];

/// The words of a label, by its name, by its metric.
type Labels = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

#[test]
fn the_reference_of_the_metrics_is_what_a_relay_exposes() {
    let mut page = HEAD.to_owned();
    let metrics = Metrics::new();
    drop(
        ["apns", "apns-sandbox", "fcm", "webpush"].map(|provider| metrics.push_service("com.example.phone", provider)),
    );
    let steps: Vec<_> = CanaryStep::ALL.iter().map(|step| (*step, 1)).collect();
    metrics.canary("com.example.phone", 1, None, &steps);
    let labels = labels(&metrics.render());
    table(&mut page, "metric | kind | means | labels");
    for metric in Metric::ALL {
        let told = labels.get(metric.name()).into_iter().flatten().map(|(label, words)| {
            if OPEN.contains(&&**label) {
                code(label)
            } else {
                format!("{}: {}", code(label), words.iter().map(|word| code(word)).collect::<Vec<_>>().join(", "))
            }
        });
        let told = told.collect::<Vec<_>>().join("; ");
        row(&mut page, &[&code(metric.name()), &format!("{:?}", metric.kind()).to_lowercase(), metric.help(), &told]);
    }
    is_current("docs/metrics.md", page);
}

/// The labels of an exposition. A histogram's own, `le`, is none of ours.
fn labels(exposition: &str) -> Labels {
    let mut found = Labels::new();
    for line in exposition.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let Some((inside, _)) = rest.rsplit_once('}') else { continue };
        for pair in inside.split("\",") {
            let Some((label, word)) = pair.split_once("=\"") else { continue };
            if label != "le" {
                let words = found.entry(name.to_owned()).or_default().entry(label.to_owned()).or_default();
                words.insert(word.trim_end_matches('"').to_owned());
            }
        }
    }
    found
}
