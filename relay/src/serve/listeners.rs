//! The sockets of a relay: bound together, each with what it lets in and what ends it.
//!
//! Invariant: either all that the configuration names are bound, or none stays so.

use crate::agent;
use crate::config::{AcmeChallenge, Config};
use crate::metrics::Metrics;
use crate::metrics::labels::{self, HandshakeOutcome, Limit};
use crate::net::drain::Drain;
use crate::net::https;
use crate::net::listen::{Limits, Listener, ListenerEvent, Security};
use crate::net::tls::{ACME_PROTOCOL, ServerTls};
use crate::net::udp::Udp;

use super::StartError;
use std::net::SocketAddr;

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

impl Listeners {
    /// The edge and the upstream listeners stay open while a drain waits for calls: a phone that was woken must get in. So does the operators':
    /// they see that it drains.
    pub async fn open(
        config: &Config,
        tls: &ServerTls,
        metrics: &Metrics,
        stopping: &Drain,
        ending: &Drain,
    ) -> Result<Self, StartError> {
        let binder = Binder(metrics);
        let sip = || Security::Tls(tls.config(&[]));
        let https = || Security::Tls(tls.config(https::ALPN));
        let challenge = config.acme.as_ref().map(|acme| acme.challenge);
        let of_apps = match challenge {
            Some(AcmeChallenge::TlsAlpn01) => Security::Tls(tls.config(&[https::ALPN, &[ACME_PROTOCOL]].concat())),
            _ => https(),
        };
        let upstream = &config.upstream;
        let connections_per_peer = config.limits.connections_per_source as usize;
        let devices = Limits { connections_per_peer, ..Limits::DEVICES };
        let mut listeners = Self {
            edge: binder
                .bind(("edge.listen", labels::Listener::Edge), config.edge.listen, sip(), devices, ending)
                .await?,
            api: binder
                .bind(("api.listen", labels::Listener::Api), config.api.listen, of_apps, Limits::API, stopping)
                .await?,
            operator: binder
                .bind(
                    ("operator.listen", labels::Listener::Operator),
                    config.operator.listen,
                    https(),
                    Limits::OPERATOR,
                    ending,
                )
                .await?,
            websocket: None,
            acme: None,
            tls: None,
            tcp: None,
            udp: None,
        };
        if let Some(address) = config.edge.websocket {
            let security = Security::WebSocket(tls.config(&[]));
            listeners.websocket = Some(
                binder
                    .bind(("edge.websocket", labels::Listener::Websocket), address, security, devices, ending)
                    .await?,
            );
        }
        if let Some(address) = config.acme.as_ref().and_then(|acme| acme.listen) {
            let security = match challenge {
                Some(AcmeChallenge::Http01) => Security::Plain,
                _ => Security::Tls(tls.config(&[ACME_PROTOCOL])),
            };
            let bound =
                binder.bind(("acme.listen", labels::Listener::Acme), address, security, Limits::OPERATOR, ending);
            listeners.acme = Some(bound.await?);
        }
        if upstream.transports.tls {
            let listener = binder
                .bind(
                    ("upstream.tls_listen", labels::Listener::Upstream),
                    upstream.tls_listen,
                    sip(),
                    Limits::SIP_SERVERS,
                    ending,
                )
                .await?;
            listeners.tls = Some(listener);
        }
        if upstream.transports.tcp {
            let (address, limits) = (upstream.tcp_listen, Limits::SIP_SERVERS);
            listeners.tcp = Some(
                binder
                    .bind(("upstream.tcp_listen", labels::Listener::Upstream), address, Security::Plain, limits, ending)
                    .await?,
            );
        }
        if upstream.transports.udp {
            let address = upstream.udp_listen;
            let failed = |why| StartError::Listen { setting: "upstream.udp_listen", address, why };
            listeners.udp = Some(agent::bind_datagrams(crate::timing::shards(), address).map_err(failed)?);
        }
        Ok(listeners)
    }
}

/// Binds the listeners of one relay, which count what happens at them.
struct Binder<'a>(&'a Metrics);

impl Binder<'_> {
    async fn bind(
        &self,
        (setting, listener): (&'static str, labels::Listener),
        address: SocketAddr,
        security: Security,
        limits: Limits,
        drain: &Drain,
    ) -> Result<Listener, StartError> {
        let metrics = self.0.clone();
        let observe = move |event| match event {
            ListenerEvent::Opened => metrics.connections(listener, 1),
            ListenerEvent::Closed => metrics.connections(listener, -1),
            ListenerEvent::HandshakeCompleted => metrics.handshake(listener, HandshakeOutcome::Completed),
            ListenerEvent::HandshakeFailed => metrics.handshake(listener, HandshakeOutcome::Failed),
            ListenerEvent::HandshakeTimedOut => metrics.handshake(listener, HandshakeOutcome::TimedOut),
            ListenerEvent::Limited => {
                metrics.limit(Limit::Connections);
                metrics.handshake(listener, HandshakeOutcome::Limited);
            }
        };
        let bound = Listener::bind_observed(address, security, limits, drain.clone(), observe).await;
        bound.map_err(|why| StartError::Listen { setting, address, why })
    }
}
