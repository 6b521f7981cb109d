//! Requests of an app, made with its key.
//!
//! Invariant: a future may be dropped at any await. Work under way then completes, or leaves nothing behind (`app_requests`).

use std::fmt;
use std::future::Future;
use std::net::IpAddr;

use sip::id::InstanceId;
use thiserror::Error;

use super::views::{EdgeAddress, Registration};
use crate::doctor::{Patient, Report};
use crate::domain::WipeReason;
use crate::secret::InstanceSecret;
use crate::vault::Owner;
use crate::vault::record::{Account, Device, WakeFor};

/// Requests of an app, made with its key.
pub trait AppService: Clone + Send + Sync + 'static {
    /// Registers the account once, seals it and keeps it; or keeps nothing. `source`: the address that asks, for the limits.
    fn enable(
        &self,
        app: &str,
        source: IpAddr,
        request: Enable,
    ) -> impl Future<Output = Result<Enabled, EnableError>> + Send;

    /// The other node that may have a call for the device that is to be enabled, or has its account registered: it is asked to enable it.
    fn node_to_enable_at(&self, _app: &str, _request: &Enable) -> impl Future<Output = Option<Owner>> + Send {
        async { None }
    }

    /// Whether this node has a call for the device that is to be enabled, or has its account registered.
    fn is_to_be_enabled_here(&self, _app: &str, _request: &Enable) -> impl Future<Output = bool> + Send {
        async { false }
    }

    /// Walks an account's path, and keeps nothing of it.
    fn examine(
        &self,
        app: &str,
        source: IpAddr,
        patient: Patient,
    ) -> impl Future<Output = Result<Report, ExamineError>> + Send;
}

/// Why an account is not examined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExamineError {
    /// Too many wrong passwords, of this account or from this address.
    TooManyFailures {
        /// How long to wait, in seconds.
        retry_after_s: u64,
    },
    /// So many are being examined, for this app, from this address or in all, that this one must wait.
    Busy,
}

/// An app's request to enable push. Its fields are checked: URIs parse, tokens have their provider's form, the lifetime is within the operator's
/// range.
#[derive(Clone, PartialEq)]
pub struct Enable {
    /// The SIP account that is lent.
    pub account: Account,
    /// The device to wake.
    pub device: Device,
    /// How long, in seconds; within the configured range, at most 6 days.
    pub lifetime_s: u64,
    /// The events that wake the device.
    pub wake_for: WakeFor,
}

impl fmt::Debug for Enable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enable(..)")
    }
}

/// The answer to an enabling.
#[derive(Clone, Debug, PartialEq)]
pub struct Enabled {
    /// The new instance.
    pub instance: InstanceId,
    /// The secret that proves the device from now on; handed out this once.
    pub secret: InstanceSecret,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// How the registration stands: `Registered` is answered 201, anything else 202.
    pub registration: Registration,
    /// The address at which the device connects.
    pub edge: EdgeAddress,
}

/// Why an enabling was not done. Nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnableError {
    /// The operator does not serve the AOR's domain.
    #[error("the SIP domain is not allowed here")]
    DomainNotAllowed,
    /// The registrar or the proxy resolves only to addresses that this relay does not connect to.
    #[error("the SIP server's address is not allowed here")]
    AddressNotAllowed,
    /// The account asks for a transport that the operator did not name.
    #[error("the SIP transport is not allowed here")]
    TransportNotAllowed,
    /// The account's server is reached by UDP alone, at addresses that the relay's socket does not send to.
    #[error("no datagram from here reaches the SIP server")]
    NotSendable,
    /// The name of the registrar or the proxy leads to no address at all.
    #[error("the SIP server has no address")]
    UpstreamNotFound,
    /// The SIP server refused the account for good.
    #[error("the SIP server refused the account with {status}")]
    UpstreamRefused {
        /// The SIP status, 300 to 699.
        status: u16,
        /// The refusal's consequence for the account.
        reason: Refusal,
    },
    /// Too many wrong passwords were tried for this account, or from this address.
    #[error("too many wrong passwords")]
    TooManyFailures {
        /// How long to wait, 1 to 900 seconds.
        retry_after_s: u64,
    },
    /// This account has as many instances as it may.
    #[error("this account has as many instances as it may")]
    TooManyOfAccount,
    /// The App, or the address that asks, has as many instances as it may.
    #[error("the app or its address has as many instances as it may")]
    TooManyOfAppOrSource,
    /// The store does not answer.
    #[error("the store is away")]
    StoreAway,
    /// The store may write to a disk, which the operator forbids.
    #[error("the store may write to a disk")]
    StoreMayPersist,
    /// This node holds as many instances as it may.
    #[error("this relay is full")]
    TooMany,
    /// This node is shutting down.
    #[error("this relay is shutting down")]
    Draining,
    /// The same device was enabled later at another node, and that one stands. Nothing is kept.
    #[error("a later enabling of the device stands")]
    Overtaken,
    /// The instance ended while it was being enabled: an operator has wiped it, its push token is dead, or its SIP server took its word back. Nothing
    /// is kept.
    #[error("the instance ended while it was being enabled")]
    Ended {
        /// Why, where that is known.
        reason: Option<WipeReason>,
    },
    /// The app has hung up: nobody reads this.
    #[error("the app has hung up")]
    HungUp,
}

/// Why a SIP server refused an account, in words of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The SIP server refused the user name and password (or HA1).
    Credentials,
    /// Likewise, and the user name has a character that servers hash in different ways (RFC 7616 §3.4.2).
    EscapedCredentials,
    /// The SIP server asks for another realm than the HA1s were made for.
    Realm,
    /// The SIP server asks for an algorithm for which no HA1 was given.
    Algorithm,
    /// The SIP server offers no digest that this relay makes.
    Digest,
    /// Its digest challenge cannot be read.
    Challenge,
    /// The SIP server does not know the AOR.
    UnknownUser,
    /// The SIP server forbids this registration.
    Forbidden,
    /// The SIP server sends the registration elsewhere, or by another transport (3xx).
    Moved,
    /// Something else; the status tells.
    Other,
}

impl Refusal {
    /// The meaning of a final status to a REGISTER with credentials.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 407 => Self::Credentials,
            403 => Self::Forbidden,
            300..=399 => Self::Moved,
            404 | 410 | 604 => Self::UnknownUser,
            _ => Self::Other,
        }
    }
}
