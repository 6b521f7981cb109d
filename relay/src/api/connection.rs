//! What the listener and the API tell each other about a connection, as extensions of requests and responses.
//!
//! Invariant: the markers are the listener's own, so that what one puts in the other finds.

pub use crate::net::https::{BadHead, EndConnection, Peer};
