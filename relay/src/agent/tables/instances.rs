//! The instances of one shard: a row for each, and the times at which they are due. The endpoint knows which of them share a binding.
//!
//! Invariant: a row holds its record in the sealed form alone. The indexes agree with the rows: each row is found by its instance, by the keyed hash of its
//! account and, until its end was told, by the next moment of its lease (a reminder, or the end).

use std::hash::{BuildHasher as _, RandomState};

use sip::id::{InstanceId, UpstreamId};
use slab::Slab;
use tokio::sync::oneshot;

pub(crate) use super::endings::Ending;
pub use super::endings::{Denied, EndKind, Erasure, FirstRegistration, WipeDone, WipeWaiter};
use super::index::Index;
use super::lease::{self, LeaseExpiry};
use super::lease_clocks::LeaseClocks;
use super::moments::Moments;
use super::pending_notices::{Notice, PendingNotices};
use super::timeline::Activity;
use crate::agent::digest::Unanswerable;
use crate::clock::Frame;
use crate::domain::InstanceState;
use crate::limits::holdings::Holding;
use crate::push::{Event, Subject};
use crate::vault::record::Reminder;
use crate::vault::{AorKey, Fence, Sealed};

/// One push instance.
pub(crate) struct Row {
    id: InstanceId,
    /// Everything that is known of it.
    pub sealed: Sealed,
    /// The fence under which its record is stored.
    pub fence: Fence,
    /// When it ends, in seconds since 1970.
    expires_at: u32,
    /// The last reminder of its end that a push service took.
    reminded: Option<Reminder>,
    /// The key by which its account is found.
    aor: AorKey,
    /// When its registration was accepted last, in seconds since 1970; 0: never.
    pub registered_at: u32,
    /// And in which part of that second, of 250: a byte has room in the block.
    pub registered_part: u8,
    /// Until when its registration stands, in seconds since 1970.
    registered_until: u32,
    /// Since when its registration has been lost, in seconds since 1970; 0: it is not.
    lost_since: u32,
    /// When its user is to be told of the loss; 0: there is none, or its user was told.
    tell_lost_at: u32,
    /// The SIP server that its requests go to.
    pub upstream: UpstreamId,
    /// The SIP status of the last answer; 0 before the first.
    pub status: u16,
    /// How it stands, as the metrics count it.
    pub state: InstanceState,
    /// Why its credentials did not fit the last challenge.
    pub unanswerable: Option<Unanswerable>,
    /// The waiter for the outcome of the first registration.
    pub first: Option<Box<oneshot::Sender<FirstRegistration>>>,
    /// Whether the SIP server has accepted its credentials, in this run or before.
    pub is_proven: bool,
    /// The store has it: its app was told so, or will be.
    pub is_stored: bool,
    /// Its end, once that has begun.
    pub ending: Option<Box<Ending>>,
    /// Its timeline and what comes beside calls, once there is any.
    pub activity: Option<Box<Activity>>,
    /// Its count in the holdings, as long as there is this row.
    _place: Holding,
}

impl Row {
    /// The key by which its account is found.
    pub fn aor(&self) -> AorKey {
        self.aor
    }

    /// A row that is about to be bound.
    pub(crate) fn new(
        id: InstanceId,
        sealed: Sealed,
        upstream: UpstreamId,
        fence: Fence,
        lease: LeaseExpiry,
        aor: AorKey,
        place: Holding,
    ) -> Self {
        let state = InstanceState::Registering;
        Self {
            id,
            sealed,
            fence,
            expires_at: small(lease.expires_at),
            reminded: lease.reminded,
            aor,
            registered_at: 0,
            registered_part: 0,
            registered_until: 0,
            lost_since: 0,
            tell_lost_at: 0,
            upstream,
            status: 0,
            state,
            unanswerable: None,
            first: None,
            is_proven: false,
            is_stored: true,
            ending: None,
            activity: None,
            _place: place,
        }
    }

    /// The last reminder of its end that a push service took.
    pub(crate) fn reminded(&self) -> Option<Reminder> {
        self.reminded
    }

    /// When it ends, in seconds since 1970.
    pub(crate) fn expires_at(&self) -> u64 {
        self.expires_at.into()
    }

    /// Until when its registration stands, in seconds since 1970; 0: it does not.
    pub(crate) fn registered_until(&self) -> u64 {
        self.registered_until.into()
    }

    /// Its registration stands until then, in seconds since 1970; 0: it does not.
    pub(crate) fn set_registered_until(&mut self, until: u64) {
        self.registered_until = small(until);
    }

    /// For how many seconds its registration has been lost, or has not come about, at this moment in seconds since 1970.
    pub(crate) fn lost_for(&self, now: u64) -> u64 {
        if self.lost_since == 0 { 0 } else { now.saturating_sub(self.lost_since.into()) }
    }

    /// Since when its registration has been lost, in seconds since 1970, once its user was told.
    pub(crate) fn failing_since(&self) -> Option<u64> {
        (self.lost_since != 0 && self.tell_lost_at == 0).then_some(self.lost_since.into())
    }
}

/// A deadline in the life of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// This reminder is to be sent.
    Reminder(Reminder),
    /// Its registration has been lost for long: its user is to be told, once.
    Lost {
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// No push service has taken this so far: it is to be sent again, unless it is on its way.
    Repeat(RepeatedNotice),
    /// The lease has ended.
    End,
}

/// A notice that is told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepeatedNotice {
    /// This reminder.
    Reminder(Reminder),
    /// Since when the registration is lost, in seconds since 1970.
    Lost(u64),
    /// The registration is back.
    Restored,
}

/// How far the clocks of a lease's grantor and of this node may be apart, in seconds.
const AHEAD_S: u64 = 3_600;
/// By how much the clock may go back before all leases are looked at again, in seconds.
const PLAY_S: u64 = 60;

/// Seconds since 1970 in a row, until 2106.
fn small(at: u64) -> u32 {
    // No moment is the last second, which `moments` takes for none.
    u32::try_from(at).unwrap_or(u32::MAX).min(u32::MAX - 1)
}

/// All instances of one shard.
#[derive(Default)]
pub(crate) struct Instances {
    /// Boxed: a table has room for up to twice as many.
    rows: Slab<Box<Row>>,
    ids: Index,
    accounts: Index,
    hasher: RandomState,
    moments: Moments,
    /// Notices that no push service has taken yet.
    pending_notices: PendingNotices,
    /// Until when a lease may be granted, as far as was known last, in seconds since 1970.
    granted_until: u64,
    /// Slots of leases that end later, or did; at most as many as there are rows.
    ahead: Vec<u32>,
    /// There were too many to list: all are to be looked at.
    all_may_be_ahead: bool,
    /// The clock that each lease end was read from.
    lease_clocks: LeaseClocks,
}

impl Instances {
    pub(crate) fn insert(&mut self, row: Row) {
        self.remove(row.id);
        let (id, account) = (self.hasher.hash_one(row.id), self.hasher.hash_one(row.aor));
        let slot = self.rows.insert(Box::new(row)) as u32;
        self.ids.insert(id, slot);
        self.accounts.insert(account, slot);
        self.note_end(slot);
        self.note_moment(slot);
    }

    pub(crate) fn remove(&mut self, id: InstanceId) -> Option<Box<Row>> {
        let slot = self.slot_of(id)?;
        let row = self.rows.try_remove(slot as usize)?;
        self.ids.remove(self.hasher.hash_one(id), slot);
        self.accounts.remove(self.hasher.hash_one(row.aor), slot);
        self.moments.clear(slot);
        self.lease_clocks.forget(slot);
        self.pending_notices.forget(slot, Subject::Lease);
        self.pending_notices.forget(slot, Subject::Registration);
        Some(row)
    }

    fn slot_of(&self, id: InstanceId) -> Option<u32> {
        let mut slots = self.ids.candidates(self.hasher.hash_one(id));
        slots.find(|slot| self.row(*slot).is_some_and(|row| row.id == id))
    }

    fn row(&self, slot: u32) -> Option<&Row> {
        self.rows.get(slot as usize).map(|row| &**row)
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<&Row> {
        self.row(self.slot_of(id)?)
    }

    pub(crate) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Row> {
        let slot = self.slot_of(id)?;
        self.rows.get_mut(slot as usize).map(|row| &mut **row)
    }

    /// The instances of an account, in order.
    pub(crate) fn of_account(&self, aor: AorKey) -> Vec<InstanceId> {
        let rows = self.accounts.candidates(self.hasher.hash_one(aor)).filter_map(|slot| self.row(slot));
        let mut ids: Vec<_> = rows.filter(|row| row.aor == aor).map(|row| row.id).collect();
        ids.sort_unstable();
        ids
    }

    /// Changes a row, and finds it by its next moment from then on; not one whose end was told.
    fn change<T>(&mut self, slot: u32, change: impl FnOnce(&mut Row) -> T) -> Option<T> {
        let done = change(self.rows.get_mut(slot as usize)?);
        if self.moments.is_set(slot) {
            self.note_moment(slot);
        }
        Some(done)
    }

    /// A row's next moment may be another one.
    fn note_moment(&mut self, slot: u32) {
        if let Some(row) = self.row(slot) {
            let lease = lease::next(row.expires_at(), row.reminded.max(self.pending_notices.reminder(slot)));
            let lost = Some(u64::from(row.tell_lost_at)).filter(|at| *at != 0);
            let next = [lost, self.pending_notices.next(slot)].into_iter().flatten().fold(lease, u64::min);
            self.moments.set(slot, small(next));
        }
    }

    /// A row's end may be another one.
    fn note_end(&mut self, slot: u32) {
        if self.all_may_be_ahead || self.row(slot).is_none_or(|row| row.expires_at() <= self.granted_until) {
            return;
        }
        self.ahead.push(slot);
        if self.ahead.len() > self.rows.len() {
            (self.ahead, self.all_may_be_ahead) = (Vec::new(), true);
        }
    }

    /// Moves the end of a lease, as read from the clock of this frame.
    pub(crate) fn set_lease(&mut self, id: InstanceId, lease: LeaseExpiry, frame: Frame) {
        if let Some(slot) = self.slot_of(id) {
            self.move_end(slot, lease, Some(frame));
        }
    }

    /// Notes that the end of a lease was read from the clock of this frame.
    pub(crate) fn set_lease_clock(&mut self, id: InstanceId, frame: Frame) {
        if let Some(slot) = self.slot_of(id) {
            self.lease_clocks.note(slot, frame);
        }
    }

    fn move_end(&mut self, slot: u32, lease: LeaseExpiry, frame: Option<Frame>) {
        if let Some(row) = self.rows.get_mut(slot as usize) {
            if row.expires_at != small(lease.expires_at) {
                self.pending_notices.forget(slot, Subject::Lease);
                match frame {
                    Some(frame) => self.lease_clocks.note(slot, frame),
                    None => self.lease_clocks.forget(slot),
                }
            }
            (row.expires_at, row.reminded) = (small(lease.expires_at), lease.reminded);
        }
        self.note_moment(slot);
        self.note_end(slot);
    }

    /// Its registration is lost, if it was not before; its user is to be told at `tell_at`. Both are in seconds since 1970.
    pub(crate) fn set_lost(&mut self, id: InstanceId, since: u64, tell_at: u64) {
        let slot = self.slot_of(id).filter(|slot| self.row(*slot).is_some_and(|row| row.lost_since == 0));
        let Some(slot) = slot else { return };
        self.pending_notices.forget(slot, Subject::Registration);
        self.change(slot, |row| (row.lost_since, row.tell_lost_at) = (small(since), small(tell_at)));
    }

    /// Its user was told of a loss before this run, which knows of it since then, in seconds since 1970.
    pub(crate) fn set_told_lost(&mut self, id: InstanceId, since: u64) {
        if let Some(slot) = self.slot_of(id) {
            self.change(slot, |row| (row.lost_since, row.tell_lost_at) = (small(since), 0));
        }
    }

    /// A push is under way that its registration is back.
    pub(crate) fn set_restored(&mut self, id: InstanceId, now: u64) {
        if let Some(slot) = self.slot_of(id).filter(|slot| self.moments.is_set(*slot)) {
            self.pending_notices.tell_of_registration(slot, Notice::Restored, now);
            self.note_moment(slot);
        }
    }

    /// A push service has taken this push, or may have: what its user has been told by that, once.
    pub(crate) fn take_told(&mut self, id: InstanceId, event: Event) -> Option<Notice> {
        let slot = self.slot_of(id)?;
        let told = self.pending_notices.take(slot, event)?;
        self.change(slot, |row| {
            if let Notice::Reminder(reminder) = told {
                row.reminded = row.reminded.max(Some(reminder));
            }
        });
        Some(told)
    }

    /// Whether there is something that no push service has taken.
    pub(crate) fn has_pending_notices(&self) -> bool {
        !self.pending_notices.is_empty()
    }

    /// A push service takes pushes again: what none has taken is due soon.
    pub(crate) fn hasten_pending_notices(&mut self, now: u64) {
        for slot in self.pending_notices.hasten(now) {
            if self.moments.is_set(slot) {
                self.note_moment(slot);
            }
        }
    }

    /// Its registration stands, or nobody wants one; whether its user had been told of the loss.
    pub(crate) fn set_not_lost(&mut self, id: InstanceId) -> bool {
        let slot = self.slot_of(id).filter(|slot| self.row(*slot).is_some_and(|row| row.lost_since != 0));
        let Some(slot) = slot else { return false };
        self.pending_notices.forget(slot, Subject::Registration);
        let told = self.change(slot, |row| {
            let told = row.failing_since().is_some();
            (row.lost_since, row.tell_lost_at) = (0, 0);
            told
        });
        told.unwrap_or_default()
    }

    /// Ends leases at `latest` (seconds since 1970) that would end more than [`AHEAD_S`] later: they were granted by a clock
    /// that was ahead. Looks at those alone that may, unless `latest` is earlier than before.
    pub(crate) fn cut_leases(&mut self, latest: u64) {
        let (before, until) = (self.granted_until, latest + AHEAD_S);
        let went_back = before > until + PLAY_S;
        self.granted_until = if went_back { until } else { before.max(until) };
        let looked_at = if went_back || std::mem::take(&mut self.all_may_be_ahead) {
            self.rows.iter().map(|(slot, _)| slot as u32).collect()
        } else {
            std::mem::take(&mut self.ahead)
        };
        for slot in looked_at {
            if self.row(slot).is_some_and(|row| row.expires_at() > self.granted_until) {
                self.move_end(slot, LeaseExpiry { expires_at: latest, reminded: None }, None);
            }
        }
    }

    /// Converts the lease ends that were read from other clocks to the clock of this frame, which is trusted now. Returns the instances whose records
    /// have to be written again.
    pub(crate) fn move_ends_to(&mut self, frame: Frame) -> Vec<InstanceId> {
        let earlier = self.lease_clocks.begin(frame);
        let slots: Vec<_> = self.rows.iter().map(|(slot, row)| (slot as u32, row.id)).collect();
        let mut moved = Vec::new();
        for (slot, id) in slots {
            let Some(by_s) = self.lease_clocks.shift(&earlier, slot).filter(|_| self.moments.is_set(slot)) else {
                continue;
            };
            let moment = |at: u32| if at == 0 { 0 } else { small(u64::from(at).saturating_add_signed(by_s)) };
            self.pending_notices.forget(slot, Subject::Lease);
            self.change(slot, |row| {
                row.expires_at = moment(row.expires_at);
                (row.lost_since, row.tell_lost_at) = (moment(row.lost_since), moment(row.tell_lost_at));
            });
            self.note_end(slot);
            moved.push(id);
        }
        moved
    }

    /// When the next reminder is due or the next instance ends, in seconds since 1970; or an earlier moment, at which nothing is due
    /// any more.
    pub(crate) fn next_moment(&self) -> Option<u64> {
        self.moments.first().map(u64::from)
    }

    /// An instance with a deadline that is due at `now`, once: an end is not told again.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<(InstanceId, Due)> {
        let slot = self.moments.pop_due(now)?;
        let row = self.rows.get_mut(slot as usize)?;
        let (id, expires_at, since) = (row.id, row.expires_at(), row.lost_since.into());
        if expires_at <= now {
            return Some((id, Due::End));
        }
        let reminded = row.reminded.max(self.pending_notices.reminder(slot));
        let due = if row.tell_lost_at != 0 && u64::from(row.tell_lost_at) <= now {
            row.tell_lost_at = 0;
            self.pending_notices.tell_of_registration(slot, Notice::Lost, now);
            Some(Due::Lost { since })
        } else if let Some(reminder) = lease::due(expires_at, reminded, now) {
            self.pending_notices.remind(slot, reminder, now, lease::worth_until(expires_at, reminder));
            Some(Due::Reminder(reminder))
        } else {
            self.pending_notices.pop_due(slot, now).map(|notice| {
                Due::Repeat(match notice {
                    Notice::Reminder(reminder) => RepeatedNotice::Reminder(reminder),
                    Notice::Lost => RepeatedNotice::Lost(since),
                    Notice::Restored => RepeatedNotice::Restored,
                })
            })
        };
        self.note_moment(slot);
        Some((id, due?))
    }

    /// All ids, in order, each with whether its registration stands at this time, in seconds since 1970.
    pub(crate) fn ids_and_whether_registered(&self, now: u64) -> Vec<(InstanceId, bool)> {
        let mut ids: Vec<_> = self.rows.iter().map(|(_, row)| (row.id, row.registered_until() > now)).collect();
        ids.sort_unstable();
        ids
    }

    /// The stored instances that do not end, each with the fence under which its record is stored; in no order.
    pub(crate) fn owned(&self) -> Vec<(InstanceId, Fence)> {
        let owned = self.rows.iter().filter(|(_, row)| row.is_stored && row.ending.is_none());
        owned.map(|(_, row)| (row.id, row.fence)).collect()
    }

    /// The stored instances that do not end and have one of these SIP servers, each as it stands; in no order.
    pub(crate) fn of_upstreams(&self, upstreams: &[UpstreamId]) -> Vec<(InstanceId, InstanceState)> {
        let stay = self.rows.iter().filter(|(_, row)| row.is_stored && row.ending.is_none());
        let of_them = stay.filter(|(_, row)| upstreams.binary_search(&row.upstream).is_ok());
        of_them.map(|(_, row)| (row.id, row.state)).collect()
    }

    /// At most `limit` ids behind `after`, in order.
    pub(crate) fn ids_after(&self, after: Option<InstanceId>, limit: usize) -> Vec<InstanceId> {
        let ids = self.rows.iter().map(|(_, row)| row.id);
        let mut ids: Vec<_> = ids.filter(|id| after.is_none_or(|after| *id > after)).collect();
        if ids.len() > limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests;
