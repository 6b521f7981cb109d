//! The network floor over loopback: listeners, TLS, HTTPS, dialling, resolving.
//!
//! Invariant: each test makes its own certificates and listens on free ports of 127.0.0.1.

#[path = "net/authority.rs"]
mod authority;
#[path = "net/https.rs"]
mod https;
#[path = "net/listen.rs"]
mod listen;
#[path = "net/resolve.rs"]
mod resolve;
#[path = "net/tls.rs"]
mod tls;
#[path = "net/udp.rs"]
mod udp;
