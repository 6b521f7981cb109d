//! The floors of the house, each by itself.
//!
//! Invariant: no test starts a relay.

mod api_shape;
mod config;
mod net;
mod push;
mod push_faults;
mod push_targets;
