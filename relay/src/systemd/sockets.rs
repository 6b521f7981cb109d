//! Sockets that the service manager has bound and hands over (sd_listen_fds(3)): they stay open while the relay restarts, and who
//! connects meanwhile waits instead of being refused.
//!
//! Invariant: a socket is given out once, for the address that it is bound to; one that nobody has asked for is told by
//! [`unserved`]. Without a call of [`adopt`] there are none.

use std::env;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// More are not looked at.
const MAX: RawFd = 64;

/// What was handed over and not given out.
static HELD: Mutex<Vec<(TcpListener, SocketAddr)>> = Mutex::new(Vec::new());

/// Takes what the environment says was handed over to this process. Called once, before anything else opens a file.
pub fn adopt() {
    let number = |name: &str| env::var(name).ok()?.parse::<RawFd>().ok();
    let is_for_us = number("LISTEN_PID").is_some_and(|pid| u32::try_from(pid) == Ok(std::process::id()));
    let count = number("LISTEN_FDS").filter(|_| is_for_us).unwrap_or(0).clamp(0, MAX);
    let sockets = (FIRST..FIRST + count).filter_map(|descriptor| {
        // SAFETY: systemd has opened this descriptor for this process (LISTEN_PID names it), and nobody else here owns it: this is
        // called once, before any other file is opened.
        #[allow(unsafe_code)]
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        inherited(socket)
    });
    held().extend(sockets);
}

/// The listener for `address`, when it was handed over.
pub fn stream(address: SocketAddr) -> Option<TcpListener> {
    let mut held = held();
    let index = held.iter().position(|(_, local)| is_for(*local, address))?;
    Some(held.swap_remove(index).0)
}

/// The addresses of what nobody has asked for: peers that connect there are heard by nobody.
pub fn unserved() -> Vec<SocketAddr> {
    held().iter().map(|(_, local)| *local).collect()
}

/// Datagrams are not taken over: who has sent one that nobody was there for sends it again, and each core has a socket of its own.
fn inherited(socket: OwnedFd) -> Option<(TcpListener, SocketAddr)> {
    fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
    if socket_type(&socket).ok()? != SocketType::STREAM {
        return None;
    }
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true).ok()?;
    let local = listener.local_addr().ok()?;
    Some((listener, local))
}

/// `[::]:5061` serves `0.0.0.0:5061` as well.
fn is_for(local: SocketAddr, wanted: SocketAddr) -> bool {
    let both_any = local.ip().is_unspecified() && wanted.ip().is_unspecified();
    local == wanted || local.port() == wanted.port() && both_any && (local.is_ipv6() || wanted.is_ipv4())
}

fn held() -> MutexGuard<'static, Vec<(TcpListener, SocketAddr)>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_for_its_own_address_and_the_one_for_both_families_for_either() {
        for (local, wanted, fits) in [
            ("0.0.0.0:5061", "0.0.0.0:5061", true),
            ("[::]:5061", "0.0.0.0:5061", true),
            ("[::]:5061", "[::]:5061", true),
            ("0.0.0.0:5061", "[::]:5061", false),
            ("0.0.0.0:5061", "0.0.0.0:5062", false),
            ("127.0.0.1:5061", "0.0.0.0:5061", false),
            ("0.0.0.0:5061", "127.0.0.1:5061", false),
        ] {
            assert_eq!(is_for(local.parse().unwrap(), wanted.parse().unwrap()), fits, "{local} for {wanted}");
        }
    }
}
