//! Connecting to a host of the web by its name: a CA, a collector, another relay.
//!
//! Invariant: no address is waited for longer than [`super::dial::CONNECT_TIMEOUT`], and the families come by turns (RFC 8305 §4): where the
//! network drops one of them, the second address is of the other.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::dial::{self, DialError};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// The system's word.
    #[error("its name does not resolve: {0}")]
    Name(io::Error),
    /// The system knows the name alone.
    #[error("its name has no address")]
    NoAddress,
    /// The error of its last address.
    #[error(transparent)]
    Dial(#[from] DialError),
}

/// The addresses of a host (bracketed when it is one of IPv6), in the order in which they are tried.
///
/// # Errors
/// The system's word, when the name does not resolve.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    Ok(by_turns(tokio::net::lookup_host((bare, port)).await?))
}

/// Connects to the first address of a host that answers.
///
/// # Errors
/// [`NoConnection`] when none does.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, NoConnection> {
    connect_first(addresses(host, port).await.map_err(NoConnection::Name)?).await
}

async fn connect_first(addresses: Vec<SocketAddr>) -> Result<TcpStream, NoConnection> {
    let mut last = NoConnection::NoAddress;
    for address in addresses {
        match dial::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// One of each family in turn, each family in the system's order, the first one's first.
fn by_turns(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let all: Vec<SocketAddr> = addresses.collect();
    let Some(first) = all.first().map(SocketAddr::is_ipv6) else { return all };
    let (mut ones, mut others): (Vec<_>, Vec<_>) = all.into_iter().partition(|address| address.is_ipv6() == first);
    ones.reverse();
    others.reverse();
    let mut turns = Vec::with_capacity(ones.len() + others.len());
    while !ones.is_empty() || !others.is_empty() {
        turns.extend(ones.pop());
        turns.extend(others.pop());
    }
    turns
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[test]
    fn the_second_address_is_of_the_other_family() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let order = |listed: &[&str]| by_turns(listed.iter().map(|text| address(text)));
        let [a, b, c, d] = ["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1"];
        assert_eq!(order(&[a, b, c, d]), [a, d, b, c].map(address));
        assert_eq!(order(&[d, a, b]), [d, a, b].map(address));
        assert_eq!(order(&[a, b]), [a, b].map(address));
        assert_eq!(order(&[]), []);
    }

    #[tokio::test]
    async fn an_address_that_swallows_what_is_sent_to_it_keeps_nobody_from_the_next() {
        // With a full queue the kernel answers no peer.
        let hole = TcpSocket::new_v4().unwrap();
        hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hole = hole.listen(0).unwrap();
        let at = hole.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(std::time::Duration::from_millis(500), TcpStream::connect(at)).await
        {
            waiting.push(stream);
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        let stream = connect_first(vec![at, there]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
    }
}
