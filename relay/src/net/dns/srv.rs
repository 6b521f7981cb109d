//! The order in which the servers of a SRV answer are tried (RFC 2782).
//!
//! Invariant: the same records and seed give the same order, whatever order DNS gave them in.

/// One SRV record, without its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Server {
    /// Lower is tried first.
    pub priority: u16,
    /// Among equals of priority, the share of first tries.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host, without a trailing dot; empty when the service is decidedly not available.
    pub host: String,
}

/// Orders by priority, and within it at random by weight: a server's chance to come first is its share of the sum,
/// with a zero weight having next to none (RFC 2782, "Weight"). Gives the first `most` of them.
pub(crate) fn order(mut servers: Vec<Server>, seed: u64, most: usize) -> Vec<Server> {
    servers.sort();
    let mut random = seed;
    let mut ordered = Vec::with_capacity(servers.len().min(most));
    while ordered.len() < most
        && let Some(priority) = servers.first().map(|server| server.priority)
    {
        let equals = servers.iter().take_while(|server| server.priority == priority).count();
        let sum: u64 = servers[..equals].iter().map(|server| u64::from(server.weight)).sum();
        let mark = next(&mut random) % (sum + 1);
        let mut running = 0;
        let chosen = servers[..equals].iter().position(|server| {
            running += u64::from(server.weight);
            running >= mark
        });
        ordered.push(servers.remove(chosen.unwrap_or(0)));
    }
    ordered
}

/// SplitMix64: enough to spread load, and nothing secret depends on it.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(priority: u16, weight: u16, host: &str) -> Server {
        Server { priority, weight, port: 5061, host: host.into() }
    }

    #[test]
    fn a_lower_priority_always_comes_first() {
        for seed in 0..100 {
            let servers = vec![server(20, 100, "late"), server(10, 0, "early"), server(20, 0, "late")];
            assert_eq!(order(servers, seed, 8)[0].host, "early");
        }
    }

    #[test]
    fn weight_is_the_share_of_first_tries() {
        let first =
            |seed| order(vec![server(1, 60, "a"), server(1, 20, "b"), server(1, 0, "c")], seed, 8)[0].host.clone();
        let count = |host: &str| (0..8_100u64).filter(|seed| first(*seed) == host).count();
        let (a, b, c) = (count("a"), count("b"), count("c"));
        assert!((5_700..6_300).contains(&a) && (1_800..2_200).contains(&b) && (40..200).contains(&c), "{a} {b} {c}");
    }

    #[test]
    fn the_order_dns_answers_in_changes_nothing_and_nobody_is_lost() {
        let servers = vec![server(1, 5, "a"), server(1, 5, "b"), server(2, 0, "c")];
        let mut turned = servers.clone();
        turned.reverse();
        assert_eq!(order(servers.clone(), 7, 8), order(turned, 7, 8));
        assert_eq!(order(servers.clone(), 7, 2), order(servers, 7, 8)[..2]);
        assert_eq!(order(vec![server(1, 0, "a"); 5], 3, 8).len(), 5);
        assert!(order(Vec::new(), 0, 8).is_empty());
    }
}
