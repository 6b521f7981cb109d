//! An HTTP/2 server on loopback that can misbehave in every way that a push service does.
//!
//! Invariant: TLS with ALPN `h2` alone, a port of its own on 127.0.0.1; all its tasks end when the [`Server`] is dropped.
//! A GOAWAY that leaves a stream out names the stream before it, as RFC 9113 §6.8 wants, and what was answered before
//! it reaches the client.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use relay::push::ByteStream;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authority::{Authority, Issued};
use crate::virtual_net::VirtualNet;

/// How long a client may take for its TLS handshake, or to close after a GOAWAY.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long what was answered before a GOAWAY may take to leave.
const FLUSH: Duration = Duration::from_millis(20);
/// The largest body that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// The handler of requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// A stream was opened while `others` were open on the same connection.
    fn opened(&self, _line: &Line, _others: usize) {}
    /// The answer to a whole request.
    fn answer(&self, call: Call) -> Reply;
}

/// One connection.
pub(crate) struct Line {
    /// 1 for the server's first.
    pub(crate) number: usize,
    /// Whether a request with good credentials came over it.
    pub(crate) proven: AtomicBool,
    /// The certificate that the client has shown, of the authority.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    open: AtomicUsize,
    frozen: Arc<AtomicBool>,
}

/// A whole request.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) at: Instant,
    pub(crate) line: Arc<Line>,
}

/// The reaction to a request.
pub(crate) enum Reply {
    /// A whole answer.
    Whole(Head, String),
    /// A whole answer, later.
    Slow(Duration, Head, String),
    /// The head of an answer, whose body never comes.
    Headless(Head),
    /// Nothing, while the connection lives.
    Silence,
    /// RST_STREAM with REFUSED_STREAM.
    RefuseStream,
    /// A GOAWAY that leaves this stream out; then the connection closes.
    GoAway,
    /// A whole answer, then a GOAWAY that leaves out what came after this stream; the connection closes.
    LastWord(Head, String),
    /// RST_STREAM with this reason: whether it was processed nobody says.
    Reset(h2::Reason),
    /// The connection falls silent for good: nothing is read nor written any more, and nothing is closed.
    Freeze,
    /// The connection is cut.
    Cut,
}

impl Reply {
    /// A whole answer later; any other as it is.
    pub(crate) fn after(self, delay: Duration) -> Self {
        match self {
            Self::Whole(head, body) => Self::Slow(delay, head, body),
            other => other,
        }
    }
}

/// Status and headers of an answer.
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// A running server.
pub(crate) struct Server {
    port: u16,
    acceptor: Arc<Mutex<TlsAcceptor>>,
    state: Arc<State>,
    drain: watch::Sender<()>,
    accepting: Option<AbortHandle>,
}

/// State that all connections of a server share.
#[derive(Default)]
struct State {
    dials: AtomicUsize,
    connections: AtomicUsize,
    /// Streams that a client may open at once, beyond which nothing is promised; 0: a thousand.
    streams: AtomicUsize,
    /// Each connection's switch.
    frozen: Mutex<Vec<Arc<AtomicBool>>>,
}

impl Server {
    /// Starts a server whose answers `service` gives, once it is known on which port (the argument of `service`).
    pub(crate) async fn start<S: Service>(
        authority: &Authority,
        service: impl FnOnce(u16) -> Arc<S>,
    ) -> (Self, Arc<S>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let (mut server, service, accept) = Self::new(authority, port, service);
        let task = async move {
            let mut open = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((tcp, _)) = accepted else { continue };
                        let _ = tcp.set_nodelay(true);
                        open.spawn(accept(Box::new(tcp)));
                    }
                    Some(_) = open.join_next(), if !open.is_empty() => {}
                }
            }
        };
        server.accepting = Some(tokio::spawn(task).abort_handle());
        (server, service)
    }

    /// Starts one in a network that exists in this process alone.
    pub(crate) fn start_within<S: Service>(
        net: &VirtualNet,
        authority: &Authority,
        service: impl FnOnce(u16) -> Arc<S>,
    ) -> (Self, Arc<S>) {
        let port = net.free_port();
        let (server, service, accept) = Self::new(authority, port, service);
        net.listen(port, move |stream| drop(tokio::spawn(accept(stream))));
        (server, service)
    }

    fn new<S: Service>(
        authority: &Authority,
        port: u16,
        service: impl FnOnce(u16) -> Arc<S>,
    ) -> (Self, Arc<S>, impl Fn(Box<dyn ByteStream>) -> Accepting + Send + Sync + 'static) {
        let service = service(port);
        let acceptor = Arc::new(Mutex::new(acceptor(authority, &authority.loopback())));
        let state = Arc::<State>::default();
        let (drain, drained) = watch::channel(());
        let server = Self { port, acceptor: Arc::clone(&acceptor), state: Arc::clone(&state), drain, accepting: None };
        let accepted = Arc::clone(&service);
        let accept = move |stream| -> Accepting {
            state.dials.fetch_add(1, Ordering::Relaxed);
            let acceptor = lock(&acceptor).clone();
            Box::pin(serve(stream, acceptor, Arc::clone(&accepted), Arc::clone(&state), drained.clone()))
        };
        (server, service, accept)
    }

    /// `https://localhost:port`
    pub(crate) fn endpoint(&self) -> String {
        endpoint(self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections completed their handshakes.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// How many connections were begun, also those whose handshakes came to nothing.
    pub(crate) fn dials(&self) -> usize {
        self.state.dials.load(Ordering::Relaxed)
    }

    /// Shows a certificate that has ended, or a good one again, on connections made from now on.
    pub(crate) fn let_certificate_end(&self, authority: &Authority, ended: bool) {
        let names = crate::authority::LOOPBACK;
        let issued = if ended { authority.issue_ended(names) } else { authority.issue(names) };
        *lock(&self.acceptor) = acceptor(authority, &issued);
    }

    /// Ends every connection in good manners: GOAWAY, after which open streams are still answered.
    pub(crate) fn drain(&self) {
        let _ = self.drain.send(());
    }

    /// Lets every connection that is open fall silent for good, without closing it.
    pub(crate) fn freeze(&self) {
        for switch in &*lock(&self.state.frozen) {
            switch.store(true, Ordering::Relaxed);
        }
    }

    /// How many streams a client may open at once on connections made from now on.
    pub(crate) fn allow_streams(&self, limit: usize) {
        self.state.streams.store(limit, Ordering::Relaxed);
    }
}

fn acceptor(authority: &Authority, issued: &Issued) -> TlsAcceptor {
    TlsAcceptor::from(authority.server_config_showing(issued, &[b"h2"]))
}

/// A connection that is being served.
type Accepting = Pin<Box<dyn Future<Output = Option<()>> + Send>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

pub(crate) fn endpoint(port: u16) -> String {
    format!("https://localhost:{port}")
}

/// How a stream ends its connection.
enum End {
    GoAway { last: u32 },
    Cut,
}

async fn serve<S: Service>(
    tcp: Box<dyn ByteStream>,
    acceptor: TlsAcceptor,
    service: Arc<S>,
    state: Arc<State>,
    mut drained: watch::Receiver<()>,
) -> Option<()> {
    drained.mark_unchanged();
    let tls = timeout(PATIENCE, acceptor.accept(tcp)).await.ok()?.ok()?;
    let certificate =
        tls.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.clone().into_owned());
    let frozen = Arc::<AtomicBool>::default();
    lock(&state.frozen).push(Arc::clone(&frozen));
    let io = SharedIo { tls: Arc::new(Mutex::new(tls)), frozen: Arc::clone(&frozen) };
    let mut builder = h2::server::Builder::new();
    let streams = match state.streams.load(Ordering::Relaxed) {
        0 => 1_000,
        limit => limit as u32,
    };
    builder.max_concurrent_streams(streams).initial_connection_window_size(16 * 1024 * 1024);
    let mut connection = builder.handshake::<_, Bytes>(io.clone()).await.ok()?;
    let number = state.connections.fetch_add(1, Ordering::Relaxed) + 1;
    let (proven, open) = (AtomicBool::new(false), AtomicUsize::new(0));
    let line = Arc::new(Line { number, proven, certificate, open, frozen });
    let (ends, mut ended) = mpsc::unbounded_channel();
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else {
                    drop(connection);
                    return io.close().await.ok();
                };
                let (request, respond) = accepted.ok()?;
                let others = line.open.fetch_add(1, Ordering::Relaxed);
                service.opened(&line, others);
                streams.spawn(stream(request, respond, Arc::clone(&service), Arc::clone(&line), ends.clone()));
            }
            Some(end) = ended.recv() => match end {
                End::Cut => return None,
                End::GoAway { last } => {
                    let mut left_out = Vec::new();
                    let flush = async { while let Some(Ok(accepted)) = connection.accept().await { left_out.push(accepted) } };
                    let _ = timeout(FLUSH, flush).await;
                    drop(connection);
                    return io.go_away(last).await.ok();
                }
            },
            Ok(()) = drained.changed() => connection.graceful_shutdown(),
            Some(_) = streams.join_next(), if !streams.is_empty() => {}
        }
    }
}

/// Counts a stream as open until it is dropped.
struct OpenStream(Arc<Line>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn stream<S: Service>(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: Arc<S>,
    line: Arc<Line>,
    ends: mpsc::UnboundedSender<End>,
) -> Option<()> {
    let at = Instant::now();
    let open = OpenStream(Arc::clone(&line));
    let (head, mut incoming) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk.ok()?;
        incoming.flow_control().release_capacity(chunk.len()).ok()?;
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BODY {
            return None;
        }
    }
    let path = head.uri.path().to_owned();
    let frozen = Arc::clone(&line.frozen);
    let call = Call { method: head.method, path, headers: head.headers, body: body.into(), at, line };
    let reply = service.answer(call);
    match reply {
        Reply::Whole(head, body) => whole(open, respond, head, body),
        Reply::Slow(delay, head, body) => {
            tokio::time::sleep(delay).await;
            whole(open, respond, head, body)
        }
        Reply::Headless(head) => {
            let _held = respond.send_response(response(head)?, false).ok()?;
            std::future::pending().await
        }
        Reply::Silence => std::future::pending().await,
        Reply::RefuseStream => {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            Some(())
        }
        Reply::GoAway => {
            let _ = ends.send(End::GoAway { last: u32::from(respond.stream_id()).saturating_sub(2) });
            std::future::pending().await
        }
        Reply::LastWord(head, body) => {
            let last = u32::from(respond.stream_id());
            let done = whole(open, respond, head, body);
            let _ = ends.send(End::GoAway { last });
            done
        }
        Reply::Reset(reason) => {
            respond.send_reset(reason);
            Some(())
        }
        Reply::Freeze => {
            frozen.store(true, Ordering::Relaxed);
            std::future::pending().await
        }
        Reply::Cut => {
            let _ = ends.send(End::Cut);
            std::future::pending().await
        }
    }
}

fn whole(open: OpenStream, mut respond: SendResponse<Bytes>, head: Head, body: String) -> Option<()> {
    // The stream counts as closed before the client can know it.
    drop(open);
    let response = response(head)?;
    let mut stream = respond.send_response(response, body.is_empty()).ok()?;
    if !body.is_empty() {
        stream.send_data(body.into(), true).ok()?;
    }
    Some(())
}

fn response(head: Head) -> Option<Response<()>> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(head.status).ok()?;
    for (name, value) in head.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::try_from(value).ok()?);
    }
    Some(response)
}

/// The TLS stream, still at hand when `h2` is done with it: `h2` cannot be told to leave a stream out of a GOAWAY.
#[derive(Clone)]
struct SharedIo {
    tls: Arc<Mutex<TlsStream<Box<dyn ByteStream>>>>,
    frozen: Arc<AtomicBool>,
}

impl SharedIo {
    /// Polls the stream; one that is frozen is never ready again.
    fn poll<T>(&self, work: impl FnOnce(Pin<&mut TlsStream<Box<dyn ByteStream>>>) -> Poll<T>) -> Poll<T> {
        if self.frozen.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        work(Pin::new(&mut *lock(&self.tls)))
    }

    /// Writes a GOAWAY (RFC 9113 §6.8), closes this side and waits for the other.
    async fn go_away(mut self, last: u32) -> io::Result<()> {
        let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        frame.extend_from_slice(&last.to_be_bytes());
        frame.extend_from_slice(&0u32.to_be_bytes());
        self.write_all(&frame).await?;
        self.close().await
    }

    /// Closes this side and waits for the other: with unread input the kernel would reset the connection, and what was written last might be lost with it.
    async fn close(mut self) -> io::Result<()> {
        self.shutdown().await?;
        let mut rest = [0; 4096];
        while timeout(PATIENCE, self.read(&mut rest)).await?? > 0 {}
        Ok(())
    }
}

impl AsyncRead for SharedIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll(|tls| tls.poll_read(cx, buf))
    }
}

impl AsyncWrite for SharedIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|tls| tls.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|tls| tls.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|tls| tls.poll_shutdown(cx))
    }
}
