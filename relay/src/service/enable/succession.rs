//! Succession: what becomes of the earlier instance for the same app, AOR and push token.
//!
//! | the SIP server, about the new one | credentials | the earlier one | calls go to |
//! | --- | --- | --- | --- |
//! | has accepted it | any | ends at once | the new one |
//! | has not answered yet | those of the earlier one, which is proven, of the same binding | ends at once | the new one, for which the earlier one vouches |
//! | has answered that it cannot now | those of the earlier one, by another way to the server | ends at once: its Contact may be the obstacle | nobody, until the new one is registered |
//! | has not accepted it yet | others, or nothing was answered by another way | stays until the new one is proven | the earlier one |
//! | has not accepted it yet | any; the store does not say anything about the earlier one | stays until the new one is proven | the earlier one |
//! | has not accepted it yet | any; the earlier one is not proven either | ends at once | the new one, once it is proven |
//! | refuses it later | | stays | the earlier one |
//!
//! Another way is also one from another node.
//!
//! The new instance takes over the calls and dialogs of the earlier one if both are of one binding and the new one is proven or vouched for
//! (`sip/src/endpoint/successors.rs`). So a phone whose app enables again during a call, or while one waits for it, loses nothing. A binding lies on one shard.
//! So an instance on another shard or node, or with another user name, registrar or proxy, is no successor: its calls end with 480 and the new one has missed
//! them, and its dialogs end with its wipe. Therefore a device is enabled at the node that has a call for it (`in_call`), if that node answers.
//!
//! While both stay, their lookup in the store names the earlier one, so that after any crash the new one finds the instance that it replaces. The device has
//! asked for the new one: disabling that one disables both, and when its push token is gone, so is the earlier one's.
//!
//! Invariant: a later instance never ends in favour of an earlier one, whichever is proven first and wherever they are. Of two enabled in the same second, the
//! one that the store names is the earlier one.
//!
//! Invariant: at most two instances of one app, AOR and push token stay on a node, one proven and the other not. Both may be proven until the app has its
//! answer.

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::time::sleep;

use crate::agent::request::{InstanceStatus, Principal, Request};
use crate::agent::same_credentials;
use crate::domain::{InstanceState, WipeReason};
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::service::Inner;
use crate::service::devices::AccessError;
use crate::service::operators::OperatorError;
use crate::service::status;
use crate::service::views::{Registration, RegistrationState, Wiped};
use crate::vault::record::Record;
use crate::vault::{AorKey, Fence, Lookup, Naming, Placed, RecordToWrite, Sealed, StoreError};

/// How soon the store is asked again: to write down that an instance is proven, or for the earlier one that ends with it.
const AGAIN: Duration = Duration::from_secs(5);

/// The fate of an earlier instance when a new one is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Succession {
    /// The earlier instance ends.
    AtOnce,
    /// The earlier instance ends, and its credentials vouch for the new one's.
    Vouched,
    /// The earlier instance ends when the new one is proven.
    WhenProven,
}

/// By what those are found that were enabled before an instance for the same app, AOR and push token.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    id: InstanceId,
    /// The fence of its record.
    pub fence: Fence,
    account: AorKey,
    /// The lookup that both instances share.
    pub lookup: Lookup,
    /// In seconds since 1970.
    pub enabled_at: u64,
    /// Its record says that its SIP server has accepted it, or that an earlier one vouches for it.
    pub is_proven: bool,
}

impl Inner {
    /// Decides the fate of an earlier instance, by how the first registration of the new one went.
    pub(crate) async fn succession(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        earlier: InstanceId,
        registration: &Registration,
    ) -> Succession {
        if registration.state == RegistrationState::Registered {
            return Succession::AtOnce;
        }
        let (status, is_here) = match self.look_anywhere(earlier).await {
            Ok(Some(found)) => found,
            Ok(None) => return Succession::AtOnce,
            // The earlier one may be an instance that gets calls.
            Err(_) => return Succession::WhenProven,
        };
        if status.state == InstanceState::Ending {
            return Succession::AtOnce;
        }
        let compare = |new: &Record| {
            self.with_record(&status, |old| {
                let is_proven = old.proven || status.state == InstanceState::Registered;
                (is_proven, same_credentials(old, new), old.binding == new.binding)
            })
        };
        let compared = self.dependencies.vault.open_lent(id, sealed, compare).ok().flatten();
        match compared {
            // An instance that cannot be opened, or that never got a call, is no loss.
            None | Some((false, ..)) => Succession::AtOnce,
            Some((true, true, true)) if is_here => Succession::Vouched,
            Some((true, true, _)) if registration.status.is_some() => Succession::AtOnce,
            Some((true, ..)) => Succession::WhenProven,
        }
    }

    /// Stores a new instance, which leaves the lookup to an earlier one that stands.
    pub(super) async fn put_new(
        &self,
        record: RecordToWrite<'_>,
        succession: Succession,
    ) -> Result<Placed, StoreError> {
        let naming = match succession {
            Succession::WhenProven => Naming::Leaves,
            Succession::AtOnce | Succession::Vouched => Naming::Takes,
        };
        self.timed(StoreOperation::Put, self.dependencies.vault.put_named(record, naming)).await
    }

    /// The other instances on this node of the same lookup, each with when it was enabled, in seconds since 1970.
    pub(super) async fn others_of(&self, id: InstanceId, account: AorKey, lookup: Lookup) -> Vec<(InstanceId, u64)> {
        let answers = self.dependencies.agent.ask_all(|reply| Request::OfAccount { aor: account, reply }).await;
        let is_other = |status: &InstanceStatus| status.id != id && status.state != InstanceState::Ending;
        let enabled_at = |status: InstanceStatus| {
            let enabled_at =
                |record: &Record| (self.dependencies.vault.lookup_of(record) == lookup).then_some(record.created_at);
            Some((status.id, self.with_record(&status, enabled_at).flatten()?))
        };
        answers.into_iter().flatten().filter(is_other).filter_map(enabled_at).collect()
    }

    /// An instance that was stored before its SIP server had accepted it is proven: its predecessor ends, and its record says so, which
    /// comes last, so that whatever dies in between is done again.
    pub(crate) async fn succeed(self: Arc<Self>, id: InstanceId) {
        while let Err(AccessError::StoreAway | AccessError::OwnerAway) = self.try_to_succeed(id).await {
            sleep(AGAIN).await;
        }
    }

    async fn try_to_succeed(self: &Arc<Self>, id: InstanceId) -> Result<(), AccessError> {
        let vault = &self.dependencies.vault;
        let status = self.look_as_relay(id).await.map_err(|error| match error {
            OperatorError::Unknown => AccessError::Unknown,
            _ => AccessError::StoreAway,
        })?;
        if status.state == InstanceState::Ending {
            return Ok(());
        }
        let Some(new) = self.place_of(&status) else { return Ok(()) };
        // First, for it needs no store: both get each call until then.
        for (other, at) in self.others_of(id, new.account, new.lookup).await {
            if at < new.enabled_at {
                self.end_replaced(other, id, new.lookup).await;
            }
        }
        match self.named_beside(&new).await? {
            Some((later, Some(place))) if place.enabled_at > new.enabled_at => {
                tracing::info!(event = "later-one-stands", instance = %id, later = %later, "an instance is proven after a later one has taken its place; it ends");
                self.clone().replace(id, later, new.lookup);
                return Ok(());
            }
            Some((earlier, _)) => drop(self.end_replaced(earlier, id, new.lookup).await),
            None => {}
        }
        vault.take_lookup(id, status.expires_at, &new.lookup).await.map_err(|_| AccessError::StoreAway)?;
        self.write_down_proven(id).await
    }

    /// The other instance that the store names for the lookup of this one, wherever it is, and its place where it stands.
    pub(super) async fn named_beside(&self, this: &Place) -> Result<Option<(InstanceId, Option<Place>)>, AccessError> {
        let vault = &self.dependencies.vault;
        let named = vault.find(&this.lookup).await.map_err(|_| AccessError::StoreAway)?;
        let Some(named) = named.filter(|named| *named != this.id) else { return Ok(None) };
        let found = self.look_anywhere(named).await.map_err(|_| AccessError::StoreAway)?;
        let stands = |status: &InstanceStatus| {
            status.state != InstanceState::Ending && vault.tombstones().forbids(named, Some(status.fence)).is_none()
        };
        let place = found.and_then(|(status, _)| self.place_of(&status).filter(|_| stands(&status)));
        Ok(Some((named, place)))
    }

    /// Has the store name an instance that it names no more, so that what is enabled for its device next finds it. `later` had taken its place, and ends.
    pub(crate) async fn name_again(&self, id: InstanceId, later: InstanceId, lookup: &Lookup) {
        while self.try_to_name_again(id, later, lookup).await.is_err() {
            sleep(AGAIN).await;
        }
    }

    async fn try_to_name_again(&self, id: InstanceId, later: InstanceId, lookup: &Lookup) -> Result<(), AccessError> {
        let vault = &self.dependencies.vault;
        if vault.tombstones().forbids(id, None).is_some() {
            return Ok(());
        }
        // The lock orders this against other enablings of the device.
        let _turn = self.enabling.lock_key(*lookup).await;
        match vault.find(lookup).await.map_err(|_| AccessError::StoreAway)? {
            None => {}
            // The record is erased when the store answers.
            Some(named) if named == later => return Err(AccessError::StoreAway),
            Some(_) => return Ok(()),
        }
        let found = self.look_anywhere(id).await.map_err(|_| AccessError::StoreAway)?;
        let is_ended = |status: &InstanceStatus| {
            status.state == InstanceState::Ending || vault.tombstones().forbids(id, Some(status.fence)).is_some()
        };
        let Some((status, _)) = found.filter(|(status, _)| !is_ended(status)) else { return Ok(()) };
        vault.take_lookup(id, status.expires_at, lookup).await.map_err(|_| AccessError::StoreAway)
    }

    /// How an instance stands here, or else by its record, and whether it is here; `None`: there is none that anybody can open.
    pub(crate) async fn look_anywhere(&self, id: InstanceId) -> Result<Option<(InstanceStatus, bool)>, StoreError> {
        if let Ok(status) = self.look_as_relay(id).await {
            return Ok(Some((status, true)));
        }
        match self.dependencies.vault.load(id).await {
            Err(StoreError::Malformed) => Ok(None),
            stored => Ok(stored?.map(|stored| (status::by_record(stored), false))),
        }
    }

    pub(crate) fn place_of(&self, status: &InstanceStatus) -> Option<Place> {
        let vault = &self.dependencies.vault;
        self.with_record(status, |record| Place {
            id: status.id,
            fence: status.fence,
            account: vault.aor_key(&record.account.aor),
            lookup: vault.lookup_of(record),
            enabled_at: record.created_at,
            is_proven: record.proven,
        })
    }

    /// Ends an instance at its device's word, and the earlier one that still stands for it.
    pub(crate) async fn disable(self: &Arc<Self>, id: InstanceId, proof: InstanceSecret) -> Result<Wiped, AccessError> {
        let status = match self.look(id, &proof).await {
            Err(AccessError::OwnerAway) => self.look_at_record(id, &proof).await,
            looked => looked.ok(),
        };
        // This comes first, so that a requester finds the new state after any crash in between.
        match status.and_then(|status| self.place_of(&status)) {
            Some(place) if !place.is_proven => self.end_what_stands_for(place, WipeReason::Disabled).await,
            // The instances that this one has replaced and that have not ended yet.
            Some(place) => {
                for (other, at) in self.others_of(id, place.account, place.lookup).await {
                    if at < place.enabled_at {
                        self.end_earlier(other, place.lookup, WipeReason::Disabled).await;
                    }
                }
            }
            None => {}
        }
        self.wipe(id, Principal::Device(proof), WipeReason::Disabled).await
    }

    /// Ends the earlier instance that stands for one that is not proven: one that is here at once, another one as soon as the store names it.
    pub(crate) async fn end_what_stands_for(self: &Arc<Self>, new: Place, reason: WipeReason) {
        for (other, at) in self.others_of(new.id, new.account, new.lookup).await {
            if at <= new.enabled_at {
                self.end_earlier(other, new.lookup, reason).await;
            }
        }
        if self.try_to_end_named(&new, reason).await.is_err() {
            let it = self.clone();
            tokio::spawn(async move {
                while it.try_to_end_named(&new, reason).await.is_err() {
                    sleep(AGAIN).await;
                }
            });
        }
    }

    async fn try_to_end_named(self: &Arc<Self>, new: &Place, reason: WipeReason) -> Result<(), AccessError> {
        let is_later = |place: &Place| place.enabled_at > new.enabled_at;
        if let Some((earlier, place)) = self.named_beside(new).await?
            && !place.as_ref().is_some_and(is_later)
        {
            self.end_earlier(earlier, new.lookup, reason).await;
        }
        Ok(())
    }
}
