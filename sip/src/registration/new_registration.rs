//! The facts that a registration begins with.
//!
//! Invariant: no credential is among them, nor anything that the registrar has said.

use std::time::Duration;

use super::Goal;
use crate::id::{BindingId, InstanceId, UpstreamId};

/// The facts of a binding that is to be registered.
pub struct NewRegistration {
    /// The opaque user of its Contact.
    pub binding: BindingId,
    /// The device whose credentials are shown.
    pub instance: InstanceId,
    /// The SIP server or outbound proxy that REGISTERs are sent to.
    pub upstream: UpstreamId,
    /// The address of record, with its scheme.
    pub aor: Box<str>,
    /// `+sip.instance`, a UUID.
    pub sip_instance: [u8; 16],
    /// The lifetime to ask for, from 5 seconds to 24 hours; cut to that.
    pub expires: Duration,
    /// Another number than any earlier registration's of this process.
    pub generation: u32,
    /// The state that it is to reach first.
    pub goal: Goal,
}
