//! A call's story as bytes, for sealing.
//!
//! ```text
//! story = 1 call[16] at_ms expires_at app from count step*
//! step  = after_ms kind [value] [flag [reason]]
//! ```
//!
//! Invariant: reading accepts only what writing makes; a kind or a word that this version does not know is no story.

use sip::endpoint::CallState;
use sip::id::{CallId, InstanceId};

use super::{NotARecord, Reader, number, text};
use crate::domain::story::{Caller, Moment, STEPS_MAX, Step, Story};
use crate::domain::{PushOutcome, PushProvider, Word};

const VERSION: u8 = 1;
/// The states in which a call can end.
const ENDS: [CallState; 5] =
    [CallState::Answered, CallState::Cancelled, CallState::AnsweredElsewhere, CallState::Declined, CallState::TimedOut];

/// Shows its bytes, part by part.
pub(in crate::vault) fn visit(story: &Story, expires_at: u64, sink: &mut dyn FnMut(&[u8])) {
    let Story { call, instance: _, app, from, at_ms, steps } = story;
    sink(&[VERSION]);
    sink(&call.to_bytes());
    number(*at_ms, sink);
    number(expires_at, sink);
    text(app, sink);
    text(from.as_str(), sink);
    number(steps.len() as u64, sink);
    for Step { after_ms, moment } in steps {
        number(*after_ms, sink);
        match moment {
            Moment::Invite => sink(&[0]),
            Moment::Withheld(why) => sink(&[1, why.index() as u8]),
            Moment::PushSent(provider) => sink(&[2, provider.index() as u8]),
            Moment::PushEnded(outcome, reason) => {
                sink(&[3, outcome.index() as u8, u8::from(reason.is_some())]);
                if let Some(reason) = reason {
                    text(reason, sink);
                }
            }
            Moment::DeviceAttached => sink(&[4]),
            Moment::InviteSent => sink(&[5]),
            Moment::CallerHearsRinging => sink(&[6]),
            Moment::Ringing => sink(&[7]),
            Moment::Ended(state) => {
                // No other state is an end, or is ever told as one.
                let end = ENDS.iter().position(|end| end == state).unwrap_or(ENDS.len() - 1);
                sink(&[8, end as u8]);
            }
            Moment::HungUp { by_device } => sink(&[9, u8::from(*by_device)]),
            Moment::Announced => sink(&[10]),
            Moment::Refused(status) => {
                sink(&[11]);
                number(u64::from(*status), sink);
            }
            Moment::DeclinedByApp => sink(&[12]),
            Moment::Expired => sink(&[13]),
        }
    }
}

/// Reads the story of a call of this instance, and when it is forgotten.
pub(in crate::vault) fn read(instance: InstanceId, bytes: &[u8]) -> Option<(Story, u64)> {
    read_or_not(instance, bytes).ok()
}

fn read_or_not(instance: InstanceId, bytes: &[u8]) -> Result<(Story, u64), NotARecord> {
    let mut rest = Reader(bytes);
    if rest.byte()? != VERSION {
        return Err(NotARecord);
    }
    let call = CallId::from_bytes(rest.array()?);
    let (at_ms, expires_at) = (rest.number()?, rest.number()?);
    let (app, from) = (rest.text()?.into(), Caller::kept(rest.text()?));
    let count = usize::try_from(rest.number()?).ok().filter(|count| *count <= STEPS_MAX).ok_or(NotARecord)?;
    let steps = (0..count).map(|_| step(&mut rest)).collect::<Result<_, _>>()?;
    if rest.0.is_empty() {
        Ok((Story { call, instance, app, from, at_ms, steps }, expires_at))
    } else {
        Err(NotARecord)
    }
}

fn step(rest: &mut Reader<'_>) -> Result<Step, NotARecord> {
    let after_ms = rest.number()?;
    let moment = match rest.byte()? {
        0 => Moment::Invite,
        1 => Moment::Withheld(word(rest)?),
        2 => Moment::PushSent(word::<PushProvider>(rest)?),
        3 => {
            let outcome = word::<PushOutcome>(rest)?;
            let has_reason = rest.flag()?;
            Moment::PushEnded(outcome, rest.text_if(has_reason)?.map(Into::into))
        }
        4 => Moment::DeviceAttached,
        5 => Moment::InviteSent,
        6 => Moment::CallerHearsRinging,
        7 => Moment::Ringing,
        8 => Moment::Ended(*ENDS.get(usize::from(rest.byte()?)).ok_or(NotARecord)?),
        9 => Moment::HungUp { by_device: rest.flag()? },
        10 => Moment::Announced,
        11 => Moment::Refused(u16::try_from(rest.number()?).map_err(|_| NotARecord)?),
        12 => Moment::DeclinedByApp,
        13 => Moment::Expired,
        _ => return Err(NotARecord),
    };
    Ok(Step { after_ms, moment })
}

fn word<W: Word>(rest: &mut Reader<'_>) -> Result<W, NotARecord> {
    W::ALL.get(usize::from(rest.byte()?)).copied().ok_or(NotARecord)
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::domain::story::{Withheld, reason};

    #[test]
    fn a_story_reads_back_as_itself_and_nothing_shorter_or_longer_does() {
        let (call, instance) = (CallId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let mut story = Story::new(call, instance, "com.example.phone", "sip:bob@example.com", 1_795_000_000_123);
        let mut moments = vec![
            Moment::PushEnded(PushOutcome::Refused, Some(reason("TopicDisallowed"))),
            Moment::DeviceAttached,
            Moment::InviteSent,
            Moment::CallerHearsRinging,
            Moment::Ringing,
            Moment::HungUp { by_device: true },
            Moment::HungUp { by_device: false },
            Moment::Announced,
            Moment::Refused(488),
            Moment::DeclinedByApp,
            Moment::Expired,
        ];
        moments.extend(Withheld::ALL.iter().map(|why| Moment::Withheld(*why)));
        moments.extend(PushProvider::ALL.iter().map(|provider| Moment::PushSent(*provider)));
        moments.extend(PushOutcome::ALL.iter().map(|outcome| Moment::PushEnded(*outcome, None)));
        moments.extend(ENDS.map(Moment::Ended));
        for (after, moment) in moments.into_iter().enumerate() {
            story.tell(1_795_000_000_123 + after as u64 * 1_000, moment);
        }
        let mut bytes = Vec::new();
        visit(&story, 1_795_086_400, &mut |part| bytes.extend_from_slice(part));
        assert_eq!(read(instance, &bytes), Some((story, 1_795_086_400)));
        assert!((0..bytes.len()).all(|len| read(instance, &bytes[..len]).is_none()));
        assert_eq!(read(instance, &[&bytes[..], &[0]].concat()), None);
        assert!(!bytes.windows(3).any(|part| part == b"bob"));
    }
}
