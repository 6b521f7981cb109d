//! Requests other than INVITE that a device leaves without any response although it has a connection: its app may be suspended while its kernel keeps the
//! connection. This concerns devices that are pushed for.
//!
//! | the request | silence for | consequence |
//! | --- | --- | --- |
//! | OPTIONS outside a dialog | [`EdgeTiming::options`](crate::timing::EdgeTiming::options) | 200 from here, as for a device without a connection; no further one is sent to it until something comes from it |
//! | any other that would wake the device if it had no connection | [`EdgeTiming::no_response`](crate::timing::EdgeTiming::no_response) | the device is pushed; the request waits on, and goes to its next connection if it comes by one ([`super::parked`]) |
//!
//! A registrar sends OPTIONS to find out whether a call would reach the phone, and by a push it would. A registrar without an answer sends no more calls
//! (Asterisk's `qualify`, with 3 s unless configured, OpenSIPS' nathelper, FreeSWITCH's `unregister-on-options-fail`). [`super::calls`] treats an INVITE alike.
//!
//! Invariant: no answer is given for a device that is reached by its flow alone: if the flow is dead, nothing else leads to the device.

use std::time::Instant;

use super::Endpoint;
use super::core::{ClientOwner, Timer};
use super::dialogs::{HeaderEdits, NextHop};
use super::requests::is_in_dialog;
use crate::id::BranchId;
use crate::message::{Message, Method};
use crate::transaction::Reply;

impl Endpoint {
    /// Sends a request to a device, and hears of it when that is silent.
    pub(super) fn forward_heard(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        edits: HeaderEdits,
        hop: NextHop,
    ) {
        let edge = self.core.settings.timing.edge;
        if let Some(branch) = self.forward(now, reply, request, edits, hop) {
            self.core.later(now, if asks(request) { edge.options } else { edge.no_response }, Timer::Unheard(branch));
        }
    }

    /// A request that was sent to a device may have been left without any response.
    pub(super) fn on_unheard_due(&mut self, now: Instant, branch: BranchId) {
        let owner = self.core.transactions.progress(branch).filter(|_| self.core.transactions.is_unheard(branch));
        let Some((ClientOwner::Forwarded(server, None), _)) = owner else { return };
        let Some(device) = self.dialogs.device_of(server).map(|device| self.current(device)) else { return };
        let Some(request) = self.core.transactions.asked_by(server).filter(|_| self.is_pushed_for(device)) else {
            return;
        };
        if !asks(request) {
            return self.wake_for_request(now, device);
        }
        let tag = self.core.random.tag();
        let (status, response) = super::notify::options_answer(request, &tag);
        if let Some(flow) = self.core.transactions.flow_of(branch) {
            self.attachments.note_silent(flow);
        }
        self.settle_forwarded(server);
        // A later answer of the device has no receiver, and the device's next connection gets no copy of the request.
        self.core.transactions.abandon(branch);
        self.core.transactions.respond(now, server, status, response);
    }
}

/// Whether a request only asks whether its device is there, and what it can.
fn asks(request: &Message) -> bool {
    request.method() == Some(Method::Options) && !is_in_dialog(request)
}
