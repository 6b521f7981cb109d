//! Watching the certificates that push services are shown: each ends after a year, and no push leaves after that.
//!
//! Invariant: the warnings are about the certificates in use, whatever their files hold by now: a new file counts once it was taken by a reload. Each doubt is
//! logged once while it lasts.

use std::time::Duration;

use tokio::time::interval;

use super::check::push_certificate_remedy;
use crate::clock;
use crate::metrics::labels::Warning;
use crate::net::tls::dated;
use crate::operator::readiness::Readiness;
use crate::push::PushService;

/// How often they are looked at: a warning ends so soon behind the reload that has mended it.
const EVERY: Duration = Duration::from_secs(5);

/// Watches for as long as the relay runs.
pub(super) async fn watch(push: PushService, readiness: Readiness) {
    let mut ticks = interval(EVERY);
    let mut known: Vec<Box<str>> = Vec::new();
    loop {
        ticks.tick().await;
        let told = warnings(&push, clock::advertised_now());
        for problem in told.iter().filter(|problem| !known.contains(problem)) {
            tracing::warn!(event = "push-certificate-doubt", %problem, "APNs may refuse a push certificate");
        }
        readiness.warn_of(Warning::PushCertificate, told.clone());
        known = told;
    }
}

fn warnings(push: &PushService, now: u64) -> Vec<Box<str>> {
    let mut told = Vec::new();
    for (app, file, certificate) in push.certificates() {
        for doubt in dated(&[certificate], now) {
            let remedy = push_certificate_remedy(&doubt);
            told.push(format!("app {app}: {}: {doubt}; {remedy}", file.display()).into());
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::super::push_services::push_service;
    use super::*;
    use crate::clock::{Machine, set_virtual};
    use crate::config::{Apns, ApnsCredentials, App, Config};
    use crate::metrics::Metrics;
    use crate::push::{Network, Nowhere};
    use crate::random;
    use crate::vault::hex;

    fn write(file: &Path, last_year: i32) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["com.example.phone".to_owned()]).expect("a name");
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(last_year, 1, 1));
        let text = params.self_signed(&key).expect("signed").pem() + &key.serialize_pem();
        std::fs::write(file, text).expect("written");
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_runs_says_that_the_certificate_in_use_ends_until_a_reload_has_taken_another_one() {
        const DAY_MS: i64 = 86_400_000;
        let file = std::env::temp_dir().join(format!("sipwake-push-{}.pem", hex(&random::bytes::<8>())));
        write(&file, 2090);
        let mut config = Config::development().expect("it has no problem");
        let credentials = ApnsCredentials::Certificate { file: file.clone(), team_id: None };
        let apns = Some(Apns { credentials, endpoint: None, ca_file: None });
        config.apps = vec![App { apns, ..config.apps[0].clone() }];
        let (network, metrics): (Arc<dyn Network>, _) = (Arc::new(Nowhere), Metrics::new());
        let made = |running: Option<&PushService>| {
            push_service(&config, &network, &metrics, running.map(|running| (running, &[][..]))).expect("made").0
        };
        let (push, readiness) = (made(None), Readiness::default());
        let ends_at_ms = 3_786_912_000_000_i64;
        let now_ms = clock::unix_now_ms() as i64;
        let is_told_at = async |off_ms: i64| {
            let mut machine = Machine::default();
            machine.off_ms = off_ms;
            set_virtual(&machine);
            tokio::time::sleep(EVERY * 2).await;
            readiness.warnings().iter().any(|told| told.contains("com.example.phone") && told.contains("reload"))
        };
        set_virtual(&Machine::default());
        let watching = tokio::spawn(watch(push.clone(), readiness.clone()));
        assert!(!is_told_at(0).await);
        assert!(!is_told_at(ends_at_ms - now_ms - 15 * DAY_MS).await);
        assert!(is_told_at(ends_at_ms - now_ms - 13 * DAY_MS).await, "it ends soon");
        assert!(is_told_at(ends_at_ms - now_ms + DAY_MS).await, "it has ended");
        write(&file, 2095);
        assert!(is_told_at(ends_at_ms - now_ms + DAY_MS).await, "nobody has taken the new one");
        push.become_like(&made(Some(&push)));
        assert!(!is_told_at(ends_at_ms - now_ms + DAY_MS).await);
        watching.abort();
        std::fs::remove_file(&file).expect("it was there");
    }
}
