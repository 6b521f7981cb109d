//! What happens in a call, in virtual time: early and confirmed dialogs, what passes in them and what does not, and devices
//! that are away for a moment. Each test names the RFC section that it shows.

mod world;

#[path = "in_call/identity.rs"]
mod identity;
#[path = "in_call/leg.rs"]
mod leg;
#[path = "in_call/passing.rs"]
mod passing;
#[path = "in_call/patience.rs"]
mod patience;
#[path = "in_call/reunion.rs"]
mod reunion;

use std::time::Duration;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
