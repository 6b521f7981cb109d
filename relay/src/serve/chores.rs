//! The parts of the relay that work beside everything else.
//!
//! Invariant: a chore that ends by a fault of its own is reported, in the log and on the status page, for nothing else would notice.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use super::push_services::warn_of_unserved;
use super::{
    Foundations, Opened, audit_watch, certificate_watch, clock_watch, doubt_watch, keyring_watch, lost_time_watch,
    push_certificate_watch, shard_watch, store_watch,
};
use crate::acme::Acme;
use crate::lock::Mutex;
use crate::metrics::labels::Warning;
use crate::net::dns::resolve::Resolver;
use crate::net::drain::Drain;
use crate::net::https;
use crate::net::listen::Listener;
use crate::operator::readiness::{Check, Readiness};
use crate::vault::StoreError;

/// Does `work` in a task of its own; `what` it is for.
pub(super) fn chore(
    readiness: &Readiness,
    what: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let readiness = readiness.clone();
    tokio::spawn(async move {
        // The chore's state is gone with it, and locks show by themselves that a panic left something behind.
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(
                event = "chore-ended",
                what,
                "a part of the relay has ended by a fault of its own; drain this node and start it anew, and report what the log says before this"
            );
            let words = format!("{what}: it has ended by a fault of its own; drain this node and start it anew");
            readiness.warn_also(Warning::Chores, words.into());
        }
    })
}

impl Opened {
    /// With ACME in the configuration: renews the certificate, and answers at the door for the CA.
    pub(super) fn certificate_by_acme(
        &self,
        door: Option<Listener>,
        readiness: &Readiness,
        ending: Drain,
    ) -> Vec<JoinHandle<()>> {
        let Some(settings) = self.foundations.config.acme.clone() else { return Vec::new() };
        let acme = Acme::new(
            settings,
            self.foundations.tls.clone(),
            self.foundations.metrics.clone(),
            self.foundations.config.timing.acme_retry.0,
        );
        let door = door.map(|door| tokio::spawn(https::serve(door, acme.answers(), ending)));
        let (watched, readiness) = (readiness.clone(), readiness.clone());
        let asked = self.foundations.order_again.clone();
        let told = move |problem: Option<String>| {
            readiness.warn_of(Warning::Acme, problem.into_iter().map(Into::into).collect());
        };
        door.into_iter().chain([chore(&watched, "certificates by ACME", acme.keep(asked, told))]).collect()
    }

    /// The periodic tasks beside everything else.
    pub(super) fn chores(&self, readiness: &Readiness) -> Vec<JoinHandle<()>> {
        let store = readiness.clone();
        let told = move |trouble: Option<&StoreError>| match trouble {
            None => store.pass(Check::Store),
            Some(trouble) => store.fail(Check::Store, trouble.in_words()),
        };
        let agent = self.agent.clone();
        let is_doubtful = move || agent.is_doubtful();
        let Foundations { config, metrics, vault, audit, push, quotas, tls, upstream_tls, .. } = &self.foundations;
        let (contested, quotas) = (vault.clone(), quotas.clone());
        let is_contested = move || contested.is_contested();
        let warning = readiness.clone();
        let refused = move |why: Option<String>| {
            let words = why.map(|why| format!("tls: {why}; the old certificate stays in use").into());
            warning.warn_of(Warning::Certificate, words.into_iter().collect());
        };
        let mut chores = self.watch_names(readiness);
        chores.extend([
            chore(readiness, "keeping what this node owns", self.service.clone().keep_ownership(told)),
            chore(
                readiness,
                "looking for SIP servers that another node reaches",
                self.service.clone().leave_unreachable_servers(config.timing.unreachable_after.0),
            ),
            chore(
                readiness,
                "looking for apps that another node serves",
                self.service.clone().leave_unserved(warn_of_unserved(readiness)),
            ),
            chore(readiness, "giving back what a node had that is back", self.service.clone().give_back()),
            chore(readiness, "taking new certificates", tls.clone().watch(refused)),
            chore(readiness, "taking new CAs of SIP servers", upstream_tls.clone().watch()),
            chore(readiness, "watching the keyring", keyring_watch::watch(vault.clone(), readiness.clone())),
            chore(readiness, "watching the clocks", clock_watch::watch(vault.clone(), readiness.clone())),
            chore(
                readiness,
                "watching the store",
                store_watch::watch(vault.clone(), config.store.require_ephemeral, readiness.clone()),
            ),
            chore(readiness, "watching for lost time", lost_time_watch::watch(self.agent.clone())),
            chore(readiness, "watching the lease", doubt_watch::watch(is_doubtful, is_contested, readiness.clone())),
            chore(
                readiness,
                "watching the certificate",
                certificate_watch::watch(config.clone(), tls.clone(), metrics.clone(), readiness.clone()),
            ),
            chore(
                readiness,
                "watching the certificates for push services",
                push_certificate_watch::watch(push.clone(), readiness.clone()),
            ),
            chore(readiness, "watching the audit trail", audit_watch::watch(audit.clone(), readiness.clone())),
            chore(
                readiness,
                "changing keys",
                keyring_watch::tend(vault.clone(), move || quotas.instances(), readiness.clone()),
            ),
            chore(readiness, "asking push services", push.clone().tend()),
        ]);
        chores
    }

    /// Watches whether each shard answers.
    pub(super) fn watch_shards(&self, readiness: &Readiness) -> JoinHandle<()> {
        let (agent, shards) = (self.agent.clone(), 0..self.agent.shard_count());
        let answers = async move |shard| agent.answers(shard).await;
        chore(readiness, "watching the shards", shard_watch::watch(shards, answers, readiness.clone()))
    }

    /// Reports trouble with name servers, whatever part of the relay asks them.
    fn watch_names(&self, readiness: &Readiness) -> Vec<JoinHandle<()>> {
        let resolvers = self.foundations.resolvers.all();
        let told = Arc::new(Mutex::new(vec![Vec::new(); self.foundations.resolvers.all().count()]));
        let watch = |(place, names): (usize, &Resolver)| {
            let (names, told, readiness) = (names.clone(), told.clone(), readiness.clone());
            let watched = readiness.clone();
            let tell = move |why: Vec<String>| {
                let mut told = told.lock();
                told[place] = why;
                readiness.warn_of(Warning::NameServers, told.concat().into_iter().map(Into::into).collect());
            };
            chore(&watched, "watching the name servers", async move { names.watch_files(tell).await })
        };
        resolvers.enumerate().map(watch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chore_that_panics_is_told_and_one_that_is_over_is_not() {
        let readiness = Readiness::default();
        chore(&readiness, "what is over", async {}).await.unwrap();
        assert!(readiness.warnings().is_empty());
        for what in ["letters", "certificates"] {
            chore(&readiness, what, async { panic!("a fault") }).await.unwrap();
        }
        let told = readiness.warnings();
        assert!(
            told.len() == 2 && told[0].starts_with("letters: ") && told[1].starts_with("certificates: "),
            "{told:?}"
        );
    }
}
