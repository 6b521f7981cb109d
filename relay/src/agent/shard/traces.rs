//! Recording the SIP of an instance whose user or operator has asked for it.
//!
//! Invariant: no message is examined while nothing is recorded on this shard. Of the devices of a shared account, only the instance's own flow is recorded. Of
//! the SIP server's side, only the instance's own REGISTERs are recorded until its credentials are proven. A trace outlives the registration of a push binding,
//! unless that is wiped. The instance's timeline, which its user reads, names the requester.

use std::cell::LazyCell;
use std::net::SocketAddr;

use bytes::Bytes;
use sip::endpoint::{Side, Source, Transport};
use sip::id::{FlowId, InstanceId};
use sip::message::{Limits, Message, Method};

use super::Shard;
use crate::agent::request::{Denied, Principal, TraceAnswer, TraceDenied, TraceRequest};
use crate::agent::tables::timeline::TimelineEvent;
use crate::agent::trace::scrub::scrub;
use crate::agent::trace::{CallName, Recorded, Trace};
use crate::clock::{unix_now, unix_now_ms};

/// Traces that one shard records at once; a further one is refused with 429.
const TRACES_MAX: usize = 32;
/// Traces on one shard beyond which the operator alone begins one.
const BEGUN_BY_DEVICES_MAX: usize = 24;

impl Shard {
    /// Begins, reads or ends the trace of an instance.
    pub(crate) fn trace(
        &mut self,
        id: InstanceId,
        who: &Principal,
        request: TraceRequest,
    ) -> Result<TraceAnswer, TraceDenied> {
        // A push binding has no secret: only the operator asks for its trace. Its device may take its registration back while it is recorded, and come again by
        // the same id.
        let stays = !matches!(request, TraceRequest::Begin { .. }) && self.traces.contains_key(&id);
        let passed = matches!(who, Principal::Relay) && (stays || self.push_bindings.knows(id));
        if !passed {
            self.admit(id, who).map_err(TraceDenied::Denied)?;
        }
        self.end_traces();
        match request {
            TraceRequest::Begin { .. } if self.is_ending(id) => Err(TraceDenied::Denied(Denied::Unknown)),
            TraceRequest::Begin { for_s } => {
                let by_operator = matches!(who, Principal::Relay);
                let most = if by_operator { TRACES_MAX } else { BEGUN_BY_DEVICES_MAX };
                if self.traces.len() >= most && !self.traces.contains_key(&id) {
                    return Err(TraceDenied::TooMany);
                }
                let until = unix_now().saturating_add(for_s);
                self.traces.insert(id, Trace::new(until));
                tracing::info!(event = "trace-begun", instance = %id, until, by_operator, "the SIP of this instance is being recorded");
                self.note(id, None, TimelineEvent::TraceBegun { by_operator });
                Ok(TraceAnswer::Begun { until })
            }
            TraceRequest::Read => {
                let trace = self.traces.get(&id).ok_or(TraceDenied::None)?;
                Ok(TraceAnswer::File(trace.file()))
            }
            TraceRequest::End => {
                let ended = self.forget_trace(id);
                if ended { Ok(TraceAnswer::Ended) } else { Err(TraceDenied::None) }
            }
        }
    }

    /// Whether an instance has begun to end, so that nobody could read its trace any more.
    pub(super) fn is_ending(&self, id: InstanceId) -> bool {
        self.instances.get(id).is_some_and(|row| row.ending.is_some())
    }

    /// Erases the trace of an instance. Returns whether there was one.
    pub(crate) fn forget_trace(&mut self, id: InstanceId) -> bool {
        let ended = self.traces.remove(&id).is_some();
        if ended {
            tracing::info!(event = "trace-ended", instance = %id, "the recording of this instance is erased");
            self.note(id, None, TimelineEvent::TraceEnded);
        }
        ended
    }

    /// Erases the traces that are over.
    pub(crate) fn end_traces(&mut self) {
        if self.traces.is_empty() {
            return;
        }
        let now = unix_now();
        let over: Vec<InstanceId> = self.traces.iter().filter(|(_, it)| it.until <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.forget_trace(id);
        }
    }

    /// The end of the next trace, in seconds since 1970.
    pub(crate) fn next_trace_end(&self) -> Option<u64> {
        self.traces.values().map(|trace| trace.until).min()
    }

    /// A message came.
    pub(crate) fn trace_in(&mut self, source: &Source, message: &Message) {
        self.record(true, source.side, source.flow, Some(source.transport), Some(source.peer), message);
    }

    /// Bytes are sent.
    pub(crate) fn trace_out(&mut self, flow: FlowId, bytes: &Bytes) {
        let Ok(message) = Message::parse(bytes, &Limits::COMPOSED) else { return };
        let side = if self.endpoint.is_device_flow(flow) { Side::Device } else { Side::Upstream };
        let transport = matches!(flow, FlowId::Datagram(_)).then_some(Transport::Udp);
        self.record(false, side, flow, transport, self.outgoing.peer_of(flow), &message);
    }

    fn record(
        &mut self,
        came: bool,
        side: Side,
        flow: FlowId,
        transport: Option<Transport>,
        peer: Option<SocketAddr>,
        message: &Message,
    ) {
        let Some(call_id) = message.call_id() else { return };
        let (call, names) = (CallName::of(call_id), self.endpoint.named(side, flow, message));
        // The text is the same for all instances.
        let text = LazyCell::new(|| Bytes::from(scrub(message)));
        for (id, trace) in &mut self.traces {
            let named = self.endpoint.is_named(&names, *id);
            let own_flow = self.endpoint.device_flow(*id) == Some(flow) || trace.was_seen_on(flow);
            let is_own = match side {
                // A flow may carry several instances: the Call-ID tells whose message it is.
                Side::Device if named || own_flow && message.method() == Some(Method::Register) => true,
                Side::Device => own_flow && trace.follows(call),
                Side::Upstream => named || trace.follows(call),
            };
            if !(is_own && (own_flow || self.endpoint.is_shown(message, *id))) {
                continue;
            }
            trace.follow(call);
            if side == Side::Device {
                trace.note_flow(flow);
            }
            let at_us = unix_now_ms().saturating_mul(1_000);
            trace.record(Recorded { at_us, came, side, transport, peer, text: text.clone() });
        }
    }
}

impl From<Denied> for TraceDenied {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
