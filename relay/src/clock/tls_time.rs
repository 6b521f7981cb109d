//! The time by which the certificates of push services, SIP servers, the CA and collectors are judged. Redis's is judged by the system's clock: before it
//! has answered, it tells no time.
//!
//! Invariant: it is the time that phones are told, so that a system's clock that is known to be wrong keeps no push from leaving. A store's clock alone
//! outvotes no system's.

use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

use super::watch::certificates_now;

/// That time, as rustls asks for it.
#[derive(Debug)]
pub struct TlsTime;

impl TimeProvider for TlsTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(certificates_now())))
    }
}
