//! The service around [`sip`]: one binary, `sipwake`, which keeps a sleeping phone's SIP account registered and rings the phone
//! by push.
//!
//! # The story
//! 1. **Enable.** An app lends its account by HTTPS ([`api`]). The [`service`] has it registered once, to prove it, and the [`vault`]
//!    seals it; the answer holds the instance's secret, which is the device's from then on.
//! 2. **Keep.** The [`agent`] drives one [`sip::Endpoint`] for each shard: it refreshes the registration, answers challenges with what
//!    the vault opens for that moment, and backs off when the SIP server is away.
//! 3. **Wake.** An INVITE comes by [`net`]. The call waits in the endpoint, which asks for a wake; [`push`] tells APNs, FCM or a Web Push service, and the caller
//!    hears ringing once the service has accepted. Nothing on this way asks Redis or waits for another core.
//! 4. **Hand over.** The phone registers at the edge with its secret, and the INVITE goes down its connection. The relay stays in the
//!    dialog as a proxy; media never comes near it.
//! 5. **Wipe.** Expiry, `DELETE`, a dead token or a refusal: unregistered, erased, and a receipt is signed when nothing is left.
//!
//! [`serve`] wires it up, [`operator`] watches it. The documents for its users are in `docs/`.
//!
//! # The floors
//! Imports point downward only; `tests/tests/house/tidy.rs` enforces it.
//!
//! | floor | module | contents |
//! | --- | --- | --- |
//! | 0 | [`aside`] | work that may wait for a disk, on a thread of its own |
//! | 0 | [`clock`] | the wall clock, when it is believed, and RFC 3339 |
//! | 0 | `cores` | a thread and a runtime for each shard |
//! | 0 | [`config`] | typed TOML; every problem reported at once |
//! | 0 | [`domain`] | the words that API, receipts, timelines and metrics share |
//! | 0 | `file_owner` | the owner of files that root makes |
//! | 0 | [`hpke`] | sealing to the public key of a device |
//! | 0 | `lock` | a mutex that no panic poisons |
//! | 0 | [`log`] | the log's way to the standard error, which makes no task wait |
//! | 0 | [`log_filter`] | what is let into the log |
//! | 0 | [`metrics`] | every metric's name, in one enum |
//! | 0 | [`outage`] | recurring faults are logged once, then counted |
//! | 0 | [`process`] | requests to the system at the start: no dumps, open files, small pages |
//! | 0 | `random` | random bytes from the system |
//! | 0 | `regular_file` | files that are read up to a limit, without waiting for anybody for long |
//! | 0 | [`systemd`] | the sockets and messages of a service manager |
//! | 0 | [`secret`] | types that cannot print and are wiped on drop |
//! | 0 | [`timing`] | the waits that nobody configures |
//! | 1 | [`limits`] | limits on each source, account and SIP server |
//! | 1 | [`audit`] | the trail of actions on the accounts that are lent |
//! | 1 | [`vault`] | the ephemeral credential store |
//! | 1 | [`otlp`] | traces of calls for a collector of OpenTelemetry |
//! | 1 | [`push`] | APNs, FCM, Web Push, payload, verdicts |
//! | 1 | [`net`] | listen, dial, resolve, TLS and its reload; knows bytes, not SIP |
//! | 2 | [`agent`] | drives the Endpoint shards, and joins them to the network, the vault and the push services |
//! | 2 | [`acme`] | certificates from a CA that speaks ACME |
//! | 2 | [`development`] | a folder and a SIP server for a relay without a configuration |
//! | 2 | [`softphone`] | a SIP client that signals, for the command `device` |
//! | 3 | [`doctor`] | walks an account's path and says in words what would go wrong |
//! | 3 | [`service`] | the use cases, by requester: app, device, operator, SIP server |
//! | 4 | [`api`] | HTTPS for apps and SIP servers |
//! | 4 | [`operator`] | health, metrics, status page |
//! | 5 | [`serve`] | a whole relay: wiring and drain |
//! | 5 | [`cli`] | the command line's clients of a relay: a device, the operator's view |
//! | 6 | `main.rs` | arguments, exit status |

// They panic where nobody reads: what is said goes by `log`, and a command's result by a write that may fail.
#![warn(clippy::print_stderr, clippy::print_stdout)]

pub mod acme;
pub mod agent;
pub mod api;
pub mod aside;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
mod cores;
pub mod development;
pub mod doctor;
pub mod domain;
mod file_owner;
pub mod hpke;
pub mod limits;
mod lock;
pub mod log;
pub mod log_filter;
pub mod metrics;
pub mod net;
pub mod operator;
pub mod otlp;
pub mod outage;
pub mod process;
pub mod push;
mod random;
mod regular_file;
pub mod secret;
pub mod serve;
pub mod service;
pub mod softphone;
pub mod systemd;
pub mod timing;
pub mod vault;
