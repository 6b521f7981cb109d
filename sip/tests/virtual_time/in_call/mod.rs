//! Calls in virtual time: early and confirmed dialogs, the requests that pass in them and those that do not, and devices that are away for a moment.
//! Each test names the RFC section that it shows.

mod asked;
mod detached;
mod elsewhere;
mod identity;
mod large;
pub(crate) mod leg;
mod own_proof;
mod passing;
mod patience;
mod restart;
mod reunion;
mod ringing;
mod session_timers;
mod shared_stream;
mod successors;
mod targets;
mod tokens;
mod unanswered;
mod unproven;
