//! The waits that nobody configures, as values, so that tests can scale them.
//!
//! Invariant: the defaults are what is always in force in a release build; only a debug build reads [`VARIABLE`].

use std::time::Duration;

/// The environment variable by which a test of a debug build shortens or lengthens every wait: a factor from 0.01 to 10.
pub const VARIABLE: &str = "SIPWAKE_TIMING";

/// The waits of one relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Those of the protocol.
    pub sip: sip::endpoint::Timing,
    /// Those of its connections.
    pub connection: ConnectionTiming,
}

/// The waits of a connection for SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTiming {
    /// How long one write may take; then the connection ends; 10 s.
    pub write: Duration,
    /// How long a connection may stay without a single valid message after it was accepted; 30 s.
    pub silence: Duration,
    /// How long a message may take from its first byte to its last; 30 s, or what `limits.message_timeout` says.
    pub message: Duration,
}

impl Default for ConnectionTiming {
    fn default() -> Self {
        Self { write: Duration::from_secs(10), silence: Duration::from_secs(30), message: Duration::from_secs(30) }
    }
}

impl Timing {
    /// Every default times `factor`, above 0.
    pub fn scaled(factor: f64) -> Self {
        let ConnectionTiming { write, silence, message } = ConnectionTiming::default();
        let scaled = |wait: Duration| wait.mul_f64(factor);
        let connection = ConnectionTiming { write: scaled(write), silence: scaled(silence), message: scaled(message) };
        Self { sip: sip::endpoint::Timing::scaled(factor), connection }
    }

    /// The defaults; in a debug build, what [`VARIABLE`] makes of them.
    pub fn of_this_process() -> Self {
        if cfg!(debug_assertions)
            && let Some(factor) = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok())
            && (0.01..=10.0).contains(&factor)
        {
            return Self::scaled(factor);
        }
        Self::default()
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
