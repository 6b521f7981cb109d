//! Proofs that the shell has verified, and the dialogs of devices that have proved themselves without being attached.
//!
//! Invariant: a proof is verified once. A verdict that arrives after the end of its flow has no effect, because no second end of that flow would undo it.

use std::time::Instant;

use super::{DialogFlow, Verification};
use crate::endpoint::{Endpoint, Source, VerificationId};
use crate::id::InstanceId;

impl Endpoint {
    /// Takes a proof that the shell has judged, if its flow is open still; else its REGISTER ends without an answer.
    pub(in crate::endpoint) fn take_verification(
        &mut self,
        now: Instant,
        verification: VerificationId,
    ) -> Option<Verification> {
        let judged = self.attachments.verifications.remove(&verification)?;
        if self.attachments.knows_flow(judged.source.flow) {
            return Some(judged);
        }
        if let Some((server, _)) = judged.register {
            self.core.transactions.give_up(now, server);
        }
        None
    }

    /// The shell has verified the proof of a request in a call: the dialogs of its device go by that flow from now on.
    pub(super) fn on_request_verified(&mut self, now: Instant, source: Source, instance: InstanceId, granted: bool) {
        if !granted {
            self.refuse_all_unproven(now, instance, source.flow, 403);
            return self.count_failure(source.flow);
        }
        let Source { flow, transport, .. } = source;
        self.carry_dialogs(now, instance, DialogFlow { flow, transport });
    }

    /// The dialogs of a device that is not attached by this flow go by it from now on.
    pub(in crate::endpoint) fn carry_dialogs(&mut self, now: Instant, instance: InstanceId, dialogs: DialogFlow) {
        let flow = dialogs.flow;
        let earlier = self.attachments.dialog_flow(instance).map(|it| it.flow).filter(|earlier| *earlier != flow);
        self.attachments.leave_dialogs(instance, dialogs);
        if let Some(earlier) = earlier {
            self.leave_flow(now, instance, earlier);
        }
        self.answer_asked(instance, flow, earlier);
        self.release_unproven(now, instance, flow);
        self.send_parked_in_dialogs(now, instance);
    }
}
