//! Requests of a SIP server, made with its key.
//!
//! Invariant: a future may be dropped at any await. Work under way then completes, or leaves nothing behind.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};

use super::Service;
use crate::agent::request::Arrival;
use crate::secret::Aor;

/// Requests of a SIP server, made with its key.
pub trait SipServerService: Clone + Send + Sync + 'static {
    /// Wakes the devices of an AOR that this node has, for a call that its SIP server holds.
    /// `answered` becomes `true` when the server has its answer; when it is closed before that, nobody is there to hear one.
    fn expect(
        &self,
        wake: Wake,
        answered: watch::Receiver<bool>,
    ) -> impl Future<Output = Result<Expected, WakeError>> + Send;
}

/// The wake request of a SIP server that holds a call itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Wake {
    /// The AOR whose devices are to be woken.
    pub aor: Aor,
    /// The caller's URI, as the server names it; empty: not told.
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// How long to wait for the first device.
    pub wait: Duration,
    /// Hosts whose registrations are woken beside those that serve the AOR's own domain: the operator's word.
    pub registrars: Arc<[Box<str>]>,
    /// Whether it is only looked who is there: nobody is woken, nor waited for.
    pub looks: bool,
}

/// Devices that this node wakes.
#[derive(Debug)]
pub struct Expected {
    /// How many are attached, or waited for.
    pub known: usize,
    /// How many are attached already.
    pub awake: usize,
    /// Tells of each that comes, or is waited for no longer because it wants no calls; ends when none can come any more.
    pub arrivals: mpsc::UnboundedReceiver<Arrival>,
}

/// Devices are awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AwakeDevices {
    /// How many are attached at this moment.
    pub awake: usize,
    /// How many there are.
    pub known: usize,
}

/// Why no device is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WakeError {
    /// The operator does not serve the AOR's domain: 403.
    #[error("the SIP domain is not allowed here")]
    DomainNotAllowed,
    /// No node has a device of the AOR that is attached, or that it can wake: 404.
    #[error("no device of this address")]
    Unknown,
    /// None came in time, or none can come: 504.
    #[error("no device came")]
    NoneInTime,
    /// This node is shutting down: 503.
    #[error("this relay is shutting down")]
    Draining,
    /// This node knows none yet, and takes something over, or is about to: 503.
    #[error("what is being taken over is not here yet")]
    OnItsWay,
    /// This node knows none, and another one that may know some does not answer: 503.
    #[error("another node does not answer")]
    OthersSilent,
}

impl SipServerService for Service {
    async fn expect(&self, wake: Wake, answered: watch::Receiver<bool>) -> Result<Expected, WakeError> {
        self.0.expect(wake, answered).await
    }
}
