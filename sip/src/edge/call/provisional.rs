//! The last provisional response of a call, and when it is repeated.
//!
//! A device's provisional response is not repeated once the device has refused: its early dialog is over.
//!
//! Invariant: a waiting caller gets a provisional response each [`EdgeTiming::provisional_interval`] (RFC 3261 §13.3.1.1),
//! unless it wants provisional responses reliably.
//!
//! [`EdgeTiming::provisional_interval`]: crate::timing::EdgeTiming::provisional_interval

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Call, Stage};
use crate::flow::Source;
use crate::id::{BindingId, InstanceId};
use crate::message::{Composer, Limits, Message, Name};

/// The last provisional response, and when the next one is due.
#[derive(Debug)]
pub(super) struct LastProvisional {
    /// `None` where only a device can speak: the caller wants provisional responses reliably (RFC 3262).
    repeat_at: Option<Instant>,
    interval: Duration,
    what: Provisional,
    /// The device that has said it.
    by: Option<InstanceId>,
}

#[derive(Debug)]
enum Provisional {
    /// 100 alone.
    Nothing,
    /// This, which may be said again as it is.
    Plain { status: u16, response: Bytes },
    /// This status with this To tag, reliably: to say the same again would ask for another PRACK (RFC 3262 §3).
    Reliable { status: u16, tag: Box<str>, way: Vec<(Name, Box<str>)> },
}

/// The lines of a response that say where the other end of its dialog is, and by which way (RFC 3261 §12.1.2).
fn way_of(response: &Message) -> Vec<(Name, Box<str>)> {
    let lines = |name| response.elements(name).map(move |value| (name, value.into()));
    lines(Name::RecordRoute).chain(lines(Name::Contact)).collect()
}

/// A provisional response in a dialog of that way.
fn by_way(response: Bytes, way: &[(Name, Box<str>)]) -> Bytes {
    let Ok(plain) = Message::parse(&response, &Limits::COMPOSED) else { return response };
    let edit = plain.edit().remove(Name::RecordRoute);
    way.iter().fold(edit, |edit, (name, value)| edit.append(*name, &**value)).finish()
}

impl LastProvisional {
    /// The state of a call that has just come.
    pub(super) fn new(now: Instant, interval: Duration, invite: &Message) -> Self {
        let repeat_at = (!invite.lists(Name::Require, "100rel")).then(|| now + interval);
        Self { interval, repeat_at, what: Provisional::Nothing, by: None }
    }

    /// When [`Self::repeat`] is due.
    pub(super) fn repeat_at(&self) -> Option<Instant> {
        self.repeat_at
    }

    fn record(&mut self, now: Instant, status: u16, said: Option<(&Message, InstanceId)>, response: &Bytes) {
        self.by = said.map(|(_, device)| device);
        let reliable = said.map(|(message, _)| message).filter(|message| message.lists(Name::Require, "100rel"));
        self.what = match reliable {
            None => Provisional::Plain { status, response: response.clone() },
            Some(message) => {
                let tag = message.to().and_then(|to| to.tag().map(Into::into)).unwrap_or_default();
                Provisional::Reliable { status, tag, way: way_of(message) }
            }
        };
        self.repeat_at = self.repeat_at.map(|_| now + self.interval);
    }

    /// `own`: the tag and the Contact of the relay's own responses.
    fn repeat(&mut self, now: Instant, invite: &Message, own: (&str, String)) -> Option<(u16, Bytes)> {
        self.repeat_at.filter(|at| *at <= now)?;
        self.repeat_at = Some(now + self.interval);
        let compose = |status, tag| Composer::response(invite, status, Composer::reason(status), Some(tag));
        Some(match &self.what {
            // The response makes a dialog, whose other end is where the call waits (RFC 3261 §12.1.1).
            Provisional::Nothing => (183, compose(183, own.0).header(Name::Contact, own.1).finish()),
            Provisional::Plain { status, response } => (*status, response.clone()),
            Provisional::Reliable { status, tag, way } => (*status, by_way(compose(*status, tag).finish(), way)),
        })
    }
}

impl Call {
    /// `response`, a provisional one above 100, was sent to the caller. `said`: what it was made of, and by which device.
    pub fn record(&mut self, now: Instant, status: u16, said: Option<(&Message, InstanceId)>, response: &Bytes) {
        if let Stage::Waiting(invite) = &mut self.stage {
            invite.last_provisional.record(now, status, said, response);
        }
    }

    /// The provisional response that is due when the caller has got none for [`EdgeTiming::provisional_interval`]. `contact`: that of the
    /// relay's own responses to what came from there.
    ///
    /// [`EdgeTiming::provisional_interval`]: crate::timing::EdgeTiming::provisional_interval
    pub fn repeat(&mut self, now: Instant, contact: impl FnOnce(&Source, BindingId) -> String) -> Option<(u16, Bytes)> {
        match &mut self.stage {
            Stage::Waiting(invite) if !self.state.is_final() => {
                let own = (&*invite.tag, contact(&invite.source, self.binding));
                invite.last_provisional.repeat(now, &invite.message, own)
            }
            _ => None,
        }
    }

    /// A device rings no longer: what it has said is not said again.
    pub(super) fn forget_provisional(&mut self, device: InstanceId) {
        if let Stage::Waiting(invite) = &mut self.stage
            && invite.last_provisional.by == Some(device)
        {
            invite.last_provisional.what = Provisional::Nothing;
        }
    }
}
