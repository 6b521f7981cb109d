//! The push services that an App's devices have chosen: one connection for each origin, made when it is needed.
//!
//! Whoever subscribes names the service, and may name anything: so each address is judged by `upstream.allow_addresses` when
//! it is dialled, and an origin costs its own connection alone.
//!
//! Invariant: at most [`ORIGINS_MAX`] origins are known; one that nobody has needed for [`IDLE`] is forgotten, and the one used longest ago gives way to a new one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::Uri;
use hyper::header::HeaderValue;
use rustls::ClientConfig;
use tokio::time::Instant;

use super::vapid::{RENEW_AFTER, Vapid};
use crate::net::reach::Reach;
use crate::push::connection::Channel;
use crate::push::endpoint::Endpoint;
use crate::push::health::{Record, Troubled};
use crate::push::network::{Guarded, Network};

/// Origins that are known for one App; with a further one that which was used longest ago, and is not at this moment, is forgotten.
/// A push to a further one while all are in use is refused.
const ORIGINS_MAX: usize = 1_024;
/// How long an origin is kept that nobody needs.
const IDLE: Duration = Duration::from_secs(600);

/// The origins of one App.
pub(super) struct Origins {
    label: Box<str>,
    tls: Arc<ClientConfig>,
    network: Arc<dyn Network>,
    record: Arc<Record>,
    troubled: Arc<Troubled>,
    known: Arc<AtomicUsize>,
    table: Mutex<HashMap<Box<str>, Arc<Origin>>>,
}

/// One push service.
pub(super) struct Origin {
    pub(super) channel: Channel,
    /// As VAPID names it: without the usual port.
    audience: Box<str>,
    /// It speaks HTTP/1.1 alone.
    speaks_http1: AtomicBool,
    token: Mutex<Option<(HeaderValue, SystemTime)>>,
    used_at: Mutex<Instant>,
}

impl Origins {
    pub(super) fn new(
        app: &str,
        tls: Arc<ClientConfig>,
        network: Arc<dyn Network>,
        reach: Reach,
        record: Arc<Record>,
    ) -> Self {
        let known = Arc::new(AtomicUsize::new(0));
        Self {
            label: format!("{app}/webpush").into(),
            tls,
            network: Arc::new(Guarded::new(network, reach)),
            troubled: Arc::new(Troubled::new(Arc::clone(&known))),
            known,
            record,
            table: Mutex::default(),
        }
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// That of this URL; `None` when it is no `https` URL, or so many are in use.
    pub(super) fn of(&self, url: &Uri) -> Option<Arc<Origin>> {
        let authority = url.authority()?;
        let origin = format!("https://{authority}");
        let mut table = self.lock();
        let now = Instant::now();
        if let Some(known) = table.get(&*origin) {
            *known.used_at.lock().unwrap_or_else(PoisonError::into_inner) = now;
            return Some(Arc::clone(known));
        }
        table.retain(|_, origin| Arc::strong_count(origin) > 1 || origin.idle_since() + IDLE > now);
        if table.len() >= ORIGINS_MAX {
            // Whoever subscribes may name any service: many that are seldom used must not keep a call from another one.
            let unused = table.iter().filter(|(_, origin)| Arc::strong_count(origin) == 1);
            let oldest = unused.min_by_key(|(_, origin)| origin.idle_since()).map(|(name, _)| name.clone());
            table.remove(&oldest?);
        }
        let endpoint = Endpoint::new(&origin, "endpoint", Arc::clone(&self.tls), Arc::clone(&self.network)).ok()?;
        let audience = endpoint.origin().strip_suffix(":443").unwrap_or(endpoint.origin()).into();
        let record = Record::part_of(&self.record, &self.troubled, &origin);
        let channel = Channel::new(self.label.to_string(), endpoint, false, record).of_any_service();
        let made = Arc::new(Origin {
            channel,
            audience,
            speaks_http1: AtomicBool::new(false),
            token: Mutex::default(),
            used_at: Mutex::new(now),
        });
        table.insert(origin.into(), Arc::clone(&made));
        self.known.store(table.len(), Ordering::Relaxed);
        Some(made)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Origin>>> {
        // Whole origins go in and out.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Origin {
    /// What shows whose push it is. `None` when the system cannot sign.
    pub(super) fn authorization(&self, vapid: &Vapid) -> Option<HeaderValue> {
        let now = SystemTime::now();
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back makes the age an error: sign anew then, too.
        if let Some((header, at)) = &*token
            && now.duration_since(*at).is_ok_and(|age| age < RENEW_AFTER)
        {
            return Some(header.clone());
        }
        let header = vapid.token(&self.audience, now)?;
        *token = Some((header.clone(), now));
        Some(header)
    }

    pub(super) fn speaks_http1(&self) -> bool {
        self.speaks_http1.load(Ordering::Relaxed)
    }

    /// It offers no HTTP/2.
    pub(super) fn note_http1(&self) {
        self.speaks_http1.store(true, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Instant {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::push::endpoint::trust;
    use crate::push::network::System;

    fn url(number: usize) -> Uri {
        format!("https://push{number}.example.net/a").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_service_is_reached_however_many_were_named_unless_all_are_in_use() {
        let series = Metrics::new().push_service("com.example.phone", "webpush");
        let record = Record::new("com.example.phone", "webpush", series);
        let tls = trust(None, None).ok().unwrap();
        let origins = Origins::new("com.example.phone", tls, Arc::new(System), Reach::new(&[]), record);
        let mut in_use = vec![origins.of(&url(0)).unwrap()];
        for number in 1..ORIGINS_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(origins.of(&url(number)).is_some());
        }
        assert!(origins.of(&url(ORIGINS_MAX)).is_some(), "the one used longest ago gives way");
        let known = |number| origins.lock().contains_key(&*format!("https://push{number}.example.net"));
        assert!(known(0) && !known(1) && known(2) && known(ORIGINS_MAX), "and none that is in use");
        in_use.extend((2..=ORIGINS_MAX).map(|number| origins.of(&url(number)).unwrap()));
        assert!(origins.of(&url(ORIGINS_MAX + 1)).is_none());
        assert_eq!(origins.lock().len(), in_use.len());
    }
}
