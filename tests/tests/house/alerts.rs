//! The alerts fire when they should and are silent when they should, as Prometheus itself says; each has a page that says what to do.

use std::path::Path;
use std::process::Command;

const PLACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker");
const RUNBOOKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/runbooks.md");

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of the alerts.
fn alerts() -> Vec<String> {
    let rules = read(&Path::new(PLACE).join("alerts.yml"));
    let names = rules.lines().filter_map(|line| Some(line.trim().strip_prefix("- alert: ")?.to_owned()));
    names.collect()
}

#[test]
fn prometheus_finds_each_scenario_as_it_is_told() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(PLACE).output();
        let output = output.expect("promtool is missing: sudo apt-get install -y prometheus");
        let says = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&says));
    }
}

#[test]
fn each_alert_has_a_scenario_in_which_it_fires_one_in_which_it_does_not_and_a_runbook() {
    let scenarios = read(&Path::new(PLACE).join("alerts.test.yml"));
    let (rules, runbooks) = (read(&Path::new(PLACE).join("alerts.yml")), read(Path::new(RUNBOOKS)));
    let alerts = alerts();
    assert!(alerts.len() >= 20, "{alerts:?}");
    for alert in &alerts {
        for scenario in ["fires", "is silent"] {
            assert!(scenarios.contains(&format!("- name: {alert} {scenario}\n")), "{alert} {scenario}: no scenario");
        }
        assert!(rules.contains(&format!("docs/runbooks.md#{}\n", alert.to_lowercase())), "{alert} names its runbook");
        assert!(runbooks.contains(&format!("\n## {alert}\n")), "{alert} has no runbook");
    }
    let told = runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(told, alerts, "the runbooks are the alerts' own, in their order");
}
