//! SIP servers that have not answered a registration of a proven account for a while: there is no route, no TLS or no name, or the server refuses the
//! connection or is silent.
//!
//! A server is the host and port that requests are sent to; an answer for any account shows that it is reached. The endpoint decides what the outage means for
//! each account. This table decides whether another node is asked to reach the server.
//!
//! Invariant: any answer removes the server, a refusal as well. While no server is silent, an answer costs one lookup.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use sip::id::UpstreamId;

use super::Agent;
use super::transport::upstreams::Upstreams;
use crate::lock::Mutex;

/// How long after its last failure a server is not counted as silent any more: no account here asks it, or seldom.
const FORGOTTEN: Duration = Duration::from_mins(15);

/// The silent servers, each with its silence.
#[derive(Default)]
pub(crate) struct SilentServers(Mutex<BTreeMap<Box<str>, Silence>>);

/// A server that answers nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentServer {
    /// The host and port.
    pub server: Box<str>,
    /// When the first registration was left without an answer.
    pub since: Instant,
    /// Whether an account is not registered there any more, for its grant was over when it failed: a short grant ends before much is tried.
    pub has_lost: bool,
}

struct Silence {
    since: Instant,
    last: Instant,
    has_lost: bool,
}

impl SilentServers {
    /// A registration was left without an answer. `has_lost`: its grant is over.
    pub(crate) fn fails(&self, upstreams: &Upstreams, upstream: UpstreamId, now: Instant, has_lost: bool) {
        let Some(route) = upstreams.route(upstream) else { return };
        let mut servers = self.lock();
        let silence = servers.entry(route.server().into()).or_insert(Silence { since: now, last: now, has_lost });
        silence.last = now;
        silence.has_lost |= has_lost;
    }

    /// A registration was answered, whatever the answer.
    pub(crate) fn answers(&self, upstreams: &Upstreams, upstream: UpstreamId) {
        let mut servers = self.lock();
        if servers.is_empty() {
            return;
        }
        if let Some(route) = upstreams.route(upstream) {
            servers.remove(route.server().as_str());
        }
    }

    /// Whether registrations at a server are left without an answer.
    pub(crate) fn is_silent(&self, upstreams: &Upstreams, upstream: UpstreamId) -> bool {
        let servers = self.lock();
        let is_in = |server: &str| servers.contains_key(server);
        !servers.is_empty() && upstreams.route(upstream).is_some_and(|route| is_in(route.server().as_str()))
    }

    /// The silence of a server counts no more.
    pub(crate) fn forget(&self, server: &str) {
        self.lock().remove(server);
    }

    /// All of them.
    pub(crate) fn all(&self, now: Instant) -> Vec<SilentServer> {
        let mut servers = self.lock();
        servers.retain(|_, silence| now.saturating_duration_since(silence.last) < FORGOTTEN);
        let silent = servers.iter();
        silent
            .map(|(server, it)| SilentServer { server: server.clone(), since: it.since, has_lost: it.has_lost })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Box<str>, Silence>> {
        self.0.lock()
    }
}

impl Agent {
    /// The SIP servers that answer no registration here.
    pub fn silent_servers(&self, now: Instant) -> Vec<SilentServer> {
        self.0.silent_servers.all(now)
    }

    /// The silence of a SIP server counts no more.
    pub fn forget_silence(&self, server: &str) {
        self.0.silent_servers.forget(server);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::transport::upstreams::Route;

    #[test]
    fn a_server_is_silent_from_its_first_failure_until_it_answers_for_any_domain() {
        let (servers, upstreams, now) = (SilentServers::default(), Upstreams::default(), Instant::now());
        let proxy = Some("sip:proxy.example.net:5061;transport=tls");
        let of = |domain: &str, proxy| upstreams.acquire(Route::to(&format!("sip:a@{domain}"), None, proxy).unwrap());
        let (one, other, alone) = (of("one.test", proxy), of("other.test", proxy), of("alone.test", None));
        let later = now + Duration::from_secs(9);
        servers.fails(&upstreams, one, now, false);
        servers.fails(&upstreams, other, later, true);
        servers.fails(&upstreams, alone, later, false);
        let silent = |server: &str, since, has_lost| SilentServer { server: server.into(), since, has_lost };
        let both = [silent("alone.test", later, false), silent("proxy.example.net:5061", now, true)];
        assert_eq!(servers.all(later), both);
        servers.answers(&upstreams, other);
        assert_eq!(servers.all(later), both[..1]);
        assert!(servers.all(later + FORGOTTEN).is_empty(), "nobody asks it any more");
    }
}
