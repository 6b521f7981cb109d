//! The four transaction machines of RFC 3261 §17, with RFC 6026 (2xx to INVITE) and RFC 4320 (no late non-INVITE
//! answers), and the bounded table that runs them.
//!
//! | machine | states | RFC 3261 |
//! | --- | --- | --- |
//! | [`client::InviteClient`] | Calling, Proceeding, Completed, Accepted | §17.1.1, RFC 6026 §7.2 |
//! | [`client::OtherClient`] | Trying, Proceeding, Completed | §17.1.2 |
//! | [`server::InviteServer`] | Proceeding, Completed, Confirmed, Accepted | §17.2.1, RFC 6026 §7.1 |
//! | [`server::OtherServer`] | Trying, Proceeding, Completed | §17.2.2 |
//!
//! | room | what it is |
//! | --- | --- |
//! | `client`, `server`, `machine` | the machines of both sides |
//! | `hop_by_hop` | CANCEL and ACK of a client transaction |
//! | `cancel` | when a CANCEL goes, and by which flow |
//! | `table`, `matching` | the running transactions, and the messages that belong to them |
//! | `io` | inputs and outputs |
//! | `streams`, `late`, `patience` | moves to another stream, late requests, and their end |
//! | `large` | requests too large for a datagram |
//!
//! Invariant: a machine is a pure function of its state, the time and one event; only the [`Table`] holds bytes. The
//! table never holds more than its capacity; beyond it a new transaction is refused and the request answered 503.

mod cancel;
pub mod client;
mod hop_by_hop;
mod io;
mod large;
mod late;
mod machine;
mod matching;
mod patience;
pub mod server;
mod streams;
mod table;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use io::{Arrival, Expired, InviteChange, Reply, ServerId};
pub use late::LATE;
pub use matching::{RequestKey, key_of_cancelled_or_acked};
pub use table::{Asked, Table};

use crate::id::FlowId;

/// Whether a transport repeats what is lost, so that a transaction does not (RFC 3261 §17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reliability {
    /// TCP, TLS or a WebSocket.
    Reliable,
    /// UDP.
    Unreliable,
}

impl Reliability {
    /// The reliability of a flow's transport.
    pub fn of(flow: FlowId) -> Self {
        if flow.is_reliable() { Self::Reliable } else { Self::Unreliable }
    }

    /// Whether nothing is lost.
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Reliable)
    }
}

/// The base timers (RFC 3261 §17.1.1.1, Table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Round-trip estimate; 500 ms.
    pub t1: Duration,
    /// Longest interval between retransmissions; 4 s.
    pub t2: Duration,
    /// Longest life of a message in the network; 5 s.
    pub t4: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { t1: Duration::from_millis(500), t2: Duration::from_secs(4), t4: Duration::from_secs(5) }
    }
}

impl Timing {
    /// 64·T1: timers B, F, H, J, L and M.
    pub fn t1_64(&self) -> Duration {
        self.t1 * 64
    }
}

/// The actions that a machine asks for at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The deadline was an old one, and nothing is due.
    Nothing,
    /// Send the request or the last response again.
    Resend,
    /// No answer (client), or no ACK (server): tell the user and forget the transaction.
    TimedOut,
    /// The transaction has ended in good order: forget it.
    Ended,
}
