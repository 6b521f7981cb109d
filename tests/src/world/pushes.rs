//! The pushes that the services took, as the devices get them.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::time::timeout;

use super::{Device, Node, OTHER_TOKEN, SOON, SipServer, World};
use crate::api_client::Instance;
use crate::apns::BUNDLE;
use crate::board::Missed;
use crate::{apns, fcm};

impl<S: SipServer, N: Node> World<S, N> {
    /// The object of the next push that APNs took.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn push(&self) -> Result<Value, Missed> {
        Ok(self.apple_push().await?.payload["sipwake"].clone())
    }

    /// The object of the next push that FCM took.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn android_push(&self) -> Result<Value, Missed> {
        Ok(self.google_push().await?.payload)
    }

    /// The next push that APNs took, with what belongs to its delivery.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn apple_push(&self) -> Result<apns::ReceivedPush, Missed> {
        self.apns.next_push(SOON * 2).await.ok_or_else(|| self.none("a push on APNs"))
    }

    /// The next push that FCM took, with what belongs to its delivery.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn google_push(&self) -> Result<fcm::ReceivedPush, Missed> {
        self.fcm.next_push(SOON * 2).await.ok_or_else(|| self.none("a push on FCM"))
    }

    /// The next push about a call to this device; what it is told beside, and what others are told, is passed over.
    ///
    /// # Errors
    /// [`Missed`] when none comes.
    pub async fn push_for(&self, device: &impl Device) -> Result<Value, Missed> {
        loop {
            let (token, object) = if device.has_fcm() {
                self.google_push().await.map(|push| (push.token, push.payload))?
            } else {
                self.apple_push().await.map(|push| (push.token, push.payload["sipwake"].clone()))?
            };
            if token == device.call_token() && object["event"] == "call" {
                return Ok(object);
            }
        }
    }

    /// The next push on APNs, which must be an alert of this event, to [`OTHER_TOKEN`].
    ///
    /// # Errors
    /// [`Missed`] when none comes, or another.
    pub async fn alert(&self, event: &str) -> Result<Value, Missed> {
        let push = self.apple_push().await?;
        let told = push.payload["sipwake"].clone();
        let is_alert = push.token == OTHER_TOKEN && push.topic == BUNDLE && push.push_type == "alert";
        if is_alert && told["event"] == event {
            Ok(told)
        } else {
            Err(Missed::new(format!("an alert: {event}"), format!("{push:?}")))
        }
    }

    /// The next pushes on FCM are of these events, each once, in whatever order they arrive; the second copy of a call's is passed over.
    ///
    /// # Errors
    /// [`Missed`] when another comes, or none.
    pub async fn android_pushes(&self, events: &[&str]) -> super::Outcome {
        let mut awaited = events.to_vec();
        while !awaited.is_empty() {
            let google = self.google_push().await?;
            let push = &google.payload;
            let Some(at) = awaited.iter().position(|event| push["event"] == *event) else {
                if self.is_second_copy(&google) {
                    continue;
                }
                return Err(Missed::new(format!("pushes: {}", awaited.join(", ")), push.to_string()));
            };
            awaited.swap_remove(at);
        }
        Ok(())
    }

    /// Whether a call was pushed before by the same push: a phone that gives no sign for 5 s gets it once more.
    fn is_second_copy(&self, push: &fcm::ReceivedPush) -> bool {
        let is_same = |earlier: &fcm::ReceivedPush, field| earlier.payload[field] == push.payload[field];
        let is_first = |earlier: &fcm::ReceivedPush| {
            earlier.at < push.at && earlier.token == push.token && is_same(earlier, "event") && is_same(earlier, "call")
        };
        push.payload["event"] == "call" && self.fcm.pushes().iter().any(is_first)
    }

    /// Whether FCM, which takes nothing, is asked again within a few times the pause between its last two tries.
    ///
    /// # Errors
    /// [`Missed`] when it is not asked twice now.
    pub async fn is_tried_on(&self) -> Result<impl AsyncFnOnce() -> bool, Missed> {
        let tried = async |more: u64| {
            let before = self.fcm.requests();
            self.until("another try", || async { (self.fcm.requests() >= before + more).then_some(()) }).await
        };
        tried(1).await?;
        let begun = Instant::now();
        tried(1).await?;
        // Each pause is twice the one before, at most.
        let pause = begun.elapsed().max(Duration::from_secs(1)) * 3;
        Ok(async move || timeout(pause, tried(1)).await.is_ok())
    }

    /// The entries of an instance on this shelf: `messages` or `missed-calls`.
    ///
    /// # Errors
    /// [`Missed`] for another answer than 200 with a list.
    pub async fn kept(&self, instance: &Instance, shelf: &str) -> Result<Vec<Value>, Missed> {
        let answer = self.api.of("GET", instance, &format!("/{shelf}")).await?;
        let list = answer.json()[shelf.replace('-', "_")].as_array().cloned().filter(|_| answer.status == 200);
        list.ok_or_else(|| Missed::new(format!("a list of {shelf}"), answer.text()))
    }
}
