//! The decision of a node that reaches the store but not a SIP server: whether other nodes reach that server and get this node's accounts there.
//!
//! | standing | since | what is done |
//! | --- | --- | --- |
//! | – | the first registration that nobody answered | nothing, for as long as `after`, or a [part](LOST) of it where an account's grant is over |
//! | tried | one account was offered to another node, and was not registered there | one is offered again, after a wait that doubles up to ten times `after` |
//! | reached | another node has registered one | all that fail here are offered, and nothing left behind is claimed before others had the time to |
//! | – | the server has answered here, or `reached` is ten times `after` old | as at first |
//!
//! Invariant: where a server is away for all nodes, one account moves in a wait, and the waits grow.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::agent::SilentServer;

/// How many times as long the longest wait is, and how long other nodes are taken to reach what this one does not.
const LONGEST: u32 = 10;

/// What part of the time another node is asked after where an account is registered nowhere any more: it gets no call, and a failed try costs little.
const LOST: u32 = 6;

/// How the silent servers stand.
pub(super) struct Marooned {
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
    /// Offer one account of this server to another node, which has been done so often.
    Try(Box<str>, usize),
    /// Offer all that fail at this server.
    GiveAll(Box<str>),
    /// Nothing counts any more that was known of this server.
    Forget(Box<str>),
}

/// The outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// Another node has registered the account.
    Registered,
    /// None has.
    NotRegistered,
}

impl Marooned {
    /// `after`: how long a server has answered nothing when another node is asked, as long as the accounts there stand by an earlier grant.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, servers: BTreeMap::new() }
    }

    /// The steps that are due, of these silent servers.
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

    /// Takes note of a try.
    pub(super) fn note(&mut self, server: &str, tried: Tried, now: Instant) {
        let standing = match (tried, self.servers.get(server)) {
            (Tried::Registered, _) => Standing::Reached { until: now + self.after * LONGEST },
            (Tried::NotRegistered, Some(Standing::Tried { wait, times, .. })) => {
                let wait = (*wait * 2).min(self.after * LONGEST);
                Standing::Tried { again_at: now + wait, wait, times: times + 1 }
            }
            (Tried::NotRegistered, _) => Standing::Tried { again_at: now + self.after, wait: self.after, times: 1 },
        };
        self.servers.insert(server.into(), standing);
    }

    /// Whether other nodes reach a server that this one does not.
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
        marooned: Marooned,
        began: Instant,
        has_lost: bool,
    }

    impl Walk {
        fn new() -> Self {
            Self { marooned: Marooned::new(AFTER), began: Instant::now(), has_lost: false }
        }

        fn at(&mut self, second: u64) -> Vec<Step> {
            let now = self.began + Duration::from_secs(second);
            let silent = SilentServer { server: SERVER.into(), since: self.began, has_lost: self.has_lost };
            self.marooned.due(now, &[silent])
        }

        fn answered_at(&mut self, second: u64) {
            assert!(self.marooned.due(self.began + Duration::from_secs(second), &[]).is_empty());
        }

        fn note(&mut self, second: u64, tried: Tried) {
            self.marooned.note(SERVER, tried, self.began + Duration::from_secs(second));
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
        assert!(!walk.marooned.yields());
        walk.note(62, Tried::Registered);
        assert!(walk.marooned.yields());
        for second in [62, 300, 661] {
            assert_eq!(walk.at(second), [Step::GiveAll(SERVER.into())]);
        }
        assert_eq!(walk.at(662), [Step::Forget(SERVER.into())]);
        assert!(!walk.marooned.yields());
    }

    #[test]
    fn a_server_that_no_node_reaches_has_one_account_tried_ever_more_seldom() {
        let mut walk = Walk::new();
        let (mut tries, mut second) = (Vec::new(), 0);
        while second < 3_600 {
            if walk.at(second) == try_again(tries.len()) {
                tries.push(second);
                walk.note(second, Tried::NotRegistered);
            }
            second += 1;
        }
        assert_eq!(tries, [60, 120, 240, 480, 960, 1_560, 2_160, 2_760, 3_360]);
        assert!(!walk.marooned.yields());
    }

    #[test]
    fn an_account_that_is_registered_nowhere_any_more_is_tried_after_ten_seconds_and_not_more_often() {
        let mut walk = Walk::new();
        assert!(walk.at(9).is_empty());
        walk.has_lost = true;
        assert!(walk.at(9).is_empty());
        assert_eq!(walk.at(10), try_again(0));
        walk.note(12, Tried::NotRegistered);
        assert!(walk.at(71).is_empty());
        assert_eq!(walk.at(72), try_again(1));
    }

    #[test]
    fn a_server_that_answers_here_is_as_at_first() {
        let mut walk = Walk::new();
        walk.note(60, Tried::Registered);
        walk.answered_at(70);
        assert!(!walk.marooned.yields());
        walk.began += Duration::from_secs(100);
        assert!(walk.at(59).is_empty());
        assert_eq!(walk.at(60), try_again(0));
    }
}
