//! The clock that the end of each lease was read from. When another clock becomes the trusted one ([`Frames`](crate::clock::Frames)), the ends are
//! converted to it.
//!
//! Invariant: an end that was read from the trusted clock, as most are, takes no memory here; any other end takes one entry.

use std::collections::HashMap;

use crate::clock::Frame;

/// The clocks of the ends in a table, by slot.
#[derive(Default)]
pub(super) struct LeaseClocks {
    /// The clock of the ends that are not listed.
    most: Option<Frame>,
    others: HashMap<u32, Frame>,
}

impl LeaseClocks {
    /// Notes that the end in this slot was read from this clock.
    pub(super) fn note(&mut self, slot: u32, frame: Frame) {
        if self.most.is_none() && frame.is_known() {
            self.most = Some(frame);
        }
        match self.most {
            Some(most) if frame.is_known() && frame.shift_to(most).is_none() => self.others.remove(&slot),
            _ => self.others.insert(slot, frame),
        };
    }

    /// Forgets the slot: it has no end any more, or one that was read from the clock of most ends.
    pub(super) fn forget(&mut self, slot: u32) {
        self.others.remove(&slot);
    }

    /// Makes this clock that of all ends from now on. Returns the earlier clocks, for [`Self::shift`].
    pub(super) fn begin(&mut self, frame: Frame) -> Earlier {
        Earlier { most: self.most.replace(frame), others: std::mem::take(&mut self.others) }
    }

    /// The seconds to add to the end in this slot, so that it means the same moment by the clock that is trusted now. `None`: the end stays, because the two
    /// clocks agree or its own clock is unknown.
    pub(super) fn shift(&mut self, earlier: &Earlier, slot: u32) -> Option<i64> {
        let frame = earlier.others.get(&slot).copied().or(earlier.most)?;
        if !frame.is_known() {
            self.others.insert(slot, frame);
        }
        frame.shift_to(self.most?)
    }
}

/// The clocks before another one became the trusted one.
pub(super) struct Earlier {
    most: Option<Frame>,
    others: HashMap<u32, Frame>,
}
