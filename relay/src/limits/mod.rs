//! What one source, one account or one SIP server may take of this relay, so that none takes it from the others.
//!
//! | room | what it counts |
//! | --- | --- |
//! | [`guesses`] | wrong passwords that were carried to SIP servers |
//! | [`shares`] | a share for each key of something that many want at once |
//!
//! Invariant: a limit is counted for the whole process, whatever shard or listener met it; what it counts is bounded.

pub mod guesses;
pub mod shares;

use std::net::{IpAddr, Ipv6Addr};

use crate::config;
use crate::metrics::Metrics;
use crate::metrics::labels::Limit;
use guesses::{Attempt, Free, Guesses, Permit, Wait};

/// Everything that is counted; cheap to clone.
#[derive(Clone)]
pub struct Quotas {
    metrics: Metrics,
    guesses: Guesses,
    /// The settings.
    limits: config::Limits,
}

impl Quotas {
    /// Nothing counted yet.
    pub fn new(limits: &config::Limits, metrics: Metrics) -> Self {
        let free = Free { per_account: limits.failures_per_account, per_source: limits.failures_per_source };
        Self { metrics, guesses: Guesses::new(free), limits: *limits }
    }

    /// The settings.
    pub fn limits(&self) -> &config::Limits {
        &self.limits
    }

    /// Lets somebody try a password, or says how long he must wait.
    pub fn try_password(&self, attempt: &Attempt<'_>) -> Result<Permit, Wait> {
        self.guesses.admit(attempt, std::time::Instant::now()).inspect_err(|wait| {
            self.metrics.limit(if wait.by_source { Limit::FailuresSource } else { Limit::FailuresAccount });
        })
    }
}

/// What an address is counted as: IPv4 by itself, IPv6 by its /64, IPv4-mapped IPv6 as IPv4.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one() {
        let counted = |text: &str| counted_as(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:0:1::7"), counted("2001:db8:0:1:ffff::"));
        assert_ne!(counted("2001:db8:0:1::7"), counted("2001:db8:0:2::7"));
        assert_eq!(counted("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
