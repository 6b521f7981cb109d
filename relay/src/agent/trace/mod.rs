//! The SIP of one instance, recorded for a while because its user or the operator asked.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`scrub`] | what of a message is kept: no credential, no person, no body but the kinds of its media |
//! | `known` | the words of SIP that name nobody |
//! | [`pcapng`] | the file that Wireshark opens |
//!
//! Invariant: a message is scrubbed before it is kept; the trace lies in the memory of one shard, is at most [`BYTES_MAX`] large (then the
//! oldest message gives way), and is gone at the end of its time, or of its instance.

mod known;
pub(crate) mod pcapng;
pub(crate) mod scrub;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use sip::endpoint::{Side, Transport};
use sip::id::FlowId;

/// The scrubbed messages of one trace, in bytes.
pub(crate) const BYTES_MAX: usize = 1024 * 1024;
/// The Call-IDs that one trace follows; what belongs to a further one is recorded only where it names the instance itself.
const CALLS_MAX: usize = 256;
/// The flows of a device that one trace follows.
const FLOWS_MAX: usize = 16;

/// One recorded message.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    /// When, in microseconds since 1970.
    pub at_us: u64,
    /// Whether it came; else it was sent.
    pub came: bool,
    /// The side that it came from, or went to.
    pub side: Side,
    /// The transport of a message that came, or that went by UDP.
    pub transport: Option<Transport>,
    /// The address at the other end, where it is known.
    pub peer: Option<SocketAddr>,
    /// The message, scrubbed.
    pub text: Bytes,
}

/// A Call-ID, as a trace remembers it: a part of its SHA-256, for it may be as long as a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallName(u128);

impl CallName {
    pub(crate) fn of(call_id: &str) -> Self {
        Self(
            digest(&SHA256, call_id.as_bytes())
                .as_ref()
                .iter()
                .take(16)
                .fold(0, |name, byte| name << 8 | u128::from(*byte)),
        )
    }
}

/// One instance's trace.
#[derive(Debug)]
pub(crate) struct Trace {
    /// When it ends, in seconds since 1970.
    pub until: u64,
    messages: VecDeque<Recorded>,
    bytes: usize,
    /// The dialogs and transactions that are known to be about the instance.
    calls: BTreeSet<CallName>,
    /// The flows that its device was seen on.
    flows: BTreeSet<FlowId>,
}

impl Trace {
    pub(crate) fn new(until: u64) -> Self {
        Self { until, messages: VecDeque::new(), bytes: 0, calls: BTreeSet::new(), flows: BTreeSet::new() }
    }

    pub(crate) fn follows(&self, call: CallName) -> bool {
        self.calls.contains(&call)
    }

    pub(crate) fn follow(&mut self, call: CallName) {
        if self.calls.len() < CALLS_MAX {
            self.calls.insert(call);
        }
    }

    pub(crate) fn was_seen_on(&self, flow: FlowId) -> bool {
        self.flows.contains(&flow)
    }

    pub(crate) fn note_flow(&mut self, flow: FlowId) {
        if self.flows.len() < FLOWS_MAX {
            self.flows.insert(flow);
        }
    }

    pub(crate) fn record(&mut self, message: Recorded) {
        self.bytes += message.text.len();
        self.messages.push_back(message);
        while self.bytes > BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else { return };
            self.bytes -= oldest.text.len();
        }
    }

    /// All of it, as a file.
    pub(crate) fn file(&self) -> Vec<u8> {
        pcapng::write(self.messages.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_trace_forgets_its_oldest_messages() {
        let mut trace = Trace::new(0);
        for at_us in 0..10 {
            let text = vec![b'x'; BYTES_MAX / 4].into();
            let (side, transport) = (Side::Upstream, Some(Transport::Udp));
            trace.record(Recorded { at_us, came: true, side, transport, peer: None, text });
        }
        assert_eq!(trace.messages.iter().map(|message| message.at_us).collect::<Vec<_>>(), [6, 7, 8, 9]);
    }
}
