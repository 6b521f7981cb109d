//! Reading the configuration and the files that it names again, while the relay runs.
//!
//! | can change | cannot, and is said |
//! | --- | --- |
//! | the certificate and its key, and the CAs of `upstream.ca_file`, in their files | listeners, public names, the store, limits, times |
//! | the operator's token; keys of apps and SIP servers, wherever their sections stand | apps that come or go, or get another push service |
//! | `[[sip_server]]` sections; keys, ids and endpoints of push services, where the section of the app stands where it stood | everything else |
//!
//! Invariant: one reload goes on at a time, and a further one is refused. A file with a problem changes nothing at all, nor does a store that no start could
//! read. The changes taken are in force when [`Reloader::reload`] comes back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::check::{self, push_certificates};
use super::push_services::push_service;
use super::settings;
use crate::api::Api;
use crate::config::{ApnsCredentials, App, Config, Setting};
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::net::tls::{ClientTls, ReadCertificate, ReadRoots, ServerTls, TlsError};
use crate::operator::Operator;
use crate::operator::controls::Reloaded;
use crate::push::{Network, PushService};
use crate::regular_file;
use crate::service::Service;
use crate::vault::Vault;

/// A reload that takes longer is told: most take milliseconds.
const SLOW: Duration = Duration::from_secs(30);

/// The parts of a relay that can change.
pub(super) struct Reloader {
    pub(super) running: Mutex<InForce>,
    pub(super) tls: Arc<ServerTls>,
    pub(super) order_again: Arc<Notify>,
    pub(super) upstream_tls: ClientTls,
    pub(super) push: PushService,
    pub(super) network: Arc<dyn Network>,
    pub(super) metrics: Metrics,
    pub(super) api: Api<Service>,
    pub(super) operator: Operator<Service>,
    pub(super) vault: Vault,
}

/// The configuration in force, and the files that it names.
pub(super) struct InForce {
    config: Config,
    files: Fingerprints,
}

/// The hashes of the files that settings name, by setting; certificate and key of the relay are looked at by [`ServerTls`], the CAs of SIP servers by
/// [`ClientTls`].
type Fingerprints = BTreeMap<String, Option<[u8; 32]>>;

impl InForce {
    /// A configuration with which the relay has started.
    pub(super) fn of(config: Config) -> Self {
        Self { files: fingerprints(&config), config }
    }

    /// With what waits for a restart as it was `before`: such changes are reported each time.
    fn except(mut self, waits: &[String], before: &Self) -> Self {
        let stays = |setting: &&Setting| waits.contains(&setting.place);
        self.config.settings.retain(|setting| !stays(&setting));
        self.config.settings.extend(before.config.settings.iter().filter(stays).cloned());
        for (place, print) in before.files.iter().filter(|(place, _)| waits.contains(place)) {
            self.files.insert(place.clone(), *print);
        }
        self
    }
}

impl Reloader {
    /// Reads everything again, takes what can be taken, and says what became of it, in the log as well.
    pub(super) fn reload(&self) -> Reloaded {
        let told = saying_when_slow(SLOW, tell_slow, || self.read_again());
        log(&told);
        // The obstacle at the CA may be gone, and none of the files shows that.
        self.order_again.notify_waiters();
        told
    }

    fn read_again(&self) -> Reloaded {
        // Nothing under the lock can panic half way: whole values are taken. One that waits for a file may hold it for ever.
        let Some(mut running) = self.running.try_lock() else { return goes_on() };
        let mut told = Reloaded::default();
        let Some(file) = running.config.source.clone() else {
            let certificate = self.read_certificate(&mut told);
            self.take_certificate(certificate, &mut told);
            return told;
        };
        let mut new = match Config::load(&file) {
            Ok(config) => config,
            Err(problems) => return Reloaded { problems: problems.iter().map(ToString::to_string).collect(), ..told },
        };
        // Of the store nothing changes before a restart, which would not come about with this.
        told.problems.extend(check::store_url(&new).map(|problem| problem.to_string()));
        let InForce { config: old, files: was } = &*running;
        let (keys, urls) = (other_keys(old, &new), other_urls(old, &new));
        // The roots of another file wait for a restart, and the file of before may be gone.
        let same_ca_file = old.upstream.ca_file == new.upstream.ca_file;
        keep_what_waits(old, &mut new);
        let same_apps = old.apps.iter().map(services_of).eq(new.apps.iter().map(services_of));
        // A configuration that does not come into force has no series.
        let metrics = if same_apps { self.metrics.clone() } else { Metrics::new() };
        let push = match push_service(&new, &self.network, &metrics, Some((&self.push, &[]))) {
            Ok((push, _)) => push,
            Err(error) => return Reloaded { problems: vec![error.to_string()], ..told },
        };
        let prints = fingerprints(&new);
        told.problems.extend(unusable_certificates(&new, &other_files(was, &prints)));
        told.problems.extend(keys_of_two(old, &new));
        let roots = if same_ca_file { self.read_roots(&mut told) } else { None };
        let certificate = self.read_certificate(&mut told);
        if !told.problems.is_empty() {
            return told;
        }
        if roots.is_some_and(|roots| self.upstream_tls.take(roots)) && new.upstream.ca_file.is_some() {
            told.taken.push("upstream.ca_file".to_owned());
        }
        self.take_certificate(certificate, &mut told);
        // Of each app that is the same, the push services change; which apps there are, and what serves them, waits for a restart.
        let mut alike = alike_sections(&old.apps, &new.apps);
        let renewed = if same_apps {
            Some(push)
        } else {
            let file = std::mem::take(&mut new.apps);
            new.apps = apps_in_force(&old.apps, &file, &alike);
            // A file of an app that is gone may be gone, too.
            let kept = not_alike(&old.apps, &alike);
            let made = push_service(&new, &self.network, &self.metrics, Some((&self.push, &kept)));
            if made.is_err() {
                // A file has changed while they were read.
                alike.clear();
                new.apps = apps_in_force(&old.apps, &file, &alike);
            }
            made.ok().map(|(push, _)| push)
        };
        let is_alike = |place: &str| alike.iter().any(|section| place.starts_with(section.as_str()));
        let is_taken = |place: &str| {
            same_apps || !place.starts_with("app[") || is_alike(place) || keys.iter().any(|key| key == place)
        };
        let places = changed(old, &new).into_iter().chain(other_files(was, &prints));
        note_changes(&mut told, places.chain(keys.iter().cloned()).chain(urls), is_taken);
        if let Some(push) = renewed {
            self.push.become_like(&push);
        }
        self.take_keys(&new);
        let mut files = if same_apps { Fingerprints::new() } else { was.clone() };
        files.extend(prints.into_iter().filter(|(place, _)| same_apps || is_alike(place)));
        let in_force = InForce { config: new, files }.except(&told.needs_restart, &running);
        *running = in_force;
        told
    }

    fn take_keys(&self, new: &Config) {
        self.operator.take_token(&new.operator, new.source.as_deref());
        let access = settings::api(new, &self.vault);
        self.api.let_in(access.apps, access.sip_servers);
    }

    fn read_roots(&self, told: &mut Reloaded) -> Option<ReadRoots> {
        match self.upstream_tls.read() {
            Ok(read) => read,
            // The system's roots are no file of the configuration: the watch reports them, and the earlier ones stay.
            Err(TlsError::NoRoots) => None,
            Err(error) => {
                told.problems.push(format!("upstream.ca_file: {error}; the old roots stay in use"));
                None
            }
        }
    }

    fn read_certificate(&self, told: &mut Reloaded) -> Option<ReadCertificate> {
        self.tls.read().unwrap_or_else(|error| {
            told.problems.push(format!("tls: {error}; the old certificate stays in use"));
            None
        })
    }

    fn take_certificate(&self, read: Option<ReadCertificate>, told: &mut Reloaded) {
        if read.is_some_and(|read| self.tls.take(read)) {
            told.taken.push("tls.certificate".to_owned());
        }
    }
}

/// The problems of push certificates in files that have changed. An expired one that is already in force blocks no other change.
fn unusable_certificates(new: &Config, changed_files: &[String]) -> Vec<String> {
    let is_new = |place: &str| changed_files.iter().any(|changed| changed == place);
    let fatal = push_certificates(new).into_iter().filter(|(problem, is_fatal)| *is_fatal && is_new(&problem.place));
    fatal.map(|(problem, _)| problem.to_string()).collect()
}

fn goes_on() -> Reloaded {
    let problem = "another reload goes on, and nothing was read: reload again when it has ended";
    Reloaded { problems: vec![problem.to_owned()], goes_on: true, ..Reloaded::default() }
}

/// Tells of each changed setting or file whether it is taken.
fn note_changes(told: &mut Reloaded, places: impl Iterator<Item = String>, is_taken: impl Fn(&str) -> bool) {
    for place in places {
        let can = is_reloadable(&place) && is_taken(&place);
        let list = if can { &mut told.taken } else { &mut told.needs_restart };
        if !list.contains(&place) {
            list.push(place);
        }
    }
}

fn tell_slow() {
    tracing::warn!(
        event = "reload-slow",
        seconds = SLOW.as_secs(),
        "a reload has not ended yet: a file that it reads does not answer; nothing has changed, and no other reload begins before"
    );
}

/// Does `work`, and has `say` said beside it where that takes longer than `limit`.
fn saying_when_slow<T>(limit: Duration, say: impl FnOnce() + Send + 'static, work: impl FnOnce() -> T) -> T {
    // Without a runtime there is nobody to say it.
    let saying = Handle::try_current().ok().map(|runtime| {
        runtime.spawn(async move {
            sleep(limit).await;
            say();
        })
    });
    let done = work();
    if let Some(saying) = saying {
        saying.abort();
    }
    done
}

/// Tells the log of a reload, whoever asked for it.
fn log(told: &Reloaded) {
    for problem in &told.problems {
        tracing::error!(event = "not-reloaded", %problem, "not reloaded: nothing was changed");
    }
    if told.problems.is_empty() {
        match told.taken.join(", ") {
            taken if taken.is_empty() => tracing::info!(event = "reloaded", "reloaded: nothing has changed"),
            taken => tracing::info!(event = "reloaded", %taken, "reloaded"),
        }
    }
    if !told.needs_restart.is_empty() {
        let settings = told.needs_restart.join(", ");
        tracing::warn!(event = "restart-needed", %settings, "the configuration has changes that need a restart");
    }
}

/// The sections of apps that stand where they stood, with the same push services, as settings name them.
fn alike_sections(old: &[App], new: &[App]) -> Vec<String> {
    let alike = old.iter().zip(new).enumerate().filter(|(_, (old, new))| services_of(old) == services_of(new));
    alike.map(|(index, _)| format!("app[{index}].")).collect()
}

/// The apps in force whose sections are not alike.
fn not_alike(in_force: &[App], alike: &[String]) -> Vec<Box<str>> {
    let is_alike = |index: usize| alike.contains(&format!("app[{index}]."));
    in_force.iter().enumerate().filter(|(index, _)| !is_alike(*index)).map(|(_, app)| app.id.clone()).collect()
}

/// The apps in force: with the new settings where their sections are `alike`; else with the keys alone that the new configuration has for those of them that it
/// still has. A key that leaked is replaced at once, wherever its section stands by now.
fn apps_in_force(in_force: &[App], new: &[App], alike: &[String]) -> Vec<App> {
    let key = |app: &App| new.iter().find(|other| other.id == app.id).unwrap_or(app).api_key.clone();
    let now = |(index, app): (usize, &App)| match new.get(index) {
        Some(new) if alike.contains(&format!("app[{index}].")) => new.clone(),
        _ => App { api_key: key(app), ..app.clone() },
    };
    in_force.iter().enumerate().map(now).collect()
}

/// The keys that also open the doors of an app which the file has no more, and which is served until a restart: the operator's token, and those of SIP
/// servers and of the apps that stay.
fn keys_of_two(old: &Config, new: &Config) -> Vec<String> {
    let is_in = |apps: &[App], id: &str| apps.iter().any(|app| *app.id == *id);
    let gone: Vec<&App> = old.apps.iter().filter(|app| !is_in(&new.apps, &app.id)).collect();
    let apps = new.apps.iter().enumerate().filter(|(_, app)| is_in(&old.apps, &app.id));
    let apps = apps.map(|(index, app)| (format!("app[{index}].api_key_file"), &app.api_key));
    let servers = new.sip_servers.iter().enumerate();
    let servers = servers.map(|(index, server)| (format!("sip_server[{index}].key_file"), &server.key));
    let token = ("operator.token_file".to_owned(), &new.operator.token);
    let mut problems = Vec::new();
    for (place, key) in std::iter::once(token).chain(servers).chain(apps) {
        if let Some(app) = gone.iter().find(|app| app.api_key == *key) {
            problems.push(format!(
                "{place}: it is the key of the app {}, which is served until a restart: have another key made, or restart the relay",
                app.id
            ));
        }
    }
    problems
}

/// Keeps the settings in force as they were when the relay started, whatever the file has now: push services are made with them, too.
fn keep_what_waits(old: &Config, new: &mut Config) {
    new.upstream.clone_from(&old.upstream);
    new.store.clone_from(&old.store);
    new.otlp.clone_from(&old.otlp);
    new.acme.clone_from(&old.acme);
}

/// The settings whose values differ, and those that one of the two lacks.
fn changed(old: &Config, new: &Config) -> Vec<String> {
    let values = |config: &Config| {
        let pairs = config.settings.iter().map(|setting| (setting.place.clone(), setting.value.clone()));
        pairs.collect::<BTreeMap<_, _>>()
    };
    let (old, new) = (values(old), values(new));
    let gone = old.keys().filter(|place| !new.contains_key(*place));
    let other = new.iter().filter(|(place, value)| old.get(*place) != Some(value)).map(|(place, _)| place);
    gone.chain(other).cloned().collect()
}

/// The settings whose files hold another key than they did.
fn other_keys(old: &Config, new: &Config) -> Vec<String> {
    let mut places = Vec::new();
    let otlp = |config: &Config| config.otlp.as_ref().and_then(|otlp| otlp.token.clone());
    if otlp(old) != otlp(new) {
        places.push("otlp.token_file".to_owned());
    }
    // The password is left out of what is shown.
    if old.store.url != new.store.url {
        places.push("store.url".to_owned());
    }
    let client_key = |config: &Config| config.store.client.as_ref().map(|(_, key)| key.clone());
    if old.store.client.is_some() && client_key(old) != client_key(new) {
        places.push("store.client_key".to_owned());
    }
    if old.operator.token != new.operator.token {
        places.push("operator.token_file".to_owned());
    }
    for (index, app) in new.apps.iter().enumerate() {
        if old.apps.iter().any(|other| other.id == app.id && other.api_key != app.api_key) {
            places.push(format!("app[{index}].api_key_file"));
        }
    }
    for (index, server) in new.sip_servers.iter().enumerate() {
        if old.sip_servers.iter().any(|other| other.id == server.id && other.key != server.key) {
            places.push(format!("sip_server[{index}].key_file"));
        }
    }
    places
}

/// The settings whose URL is another, which may differ in what is not shown of it.
fn other_urls(old: &Config, new: &Config) -> Vec<String> {
    let mut places = Vec::new();
    if let (Some(old), Some(new)) = (&old.acme, &new.acme)
        && old.directory_url != new.directory_url
    {
        places.push("acme.directory_url".to_owned());
    }
    for (index, app) in new.apps.iter().enumerate() {
        let subject = |app: &App| app.webpush.as_ref().map(|webpush| webpush.subject.clone());
        let is_other = |old: &App| old.webpush.is_some() && subject(old) != subject(app);
        if app.webpush.is_some() && old.apps.iter().any(|old| old.id == app.id && is_other(old)) {
            places.push(format!("app[{index}].webpush.subject"));
        }
    }
    places
}

fn other_files(old: &Fingerprints, new: &Fingerprints) -> Vec<String> {
    new.iter().filter(|(place, print)| old.get(*place) != Some(print)).map(|(place, _)| place.clone()).collect()
}

fn fingerprints(config: &Config) -> Fingerprints {
    let print = |file: &Path| {
        let content = regular_file::read(file).map(zeroize::Zeroizing::new).ok()?;
        digest(&SHA256, &content).as_ref().try_into().ok()
    };
    let mut prints = Fingerprints::new();
    for (index, app) in config.apps.iter().enumerate() {
        let apns = app.apns.as_ref().map(|apns| match &apns.credentials {
            ApnsCredentials::Key { key_file, .. } => ("apns.key_file", &**key_file),
            ApnsCredentials::Certificate { file, .. } => ("apns.certificate_file", &**file),
        });
        let fcm = app.fcm.as_ref().map(|fcm| ("fcm.service_account_file", &*fcm.service_account_file));
        let webpush = app.webpush.as_ref().map(|webpush| ("webpush.key_file", &*webpush.key_file));
        let ca = [
            ("apns.ca_file", app.apns.as_ref().and_then(|apns| apns.ca_file.as_deref())),
            ("fcm.ca_file", app.fcm.as_ref().and_then(|fcm| fcm.ca_file.as_deref())),
            ("webpush.ca_file", app.webpush.as_ref().and_then(|webpush| webpush.ca_file.as_deref())),
        ];
        let ca = ca.into_iter().filter_map(|(setting, file)| Some((setting, file?)));
        for (setting, file) in apns.into_iter().chain(fcm).chain(webpush).chain(ca) {
            prints.insert(format!("app[{index}].{setting}"), print(file));
        }
    }
    let cas = [
        ("store.ca_file", config.store.ca_file.as_deref()),
        ("store.client_certificate", config.store.client.as_ref().map(|(certificate, _)| &**certificate)),
        ("acme.ca_file", config.acme.as_ref().and_then(|acme| acme.ca_file.as_deref())),
        ("otlp.ca_file", config.otlp.as_ref().and_then(|otlp| otlp.ca_file.as_deref())),
    ];
    for (setting, file) in cas.into_iter().filter_map(|(setting, file)| Some((setting, file?))) {
        prints.insert(setting.to_owned(), print(file));
    }
    prints
}

/// An app and which push services it has.
fn services_of(app: &App) -> (&str, [bool; 3]) {
    (&app.id, [app.apns.is_some(), app.fcm.is_some(), app.webpush.is_some()])
}

fn is_reloadable(place: &str) -> bool {
    place == "operator.token_file" || place.starts_with("sip_server[") || place.starts_with("app[")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::aside;
    use crate::config::{Acme, AcmeChallenge, SipServer, WebPush};
    use crate::push::{Mode, Nowhere};
    use crate::secret::{ApiKey, SecretText};

    #[test]
    fn a_password_of_the_store_that_is_another_waits_for_a_restart_each_time() {
        let mut old = Config::development().expect("it has no problem");
        old.store.url = SecretText::new("rediss://relay:first@redis.example.net/");
        old.store.client = Some(("client.pem".into(), SecretText::new("a key")));
        assert!(other_keys(&old, &old).is_empty());
        let mut new = old.clone();
        new.store.url = SecretText::new("rediss://relay:second@redis.example.net/");
        new.store.client = Some(("client.pem".into(), SecretText::new("another key")));
        assert_eq!(changed(&old, &new), Vec::<String>::new(), "what is shown is the same");
        for time in 1..3 {
            assert_eq!(other_keys(&old, &new), ["store.url", "store.client_key"], "{time}");
            let mut in_force = new.clone();
            keep_what_waits(&old, &mut in_force);
            old = in_force;
        }
    }

    #[tokio::test]
    async fn a_reload_that_waits_for_a_file_says_so_while_it_waits_and_another_one_nothing() {
        let (say, said) = std::sync::mpsc::channel();
        let tell = say.clone();
        let waits = aside(move || {
            saying_when_slow(Duration::ZERO, move || tell.send("slow").expect("it is heard"), move || said.recv())
        });
        assert_eq!(waits.expect("a thread").await.expect("it ends"), Ok("slow"));
        let is_said = Arc::new(Notify::new());
        let told = is_said.clone();
        saying_when_slow(SLOW, move || told.notify_one(), || ());
        tokio::time::pause();
        assert!(tokio::time::timeout(2 * SLOW, is_said.notified()).await.is_err());
        drop(say);
    }

    #[test]
    fn a_store_that_no_start_could_read_is_a_problem_and_one_that_is_away_is_none() {
        let mut config = Config::development().expect("it has no problem");
        for (url, is_read) in [
            ("memory:", true),
            ("redis://127.0.0.1:1/", true),
            ("redis+sentinel://127.0.0.1:1/service", true),
            ("redis://127.0.0.1:6379/x", false),
            ("redis://127.0.0.1:hunter2/", false),
            ("redis://127.0.0.1/?db=1", false),
            ("redis+sentinel://127.0.0.1:1", false),
            ("postgres://127.0.0.1/", false),
        ] {
            config.store.url = SecretText::new(url);
            let told = check::store_url(&config).map(|problem| problem.to_string());
            assert_eq!(told.is_none(), is_read, "{url}: {told:?}");
            assert!(told.is_none_or(|told| told.starts_with("store.url: ") && !told.contains("hunter2")), "{url}");
        }
    }

    #[test]
    fn an_app_has_its_new_key_wherever_its_section_stands_and_no_key_opens_two_kinds_of_doors() {
        let mut old = Config::development().expect("it has no problem");
        let app = |id: &str, key: &str| App { id: id.into(), api_key: ApiKey::new(key), ..old.apps[0].clone() };
        let (one, two, new_two) = (app("one", "key-of-one"), app("two", "key-of-two"), app("two", "new-key-of-two"));
        old.apps = vec![one.clone(), two];
        for apps in [vec![new_two.clone()], vec![new_two.clone(), one.clone()]] {
            let mut new = old.clone();
            new.apps = apps;
            assert_eq!(other_keys(&old, &new), ["app[0].api_key_file"]);
            let in_force = apps_in_force(&old.apps, &new.apps, &alike_sections(&old.apps, &new.apps));
            assert!(in_force.iter().map(|app| &*app.id).eq(["one", "two"]));
            assert!(in_force[0].api_key == one.api_key && in_force[1].api_key == new_two.api_key);
            let old_domains = old.upstream.domains.clone();
            let server = |key: &ApiKey| SipServer {
                id: "pbx".into(),
                key: key.clone(),
                domains: old_domains.clone(),
                registrars: Vec::new(),
            };
            new.sip_servers = vec![server(&one.api_key)];
            assert_eq!(keys_of_two(&old, &new).len(), usize::from(new.apps.len() == 1));
            new.sip_servers = vec![server(&ApiKey::new("another-key"))];
            assert!(keys_of_two(&old, &new).is_empty());
        }
        // One is gone from the file and served until a restart.
        let with = |token: &ApiKey, key_of_two: &ApiKey, new_app: Option<&App>| {
            let mut new = old.clone();
            new.operator.token = token.clone();
            new.apps = vec![App { api_key: key_of_two.clone(), ..new_two.clone() }];
            new.apps.extend(new_app.cloned());
            keys_of_two(&old, &new)
        };
        let (key_of_one, another) = (&one.api_key, &ApiKey::new("another-key"));
        for (problems, place) in [
            (with(key_of_one, another, None), "operator.token_file: "),
            (with(another, key_of_one, None), "app[0].api_key_file: "),
        ] {
            assert!(problems.len() == 1 && problems[0].starts_with(place), "{problems:?}");
        }
        let renamed = App { id: "one-by-another-name".into(), ..one.clone() };
        assert!(with(another, another, Some(&renamed)).is_empty(), "it is let in after a restart");
    }

    #[test]
    fn an_app_that_loses_a_push_service_or_goes_keeps_no_other_from_its_new_settings() {
        let mut old = Config::development().expect("it has no problem");
        let webpush = |key_file: &str| {
            Some(WebPush { key_file: key_file.into(), subject: "mailto:a@b.example".into(), ca_file: None })
        };
        let app = |id: &str, key_file: &str| App { id: id.into(), webpush: webpush(key_file), ..old.apps[0].clone() };
        let apps = vec![app("one", "leaked.pem"), app("two", "two.pem"), app("three", "three.pem")];
        let replaced = app("one", "new.pem");
        let without = App { webpush: None, ..apps[1].clone() };
        old.apps = apps.clone();
        for (new, alike) in [
            (vec![replaced.clone(), without, apps[2].clone()], &["app[0].", "app[2]."][..]),
            (vec![replaced.clone(), apps[1].clone()], &["app[0].", "app[1]."]),
            (vec![replaced.clone(), apps[2].clone()], &["app[0]."]),
            (vec![apps[1].clone(), replaced.clone()], &[]),
        ] {
            let sections = alike_sections(&old.apps, &new);
            assert_eq!(sections, alike);
            let in_force = apps_in_force(&old.apps, &new, &sections);
            assert!(in_force.iter().map(services_of).eq(old.apps.iter().map(services_of)), "until a restart");
            let key_file = in_force[0].webpush.as_ref().map(|webpush| webpush.key_file.clone());
            assert_eq!(
                key_file == replaced.webpush.as_ref().map(|webpush| webpush.key_file.clone()),
                !alike.is_empty()
            );
        }
    }

    #[tokio::test]
    async fn an_app_that_goes_with_its_files_keeps_no_other_from_its_new_key() {
        let folder = std::env::temp_dir().join(format!("sipwake-reload-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let written = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
            std::fs::write(folder.join(name), key).expect("it is written");
        };
        ["one.pem", "new.pem", "two.pem"].into_iter().for_each(written);
        let mut old = Config::development().expect("it has no problem");
        let app = |id: &str, key_file: &str| {
            let key_file = folder.join(key_file);
            let webpush = Some(WebPush { key_file, subject: "mailto:a@b.example".into(), ca_file: None });
            App { id: id.into(), webpush, ..old.apps[0].clone() }
        };
        let (file, apps) = (vec![app("one", "new.pem")], vec![app("one", "one.pem"), app("two", "two.pem")]);
        old.apps = apps;
        let (network, metrics): (Arc<dyn Network>, _) = (Arc::new(Nowhere), Metrics::new());
        let (running, _) = push_service(&old, &network, &metrics, None).expect("their keys are there");
        std::fs::remove_file(folder.join("two.pem")).expect("it was there");
        let alike = alike_sections(&old.apps, &file);
        let mut new = old.clone();
        new.apps = apps_in_force(&old.apps, &file, &alike);
        let kept = not_alike(&old.apps, &alike);
        assert!(alike == ["app[0]."] && *kept == [Box::from("two")]);
        assert!(push_service(&new, &network, &metrics, Some((&running, &[]))).is_err(), "its file is gone");
        let made = push_service(&new, &network, &metrics, Some((&running, &kept)));
        let (made, _) = made.expect("what runs of two stays");
        let is_same = |id: &str| {
            let service = |of: &PushService| match &*of.mode() {
                Mode::Sent(apps) => std::ptr::from_ref(&**apps[id].webpush.as_ref().expect("it has one")).addr(),
                Mode::Printed => panic!("they have services"),
            };
            service(&running) == service(&made)
        };
        assert!(is_same("two") && !is_same("one"));
        std::fs::remove_dir_all(&folder).expect("it is there");
    }

    #[test]
    fn a_url_that_differs_in_what_is_not_shown_is_another() {
        let mut old = Config::development().expect("it has no problem");
        old.acme = Some(Acme {
            directory_url: "https://ca.example/d?profile=a".into(),
            contact: Vec::new(),
            state: "acme".into(),
            challenge: AcmeChallenge::TlsAlpn01,
            listen: None,
            names: vec!["relay.example.net".to_owned()],
            ca_file: None,
        });
        old.apps[0].webpush =
            Some(WebPush { key_file: "webpush.pem".into(), subject: "https://ops.example/?a".into(), ca_file: None });
        assert!(other_urls(&old, &old).is_empty());
        let mut new = old.clone();
        new.acme.as_mut().expect("it is set").directory_url = "https://ca.example/d?profile=b".into();
        new.apps[0].webpush.as_mut().expect("it is set").subject = "https://ops.example/?b".into();
        assert_eq!(changed(&old, &new), Vec::<String>::new(), "what is shown is the same");
        for time in 1..3 {
            assert_eq!(other_urls(&old, &new), ["acme.directory_url", "app[0].webpush.subject"], "{time}");
            let mut in_force = new.clone();
            in_force.apps.clone_from(&old.apps);
            keep_what_waits(&old, &mut in_force);
            old = in_force;
        }
    }

    #[test]
    fn a_network_that_the_file_adds_is_reached_by_no_push_before_a_restart() {
        let old = Config::development().expect("it has no problem");
        let mut new = old.clone();
        new.upstream.allow_addresses.push("192.0.2.0/24".parse().expect("a network"));
        keep_what_waits(&old, &mut new);
        assert_eq!(new.upstream.allow_addresses, old.upstream.allow_addresses);
    }
}
