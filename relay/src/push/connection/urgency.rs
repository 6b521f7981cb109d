//! Whether somebody waits for a push right now.
//!
//! Invariant: a push that can wait never takes the place, the line or the probe of one that is urgent.

/// The urgency of a request to a push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A caller waits: a service that rests for longer than the request may wait is asked all the same.
    Urgent,
    /// The request leaves those that are urgent the way.
    CanWait,
}

impl Urgency {
    /// Urgent, or not.
    pub(crate) fn when(is_urgent: bool) -> Self {
        if is_urgent { Self::Urgent } else { Self::CanWait }
    }

    /// Whether it is urgent.
    pub(crate) fn is_urgent(self) -> bool {
        self == Self::Urgent
    }
}
