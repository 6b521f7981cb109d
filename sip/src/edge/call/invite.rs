//! The INVITE of a call that waits, and how long it invites.
//!
//! Invariant: an invitation ends with its Expires (RFC 3261 §13.2.1, §13.3.1), and never later. An Expires that is no number of seconds above zero sets no
//! limit: `0` would invite nobody, and a date is of RFC 2543.

use std::time::{Duration, Instant};

use super::provisional::LastProvisional;
use crate::edge::invite_mark::InviteMark;
use crate::edge::refusals::Refusals;
use crate::flow::Source;
use crate::message::{Message, Name};
use crate::timing::EdgeTiming;
use crate::transaction::ServerId;

/// The INVITE of a call that waits.
#[derive(Debug)]
pub struct Invite {
    /// The server transaction.
    pub server: ServerId,
    /// The source of the INVITE.
    pub source: Source,
    /// The request as it came.
    pub message: Message,
    /// The To tag of the answers that the relay gives itself.
    pub tag: String,
    /// When its Expires ends.
    pub valid_until: Option<Instant>,
    pub(super) mark: InviteMark,
    pub(super) refusals: Refusals,
    pub(super) last_provisional: LastProvisional,
}

impl Invite {
    /// An INVITE that is taken now, with its mark and the end of its Expires.
    pub fn new(
        now: Instant,
        timing: EdgeTiming,
        server: ServerId,
        source: Source,
        (message, mark, valid_until): (Message, InviteMark, Option<Instant>),
        tag: String,
    ) -> Self {
        let last_provisional = LastProvisional::new(now, timing.provisional_interval, &message);
        Self { server, source, message, tag, valid_until, mark, refusals: Refusals::default(), last_provisional }
    }

    /// This moment, or the end of its Expires where that is earlier.
    pub fn limit(&self, at: Instant) -> Instant {
        self.valid_until.map_or(at, |until| until.min(at))
    }

    /// Whether its Expires has ended.
    pub fn has_expired(&self, now: Instant) -> bool {
        self.valid_until.is_some_and(|until| until <= now)
    }
}

/// When the Expires of an INVITE ends that comes now.
pub fn valid_until(now: Instant, invite: &Message) -> Option<Instant> {
    let seconds = invite.number(Name::Expires).filter(|seconds| *seconds > 0)?;
    Some(now + Duration::from_secs(u64::from(seconds)))
}
