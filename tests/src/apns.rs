//! A stand-in for APNs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::authority::Authority;

/// A running stand-in; it stops when the last clone is dropped.
#[derive(Clone)]
pub struct Apns {
    settings: relay::push::apns::Settings,
}

/// A push that the stand-in took.
#[derive(Clone, Debug)]
pub struct ReceivedPush {
    /// The device token, hex.
    pub token: String,
    /// When it arrived.
    pub at: Instant,
    /// The body.
    pub payload: serde_json::Value,
    /// `apns-topic`.
    pub topic: String,
    /// `apns-push-type`.
    pub push_type: String,
    /// `apns-priority`.
    pub priority: u8,
    /// `apns-expiration`, seconds since 1970.
    pub expiration: u64,
    /// `apns-id`.
    pub apns_id: String,
    /// The provider token (JWT) that came with it.
    pub provider_token: String,
    /// The connection that it came on: 1 is the first.
    pub connection: usize,
}

/// What the stand-in answers to one push.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200: taken.
    Accept,
}

impl Apns {
    /// Starts it on a free loopback port, for the bundle `com.example.phone`.
    pub async fn start(_authority: &Authority) -> Self {
        todo!()
    }
    /// Starts it for another bundle.
    pub async fn start_for(_authority: &Authority, _bundle: &str) -> Self {
        todo!()
    }
    /// `https://localhost:port`
    pub fn endpoint(&self) -> String {
        todo!()
    }
    /// Settings that lead a relay here.
    pub fn settings(&self) -> relay::push::apns::Settings {
        self.settings.clone()
    }
    /// The signing key as PEM.
    pub fn p8_pem(&self) -> &str {
        todo!()
    }
    /// The signing key's file.
    pub fn key_file(&self) -> PathBuf {
        todo!()
    }
    /// Scripts the answers to the next pushes to `token`, one each; then 200 again.
    pub fn answer_with(&self, _token: &str, _answers: impl IntoIterator<Item = Answer>) {
        todo!()
    }
    /// Waits for the next push that was taken and that this method has not given yet.
    pub async fn next_push(&self, _within: Duration) -> Option<ReceivedPush> {
        todo!()
    }
    /// Every push that was taken.
    pub fn pushes(&self) -> Vec<ReceivedPush> {
        todo!()
    }
    /// How many pushes were taken.
    pub fn count(&self) -> u64 {
        todo!()
    }
    /// How many connections were made.
    pub fn connections(&self) -> usize {
        todo!()
    }
    /// What Apple would have objected to.
    pub fn violations(&self) -> Vec<String> {
        todo!()
    }
    /// Keeps no push, only their number (for a load generator).
    pub fn record_only_counts(&self, _only: bool) {
        todo!()
    }
    /// Tells each push taken, by its token and moment.
    pub fn notify(&self, _channel: UnboundedSender<(String, Instant)>) {
        todo!()
    }
}
