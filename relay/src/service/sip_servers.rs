//! What a SIP server asks with its key.
//!
//! Invariant: a future may be dropped at any await; what was begun then still ends, or nothing of it is kept.

use std::future::Future;

use super::Service;
use super::types::{Awake, Wake, WakeError};

/// What a SIP server asks with its key.
pub trait SipServerService: Clone + Send + Sync + 'static {
    /// Wakes the devices of an AOR for a call that its SIP server holds, and waits for the first of them.
    fn wake(&self, wish: Wake) -> impl Future<Output = Result<Awake, WakeError>> + Send;
}

impl SipServerService for Service {
    async fn wake(&self, wish: Wake) -> Result<Awake, WakeError> {
        self.0.wake(wish).await
    }
}
