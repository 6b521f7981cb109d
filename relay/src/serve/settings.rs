//! The settings of each part of a relay, as the configuration gives them.
//!
//! Invariant: nothing here asks the network; only files are read.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use sip::endpoint::{Settings, UpstreamPolicy};
use sip::id::ShardTag;
use zeroize::Zeroizing;

use super::StartError;
use super::listeners::Listeners;
use super::push_services::{self, has_none, services};
use crate::acme;
use crate::api;
use crate::audit::{self, Audit, AuditError};
use crate::clock::DAY_S;
use crate::config::{self, Config, HostPort, Tls};
use crate::net::address_policy::Reach;
use crate::net::dns::resolve::{ResolveError, Resolver};
use crate::net::tls::{ServerTls, TlsError};
use crate::push::webpush;
use crate::regular_file;
use crate::vault::{self, Keyring, StoreError, StoreTls, Vault};

/// The vault in the store that is named; it is not asked anything yet.
pub(super) fn open_vault(store: &config::Store, keyring: Keyring, node: &str) -> Result<Vault, StoreError> {
    let read = |path: &Path, failed| regular_file::read(path).map_err(|_| StoreError::Tls(failed));
    let ca = store.ca_file.as_deref().map(|path| read(path, "the file of store.ca_file cannot be read"));
    let client = store.client.as_ref().map(|(certificate, key)| {
        let certificate = read(certificate, "the file of store.client_certificate cannot be read")?;
        Ok((certificate, Zeroizing::new(key.expose().as_bytes().to_vec())))
    });
    let tls = StoreTls { ca: ca.transpose()?, client: client.transpose()? };
    let settings = vault::Settings { tls, require_ephemeral: store.require_ephemeral, ..vault::Settings::default() };
    Vault::open_with(store.url.expose(), keyring, node, settings)
}

/// The audit trail, where the operator wants one.
pub(super) fn audit(config: &Config, node: &str) -> Result<Audit, AuditError> {
    let Some(config::Audit { directory, keep }) = &config.audit else { return Ok(Audit::default()) };
    let keep_days = u16::try_from(keep.as_secs() / DAY_S).unwrap_or(u16::MAX);
    Audit::open(audit::Settings { directory: directory.clone(), keep_days, node: node.into() })
}

/// DNS of a relay.
pub(super) struct Resolvers {
    pub of_sip_servers: Resolver,
    /// Where the names of push services are asked of other name servers.
    push_services: Option<Resolver>,
}

impl Resolvers {
    pub fn of(config: &Config) -> Result<Self, ResolveError> {
        let of_sip_servers = resolver(config)?;
        let is_shared = config.upstream.name_servers.is_empty() || config.apps.iter().all(has_none);
        let push_services = if is_shared { None } else { Some(push_services::names(config)?) };
        Ok(Self { of_sip_servers, push_services })
    }

    pub fn of_push_services(&self) -> &Resolver {
        self.push_services.as_ref().unwrap_or(&self.of_sip_servers)
    }

    pub fn all(&self) -> impl Iterator<Item = &Resolver> {
        [&self.of_sip_servers].into_iter().chain(&self.push_services)
    }
}

/// Asks the name servers that the operator named, else the system's.
pub(super) fn resolver(config: &Config) -> Result<Resolver, ResolveError> {
    let upstream = &config.upstream;
    let reach = Reach::new(&upstream.allow_addresses);
    let resolver = if upstream.name_servers.is_empty() {
        Resolver::new(reach, upstream.transports)?
    } else {
        Resolver::with_nameservers(&upstream.name_servers, reach, upstream.transports)?
    };
    Ok(resolver.sending_from(upstream.udp_listen.ip()))
}

/// Makes the folder of ACME, and what a certificate is until the CA has given one.
pub(super) fn prepare_acme(config: &Config) -> Result<(), StartError> {
    let Some(acme) = &config.acme else { return Ok(()) };
    let prepared = acme::Files::new(&acme.state).prepare(&acme.names);
    prepared.map_err(|why| StartError::Acme { folder: acme.state.clone(), why })
}

/// The names by which the relay is connected to.
pub(super) fn hosts(config: &Config) -> Vec<&str> {
    let mut hosts = vec![&*config.edge.public.host];
    if config.upstream.transports.tls && config.upstream.public_host != config.edge.public.host {
        hosts.push(&config.upstream.public_host);
    }
    hosts
}

/// The certificate of the listeners; for development also its CA, in PEM.
pub(super) fn server_tls(config: &Config) -> Result<(Arc<ServerTls>, Option<String>), TlsError> {
    match &config.tls {
        Tls::Files { certificate, key } => {
            let hosts = hosts(config).into_iter().map(str::to_owned).collect();
            Ok((ServerTls::load_for(certificate, key, hosts)?, None))
        }
        Tls::Development { ca_key } => {
            let listeners = [config.edge.listen, config.api.listen, config.operator.listen];
            let addresses: Vec<IpAddr> = listeners.iter().chain(&config.edge.websocket).map(SocketAddr::ip).collect();
            let made = ServerTls::development(ca_key.as_ref(), &addresses, &config.upstream.public_host);
            made.map(|(tls, ca)| (tls, Some(ca)))
        }
    }
}

/// `host:port` of the edge, as devices, pushes and Record-Routes name it.
pub(super) struct PublicNames {
    pub edge: Box<str>,
    /// Of the WebSocket listener, where there is one.
    pub websocket: Option<Box<str>>,
}

impl PublicNames {
    /// With the ports that the listeners got where none was named.
    pub fn of(edge: &HostPort, listeners: &Listeners) -> Self {
        let bound = listeners.addresses();
        let named = |port| HostPort { host: edge.host.clone(), port }.to_string().into();
        Self {
            edge: named(if edge.port == 0 { bound.edge.port() } else { edge.port }),
            websocket: bound.websocket.map(|address| named(address.port())),
        }
    }
}

/// The settings of each endpoint.
pub(super) fn endpoint(config: &Config, listeners: &Listeners, public: &PublicNames, vault: &Vault) -> Settings {
    let (upstream, bound) = (&config.upstream, listeners.addresses());
    let at = |bound: Option<SocketAddr>, configured: SocketAddr| -> Box<str> {
        format!("{}:{}", upstream.public_host, bound.unwrap_or(configured).port()).into()
    };
    Settings {
        tag: ShardTag(0),
        edge: public.edge.clone(),
        edge_websocket: public.websocket.as_ref().unwrap_or(&public.edge).clone(),
        upstream_udp: at(bound.upstream_udp, upstream.udp_listen),
        upstream_tcp: at(bound.upstream_tcp, upstream.tcp_listen),
        upstream_tls: at(bound.upstream_tls, upstream.tls_listen),
        register_expires: upstream.register_expires,
        ring_timeout: config.call.ring_timeout,
        answer_timeout: config.call.answer_timeout,
        limits: sip::message::Limits::default(),
        token_key: *vault.flow_token_key().expose(),
        timing: config.timing.sip,
        message_bytes: config.messages.max_body,
        upstream: UpstreamPolicy {
            allow_md5: upstream.allow_md5,
            allow_tcp: upstream.transports.tcp,
            registrations_per_second: upstream.registrations_per_second,
        },
    }
}

/// The settings of the API for apps and SIP servers.
pub(super) fn api(config: &Config, vault: &Vault) -> api::Settings {
    let services = services(&config.apps, config.apps.iter().all(has_none));
    let app = |app: &config::App| api::access::App {
        id: app.id.clone(),
        key: app.api_key.clone(),
        apns: services.get(&app.id).is_some_and(|services| services.apns),
        fcm: services.get(&app.id).is_some_and(|services| services.fcm),
        webpush: services.get(&app.id).is_some_and(|services| services.webpush),
        // A key that cannot be read was told when the push services were made.
        webpush_key: app.webpush.as_ref().and_then(|webpush| webpush::public_key(&webpush.key_file).ok()),
    };
    let sip_server = |server: &config::SipServer| api::access::SipServer {
        id: server.id.clone(),
        key: server.key.clone(),
        domains: server.domains.clone(),
        registrars: server.registrars.clone().into(),
    };
    let (lifetime, vault) = (config.lifetime, vault.clone());
    api::Settings {
        apps: config.apps.iter().map(app).collect(),
        sip_servers: config.sip_servers.iter().map(sip_server).collect(),
        lifetime: api::device_body::LifetimeRange {
            min_s: lifetime.min.as_secs(),
            default_s: lifetime.default.as_secs(),
            max_s: lifetime.max.as_secs(),
        },
        limits: api::limits::Limits::default(),
        receipt_key: Box::new(move || vault.receipt_public_key()),
        origins: config.api.origins.clone().into(),
    }
}
