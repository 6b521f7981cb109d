//! The listeners for SIP: every connection that is ready gets its task.
//!
//! Invariant: nothing here reads a byte; limits and handshakes are the listener's.

use sip::endpoint::{Side, Transport};

use super::Shards;
use super::connections::Connection;
use crate::metrics::Metrics;
use crate::metrics::labels;
use crate::net::listen::{Accepted, Listener};

/// Whom a listener is for.
#[derive(Clone, Copy)]
pub(super) enum Door {
    /// Devices, over TLS.
    Edge,
    /// Devices, over secure WebSocket.
    Websocket,
    /// SIP servers.
    Upstream,
}

/// Serves what is accepted until the listener ends; connections live on.
pub(super) async fn serve(mut listener: Listener, door: Door, shards: Shards, metrics: Metrics) {
    let (side, label) = match door {
        Door::Edge => (Side::Device, labels::Listener::Edge),
        Door::Websocket => (Side::Device, labels::Listener::Websocket),
        Door::Upstream => (Side::Upstream, labels::Listener::Upstream),
    };
    while let Some(Accepted { stream, peer, .. }) = listener.accept().await {
        let transport = match door {
            Door::Websocket => Transport::Wss,
            Door::Edge | Door::Upstream if stream.is_tls() => Transport::Tls,
            Door::Edge | Door::Upstream => Transport::Tcp,
        };
        let connection = Connection::accepted(side, transport, peer, shards.clone(), metrics.clone());
        let metrics = metrics.clone();
        tokio::spawn(async move {
            metrics.connections(label, 1);
            connection.serve(stream).await;
            metrics.connections(label, -1);
        });
    }
}
