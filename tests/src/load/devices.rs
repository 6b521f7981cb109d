//! The devices: they come over TLS when they are pushed, or stay attached and wait.
//!
//! A device connects to the edge, registers with its instance's secret as a bearer token (RFC 8898), answers the INVITE
//! that follows at once, and hangs on until the caller's BYE. Each connection is a full TLS handshake, as a phone's is that was
//! not here for a day; with `--resume` it resumes the session of an earlier one, where there was one.
//!
//! Invariant: every wait has a deadline; a device that fails is counted with the first reason in words.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustls_pki_types::ServerName;
use sip::message::{Composer, Frame, Framer, Limits, Message, Method, Name};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::accounts::{Account, Accounts};
use super::caller::Caller;
use super::measure::{Count, Samples};
use super::sessions::Sessions;
use crate::authority::Authority;

/// How long each step of a device may take: connecting, being registered, being called, being hung up on.
const STEP: Duration = Duration::from_secs(10);
/// Devices that attach at once.
const ATTACHING: usize = 64;
/// Loopback addresses that connections come from, as from many networks; each has its own ports.
const SOURCES: u32 = 16;
/// Bytes of a device's read buffer while it waits; small, because tens of thousands wait.
const READ_BYTES: usize = 2_048;

/// All devices.
pub struct Devices {
    accounts: Accounts,
    caller: Arc<Caller>,
    edge: SocketAddr,
    tls: TlsConnector,
    /// From a push to a finished TLS handshake and registration.
    pub coming: Samples,
    /// Connections that got to their 200.
    pub attached: AtomicU64,
    /// Devices that did not get through.
    pub failed: Count,
    first_failure: Mutex<Option<String>>,
}

impl Devices {
    /// Devices of these accounts, at this edge.
    pub fn new(accounts: Accounts, caller: Arc<Caller>, edge: SocketAddr, authority: &Authority, resume: bool) -> Self {
        let full = full_handshakes(authority, &[]);
        let tls = TlsConnector::from(if resume { resumed(&full) } else { full });
        let (coming, attached, failed) = (Samples::default(), AtomicU64::new(0), Count::default());
        Self { accounts, caller, edge, tls, coming, attached, failed, first_failure: Mutex::default() }
    }

    /// The device of an account comes, takes its call, and leaves when that is over.
    pub async fn come(&self, number: u32) {
        let begun = Instant::now();
        let visit = async {
            let mut device = self.attach(number).await?;
            self.coming.add(begun.elapsed().as_nanos() as u64);
            while !tokio::time::timeout(STEP, device.step(&self.caller)).await?? {}
            device.leave().await
        };
        if let Err(error) = visit.await {
            self.fail(number, &error);
        }
    }

    /// Attaches the devices of the first `count` accounts; they stay until the returned set is dropped. `enough` is how
    /// long all of them together may take.
    pub async fn attach_many(self: &Arc<Self>, count: u32, enough: Duration) -> JoinSet<()> {
        let mut staying = JoinSet::new();
        let doors = Arc::new(Semaphore::new(ATTACHING));
        let before = self.attached.load(Ordering::Relaxed) + self.failed.get();
        for number in 0..count {
            let (devices, doors) = (self.clone(), doors.clone());
            staying.spawn(async move {
                // The semaphore is never closed.
                let Ok(door) = doors.acquire().await else { return };
                let device = devices.attach(number).await;
                drop(door);
                let stayed = match device {
                    Ok(mut device) => loop {
                        if let Err(error) = device.step(&devices.caller).await {
                            break Err::<(), _>(error);
                        }
                    },
                    Err(error) => Err(error),
                };
                if let Err(error) = stayed {
                    devices.fail(number, &error);
                }
            });
        }
        let deadline = Instant::now() + enough;
        let here = || self.attached.load(Ordering::Relaxed) + self.failed.get() - before;
        while here() < u64::from(count) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        staying
    }

    /// Why the first one failed.
    pub fn first_failure(&self) -> Option<String> {
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, number: u32, error: &io::Error) {
        self.failed.add();
        let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| format!("the device of account {number}: {error}"));
    }

    async fn attach(&self, number: u32) -> io::Result<Device> {
        let account = &self.accounts[number as usize];
        let stream = tokio::time::timeout(STEP, connect(number, self.edge, &self.tls)).await??;
        let mut device = Device { stream, framer: Framer::new(Limits::default()), local: String::new() };
        device.local = device.stream.get_ref().0.local_addr()?.to_string();
        tokio::time::timeout(STEP, device.register(account, self.edge)).await??;
        self.attached.fetch_add(1, Ordering::Relaxed);
        Ok(device)
    }
}

/// A TCP and TLS connection to `to`, from one of several loopback addresses.
pub async fn connect(number: u32, to: SocketAddr, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4()?;
    let source = Ipv4Addr::new(127, 0, 1, 1 + (number % SOURCES) as u8);
    socket.bind((source, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    tls.connect(ServerName::from(to.ip()), stream).await
}

/// A TLS client that resumes no session, and wants AES-128-GCM first as phones with AES in hardware do.
pub fn full_handshakes(authority: &Authority, alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().clone()).expect("the CA certificate is one");
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs serves the default versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

/// The same client, which resumes what it can.
fn resumed(full: &rustls::ClientConfig) -> Arc<rustls::ClientConfig> {
    let mut config = full.clone();
    config.resumption = rustls::client::Resumption::store(Arc::new(Sessions::default()));
    Arc::new(config)
}

struct Device {
    stream: TlsStream<TcpStream>,
    framer: Framer,
    local: String,
}

impl Device {
    async fn register(&mut self, account: &Account, edge: SocketAddr) -> io::Result<()> {
        let Some(enabled) = account.enabled.get() else { return Err(io::Error::other("it was never enabled")) };
        let (id, secret, local) = (&enabled.id, &enabled.secret, &self.local);
        let tag = crate::digest::token();
        let register = format!(
            "REGISTER sip:{edge} SIP/2.0\r\nVia: SIP/2.0/TLS {local};branch=z9hG4bK{tag};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:{id}@{edge}>;tag={tag}\r\nTo: <sip:{id}@{edge}>\r\nCall-ID: {tag}\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:{id}@{local};transport=tls>\r\nExpires: 3600\r\nAuthorization: Bearer {secret}\r\n\
             User-Agent: sipwake load generator\r\nContent-Length: 0\r\n\r\n"
        );
        self.write(register.as_bytes()).await?;
        match self.read().await?.status() {
            Some(200) => Ok(()),
            other => Err(io::Error::other(format!("its REGISTER was answered {other:?}"))),
        }
    }

    /// Deals with one message; whether the call is over.
    async fn step(&mut self, caller: &Caller) -> io::Result<bool> {
        let message = self.read().await?;
        let at = Instant::now();
        match message.method() {
            Some(Method::Invite) => {
                caller.on_offer(&message, at);
                let contact = format!("<sip:device@{};transport=tls>", self.local);
                let sdp = crate::lines::sdp(1);
                let answer = Composer::response(&message, 200, "OK", Some("d"))
                    .header(Name::Contact, contact)
                    .body("application/sdp", sdp.as_bytes());
                self.write(&answer).await?;
            }
            Some(Method::Ack) | None => {}
            Some(method) => {
                self.write(&Composer::response(&message, 200, "OK", None).finish()).await?;
                return Ok(method == Method::Bye);
            }
        }
        Ok(false)
    }

    async fn leave(mut self) -> io::Result<()> {
        tokio::time::timeout(STEP, self.stream.shutdown()).await?
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn read(&mut self) -> io::Result<Message> {
        loop {
            match self.framer.next_frame().map_err(|error| io::Error::other(format!("{error:?}")))? {
                Some(Frame::Message(bytes)) => return parse(&bytes),
                Some(Frame::Ping) => self.write(b"\r\n").await?,
                Some(Frame::Pong | Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_)) => {}
                None => {
                    let mut buffer = [0; READ_BYTES];
                    let length = self.stream.read(&mut buffer).await?;
                    if length == 0 {
                        return Err(io::Error::other("the relay closed its connection"));
                    }
                    self.framer.push(&buffer[..length]);
                }
            }
        }
    }
}

fn parse(bytes: &Bytes) -> io::Result<Message> {
    Message::parse(bytes, &Limits::default()).map_err(|error| io::Error::other(format!("{error:?}")))
}
