//! The UDP sockets toward SIP servers: one for each core, all at one address (`SO_REUSEPORT`).
//!
//! A [`Steering`] tells the system which of them a datagram is for; where it tells nothing, or the system takes none, the sender's
//! address decides.
//!
//! Invariant: however many datagrams come, all else on their core has its turn after [`ROUNDS`]. A datagram that cannot be sent or received never ends the loop: UDP promises nothing, and the layers
//! above send again. Another process that listens at the address is an error at the start, not a competitor.

mod batch;
mod group;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover, set_socket_recv_buffer_size,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::drain::Drain;
use batch::Space;
pub use group::Steering;

/// The receive buffer requested of the kernel for the time while the loop is busy, in bytes: some thousand registrations. The system may give
/// less (`net.core.rmem_max`); a datagram that does not fit is lost, and sent again by the SIP server.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How often as many datagrams are taken as there is room for, one time after the other, before others have their turn.
const ROUNDS: u32 = 8;
/// The pause after the system failed to receive.
const PAUSE: Duration = Duration::from_millis(10);

/// Bound sockets at one address; cheap to clone.
#[derive(Debug, Clone)]
pub struct Udp {
    sockets: Arc<[UdpSocket]>,
    local: SocketAddr,
}

/// A received datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Bytes,
    /// The sender.
    pub peer: SocketAddr,
}

impl Udp {
    /// Binds `address`, with a socket for each of so many cores; port 0 takes a free one. Fails when the port is taken or not permitted.
    pub fn bind(cores: usize, address: SocketAddr, steering: &Steering) -> io::Result<Self> {
        let sockets = group::bind(cores, address, steering)?;
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            // A smaller buffer works too.
            let _ = set_socket_recv_buffer_size(socket, RECEIVE_BUFFER);
            allow_fragments(socket);
        }
        let local = sockets[0].local_addr()?;
        Ok(Self { sockets: sockets.into(), local })
    }

    /// How many sockets there are.
    pub fn cores(&self) -> usize {
        self.sockets.len()
    }

    /// The address that it is bound to, with the port it got.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Sends one datagram without waiting. Fails when the system refuses, as for a datagram over its MTU or an unreachable
    /// network, and with `WouldBlock` when the kernel's buffer is full.
    pub fn send(&self, core: usize, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.of(core).send_to(bytes, to).map(drop)
    }

    /// Sends datagrams without waiting, by as few calls of the system as it takes. One that cannot be sent is lost, as any
    /// datagram may be, and the others are sent.
    pub fn send_all(&self, core: usize, datagrams: &mut Vec<(SocketAddr, Bytes)>) {
        match &datagrams[..] {
            [] => return,
            [(to, bytes)] => drop(self.send(core, bytes, *to)),
            all => batch::send(self.of(core), all),
        }
        datagrams.clear();
    }

    /// Gives each datagram that comes for a core to `deliver` until the drain begins.
    ///
    /// # Errors
    /// When the socket cannot be read from by this runtime.
    pub async fn receive(&self, core: usize, drain: &Drain, mut deliver: impl FnMut(Datagram)) -> io::Result<()> {
        let own = self.of(core);
        let socket = readable(own.try_clone()?)?;
        let mut space = Space::new();
        let end = drain.begun();
        tokio::pin!(end);
        let mut rounds = 0;
        loop {
            let mut ready = tokio::select! {
                ready = socket.readable() => ready?,
                () = &mut end => return Ok(()),
            };
            match space.receive(own, &mut deliver) {
                // As many as there was room for: there may be more. A socket that stays ready is waited for by nobody.
                Ok(true) => {
                    rounds += 1;
                    if rounds == ROUNDS {
                        rounds = 0;
                        yield_now().await;
                    }
                }
                Ok(false) => {
                    rounds = 0;
                    ready.clear_ready();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => {
                    tracing::debug!(event = "datagram-not-received", %error, "a datagram could not be received");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn of(&self, core: usize) -> &UdpSocket {
        &self.sockets[core % self.sockets.len()]
    }
}

/// Whether a datagram from this address of a socket to that one can be sent at all: by IPv4 to IPv4, by IPv6 to IPv6, by both from all addresses
/// of IPv6, and from a loopback address to this machine alone.
pub fn sends_to(from: IpAddr, to: IpAddr) -> bool {
    let to = to.to_canonical();
    let is_of_family = match (from, to) {
        (IpAddr::V6(from), IpAddr::V4(_)) => from.is_unspecified() || from.to_ipv4_mapped().is_some(),
        (from, to) => from.is_ipv4() == to.is_ipv4(),
    };
    is_of_family && (!from.to_canonical().is_loopback() || to.is_loopback() || routes_from(from, to))
}

/// Whether the system routes a datagram between these addresses; none is sent. What it lets leave from loopback goes to an address of its own.
pub fn routes_from(from: IpAddr, to: IpAddr) -> bool {
    // Any port will do. A process without room for a socket knows nothing against it.
    UdpSocket::bind((from, 0)).map_or(true, |socket| socket.connect((to, 9)).is_ok())
}

/// Lets routers cut a datagram that is larger than what is next (DF is clear): where the word that it is too large is filtered, as behind many a
/// tunnel, it would be lost each time that it is sent.
fn allow_fragments(socket: &UdpSocket) {
    // By IPv6 only its sender may cut a datagram (RFC 8200 §5), and each kind of socket knows the options of its own kind.
    let _ = set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT);
    let _ = set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT);
}

/// A socket that wakes its task when there is something to read, and only then: that there is room to send again is told after
/// every datagram that was sent.
fn readable(socket: UdpSocket) -> io::Result<AsyncFd<UdpSocket>> {
    // SAFETY: a `UdpSocket` owns its descriptor, shows the same one at all times and closes it when it is dropped, which is after
    // the registration has ended.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
    registered.map_err(|refused| refused.into_parts().1)
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::ip_mtu_discover;

    use super::super::drain::drain;
    use super::*;

    #[tokio::test]
    async fn datagrams_that_come_faster_than_they_are_read_leave_turns_to_all_else() {
        let udp = Udp::bind(1, "127.0.0.1:0".parse().expect("an address"), &Steering::default()).expect("a free port");
        let (own, (trigger, drain)) = (udp.local_address(), drain());
        let sends = |count: usize| (0..count).for_each(|_| udp.send(0, b"INVITE", own).expect("sent"));
        sends(64);
        let received = std::cell::Cell::new(0);
        // One comes for each that is read, until there have been more than anybody should wait for.
        let receive = udp.receive(0, &drain, |_| {
            received.set(received.get() + 1);
            match received.get() {
                ..10_000 => sends(1),
                _ => trigger.begin(),
            }
        });
        let other = async {
            while received.get() == 0 {
                yield_now().await;
            }
            trigger.begin();
        };
        let (done, ()) = tokio::join!(receive, other);
        done.expect("received");
        assert!(received.get() < 1_000, "{}", received.get());
    }

    #[test]
    fn a_datagram_may_be_cut_on_its_way() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let udp = Udp::bind(1, address.parse().expect("an address"), &Steering::default()).expect("a free port");
            let discovery = ip_mtu_discover(udp.of(0)).expect("an IPv4 option, which a socket of IPv6 has, too");
            assert_eq!(discovery, Ipv4PathMtuDiscovery::DONT, "{address}");
        }
    }
}
