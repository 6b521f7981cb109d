//! The sources whose requests are believed to be a SIP server's: the addresses of its names, by DNS.
//!
//! | DNS gives, for a name | the name has |
//! | --- | --- |
//! | all its addresses | these, and no others |
//! | none, because there are none | its earlier ones, until DNS has said so for [`NAMELESS`]: a half-loaded zone says so, too |
//! | some, in an incomplete answer | these, and its earlier ones |
//! | no answer | its earlier ones |
//!
//! Invariant: an address that DNS no longer names is believed for at most [`KEPT`], and no longer than until a complete answer. A name has at most
//! [`OF_NAME_MAX`] addresses. No source is reported as unknown while a name has no complete answer, nor after that answer has expired (its TTL, at least
//! [`MIN_TTL`](crate::net::dns::resolve::MIN_TTL)) until DNS has answered again.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::net::dns::resolve::MAX_CANDIDATES;

/// How long an address is believed that DNS named before, while it does not tell all (as RFC 8767 §5 has it of answers that are used on).
const KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How long what a name had is used on while DNS says that there is no such name.
pub(super) const NAMELESS: Duration = Duration::from_secs(300);
/// Addresses of one name; those that were named longest ago give way.
const OF_NAME_MAX: usize = MAX_CANDIDATES;

/// The addresses of a name, as far as DNS has given them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameAddresses {
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Whether these are all.
    pub(crate) is_whole: bool,
}

/// The addresses from which requests are believed to be a SIP server's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Believed {
    /// The addresses that DNS has given.
    pub(crate) addresses: Arc<[IpAddr]>,
    /// Whether DNS has told all of each name, and that holds; else another source may be the SIP server, too.
    pub(crate) is_whole: bool,
}

impl Believed {
    /// Whether it can be said of a source that it is the SIP server, or is not.
    pub(crate) fn judges(&self, source: IpAddr) -> bool {
        self.addresses.contains(&source) || self.is_whole && !self.addresses.is_empty()
    }
}

/// The addresses of the names of one SIP server.
#[derive(Debug, Default)]
pub(super) struct Trusted(Vec<Name>);

/// A name of the SIP server.
#[derive(Clone, Debug, Default)]
struct Name {
    named: Vec<Named>,
    /// Whether DNS has told all of them, and means it.
    is_whole: bool,
    /// Since when DNS has said that it has no address.
    nameless_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Named {
    address: IpAddr,
    at: Instant,
}

impl Trusted {
    /// DNS has told this of the name with this number.
    pub(super) fn told(&mut self, name: usize, told: &NameAddresses, now: Instant) {
        if self.0.len() <= name {
            self.0.resize(name + 1, Name::default());
        }
        let name = &mut self.0[name];
        let is_nameless = told.is_whole && told.addresses.is_empty();
        name.nameless_since = name.nameless_since.filter(|_| is_nameless).or(is_nameless.then_some(now));
        let is_doubted = name.nameless_since.is_some_and(|since| now < since + NAMELESS);
        let before = std::mem::take(&mut name.named);
        let stays =
            |it: &Named| (!told.is_whole || is_doubted) && it.at + KEPT > now && !told.addresses.contains(&it.address);
        let named = told.addresses.iter().map(|address| Named { address: *address, at: now });
        name.named = named.chain(before.into_iter().filter(stays)).take(OF_NAME_MAX).collect();
        name.is_whole = told.is_whole && (name.named.is_empty() || !is_doubted);
    }

    /// All that are believed, each once, of a SIP server that has so many names.
    pub(super) fn believed(&self, names: usize) -> Believed {
        let is_whole = (0..names).all(|name| self.0.get(name).is_some_and(|name| name.is_whole));
        Believed { addresses: self.addresses(), is_whole }
    }

    fn addresses(&self) -> Arc<[IpAddr]> {
        let mut all: Vec<_> = self.0.iter().flat_map(|name| &name.named).map(|it| it.address).collect();
        all.sort_unstable();
        all.dedup();
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn what_dns_does_not_tell_now_is_believed_until_all_is_told() {
        let (mut trusted, now) = (Trusted::default(), Instant::now());
        let late = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let mut tell = |name: usize, addresses: &[IpAddr], is_whole: bool| {
            trusted.told(name, &NameAddresses { addresses: addresses.to_vec(), is_whole }, now);
            trusted.addresses().to_vec()
        };
        assert_eq!(tell(0, &[address(1)], false), [address(1)]);
        assert_eq!(tell(0, &[address(1), late], true), [address(1), late]);
        assert_eq!(tell(1, &[address(9)], true), [address(1), address(9), late]);
        for _ in 0..2 {
            assert_eq!(tell(0, &[address(2)], false), [address(1), address(2), address(9), late]);
        }
        assert_eq!(tell(0, &[], false), [address(1), address(2), address(9), late], "it was silent");
        assert_eq!(tell(0, &[address(2)], true), [address(2), address(9)]);
    }

    #[test]
    fn all_addresses_are_known_when_dns_has_told_all_of_each_name_and_no_longer_than_it_tells_all() {
        let (mut trusted, now) = (Trusted::default(), Instant::now());
        let (known, other) = (address(1), address(2));
        let mut judges = |name: usize, addresses: &[IpAddr], is_whole: bool| {
            trusted.told(name, &NameAddresses { addresses: addresses.to_vec(), is_whole }, now);
            let believed = trusted.believed(2);
            assert_eq!(believed.judges(known), believed.addresses.contains(&known) || believed.is_whole);
            believed.judges(other)
        };
        assert!(!judges(0, &[known], true), "of the other name nothing is known");
        assert!(!judges(1, &[], false), "it was asked in vain");
        assert!(judges(1, &[], true), "a domain need not have an address");
        assert!(!judges(0, &[known], false), "it may have one more by now");
        assert!(judges(0, &[known], true));
        assert!(!judges(0, &[], true), "a zone that is half loaded says so, too");
        assert!(judges(0, &[known], true));
        let nothing = Trusted(vec![Name { is_whole: true, ..Name::default() }]);
        assert!(!nothing.believed(1).judges(other), "a SIP server has an address");
    }

    #[test]
    fn that_a_name_has_no_address_is_believed_when_dns_has_said_so_for_some_minutes() {
        let (mut trusted, start) = (Trusted::default(), Instant::now());
        let mut tell = |addresses: &[IpAddr], is_whole: bool, at: Duration| {
            trusted.told(0, &NameAddresses { addresses: addresses.to_vec(), is_whole }, start + at);
            trusted.addresses().to_vec()
        };
        let minute = Duration::from_secs(60);
        tell(&[address(1)], true, Duration::ZERO);
        assert_eq!(tell(&[], true, minute), [address(1)], "a zone that is half loaded says so, too");
        assert_eq!(tell(&[], false, 2 * minute), [address(1)], "silence says nothing, and what was said is over");
        assert_eq!(tell(&[], true, 10 * minute), [address(1)]);
        assert!(tell(&[], true, 10 * minute + NAMELESS).is_empty(), "said for as long");
    }

    #[test]
    fn where_dns_never_tells_all_an_address_is_believed_for_a_day_and_few_are_kept() {
        let (mut trusted, start) = (Trusted::default(), Instant::now());
        let mut tell = |addresses: &[IpAddr], at: Duration| {
            trusted.told(0, &NameAddresses { addresses: addresses.to_vec(), is_whole: false }, start + at);
            trusted.addresses().to_vec()
        };
        let hour = Duration::from_secs(3_600);
        tell(&[address(1), address(2)], Duration::ZERO);
        assert_eq!(tell(&[address(2)], hour * 23), [address(1), address(2)]);
        assert_eq!(tell(&[address(2)], hour * 24), [address(2)]);
        for n in 0..200 {
            tell(&[address(n)], hour * 25);
        }
        let kept = tell(&[], hour * 26);
        assert_eq!((kept.len(), kept.contains(&address(199))), (OF_NAME_MAX, true));
    }
}
