//! Changing an instance: a new push token, a renewed lifetime, another presence, other events.
//!
//! Invariant: the store has the changed record before the shard has it, so that a restart forgets no change that was confirmed. A change that the store refuses
//! is not made. One that it did not answer for, and has made all the same, is [reversed](super::ownership::unanswered_writes). Changes of an instance are made
//! one at a time. Nothing here stores a kind of data that enabling has not stored.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sip::id::InstanceId;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Inner;
use super::devices::{AccessError, Change, ChangeError, Field};
use super::nodes::drain_messages::NodeMessage;
use super::views::View;
use crate::agent::request::{ChangedRecord, InstanceStatus, LeaseExpiry, Request};
use crate::agent::tables::lease;
use crate::agent::{Asked, RecordNote, Reminded, give_up_password};
use crate::audit::{Act, AuditSubject};
use crate::clock::{self, latest_now};
use crate::domain::{InstanceState, WipeReason};
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::vault::record::{Presence, PushTarget, Record};
use crate::vault::{Fence, Lookup, Naming, RecordToWrite, Sealed, StoreError};

/// Notes that are written down at once; each waits for its own instance, and for the store.
const NOTES_AT_ONCE: usize = 64;
/// When the end of a lease that could not be written down is tried again, and how often: the old record's key is kept for an hour.
const END_AGAIN: Duration = Duration::from_secs(60);
const END_TRIES: u32 = 59;

/// How long a change waits for a shard to have what this node has claimed, and how often it is looked: as long as for another node that takes it over.
const HERE_WITHIN: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A record that is changed, not yet stored.
struct Changed {
    sealed: Sealed,
    lookup: Lookup,
    /// Its lookup as the shard has it.
    before: Lookup,
    lease: LeaseExpiry,
    /// An instance that is not proven leaves its lookup to another instance that has it.
    is_proven: bool,
}

impl Inner {
    pub(super) async fn change(
        self: &Arc<Self>,
        id: InstanceId,
        proof: &InstanceSecret,
        change: Change,
    ) -> Result<View, ChangeError> {
        // Before the lock, which others may want meanwhile.
        let _ = timeout(HERE_WITHIN, self.until_here(id, proof)).await;
        let _guard = self.changing.lock_key(id).await;
        let status = match self.look(id, proof).await {
            Err(AccessError::OwnerAway) => return Err(self.why_away(id).await.into()),
            looked => looked?,
        };
        let (presence, is_served) = (change.presence, change.call_push.is_some());
        let names_token = change.call_push.is_some() || !matches!(change.alert_push, Field::Keep);
        let before = self.place_of(&status);
        let acts = [(change.lifetime_s.is_some(), Act::Renewed), (names_token, Act::TokenChanged)];
        let changed = self.changed(&status, |record| {
            self.check_services(record, &change)?;
            apply(record, change);
            Ok(())
        })?;
        let lookup = changed.lookup;
        let status = self.put_change(&status, changed, presence).await?;
        if is_served {
            // Only what is served here may be named.
            self.unserved.forget(id);
        }
        self.tell_leavers(NodeMessage::Changed(id)).await;
        if let Some(before) = before.filter(|before| !before.is_proven && before.lookup != lookup) {
            // Its device has another token now: the one that stood for it by the earlier token is found by nobody from now on.
            let it = self.clone();
            tokio::spawn(async move { it.end_what_stands_for(before, WipeReason::Replaced).await });
        }
        for (_, act) in acts.into_iter().filter(|(done, _)| *done) {
            self.audit(act, &status);
        }
        self.whole_view(&status).await.ok_or(AccessError::Unknown.into())
    }

    /// Waits for an instance that this node has claimed and that no shard has yet.
    async fn until_here(&self, id: InstanceId, proof: &InstanceSecret) {
        while let Err(AccessError::OwnerAway) = self.look(id, proof).await {
            if !matches!(self.dependencies.vault.load(id).await, Ok(Some(stored)) if stored.owned) {
                return;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Why the store has not done what it was asked: this node may have stood still longer than its lease, and the store be well.
    pub(super) fn away(&self) -> AccessError {
        if self.dependencies.agent.is_doubtful() { AccessError::OwnerAway } else { AccessError::StoreAway }
    }

    /// Why nobody can change an instance now that another node owns.
    async fn why_away(&self, id: InstanceId) -> AccessError {
        let vault = &self.dependencies.vault;
        match vault.load(id).await {
            Ok(Some(stored)) if !stored.owned && vault.holds_lease(&stored.owner).await.unwrap_or(false) => {
                self.silence_of(&stored.owner).await
            }
            Ok(_) => AccessError::OwnerAway,
            Err(_) => AccessError::StoreAway,
        }
    }

    /// Writes down what was done with an instance, where that is kept.
    pub(super) fn audit(&self, act: Act, status: &InstanceStatus) {
        let vault = &self.dependencies.vault;
        self.dependencies.audit.note(act, || {
            let of = |record: &Record| (vault.aor_key(&record.account.aor), record.app.clone());
            let (account, app) = self.with_record(status, of).unzip();
            AuditSubject { instance: Some(status.id), account, app }
        });
    }

    /// Writes down what happened on the shards, until the drain's end; an instance that was renewed or has ended meanwhile
    /// is of no interest any more.
    pub(super) async fn write_down_notes(self: Arc<Self>, mut notes: mpsc::UnboundedReceiver<RecordNote>) {
        let mut some = Vec::new();
        while notes.recv_many(&mut some, NOTES_AT_ONCE).await > 0 {
            // Notes that stop duplicate pushes to a device wait for no store.
            let (proven, rest): (Vec<_>, Vec<_>) =
                some.drain(..).partition(|note| matches!(note, RecordNote::Proven(_)));
            for note in proven {
                self.write_down(note).await;
            }
            join_all(rest.into_iter().map(|note| self.write_down(note))).await;
        }
    }

    async fn write_down(self: &Arc<Self>, note: RecordNote) {
        match note {
            RecordNote::Reminded(reminded) => self.write_down_reminder(reminded).await,
            RecordNote::EndMoved(id) => self.write_down_end(id).await,
            RecordNote::ToldFailing { id, fails } => self.write_down_failing(id, fails).await,
            RecordNote::Proven(id) => drop(tokio::spawn(self.clone().succeed(id))),
            RecordNote::Accepted { id, asked } => self.give_up_password(id, &asked).await,
        }
    }

    async fn write_down_reminder(self: &Arc<Self>, reminded: Reminded) {
        let Reminded { id, expires_at, reminder } = reminded;
        let _guard = self.changing.lock_key(id).await;
        let Ok(status) = self.look_as_relay(id).await else { return };
        if status.expires_at != expires_at {
            return;
        }
        let changed = self.changed(&status, |record| {
            record.reminded = Some(reminder);
            Ok(())
        });
        let Ok(changed) = changed else { return };
        if self.put_change(&status, changed, None).await.is_err() {
            tracing::warn!(event = "reminder-not-written", instance = %id, "a reminder could not be written down; a restart may repeat it");
        }
    }

    /// Writes down when a lease ends by the clock that is trusted now: at once, or later, while the key of the record that is stored is kept.
    async fn write_down_end(self: &Arc<Self>, id: InstanceId) {
        if self.try_to_write_end(id).await {
            return;
        }
        tracing::warn!(event = "end-not-written", instance = %id, "the end of a lease, moved since the clock was wrong, could not be written down; the next change of the instance writes it");
        let it = self.clone();
        tokio::spawn(async move {
            for _ in 0..END_TRIES {
                sleep(END_AGAIN).await;
                if it.try_to_write_end(id).await {
                    return;
                }
            }
        });
    }

    /// Whether there is nothing to be written down any more.
    async fn try_to_write_end(self: &Arc<Self>, id: InstanceId) -> bool {
        let _guard = self.changing.lock_key(id).await;
        let Ok(status) = self.look_as_relay(id).await else { return true };
        let Ok(changed) = self.changed(&status, |_| Ok(())) else { return true };
        self.put_change(&status, changed, None).await.is_ok()
    }

    /// Writes down that its user was told that the registration fails, or is back.
    async fn write_down_failing(self: &Arc<Self>, id: InstanceId, fails: bool) {
        let _guard = self.changing.lock_key(id).await;
        let Ok(status) = self.look_as_relay(id).await else { return };
        let mut is_news = false;
        let changed = self.changed(&status, |record| {
            is_news = record.told_failing != fails;
            record.told_failing = fails;
            Ok(())
        });
        let Ok(changed) = changed else { return };
        if is_news && self.put_change(&status, changed, None).await.is_err() {
            tracing::warn!(event = "reminder-not-written", instance = %id, "a reminder could not be written down; a restart may repeat it");
        }
    }

    /// Writes down that the SIP server has accepted an instance.
    pub(super) async fn write_down_proven(self: &Arc<Self>, id: InstanceId) -> Result<(), AccessError> {
        let _guard = self.changing.lock_key(id).await;
        let status = self.look_as_relay(id).await.map_err(|_| AccessError::Unknown)?;
        let changed = self.changed(&status, |record| {
            record.proven = true;
            Ok(())
        });
        let Ok(changed) = changed else { return Ok(()) };
        match self.put_change(&status, changed, None).await {
            Err(ChangeError::Access(error)) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Has the password give way to what it answers with; one that could not be stored gives way at its next challenge.
    pub(super) async fn give_up_password(self: &Arc<Self>, id: InstanceId, asked: &[Asked]) {
        let _guard = self.changing.lock_key(id).await;
        let Ok(status) = self.look_as_relay(id).await else { return };
        if status.state == InstanceState::Ending || status.fence == Fence::NEW {
            return;
        }
        let mut gave_way = false;
        let changed = self.changed(&status, |record| {
            gave_way = give_up_password(record, asked);
            Ok(())
        });
        let Ok(changed) = changed else { return };
        if gave_way && self.put_change(&status, changed, None).await.is_err() {
            tracing::warn!(event = "password-not-replaced", instance = %id, "a password could not give way to its HA1");
        }
    }

    /// Stores a changed record, then tells the shard.
    async fn put_change(
        self: &Arc<Self>,
        status: &InstanceStatus,
        changed: Changed,
        presence: Option<Presence>,
    ) -> Result<InstanceStatus, ChangeError> {
        let fence = self.store_change(status, &changed).await?;
        let (id, Changed { sealed, lookup, lease, .. }) = (status.id, changed);
        let ends_at = lease.expires_at;
        let record = ChangedRecord { sealed, lease, was: Some(status.expires_at), fence, presence };
        let replace = |reply| Request::Replace { id, record, reply };
        match self.dependencies.agent.ask(id, replace).await {
            Some(Ok(status)) => Ok(status),
            Some(Err(_)) => {
                // The instance ended meanwhile; the record just stored goes with it, and is not to come back later than that would have ended.
                self.dependencies.vault.tombstones().note_renewed(id, ends_at);
                self.dependencies.agent.erase(id, lookup);
                Err(AccessError::Unknown.into())
            }
            None => Err(AccessError::StoreAway.into()),
        }
    }

    fn changed(
        &self,
        status: &InstanceStatus,
        change: impl FnOnce(&mut Record) -> Result<(), ChangeError>,
    ) -> Result<Changed, ChangeError> {
        let vault = &self.dependencies.vault;
        let (sealed, (before, lookup, lease, is_proven)) = vault.reseal(status.id, &status.sealed, |record| {
            let before = vault.lookup_of(record);
            // The shard may have moved an end that was told by another clock, and know of a reminder that was not written.
            (record.expires_at, record.reminded) = (status.expires_at, status.reminded);
            change(record)?;
            Ok::<_, ChangeError>((before, vault.lookup_of(record), LeaseExpiry::of(record), record.proven))
        })?;
        Ok(Changed { sealed, lookup, before, lease, is_proven })
    }

    async fn store_change(self: &Arc<Self>, status: &InstanceStatus, changed: &Changed) -> Result<Fence, ChangeError> {
        let (id, fence, vault) = (status.id, status.fence, &self.dependencies.vault);
        if fence == Fence::NEW {
            // An instance that is still being enabled: the store would take it for one whose app was never told of it.
            return Err(AccessError::Unknown.into());
        }
        let Changed { sealed, lookup, before, lease, is_proven } = changed;
        let record = RecordToWrite { id, sealed, expires_at: lease.expires_at, lookup, fence };
        let naming = match is_proven {
            true if before != lookup => Naming::Moves { from: before },
            true if status.state == InstanceState::Registered && !status.is_replacing => Naming::TakesRegistered,
            true => Naming::Takes,
            false => Naming::Leaves,
        };
        let put = || self.timed(StoreOperation::Put, vault.put_named(record, naming));
        let placed = match put().await {
            // No node has ended the instance: the store has lost it.
            Err(StoreError::Gone) if self.write_again(id).await.map_err(|_| AccessError::StoreAway)? => put().await,
            placed => placed,
        };
        match placed {
            // Another instance with the very token that this one now has: that device was set up twice.
            Ok(placed) => {
                if let Some(displaced) = placed.displaced {
                    self.clone().replace(displaced, id, *lookup);
                }
                Ok(placed.fence)
            }
            Err(StoreError::Gone) => Err(AccessError::Unknown.into()),
            Err(StoreError::NotOwner) => {
                // A later request finds the instance at the node that has it now.
                self.release_if_taken(id).await;
                Err(AccessError::OwnerAway.into())
            }
            Err(_) => {
                // Its answer alone may have been lost.
                self.unanswered_writes.note(id, clock::now());
                Err(self.away().into())
            }
        }
    }

    /// Whether the App has the push services that a change names.
    fn check_services(&self, record: &Record, change: &Change) -> Result<(), ChangeError> {
        let served = |target: &PushTarget| self.serves(&record.app, target.provider);
        if change.call_push.as_ref().is_some_and(|target| !served(target)) {
            return Err(ChangeError::ProviderNotConfigured { alert: false });
        }
        match &change.alert_push {
            Field::Set(target) if !served(target) => Err(ChangeError::ProviderNotConfigured { alert: true }),
            _ => Ok(()),
        }
    }
}

fn apply(record: &mut Record, change: Change) {
    let public_key = match change.public_key {
        Field::Keep => record.device.public_key(),
        Field::Clear => None,
        Field::Set(key) => Some(key),
    };
    if let Some(target) = change.call_push {
        record.device.call_push = target;
    }
    match change.alert_push {
        Field::Keep => {}
        Field::Clear => record.device.alert_push = None,
        Field::Set(target) => record.device.alert_push = Some(target),
    }
    record.device.set_public_key(public_key);
    if let Some(lifetime_s) = change.lifetime_s {
        let now = latest_now();
        record.expires_at = now + lifetime_s;
        record.reminded = lease::skipped(record.expires_at, now);
    }
    if let Some(presence) = change.presence {
        record.presence = presence;
        // Its app is open, and is told how its registration stands when it asks.
        record.told_failing &= presence == Presence::Background;
    }
    if let Some(wake_for) = change.wake_for {
        record.wake_for = wake_for;
    }
}
