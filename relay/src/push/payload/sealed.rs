//! The payload of a push beside its event, sealed to the device: the member `sealed`, in base64url without padding.
//!
//! The plaintext is a JSON object with `from`, `name` and the event's further members, and spaces behind it up to a multiple
//! of [`BLOCK`] bytes. HPKE's `info` binds it to its push, so that nobody on the way can put the caller of one call into
//! another; its associated data is empty, because not every library lets it be given (Tink has none).
//!
//! Invariant: a sealed member tells its length in blocks alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use crate::hpke::{OVERHEAD, PrivateKey, PublicKey};

/// How the `info` of HPKE begins: what this is, and its version.
const PURPOSE: &str = "sipwake push 1";

/// Plaintexts are multiples of this long, in bytes.
pub const BLOCK: usize = 256;

/// How long a plaintext may be whose sealed form has `room` bytes.
pub(super) fn plaintext_room(room: usize) -> usize {
    (room / 4 * 3).saturating_sub(OVERHEAD) / BLOCK * BLOCK
}

/// Seals `plaintext` for the push of this event, instance and call.
pub(super) fn seal(key: &PublicKey, context: &Context<'_>, mut plaintext: Vec<u8>) -> Option<String> {
    plaintext.resize(plaintext.len().next_multiple_of(BLOCK), b' ');
    let sealed = key.seal(info(context).as_bytes(), b"", &plaintext)?;
    Some(URL_SAFE_NO_PAD.encode(sealed))
}

/// What binds a sealed member to its push.
pub(super) struct Context<'a> {
    pub(super) event: &'a str,
    pub(super) instance: &'a str,
    pub(super) call: Option<&'a str>,
}

/// [`PURPOSE`], event, instance and call (where there is one), with a space between.
fn info(Context { event, instance, call }: &Context<'_>) -> String {
    let mut info = format!("{PURPOSE} {event} {instance}");
    if let Some(call) = call {
        info.push(' ');
        info.push_str(call);
    }
    info
}

/// The object of a push with what was sealed in its place; `None` when it cannot be opened with this key. One in which
/// nothing is sealed stays as it is.
pub fn opened(key: &PrivateKey, push: &Value) -> Option<Value> {
    let mut push = push.as_object()?.clone();
    let Some(sealed) = push.remove("sealed") else { return Some(Value::Object(push)) };
    let sealed = URL_SAFE_NO_PAD.decode(sealed.as_str()?).ok()?;
    let word = |name: &str| push.get(name).and_then(Value::as_str);
    let info = info(&Context { event: word("event")?, instance: word("instance")?, call: word("call") });
    let plaintext = key.open(info.as_bytes(), b"", &sealed)?;
    let told: Map<String, Value> = serde_json::from_slice(&plaintext).ok()?;
    // Members in the clear stay as they are.
    for (name, value) in told {
        push.entry(name).or_insert(value);
    }
    Some(Value::Object(push))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of `docs/sealed-pushes.md`.
    const DOCUMENT: &str = include_str!("../../../../docs/sealed-pushes.md");

    /// The JSON block of the document behind this heading.
    fn block(heading: &str) -> Value {
        let behind = DOCUMENT.split_once(heading).expect("the heading").1;
        let block = behind.split_once("```json\n").expect("a block").1.split_once("```").expect("its end").0;
        serde_json::from_str(block).unwrap()
    }

    #[test]
    fn the_documents_test_vector_opens() {
        let (vector, opened) = (block("### The push of the vector"), block("### What it says"));
        let private = DOCUMENT.split_once("private key | `").unwrap().1.split_once('`').unwrap().0;
        let public = DOCUMENT.split_once("public key | `").unwrap().1.split_once('`').unwrap().0;
        let key = PrivateKey::read(private).unwrap();
        assert_eq!(key.public().unwrap().to_string(), public);
        assert_eq!(super::opened(&key, &vector).unwrap(), opened);
        let mut other = vector.clone();
        other["call"] = "c_aaaaaaaaaaaaaaaaaaaaaaaaaa".into();
        assert_eq!(super::opened(&key, &other), None, "it is bound to its call");
        let mut other = vector;
        other["event"] = "missed-call".into();
        assert_eq!(super::opened(&key, &other), None, "and to its event");
    }

    #[test]
    fn its_length_is_in_blocks() {
        let key = PrivateKey::generate().unwrap();
        let public = key.public().unwrap();
        let context = Context { event: "call", instance: "pi_x", call: Some("c_y") };
        let sealed = |length: usize| seal(&public, &context, vec![b' '; length]).unwrap().len();
        assert_eq!(sealed(1), sealed(BLOCK));
        assert!(sealed(BLOCK) < sealed(BLOCK + 1));
        for room in [410, 1_000, 3_800, 5_000] {
            let most = plaintext_room(room);
            assert!(most >= BLOCK && sealed(most) <= room, "{room}: {most}");
        }
        assert_eq!(plaintext_room(100), 0);
    }
}
