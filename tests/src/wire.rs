//! SIP over loopback sockets: UDP, TCP and TLS, as listeners and as connections; as a client over secure WebSocket, too.
//!
//! Invariant: events of one flow arrive in order; every task ends when the [`Tasks`] that own it are dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls_pki_types::ServerName;
use sip::message::{Frame, Framer, Limits, Message};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message as WsMessage};

/// How long a connection and its TLS handshake may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// A transport of SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
    /// A stream in TLS.
    Tls,
    /// Secure WebSocket (RFC 7118), of a device.
    Wss,
}

impl Transport {
    /// As a Via names it.
    pub fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Wss => "WSS",
        }
    }

    /// As a URI's `transport` parameter names it.
    pub fn param(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Wss => "ws",
        }
    }
}

/// An event on a flow.
pub enum Event {
    /// A message came.
    Message(Flow, Message),
    /// A double CRLF or a STUN binding request came; this is to be sent back.
    Ping(Flow, Bytes),
    /// A CRLF came.
    Pong(Flow),
    /// Bytes came that are not SIP; a stream is closed for it.
    Garbage(Flow, Bytes),
    /// The peer closed the connection, or it failed.
    Closed(Flow),
}

/// Is called with each event, in order.
pub type Handler = Arc<dyn Fn(Event) + Send + Sync>;

/// Tasks that end when this is dropped.
#[derive(Default)]
pub struct Tasks(Mutex<Vec<AbortHandle>>);

impl Tasks {
    /// Owns a task.
    pub fn own(&self, task: AbortHandle) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in self.0.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

/// One transport connection, or one peer of a UDP socket; cheap to clone.
#[derive(Clone)]
pub struct Flow(Arc<FlowInner>);

struct FlowInner {
    id: u64,
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
    out: Out,
}

enum Out {
    Datagrams(Arc<UdpSocket>),
    Stream { queue: mpsc::UnboundedSender<Bytes>, task: Mutex<Option<AbortHandle>>, open: AtomicBool },
}

impl Flow {
    /// A number that no other flow of this process has.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    /// The transport.
    pub fn transport(&self) -> Transport {
        self.0.transport
    }

    /// Our address.
    pub fn local(&self) -> SocketAddr {
        self.0.local
    }

    /// The peer's address.
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// Sends bytes; what is sent on a closed stream is lost.
    pub fn send(&self, bytes: &Bytes) {
        match &self.0.out {
            // A datagram that the socket does not take is a datagram lost.
            Out::Datagrams(_) if bytes.is_empty() => {}
            Out::Datagrams(socket) => drop(socket.try_send_to(bytes, self.0.remote)),
            Out::Stream { queue, .. } => drop(queue.send(bytes.clone())),
        }
    }

    /// Drops a stream at once, without any farewell; nothing on UDP.
    pub fn drop_connection(&self) {
        if let Out::Stream { task, open, .. } = &self.0.out {
            open.store(false, Ordering::Release);
            if let Some(task) = task.lock().unwrap_or_else(PoisonError::into_inner).take() {
                task.abort();
            }
        }
    }

    /// Whether the stream is open; always on UDP.
    pub fn is_open(&self) -> bool {
        match &self.0.out {
            Out::Datagrams(_) => true,
            Out::Stream { open, .. } => open.load(Ordering::Acquire),
        }
    }

    fn task(&self) -> Option<AbortHandle> {
        match &self.0.out {
            Out::Datagrams(_) => None,
            Out::Stream { task, .. } => task.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn new(transport: Transport, local: SocketAddr, remote: SocketAddr, out: Out) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(FlowInner { id: NEXT.fetch_add(1, Ordering::Relaxed), transport, local, remote, out }))
    }
}

/// A UDP socket on loopback that serves every peer.
pub struct Datagrams {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
}

impl Datagrams {
    /// Binds a free port on 127.0.0.1.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn bind(tasks: &Tasks, handler: Handler) -> io::Result<Self> {
        Self::bind_at(0, tasks, handler).await
    }

    /// Binds this port of 127.0.0.1; 0 takes a free one.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub async fn bind_at(port: u16, tasks: &Tasks, handler: Handler) -> io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await?);
        let local = socket.local_addr()?;
        let reader = Self { socket: socket.clone(), local };
        tasks.own(tokio::spawn(async move { reader.read(handler).await }).abort_handle());
        Ok(Self { socket, local })
    }

    /// The address.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The flow to a peer.
    pub fn flow(&self, remote: SocketAddr) -> Flow {
        Flow::new(Transport::Udp, self.local, remote, Out::Datagrams(self.socket.clone()))
    }

    async fn read(&self, handler: Handler) {
        let mut buffer = vec![0; 65_536];
        let mut flows: Vec<Flow> = Vec::new();
        loop {
            // A refused datagram is reported here; the socket goes on.
            let Ok((length, from)) = self.socket.recv_from(&mut buffer).await else { continue };
            let flow = match flows.iter().find(|flow| flow.remote() == from) {
                Some(flow) => flow.clone(),
                None => {
                    flows.push(self.flow(from));
                    flows[flows.len() - 1].clone()
                }
            };
            handler(datagram(flow, &buffer[..length]));
        }
    }
}

fn datagram(flow: Flow, bytes: &[u8]) -> Event {
    if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
        return Event::Ping(flow, Bytes::new());
    }
    if let Some(answer) = stun_answer(bytes, flow.remote()) {
        return Event::Ping(flow, answer);
    }
    let bytes = Bytes::copy_from_slice(bytes);
    match Message::parse(&bytes, &Limits::default()) {
        Ok(message) => Event::Message(flow, message),
        Err(_) => Event::Garbage(flow, bytes),
    }
}

/// The success response to a STUN binding request (RFC 8489 §6.3.1), with XOR-MAPPED-ADDRESS for IPv4.
pub fn stun_answer(bytes: &[u8], from: SocketAddr) -> Option<Bytes> {
    const COOKIE: u32 = 0x2112_a442;
    let SocketAddr::V4(from) = from else { return None };
    if bytes.len() < 20 || bytes[..2] != [0, 1] || bytes[4..8] != COOKIE.to_be_bytes() {
        return None;
    }
    let mut out = vec![1, 1, 0, 12];
    out.extend_from_slice(&bytes[4..20]);
    out.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
    out.extend_from_slice(&(from.port() ^ (COOKIE >> 16) as u16).to_be_bytes());
    out.extend_from_slice(&(u32::from(*from.ip()) ^ COOKIE).to_be_bytes());
    Some(out.into())
}

/// Listens on a free port of 127.0.0.1, in TLS when there is a configuration for it.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn listen(
    tasks: &Arc<Tasks>,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: Handler,
) -> io::Result<SocketAddr> {
    listen_at(0, tasks, tls, handler).await
}

/// The same on this port; 0 takes a free one.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn listen_at(
    port: u16,
    tasks: &Arc<Tasks>,
    tls: Option<Arc<rustls::ServerConfig>>,
    handler: Handler,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let local = listener.local_addr()?;
    let owner = Arc::downgrade(tasks);
    let accept = async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let (tls, handler, owned_by) = (tls.clone(), handler.clone(), owner.clone());
            let task = tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let flow = match tls {
                    None => serve(stream, Transport::Tcp, local, remote, handler),
                    Some(tls) => {
                        let handshake = TlsAcceptor::from(tls).accept(stream);
                        let Ok(Ok(stream)) = tokio::time::timeout(CONNECT_WITHIN, handshake).await else { return };
                        serve(stream, Transport::Tls, local, remote, handler)
                    }
                };
                match owned_by.upgrade() {
                    Some(owner) => flow.task().into_iter().for_each(|task| owner.own(task)),
                    None => flow.drop_connection(),
                }
            });
            match owner.upgrade() {
                Some(owner) => owner.own(task.abort_handle()),
                None => task.abort(),
            }
        }
    };
    tasks.own(tokio::spawn(accept).abort_handle());
    Ok(local)
}

/// Connects to `remote` by TCP, or by TLS when there is a configuration and the name to verify.
///
/// # Errors
/// When the connection or the TLS handshake fails or takes longer than five seconds.
pub async fn connect(
    remote: SocketAddr,
    tls: Option<(Arc<rustls::ClientConfig>, &str)>,
    handler: Handler,
) -> io::Result<Flow> {
    let connect = async {
        let (stream, local) = open(remote).await?;
        Ok(match tls {
            None => serve(stream, Transport::Tcp, local, remote, handler),
            Some((config, name)) => {
                let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
                let stream = TlsConnector::from(config).connect(name, stream).await?;
                serve(stream, Transport::Tls, local, remote, handler)
            }
        })
    };
    tokio::time::timeout(CONNECT_WITHIN, connect).await?
}

/// A TCP connection that sends at once, and its own address.
async fn open(remote: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(remote).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

/// Connects to `remote` by WebSocket over TLS, as a browser does, for the subprotocol `sip`; `name` is verified.
///
/// # Errors
/// When the connection or a handshake fails or takes longer than five seconds.
pub async fn connect_websocket(
    remote: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    name: &str,
    handler: Handler,
) -> io::Result<Flow> {
    let connect = async {
        let (stream, local) = open(remote).await?;
        let host = if name.contains(':') { format!("[{name}]") } else { name.to_owned() };
        let uri = format!("wss://{host}:{}/", remote.port()).parse().map_err(io::Error::other)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("sip");
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(io::Error::other)?;
        Ok(start(Transport::Wss, local, remote, |flow, queued| exchange_messages(socket, flow, queued, handler)))
    };
    tokio::time::timeout(CONNECT_WITHIN, connect).await?
}

/// Starts to read and write a stream. The task ends with the stream, or by [`Flow::drop_connection`].
fn serve<S>(stream: S, transport: Transport, local: SocketAddr, remote: SocketAddr, handler: Handler) -> Flow
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    start(transport, local, remote, |flow, queued| pump(stream, flow, queued, handler))
}

fn start<F>(
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
    pump: impl FnOnce(Flow, mpsc::UnboundedReceiver<Bytes>) -> F,
) -> Flow
where
    F: Future<Output = ()> + Send + 'static,
{
    let (queue, queued) = mpsc::unbounded_channel();
    let out = Out::Stream { queue, task: Mutex::default(), open: AtomicBool::new(true) };
    let flow = Flow::new(transport, local, remote, out);
    let pump = tokio::spawn(pump(flow.clone(), queued));
    if let Out::Stream { task, .. } = &flow.0.out {
        *task.lock().unwrap_or_else(PoisonError::into_inner) = Some(pump.abort_handle());
    }
    flow
}

async fn pump<S>(stream: S, flow: Flow, mut queued: mpsc::UnboundedReceiver<Bytes>, handler: Handler)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let read = async {
        let mut framer = Framer::new(Limits::default());
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(length) = reader.read(&mut buffer).await {
            if length == 0 {
                break;
            }
            framer.push(&buffer[..length]);
            if !frames(&mut framer, &flow, &handler) {
                handler(Event::Garbage(flow.clone(), Bytes::copy_from_slice(&buffer[..length])));
                break;
            }
        }
    };
    let write = async {
        while let Some(bytes) = queued.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    closed(flow, &handler);
}

/// Reads and writes a WebSocket: each message of SIP in one of its own.
async fn exchange_messages<S>(
    socket: WebSocketStream<S>,
    flow: Flow,
    mut queued: mpsc::UnboundedReceiver<Bytes>,
    handler: Handler,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let read = async {
        while let Some(Ok(came)) = stream.next().await {
            let bytes = match came {
                WsMessage::Text(text) => Bytes::from(text),
                WsMessage::Binary(bytes) => bytes,
                WsMessage::Close(_) => break,
                WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_) => continue,
            };
            handler(match &bytes[..] {
                b"\r\n\r\n" => Event::Ping(flow.clone(), Bytes::from_static(b"\r\n")),
                b"\r\n" => Event::Pong(flow.clone()),
                _ => match Message::parse(&bytes, &Limits::default()) {
                    // One message and nothing behind it (RFC 7118 §5.1).
                    Ok(message) if message.head().len() + message.body().len() == bytes.len() => {
                        Event::Message(flow.clone(), message)
                    }
                    _ => Event::Garbage(flow.clone(), bytes),
                },
            });
        }
    };
    let write = async {
        while let Some(bytes) = queued.recv().await {
            let message = match std::str::from_utf8(&bytes) {
                Ok(text) => WsMessage::text(text),
                Err(_) => WsMessage::binary(bytes),
            };
            if sink.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
    closed(flow, &handler);
}

/// Says that a connection has ended.
fn closed(flow: Flow, handler: &Handler) {
    if let Out::Stream { open, .. } = &flow.0.out {
        open.store(false, Ordering::Release);
    }
    handler(Event::Closed(flow));
}

/// Hands on every whole frame; `false` when the stream is not SIP.
fn frames(framer: &mut Framer, flow: &Flow, handler: &Handler) -> bool {
    loop {
        match framer.next_frame() {
            Ok(None) => return true,
            Ok(Some(Frame::Ping)) => handler(Event::Ping(flow.clone(), Bytes::from_static(b"\r\n"))),
            Ok(Some(Frame::Pong)) => handler(Event::Pong(flow.clone())),
            Ok(Some(Frame::Message(bytes))) => match Message::parse(&bytes, &Limits::default()) {
                Ok(message) => handler(Event::Message(flow.clone(), message)),
                Err(_) => return false,
            },
            Ok(Some(Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_))) | Err(_) => return false,
        }
    }
}

/// A message that is sent again until this is dropped (RFC 3261 §17.1.1.2, §13.3.1.4): after 500 ms, doubling to 4 s.
pub struct Resend(AbortHandle);

impl Resend {
    /// Sends `bytes` now, and again.
    pub fn start(flow: &Flow, bytes: Bytes) -> Self {
        flow.send(&bytes);
        let flow = flow.clone();
        let task = tokio::spawn(async move {
            let mut pause = Duration::from_millis(500);
            // 64 × T1 in all.
            for _ in 0..11 {
                tokio::time::sleep(pause).await;
                flow.send(&bytes);
                pause = (pause * 2).min(Duration::from_secs(4));
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Resend {
    fn drop(&mut self) {
        self.0.abort();
    }
}
