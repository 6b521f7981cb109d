//! A stand-in for FCM and Google's OAuth token endpoint.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::authority::Authority;

/// A running stand-in; it stops when the last clone is dropped.
#[derive(Clone)]
pub struct Fcm {
    settings: relay::push::fcm::Settings,
}

/// A message that the stand-in took.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The registration token.
    pub token: String,
    /// When it arrived.
    pub at: Instant,
    /// The object in the data entry `sipwake`.
    pub payload: serde_json::Value,
    /// `android.priority`.
    pub priority: String,
    /// `android.ttl`.
    pub ttl: String,
    /// The connection that it came on: 1 is the first.
    pub connection: usize,
}

/// What the stand-in answers to one message.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200: taken.
    Accept,
}

impl Fcm {
    /// Starts it on a free loopback port.
    pub async fn start(_authority: &Authority) -> Self {
        todo!()
    }
    /// `https://localhost:port`
    pub fn endpoint(&self) -> String {
        todo!()
    }
    /// Settings that lead a relay here.
    pub fn settings(&self) -> relay::push::fcm::Settings {
        self.settings.clone()
    }
    /// The service account's key file, as text.
    pub fn service_account_json(&self) -> &str {
        todo!()
    }
    /// The service account's key file.
    pub fn service_account_file(&self) -> PathBuf {
        todo!()
    }
    /// Scripts the answers to the next messages to `token`, one each; then 200 again.
    pub fn answer_with(&self, _token: &str, _answers: impl IntoIterator<Item = Answer>) {
        todo!()
    }
    /// Waits for the next message that was taken and that this method has not given yet.
    pub async fn next_push(&self, _within: Duration) -> Option<ReceivedPush> {
        todo!()
    }
    /// Every message that was taken.
    pub fn pushes(&self) -> Vec<ReceivedPush> {
        todo!()
    }
    /// How many messages were taken.
    pub fn count(&self) -> u64 {
        todo!()
    }
    /// How many connections were made.
    pub fn connections(&self) -> usize {
        todo!()
    }
    /// What Google would have objected to.
    pub fn violations(&self) -> Vec<String> {
        todo!()
    }
    /// Keeps no message, only their number (for a load generator).
    pub fn record_only_counts(&self, _only: bool) {
        todo!()
    }
    /// Tells each message taken, by its token and moment.
    pub fn notify(&self, _channel: UnboundedSender<(String, Instant)>) {
        todo!()
    }
}
