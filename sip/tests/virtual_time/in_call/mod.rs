//! What happens in a call, in virtual time: early and confirmed dialogs, what passes in them and what does not, and devices
//! that are away for a moment. Each test names the RFC section that it shows.

mod asked;
mod detached;
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
