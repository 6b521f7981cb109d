//! What a registrar's 2xx says: for how long, and beside that.
//!
//! | header | RFC | what is taken from it |
//! | --- | --- | --- |
//! | Contact; expires, Expires | 3261 §10.2.4 | the lifetime of *our* Contact, whoever else is registered |
//! | Contact; pub-gruu, temp-gruu | 5627 §4.2 | the names that reach this binding from anywhere |
//! | Service-Route | 3608 §6.1 | the way of requests out of dialog that the relay sends for the account |
//! | P-Associated-URI | 7315 §4.1 | the account's other addresses of record |
//! | Via; received, rport | 3581 §4 | how the SIP server sees this relay |
//! | Flow-Timer | 5626 §4.4 | how often it wants a sign of life |
//!
//! Path (RFC 3327) is the registrar's own affair: it is asked for and its echo is let pass.
//!
//! Invariant: of each list at most [`LIST_MAX`] entries are kept, of at most [`ENTRY_BYTES`] each; the rest is left out.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::id::BindingId;
use crate::message::{Message, Name, NameAddr, unquote};

/// Entries of one list that are kept.
pub const LIST_MAX: usize = 16;
/// Bytes of one entry; a longer one is left out.
pub const ENTRY_BYTES: usize = 512;

/// What a registrar tells beside the registration. Empty for most.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Learned {
    /// The account's addresses of record, the default one first (RFC 7315 §4.1); empty when the server names none.
    pub associated: Vec<Box<str>>,
    /// Reaches this binding from anywhere, for as long as the account has this device (RFC 5627 §3.1).
    pub public_gruu: Option<Box<str>>,
    /// Likewise, without telling whose it is (RFC 5627 §3.2); another one with each registration.
    pub temporary_gruu: Option<Box<str>>,
    /// Values of Route, in order, of a request out of dialog that is sent for the account (RFC 3608 §6.1).
    pub service_route: Vec<Box<str>>,
}

impl Learned {
    /// Reads a 2xx to a REGISTER of `binding`.
    pub(super) fn read(binding: BindingId, response: &Message) -> Self {
        let contacts = response.contacts().unwrap_or_default();
        let ours = own(&contacts, binding);
        let gruu = |name| {
            let value = ours.and_then(|contact| contact.params.value(name)).map(unquote);
            value.filter(|uri| uri.len() <= ENTRY_BYTES && crate::message::Uri::parse(uri).is_some()).map(Into::into)
        };
        let list = |name| response.elements(name).filter(|value| value.len() <= ENTRY_BYTES).take(LIST_MAX);
        let sound = |value: &&str| NameAddr::parse(value).is_some();
        Self {
            associated: list(Name::PAssociatedUri)
                .filter_map(|value| NameAddr::parse(value).map(|address| address.uri.text.into()))
                .collect(),
            public_gruu: gruu("pub-gruu"),
            temporary_gruu: gruu("temp-gruu"),
            service_route: list(Name::ServiceRoute).filter(sound).map(Into::into).collect(),
        }
    }

    /// A number that another content has not, for all that matters.
    pub(super) fn digest(&self) -> u64 {
        // Keys are fixed, so that the same inputs give the same outputs.
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    /// Whether there is anything in it.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for Learned {
    /// Shows what there is and none of it: these are people's addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned")
            .field("associated", &self.associated.len())
            .field("public_gruu", &self.public_gruu.is_some())
            .field("temporary_gruu", &self.temporary_gruu.is_some())
            .field("service_route", &self.service_route.len())
            .finish()
    }
}

/// The lifetime that a 2xx grants to the Contact of `binding` (RFC 3261 §10.2.4); `asked` when it names none, in seconds.
pub(super) fn lifetime(binding: BindingId, response: &Message, asked: u32) -> Duration {
    let contacts = response.contacts().unwrap_or_default();
    let param = own(&contacts, binding).and_then(|contact| contact.params.value("expires"));
    let seconds = param.and_then(|value| unquote(value).parse().ok()).or_else(|| response.number(Name::Expires));
    Duration::from_secs(u64::from(seconds.unwrap_or(asked)))
}

/// Where the SIP server saw our request come from (RFC 3261 §18.2.1, RFC 3581 §4); `None` when it says nothing or only half.
pub fn seen_from(response: &Message) -> Option<SocketAddr> {
    let via = response.via()?;
    let ip: IpAddr = via.params.value("received")?.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let port: u16 = via.params.value("rport")?.parse().ok().filter(|port| *port != 0)?;
    Some(SocketAddr::new(ip, port))
}

/// The keep-alive interval that the registrar wants (RFC 5626 §4.4).
pub fn flow_timer(response: &Message) -> Option<Duration> {
    response.number(Name::FlowTimer).filter(|seconds| *seconds > 0).map(|seconds| Duration::from_secs(seconds.into()))
}

fn own<'m, 'a>(contacts: &'m [NameAddr<'a>], binding: BindingId) -> Option<&'m NameAddr<'a>> {
    let text = binding.to_string();
    contacts.iter().find(|contact| contact.uri.user == Some(text.as_str()))
}
