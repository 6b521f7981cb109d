//! Calls over the real binary, from the SIP server's INVITE to the device's last BYE, with stand-ins at every side.
//!
//! Invariant: each test has a world of its own; nobody sleeps to synchronise.

mod announced;
mod announced_elsewhere;
mod dialogs;
mod enabled_again;
mod endings;
mod flows;
mod forks;
mod handover;
mod moments;
mod passwords;
mod pushes;
mod ringing;
mod round_trips;
mod shards;
mod transfers;
mod websocket;

/// What a test comes to: nothing was missed.
type Outcome = tests::world::Outcome;
