//! Several name servers, asked in the order in which they are named, as the other programs of a system ask them.
//!
//! | a name server | the next one is asked |
//! | --- | --- |
//! | says an error | at once |
//! | has said nothing for [`PAUSE`] | beside it |
//! | has said nothing for as long within [`DOUBT`] before | at the same time |
//!
//! | what they say | when that is the answer |
//! | --- | --- |
//! | records | at once |
//! | that there is nothing | when all that are named before have failed, or were in doubt and say nothing for [`PAUSE`] |
//! | errors alone | when all have been asked |
//!
//! Invariant: what the first one knows is not taken for what is not there because another one, which sees another part of the world, says so sooner.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::Resolver;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::time::{Instant, sleep_until};

use super::name_server::{NameServers, is_silence, one};
use crate::lock::Mutex;

/// How long a name server has to answer before the next one is asked as well.
const PAUSE: Duration = Duration::from_millis(300);
/// How long one that has not answered in time is in doubt.
const DOUBT: Duration = Duration::from_secs(10);

/// Asks several name servers; cheap to clone.
#[derive(Clone)]
pub(super) struct Dns(Arc<Inner>);

struct Inner {
    options: ResolverOpts,
    servers: Vec<Server>,
}

struct Server {
    dns: Resolver<NameServers>,
    in_doubt_until: Mutex<Option<Instant>>,
}

/// A name server's answer to one question.
enum ServerAnswer {
    /// Nothing yet.
    Waiting {
        since: Instant,
        was_in_doubt: bool,
    },
    /// The answer that there is nothing.
    Nothing(Result<Lookup, NetError>),
    Failed(NetError),
}

impl ServerAnswer {
    /// Whether it has had its time at `now`.
    fn is_late(&self, now: Instant) -> bool {
        matches!(self, Self::Waiting { since, .. } if *since + PAUSE <= now)
    }

    /// Whether the next one is asked.
    fn is_passed(&self, now: Instant) -> bool {
        matches!(self, Self::Failed(_) | Self::Waiting { was_in_doubt: true, .. }) || self.is_late(now)
    }

    /// Whether what those behind it say counts.
    fn is_out(&self, now: Instant) -> bool {
        matches!(self, Self::Failed(_)) || matches!(self, Self::Waiting { was_in_doubt: true, .. }) && self.is_late(now)
    }
}

impl Server {
    fn is_in_doubt(&self, now: Instant) -> bool {
        self.lock().is_some_and(|until| until > now)
    }

    fn doubt(&self, now: Instant) {
        *self.lock() = Some(now + DOUBT);
    }

    fn hear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.in_doubt_until.lock()
    }
}

impl Dns {
    /// These name servers, each asked with these options; their answers are not remembered.
    pub(crate) fn new(servers: &ResolverConfig, options: ResolverOpts) -> Result<Self, NetError> {
        let each = servers.name_servers().iter().map(|server| {
            let dns = one(ResolverConfig::from_name_servers(vec![server.clone()]), options.clone())?;
            Ok(Server { dns, in_doubt_until: Mutex::new(None) })
        });
        let servers = each.collect::<Result<_, NetError>>()?;
        Ok(Self(Arc::new(Inner { options, servers })))
    }

    /// How each is asked.
    pub(crate) fn options(&self) -> &ResolverOpts {
        &self.0.options
    }

    /// One question about a whole name.
    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        let servers = &self.0.servers;
        let mut said: Vec<ServerAnswer> = Vec::new();
        let mut asked = FuturesUnordered::new();
        loop {
            let now = Instant::now();
            while let Some(server) = servers.get(said.len())
                && said.iter().all(|it| it.is_passed(now))
            {
                let (number, name) = (said.len(), name.clone());
                asked.push(async move { (number, server.dns.lookup(name, kind).await) });
                said.push(ServerAnswer::Waiting { since: now, was_in_doubt: server.is_in_doubt(now) });
            }
            for (server, _) in servers.iter().zip(&said).filter(|(_, said)| said.is_late(now)) {
                server.doubt(now);
            }
            if let Some(counts) = said.iter().position(|it| !it.is_out(now))
                && matches!(said[counts], ServerAnswer::Nothing(_))
                && let ServerAnswer::Nothing(nothing) = said.swap_remove(counts)
            {
                return nothing;
            }
            if asked.is_empty() {
                return Err(failure(said));
            }
            let late_at = said.iter().filter_map(|it| match it {
                ServerAnswer::Waiting { since, .. } => Some(*since + PAUSE).filter(|at| *at > now),
                ServerAnswer::Nothing(_) | ServerAnswer::Failed(_) => None,
            });
            let wakes_at = late_at.min();
            tokio::select! {
                Some((number, answer)) = asked.next() => {
                    let server: &Server = &servers[number];
                    match &answer {
                        Err(error) if is_silence(error) => server.doubt(Instant::now()),
                        Ok(_) | Err(_) => server.hear(),
                    }
                    said[number] = match answer {
                        Ok(records) if !records.answers().is_empty() => return Ok(records),
                        nothing @ (Ok(_) | Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => ServerAnswer::Nothing(nothing),
                        Err(error) => ServerAnswer::Failed(error),
                    };
                }
                () = sleep_until(wakes_at.unwrap_or(now)), if wakes_at.is_some() => {}
            }
        }
    }
}

/// Why nobody has answered: what any of them says, before that others are silent.
fn failure(said: Vec<ServerAnswer>) -> NetError {
    let (mut silent, mut told) = (None, None);
    for it in said {
        if let ServerAnswer::Failed(error) = it {
            let kept = if is_silence(&error) { &mut silent } else { &mut told };
            kept.get_or_insert(error);
        }
    }
    told.or(silent).unwrap_or(NetError::NoConnections)
}
