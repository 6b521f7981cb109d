//! Waking the devices of an AOR for a SIP server that holds the call itself.
//!
//! Invariant: nothing is kept of the AOR beyond its keyed hash. The answer comes with the first device that is there; the
//! others go on waking for the same call.

use sip::message::Uri;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Inner;
use super::types::{Awake, Wake, WakeError};
use crate::agent::request::{DevicesFound, Request};

impl Inner {
    pub(super) async fn wake(&self, wish: Wake) -> Result<Awake, WakeError> {
        let Wake { aor, from, name, wait } = wish;
        if self.dependencies.drain.has_begun() {
            return Err(WakeError::Draining);
        }
        let host = Uri::parse(aor.expose()).map(|uri| uri.host).ok_or(WakeError::DomainNotAllowed)?;
        if !self.dependencies.domains.allow(host) {
            return Err(WakeError::DomainNotAllowed);
        }
        let key = self.dependencies.vault.aor_key(&aor);
        let (arrivals, mut arrived) = mpsc::unbounded_channel();
        let announce = |reply| {
            let (from, name, arrivals) = (from.clone(), name.clone(), arrivals.clone());
            Request::ExpectCall { aor: key, from, name, arrivals, reply }
        };
        let found = self.dependencies.agent.ask_all(announce).await;
        // From here on the devices alone hold it: when none of them can come any more, the wait ends.
        drop(arrivals);
        let DevicesFound { known, attached } = found.into_iter().fold(DevicesFound::default(), |sum, found| {
            DevicesFound { known: sum.known + found.known, attached: sum.attached + found.attached }
        });
        if known == 0 {
            return Err(WakeError::Unknown);
        }
        let mut awake = attached;
        if awake == 0 {
            match timeout(wait, arrived.recv()).await {
                Ok(Some(_)) => awake = 1,
                Ok(None) | Err(_) => return Err(WakeError::NoneInTime),
            }
        }
        while arrived.try_recv().is_ok() {
            awake += 1;
        }
        Ok(Awake { awake, known })
    }
}
