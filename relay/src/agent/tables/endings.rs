//! The beginning and the end of an instance, for those who wait for them.
//!
//! Invariant: nothing here holds a secret or names an account.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::agent::digest::{Asked, Unanswerable};
use crate::domain::WipeReason;

/// How an instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// The instance is unregistered, erased from the store and receipted.
    Wiped(WipeReason),
    /// The instance is unregistered and forgotten: it never was in the store.
    NeverOurs,
    /// The instance is forgotten without a word to its SIP server: another node serves it.
    HandedOver,
}

/// Why a shard refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The shard has no such instance.
    Unknown,
    /// The proof is wrong.
    Forbidden,
}

/// Channel to a requester that waits for the end of an instance. An instance that ends in another way than by a wipe is reported as unknown.
pub type WipeWaiter = oneshot::Sender<Result<WipeDone, Denied>>;

/// An instance that is ending.
pub(crate) struct Ending {
    /// How.
    pub kind: EndKind,
    /// Whether the SIP server confirmed the unregistration, once the endpoint is done with it.
    pub unbound: Option<bool>,
    /// The state of the record in the store; `None`: the store has not said yet.
    pub erasure: Option<Erasure>,
    /// The waiters for the end of a wipe.
    pub waiters: Vec<WipeWaiter>,
    /// The wait is for a push that is on its way, and is short.
    pub is_heard_out: bool,
}

/// How a first registration went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstRegistration {
    /// The SIP server accepted it for this long.
    Registered {
        /// The lifetime that was granted.
        expires: Duration,
        /// The challenges to its password, which may give way to the derived answers.
        asked: Vec<Asked>,
    },
    /// The SIP server refused it for good; the instance is forgotten.
    Refused {
        /// Its status.
        status: u16,
        /// Why there was no answer to its challenge, if that was it.
        unanswerable: Option<Unanswerable>,
    },
    /// The registration failed and will be tried again.
    Failed {
        /// The status, if there was an answer.
        status: Option<u16>,
    },
}

/// A wipe is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WipeDone {
    /// Why.
    pub reason: WipeReason,
    /// Whether the SIP server confirmed.
    pub unregistered: bool,
    /// The state of the record in the store.
    pub erasure: Erasure,
}

/// The state of a wiped instance in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// Nothing is left.
    Done,
    /// Nothing is left of what has passed through, which leaves no tombstone.
    Unmarked,
    /// The store is away; a durable tombstone has it erased by this run or the next.
    Pending,
    /// The store is away, and the tombstone could not be made durable: if the process dies now, the instance comes back.
    Unsure,
}

impl Erasure {
    /// Its word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done | Self::Unmarked => "erased",
            Self::Pending => "pending",
            Self::Unsure => "unsure",
        }
    }
}
