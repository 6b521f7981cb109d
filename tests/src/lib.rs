//! Stand-ins for everything around the relay, as a library for the tests, the demo and the load generator.
//!
//! | room | what it is |
//! | --- | --- |
//! | *stories and worlds* | |
//! | [`story`] | the main job from beginning to end, which `demo` plays |
//! | [`world`] | the world of one end-to-end test, and its verbs |
//! | [`simulation`] | days of faults in virtual time |
//! | [`load`] | the load generator |
//! | *the relay under test* | |
//! | [`relay_process`], [`relay_setup`], [`unconfigured`] | the binary as a child, and its configuration |
//! | [`api_client`] | an app, as far as the relay's API sees it |
//! | *stand-ins* | |
//! | [`registrar`], [`location`] | the account's SIP server |
//! | [`phone`], [`push_phone`] | a phone that lends its account, and one that registers through the relay |
//! | [`caller`] | a caller, through the SIP server or straight to a Contact |
//! | [`apns`], [`fcm`], [`webpush`], [`push_services`], [`push_inbox`] | the push services, and what they took |
//! | [`dns`], [`authority`], [`collector`] | a name server, a certificate authority, a collector of traces |
//! | [`board`] | what a stand-in has observed |
//! | *real peers, as children* | |
//! | [`kamailio`], [`baresip`], [`linphone`], [`sipp`], [`browser`] | SIP servers and user agents |
//! | [`redis_server`], [`redis_cluster`], [`pebble`] | stores, and an ACME server |
//! | [`child`], [`ports`], [`scratch`], [`skewed_clock`] | what a child needs: an end, a port, a directory, a clock |
//! | *SIP without the relay's own* | |
//! | [`wire`], [`raw`], [`lines`] | sockets, bytes, and messages line by line |
//! | [`leg`], [`dialog`], [`digest`] | transactions, dialogs and proofs of a user agent |
//! | *networks* | |
//! | `http2` | a server that misbehaves as push services do |
//! | [`gate`], [`long_way`], [`stall`] | a way to a server that closes, takes long, or stalls |
//! | [`virtual_net`] | a network in virtual time |
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
