//! What a SIP server asks with its key.
//!
//! Invariant: a future may be dropped at any await; what was begun then still ends, or nothing of it is kept.

use std::future::Future;

use super::Service;
use super::types::{Expected, Wake, WakeError};

/// What a SIP server asks with its key.
pub trait SipServerService: Clone + Send + Sync + 'static {
    /// Wakes the devices of an AOR that this node has, for a call that its SIP server holds.
    fn expect(&self, wake: Wake) -> impl Future<Output = Result<Expected, WakeError>> + Send;
}

impl SipServerService for Service {
    async fn expect(&self, wake: Wake) -> Result<Expected, WakeError> {
        self.0.expect(wake).await
    }
}
