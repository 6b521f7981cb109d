//! The addresses of a host as other programs of this system find them: of push services, which have no NAPTR and SRV records.
//!
//! | the name | asked for |
//! | --- | --- |
//! | ends with a dot, or a device has named it | as it is |
//! | has as many dots as `ndots` says (`/etc/resolv.conf`; one, unless it says otherwise) | as it is, then in each domain of `search` |
//! | has fewer | in each domain of `search`, then as it is |
//!
//! Invariant: nothing here waits in a thread, as `getaddrinfo` does: a name whose servers are silent costs a question and no more. A look ends
//! within [`RESOLVE_TIMEOUT`]. An address found is judged where it is dialled.

use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;
use tokio::time::timeout;

use super::addresses::Patience;
use super::resolve::{RESOLVE_TIMEOUT, ResolveError, Resolver};

impl Resolver {
    /// The addresses of a host, which may be a numeric one; those of IPv4 first.
    ///
    /// # Errors
    /// Why there are none: the name does not exist, or the name servers do not say.
    pub async fn addresses_of(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![ip]);
        }
        let looking = async {
            let mut outcome = ResolveError::NoSuchDomain;
            // The file first, as the system has it: a search domain may have something of that name, too.
            let mut whole = Name::from_ascii(host).map_err(|_| ResolveError::NotAHost)?;
            whole.set_fqdn(true);
            if let Some(ips) = self.in_hosts(&whole) {
                return Ok(ips);
            }
            for name in self.names_of(host)? {
                match self.addresses(&name, Patience::Brief).await {
                    Ok(known) => return Ok(known.ips),
                    Err(ResolveError::NoSuchDomain) => {}
                    // As resolv.conf(5) has it, a name that cannot be answered in one domain may be in the next.
                    Err(error) => outcome = error,
                }
            }
            Err(outcome)
        };
        timeout(RESOLVE_TIMEOUT, looking).await.unwrap_or(Err(ResolveError::Timeout))
    }

    /// The names that a host may stand for, in the order in which they are asked for.
    fn names_of(&self, host: &str) -> Result<Vec<Name>, ResolveError> {
        let name = Name::from_ascii(host).map_err(|_| ResolveError::NotAHost)?;
        let mut whole = name.clone();
        whole.set_fqdn(true);
        if name.is_fqdn() || self.asks_for_others() || whole.is_localhost() {
            return Ok(vec![whole]);
        }
        let known = self.names().known();
        let mut names: Vec<_> =
            known.search().iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
        let at = if host.matches('.').count() >= known.ndots { 0 } else { names.len() };
        names.insert(at, whole);
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::ResolverConfig;

    use super::*;
    use crate::config::Transports;
    use crate::net::address_policy::Reach;
    use crate::net::dns::questions::Requester;

    fn resolver() -> Resolver {
        let search = ["apps.test.", "example.test."].map(|domain| Name::from_ascii(domain).unwrap());
        let config = ResolverConfig::from_parts(None, search.into(), Vec::new());
        Resolver::with_config(config, Reach::new(&[]), Transports { udp: false, tcp: false, tls: true }).unwrap()
    }

    fn names(resolver: &Resolver, host: &str) -> Vec<String> {
        resolver.names_of(host).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_of_the_operator_is_sought_in_the_domains_of_the_system_and_one_of_a_device_is_whole() {
        let operator = resolver();
        assert_eq!(names(&operator, "push"), ["push.apps.test.", "push.example.test.", "push."]);
        assert_eq!(
            names(&operator, "push.inner"),
            ["push.inner.", "push.inner.apps.test.", "push.inner.example.test."]
        );
        assert_eq!(names(&operator, "push."), ["push."]);
        assert_eq!(names(&operator, "localhost"), ["localhost."]);
        let device = operator.asked_by([Requester::App("com.example.phone".into())]);
        assert_eq!(names(&device, "push"), ["push."]);
    }

    #[tokio::test]
    async fn what_needs_no_name_server_is_found_without_one() {
        let operator = resolver();
        for numeric in ["192.0.2.1", "2001:db8::1"] {
            assert_eq!(operator.addresses_of(numeric).await, Ok(vec![numeric.parse().unwrap()]));
        }
        assert!(operator.addresses_of("localhost").await.unwrap().contains(&"127.0.0.1".parse().unwrap()));
        assert_eq!(
            operator.addresses_of("0x7f.1").await,
            Err(ResolveError::Unavailable),
            "no number to getaddrinfo's liking"
        );
        assert_eq!(operator.addresses_of("push..test").await, Err(ResolveError::NotAHost));
    }
}
