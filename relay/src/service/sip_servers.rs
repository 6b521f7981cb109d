//! Requests of a SIP server, made with its key.
//!
//! Invariant: a future may be dropped at any await; work in progress then still completes, or leaves nothing behind.

use std::future::Future;

use super::Service;
use super::types::{Expected, Wake, WakeError};

/// Requests of a SIP server, made with its key.
pub trait SipServerService: Clone + Send + Sync + 'static {
    /// Wakes the devices of an AOR that this node has, for a call that its SIP server holds.
    fn expect(&self, wake: Wake) -> impl Future<Output = Result<Expected, WakeError>> + Send;
}

impl SipServerService for Service {
    async fn expect(&self, wake: Wake) -> Result<Expected, WakeError> {
        self.0.expect(wake).await
    }
}
