//! A stream from a SIP server on which the boundaries of messages are in doubt.
//!
//! | the stream | consequence |
//! | --- | --- |
//! | is in use and has granted a registration | all bindings register by another one, dialled at once; once that grants one, the stream is closed |
//! | is in use and has granted nothing | it is closed, and that counts as any end of a flow |
//! | leads to a SIP server and is not in use | it is closed |
//!
//! A doubt is no failure of the server: an honest server may pass on a stranger's malformed message. So it delays no dial, makes no address worse, and no
//! account is told that its registration failed. Answers to requests that came by the stream go by it while it is open.
//!
//! Invariant: doubts make a server be dialled at most once in [`REST`].

use std::time::{Duration, Instant};

use super::Link;
use super::links::Next;
use crate::endpoint::Endpoint;
use crate::endpoint::core::Timer;
use crate::id::{FlowId, UpstreamId};

/// A server is dialled because of a doubt no sooner than this after the doubt before.
const REST: Duration = Duration::from_secs(1);

impl Endpoint {
    /// A stream is read no more, and no one but this side is known to be the cause.
    pub(in crate::endpoint) fn on_doubted(&mut self, now: Instant, flow: FlowId) {
        let id = self.upstreams.links.get(&flow).copied().filter(|id| !self.is_probe(*id, flow));
        let Some((id, upstream)) = id.and_then(|id| Some((id, self.upstreams.get_mut(id)?))) else {
            // Its dialler alone closes it: for others it may be in use.
            if self.upstreams.addresses.contains_key(&flow) {
                self.close_stream(flow);
            }
            return;
        };
        if !upstream.fitness.has_served() {
            return self.close_stream(flow);
        }
        let at = upstream.doubted_at.map_or(now, |before| now.max(before + REST));
        upstream.doubted_at = Some(at);
        self.flows.note_unread(flow);
        self.replace_flow(now, id, flow);
        match self.begin_anew(now, id) {
            Next::Dialled => {}
            Next::Wanted if at <= now => self.dial(id, None),
            Next::Wanted => {
                if let Some(upstream) = self.upstreams.get_mut(id) {
                    (upstream.link, upstream.armed) = (Link::BackingOff, Some(at));
                    self.core.timers.set(at, Timer::Upstream(id));
                }
            }
            Next::Unwanted => self.rest(id),
        }
    }

    /// A registration was granted `by` this flow: those that are read no more are not needed beside it.
    pub(in crate::endpoint) fn close_unread(&mut self, id: UpstreamId, by: FlowId) {
        let Some(upstream) = self.upstreams.get(id) else { return };
        if !matches!(upstream.link, Link::Up { flow, .. } if flow == by) {
            return;
        }
        let unread: Vec<_> = upstream.replaced.iter().copied().filter(|flow| self.flows.is_unread(*flow)).collect();
        for flow in unread {
            self.close_stream(flow);
        }
    }
}
