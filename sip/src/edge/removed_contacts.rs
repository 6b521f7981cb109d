//! The Contacts that a device's REGISTER removes: those that are to last no longer (RFC 3261 §10.2.2).
//!
//! | Contact | the registration that it names |
//! | --- | --- |
//! | with `pn-provider` and `pn-prid` | the registration that is pushed for by them, wherever it is |
//! | with neither | the registration of its device, which only those know who have it |
//! | `*` | all registrations of the AOR, likewise |
//!
//! Invariant: a REGISTER does not remove the Contact that it registers.

use super::push_proxy::{RegisterIntent, contact_key, lasts_for};
use crate::flow::TokenKey;
use crate::id::InstanceId;
use crate::message::{Message, Party};

/// Contacts of one REGISTER that are looked at: as many as an AOR may have; what a further one names runs out.
const CONTACTS_MAX: usize = 16;

/// A Contact that is to last no longer.
#[derive(Clone, PartialEq, Eq)]
pub struct RemovedContact {
    /// The key that tells the AOR's devices apart, as [`RegisterIntent::contact`] has it; empty for `*`.
    pub contact: Box<str>,
    /// The registration that its push parameters name; `None` where it has none that can be read.
    pub instance: Option<InstanceId>,
}

/// The Contacts that a REGISTER removes, which was read as `intent`.
pub fn removed_contacts(register: &Message, intent: &RegisterIntent, key: &TokenKey) -> Vec<RemovedContact> {
    if intent.is_question {
        return Vec::new();
    }
    if intent.contact.is_empty() {
        return vec![RemovedContact { contact: Box::default(), instance: None }];
    }
    let registers = intent.expires > 0;
    let kept = intent.registration(key).map(|(instance, _)| instance);
    let ends = |contact: &Party<'_>| RemovedContact {
        contact: contact_key(contact),
        instance: intent.pushed_by(key, contact),
    };
    let contacts = register.contacts();
    let over = contacts.iter().filter(|contact| lasts_for(register, contact) == 0).map(ends);
    let is_kept = |it: &RemovedContact| match it.instance {
        // Another token of the same device, or of another one at the same address, is none of it.
        Some(named) => Some(named) == kept,
        None => registers && it.contact == intent.contact,
    };
    over.filter(|it| !is_kept(it)).take(CONTACTS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::push_proxy::{PushContact, identify, read};
    use crate::message::Limits;

    fn taken(contacts: &str, further: &str) -> Vec<(String, Option<InstanceId>)> {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TLS p;branch=z9hG4bK1\r\nFrom: <sip:alice@example.com>;tag=1\r\n\
             To: <sip:alice@example.com>\r\nCall-ID: i\r\nCSeq: 1 REGISTER\r\n{contacts}{further}\r\n"
        );
        let register = Message::parse(&text.into(), &Limits::default()).unwrap();
        let intent = read(&register, 0).unwrap();
        let taken = removed_contacts(&register, &intent, &TokenKey::new([7; 32]));
        taken.into_iter().map(|it| (it.contact.into(), it.instance)).collect()
    }

    fn named(prid: &str) -> Option<InstanceId> {
        let push = PushContact { provider: "fcm".into(), param: None, prid: prid.into() };
        Some(identify(&TokenKey::new([7; 32]), "sip:alice@example.com", "sip:example.com", &push))
    }

    #[test]
    fn what_is_to_last_no_longer_is_named_by_its_push_parameters_or_by_its_device() {
        let (pushed, plain) = ("Contact: <sip:a@h;pn-provider=fcm;pn-prid=t>", "Contact: <sip:a@h>");
        assert_eq!(taken(&format!("{pushed};expires=0\r\n"), ""), [("sip:a@h".into(), named("t"))]);
        assert_eq!(taken(&format!("{plain}\r\n"), "Expires: 0\r\n"), [("sip:a@h".into(), None)]);
        assert_eq!(taken("Contact: *\r\n", "Expires: 0\r\n"), [(String::new(), None)]);
        assert_eq!(
            taken("Contact: <sip:a@h;pn-provider=fcm;pn-prid=%4>;expires=0\r\n", ""),
            [("sip:a@h".into(), None)],
            "what cannot be read names nobody"
        );
        for goes_on in [format!("{pushed}\r\n"), format!("{pushed};expires=oops\r\n"), String::new()] {
            assert_eq!(taken(&goes_on, ""), [], "{goes_on}");
        }
    }

    #[test]
    fn what_a_device_registers_is_not_taken_back_with_its_earlier_contact() {
        let (new, old) =
            ("Contact: <sip:a@h:2;pn-provider=fcm;pn-prid=t>\r\n", "Contact: <sip:a@h:1;pn-provider=fcm;pn-prid");
        assert_eq!(taken(&format!("{new}{old}=t>;expires=0\r\n"), ""), []);
        assert_eq!(taken(&format!("{old}=s>;expires=0\r\n{new}"), ""), [("sip:a@h:1".into(), named("s"))]);
        let many: String = (0..100).map(|port| format!("Contact: <sip:a@h:{port}>;expires=0\r\n")).collect();
        assert_eq!(taken(&many, "").len(), CONTACTS_MAX);
    }
}
