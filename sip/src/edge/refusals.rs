//! The choice among several refusals for the caller (RFC 3261 §16.7.5, §16.7.6).
//!
//! | among | is chosen |
//! | --- | --- |
//! | a 6xx and others | the 6xx |
//! | several classes | the lowest |
//! | several 4xx | 401, 407, 415, 420 or 484, for they help the caller to mend its request; then 486 and 487, which a person did; then 480; then what a machine says of itself; then 482, which says nothing of anybody; 408 last |
//! | equal ones | the one that came first |
//! | these and the relay's own 480 or 408: a device was rung or woken, and nobody answered | what is better than a 480 |
//!
//! A laptop without the right codec says 488 to each call at once. The outcome of the call is decided by the devices that were rung.
//!
//! A 401 or 407 carries the challenges of all that came (§16.7.7). A 503 speaks of one device and not of this relay: the
//! caller gets 500 in its place (§16.7.6).
//!
//! Invariant: at most as many refusals are kept as the call has devices.

use bytes::Bytes;

use super::returned::{FROM_DEVICE_BYTES, forward_response, forward_with};
use crate::flow::Side;
use crate::message::{Composer, Message, Name};

/// Refusals of one call.
#[derive(Debug, Default)]
pub struct Refusals(Vec<Message>);

impl Refusals {
    /// Adds a refusal as it came from a device.
    pub fn add(&mut self, response: &Message) {
        self.0.push(response.clone());
    }

    /// The best of them and its status, for the caller, unless the relay's own answer with the status `own` is better.
    /// `invite`: what they answer; `tag`: that of an answer in place of a 503.
    pub fn best(&self, own: Option<u16>, invite: &Message, tag: &str) -> Option<(u16, Bytes)> {
        let status_of = |refusal: &Message| refusal.status().unwrap_or(500);
        let best = self.0.iter().min_by_key(|refusal| rank(status_of(refusal)))?;
        let status = status_of(best);
        if own.is_some_and(|own| own_rank(own) < rank(status)) {
            return None;
        }
        let passed = match status {
            503 => None,
            401 | 407 => Some(self.with_challenges(best, invite)),
            _ => Some(forward_response(invite, best, Side::Device)),
        };
        // The challenges of many devices may be too much together.
        Some(match passed.filter(|bytes| bytes.len() <= FROM_DEVICE_BYTES) {
            Some(bytes) => (status, bytes),
            None => (500, Composer::response(invite, 500, Composer::reason(500), Some(tag)).finish()),
        })
    }

    fn with_challenges(&self, best: &Message, invite: &Message) -> Bytes {
        forward_with(invite, best, Side::Device, |mut edit| {
            for other in self.0.iter().filter(|other| !std::ptr::eq(*other, best)) {
                for name in [Name::WwwAuthenticate, Name::ProxyAuthenticate] {
                    let values = other.values(name).filter_map(|value| std::str::from_utf8(value).ok());
                    edit = values.fold(edit, |edit, value| edit.append(name, value));
                }
            }
            edit
        })
    }
}

/// The lower the better.
fn rank(status: u16) -> (u16, u8) {
    match status {
        600.. => (0, 0),
        401 | 407 | 415 | 420 | 484 => (4, 0),
        486 | 487 => (4, 1),
        480 => (4, 2),
        482 => (4, 4),
        408 => (4, 5),
        400..500 => (4, 3),
        _ => (status / 100, 1),
    }
}

/// The rank of the relay's own answer: its 408 says that a device rang, which a device's own 408 does not.
fn own_rank(status: u16) -> (u16, u8) {
    if status == 408 { rank(480) } else { rank(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Limits;

    fn parse(text: String) -> Message {
        Message::parse(&text.into(), &Limits::default()).unwrap()
    }

    fn invite() -> Message {
        parse(
            "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\nFrom: <sip:bob@example.com>;tag=1\r\n\
             To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n"
                .into(),
        )
    }

    fn refusals(statuses: &[u16]) -> Refusals {
        let mut refusals = Refusals::default();
        for (index, status) in statuses.iter().enumerate() {
            let challenge = if *status == 407 { "Proxy-Authenticate" } else { "WWW-Authenticate" };
            refusals.add(&parse(format!(
                "SIP/2.0 {status} x\r\nVia: SIP/2.0/TLS r;branch=z9hG4bK2\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\n\
                 From: <sip:bob@example.com>;tag=1\r\nTo: <sip:a@b>;tag={index}\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\
                 {challenge}: Digest realm=\"{index}\"\r\n\r\n"
            )));
        }
        refusals
    }

    #[test]
    fn the_best_of_several_refusals_is_the_one_that_the_rfc_names() {
        for (came, own, best) in [
            (&[486][..], None, Some(486)),
            (&[480, 486], None, Some(486)),
            (&[408, 480], None, Some(480)),
            (&[486, 484], None, Some(484)),
            (&[482, 486], None, Some(486)),
            (&[408, 482], Some(408), None),
            (&[408, 482], None, Some(482)),
            (&[488, 486], None, Some(486)),
            (&[488, 480], None, Some(480)),
            (&[404, 488], None, Some(404)),
            (&[488], None, Some(488)),
            (&[482, 488], None, Some(488)),
            (&[488], Some(480), None),
            (&[488], Some(408), None),
            (&[480], Some(408), Some(480)),
            (&[415], Some(408), Some(415)),
            (&[302], Some(408), Some(302)),
            (&[488], Some(503), Some(488)),
            (&[500, 404], None, Some(404)),
            (&[404, 302], None, Some(302)),
            (&[302, 603], None, Some(603)),
            (&[503], None, Some(500)),
            (&[503, 500], None, Some(500)),
            (&[486], Some(480), Some(486)),
            (&[486], Some(408), Some(486)),
            (&[500], Some(480), None),
            (&[480], Some(480), Some(480)),
            (&[408], Some(480), None),
            (&[], Some(480), None),
        ] {
            let answer = refusals(came).best(own, &invite(), "relay");
            assert_eq!(answer.as_ref().map(|(status, _)| *status), best, "{came:?} and {own:?}");
            if let Some((status, bytes)) = answer {
                let message = Message::parse(&bytes, &Limits::default()).unwrap();
                assert_eq!((message.status(), message.elements(Name::Via).count()), (Some(status), 1));
            }
        }
    }

    #[test]
    fn of_equal_refusals_the_first_goes_up_and_a_challenge_takes_the_others_along() {
        let invite = invite();
        let tag_of = |bytes: &Bytes| {
            let message = Message::parse(bytes, &Limits::default()).unwrap();
            message.to().and_then(|to| to.tag().map(str::to_owned))
        };
        let (_, busy) = refusals(&[480, 486, 486]).best(None, &invite, "relay").unwrap();
        assert_eq!(tag_of(&busy).as_deref(), Some("1"));
        let (status, challenged) = refusals(&[401, 407, 486]).best(None, &invite, "relay").unwrap();
        let message = Message::parse(&challenged, &Limits::default()).unwrap();
        let count = |name| message.values(name).count();
        assert_eq!((status, count(Name::WwwAuthenticate), count(Name::ProxyAuthenticate)), (401, 2, 1));
    }
}
