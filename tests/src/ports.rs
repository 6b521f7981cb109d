//! Free ports on loopback, for servers that must be told their port before they start.
//!
//! Invariant: a port is given once, to one test on this machine, until the process ends; it lies below the range from
//! which the kernel takes ports for outgoing connections.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// The first port that is given; below it are the media of softphones.
const FIRST: u16 = 16_000;
/// How many ports there are to give.
const COUNT: u16 = 16_000;

/// Held for the life of the process: an abstract socket whose name reserves the port against other processes.
static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that is free for UDP and for TCP on 127.0.0.1.
///
/// # Panics
/// When every port of the range is taken.
pub fn free() -> u16 {
    candidates().find(|port| reserve(*port)).expect("a free port on loopback")
}

/// The first of this many free ports in a row, for a program that is told one and takes others above it.
///
/// # Panics
/// When no such row is free.
pub fn free_row(count: u16) -> u16 {
    // A reservation whose neighbour is taken stays: nobody misses it.
    candidates().find(|first| (*first..first + count).all(reserve)).expect("a row of free ports on loopback")
}

/// Every port of the range, from a random one on.
fn candidates() -> impl Iterator<Item = u16> {
    let mut random = [0; 2];
    aws_lc_rs::rand::fill(&mut random).expect("the system has randomness");
    let start = u16::from_be_bytes(random) % COUNT;
    (0..COUNT).map(move |step| FIRST + (start + step) % COUNT)
}

/// A free port as an address on 127.0.0.1.
pub fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free()))
}

fn reserve(port: u16) -> bool {
    let Ok(name) = UnixAddr::from_abstract_name(format!("sipwake-tests-port-{port}")) else {
        return false;
    };
    let Ok(reservation) = UnixListener::bind_addr(&name) else {
        return false;
    };
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()
        && UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    if free {
        RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(reservation);
    }
    free
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once() {
        let ports: Vec<u16> = (0..20).map(|_| free()).collect();
        for (index, port) in ports.iter().enumerate() {
            assert!(!ports[..index].contains(port));
        }
    }

    #[test]
    fn a_row_of_ports_is_given_once() {
        let first = free_row(3);
        assert!((first..first + 3).all(|port| !reserve(port)));
    }
}
