//! What is kept for a device beside its record, in Redis.
//!
//! Invariant: something is kept only where the record is, in one script with the look at it; a slot and a sealed value
//! are all that leaves.

use sip::id::InstanceId;

use super::scripts::{KEEP_DONE, KEEP_FULL, KEEP_GONE, KEEP_KNOWN, SCRIPTS};
use super::{RedisStore, record_key, shelf_key};
use crate::vault::kept::{Keeping, Parcel, Shelf, Slot};
use crate::vault::seal::Sealed;
use crate::vault::store::StoreError;

/// How many bytes of a value tell its place in the order.
const ORDER_LEN: usize = 8;

impl RedisStore {
    pub async fn keep(&self, id: InstanceId, parcel: &Parcel) -> Result<Keeping, StoreError> {
        let (limit, oldest_goes) = parcel.shelf.limit();
        let value = [&parcel.order.to_be_bytes(), parcel.sealed.as_bytes()].concat();
        let mut keep = SCRIPTS.keep.key(record_key(id));
        keep.key(shelf_key(id, parcel.shelf)).arg(&parcel.slot).arg(value).arg(limit).arg(u8::from(oldest_goes));
        match self.link.ask(&keep).await? {
            KEEP_GONE => Err(StoreError::Gone),
            KEEP_DONE => Ok(Keeping::Kept),
            KEEP_KNOWN => Ok(Keeping::Known),
            KEEP_FULL => Ok(Keeping::Full),
            _ => Err(StoreError::Malformed),
        }
    }

    pub async fn kept(&self, id: InstanceId, shelf: Shelf) -> Result<Vec<(Slot, Sealed)>, StoreError> {
        let all: Vec<(Vec<u8>, Vec<u8>)> = self.link.ask(::redis::cmd("HGETALL").arg(shelf_key(id, shelf))).await?;
        let sound = |(slot, value): (Vec<u8>, Vec<u8>)| {
            let sealed = Sealed::from_bytes(value.get(ORDER_LEN..)?);
            Some((slot.try_into().ok()?, sealed))
        };
        Ok(all.into_iter().filter_map(sound).collect())
    }

    pub async fn kept_counts(&self, id: InstanceId) -> Result<[usize; Shelf::ALL.len()], StoreError> {
        let mut counts = [0; Shelf::ALL.len()];
        for (count, shelf) in counts.iter_mut().zip(Shelf::ALL) {
            *count = self.link.ask(::redis::cmd("HLEN").arg(shelf_key(id, shelf))).await?;
        }
        Ok(counts)
    }

    pub async fn drop_kept(&self, id: InstanceId, shelf: Shelf, slot: Slot) -> Result<bool, StoreError> {
        self.link.ask(::redis::cmd("HDEL").arg(shelf_key(id, shelf)).arg(&slot)).await
    }
}
