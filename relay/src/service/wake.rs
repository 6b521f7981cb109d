//! Waking the devices of an AOR at this node, for a SIP server with which the call waits.
//!
//! Invariant: the AOR is kept as its keyed hash alone. Only registrations at a server that the AOR's domain or the operator vouches for are counted and woken,
//! because the lender of an account names its server freely. A requester that stops waiting stops no push: the devices go on waking for the same call as long
//! as its INVITE may follow. An AOR is not reported as unknown while its devices may be on their way here, after a start or the death of another node; they are
//! waited for at most [`ARRIVAL_LIMIT`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sip::message::Uri;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Inner;
use super::sip_servers::{Expected, Wake, WakeError};
use crate::agent::request::{DevicesFound, Request, Servers, WakeRequester};
use crate::clock;
use crate::net::dns::resolve::Target;

/// How long DNS may take to tell a domain's addresses: a caller waits.
const RESOLVE_LIMIT: Duration = Duration::from_secs(2);
/// How long devices are waited for that may be on their way here: a caller waits, and an earlier run's are here by then.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether they have come.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Inner {
    pub(super) async fn expect(&self, wake: Wake, answered: watch::Receiver<bool>) -> Result<Expected, WakeError> {
        let Wake { aor, from, name, wait, registrars, looks } = wake;
        if self.is_leaving() {
            return Err(WakeError::Draining);
        }
        let host = Uri::parse(aor.expose()).map(|uri| uri.host).ok_or(WakeError::DomainNotAllowed)?;
        if !self.dependencies.domains.allow(host) {
            return Err(WakeError::DomainNotAllowed);
        }
        let key = self.dependencies.vault.aor_key(&aor);
        let (arrivals, arrived) = mpsc::unbounded_channel();
        let requester = WakeRequester { wait, arrivals, answered };
        let announce = async |servers: &Servers| {
            let found = self.dependencies.agent.ask_all(|reply| {
                let (from, name, requester) = (from.clone(), name.clone(), requester.clone());
                Request::ExpectCall { aor: key, servers: servers.clone(), from, name, looks, requester, reply }
            });
            found.await.into_iter().fold(DevicesFound::default(), |sum, found| DevicesFound {
                known: sum.known + found.known,
                attached: sum.attached + found.attached,
                silent: sum.silent + found.silent,
                undecided: sum.undecided + found.undecided,
            })
        };
        let find = async || {
            let mut servers = Servers { domain: host.into(), registrars: registrars.clone(), addresses: None };
            let mut found = announce(&servers).await;
            if found.undecided > 0 {
                servers.addresses = Some(self.addresses_of(host).await);
                let by_address = announce(&servers).await;
                found.known += by_address.known;
                found.attached += by_address.attached;
                found.silent += by_address.silent;
            }
            found
        };
        let mut found = find().await;
        let until = clock::now() + ARRIVAL_LIMIT;
        // An account that is here is on no way: its devices are asked once, for each time may use up what their calls have.
        let mut may_come = found.known + found.silent == 0;
        while may_come {
            // Asked first: devices that have come since then are found.
            may_come = self.may_come(&found).await?;
            found = find().await;
            if found.known + found.silent > 0 {
                break;
            }
            if may_come && clock::now() >= until {
                return Err(WakeError::OnItsWay);
            }
            if may_come {
                sleep(LOOK_AGAIN).await;
            }
        }
        // From here on the devices alone hold the other end: when none of them can come any more, it ends.
        match found {
            DevicesFound { known: 0, .. } => Err(WakeError::Unknown),
            DevicesFound { known, attached, .. } => Ok(Expected { known, awake: attached, arrivals: arrived }),
        }
    }

    /// Whether devices may be on their way here, or their SIP server be unknown by its addresses until it is met.
    async fn may_come(&self, found: &DevicesFound) -> Result<bool, WakeError> {
        let agent = &self.dependencies.agent;
        if agent.is_taking() || found.undecided > 0 && agent.is_claiming() {
            return Ok(true);
        }
        let unclaimed = self.dependencies.vault.unclaimed_nodes().await.map_err(|_| WakeError::OnItsWay)?;
        // Asked again, last: their records may have been taken over since, and are on their way.
        Ok(!unclaimed.is_empty() || agent.is_taking())
    }

    /// The addresses of a domain's SIP servers, as the source of an INVITE is judged by; empty when they cannot be found in time.
    async fn addresses_of(&self, domain: &str) -> Arc<[IpAddr]> {
        let target = Target { host: domain.into(), port: None, transport: None };
        match self.dependencies.resolver.resolve_sought(&target, 0, RESOLVE_LIMIT, |_| false).await {
            Ok(found) => found.candidates.iter().map(|candidate| candidate.address.ip()).collect(),
            Err(_) => Arc::default(),
        }
    }
}
