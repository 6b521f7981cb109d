//! Inputs that wait while this node's lease is in doubt, because another node may own its instances by now.
//!
//! Inputs from the network wait, and so do the shard's own inputs that would cause a push, the end of a call, or a wipe. The shard's own inputs are handled
//! last, so that a CANCEL that waits beside them, or a deadline that has passed, ends its call first.
//!
//! Invariant: when the doubt ends, the store's answer about the instances is already in the inbox. So the whole inbox is read before any waiting input is
//! handled, even one of the same batch. An input that a shard gets only once (about a connection, a name or a push) waits without a limit. Inputs of unknown
//! peers leave half of the room to SIP servers.

use std::collections::VecDeque;
use std::time::Duration;

/// The largest number of inputs that wait; beyond it, messages and keep-alives are dropped. A message by UDP is retransmitted (RFC 3261 §17); one by a
/// stream is not.
const DOUBTED_MAX: usize = 8 * 1024;
/// The largest number of bytes in waiting messages; likewise.
const DOUBTED_BYTES: usize = 64 << 20;
/// The part of both that peers other than SIP servers may take: one half.
const OTHERS: usize = 2;
/// How soon a shard checks again whether the doubt is over.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The room that a waiting input takes.
#[derive(Clone, Copy)]
pub(crate) enum Claim {
    /// Not dropped: the shard gets the input only once.
    ToldOnce,
    /// A message of so many bytes from a SIP server.
    OfServer(usize),
    /// A message from anybody else, or a keep-alive.
    OfOther(usize),
}

/// The amount of waiting inputs.
#[derive(Clone, Copy, Default)]
struct Taken {
    count: usize,
    bytes: usize,
}

impl Taken {
    /// Takes room for a message of so many bytes, if this part of the whole has any.
    fn take(&mut self, bytes: usize, part: usize) -> bool {
        let fits = self.count < DOUBTED_MAX / part && self.bytes + bytes <= DOUBTED_BYTES / part;
        if fits {
            *self = Self { count: self.count + 1, bytes: self.bytes + bytes };
        }
        fits
    }
}

/// The waiting inputs, and the state of the doubt. `I` is an input of the shard.
pub(crate) struct Doubt<I> {
    waiting: VecDeque<I>,
    all: Taken,
    /// The share of peers other than SIP servers.
    of_others: Taken,
    /// The inputs still to be read since the doubt ended, because they may say which instances are gone. `None`: the doubt lasts.
    unread: Option<usize>,
    /// The number of lapses of this node's lease that this shard knows of.
    lapses: u64,
}

/// This node's lease, as far as the node knows.
#[derive(Clone, Copy)]
pub(crate) struct NodeLease {
    pub(crate) is_doubtful: bool,
    pub(crate) lapses: u64,
}

impl<I> Doubt<I> {
    pub(crate) const fn new() -> Self {
        let nothing = Taken { count: 0, bytes: 0 };
        Self { waiting: VecDeque::new(), all: nothing, of_others: nothing, unread: Some(0), lapses: 0 }
    }

    /// Whether inputs from the network must wait. `taken` inputs were just read, and `behind` come after them.
    pub(crate) fn look(&mut self, lease: NodeLease, taken: usize, behind: usize) -> bool {
        let had_lapsed = std::mem::replace(&mut self.lapses, lease.lapses) != lease.lapses;
        // Even the last input of the batch that ends the doubt may say which instances are gone.
        let was_over = self.unread == Some(0) && !had_lapsed;
        self.unread = match self.unread {
            _ if lease.is_doubtful => None,
            None => Some(behind),
            _ if had_lapsed => Some(behind),
            Some(unread) => Some(unread.saturating_sub(taken)),
        };
        !(was_over && self.is_over())
    }

    /// Whether nothing waits, or the waiting inputs may be handled now.
    pub(crate) fn is_over(&self) -> bool {
        self.unread == Some(0)
    }

    /// Keeps an input, if there is room for it.
    pub(crate) fn keep(&mut self, input: I, claim: Claim) {
        let has_room = match claim {
            Claim::ToldOnce => true,
            Claim::OfServer(bytes) => self.all.take(bytes, 1),
            Claim::OfOther(bytes) => {
                let mut all = self.all;
                let has_room = all.take(bytes, 1) && self.of_others.take(bytes, OTHERS);
                if has_room {
                    self.all = all;
                }
                has_room
            }
        };
        if has_room {
            self.waiting.push_back(input);
        }
    }

    /// The waiting inputs, in their order of arrival.
    pub(crate) fn take(&mut self) -> VecDeque<I> {
        (self.all, self.of_others) = (Taken::default(), Taken::default());
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, DOUBTED_BYTES, DOUBTED_MAX, Doubt, NodeLease};

    const SURE: NodeLease = NodeLease { is_doubtful: false, lapses: 0 };
    const DOUBTFUL: NodeLease = NodeLease { is_doubtful: true, lapses: 1 };
    const SURE_AGAIN: NodeLease = NodeLease { is_doubtful: false, lapses: 1 };

    #[test]
    fn nothing_waits_while_the_lease_is_held() {
        let mut doubt = Doubt::<u32>::new();
        assert!(!doubt.look(SURE, 64, 1_000));
        assert!(!doubt.look(SURE, 64, 0));
        assert!(doubt.is_over());
    }

    #[test]
    fn all_that_stood_in_the_inbox_when_the_doubt_ended_is_read_before_what_waits() {
        let mut doubt = Doubt::<u32>::new();
        assert!(doubt.look(DOUBTFUL, 2, 0));
        assert!(!doubt.is_over());
        assert!(doubt.look(SURE_AGAIN, 64, 80), "the batch that was read when the doubt ended");
        assert!(!doubt.is_over());
        assert!(doubt.look(SURE_AGAIN, 64, 40));
        assert!(!doubt.is_over(), "16 are left of the 80");
        assert!(doubt.look(SURE_AGAIN, 40, 7), "the last of them may tell that an instance is no longer here");
        assert!(doubt.is_over(), "what waits is acted on behind this batch");
        assert!(!doubt.look(SURE_AGAIN, 7, 0));
    }

    #[test]
    fn a_lapse_that_nobody_saw_is_a_doubt() {
        let mut doubt = Doubt::<u32>::new();
        assert!(doubt.look(SURE_AGAIN, 3, 5));
        assert!(!doubt.is_over());
        assert!(doubt.look(SURE_AGAIN, 5, 0));
        assert!(doubt.is_over());
        assert!(!doubt.look(SURE_AGAIN, 1, 0));
    }

    #[test]
    fn a_doubt_that_ends_over_an_empty_inbox_ends_with_the_batch_that_was_read() {
        let mut doubt = Doubt::<u32>::new();
        assert!(doubt.look(DOUBTFUL, 0, 0));
        assert!(doubt.look(SURE_AGAIN, 1, 0));
        assert!(doubt.is_over());
    }

    #[test]
    fn a_second_lapse_before_all_is_read_begins_anew() {
        let mut doubt = Doubt::<u32>::new();
        doubt.look(SURE_AGAIN, 0, 10);
        assert!(doubt.look(NodeLease { is_doubtful: false, lapses: 2 }, 10, 4));
        assert!(!doubt.is_over(), "the four behind");
    }

    #[test]
    fn what_waits_is_bounded_and_keeps_its_order() {
        let mut doubt = Doubt::new();
        for input in 0..DOUBTED_MAX + 1 {
            doubt.keep(input, Claim::OfServer(1_000));
        }
        doubt.keep(usize::MAX, Claim::ToldOnce);
        let waiting = doubt.take();
        assert_eq!(waiting.len(), DOUBTED_MAX + 1);
        assert!(waiting.iter().is_sorted());
        assert!(doubt.take().is_empty());
        doubt.keep(1, Claim::OfServer(DOUBTED_BYTES));
        doubt.keep(2, Claim::OfServer(1));
        assert_eq!(doubt.take(), [1]);
    }

    #[test]
    fn what_strangers_send_leaves_half_of_the_room_to_sip_servers() {
        for bytes in [0, 60_000] {
            let mut doubt = Doubt::new();
            let most = DOUBTED_MAX.min(DOUBTED_BYTES / bytes.max(1));
            for _ in 0..DOUBTED_MAX {
                doubt.keep(0, Claim::OfOther(bytes));
            }
            for _ in 0..DOUBTED_MAX {
                doubt.keep(1, Claim::OfServer(bytes));
            }
            let waiting = doubt.take();
            let of_others = waiting.iter().filter(|it| **it == 0).count();
            assert_eq!(of_others, (DOUBTED_MAX / 2).min(DOUBTED_BYTES / 2 / bytes.max(1)), "{bytes}");
            assert!(waiting.len() >= most - 1);
        }
    }
}
