//! The last pushes for an ending instance: that it has ended, and that a call of it has. It outlives the row, and holds the push token in the clear
//! while it is tried. A push for a registration that passed through (RFC 8599), which has no row, is kept here as well.
//!
//! Invariant: a receipt is given when none of these is on its way: its requester waits [`RECEIPT_WAITS`] at most, and then they are broken off.
//! None is tried for longer than [`LAST_WORDS`], nor here for longer than [`TO_END`] beyond.

use std::collections::BTreeMap;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Shard;
use crate::agent::ShardInput;
use crate::push::Event;

/// How long a push that outlives its instance is tried at a service that does not take it.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(60);
/// How long its end may take beyond that.
const TO_END: Duration = Duration::from_secs(2);
/// How long who asks for a receipt waits for a push that is on its way.
const RECEIPT_WAITS: Duration = Duration::from_secs(2);

/// The pushes of one shard that outlive their instances.
#[derive(Default)]
pub(crate) struct LastWords {
    pushes: BTreeMap<(InstanceId, u64), (Event, AbortHandle)>,
    /// How many there were.
    count: u64,
}

impl LastWords {
    fn of(&self, id: InstanceId) -> impl Iterator<Item = (&(InstanceId, u64), &(Event, AbortHandle))> {
        self.pushes.range((id, 0)..=(id, u64::MAX))
    }
}

impl Shard {
    /// Has a push sent that outlives its instance, and is tried for [`LAST_WORDS`] at most.
    pub(super) fn speak_last(
        &mut self,
        id: InstanceId,
        event: Event,
        sending: impl Future<Output = ()> + Send + 'static,
    ) {
        self.last_words.count += 1;
        let (shards, shard, number) = (self.shared.shards.clone(), self.index, self.last_words.count);
        let said = tokio::spawn(async move {
            // An error means that it does not end, although it is tried no more: nothing waits for it any longer.
            let _ = timeout(LAST_WORDS + TO_END, sending).await;
            shards.send(shard, ShardInput::LastWordSaid(id, number)).await;
        });
        self.last_words.pushes.insert((id, number), (event, said.abort_handle()));
    }

    /// A last push has ended.
    pub(super) fn on_last_word_said(&mut self, id: InstanceId, number: u64) {
        self.last_words.pushes.remove(&(id, number));
        self.finish(id);
        self.finish_push_binding(id);
    }

    /// Whether nothing is on its way any more.
    pub(super) fn has_said_all(&self, id: InstanceId) -> bool {
        self.last_words.of(id).next().is_none()
    }

    /// Breaks off what is on its way when somebody has waited for a receipt long enough.
    pub(super) fn hear_out(&self, id: InstanceId) {
        let (shards, shard) = (self.shared.shards.clone(), self.index);
        tokio::spawn(async move {
            sleep(RECEIPT_WAITS).await;
            shards.send(shard, ShardInput::HeardOut(id)).await;
        });
    }

    /// The requester of a receipt has waited long enough.
    pub(super) fn on_heard_out(&mut self, id: InstanceId) {
        // Its device has registered again: what is pushed now is for that registration.
        if self.push_bindings.knows(id) {
            return;
        }
        self.silence(id);
        self.finish(id);
        self.finish_push_binding(id);
    }

    /// Breaks off the pushes that are on their way.
    pub(super) fn silence(&mut self, id: InstanceId) {
        self.break_off(id, |_| true);
    }

    /// Breaks off what asks a device to register again: it is not to.
    pub(super) fn ask_no_more(&mut self, id: InstanceId) {
        self.break_off(id, |event| event == Event::Renew);
    }

    fn break_off(&mut self, id: InstanceId, is_meant: impl Fn(Event) -> bool) {
        let meant = self.last_words.of(id).filter(|(_, (event, _))| is_meant(*event));
        let under_way: Vec<_> = meant.map(|(key, _)| *key).collect();
        for (_, push) in under_way.into_iter().filter_map(|key| self.last_words.pushes.remove(&key)) {
            push.abort();
        }
    }
}
