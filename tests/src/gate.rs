//! A door in front of a TCP server that a test opens and closes: the server goes away and comes back at the same address.
//!
//! Invariant: while it is closed nobody listens there, and what came through before is cut off; it closes when dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

use crate::ports;
use crate::wire::Tasks;

/// The door.
pub struct Gate {
    address: SocketAddr,
    server: SocketAddr,
    open: Option<(JoinHandle<()>, Arc<Tasks>)>,
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

    /// Lets connections through from now on.
    ///
    /// # Errors
    /// When its port cannot be bound.
    pub fn open(&mut self) -> io::Result<()> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        let listener = socket.listen(64)?;
        let tasks: Arc<Tasks> = Arc::default();
        let (server, owner) = (self.server, Arc::downgrade(&tasks));
        let accept = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let Some(owner) = owner.upgrade() else { return };
                let through = async move {
                    if let Ok(mut server) = TcpStream::connect(server).await {
                        let _ = (client.set_nodelay(true), server.set_nodelay(true));
                        // An error is the end of the connection, as a close is.
                        let _ = copy_bidirectional(&mut client, &mut server).await;
                    }
                };
                owner.own(tokio::spawn(through).abort_handle());
            }
        });
        self.open = Some((accept, tasks));
        Ok(())
    }

    /// Lets nobody through from now on, and cuts off who is.
    pub fn close(&mut self) {
        if let Some((accept, tasks)) = self.open.take() {
            accept.abort();
            drop(tasks);
        }
    }

    fn at(ip: IpAddr, server: SocketAddr) -> Self {
        Self { address: SocketAddr::new(ip, ports::free()), server, open: None }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.close();
    }
}
