//! Final pushes: they tell that an instance, or one of its calls, has ended, and outlive the instance's row. Each holds its push token in the clear while it is
//! tried. The pushes of a push binding without a row (RFC 8599) are kept here as well.
//!
//! Invariant: no receipt is given while a final push is on its way. The requester waits at most [`RECEIPT_WAITS`]; then the pushes are aborted. A push is
//! tried for at most [`FINAL_PUSH_TIME`], and stays here for at most [`TO_END`] beyond that.

use std::collections::BTreeMap;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Shard;
use crate::agent::ShardInput;
use crate::push::Event;

/// How long a push that outlives its instance is tried at a service that does not take it.
pub(super) const FINAL_PUSH_TIME: Duration = Duration::from_secs(60);
/// How long the end of such a push may take beyond that.
const TO_END: Duration = Duration::from_secs(2);
/// How long the requester of a receipt waits for a push under way.
const RECEIPT_WAITS: Duration = Duration::from_secs(2);

/// The pushes of one shard that outlive their instances.
#[derive(Default)]
pub(crate) struct FinalPushes {
    pushes: BTreeMap<(InstanceId, u64), (Event, AbortHandle)>,
    /// The number of pushes so far.
    count: u64,
}

impl FinalPushes {
    fn of(&self, id: InstanceId) -> impl Iterator<Item = (&(InstanceId, u64), &(Event, AbortHandle))> {
        self.pushes.range((id, 0)..=(id, u64::MAX))
    }
}

impl Shard {
    /// Sends a push that outlives its instance, and is tried for at most [`FINAL_PUSH_TIME`].
    pub(super) fn send_final_push(
        &mut self,
        id: InstanceId,
        event: Event,
        sending: impl Future<Output = ()> + Send + 'static,
    ) {
        self.final_pushes.count += 1;
        let (shards, shard, number) = (self.shared.shards.clone(), self.index, self.final_pushes.count);
        let said = tokio::spawn(async move {
            // An error means that it has not ended although it is not tried any more: nothing waits for it any longer.
            let _ = timeout(FINAL_PUSH_TIME + TO_END, sending).await;
            shards.send(shard, ShardInput::FinalPushEnded(id, number)).await;
        });
        self.final_pushes.pushes.insert((id, number), (event, said.abort_handle()));
    }

    /// A final push has ended.
    pub(super) fn on_final_push_ended(&mut self, id: InstanceId, number: u64) {
        self.final_pushes.pushes.remove(&(id, number));
        self.finish(id);
        self.finish_push_binding(id);
    }

    /// Whether no push is under way any more.
    pub(super) fn has_no_final_push(&self, id: InstanceId) -> bool {
        self.final_pushes.of(id).next().is_none()
    }

    /// Aborts the pushes under way when the requester of a receipt has waited long enough.
    pub(super) fn limit_receipt_wait(&self, id: InstanceId) {
        let (shards, shard) = (self.shared.shards.clone(), self.index);
        tokio::spawn(async move {
            sleep(RECEIPT_WAITS).await;
            shards.send(shard, ShardInput::ReceiptWaitOver(id)).await;
        });
    }

    /// The requester of a receipt has waited long enough.
    pub(super) fn on_receipt_wait_over(&mut self, id: InstanceId) {
        // The device has registered again: pushes now are for that registration.
        if self.push_bindings.knows(id) {
            return;
        }
        self.abort_final_pushes(id);
        self.finish(id);
        self.finish_push_binding(id);
    }

    /// Aborts the pushes under way.
    pub(super) fn abort_final_pushes(&mut self, id: InstanceId) {
        self.break_off(id, |_| true);
    }

    /// Aborts the pushes that ask a device to register again, because it should not any more.
    pub(super) fn abort_refresh_pushes(&mut self, id: InstanceId) {
        self.break_off(id, |event| event == Event::Renew);
    }

    fn break_off(&mut self, id: InstanceId, is_meant: impl Fn(Event) -> bool) {
        let meant = self.final_pushes.of(id).filter(|(_, (event, _))| is_meant(*event));
        let under_way: Vec<_> = meant.map(|(key, _)| *key).collect();
        for (_, push) in under_way.into_iter().filter_map(|key| self.final_pushes.pushes.remove(&key)) {
            push.abort();
        }
    }
}
