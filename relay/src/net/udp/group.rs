//! Several sockets at one address, and which of them a datagram is for.
//!
//! Invariant: the first socket is bound alone, so that an address that somebody listens at already is refused as ever; only then are
//! the others let in. A [`Steering`] that the system does not take, or that names no socket, changes nothing but where a datagram is read.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::net::sockopt::set_socket_reuseport;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// Programs of classic BPF, the first of which that the system takes runs there for each datagram, and returns the number of the core
/// that it is for; see `SO_ATTACH_REUSEPORT_CBPF` in socket(7). Its loads begin at the datagram's own first byte. Without a program, the sender's address decides.
#[derive(Debug, Clone, Default)]
pub struct Steering(Vec<Box<[libc::sock_filter]>>);

impl Steering {
    /// Programs, the best first; each instruction: code, jump if true, jump if false, operand.
    pub fn programs(programs: impl IntoIterator<Item = Vec<(u16, u8, u8, u32)>>) -> Self {
        let instruction = |(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k };
        Self(programs.into_iter().map(|program| program.into_iter().map(instruction).collect()).collect())
    }
}

/// Binds a socket for each core.
pub(super) fn bind(cores: usize, address: SocketAddr, steering: &Steering) -> io::Result<Vec<UdpSocket>> {
    let first = UdpSocket::bind(address)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    if cores > 1 {
        set_socket_reuseport(&sockets[0], true)?;
        for _ in 1..cores {
            sockets.push(joining(address)?);
        }
        if let Err(error) = attach(&sockets[0], steering) {
            tracing::info!(event = "datagrams-unsteered", %error, "the system steers no datagrams: they are handed from core to core");
        }
    }
    Ok(sockets)
}

fn joining(address: SocketAddr) -> io::Result<UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket.into())
}

fn attach(socket: &impl AsFd, steering: &Steering) -> io::Result<()> {
    let mut outcome = Ok(());
    for program in &steering.0 {
        outcome = attach_one(socket, program);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn attach_one(socket: &impl AsFd, instructions: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: instructions.as_ptr().cast_mut() };
    // SAFETY: the option takes a `sock_fprog`, whose filter points to `len` instructions; both outlive the call, which copies
    // them and changes neither.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
