//! The policy on the addresses and ports that an account may make the relay talk to.
//!
//! An account names its registrar and proxy, DNS answers for them, and both may be hostile: without this policy the
//! relay would connect to whatever its own network lets it reach.
//!
//! | refused unless listed in `upstream.allow_addresses` | |
//! | --- | --- |
//! | IPv4 | this network, private (RFC 1918), shared (100.64/10), loopback, link-local, protocol assignments, documentation, benchmarks, 6to4 relays, multicast, reserved, broadcast; the host of an Azure machine (168.63.129.16) |
//! | IPv6 | all outside 2000::/3 (so loopback, link-local, unique local, multicast, unspecified), documentation, benchmarks, Teredo, ORCHID |
//! | IPv4 inside IPv6 | mapped, NAT64 (64:ff9b::/96) and 6to4 by the IPv4 address they hold; IPv4-compatible always |
//! | ports | below 1024 save 443, and the ports of databases, queues and control planes |
//!
//! Invariant: the answer depends on the numeric address alone, so it is asked after each resolution, for the very
//! address that is dialled. A listed network opens all its ports but 0.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

/// Ports from 1024 up on which inside services listen and no SIP server is expected: SQL Server, Oracle, NFS, Docker,
/// etcd, MySQL, PostgreSQL, AMQP, CouchDB, Redis, Kubernetes, InfluxDB, Consul, Cassandra, Kafka, Elasticsearch,
/// kubelet, memcached, Redis Cluster bus, Redis Sentinel, MongoDB.
const INSIDE_PORTS: [u16; 25] = [
    1433, 1521, 2049, 2375, 2376, 2379, 2380, 3306, 5432, 5672, 5984, 6379, 6443, 8086, 8500, 9042, 9092, 9200, 9300,
    10250, 11211, 16379, 26379, 27017, 27018,
];

/// The policy; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    allowed: Arc<[IpNet]>,
}

/// Why an address is not talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The address is not public and in no listed network.
    #[error("the address {0} is not public and not listed in upstream.allow_addresses")]
    Address(IpAddr),
    /// The port is not one of SIP, and the address is in no listed network.
    #[error("the port {} is not allowed for an address that is not listed in upstream.allow_addresses", .0.port())]
    Port(SocketAddr),
}

impl Reach {
    /// The policy with the networks that are reachable although not public.
    pub fn new(allowed: &[IpNet]) -> Self {
        Self { allowed: allowed.into() }
    }

    /// Whether `address` may be talked to; gives it back in canonical form (an IPv4-mapped address as IPv4).
    pub fn check(&self, address: SocketAddr) -> Result<SocketAddr, Refused> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        let listed = self.allowed.iter().any(|net| net.contains(&address.ip()));
        if !listed && !is_public(address.ip()) {
            return Err(Refused::Address(address.ip()));
        }
        let port = address.port();
        let ordinary = port == 443 || (port >= 1024 && !INSIDE_PORTS.contains(&port));
        if port == 0 || !(listed || ordinary) {
            return Err(Refused::Port(address));
        }
        Ok(address)
    }
}

fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// The registry of special-purpose IPv4 addresses (RFC 6890), multicast and reserved; and the address that is a machine's own host in Azure wherever
/// that machine is, and nobody's elsewhere.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    !matches!(
        ip.octets(),
        [0 | 10 | 127, ..]
            | [100, 64..=127, ..]
            | [168, 63, 129, 16]
            | [169, 254, ..]
            | [172, 16..=31, ..]
            | [192, 0, 0 | 2, _]
            | [192, 88, 99, _]
            | [192, 168, ..]
            | [198, 18 | 19, ..]
            | [198, 51, 100, _]
            | [203, 0, 113, _]
            | [224..=255, ..]
    )
}

/// The registry of special-purpose IPv6 addresses (RFC 6890, 9637); an address that holds an IPv4 address is judged by it.
fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let held = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] => is_public_v4(held(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => is_public_v4(held(high, low)),
        [0x2002, high, low, ..] => is_public_v4(held(high, low)),
        // 2001::/23 (Teredo, benchmarks, ORCHID), documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reach: &Reach, address: &str) -> Result<SocketAddr, Refused> {
        reach.check(address.parse().unwrap())
    }

    #[test]
    fn an_address_that_is_not_public_is_refused_in_every_disguise() {
        let reach = Reach::new(&[]);
        let inside = [
            "0.0.0.0",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.0.1",
            "168.63.129.16",
            "[::ffff:168.63.129.16]",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[::127.0.0.1]",
            "[::8.8.8.8]",
            "[::ffff:10.0.0.1]",
            "[::ffff:127.0.0.1]",
            "[64:ff9b::10.0.0.1]",
            "[64:ff9b:1::1]",
            "[2002:7f00:1::]",
            "[2002:a00:1::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[ff02::1]",
            "[2001:db8::1]",
            "[2001::1]",
            "[2001:10::1]",
            "[100::1]",
            "[3fff::1]",
            "[5f00::1]",
        ];
        for ip in inside {
            assert!(matches!(check(&reach, &format!("{ip}:5061")), Err(Refused::Address(_))), "{ip}");
        }
    }

    #[test]
    fn a_public_address_is_reached() {
        let reach = Reach::new(&[]);
        for ip in [
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "168.63.129.15",
            "172.32.0.1",
            "192.0.1.1",
            "[2606:4700::1]",
            "[64:ff9b::8.8.8.8]",
            "[2002:808:808::1]",
        ] {
            for port in [443, 1024, 5060, 5061, 8443, 65535] {
                assert!(check(&reach, &format!("{ip}:{port}")).is_ok(), "{ip}:{port}");
            }
        }
    }

    #[test]
    fn a_port_of_an_inside_service_is_refused_on_a_public_address() {
        let reach = Reach::new(&[]);
        for port in [0, 22, 25, 80, 1023, 6379, 5432, 11211] {
            assert!(matches!(check(&reach, &format!("8.8.8.8:{port}")), Err(Refused::Port(_))), "{port}");
        }
    }

    #[test]
    fn a_listed_network_is_reached_on_every_port_and_its_neighbour_is_not() {
        let reach =
            Reach::new(&["127.0.0.0/8".parse().unwrap(), "10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for address in ["127.0.0.1:6379", "10.1.2.3:80", "[::1]:5061", "[::ffff:10.1.2.3]:5061"] {
            assert!(check(&reach, address).is_ok(), "{address}");
        }
        for address in ["10.2.0.1:5061", "[::2]:5061", "127.0.0.1:0", "192.168.0.1:5061"] {
            assert!(check(&reach, address).is_err(), "{address}");
        }
    }

    #[test]
    fn a_mapped_address_is_given_back_as_ipv4() {
        let reach = Reach::new(&[]);
        assert_eq!(check(&reach, "[::ffff:8.8.8.8]:5061"), Ok("8.8.8.8:5061".parse().unwrap()));
    }
}
