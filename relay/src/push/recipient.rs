//! The recipient of a push, whose token may change between two attempts.
//!
//! Invariant: the first attempt does not ask for a newer token.

use std::future::{Future, ready};
use std::pin::Pin;

/// The answer to [`Recipient::stays`].
pub type StaysFuture<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
/// The answer to [`Recipient::is_gone`]; `None`: nobody knows now.
pub type IsGoneFuture<'a> = Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>>;

/// The recipient of a push.
pub trait Recipient: Sync {
    /// Whether the token of the last attempt is still the push's target. Asked before each further attempt, and each further copy.
    fn stays(&self) -> StaysFuture<'_>;

    /// Whether the service is believed that the subscription is gone. Asked while it says so of few.
    fn is_gone(&self) -> IsGoneFuture<'_> {
        Box::pin(ready(Some(true)))
    }
}

/// A recipient whose token is never replaced.
pub struct Fixed;

impl Recipient for Fixed {
    fn stays(&self) -> StaysFuture<'_> {
        Box::pin(ready(true))
    }
}
