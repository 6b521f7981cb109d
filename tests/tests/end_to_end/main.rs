//! The whole relay between stand-ins: calls, accounts, devices, attacks.
//!
//! Invariant: each test has a relay and stand-ins of its own, on loopback alone; nobody sleeps to synchronise.

mod beside;
mod calls;
mod command_line;
mod hostile;
mod lifecycle;
mod load;
mod matrix;
mod push_proxy;
mod smoke;
