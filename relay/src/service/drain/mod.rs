//! Leaving: a node that is told to end gives its instances away, and serves on the calls that wait with it.
//!
//! | room | what it is |
//! | --- | --- |
//! | `hand_over` | the instances go to the other nodes |
//! | `woken_calls` | the calls for which it has woken devices |
//! | `effects` | what follows from the words that it and the others exchange |
//!
//! Invariant: an instance is given away once another node can take it, and a call that waits here is answered here.

pub(super) mod effects;
pub(super) mod hand_over;
mod woken_calls;
