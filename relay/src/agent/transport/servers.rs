//! The SIP servers that take a bare LF for the end of a line, and forward what a caller wrote. Their streams must be read the same way.
//!
//! | a stream | is read that way from its first byte if |
//! | --- | --- |
//! | that the relay dials | the server at this address and port showed it last, or the operator names it |
//! | that a server opens | any server at this address showed it, or the operator names it: the source port identifies no server |
//!
//! Invariant: only an answer of the server itself, on a stream to its own address and port, revokes what it has shown. At most [`KNOWN_MAX`] places are
//! remembered, and [`KNOWN_PER_NETWORK`] of one network; the place heard from longest ago is replaced.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

use crate::limits::counted_as;
use crate::lock::Mutex;

/// Places that are remembered.
const KNOWN_MAX: usize = 4_096;
/// Likewise of one network, as the limits count it: the owner of one network drives out no others.
const KNOWN_PER_NETWORK: usize = 64;
/// Places that ended a stream when they were asked.
const SHY_MAX: usize = 1_024;
/// Addresses whose streams came into doubt.
const DOUBTED_MAX: usize = 1_024;

/// The place of a server: the port is that which is dialled, and not known of a stream that it has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    address: IpAddr,
    port: Option<u16>,
}

impl Place {
    pub(super) fn dialled(peer: SocketAddr) -> Self {
        Self { address: peer.ip().to_canonical(), port: Some(peer.port()) }
    }

    pub(super) fn accepted(peer: SocketAddr) -> Self {
        Self { address: peer.ip().to_canonical(), port: None }
    }
}

/// The servers that see bare LFs; all clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct LfServers(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// How this relay names itself toward servers.
    own: OwnNames,
    /// The hosts that the operator names, as [`host_of`] writes them.
    hosts: Vec<Box<str>>,
    /// Whether any stream came into doubt: most relays never see one, and ask nobody.
    has_doubted: AtomicBool,
    table: Mutex<Table>,
}

/// How this relay names itself in a Via.
#[derive(Debug, Default)]
pub(crate) struct OwnNames {
    pub(crate) tls: Box<str>,
    pub(crate) tcp: Box<str>,
}

#[derive(Debug, Default)]
struct Table {
    /// The servers that have said so, and when: a number that grows.
    said: BTreeMap<Place, u64>,
    last: u64,
    /// The last addresses of the operator's names.
    named: BTreeMap<Box<str>, Vec<IpAddr>>,
    /// Servers that ended a stream when they were asked: the next one is not asked.
    shy: VecDeque<Place>,
    /// Servers of whose streams the end of a message was in doubt.
    doubted: VecDeque<IpAddr>,
}

impl LfServers {
    pub(crate) fn new(own: OwnNames, hosts: &[Box<str>]) -> Self {
        let hosts: Vec<_> = hosts.iter().map(|host| host_of(host)).collect();
        let literal = |host: &str| Some((host.into(), vec![host.trim_matches(['[', ']']).parse().ok()?]));
        let named = hosts.iter().filter_map(|host| literal(host)).collect();
        Self(Arc::new(Inner { own, hosts, table: Mutex::new(Table { named, ..Table::default() }), ..Inner::default() }))
    }

    pub(super) fn own(&self) -> &OwnNames {
        &self.0.own
    }

    /// Whether the server there is known to.
    pub(super) fn has(&self, place: Place) -> bool {
        let table = self.lock();
        let said = match place.port {
            Some(_) => table.said.contains_key(&place),
            None => {
                let any = place..=Place { port: Some(u16::MAX), ..place };
                table.said.range(any).next().is_some()
            }
        };
        said || table.named.values().flatten().any(|address| address.to_canonical() == place.address)
    }

    /// The server there has said whether it does. Of those that open streams from one address one may say no for itself alone.
    pub(super) fn note(&self, place: Place, sees: bool) {
        let mut table = self.lock();
        let table = &mut *table;
        if !sees {
            if place.port.is_some() {
                table.said.remove(&place);
            }
            return;
        }
        table.last += 1;
        if !table.said.contains_key(&place) {
            let network = counted_as(place.address);
            let oldest = |of: &BTreeMap<Place, u64>, within: bool| {
                let theirs = of.iter().filter(|(place, _)| !within || counted_as(place.address) == network);
                theirs.min_by_key(|(_, at)| **at).map(|(place, _)| *place)
            };
            let theirs = table.said.keys().filter(|place| counted_as(place.address) == network).count();
            let is_full = table.said.len() >= KNOWN_MAX;
            let gives_way = if theirs >= KNOWN_PER_NETWORK || is_full {
                oldest(&table.said, theirs >= KNOWN_PER_NETWORK)
            } else {
                None
            };
            gives_way.map(|place| table.said.remove(&place));
        }
        table.said.insert(place, table.last);
    }

    /// Takes note of the addresses of an account's host.
    pub(super) fn resolved(&self, host: &str, addresses: &[IpAddr]) {
        if self.0.hosts.is_empty() || addresses.is_empty() {
            return;
        }
        let host = host_of(host);
        if self.0.hosts.contains(&host) {
            self.lock().named.insert(host, addresses.to_vec());
        }
    }

    /// A stream of the server there came into doubt: its reading of line ends is worth a question.
    pub(super) fn note_doubt(&self, place: Place) {
        let mut table = self.lock();
        table.doubted.retain(|doubted| *doubted != place.address);
        if table.doubted.len() >= DOUBTED_MAX {
            table.doubted.pop_front();
        }
        table.doubted.push_back(place.address);
        self.0.has_doubted.store(true, Ordering::Relaxed);
    }

    /// Whether a stream of the server there ever came into doubt.
    pub(super) fn is_doubted(&self, place: Place) -> bool {
        self.0.has_doubted.load(Ordering::Relaxed) && self.lock().doubted.contains(&place.address)
    }

    /// Whether the server there is asked on a new stream: not on the one that follows one which it has ended for it.
    pub(super) fn asks(&self, place: Place) -> bool {
        let mut table = self.lock();
        let before = table.shy.len();
        table.shy.retain(|shy| *shy != place);
        table.shy.len() == before
    }

    /// The server there has ended a stream without having answered.
    pub(super) fn note_shy(&self, place: Place) {
        let mut table = self.lock();
        if table.shy.len() >= SHY_MAX {
            table.shy.pop_front();
        }
        table.shy.push_back(place);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock()
    }
}

/// A host, written in one way.
fn host_of(text: &str) -> Box<str> {
    text.trim_end_matches('.').to_ascii_lowercase().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(last: u8, port: u16) -> Place {
        Place::dialled(SocketAddr::from(([192, 0, 2, last], port)))
    }

    fn opened(last: u8) -> Place {
        Place::accepted(SocketAddr::from(([192, 0, 2, last], 40_000)))
    }

    #[test]
    fn what_a_server_has_said_is_taken_away_by_itself_alone() {
        let known = LfServers::default();
        known.note(place(1, 5061), true);
        assert!(known.has(place(1, 5061)) && known.has(opened(1)));
        assert!(!known.has(place(1, 5081)) && !known.has(place(2, 5061)) && !known.has(opened(2)));
        // Another one in the same house.
        known.note(place(1, 5081), false);
        known.note(opened(1), false);
        assert!(known.has(place(1, 5061)) && known.has(opened(1)));
        known.note(place(1, 5061), false);
        assert!(!known.has(place(1, 5061)) && !known.has(opened(1)));
        known.note(opened(3), true);
        assert!(known.has(opened(3)) && !known.has(place(3, 5061)), "which of them it was is not known");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_one_network_drives_out_none_but_its_own() {
        let known = LfServers::default();
        known.note(place(1, 5061), true);
        for port in 1..=2 * KNOWN_PER_NETWORK as u16 {
            known.note(place(2, port), true);
        }
        assert_eq!(known.lock().said.len(), 1 + KNOWN_PER_NETWORK);
        assert!(!known.has(place(2, 1)) && known.has(place(2, 2 * KNOWN_PER_NETWORK as u16)));
        for number in 0..2 * KNOWN_MAX as u32 {
            known.note(Place::dialled(SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 5061))), true);
        }
        assert_eq!(known.lock().said.len(), KNOWN_MAX);
        for number in 0..2 * SHY_MAX as u32 {
            known.note_shy(Place::dialled(SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 5061))));
        }
        assert_eq!(known.lock().shy.len(), SHY_MAX);
        assert!(!known.is_doubted(place(1, 5061)));
        for number in 0..2 * DOUBTED_MAX as u32 {
            known.note_doubt(Place::accepted(SocketAddr::from((std::net::Ipv4Addr::from_bits(number), 5061))));
        }
        known.note_doubt(place(1, 5061));
        assert_eq!(known.lock().doubted.len(), DOUBTED_MAX);
        assert!(known.is_doubted(place(1, 5081)) && known.is_doubted(opened(1)) && !known.is_doubted(place(2, 5061)));
    }

    #[test]
    fn what_the_operator_names_is_known_by_its_addresses_whatever_it_says() {
        let hosts = ["SIP.example.net.".into(), "192.0.2.7".into(), "[2001:db8::7]".into()];
        let known = LfServers::new(OwnNames::default(), &hosts);
        let later = Place::accepted(SocketAddr::from(([192, 0, 2, 9], 40_000)));
        known.resolved("other.example.net", &[[192, 0, 2, 8].into()]);
        assert!(known.has(place(7, 5061)) && known.has(opened(7)) && !known.has(opened(8)) && !known.has(later));
        assert!(known.has(Place::accepted("[2001:db8::7]:40000".parse().unwrap())));
        known.resolved("sip.example.net", &[[192, 0, 2, 9].into()]);
        known.note(place(9, 5061), false);
        assert!(known.has(later) && known.has(place(9, 5061)));
    }

    #[test]
    fn who_has_ended_a_stream_because_it_was_asked_is_not_asked_on_the_next() {
        let known = LfServers::default();
        assert!(known.asks(place(1, 5061)));
        known.note_shy(place(1, 5061));
        assert!(!known.asks(place(1, 5061)) && known.asks(place(1, 5081)) && known.asks(place(1, 5061)));
    }
}
