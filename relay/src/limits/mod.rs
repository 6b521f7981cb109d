//! Limits on one source, one account or one SIP server, so that none takes this relay from the others.
//!
//! | room | counts |
//! | --- | --- |
//! | [`guesses`] | wrong passwords that were carried to SIP servers |
//! | [`holdings`] | instances and registrations that passed through |
//! | [`pushes`] | the pushes that a device, a caller and an app cause |
//! | [`shares`] | a share for each key of something that many want at once |
//!
//! Invariant: a limit is counted for the whole process, on any shard and listener (of pushes each shard has its part); the number of
//! keys counted is bounded.

pub mod guesses;
pub mod holdings;
pub mod pushes;
pub mod shares;

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

pub use sip::bucket::counted_as;

use crate::config;
use crate::metrics::Metrics;
use crate::metrics::labels::Limit;
use guesses::{Attempt, Free, Guesses, Permit, Wait};
use holdings::{Holding, Holdings};

/// The key of all instances of this node.
const INSTANCES: &str = "instances";

/// The keys under which an instance is counted.
#[derive(Clone, Copy)]
pub struct InstanceOf<'a> {
    /// The App.
    pub app: &'a str,
    /// The address of record.
    pub aor: &'a str,
    /// The server that its requests go to: host and port.
    pub server: &'a str,
}

/// Everything that is counted; cheap to clone.
#[derive(Clone)]
pub struct Quotas {
    metrics: Metrics,
    guesses: Guesses,
    holdings: Holdings,
    hash: Arc<RandomState>,
    /// The settings.
    limits: config::Limits,
}

impl Quotas {
    /// Nothing counted yet.
    pub fn new(limits: &config::Limits, metrics: Metrics) -> Self {
        let free = Free { per_account: limits.failures_per_account, per_source: limits.failures_per_source };
        Self {
            metrics,
            guesses: Guesses::new(free),
            holdings: Holdings::default(),
            hash: Arc::default(),
            limits: *limits,
        }
    }

    /// The settings.
    pub fn limits(&self) -> &config::Limits {
        &self.limits
    }

    /// Room for one more instance that `source` enables, or the limit that it meets.
    pub fn place_instance(&self, instance: &InstanceOf<'_>, source: IpAddr) -> Result<Holding, Limit> {
        let limits = [Limit::InstancesNode, Limit::InstancesApp, Limit::InstancesAccount, Limit::InstancesSource];
        let wanted = self.instance_keys(instance, Some(source));
        self.holdings.take(&wanted).map_err(|which| self.met(limits[which]))
    }

    /// The place of an instance that is there already, or takes the place of one.
    pub fn count_instance(&self, instance: &InstanceOf<'_>) -> Holding {
        self.holdings.count(&self.instance_keys(instance, None))
    }

    /// How many instances this node has.
    pub fn instances(&self) -> u32 {
        self.holdings.held_by(self.hash.hash_one(INSTANCES))
    }

    fn instance_keys(&self, instance: &InstanceOf<'_>, source: Option<IpAddr>) -> Vec<(u64, u32)> {
        let InstanceOf { app, aor, server } = *instance;
        let mut keys = vec![
            (self.hash.hash_one(INSTANCES), self.limits.instances_per_node),
            (self.hash.hash_one(("app", app)), self.limits.instances_per_app),
            (self.hash.hash_one(("account", guesses::account(aor), server)), self.limits.instances_per_account),
        ];
        if let Some(source) = source.map(counted_as) {
            keys.push((self.hash.hash_one(("instances from", source)), self.limits.instances_per_source));
        }
        keys
    }

    /// Room for one more registration that passes through to this server from this source, or the limit that it meets.
    pub fn place_registration(&self, server: &str, source: IpAddr) -> Result<Holding, Limit> {
        let limits = [Limit::RegistrationsNode, Limit::RegistrationsServer, Limit::RegistrationsSource];
        self.holdings.take(&self.registration_keys(server, Some(source))).map_err(|which| self.met(limits[which]))
    }

    /// The place of a registration that its SIP server has accepted; of an earlier run without a source.
    pub fn count_registration(&self, server: &str, source: Option<IpAddr>) -> Holding {
        self.holdings.count(&self.registration_keys(server, source))
    }

    fn registration_keys(&self, server: &str, source: Option<IpAddr>) -> Vec<(u64, u32)> {
        let mut keys = vec![
            (self.hash.hash_one("registrations"), self.limits.registrations_per_node),
            (self.hash.hash_one(("registrations at", server)), self.limits.registrations_per_server),
        ];
        if let Some(source) = source.map(counted_as) {
            keys.push((self.hash.hash_one(("registrations from", source)), self.limits.registrations_per_source));
        }
        keys
    }

    /// Counts that somebody met a limit.
    pub fn met(&self, limit: Limit) -> Limit {
        self.metrics.limit(limit);
        limit
    }

    /// Lets a source try a password, or says how long it must wait.
    pub fn try_password(&self, attempt: &Attempt<'_>) -> Result<Permit, Wait> {
        self.guesses.admit(attempt, std::time::Instant::now()).inspect_err(|wait| {
            self.metrics.limit(if wait.by_source { Limit::FailuresSource } else { Limit::FailuresAccount });
        })
    }
}
