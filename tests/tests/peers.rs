//! The main job with real peers: Kamailio is the account's SIP server, SIPp calls, baresip is the phone, and the relay is
//! the real binary. APNs and FCM are stand-ins over TLS.
//!
//! Invariant: traffic stays on loopback; what is missing on the machine fails a test with the line that installs it.

#[path = "peers/calls.rs"]
mod calls;
#[path = "peers/endings.rs"]
mod endings;
#[path = "peers/forgetting.rs"]
mod forgetting;
#[path = "peers/in_calls.rs"]
mod in_calls;
#[path = "peers/refreshes.rs"]
mod refreshes;
#[path = "peers/registrations.rs"]
mod registrations;
#[path = "peers/restarts.rs"]
mod restarts;
#[path = "peers/strangers.rs"]
mod strangers;
#[path = "peers/world.rs"]
mod world;
