//! Dialling a push service: complete handshakes of TCP and TLS, raced over the addresses of its name (RFC 8305).
//!
//! | time | action |
//! | --- | --- |
//! | at once | the first address is tried; silent addresses, and those whose connections ended young, come last |
//! | after each [`NEXT_AFTER`], or when one fails | the next address is tried |
//! | after each [`AGAIN_AFTER`] since the last one, [`AGAIN_MAX`] times | each that has not answered yet is tried once more, beside what hangs there; where a device has chosen the service, or in HTTP/1.1, [`OPEN_FEW`] are open at once for an address: the first has all of the time, for its service may be slow, and of the others the oldest, which has had twice that pause, is ended for the next one |
//! | likewise | each that has failed, while others are open |
//! | [`NEXT_AFTER`] after the last one, if one speaks HTTP/1.1 alone and that is permitted | the dial ends with that result |
//!
//! The service's first frame belongs to the handshake: HTTP/2 begins with its SETTINGS (RFC 9113 §3.4). A connection that ends before they are whole, or sends
//! nothing more, has taken no request. No push is spent on it, because the service behind it may hang.
//!
//! Invariant: the first complete handshake wins and the others are dropped; a dial ends within [`DIAL_TIMEOUT`]. Only TLS with a certificate for the service's
//! own name is accepted, and in it only HTTP/2, or HTTP/1.1 where that is dialled.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig};
use rustls_pki_types::ServerName;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::allowance::{Allowance, metered};
use super::departure::Body;
use super::identity::{Objection, ObservedStream, objection};
use super::network::{ByteStream, HandshakeEnd, Network, Opening, is_forbidden};
use super::withdrawal::Withdrawal;
use crate::lock::Mutex;
use crate::net::tls_fault::TlsFault;

/// How long an address may take before the next one is tried beside it (RFC 8305 §5).
const NEXT_AFTER: Duration = Duration::from_millis(250);
/// How long all addresses may be silent before each is tried once more, and how often.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
const AGAIN_MAX: u32 = 4;
/// Handshakes that are open at once for one address that a device has named: a stranger must not choose the cost.
const OPEN_FEW: usize = 3;
/// How long name, addresses and both handshakes may take together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the resolver may take while the addresses of the last time are known.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses of one name that are dialled.
const ADDRESSES_MAX: usize = 8;

/// A freshly made HTTP/2 connection.
pub(super) struct Dialled {
    /// The handle to send with.
    pub(super) sender: h2::client::SendRequest<Body>,
    pub(super) driven: Driven,
    /// The service's objection to our certificate.
    pub(super) objection: Objection,
    /// Whether it takes back what is on its way.
    pub(super) withdrawal: Withdrawal,
}

/// A stream for HTTP/1.1, before any byte was sent in it.
pub(super) type DialledHttp1 = (TlsStream<Box<dyn ByteStream>>, Withdrawal);

/// A stream that is being opened, and whether it takes back what is on its way.
type Connecting = (Opening<Box<dyn ByteStream>>, Withdrawal);

/// The driver of a connection: nothing moves unless it is polled.
pub(super) type Driven = h2::client::Connection<ObservedStream<TlsStream<Box<dyn ByteStream>>>, Body>;

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("its name does not resolve: {0}")]
    Name(#[source] io::Error),
    #[error("no address accepts the connection: {0}")]
    Tcp(#[source] io::Error),
    /// Told without a name: a service of a device is chosen by its user, and its host may be a person's own.
    #[error("the TLS handshake failed: {}", tls_words(.0))]
    Tls(#[source] io::Error),
    #[error("it does not speak HTTP/2")]
    NotHttp2,
    #[error("the HTTP/2 handshake failed: {0}")]
    Http2(#[source] h2::Error),
    #[error("it ends the connection before it speaks HTTP/2")]
    Ended,
    #[error("it did not answer in time")]
    Timeout,
    /// That says nothing of the service.
    #[error("it has had as many connections as it gets for now")]
    NoLeave,
    /// The reason: one of the words of `reasons`.
    #[error("it takes no connection with our certificate: {0}")]
    ShutOut(&'static str),
}

fn tls_words(error: &io::Error) -> String {
    TlsFault::within(error).map_or_else(|| error.kind().to_string(), |fault| fault.to_string())
}

impl DialError {
    /// Whether no address of the service got a handshake, for it had enough lately.
    pub(crate) fn is_for_want_of_leave(&self) -> bool {
        matches!(self, Self::NoLeave)
    }

    /// Whether no address of the name is one that the relay may talk to.
    pub(crate) fn is_forbidden(&self) -> bool {
        match self {
            Self::Name(error) | Self::Tcp(error) => is_forbidden(error),
            _ => false,
        }
    }
}

/// The host to dial, and the results of earlier dials.
pub(crate) struct Dialler {
    host: Box<str>,
    port: u16,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    /// Whether a service that speaks no HTTP/2 is dialled for HTTP/1.1 then.
    may_speak_http1: bool,
    network: Arc<dyn Network>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    /// The addresses that the name resolved to the last time.
    addresses: Vec<SocketAddr>,
    /// The addresses that are dialled last.
    poor: Vec<SocketAddr>,
}

impl Dialler {
    pub(super) fn new(
        host: &str,
        port: u16,
        name: ServerName<'static>,
        tls: Arc<ClientConfig>,
        network: Arc<dyn Network>,
    ) -> Self {
        let may_speak_http1 = tls.alpn_protocols.iter().any(|protocol| protocol == b"http/1.1");
        Self { host: host.into(), port, name, tls, may_speak_http1, network, memory: Mutex::default() }
    }

    /// As one whose service may speak HTTP/1.1 alone, which is offered when HTTP/2 was not taken.
    pub(super) fn or_http1(self) -> Self {
        Self { may_speak_http1: true, ..self }
    }

    /// Connects; also to which address. All that the connection will ever read is charged to the allowance, where there is one.
    pub(super) async fn dial(&self, allowance: Option<Arc<Allowance>>) -> Result<(Dialled, SocketAddr), DialError> {
        let connect = |connecting| handshake(connecting, self.name.clone(), Arc::clone(&self.tls), allowance.clone());
        let most = if allowance.is_some() { OPEN_FEW } else { usize::MAX };
        timeout(DIAL_TIMEOUT, self.race(most, connect)).await.unwrap_or(Err(DialError::Timeout))
    }

    /// Connects for HTTP/1.1, likewise.
    pub(crate) async fn dial_http1(&self, allowance: Option<&Arc<Allowance>>) -> Result<DialledHttp1, DialError> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(tls));
        let connect = |(connecting, withdrawal): Connecting| {
            let (connector, name, allowance) = (connector.clone(), self.name.clone(), allowance.cloned());
            async move {
                let tcp = metered(connecting.await.map_err(DialError::Tcp)?, allowance);
                Ok((connector.connect(name, tcp).await.map_err(DialError::Tls)?, withdrawal))
            }
        };
        let raced = timeout(DIAL_TIMEOUT, self.race(OPEN_FEW, connect)).await;
        raced.unwrap_or(Err(DialError::Timeout)).map(|(dialled, _)| dialled)
    }

    /// Whether a service that speaks no HTTP/2 is dialled for HTTP/1.1 then.
    pub(super) fn may_speak_http1(&self) -> bool {
        self.may_speak_http1
    }

    /// `host:port`, as a request names it.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        if self.port == 443 { host } else { format!("{host}:{}", self.port) }
    }

    /// Dials this address last: its line fell silent or died young.
    pub(super) fn demote(&self, address: SocketAddr) {
        let mut memory = self.memory();
        if !memory.poor.contains(&address) {
            memory.poor.push(address);
        }
    }

    /// At most `most` handshakes are open at once for one address.
    async fn race<T, C>(&self, most: usize, connect: impl Fn(Connecting) -> C) -> Result<(T, SocketAddr), DialError>
    where
        T: Send + 'static,
        C: Future<Output = Result<T, DialError>> + Send + 'static,
    {
        let mut race = Race::over(self.addresses().await?, most);
        loop {
            if let Some(address) = race.waiting.pop_front() {
                let withdrawal = Withdrawal::default();
                let leave = self.network.leave(address);
                let begun =
                    leave.map(|leave| (leave, connect((self.network.connect(address, &withdrawal), withdrawal))));
                race.begin(address, async move {
                    let (leave, connected) = begun.ok_or(DialError::NoLeave)?;
                    let outcome = connected.await;
                    leave.ended(end_of(&outcome));
                    outcome
                });
            }
            // The service will be dialled for HTTP/1.1, and silent addresses have had their time.
            let is_settled = self.may_speak_http1 && matches!(race.worst, Some(DialError::NotHttp2));
            let more = !race.waiting.is_empty() || race.repeated < AGAIN_MAX || is_settled;
            let pause = if race.waiting.is_empty() && !is_settled { AGAIN_AFTER } else { NEXT_AFTER };
            tokio::select! {
                Some(ended) = race.next_ended() => {
                    if let Some((dialled, address)) = race.ended(ended) {
                        self.remember(address, &race.silent);
                        return Ok((dialled, address));
                    }
                    if race.open.is_empty() && race.waiting.is_empty() {
                        return Err(race.worst.unwrap_or(DialError::Timeout));
                    }
                }
                () = sleep_until(Instant::now() + pause), if more => {
                    if race.waiting.is_empty() && is_settled {
                        return Err(DialError::NotHttp2);
                    }
                    if race.waiting.is_empty() {
                        race.repeat();
                    }
                }
            }
        }
    }

    /// The addresses in the order in which they are dialled. A resolver that is away does not matter while those of the
    /// last time are known.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let known = self.memory().addresses.clone();
        let resolving = self.network.resolve(&self.host, self.port, None);
        let found = if known.is_empty() {
            resolving.await
        } else {
            timeout(RESOLVE_TIMEOUT, resolving).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        let found = match found {
            Ok(found) if !found.is_empty() => found,
            Ok(_) if known.is_empty() => return Err(DialError::Name(io::ErrorKind::AddrNotAvailable.into())),
            Err(error) if known.is_empty() => return Err(DialError::Name(error)),
            _ => known,
        };
        let mut memory = self.memory();
        memory.poor.retain(|address| found.contains(address));
        let mut ordered = interleaved(&found);
        ordered.truncate(ADDRESSES_MAX);
        ordered.sort_by_key(|address| memory.poor.contains(address));
        memory.addresses = found;
        Ok(ordered)
    }

    fn remember(&self, good: SocketAddr, silent: &[SocketAddr]) {
        let mut memory = self.memory();
        // The good one stays where it is: whether its line lives is not known yet.
        let new: Vec<_> =
            silent.iter().filter(|address| **address != good && !memory.poor.contains(address)).copied().collect();
        memory.poor.extend(new);
        if memory.poor.len() >= memory.addresses.len() {
            // When all are poor, none is.
            memory.poor.clear();
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}

/// The handshakes of one dial.
struct Race<T> {
    /// So many may be open at once for one address.
    most: usize,
    /// The addresses that are to be tried, the next one first.
    waiting: VecDeque<SocketAddr>,
    open: JoinSet<(SocketAddr, Result<T, DialError>)>,
    /// Their addresses and tasks, the first one first.
    under_way: Vec<(SocketAddr, AbortHandle)>,
    /// The addresses that were tried and have not answered.
    silent: Vec<SocketAddr>,
    /// Those that have failed since they were last tried.
    failed: Vec<SocketAddr>,
    worst: Option<DialError>,
    /// How often all were tried again.
    repeated: u32,
}

impl<T: Send + 'static> Race<T> {
    fn over(addresses: Vec<SocketAddr>, most: usize) -> Self {
        Self {
            most,
            waiting: addresses.into(),
            open: JoinSet::new(),
            under_way: Vec::new(),
            silent: Vec::new(),
            failed: Vec::new(),
            worst: None,
            repeated: 0,
        }
    }

    /// Begins one, in place of the second one at this address where that has as many as it may.
    fn begin(&mut self, address: SocketAddr, connected: impl Future<Output = Result<T, DialError>> + Send + 'static) {
        let is_here = |other: &(SocketAddr, AbortHandle)| other.0 == address;
        let here: Vec<_> = self.under_way.iter().enumerate().filter(|(_, other)| is_here(other)).collect();
        if here.len() >= self.most
            && let Some((second, _)) = here.get(1)
        {
            let second = *second;
            self.under_way.remove(second).1.abort();
        }
        self.silent.push(address);
        let task = self.open.spawn(async move { (address, connected.await) });
        self.under_way.push((address, task));
    }

    /// The next that ends by itself. One that was ended for another is no news: the next address waits its time.
    async fn next_ended(&mut self) -> Option<Result<(SocketAddr, Result<T, DialError>), JoinError>> {
        loop {
            match self.open.join_next().await? {
                Err(error) if error.is_cancelled() => {}
                ended => return Some(ended),
            }
        }
    }

    /// Takes note of one that has ended: the connection, when it is complete.
    fn ended(&mut self, ended: Result<(SocketAddr, Result<T, DialError>), JoinError>) -> Option<(T, SocketAddr)> {
        self.under_way.retain(|(_, task)| !task.is_finished());
        let (address, outcome) = ended.ok()?;
        self.silent.retain(|other| *other != address);
        match outcome {
            Ok(dialled) => return Some((dialled, address)),
            Err(error) => {
                self.worst = Some(more_telling(self.worst.take(), error));
                if !self.waiting.contains(&address) && !self.failed.contains(&address) {
                    self.failed.push(address);
                }
            }
        }
        None
    }

    /// Has all that have not answered, or have failed, tried once more.
    fn repeat(&mut self) {
        self.repeated += 1;
        self.waiting.extend(self.silent.drain(..).chain(self.failed.drain(..)));
    }
}

async fn handshake(
    (connecting, withdrawal): Connecting,
    name: ServerName<'static>,
    tls: Arc<ClientConfig>,
    allowance: Option<Arc<Allowance>>,
) -> Result<Dialled, DialError> {
    let tcp = metered(connecting.await.map_err(DialError::Tcp)?, allowance);
    let stream = TlsConnector::from(tls).connect(name, tcp).await;
    let stream = stream.map_err(|error| match objection(&error) {
        Some(reason) => DialError::ShutOut(reason),
        None if is_of_protocols(&error) => DialError::NotHttp2,
        None => DialError::Tls(error),
    })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(DialError::NotHttp2);
    }
    let heard = Objection::default();
    let stream = ObservedStream::new(stream, heard.clone());
    let has_spoken = stream.has_spoken();
    let made = h2::client::Builder::new().enable_push(false).handshake(stream).await;
    let told = |error| heard.reason().map_or(DialError::Http2(error), DialError::ShutOut);
    let (sender, mut driven) = made.map_err(told)?;
    match first_frame(&mut driven, &has_spoken).await {
        Some(Err(error)) => return Err(told(error)),
        Some(Ok(())) => return Err(DialError::Ended),
        None => {}
    }
    Ok(Dialled { sender, driven, objection: heard, withdrawal })
}

/// Drives a connection until the service's first frame has come, or it has ended, and how.
async fn first_frame(driven: &mut Driven, has_spoken: &AtomicBool) -> Option<Result<(), h2::Error>> {
    poll_fn(|context| match Pin::new(&mut *driven).poll(context) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending if has_spoken.load(Ordering::Acquire) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await
}

fn end_of<T>(outcome: &Result<T, DialError>) -> HandshakeEnd {
    match outcome {
        Ok(_) => HandshakeEnd::Whole,
        Err(DialError::NotHttp2) => HandshakeEnd::OtherProtocol,
        Err(_) => HandshakeEnd::Failed,
    }
}

/// Whether the service takes none of the protocols that were offered (RFC 7301 §3.2).
fn is_of_protocols(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol)))
}

/// The families of addresses in turn, the first one's first (RFC 8305 §4).
fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (one, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut mixed = Vec::with_capacity(addresses.len());
    for place in 0..one.len().max(other.len()) {
        mixed.extend(one.get(place).copied());
        mixed.extend(other.get(place).copied());
    }
    mixed
}

/// The more telling of two errors: a server that was reached and refused says more than one that was not reached.
fn more_telling(known: Option<DialError>, new: DialError) -> DialError {
    match known {
        Some(
            known @ (DialError::Tls(_)
            | DialError::NotHttp2
            | DialError::Http2(_)
            | DialError::Ended
            | DialError::ShutOut(_)),
        ) if matches!(new, DialError::Tcp(_) | DialError::Timeout) => known,
        Some(known) if matches!(new, DialError::NoLeave) => known,
        _ => new,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_handshake_that_fails_is_told_without_the_names_of_its_certificate() {
        let host = "push.smith-family.example";
        let expected = ServerName::try_from(host).unwrap();
        let why = rustls::CertificateError::NotValidForNameContext { expected, presented: vec![host.to_owned()] };
        let error = DialError::Tls(io::Error::other(rustls::Error::InvalidCertificate(why)));
        assert_eq!(error.to_string(), "the TLS handshake failed: its certificate is for another name");
        let cut = DialError::Tls(io::Error::new(io::ErrorKind::UnexpectedEof, host));
        assert_eq!(cut.to_string(), "the TLS handshake failed: unexpected end of file");
    }

    /// So many addresses, whose handshakes the test makes itself.
    struct Addresses(u8);

    impl Network for Addresses {
        fn resolve(&self, _host: &str, port: u16, _app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
            let found = (1..=self.0).map(|last| SocketAddr::from(([192, 0, 2, last], port))).collect();
            Box::pin(async move { Ok(found) })
        }

        fn connect(&self, _address: SocketAddr, _withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
            Box::pin(std::future::pending())
        }
    }

    fn dialler(addresses: u8) -> Dialler {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let tls = Arc::new(tls.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth());
        let name = ServerName::try_from("push.example.net").unwrap();
        Dialler::new("push.example.net", 443, name, tls, Arc::new(Addresses(addresses)))
    }

    /// When a dial is complete whose handshakes take so long, each told when it begins; and how many were open at once.
    async fn dialled(most: usize, takes: impl Fn(Duration) -> Duration) -> (Option<Duration>, usize) {
        struct Open(Arc<AtomicUsize>);
        impl Drop for Open {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let dialler = dialler(1);
        let (began, open, peak) = (Instant::now(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let connect = |_| {
            let (takes, open, peak) = (takes(began.elapsed()), Arc::clone(&open), Arc::clone(&peak));
            async move {
                peak.fetch_max(open.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let _open = Open(open);
                tokio::time::sleep(takes).await;
                Ok(())
            }
        };
        let outcome = timeout(DIAL_TIMEOUT, dialler.race(most, connect)).await;
        let dialled = outcome.is_ok_and(|outcome| outcome.is_ok()).then(|| began.elapsed());
        (dialled, peak.load(Ordering::Relaxed))
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_that_hang_bar_no_later_one_and_a_slow_one_has_all_of_its_time() {
        const SECOND: Duration = Duration::from_secs(1);
        for (most, peak) in [(OPEN_FEW, OPEN_FEW), (usize::MAX, 5)] {
            for well_after in 1..=8 {
                let well = |at| if at >= SECOND * well_after { Duration::ZERO } else { DIAL_TIMEOUT };
                let (at, open) = dialled(most, well).await;
                let at = at.expect("it is well");
                assert!(at <= SECOND * (well_after + 2) && open <= peak, "{most}, {well_after}: {at:?}, {open}");
            }
            assert_eq!(dialled(most, |_| SECOND * 9).await, (Some(SECOND * 9), peak), "{most}");
            // The first is lost, and the others are slow.
            let slow = |at: Duration| if at.is_zero() { DIAL_TIMEOUT } else { SECOND * 39 / 10 };
            assert_eq!(dialled(most, slow).await.0, Some(SECOND * 59 / 10), "{most}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_hang_are_tried_one_after_the_other_also_when_earlier_handshakes_are_ended_for_them() {
        let begun = Mutex::new(Vec::new());
        let connect = |_| {
            begun.lock().push(Instant::now());
            std::future::pending::<Result<(), DialError>>()
        };
        let raced = timeout(DIAL_TIMEOUT * 3, dialler(3).race(OPEN_FEW, connect)).await;
        assert!(raced.is_err(), "all hang");
        let begun = begun.lock();
        assert_eq!(begun.len(), 3 * 5);
        assert!(begun.windows(2).all(|two| two[1] - two[0] >= NEXT_AFTER), "{begun:?}");
    }

    #[test]
    fn families_of_addresses_take_turns() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let mixed = interleaved(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(address));
        assert_eq!(mixed, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address));
        assert_eq!(interleaved(&[]), []);
    }

    #[test]
    fn a_handshake_that_was_refused_says_more_than_an_address_that_was_not_reached() {
        let tcp = || DialError::Tcp(io::ErrorKind::ConnectionRefused.into());
        assert!(matches!(more_telling(Some(DialError::NotHttp2), tcp()), DialError::NotHttp2));
        assert!(matches!(more_telling(Some(tcp()), DialError::NotHttp2), DialError::NotHttp2));
        assert!(matches!(more_telling(None, DialError::Timeout), DialError::Timeout));
        assert!(matches!(more_telling(Some(tcp()), DialError::NoLeave), DialError::Tcp(_)));
        assert!(matches!(more_telling(Some(DialError::NoLeave), tcp()), DialError::Tcp(_)));
    }
}
