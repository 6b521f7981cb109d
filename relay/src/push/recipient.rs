//! The recipient of a push, whose token may change between two attempts.
//!
//! Invariant: the first attempt does not ask for a newer token.

use std::future::{Future, ready};
use std::pin::Pin;

/// The answer to [`Recipient::stays`].
pub type Staying<'a> = Pin<Box<dyn Future<Output = bool> + Send + 'a>>;
/// The answer to [`Recipient::is_gone`]; `None`: nobody knows now.
pub type Going<'a> = Pin<Box<dyn Future<Output = Option<bool>> + Send + 'a>>;

/// The recipient of a push.
pub trait Recipient: Sync {
    /// Whether the token that was tried is still the one that the push goes to; asked before each further try, and each further
    /// copy.
    fn stays(&self) -> Staying<'_>;

    /// Whether its service is believed that it knows the subscription no more: asked where it says so of few.
    fn is_gone(&self) -> Going<'_> {
        Box::pin(ready(Some(true)))
    }
}

/// A token that no other takes the place of.
pub struct Fixed;

impl Recipient for Fixed {
    fn stays(&self) -> Staying<'_> {
        Box::pin(ready(true))
    }
}
