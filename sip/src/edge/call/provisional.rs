//! The last provisional response of a call, and when it is repeated.
//!
//! Invariant: a waiting caller gets a provisional response each [`EdgeTiming::provisional_interval`] (RFC 3261 §13.3.1.1),
//! unless it wants provisional responses reliably.
//!
//! [`EdgeTiming::provisional_interval`]: crate::timing::EdgeTiming::provisional_interval

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::{Composer, Message, Name};

/// The last provisional response, and when the next one is due.
#[derive(Debug)]
pub(super) struct LastProvisional {
    /// `None` where only a device can speak: the caller wants provisional responses reliably (RFC 3262).
    repeat_at: Option<Instant>,
    interval: Duration,
    what: Provisional,
}

#[derive(Debug)]
enum Provisional {
    /// 100 alone.
    Nothing,
    /// This, which may be said again as it is.
    Plain { status: u16, response: Bytes },
    /// This status with this To tag, reliably: to say the same again would ask for another PRACK (RFC 3262 §3).
    Reliable { status: u16, tag: Box<str> },
}

impl LastProvisional {
    /// Of a call that has just come.
    pub(super) fn new(now: Instant, interval: Duration, invite: &Message) -> Self {
        let repeat_at = (!invite.lists(Name::Require, "100rel")).then(|| now + interval);
        Self { interval, repeat_at, what: Provisional::Nothing }
    }

    /// When [`Self::repeat`] is due.
    pub(super) fn repeat_at(&self) -> Option<Instant> {
        self.repeat_at
    }

    /// `response`, a provisional one above 100, was sent to the caller.
    pub(super) fn record(&mut self, now: Instant, status: u16, message: Option<&Message>, response: &Bytes) {
        let reliable = message.filter(|message| message.lists(Name::Require, "100rel"));
        self.what = match reliable {
            None => Provisional::Plain { status, response: response.clone() },
            Some(message) => {
                let tag = message.to().and_then(|to| to.tag().map(Into::into)).unwrap_or_default();
                Provisional::Reliable { status, tag }
            }
        };
        self.repeat_at = self.repeat_at.map(|_| now + self.interval);
    }

    /// The response that is due when the caller has got none for `EdgeTiming::provisional_interval`.
    pub(super) fn repeat(&mut self, now: Instant, invite: &Message, own_tag: &str) -> Option<(u16, Bytes)> {
        self.repeat_at.filter(|at| *at <= now)?;
        self.repeat_at = Some(now + self.interval);
        let compose = |status, tag| Composer::response(invite, status, Composer::reason(status), Some(tag)).finish();
        Some(match &self.what {
            Provisional::Nothing => (183, compose(183, own_tag)),
            Provisional::Plain { status, response } => (*status, response.clone()),
            Provisional::Reliable { status, tag } => (*status, compose(*status, tag)),
        })
    }
}
