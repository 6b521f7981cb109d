//! The addresses from which an upstream's requests are believed: those of all its names, by DNS.
//!
//! An answer of DNS is valid for its TTL, which may end long before the names are resolved again. A request from an unknown source then causes
//! [`Dialler::addresses`] to look the names up, no more often than the cached answers expire.
//!
//! Invariant: every address that DNS gives is kept in [`Trusted`](crate::agent::transport::trusted), for all shards. The lookup for one source ends as soon as
//! that source is found, and at most after twice [`RESOLVE_TIMEOUT`], because the names are looked up in parallel.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use sip::endpoint::Input;
use sip::id::UpstreamId;

use super::{Dialler, Inner, NOTHING_AGAIN, RESOLVE_AGAIN_MIN, RESOLVE_RETRY, is_outage};
use crate::agent::ShardInput;
use crate::agent::transport::trusted::{Believed, NameAddresses};
use crate::agent::transport::upstreams::Route;
use crate::clock;
use crate::net::dns::resolve::{MAX_TTL, RESOLVE_TIMEOUT, Resolution, Target};

impl Dialler {
    /// The addresses of an upstream's names, as far as they resolve now, and those that are known. Once `source` is one of them nothing more is waited for.
    pub(crate) async fn addresses(&self, upstream: UpstreamId, source: IpAddr) -> Believed {
        let inner = &self.0;
        let Some(route) = inner.upstreams.route(upstream) else { return Believed::default() };
        let (before, is_refreshed) = inner.upstreams.believed(upstream);
        // Another account's look at the same names may have told more.
        if is_refreshed && before.addresses.contains(&source) {
            return before;
        }
        let (mut shards, mut believed) = (0, before.clone());
        let names = (0..).zip(std::iter::once(route.target()).chain(route.other_targets()));
        let ask = |(name, target): (usize, Target)| async move {
            let (told, holds) = inner.told_of(upstream, &target, |ip| ip == source).await;
            (name, told, holds)
        };
        let mut asked: FuturesUnordered<_> = names.map(ask).collect();
        let mut ttl = MAX_TTL;
        while let Some((name, told, holds)) = asked.next().await {
            ttl = ttl.min(holds);
            if asked.is_empty() {
                inner.upstreams.hold(upstream, clock::now() + ttl);
            }
            (shards, believed) = inner.upstreams.told(upstream, clock::now(), &[(name, told)]);
            if believed.addresses.contains(&source) {
                break;
            }
        }
        if believed != before {
            inner.tell_addresses(upstream, shards, believed.clone()).await;
        }
        believed
    }
}

impl Inner {
    /// Resolves what else an upstream's requests may come from: the next hop, where it was not told whole, and its other names.
    pub(super) async fn learn_others(self: Arc<Self>, upstream: UpstreamId, route: Arc<Route>, is_whole: bool) {
        let next_hop = (!is_whole).then(|| (0, route.target()));
        let (mut names, mut ttl) = (Vec::new(), Duration::MAX);
        for (name, target) in next_hop.into_iter().chain((1..).zip(route.other_targets())) {
            let (told, holds) = self.told_of(upstream, &target, |_| false).await;
            names.push((name, told));
            ttl = ttl.min(holds);
        }
        self.upstreams.resolve_by(upstream, clock::now() + ttl.clamp(RESOLVE_AGAIN_MIN, MAX_TTL));
        self.upstreams.hold_at_most(upstream, clock::now() + ttl.min(MAX_TTL));
        let (shards, believed) = self.upstreams.told(upstream, clock::now(), &names);
        self.tell_addresses(upstream, shards, believed).await;
    }

    /// The addresses that DNS gives for a target and how long they hold, late answers included: their requests are believed, too. A target that
    /// `is_sought` need not be waited for.
    async fn told_of(
        &self,
        upstream: UpstreamId,
        target: &Target,
        is_sought: impl Fn(IpAddr) -> bool,
    ) -> (NameAddresses, Duration) {
        let (names, seed) = (self.names_for(upstream), self.seed(upstream, None));
        match names.resolve_sought(target, seed, 2 * RESOLVE_TIMEOUT, is_sought).await {
            Ok(Resolution { candidates, ttl, is_whole }) => {
                let addresses: Vec<_> = candidates.iter().map(|candidate| candidate.address.ip()).collect();
                self.shards.lf_servers.resolved(&target.host, &addresses);
                (NameAddresses { addresses, is_whole }, ttl)
            }
            Err(error) if is_outage(&error) => {
                (NameAddresses { addresses: Vec::new(), is_whole: false }, RESOLVE_RETRY)
            }
            // A domain need not have an address when a registrar or a proxy is named.
            Err(_) => (NameAddresses { addresses: Vec::new(), is_whole: true }, NOTHING_AGAIN),
        }
    }

    pub(super) async fn tell_addresses(&self, upstream: UpstreamId, shards: u128, believed: Believed) {
        let Believed { addresses, is_whole } = believed;
        for shard in (0..self.shards.len()).filter(|shard| shards & 1 << shard != 0) {
            let input = Input::Addresses { upstream, addresses: addresses.clone(), is_whole };
            self.shards.send(shard, ShardInput::sip(input)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::dialler;
    use super::*;

    #[tokio::test]
    async fn who_is_believed_stays_so_when_a_name_is_looked_up_for_one_of_its_addresses() {
        let (dialler, ..) = dialler();
        let upstreams = &dialler.0.upstreams;
        let proxy_uri = Some("sip:127.0.0.1:5070;transport=tcp");
        let upstream = upstreams.acquire(Route::to("sip:alice@pbx.example.com", None, proxy_uri).unwrap());
        let (proxy, registrar, stranger) =
            (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]), IpAddr::from([192, 0, 2, 8]));
        upstreams.told(upstream, clock::now(), &[(1, NameAddresses { addresses: vec![registrar], is_whole: true })]);
        // No name server answers here.
        assert_eq!(*dialler.addresses(upstream, proxy).await.addresses, [proxy, registrar]);
        let found = dialler.addresses(upstream, stranger).await;
        assert!(*found.addresses == [proxy, registrar] && !found.judges(stranger), "its domain may have moved there");
        let unknown = upstreams.acquire(Route::to("sip:alice@other.example.com", None, None).unwrap());
        upstreams.told(unknown, clock::now(), &[(0, NameAddresses { addresses: vec![registrar], is_whole: true })]);
        assert_eq!(*dialler.addresses(unknown, registrar).await.addresses, [registrar]);
        assert!(!dialler.addresses(unknown, stranger).await.judges(stranger), "nobody can say");
        // By numbers all is said.
        let numeric = upstreams.acquire(Route::to("sip:alice@127.0.0.2", None, proxy_uri).unwrap());
        assert!(dialler.addresses(numeric, stranger).await.judges(stranger));
    }

    #[tokio::test]
    async fn what_a_look_for_one_source_finds_is_told_to_those_who_use_the_server_and_stays_when_its_names_are_asked_for_in_vain()
     {
        let (dialler, _, mut inbox) = dialler();
        let upstreams = &dialler.0.upstreams;
        let route = Route::to("sip:alice@127.0.0.2", None, Some("sip:127.0.0.1:5070;transport=tcp")).unwrap();
        let upstream = upstreams.acquire(route);
        upstreams.used_by(upstream, 0);
        let (proxy, domain) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert!(dialler.addresses(upstream, domain).await.addresses.contains(&domain));
        let told = inbox.recv().await;
        let Some(ShardInput::Sip { input: Input::Addresses { addresses, .. }, .. }) = told else {
            panic!("its shard hears of it")
        };
        assert!(addresses.contains(&domain));
        let in_vain = || NameAddresses { addresses: Vec::new(), is_whole: false };
        let (_, believed) = upstreams.told(upstream, clock::now(), &[(0, in_vain()), (1, in_vain())]);
        assert!(believed.addresses.contains(&domain));
        dialler.addresses(upstream, proxy).await;
        assert!(upstreams.believed(upstream).0.addresses.contains(&domain));
    }

    #[tokio::test]
    async fn who_was_named_before_is_believed_while_dns_fails_and_is_asked_for_again_soon() {
        let (dialler, _, mut inbox) = dialler();
        let inner = &dialler.0;
        let route = Route::to("sip:alice@pbx.example.com", None, Some("sip:127.0.0.1:5070;transport=tcp")).unwrap();
        let upstream = inner.upstreams.acquire(route);
        let route = inner.upstreams.route(upstream).unwrap();
        inner.upstreams.used_by(upstream, 0);
        let (proxy, registrar) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]));
        let before = NameAddresses { addresses: vec![registrar], is_whole: true };
        inner.upstreams.told(upstream, clock::now(), &[(1, before)]);
        // No name server answers here, and the proxy needs none.
        inner.learn(upstream, &route, 0).await.unwrap();
        for from in ["the proxy", "the other names"] {
            let Some(ShardInput::Sip { input: Input::Addresses { addresses, is_whole, .. }, .. }) = inbox.recv().await
            else {
                panic!("of {from} nothing is told")
            };
            assert_eq!((&*addresses, is_whole), (&[proxy, registrar][..], from == "the proxy"), "{from}");
        }
        assert_eq!(inner.upstreams.take_stale(clock::now() + RESOLVE_RETRY).len(), 1);
    }
}
