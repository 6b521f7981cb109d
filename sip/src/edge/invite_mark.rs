//! The common identity of all copies of one INVITE, whatever way each came: Call-ID, CSeq and From tag (RFC 3261 §8.2.2.2).
//!
//! Invariant: a mark tells nothing of a caller, and is the same at each node.

use sha2::{Digest as _, Sha256};

use crate::message::Message;

/// The mark of an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InviteMark([u8; 16]);

impl InviteMark {
    /// The mark of this INVITE.
    pub fn of(invite: &Message) -> Self {
        let mut hash = Sha256::new();
        hash.update(invite.call_id().unwrap_or_default());
        hash.update(format!("\n{:?}\n", invite.cseq()));
        hash.update(invite.from().and_then(|from| from.tag()).unwrap_or_default());
        let mut mark = [0; 16];
        mark.copy_from_slice(&hash.finalize()[..16]);
        Self(mark)
    }

    /// The mark in its form for other nodes.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The mark that another node has sent.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}
