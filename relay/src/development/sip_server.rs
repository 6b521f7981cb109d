//! A SIP server for those who have none: registrar and proxy for two accounts, on loopback, by UDP and TCP on one port.
//!
//! Invariant: it listens on 127.0.0.1 alone. A message that cannot be read or delivered is dropped: its sender sends it again. Bounded:
//! [`CONNECTIONS`], [`WAITING`] messages at each.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sip::message::{Frame, Framer, Limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::hop::Hop;
pub use super::location::Account;
use super::proxy::{Proxy, read};
use crate::lock::Mutex;

/// Connections at once; a further one is closed.
const CONNECTIONS: usize = 64;
/// Messages that wait for one connection; a further one is dropped.
const WAITING: usize = 64;
/// The largest datagram.
const DATAGRAM: usize = 65_536;

/// A SIP server at work; it ends when it is dropped.
pub struct SipServer {
    address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl SipServer {
    /// Starts it at `address`, which is on loopback; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be listened on, or is not on loopback.
    pub async fn start(address: SocketAddr, accounts: Vec<Account>) -> io::Result<Self> {
        if !address.is_ipv4() || !address.ip().is_loopback() {
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "it serves 127.0.0.1 alone"));
        }
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let datagrams = UdpSocket::bind(address).await?;
        let proxy = Mutex::new(Proxy::new(address, accounts));
        let shared = Arc::new(Shared { proxy, datagrams, connections: Mutex::default() });
        let tasks = [tokio::spawn(shared.clone().receive()), tokio::spawn(shared.accept(listener))];
        Ok(Self { address, tasks })
    }

    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SipServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Shared {
    proxy: Mutex<Proxy>,
    datagrams: UdpSocket,
    connections: Mutex<HashMap<SocketAddr, mpsc::Sender<Bytes>>>,
}

impl Shared {
    async fn receive(self: Arc<Self>) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            // An error is that of an earlier datagram, whose receiver is gone.
            let Ok((length, address)) = self.datagrams.recv_from(&mut buffer).await else { continue };
            let bytes = Bytes::copy_from_slice(&buffer[..length]);
            self.take(&bytes, Hop { is_tcp: false, address }).await;
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, peer)) = listener.accept().await {
            self.clone().keep(stream, peer);
        }
    }

    /// Reads from a connection and writes to it for as long as it stands.
    fn keep(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) -> Option<mpsc::Sender<Bytes>> {
        let (sender, mut outgoing) = mpsc::channel::<Bytes>(WAITING);
        {
            let mut connections = self.connections.lock();
            if connections.len() >= CONNECTIONS {
                return None;
            }
            connections.insert(peer, sender.clone());
        }
        // A connection works without it, only slower.
        let _ = stream.set_nodelay(true);
        let (mut reading, mut writing) = stream.into_split();
        let writer = tokio::spawn(async move {
            while let Some(bytes) = outgoing.recv().await {
                if writing.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        tokio::spawn(async move {
            let mut framer = Framer::new(Limits::default());
            let mut buffer = [0; 4_096];
            'read: while let Ok(length @ 1..) = reading.read(&mut buffer).await {
                framer.push(&buffer[..length]);
                loop {
                    match framer.next_frame() {
                        Ok(Some(Frame::Message(bytes))) => self.take(&bytes, Hop { is_tcp: true, address: peer }).await,
                        Ok(Some(Frame::Ping)) => self.send(Hop { is_tcp: true, address: peer }, "\r\n".into()).await,
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => break 'read,
                    }
                }
            }
            writer.abort();
            self.connections.lock().remove(&peer);
        });
        Some(sender)
    }

    async fn take(self: &Arc<Self>, bytes: &Bytes, from: Hop) {
        let sent = read(bytes).and_then(|message| self.proxy.lock().handle(&message, from, Instant::now()));
        if let Some((to, bytes)) = sent {
            self.send(to, bytes).await;
        }
    }

    async fn send(self: &Arc<Self>, to: Hop, bytes: Bytes) {
        if !to.is_tcp {
            // A sender that waits for it sends it again.
            let _ = self.datagrams.send_to(&bytes, to.address).await;
            return;
        }
        let known = self.connections.lock().get(&to.address).cloned();
        let connection = match known {
            Some(connection) => Some(connection),
            None => match TcpStream::connect(to.address).await {
                Ok(stream) => self.clone().keep(stream, to.address),
                Err(_) => None,
            },
        };
        if let Some(connection) = connection {
            let _ = connection.try_send(bytes);
        }
    }
}
