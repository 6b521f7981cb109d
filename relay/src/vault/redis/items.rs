//! Items that are kept for a device beside its record, in Redis.
//!
//! Invariant: an item is stored only if the record exists, which the same script checks. Only an item key and a sealed value leave this module.

use sip::id::InstanceId;

use super::hints::or_none;
use super::scripts::{KeepOutcome, SCRIPTS};
use super::{RedisStore, collection_key, record_key};
use crate::vault::items::{Collection, Deleted, ItemKey, Placement, SealedItem};
use crate::vault::store::{Owner, StoreError};

impl RedisStore {
    pub async fn put_item(&self, id: InstanceId, item: &SealedItem) -> Result<Placement, StoreError> {
        let (_, oldest_goes) = item.collection.limit();
        let value = [&item.order.to_be_bytes(), item.sealed.as_bytes()].concat();
        let mut keep = SCRIPTS.keep.key(record_key(id));
        let life_ms = item.collection.life_s().map_or(0, |life| life.saturating_mul(1_000));
        keep.key(collection_key(id, item.collection))
            .arg(&item.item_key)
            .arg(value)
            .arg(item.places)
            .arg(u8::from(oldest_goes))
            .arg(u8::from(item.collection.is_replaced()))
            .arg(life_ms)
            .arg(item.order.saturating_sub(life_ms));
        match self.link.ask(&keep).await? {
            KeepOutcome::Gone => Err(StoreError::Gone),
            KeepOutcome::Kept => Ok(Placement::Kept),
            KeepOutcome::Known => Ok(Placement::Known),
            KeepOutcome::Full => Ok(Placement::Full),
        }
    }

    /// The ones among these instances that may have items.
    pub async fn with_items(&self, ids: &[InstanceId], collection: Collection) -> Result<Vec<InstanceId>, StoreError> {
        if ids.is_empty() || self.link.is_cluster() {
            return Ok(ids.to_vec());
        }
        let mut ask = ::redis::pipe();
        for id in ids {
            ask.exists(collection_key(*id, collection));
        }
        let are_there: Vec<bool> = self.link.ask(&ask).await?;
        let there = ids.iter().zip(are_there).filter(|(_, is_there)| *is_there);
        Ok(there.map(|(id, _)| *id).collect())
    }

    pub async fn item_counts(&self, id: InstanceId) -> Result<[usize; Collection::OF_DEVICE.len()], StoreError> {
        let mut counts = [0; Collection::OF_DEVICE.len()];
        for (count, collection) in counts.iter_mut().zip(Collection::OF_DEVICE) {
            *count = self.link.ask(::redis::cmd("HLEN").arg(collection_key(id, collection))).await?;
        }
        Ok(counts)
    }

    pub async fn remove_item(
        &self,
        id: InstanceId,
        collection: Collection,
        item_key: ItemKey,
    ) -> Result<bool, StoreError> {
        self.link.ask(::redis::cmd("HDEL").arg(collection_key(id, collection)).arg(&item_key)).await
    }

    /// Removes some of one collection, and marks that, so that it is noticed when the store loses it.
    pub async fn delete_items(
        &self,
        owner: &Owner,
        id: InstanceId,
        collection: Collection,
        item_keys: &[ItemKey],
    ) -> Result<Deleted, StoreError> {
        let connection = self.link.open_generation().await?;
        let mut remove = ::redis::cmd("HDEL");
        remove.arg(collection_key(id, collection));
        for item_key in item_keys {
            remove.arg(item_key);
        }
        let count = or_none(self.link.ask::<u64>(&remove).await.map(Some))?.unwrap_or(0);
        let is_the_same = connection == self.link.generation();
        // Also where there was none: an earlier try may have deleted it, whose answer was lost.
        if self.mark(owner, connection).await.is_err() {
            // It is deleted; whether it stays so is in doubt.
            self.marked.note_doubt();
        }
        Ok(match count {
            0 if is_the_same => Deleted::NotThere,
            0 => Deleted::NotThereAnyMore,
            _ => Deleted::Done,
        })
    }
}
