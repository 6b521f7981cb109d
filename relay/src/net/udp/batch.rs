//! Several datagrams by one call of the system.
//!
//! Invariant: a received datagram lies here for the moment of its delivery, and is wiped. The `unsafe` code is the one call that
//! no crate of ours wraps (recvmmsg), and what it needs.

use std::io::{self, IoSlice};
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::ptr;

use bytes::Bytes;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny};

use super::Datagram;

/// Datagrams received at once.
const RECEIVED: usize = 8;
/// Datagrams sent at once.
const SENT: usize = 32;
/// The largest datagram (RFC 768).
const MAX_DATAGRAM: usize = 65_535;

/// Space for received datagrams. The system gives a page when it is first written to.
pub(super) struct Space(Vec<u8>);

impl Space {
    pub(super) fn new() -> Self {
        Self(vec![0; RECEIVED * MAX_DATAGRAM])
    }

    /// Delivers what is there, at most as many as there is room for; whether it was as many.
    pub(super) fn receive(&mut self, socket: &UdpSocket, deliver: &mut impl FnMut(Datagram)) -> io::Result<bool> {
        let mut peers = [NO_PEER; RECEIVED];
        let mut parts = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; RECEIVED];
        for (part, place) in parts.iter_mut().zip(self.0.chunks_exact_mut(MAX_DATAGRAM)) {
            *part = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
        }
        let mut headers = [NO_HEADER; RECEIVED];
        for ((header, part), peer) in headers.iter_mut().zip(&mut parts).zip(&mut peers) {
            header.msg_hdr.msg_name = ptr::from_mut(peer).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: there are `RECEIVED` headers; each points to an address and to one part, which points to `MAX_DATAGRAM`
        // bytes that nobody else has; all of them outlive the call, which keeps nothing.
        #[allow(unsafe_code)]
        let count = unsafe {
            let flags = libc::MSG_DONTWAIT;
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), RECEIVED as _, flags as _, ptr::null_mut())
        };
        let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
        for ((header, peer), place) in headers.iter().zip(&peers).zip(self.0.chunks_exact_mut(MAX_DATAGRAM)).take(count)
        {
            let written = &mut place[..(header.msg_len as usize).min(MAX_DATAGRAM)];
            // A copy of the datagram's own size: a slice would keep the whole space alive.
            let bytes = Bytes::copy_from_slice(written);
            // A peer's text must not lie here until a datagram as long comes. The zeros are written, for the system is given this space again.
            written.fill(0);
            if let Some(peer) = address_of(peer) {
                deliver(Datagram { bytes, peer });
            }
        }
        Ok(count == RECEIVED)
    }
}

/// An address that was not written yet; of the larger of the two kinds.
const NO_PEER: libc::sockaddr_in6 = libc::sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};

/// A header that points nowhere.
// SAFETY: a header is numbers and pointers, for which all zeros is a value.
#[allow(unsafe_code)]
const NO_HEADER: libc::mmsghdr = unsafe { zeroed() };

/// An address as the system has written it; `None` when it is no address of the Internet.
fn address_of(peer: &libc::sockaddr_in6) -> Option<SocketAddr> {
    let port = u16::from_be(peer.sin6_port);
    match i32::from(peer.sin6_family) {
        // The two kinds have family and port in the same places; the address of the smaller one lies where the larger one has
        // its flow label (see `netinet/in.h`).
        libc::AF_INET => Some(SocketAddr::new(IpAddr::from(peer.sin6_flowinfo.to_ne_bytes()), port)),
        libc::AF_INET6 => Some(SocketAddr::new(IpAddr::from(peer.sin6_addr.s6_addr).to_canonical(), port)),
        _ => None,
    }
}

/// Sends datagrams; what the system does not take is left out.
pub(super) fn send(socket: &UdpSocket, datagrams: &[(SocketAddr, Bytes)]) {
    for some in datagrams.chunks(SENT) {
        let peers: Vec<SocketAddrAny> = some.iter().map(|(to, _)| SocketAddrAny::from(*to)).collect();
        let parts: Vec<[IoSlice<'_>; 1]> = some.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let mut none: Vec<SendAncillaryBuffer<'_, '_, '_>> =
            some.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let each = peers.iter().zip(&parts).zip(&mut none);
        let mut headers: Vec<_> = each.map(|((to, part), none)| MMsgHdr::new_with_addr(to, part, none)).collect();
        let mut rest = &mut headers[..];
        while !rest.is_empty() {
            // The call stops before the first that is not taken, and says why only of the first of all.
            let taken = rustix::net::sendmmsg(socket, rest, SendFlags::DONTWAIT).unwrap_or(0);
            let skipped = usize::from(taken < rest.len());
            rest = &mut rest[taken + skipped..];
        }
    }
}
