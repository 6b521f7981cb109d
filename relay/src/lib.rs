//! The service around [`sip`]: one binary, `sipwake`.
//!
//! # The floors
//! Imports point downward only; `tests/tests/house/tidy.rs` enforces it.
//!
//! | floor | module | what it is |
//! | --- | --- | --- |
//! | 0 | [`clock`] | the wall clock, when it is believed, and RFC 3339 |
//! | 0 | [`config`] | typed TOML; every problem reported at once |
//! | 0 | [`domain`] | the words that API, receipts, timelines and metrics share |
//! | 0 | [`metrics`] | every metric's name, in one enum |
//! | 0 | `random` | random bytes from the system |
//! | 0 | [`systemd`] | what a service manager hands over and wants to hear |
//! | 0 | [`secret`] | types that cannot print and are wiped on drop |
//! | 0 | [`timing`] | the waits that nobody configures |
//! | 1 | [`limits`] | what one source, account or SIP server may take |
//! | 1 | [`audit`] | what was done with the accounts that are lent, for whoever answers for it |
//! | 1 | [`vault`] | the ephemeral credential store |
//! | 1 | [`push`] | APNs, FCM, payload, verdicts |
//! | 1 | [`net`] | listen, dial, resolve, TLS and its reload; knows bytes, not SIP |
//! | 2 | [`agent`] | drives the Endpoint shards, and joins them to the network, the vault and the push services |
//! | 3 | [`doctor`] | walks an account's path and says in words what would go wrong |
//! | 3 | [`service`] | the use cases, by who asks: app, device, operator, SIP server |
//! | 4 | [`api`] | HTTPS for apps and SIP servers |
//! | 4 | [`operator`] | health, metrics, status page |
//! | 5 | [`serve`] | a whole relay: wiring and drain |
//! | 2 | [`acme`] | certificates from a CA that speaks ACME |
//! | 2 | [`development`] | a folder and a SIP server for a relay without a configuration |
//! | 2 | [`softphone`] | a SIP client that signals, for the command `device` |
//! | 5 | [`cli`] | the command line's clients of a relay: a device, the operator's view |
//! | 6 | `main.rs` | arguments, process protection, exit status |

pub mod acme;
pub mod agent;
pub mod api;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod development;
pub mod doctor;
pub mod domain;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod operator;
pub mod push;
mod random;
pub mod secret;
pub mod serve;
pub mod service;
pub mod softphone;
pub mod systemd;
pub mod timing;
pub mod vault;
