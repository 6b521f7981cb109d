//! Hops: the sources and destinations of messages at the SIP server that comes with a relay without a configuration.
//!
//! Invariant: a hop that is read from a message is on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sip::message::{Scheme, Uri};

/// The next or the last hop: a datagram's address, or a connection's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) is_tcp: bool,
    pub(super) address: SocketAddr,
}

impl Hop {
    /// As it stands in a Via.
    pub(super) fn written(self) -> String {
        format!("{}-{}-{}", if self.is_tcp { "tcp" } else { "udp" }, self.address.ip(), self.address.port())
    }

    /// Reads the form of [`Hop::written`].
    pub(super) fn read(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (kind, ip, port) = (parts.next()?, parts.next()?, parts.next()?);
        let ip: Ipv4Addr = ip.parse().ok().filter(Ipv4Addr::is_loopback)?;
        Some(Self { is_tcp: kind == "tcp", address: SocketAddr::new(ip.into(), port.parse().ok()?) })
    }
}

/// The hop that a URI leads to; on loopback, and by UDP or TCP alone.
pub(super) fn hop_to(uri: &Uri<'_>) -> Option<Hop> {
    let is_tcp = match uri.transport() {
        None => false,
        Some(udp) if udp.eq_ignore_ascii_case("udp") => false,
        Some(tcp) if tcp.eq_ignore_ascii_case("tcp") => true,
        Some(_) => return None,
    };
    let ip = loopback(uri.host).filter(|_| uri.scheme == Scheme::Sip)?;
    Some(Hop { is_tcp, address: SocketAddr::new(ip, uri.port.unwrap_or(5060)) })
}

/// The address of a host on loopback.
pub(super) fn loopback(host: &str) -> Option<IpAddr> {
    let ip = if host.eq_ignore_ascii_case("localhost") { Ipv4Addr::LOCALHOST } else { host.parse().ok()? };
    ip.is_loopback().then_some(ip.into())
}
