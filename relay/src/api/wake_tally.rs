//! The words of a store's nodes about the devices of one address, summed up to one answer.
//!
//! | a node says | and then |
//! | --- | --- |
//! | [`NodeReport::Found`] nobody, or devices that are attached | nothing more |
//! | [`NodeReport::Found`] devices that are being woken | [`NodeReport::Came`], [`NodeReport::Nobody`], [`NodeReport::Unwanted`] or [`NodeReport::Lost`] |
//! | [`NodeReport::Silent`] | nothing more |
//!
//! Invariant: an address is not reported as unknown while a node that may know it has not said so.

use crate::service::sip_servers::{AwakeDevices, WakeError};

/// A node's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeReport {
    /// There are so many nodes beside this one; `None`: the store is away, and nobody knows.
    Others(Option<usize>),
    /// The devices that it has found.
    Found {
        /// How many devices it has.
        known: usize,
        /// How many of them are attached.
        awake: usize,
    },
    /// So many devices have come.
    Came(usize),
    /// None has come in time, or none can come any more.
    Nobody,
    /// None of so many is to be woken any more: their apps are open, or want no calls.
    Unwanted(usize),
    /// Nothing more is heard of the devices there: the node leaves, or has died.
    Lost,
    /// The node says nothing, or cannot tell.
    Silent,
}

/// The sum; of this node alone at first.
#[derive(Debug)]
pub(super) struct Tally {
    known: usize,
    awake: usize,
    /// Whether all nodes are counted.
    counted: bool,
    /// Nodes that have not said what they have.
    unreported: usize,
    /// Nodes whose devices may still come.
    waking: usize,
    in_doubt: bool,
    /// Whether devices that were being woken are lost sight of.
    lost: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self { known: 0, awake: 0, counted: false, unreported: 1, waking: 0, in_doubt: false, lost: false }
    }
}

impl Tally {
    pub fn hear(&mut self, word: NodeReport) {
        match word {
            NodeReport::Others(count) => {
                self.counted = true;
                self.unreported += count.unwrap_or(0);
                self.in_doubt |= count.is_none();
            }
            NodeReport::Found { known, awake } => {
                self.unreported = self.unreported.saturating_sub(1);
                self.known += known;
                self.awake += awake;
                self.waking += usize::from(known > 0 && awake == 0);
            }
            NodeReport::Came(count) => {
                self.waking = self.waking.saturating_sub(1);
                self.awake += count;
            }
            NodeReport::Nobody => self.waking = self.waking.saturating_sub(1),
            NodeReport::Unwanted(count) => {
                self.waking = self.waking.saturating_sub(1);
                self.known = self.known.saturating_sub(count);
            }
            NodeReport::Lost => {
                self.waking = self.waking.saturating_sub(1);
                self.lost = true;
            }
            NodeReport::Silent => {
                self.unreported = self.unreported.saturating_sub(1);
                self.in_doubt = true;
            }
        }
    }

    pub fn is_awake(&self) -> bool {
        self.awake > 0
    }

    pub fn is_known(&self) -> bool {
        self.known > 0
    }

    /// The answer, once no further word can change it for the better.
    pub fn answer(&self) -> Option<Result<AwakeDevices, WakeError>> {
        let is_complete = self.counted && self.unreported == 0 && (self.waking == 0 || self.is_awake());
        is_complete.then(|| self.answer_now())
    }

    /// The answer when no further word is waited for.
    pub fn answer_now(&self) -> Result<AwakeDevices, WakeError> {
        match (self.awake, self.known) {
            (0, 0) if self.in_doubt || self.unreported > 0 || !self.counted => Err(WakeError::OthersSilent),
            (0, _) if self.lost => Err(WakeError::OthersSilent),
            (0, 0) => Err(WakeError::Unknown),
            (0, _) => Err(WakeError::NoneInTime),
            (awake, known) => Ok(AwakeDevices { awake, known }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many are awake, and known; `None`: not yet.
    type Answer = Option<Result<(usize, usize), WakeError>>;

    fn after(words: &[NodeReport]) -> Tally {
        let mut tally = Tally::default();
        words.iter().for_each(|word| tally.hear(*word));
        tally
    }

    #[test]
    fn the_answer_is_there_when_no_word_can_better_it() {
        use NodeReport::{Came, Found, Lost, Nobody, Others, Silent, Unwanted};
        const NONE: NodeReport = Found { known: 0, awake: 0 };
        const ONE: NodeReport = Found { known: 1, awake: 0 };
        const THERE: NodeReport = Found { known: 2, awake: 1 };
        const OTHER: NodeReport = Others(Some(1));
        const TWO_OTHERS: NodeReport = Others(Some(2));
        let rows: &[(&[NodeReport], Answer)] = &[
            (&[NONE], None),
            (&[NONE, Others(Some(0))], Some(Err(WakeError::Unknown))),
            (&[NONE, Others(None)], Some(Err(WakeError::OthersSilent))),
            (&[THERE, Others(None)], Some(Ok((1, 2)))),
            (&[ONE, Others(None)], None),
            (&[OTHER, NONE], None),
            (&[OTHER, NONE, NONE], Some(Err(WakeError::Unknown))),
            (&[OTHER, NONE, Silent], Some(Err(WakeError::OthersSilent))),
            (&[OTHER, NONE, ONE], None),
            (&[OTHER, NONE, ONE, Came(1)], Some(Ok((1, 1)))),
            (&[OTHER, NONE, ONE, Nobody], Some(Err(WakeError::NoneInTime))),
            (&[OTHER, Silent, ONE, Nobody], Some(Err(WakeError::NoneInTime))),
            (&[OTHER, NONE, ONE, Unwanted(1)], Some(Err(WakeError::Unknown))),
            (&[OTHER, Silent, ONE, Unwanted(1)], Some(Err(WakeError::OthersSilent))),
            (&[OTHER, ONE, ONE, Unwanted(1)], None),
            (&[OTHER, ONE, ONE, Unwanted(1), Nobody], Some(Err(WakeError::NoneInTime))),
            (&[OTHER, ONE, ONE, Unwanted(1), Came(1)], Some(Ok((1, 1)))),
            (&[OTHER, NONE, ONE, Lost], Some(Err(WakeError::OthersSilent))),
            (&[OTHER, ONE, ONE, Lost, Nobody], Some(Err(WakeError::OthersSilent))),
            (&[OTHER, ONE, ONE, Lost], None),
            (&[OTHER, ONE, ONE, Lost, Came(1)], Some(Ok((1, 2)))),
            (&[TWO_OTHERS, ONE, ONE, NONE, Nobody], None),
            (&[TWO_OTHERS, ONE, ONE, NONE, Nobody, Came(1)], Some(Ok((1, 2)))),
            (&[TWO_OTHERS, ONE, ONE, NONE, Came(1)], Some(Ok((1, 2)))),
            (&[TWO_OTHERS, ONE, Came(1)], None),
            (&[OTHER, THERE], None),
            (&[OTHER, THERE, Silent], Some(Ok((1, 2)))),
        ];
        for (words, expected) in rows {
            let expected = expected.map(|told| told.map(|(awake, known)| AwakeDevices { awake, known }));
            assert_eq!(after(words).answer(), expected, "{words:?}");
        }
    }

    #[test]
    fn when_the_time_is_over_the_answer_is_what_was_heard() {
        let there = NodeReport::Found { known: 2, awake: 1 };
        assert_eq!(after(&[there]).answer_now(), Ok(AwakeDevices { awake: 1, known: 2 }));
        assert_eq!(after(&[NodeReport::Found { known: 1, awake: 0 }]).answer_now(), Err(WakeError::NoneInTime));
        assert_eq!(after(&[NodeReport::Found { known: 0, awake: 0 }]).answer_now(), Err(WakeError::OthersSilent));
    }
}
