//! Watching for time that passes without this machine: a suspended one, or a virtual one that was paused. The clock of what is scheduled stands
//! still meanwhile, and registrars go on.
//!
//! | what has gone on further than the clock of what is scheduled | it was |
//! | --- | --- |
//! | the time since boot | suspended, for sure |
//! | the system's clock | paused as a whole, or its clock was set: nobody can tell, and a refresh too many does no harm |
//!
//! Invariant: it never puts off scheduled work; each loss is told once.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use crate::agent::Agent;
use crate::clock::{DAY_S, now, since_boot, unix_now_ms};

/// How often the clocks are compared.
const EVERY: Duration = Duration::from_secs(1);
/// A shorter loss is not told: registrations have that to spare.
const NOTICED: Duration = Duration::from_secs(5);
/// More than anything is granted for.
const MOST: Duration = Duration::from_secs(7 * DAY_S);

/// The clocks at one moment.
struct Clocks {
    scheduled: Instant,
    since_boot: Duration,
    system: Duration,
}

impl Clocks {
    fn read() -> Self {
        Self { scheduled: now(), since_boot: since_boot(), system: Duration::from_millis(unix_now_ms()) }
    }

    /// The time that has passed since an earlier moment, and that the clock of what is scheduled has not counted; and how much of it for sure.
    fn lost_since(&self, earlier: &Self) -> Option<(Duration, Duration)> {
        let counted = self.scheduled.saturating_duration_since(earlier.scheduled);
        let lost = |now: Duration, then: Duration| now.saturating_sub(then).saturating_sub(counted).min(MOST);
        let for_sure = lost(self.since_boot, earlier.since_boot);
        let all = lost(self.system, earlier.system).max(for_sure);
        Some((all, for_sure)).filter(|(all, _)| *all >= NOTICED)
    }
}

/// Watches for as long as the relay runs.
pub(super) async fn watch(agent: Agent) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = Clocks::read();
    loop {
        ticks.tick().await;
        let read = Clocks::read();
        if let Some((lost, for_sure)) = read.lost_since(&known) {
            tracing::warn!(
                event = "time-lost",
                lost_s = lost.as_secs(),
                "this machine stood still, or its clock was set: registrations are refreshed sooner by as much"
            );
            agent.lose_time(lost, for_sure).await;
        }
        known = read;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_clock_of_deadlines_has_counted_is_lost_and_what_it_has_is_not() {
        let start = now();
        let at = |scheduled: u64, since_boot: u64, system: u64| Clocks {
            scheduled: start + Duration::from_secs(scheduled),
            since_boot: Duration::from_secs(since_boot),
            system: Duration::from_secs(1_795_000_000 + system),
        };
        for (name, later, lost) in [
            ("a second", at(1, 1_001, 1), None),
            ("the process stood still", at(3_600, 4_600, 3_600), None),
            ("suspended", at(1, 4_601, 3_601), Some((3_600, 3_600))),
            ("suspended, and its clock was set back", at(1, 4_601, 1), Some((3_600, 3_600))),
            ("suspended, and its clock was set ahead", at(1, 1_061, 3_601), Some((3_600, 60))),
            ("paused as a whole", at(1, 1_001, 601), Some((600, 0))),
            ("a step of the clock", at(1, 1_001, 4), None),
            ("the clock was set back", Clocks { system: Duration::ZERO, ..at(1, 1_001, 0) }, None),
            ("the clock was years behind", at(1, 1_001, 400_000_000), Some((7 * DAY_S, 0))),
        ] {
            let seconds = |(all, for_sure)| (Duration::from_secs(all), Duration::from_secs(for_sure));
            assert_eq!(later.lost_since(&at(0, 1_000, 0)), lost.map(seconds), "{name}");
        }
    }
}
