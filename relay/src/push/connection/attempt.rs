//! The outcome of one attempt to push, whatever the service.
//!
//! Invariant: a push that a service may have taken is [`Attempt::Lost`], and is never retried as if it had not been taken.

use std::time::Duration;

use super::request::Failure;
use crate::push::Verdict;

/// The outcome of one try.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The push is settled.
    Done(Verdict),
    /// The push may be tried again.
    Again {
        /// How long the service, or our own back-off, asks to wait.
        after: Option<Duration>,
    },
    /// The service takes no more for this device now, or there is no place here to send it from: that says nothing of the service; it may be tried again.
    Limited {
        /// How long the service asks to wait, or we do.
        after: Option<Duration>,
    },
    /// The service may have taken the push, or not.
    Lost,
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsent { after } => Self::Again { after },
            Failure::NoPlace { after } => Self::Limited { after },
            Failure::ShutOut { reason } => Self::Done(Verdict::Refused { reason }),
            Failure::Unconfirmed => Self::Lost,
        }
    }
}
