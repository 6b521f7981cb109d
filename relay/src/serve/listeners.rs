//! The sockets of a relay: bound together, each with what it lets in and what ends it.
//!
//! Invariant: either all that the configuration names are bound, or none stays so.

use std::net::SocketAddr;

use super::{Ends, StartError};
use crate::agent;
use crate::config::{self, AcmeChallenge, Config};
use crate::metrics::Metrics;
use crate::metrics::labels::{self, HandshakeOutcome, Limit};
use crate::net::drain::Drain;
use crate::net::https;
use crate::net::listen::{Limits, Listener, ListenerEvent, Security};
use crate::net::tls::{ACME_PROTOCOL, ServerTls};
use crate::net::udp::Udp;

/// Every socket, bound.
pub(super) struct Listeners {
    pub edge: Listener,
    pub websocket: Option<Listener>,
    pub api: Listener,
    pub operator: Listener,
    pub acme: Option<Listener>,
    pub tls: Option<Listener>,
    pub tcp: Option<Listener>,
    pub udp: Option<Udp>,
}

/// The addresses that they have got.
pub(super) struct Addresses {
    pub edge: SocketAddr,
    pub websocket: Option<SocketAddr>,
    pub api: SocketAddr,
    pub operator: SocketAddr,
    pub upstream_udp: Option<SocketAddr>,
    pub upstream_tcp: Option<SocketAddr>,
    pub upstream_tls: Option<SocketAddr>,
}

impl Listeners {
    /// The edge and the upstream listeners stay open while a drain waits for calls: a phone that was woken must get in. So does the apps', until the calls
    /// are over: it asks what became of its call, rings and declines. So does the operators': they see that it drains.
    pub async fn open(config: &Config, tls: &ServerTls, metrics: &Metrics, ends: &Ends) -> Result<Self, StartError> {
        let Ends { closing, ending, .. } = ends;
        let binder = Binder(metrics);
        let upstream = &config.upstream;
        let connections_per_peer = config.limits.connections_per_source as usize;
        let devices = Limits { connections_per_peer, ..Limits::DEVICES };
        let sip = || Security::Tls(tls.config(&[]));
        let edge = ListenerSettings {
            setting: "edge.listen",
            label: labels::Listener::Edge,
            address: config.edge.listen,
            security: sip(),
            limits: devices,
        };
        let api = ListenerSettings {
            setting: "api.listen",
            label: labels::Listener::Api,
            address: config.api.listen,
            security: api_security(config, tls),
            limits: Limits::API,
        };
        let operator = ListenerSettings {
            setting: "operator.listen",
            label: labels::Listener::Operator,
            address: config.operator.listen,
            security: Security::Tls(tls.config(https::ALPN)),
            limits: Limits::OPERATOR,
        };
        let websocket = config.edge.websocket.map(|address| ListenerSettings {
            setting: "edge.websocket",
            label: labels::Listener::Websocket,
            address,
            security: Security::WebSocket(tls.config(&[])),
            limits: devices,
        });
        let acme = config.acme.as_ref().and_then(|acme| acme_listener(acme, tls));
        let of_sip_servers = |setting, address, security| ListenerSettings {
            setting,
            label: labels::Listener::Upstream,
            address,
            security,
            limits: Limits::SIP_SERVERS,
        };
        let transports = upstream.transports;
        let over_tls = transports.tls.then(|| of_sip_servers("upstream.tls_listen", upstream.tls_listen, sip()));
        let over_tcp =
            transports.tcp.then(|| of_sip_servers("upstream.tcp_listen", upstream.tcp_listen, Security::Plain));
        Ok(Self {
            edge: binder.bind(edge, ending).await?,
            api: binder.bind(api, closing).await?,
            operator: binder.bind(operator, ending).await?,
            websocket: binder.bind_if_any(websocket, ending).await?,
            acme: binder.bind_if_any(acme, ending).await?,
            tls: binder.bind_if_any(over_tls, ending).await?,
            tcp: binder.bind_if_any(over_tcp, ending).await?,
            udp: if transports.udp { Some(bind_udp(upstream.udp_listen)?) } else { None },
        })
    }

    pub fn addresses(&self) -> Addresses {
        let local = |listener: &Option<Listener>| listener.as_ref().map(Listener::local_address);
        Addresses {
            edge: self.edge.local_address(),
            websocket: local(&self.websocket),
            api: self.api.local_address(),
            operator: self.operator.local_address(),
            upstream_udp: self.udp.as_ref().map(Udp::local_address),
            upstream_tcp: local(&self.tcp),
            upstream_tls: local(&self.tls),
        }
    }
}

/// A CA that validates by `tls-alpn-01` may come by the door of the apps (RFC 8737).
fn api_security(config: &Config, tls: &ServerTls) -> Security {
    let protocols = match config.acme.as_ref().map(|acme| acme.challenge) {
        Some(AcmeChallenge::TlsAlpn01) => &[https::ALPN, &[ACME_PROTOCOL]].concat(),
        _ => https::ALPN,
    };
    Security::Tls(tls.config(protocols))
}

/// The listener for the CA alone, where there is one.
fn acme_listener(acme: &config::Acme, tls: &ServerTls) -> Option<ListenerSettings> {
    Some(ListenerSettings {
        setting: "acme.listen",
        label: labels::Listener::Acme,
        address: acme.listen?,
        security: match acme.challenge {
            AcmeChallenge::Http01 => Security::Plain,
            AcmeChallenge::TlsAlpn01 => Security::Tls(tls.config(&[ACME_PROTOCOL])),
        },
        limits: Limits::OPERATOR,
    })
}

fn bind_udp(address: SocketAddr) -> Result<Udp, StartError> {
    let failed = |why| StartError::Listen { setting: "upstream.udp_listen", address, why };
    agent::bind_datagrams(crate::timing::shards(), address).map_err(failed)
}

/// One listener before it is bound.
struct ListenerSettings {
    /// The setting that names its address.
    setting: &'static str,
    label: labels::Listener,
    address: SocketAddr,
    security: Security,
    limits: Limits,
}

/// Binds the listeners of one relay, which count what happens at them.
struct Binder<'a>(&'a Metrics);

impl Binder<'_> {
    async fn bind_if_any(
        &self,
        settings: Option<ListenerSettings>,
        drain: &Drain,
    ) -> Result<Option<Listener>, StartError> {
        match settings {
            Some(settings) => self.bind(settings, drain).await.map(Some),
            None => Ok(None),
        }
    }

    async fn bind(&self, settings: ListenerSettings, drain: &Drain) -> Result<Listener, StartError> {
        let ListenerSettings { setting, label, address, security, limits } = settings;
        let metrics = self.0.clone();
        let observe = move |event| match event {
            ListenerEvent::Opened => metrics.connections(label, 1),
            ListenerEvent::Closed => metrics.connections(label, -1),
            ListenerEvent::HandshakeCompleted => metrics.handshake(label, HandshakeOutcome::Completed),
            ListenerEvent::HandshakeFailed => metrics.handshake(label, HandshakeOutcome::Failed),
            ListenerEvent::HandshakeTimedOut => metrics.handshake(label, HandshakeOutcome::TimedOut),
            ListenerEvent::Limited => {
                metrics.limit(Limit::Connections);
                metrics.handshake(label, HandshakeOutcome::Limited);
            }
        };
        let bound = Listener::bind_observed(address, security, limits, drain.clone(), observe).await;
        bound.map_err(|why| StartError::Listen { setting, address, why })
    }
}
