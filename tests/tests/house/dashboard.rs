//! The dashboard shows each metric that the relay gives out, or an alert watches it; and Prometheus can read what it asks.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use relay::metrics::Metric;
use serde_json::Value;
use tests::scratch::Scratch;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docker").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn dashboard() -> Value {
    serde_json::from_str(&file("grafana/sipwake.json")).expect("JSON")
}

/// The panels that are no rows.
fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row")
}

/// What the panels and annotations ask.
fn expressions(dashboard: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let targets = panels(dashboard).flat_map(|panel| panel["targets"].as_array().expect("targets"));
    let asked = targets.filter_map(|target| text(&target["expr"]));
    let notes = dashboard["annotations"]["list"].as_array().expect("annotations");
    asked.chain(notes.iter().filter_map(|note| text(&note["expr"]))).collect()
}

/// Every word that may be the name of a metric.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("sipwake_") || word.starts_with("process_")).collect()
}

#[test]
fn every_metric_is_on_the_dashboard_or_watched_by_an_alert_and_every_name_there_is_a_metric() {
    let asked = expressions(&dashboard()).join("\n");
    let alerts = file("alerts.yml");
    let shown: BTreeSet<&str> = named(&asked).union(&named(&alerts)).copied().collect();
    let base =
        |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    let metrics: BTreeSet<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
    let is_shown = |metric: &str| shown.iter().any(|name| *name == metric || base(name).as_deref() == Some(metric));
    let unused: Vec<_> = metrics.iter().filter(|metric| !is_shown(metric)).collect();
    assert!(unused.is_empty(), "nobody looks at {unused:?}: put it into docker/grafana/sipwake.json");
    let is_metric = |name: &str| metrics.contains(name) || base(name).is_some_and(|name| metrics.contains(&*name));
    let unknown: Vec<_> = named(&asked).into_iter().filter(|name| !is_metric(name)).collect();
    assert!(unknown.is_empty(), "no metric: {unknown:?}");
}

#[test]
fn each_panel_says_what_it_shows_and_follows_the_node_that_is_chosen() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap_or_default();
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title} says nothing");
        for target in panel["targets"].as_array().expect("targets") {
            let asked = target["expr"].as_str().unwrap_or_default();
            assert!(asked.contains("instance=~\"$instance\""), "{title}: {asked}");
        }
    }
    let variables: Vec<_> = dashboard["templating"]["list"].as_array().expect("variables").iter().collect();
    let names: Vec<_> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    assert_eq!(names, ["instance", "app", "service"]);
    assert!(dashboard["annotations"]["list"].as_array().is_some_and(|notes| notes.len() >= 2));
}

#[test]
fn prometheus_can_read_each_expression_of_the_dashboard() {
    let plain = |text: &str| text.replace("$__rate_interval", "5m").replace("$instance", ".*");
    let rules = expressions(&dashboard()).iter().enumerate().fold(String::new(), |rules, (index, asked)| {
        let asked = plain(asked).replace("$app", ".*").replace("$service", ".*").replace('\'', "''");
        rules + &format!("      - record: panel:{index}\n        expr: '{asked}'\n")
    });
    let scratch = Scratch::new();
    let rules = scratch.file("rules.yml", format!("groups:\n  - name: dashboard\n    rules:\n{rules}"));
    let output = Command::new("promtool").args(["check", "rules"]).arg(rules).output();
    let output = output.expect("promtool is missing: sudo apt-get install -y prometheus");
    let says = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&says));
}
