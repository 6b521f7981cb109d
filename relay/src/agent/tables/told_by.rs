//! The clock by which the end of each lease was told, needed when another clock becomes the trusted one ([`Frames`](crate::clock::Frames)).
//!
//! Invariant: an end that was told by the trusted clock, as most are, takes no room here; any other one takes one entry at most.

use std::collections::HashMap;

use crate::clock::Frame;

/// The clocks of the ends in a table, by slot.
#[derive(Default)]
pub(super) struct ToldBy {
    /// That of the ends that are not listed.
    most: Option<Frame>,
    others: HashMap<u32, Frame>,
}

impl ToldBy {
    /// An end was told by this clock.
    pub(super) fn note(&mut self, slot: u32, frame: Frame) {
        if self.most.is_none() && frame.is_known() {
            self.most = Some(frame);
        }
        match self.most {
            Some(most) if frame.is_known() && frame.shift_to(most).is_none() => self.others.remove(&slot),
            _ => self.others.insert(slot, frame),
        };
    }

    /// There is no end any more in this slot, or one that the clock of most has told.
    pub(super) fn forget(&mut self, slot: u32) {
        self.others.remove(&slot);
    }

    /// All ends are told by this clock from now on; those before, for [`Self::shift`].
    pub(super) fn begin(&mut self, frame: Frame) -> Earlier {
        Earlier { most: self.most.replace(frame), others: std::mem::take(&mut self.others) }
    }

    /// By how many seconds the end in this slot is later by the clock that is trusted now; one of which nobody knows which clock told it stays.
    pub(super) fn shift(&mut self, earlier: &Earlier, slot: u32) -> Option<i64> {
        let told_by = earlier.others.get(&slot).copied().or(earlier.most)?;
        if !told_by.is_known() {
            self.others.insert(slot, told_by);
        }
        told_by.shift_to(self.most?)
    }
}

/// The clocks as they were before a move.
pub(super) struct Earlier {
    most: Option<Frame>,
    others: HashMap<u32, Frame>,
}
