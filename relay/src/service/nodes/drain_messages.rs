//! Messages about leaving nodes. A leaving node still serves the calls that wait with it, while others have taken over its instances. They report changes of an
//! instance to the leaver, and the leaver reports its findings to the owner.
//!
//! | message | from | to | the receiver |
//! | --- | --- | --- | --- |
//! | [`NodeMessage::Leaving`] | a node that leaves | each other one | assumes for [`LEAVES_WITHIN`] that the leaver still serves |
//! | [`NodeMessage::Left`] | the same, at its end | each other one | assumes so no more |
//! | [`NodeMessage::Ended`] | the owner, when it has ended an instance | each node that leaves | releases it: its device is neither pushed nor let in any more, and calls that wait for it alone get 480 |
//! | [`NodeMessage::Changed`] | the owner, when it has stored a change | each node that leaves | reads the record again: pushes go to the present token |
//! | [`NodeMessage::Succeeded`] | the owner of the later of two instances | each node that leaves | takes the later one in, unregistered, with the calls of the earlier one |
//! | [`NodeMessage::ContactRemoved`] | any node, for a device that has removed a registration unknown there, or has registered there by another push token | each other one that lives | ends its registrations of that device |
//! | [`NodeMessage::TokenDead`] | a node that leaves | the owner | compares the token with its own record, and ends the instance or not |
//! | [`NodeMessage::Silence`] | a node that is asked for the receipt of an instance that another one has wiped | that one | sends no more pushes for it |
//! | [`NodeMessage::InCall`] | a node that is to enable a device again | the owner of the device's earlier instance | says whether it has a call for the device, and enables it then (`relay/src/api/enable_elsewhere.rs`) |
//! | [`NodeMessage::Registers`] | a node that is to enable a device | each other one that lives | says whether it has the device's account registered for another device, and enables it then (likewise) |
//! | [`NodeMessage::RegisterAgain`] | a node that has unregistered the predecessor of an instance | the owner | registers the instance at once: its SIP server may have taken both for one |
//! | [`NodeMessage::GivenUp`] | a node at which a SIP server has closed its connection before its devices were awake | each other one that it has asked to wake them | ends the pushes for that wake, and what the devices were told |
//! | [`NodeMessage::SentElsewhere`] | a node that has answered a wake 503, as when it leaves | each other one that it has asked | likewise after a moment, in which another node may be asked for the same call |
//! | [`NodeMessage::GivenUp`] | a node at which an app has hung up before the answer to its enabling | the one that enables the device | keeps nothing of it, as where the app had asked there |
//!
//! A message is the body of a question ([`Letter::Ask`](crate::vault::peer_messages::Letter::Ask)), and begins with a byte with which no request of an app
//! begins. An earlier version answers that it is no request, and goes on.
//!
//! Invariant: a leaving node ends only the instances that it is told to release, because another node has their records, or will have them. The sender waits at
//! most [`HEARD_WITHIN`], also before a receipt: a silent node may have died.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use sip::id::{BindingId, InstanceId};
use zeroize::Zeroizing;

use crate::agent::request::DeadToken;
use crate::lock::Mutex;
use crate::vault::{AorKey, Owner};

/// How long a node is believed to serve on that has said that it leaves, unless it says that it has left: longer than it takes.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);
/// How long a node that leaves may take to say that it has heard a message, or how a call stands; then it is gone on without.
pub const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// The first byte of a message.
const MARK: u8 = 0;

/// The answer to a message that was understood, and to a question the yes.
pub(crate) const HEARD: &[u8] = &[1];
/// The no to a question.
pub(crate) const NOT_SO: &[u8] = &[0];

/// Whether an answer says that the message was understood, and done: a version that does not know it says nothing, or something else.
pub(crate) fn is_heard(answer: &[u8]) -> bool {
    answer == HEARD
}

/// A message between two nodes; most of them are sent when one of them leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeMessage {
    /// The writer leaves, and serves on the calls that wait with it.
    Leaving,
    /// The node serves no more.
    Left,
    /// An instance has ended.
    Ended(InstanceId),
    /// Its record has changed.
    Changed(InstanceId),
    /// The instance ends for one that was enabled later for the same device.
    Succeeded {
        /// The instance that ends.
        earlier: InstanceId,
        /// The instance that was enabled later.
        later: InstanceId,
    },
    /// A push service calls a token gone.
    TokenDead {
        /// The instance.
        id: InstanceId,
        /// The token, and since when it is dead.
        token: DeadToken,
    },
    /// The registration that was removed elsewhere may have been this instance's.
    RegisterAgain(InstanceId),
    /// The receipt of an instance that the reader has wiped is about to be given out.
    Silence(InstanceId),
    /// Whether a call waits at the reader for an instance, or goes on.
    InCall(InstanceId),
    /// Whether the reader has this binding registered for another device than the one of this instance.
    Registers {
        /// The binding.
        binding: BindingId,
        /// The device's instance, if it has one.
        besides: Option<InstanceId>,
    },
    /// The request that has this number, to wake devices or to enable one, is given up at the node that was asked for it.
    GivenUp(u128),
    /// The node that was asked for this wake has sent the SIP server elsewhere: it is given up unless that announces the call again at once.
    SentElsewhere(u128),
    /// A device has removed or replaced Contacts of registrations that passed through.
    ContactRemoved(ContactRemoval),
}

/// The Contacts that a device has removed, or replaced by another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContactRemoval {
    /// The account.
    pub(crate) account: AorKey,
    /// The device of it, or all: [`Vault::device_mark`](crate::vault::Vault::device_mark).
    pub(crate) device: [u8; 16],
    /// When it asked its SIP server for that, in milliseconds since 1970: what was registered since then stays. In a message the time is by the
    /// [clock of questions](crate::vault::Vault::question_time_ms), because the clocks of two nodes may differ and a letter may lie for seconds.
    pub(crate) sent_ms: u64,
    /// The registration that takes the place of its earlier ones; `None`: it has removed them.
    pub(crate) by: Option<InstanceId>,
}

/// The runs that leave, each with until when that is believed.
#[derive(Default)]
pub(crate) struct Leavers(Mutex<BTreeMap<Owner, Instant>>);

impl NodeMessage {
    pub(crate) fn encode(self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(48));
        out.push(MARK);
        match self {
            Self::Leaving => out.push(1),
            Self::Left => out.push(2),
            Self::Ended(id) => {
                out.push(3);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Changed(id) => {
                out.push(4);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Succeeded { earlier, later } => {
                out.push(5);
                out.extend_from_slice(&earlier.to_bytes());
                out.extend_from_slice(&later.to_bytes());
            }
            Self::TokenDead { id, token: DeadToken { mark, since_ms } } => {
                out.push(6);
                out.extend_from_slice(&id.to_bytes());
                out.extend_from_slice(&mark);
                out.extend_from_slice(&since_ms.to_be_bytes());
            }
            Self::RegisterAgain(id) => {
                out.push(7);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Silence(id) => {
                out.push(9);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::InCall(id) => {
                out.push(10);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Registers { binding, besides } => {
                out.push(11);
                out.extend_from_slice(&binding.to_bytes());
                out.extend_from_slice(&besides.map_or([0; 16], |id| id.to_bytes()));
            }
            Self::GivenUp(number) => {
                out.push(12);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::SentElsewhere(number) => {
                out.push(13);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::ContactRemoved(ContactRemoval { account, device, sent_ms, by }) => {
                out.push(8);
                out.extend_from_slice(&account.to_bytes());
                out.extend_from_slice(&device);
                out.extend_from_slice(&by.map_or([0; 16], |by| by.to_bytes()));
                out.extend_from_slice(&sent_ms.to_be_bytes());
            }
        }
        out
    }

    /// `None`: a message of a later version.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let [MARK, kind, rest @ ..] = body else { return None };
        let id = |bytes: &[u8; 16]| InstanceId::from_bytes(*bytes);
        let (ids, tail) = rest.as_chunks::<16>();
        match (kind, ids, tail) {
            (1, [], []) => Some(Self::Leaving),
            (2, [], []) => Some(Self::Left),
            (3, [one], []) => Some(Self::Ended(id(one))),
            (4, [one], []) => Some(Self::Changed(id(one))),
            (5, [earlier, later], []) => Some(Self::Succeeded { earlier: id(earlier), later: id(later) }),
            (6, [one, mark], tail) => {
                let since_ms = u64::from_be_bytes(tail.try_into().ok()?);
                Some(Self::TokenDead { id: id(one), token: DeadToken { mark: *mark, since_ms } })
            }
            (7, [one], []) => Some(Self::RegisterAgain(id(one))),
            (9, [one], []) => Some(Self::Silence(id(one))),
            (10, [one], []) => Some(Self::InCall(id(one))),
            (11, [binding, besides], []) => {
                let besides = (*besides != [0; 16]).then(|| id(besides));
                Some(Self::Registers { binding: BindingId::from_bytes(*binding), besides })
            }
            (12, [number], []) => Some(Self::GivenUp(u128::from_be_bytes(*number))),
            (13, [number], []) => Some(Self::SentElsewhere(u128::from_be_bytes(*number))),
            (8, [account, device, by], tail) => {
                let sent_ms = u64::from_be_bytes(tail.try_into().ok()?);
                let by = (*by != [0; 16]).then(|| id(by));
                let account = AorKey::from_bytes(*account);
                Some(Self::ContactRemoved(ContactRemoval { account, device: *device, sent_ms, by }))
            }
            _ => None,
        }
    }
}

/// Whether a question of another node is such a message, and no request of an app.
pub(crate) fn is_node_message(body: &[u8]) -> bool {
    body.first() == Some(&MARK)
}

impl Leavers {
    /// Notes that a node has said that it leaves.
    pub(crate) fn note(&self, run: Owner, now: Instant) {
        let mut leavers = self.lock();
        leavers.retain(|_, until| *until > now);
        leavers.insert(run, now + LEAVES_WITHIN);
    }

    /// Notes that a node has said that it has left.
    pub(crate) fn forget(&self, run: &Owner) {
        self.lock().remove(run);
    }

    /// The leaving nodes that serve on.
    pub(crate) fn living(&self, now: Instant) -> Vec<Owner> {
        self.lock().iter().filter(|(_, until)| **until > now).map(|(run, _)| run.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Owner, Instant>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_word_reads_back_and_is_no_request_of_an_app() {
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let token = DeadToken { mark: [7; 16], since_ms: 1_700_000_000_000 };
        let removed = |by| {
            let (account, device) = (AorKey::of_number(6), [7; 16]);
            NodeMessage::ContactRemoved(ContactRemoval { account, device, sent_ms: 1_795_000_000_000, by })
        };
        let messages = [
            NodeMessage::Leaving,
            NodeMessage::Left,
            NodeMessage::Ended(id(1)),
            NodeMessage::Changed(id(2)),
            NodeMessage::Succeeded { earlier: id(3), later: id(4) },
            NodeMessage::TokenDead { id: id(5), token },
            NodeMessage::RegisterAgain(id(6)),
            NodeMessage::Silence(id(7)),
            NodeMessage::InCall(id(9)),
            NodeMessage::Registers { binding: BindingId::new(10 << 32, ShardTag(1)), besides: None },
            NodeMessage::Registers { binding: BindingId::new(11 << 32, ShardTag(1)), besides: Some(id(12)) },
            NodeMessage::GivenUp(u128::MAX - 1),
            NodeMessage::SentElsewhere(u128::MAX - 2),
            removed(None),
            removed(Some(id(8))),
        ];
        for message in messages {
            let mut body = message.encode();
            assert_eq!((is_node_message(&body), NodeMessage::decode(&body)), (true, Some(message)));
            body.push(0);
            assert_eq!(NodeMessage::decode(&body), None, "of another length");
        }
        assert_eq!(NodeMessage::decode(&[MARK, 200]), None, "a later version's");
        assert!(!is_node_message(b"GET /v1/instances/pi_1") && !is_node_message(b""));
    }

    #[test]
    fn a_node_of_a_version_that_does_not_know_a_word_has_not_heard_it() {
        assert!(is_heard(HEARD));
        assert!(!is_heard(b"") && !is_heard(b"HTTP/1.1 400 Bad Request") && !is_heard(&[2]));
    }

    #[test]
    fn a_node_that_leaves_is_told_until_it_says_that_it_has_left_or_must_have() {
        let (leavers, now) = (Leavers::default(), Instant::now());
        let [one, other] =
            ["relay1.example.net:5061#1", "relay2.example.net:5061#2"].map(|run| Owner::parse(run).unwrap());
        leavers.note(one.clone(), now);
        leavers.note(other.clone(), now + LEAVES_WITHIN / 2);
        assert_eq!(leavers.living(now).len(), 2);
        assert_eq!(leavers.living(now + LEAVES_WITHIN), std::slice::from_ref(&other));
        leavers.forget(&other);
        assert_eq!(leavers.living(now), [one]);
    }
}
