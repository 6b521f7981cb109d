//! The waits that nobody configures, as values, so that tests can scale them; and the number of shards.
//!
//! Invariant: the defaults are what is always in force in a release build; only a debug build reads [`VARIABLE`] and
//! [`SHARDS_VARIABLE`].

use std::time::Duration;

/// The environment variable by which a test of a debug build shortens or lengthens every wait: a factor from 0.01 to 10. A second
/// one behind a space, from 0.0001 to 10, is for the waits of minutes: those after refusals, until a user is told, and until
/// another node is asked to take accounts.
pub const VARIABLE: &str = "SIPWAKE_TIMING";

/// The environment variable by which a test of a debug build has this many shards, whatever the machine has.
pub const SHARDS_VARIABLE: &str = "SIPWAKE_SHARDS";

/// How many shards this process has: one for each core; in a debug build, what [`SHARDS_VARIABLE`] says.
pub fn shards() -> usize {
    let told = || std::env::var(SHARDS_VARIABLE).ok()?.parse().ok();
    let told = if cfg!(debug_assertions) { told() } else { None };
    told.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into))
}

/// The waits of one relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// The waits of the protocol.
    pub sip: sip::endpoint::Timing,
    /// The waits of its connections.
    pub connection: ConnectionTiming,
    /// How long a registration is lost before its user is told of it; 10 min.
    pub lost_notice: LostNotice,
    /// The silence of a SIP server after which another node is asked whether it reaches the server; 1 min.
    pub unreachable_after: UnreachableAfter,
    /// How long after a failure a certificate is ordered again for the first time; 1 min.
    pub acme_retry: AcmeRetry,
}

/// How long after a failure a certificate is ordered again for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcmeRetry(pub Duration);

impl Default for AcmeRetry {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

/// How long a registration is lost before its user is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostNotice(pub Duration);

impl Default for LostNotice {
    fn default() -> Self {
        Self(Duration::from_secs(600))
    }
}

/// The silence of a SIP server after which another node is asked whether it reaches the server: longer than a SIP server takes to restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreachableAfter(pub Duration);

impl Default for UnreachableAfter {
    fn default() -> Self {
        Self(Duration::from_secs(60))
    }
}

/// The waits of a connection for SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTiming {
    /// How long one write may take; then the connection ends; 10 s.
    pub write: Duration,
    /// How long a connection may stay without a single valid message after it was accepted; 30 s.
    pub silence: Duration,
    /// How long a connection that was accepted may stay without its peer having proven who it is; 90 s, longer than a SIP server takes to answer
    /// a registration that passes through.
    pub stranger: Duration,
    /// How long a message may take from its first byte to its last; 30 s, or what `limits.message_timeout` says.
    pub message: Duration,
    /// How long a WebSocket by which alone a device is reached may stay without a byte from it before it is asked whether it is there: less
    /// than proxies in between keep what is idle, 60 s in nginx and in many load balancers; 50 s.
    pub websocket_idle: Duration,
    /// How long its answer may take; then the connection ends; 10 s.
    pub pong: Duration,
    /// How long TCP may take to open, and its peer to acknowledge what was written, for what is too large for a datagram; then that goes
    /// by UDP; 2 s.
    pub large: Duration,
}

impl Default for ConnectionTiming {
    fn default() -> Self {
        Self {
            write: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            stranger: Duration::from_secs(90),
            message: Duration::from_secs(30),
            websocket_idle: Duration::from_secs(50),
            pong: Duration::from_secs(10),
            large: Duration::from_secs(2),
        }
    }
}

impl Timing {
    /// Every default times `factor`, above 0.
    pub fn scaled(factor: f64) -> Self {
        let default = ConnectionTiming::default();
        let scaled = |wait: Duration| wait.mul_f64(factor);
        let connection = ConnectionTiming {
            write: scaled(default.write),
            silence: scaled(default.silence),
            stranger: scaled(default.stranger),
            message: scaled(default.message),
            websocket_idle: scaled(default.websocket_idle),
            pong: scaled(default.pong),
            large: scaled(default.large),
        };
        let lost_notice = LostNotice(scaled(LostNotice::default().0));
        let unreachable_after = UnreachableAfter(scaled(UnreachableAfter::default().0));
        let acme_retry = AcmeRetry(scaled(AcmeRetry::default().0));
        Self { sip: sip::endpoint::Timing::scaled(factor), connection, lost_notice, unreachable_after, acme_retry }
    }

    /// With the waits of minutes at their default times `factor`, above 0.
    #[must_use]
    pub fn with_minutes_scaled(mut self, factor: f64) -> Self {
        let default = sip::endpoint::Timing::default().upstream.back_off;
        let waits = &mut self.sip.upstream.back_off;
        waits.unknown_once = default.unknown_once.mul_f64(factor);
        waits.refused_once = default.refused_once.mul_f64(factor);
        waits.refused_twice = default.refused_twice.mul_f64(factor);
        self.lost_notice = LostNotice(LostNotice::default().0.mul_f64(factor));
        self.unreachable_after = UnreachableAfter(UnreachableAfter::default().0.mul_f64(factor));
        self
    }

    /// The defaults; in a debug build, what [`VARIABLE`] makes of them.
    pub fn of_this_process() -> Self {
        if !cfg!(debug_assertions) {
            return Self::default();
        }
        let text = std::env::var(VARIABLE).unwrap_or_default();
        let mut factors = text.split(' ').map(|factor| factor.parse::<f64>().ok());
        let all = factors.next().flatten().filter(|factor| (0.01..=10.0).contains(factor));
        let minutes = factors.next().flatten().filter(|factor| (0.0001..=10.0).contains(factor));
        let timing = all.map_or_else(Self::default, Self::scaled);
        minutes.map_or(timing, |factor| timing.with_minutes_scaled(factor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_by_one_is_the_default() {
        assert_eq!(Timing::scaled(1.0), Timing::default());
        assert_eq!(Timing::scaled(0.1).connection.silence, Duration::from_secs(3));
    }
}
