//! The system's files about names (`/etc/resolv.conf` and `/etc/hosts`), read again when they change; the answers of the name servers; and whether
//! they answer at all, asked once a question was left without an answer.
//!
//! Invariant: name servers that are known stay in use until a file names others: one that is gone, empty or half written
//! takes none away. No question waits for a file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::Hosts;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::time::MissedTickBehavior;

use super::cache::{self, Answers, Found};
use super::name_server::is_silence;
use super::name_servers::Dns;
use crate::net::file_stamp::FileStamp;
use crate::regular_file;

/// How often the files are looked at; a change is in use at most this much later.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The part of a hosts file that is read, in bytes.
const MAX_HOSTS: u64 = 16 * 1024 * 1024;

/// The name servers to ask, and the answers that need no asking.
pub(crate) struct Names {
    known: ArcSwap<Known>,
    /// A question was left without an answer since the name servers were looked at.
    unanswered: AtomicBool,
    files: Files,
}

/// The system's files about names.
struct Files {
    /// Unread where the operator has named name servers.
    name_servers: Option<PathBuf>,
    hosts: PathBuf,
}

/// The state from the last reading.
pub(crate) struct Known {
    dns: Dns,
    /// The answers of the name servers.
    answers: Answers,
    /// The name servers.
    servers: ResolverConfig,
    /// A name with as many dots is asked for as it is before it is sought in a domain.
    pub(super) ndots: usize,
    hosts: Hosts,
    /// The file that names the name servers in use; empty when there are none, or the operator's.
    content: Vec<u8>,
    /// From before the reading, so that what is written meanwhile is another one.
    look: [FileStamp; 2],
    /// Why the file says nothing about name servers.
    problem: Option<String>,
}

impl Names {
    /// Names by the system's files; each name server is asked by `options`.
    pub(super) fn of_system(options: ResolverOpts) -> Result<Self, NetError> {
        let files = Files { name_servers: Some("/etc/resolv.conf".into()), hosts: "/etc/hosts".into() };
        let names = Self::new(files, ResolverConfig::from_name_servers(Vec::new()), options)?;
        if let Some(error) = &names.known.load().problem {
            tracing::warn!(event = "no-name-servers", %error, "no name servers are configured: only numeric hosts and the hosts file resolve");
        }
        Ok(names)
    }

    /// Names by these name servers, and the system's hosts file.
    pub(crate) fn with(servers: ResolverConfig, options: ResolverOpts) -> Result<Self, NetError> {
        Self::new(Files { name_servers: None, hosts: "/etc/hosts".into() }, servers, options)
    }

    fn new(files: Files, servers: ResolverConfig, options: ResolverOpts) -> Result<Self, NetError> {
        let nothing = Known {
            dns: Dns::new(&servers, options)?,
            answers: Answers::default(),
            servers,
            ndots: 1,
            hosts: Hosts::default(),
            content: Vec::new(),
            look: files.look(),
            problem: None,
        };
        let known = files.read(&nothing);
        Ok(Self { known: ArcSwap::from_pointee(known), unanswered: AtomicBool::new(false), files })
    }

    pub(crate) fn known(&self) -> Arc<Known> {
        self.known.load_full()
    }

    /// A question was left without an answer.
    pub(super) fn note_silence(&self) {
        self.unanswered.store(true, Ordering::Relaxed);
    }

    /// Looks into the hosts file.
    pub(super) fn with_hosts<T>(&self, ask: impl FnOnce(&Hosts) -> T) -> T {
        ask(&self.known.load().hosts)
    }

    /// Reads the files if they look otherwise than last time, and says whether it did.
    fn reread(&self) -> bool {
        let was = self.known();
        let has_changed = was.look != self.files.look();
        if has_changed {
            self.known.store(Arc::new(self.files.read(&was)));
        }
        has_changed
    }

    /// Looks at the files every [`LOOK_INTERVAL`], for ever. Each look tells what is the matter with them.
    pub(crate) async fn watch(&self, told: impl Fn(Vec<String>)) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_silent = false;
        loop {
            ticks.tick().await;
            let is_silent = self.unanswered.load(Ordering::Relaxed) && self.are_silent().await;
            match (was_silent, is_silent) {
                (false, true) => {
                    tracing::warn!(
                        event = "name-servers-silent",
                        "no name server answers: SIP servers and push services that have to be looked up are not found"
                    );
                }
                (true, false) => tracing::info!(event = "name-servers-answer", "the name servers answer again"),
                _ => {}
            }
            was_silent = is_silent;
            let silence = is_silent.then(|| self.files.silence());
            let was = self.known().problem.clone();
            let is_read = self.reread();
            let problem = self.known().problem.clone();
            if is_read && problem.is_none() {
                tracing::info!(event = "name-files-taken", "the system's files about names were re-read");
            }
            if let Some(error) = problem.as_ref().filter(|problem| was.as_ref() != Some(*problem)) {
                tracing::warn!(event = "name-servers-not-taken", %error, "no name servers are configured any more; those that were known stay in use");
            }
            told(silence.into_iter().chain(problem.map(|problem| self.files.told(&problem))).collect());
        }
    }

    /// Asks the name servers something of which each knows at least that it does not.
    async fn are_silent(&self) -> bool {
        self.unanswered.store(false, Ordering::Relaxed);
        let is_silent = match self.known().dns.lookup(Name::root(), RecordType::NS).await {
            Err(error) => is_silence(&error),
            Ok(_) => false,
        };
        if is_silent {
            self.note_silence();
        }
        is_silent
    }
}

impl Known {
    /// The answer that is known without asking.
    pub(super) fn remembered(&self, query: &Query) -> Option<Found> {
        let listed = self.hosts.lookup_static_host(query);
        let listed = listed.map(|lookup| cache::found(lookup.message().clone(), query.query_type()));
        listed.or_else(|| self.answers.get(query, Instant::now()))
    }

    /// Whether the name servers have answered a question with an error for long.
    pub(super) fn always_fails(&self, query: &Query) -> bool {
        self.answers.always_fails(query, Instant::now())
    }

    /// The name servers have said this, `at` a time.
    #[cfg(test)]
    pub(super) fn learn(
        &self,
        query: &Query,
        answer: Result<hickory_resolver::proto::op::Message, NetError>,
        at: Instant,
    ) {
        let _ = self.answers.insert(query, answer, at);
    }

    /// Asks the name servers, and remembers what they say.
    pub(crate) async fn ask(&self, query: &Query) -> Result<Found, NetError> {
        let answer = self.dns.lookup(query.name().clone(), query.query_type()).await;
        self.answers.insert(query, answer.map(|lookup| lookup.message().clone()), Instant::now())
    }

    /// The domains in which a name is sought that is not whole.
    pub(super) fn search(&self) -> &[Name] {
        match self.servers.search() {
            [] => self.servers.domain().map_or(&[], std::slice::from_ref),
            search => search,
        }
    }
}

impl Files {
    fn look(&self) -> [FileStamp; 2] {
        [self.name_servers.as_deref().map(FileStamp::at).unwrap_or_default(), FileStamp::at(&self.hosts)]
    }

    /// The files as they are now; with the name servers known before, when they name none.
    fn read(&self, was: &Known) -> Known {
        let look = self.look();
        let hosts = read_hosts(&self.hosts);
        let mut known = Known {
            dns: was.dns.clone(),
            answers: was.answers.clone(),
            servers: was.servers.clone(),
            ndots: was.ndots,
            hosts,
            content: was.content.clone(),
            look,
            problem: None,
        };
        if let Some(path) = &self.name_servers {
            match name_servers(path, was) {
                Ok(None) => {}
                Ok(Some(Named { dns, servers, ndots, content })) => {
                    known = Known { dns, answers: Answers::default(), servers, ndots, content, ..known };
                }
                Err(error) => {
                    known.problem = Some(error.to_string());
                    // A file that could not be read is read again, however it looks.
                    if matches!(error, Unusable::Unread(_)) {
                        known.look[0] = FileStamp::default();
                    }
                }
            }
        }
        known
    }

    fn silence(&self) -> String {
        let (which, whom) = match &self.name_servers {
            Some(file) => (format!("those that {} names", file.display()), "SIP servers and push services"),
            None => ("those of upstream.name_servers".to_owned(), "SIP servers"),
        };
        format!(
            "no name server answers ({which}): {whom} that have to be looked up are not found; name others, or let the relay reach these on port 53"
        )
    }

    fn told(&self, problem: &str) -> String {
        let file = self.name_servers.as_deref().unwrap_or(Path::new("")).display();
        format!(
            "{file}: {problem}; name servers that it named before stay in use, and without any only numeric hosts and the hosts file resolve"
        )
    }
}

/// Why a file names no name servers.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// The file cannot be read now.
    #[error("{0}")]
    Unread(io::Error),
    /// The file can be read, and names no server that can be asked.
    #[error("{0}")]
    Nameless(NetError),
}

/// The content of the file of name servers.
struct Named {
    dns: Dns,
    servers: ResolverConfig,
    ndots: usize,
    content: Vec<u8>,
}

/// The content of the file; `None` when it has not changed.
fn name_servers(path: &Path, was: &Known) -> Result<Option<Named>, Unusable> {
    let content = regular_file::read(path).map_err(Unusable::Unread)?;
    if !content.is_empty() && content == was.content {
        return Ok(None);
    }
    let (servers, stated) = parse_resolv_conf(&content).map_err(Unusable::Nameless)?;
    let dns = Dns::new(&servers, was.dns.options().clone()).map_err(Unusable::Nameless)?;
    Ok(Some(Named { dns, servers, ndots: stated.ndots, content }))
}

fn read_hosts(path: &Path) -> Hosts {
    let mut hosts = Hosts::default();
    // The readable part counts.
    let _ = regular_file::open(path).and_then(|file| hosts.read_hosts_conf(file.take(MAX_HOSTS)));
    hosts
}

#[cfg(test)]
mod tests {
    use std::fs;

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use hickory_resolver::proto::op::Query;

    use super::*;

    #[tokio::test]
    async fn changed_files_are_taken_and_an_empty_one_takes_no_name_server_away() {
        let folder = std::env::temp_dir().join(format!("sipwake-names-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (resolv_conf, hosts) = (folder.join("resolv.conf"), folder.join("hosts"));
        fs::write(&resolv_conf, "").unwrap();
        let files = Files { name_servers: Some(resolv_conf.clone()), hosts: hosts.clone() };
        let names = Names::new(files, ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default()).unwrap();
        assert!(names.known().problem.is_some(), "no name server is known");
        assert!(!names.reread(), "nothing changed");

        let first = "nameserver 192.0.2.1\n";
        let second = "search test\noptions ndots:3\nnameserver 192.0.2.2\n";
        let steps: [(&str, &str, bool); 4] =
            [(first, first, true), ("", first, false), (second, second, true), ("#", second, false)];
        for (content, in_use, is_well) in steps {
            fs::write(&resolv_conf, content).unwrap();
            assert!(names.reread());
            let known = names.known();
            assert_eq!((&*known.content, known.problem.is_none()), (in_use.as_bytes(), is_well), "{content:?}");
        }

        assert_eq!((names.known().ndots, names.known().search().len()), (3, 1));

        let query = Query::query(Name::from_ascii("sip.example.").unwrap(), RecordType::A);
        let is_known = || names.with_hosts(|hosts| hosts.lookup_static_host(&query).is_some());
        assert!(!is_known());
        fs::write(&hosts, "192.0.2.9 sip.example\n").unwrap();
        assert!(names.reread() && is_known());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn name_servers_are_silent_until_one_says_anything_at_all() {
        let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut by_udp = ConnectionConfig::udp();
        by_udp.port = server.local_addr().unwrap().port();
        let named = NameServerConfig::new("127.0.0.1".parse().unwrap(), true, vec![by_udp]);
        let mut options = ResolverOpts::default();
        (options.timeout, options.attempts) = (std::time::Duration::from_millis(300), 1);
        let names = Names::with(ResolverConfig::from_parts(None, Vec::new(), vec![named]), options).unwrap();
        assert!(names.are_silent().await);
        assert!(names.unanswered.load(Ordering::Relaxed), "it is asked again");
        let answers = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (length, from) = server.recv_from(&mut question).await.unwrap();
                // A response: SERVFAIL.
                (question[2], question[3]) = (0x80 | question[2], 0x82);
                server.send_to(&question[..length], from).await.unwrap();
            }
        });
        // The question that was left without an answer may be read first.
        let mut is_silent = true;
        for _ in 0..20 {
            is_silent = names.are_silent().await;
            if !is_silent {
                break;
            }
        }
        assert!(!is_silent);
        assert!(!names.unanswered.load(Ordering::Relaxed));
        answers.abort();
    }
}
