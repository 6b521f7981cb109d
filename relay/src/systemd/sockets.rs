//! Sockets that the service manager has bound and hands over (sd_listen_fds(3)): they stay open while the relay restarts, and who
//! connects meanwhile waits instead of being refused.
//!
//! | the socket that is held, beside the address that is wanted, at the same port | what is served |
//! | --- | --- |
//! | is that address | the socket |
//! | is `[::]` for `0.0.0.0` | the socket, and the log says so: IPv6 is served as well |
//! | is a part of it: `0.0.0.0`, or one address, of `[::]` | the socket, and the log says so: who comes to the rest finds nobody |
//! | is more than it | nothing: the start names the unit of the sockets, for nobody shall listen where no setting says so |
//!
//! Invariant: a socket is given out once; one that nobody has asked for is told by [`unserved`]. Without a call of [`adopt`] there are none.

use std::env;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::MutexGuard;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::lock::Mutex;

/// The first descriptor that is handed over.
const FIRST: RawFd = 3;
/// More are not looked at.
const MAX: RawFd = 64;

/// Sockets handed over and not given out yet.
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

/// The remedy where a socket is not for the address that is wanted.
const REMEDY: &str =
    "let both name the same address (systemctl edit sipwake.socket: an empty ListenStream=, then each address)";

/// The listener for `address`, when it was handed over.
///
/// # Errors
/// When what was handed over is in the way of that address.
pub fn stream(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    let mut held = held();
    let place = |fits: fn(SocketAddr, SocketAddr) -> bool| held.iter().position(|(_, local)| fits(*local, address));
    if let Some(index) = place(is_for) {
        let (listener, local) = held.swap_remove(index);
        if local != address {
            tracing::info!(event = "socket-both-families", wanted = %address, held = %local, "the service manager holds this port of IPv6 addresses, too, and they are served");
        }
        return Ok(Some(listener));
    }
    if let Some(index) = place(is_part_of) {
        let (listener, local) = held.swap_remove(index);
        tracing::warn!(event = "socket-narrower", wanted = %address, held = %local, remedy = REMEDY, "the service manager holds a part of this address alone, and that is served");
        return Ok(Some(listener));
    }
    match place(|local, wanted| is_part_of(wanted, local)).and_then(|index| held.get(index)) {
        Some((_, local)) => {
            let why = format!(
                "the service manager (systemd's sipwake.socket) holds {local}, which is more than that; {REMEDY}"
            );
            Err(io::Error::new(io::ErrorKind::AddrInUse, why))
        }
        None => Ok(None),
    }
}

/// The addresses of what nobody has asked for: peers that connect there are heard by nobody.
pub fn unserved() -> Vec<SocketAddr> {
    held().iter().map(|(_, local)| *local).collect()
}

/// Datagrams are not taken over: the sender of a lost one sends it again, and each core has a socket of its own.
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

/// Whether who is bound to `whole` keeps others from `part`, which is less of the same port.
fn is_part_of(part: SocketAddr, whole: SocketAddr) -> bool {
    let is_wider = match whole.ip() {
        IpAddr::V4(ip) => ip.is_unspecified() && part.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    is_wider && part.port() == whole.port() && part.ip() != whole.ip()
}

fn held() -> MutexGuard<'static, Vec<(TcpListener, SocketAddr)>> {
    HELD.lock()
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

    /// One test for all, for what is held is the process's.
    #[test]
    fn a_socket_that_is_less_is_served_and_one_that_is_more_is_told_as_what_is_in_the_way() {
        let hold = |address: &str| {
            let listener = TcpListener::bind(address).unwrap();
            let local = listener.local_addr().unwrap();
            held().push((listener, local));
            local
        };
        let any = |port: u16, ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
        let port = hold("127.0.0.1:0").port();
        assert!(stream(any(port, "127.0.0.2")).unwrap().is_none(), "that is another one");
        let served = stream(any(port, "0.0.0.0")).unwrap().expect("a part is served");
        assert_eq!(served.local_addr().unwrap(), any(port, "127.0.0.1"));
        assert!(stream(any(port, "0.0.0.0")).unwrap().is_none(), "once");
        let port = hold("0.0.0.0:0").port();
        let error = stream(any(port, "127.0.0.1")).unwrap_err();
        assert!(error.kind() == io::ErrorKind::AddrInUse && error.to_string().contains("sipwake.socket"), "{error}");
        assert!(unserved().contains(&any(port, "0.0.0.0")), "it is given to nobody");
        let served = stream(any(port, "::")).unwrap().expect("the one family of both");
        assert_eq!(served.local_addr().unwrap(), any(port, "0.0.0.0"));
        assert!(stream(any(port.wrapping_add(1), "::")).unwrap().is_none(), "another port");
    }
}
