//! A door in front of a TCP server that a test opens and closes: the server goes away and comes back at the same address, or is far away.
//!
//! Invariant: while it is closed nobody listens there, and what came through before is cut off; it closes when dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::ports;
use crate::wire::Tasks;

/// The door.
pub struct Gate {
    address: SocketAddr,
    server: SocketAddr,
    open: Option<(JoinHandle<()>, Arc<Tasks>)>,
    /// How long what the server answers is held back, in milliseconds.
    delay_ms: Arc<AtomicU64>,
}

impl Gate {
    /// A closed door in front of `server`, at a port of its own on 127.0.0.1.
    pub fn closed(server: SocketAddr) -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into(), server)
    }

    /// The same on ::1.
    pub fn closed_v6(server: SocketAddr) -> Self {
        Self::at(Ipv6Addr::LOCALHOST.into(), server)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it lead to another server, as a fail-over does, and cuts off who came through to the earlier one.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn lead_to(&mut self, server: SocketAddr) -> io::Result<()> {
        if let Some((accept, tasks)) = self.open.take() {
            accept.abort();
            drop(tasks);
            // Its port is free when it has ended.
            let _ = accept.await;
        }
        self.server = server;
        self.open()
    }

    /// Lets connections through from now on.
    ///
    /// # Errors
    /// When its port cannot be bound.
    pub fn open(&mut self) -> io::Result<()> {
        self.open_slow(Duration::ZERO)
    }

    /// The same, with what the server answers at one time held back for so long.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_slow(&mut self, delay: Duration) -> io::Result<()> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        let listener = socket.listen(64)?;
        let tasks: Arc<Tasks> = Arc::default();
        self.slow_down(delay);
        let (server, owner) = (self.server, Arc::downgrade(&tasks));
        let held_back = self.delay_ms.clone();
        let accept = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(owner) = owner.upgrade() else { return };
                let held_back = held_back.clone();
                let through = async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = (client.set_nodelay(true), server.set_nodelay(true));
                        // An error is the end of the connection, as a close is.
                        let _ = if delay.is_zero() {
                            copy_bidirectional(&mut client, &mut server).await.map(drop)
                        } else {
                            copy_slowly(client, server, &held_back).await
                        };
                    }
                };
                owner.own(tokio::spawn(through).abort_handle());
            }
        });
        self.open = Some((accept, tasks));
        Ok(())
    }

    /// Holds back for so long what the server answers from now on, also on the connections of a door that was [opened slowly](Self::open_slow).
    pub fn slow_down(&self, delay: Duration) {
        self.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Lets nobody through from now on, and cuts off who is.
    pub fn close(&mut self) {
        if let Some((accept, tasks)) = self.open.take() {
            accept.abort();
            drop(tasks);
        }
    }

    fn at(ip: IpAddr, server: SocketAddr) -> Self {
        Self { address: SocketAddr::new(ip, ports::free()), server, open: None, delay_ms: Arc::default() }
    }
}

async fn copy_slowly(client: TcpStream, server: TcpStream, delay_ms: &AtomicU64) -> io::Result<()> {
    let ((mut asked, mut told), (mut answers, mut questions)) = (client.into_split(), server.into_split());
    let forth = async { copy(&mut asked, &mut questions).await.map(drop) };
    let back = async {
        let mut some = vec![0; 1 << 20];
        loop {
            let length = answers.read(&mut some).await?;
            if length == 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed))).await;
            told.write_all(&some[..length]).await?;
        }
    };
    tokio::select! {
        ended = forth => ended,
        ended = back => ended,
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}
