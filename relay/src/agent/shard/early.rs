//! Requests that come before their instance: while instances are being taken over, a SIP server may call one that is on its way
//! here. Its request waits, an INVITE with a 100, and is judged when the instance is here or nothing more comes.
//!
//! Invariant: at most [`EARLY_MAX`] requests wait in a shard, none longer than [`EARLY_WAIT`]; they are judged in the order in which
//! they came. Nobody is told that a Contact is unknown while it may be on its way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sip::endpoint::Input;

use super::Shard;

/// Requests that may wait in one shard; a further one is refused with 503.
const EARLY_MAX: usize = 1_000;
/// How long one waits; then it is refused with 503, and its sender may try elsewhere.
const EARLY_WAIT: Duration = Duration::from_secs(10);

/// The requests that wait, oldest first, with when they came.
#[derive(Default)]
pub(crate) struct Early(VecDeque<(Instant, Input)>);

impl Early {
    /// When the oldest has waited long enough.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.front().map(|(at, _)| *at + EARLY_WAIT)
    }
}

impl Shard {
    /// Keeps back what is early; gives back what is not.
    pub(crate) fn keep_early(&mut self, at: Instant, input: Input) -> Option<Input> {
        if !self.shared.ownership.is_claiming() {
            return Some(input);
        }
        let Input::Received { source, message } = &input else { return Some(input) };
        if !self.endpoint.is_early(source, message) {
            return Some(input);
        }
        if self.early.0.len() >= EARLY_MAX {
            self.endpoint.refuse_early(source, message);
        } else {
            self.endpoint.say_trying(source, message);
            self.early.0.push_back((at, input));
        }
        self.drain(at);
        None
    }

    /// Judges those that are early no more: their instance has come, or none comes any more.
    pub(crate) fn judge_early(&mut self, now: Instant) {
        if self.early.0.is_empty() {
            return;
        }
        let claiming = self.shared.ownership.is_claiming();
        for (at, input) in std::mem::take(&mut self.early.0) {
            let Input::Received { source, message } = &input else { continue };
            if !claiming || !self.endpoint.is_early(source, message) {
                if let Some(input) = self.look_up_path(at, input) {
                    self.drive(at, input);
                }
            } else if now.saturating_duration_since(at) >= EARLY_WAIT {
                self.endpoint.refuse_early(source, message);
                self.drain(at);
            } else {
                self.early.0.push_back((at, input));
            }
        }
    }
}
