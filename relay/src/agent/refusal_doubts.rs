//! Doubts about SIP servers that refuse accounts for good.
//!
//! A server whose database is away, whose configuration is broken, or that bans this relay's address refuses everybody. So the third refusal in a row does not
//! end an account that the server had accepted
//! - while the server refuses other accounts that it had accepted, at the time of this account's first refusal or since, and
//! - has granted none of the accounts that it had accepted since it refused those others. One account granted in the middle of an outage ends no other.
//!
//! Two registrations are at the same server when they have the same registrar, proxy and domain, or when their requests go to the same host and port. A doubted
//! account registers again once an hour until its lease ends.
//!
//! Invariant: two registrations of one address of record count as one account. What no account refers to any more is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use sip::endpoint::REFUSALS_MAX;
use sip::id::{InstanceId, UpstreamId};

use super::Shared;
use super::tables::instances::Row;
use super::transport::upstreams::Upstreams;
use crate::clock;
use crate::lock::Mutex;
use crate::vault::AorKey;

/// How often the operator is told of one SIP server.
const TOLD_EVERY: Duration = Duration::from_secs(600);

/// The accounts that each SIP server refuses although it had accepted them.
#[derive(Default)]
pub(crate) struct RefusalDoubts(Mutex<HashMap<ServerKey, Server>>);

#[derive(Clone, PartialEq, Eq, Hash)]
enum ServerKey {
    Upstream(UpstreamId),
    /// The host and port where requests go.
    NextHop(Box<str>),
}

#[derive(Default)]
struct Server {
    refused: BTreeMap<InstanceId, RefusedAccount>,
    /// When it granted an account last that it had accepted before; since it has refused one.
    granted_at: Option<Instant>,
    told_at: Option<Instant>,
}

struct RefusedAccount {
    account: AorKey,
    /// The first of those in a row.
    first: Instant,
    last: Instant,
}

/// The judgement on a refusal that would end an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    /// The account is refused.
    Believed,
    /// The server is at fault; whether the operator is to be told now.
    Doubted { tell: bool },
}

impl RefusalDoubts {
    /// A SIP server refuses an account that it had accepted, so often in a row.
    pub(crate) fn refused(
        &self,
        upstreams: &Upstreams,
        upstream: UpstreamId,
        (id, account): (InstanceId, AorKey),
        in_a_row: u8,
        now: Instant,
    ) {
        let mut table = self.lock();
        for place in places(upstreams, upstream) {
            let rows = &mut table.entry(place).or_default().refused;
            let row = rows.entry(id).or_insert(RefusedAccount { account, first: now, last: now });
            row.last = now;
            if in_a_row == 1 {
                row.first = now;
            }
        }
    }

    /// A SIP server has granted an instance; `at`: one that it had accepted before, and when.
    pub(crate) fn granted(&self, upstreams: &Upstreams, upstream: UpstreamId, id: InstanceId, at: Option<Instant>) {
        let mut table = self.lock();
        if table.is_empty() {
            return;
        }
        for place in places(upstreams, upstream) {
            let Some(server) = table.get_mut(&place) else { continue };
            server.granted_at = at.or(server.granted_at);
            server.refused.remove(&id);
            if server.refused.is_empty() {
                table.remove(&place);
            }
        }
    }

    /// An instance ends.
    pub(crate) fn forget(&self, upstreams: &Upstreams, upstream: UpstreamId, id: InstanceId) {
        self.granted(upstreams, upstream, id, None);
    }

    /// Whether a server is believed that it refuses an account for good, of which it was told here.
    pub(crate) fn judge(&self, upstreams: &Upstreams, upstream: UpstreamId, id: InstanceId, now: Instant) -> Belief {
        let mut table = self.lock();
        for place in places(upstreams, upstream) {
            let Some(server) = table.get_mut(&place).filter(|server| server.is_at_fault(id)) else { continue };
            let tell = server.told_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
            if tell {
                server.told_at = Some(now);
            }
            return Belief::Doubted { tell };
        }
        Belief::Believed
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ServerKey, Server>> {
        self.0.lock()
    }
}

impl Shared {
    /// A SIP server refuses an instance's account that it had accepted, so often in a row: whether that ends it.
    pub(crate) fn believes_refusal(&self, id: InstanceId, row: Option<&Row>, in_a_row: u8) -> bool {
        // An ending instance is forgotten already.
        let Some(row) = row.filter(|row| row.ending.is_none()) else { return in_a_row >= REFUSALS_MAX };
        let (doubts, upstreams, now) = (&self.refusal_doubts, &self.upstreams, clock::now());
        doubts.refused(upstreams, row.upstream, (id, row.aor()), in_a_row, now);
        if in_a_row < REFUSALS_MAX {
            return false;
        }
        match doubts.judge(upstreams, row.upstream, id, now) {
            Belief::Believed => true,
            Belief::Doubted { tell } => {
                if tell {
                    tracing::warn!(
                        event = "refusals-doubted",
                        upstream = row.upstream.0,
                        "a SIP server refuses all accounts that it had accepted: none is ended, and each is asked for once an hour; look at its user database, its configuration, and whether it bans this relay"
                    );
                }
                false
            }
        }
    }
}

impl Server {
    fn is_at_fault(&self, id: InstanceId) -> bool {
        let Some(own) = self.refused.get(&id) else { return false };
        let mut others = self.refused.values().filter(|other| other.account != own.account);
        others.any(|other| other.last >= own.first && self.granted_at.is_none_or(|at| at < other.last))
    }
}

fn places(upstreams: &Upstreams, upstream: UpstreamId) -> impl Iterator<Item = ServerKey> + use<> {
    let next_hop = upstreams.route(upstream).map(|route| ServerKey::NextHop(route.server().into()));
    [Some(ServerKey::Upstream(upstream)), next_hop].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::agent::transport::upstreams::Route;

    const MINUTE: Duration = Duration::from_secs(60);

    struct Walk {
        doubts: RefusalDoubts,
        upstreams: Upstreams,
        began: Instant,
    }

    impl Walk {
        fn new() -> Self {
            Self { doubts: RefusalDoubts::default(), upstreams: Upstreams::default(), began: Instant::now() }
        }

        fn upstream(&self, domain: &str, proxy: Option<&str>) -> UpstreamId {
            self.upstreams.acquire(Route::to(&format!("sip:a@{domain}"), None, proxy).unwrap())
        }

        fn refuse(&self, upstream: UpstreamId, account: u8, minute: u32, in_a_row: u8) {
            let at = self.began + MINUTE * minute;
            self.doubts.refused(
                &self.upstreams,
                upstream,
                (id(account), AorKey::of_number(account.into())),
                in_a_row,
                at,
            );
        }

        fn grant(&self, upstream: UpstreamId, account: u8, minute: u32, is_proven: bool) {
            let at = self.began + MINUTE * minute;
            self.doubts.granted(&self.upstreams, upstream, id(account), is_proven.then_some(at));
        }

        fn is_believed(&self, upstream: UpstreamId, account: u8) -> bool {
            self.doubts.judge(&self.upstreams, upstream, id(account), self.began) == Belief::Believed
        }

        /// The third refusal of an account whose first was at this minute.
        fn third(&self, upstream: UpstreamId, account: u8, minute: u32) {
            for (in_a_row, later) in [(1, 0), (2, 11), (3, 75)] {
                self.refuse(upstream, account, minute + later, in_a_row);
            }
        }
    }

    fn id(account: u8) -> InstanceId {
        InstanceId::new(u128::from(account) << 64, ShardTag(0))
    }

    #[test]
    fn an_account_that_is_refused_alone_is_refused() {
        let walk = Walk::new();
        let upstream = walk.upstream("example.com", None);
        walk.third(upstream, 1, 0);
        assert!(walk.is_believed(upstream, 1));
        // The same account of another app is no other account.
        walk.doubts.refused(&walk.upstreams, upstream, (id(2), AorKey::of_number(1)), 1, walk.began + MINUTE);
        assert!(walk.is_believed(upstream, 1));
        assert!(walk.is_believed(upstream, 9), "one of which nothing was told");
    }

    #[test]
    fn a_server_that_refuses_all_is_not_believed_until_it_grants_one_that_it_had_accepted() {
        let walk = Walk::new();
        let upstream = walk.upstream("example.com", None);
        walk.third(upstream, 1, 0);
        walk.refuse(upstream, 2, 8, 1);
        assert!(!walk.is_believed(upstream, 1));
        walk.grant(upstream, 3, 80, false);
        assert!(!walk.is_believed(upstream, 1), "a new account says nothing of those that it knew");
        walk.grant(upstream, 4, 81, true);
        assert!(walk.is_believed(upstream, 1));
        walk.third(upstream, 5, 82);
        assert!(walk.is_believed(upstream, 5), "no other one has been refused since");
        walk.refuse(upstream, 2, 140, 3);
        assert!(!walk.is_believed(upstream, 5));
        assert!(!walk.is_believed(upstream, 2), "others are refused again since one was granted");
        walk.grant(upstream, 4, 170, true);
        assert!(walk.is_believed(upstream, 2), "it grants others");
    }

    #[test]
    fn what_was_refused_before_and_is_not_asked_for_any_more_speaks_for_nobody() {
        let walk = Walk::new();
        let upstream = walk.upstream("example.com", None);
        walk.refuse(upstream, 2, 0, 1);
        walk.third(upstream, 1, 60);
        assert!(walk.is_believed(upstream, 1), "its app came to the foreground");
        walk.refuse(upstream, 2, 61, 2);
        assert!(!walk.is_believed(upstream, 1));
        walk.doubts.forget(&walk.upstreams, upstream, id(2));
        assert!(walk.is_believed(upstream, 1), "it has ended");
        walk.doubts.forget(&walk.upstreams, upstream, id(1));
        assert!(walk.doubts.lock().is_empty());
    }

    #[test]
    fn domains_behind_one_proxy_speak_for_one_another_and_a_domain_for_itself() {
        let walk = Walk::new();
        let proxy = Some("sip:proxy.example.net:5061;transport=tls");
        let (one, other) = (walk.upstream("one.test", proxy), walk.upstream("other.test", proxy));
        assert_ne!(one, other);
        walk.third(one, 1, 0);
        walk.refuse(other, 2, 5, 1);
        assert!(!walk.is_believed(one, 1), "the proxy refuses all");
        walk.grant(other, 3, 20, true);
        assert!(walk.is_believed(one, 1), "the proxy serves");
        walk.refuse(one, 4, 76, 1);
        assert!(!walk.is_believed(one, 1), "its domain serves nobody");
        walk.grant(one, 5, 77, true);
        assert!(walk.is_believed(one, 1));
        let elsewhere = walk.upstream("one.test", None);
        walk.third(elsewhere, 6, 0);
        assert!(walk.is_believed(elsewhere, 6), "another server");
    }
}
