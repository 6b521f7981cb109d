//! Reading records, without changing anything.
//!
//! Invariant: a value in the place of a record that no relay has written is [`StoreError::Malformed`] when it is read, and nobody's when its owner is asked
//! for. An answer of the server that makes no sense counts neither as a damaged record nor as none.

use std::time::Duration;

use sip::id::InstanceId;

use super::hints::or_none;
use super::{RedisStore, collection_key, millis, record_key};
use crate::vault::items::Collection;
use crate::vault::seal::Sealed;
use crate::vault::store::{Expiry, Fence, Owner, RecordOwner, StoreError, Stored, nodes_in};

/// How much longer a record may stay than it should: clocks differ.
const MORE: Duration = Duration::from_mins(10);
/// The server's answer for a key that has no end.
const NO_END: i64 = -1;
/// Digits of a number that the scripts take.
const DIGITS_MAX: usize = 15;

impl RedisStore {
    /// The owner of a record. A damaged record, or another value under its key, has none.
    pub async fn record_owner(&self, owner: &Owner, id: InstanceId) -> Result<RecordOwner, StoreError> {
        let fields = self.link.ask(::redis::cmd("HMGET").arg(record_key(id)).arg(&["o", "f", "e"])).await;
        type Fields = (Option<Vec<u8>>, Option<Vec<u8>>, Option<Vec<u8>>);
        let Some((Some(owned_by), fence, expires_at)) = or_none::<Fields>(fields.map(Some))? else {
            return Ok(RecordOwner::Nobody);
        };
        let Some(owned_by) = parsed(owned_by, Owner::parse) else { return Ok(RecordOwner::Nobody) };
        let is_number = |text: Option<Vec<u8>>| text.and_then(|text| parsed(text, number)).is_some();
        Ok(match owned_by == *owner {
            true if is_number(fence) && is_number(expires_at) => RecordOwner::ThisRun,
            true => RecordOwner::Nobody,
            false => RecordOwner::AnotherRun,
        })
    }

    /// Whether a record is to stay for longer than its own end by more than [`MORE`]: it was written by a clock of the server that was ahead, and is right
    /// again.
    pub async fn outlasts(&self, id: InstanceId, expiry: Expiry) -> Result<bool, StoreError> {
        let left: i64 = self.link.ask(::redis::cmd("PTTL").arg(record_key(id))).await?;
        Ok(left == NO_END || u64::try_from(left).is_ok_and(|left| left > expiry.left_ms().saturating_add(millis(MORE))))
    }

    /// Whether there is a record, or anything that was kept beside one.
    pub async fn has_any_of(&self, id: InstanceId) -> Result<bool, StoreError> {
        let mut exist = ::redis::cmd("EXISTS");
        exist.arg(record_key(id));
        for collection in Collection::ALL {
            exist.arg(collection_key(id, collection));
        }
        self.link.ask::<u64>(&exist).await.map(|count| count > 0)
    }

    pub async fn load(&self, owner: &Owner, id: InstanceId) -> Result<Option<Stored>, StoreError> {
        let mut read = ::redis::cmd("HMGET");
        read.arg(record_key(id)).arg(&["s", "o", "f", "e", "p", "h"]);
        type Field = Option<Vec<u8>>;
        type Fields = (Field, Field, Field, Field, Field, Field);
        let fields: Fields = self.link.ask(&read).await?;
        let (Some(sealed), Some(owned_by), Some(fence), Some(expires_at), put_by, had_by) = fields else {
            let is_absent = matches!(fields, (None, None, None, None, None, None));
            return if is_absent { Ok(None) } else { Err(StoreError::Malformed) };
        };
        let owned_by = parsed(owned_by, Owner::parse).ok_or(StoreError::Malformed)?;
        Ok(Some(Stored {
            id,
            sealed: Sealed::from_bytes(sealed),
            expires_at: parsed(expires_at, number).ok_or(StoreError::Malformed)?,
            fence: Fence::from_number(parsed(fence, number).ok_or(StoreError::Malformed)?),
            owned: owned_by == *owner,
            owner: owned_by,
            taken_from: None,
            put_by: put_by.and_then(|node| parsed(node, |node| (!node.is_empty()).then(|| node.into()))),
            had_by: had_by.map(|lines| nodes_in(&lines)).unwrap_or_default(),
        }))
    }

    /// The owner of each of these records; not in a Cluster.
    pub(super) async fn owners_of(&self, ids: &[InstanceId]) -> Result<Vec<Option<Owner>>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = ::redis::pipe();
        for id in ids {
            read.hget(record_key(*id), "o");
        }
        let owners: Vec<Option<Vec<u8>>> = self.link.ask(&read).await?;
        let owner = |text: Option<Vec<u8>>| Owner::parse(std::str::from_utf8(&text?).ok()?);
        Ok(owners.into_iter().map(owner).collect())
    }
}

/// The value of a record's field; `None`: no relay has written it so.
fn parsed<T>(field: Vec<u8>, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    parse(std::str::from_utf8(&field).ok()?)
}

/// A fence or a time, as the scripts take one.
fn number(text: &str) -> Option<u64> {
    ((1..=DIGITS_MAX).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_the_scripts_take_for_one() {
        for (text, expected) in [("7", Some(7)), ("999999999999999", Some(999_999_999_999_999))] {
            assert_eq!(parsed(text.as_bytes().to_vec(), number), expected);
        }
        for text in [&b""[..], b"-1", b"+1", b" 1", b"1.0", b"1000000000000000", b"\xff"] {
            assert_eq!(parsed(text.to_vec(), number), None, "{text:?}");
        }
    }
}
