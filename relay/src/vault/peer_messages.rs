//! Letters between the nodes that share a store. They go through the store: nodes never connect to each other.
//!
//! | letter | from | to |
//! | --- | --- | --- |
//! | [`Letter::Ask`], [`Letter::Answer`] | the node that an app or a device has asked | the run that owns the instance, and back |
//! | the same, with a message in place of a request | a node that leaves, and those that take over | each other (`relay/src/service/nodes/drain_messages.rs`) |
//! | [`Letter::Ended`] | a node that has ended an instance of another one | its owner |
//! | [`Letter::TakenOver`], [`Letter::NotRegistered`] | a node that has taken what another one handed over | that one |
//! | [`Letter::Woken`] | a node that leaves, and has woken devices for calls | those that may take the devices over |
//!
//! Beside them each node has a note for the nodes that claim what it leaves ([`Vault::say`]).
//!
//! A letter is for one run of one node; a later run does not read it. It stays in the store for at most [`LETTER_LIFE`].
//!
//! Invariant: a letter is sealed with the keyring for the run that it is for, and so is a note. Without the keyring nobody can read or forge one, which matters
//! because its content goes into requests to SIP servers. A letter that comes again, or that is older than [`LETTER_AGE_MAX_S`], is not delivered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use sip::endpoint::InviteMark;
use sip::id::InstanceId;
use zeroize::Zeroizing;

use super::seal::SealError;
use super::store::{Owner, StoreError};
use super::{Sealed, Store, Vault, seal};
use crate::clock::{self, Reading, shared_now, shared_now_ms};
use crate::lock::Mutex;
use crate::random;

/// How long a letter lies in the store.
pub(super) const LETTER_LIFE: Duration = Duration::from_secs(10);
/// Letters that wait for one run; a further one is not taken, and its writer hears that the store is away.
pub(super) const LETTERS_MAX: usize = 4_096;
/// How old a letter may be by the clocks of two nodes, in seconds.
const LETTER_AGE_MAX_S: u64 = 60;
/// How long the numbers of letters are remembered: longer than a letter is young by any clock that is believed.
const REMEMBERED: Duration = Duration::from_secs(3 * LETTER_AGE_MAX_S);

const PURPOSE: &[u8] = b"sipwake letter 1";
const NOTE_PURPOSE: &[u8] = b"sipwake note 1";

/// Names a question, so that its answer finds back.
pub type LetterNumber = [u8; 16];

/// What one node writes to another.
pub enum Letter {
    /// Something for the owner of an instance to do.
    Ask {
        /// Names the question.
        number: LetterNumber,
        /// Where the answer goes.
        from: Owner,
        /// The question.
        body: Zeroizing<Vec<u8>>,
    },
    /// The answer.
    Answer {
        /// The number of the question.
        number: LetterNumber,
        /// The answer.
        body: Zeroizing<Vec<u8>>,
    },
    /// Instances of the reader have ended: [`Vault::ended_elsewhere`] names them.
    Ended,
    /// What became of instances that the reader handed over.
    TakenOver {
        /// They are registered by another node.
        registered: Vec<InstanceId>,
        /// They are that node's, and cannot be registered there: nobody is to wait for them.
        left: Vec<InstanceId>,
    },
    /// Instances that the reader handed over are the writer's, and their registration has failed there: it is tried again. An earlier version drops it.
    NotRegistered(Vec<InstanceId>),
    /// For which calls the writer, which leaves, has woken devices.
    Woken(Vec<WokenCall>),
}

/// A device that was woken for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WokenCall {
    /// The device.
    pub instance: InstanceId,
    /// The mark that the call's INVITE has in common with its copies.
    pub mark: InviteMark,
    /// How long the call still waits, in milliseconds.
    pub left_ms: u32,
}

/// The numbers of the letters that came within [`REMEMBERED`].
#[derive(Default)]
pub(super) struct Seen(Mutex<SeenTable>);

#[derive(Default)]
struct SeenTable {
    numbers: HashMap<LetterNumber, Instant>,
    /// How many there may be before those that are old go.
    sweep_at: usize,
}

impl Letter {
    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, number) = match self {
            Self::Ask { number, .. } => (0, *number),
            Self::Answer { number, .. } => (1, *number),
            Self::Ended => (2, random::bytes()),
            Self::TakenOver { .. } => (3, random::bytes()),
            Self::Woken(_) => (4, random::bytes()),
            Self::NotRegistered(_) => (5, random::bytes()),
        };
        out.push(kind);
        out.extend_from_slice(&number);
        out.extend_from_slice(&shared_now().to_be_bytes());
        match self {
            Self::Ask { from, body, .. } => {
                let from = from.to_string();
                out.extend_from_slice(&(from.len() as u32).to_be_bytes());
                out.extend_from_slice(from.as_bytes());
                out.extend_from_slice(body);
            }
            Self::Answer { body, .. } => out.extend_from_slice(body),
            Self::Ended => {}
            Self::TakenOver { registered, left } => {
                out.extend_from_slice(&(registered.len() as u32).to_be_bytes());
                for id in registered.iter().chain(left) {
                    out.extend_from_slice(&id.to_bytes());
                }
            }
            Self::NotRegistered(ids) => {
                for id in ids {
                    out.extend_from_slice(&id.to_bytes());
                }
            }
            Self::Woken(calls) => {
                for WokenCall { instance, mark, left_ms } in calls {
                    out.extend_from_slice(&instance.to_bytes());
                    out.extend_from_slice(&mark.to_bytes());
                    out.extend_from_slice(&left_ms.to_be_bytes());
                }
            }
        }
    }

    /// How many bytes it takes, at most.
    fn room(&self) -> usize {
        64 + match self {
            Self::Ask { from, body, .. } => from.node.len() + from.run.len() + body.len(),
            Self::Answer { body, .. } => body.len(),
            Self::Ended => 0,
            Self::TakenOver { registered, left } => 4 + 16 * (registered.len() + left.len()),
            Self::NotRegistered(ids) => 16 * ids.len(),
            Self::Woken(calls) => WokenCall::LENGTH * calls.len(),
        }
    }

    /// The letter, and what makes it known when it comes again.
    fn decode(bytes: &[u8]) -> Option<(Self, LetterNumber, u64)> {
        let (&kind, rest) = bytes.split_first()?;
        let (number, rest) = rest.split_first_chunk::<16>()?;
        let (written_at, rest) = rest.split_first_chunk::<8>()?;
        let letter = match kind {
            0 => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                let (from, body) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
                let from = Owner::parse(std::str::from_utf8(from).ok()?)?;
                Self::Ask { number: *number, from, body: Zeroizing::new(body.to_vec()) }
            }
            1 => Self::Answer { number: *number, body: Zeroizing::new(rest.to_vec()) },
            2 => Self::Ended,
            3 => {
                let (registered, ids) = rest.split_first_chunk::<4>()?;
                let (ids, rest) = ids.as_chunks::<16>();
                let mut ids = ids.iter().map(|id| InstanceId::from_bytes(*id));
                let registered = ids.by_ref().take(u32::from_be_bytes(*registered) as usize).collect();
                rest.is_empty().then(|| Self::TakenOver { registered, left: ids.collect() })?
            }
            4 => {
                let (calls, rest) = rest.as_chunks::<{ WokenCall::LENGTH }>();
                let calls: Option<Vec<_>> = calls.iter().map(WokenCall::decode).collect();
                rest.is_empty().then(|| calls.map(Self::Woken))??
            }
            5 => {
                let (ids, rest) = rest.as_chunks::<16>();
                let ids = ids.iter().map(|id| InstanceId::from_bytes(*id));
                rest.is_empty().then(|| Self::NotRegistered(ids.collect()))?
            }
            _ => return None,
        };
        Some((letter, *number, u64::from_be_bytes(*written_at)))
    }
}

impl WokenCall {
    const LENGTH: usize = 36;

    fn decode(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let (instance, rest) = bytes.split_first_chunk()?;
        let (mark, left_ms) = rest.split_first_chunk()?;
        let (instance, mark) = (InstanceId::from_bytes(*instance), InviteMark::from_bytes(*mark));
        Some(Self { instance, mark, left_ms: u32::from_be_bytes(*left_ms.first_chunk()?) })
    }
}

impl Seen {
    /// Whether it is the first of its number.
    fn is_new(&self, number: LetterNumber, now: Instant) -> bool {
        // Each change is one statement.
        let mut seen = self.0.lock();
        if seen.numbers.len() >= seen.sweep_at {
            seen.numbers.retain(|_, at| now.saturating_duration_since(*at) < REMEMBERED);
            seen.sweep_at = seen.numbers.len() * 2 + LETTERS_MAX;
        }
        seen.numbers.insert(number, now).is_none()
    }
}

impl Vault {
    /// This run, as the sender to answer.
    pub fn owner(&self) -> &Owner {
        &self.0.owner
    }

    /// Writes a letter to a run of a node. A store in memory has no other nodes, and takes none.
    ///
    /// # Errors
    /// [`StoreError::Away`], also when too many letters wait for that run.
    pub async fn write_letter(&self, to: &Owner, letter: &Letter) -> Result<(), StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(()) };
        let place = to.to_string();
        let sealed = seal::seal_as(&self.0.keyring, PURPOSE, place.as_bytes(), Reading::now(), letter.room(), |out| {
            letter.encode(out);
        });
        redis.write_letter(to, sealed.as_bytes()).await
    }

    /// The time by which a question between nodes says until when it is wanted, in milliseconds since 1970: one clock for all nodes, however far
    /// their own are apart, and however long a node stood still.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn question_time_ms(&self) -> Result<u64, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(shared_now_ms()),
            Store::Redis(redis) => redis.one_time_ms().await,
        }
    }

    /// Waits a moment for the next letter to this run; `None`: there is none yet, or one that is not to be believed.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn next_letter(&self) -> Result<Option<Letter>, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return std::future::pending().await };
        let Some(sealed) = redis.next_letter(&self.0.owner).await? else { return Ok(None) };
        let place = self.0.owner.to_string();
        let opened = seal::open_as(&self.0.keyring, PURPOSE, place.as_bytes(), &sealed, Letter::decode);
        let (letter, number, written_at) = match opened {
            Ok(letter) => letter,
            Err(SealError::OtherVersion) => {
                // In an update that goes from node to node, the later version may write what the earlier one has no use for.
                tracing::debug!(
                    event = "letter-of-another-version",
                    "a letter of a node of another version is not known here; it is dropped"
                );
                return Ok(None);
            }
            Err(SealError::KeyGone | SealError::Broken) => {
                tracing::warn!(
                    event = "letter-unreadable",
                    "a letter of another node does not open with this keyring; it is dropped"
                );
                return Ok(None);
            }
        };
        let is_young = shared_now().abs_diff(written_at) <= LETTER_AGE_MAX_S;
        if !is_young {
            tracing::warn!(
                event = "letter-too-old",
                "a letter of another node is too old, or its clock is off; it is dropped"
            );
        }
        // An answer has the number of its question.
        let first = matches!(letter, Letter::Answer { .. }) || self.0.seen.is_new(number, clock::now());
        Ok(Some(letter).filter(|_| is_young && first))
    }
}

impl Vault {
    /// Says something of this node to the others, from its next lease on. It is nothing of any instance.
    pub fn say(&self, note: &str) {
        // Said once in a run.
        let _ = self.0.note.set(note.into());
    }

    /// What a node says of itself, or said when it lived; `None` where nobody with this keyring has said it.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn note_of(&self, node: &str) -> Result<Option<Box<str>>, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(None) };
        let Some(sealed) = redis.note_of(node).await? else { return Ok(None) };
        let read = |plain: &[u8]| std::str::from_utf8(plain).ok().map(Box::from);
        Ok(seal::open_as(&self.0.keyring, NOTE_PURPOSE, node.as_bytes(), &sealed, read).ok())
    }

    pub(super) fn sealed_note(&self) -> Option<Sealed> {
        let (note, place) = (self.0.note.get()?.as_bytes(), self.0.owner.node.as_bytes());
        let write = |out: &mut Vec<u8>| out.extend_from_slice(note);
        Some(seal::seal_as(&self.0.keyring, NOTE_PURPOSE, place, Reading::now(), note.len(), write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_reads_back_and_a_torn_one_does_not() {
        let from = Owner::of("relay1.example.net:5061");
        let letter = Letter::Ask { number: [7; 16], from: from.clone(), body: Zeroizing::new(b"do it".to_vec()) };
        let mut bytes = Vec::new();
        letter.encode(&mut bytes);
        assert!(bytes.len() <= letter.room(), "sealed without a copy");
        let Some((Letter::Ask { number, from: back, body }, ..)) = Letter::decode(&bytes) else { panic!() };
        assert_eq!((number, back, body.as_slice()), ([7; 16], from, &b"do it"[..]));
        for end in 0..bytes.len() - 5 {
            assert!(Letter::decode(&bytes[..end]).is_none(), "{end}");
        }
        assert!(Letter::decode(&[9; 40]).is_none());
    }

    #[test]
    fn what_was_taken_over_reads_back_as_registered_or_left() {
        let id = |number: u128| InstanceId::new(number << 64, sip::id::ShardTag(1));
        for (taken, spare) in [(vec![], vec![]), (vec![id(1), id(2)], vec![id(3)]), (vec![], vec![id(4)])] {
            let mut bytes = Vec::new();
            let letter = Letter::TakenOver { registered: taken.clone(), left: spare.clone() };
            letter.encode(&mut bytes);
            assert!(bytes.len() <= letter.room(), "sealed without a copy");
            // The form of earlier versions.
            let names: Vec<u8> = taken.iter().chain(&spare).flat_map(|id| id.to_bytes()).collect();
            assert_eq!((bytes[0], &bytes[25..]), (3, &[&(taken.len() as u32).to_be_bytes()[..], &names].concat()[..]));
            let Some((Letter::TakenOver { registered, left }, ..)) = Letter::decode(&bytes) else { panic!() };
            assert_eq!((registered, left), (taken, spare));
            bytes.push(0);
            assert!(Letter::decode(&bytes).is_none(), "no whole number of names");
        }
    }

    #[test]
    fn what_is_not_registered_yet_reads_back() {
        let id = |number: u128| InstanceId::new(number << 64, sip::id::ShardTag(1));
        for ids in [vec![], vec![id(1), id(2)]] {
            let mut bytes = Vec::new();
            let letter = Letter::NotRegistered(ids.clone());
            letter.encode(&mut bytes);
            assert!(bytes.len() <= letter.room(), "sealed without a copy");
            let Some((Letter::NotRegistered(back), ..)) = Letter::decode(&bytes) else { panic!() };
            assert_eq!(back, ids);
            bytes.push(0);
            assert!(Letter::decode(&bytes).is_none(), "no whole number of names");
        }
    }

    #[test]
    fn for_which_calls_devices_were_woken_reads_back() {
        let instance = InstanceId::new(1 << 64, sip::id::ShardTag(1));
        let call = |number, left_ms| WokenCall { instance, mark: InviteMark::from_bytes([number; 16]), left_ms };
        for calls in [vec![], vec![call(1, 30_000), call(2, 0)]] {
            let mut bytes = Vec::new();
            let letter = Letter::Woken(calls.clone());
            letter.encode(&mut bytes);
            assert!(bytes.len() <= letter.room(), "sealed without a copy");
            let Some((Letter::Woken(back), ..)) = Letter::decode(&bytes) else { panic!() };
            assert_eq!(back, calls);
            bytes.push(0);
            assert!(Letter::decode(&bytes).is_none(), "no whole number of calls");
        }
    }

    #[test]
    fn a_letter_that_comes_again_is_known() {
        let (seen, now) = (Seen::default(), Instant::now());
        assert!(seen.is_new([1; 16], now) && !seen.is_new([1; 16], now) && seen.is_new([2; 16], now));
    }
}
