//! Which addresses and flows are those of SIP servers, whichever server's they are.
//!
//! Invariant: what comes by another flow and from another address costs two look-ups, however many SIP servers there are: anybody may send
//! to the socket of SIP servers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::{Link, Upstream};
use crate::id::FlowId;

/// The addresses and flows of all.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// How many SIP servers have each address.
    addresses: HashMap<IpAddr, usize>,
    /// Flows that were dialled; some are in use no more.
    flows: HashSet<FlowId>,
    /// How many there may be before those are left out.
    flows_max: usize,
}

impl Trust {
    /// Whether a SIP server has this address.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.addresses.contains_key(&address.to_canonical())
    }

    /// Whether a flow may be one to a SIP server; `false`: it is none.
    pub(super) fn may_be_dialled(&self, flow: FlowId) -> bool {
        self.flows.contains(&flow)
    }

    /// A SIP server has other addresses than before.
    pub(super) fn change(&mut self, before: &[IpAddr], after: &[IpAddr]) {
        for address in after {
            *self.addresses.entry(address.to_canonical()).or_default() += 1;
        }
        for address in before.iter().map(IpAddr::to_canonical) {
            let Some(count) = self.addresses.get_mut(&address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// A flow leads to a SIP server. `known`: all of them.
    pub(super) fn note_dialled<'a>(&mut self, flow: FlowId, known: impl Iterator<Item = &'a Upstream>) {
        self.flows.insert(flow);
        if self.flows.len() <= self.flows_max {
            return;
        }
        self.flows = HashSet::from([flow]);
        for upstream in known {
            self.flows.extend(&upstream.replaced);
            self.flows.extend(upstream.probe.as_ref().map(|probe| probe.flow));
            if let Link::Up { flow, .. } = upstream.link {
                self.flows.insert(flow);
            }
        }
        self.flows_max = 2 * self.flows.len();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use super::super::Upstreams;
    use super::*;
    use crate::endpoint::{Side, Source, Transport};
    use crate::id::UpstreamId;

    fn source(flow: FlowId, peer: &str) -> Source {
        let peer: SocketAddr = peer.parse().unwrap();
        Source { flow, transport: Transport::Tcp, side: Side::Upstream, peer, split: false }
    }

    fn servers(count: u32) -> Upstreams {
        let mut upstreams = Upstreams::default();
        for id in 0..count {
            upstreams.rows.insert(UpstreamId(id), Upstream::new(Instant::now(), "sip:example.com".into(), 10));
            upstreams.set_addresses(UpstreamId(id), [IpAddr::from([10, 0, (id >> 8) as u8, id as u8])].into());
        }
        upstreams
    }

    #[test]
    fn a_server_is_known_by_its_addresses_as_long_as_they_are_those_of_one() {
        let mut upstreams = servers(2);
        let (shared, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let is_known = |upstreams: &Upstreams, peer| upstreams.any_trusts(&source(FlowId::Stream(9), peer));
        upstreams.set_addresses(UpstreamId(0), [shared, shared].into());
        upstreams.set_addresses(UpstreamId(1), [shared, other].into());
        assert!(is_known(&upstreams, "192.0.2.1:5") && is_known(&upstreams, "[::ffff:192.0.2.1]:5"));
        upstreams.set_addresses(UpstreamId(0), [].into());
        assert!(is_known(&upstreams, "192.0.2.1:5"));
        upstreams.set_addresses(UpstreamId(1), [other].into());
        assert!(!is_known(&upstreams, "192.0.2.1:5") && is_known(&upstreams, "192.0.2.2:5"));
        assert!(upstreams.trust.addresses.len() == 1);
    }

    #[test]
    fn flows_that_were_dialled_are_known_and_forgotten_once_they_are_many_and_gone() {
        let mut upstreams = servers(1);
        let replaced = FlowId::Stream(3);
        upstreams.rows.get_mut(&UpstreamId(0)).unwrap().replaced.push(replaced);
        for number in 0..1_000 {
            upstreams.trust.note_dialled(FlowId::Stream(number), upstreams.rows.values());
        }
        assert!(upstreams.trust.flows.len() < 10);
        assert!(upstreams.any_trusts(&source(replaced, "192.0.2.9:5")));
        assert!(!upstreams.any_trusts(&source(FlowId::Stream(999), "192.0.2.9:5")), "of no server any more");
    }
}
