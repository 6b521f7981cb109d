//! The instances of one shard: a row for each, their bindings, and when they end.
//!
//! Invariant: a row holds its record in the sealed form alone. The three indexes agree: each row is found by its
//! instance, by its binding and by its expiry.

use std::collections::{BTreeSet, HashMap};

use sip::id::{BindingId, InstanceId, UpstreamId};
use tokio::sync::oneshot;

use super::command::{First, WipeDone};
use super::proofs::Unanswerable;
use super::timeline::Beside;
use crate::metrics::labels::{InstanceState, WipeReason};
use crate::vault::{Fence, Sealed};

/// One push instance.
pub(super) struct Row {
    /// Everything that is known of it.
    pub sealed: Sealed,
    /// The user of its Contact.
    pub binding: BindingId,
    /// What its record is put with.
    pub fence: Fence,
    /// When it ends, in seconds since 1970.
    expires_at: u32,
    /// When its registration was accepted last, in seconds since 1970; 0: never.
    pub registered_at: u32,
    /// Until when its registration stands, in seconds since 1970.
    pub registered_until: u64,
    /// Where its requests go.
    pub upstream: UpstreamId,
    /// The SIP status of the last answer; 0 before the first.
    pub status: u16,
    /// How it stands, as the metrics count it.
    pub state: InstanceState,
    /// Why its credentials did not fit the last challenge.
    pub unanswerable: Option<Unanswerable>,
    /// Who waits for the outcome of the first registration.
    pub first: Option<oneshot::Sender<First>>,
    /// Its end, once that has begun.
    pub ending: Option<Box<Ending>>,
    /// Its timeline and what comes beside calls, once there is any.
    pub beside: Option<Box<Beside>>,
}

/// An instance that is being unregistered and erased.
pub(super) struct Ending {
    /// Why; `None`: it never was one (its first registration was refused, or it belongs to another node).
    pub reason: Option<WipeReason>,
    /// What the SIP server said, once the endpoint has let go.
    pub unbound: Option<bool>,
    /// The store has been asked to erase it.
    pub erased: bool,
    /// Who waits for the end.
    pub waiters: Vec<oneshot::Sender<WipeDone>>,
}

impl Row {
    /// A row that is about to be bound.
    pub(super) fn new(sealed: Sealed, binding: BindingId, upstream: UpstreamId, fence: Fence, expires_at: u64) -> Self {
        let state = InstanceState::Registering;
        Self {
            sealed,
            binding,
            fence,
            expires_at: seconds(expires_at),
            registered_at: 0,
            registered_until: 0,
            upstream,
            status: 0,
            state,
            unanswerable: None,
            first: None,
            ending: None,
            beside: None,
        }
    }

    /// When it ends, in seconds since 1970.
    pub(super) fn expires_at(&self) -> u64 {
        self.expires_at.into()
    }
}

/// A time that is kept in half the space; until the year 2106.
fn seconds(unix: u64) -> u32 {
    u32::try_from(unix).unwrap_or(u32::MAX)
}

/// All instances of one shard.
#[derive(Default)]
pub(super) struct Instances {
    rows: HashMap<InstanceId, Row>,
    bindings: HashMap<BindingId, InstanceId>,
    ends: BTreeSet<(u64, InstanceId)>,
}

impl Instances {
    pub(super) fn insert(&mut self, id: InstanceId, row: Row) {
        self.bindings.insert(row.binding, id);
        self.ends.insert((row.expires_at(), id));
        self.rows.insert(id, row);
    }

    pub(super) fn remove(&mut self, id: InstanceId) -> Option<Row> {
        let row = self.rows.remove(&id)?;
        self.bindings.remove(&row.binding);
        self.ends.remove(&(row.expires_at(), id));
        Some(row)
    }

    pub(super) fn get(&self, id: InstanceId) -> Option<&Row> {
        self.rows.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Row> {
        self.rows.get_mut(&id)
    }

    /// The instance behind a binding.
    pub(super) fn of(&self, binding: BindingId) -> Option<InstanceId> {
        self.bindings.get(&binding).copied()
    }

    /// Moves an instance's end.
    pub(super) fn set_expiry(&mut self, id: InstanceId, expires_at: u64) {
        if let Some(row) = self.rows.get_mut(&id) {
            self.ends.remove(&(row.expires_at(), id));
            row.expires_at = seconds(expires_at);
            self.ends.insert((row.expires_at(), id));
        }
    }

    /// When the next instance ends, in seconds since 1970.
    pub(super) fn next_end(&self) -> Option<u64> {
        self.ends.first().map(|(end, _)| *end)
    }

    /// An instance that has ended at `now`, once: its expiry leaves the order, so that it is not found again.
    pub(super) fn pop_ended(&mut self, now: u64) -> Option<InstanceId> {
        let (end, id) = *self.ends.first()?;
        if end > now {
            return None;
        }
        self.ends.remove(&(end, id));
        Some(id)
    }

    /// All ids, in order.
    pub(super) fn ids(&self) -> Vec<InstanceId> {
        let mut ids: Vec<_> = self.rows.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// At most `limit` ids behind `after`, in order.
    pub(super) fn ids_after(&self, after: Option<InstanceId>, limit: usize) -> Vec<InstanceId> {
        let mut ids: Vec<_> = self.rows.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).collect();
        if ids.len() > limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        ids
    }
}
