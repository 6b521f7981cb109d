//! The floors of the house, each by itself, and the house's own rules.
//!
//! Invariant: no test starts a relay.

mod api_shape;
mod config;
mod net;
mod push;
mod tidy;
