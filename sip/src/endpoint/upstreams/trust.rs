//! The addresses and flows that belong to SIP servers, whichever server's they are.
//!
//! DNS may name few of many servers at a time, and another one than the one that has granted a registration. That server still sends calls, by a connection of
//! its own or from another port. It is trusted as long as its grant may last.
//!
//! Invariant: a message by another flow and from another address costs two lookups, however many SIP servers there are, because anybody may send to the socket
//! of SIP servers.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Link, Upstream, Upstreams};
use crate::id::{FlowId, UpstreamId};

/// Addresses of one SIP server that are believed because registrations stand there; the one at which they end first gives way.
const GRANTED_AT_MAX: usize = 8;

/// However long a registration was granted, its address is believed no longer than this after it.
const GRANTED_FOR_MAX: Duration = Duration::from_secs(24 * 3600);

/// The addresses at which one SIP server has granted registrations, and until when those may stand.
#[derive(Debug, Default)]
pub(super) struct GrantedAt(Vec<(IpAddr, Instant)>);

impl GrantedAt {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.0.iter().any(|(at, _)| *at == address)
    }

    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.0.iter().map(|(at, _)| *at).collect()
    }

    fn grant(&mut self, address: IpAddr, until: Instant) {
        match self.0.iter_mut().find(|(at, _)| *at == address) {
            Some((_, before)) => *before = until.max(*before),
            None => self.0.push((address, until)),
        }
        self.0.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
        self.0.truncate(GRANTED_AT_MAX);
    }

    fn end(&mut self, now: Instant) {
        self.0.retain(|(_, until)| *until > now);
    }
}

impl Upstreams {
    /// The addresses of a SIP server that DNS names, all or some; requests from them are believed.
    pub(in crate::endpoint) fn set_addresses(
        &mut self,
        now: Instant,
        id: UpstreamId,
        addresses: Arc<[IpAddr]>,
        is_whole: bool,
    ) {
        if let Some(upstream) = self.rows.get_mut(&id) {
            self.trust.change(&upstream.trusted, &addresses);
            (upstream.trusted, upstream.is_whole) = (addresses, is_whole);
            let before = upstream.granted_at.addresses();
            upstream.granted_at.end(now);
            self.trust.change(&before, &upstream.granted_at.addresses());
        }
    }

    /// A registration was granted `by` this flow for so long: requests from its address are believed, whatever DNS names then.
    pub(super) fn believe(&mut self, now: Instant, id: UpstreamId, by: FlowId, granted: Duration) {
        let address = self.address_of(by).map(|address| address.to_canonical());
        let (Some(address), Some(upstream)) = (address, self.rows.get_mut(&id)) else { return };
        let before = upstream.granted_at.addresses();
        upstream.granted_at.end(now);
        if !granted.is_zero() {
            upstream.granted_at.grant(address, now + granted.min(GRANTED_FOR_MAX));
        }
        let after = upstream.granted_at.addresses();
        if after != before {
            self.trust.change(&before, &after);
        }
    }
}

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

    use super::*;
    use crate::endpoint::{Side, Source, Transport};

    fn source(flow: FlowId, peer: &str) -> Source {
        let peer: SocketAddr = peer.parse().unwrap();
        Source { flow, transport: Transport::Tcp, side: Side::Upstream, peer, split: false }
    }

    fn servers(count: u32) -> Upstreams {
        let (mut upstreams, now) = (Upstreams::default(), Instant::now());
        for id in 0..count {
            upstreams.rows.insert(UpstreamId(id), Upstream::new(now, "sip:example.com".into(), 10));
            upstreams.set_addresses(
                now,
                UpstreamId(id),
                [IpAddr::from([10, 0, (id >> 8) as u8, id as u8])].into(),
                true,
            );
        }
        upstreams
    }

    #[test]
    fn a_server_is_known_by_its_addresses_as_long_as_they_are_those_of_one() {
        let (mut upstreams, now) = (servers(2), Instant::now());
        let (shared, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let is_known = |upstreams: &Upstreams, peer| upstreams.any_trusts(&source(FlowId::Stream(9), peer));
        upstreams.set_addresses(now, UpstreamId(0), [shared, shared].into(), true);
        upstreams.set_addresses(now, UpstreamId(1), [shared, other].into(), true);
        assert!(is_known(&upstreams, "192.0.2.1:5") && is_known(&upstreams, "[::ffff:192.0.2.1]:5"));
        upstreams.set_addresses(now, UpstreamId(0), [].into(), true);
        assert!(is_known(&upstreams, "192.0.2.1:5"));
        upstreams.set_addresses(now, UpstreamId(1), [other].into(), true);
        assert!(!is_known(&upstreams, "192.0.2.1:5") && is_known(&upstreams, "192.0.2.2:5"));
        assert!(upstreams.trust.addresses.len() == 1);
        // Addresses that have granted a registration stay trusted; of many addresses few are kept, and none once the upstream is gone.
        let minute = Duration::from_secs(60);
        for last in 1..=100 {
            let by = FlowId::Datagram(SocketAddr::from(([198, 51, 100, last], 5060)));
            upstreams.believe(now, UpstreamId(1), by, minute * u32::from(last));
        }
        assert_eq!(upstreams.trust.addresses.len(), 1 + GRANTED_AT_MAX);
        assert!(is_known(&upstreams, "198.51.100.100:5") && !is_known(&upstreams, "198.51.100.1:5"));
        upstreams.set_addresses(now + minute * 99, UpstreamId(1), [other].into(), true);
        assert!(is_known(&upstreams, "198.51.100.100:5") && !is_known(&upstreams, "198.51.100.99:5"));
        upstreams.set_addresses(now + GRANTED_FOR_MAX, UpstreamId(1), [other].into(), true);
        assert_eq!(upstreams.trust.addresses.len(), 1);
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
