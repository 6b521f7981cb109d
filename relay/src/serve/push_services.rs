//! The push services of each App, as the configuration names them.
//!
//! Invariant: pushes are printed only where no App has a push service.

use std::collections::HashMap;
use std::sync::Arc;

use super::StartError;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::metrics::labels::Warning;
use crate::net::address_policy::Reach;
use crate::net::dns::resolve::{ResolveError, Resolver};
use crate::operator::readiness::Readiness;
use crate::push::{AppPush, Network, PushService, apns, fcm, webpush};
use crate::service::Services;

pub(super) fn has_none(app: &config::App) -> bool {
    app.apns.is_none() && app.fcm.is_none() && app.webpush.is_none()
}

/// The push services, and whether pushes are only printed: when no App has any. Unchanged ones are taken over from those that run, and all of the Apps that are
/// named beside them, unread.
pub(super) fn push_service(
    config: &Config,
    network: &Arc<dyn Network>,
    metrics: &Metrics,
    running: Option<(&PushService, &[Box<str>])>,
) -> Result<(PushService, bool), StartError> {
    let apps = &config.apps;
    if apps.iter().all(has_none) {
        return Ok((PushService::printed(), true));
    }
    let apps = apps.iter().map(|app| (app.id.clone(), push_settings(app, &config.upstream))).collect();
    let made = match running {
        Some((running, kept)) => running.renewed(kept, network.clone(), apps, metrics),
        None => PushService::new(network.clone(), apps, metrics),
    };
    Ok((made.map_err(StartError::Push)?, false))
}

/// Asks for the names of push services: always the system's name servers, for `upstream.name_servers` are those of SIP servers.
pub(super) fn names(config: &Config) -> Result<Resolver, ResolveError> {
    Resolver::new(Reach::new(&config.upstream.allow_addresses), config.upstream.transports)
}

pub(super) fn push_settings(app: &config::App, upstream: &config::Upstream) -> AppPush {
    AppPush {
        apns: app.apns.as_ref().map(|apns| apns::Settings {
            credentials: apns.credentials.clone(),
            endpoint: apns.endpoint.clone(),
            ca_file: apns.ca_file.clone(),
        }),
        fcm: app.fcm.as_ref().map(|fcm| fcm::Settings {
            service_account_file: fcm.service_account_file.clone(),
            endpoint: fcm.endpoint.clone(),
            ca_file: fcm.ca_file.clone(),
        }),
        webpush: app.webpush.as_ref().map(|webpush| webpush::Settings {
            key_file: webpush.key_file.clone(),
            subject: webpush.subject.clone(),
            ca_file: webpush.ca_file.clone(),
            allow_addresses: upstream.allow_addresses.clone(),
        }),
    }
}

/// Warns of as many instances as are here of apps that are not in the configuration.
pub(super) fn warn_of_unserved(readiness: &Readiness) -> impl Fn(usize) + use<> {
    let readiness = readiness.clone();
    move |count| {
        let words = format!(
            "app: {count} accounts that this node took over are of an app, or of a push service of it, that is not in this configuration: their calls fail; give all nodes the same [[app]] sections"
        );
        readiness.warn_of(Warning::Apps, (count > 0).then(|| words.into()).into_iter().collect());
    }
}

pub(super) fn services(apps: &[config::App], printed: bool) -> HashMap<Box<str>, Services> {
    let of = |app: &config::App| Services {
        apns: printed || app.apns.is_some(),
        fcm: printed || app.fcm.is_some(),
        webpush: printed || app.webpush.is_some(),
    };
    apps.iter().map(|app| (app.id.clone(), of(app))).collect()
}
