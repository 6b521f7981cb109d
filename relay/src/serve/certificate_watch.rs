//! Watching the certificate: when it ends, and whether those who connect will take it.
//!
//! Invariant: its warnings are about the certificate in use; faults of new files are reported by [`ServerTls::watch`]. Each doubt is logged once
//! while it lasts, and told with the moment that it begins; one that the start has told (that nobody vouches, say) is told of a certificate that was taken since. A private CA is no fault; that this machine's
//! roots vouch no more, as they did for the certificate before, is one: its chain was left out, and no phone connects. Beside the keyring stands which one is in use, for the commands of this machine.

use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use tokio::time::{Instant, interval};

use super::{check, running_relay};
use crate::acme;
use crate::aside::in_place;
use crate::clock;
use crate::config::{Config, Tls};
use crate::metrics::Metrics;
use crate::metrics::labels::Warning;
use crate::net::tls::{Doubt, ServerTls, dated, is_vouched_for};
use crate::operator::readiness::Readiness;

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);
/// How often one that is as it was is examined again, whose dates mean what they did: the roots of this machine may have changed.
const AGAIN: Duration = Duration::from_secs(600);

/// The warning while nothing but a stand-in can be shown.
const NO_CERTIFICATE: &str = "acme: the CA has issued no certificate yet: no phone, no app and no SIP server that connects by TLS is served until it has; what is shown is signed by the relay itself";

/// The warning of a certificate that has come in the place of one that was vouched for.
const NOT_VOUCHED_FOR_ANY_MORE: &str = "tls.certificate: a root of this machine vouched for the certificate before this one, and none vouches for it: clients refuse it as well; write the whole chain into the file (fullchain.pem), the leaf first; if the new one is of a private CA that they know, a restart ends this warning";

/// The state at the last examination.
struct Examined {
    chain: Vec<CertificateDer<'static>>,
    by_date: Vec<Doubt>,
    at: Instant,
    /// A root of this machine vouches for it, in its time.
    is_vouched: bool,
    /// None does, and one did for the certificate before; or that is not known yet, for its time is not now.
    has_lost_it: bool,
}

/// Watches for as long as the relay runs.
pub(super) async fn watch(config: Config, tls: Arc<ServerTls>, metrics: Metrics, readiness: Readiness) {
    let mut ticks = interval(EVERY);
    let mut examined: Option<Examined> = None;
    let (mut known, mut is_unnoted): (Vec<Doubt>, bool) = (Vec::new(), false);
    loop {
        ticks.tick().await;
        let chain = tls.chain();
        let stands_in = chain.first().is_some_and(acme::stands_in);
        metrics.certificate_of(if stands_in { (0, 0) } else { tls.validity() });
        let Tls::Files { .. } = &config.tls else { continue };
        if let Some(leaf) = chain.first() {
            match in_place(|| running_relay::note(&config, leaf)) {
                Ok(()) => is_unnoted = false,
                Err(error) if !is_unnoted => {
                    is_unnoted = true;
                    tracing::warn!(event = "certificate-not-noted", %error, "the certificate in use and the operator listener cannot be noted beside the keyring: while the files have others, commands by --config need --ca and --operator");
                }
                Err(_) => {}
            }
        }
        // A certificate ends between two examinations, and a clock may be set.
        let by_date = dated(&chain, clock::advertised_now());
        let is_same = |was: &Examined| was.chain == chain;
        if examined.as_ref().is_some_and(|was| is_same(was) && was.by_date == by_date && was.at.elapsed() < AGAIN) {
            continue;
        }
        let doubts = check::certificate_in_use(&config, &chain);
        let is_vouched = is_vouched_for(&chain, config.upstream.ca_file.as_deref(), clock::advertised_now());
        let has_lost_it = examined.as_ref().is_some_and(|was| was.has_lost_it || was.is_vouched && !is_same(was));
        // The findings of the start are not repeated.
        let is_new = |doubt: &&Doubt| !known.contains(doubt) && (doubt.is_fatal() || examined.is_some());
        for doubt in doubts.iter().filter(is_new) {
            tracing::warn!(event = "certificate-doubt", %doubt, remedy = doubt.remedy(), "clients may refuse tls.certificate");
        }
        let words = |doubt: &Doubt| format!("tls.certificate: {doubt}; {}", doubt.remedy()).into();
        let waits = stands_in.then(|| NO_CERTIFICATE.into());
        // Of one whose time is not now nobody is asked who vouches: what is known of it stays.
        let has_lost_it =
            has_lost_it && (by_date.iter().any(Doubt::is_untimely) || doubts.contains(&Doubt::NobodyVouches));
        let is_lost = has_lost_it && doubts.contains(&Doubt::NobodyVouches);
        let lost = is_lost.then(|| NOT_VOUCHED_FOR_ANY_MORE.into());
        let fatal = doubts.iter().filter(|doubt| doubt.is_fatal()).map(words);
        readiness.warn_of(Warning::Trust, waits.into_iter().chain(fatal).chain(lost).collect());
        examined = Some(Examined { chain, by_date, at: Instant::now(), is_vouched, has_lost_it });
        known = doubts;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, Issuer, KeyPair, date_time_ymd};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::clock::{Machine, set_virtual, virtual_unix_ms};
    use crate::operator::readiness::{Check, Standing};
    use crate::random;
    use crate::vault::hex;

    const HOST: &str = "relay.example.net";

    /// A certificate and its key in a folder that is removed when this is dropped.
    struct Files {
        folder: PathBuf,
        certificate: PathBuf,
        key: PathBuf,
    }

    impl Drop for Files {
        fn drop(&mut self) {
            // A test that has failed says more than this would.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    impl Files {
        /// No files yet, in a new folder.
        fn none() -> Self {
            let folder = std::env::temp_dir().join(format!("sipwake-certificate-{}", hex(&random::bytes::<8>())));
            std::fs::create_dir(&folder).unwrap();
            let [certificate, key] = ["relay.pem", "relay.key"].map(|name| folder.join(name));
            Self { folder, certificate, key }
        }

        /// What a relay shows until its CA has issued a certificate.
        fn stand_in() -> Self {
            let folder = std::env::temp_dir().join(format!("sipwake-stand-in-{}", hex(&random::bytes::<8>())));
            let files = acme::Files::new(&folder);
            files.prepare(&[HOST.to_owned()]).unwrap();
            let (certificate, key) = files.pair();
            Self { folder, certificate, key }
        }

        /// Writes a certificate from 2020 to the beginning of `last_year`.
        fn write(&self, last_year: i32) {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(last_year, 1, 1);
            std::fs::write(&self.certificate, params.self_signed(&key).unwrap().pem()).unwrap();
            std::fs::write(&self.key, key.serialize_pem()).unwrap();
        }

        fn config(&self) -> Config {
            let mut config = Config::development().unwrap();
            config.edge.public.host = HOST.into();
            config.upstream.public_host = HOST.into();
            config.tls = Tls::Files { certificate: self.certificate.clone(), key: self.key.clone() };
            config
        }

        /// What is in the files now, in use and watched, by a relay that is otherwise ready.
        fn watched(&self) -> Watched {
            let (tls, readiness) = (ServerTls::load(&self.certificate, &self.key).unwrap(), Readiness::default());
            Check::ALL.iter().for_each(|check| readiness.pass(*check));
            let metrics = Metrics::new();
            let watching = tokio::spawn(watch(self.config(), tls.clone(), metrics.clone(), readiness.clone()));
            Watched { tls, readiness, metrics, watching }
        }
    }

    /// A certificate in use that is watched until this is dropped.
    struct Watched {
        tls: Arc<ServerTls>,
        readiness: Readiness,
        metrics: Metrics,
        watching: JoinHandle<()>,
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.watching.abort();
        }
    }

    impl Watched {
        /// The standing after the next looks.
        async fn standing(&self) -> Standing {
            tokio::time::sleep(EVERY * 2).await;
            self.readiness.standing()
        }

        /// The seconds until its end, as a scrape reads them.
        fn ends_in(&self) -> i64 {
            let text = self.metrics.render();
            let line = text.lines().find_map(|line| line.strip_prefix("sipwake_certificate_expiry_seconds "));
            line.and_then(|left| left.parse().ok()).unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_every_client_refuses_takes_no_good_ones_place_and_the_next_good_one_does() {
        const SIP: &str = "sip.example.net";
        let files = Files::none();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "another CA");
        let ca = Issuer::new(ca, ca_key);
        let issue_by =
            |issuer: Option<&Issuer<'_, KeyPair>>, names: &[&str], change: &dyn Fn(&mut CertificateParams)| {
                let key = KeyPair::generate().unwrap();
                let mut params =
                    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
                params.not_after = date_time_ymd(2090, 1, 1);
                change(&mut params);
                let issued = match issuer {
                    Some(issuer) => params.signed_by(&key, issuer),
                    None => params.self_signed(&key),
                };
                std::fs::write(&files.certificate, issued.unwrap().pem()).unwrap();
                std::fs::write(&files.key, key.serialize_pem()).unwrap();
            };
        let issue = |names: &[&str], change: &dyn Fn(&mut CertificateParams)| issue_by(Some(&ca), names, change);
        let as_it_comes = |_: &mut CertificateParams| {};
        let of_a_ca = |params: &mut CertificateParams| {
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        };
        let for_clients = |params: &mut CertificateParams| {
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        };
        let ended = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        let mut config = files.config();
        config.upstream.public_host = SIP.into();
        let load = || super::super::settings::server_tls(&config).unwrap().0;
        issue(&[HOST, SIP], &as_it_comes);
        let tls = load();
        for (names, change, says) in [
            (
                &["other.example"][..],
                &as_it_comes as &dyn Fn(&mut CertificateParams),
                "does not name relay.example.net",
            ),
            (&[HOST], &as_it_comes, "does not name sip.example.net"),
            (&[SIP, "other.example"], &as_it_comes, "does not name relay.example.net"),
            (&[HOST, SIP], &of_a_ca, "is a CA's"),
            (&[HOST, SIP], &for_clients, "is not for servers"),
            (&[HOST, SIP], &ended, "has expired"),
        ] {
            let before = tls.chain();
            issue(names, change);
            let why = tls.reload().expect_err(says).to_string();
            assert!(why.contains(says) && why.contains("clients take the one in use"), "{why}");
            assert!(tls.chain() == before, "{says}: the good one stays in use");
            issue(&["*.example.net"], &as_it_comes);
            assert!(tls.reload().unwrap(), "{says}: a good one is taken after it");
        }
        // One that serves fewer of those who connect is kept for them alone.
        issue(&[HOST], &as_it_comes);
        let tls = load();
        issue(&[SIP], &as_it_comes);
        assert!(tls.reload().is_err(), "phones take the one in use");
        issue(&[HOST, SIP], &as_it_comes);
        assert!(tls.reload().unwrap());
        issue(&["other.example"], &of_a_ca);
        let tls = load();
        issue(&["another.example"], &for_clients);
        assert!(tls.reload().unwrap(), "neither is better");
        // One that is pinned may be its own CA's, as `openssl req -x509` makes it.
        issue(&[HOST, SIP], &as_it_comes);
        assert!(tls.reload().unwrap());
        issue_by(None, &[HOST], &of_a_ca);
        assert!(tls.reload().unwrap_err().to_string().contains("does not name sip.example.net"));
        issue_by(None, &[HOST, SIP], &of_a_ca);
        assert!(tls.reload().unwrap(), "some clients take it");
        let doubts = check::certificate_in_use(&config, &tls.chain());
        assert!(doubts.contains(&Doubt::IsItsOwnCa) && !doubts.iter().any(Doubt::is_fatal), "{doubts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn until_the_ca_has_issued_one_nobody_connects_and_that_is_told() {
        let files = Files::stand_in();
        let watched = files.watched();
        assert_eq!((watched.standing().await, watched.ends_in()), (Standing::Degraded, 0));
        let told = watched.readiness.degradation();
        assert!(told.contains("has issued no certificate yet"), "{told}");
        files.write(2090);
        watched.tls.reload().unwrap();
        assert_eq!(watched.standing().await, Standing::Ready);
        assert!(watched.ends_in() > 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_ends_is_told_with_the_next_look_and_so_is_a_clock_that_was_set() {
        let files = Files::none();
        files.write(2090);
        let watched = files.watched();
        let (begins_at, ends_at) = watched.tls.validity();
        let stands_at = async |second: u64| {
            let mut machine = Machine::default();
            machine.off_ms = (second as i64) * 1_000 - virtual_unix_ms(Duration::ZERO) as i64;
            set_virtual(&machine);
            watched.standing().await
        };
        let (ready, degraded) = (Standing::Ready, Standing::Degraded);
        assert_eq!(stands_at(ends_at - 60).await, ready);
        assert_eq!(stands_at(ends_at + 1).await, degraded, "it has ended");
        assert_eq!(stands_at(ends_at - 60).await, ready, "the clock was ahead");
        assert_eq!(stands_at(begins_at - 60).await, degraded, "its time has not come");
        assert_eq!(stands_at(begins_at + 1).await, ready);
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_without_its_chain_in_place_of_one_that_was_vouched_for_is_a_fault() {
        let folder = std::env::temp_dir().join(format!("sipwake-chain-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir(&folder).unwrap();
        let [certificate, key, root_file] = ["relay.pem", "relay.key", "root.pem"].map(|name| folder.join(name));
        let authority = |name: &str, issuer: Option<&Issuer<'_, KeyPair>>| {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let made = match issuer {
                Some(issuer) => params.signed_by(&key, issuer),
                None => params.self_signed(&key),
            };
            (made.unwrap().pem(), Issuer::new(params, key))
        };
        let (root, by_root) = authority("root", None);
        let (intermediate, issuer) = authority("intermediate", Some(&by_root));
        std::fs::write(&root_file, &root).unwrap();
        let issue = |chain: &str| {
            let pair = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
            params.not_after = date_time_ymd(2090, 1, 1);
            let leaf = params.signed_by(&pair, &issuer).unwrap().pem();
            std::fs::write(&certificate, leaf + chain).unwrap();
            std::fs::write(&key, pair.serialize_pem()).unwrap();
        };
        let mut config = Config::development().unwrap();
        config.edge.public.host = HOST.into();
        config.upstream.public_host = HOST.into();
        config.tls = Tls::Files { certificate: certificate.clone(), key: key.clone() };
        // What is written, and how many days the clock is ahead: past the leaf's end. The first is that of the start. A leaf alone from the start on is a
        // private CA's.
        let (whole, leaf, later) = ((Some(&intermediate[..]), 0), (Some(""), 0), 80 * 365);
        let (ready, degraded) = (Standing::Ready, Standing::Degraded);
        for (knows_root, steps, expected) in [
            (true, vec![whole, leaf, whole], vec![ready, degraded, ready]),
            (true, vec![leaf, leaf, whole, leaf], vec![ready, ready, ready, degraded]),
            (false, vec![whole, leaf], vec![ready, ready]),
            (true, vec![whole, (None, later), leaf], vec![ready, degraded, degraded]),
            (true, vec![(whole.0, later), leaf, whole], vec![degraded, degraded, ready]),
            (
                true,
                vec![whole, leaf, (None, later), (None, 0), whole],
                vec![ready, degraded, degraded, degraded, ready],
            ),
        ] {
            config.upstream.ca_file = knows_root.then(|| root_file.clone());
            let take = |(chain, days_ahead): (Option<&str>, i64)| {
                let mut machine = Machine::default();
                machine.off_ms = days_ahead * 86_400_000;
                set_virtual(&machine);
                chain.into_iter().for_each(&issue);
            };
            take(steps[0]);
            let (tls, readiness) = (ServerTls::load(&certificate, &key).unwrap(), Readiness::default());
            Check::ALL.iter().for_each(|check| readiness.pass(*check));
            let watching = tokio::spawn(watch(config.clone(), tls.clone(), Metrics::new(), readiness.clone()));
            let mut standings = Vec::new();
            for (index, step) in steps.into_iter().enumerate() {
                if index > 0 {
                    take(step);
                    tls.reload().unwrap();
                }
                tokio::time::sleep(EVERY * 2).await;
                standings.push(readiness.standing());
                tokio::time::sleep(AGAIN * 2).await;
                assert_eq!(standings.last(), Some(&readiness.standing()), "it stays");
            }
            watching.abort();
            assert_eq!(standings, expected);
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_of_the_certificate_in_use_whatever_its_files_have_become() {
        let files = Files::none();
        let stands = async |in_use: i32, file: Option<i32>| {
            files.write(in_use);
            let watched = files.watched();
            let before = watched.standing().await;
            match file {
                Some(last_year) => files.write(last_year),
                None => std::fs::remove_file(&files.certificate).unwrap(),
            }
            tokio::time::sleep(AGAIN * 2).await;
            (before, watched.readiness.standing())
        };
        let (ready, degraded) = (Standing::Ready, Standing::Degraded);
        assert_eq!(stands(2021, None).await, (degraded, degraded), "its file is gone");
        assert_eq!(stands(2021, Some(2090)).await, (degraded, degraded), "what has come in its place is not in use");
        assert_eq!(stands(2090, Some(2021)).await, (ready, ready), "an old one that is not taken harms nobody");
    }
}
