//! The accounts of devices that are registered at a SIP server through the relay, by the name under which their failures are counted.
//!
//! An account has one name for each spelling of its address of record, and for both schemes.
//!
//! Invariant: an account is known as long as a registration of it is, and what its SIP server has failed it is forgotten with the last one.

use std::collections::BTreeMap;

use super::Upstreams;
use crate::edge::push_proxy::account_name;
use crate::endpoint::Endpoint;
use crate::id::{BindingId, UpstreamId};

/// How many registrations each account has at one SIP server.
pub(super) type Accounts = BTreeMap<BindingId, usize>;

impl Upstreams {
    /// How many registrations of devices an account has.
    pub(in crate::endpoint) fn registered_of(&self, id: UpstreamId, account: BindingId) -> usize {
        self.get(id).and_then(|upstream| upstream.accounts.get(&account)).copied().unwrap_or_default()
    }
}

impl Endpoint {
    /// A device of an address of record is registered at a SIP server.
    pub(in crate::endpoint) fn join_account(&mut self, id: UpstreamId, aor: &str) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            *upstream.accounts.entry(account_name(&self.core.token_key, aor)).or_default() += 1;
        }
    }

    /// Such a registration has ended: where it was the last one of its account, the SIP server's refusals no longer count.
    pub(in crate::endpoint) fn leave_account(&mut self, id: UpstreamId, aor: &str) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let account = account_name(&self.core.token_key, aor);
        let Some(count) = upstream.accounts.get_mut(&account) else { return };
        *count -= 1;
        if *count == 0 {
            upstream.accounts.remove(&account);
            upstream.fitness.forget(account);
        }
    }
}
