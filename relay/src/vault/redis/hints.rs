//! The names that the store has beside its records: the nodes, the runs that hold their leases, and the instances that a node may have.
//!
//! Invariant: a value that no relay writes (of another type, or not text) counts as none, so that it affects nothing else; the next write replaces it.

use std::time::Duration;

use sip::id::InstanceId;

use super::scripts::SCRIPTS;
use super::{INDEX_TTL, NODES_KEY, PAGE, RELEASED, RedisStore, lease_key, millis, node_key};
use crate::vault::store::StoreError;

impl RedisStore {
    /// The string under a key.
    pub(super) async fn bytes_at(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        or_none(self.link.ask(::redis::cmd("GET").arg(key)).await)
    }

    /// The text under a key.
    pub(super) async fn text_at(&self, key: &str) -> Result<Option<String>, StoreError> {
        Ok(self.bytes_at(key).await?.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// The value of a node's lease: a run, or [`RELEASED`].
    pub(super) async fn lease_of(&self, node: &str) -> Result<Option<String>, StoreError> {
        self.text_at(&lease_key(node)).await
    }

    /// Shortens a node's lease to one lease from now, if it lasts longer or has no end.
    pub(super) async fn cut_lease(&self, node: &str) -> Result<(), StoreError> {
        let lease = i64::try_from(millis(self.lease)).unwrap_or(i64::MAX);
        // Less than nothing: it has no end, or is gone.
        let left: i64 = self.link.ask(::redis::cmd("PTTL").arg(lease_key(node))).await?;
        if (0..=lease).contains(&left) {
            Ok(())
        } else {
            self.link.ask(::redis::cmd("PEXPIRE").arg(lease_key(node)).arg(lease)).await
        }
    }

    /// The run of a node that holds its lease.
    pub(super) async fn run_of(&self, node: &str) -> Result<Option<String>, StoreError> {
        Ok(self.lease_of(node).await?.filter(|run| run != RELEASED))
    }

    /// Names instances in the index of a node.
    pub(super) async fn index(&self, node: &str, ids: &[InstanceId]) -> Result<(), StoreError> {
        self.add(&node_key(node), ids.iter().map(InstanceId::to_string), INDEX_TTL).await
    }

    /// Strikes them off it.
    pub(super) async fn unindex(&self, node: &str, ids: &[InstanceId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut remove = ::redis::cmd("SREM");
        remove.arg(node_key(node));
        for id in ids {
            remove.arg(id.to_string());
        }
        self.link.ask(&remove).await
    }

    /// Adds members to a set, for so long.
    pub(super) async fn add(
        &self,
        set: &str,
        members: impl ExactSizeIterator<Item = String>,
        ttl: Duration,
    ) -> Result<(), StoreError> {
        if members.len() == 0 {
            return Ok(());
        }
        let mut add = SCRIPTS.add.key(set);
        add.arg(millis(ttl));
        for member in members {
            add.arg(member);
        }
        self.link.ask(&add).await
    }

    /// The nodes there may be.
    pub(super) async fn nodes(&self) -> Result<Vec<String>, StoreError> {
        let (mut cursor, mut nodes) = (0, Vec::new());
        loop {
            let (next, mut names) = self.page_of(NODES_KEY, cursor, PAGE).await?;
            nodes.append(&mut names);
            cursor = next;
            if cursor == 0 {
                // A page may repeat what another one has told.
                nodes.sort_unstable();
                nodes.dedup();
                return Ok(nodes);
            }
        }
    }

    /// Some of what the index of a node names, at most so many.
    pub async fn some_named_of(&self, node: &str, most: usize) -> Result<Vec<InstanceId>, StoreError> {
        let (_, names) = self.page_of(&node_key(node), 0, most).await?;
        Ok(names.iter().take(most).filter_map(|name| InstanceId::parse(name)).collect())
    }

    /// About [`PAGE`] members of a set; none when it is empty.
    pub(super) async fn some_of(&self, set: &str) -> Result<Vec<String>, StoreError> {
        let mut cursor = 0;
        loop {
            let (next, names) = self.page_of(set, cursor, PAGE).await?;
            if next == 0 || !names.is_empty() {
                return Ok(names);
            }
            cursor = next;
        }
    }

    /// Some members of a set from this cursor on, and the cursor of the next ones.
    pub(super) async fn page_of(&self, set: &str, cursor: u64, about: usize) -> Result<(u64, Vec<String>), StoreError> {
        let mut scan = ::redis::cmd("SSCAN");
        let page: Result<(u64, Vec<Vec<u8>>), _> =
            self.link.ask(scan.arg(set).arg(cursor).arg("COUNT").arg(about)).await;
        let (next, names) = or_none(page.map(Some))?.unwrap_or_default();
        Ok((next, texts(names)))
    }
}

/// The bytes as text; empty when they are none.
pub(super) fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

/// The values that are text.
pub(super) fn texts(names: Vec<Vec<u8>>) -> Vec<String> {
    names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect()
}

/// The value; `None` also where the server says that the key is of another type.
pub(super) fn or_none<T>(answer: Result<Option<T>, StoreError>) -> Result<Option<T>, StoreError> {
    match answer {
        Err(StoreError::Malformed) => Ok(None),
        answer => answer,
    }
}
