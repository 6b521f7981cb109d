//! Items that are kept beside a record: for its device until it fetches it, messages (RFC 3428) and missed calls; for operators, the
//! [stories](codec::story) of its calls for [`STORY_LIFE_S`]; for the node that has the instance next, [how its mailbox stands](codec::mailbox).
//!
//! ```text
//! message = 1 id[16] received_at expires_at from flag [name] content_type body
//! missed  = 1 call[16] at expires_at how from flag [name]
//! text    = length bytes            numbers and lengths are LEB128, as in the record
//! ```
//!
//! Invariant: a store sees an item key, which is a keyed hash, and the [`Sealed`] form: neither who wrote, nor what, nor its
//! name. What is kept never outlives the record that it lies beside: it is stored only where that record is, in one step,
//! and erased with it, in one step. At most [`MESSAGES_MAX`] messages, [`MISSED_CALLS_MAX`] missed calls and [`STORIES_MAX`] stories
//! are kept. A story goes when it is old: by whoever reads or adds one, and by the TTL of them all.

use std::fmt;

use sip::endpoint::Mailbox;
use sip::id::{CallId, InstanceId, MessageId};

use super::codec::{self, Reader};
use super::seal::{self, SealError, Sealed};
use super::store::StoreError;
use super::{MAX_LIFETIME_S, Store, Vault, lookup};
use crate::clock::{DAY_S, Reading, confirmed_now, shared_now, shared_now_ms};
use crate::domain::story::Story;
use crate::secret::with_clean_stack;

/// Messages that are kept for one instance; a further one is refused.
pub const MESSAGES_MAX: usize = 100;
/// Missed calls that are kept for one instance; with a further one the oldest is forgotten.
pub const MISSED_CALLS_MAX: usize = 50;

/// Stories that are kept for one instance; with a further one the oldest is forgotten.
pub const STORIES_MAX: usize = 50;
/// How long a call's story is kept, in seconds.
pub const STORY_LIFE_S: u64 = DAY_S;

const VERSION: u8 = 1;

/// A message that waits to be fetched.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Its name.
    pub id: MessageId,
    /// The sender's URI, as the device may know it.
    pub from: Box<str>,
    /// The sender's display name.
    pub name: Option<Box<str>>,
    /// The media type of the body.
    pub content_type: Box<str>,
    /// The body, exactly as it came.
    pub body: Box<[u8]>,
    /// When it came, in seconds since 1970.
    pub received_at: u64,
    /// When it is forgotten, in seconds since 1970, unless its instance ends before; at most [`MAX_LIFETIME_S`] after it came.
    pub expires_at: u64,
}

/// A call that nobody answered.
#[derive(Clone, PartialEq, Eq)]
pub struct MissedCall {
    /// The call.
    pub call: CallId,
    /// The caller's URI, as the device may know it.
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// When it ended, in seconds since 1970.
    pub at: u64,
    /// Likewise.
    pub expires_at: u64,
    /// The caller gave up; else nobody answered in time.
    pub given_up: bool,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({}, {} bytes)", self.id, self.body.len())
    }
}

impl fmt::Debug for MissedCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MissedCall({})", self.call)
    }
}

/// One of the kinds of what is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Collection {
    Messages,
    MissedCalls,
    Stories,
    Mailbox,
}

impl Collection {
    pub(super) const ALL: [Self; 4] = [Self::Messages, Self::MissedCalls, Self::Stories, Self::Mailbox];
    /// Those that a device is told the numbers of.
    pub(super) const OF_DEVICE: [Self; 2] = [Self::Messages, Self::MissedCalls];

    fn purpose(self) -> &'static [u8] {
        match self {
            Self::Messages => b"sipwake message 1",
            Self::MissedCalls => b"sipwake missed 1",
            Self::Stories => b"sipwake story 1",
            Self::Mailbox => b"sipwake mailbox 1",
        }
    }

    /// How many it holds, and whether the oldest gives way to one more.
    pub(super) fn limit(self) -> (usize, bool) {
        match self {
            Self::Messages => (MESSAGES_MAX, false),
            Self::MissedCalls => (MISSED_CALLS_MAX, true),
            Self::Stories => (STORIES_MAX, true),
            Self::Mailbox => (1, true),
        }
    }

    /// How long one is kept, in seconds, where that is not as long as the record.
    pub(super) fn life_s(self) -> Option<u64> {
        (self == Self::Stories).then_some(STORY_LIFE_S)
    }

    /// How long its key lasts after its newest item at most, in milliseconds: nothing is kept for longer after it came.
    pub(super) fn kept_ms(self) -> u64 {
        self.life_s().unwrap_or(MAX_LIFETIME_S).saturating_mul(1_000)
    }

    /// Whether a later one of the same name takes the place of an earlier one.
    pub(super) fn is_replaced(self) -> bool {
        matches!(self, Self::Stories | Self::Mailbox)
    }
}

/// Takes the encoded form, part by part.
type Sink<'a> = &'a mut dyn FnMut(&[u8]);

/// Where one thing lies on its collection.
pub(super) type ItemKey = [u8; 16];

/// Something sealed, ready to be kept.
#[derive(Clone, Debug)]
pub struct SealedItem {
    pub(super) collection: Collection,
    pub(super) item_key: ItemKey,
    /// Its [place](super::item_order) among those of one collection, oldest first.
    pub(super) order: u64,
    pub(super) sealed: Sealed,
    /// How many its collection holds at most when this has been added.
    pub(super) places: usize,
}

/// Something sealed, as a store has it.
pub(super) struct Kept {
    pub(super) item_key: ItemKey,
    pub(super) order: u64,
    pub(super) sealed: Sealed,
}

/// What became of something that was to be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// It is kept.
    Kept,
    /// It was kept already, under the same name.
    Known,
    /// The collection is full.
    Full,
}

/// What became of something that was to be deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Deleted {
    /// It was there.
    Done,
    /// It was not there.
    NotThere,
    /// It was not there when the store was asked, perhaps for the second time.
    NotThereAnyMore,
}

/// How much is kept for one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Messages.
    pub messages: usize,
    /// Missed calls.
    pub missed_calls: usize,
}

impl SealedItem {
    /// Keeps it only where so many are there with it at most; never more than its collection holds.
    #[must_use]
    pub fn within(mut self, places: usize) -> Self {
        self.places = self.places.min(places);
        self
    }
}

impl Vault {
    /// Seals what `make` makes, for [`Self::put_item`]; what that left on the stack is overwritten.
    pub fn seal_message(&self, instance: InstanceId, make: impl FnOnce() -> Message) -> SealedItem {
        with_clean_stack(|| {
            let message = make();
            let visit = |sink: Sink<'_>| visit_message(&message, sink);
            self.seal_item(instance, Collection::Messages, message.id.to_bytes(), &visit)
        })
    }

    /// Likewise a missed call.
    pub fn seal_missed_call(&self, instance: InstanceId, make: impl FnOnce() -> MissedCall) -> SealedItem {
        with_clean_stack(|| {
            let missed = make();
            let visit = |sink: Sink<'_>| visit_missed_call(&missed, sink);
            self.seal_item(instance, Collection::MissedCalls, missed.call.to_bytes(), &visit)
        })
    }

    /// Likewise a call's story, which takes the place of what was kept of that call before.
    pub fn seal_story(&self, story: &Story) -> SealedItem {
        with_clean_stack(|| {
            let expires_at = shared_now().saturating_add(STORY_LIFE_S);
            let visit = |sink: Sink<'_>| codec::story::visit(story, expires_at, sink);
            self.seal_item(story.instance, Collection::Stories, story.call.to_bytes(), &visit)
        })
    }

    /// Likewise how a mailbox stands, which takes the place of how it stood before.
    pub fn seal_mailbox(&self, instance: InstanceId, mailbox: &Mailbox) -> SealedItem {
        with_clean_stack(|| {
            let visit = |sink: Sink<'_>| codec::mailbox::visit(mailbox, sink);
            self.seal_item(instance, Collection::Mailbox, [0; 16], &visit)
        })
    }

    /// Keeps it until the instance ends; may be called again with the same item.
    ///
    /// # Errors
    /// [`StoreError::Away`]; [`StoreError::Gone`] when there is no record of the instance.
    pub async fn put_item(&self, instance: InstanceId, item: &SealedItem) -> Result<Placement, StoreError> {
        if self.0.deletions.has(instance, item.collection, &item.item_key) {
            // An earlier try had kept it, whose answer was lost.
            return Ok(Placement::Known);
        }
        match &self.0.store {
            Store::Memory(memory) => memory.put_item(instance, item),
            Store::Redis(redis) => redis.put_item(instance, item).await,
        }
    }

    /// The messages that wait, in the order in which they came. What does not open, or is over, is forgotten on the way.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn messages(&self, instance: InstanceId) -> Result<Vec<Message>, StoreError> {
        let mut all = self.open_all(instance, Collection::Messages, read_message).await?;
        let old = self.forget_old(&mut all, |message| message.expires_at);
        for message in old {
            self.remove_item(instance, Collection::Messages, message.id.to_bytes()).await?;
        }
        Ok(all)
    }

    /// The missed calls that wait, in the order in which they ended; otherwise as [`Self::messages`].
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn missed_calls(&self, instance: InstanceId) -> Result<Vec<MissedCall>, StoreError> {
        let mut all = self.open_all(instance, Collection::MissedCalls, read_missed_call).await?;
        let old = self.forget_old(&mut all, |missed| missed.expires_at);
        for missed in old {
            self.remove_item(instance, Collection::MissedCalls, missed.call.to_bytes()).await?;
        }
        Ok(all)
    }

    /// How a mailbox stands, as its SIP server told last within [`MAX_LIFETIME_S`].
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn mailbox(&self, instance: InstanceId) -> Result<Option<Mailbox>, StoreError> {
        Ok(self.open_all(instance, Collection::Mailbox, codec::mailbox::read).await?.pop())
    }

    /// The stories of an instance's calls, oldest first; otherwise as [`Self::messages`].
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn stories(&self, instance: InstanceId) -> Result<Vec<Story>, StoreError> {
        let read = move |bytes: &[u8]| codec::story::read(instance, bytes);
        let mut all = self.open_all(instance, Collection::Stories, read).await?;
        for (old, _) in self.forget_old(&mut all, |(_, expires_at)| *expires_at) {
            self.remove_story(instance, old.call).await?;
        }
        all.sort_by_key(|(story, _)| (story.at_ms, story.call));
        Ok(all.into_iter().map(|(story, _)| story).collect())
    }

    /// Those of these instances that may have stories: most have none, and of many at once that is one question.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn with_stories(&self, instances: &[InstanceId]) -> Result<Vec<InstanceId>, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(instances.to_vec()),
            Store::Redis(redis) => redis.with_items(instances, Collection::Stories).await,
        }
    }

    /// Forgets a story; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn remove_story(&self, instance: InstanceId, call: CallId) -> Result<bool, StoreError> {
        self.remove_item(instance, Collection::Stories, call.to_bytes()).await
    }

    /// Forgets a message for good: it is neither listed nor kept again, also by a store that has lost that it was [deleted](Self::delete_again). Whether there
    /// was one.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn remove_message(&self, instance: InstanceId, message: MessageId) -> Result<bool, StoreError> {
        self.delete(instance, Collection::Messages, message.to_bytes()).await
    }

    /// Likewise a missed call.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn remove_missed_call(&self, instance: InstanceId, call: CallId) -> Result<bool, StoreError> {
        self.delete(instance, Collection::MissedCalls, call.to_bytes()).await
    }

    /// Forgets a missed call that gives its place to a later one of its caller; whether there was one. A store that has it again has one more: what strangers
    /// cause is not remembered.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn displace_missed_call(&self, instance: InstanceId, call: CallId) -> Result<bool, StoreError> {
        self.remove_item(instance, Collection::MissedCalls, call.to_bytes()).await
    }

    /// How much is kept, what is over and not yet forgotten included.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn item_counts(&self, instance: InstanceId) -> Result<Counts, StoreError> {
        let [messages, missed_calls] = match &self.0.store {
            Store::Memory(memory) => memory.item_counts(instance),
            Store::Redis(redis) => redis.item_counts(instance).await?,
        };
        Ok(Counts { messages, missed_calls })
    }

    fn item_key(&self, instance: InstanceId, collection: Collection, name: [u8; 16]) -> ItemKey {
        lookup::item_key(&self.0.keyring.index_key(), &instance.to_bytes(), collection.purpose(), &name)
    }

    fn seal_item(
        &self,
        instance: InstanceId,
        collection: Collection,
        name: [u8; 16],
        visit: &dyn Fn(Sink<'_>),
    ) -> SealedItem {
        let item_key = self.item_key(instance, collection, name);
        let mut len = 0;
        visit(&mut |bytes| len += bytes.len());
        let write = |out: &mut Vec<u8>| visit(&mut |bytes| out.extend_from_slice(bytes));
        let sealed = seal::seal_as(
            &self.0.keyring,
            collection.purpose(),
            &place(instance, item_key),
            Reading::now(),
            len,
            write,
        );
        let order = self.0.places.next(instance, shared_now_ms());
        SealedItem { collection, item_key, order, sealed, places: collection.limit().0 }
    }

    /// Opens what a collection holds, in its order. What another keyring or another version may open stays for it until its time is over: nothing is kept
    /// for longer than [`MAX_LIFETIME_S`] after it came, which its place tells of it whoever may open it.
    async fn open_all<T>(
        &self,
        instance: InstanceId,
        collection: Collection,
        read: impl Fn(&[u8]) -> Option<T> + Copy,
    ) -> Result<Vec<T>, StoreError> {
        let mut all = match &self.0.store {
            Store::Memory(memory) => memory.kept(instance, collection),
            Store::Redis(redis) => redis.kept(instance, collection).await?,
        };
        all.retain(|kept| !self.0.deletions.has(instance, collection, &kept.item_key));
        all.sort_unstable_by_key(|kept| (kept.order, kept.item_key));
        let now = confirmed_now();
        for over in all.extract_if(.., |kept| (kept.order / 1_000).saturating_add(MAX_LIFETIME_S) <= now) {
            self.remove_by_key(instance, collection, over.item_key).await?;
        }
        let mut opened = Vec::with_capacity(all.len());
        let mut is_ours = None;
        let (mut unread, mut forgotten) = (None, 0);
        for Kept { item_key, sealed, .. } in all {
            let place = place(instance, item_key);
            match seal::open_as(&self.0.keyring, collection.purpose(), &place, sealed.as_bytes(), read) {
                Ok(kept) => opened.push(kept),
                Err(error) => {
                    if error == SealError::Broken && is_ours.is_none() {
                        is_ours = Some(self.has_agreed_keyring().await?);
                    }
                    let (_, count) = unread.unwrap_or((error, 0));
                    unread = Some((error, count + 1));
                    if error == SealError::Broken && is_ours == Some(true) {
                        forgotten += 1;
                        self.remove_by_key(instance, collection, item_key).await?;
                    }
                }
            }
        }
        if let Some((error, count)) = unread {
            tracing::warn!(event = "kept-unreadable", %instance, %error, count, forgotten, "something that was kept does not open here");
        }
        Ok(opened)
    }

    /// Takes out what is over.
    fn forget_old<T>(&self, all: &mut Vec<T>, expires_at: fn(&T) -> u64) -> Vec<T> {
        let now = confirmed_now();
        all.extract_if(.., |kept| expires_at(kept) <= now).collect()
    }

    async fn remove_item(
        &self,
        instance: InstanceId,
        collection: Collection,
        name: [u8; 16],
    ) -> Result<bool, StoreError> {
        self.remove_by_key(instance, collection, self.item_key(instance, collection, name)).await
    }

    /// Deletes what its device has done with.
    async fn delete(&self, instance: InstanceId, collection: Collection, name: [u8; 16]) -> Result<bool, StoreError> {
        let item_key = self.item_key(instance, collection, name);
        let redis = match &self.0.store {
            Store::Memory(memory) => return Ok(memory.remove_item(instance, collection, item_key)),
            Store::Redis(redis) => redis,
        };
        let deletions = &self.0.deletions;
        let number = deletions.note(instance, collection, item_key);
        let deleted = redis.delete_items(&self.0.owner, instance, collection, &[item_key]).await?;
        deletions.tell(instance, collection, number, deleted != Deleted::NotThere);
        Ok(deleted == Deleted::Done)
    }

    /// Deletes again what this run has deleted: the store may have it again, as it was before.
    ///
    /// # Errors
    /// [`StoreError::Away`]; then it is to be called again.
    pub async fn delete_again(&self) -> Result<(), StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(()) };
        for (instance, collection, item_keys) in self.0.deletions.all() {
            if redis.delete_items(&self.0.owner, instance, collection, &item_keys).await? == Deleted::Done {
                tracing::info!(event = "deletion-repeated", %instance, "something that was deleted was in the store again; it is deleted");
            }
        }
        Ok(())
    }

    async fn remove_by_key(
        &self,
        instance: InstanceId,
        collection: Collection,
        item_key: ItemKey,
    ) -> Result<bool, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.remove_item(instance, collection, item_key)),
            Store::Redis(redis) => redis.remove_item(instance, collection, item_key).await,
        }
    }
}

fn place(instance: InstanceId, item_key: ItemKey) -> [u8; 32] {
    let mut place = [0; 32];
    place[..16].copy_from_slice(&instance.to_bytes());
    place[16..].copy_from_slice(&item_key);
    place
}

fn visit_message(message: &Message, sink: Sink<'_>) {
    let Message { id, from, name, content_type, body, received_at, expires_at } = message;
    sink(&[VERSION]);
    sink(&id.to_bytes());
    codec::number(*received_at, sink);
    codec::number(*expires_at, sink);
    visit_sender(from, name.as_deref(), sink);
    codec::text(content_type, sink);
    codec::number(body.len() as u64, sink);
    sink(body);
}

fn visit_missed_call(missed: &MissedCall, sink: Sink<'_>) {
    let MissedCall { call, from, name, at, expires_at, given_up } = missed;
    sink(&[VERSION]);
    sink(&call.to_bytes());
    codec::number(*at, sink);
    codec::number(*expires_at, sink);
    sink(&[u8::from(*given_up)]);
    visit_sender(from, name.as_deref(), sink);
}

fn visit_sender(from: &str, name: Option<&str>, sink: Sink<'_>) {
    codec::text(from, sink);
    sink(&[u8::from(name.is_some())]);
    if let Some(name) = name {
        codec::text(name, sink);
    }
}

fn read_message(bytes: &[u8]) -> Option<Message> {
    let mut rest = Reader(bytes);
    if rest.byte().ok()? != VERSION {
        return None;
    }
    let id = MessageId::from_bytes(rest.array().ok()?);
    let (received_at, expires_at) = (rest.number().ok()?, rest.number().ok()?);
    let (from, name) = read_sender(&mut rest)?;
    let content_type = rest.text().ok()?.into();
    let len = usize::try_from(rest.number().ok()?).ok()?;
    let body = rest.take(len).ok()?.into();
    rest.0.is_empty().then_some(Message { id, from, name, content_type, body, received_at, expires_at })
}

fn read_missed_call(bytes: &[u8]) -> Option<MissedCall> {
    let mut rest = Reader(bytes);
    if rest.byte().ok()? != VERSION {
        return None;
    }
    let call = CallId::from_bytes(rest.array().ok()?);
    let (at, expires_at) = (rest.number().ok()?, rest.number().ok()?);
    let given_up = rest.flag().ok()?;
    let (from, name) = read_sender(&mut rest)?;
    rest.0.is_empty().then_some(MissedCall { call, from, name, at, expires_at, given_up })
}

fn read_sender(rest: &mut Reader<'_>) -> Option<(Box<str>, Option<Box<str>>)> {
    let from = rest.text().ok()?.into();
    let name = if rest.flag().ok()? { Some(rest.text().ok()?.into()) } else { None };
    Some((from, name))
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::vault::codec::lent::tests::samples;
    use crate::vault::{Fence, Keyring, RecordToWrite};

    #[tokio::test]
    async fn what_nobody_can_open_goes_when_its_time_is_over_and_not_before() {
        let vault = Vault::open("memory:", Keyring::ephemeral(), "a").expect("opened");
        let (id, record) = (InstanceId::new(1 << 20, ShardTag(1)), samples().remove(0));
        let (sealed, lookup) = (vault.seal(id, &record), vault.lookup_of(&record));
        vault
            .put(RecordToWrite {
                id,
                sealed: &sealed,
                expires_at: shared_now() + DAY_S,
                lookup: &lookup,
                fence: Fence::NEW,
            })
            .await
            .expect("put");
        let life_ms = MAX_LIFETIME_S * 1_000;
        for (number, age_ms) in [(1, life_ms), (2, life_ms + DAY_S * 1_000), (3, life_ms - 60_000), (4, 0)] {
            let message = Message { id: MessageId::new(number << 32, ShardTag(1)), ..message(None) };
            let mut item = vault.seal_message(id, || message);
            let mut bytes = item.sealed.as_bytes().to_vec();
            // Of a day whose key was destroyed.
            bytes[1..5].fill(0);
            (item.order, item.sealed) = (shared_now_ms() - age_ms, Sealed::from_bytes(bytes));
            assert_eq!(vault.put_item(id, &item).await, Ok(Placement::Kept));
        }
        assert_eq!(vault.messages(id).await, Ok(Vec::new()));
        assert_eq!(vault.item_counts(id).await, Ok(Counts { messages: 2, missed_calls: 0 }), "another may open these");
    }

    fn message(name: Option<&str>) -> Message {
        Message {
            id: MessageId::new(5 << 32, ShardTag(1)),
            from: "sip:bob@example.com".into(),
            name: name.map(Into::into),
            content_type: "text/plain".into(),
            body: b"hello \x00\xff".as_slice().into(),
            received_at: 1_795_000_000,
            expires_at: u64::MAX,
        }
    }

    fn missed(given_up: bool) -> MissedCall {
        MissedCall {
            call: CallId::new(6 << 32, ShardTag(1)),
            from: "sip:bob@example.com".into(),
            name: None,
            at: 1_795_000_000,
            expires_at: 1_795_100_000,
            given_up,
        }
    }

    fn bytes(visit: impl Fn(&mut dyn FnMut(&[u8]))) -> Vec<u8> {
        let mut out = Vec::new();
        visit(&mut |part| out.extend_from_slice(part));
        out
    }

    #[test]
    fn what_is_kept_reads_back_as_itself_and_nothing_shorter_or_longer_does() {
        for message in [message(None), message(Some("Bob"))] {
            let bytes = bytes(|sink| visit_message(&message, sink));
            assert_eq!(read_message(&bytes), Some(message));
            assert!((0..bytes.len()).all(|len| read_message(&bytes[..len]).is_none()));
            assert_eq!(read_message(&[&bytes[..], &[0]].concat()), None);
        }
        for missed in [missed(true), missed(false)] {
            let bytes = bytes(|sink| visit_missed_call(&missed, sink));
            assert_eq!(read_missed_call(&bytes), Some(missed));
            assert!((0..bytes.len()).all(|len| read_missed_call(&bytes[..len]).is_none()));
        }
    }

    #[tokio::test]
    async fn how_a_mailbox_stands_is_kept_beside_its_record_alone_and_the_latest_word_counts() {
        let vault = Vault::open("memory:", Keyring::ephemeral(), "a").expect("opened");
        let (id, record) = (InstanceId::new(1 << 20, ShardTag(1)), samples().remove(0));
        let told = |new| Mailbox { waiting: true, new: Some(new), ..Mailbox::default() };
        assert_eq!(vault.put_item(id, &vault.seal_mailbox(id, &told(1))).await, Err(StoreError::Gone));
        let (sealed, lookup) = (vault.seal(id, &record), vault.lookup_of(&record));
        vault
            .put(RecordToWrite {
                id,
                sealed: &sealed,
                expires_at: shared_now() + DAY_S,
                lookup: &lookup,
                fence: Fence::NEW,
            })
            .await
            .expect("put");
        for new in [1, 2] {
            assert_eq!(vault.put_item(id, &vault.seal_mailbox(id, &told(new))).await, Ok(Placement::Kept));
        }
        assert_eq!(vault.mailbox(id).await, Ok(Some(told(2))));
        assert_eq!(vault.item_counts(id).await, Ok(Counts::default()), "it is nothing that waits to be fetched");
        vault.erase_all_of(id, Some(lookup)).await.expect("erased");
        assert_eq!(vault.mailbox(id).await, Ok(None));
    }

    #[test]
    fn nothing_that_is_kept_prints_who_wrote_or_what() {
        let shown = format!("{:?} {:?}", message(Some("Bob")), missed(true));
        assert!(!shown.to_lowercase().contains("bob") && !shown.contains("hello"), "{shown}");
    }
}
