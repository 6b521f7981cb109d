//! Streams that are kept for the dialogs of devices that are not served any more.
//!
//! | | the stream to the device's SIP server |
//! | --- | --- |
//! | a device is not served any more and still has a flow | stays, and its SIP server with it, for as long as that flow carries its dialogs |
//! | another registration at that SIP server ends | stays |
//! | the device, or another, registers there again | is used for that, too |
//! | another stream replaces it | stays open beside that |
//! | it ends, or the last such device has no flow any more | is not kept: without registrations the SIP server is forgotten |
//!
//! Invariant: at most one stream is kept for a device. Each is one reference to its SIP server, told by [`Event::UpstreamKept`] and given back by
//! [`Event::UpstreamReleased`]; no flow is dialled for it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::{Link, Upstream, Upstreams};
use crate::endpoint::core::Timer;
use crate::endpoint::{Endpoint, Event, Output};
use crate::id::{FlowId, InstanceId, UpstreamId};

/// The SIP servers of the devices that are known no more; [`Upstream::kept`] has the streams.
pub(super) type Kept = BTreeMap<InstanceId, UpstreamId>;

impl Upstream {
    /// Whether registrations, or REGISTERs, want a flow.
    pub(super) fn is_used(&self) -> bool {
        !self.members.is_empty() || self.transit_refs > 0
    }

    /// Whether the dialogs of a device go by this stream that is known no more.
    pub(super) fn is_kept(&self, stream: FlowId) -> bool {
        self.kept.values().any(|kept| *kept == stream)
    }
}

impl Endpoint {
    /// The device is known no more: where it has a flow, the stream to its SIP server stays for its dialogs.
    pub(in crate::endpoint) fn keep_stream(&mut self, instance: InstanceId, id: UpstreamId) {
        let Some(upstream) = self.upstreams.rows.get_mut(&id).filter(|_| self.attachments.is_gone(instance)) else {
            return;
        };
        let Link::Up { flow, .. } = upstream.link else { return };
        if flow.is_reliable() && !self.upstreams.kept.contains_key(&instance) {
            upstream.kept.insert(instance, flow);
            self.upstreams.kept.insert(instance, id);
            self.core.event(Event::UpstreamKept(id));
        }
    }

    /// No flow carries the dialogs of a device any more that was known no more, or it is known again.
    pub(in crate::endpoint) fn leave_kept(&mut self, now: Instant, instance: InstanceId) {
        let Some(id) = self.upstreams.kept.remove(&instance) else { return };
        if let Some(upstream) = self.upstreams.rows.get_mut(&id) {
            upstream.kept.remove(&instance);
        }
        self.core.event(Event::UpstreamReleased(id));
        self.forget_unless_needed(now, id, true);
    }

    /// A stream has ended. Returns the SIP server, if the stream was kept, also where it is none of its streams any more.
    pub(super) fn lose_kept(&mut self, stream: FlowId) -> Option<UpstreamId> {
        let Upstreams { kept, rows, .. } = &self.upstreams;
        let id = *kept.values().find(|id| rows.get(id).is_some_and(|upstream| upstream.is_kept(stream)))?;
        let lost = self.upstreams.rows.get_mut(&id)?.kept.extract_if(.., |_, kept| *kept == stream);
        let lost: Vec<_> = lost.map(|(instance, _)| instance).collect();
        for instance in &lost {
            self.upstreams.kept.remove(instance);
            self.core.event(Event::UpstreamReleased(id));
        }
        (!lost.is_empty()).then_some(id)
    }

    /// Forgets a SIP server that nothing needs any more. Its stream is closed; `crossing`: once what the server has sent by now is answered, which may
    /// have used another flow.
    pub(super) fn forget_unless_needed(&mut self, now: Instant, id: UpstreamId, crossing: bool) {
        if self.upstreams.rows.get(&id).is_none_or(|it| it.is_used() || it.held_until.is_some() || !it.kept.is_empty())
        {
            return;
        }
        let gone = self.upstreams.rows.remove(&id);
        self.core.event(Event::UpstreamIdle { upstream: id, forgotten: true });
        if let Some(upstream) = &gone {
            self.upstreams.trust.change(&upstream.trusted, &[]);
            self.upstreams.trust.change(&upstream.granted_at.addresses(), &[]);
        }
        if let Some(probe) = gone.as_ref().and_then(|upstream| upstream.probe.as_ref()) {
            self.abandon_probe(probe);
        }
        if let Some(Upstream { link: Link::Up { flow, .. }, .. }) = gone
            && flow.is_reliable()
        {
            self.upstreams.links.remove(&flow);
            if crossing {
                let until = now + self.core.settings.timing.transaction.t4;
                self.core.timers.set(until, Timer::Linger(Box::new(flow)));
            } else {
                self.core.flush();
                self.core.outputs.push_back(Output::Close(flow));
            }
        }
    }
}
