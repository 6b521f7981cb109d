//! Flows (RFC 5626): where a message came from, keep-alive, back-off, and the signed tokens that find a flow again.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`keep_alive`] | pings and pongs (RFC 5626 §4.4) |
//! | [`large`] | what is too large for a datagram (RFC 3261 §18.1.1) |
//! | [`stun`] | what pings over UDP look like (RFC 8489) |
//!
//! Invariant: a token is accepted only when its MAC is right for the Call-ID of the request that carries it;
//! so a token opens one dialog's way and no other.

pub mod keep_alive;
pub mod large;
pub mod stun;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::id::{FlowId, InstanceId, ShardTag};
use crate::random::Random;
use crate::timing::BackOff;

pub use crate::id::Side;
pub use keep_alive::{KeepAlive, Pulse};

/// A transport toward a SIP server or a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams, toward SIP servers alone.
    Udp,
    /// Plain streams, toward SIP servers alone.
    Tcp,
    /// SIP over TLS.
    Tls,
    /// SIP over secure WebSocket (RFC 7118), toward devices alone.
    Wss,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The flow; answers go back by it.
    pub flow: FlowId,
    /// Whether a device or a SIP server is at its other end.
    pub side: Side,
    /// The transport of the socket, which Via and Record-Route name.
    pub transport: Transport,
    /// The peer's address, as the socket tells it.
    pub peer: SocketAddr,
}

impl Transport {
    /// As a Via names it.
    pub fn via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Wss => "WSS",
        }
    }

    /// As a URI's `transport` parameter names it; of a WebSocket it names none but `ws`, secure or not (RFC 7118 §5.2.2).
    pub fn param(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Wss => "ws",
        }
    }
}

/// The two ends of one dialog: the SIP server's flow and a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowToken {
    /// The device.
    pub instance: InstanceId,
    /// The flow that the SIP server's request came by.
    pub upstream: FlowId,
}

/// The key that signs tokens.
#[derive(Clone)]
pub struct TokenKey([u8; 32]);

/// Bytes of the MAC; 80 bits, for a token that opens one dialog.
const MAC_LEN: usize = 10;
const INSTANCE_LEN: usize = 16;

impl TokenKey {
    /// Takes the key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// Signs a token for one dialog; the text fits the user part of a URI.
    pub fn sign(&self, token: &FlowToken, call_id: &str) -> String {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&token.instance.to_bytes());
        match token.upstream {
            FlowId::Stream(number) => {
                bytes.push(0);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
            FlowId::Datagram(SocketAddr::V4(peer)) => {
                bytes.push(4);
                bytes.extend_from_slice(&peer.ip().octets());
                bytes.extend_from_slice(&peer.port().to_be_bytes());
            }
            FlowId::Datagram(SocketAddr::V6(peer)) => {
                bytes.push(6);
                bytes.extend_from_slice(&peer.ip().octets());
                bytes.extend_from_slice(&peer.port().to_be_bytes());
            }
        }
        let mac = self.mac(&bytes, call_id.as_bytes());
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(&bytes)
    }

    /// Reads a token; `None` unless this key signed it for this dialog.
    pub fn open(&self, text: &str, call_id: &str) -> Option<FlowToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_LEN)?)?;
        if !bool::from(subtle::ConstantTimeEq::ct_eq(&self.mac(payload, call_id.as_bytes())[..], mac)) {
            return None;
        }
        let (instance, flow) = payload.split_first_chunk::<INSTANCE_LEN>()?;
        let (kind, rest) = flow.split_first()?;
        let upstream = match kind {
            0 => FlowId::Stream(u64::from_be_bytes(rest.try_into().ok()?)),
            4 => FlowId::Datagram(peer::<4>(rest)?),
            6 => FlowId::Datagram(peer::<16>(rest)?),
            _ => return None,
        };
        Some(FlowToken { instance: InstanceId::from_bytes(*instance), upstream })
    }

    /// The shard that a token names, believed or not: a forged one finds a shard that refuses it.
    pub fn tag_of(text: &str) -> Option<ShardTag> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        bytes.first_chunk::<INSTANCE_LEN>().map(|instance| InstanceId::from_bytes(*instance).tag())
    }

    /// Whether a text looks like a token, believed or not.
    pub fn is_one(text: &str) -> bool {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let (shortest, longest) = (INSTANCE_LEN + 1 + 6 + MAC_LEN, INSTANCE_LEN + 1 + 18 + MAC_LEN);
        (shortest..=longest).contains(&bytes.len()) && bytes[INSTANCE_LEN] < 8
    }

    /// A name of 16 bytes for a list of texts: the same for the same list, and without the key of no use to guess it.
    pub(crate) fn name(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 16] {
        // HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; 16] };
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        let full = mac.finalize().into_bytes();
        let mut cut = [0; 16];
        cut.copy_from_slice(&full[..16]);
        cut
    }

    /// A MAC over two parts, the first of a length that its own bytes tell.
    pub(crate) fn mac(&self, payload: &[u8], bound_to: &[u8]) -> [u8; MAC_LEN] {
        // HMAC takes a key of any length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return [0; MAC_LEN] };
        mac.update(&[payload.len() as u8]);
        mac.update(payload);
        mac.update(bound_to);
        let full = mac.finalize().into_bytes();
        let mut short = [0; MAC_LEN];
        short.copy_from_slice(&full[..MAC_LEN]);
        short
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey([redacted])")
    }
}

fn peer<const N: usize>(bytes: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let (ip, port) = bytes.split_first_chunk::<N>()?;
    Some(SocketAddr::new(IpAddr::from(*ip), u16::from_be_bytes(port.try_into().ok()?)))
}

/// How long to wait after `failures` failures in a row, 1 or more (RFC 5626 §4.5): a random time between half of and all
/// of `min(max, base · 2^failures)`.
pub fn back_off(failures: u8, timing: &BackOff, random: &mut Random) -> Duration {
    let bound = timing.base.saturating_mul(1 << u32::from(failures.clamp(1, 16) - 1)).min(timing.max);
    let millis = bound.as_millis() as u64;
    Duration::from_millis(random.between(millis / 2, millis))
}

#[cfg(test)]
mod tests {
    use crate::id::ShardTag;

    use super::*;

    #[test]
    fn a_token_opens_its_own_dialog_and_no_other() {
        let key = TokenKey::new([7; 32]);
        let instance = InstanceId::new(99, ShardTag(0x1234));
        for upstream in [
            FlowId::Stream(u64::MAX),
            FlowId::Datagram("127.0.0.1:5060".parse().unwrap()),
            FlowId::Datagram("[2001:db8::1]:5070".parse().unwrap()),
        ] {
            let token = FlowToken { instance, upstream };
            let text = key.sign(&token, "call-1");
            assert_eq!(key.open(&text, "call-1"), Some(token));
            assert_eq!(key.open(&text, "call-2"), None, "another Call-ID");
            assert_eq!(TokenKey::new([8; 32]).open(&text, "call-1"), None, "another key");
            assert_eq!(TokenKey::tag_of(&text), Some(ShardTag(0x1234)));
            let mut forged = text.clone().into_bytes();
            forged[25] ^= 1;
            assert_eq!(key.open(std::str::from_utf8(&forged).unwrap(), "call-1"), None, "a changed flow");
        }
        assert_eq!(key.open("", "call-1"), None);
    }

    #[test]
    fn back_off_grows_from_half_a_minute_to_half_an_hour() {
        let mut random = Random::new([1; 32]);
        for failures in 1..=20 {
            let bound = (30u64 << (failures - 1).min(10)).min(1800);
            let wait = back_off(failures as u8, &BackOff::default(), &mut random);
            assert!(
                wait >= Duration::from_secs(bound) / 2 && wait <= Duration::from_secs(bound),
                "{failures}: {wait:?}"
            );
        }
    }
}
