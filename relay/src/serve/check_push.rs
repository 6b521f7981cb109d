//! `check --push`: what the real push services say of the keys that a configuration names.
//!
//! Invariant: no device gets a push (`push::dry_run`), and no problem repeats a key.

use std::sync::Arc;

use super::push_services::{names, push_settings};
use crate::config::{Config, Problem};
use crate::metrics::Metrics;
use crate::push::{PushService, System};

/// Each service that would take no push, and a line for each that would.
pub async fn check_push(config: &Config) -> (Vec<Problem>, Vec<String>) {
    let apps = config.apps.iter().map(|app| (app.id.clone(), push_settings(app, &config.upstream))).collect();
    // A service that cannot be set up is a problem that the check without pushes names.
    let Ok(names) = names(config) else { return Default::default() };
    let network = Arc::new(System::new(names));
    let Ok(service) = PushService::new(network, apps, &Metrics::new()) else { return Default::default() };
    let (mut problems, mut well) = (Vec::new(), Vec::new());
    for trial in service.try_out().await {
        match trial.problem {
            None => well.push(format!("app {}: {} takes pushes", trial.app, trial.service)),
            Some((reason, words)) => {
                let what = format!("{} takes no push: {reason}", trial.service);
                problems.push(Problem::new(&format!("app {}", trial.app), what, &*words));
            }
        }
    }
    (problems, well)
}
