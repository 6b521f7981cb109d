//! Hostile input against the real binary: every listener, every kind of peer. After each attack the relay is alive, its
//! memory is bounded, nothing secret was logged, and the call of somebody else goes through.
//!
//! Invariant: loopback alone; each attack is bounded in count and in time.

mod callers;
mod dialling;
mod doors;
mod edge;
mod flood;
mod guessing;
mod hoarding;
mod http2;
mod https;
mod registrar;
mod strangers;
mod streams;
mod text;
mod upstream;
mod websocket;
