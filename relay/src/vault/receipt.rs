//! The receipt of a wipe: what the relay signs when it has forgotten an instance.
//!
//! The signature is Ed25519 (RFC 8032), in base64url without padding (RFC 4648 §5), over this text, each line ended by
//! one line feed:
//!
//! ```text
//! sipwake receipt 1
//! pi_…                     the instance
//! 2026-11-27T09:00:00Z     wiped_at
//! disabled                 reason
//! true                     unregistered
//! ```
//!
//! Invariant: a receipt names nothing but the instance; whoever has the public key can check it from its JSON alone.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sip::id::InstanceId;

use super::keyring::Keyring;
use crate::clock::rfc3339;
use crate::domain::{WipeReason, Word as _};

/// A signed statement that an instance was wiped; its JSON is that of `docs/api.md`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The instance, as `pi_…`.
    pub instance: String,
    /// When, as RFC 3339 in UTC with whole seconds.
    pub wiped_at: String,
    /// Why.
    pub reason: WipeReason,
    /// Whether the SIP server confirmed that the binding is gone.
    pub unregistered: bool,
    /// Ed25519 over the text that the module describes, in base64url without padding.
    pub signature: String,
}

/// The signature is not one of this key over this receipt.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
#[error("the receipt's signature is not valid")]
pub struct ReceiptError;

/// The points whose order is no large prime, by the bytes of their y (RFC 8032 §5.1.2), not all of them reduced. By such a key anybody signs anything.
const LOW_ORDER: [[u8; 32]; 7] = [
    [0; 32],
    ends_with(1, 0, 0),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
        0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
        0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ],
    ends_with(0xec, 0xff, 0x7f),
    ends_with(0xed, 0xff, 0x7f),
    ends_with(0xee, 0xff, 0x7f),
];

const fn ends_with(first: u8, others: u8, last: u8) -> [u8; 32] {
    let mut bytes = [others; 32];
    (bytes[0], bytes[31]) = (first, last);
    bytes
}

/// Whether 32 bytes are such a point; the highest bit is the sign of its x.
fn is_low_order(point: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
    y[31] &= 0x7f;
    LOW_ORDER.contains(&y)
}

/// Checks a receipt against the public key (32 bytes) that [`super::Vault::receipt_public_key`] gave.
///
/// # Errors
/// When anything in it was altered, another key signed it, or the key, or the point in the signature, is one by which nobody need have signed.
pub fn verify_receipt(receipt: &Receipt, public_key: &[u8; 32]) -> Result<(), ReceiptError> {
    let signature = URL_SAFE_NO_PAD.decode(&receipt.signature).map_err(|_| ReceiptError)?;
    if is_low_order(public_key) || signature.get(..32).is_none_or(is_low_order) {
        return Err(ReceiptError);
    }
    let key = UnparsedPublicKey::new(&ED25519, public_key);
    key.verify(receipt.signed_text().as_bytes(), &signature).map_err(|_| ReceiptError)
}

impl Receipt {
    fn signed_text(&self) -> String {
        let Self { instance, wiped_at, reason, unregistered, signature: _ } = self;
        format!("sipwake receipt 1\n{instance}\n{wiped_at}\n{}\n{unregistered}\n", reason.word())
    }
}

pub(super) fn receipt(
    keyring: &Keyring,
    instance: InstanceId,
    wiped_at: u64,
    reason: WipeReason,
    unregistered: bool,
) -> Receipt {
    let mut receipt = Receipt {
        instance: instance.to_string(),
        wiped_at: rfc3339(wiped_at),
        reason,
        unregistered,
        signature: String::new(),
    };
    receipt.signature = URL_SAFE_NO_PAD.encode(keyring.sign_receipt(receipt.signed_text().as_bytes()));
    receipt
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn sample(keyring: &Keyring) -> Receipt {
        receipt(keyring, InstanceId::new(5 << 64, ShardTag(3)), 1_795_000_000, WipeReason::PushTokenGone, true)
    }

    #[test]
    fn a_receipt_is_what_the_contract_shows() {
        let receipt = sample(&Keyring::ephemeral());
        let json = serde_json::to_value(&receipt).expect("JSON");
        let id = InstanceId::new(5 << 64, ShardTag(3)).to_string();
        assert_eq!(
            json,
            serde_json::json!({
                "instance": id, "wiped_at": "2026-11-18T11:06:40Z", "reason": "push-token-gone",
                "unregistered": true, "signature": receipt.signature,
            })
        );
    }

    /// With zeros for the rest of the signature its equation holds whatever the text is, where the key is the neutral point.
    #[test]
    fn a_key_by_which_anybody_signs_anything_is_none() {
        let mut receipt = sample(&Keyring::ephemeral());
        let mut signature = [0; 64];
        signature[0] = 1;
        receipt.signature = URL_SAFE_NO_PAD.encode(signature);
        let neutral: [u8; 32] = signature[..32].try_into().expect("32 bytes");
        let by_library = UnparsedPublicKey::new(&ED25519, neutral).verify(receipt.signed_text().as_bytes(), &signature);
        assert!(by_library.is_ok(), "the library asks for no more than the equation");
        for mut key in LOW_ORDER {
            for sign in [0, 0x80] {
                key[31] = key[31] & 0x7f | sign;
                assert_eq!(verify_receipt(&receipt, &key), Err(ReceiptError), "{key:?}");
            }
        }
    }

    #[test]
    fn a_receipt_verifies_and_one_that_was_altered_does_not() {
        let keyring = Keyring::ephemeral();
        let receipt = sample(&keyring);
        let key = keyring.receipt_public_key();
        assert_eq!(verify_receipt(&receipt, &key), Ok(()));
        let json = serde_json::to_string(&receipt).expect("JSON");
        let read: Receipt = serde_json::from_str(&json).expect("a receipt");
        assert_eq!(verify_receipt(&read, &key), Ok(()), "from its JSON alone");
        assert_eq!(verify_receipt(&receipt, &Keyring::ephemeral().receipt_public_key()), Err(ReceiptError));
        let altered: [fn(&mut Receipt); 5] = [
            |receipt| receipt.instance.replace_range(3..4, "b"),
            |receipt| receipt.wiped_at.replace_range(0..4, "2025"),
            |receipt| receipt.reason = WipeReason::Expired,
            |receipt| receipt.unregistered = false,
            |receipt| receipt.signature.push('A'),
        ];
        for alter in altered {
            let mut receipt = receipt.clone();
            alter(&mut receipt);
            assert_eq!(verify_receipt(&receipt, &key), Err(ReceiptError));
        }
    }

    #[test]
    fn a_reason_is_one_word_for_metrics_and_for_json() {
        for reason in WipeReason::ALL {
            assert_eq!(serde_json::to_value(reason).expect("JSON"), reason.word());
        }
    }
}
