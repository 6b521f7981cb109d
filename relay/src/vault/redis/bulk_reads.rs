//! Reading the items beside records, which may take megabytes: over a connection of its own, a few at once.
//!
//! Invariant: no lease, claim or record waits behind what devices fetch, however often they do. One collection of an instance is read at a time; of those that
//! may be large, at most [`LARGE_AT_ONCE`]. A reader that would wait for longer than an operation may take is told that the store is away.

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::hints::or_none;
use super::link::Link;
use super::{RedisStore, collection_key};
use crate::limits::shares::Shares;
use crate::vault::items::{Collection, Kept};
use crate::vault::seal::Sealed;
use crate::vault::store::{AwayReason, StoreError};

/// How many bytes of a value tell its place in the order.
const ORDER_LEN: usize = 8;

/// Collections that are read at once of those that strangers may make large: each up to 5 MB, which the store holds as well until they are sent.
const LARGE_AT_ONCE: usize = 4;

/// The way on which collections are read.
pub(super) struct Boxes {
    link: Arc<Link>,
    large: Semaphore,
    instances: Shares<InstanceId>,
}

impl Boxes {
    pub fn on(link: Arc<Link>) -> Self {
        Self { link, large: Semaphore::new(LARGE_AT_ONCE), instances: Shares::new(1) }
    }

    /// How often something was denied on it.
    pub fn denials(&self) -> u64 {
        self.link.denials()
    }
}

impl RedisStore {
    pub async fn kept(&self, id: InstanceId, collection: Collection) -> Result<Vec<Kept>, StoreError> {
        let boxes = &self.boxes;
        let turn = async {
            let share = boxes.instances.take(id).await;
            let large = match collection {
                Collection::Messages | Collection::MissedCalls => boxes.large.acquire().await.ok(),
                // Their size is bounded, and so is how many are read at once, by those who do.
                Collection::Stories | Collection::Mailbox => None,
            };
            (share, large)
        };
        let deadline = Instant::now() + boxes.link.limit();
        let _turn = timeout_at(deadline, turn).await.map_err(|_| StoreError::Away(AwayReason::TimedOut))?;
        let read = boxes.link.ask(::redis::cmd("HGETALL").arg(collection_key(id, collection))).await;
        let all: Option<Vec<(Vec<u8>, Vec<u8>)>> = match read {
            // A store that has nothing says so by an empty answer.
            Ok(None) => return Err(StoreError::Away(AwayReason::Unreachable)),
            all => or_none(all)?,
        };
        let sound = |(item_key, value): (Vec<u8>, Vec<u8>)| {
            let (order, sealed) = value.split_first_chunk::<ORDER_LEN>()?;
            let (item_key, order) = (item_key.try_into().ok()?, u64::from_be_bytes(*order));
            Some(Kept { item_key, order, sealed: Sealed::from_bytes(sealed) })
        };
        Ok(all.into_iter().flatten().filter_map(sound).collect())
    }
}
