//! The endpoint in virtual time, a file for each subject: no socket, no clock, no waiting.
//!
//! | room | subject |
//! | --- | --- |
//! | `world`, `script`, `answered_call` | one endpoint played by hand, its inputs to be replayed, and a whole call |
//! | *the account at its SIP server* | |
//! | `registration`, `registration_turns`, `refusals`, `unregistration`, `subscription` | registering, its pace, its refusals, its end; the mailbox |
//! | `flows`, `upstream_failover`, `failback`, `recovery`, `slow_servers`, `shared_addresses`, `doubts` | the way to a SIP server, and servers that serve badly |
//! | *devices* | |
//! | `admission`, `attaching`, `presence`, `wiped` | proof, attachment, foreground and end of a device |
//! | *calls* | |
//! | `endpoint`, `invitations`, `overtaking`, `cancelling`, `announced`, `named_calls`, `largest`, `ending` | from INVITE to answer |
//! | `forking`, `in_call` | several devices; what passes in a dialog |
//! | `beside_calls` | MESSAGE, NOTIFY, OPTIONS |
//! | *peers and limits* | |
//! | `interoperability`, `odd_requests`, `untrusted_sources`, `shares` | odd peers, strangers, and the share of each caller |
//! | `instructions` | the cost of a call |
//! | *registrations that pass through* | |
//! | `push_proxy` | RFC 8599 |

mod admission;
mod announced;
mod answered_call;
mod attaching;
mod beside_calls;
mod cancelling;
mod challenges;
mod doubts;
mod ending;
mod endpoint;
mod failback;
mod flows;
mod forking;
mod in_call;
mod instructions;
mod interoperability;
mod invitations;
mod largest;
mod named_calls;
mod odd_requests;
mod overtaking;
mod presence;
mod push_proxy;
mod recovery;
mod refusals;
mod registration;
mod registration_turns;
mod script;
mod shared_addresses;
mod shares;
mod short_grants;
mod slow_servers;
mod subscription;
mod unregistration;
mod untrusted_sources;
mod upstream_failover;
mod wiped;
mod world;
