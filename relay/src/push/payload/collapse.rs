//! Collapse keys of pushes about the same thing, of which the newest is enough: copies of a push whose answer was lost, and later states of one subject.
//!
//! | push | subject |
//! | --- | --- |
//! | `message`, `missed-call` | that message, that call |
//! | `voicemail` | the mailbox |
//! | `renew`, `expiring`, `expired` | the lease |
//! | `registration-failing`, `-restored`, `-lost` | the registration |
//!
//! APNs shows one notification for a key (`apns-collapse-id`), and Web Push keeps one push for an absent device (`Topic`, RFC 8030 §5.4). FCM gets no key: it
//! keeps four keys for a device, and silently drops others.
//!
//! Invariant: a key tells nothing but that two pushes to a device are about the same thing. A call has no key.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::header::HeaderValue;

use crate::push::{Event, Push};

/// Bytes of a hash that make a key: 22 characters. APNs takes 64, Web Push 32.
const KEY_BYTES: usize = 16;

/// The subject of an instance's pushes, within which a newer one replaces an older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The mailbox.
    Mailbox,
    /// The lease.
    Lease,
    /// The registration.
    Registration,
}

impl Event {
    /// The subject, where a newer push says all that an older one does.
    pub fn subject(self) -> Option<Subject> {
        match self {
            Event::Voicemail => Some(Subject::Mailbox),
            Event::Renew | Event::Expiring | Event::Expired => Some(Subject::Lease),
            Event::RegistrationFailing | Event::RegistrationRestored | Event::RegistrationLost => {
                Some(Subject::Registration)
            }
            Event::Call | Event::CallEnded | Event::Message | Event::MissedCall | Event::Test => None,
        }
    }
}

/// The key of those that tell of the same; `None`: each counts for itself.
pub(crate) fn key(push: &Push) -> Option<HeaderValue> {
    let of = match (push.event, push.event.subject()) {
        (_, Some(subject)) => format!("{subject:?}"),
        (Event::MissedCall, None) => push.call?.to_string(),
        (Event::Message, None) => push.extra.iter().find(|(name, _)| *name == "message")?.1.as_str()?.to_owned(),
        _ => return None,
    };
    let hash = digest(&SHA256, format!("{} {of}", push.instance).as_bytes());
    let key = hash.as_ref().get(..KEY_BYTES).map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))?;
    HeaderValue::try_from(key).ok()
}

#[cfg(test)]
mod tests {
    use sip::id::{CallId, InstanceId, ShardTag};

    use super::*;

    fn push(instance: u128, event: Event, call: u128, extra: &str) -> Push {
        Push {
            event,
            instance: InstanceId::new(instance << 20, ShardTag(1)),
            call: Some(CallId::new(call << 20, ShardTag(1))),
            from: None,
            name: None,
            edge: "relay1.example.net:5061".into(),
            sent_at: 1_795_000_000,
            deadline: 1_795_000_030,
            made_at: crate::clock::now(),
            extra: vec![("message", extra.into())],
        }
    }

    #[test]
    fn what_tells_of_the_same_has_one_key_and_nothing_else_has() {
        let key = |instance, event, call, extra| key(&push(instance, event, call, extra));
        let text = key(1, Event::Message, 1, "m_1").expect("a key");
        assert!(text.len() <= 32 && text.to_str().is_ok_and(|it| it.bytes().all(|byte| byte != b'=')), "{text:?}");
        assert_eq!(key(1, Event::Message, 2, "m_1"), Some(text.clone()), "whatever else it holds");
        for other in
            [key(1, Event::Message, 1, "m_2"), key(2, Event::Message, 1, "m_1"), key(1, Event::MissedCall, 1, "m_1")]
        {
            assert!(other.is_some_and(|other| other != text));
        }
        assert_ne!(key(1, Event::MissedCall, 1, ""), key(1, Event::MissedCall, 2, ""));
        assert_eq!(key(1, Event::Renew, 1, ""), key(1, Event::Expired, 2, "x"));
        assert_ne!(key(1, Event::Renew, 1, ""), key(1, Event::Voicemail, 1, ""));
        assert_eq!(key(1, Event::RegistrationFailing, 1, ""), key(1, Event::RegistrationRestored, 1, ""));
        for event in [Event::Call, Event::CallEnded, Event::Test] {
            assert_eq!(key(1, event, 1, "m_1"), None, "{event:?}");
        }
    }
}
