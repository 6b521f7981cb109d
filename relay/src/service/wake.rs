//! Waking the devices of an AOR that this node has, for a SIP server that holds the call itself.
//!
//! Invariant: nothing is kept of the AOR beyond its keyed hash. Only registrations at a server that the AOR's domain or the
//! operator vouches for are counted and woken: whoever lends an account calls it as he likes. Whoever stops waiting stops
//! nobody: the devices go on waking for the same call.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sip::message::Uri;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Inner;
use super::types::{Expected, Wake, WakeError};
use crate::agent::request::{DevicesFound, Request, Servers};
use crate::net::resolve::Target;

/// How long DNS may take to tell a domain's addresses: a caller waits.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) async fn expect(&self, wish: Wake) -> Result<Expected, WakeError> {
        let Wake { aor, from, name, wait: _, registrars } = wish;
        if self.is_leaving() {
            return Err(WakeError::Draining);
        }
        let host = Uri::parse(aor.expose()).map(|uri| uri.host).ok_or(WakeError::DomainNotAllowed)?;
        if !self.dependencies.domains.allow(host) {
            return Err(WakeError::DomainNotAllowed);
        }
        let key = self.dependencies.vault.aor_key(&aor);
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let announce = async |servers: &Servers| {
            let found = self.dependencies.agent.ask_all(|reply| {
                let (from, name, arrivals) = (from.clone(), name.clone(), arrivals.clone());
                Request::ExpectCall { aor: key, servers: servers.clone(), from, name, arrivals, reply }
            });
            found.await.into_iter().fold(DevicesFound::default(), |sum, found| DevicesFound {
                known: sum.known + found.known,
                attached: sum.attached + found.attached,
                undecided: sum.undecided + found.undecided,
            })
        };
        let mut servers = Servers { domain: host.into(), registrars, addresses: None };
        let DevicesFound { mut known, mut attached, undecided } = announce(&servers).await;
        if undecided > 0 {
            servers.addresses = Some(self.addresses_of(host).await);
            let by_address = announce(&servers).await;
            (known, attached) = (known + by_address.known, attached + by_address.attached);
        }
        // From here on the devices alone hold the other end: when none of them can come any more, it ends.
        match known {
            0 => Err(WakeError::Unknown),
            known => Ok(Expected { known, awake: attached, arrivals: arrived }),
        }
    }

    /// Where a domain's SIP servers are, as the source of an INVITE is judged by; empty when that cannot be told in time.
    async fn addresses_of(&self, domain: &str) -> Arc<[IpAddr]> {
        let target = Target { host: domain.into(), port: None, transport: None };
        match timeout(RESOLVE_LIMIT, self.dependencies.resolver.resolve(&target, 0)).await {
            Ok(Ok(found)) => found.candidates.iter().map(|candidate| candidate.address.ip()).collect(),
            Ok(Err(_)) | Err(_) => Arc::default(),
        }
    }
}
