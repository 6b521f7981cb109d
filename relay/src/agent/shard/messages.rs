//! MESSAGEs that are kept for a device.
//!
//! Invariant: a text is sealed in the turn of the loop in which it arrived, and held in no other form. A sender hears 202 only when the store has the message.
//! A push announces a message and never contains it. The last places are reserved for senders of few messages.

use sip::endpoint::{InboundMessage, Input, MessageContent, MessageEnd, MessageRequestId, StoreOutcome};
use sip::id::{InstanceId, MessageId};

use super::Shard;
use super::alerts::{AlertContent, kept_life_s};
use crate::agent::ShardInput;
use crate::agent::late_notes::keep;
use crate::agent::tables::timeline::TimelineEvent;
use crate::clock::shared_now;
use crate::domain::MessageOutcome;
use crate::push::Event;
use crate::vault::items::{MESSAGES_MAX, Message, Placement};
use crate::vault::{MAX_LIFETIME_S, StoreError};

/// The store's outcome for a message.
pub(crate) struct MessageStored {
    request: MessageRequestId,
    instance: InstanceId,
    message: MessageId,
    from: Box<str>,
    name: Option<Box<str>>,
    outcome: Result<Placement, StoreError>,
    /// The end of its life unless the lease is renewed, in seconds since 1970.
    expires_at: u64,
    /// Whether its user is told of it.
    told: bool,
}

impl Shard {
    /// A message waits to be kept.
    pub(crate) fn store_message(&mut self, inbound: &InboundMessage) {
        let (request, instance, message) = (inbound.request, inbound.instance, inbound.message);
        let Some(row) = self.instances.get(instance).filter(|row| row.ending.is_none()) else {
            // The instance is ending: no messages are kept for it any more.
            return self.next.push_back(Input::MessageStored { request, instance, outcome: StoreOutcome::Full });
        };
        // The same clock decides when it is forgotten.
        let now = shared_now();
        // A renewed lease prolongs the items beside its record.
        let lasts = inbound.lasts.map_or(MAX_LIFETIME_S, |lasts| lasts.as_secs().min(MAX_LIFETIME_S));
        let kept_until = now.saturating_add(lasts);
        let expires_at = row.expires_at().min(kept_until);
        let item = self.shared.vault.seal_message(instance, || Message {
            id: message,
            from: inbound.from.clone(),
            name: inbound.name.clone(),
            content_type: inbound.content_type.clone(),
            body: inbound.body[..].into(),
            received_at: now,
            expires_at: kept_until,
        });
        let places = self.activity(instance).map_or(MESSAGES_MAX, |activity| activity.senders.note(inbound.sender));
        let item = item.within(places);
        let (from, name) = (inbound.from.clone(), inbound.name.clone());
        // A delivery or display notification is kept for the app, and is no new message for the user.
        let told = MessageContent::of(&inbound.content_type, &inbound.body) == MessageContent::Words;
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            let outcome = keep(&shared.vault, &shared.metrics, instance, &item).await;
            let stored = MessageStored { request, instance, message, from, name, outcome, expires_at, told };
            shared.shards.send(shard, ShardInput::MessageStored(Box::new(stored))).await;
        });
    }

    /// Handles the store's answer.
    pub(crate) fn on_message_stored(&mut self, stored: MessageStored) {
        let MessageStored { request, instance, message, from, name, outcome, expires_at, told } = stored;
        let (kept, outcome) = match outcome {
            Ok(Placement::Kept) => (StoreOutcome::Stored, MessageOutcome::Kept),
            Ok(Placement::Known) => (StoreOutcome::Stored, MessageOutcome::Repeated),
            Ok(Placement::Full) | Err(StoreError::Gone) => (StoreOutcome::Full, MessageOutcome::Full),
            Err(_) => (StoreOutcome::Unavailable, MessageOutcome::StoreAway),
        };
        self.shared.metrics.message(outcome);
        self.note(instance, None, TimelineEvent::Message { outcome });
        self.next.push_back(Input::MessageStored { request, instance, outcome: kept });
        if outcome == MessageOutcome::Kept && told {
            let extra = vec![("message", message.to_string().into())];
            let content = AlertContent { from: Some(from), name, extra, ..AlertContent::default() };
            let _ = self
                .send_alert(instance, Event::Message, kept_life_s(expires_at), content, |wake_for| wake_for.message);
        }
    }

    /// A device has accepted, after all, a message that is being stored for it.
    pub(crate) fn discard_message(&self, instance: InstanceId, message: MessageId) {
        self.shared.metrics.message(MessageOutcome::Delivered);
        let vault = self.shared.vault.clone();
        tokio::spawn(async move {
            if let Err(error) = vault.remove_message(instance, message).await {
                tracing::info!(event = "message-stays-kept", %instance, %error, "a message that was delivered stays kept");
            }
        });
    }

    /// A message has ended without being kept.
    pub(crate) fn on_message_ended(&mut self, instance: InstanceId, end: MessageEnd) {
        let outcome = match end {
            MessageEnd::Delivered => MessageOutcome::Delivered,
            MessageEnd::Refused(_) => MessageOutcome::Refused,
            MessageEnd::Composing => MessageOutcome::Composing,
            MessageEnd::TooLarge => MessageOutcome::TooLarge,
            MessageEnd::Limited => MessageOutcome::Limited,
            MessageEnd::Unfit => MessageOutcome::Unfit,
        };
        self.shared.metrics.message(outcome);
        if outcome != MessageOutcome::Composing {
            self.note(instance, None, TimelineEvent::Message { outcome });
        }
    }
}
