//! Stand-ins for everything around the relay, as a library.

pub mod redis_server;
