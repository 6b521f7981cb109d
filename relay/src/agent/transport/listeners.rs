//! The listeners for SIP: each connection whose handshake is complete gets its task.
//!
//! Invariant: nothing here reads a byte; the listener enforces limits and handshakes.

use sip::endpoint::{Side, Transport};

use crate::agent::Shards;
use crate::agent::transport::connections::Connection;
use crate::metrics::Metrics;
use crate::net::listen::{Accepted, Listener};
use crate::timing::ConnectionTiming;

/// The peers that a listener is for.
#[derive(Clone, Copy)]
pub(crate) enum ListenerKind {
    /// Devices, over TLS.
    Edge,
    /// Devices, over secure WebSocket.
    Websocket,
    /// SIP servers.
    Upstream,
}

/// Serves what is accepted until the listener ends; connections live on.
pub(crate) async fn serve(
    mut listener: Listener,
    kind: ListenerKind,
    timing: ConnectionTiming,
    shards: Shards,
    metrics: Metrics,
) {
    let side = match kind {
        ListenerKind::Edge | ListenerKind::Websocket => Side::Device,
        ListenerKind::Upstream => Side::Upstream,
    };
    while let Some(Accepted { stream, peer, stranger, .. }) = listener.accept().await {
        let transport = match kind {
            ListenerKind::Websocket => Transport::Wss,
            ListenerKind::Edge | ListenerKind::Upstream if stream.is_tls() => Transport::Tls,
            ListenerKind::Edge | ListenerKind::Upstream => Transport::Tcp,
        };
        let connection = Connection::accepted(side, transport, peer, timing, shards.clone(), metrics.clone());
        tokio::spawn(connection.of_stranger(stranger).serve_where_it_belongs(stream));
    }
}
