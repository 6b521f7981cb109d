//! Stand-ins for everything around the relay, as a library for the tests, the demo and the load generator.
//!
//! Invariant: each stand-in listens on loopback alone, checks what the real service checks, records violations instead
//! of panicking in a task, and stops when its last handle is dropped.

pub mod api_client;
pub mod apns;
pub mod authority;
pub mod baresip;
pub mod board;
pub mod browser;
pub mod caller;
pub mod child;
pub mod collector;
pub mod dialog;
pub mod digest;
pub mod dns;
pub mod fcm;
pub mod gate;
mod http2;
pub mod kamailio;
pub mod leg;
pub mod lines;
pub mod linphone;
pub mod load;
pub mod location;
pub mod long_way;
pub mod pebble;
pub mod phone;
pub mod ports;
pub mod push_inbox;
pub mod push_phone;
pub mod push_services;
pub mod raw;
pub mod redis_cluster;
pub mod redis_server;
pub mod registrar;
pub mod relay_process;
pub mod relay_setup;
pub mod scratch;
pub mod simulation;
pub mod sipp;
pub mod skewed_clock;
pub mod stall;
pub mod story;
pub mod unconfigured;
pub mod virtual_net;
pub mod webpush;
pub mod wire;
pub mod world;
