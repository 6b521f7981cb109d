//! Logging of outages: a fault that recurs is logged once, and then counted.
//!
//! Invariant: of one outage the log has a line when it begins, one each [`EVERY`] with how often it has happened since the last one,
//! and one when it is over.

use std::time::Duration;

use tokio::time::Instant;

/// How often an outage that goes on is said.
pub const EVERY: Duration = Duration::from_secs(60);

/// A fault that may recur.
#[derive(Debug, Default)]
pub struct Outage(Option<State>);

#[derive(Debug)]
struct State {
    said_at: Instant,
    since_said: u64,
    in_all: u64,
}

impl Outage {
    /// The fault has happened once more. `Some`: that is to be said, with how often since it was said last.
    pub fn again(&mut self) -> Option<u64> {
        let now = Instant::now();
        let Some(state) = &mut self.0 else {
            self.0 = Some(State { said_at: now, since_said: 0, in_all: 1 });
            return Some(1);
        };
        state.in_all += 1;
        state.since_said += 1;
        if now.duration_since(state.said_at) < EVERY {
            return None;
        }
        state.said_at = now;
        Some(std::mem::take(&mut state.since_said))
    }

    /// The fault has not happened. `Some`: it is over, which is to be said, with how often it has happened in all.
    pub fn over(&mut self) -> Option<u64> {
        self.0.take().map(|state| state.in_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_said_when_it_begins_each_minute_and_when_it_is_over() {
        let mut outage = Outage::default();
        assert_eq!(outage.over(), None);
        let mut said = Vec::new();
        // 150 s of something that fails each 0.8 s.
        for _ in 0..188 {
            said.extend(outage.again());
            tokio::time::advance(Duration::from_millis(800)).await;
        }
        assert_eq!(said, [1, 75, 75]);
        assert_eq!((outage.over(), outage.over(), outage.again()), (Some(188), None, Some(1)));
    }
}
