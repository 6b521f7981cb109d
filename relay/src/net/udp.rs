//! A UDP socket toward SIP servers.
//!
//! Invariant: a datagram that cannot be sent or received never ends the loop: UDP promises nothing, and the layers
//! above send again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::UdpSocket;
use tokio::time::sleep;
use zeroize::Zeroize as _;

use super::drain::Drain;
use crate::systemd::sockets;

/// What the kernel is asked to keep while the loop is busy, in bytes: some thousand registrations. The system may give
/// less (`net.core.rmem_max`); what does not fit is lost, and sent again by the SIP server.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// The largest datagram (RFC 768).
const MAX_DATAGRAM: usize = 65_535;
/// The pause after the system failed to receive.
const PAUSE: Duration = Duration::from_millis(10);

/// A bound socket; cheap to clone.
#[derive(Debug, Clone)]
pub struct Udp {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Bytes,
    /// Who sent it.
    pub peer: SocketAddr,
}

impl Udp {
    /// Binds `address`, or takes the socket for it that the service manager has handed over; port 0 takes a free one. Fails when the port is taken or not permitted.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = match sockets::datagram(address) {
            Some(inherited) => UdpSocket::from_std(inherited)?,
            None => UdpSocket::bind(address).await?,
        };
        // A smaller buffer works too.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
        let local = socket.local_addr()?;
        Ok(Self { socket: Arc::new(socket), local })
    }

    /// Where it is bound, with the port it got.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram. Fails when the system refuses, as for a datagram over its MTU or an unreachable network.
    pub async fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(bytes, to).await.map(drop)
    }

    /// Sends one datagram without waiting. Fails with `WouldBlock` when the kernel's buffer is full.
    pub fn try_send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.socket.try_send_to(bytes, to).map(drop)
    }

    /// Gives each datagram to `deliver` until the drain begins.
    pub async fn receive(&self, drain: &Drain, mut deliver: impl FnMut(Datagram)) {
        let mut buffer = BytesMut::with_capacity(MAX_DATAGRAM);
        loop {
            let received = tokio::select! {
                received = self.socket.recv_buf_from(&mut buffer) => received,
                () = drain.begun() => return,
            };
            match received {
                Ok((_, peer)) => {
                    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    // A copy of the datagram's own size: a slice would keep the whole buffer alive.
                    let bytes = Bytes::copy_from_slice(&buffer);
                    // What somebody wrote must not lie here until a datagram as long comes.
                    buffer.zeroize();
                    buffer.clear();
                    deliver(Datagram { bytes, peer });
                }
                Err(error) => {
                    tracing::debug!(%error, "a datagram could not be received");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
