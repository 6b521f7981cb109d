//! The settings of a run, and the maxima that no run may exceed.
//!
//! Invariant: a [`Plan`] that was parsed is within every maximum named here; what depends on two arguments at once is
//! corrected by [`Plan::settle`], which says each correction in words.

use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// Instances at most.
pub const MAX_INSTANCES: u32 = 1_000_000;
/// With more instances their records are put into the store before the relay starts, but for [`ENABLED_BESIDE`]: enabling that many
/// through HTTPS takes minutes of TLS handshakes.
pub const SEEDED_ABOVE: u32 = 20_000;
/// Instances that are enabled through HTTPS all the same, to measure that.
pub const ENABLED_BESIDE: u32 = 1_000;
/// Registrations in a second that a relay is asked for, where nothing else is said: its own default, and over a full store.
pub const PACE: (u32, u32) = (2_000, 5_000);
/// Refreshes in a second that no run goes beyond: with more of them generator and relay do nothing else on two processors.
pub const MAX_REFRESHES: u32 = 5_000;
/// Calls in a second at most.
pub const MAX_RATE: u32 = 5_000;
/// Seconds of calling at most.
pub const MAX_SECONDS: u32 = 600;
/// Seconds of each refresh window at most: ten million refreshes in two windows of 1,000 s.
pub const MAX_REFRESH_SECONDS: u32 = 3_600;
/// Devices attached at once at most.
pub const MAX_ATTACHED: u32 = 50_000;
/// Relays at once at most.
pub const MAX_NODES: u32 = 5;
/// Enablings under way at once at most; the relay allows one address 256 handshakes, and 16 addresses share this.
pub const MAX_CONCURRENCY: u32 = 512;
/// Enablings in a second that a run is sure of; with fewer it ends.
const SURE_ENABLINGS: u32 = 25;
/// Devices attached in a second, likewise.
const SURE_ATTACHMENTS: u32 = 50;
/// Records written, and opened, in a second, likewise.
const SURE_RECORDS: u32 = 1_000;
/// The fixed time of each phase, in seconds.
const PHASE: u32 = 60;
/// One instance is called at most this often: the relay's budget for a device is one call a second, and a call must be
/// over before the next one.
pub const CALL_INTERVAL: Duration = Duration::from_secs(2);
/// A cancelled call rings, and an answered one talks, this long.
pub const CALL_LENGTH: Duration = Duration::from_millis(300);

/// How the relay speaks to the SIP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Upstream {
    /// Datagrams.
    Udp,
    /// One TLS connection.
    Tls,
}

/// The rival that the relay is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rival {
    /// A Kamailio that keeps the call waiting, pushes by HTTP/1.1, and sends it on when the device has registered.
    Kamailio,
    /// A bare program of tokio that does the least possible for a call that is pushed and cancelled: UDP in, HTTP/1.1 out.
    Floor,
    /// The same with a push as APNs wants it: HTTP/2 over TLS.
    FloorTls,
}

impl Upstream {
    /// As a URI's parameter names it.
    pub fn param(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tls => "tls",
        }
    }
}

/// Where sealed records lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// In the relay's memory.
    Memory,
    /// In a redis-server that this run starts.
    Redis,
}

/// Which push service the devices have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PushSide {
    /// All APNs.
    Apns,
    /// All FCM.
    Fcm,
    /// Every other one FCM.
    Both,
}

impl PushSide {
    /// Whether the instance of this number is on FCM.
    pub fn is_fcm(self, instance: u32) -> bool {
        match self {
            Self::Apns => false,
            Self::Fcm => true,
            Self::Both => instance % 2 == 1,
        }
    }
}

/// The hash that the registrar challenges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Hash {
    /// MD5
    #[value(name = "md5")]
    #[serde(rename = "MD5")]
    Md5,
    /// SHA-256
    #[value(name = "sha256")]
    #[serde(rename = "SHA-256")]
    Sha256,
}

/// Loads a relay of these sources and measures it, on loopback.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "load", version, after_long_help = super::HOW_TO_READ)]
pub struct Plan {
    /// Push instances to enable
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=MAX_INSTANCES as i64))]
    pub instances: u32,
    /// Calls in a second; lowered when the instances are too few for it
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=MAX_RATE as i64))]
    pub rate: u32,
    /// Seconds of calling; also the length of each refresh window, unless that is told
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=MAX_SECONDS as i64))]
    pub seconds: u32,
    /// How the relay speaks to the SIP server
    #[arg(long, value_enum, default_value = "udp")]
    pub transport: Upstream,
    /// Pushed devices come over TLS, register, answer and are hung up on; without it calls are cancelled while they ring
    #[arg(long)]
    pub answer: bool,
    /// Attach so many devices that do nothing, measure their bytes, then call them on the flow that they have
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=MAX_ATTACHED as i64))]
    pub attach: u32,
    /// Put the records into a Redis before the relay starts, and measure how it takes them over; so it is done with more than
    /// 20,000 instances anyway
    #[arg(long)]
    pub seeded: bool,
    /// Registrations in a second that the relay is asked for (`upstream.registrations_per_second`); 2,000 unless told, 5,000 over
    /// a seeded store
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub pace: Option<u32>,
    /// Let the registrar grant so many seconds, and measure refreshes: first with a kept nonce, then challenged each time
    #[arg(long, value_name = "GRANT", value_parser = clap::value_parser!(u32).range(10..=3600))]
    pub refresh: Option<u32>,
    /// Seconds of each refresh window
    #[arg(long, value_name = "SECONDS", requires = "refresh", value_parser = clap::value_parser!(u32).range(1..=MAX_REFRESH_SECONDS as i64))]
    pub refresh_seconds: Option<u32>,
    /// Where sealed records lie
    #[arg(long, value_enum, default_value = "memory")]
    pub store: Store,
    /// Which push service the devices have
    #[arg(long, value_enum, default_value = "apns")]
    pub push: PushSide,
    /// The hash that the registrar challenges for
    #[arg(long, value_enum, default_value = "md5")]
    pub digest: Hash,
    /// Enablings under way at once
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MAX_CONCURRENCY as i64))]
    pub concurrency: u32,
    /// Number of relays over one Redis: measure how long it takes until the bindings of one are registered by the others, after kill -9 and after
    /// SIGTERM, and how many calls are lost meanwhile
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..=MAX_NODES as i64))]
    pub nodes: Option<u32>,
    /// The same calls against another server, which this run configures and starts
    #[arg(long, value_enum)]
    pub against: Option<Rival>,
    /// Devices resume their TLS sessions, as phones do that were here before
    #[arg(long)]
    pub resume: bool,
    /// Calls at these rates one after the other, as far as the relay and the machine keep up; a table, and a curve in this file
    #[arg(long, value_name = "SVG", num_args = 0..=1, default_missing_value = "")]
    pub sweep: Option<std::path::PathBuf>,
    /// Print JSON instead of the table
    #[arg(long)]
    pub json: bool,
    /// `RUST_LOG` of the relay
    #[arg(long, default_value = "warn")]
    pub relay_log: String,
}

impl Plan {
    /// Lowers what the other arguments do not allow; each change in words.
    pub fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        if self.nodes.is_some() && (self.store != Store::Redis || self.transport != Upstream::Udp) {
            said.push("several nodes share a Redis, and speak UDP to the SIP server".to_owned());
            (self.store, self.transport) = (Store::Redis, Upstream::Udp);
        }
        if self.nodes.is_none() && self.instances > SEEDED_ABOVE {
            self.seeded = true;
        }
        if self.seeded && self.store != Store::Redis {
            said.push(format!(
                "a Redis is seeded with the records of all but {} instances before the relay starts",
                self.enabled_by_https()
            ));
            self.store = Store::Redis;
        }
        if let Some(grant) = self.refresh {
            let refreshes = self.instances / grant;
            if refreshes > MAX_REFRESHES {
                let longer = self.instances.div_ceil(MAX_REFRESHES);
                said.push(format!(
                    "the registrar grants {longer} s in place of {grant}: {} instances would refresh {refreshes} times in a second",
                    self.instances
                ));
                self.refresh = Some(longer);
            }
            let needed = self.instances / self.refresh.unwrap_or(grant) * 2;
            if needed > self.pace() {
                said.push(format!(
                    "the relay is asked for {needed} registrations/s in place of {}: refreshes need half of them, and with fewer no new \
                     account would get a turn",
                    self.pace()
                ));
                self.pace = Some(needed);
            }
        }
        let most = (self.instances / CALL_INTERVAL.as_secs() as u32).max(1);
        if self.rate > most {
            said.push(format!(
                "the rate is lowered from {} to {most} calls/s: {} instances, each called at most every {} s",
                self.rate,
                self.instances,
                CALL_INTERVAL.as_secs()
            ));
            self.rate = most;
        }
        if self.attach > self.instances {
            said.push(format!("only {} devices attach: there are no more instances", self.instances));
            self.attach = self.instances;
        }
        said
    }

    /// Instances that are enabled through HTTPS; the others are seeded.
    pub fn enabled_by_https(&self) -> u32 {
        if self.seeded { ENABLED_BESIDE.min(self.instances / 10) } else { self.instances }
    }

    /// The first account that is seeded.
    pub fn first_seeded(&self) -> u32 {
        self.enabled_by_https()
    }

    /// Instances that are seeded.
    pub fn seeded_count(&self) -> u32 {
        self.instances - self.enabled_by_https()
    }

    /// Registrations in a second that the relay is asked for.
    pub fn pace(&self) -> u32 {
        self.pace.unwrap_or(if self.seeded { PACE.1 } else { PACE.0 })
    }

    /// The calls while a full store is taken over.
    pub fn restart_calls(&self) -> u32 {
        if self.seeded { (self.rate * (self.seeded_count() / self.pace() + 1)).min(self.seeded_count()) } else { 0 }
    }

    /// How long it may take until all that was seeded is registered.
    pub fn restart_within(&self) -> Duration {
        let seconds = 2 * self.seeded_count() / self.pace() + self.seeded_count() / SURE_RECORDS;
        Duration::from_secs((PHASE + seconds).into())
    }

    /// How long the enablings through HTTPS may take.
    pub fn enabled_within(&self) -> Duration {
        Duration::from_secs((PHASE + self.enabled_by_https() / SURE_ENABLINGS).into())
    }

    /// When the run has ended, whatever happens.
    pub fn bound(&self) -> Duration {
        let seeding = PHASE + self.seeded_count() / SURE_RECORDS;
        let refreshing = self.refresh.map_or(0, |grant| 2 * (grant + self.refresh_window()) + PHASE);
        let attaching = if self.attach > 0 { PHASE + self.attach / SURE_ATTACHMENTS + self.seconds + PHASE } else { 0 };
        let moving = if self.nodes.is_some() { 4 * PHASE + 2 * self.seconds } else { 0 };
        let phases = seeding + refreshing + PHASE + self.seconds + attaching + moving;
        self.enabled_within() + self.restart_within() + Duration::from_secs(phases.into())
    }

    /// Seconds of each refresh window.
    pub fn refresh_window(&self) -> u32 {
        self.refresh_seconds.unwrap_or(self.seconds)
    }

    /// The calls of one calling phase.
    pub fn calls(&self) -> u32 {
        self.rate * self.seconds
    }

    /// The rate of calls to attached devices, which are fewer.
    pub fn attached_rate(&self) -> u32 {
        self.rate.min(self.attach / CALL_INTERVAL.as_secs() as u32).max(1)
    }

    /// File descriptors that one process of the run needs at most, roughly.
    pub fn descriptors(&self) -> u64 {
        // Every answered call holds a connection for its length and some more.
        let calling = if self.answer { u64::from(self.rate) * CALL_INTERVAL.as_secs() } else { 0 };
        u64::from(self.attach) + u64::from(self.concurrency) + calling + 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_instances_lower_the_rate_and_it_is_said() {
        let mut plan = Plan::parse_from(["load", "--instances", "100", "--attach", "300"]);
        let said = plan.settle();
        assert_eq!((plan.rate, plan.attach), (50, 100));
        assert_eq!(said.len(), 2);
        assert!(plan.settle().is_empty());
    }

    #[test]
    fn more_than_can_be_enabled_is_seeded_and_a_pace_that_refreshes_would_use_up_is_raised() {
        let asked = "load --instances 100000 --rate 500 --seconds 10 --refresh 60 --attach 2000";
        let mut plan = Plan::parse_from(asked.split(' '));
        let said = plan.settle();
        assert!(plan.seeded && plan.store == Store::Redis && said.len() == 1, "{said:?}");
        assert_eq!((plan.enabled_by_https(), plan.seeded_count(), plan.pace()), (1_000, 99_000, 5_000));
        assert!(plan.bound() < Duration::from_secs(1_200), "{:?}", plan.bound());
        let mut plan = Plan::parse_from("load --instances 20000 --refresh 10".split(' '));
        assert_eq!((plan.settle().len(), plan.pace(), plan.seeded), (1, 4_000, false));
        let mut plan = Plan::parse_from("load --instances 1000000 --refresh 60".split(' '));
        plan.settle();
        assert_eq!((plan.refresh, plan.pace()), (Some(200), 10_000));
        let mut plan = Plan::parse_from("load --refresh 10 --seconds 5 --refresh-seconds 1000".split(' '));
        plan.settle();
        assert_eq!(plan.refresh_window(), 1_000);
        assert!(plan.bound() > Duration::from_secs(2_000), "{:?}", plan.bound());
    }

    #[test]
    fn what_exceeds_a_maximum_is_refused() {
        for wrong in [
            ["--instances", "1000001"],
            ["--rate", "0"],
            ["--seconds", "601"],
            ["--refresh", "1"],
            ["--refresh-seconds", "5"],
        ] {
            assert!(Plan::try_parse_from(["load", wrong[0], wrong[1]]).is_err(), "{wrong:?}");
        }
    }
}
