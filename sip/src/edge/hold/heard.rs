//! What the caller heard last of a call that it waits for, and when it hears of it again.
//!
//! Invariant: while the caller waits it is told each [`REMINDER`] that the call lives (RFC 3261 §13.3.1.1), unless it wants
//! provisional responses reliably.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::message::{Composer, Message, Name};

/// How often a caller that waits hears that the call lives, so that no proxy's Timer C ends it (RFC 3261 §13.3.1.1; §16.6:
/// more than three minutes, which a 100 does not restart).
pub const REMINDER: Duration = Duration::from_secs(60);

/// What the caller heard last, and when it hears of the call again.
#[derive(Debug)]
pub(super) struct Heard {
    /// `None` where only a device can speak: the caller wants provisional responses reliably (RFC 3262).
    again_at: Option<Instant>,
    what: Said,
}

#[derive(Debug)]
enum Said {
    /// 100 alone.
    Nothing,
    /// This, which may be said again as it is.
    Plain { status: u16, response: Bytes },
    /// This status with this To tag, reliably: to say the same again would ask for another PRACK (RFC 3262 §3).
    Reliable { status: u16, tag: Box<str> },
}

impl Heard {
    /// Of a call that has just come.
    pub(super) fn new(now: Instant, invite: &Message) -> Self {
        let again_at = (!invite.lists(Name::Require, "100rel")).then(|| now + REMINDER);
        Self { again_at, what: Said::Nothing }
    }

    /// Of a call that nobody waits for any more.
    pub(super) fn nothing() -> Self {
        Self { again_at: None, what: Said::Nothing }
    }

    /// When [`Self::remind`] is due.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// The caller was told `response`, a provisional one above 100.
    pub(super) fn said(&mut self, now: Instant, status: u16, message: Option<&Message>, response: &Bytes) {
        let reliable = message.filter(|message| message.lists(Name::Require, "100rel"));
        self.what = match reliable {
            None => Said::Plain { status, response: response.clone() },
            Some(message) => {
                let tag = message.to().and_then(|to| to.tag().map(Into::into)).unwrap_or_default();
                Said::Reliable { status, tag }
            }
        };
        self.again_at = self.again_at.map(|_| now + REMINDER);
    }

    /// What the caller is told when it has heard nothing for [`REMINDER`].
    pub(super) fn remind(&mut self, now: Instant, invite: &Message, own_tag: &str) -> Option<(u16, Bytes)> {
        self.again_at.filter(|at| *at <= now)?;
        self.again_at = Some(now + REMINDER);
        let compose = |status, tag| Composer::response(invite, status, Composer::reason(status), Some(tag)).finish();
        Some(match &self.what {
            Said::Nothing => (183, compose(183, own_tag)),
            Said::Plain { status, response } => (*status, response.clone()),
            Said::Reliable { status, tag } => (*status, compose(*status, tag)),
        })
    }
}
