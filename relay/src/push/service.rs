//! The one door to the push services.

use std::time::Duration;

use super::{Push, Verdict, apns, fcm};
use crate::vault::record::PushTarget;

/// The push services of one App.
#[derive(Clone, Debug, Default)]
pub struct AppPush {
    /// Apple's, when the App has an iOS side.
    pub apns: Option<apns::Settings>,
    /// Google's, when the App has an Android side.
    pub fcm: Option<fcm::Settings>,
}

/// What became of one push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// What follows from it.
    pub verdict: Verdict,
    /// How often it was tried; 0 when it never left.
    pub attempts: u32,
    /// From the call to the verdict.
    pub elapsed: Duration,
}

/// Why a push service cannot be used; never holds key text.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {}

/// Delivers pushes; cheap to clone.
#[derive(Clone)]
pub struct PushService {}

impl PushService {
    /// Reads the keys of `apps` (App id and its services).
    pub fn new(_apps: Vec<(Box<str>, AppPush)>) -> Result<Self, Vec<SetupError>> {
        todo!()
    }
    /// Prints each push instead of sending it.
    pub fn printed() -> Self {
        Self {}
    }
    /// Delivers `push`, again and again where that is right, until its deadline.
    pub async fn deliver(&self, _app: &str, _target: &PushTarget, _push: &Push) -> Delivery {
        todo!()
    }
}

/// Checks what [`PushService::new`] would need for one App.
pub fn check(_app: &str, _services: &AppPush) -> Vec<SetupError> {
    todo!()
}
