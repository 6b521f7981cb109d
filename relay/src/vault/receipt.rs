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

/// Checks a receipt against the public key (32 bytes) that [`super::Vault::receipt_public_key`] gave.
///
/// # Errors
/// When anything in it was altered, or another key signed it.
pub fn verify_receipt(receipt: &Receipt, public_key: &[u8; 32]) -> Result<(), ReceiptError> {
    let signature = URL_SAFE_NO_PAD.decode(&receipt.signature).map_err(|_| ReceiptError)?;
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
