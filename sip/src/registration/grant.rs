//! Reading a registrar's 2xx: the granted lifetime, and what comes with it.
//!
//! | header | RFC | what is taken from it |
//! | --- | --- | --- |
//! | Contact; expires, Expires | 3261 §10.2.4 | the lifetime of *our* Contact among all that are registered |
//! | Contact; pub-gruu, temp-gruu | 5627 §4.2 | the names that reach this binding from anywhere |
//! | Service-Route | 3608 §6.1 | the way of requests out of dialog that the relay sends for the account |
//! | Via; received, rport | 3581 §4 | how the SIP server sees this relay |
//! | Flow-Timer | 5626 §4.4 | how often it wants a sign of life |
//!
//! Path (RFC 3327) is the registrar's own affair: it is asked for and its echo is let pass.
//!
//! Invariant: of each list at most [`LIST_MAX`] entries are kept, of at most [`ENTRY_BYTES`] each; the rest is left out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::request::Uuid;
use crate::id::BindingId;
use crate::message::{Message, Name, NameAddr, Party, Via, saturating_digits, unquote};

/// Entries of one list that are kept.
pub const LIST_MAX: usize = 16;
/// Bytes of one entry; a longer one is left out.
pub const ENTRY_BYTES: usize = 512;

/// GRUUs and Service-Route of a binding. Empty for most.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct RegistrarInfo {
    /// URIs that reach this binding from anywhere (RFC 5627 §3.1, §3.2): a public and a temporary GRUU, or none.
    pub(crate) gruus: Vec<Box<str>>,
    /// Values of Route, in order, of a request out of dialog that is sent for the account (RFC 3608 §6.1).
    pub(crate) service_route: Vec<Box<str>>,
}

/// The Contact that a REGISTER had, as a registrar may write it.
#[derive(Clone, Copy)]
pub(super) struct OwnContact {
    /// Its user.
    pub(super) binding: BindingId,
    /// Its `+sip.instance`.
    pub(super) instance: [u8; 16],
}

impl OwnContact {
    /// The Contacts with its user.
    fn named<'a>(&self, response: &'a Message) -> Vec<Party<'a>> {
        response.contacts_of(&self.binding.to_string())
    }

    /// The Contacts with its `+sip.instance` and `reg-id`, which name it whatever its URI is (RFC 5626 §6).
    fn of_instance<'a>(&self, response: &'a Message) -> Vec<Party<'a>> {
        let urn = format!("urn:uuid:{}", Uuid(self.instance));
        let is_ours = |contact: &Party<'_>| {
            let instance = contact.params.value("+sip.instance").map(unquote);
            let same = instance.is_some_and(|it| it.trim_matches(['<', '>']).eq_ignore_ascii_case(&urn));
            same && contact.params.value("reg-id").is_none_or(|id| unquote(id) == "1")
        };
        response.contacts().into_iter().filter(is_ours).collect()
    }
}

impl RegistrarInfo {
    /// Reads a 2xx to a REGISTER.
    pub(super) fn read(contact: OwnContact, response: &Message) -> Self {
        let ours = own(response, contact, u32::MAX);
        let gruu = |name| {
            let value = ours.and_then(|contact| contact.params.value(name)).map(unquote);
            value.filter(|uri| uri.len() <= ENTRY_BYTES && crate::message::Uri::parse(uri).is_some()).map(Into::into)
        };
        let list = |name| response.elements(name).filter(|value| value.len() <= ENTRY_BYTES).take(LIST_MAX);
        let sound = |value: &&str| NameAddr::parse(value).is_some();
        Self {
            gruus: ["pub-gruu", "temp-gruu"].into_iter().filter_map(gruu).collect(),
            service_route: list(Name::ServiceRoute).filter(sound).map(Into::into).collect(),
        }
    }

    /// Whether the registrar told nothing.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Debug for RegistrarInfo {
    /// Shows what there is and none of it: these are people's addresses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrarInfo")
            .field("gruus", &self.gruus.len())
            .field("service_route", &self.service_route.len())
            .finish()
    }
}

/// The lifetime that a 2xx grants to our Contact (RFC 3261 §10.2.4); `asked` when it names none, in seconds. A 2xx lists all that is registered: one
/// that stands there alone is ours, whatever was made of it, unless it has ended.
pub(super) fn lifetime(contact: OwnContact, response: &Message, asked: u32) -> Duration {
    let sole = || match response.contacts()[..] {
        [sole] => expires(&sole).filter(|seconds| *seconds > 0).map(|seconds| seconds.min(asked)),
        _ => None,
    };
    let seconds = match own(response, contact, asked) {
        Some(own) => expires(&own),
        None => sole(),
    };
    let seconds = seconds.or_else(|| response.number(Name::Expires));
    Duration::from_secs(u64::from(seconds.unwrap_or(asked)))
}

/// How long our Contact still stands, as a 2xx to its unregistration says; zero when it is not listed with time left (RFC 3261
/// §10.3 step 8). One of our user that leads elsewhere is another node's.
pub(super) fn left(contact: OwnContact, response: &Message) -> Duration {
    let mut ours = contact.named(response);
    if ours.is_empty() {
        ours = contact.of_instance(response);
    } else {
        ours.retain(|contact| sameness(contact, response.via().as_ref()) == (true, true));
    }
    let left = ours.iter().filter_map(|contact| expires(contact).or_else(|| response.number(Name::Expires)));
    Duration::from_secs(u64::from(left.max().unwrap_or_default()))
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

/// The Contact that the REGISTER had, among all that a registrar names: by its user, host, port and transport (RFC 3261
/// §10.2.4, §19.1.4). Where none is the same, as behind a server that rewrites hosts, it is the one of our user that lasts
/// longest, but not longer than `asked`: an older one of an earlier host has the same user, and less time left or another
/// time altogether. The REGISTER named our host in its Via, too, and the response brings that back. Where none has our user, as behind a server that
/// writes URIs of its own, it is the one of our instance.
fn own(response: &Message, contact: OwnContact, asked: u32) -> Option<Party<'_>> {
    let via = response.via();
    let rank =
        |contact: &Party<'_>| (sameness(contact, via.as_ref()), expires(contact).filter(|seconds| *seconds <= asked));
    let named = contact.named(response);
    let ours = if named.is_empty() { contact.of_instance(response) } else { named };
    ours.into_iter().max_by_key(rank)
}

/// Whether a Contact leads where the request's Via leads: to its host and port; and by its transport, too.
fn sameness(contact: &Party<'_>, via: Option<&Via<'_>>) -> (bool, bool) {
    let Some((uri, via)) = contact.uri().zip(via) else { return (false, false) };
    let same_place = match uri.port {
        Some(port) => via.is_sent_by(&format!("{}:{port}", uri.host)),
        None => via.is_sent_by(uri.host),
    };
    let transport = uri.transport().unwrap_or("udp");
    (same_place, same_place && transport.eq_ignore_ascii_case(via.transport))
}

fn expires(contact: &Party<'_>) -> Option<u32> {
    saturating_digits(unquote(contact.params.value("expires")?).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardTag;
    use crate::message::Limits;

    #[test]
    fn a_contact_is_the_own_one_however_its_registrar_writes_where_it_leads() {
        let binding = BindingId::new(1 << 64, ShardTag(0));
        for (via, contact, seconds) in [
            ("TLS relay.test:5061", "relay.test;transport=tls", 571),
            ("TLS relay.test", "RELAY.test.:5061;transport=TLS", 571),
            ("UDP relay.test", "relay.test:5060", 571),
            ("UDP [2001:db8::1]:5070", "[2001:DB8:0:0::1]:5070", 571),
            ("UDP relay.test", "relay.test:5061", 0),
            ("TLS relay.test:5061", "relay.test:5061", 0),
            ("TLS relay.test:5061", "relay.test:5062;transport=tls", 0),
            ("TLS relay.test:5061", "other.test;transport=tls", 0),
        ] {
            let text = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/{via};branch=z9hG4bK1\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\n\
                 Contact: <sip:{binding}@{contact}>;expires=571\r\n\r\n"
            );
            let response = Message::parse(&text.into(), &Limits::default()).unwrap();
            assert_eq!(left(own_contact(1), &response), Duration::from_secs(seconds), "{via} {contact}");
        }
    }

    #[test]
    fn a_contact_whose_uri_the_registrar_has_changed_is_known_by_its_instance_or_because_it_stands_alone() {
        let ours = "+sip.instance=\"<URN:uuid:ABABABAB-abab-abab-abab-abababababab>\"";
        let other = "<sip:o@192.0.2.1>;expires=900;+sip.instance=\"<urn:uuid:1>\";reg-id=1";
        for (contacts, granted, still) in [
            (format!("<sip:m@203.0.113.9>;expires=20;{ours};reg-id=1, {other}"), 20, 20),
            (format!("{other}, <sip:m@203.0.113.9>;{ours};expires=20;reg-id=\"1\""), 20, 20),
            (format!("<sip:m@203.0.113.9>;expires=20;{ours}, {other}"), 20, 20),
            (format!("<sip:m@203.0.113.9>;expires=20;{ours};reg-id=2, {other}"), 600, 0),
            (format!("<sip:m@203.0.113.9>;expires=20, {other}"), 600, 0),
            ("<sip:m@203.0.113.9>;expires=20".to_owned(), 20, 0),
            ("<sip:m@203.0.113.9>;expires=0".to_owned(), 600, 0),
        ] {
            let text = format!(
                "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP relay.test;branch=z9hG4bK1\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\n\
                 Contact: {contacts}\r\n\r\n"
            );
            let response = Message::parse(&text.into(), &Limits::default()).unwrap();
            assert_eq!(lifetime(own_contact(1), &response, 600), Duration::from_secs(granted), "{contacts}");
            assert_eq!(left(own_contact(1), &response), Duration::from_secs(still), "{contacts}");
        }
    }

    fn own_contact(number: u128) -> OwnContact {
        OwnContact { binding: BindingId::new(number << 64, ShardTag(0)), instance: [0xab; 16] }
    }

    #[test]
    fn a_registrar_s_names_and_service_route_are_read_and_not_shown() {
        let binding = BindingId::new(1 << 64, ShardTag(0));
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP r;branch=z9hG4bK1\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
             To: <sip:alice@example.com>;tag=2\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\n\
             Contact: <sip:other@relay.test>;pub-gruu=\"sip:bob@example.com;gr=x\"\r\n\
             Contact: <sip:{binding}@relay.test:5070>;expires=600;pub-gruu=\"sip:alice@example.com;gr=urn:uuid:x\";\
             temp-gruu=\"sip:tgruu.7hs==@example.com;gr\"\r\n\
             Service-Route: <sip:p1.example.com;lr>,<sip:p2.example.com;lr>\r\n\r\n"
        );
        let response = Message::parse(&text.into(), &Limits::default()).unwrap();
        let info = RegistrarInfo::read(own_contact(1), &response);
        assert_eq!(info.gruus, ["sip:alice@example.com;gr=urn:uuid:x".into(), "sip:tgruu.7hs==@example.com;gr".into()]);
        assert_eq!(info.service_route, ["<sip:p1.example.com;lr>".into(), "<sip:p2.example.com;lr>".into()]);
        assert!(!format!("{info:?}").contains("alice"));
        assert!(RegistrarInfo::read(own_contact(2), &response).gruus.is_empty(), "another's Contact");
    }
}
