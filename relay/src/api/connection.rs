//! What the listener and the API tell each other about a connection, as extensions of requests and responses.
//!
//! Invariant: plain markers; swapped for those of `net::https` where the two are joined.

use std::net::SocketAddr;

/// Extension of a request: the address it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// Extension of a response: close the connection after it, because its buffers held a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndConnection;
