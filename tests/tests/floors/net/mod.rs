//! The network floor over loopback: listeners, TLS, HTTPS, dialling, resolving.
//!
//! Invariant: each test makes its own certificates and listens on free ports of 127.0.0.1.

mod authority;
mod https;
mod https_frames;
mod listen;
mod resolve;
mod resumption;
mod tls;
mod udp;
