//! What an app asks with its key.
//!
//! Invariant: a future may be dropped at any await; what was begun then still ends, or nothing of it is kept.

use std::future::Future;
use std::net::IpAddr;

use super::Service;
use super::types::{Enable, EnableError, Enabled};

/// What an app asks with its key.
pub trait AppService: Clone + Send + Sync + 'static {
    /// Registers the account once, seals it and keeps it; or keeps nothing. `source`: the address that asks, for the limits.
    fn enable(
        &self,
        app: &str,
        source: IpAddr,
        wish: Enable,
    ) -> impl Future<Output = Result<Enabled, EnableError>> + Send;
}

impl AppService for Service {
    async fn enable(&self, app: &str, source: IpAddr, wish: Enable) -> Result<Enabled, EnableError> {
        let (it, app) = (self.0.clone(), app.into());
        // In a task of its own: an app that hangs up leaves no half of an enabling.
        tokio::spawn(async move { it.enable(app, source, wish).await }).await.unwrap_or(Err(EnableError::Draining))
    }
}
