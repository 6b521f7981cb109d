//! Identifiers of 128 bits, and the shard that each of them names.
//!
//! A binding lives on one shard. Its instance, its Contact and its calls carry the same 16-bit [`ShardTag`] in their
//! low bits, so that whoever holds one of them finds the shard without a table and without a lock.
//!
//! Invariant: the text form is lower-case base32 (RFC 4648 §6, no padding) of exactly 26 characters, behind a prefix
//! that tells the kind; parsing accepts nothing else. An identifier is no secret, and holds at least 112 random bits.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::message::unescaped;

/// The characters of the text form (RFC 4648 §6, lower case).
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 26 characters of five bits hold 128 bits.
const TEXT_LEN: usize = 26;

/// Sixteen bits that choose a shard: a number from 0 to 65,535, taken modulo the number of shards.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardTag(pub u16);

impl ShardTag {
    /// The shard, of `shards` (at least 1) on this node, that serves what carries this tag.
    pub fn shard(self, shards: usize) -> usize {
        usize::from(self.0) % shards.max(1)
    }
}

fn encode(mut value: u128, out: &mut [u8; TEXT_LEN]) {
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
}

fn decode(text: &[u8]) -> Option<u128> {
    if text.len() != TEXT_LEN {
        return None;
    }
    let mut value: u128 = 0;
    for (place, &byte) in text.iter().enumerate() {
        let digit = match byte {
            b'a'..=b'z' => byte - b'a',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        // 26 × 5 = 130 bits: the first character holds only three of them.
        if place == 0 && digit > 7 {
            return None;
        }
        value = value << 5 | u128::from(digit);
    }
    Some(value)
}

// Bytes and not a u128, whose alignment of 16 would cost every table row and timer some padding.
macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                // By itself: an array is hashed behind its length, which is always the same here.
                state.write(&self.0);
            }
        }

        impl $name {
            /// Makes an identifier of 112 random bits from `random`, on the shard that `tag` names.
            pub fn new(random: u128, tag: ShardTag) -> Self {
                Self((random & !0xffff | u128::from(tag.0)).to_be_bytes())
            }

            /// The shard tag that this identifier carries.
            pub fn tag(self) -> ShardTag {
                ShardTag(u16::from_be_bytes([self.0[14], self.0[15]]))
            }

            /// Reads the text form, which may be escaped as the user of a URI may be; `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                let text = &*unescaped(text);
                text.strip_prefix($prefix).and_then(|rest| decode(rest.as_bytes())).map(|bits| Self(bits.to_be_bytes()))
            }

            /// The sixteen bytes, most significant first.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0
            }

            /// From the sixteen bytes that [`Self::to_bytes`] gave.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0; TEXT_LEN];
                encode(u128::from_be_bytes(self.0), &mut text);
                f.write_str($prefix)?;
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

identifier!(
    /// A push instance: one account on one device, from enable to wipe. Shown as `pi_…`; also its user name at the edge.
    InstanceId,
    "pi_"
);
identifier!(
    /// A binding: the opaque user of the relay's Contact at the SIP server.
    BindingId,
    "b"
);
identifier!(
    /// A call for one or more devices. Shown as `c_…`.
    CallId,
    "c_"
);

identifier!(
    /// A MESSAGE that is kept for a device. Shown as `m_…`.
    MessageId,
    "m_"
);

identifier!(
    /// A client transaction of the relay: the branch of its Via. The prefix holds the magic cookie (RFC 3261 §8.1.1.7).
    BranchId,
    "z9hG4bKsw"
);

/// One transport connection, or one peer on the datagram socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum FlowId {
    /// A TCP, TLS or WebSocket connection; the number is unique in the life of the process.
    Stream(u64),
    /// A peer on the upstream UDP socket.
    Datagram(std::net::SocketAddr),
}

impl FlowId {
    /// Whether the transport delivers or tells (RFC 3261 §17: no retransmissions needed).
    pub fn is_reliable(self) -> bool {
        matches!(self, Self::Stream(_))
    }
}

/// The side by which a flow came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// A device, at the edge.
    Device,
    /// A SIP server.
    Upstream,
}

/// A registrar, or the outbound proxy before it, as the shell numbered it: bindings that share one share its flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_reads_back_as_itself() {
        for random in [0, 1, u128::MAX, 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef] {
            let id = InstanceId::new(random, ShardTag(0xbeef));
            assert_eq!(InstanceId::parse(&id.to_string()), Some(id));
            assert_eq!(InstanceId::from_bytes(id.to_bytes()), id);
            assert_eq!(id.tag(), ShardTag(0xbeef));
        }
    }

    #[test]
    fn only_the_one_text_form_is_accepted() {
        let id = CallId::new(7, ShardTag(1)).to_string();
        assert_eq!(CallId::parse(&id.to_uppercase()), None);
        assert_eq!(CallId::parse(&id[..id.len() - 1]), None);
        assert_eq!(CallId::parse(&format!("{id}a")), None);
        assert_eq!(InstanceId::parse(&id), None);
        assert_eq!(CallId::parse(&id.replacen("c_a", "c_z", 1)), None, "more than 128 bits");
    }
}
