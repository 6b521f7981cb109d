//! The encryption of a push that only its device can read: the content coding `aes128gcm` (RFC 8188), with keys by RFC 8291.
//!
//! Invariant: each push has its own key pair and salt. Its length is a whole number of blocks, so that it tells little of the content, and fits every push
//! service.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use crate::random;
use crate::vault::record::WebPushKeys;

/// The largest body that every push service takes (RFC 8030 §7.2), in bytes.
const BODY_MAX: usize = 4_096;
/// The header before the ciphertext: salt, record size, the length of the key, the key.
const HEADER: usize = 16 + 4 + 1 + POINT;
/// An uncompressed point of P-256.
const POINT: usize = 65;
const TAG: usize = 16;
/// The longest plaintext, in bytes: one byte ends it.
pub(super) const PLAINTEXT_MAX: usize = BODY_MAX - HEADER - TAG - 1;
/// Plaintexts are filled up to a multiple of so many bytes.
const BLOCK: usize = 256;

/// Encrypts for the device. `None` when its key is no point of the curve, or this system has no randomness.
pub(super) fn encrypted(keys: &WebPushKeys, plaintext: &[u8]) -> Option<Vec<u8>> {
    let sender = PrivateKey::generate(&ECDH_P256).ok()?;
    let padded = plaintext.len().next_multiple_of(BLOCK).clamp(plaintext.len(), PLAINTEXT_MAX.max(plaintext.len()));
    encrypted_by(keys, &sender, random::bytes(), plaintext, padded - plaintext.len())
}

/// Whether something can be encrypted for a device with this key. A point that is compressed, or of X9.62's hybrid form, is the same point; but what is
/// encrypted goes with the octets of the key (RFC 8291 §3.4), and the device has them uncompressed.
pub(super) fn is_point(p256dh: &[u8]) -> bool {
    const UNCOMPRESSED: u8 = 4;
    if p256dh.first() != Some(&UNCOMPRESSED) {
        return false;
    }
    let Ok(own) = PrivateKey::generate(&ECDH_P256) else { return false };
    agreement::agree(&own, UnparsedPublicKey::new(&ECDH_P256, p256dh), (), |_| Ok(())).is_ok()
}

fn encrypted_by(
    WebPushKeys { p256dh, auth }: &WebPushKeys,
    sender: &PrivateKey,
    salt: [u8; 16],
    plaintext: &[u8],
    padding: usize,
) -> Option<Vec<u8>> {
    let public = sender.compute_public_key().ok()?;
    let public: &[u8] = public.as_ref();
    // RFC 8291 §3.4.
    let key_info = [&b"WebPush: info\0"[..], p256dh, public].concat();
    let input = agreement::agree(sender, UnparsedPublicKey::new(&ECDH_P256, &p256dh[..]), (), |shared| {
        derived::<32>(&Salt::new(HKDF_SHA256, auth).extract(shared), &key_info).ok_or(())
    });
    // RFC 8188 §2.2 and §2.3.
    let prk = Salt::new(HKDF_SHA256, &salt).extract(&*input.ok()?);
    let key = derived::<16>(&prk, b"Content-Encoding: aes128gcm\0")?;
    let nonce = derived::<NONCE_LEN>(&prk, b"Content-Encoding: nonce\0")?;
    let mut body = Vec::with_capacity(HEADER + plaintext.len() + 1 + padding + TAG);
    body.extend_from_slice(&salt);
    body.extend_from_slice(&(BODY_MAX as u32).to_be_bytes());
    body.push(POINT as u8);
    body.extend_from_slice(public);
    let mut record = Vec::with_capacity(plaintext.len() + 1 + padding + TAG);
    record.extend_from_slice(plaintext);
    // The last record (RFC 8188 §2).
    record.push(2);
    record.resize(record.len() + padding, 0);
    let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &*key).ok()?);
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(*nonce), Aad::empty(), &mut record).ok()?;
    body.append(&mut record);
    Some(body)
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn derived<const N: usize>(prk: &Prk, info: &[u8]) -> Option<Zeroizing<[u8; N]>> {
    let mut out = Zeroizing::new([0; N]);
    prk.expand(&[info], Length(N)).ok()?.fill(&mut *out).ok()?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        URL_SAFE_NO_PAD.decode(text).unwrap().try_into().unwrap()
    }

    /// RFC 8291, Appendix A.
    #[test]
    fn the_example_of_the_rfc_is_encrypted_as_it_says() {
        let keys = WebPushKeys {
            p256dh: bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            auth: bytes("BTBZMqHH6r4Tts7J_aSIgg"),
        };
        let sender =
            PrivateKey::from_private_key(&ECDH_P256, &bytes::<32>("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"));
        let plaintext = b"When I grow up, I want to be a watermelon";
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw");
        let body = encrypted_by(&keys, &sender.unwrap(), salt, plaintext, 0).unwrap();
        assert_eq!(
            URL_SAFE_NO_PAD.encode(body),
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK\
             6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        );
    }

    #[test]
    fn the_longest_fits_and_lengths_are_in_blocks() {
        let receiver = PrivateKey::generate(&ECDH_P256).unwrap();
        let p256dh = receiver.compute_public_key().unwrap().as_ref().try_into().unwrap();
        let keys = WebPushKeys { p256dh, auth: [7; 16] };
        let length = |plaintext: usize| encrypted(&keys, &vec![b'x'; plaintext]).unwrap().len();
        assert_eq!(length(PLAINTEXT_MAX), BODY_MAX);
        assert_eq!(length(1), length(BLOCK));
        assert!(length(BLOCK) < length(BLOCK + 1));
        assert!(is_point(&p256dh) && !is_point(&[4; 65]) && !is_point(&[0; 65]) && !is_point(&[]));
        let mut hybrid = p256dh;
        hybrid[0] = 6 + (hybrid[64] & 1);
        assert!(!is_point(&hybrid), "the device has other octets");
        assert_eq!(encrypted(&WebPushKeys { p256dh: [4; 65], auth: [7; 16] }, b"x"), None);
    }
}
