//! A way to a TCP server on which one connection stalls, as when a segment is lost again and again, while new ones are well; what it
//! held arrives later, also when nobody waits for it any more.
//!
//! Invariant: bytes keep their order, and all that a client has sent arrives once the stall is over.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::wire::Tasks;

/// The way.
pub struct Stall {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    tasks: Arc<Tasks>,
}

#[derive(Clone, Default)]
enum State {
    /// Everything goes through.
    #[default]
    Open,
    /// The next message with these bytes stalls.
    Armed(Vec<u8>),
    /// The message stalls.
    Stalled,
    /// The stall is over, and the held message is on its way.
    Released,
    /// The server has read all of it, and answered.
    Arrived,
}

impl Stall {
    /// A way to `server`.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let it = Self { address: listener.local_addr()?, state: Arc::default(), tasks: Arc::default() };
        let (state, owner) = (it.state.clone(), Arc::downgrade(&it.tasks));
        let accept = async move {
            while let Ok((client, _)) = listener.accept().await {
                let (Some(owner), Ok(server)) = (owner.upgrade(), TcpStream::connect(server).await) else { return };
                owner.own(tokio::spawn(carry(client, server, state.clone())).abort_handle());
            }
        };
        it.tasks.own(tokio::spawn(accept).abort_handle());
        Ok(it)
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connection stalls that next carries these bytes to the server, from there on.
    pub fn hold(&self, bytes: &[u8]) {
        self.state.send_replace(State::Armed(bytes.to_vec()));
    }

    /// Whether one does.
    pub fn has_stalled(&self) -> bool {
        matches!(*self.state.borrow(), State::Stalled)
    }

    /// The stall is over; returns when the server has done all that was held. Its client has to be gone by then.
    pub async fn release(&self) {
        self.state.send_replace(State::Released);
        // An error means that the way is gone.
        let _ = self.state.subscribe().wait_for(|state| matches!(state, State::Arrived)).await;
    }
}

async fn carry(client: TcpStream, server: TcpStream, state: Arc<watch::Sender<State>>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut asked, mut told), (mut answers, mut questions)) = (client.into_split(), server.into_split());
    let mut has_stalled = false;
    let forth = async {
        let mut some = vec![0; 1 << 16];
        while let Ok(length @ 1..) = asked.read(&mut some).await {
            has_stalled |= state.send_if_modified(|state| match state {
                State::Armed(bytes) if some[..length].windows(bytes.len()).any(|window| window == bytes) => {
                    *state = State::Stalled;
                    true
                }
                _ => false,
            });
            if has_stalled {
                let _ = state.subscribe().wait_for(|state| matches!(state, State::Released)).await;
            }
            if questions.write_all(&some[..length]).await.is_err() {
                break;
            }
        }
        let _ = questions.shutdown().await;
    };
    // The answers to a client that is gone are read all the same.
    let back = async {
        if copy(&mut answers, &mut told).await.is_err() {
            let _ = copy(&mut answers, &mut tokio::io::sink()).await;
        }
    };
    tokio::join!(forth, back);
    if has_stalled {
        state.send_replace(State::Arrived);
    }
}
