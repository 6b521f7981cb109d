//! Hostile input against the real binary: every listener, every kind of peer. After each attack the relay is alive, its
//! memory is bounded, nothing secret was logged, and the call of somebody else goes through.
//!
//! Invariant: loopback alone; each attack is bounded in count and in time.

#[path = "hostile/doors.rs"]
mod doors;
#[path = "hostile/edge.rs"]
mod edge;
#[path = "hostile/flood.rs"]
mod flood;
#[path = "hostile/http2.rs"]
mod http2;
#[path = "hostile/https.rs"]
mod https;
#[path = "hostile/registrar.rs"]
mod registrar;
#[path = "hostile/streams.rs"]
mod streams;
#[path = "hostile/text.rs"]
mod text;
#[path = "hostile/upstream.rs"]
mod upstream;
#[path = "hostile/websocket.rs"]
mod websocket;
