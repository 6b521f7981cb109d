//! The request that the Contacts of a device's REGISTER make (RFC 3261 §10.3 steps 6 to 8, RFC 5626 §6).
//!
//! | its Contacts | the request |
//! | --- | --- |
//! | none | to be told what stands |
//! | one that lasts, whatever else is removed beside it | to be reached by that one; of several, by the first |
//! | removals alone | to be reached no longer, where one of them is its Contact, or all are meant by `*` |
//! | `*` beside another, or that lasts; nothing that is an address; one longer than [`CONTACT_BYTES`] | what nobody can do |
//!
//! A phone that has changed its network removes its old Contact in the REGISTER that brings the new one, or afterwards.
//!
//! Invariant: a removal is reported with the Contacts that it names, so that the owner of a registration compares them before it forgets.

use std::cell::LazyCell;

use crate::message::{Message, Name, Party, Uri, unquote};

/// Bounds of a device's registration at the edge, and what it gets when it asks for nothing, in seconds.
const EXPIRES: (u32, u32, u32) = (10, 3600, 600);

/// Bytes of a device's Contact, its URI and what names it beside that together: it is kept, and is in each request to the device.
pub const CONTACT_BYTES: usize = 4 * 1024;

/// The request that the Contacts of a device's REGISTER make.
#[derive(Debug, PartialEq, Eq)]
pub enum ContactRequest {
    /// No Contact: tell the registered one.
    Query,
    /// Each of them is to be removed.
    Remove(Vec<DeviceContact>),
    /// `*`: whatever stands is to be removed.
    RemoveAll,
    /// Registration of `contact` for `expires` seconds.
    Bind {
        /// The Contact.
        contact: DeviceContact,
        /// Within the bounds of a device's registration.
        expires: u32,
    },
    /// Contacts that ask for nothing that can be done; a 200 would be taken for it.
    Malformed,
}

/// A Contact of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceContact {
    /// The URI as written.
    pub uri: Box<str>,
    /// The `+sip.instance` and `reg-id`, which name the Contact in place of the URI (RFC 5626 §6); empty where it has not both.
    outbound: Box<str>,
}

impl ContactRequest {
    /// Reads a REGISTER.
    pub fn read(register: &Message) -> Self {
        let header = register.number(Name::Expires);
        let contacts = register.contacts();
        if register.elements(Name::Contact).any(|element| element == "*") {
            return if contacts.is_empty() && header == Some(0) { Self::RemoveAll } else { Self::Malformed };
        }
        if contacts.is_empty() {
            // Without a Contact it is a question; with one that is none, nobody knows what.
            return if register.has(Name::Contact) { Self::Malformed } else { Self::Query };
        }
        let (min, max, default) = EXPIRES;
        let expires = |contact: &Party<'_>| contact.expires(default).or(header).unwrap_or(default);
        match contacts.iter().find(|contact| expires(contact) > 0) {
            Some(contact) => match DeviceContact::of(contact) {
                kept if kept.len() > CONTACT_BYTES => Self::Malformed,
                kept => Self::Bind { contact: kept, expires: expires(contact).clamp(min, max) },
            },
            None => Self::Remove(contacts.iter().map(DeviceContact::of).collect()),
        }
    }
}

impl DeviceContact {
    fn of(contact: &Party<'_>) -> Self {
        let outbound = contact.params.value("+sip.instance").zip(contact.params.value("reg-id"));
        let outbound = outbound.map(|(instance, reg_id)| format!("{};{reg_id}", unquote(instance)));
        Self { uri: contact.target().unwrap_or_default().into(), outbound: outbound.unwrap_or_default().into() }
    }

    /// The bytes that it takes.
    fn len(&self) -> usize {
        self.uri.len() + self.outbound.len()
    }

    /// Whether one of these Contacts is of the same registration: by what RFC 5626 §6 names it with where both have it, else by their URIs
    /// (RFC 3261 §19.1.4). Its own is read once, however many they are.
    pub fn is_among(&self, others: &[Self]) -> bool {
        let own = LazyCell::new(|| Uri::parse(&self.uri));
        others.iter().any(|other| {
            if !self.outbound.is_empty() && !other.outbound.is_empty() {
                return self.outbound == other.outbound;
            }
            let is_equal = |own: &Uri<'_>| Uri::parse(&other.uri).is_some_and(|other| own.is_equivalent(&other));
            self.uri == other.uri || own.as_ref().is_some_and(is_equal)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Limits;

    fn read(lines: &str) -> ContactRequest {
        let text = format!("REGISTER sip:h SIP/2.0\r\n{lines}CSeq: 1 REGISTER\r\n\r\n");
        ContactRequest::read(&Message::parse(&text.into(), &Limits::default()).expect("a request"))
    }

    #[test]
    fn the_contact_that_lasts_counts_wherever_it_stands() {
        for lines in [
            "Contact: <sip:new@h>;expires=60\r\n",
            "Contact: <sip:old@h>;expires=0, <sip:new@h>;expires=60\r\n",
            "Contact: <sip:old@h>;expires=0\r\nm: <sip:new@h>;expires=60, <sip:third@h>\r\n",
            "Expires: 0\r\nContact: <sip:old@h>, <sip:new@h>;expires=60\r\n",
        ] {
            let ContactRequest::Bind { contact, expires } = read(lines) else { panic!("{lines}") };
            assert_eq!((&*contact.uri, expires), ("sip:new@h", 60), "{lines}");
        }
        let bound = |lines: &str| matches!(read(lines), ContactRequest::Bind { expires, .. } if expires == 600);
        assert!(bound("Contact: <sip:new@h>\r\n") && bound("Contact: <sip:new@h>;expires=soon\r\n"));
        assert!(bound("Contact: <sip:old@h>;expires=\"0\", <sip:new@h>;expires=\"600\"\r\n"));
        assert!(matches!(read("Contact: <sip:old@h>;expires=\"0\"\r\n"), ContactRequest::Remove(_)));
    }

    #[test]
    fn removals_name_what_they_remove() {
        let ContactRequest::Remove(named) = read("Expires: 0\r\nContact: <sip:a@h>, <sip:b@h>\r\n") else { panic!() };
        assert_eq!(named.iter().map(|it| &*it.uri).collect::<Vec<_>>(), ["sip:a@h", "sip:b@h"]);
        assert_eq!(read("Contact: *\r\nExpires: 0\r\n"), ContactRequest::RemoveAll);
        assert_eq!(read(""), ContactRequest::Query);
        for lines in [
            "Contact: *\r\n",
            "Contact: *\r\nExpires: 60\r\n",
            "Expires: 0\r\nContact: *, <sip:a@h>\r\n",
            "Expires: 0\r\nContact: <sip:a@h>\r\nContact: *\r\n",
            "Contact: <>\r\n",
        ] {
            assert_eq!(read(lines), ContactRequest::Malformed, "{lines}");
        }
    }

    #[test]
    fn a_contact_is_the_same_by_its_reg_id_or_by_its_uri() {
        let contact = |text: &str| match read(&format!("Contact: {text}\r\n")) {
            ContactRequest::Bind { contact, .. } => contact,
            other => panic!("{other:?}"),
        };
        let one = contact("<sip:a@h:5060>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"");
        let is_same = |other: &str| one.is_among(&[contact("<sip:else@h>"), contact(other)]);
        assert!(is_same("<sip:b@i>;+SIP.instance=\"<urn:uuid:1>\";Reg-ID=1"));
        assert!(!is_same("<sip:a@h:5060>;reg-id=2;+sip.instance=\"<urn:uuid:1>\""));
        assert!(is_same("<sip:%61@H:5060>"));
        assert!(!is_same("<sip:a@h>"));
        assert!(!one.is_among(&[]));
    }

    #[test]
    fn a_contact_that_is_too_long_to_keep_is_refused_and_may_be_removed() {
        let long = |bytes: usize| format!("sip:a@h;x={}", "y".repeat(bytes - "sip:a@h;x=".len()));
        let at_limit = format!("Contact: <{}>\r\n", long(CONTACT_BYTES));
        assert!(matches!(read(&at_limit), ContactRequest::Bind { .. }));
        for beyond in [
            format!("Contact: <{}>\r\n", long(CONTACT_BYTES + 1)),
            format!("Contact: <{}>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"\r\n", long(CONTACT_BYTES)),
            format!("Contact: <sip:a@h>;reg-id=1;+sip.instance=\"{}\"\r\n", "x".repeat(CONTACT_BYTES)),
        ] {
            assert_eq!(read(&beyond), ContactRequest::Malformed);
            assert!(matches!(read(&format!("Expires: 0\r\n{beyond}")), ContactRequest::Remove(_)));
        }
    }
}
