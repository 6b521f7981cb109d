//! Requests of devices that were sent to SIP servers, and whose stream ends before they are answered: the server restarts, a load balancer closes an idle
//! connection, a NAT loses its state.
//!
//! | the stream has ended, and the SIP server | consequence |
//! | --- | --- |
//! | answers by a stream of its own (RFC 3261 §18.2.2) | that is the answer, and what follows goes by that stream |
//! | has another flow, or has one again within [`EdgeTiming::parked`](crate::timing::EdgeTiming::parked), to the same address | the request is sent there again, with its branch: the server takes it for a retransmission, and repeats its last answer (§17.2.3); for a cancelled INVITE the CANCEL is sent |
//! | the same, to another address | likewise, unless a response had come from the earlier one (RFC 3263 §4.3) |
//! | has none for so long | nobody has answered: 480, an INVITE 408; a BYE waits on |
//!
//! Invariant: a request is sent again only once, because it may be the reason why its reader closes streams; a CANCEL by each stream until it is answered,
//! 64·T1 long, for a callee would ring on for nobody. For each open stream, the remembered branches are
//! at most twice those that wait for their answers on it, or [`REMEMBERED_MIN`].

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use super::{ClientOwner, Endpoint};
use crate::id::{BranchId, FlowId, UpstreamId};

/// The number of branches of a stream above which those that wait for nothing are removed.
const REMEMBERED_MIN: usize = 64;

/// Requests of devices that were sent to SIP servers by streams, and may be unanswered.
#[derive(Debug, Default)]
pub(super) struct AskedOfServers(HashMap<FlowId, OnStream>);

#[derive(Debug, Default)]
struct OnStream {
    branches: Vec<BranchId>,
    /// The number of branches at which those that wait for nothing are removed.
    look_at: usize,
}

impl AskedOfServers {
    fn add(&mut self, flow: FlowId, branch: BranchId, is_pending: impl Fn(BranchId) -> bool) {
        let OnStream { branches, look_at } = self.0.entry(flow).or_default();
        if branches.len() >= *look_at {
            // A request that two streams answer in turn may be here more than once.
            let mut seen = HashSet::new();
            branches.retain(|branch| is_pending(*branch) && seen.insert(*branch));
            *look_at = (2 * branches.len()).max(REMEMBERED_MIN);
        }
        branches.push(branch);
    }
}

impl Endpoint {
    /// A device's request was sent by this flow of its SIP server.
    pub(super) fn note_asked_of_server(&mut self, flow: FlowId, branch: BranchId) {
        if flow.is_reliable() {
            let Self { asked_of_servers, core, .. } = self;
            asked_of_servers.add(flow, branch, |branch| core.transactions.progress(branch).is_some_and(|it| it.1));
        }
    }

    /// A stream to this address has ended.
    pub(super) fn ask_by_next_flow(&mut self, now: Instant, ended: FlowId, address: Option<IpAddr>) {
        let mut seen = HashSet::new();
        for branch in self.asked_of_servers.0.remove(&ended).map(|on| on.branches).unwrap_or_default() {
            if !seen.insert(branch) {
                continue;
            }
            let is_there = self.core.transactions.flow_of(branch) == Some(ended);
            let Some((ClientOwner::Forwarded(_, Some(id)), true)) = self.core.transactions.progress(branch) else {
                continue;
            };
            match self.flow_to(id).filter(|flow| *flow != ended) {
                _ if !is_there => {}
                Some(flow) => self.ask_again(now, branch, flow, address),
                None => self.park_asked(now, id, branch, address),
            }
        }
    }

    /// The SIP server of a request that went to this address has this flow now.
    pub(super) fn ask_again(&mut self, now: Instant, branch: BranchId, flow: FlowId, address: Option<IpAddr>) {
        // The request's Via names a stream.
        if !flow.is_reliable() {
            return;
        }
        let transactions = &mut self.core.transactions;
        let is_elsewhere = address.is_some_and(|address| self.upstreams.leads_elsewhere(flow, address));
        let is_known_there = is_elsewhere && transactions.is_proceeding(branch);
        let is_over = transactions.has_cancelled(branch);
        if !is_over && (is_known_there || transactions.was_carried(branch)) {
            transactions.follow(branch, flow);
        } else {
            transactions.carry(now, branch, flow);
        }
        self.note_asked_of_server(flow, branch);
    }

    /// Parks a request whose SIP server has no flow.
    fn park_asked(&mut self, now: Instant, id: UpstreamId, branch: BranchId, address: Option<IpAddr>) {
        if self.upstreams.registrar(id).is_none() || !self.park_for_server(now, id, branch, address) {
            return self.abandon_forwarded(now, branch);
        }
        // A request that was sent again causes no dial: its server may close each stream because of it.
        if !self.core.transactions.was_carried(branch) {
            self.want_flow_soon(now, id);
        }
    }
}
