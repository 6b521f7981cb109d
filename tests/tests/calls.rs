//! Calls over the real binary, from the SIP server's INVITE to the device's last BYE, with stand-ins at every side.
//!
//! Invariant: each test has a scene of its own; nobody sleeps to synchronise.

use tests::board::Missed;

#[path = "calls/announced.rs"]
mod announced;
#[path = "calls/dialogs.rs"]
mod dialogs;
#[path = "calls/endings.rs"]
mod endings;
#[path = "calls/flows.rs"]
mod flows;
#[path = "calls/forks.rs"]
mod forks;
#[path = "calls/handover.rs"]
mod handover;
#[path = "calls/moments.rs"]
mod moments;
#[path = "calls/pushes.rs"]
mod pushes;
#[path = "calls/ringing.rs"]
mod ringing;
#[path = "calls/websocket.rs"]
mod websocket;

/// What a test comes to: nothing was missed.
type Outcome = Result<(), Missed>;
