//! Leaving: a node that is told to end hands its instances over, and serves the calls that wait with it to their end.
//!
//! | room | what it is |
//! | --- | --- |
//! | `hand_over` | handing the instances over to the other nodes |
//! | `woken_calls` | telling them the calls for which this node has woken devices |
//! | `effects` | what follows from the messages that are exchanged |
//!
//! Invariant: an instance is handed over once another node can take it. A call that waits here is answered here.

pub(super) mod effects;
pub(super) mod hand_over;
mod woken_calls;
