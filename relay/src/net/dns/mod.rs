//! DNS: from the name that an account, a push service or an operator gave to addresses (RFC 3263).
//!
//! | room | what it is |
//! | --- | --- |
//! | `resolve` | the addresses to try for a SIP domain, in order |
//! | `host_names` | the addresses of a host without SIP's records |
//! | `report` | everything that DNS says about a target, for a person |
//! | `questions` | the share of each requester |
//! | *records* | |
//! | `naptr` | the transports of a domain |
//! | `srv` | the order of servers |
//! | `addresses` | addresses that are known in time (RFC 8305 §3) |
//! | *name servers* | |
//! | `name_files` | `/etc/resolv.conf` and `/etc/hosts` |
//! | `name_servers`, `name_server` | all of them in order, and one |
//! | `answer_size`, `cache` | what of an answer is of use; their answers, for as long as these hold |
//!
//! Invariant: an answer has a bound in time, size and number, whatever a name server says.

mod addresses;
mod answer_size;
mod cache;
mod host_names;
mod name_files;
mod name_server;
mod name_servers;
mod naptr;
pub mod questions;
pub mod report;
pub mod resolve;
mod srv;
