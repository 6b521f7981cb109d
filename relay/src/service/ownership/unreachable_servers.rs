//! SIP servers that do not answer this node although it reaches the store. Another node may reach them: one account is offered to it as a probe, and if it
//! registers that account, this node offers it all others.
//!
//! | state | begins when | action |
//! | --- | --- | --- |
//! | – | a registration was not answered | none for the time `after`, or for a [part](LOST) of it once a grant has expired |
//! | tried | another node did not register the offered account | one account is offered again, after a wait that doubles up to ten times `after` |
//! | reached | another node has registered the offered account | all accounts that fail here are offered; this node claims later than the others |
//! | – | the server answers here, or `reached` has lasted ten times `after` | as at first |
//!
//! Invariant: where no node reaches a server, one account at a time is offered, less and less often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::agent::SilentServer;

/// The longest wait between two offers, and the life of `reached`, in multiples of `after`.
const LONGEST: u32 = 10;

/// The divisor of `after` once an account is registered nowhere any more: it gets no call, and an offer that fails costs little.
const LOST: u32 = 6;

/// The silent servers and their states.
pub(super) struct UnreachableServers {
    after: Duration,
    servers: BTreeMap<Box<str>, Standing>,
}

#[derive(Clone, Copy)]
enum Standing {
    Tried { again_at: Instant, wait: Duration, times: usize },
    Reached { until: Instant },
}

/// A step to take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Offer one account of this server to another node; the number of offers before.
    Try(Box<str>, usize),
    /// Offer all that fail at this server.
    GiveAll(Box<str>),
    /// Forget what was known of this server.
    Forget(Box<str>),
}

/// The outcome of offering one account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OfferOutcome {
    /// Another node has registered the account.
    Registered,
    /// No other node has.
    NotRegistered,
}

impl UnreachableServers {
    /// `after`: the silence of a server after which another node is asked, while the accounts there are still registered.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, servers: BTreeMap::new() }
    }

    /// The steps that are due for these silent servers.
    pub(super) fn due(&mut self, now: Instant, silent: &[SilentServer]) -> Vec<Step> {
        self.servers.retain(|server, _| silent.iter().any(|other| other.server == *server));
        let mut steps = Vec::new();
        for SilentServer { server, since, has_lost } in silent {
            let after = if *has_lost { self.after / LOST } else { self.after };
            match self.servers.get(server) {
                None if *since + after <= now => steps.push(Step::Try(server.clone(), 0)),
                Some(Standing::Tried { again_at, times, .. }) if *again_at <= now => {
                    steps.push(Step::Try(server.clone(), *times));
                }
                Some(Standing::Reached { until }) if *until <= now => {
                    self.servers.remove(server);
                    steps.push(Step::Forget(server.clone()));
                }
                Some(Standing::Reached { .. }) => steps.push(Step::GiveAll(server.clone())),
                None | Some(Standing::Tried { .. }) => {}
            }
        }
        steps
    }

    /// Notes the outcome of an offer.
    pub(super) fn note(&mut self, server: &str, outcome: OfferOutcome, now: Instant) {
        let standing = match (outcome, self.servers.get(server)) {
            (OfferOutcome::Registered, _) => Standing::Reached { until: now + self.after * LONGEST },
            (OfferOutcome::NotRegistered, Some(Standing::Tried { wait, times, .. })) => {
                let wait = (*wait * 2).min(self.after * LONGEST);
                Standing::Tried { again_at: now + wait, wait, times: times + 1 }
            }
            (OfferOutcome::NotRegistered, _) => {
                Standing::Tried { again_at: now + self.after, wait: self.after, times: 1 }
            }
        };
        self.servers.insert(server.into(), standing);
    }

    /// Whether another node reaches a server that this one does not, so that this node claims later.
    pub(super) fn yields(&self) -> bool {
        self.servers.values().any(|standing| matches!(standing, Standing::Reached { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(60);
    const SERVER: &str = "sip.example.net:5061";

    /// A server that is silent, and the clock.
    struct Walk {
        servers: UnreachableServers,
        began: Instant,
        has_lost: bool,
    }

    impl Walk {
        fn new() -> Self {
            Self { servers: UnreachableServers::new(AFTER), began: Instant::now(), has_lost: false }
        }

        fn at(&mut self, second: u64) -> Vec<Step> {
            let now = self.began + Duration::from_secs(second);
            let silent = SilentServer { server: SERVER.into(), since: self.began, has_lost: self.has_lost };
            self.servers.due(now, &[silent])
        }

        fn answered_at(&mut self, second: u64) {
            assert!(self.servers.due(self.began + Duration::from_secs(second), &[]).is_empty());
        }

        fn note(&mut self, second: u64, outcome: OfferOutcome) {
            self.servers.note(SERVER, outcome, self.began + Duration::from_secs(second));
        }
    }

    fn try_again(times: usize) -> Vec<Step> {
        vec![Step::Try(SERVER.into(), times)]
    }

    #[test]
    fn one_account_is_tried_after_a_minute_and_all_go_when_another_node_has_registered_it() {
        let mut walk = Walk::new();
        assert!(walk.at(59).is_empty());
        assert_eq!(walk.at(60), try_again(0));
        assert!(!walk.servers.yields());
        walk.note(62, OfferOutcome::Registered);
        assert!(walk.servers.yields());
        for second in [62, 300, 661] {
            assert_eq!(walk.at(second), [Step::GiveAll(SERVER.into())]);
        }
        assert_eq!(walk.at(662), [Step::Forget(SERVER.into())]);
        assert!(!walk.servers.yields());
    }

    #[test]
    fn a_server_that_no_node_reaches_has_one_account_tried_ever_more_seldom() {
        let mut walk = Walk::new();
        let (mut tries, mut second) = (Vec::new(), 0);
        while second < 3_600 {
            if walk.at(second) == try_again(tries.len()) {
                tries.push(second);
                walk.note(second, OfferOutcome::NotRegistered);
            }
            second += 1;
        }
        assert_eq!(tries, [60, 120, 240, 480, 960, 1_560, 2_160, 2_760, 3_360]);
        assert!(!walk.servers.yields());
    }

    #[test]
    fn an_account_that_is_registered_nowhere_any_more_is_tried_after_ten_seconds_and_not_more_often() {
        let mut walk = Walk::new();
        assert!(walk.at(9).is_empty());
        walk.has_lost = true;
        assert!(walk.at(9).is_empty());
        assert_eq!(walk.at(10), try_again(0));
        walk.note(12, OfferOutcome::NotRegistered);
        assert!(walk.at(71).is_empty());
        assert_eq!(walk.at(72), try_again(1));
    }

    #[test]
    fn a_server_that_answers_here_is_as_at_first() {
        let mut walk = Walk::new();
        walk.note(60, OfferOutcome::Registered);
        walk.answered_at(70);
        assert!(!walk.servers.yields());
        walk.began += Duration::from_secs(100);
        assert!(walk.at(59).is_empty());
        assert_eq!(walk.at(60), try_again(0));
    }
}
