//! An INVITE that takes the place of a call (RFC 3891): an attended transfer, or a call that is picked up.
//!
//! | such an INVITE at a phone | it is |
//! | --- | --- |
//! | that is in the call which it names | taken in its place |
//! | that is not | 481; 420 where the phone knows nothing of RFC 3891 and the INVITE requires it; else any call |
//!
//! Invariant: a mark identifies no party of the dialog.

use sha2::{Digest as _, Sha256};

use crate::message::{Message, Name};

/// The identity of a dialog after its call is over: a hash of its Call-ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialogMark(u64);

impl DialogMark {
    /// The mark of this Call-ID.
    pub fn of(call_id: &str) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(Sha256::digest(call_id));
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// The Replaces of an INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaces {
    /// The dialog to replace.
    pub dialog: DialogMark,
    /// Whether a phone that does not have this dialog must not take the INVITE for a new call (`Require: replaces`).
    pub required: bool,
}

impl Replaces {
    /// The Replaces of this INVITE; `None` for one that replaces no call.
    pub fn of(invite: &Message) -> Option<Self> {
        let value = invite.text(Name::Replaces)?;
        let call_id = value.split(';').next().unwrap_or(value).trim();
        let required = invite.lists(Name::Require, "replaces");
        Some(Self { dialog: DialogMark::of(call_id), required })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Limits;

    #[test]
    fn the_call_that_an_invite_replaces_is_known_by_its_call_id() {
        let of = |lines: &str| {
            let text = format!("INVITE sip:a@b SIP/2.0\r\nCall-ID: own@host\r\n{lines}\r\n");
            Replaces::of(&Message::parse(&text.into(), &Limits::default()).unwrap())
        };
        let (dialog, tags) = (DialogMark::of("425928@bobster.example.org"), "to-tag=7743;from-tag=6472");
        let named = |required| Some(Replaces { dialog, required });
        assert_eq!(of(&format!("Replaces: 425928@bobster.example.org;{tags}\r\n")), named(false));
        let required =
            format!("REPLACES: 425928@bobster.example.org ;{tags};early-only\r\nRequire: 100rel, replaces\r\n");
        assert_eq!(of(&required), named(true));
        assert_eq!(of("Require: replaces\r\n"), None);
    }
}
