//! The REGISTER as it is written (RFC 3261 §10.2, RFC 5626 §4.2, RFC 3327 §5.1, RFC 5627 §4.1).
//!
//! Invariant: as long as a binding is registered from here it has one Call-ID, one From tag and one Contact, so that a registrar never keeps two of it. A
//! binding that is taken up again has another Call-ID, because its CSeq begins anew.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Challenger;
use crate::flow::Transport;
use crate::id::{BindingId, BranchId};
use crate::message::{Composer, Method, Name};

/// The transports that Contacts name.
pub const CONTACT_TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// The transports of Contacts, as bits in the order of [`CONTACT_TRANSPORTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ways(u8);

impl Ways {
    fn of(transport: Transport) -> Self {
        Self(match transport {
            Transport::Udp => 1,
            Transport::Tcp => 2,
            Transport::Tls | Transport::Wss => 4,
        })
    }
}

/// The transports by which Contacts of a binding may be registered, and the one by which the last REGISTER went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contacts {
    may_stand: Ways,
    latest: Ways,
}

impl Contacts {
    /// A REGISTER goes by this transport. `registers`: not to unregister.
    pub(super) fn on_sent(&mut self, transport: Transport, registers: bool) {
        self.latest = Ways::of(transport);
        if registers {
            self.may_stand.0 |= self.latest.0;
        }
    }

    /// Whether the last REGISTER went by this transport.
    pub(super) fn is_latest(self, transport: Transport) -> bool {
        self.latest == Ways::of(transport)
    }

    /// The transports other than the last REGISTER's.
    pub(super) fn others(self) -> Ways {
        Ways(self.may_stand.0 & !self.latest.0)
    }

    /// Whether none was registered from here.
    pub(super) fn is_none(self) -> bool {
        self.may_stand == Ways::default()
    }

    /// Forgets the other Contacts, which are gone or are to be named no more; returns whether there were any.
    pub(super) fn forget_others(&mut self) -> bool {
        let had = self.others() != Ways::default();
        self.may_stand.0 &= self.latest.0;
        had
    }
}

/// The parts of a request that the endpoint adds.
#[derive(Debug)]
pub struct RequestContext<'a> {
    /// Request-URI.
    pub registrar: &'a str,
    /// Transport of the flow.
    pub transport: Transport,
    /// `host:port` of this relay on that transport.
    pub local: &'a str,
    /// `host:port` of this relay on each transport that Contacts name, in the order of [`CONTACT_TRANSPORTS`].
    pub hosts: [&'a str; 3],
    /// The client transaction.
    pub branch: BranchId,
    /// A tag that stays for the life of the endpoint; makes Call-ID and From tag its own after a restart.
    pub epoch: &'a str,
}

/// `host:port` of another relay on each transport, as its Contacts name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactHosts {
    /// UDP.
    pub udp: Box<str>,
    /// TCP.
    pub tcp: Box<str>,
    /// TLS.
    pub tls: Box<str>,
}

impl ContactHosts {
    pub(super) fn on(&self, transport: Transport) -> &str {
        match transport {
            Transport::Udp => &self.udp,
            Transport::Tcp => &self.tcp,
            Transport::Tls | Transport::Wss => &self.tls,
        }
    }
}

/// The parts of a REGISTER that the binding adds.
pub(super) struct RegisterRequest<'a> {
    pub(super) binding: BindingId,
    pub(super) aor: &'a str,
    pub(super) cseq: u32,
    /// Lifetime in seconds; 0 unregisters.
    pub(super) expires: u32,
    /// The number of this registration among those of its Contact.
    pub(super) generation: u32,
    /// `+sip.instance`.
    pub(super) instance: [u8; 16],
    /// Whether to ask for RFC 5626.
    pub(super) outbound: bool,
    /// The earlier relays at which it was registered, whose Contacts are removed.
    pub(super) earlier: &'a [Arc<ContactHosts>],
    /// Only the first of these is named.
    pub(super) is_earlier_alone: bool,
    /// Nothing was granted from here, and nothing is to be: the Contacts of the earlier relays come first, for some registrars read, or take, one.
    pub(super) is_theirs: bool,
    /// A Contact of this relay may stand all the same.
    pub(super) is_ours_too: bool,
    /// The other transports by which it was registered from here, whose Contacts are removed, too.
    pub(super) others: Ways,
    pub(super) answers: &'a [(Challenger, String)],
}

impl RegisterRequest<'_> {
    pub(super) fn write(&self, head: &RequestContext<'_>) -> Bytes {
        let Self { binding, aor, cseq, generation, expires, .. } = *self;
        let (transport, local, epoch) = (head.transport, head.local, head.epoch);
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        let via = format!("SIP/2.0/{} {local};branch={}{rport}", transport.via(), head.branch);
        let supported = if self.outbound { "path, outbound, gruu" } else { "path, gruu" };
        let request = Composer::request(Method::Register, head.registrar)
            .header(Name::Via, via)
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<{aor}>;tag={epoch}"))
            .header(Name::To, format_args!("<{aor}>"))
            .header(Name::CallId, format_args!("{binding}.{generation}.{epoch}"))
            .header(Name::CSeq, format_args!("{cseq} REGISTER"))
            .header(Name::Contact, self.contact(head))
            .header(Name::Expires, expires)
            .header(Name::Supported, supported)
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")));
        let answers = self.answers.iter();
        answers
            .fold(request, |request, (challenger, value)| request.header(challenger.credentials_header(), value))
            .finish()
    }

    fn contact(&self, head: &RequestContext<'_>) -> String {
        // Relays behind one name have one Contact.
        let earlier = self.earlier.iter().map(|hosts| hosts.on(head.transport));
        let mut earlier = earlier.filter(|host| *host != head.local);
        if self.is_earlier_alone {
            // Without `+sip.instance`: a registrar may take the Contact for another one by that.
            return format!("{};expires=0", self.contact_uri(head.transport, earlier.next().unwrap_or(head.local)));
        }
        let first = if self.is_theirs { earlier.next() } else { None };
        let mut contact = self.contact_uri(head.transport, first.unwrap_or(head.local));
        contact += &format!(";+sip.instance=\"<urn:uuid:{}>\"", Uuid(self.instance));
        if self.outbound {
            contact += ";reg-id=1";
        }
        contact += &format!(";expires={}", self.expires);
        if first.is_some() && self.is_ours_too {
            contact += &format!(", {};expires=0", self.contact_uri(head.transport, head.local));
        }
        for host in earlier {
            contact += &format!(", {};expires=0", self.contact_uri(head.transport, host));
        }
        for (transport, host) in CONTACT_TRANSPORTS.into_iter().zip(head.hosts) {
            if self.others.0 & Ways::of(transport).0 != 0 {
                contact += &format!(", {};expires=0", self.contact_uri(transport, host));
            }
        }
        contact
    }

    fn contact_uri(&self, transport: Transport, host: &str) -> String {
        let param = match transport {
            Transport::Udp => String::new(),
            other => format!(";transport={}", other.param()),
        };
        format!("<sip:{}@{host}{param}>", self.binding)
    }
}

/// A UUID's text form (RFC 9562 §4).
pub(super) struct Uuid(pub(super) [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
