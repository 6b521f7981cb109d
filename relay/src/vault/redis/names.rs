//! Names: by which lookup the instance of a device is found.
//!
//! Invariant: a name whose record is erased while it is written is struck off behind it: an erasure takes the record away first and the name after it, and
//! here it is the other way round, so whichever comes last leaves none.

use sip::id::InstanceId;

use super::link::WriteTarget;
use super::scripts::SCRIPTS;
use super::{RedisStore, lookup_key, record_key, text};
use crate::vault::lookup::Lookup;
use crate::vault::store::{Expiry, StoreError};

impl RedisStore {
    /// Has a lookup name an instance, whatever it named before.
    pub async fn take_lookup(&self, id: InstanceId, expiry: Expiry, lookup: &Lookup) -> Result<(), StoreError> {
        self.point(lookup, id, expiry.left_ms(), true).await.map(drop)
    }

    /// Has a lookup name an instance where it names none.
    pub async fn name_where_none_is(&self, id: InstanceId, expiry: Expiry, lookup: &Lookup) -> Result<(), StoreError> {
        self.point(lookup, id, expiry.left_ms(), false).await?;
        if self.exists(id).await? { Ok(()) } else { self.unpoint(lookup, id).await }
    }

    pub async fn find(&self, lookup: &Lookup) -> Result<Option<InstanceId>, StoreError> {
        let found = self.text_at(&lookup_key(lookup)).await?;
        let Some(id) = found.as_deref().and_then(InstanceId::parse) else {
            return Ok(None);
        };
        // One that has no record may have lost it, and is replaced all the same by whatever takes the lookup.
        Ok(self.exists(id).await?.then_some(id))
    }

    async fn exists(&self, id: InstanceId) -> Result<bool, StoreError> {
        self.link.ask(::redis::cmd("EXISTS").arg(record_key(id))).await
    }

    /// Makes a lookup name an instance. When it names another, that one is answered and displaced, or, unless `take`,
    /// left alone.
    pub(super) async fn point(
        &self,
        lookup: &Lookup,
        id: InstanceId,
        left_ms: u64,
        take: bool,
    ) -> Result<Option<InstanceId>, StoreError> {
        let point = |late_at: u64| {
            let mut point = SCRIPTS.point.key(lookup_key(lookup));
            point.arg(late_at).arg(id.to_string()).arg(left_ms).arg(u8::from(take));
            point
        };
        let displaced: Vec<u8> = self.link.ask_in_time_or_never(point, WriteTarget::Anywhere).await?;
        Ok(InstanceId::parse(&text(displaced)))
    }

    /// Removes a lookup that names this instance.
    pub(super) async fn unpoint(&self, lookup: &Lookup, id: InstanceId) -> Result<(), StoreError> {
        self.link.ask(SCRIPTS.unpoint.key(lookup_key(lookup)).arg(id.to_string())).await
    }
}
