//! Ending an instance by its record: its owner is gone, another node's new instance replaces it, or it is on its way here.
//!
//! ```text
//! record ─┬─ no node serves it ── bound here, for its unregistration alone ── it ends as any other; its owner is told to release it
//!         └─ else ── tombstone ── its shard is told ─┬─ has it ── it ends as any other
//!                                                    └─ has not ─ audit line ─┬─ erased ──────────── a receipt; its owner is told to release it
//!                                                                             └─ the store is away ─ asked again, by this run or the next
//! ```
//!
//! An owner without a lease may be gone; or it may be cut off from the store alone, and go on pushing calls. So this node removes its Contact at the SIP
//! server, as a node does that claims an instance, and the owner unregisters once more when it hears of the end. An owner with a lease may be gone, too, and
//! only the record names its Contact. So the end of a replaced instance waits, at most as long as a lease, until its owner has answered or has no lease. If
//! this node dies meanwhile, the next owner of the earlier instance ends it (`interrupted_replacement`).
//!
//! Invariant: whichever node owns a record, its tombstone comes before its erasure. A replaced instance leaves a tombstone even if nothing of it could be read.
//! A living owner unregisters by itself when it releases the instance. A node that leaves, or that cannot open the record, contacts no SIP server: then the
//! receipt says `unregistered: false`. A push binding has no tombstone, because its device may register it again under the same id.

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use crate::agent::Audience;
use crate::agent::request::{EndKind, Principal, Request};
use crate::audit::{Act, AuditSubject};
use crate::clock::{self, shared_now};
use crate::domain::WipeReason;
use crate::domain::Word as _;
use crate::metrics::labels::StoreOperation;
use crate::service::Inner;
use crate::service::devices::AccessError;
use crate::service::nodes::drain_messages::{HEARD_WITHIN, NodeMessage};
use crate::service::status;
use crate::service::views::Wiped;
use crate::vault::record::StoredRecord;
use crate::vault::{LEASE, Lookup, RENEWAL, Stored, Tombstone, WRITE_LIMIT};

/// How soon it is looked again whether a silent owner has its lease.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The facts of a record that its wipe needs.
struct WipeFacts {
    lookup: Option<Lookup>,
    proof: Option<[u8; 16]>,
    kind: RecordKind,
    /// Whether the record opens here.
    is_open: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RecordKind {
    Lent,
    PushBinding,
}

impl Inner {
    /// Ends the instance that a new one replaces, in the background: its app has its answer already. A SIP server that takes one Contact of an
    /// account may have turned the new one away as long as the earlier one stood; where that was here, it stands no more.
    pub(crate) fn replace(self: Arc<Self>, earlier: InstanceId, new: InstanceId, lookup: Lookup) {
        tokio::spawn(async move {
            if self.end_replaced(earlier, new, lookup).await {
                self.dependencies.agent.tell(new, Request::RetryNow { id: new }).await;
            }
        });
    }

    /// Ends an instance for one that takes its place, which its calls go on for where both are of one binding, or which has missed them; whether it was here.
    pub(crate) async fn end_replaced(self: &Arc<Self>, earlier: InstanceId, new: InstanceId, lookup: Lookup) -> bool {
        {
            // A change that is under way comes first.
            let _guard = self.changing.lock_key(earlier).await;
            if self.has_moved_on(earlier, &lookup).await {
                return false;
            }
        }
        self.tell_leavers(NodeMessage::Succeeded { earlier, later: new }).await;
        self.dependencies.agent.tell(earlier, Request::Succeed { earlier, successor: new }).await;
        self.end_earlier(earlier, lookup, WipeReason::Replaced).await
    }

    /// Whether an instance has another lookup by now than the one that was taken from it: its device has another token, and nobody has taken its place.
    async fn has_moved_on(&self, id: InstanceId, taken: &Lookup) -> bool {
        // An unreadable record has not.
        let found = self.look_anywhere(id).await.ok().flatten();
        found.and_then(|(status, _)| self.place_of(&status)).is_some_and(|place| place.lookup != *taken)
    }

    /// Ends an instance that another one of the same lookup stands for, wherever it is; whether that was here, or its owner is gone. One that has another
    /// lookup by now stays.
    pub(crate) async fn end_earlier(self: &Arc<Self>, earlier: InstanceId, lookup: Lookup, reason: WipeReason) -> bool {
        let answer = {
            // No change gives it another lookup before it ends.
            let _guard = self.offered.lock_settled(&self.changing, earlier).await;
            if self.has_moved_on(earlier, &lookup).await {
                return false;
            }
            let (reply, answer) = oneshot::channel();
            let kind = EndKind::Wiped(reason);
            let end = Request::End { id: earlier, who: Principal::Relay, kind, reply: Some(reply) };
            self.dependencies.agent.tell(earlier, end).await;
            answer
        };
        // It is ending by now, and its answer may take long.
        if let Ok(Ok(done)) = answer.await
            && self.wiped_here(earlier, &done).is_ok()
        {
            return true;
        }
        let is_here = self.wipe(earlier, Principal::Relay, reason).await.is_ok();
        if !is_here {
            self.end_earlier_by_record(earlier, lookup, reason).await;
        }
        is_here
    }

    /// Ends what a new instance replaces and what is not here.
    async fn end_earlier_by_record(self: &Arc<Self>, earlier: InstanceId, lookup: Lookup, reason: WipeReason) {
        let vault = &self.dependencies.vault;
        if vault.tombstones().look(earlier).is_none() {
            match self.load_or_seek(earlier).await {
                Ok(Some(stored)) => {
                    let stored = self.when_owner_is_known(stored).await;
                    if self.place_of(&status::by_record(stored.clone())).is_some_and(|place| place.lookup != lookup) {
                        return;
                    }
                    if self.wipe_stored(stored, reason).await.is_ok() {
                        return;
                    }
                    // The disk has no room for its tombstone, and it must go all the same; or it has ended meanwhile.
                }
                // Its name alone was left.
                Ok(None) => {}
                // The store may have it for this node, or another node may write it again.
                Err(_) => return self.end_earlier_unread(earlier, lookup, reason).await,
            }
        }
        vault.tombstones().insist(earlier);
        let _ = self.end_ahead(earlier, reason).await;
        self.dependencies.agent.erase(earlier, lookup);
    }

    /// The record of an instance as it is when its owner has said a word, or has no lease, or its time for both is over. An owner that answers hears of the
    /// end, and unregisters by itself.
    async fn when_owner_is_known(&self, mut stored: Stored) -> Stored {
        let (id, vault) = (stored.id, &self.dependencies.vault);
        let (until, mut was_asked) = (clock::now() + LEASE + RENEWAL, false);
        while !stored.owned && !self.is_leaving() && vault.holds_lease(&stored.owner).await.unwrap_or(true) {
            was_asked = true;
            // Whatever it answers, it reads its letters.
            let answer = self.ask_within(&stored.owner, NodeMessage::InCall(id).encode(), HEARD_WITHIN).await;
            if answer.is_some() || clock::now() >= until {
                break;
            }
            sleep(LOOK_AGAIN).await;
            // Another node may have taken it over.
            if let Ok(Some(now)) = vault.load(id).await {
                stored = now;
            }
        }
        // Its owner may have changed it while it was asked.
        if was_asked && let Ok(Some(now)) = vault.load(id).await {
            stored = now;
        }
        stored
    }

    /// Ends what a new instance replaces while nothing of it can be read.
    async fn end_earlier_unread(&self, earlier: InstanceId, lookup: Lookup, reason: WipeReason) {
        let vault = &self.dependencies.vault;
        let _guard = self.changing.lock_key(earlier).await;
        if vault.tombstones().insist(earlier) {
            // The node that raised the tombstone goes on with it, and may know the marks of its device.
            return;
        }
        let tombstone = Tombstone::outliving(Some(lookup), 0, reason, None);
        let raised = vault.tombstones().raise(earlier, tombstone);
        if matches!(self.end_ahead(earlier, reason).await, Some(Ok(_))) {
            return;
        }
        let whose = || AuditSubject { instance: Some(earlier), ..AuditSubject::default() };
        self.dependencies.audit.note(Act::Wiped(reason), whose);
        self.dependencies.metrics.wipe(reason);
        tracing::info!(event = "wiped-unread", instance = %earlier, reason = reason.word(), "a new instance has replaced one that the store cannot tell; it is erased when the store answers");
        // A tombstone that cannot be written is honoured as long as this run lives.
        let _ = timeout(WRITE_LIMIT, raised).await;
        self.dependencies.agent.erase(earlier, lookup);
    }

    /// Wipes an instance by its record.
    ///
    /// # Errors
    /// [`AccessError::Unwritten`] when its tombstone cannot be written and the store does not answer; [`AccessError::StoreAway`] while this process ends;
    /// [`AccessError::Unknown`] when it was wiped meanwhile, or is another one by now.
    pub(super) async fn wipe_stored(
        self: &Arc<Self>,
        stored: Stored,
        reason: WipeReason,
    ) -> Result<Wiped, AccessError> {
        let (id, vault) = (stored.id, &self.dependencies.vault);
        // Of two who ask at once, one wipes.
        let _guard = self.changing.lock_key(id).await;
        if vault.tombstones().look(id).is_some() {
            return Err(AccessError::Unknown);
        }
        let WipeFacts { lookup, proof, kind, is_open } = self.wipe_facts(&stored);
        let is_lent = kind == RecordKind::Lent;
        // No tombstone is left: the earlier holder of the lock may have wiped it, or its device registered it anew.
        if !is_lent && !self.is_as_loaded(&stored).await? {
            return Err(AccessError::Unknown);
        }
        if is_open
            && is_lent
            && let Some(wiped) = self.wipe_left(&stored, reason).await
        {
            return wiped;
        }
        let tombstone = is_lent.then(|| Tombstone::outliving(lookup, stored.expires_at, reason, proof));
        let raised = tombstone.map(|tombstone| vault.tombstones().raise(id, tombstone));
        match self.end_ahead(id, reason).await {
            Some(Ok(done)) => return self.wiped_here(id, &done),
            Some(Err(_)) => {}
            None => return Err(AccessError::StoreAway),
        }
        let is_written = match raised {
            Some(raised) => matches!(timeout(WRITE_LIMIT, raised).await, Ok(Ok(()))),
            // An instance stays until the store has erased it, whatever node dies before.
            None => false,
        };
        let (owner, owned) = (stored.owner.clone(), stored.owned);
        vault.note_passed_end(id, &stored.sealed);
        self.audit(Act::Wiped(reason), &status::by_record(stored));
        self.dependencies.metrics.wipe(reason);
        tracing::info!(event = "wiped-by-record", instance = %id, reason = reason.word(), "wiped by its record: its owner is gone or is to let go of it, or it was on its way here");
        let erased = self.timed(StoreOperation::Erase, vault.erase_all_of(id, lookup));
        // A registration that passed through may have a copy at any node.
        let audience = if is_lent { Audience::LeavingNodes } else { Audience::AllNodes };
        if tokio::join!(erased, self.tell_end(id, audience)).0.is_err() {
            self.dependencies.agent.erase(id, lookup);
            return if is_written { Ok(Wiped::Wiping) } else { Err(AccessError::Unwritten) };
        }
        vault.tombstones().note_erased(id);
        if !owned {
            // An owner that has released its lease may serve on until another node has all that it hands over; that one may have taken the
            // record by now, and is told as its owner. From whom this node has claimed one, the claim tells.
            let _ = vault.tell_ended(&owner, &[id]).await;
        }
        if is_lent && !is_written && !vault.tombstones().is_durable(id) {
            return Ok(Wiped::Wiping);
        }
        let wiped_at = vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        Ok(Wiped::Done(self.receipt(id, wiped_at.unwrap_or_else(shared_now), reason, false)))
    }

    /// The facts of a record that its wipe needs. A record that does not open counts as that of a lent account.
    fn wipe_facts(&self, stored: &Stored) -> WipeFacts {
        let (id, vault) = (stored.id, &self.dependencies.vault);
        let facts = vault.open_record(id, &stored.sealed, |record| match record {
            StoredRecord::Lent(record) => WipeFacts {
                lookup: Some(vault.lookup_of(record)),
                proof: Some(vault.wipe_proof(id, &record.secret)),
                kind: RecordKind::Lent,
                is_open: true,
            },
            StoredRecord::PushBinding(record) => WipeFacts {
                lookup: Some(vault.lookup_of(record)),
                proof: None,
                kind: RecordKind::PushBinding,
                is_open: true,
            },
        });
        facts.unwrap_or(WipeFacts { lookup: None, proof: None, kind: RecordKind::Lent, is_open: false })
    }

    /// Ends an instance as its owner would, which is gone, or to which it is on its way; `None`: that is not for this node.
    async fn wipe_left(self: &Arc<Self>, stored: &Stored, reason: WipeReason) -> Option<Result<Wiped, AccessError>> {
        let (id, vault) = (stored.id, &self.dependencies.vault);
        if self.is_leaving() || !stored.owned && vault.holds_lease(&stored.owner).await.unwrap_or(true) {
            return None;
        }
        let node = if stored.owned { stored.put_by.clone() } else { Some(stored.owner.node().clone()) };
        let node = node.filter(|node| node != vault.owner().node());
        let mut new = self.open_left(stored.clone(), node.as_deref()).await?;
        // Its owner may have had no time to write down that the credentials are right: they are tried.
        new.binding.proven = true;
        // Without its hosts the owner's Contact is not named.
        let is_named = node.is_none() || !new.binding.taken_from.is_empty();
        let kind = EndKind::Wiped(reason);
        let mut done = match self.dependencies.agent.ask(id, |reply| Request::EndLeft { new, kind, reply }).await {
            Some(Ok(done)) => done,
            Some(Err(_)) => return None,
            None => return Some(Err(AccessError::StoreAway)),
        };
        if !stored.owned {
            // Its owner may serve on. The store has told it with the erasure, unless another node has claimed the record from it meanwhile.
            let _ = vault.tell_ended(&stored.owner, &[id]).await;
        }
        done.unregistered &= is_named;
        Some(self.wiped_here(id, &done))
    }

    /// Whether the store has a record as it was loaded.
    async fn is_as_loaded(&self, loaded: &Stored) -> Result<bool, AccessError> {
        let now = self.dependencies.vault.load(loaded.id).await.map_err(|_| AccessError::StoreAway)?;
        Ok(now.is_some_and(|now| now.fence == loaded.fence && now.sealed.as_bytes() == loaded.sealed.as_bytes()))
    }
}
