//! The accounts' SIP server: its socket, and the handlers of incoming messages.
//!
//! The exchange is a registrar and a caller that do the least that a relay can tell from real ones, so that they are not measured themselves: one
//! thread reads all datagrams, each is answered where it is read.
//!
//! Invariant: loopback only; what does not parse is counted and dropped; the threads and tasks end with the [`Exchange`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sip::message::{Composer, Frame, Framer, Limits, Message, Method};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::caller::Caller;
use super::measure::Count;
use super::plan::Upstream;
use super::registrar::Registrar;
use crate::authority::Authority;
use crate::wire::{Tasks, stun_answer};

/// The size that the socket's buffers are asked for, in bytes; the kernel may give less.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;
/// Bytes that are shown of what is no SIP.
const SHOWN: usize = 80;
/// How often the reading thread looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A way to write to the relay.
#[derive(Clone)]
pub enum Way {
    /// To a peer of the UDP socket.
    Datagram(Arc<UdpSocket>, SocketAddr),
    /// On a TLS connection.
    Stream(mpsc::UnboundedSender<Bytes>),
}

impl Way {
    /// Sends one message; what cannot be sent is lost, as on any network.
    pub fn send(&self, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        match self {
            Self::Datagram(socket, peer) => drop(socket.send_to(&bytes, peer)),
            Self::Stream(queue) => drop(queue.send(bytes)),
        }
    }
}

/// The handlers of incoming messages.
pub struct Desk {
    /// REGISTERs.
    pub registrar: Registrar,
    /// Responses to the calls.
    pub caller: Arc<Caller>,
    /// Bytes that were no SIP.
    pub malformed: Count,
    /// The first of them, to be shown.
    pub first_malformed: OnceLock<String>,
}

impl Desk {
    fn take(&self, bytes: &Bytes, way: &Way) {
        let Ok(message) = Message::parse(bytes, &Limits::default()) else {
            self.first_malformed.get_or_init(|| String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned());
            return self.malformed.add();
        };
        match message.method() {
            None => self.caller.on_response(&message),
            Some(Method::Ack) => {}
            Some(Method::Register) => way.send(self.registrar.answer(&message, way)),
            Some(_) => way.send(Composer::response(&message, 200, "OK", Some("load")).finish()),
        }
    }
}

/// The SIP server at work.
pub struct Exchange {
    local: SocketAddr,
    socket: Option<Arc<UdpSocket>>,
    stop: Arc<AtomicBool>,
    _tasks: Tasks,
}

impl Exchange {
    /// Binds a free port on 127.0.0.1; `desk` gets its address and begins to work.
    ///
    /// # Errors
    /// When no socket can be bound.
    pub async fn open(
        upstream: Upstream,
        authority: &Authority,
        domain: &str,
        desk: impl FnOnce(SocketAddr) -> Arc<Desk>,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = Tasks::default();
        let mut udp = None;
        let local = match upstream {
            Upstream::Udp => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
                socket.set_read_timeout(Some(LOOK_EVERY))?;
                rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER)?;
                rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER)?;
                let local = socket.local_addr()?;
                let (desk, stopped, socket) = (desk(local), stop.clone(), Arc::new(socket));
                udp = Some(socket.clone());
                std::thread::spawn(move || receive(&socket, &desk, &stopped));
                local
            }
            Upstream::Tls => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let acceptor = TlsAcceptor::from(authority.server_config(&[domain, "127.0.0.1"], &[]));
                let local = listener.local_addr()?;
                let desk = desk(local);
                tasks.own(tokio::spawn(accept(listener, acceptor, desk)).abort_handle());
                local
            }
        };
        Ok(Self { local, socket: udp, stop, _tasks: tasks })
    }

    /// A way to a peer that has not been heard of yet; `None` where connections are the peer's to open.
    pub fn way_to(&self, peer: SocketAddr) -> Option<Way> {
        Some(Way::Datagram(self.socket.clone()?, peer))
    }

    /// Its address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn receive(socket: &Arc<UdpSocket>, desk: &Desk, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        // An error is the look-out for the end, or a refused datagram of before.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        // A keep-alive (RFC 5626 §4.4.2).
        if let Some(answer) = stun_answer(&buffer[..length], peer) {
            let _ = socket.send_to(&answer, peer);
            continue;
        }
        let bytes = Bytes::copy_from_slice(&buffer[..length]);
        desk.take(&bytes, &Way::Datagram(socket.clone(), peer));
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, desk: Arc<Desk>) {
    let connections = Tasks::default();
    loop {
        let Ok((tcp, _)) = listener.accept().await else { continue };
        connections.own(tokio::spawn(serve(tcp, acceptor.clone(), desk.clone())).abort_handle());
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, desk: Arc<Desk>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (mut reader, mut writer) = tokio::io::split(acceptor.accept(tcp).await?);
    let (queue, mut queued) = mpsc::unbounded_channel::<Bytes>();
    let way = Way::Stream(queue.clone());
    let writing = async move {
        let mut batch = Vec::new();
        while let Some(first) = queued.recv().await {
            batch.clear();
            batch.extend_from_slice(&first);
            while let Ok(next) = queued.try_recv() {
                batch.extend_from_slice(&next);
            }
            writer.write_all(&batch).await?;
            writer.flush().await?;
        }
        Ok(())
    };
    let reading = async move {
        let mut framer = Framer::new(Limits::default());
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            framer.push(&buffer[..length]);
            while let Some(frame) = framer.next_frame().map_err(|error| io::Error::other(format!("{error:?}")))? {
                match frame {
                    Frame::Message(bytes) => desk.take(&bytes, &way),
                    Frame::Ping => drop(queue.send(Bytes::from_static(b"\r\n"))),
                    Frame::Pong | Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_) => {}
                }
            }
        }
    };
    tokio::select! { ended = writing => ended, ended = reading => ended }
}
