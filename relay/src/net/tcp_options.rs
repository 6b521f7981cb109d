//! TCP that sends at once, and again soon.
//!
//! The system doubles its pause with each segment that is not acknowledged, up to two minutes: a CANCEL that was written while the path to a
//! phone was broken for a minute would arrive a minute after that is well again, and the phone ring so long.
//!
//! Invariant: a connection works without any of this, only slower.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;

/// The longest pause before what is not acknowledged is sent again.
const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(2);
/// A connection ends when nothing was acknowledged for so long, or its peer had no room for more. The system's own limit is a number of tries, which is reached early
/// where the pauses are short.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5 * 60);
/// `TCP_RTO_MAX_MS` of Linux, since 6.15.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Small writes leave at once (TCP_NODELAY), and what is lost is sent again within [`SENT_AGAIN_WITHIN`], where the system can.
pub(super) fn be_prompt(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    if limit_pause(stream, SENT_AGAIN_WITHIN).is_ok() {
        let _ = set_tcp_user_timeout(stream, GIVEN_UP_AFTER.as_millis() as u32);
    }
}

/// How many bytes the system has taken that the peer has not acknowledged.
pub(super) fn unacknowledged(stream: &impl AsFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ for a socket, writes an `int`, which outlives the call.
    #[allow(unsafe_code)]
    let outcome = unsafe { libc::ioctl(stream.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if outcome == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

fn limit_pause(stream: &impl AsFd, pause: Duration) -> io::Result<()> {
    let millis = pause.as_millis() as libc::c_int;
    // SAFETY: the option takes an `int`, which outlives the call.
    #[allow(unsafe_code)]
    let outcome = unsafe {
        libc::setsockopt(
            stream.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const millis).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt::{tcp_nodelay, tcp_user_timeout};
    use tokio::net::TcpListener;

    use super::*;

    /// The version of this Linux.
    fn release() -> (u32, u32) {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("it says");
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut next = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (next(), next())
    }

    #[tokio::test]
    async fn what_is_not_acknowledged_is_sent_again_soon_for_minutes_where_the_system_can() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("it is there");
        be_prompt(&stream);
        assert!(tcp_nodelay(&stream).expect("its option"));
        let given_up = if release() >= (6, 15) { 300_000 } else { 0 };
        assert_eq!(tcp_user_timeout(&stream).expect("its option"), given_up);
    }
}
