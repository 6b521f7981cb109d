//! The instances of one shard: a row for each, and when they end. Which of them share a binding is known to the endpoint.
//!
//! Invariant: a row holds its record in the sealed form alone. The indexes agree: each row is found by its instance,
//! by its account's keyed name and by the next moment of its lease (a reminder, or the end).

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use sip::id::{InstanceId, UpstreamId};
use tokio::sync::oneshot;

use super::lease::{self, LeaseExpiry};
use super::timeline::Activity;
use crate::agent::digest::{Asked, Unanswerable};
use crate::domain::{InstanceState, WipeReason};
use crate::limits::holdings::Holding;
use crate::vault::record::Reminder;
use crate::vault::{AorKey, Fence, Sealed};

/// One push instance.
pub(crate) struct Row {
    /// Everything that is known of it.
    pub sealed: Sealed,
    /// What its record is put with.
    pub fence: Fence,
    /// When it ends, in seconds since 1970.
    expires_at: u32,
    /// The last reminder of its end.
    reminded: Option<Reminder>,
    /// Under which name its account is found.
    aor: AorKey,
    /// When its registration was accepted last, in seconds since 1970; 0: never.
    pub registered_at: u32,
    /// Until when its registration stands, in seconds since 1970.
    registered_until: u32,
    /// Since when its registration has been lost, in seconds since 1970; 0: it is not.
    lost_since: u32,
    /// When its user is to be told of the loss; 0: never, or that was done.
    tell_lost_at: u32,
    /// Its user was told of the loss.
    lost_told: bool,
    /// Where its requests go.
    pub upstream: UpstreamId,
    /// The SIP status of the last answer; 0 before the first.
    pub status: u16,
    /// How it stands, as the metrics count it.
    pub state: InstanceState,
    /// Why its credentials did not fit the last challenge.
    pub unanswerable: Option<Unanswerable>,
    /// Whether its credentials were asked for since it was registered last, in a way that this relay knows.
    pub asked: bool,
    /// Those who wait for the outcome of the first registration.
    pub first: Option<oneshot::Sender<FirstRegistration>>,
    /// The store has it: whoever enabled it was told so, or will be.
    pub is_stored: bool,
    /// Its end, once that has begun.
    pub ending: Option<Box<Ending>>,
    /// Its timeline and what comes beside calls, once there is any.
    pub activity: Option<Box<Activity>>,
    /// Where it counts, as long as there is this row.
    _place: Holding,
}

/// How an instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndKind {
    /// It is unregistered, erased from the store and receipted.
    Wiped(WipeReason),
    /// It is unregistered and forgotten: it never was in the store.
    NeverOurs,
    /// It is forgotten without a word to its SIP server: another node serves it.
    HandedOver,
}

/// Why a shard refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It has no such instance.
    Unknown,
    /// The proof is wrong.
    Forbidden,
}

/// Who waits for the end of an instance. One that ends in another way than by a wipe is unknown.
pub type WipeWaiter = oneshot::Sender<Result<WipeDone, Denied>>;

/// An instance that is ending.
pub(crate) struct Ending {
    /// How.
    pub kind: EndKind,
    /// Whether the SIP server confirmed, once the endpoint has let go.
    pub unbound: Option<bool>,
    /// What the store has of it; `None`: it has not said yet.
    pub erasure: Option<Erasure>,
    /// Those who wait for the end of a wipe.
    pub waiters: Vec<WipeWaiter>,
}

/// How a first registration went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirstRegistration {
    /// The SIP server accepted it for this long.
    Registered {
        /// The lifetime that was granted.
        expires: Duration,
        /// What it had asked of a password, which may give way to the answers.
        asked: Vec<Asked>,
    },
    /// The SIP server refused it for good; the instance is forgotten.
    Refused {
        /// Its status.
        status: u16,
        /// Why there was no answer to its challenge, if that was it.
        unanswerable: Option<Unanswerable>,
    },
    /// It failed and will be tried again.
    Failed {
        /// The status, if there was an answer.
        status: Option<u16>,
    },
}

/// A wipe is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WipeDone {
    /// Why.
    pub reason: WipeReason,
    /// Whether the SIP server confirmed.
    pub unregistered: bool,
    /// What the store has of it.
    pub erasure: Erasure,
}

/// What a store has of an instance that is wiped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erasure {
    /// Nothing is left.
    Done,
    /// The store is away; a durable tombstone has it erased by this run or the next.
    Pending,
    /// The store is away, and the tombstone could not be made durable: if the process dies now, the instance comes back.
    Unsure,
}

impl Erasure {
    /// Its word in logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "erased",
            Self::Pending => "pending",
            Self::Unsure => "unsure",
        }
    }
}

impl Row {
    /// Under which name its account is found.
    pub fn aor(&self) -> AorKey {
        self.aor
    }

    /// A row that is about to be bound.
    pub(crate) fn new(
        sealed: Sealed,
        upstream: UpstreamId,
        fence: Fence,
        lease: LeaseExpiry,
        aor: AorKey,
        place: Holding,
    ) -> Self {
        let state = InstanceState::Registering;
        Self {
            sealed,
            fence,
            expires_at: small(lease.expires_at),
            reminded: lease.reminded,
            aor,
            registered_at: 0,
            registered_until: 0,
            lost_since: 0,
            tell_lost_at: 0,
            lost_told: false,
            upstream,
            status: 0,
            state,
            unanswerable: None,
            asked: false,
            first: None,
            is_stored: true,
            ending: None,
            activity: None,
            _place: place,
        }
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

    /// Since when its registration has been lost, in seconds since 1970, once its user was told.
    pub(crate) fn failing_since(&self) -> Option<u64> {
        self.lost_told.then_some(self.lost_since.into())
    }

    fn next_moment(&self) -> u32 {
        let lease = small(lease::next(self.expires_at(), self.reminded));
        if self.tell_lost_at == 0 { lease } else { lease.min(self.tell_lost_at) }
    }
}

/// What falls due in the life of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// This reminder is to be sent; it counts as sent from now on.
    Reminder(Reminder),
    /// Its registration has been lost for long: its user is to be told, once.
    Lost {
        /// Since when, in seconds since 1970.
        since: u64,
    },
    /// It has ended.
    End,
}

/// How far the clocks of a lease's grantor and of this node may be apart, in seconds.
const AHEAD_S: u64 = 3_600;

/// Seconds since 1970 in a row, until 2106.
fn small(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// All instances of one shard.
#[derive(Default)]
pub(crate) struct Instances {
    /// Boxed: a table has room for up to twice as many.
    rows: HashMap<InstanceId, Box<Row>>,
    /// In seconds since 1970.
    moments: BTreeSet<(u32, InstanceId)>,
    accounts: BTreeSet<(AorKey, InstanceId)>,
}

impl Instances {
    pub(crate) fn insert(&mut self, id: InstanceId, row: Row) {
        self.moments.insert((row.next_moment(), id));
        self.accounts.insert((row.aor, id));
        self.rows.insert(id, Box::new(row));
    }

    pub(crate) fn remove(&mut self, id: InstanceId) -> Option<Box<Row>> {
        let row = self.rows.remove(&id)?;
        self.moments.remove(&(row.next_moment(), id));
        self.accounts.remove(&(row.aor, id));
        Some(row)
    }

    pub(crate) fn get(&self, id: InstanceId) -> Option<&Row> {
        self.rows.get(&id).map(|row| &**row)
    }

    pub(crate) fn get_mut(&mut self, id: InstanceId) -> Option<&mut Row> {
        self.rows.get_mut(&id).map(|row| &mut **row)
    }

    /// The instances of an account, in order.
    pub(crate) fn of_account(&self, aor: AorKey) -> Vec<InstanceId> {
        let from = (aor, InstanceId::from_bytes([0; 16]));
        self.accounts.range(from..).take_while(|(other, _)| *other == aor).map(|(_, id)| *id).collect()
    }

    /// Moves an instance's end.
    pub(crate) fn set_lease(&mut self, id: InstanceId, lease: LeaseExpiry) {
        if let Some(row) = self.rows.get_mut(&id) {
            self.moments.remove(&(row.next_moment(), id));
            row.expires_at = small(lease.expires_at);
            row.reminded = lease.reminded;
            self.moments.insert((row.next_moment(), id));
        }
    }

    /// Its registration is lost, if it was not before; its user is to be told at `tell_at`. Both are in seconds since 1970.
    pub(crate) fn set_lost(&mut self, id: InstanceId, since: u64, tell_at: u64) {
        let Some(row) = self.rows.get_mut(&id).filter(|row| row.lost_since == 0) else { return };
        self.moments.remove(&(row.next_moment(), id));
        (row.lost_since, row.tell_lost_at, row.lost_told) = (small(since), small(tell_at), false);
        self.moments.insert((row.next_moment(), id));
    }

    /// Its registration stands, or nobody wants one; whether its user had been told of the loss.
    pub(crate) fn set_not_lost(&mut self, id: InstanceId) -> bool {
        let Some(row) = self.rows.get_mut(&id).filter(|row| row.lost_since != 0) else { return false };
        self.moments.remove(&(row.next_moment(), id));
        let told = row.lost_told;
        (row.lost_since, row.tell_lost_at, row.lost_told) = (0, 0, false);
        self.moments.insert((row.next_moment(), id));
        told
    }

    /// Ends leases at `latest` (seconds since 1970) that would end more than [`AHEAD_S`] later: they were granted by a clock
    /// that was ahead.
    pub(crate) fn cut_leases(&mut self, latest: u64) {
        while let Some(&(moment, id)) = self.moments.last()
            && u64::from(moment) > latest + AHEAD_S
        {
            self.set_lease(id, LeaseExpiry { expires_at: latest, reminded: None });
        }
    }

    /// When the next reminder is due or the next instance ends, in seconds since 1970.
    pub(crate) fn next_moment(&self) -> Option<u64> {
        self.moments.first().map(|(moment, _)| u64::from(*moment))
    }

    /// What is due at `now`, once: an end leaves the order, so that it is not found again.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<(InstanceId, Due)> {
        let (moment, id) = *self.moments.first()?;
        if u64::from(moment) > now {
            return None;
        }
        self.moments.remove(&(moment, id));
        let Some(row) = self.rows.get_mut(&id).filter(|row| row.expires_at() > now) else {
            return Some((id, Due::End));
        };
        if row.tell_lost_at != 0 && u64::from(row.tell_lost_at) <= now {
            (row.tell_lost_at, row.lost_told) = (0, true);
            self.moments.insert((row.next_moment(), id));
            return Some((id, Due::Lost { since: row.lost_since.into() }));
        }
        let reminder = lease::due(row.expires_at(), row.reminded, now)?;
        row.reminded = Some(reminder);
        self.moments.insert((row.next_moment(), id));
        Some((id, Due::Reminder(reminder)))
    }

    /// All ids, in order.
    pub(crate) fn ids(&self) -> Vec<InstanceId> {
        let mut ids: Vec<_> = self.rows.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Those that are stored and do not end, each with what its record is put with; in no order.
    pub(crate) fn owned(&self) -> Vec<(InstanceId, Fence)> {
        let owned = self.rows.iter().filter(|(_, row)| row.is_stored && row.ending.is_none());
        owned.map(|(id, row)| (*id, row.fence)).collect()
    }

    /// At most `limit` ids behind `after`, in order.
    pub(crate) fn ids_after(&self, after: Option<InstanceId>, limit: usize) -> Vec<InstanceId> {
        let mut ids: Vec<_> = self.rows.keys().copied().filter(|id| after.is_none_or(|after| *id > after)).collect();
        if ids.len() > limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::limits::holdings::Holdings;
    use crate::secret::InstanceSecret;

    const END: u64 = 1_795_000_000;

    fn instances(lease: LeaseExpiry) -> (Instances, InstanceId) {
        let id = InstanceId::new(1 << 16, ShardTag(0));
        let mut instances = Instances::default();
        let sealed = Sealed::from_bytes(InstanceSecret::new("not opened here").expose().as_bytes().to_vec());
        instances.insert(
            id,
            Row::new(sealed, UpstreamId(1), Fence::NEW, lease, AorKey::FIRST, Holdings::default().count(&[])),
        );
        (instances, id)
    }

    #[test]
    fn a_clock_that_jumps_over_the_whole_lease_ends_it_without_a_reminder() {
        let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
        assert_eq!(instances.pop_due(END - 90_000), None);
        assert_eq!(instances.pop_due(END), Some((id, Due::End)));
        assert_eq!(instances.pop_due(END), None, "an end is told once");
        assert!(instances.remove(id).is_some());
    }

    #[test]
    fn a_registration_that_is_lost_for_long_is_told_once_and_one_that_comes_back_in_time_is_not() {
        let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
        let begun = END - 200_000;
        instances.set_lost(id, begun, begun + 600);
        instances.set_lost(id, begun + 30, begun + 630);
        assert!(!instances.set_not_lost(id), "nobody was told");
        assert_eq!(instances.pop_due(begun + 700), None);
        instances.set_lost(id, begun + 1_000, begun + 1_600);
        assert_eq!(instances.next_moment(), Some(begun + 1_600));
        assert_eq!(instances.pop_due(begun + 1_600), Some((id, Due::Lost { since: begun + 1_000 })));
        assert_eq!(instances.pop_due(begun + 5_000), None, "once");
        assert_eq!(instances.get(id).and_then(Row::failing_since), Some(begun + 1_000));
        assert!(instances.set_not_lost(id));
        assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))), "the lease goes on");
    }

    #[test]
    fn a_lease_that_a_clock_granted_which_was_ahead_ends_like_any_other() {
        let (mut instances, id) = instances(LeaseExpiry { expires_at: END + 30 * 86_400, reminded: None });
        instances.cut_leases(END);
        assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))));
        assert_eq!(instances.pop_due(END), Some((id, Due::End)));
        instances.cut_leases(END);
        assert_eq!(instances.pop_due(END), None, "and once");
    }

    #[test]
    fn a_renewed_lease_reminds_before_its_new_end_and_not_before_its_old_one() {
        let (mut instances, id) = instances(LeaseExpiry { expires_at: END, reminded: None });
        assert_eq!(instances.pop_due(END - 86_400), Some((id, Due::Reminder(Reminder::Renew))));
        assert_eq!(instances.pop_due(END - 50_000), None, "once");
        instances.set_lease(id, LeaseExpiry { expires_at: END + 259_200, reminded: None });
        assert_eq!(instances.pop_due(END), None);
        assert_eq!(instances.next_moment(), Some(END + 259_200 - 86_400));
        assert_eq!(instances.pop_due(END + 259_200 - 3_000), Some((id, Due::Reminder(Reminder::VerySoon))));
        assert_eq!(instances.pop_due(END + 259_200), Some((id, Due::End)));
    }
}
