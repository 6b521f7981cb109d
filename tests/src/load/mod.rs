//! The load generator: it enables push instances on a real relay, rings them at a given rate, and measures.
//!
//! # What runs
//! The relay is `sipwake serve` of the same build as a child process, so that its memory and CPU are its own. Everything
//! around it is in this process and on loopback: a registrar that challenges and verifies, a caller, APNs and FCM over TLS
//! and HTTP/2, devices over TLS. Both share the machine's processors; the report says how they did.
//!
//! | phase | what happens |
//! | --- | --- |
//! | restart | with more than 20,000 instances, or `--seeded`: the relay starts over a Redis that is full of them, while calls come |
//! | enable | enablings that are refused (what HTTPS alone costs), a few to warm up, then all, through HTTPS |
//! | refresh | with `--refresh`: one window with kept nonces, one in which every refresh is challenged; memory meanwhile |
//! | ring | calls at a constant rate to sleeping devices; cancelled while they ring, or with `--answer` answered |
//! | attach | with `--attach`: idle device connections, then calls to devices that are attached |
//!
//! | room | what it is |
//! | --- | --- |
//! | [`plan`] | arguments and maxima |
//! | `stage` | the relay and everything around it |
//! | `accounts`, `enabling` | the app side |
//! | `seeding`, `restart` | a store that is full before the relay starts |
//! | `exchange`, `registrar`, `caller`, `calls` | the SIP server side |
//! | `devices`, `sessions` | the device side |
//! | [`nodes`] | with `--nodes`: take-over and hand-over between several relays |
//! | [`against`] | with `--against`: the same calls against another server |
//! | [`sweep`] | with `--sweep`: rates up to saturation, as a table and a curve |
//! | [`faults`] | a command of its own: push services that misbehave, as a table |
//! | `measure`, `report`, `table` | numbers, and what is printed of them |
//! | `bounded` | that a run ends |
//!
//! How to read the report is [`HOW_TO_READ`], which `load --help` prints.
//!
//! Invariant: traffic stays on loopback; time is bounded by [`plan::Plan::bound`], counts by [`plan`]'s maxima; a phase that does not come to
//! its end is a [`Failure`] in words, and nothing outlives the run.

use std::time::Duration;

use crate::board::Missed;

mod accounts;
pub mod against;
mod bounded;
mod caller;
mod calls;
mod devices;
mod enabling;
mod exchange;
pub mod faults;
pub mod measure;
pub mod nodes;
pub mod plan;
mod registrar;
pub mod report;
mod restart;
mod run;
mod seeding;
mod sessions;
mod stage;
pub mod sweep;
mod table;

pub use run::run;

/// How to read the report; the end of `load --help`.
pub const HOW_TO_READ: &str = "\
How to read the report
  RESTART              from the start of the process over a Redis that holds all records: until all were opened and had their place
                       in the order of registrations, and until all were registered. Calls come meanwhile; how long one waits that
                       comes before its account was opened is in its INVITE → push.
  registrations/s      enablings answered, over the time from the first to the last. Each is a TCP connection, a full TLS
                       handshake and an HTTPS request (the relay closes a connection that carried a credential), and a
                       REGISTER that is challenged once.
  CPU per …            user and system time of the relay's process over the phase, divided by what was done in it. The
                       HTTPS share is measured with enablings that are refused for their SIP domain after they were read
                       and checked; what remains is sealing, storing and a challenged registration.
  bytes per binding    resident memory after enabling, less that after the warm-up, over the instances in between. Below
                       10,000 instances buffers and the allocator's reserve weigh more than bindings.
  INVITE → push        from just before the INVITE is written until the push stand-in has read the whole request. It holds
                       the sender's and the stand-in's own scheduling: see the timer lag.
  INVITE → device      until the INVITE is read on the device's TLS flow: push, TCP connect, full TLS handshake, REGISTER.
  first call           the one call before the measured ones: it also dials the push service.
  sent late            how late INVITEs left against the constant rate. Large values: the load generator was too slow, and
                       latencies are too good.
  timer lag            how late a 1 ms timer of the load generator was. It is a floor below every latency.
  the limit            who kept the figures from being better: the load generator, the rest of the machine, or the relay.
All durations are p50 / p99 / max (nearest rank). CPU time comes in steps of 10 ms. Latency needs processors to spare: for
it choose a rate at which the machine stays below about 70 %; for throughput and CPU any rate will do.";

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Something around the run, or the relay, did not start.
    #[error("the stage could not be set: {0}")]
    Stage(#[from] Missed),
    /// The system allows too few open files.
    #[error(
        "this run needs {needed} open files in one process, the system allows {allowed}; raise it with `ulimit -n {needed}`"
    )]
    Descriptors {
        /// How many are needed.
        needed: u64,
        /// How many are allowed.
        allowed: u64,
    },
    /// An enabling failed.
    #[error("enabling stopped: {reason}\nThe relay's log ends with:\n{log}")]
    Enabling {
        /// Why.
        reason: String,
        /// The end of the relay's log.
        log: String,
    },
    /// Not all instances were registered in time.
    #[error("only {registered} of {wanted} instances were registered in time")]
    Registering {
        /// How many were.
        registered: u64,
        /// How many should have been.
        wanted: u64,
    },
    /// No refresh came in a window.
    #[error("no refresh came within {0:?}")]
    Refreshing(Duration),
    /// Too many calls had no push or no answer.
    #[error("{phase}: {what}")]
    Ringing {
        /// Which calls.
        phase: &'static str,
        /// The failure.
        what: String,
    },
    /// Devices did not attach.
    #[error("only {attached} of {wanted} devices attached; first failure: {first}")]
    Attaching {
        /// How many did.
        attached: u64,
        /// How many should have.
        wanted: u64,
        /// The first failure.
        first: String,
    },
    /// The relay ended by itself.
    #[error("the relay ended during the run. Its log ends with:\n{0}")]
    RelayEnded(String),
    /// The push services objected.
    #[error("the push services objected: {0}")]
    Violations(String),
    /// The run took too long.
    #[error("the run did not end within {bound:?}: it was at \"{step}\" for the last {} s", stood.as_secs())]
    TooLong {
        /// How long it may take.
        bound: Duration,
        /// The step at the time.
        step: &'static str,
        /// For how long.
        stood: Duration,
    },
}
