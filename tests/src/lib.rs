//! Stand-ins for everything around the relay, as a library for the tests, the demo and the load generator.
//!
//! Invariant: each stand-in listens on loopback alone, checks what the real service checks, records violations instead
//! of panicking in a task, and stops when its last handle is dropped.

pub mod apns;
pub mod authority;
pub mod fcm;
mod http2;
mod ledger;
