//! The removal of a push binding (RFC 8599, `expires=0`) at a node that does not know it: another node has taken it over, or since a restart only the store has
//! it.
//!
//! | its Contact | found by | ended by |
//! | --- | --- | --- |
//! | names its push token | its record in the store | the node that is asked; the owner, and a node with a copy, releases it |
//! | does not, or is `*` | the marks of its account and device, at each other living node | the node that has it |
//! | registers, by a push token that was not known here | likewise | a node that has it by another token |
//!
//! A dead node may have had the registration: if another node takes it over within [`REMEMBERED`] of the letter, it ends as well.
//!
//! A record that came back from a snapshot, or that a node has written again without knowing of the end, is ended once more by the node that has ended it, as
//! long as that lives.
//!
//! Invariant: the SIP server has accepted the REGISTER first, so that no device ends the registration of another. A later registration of the device stays: one
//! that was sent to the SIP server after the removing REGISTER, in whatever order the server has answered, and however long the letter was on its way. Nodes
//! compare times by the store's clock, because their own clocks may differ.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sip::endpoint::{ContactsRemoved, server_of};
use sip::id::InstanceId;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::agent::request::{EndKind, ReleaseReason, Request};
use crate::agent::{Audience, Registered};
use crate::clock::{self, unix_ms_of, unix_now_ms};
use crate::lock::Mutex;
use crate::metrics::labels::StoreOperation;
use crate::secret::Aor;
use crate::service::Inner;
use crate::service::nodes::drain_messages::{ContactRemoval, NodeMessage};
use crate::vault::record::PushBindingRecord;
use crate::vault::{AorKey, Lookup, StoreError, Stored};

/// How soon, and how often, a store is asked again that did not answer; then the registration runs out.
const AGAIN: Duration = Duration::from_secs(2);
const TRIES: usize = 30;
/// How far two clocks may be apart that agree, in milliseconds.
const AGREE_MS: u64 = 2_000;
/// REGISTERs that remove a registration, at once: anybody with a SIP server may send them. A registration without a permit expires, as above.
pub(crate) const AT_ONCE: usize = 256;
/// Registrations at once whose devices' earlier ones are ended at other nodes: all phones of a node that has died come at once, and few with another
/// push token.
pub(crate) const EARLIER_AT_ONCE: usize = 64;

/// How long a removal by way of another node is remembered: a dead node's instances are taken over within that.
const REMEMBERED: Duration = Duration::from_secs(30);
/// Removals that are remembered; a registration that an earlier one removes runs out by itself.
const REMEMBERED_MAX: usize = 4_096;

/// Removals that other nodes have told of late, with their times by this node's clock.
#[derive(Default)]
pub(crate) struct RecentRemovals(Mutex<Removals>);

#[derive(Default)]
struct Removals {
    /// The account of each, in the order of their arrival.
    order: VecDeque<(Instant, AorKey)>,
    /// Each account's, in the same order.
    by_account: BTreeMap<AorKey, VecDeque<(Instant, ContactRemoval)>>,
}

impl RecentRemovals {
    fn note(&self, now: Instant, removal: ContactRemoval) {
        // A panic in between leaves a removal that goes with a later one of its account.
        let Removals { order, by_account } = &mut *self.0.lock();
        let is_over = |at: Instant, count| count >= REMEMBERED_MAX || now.duration_since(at) >= REMEMBERED;
        while let Some((_, account)) = order.front().copied().filter(|(at, _)| is_over(*at, order.len())) {
            order.pop_front();
            if let Some(theirs) = by_account.get_mut(&account) {
                theirs.pop_front();
                if theirs.is_empty() {
                    by_account.remove(&account);
                }
            }
        }
        order.push_back((now, removal.account));
        by_account.entry(removal.account).or_default().push_back((now, removal));
    }

    /// The removals of an account.
    fn of(&self, now: Instant, account: AorKey) -> Vec<ContactRemoval> {
        let recent = self.0.lock();
        let theirs = recent.by_account.get(&account).into_iter().flatten();
        theirs.filter(|(at, _)| now.duration_since(*at) < REMEMBERED).map(|(_, removal)| *removal).collect()
    }
}

impl Inner {
    /// Whether another node's device has removed, or replaced, a registration that is being taken over.
    pub(crate) fn is_removed(&self, id: InstanceId, it: &PushBindingRecord) -> bool {
        let account = self.dependencies.vault.aor_key(&it.aor);
        let mut removals = self.recent_removals.of(clock::now(), account);
        removals.retain(|removal| removal.by != Some(id) && is_earlier(it, removal.sent_ms));
        if removals.is_empty() {
            return false;
        }
        let marks = self.marks_of(it);
        removals.iter().any(|removal| marks.contains(&removal.device))
    }

    /// The marks of a registration's device.
    fn marks_of(&self, it: &PushBindingRecord) -> [[u8; 16]; 2] {
        let server = server_of(&it.registrar, it.proxy.as_deref()).unwrap_or_default();
        [&*it.contact, ""].map(|contact| self.dependencies.vault.device_mark(&it.aor, &server, contact))
    }

    /// Ends a registration that was removed before it was taken over here.
    pub(crate) async fn end_taken(self: Arc<Self>, id: InstanceId) {
        for _ in 0..TRIES {
            match self.dependencies.vault.load(id).await {
                Ok(Some(stored)) => {
                    // The device may have registered again since.
                    let Some(lookup) = self.ended_before(&stored) else { return };
                    if self.end_stored(&stored, lookup).await {
                        return;
                    }
                }
                Ok(None) | Err(StoreError::Malformed) => return,
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
    }

    /// Ends the registrations that a device has removed, wherever they are.
    pub(crate) async fn end_removed_contacts(self: Arc<Self>, removed: Box<ContactsRemoved>) {
        let Ok(_place) = self.removing_contacts.try_acquire() else {
            tracing::debug!(
                event = "taken-back-left",
                "too many registrations are taken back at once; this one runs out"
            );
            return;
        };
        let mut records = JoinSet::new();
        let (vault, aor) = (&self.dependencies.vault, Aor::new(&removed.aor));
        let (account, sent_ms) = (vault.aor_key(&aor), unix_ms_of(Some(removed.sent_at)));
        for contact in &removed.contacts {
            match contact.instance {
                Some(id) => {
                    let (it, contact) = (self.clone(), contact.contact.clone());
                    // A store that is away keeps the others waiting for nothing.
                    records.spawn(async move { it.end_removed_record(id, &contact, sent_ms).await });
                }
                None => {
                    let device = vault.device_mark(&aor, &removed.server, &contact.contact);
                    self.tell_contact_removed(ContactRemoval { account, device, sent_ms, by: None }).await;
                }
            }
        }
        while records.join_next().await.is_some() {}
    }

    /// A device has registered here, and was not known here: other nodes end what it has registered there by other push tokens.
    pub(crate) async fn end_other_tokens(self: Arc<Self>, new: Box<Registered>) {
        // A registration that has no place runs out.
        let Ok(_place) = self.ending_other_tokens.try_acquire() else { return };
        let Registered { id, account, device, sent_ms } = *new;
        self.tell_contact_removed(ContactRemoval { account, device, sent_ms, by: Some(id) }).await;
    }

    /// Tells each other node that lives. The time of the removal is by this node's clock.
    async fn tell_contact_removed(self: &Arc<Self>, removal: ContactRemoval) {
        let vault = &self.dependencies.vault;
        // Without the store nobody has it but this node, which does not.
        let Ok(peers) = vault.living_peers().await else { return };
        let Ok(store_now_ms) = vault.question_time_ms().await else { return };
        // What the store took to say it makes the moment an earlier one: then a registration too much stays, and runs out.
        let sent_ms = by_other_clock(removal.sent_ms, unix_now_ms(), store_now_ms);
        self.tell_all(peers, NodeMessage::ContactRemoved(ContactRemoval { sent_ms, ..removal })).await;
    }

    async fn end_removed_record(self: Arc<Self>, id: InstanceId, contact: &str, sent_ms: u64) {
        let vault = &self.dependencies.vault;
        let mut ended = None;
        for _ in 0..TRIES {
            if self.look_as_relay(id).await.is_ok() {
                // Its device has registered it here again.
                return;
            }
            match vault.load(id).await {
                Ok(Some(stored)) => {
                    let is_it = |it: &PushBindingRecord| *it.contact == *contact && is_earlier(it, sent_ms);
                    let lookup = vault.open_record(id, &stored.sealed, |record| {
                        record.push_binding().filter(|it| is_it(it)).map(|it| vault.lookup_of(it))
                    });
                    let Ok(Some(lookup)) = lookup else { return };
                    vault.note_passed_end(id, &stored.sealed);
                    if self.end_stored(&stored, lookup).await {
                        return;
                    }
                    ended = Some(lookup);
                }
                // The store may have erased it, and not answered.
                Ok(None) if ended.is_some() => return self.tell_end(id, Audience::AllNodes).await,
                Ok(None) | Err(StoreError::Malformed) => return,
                Err(_) => {}
            }
            sleep(AGAIN).await;
        }
        if let Some(lookup) = ended {
            self.dependencies.agent.erase(id, lookup);
        }
    }

    /// Another node's device has removed what may be here.
    pub(crate) async fn end_removed_here(self: &Arc<Self>, removal: ContactRemoval) {
        let ContactRemoval { account, device, sent_ms, by } = removal;
        let vault = &self.dependencies.vault;
        if let Some(by) = by {
            vault.passed_ends().forget(by);
        }
        let now_ms = unix_now_ms();
        // What cannot be dated runs out.
        let Ok(store_now_ms) = vault.question_time_ms().await else { return };
        let sent_ms = by_other_clock(sent_ms, store_now_ms, now_ms);
        self.recent_removals.note(clock::now(), ContactRemoval { account, device, sent_ms, by });
        let here = self.dependencies.agent.ask_all(|reply| Request::OfAccount { aor: account, reply }).await;
        for status in here.into_iter().flatten().filter(|status| Some(status.id) != by) {
            let is_it = |it: &PushBindingRecord| is_earlier(it, sent_ms) && self.marks_of(it).contains(&device);
            let lookup = vault.open_record(status.id, &status.sealed, |record| {
                record.push_binding().filter(|it| is_it(it)).map(|it| vault.lookup_of(it))
            });
            let Ok(Some(lookup)) = lookup else { continue };
            match vault.load(status.id).await {
                // The device has registered it at another node meanwhile: the registration here is an older copy.
                Ok(Some(stored)) if !stored.owned => self.release_push_binding(status.id).await,
                _ => {
                    if by.is_some() {
                        // A phone that rings here is heard out, though it is at another node by now.
                        let (id, fence, why) = (status.id, status.fence, ReleaseReason::Moved);
                        self.dependencies.agent.tell(id, Request::Release { id, fence, why }).await;
                    }
                    vault.note_passed_end(status.id, &status.sealed);
                    self.end_passed(status.id, lookup).await;
                }
            }
        }
    }

    /// Ends what is here of a registration that passed through.
    async fn release_push_binding(&self, id: InstanceId) {
        let kind = EndKind::NeverOurs;
        // The registration may be here, or on its way here.
        let _ = self.dependencies.agent.ask(id, |reply| Request::EndAhead { id, kind, reply }).await;
    }

    /// Ends once more what has ended here, and the store has again as it was before. Whether the store answered.
    pub(crate) async fn end_returned(self: &Arc<Self>) -> bool {
        let vault = &self.dependencies.vault;
        let (mut returned, mut is_away) = (Vec::new(), false);
        self.look_up(&vault.passed_ends().all(), |id, stored| match stored {
            Ok(Some(stored)) => returned.extend(self.ended_before(&stored).map(|_| id)),
            Ok(None) | Err(StoreError::Malformed) => {}
            Err(_) => is_away = true,
        })
        .await;
        for some in returned.chunks(EARLIER_AT_ONCE) {
            let answered = join_all(some.iter().map(|id| self.end_if_returned(*id))).await;
            is_away |= answered.contains(&false);
        }
        !is_away
    }

    /// The lookup of a registration that has ended here, and that its device has not made anew since then.
    fn ended_before(&self, stored: &Stored) -> Option<Lookup> {
        let vault = &self.dependencies.vault;
        let lookup = vault.open_record(stored.id, &stored.sealed, |record| {
            let ended = record.push_binding().filter(|it| vault.passed_ends().has_ended(stored.id, it));
            ended.map(|it| vault.lookup_of(it))
        });
        lookup.ok().flatten()
    }

    /// Ends a registration that the store has shown, unless its device has registered again since. Whether the store answered.
    async fn end_if_returned(self: &Arc<Self>, id: InstanceId) -> bool {
        let vault = &self.dependencies.vault;
        let stored = match vault.load(id).await {
            Ok(Some(stored)) => stored,
            Ok(None) | Err(StoreError::Malformed) => return true,
            Err(_) => return false,
        };
        let Some(lookup) = self.ended_before(&stored) else { return true };
        tracing::warn!(event = "passed-record-returned", instance = %id, "a registration that passed through and has ended is in the store again; it is erased");
        self.end_stored(&stored, lookup).await
    }

    /// Ends a registration that the store has shown and no shard here is known to have, unless its device has registered it again since then, at
    /// whatever node. Whether the store answered.
    async fn end_stored(self: &Arc<Self>, stored: &Stored, lookup: Lookup) -> bool {
        let erased = self.dependencies.vault.erase_unchanged(stored, lookup);
        match self.timed(StoreOperation::Erase, erased).await {
            Ok(true) => {}
            Ok(false) => return true,
            Err(_) => return false,
        }
        tracing::info!(event = "passed-forgotten", instance = %stored.id, end = "unregistered", "a registration that passed through is forgotten");
        // It may be on its way here from the store. A registration that its device makes here now is not called ended any more when the shard looks, and is
        // written after this.
        let (id, sealed) = (stored.id, stored.sealed.clone());
        let _ = self.dependencies.agent.ask(id, |reply| Request::EndPassed { id, sealed, reply }).await;
        self.tell_end(stored.id, Audience::AllNodes).await;
        true
    }

    /// Ends a registration that passed through, here and in the store. The owner is told with its erasure, and each other node that may have a copy behind it.
    async fn end_passed(self: &Arc<Self>, id: InstanceId, lookup: Lookup) {
        tracing::info!(event = "passed-forgotten", instance = %id, end = "unregistered", "a registration that passed through is forgotten");
        self.release_push_binding(id).await;
        let erased = self.dependencies.vault.erase_all_of(id, Some(lookup));
        if self.timed(StoreOperation::Erase, erased).await.is_err() {
            self.dependencies.agent.erase(id, lookup);
        }
        self.tell_end(id, Audience::AllNodes).await;
    }
}

/// The moment `at_ms` of one clock by another one, from what both say now.
fn by_other_clock(at_ms: u64, now_ms: u64, other_now_ms: u64) -> u64 {
    other_now_ms.saturating_sub(now_ms.saturating_sub(at_ms))
}

/// Whether a registration was sent to its SIP server before the REGISTER that removes it, which was sent at `sent_ms`.
fn is_earlier(it: &PushBindingRecord, sent_ms: u64) -> bool {
    is_before(it.confirmed_at_ms, sent_ms, unix_now_ms())
}

/// A time that is still to come is by the clock of another node, and says nothing: then the REGISTER that removes is believed.
fn is_before(confirmed_at_ms: u64, sent_ms: u64, now_ms: u64) -> bool {
    confirmed_at_ms < sent_ms || confirmed_at_ms > now_ms.saturating_add(AGREE_MS)
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn what_other_nodes_have_told_is_remembered_for_a_while_and_bounded() {
        let (recent, now) = (RecentRemovals::default(), Instant::now());
        let by = |number: usize| Some(InstanceId::new((number as u128) << 32, ShardTag(1)));
        // Every second one is of another account.
        let account = |number: usize| AorKey::from_bytes([number as u8 % 2; 16]);
        let removal = |number| {
            let account = account(number);
            ContactRemoval { account, device: [2; 16], sent_ms: 3, by: by(number) }
        };
        let has = |after: Duration, number: usize| {
            recent.of(now + after, account(number)).iter().any(|it| it.by == by(number))
        };
        recent.note(now, removal(0));
        assert!(has(REMEMBERED / 2, 0) && !has(REMEMBERED, 0) && !has(Duration::ZERO, 1));
        assert!(recent.of(now, account(1)).is_empty(), "of another account");
        (1..=REMEMBERED_MAX).for_each(|number| recent.note(now, removal(number)));
        let count = || {
            let all = recent.0.lock();
            (all.order.len(), all.by_account.values().map(VecDeque::len).sum::<usize>())
        };
        assert_eq!(count(), (REMEMBERED_MAX, REMEMBERED_MAX));
        assert!(!has(Duration::ZERO, 0) && has(Duration::ZERO, 1));
        recent.note(now + REMEMBERED, removal(0));
        assert_eq!((count(), recent.0.lock().by_account.len()), ((1, 1), 1));
    }

    #[test]
    fn what_was_registered_before_is_taken_back_also_by_a_node_whose_clock_is_behind() {
        const SENT: u64 = 1_795_000_000_000;
        assert!(is_before(SENT - 1, SENT, SENT + 30));
        assert!(
            !is_before(SENT + 1_000, SENT, SENT + 4_000),
            "its device has registered since, and was answered first"
        );
        assert!(!is_before(SENT + 1_000, SENT, SENT + 30), "by clocks that agree");
        assert!(is_before(SENT + 10_000, SENT, SENT + 30), "ten seconds ago, by a clock that is 20 s ahead");
    }

    #[test]
    fn what_was_registered_while_the_letter_lay_stays_whatever_the_clocks_of_the_two_nodes() {
        const STORE: u64 = 1_795_000_000_000;
        for (writer, reader) in [(0, 0), (20_000, -20_000), (-20_000, 20_000), (3_000, 90_000)] {
            // A clock that is so much ahead of the store's says this, so long after the REGISTER was sent.
            let at = |ahead: i64, after: u64| STORE.saturating_add_signed(ahead) + after;
            for (written_after, read_after) in [(5, 10), (5, 3_005), (4_000, 14_000)] {
                let told = by_other_clock(at(writer, 0), at(writer, written_after), at(0, written_after));
                let sent_ms = by_other_clock(told, at(0, read_after), at(reader, read_after));
                let is_ended = |confirmed_at_ms| is_before(confirmed_at_ms, sent_ms, at(reader, read_after));
                assert!(is_ended(at(reader, 0) - 1), "before");
                assert!(!is_ended(at(reader, 1)), "since, {writer} {reader} {read_after}");
            }
        }
    }
}
