//! Clients that crash when a retransmission arrives by another connection than the request: Linphone, as of 5.1.
//!
//! Invariant: a flow by which such a client has registered is known until it ends.

use super::Attachments;
use crate::id::FlowId;
use crate::message::{Message, Name};

/// Parts of their names, in small letters: of the application, and of its stack.
const HURT: &[&str] = &["linphone", "belle-sip"];

impl Attachments {
    /// A client has told what it is.
    pub(super) fn note_client(&mut self, flow: FlowId, register: &Message) {
        let Some(agent) = register.text(Name::UserAgent).map(str::to_ascii_lowercase) else { return };
        if HURT.iter().any(|name| agent.contains(name)) {
            self.flows.entry(flow).or_default().is_hurt_by_copies = true;
        }
    }

    /// Whether a flow's client is one of these.
    pub(in crate::endpoint) fn is_hurt_by_copies(&self, flow: FlowId) -> bool {
        self.flows.get(&flow).is_some_and(|state| state.is_hurt_by_copies)
    }
}
