//! Calls over the real binary, from the SIP server's INVITE to the device's last BYE, with stand-ins at every side.
//!
//! | room | subject |
//! | --- | --- |
//! | `handover`, `ringing`, `pushes`, `round_trips` | a call to a sleeping phone: its push, its ringing, its way |
//! | `dialogs`, `transfers` | requests inside a call, and calls in place of a call |
//! | `endings` | calls that nobody answers |
//! | `flows`, `websocket` | devices whose connection breaks, and those by WebSocket |
//! | `forks`, `passwords` | several devices of one account |
//! | `announced`, `announced_elsewhere`, `recipe` | calls that their SIP server holds until a device is there |
//! | `moments`, `enabled_again`, `shards` | several calls, awkward moments, many shards |
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
mod recipe;
mod ringing;
mod round_trips;
mod shards;
mod transfers;
mod websocket;

/// What a test comes to: nothing was missed.
type Outcome = tests::world::Outcome;
