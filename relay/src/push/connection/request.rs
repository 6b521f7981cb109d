//! A request to a push service, and the ways in which it fails, the same for HTTP/1.1 and HTTP/2.
//!
//! Invariant: [`Failure::Unsent`] means that the service certainly did not process the request.

use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;

/// A POST.
#[derive(Clone)]
pub(crate) struct Request {
    /// The device that it is for, by [`name_of`](crate::push::health::device_faults::name_of); `None`: it is for no device.
    pub(crate) whom: Option<u64>,
    /// The path, from the slash on.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Why nothing came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The service certainly did not process the request; another try makes sense after the pause.
    Unsent { after: Option<Duration> },
    /// There are too many here that wait for it. That says nothing of the service; another try makes sense after the pause.
    NoPlace { after: Option<Duration> },
    /// The service may have processed it.
    Unconfirmed,
    /// The service lets nobody in who shows our certificate.
    ShutOut {
        /// The reason: one of the words of `reasons`.
        reason: &'static str,
    },
}
