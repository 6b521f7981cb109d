//! The addresses of a SIP server that were left of late because they served badly: each one is asked before any is asked again (RFC 3263 §4.3).
//!
//! | the address in use | another one is sought |
//! | --- | --- |
//! | was not left within the pause, and fewer than [`LEFT_MAX`] were | at once |
//! | was: all that are known have been asked | after the pause |
//!
//! The pause begins when the address was left, and is 32 s long. Where others are served by the flow in use, it is twice as long after each further round
//! while nobody is granted.
//!
//! Invariant: at most [`LEFT_MAX`] addresses are remembered, so a server whose DNS always names others has no more of them asked within the pause.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Upstreams;
use crate::id::FlowId;

/// Addresses that may be left within the pause.
const LEFT_MAX: usize = 16;
/// Rounds in vain after which the pause becomes no longer.
const VAIN_MAX: u32 = 6;

/// The address and kind of transport that a flow leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::endpoint) enum Destination {
    Datagrams(SocketAddr),
    Streams(SocketAddr),
    /// Nobody has said where the stream leads.
    Unknown(FlowId),
}

/// The addresses that were left.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    left: Vec<Left>,
    /// The rounds that have begun since a registration was granted.
    vain: u32,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    place: Destination,
    at: Instant,
    /// In this round.
    is_of_round: bool,
}

impl Rounds {
    /// Whether another address may be sought for this one now. `rest`: the pause.
    pub(super) fn may_leave(&self, now: Instant, place: Destination, rest: Duration) -> bool {
        let mut recent = self.left.iter().filter(|it| it.at + rest > now);
        recent.clone().count() < LEFT_MAX && recent.all(|it| it.place != place)
    }

    /// Likewise where others are served meanwhile.
    pub(super) fn may_search(&self, now: Instant, place: Destination, rest: Duration) -> bool {
        self.may_leave(now, place, rest * 2_u32.pow(self.vain.min(VAIN_MAX)))
    }

    /// Another address is sought for this one.
    pub(super) fn leave(&mut self, now: Instant, place: Destination) {
        let goes_on = self.left.iter().any(|it| it.is_of_round)
            && !self.left.iter().any(|it| it.is_of_round && it.place == place);
        if !goes_on {
            self.vain = self.vain.saturating_add(1);
            self.left.iter_mut().for_each(|it| it.is_of_round = false);
        }
        self.left.retain(|it| it.place != place);
        if self.left.len() >= LEFT_MAX {
            self.left.remove(0);
        }
        self.left.push(Left { place, at: now, is_of_round: true });
    }

    /// Whether an address was left in this round: those that another one has turned away have been turned away there, too.
    pub(super) fn has_left_in_round(&self, place: Destination) -> bool {
        self.left.iter().any(|it| it.is_of_round && it.place == place)
    }

    /// A registration was granted.
    pub(super) fn grant(&mut self) {
        self.vain = 0;
        self.left.iter_mut().for_each(|it| it.is_of_round = false);
    }

    /// Whether any address was left.
    pub(super) fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// A better address is gone back to, and may be left at once.
    pub(super) fn begin_anew(&mut self) {
        self.left.clear();
    }
}

impl Upstreams {
    /// Where a flow leads.
    pub(in crate::endpoint) fn destination(&self, flow: FlowId) -> Destination {
        match flow {
            FlowId::Datagram(peer) => Destination::Datagrams(peer),
            stream => self.addresses.get(&stream).map_or(Destination::Unknown(stream), |to| Destination::Streams(*to)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(32);

    fn at(last: u8) -> Destination {
        Destination::Streams(([192, 0, 2, last], 5061).into())
    }

    #[test]
    fn each_address_is_left_once_and_then_the_first_again_after_the_pause() {
        let (mut now, mut rounds) = (Instant::now(), Rounds::default());
        for last in 1..=4 {
            assert!(rounds.may_search(now, at(last), REST), "{last}");
            rounds.leave(now, at(last));
            now += Duration::from_secs(1);
        }
        assert!(!rounds.may_leave(now, at(1), REST) && rounds.may_leave(now + REST, at(1), REST));
        // In vain: the next pause of whom others are served by is twice as long.
        assert!(!rounds.may_search(now + REST, at(1), REST) && rounds.may_search(now + 2 * REST, at(1), REST));
        rounds.leave(now + 2 * REST, at(1));
        assert_eq!(rounds.vain, 2);
        rounds.grant();
        rounds.leave(now + 2 * REST, at(2));
        assert_eq!(rounds.vain, 1);
    }

    #[test]
    fn a_server_whose_dns_always_names_others_has_so_many_asked_at_most() {
        let (now, mut rounds) = (Instant::now(), Rounds::default());
        let mut asked = 0;
        for last in 1..=255 {
            if rounds.may_leave(now, at(last), REST) {
                rounds.leave(now, at(last));
                asked += 1;
            }
        }
        assert_eq!((asked, rounds.left.len()), (LEFT_MAX, LEFT_MAX));
        assert!(rounds.may_leave(now + REST, at(1), REST));
    }
}
