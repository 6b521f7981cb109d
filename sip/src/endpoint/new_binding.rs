//! The facts that a device brings to a binding.
//!
//! Invariant: nothing here holds a credential of the account.

use std::fmt;
use std::sync::Arc;

use crate::id::{BindingId, InstanceId, UpstreamId};
use crate::registration::ContactHosts;

/// Whether an app registers for itself at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The app is awake and registered by itself; the relay keeps the lease and does not register.
    Foreground,
    /// The relay registers.
    Background,
}

/// The share that a device has in a binding, which is registered and refreshed until its last device is unbound. Where several devices share a
/// binding, the first one determines what is registered; the others name the same account.
#[derive(Clone)]
pub struct NewBinding {
    /// The opaque user of its Contact.
    pub binding: BindingId,
    /// The device; it gets the calls of the binding once it is proven.
    pub instance: InstanceId,
    /// The address of record, with its scheme.
    pub aor: Box<str>,
    /// The Request-URI of REGISTER: the registrar, without a user.
    pub registrar: Box<str>,
    /// The SIP server or outbound proxy that requests are sent to; [`Output::Dial`](super::Output::Dial) asks for a flow to it.
    pub upstream: UpstreamId,
    /// `+sip.instance`, a UUID.
    pub sip_instance: [u8; 16],
    /// A device whose app is in the foreground is not registered.
    pub presence: Presence,
    /// Whether the SIP server has accepted this device's credentials before. A device that is not proven gets no call: the
    /// binding is registered again with its credentials first.
    pub proven: bool,
    /// Another device of the binding with identical credentials, if there is one: a verdict of the SIP server on either holds for both.
    pub same_as: Option<InstanceId>,
    /// The Contacts of the relays that had the device before and are gone or leaving. The next REGISTER, which follows at once, removes them.
    pub taken_from: Vec<Arc<ContactHosts>>,
}

impl fmt::Debug for NewBinding {
    /// Shows nothing of the account.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewBinding({}, {})", self.binding, self.instance)
    }
}

/// An instance that another node has.
#[derive(Clone, Debug)]
pub struct KnownElsewhere {
    /// The instance.
    pub instance: InstanceId,
    /// Its SIP server; [`Event::UpstreamReleased`](super::Event::UpstreamReleased) follows once.
    pub upstream: UpstreamId,
    /// The Request-URI of REGISTERs there.
    pub registrar: Box<str>,
}
