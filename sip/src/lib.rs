//! SIP signalling for sleeping phones, as pure computation: bytes and `now` in, outputs out.
//!
//! # The floors
//! Imports point downward only; `tests/tests/house/tidy.rs` enforces it.
//!
//! | floor | module | what it is |
//! | --- | --- | --- |
//! | 0 | [`message`] | bytes ⇄ [`message::Message`]; lossless headers, lazy typed views; framing of streams; limits |
//! | 0 | [`id`] | 128-bit identifiers and the shard that each names |
//! | 1 | [`auth`] | digest: challenge, HA1, answer, verification (RFC 7616, RFC 8760) |
//! | 1 | [`transaction`] | the four machines of RFC 3261 §17 with RFC 6026 and RFC 4320 |
//! | 1 | [`timing`] | every wait of the protocol, as settings |
//! | 2 | [`flow`] | flows (RFC 5626): keep-alive, back-off; signed flow tokens |
//! | 2 | [`registration`] | one machine for one binding |
//! | 2 | [`subscription`] | one machine for one binding's mailbox |
//! | 3 | [`edge`] | admission of devices, Hold, forwarding (RFC 3261 §16) |
//! | 4 | [`endpoint`] | the only meeting place: inputs in, outputs out |
//!
//! Invariant: this crate owns no socket, no clock, no task and no source of randomness; all four are handed in. The
//! same inputs and the same seed give the same outputs, byte for byte. No credential enters it, except for the moment
//! that [`auth`] computes with one on behalf of its caller.

// With `clippy.toml`: no order of a hash map decides anything.
#![warn(clippy::iter_over_hash_type)]

pub mod auth;
pub mod edge;
pub mod endpoint;
pub mod flow;
pub mod id;
pub mod message;
pub mod random;
pub mod registration;
pub mod subscription;
pub mod timers;
pub mod timing;
pub mod transaction;
