//! The calls for which a leaving node has woken devices that this node has taken over since. A second branch of such a call, which was long on its way, does
//! not wake them again.
//!
//! Invariant: a call is left to the other node only as long as it waits there; then its SIP server may try again. At most [`CALLS`] are remembered: beyond that
//! a device may be woken twice, and no call is missed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sip::endpoint::InviteMark;
use sip::id::InstanceId;

/// Calls, each counted for each of its devices.
const CALLS: usize = 50_000;
/// The longest that one is believed to wait.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// A device that was woken for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// The device.
    pub instance: InstanceId,
    /// The call's INVITE.
    pub mark: InviteMark,
    /// Until when the call waits for it.
    pub until: Instant,
}

/// The calls of one shard.
#[derive(Default)]
pub(crate) struct WokenElsewhere(HashMap<(InstanceId, InviteMark), Instant>);

impl WokenElsewhere {
    /// A node that leaves has woken these.
    pub(crate) fn note(&mut self, now: Instant, woken: &[Woken]) {
        self.0.retain(|_, until| *until > now);
        let room = CALLS.saturating_sub(self.0.len());
        let believed = |woken: &Woken| ((woken.instance, woken.mark), woken.until.min(now + WAIT_MAX));
        self.0.extend(woken.iter().take(room).map(believed));
    }

    /// Whether this device was woken for the call, and that still waits.
    pub(crate) fn has(&self, now: Instant, instance: InstanceId, mark: InviteMark) -> bool {
        !self.0.is_empty() && self.0.get(&(instance, mark)).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_device_is_left_to_the_node_that_has_woken_it_as_long_as_the_call_waits_there() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let (device, other) = (InstanceId::new(1 << 64, ShardTag(1)), InstanceId::new(2 << 64, ShardTag(1)));
        let mark = |number| InviteMark::from_bytes([number; 16]);
        let mut elsewhere = WokenElsewhere::default();
        let woken = |number, wait| Woken { instance: device, mark: mark(number), until: now + wait };
        elsewhere.note(now, &[woken(1, second * 30), woken(2, WAIT_MAX * 9)]);
        assert!(elsewhere.has(now, device, mark(1)) && elsewhere.has(now + second * 29, device, mark(1)));
        assert!(!elsewhere.has(now + second * 30, device, mark(1)), "then its SIP server may try again");
        assert!(!elsewhere.has(now, other, mark(1)) && !elsewhere.has(now, device, mark(3)));
        assert!(elsewhere.has(now + WAIT_MAX / 2, device, mark(2)) && !elsewhere.has(now + WAIT_MAX, device, mark(2)));
    }

    #[test]
    fn the_number_of_calls_that_are_left_to_another_node_is_bounded() {
        let (now, device) = (Instant::now(), InstanceId::new(1 << 64, ShardTag(1)));
        let mark = |number: usize| InviteMark::from_bytes((number as u128).to_be_bytes());
        let woken = |number| Woken { instance: device, mark: mark(number), until: now + Duration::from_secs(30) };
        let mut elsewhere = WokenElsewhere::default();
        elsewhere.note(now, &(0..CALLS + 10).map(woken).collect::<Vec<_>>());
        assert_eq!(elsewhere.0.len(), CALLS);
        let later = now + Duration::from_secs(30);
        elsewhere.note(later, &[Woken { until: later + Duration::from_secs(1), ..woken(0) }]);
        assert_eq!(elsewhere.0.len(), 1, "those that are over make room");
    }
}
