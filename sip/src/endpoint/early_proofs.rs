//! Proofs of devices while instances may be on their way here: after a start, and during a claim.
//!
//! | the proof | answer | counts |
//! | --- | --- | --- |
//! | is right, of an instance that is here | as usual | |
//! | is of no instance that is here | 503 with Retry-After | as early |
//! | is wrong, of an instance that is here | 503 as well, so that nobody learns which ones are here | as early |
//! | is of no instance that is here, and none is on its way | if other nodes live, the store is asked ([`super::elsewhere`]); otherwise 403 | as a failure |
//! | is wrong, of an instance that is here, and none is on its way | 403 | as a failure |
//!
//! A client gives up at a 403 (RFC 3261 §21.4.4), and the device that has shown the proof may be known in a moment.
//!
//! Invariant: an early proof does not count as a failed one. A flow with [`EARLY_PER_FLOW`] of them is closed.

use std::time::Instant;

use bytes::Bytes;

use super::{EdgeRegister, Endpoint, Event, Output, Source};
use crate::id::FlowId;
use crate::message::{Composer, Message, Name};
use crate::transaction::Reply;

/// REGISTERs that one flow may send before their instances are here; then it is closed.
pub const EARLY_PER_FLOW: u8 = 64;
/// How soon a device may try again, in seconds.
const RETRY_AFTER_S: u32 = 2;

impl Endpoint {
    /// Instances may be on their way here, or are not any more.
    pub fn expect_instances(&mut self, are_expected: bool) {
        self.attachments.is_incomplete = are_expected;
    }

    /// A REGISTER of an instance that is not here.
    pub(super) fn deny_unknown(&mut self, now: Instant, source: Source, reply: Reply<'_>, register: &Message) {
        let is_early = self.attachments.is_incomplete;
        self.core.event(Event::EdgeRegister(if is_early { EdgeRegister::Early } else { EdgeRegister::Unknown }));
        let (status, response) = self.answer_to_wrong_proof(register);
        self.respond_once(now, reply, register, status, response);
        self.count_wrong_proof(source.flow);
    }

    /// The answer to a REGISTER whose proof is not that of an instance which is here.
    pub(super) fn answer_to_wrong_proof(&mut self, register: &Message) -> (u16, Bytes) {
        let is_early = self.attachments.is_incomplete;
        if is_early {
            return (503, self.early_answer(register));
        }
        let tag = self.core.random.tag();
        (403, Composer::response(register, 403, Composer::reason(403), Some(&tag)).finish())
    }

    /// The answer to a REGISTER whose instance may be here in a moment.
    pub(super) fn early_answer(&mut self, register: &Message) -> Bytes {
        let tag = self.core.random.tag();
        let response = Composer::response(register, 503, Composer::reason(503), Some(&tag));
        response.header(Name::RetryAfter, RETRY_AFTER_S).finish()
    }

    pub(super) fn count_wrong_proof(&mut self, flow: FlowId) {
        if !self.attachments.is_incomplete {
            return self.count_failure(flow);
        }
        self.count_early(flow);
    }

    /// A REGISTER could not be judged.
    pub(super) fn count_early(&mut self, flow: FlowId) {
        if self.attachments.note_early(flow) >= EARLY_PER_FLOW {
            self.core.flush();
            self.core.outputs.push_back(Output::Close(flow));
        }
    }
}
