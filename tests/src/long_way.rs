//! A long way to a TCP server: whatever goes through takes its time, in each direction, as on a mobile network.
//!
//! The long way counts round trips where the machine has no `netem`: a peer that waits for an answer waits twice the way's length, and bytes sent
//! without waiting cost nothing more.
//!
//! Invariant: bytes keep their order and arrive no sooner than they may. A connection costs a round trip before its first byte, as
//! SYN and SYN-ACK do; it ends when the way is dropped.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::wire::Tasks;

/// The way.
pub struct LongWay {
    address: SocketAddr,
    one_way: Duration,
    _tasks: Tasks,
}

impl LongWay {
    /// A way to `server` that takes `one_way` in each direction.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(server: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (address, tasks) = (listener.local_addr()?, Tasks::default());
        tasks.own(tokio::spawn(accept(listener, server, one_way)).abort_handle());
        Ok(Self { address, one_way, _tasks: tasks })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many round trips fit into a time.
    pub fn round_trips(&self, took: Duration) -> u128 {
        took.as_nanos() / (2 * self.one_way).as_nanos()
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, one_way: Duration) {
    let connections = Tasks::default();
    while let Ok((client, _)) = listener.accept().await {
        connections.own(tokio::spawn(through(client, server, one_way)).abort_handle());
    }
}

async fn through(client: TcpStream, server: SocketAddr, one_way: Duration) -> io::Result<()> {
    let opened = Instant::now() + 2 * one_way;
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    // The client could not have sent anything before its SYN was answered.
    let there = carry(from_client, to_server, opened, one_way);
    let back = carry(from_server, to_client, Instant::now(), one_way);
    tokio::try_join!(there, back).map(drop)
}

/// Carries bytes; none leaves before `opened`.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    opened: Instant,
    one_way: Duration,
) -> io::Result<()> {
    let (sent, mut on_the_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let send = async move {
        let mut space = [0; 16 * 1024];
        loop {
            let length = from.read(&mut space).await?;
            // An error means that the other end is gone, as the next read shows.
            let _ = sent.send((Instant::now().max(opened) + one_way, space[..length].to_vec()));
            if length == 0 {
                return Ok(());
            }
        }
    };
    let arrive = async move {
        while let Some((due, bytes)) = on_the_way.recv().await {
            sleep_until(due).await;
            if bytes.is_empty() { to.shutdown().await? } else { to.write_all(&bytes).await? }
        }
        Ok(())
    };
    tokio::try_join!(send, arrive).map(drop)
}
