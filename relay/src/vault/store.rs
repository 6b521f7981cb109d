//! The interface of the stores: the ownership of records, the questions to a store, and the ways in which it fails.
//!
//! Invariant: no error here holds a URL, a key or a value; a store's own message is reduced to its code.

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use zeroize::Zeroizing;

use super::MAX_LIFETIME_S;
use super::lookup::{Lookup, hex};
use super::seal::Sealed;
use crate::clock::Reading;
use crate::clock::watch::JUMP_STEADY_MS;
use crate::net::tls_fault::TlsFault;
use crate::random;

/// How long a node's lease lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(4);

/// How often a node renews its lease: several times within it, so that one answer that is lost costs nothing.
pub const RENEWAL: Duration = Duration::from_millis(800);

/// The longest that one operation of the store takes, connecting included, before it is [`StoreError::Away`].
pub const OPERATION_LIMIT: Duration = Duration::from_secs(1);

/// How a vault meets its store; the default serves production.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The life of a lease without renewal; [`LEASE`].
    pub lease: Duration,
    /// The longest that one operation takes; [`OPERATION_LIMIT`].
    pub operation_limit: Duration,
    /// For `rediss`.
    pub tls: StoreTls,
    /// Whether a store that may write to a disk is given no new record.
    pub require_ephemeral: bool,
}

/// How a store is spoken to by TLS: by whom it is vouched for, and as whom the relay comes.
#[derive(Clone, Default)]
pub struct StoreTls {
    /// The CA's certificates, in PEM, instead of the system's roots.
    pub ca: Option<Vec<u8>>,
    /// The relay's own certificate, leaf first, and its key, in PEM: for a Redis with `tls-auth-clients`.
    pub client: Option<(Vec<u8>, Zeroizing<Vec<u8>>)>,
}

impl StoreTls {
    /// Nothing that only TLS has a use for.
    pub(super) fn is_plain(&self) -> bool {
        self.ca.is_none() && self.client.is_none()
    }
}

impl std::fmt::Debug for StoreTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StoreTls {{ ca: {}, client: {} }}", self.ca.is_some(), self.client.is_some())
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { lease: LEASE, operation_limit: OPERATION_LIMIT, tls: StoreTls::default(), require_ephemeral: false }
    }
}

/// Counts the owners that a record has had, from 1 on. A node whose fence is not the stored one has lost the record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fence(u64);

impl Fence {
    /// Of a record that does not exist yet.
    pub const NEW: Self = Self(0);

    /// Of a record's first owner.
    pub(super) const FIRST: Self = Self(1);

    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The number itself, as it is stored.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A record to be written.
#[derive(Clone, Copy)]
pub struct RecordToWrite<'a> {
    /// The instance.
    pub id: InstanceId,
    /// Its record, sealed.
    pub sealed: &'a Sealed,
    /// When it ends, in seconds since 1970; cut to [`MAX_LIFETIME_S`] from now.
    pub expires_at: u64,
    /// The name under which the instance is found.
    pub lookup: &'a Lookup,
    /// The fence by which this run has the record; [`Fence::NEW`]: there is none yet.
    pub fence: Fence,
}

/// How long a clock that has jumped is doubted, in seconds.
const DOUBTED_S: u64 = JUMP_STEADY_MS.unsigned_abs() / 1_000;

/// When a record ends.
#[derive(Clone, Copy)]
pub(super) struct Expiry {
    /// In seconds since 1970.
    pub at_s: u64,
    /// In seconds from now, at most [`MAX_LIFETIME_S`].
    pub left_s: u64,
}

impl Expiry {
    /// `at_s` is cut to [`MAX_LIFETIME_S`] from now.
    pub fn at(at_s: u64) -> Self {
        let now = Reading::now();
        let left_s = at_s.saturating_sub(now.confirmed).min(MAX_LIFETIME_S);
        // What is over by the shared clock, and not yet for sure, goes on while that clock is doubted.
        let left_s = if at_s <= now.system { left_s.min(DOUBTED_S) } else { left_s };
        Self { at_s: at_s.min(now.latest + MAX_LIFETIME_S), left_s }
    }

    /// The time to live in the store, at least one millisecond.
    pub fn left_ms(self) -> u64 {
        self.left_s.saturating_mul(1_000).max(1)
    }
}

/// Which record is erased; another one is left as it is.
#[derive(Clone, Copy)]
pub(super) enum ErasedIf<'a> {
    /// Any.
    Any,
    /// Unless another node has it, or has had it since this one had it with this fence.
    OwnedBy(Fence),
    /// The one that reads like this, whoever owns it.
    Unchanged(&'a Sealed),
}

/// What a record that is written does with its lookup where that names another instance.
#[derive(Clone, Copy)]
pub enum Naming<'a> {
    /// The lookup names the record's instance from then on, where it is another one than the record had.
    Takes,
    /// The same, of one that is registered from here, so that the Contacts of the nodes that had it before are gone: who claims it next names them no more.
    TakesRegistered,
    /// The lookup names it whatever the store has of an earlier try whose answer was lost, and the one before no more.
    Moves {
        /// The lookup before.
        from: &'a Lookup,
    },
    /// The lookup goes on naming the other one, until the record's instance [takes](super::Vault::take_lookup) it.
    Leaves,
}

/// One record as a store holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The instance.
    pub id: InstanceId,
    /// Its record, sealed.
    pub sealed: Sealed,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The number of its present owner.
    pub fence: Fence,
    /// Whether that owner is this run of this node.
    pub owned: bool,
    /// Its present owner.
    pub owner: Owner,
    /// The run of another node that it was just claimed from.
    pub taken_from: Option<Owner>,
    /// The node that has put it last, where another one has claimed it since.
    pub put_by: Option<Arc<str>>,
    /// The nodes from which it was claimed, the latest first, but for the last one, which stays the last. Their Contacts may stand: a later owner
    /// may have died before it registered the account.
    pub had_by: Vec<Arc<str>>,
}

/// Reads nodes, one in a line.
pub(super) fn nodes_in(lines: &[u8]) -> Vec<Arc<str>> {
    std::str::from_utf8(lines).unwrap_or_default().lines().filter(|node| !node.is_empty()).map(Into::into).collect()
}

/// What a put did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// The fence to put, from now on, with.
    pub fence: Fence,
    /// Another instance that had the lookup until now: enabled earlier for the same app, AOR and push token.
    pub displaced: Option<InstanceId>,
}

/// What renewing a lease found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lease {
    /// It is held, and was since it was first taken.
    Held,
    /// It is held again, but had run out or belonged to another run of this node in between.
    Lapsed,
    /// It is that of another process by this node's name, which had it before and lives. Since this one [lapsed](Self::Lapsed) last, which it did when that was
    /// found, nothing has changed.
    GivenWay,
}

/// Why a store did not do what it was asked.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// It does not answer, or not now: answered with 503 and tried again later.
    #[error("the store is away: {0}")]
    Away(AwayReason),
    /// Another node, or a later run of this one, owns the record: it must no longer be registered from here.
    #[error("another node owns this record")]
    NotOwner,
    /// The record was erased or has expired.
    #[error("the record is gone")]
    Gone,
    /// What is stored under this instance's name was not written by this version.
    #[error("the stored record is malformed")]
    Malformed,
    /// The configuration's URL cannot be used: `store.url` is to be corrected.
    #[error("store.url: {0}")]
    Url(&'static str),
    /// What the configuration names for TLS cannot be used.
    #[error("store: {0}")]
    Tls(&'static str),
}

/// What is the matter with a store that is away.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum AwayReason {
    /// No connection, or it broke.
    #[error("cannot connect")]
    Unreachable,
    /// No answer within the time of one operation.
    #[error("no answer in time")]
    TimedOut,
    /// TLS with it fails.
    #[error("TLS fails: {0}")]
    Tls(TlsFault),
    /// It answered with an error, of which this is the code: `NOAUTH`, `OOM`, `READONLY`; `MAXCLIENTS` where it says so without one. [`StoreError::in_words`]
    /// tells what it means.
    #[error("it refused with {0}")]
    Refused(Box<str>),
    /// It may write to a disk, and the operator wants none that does.
    #[error("it may write to a disk, and store.require_ephemeral forbids that")]
    MayPersist,
    /// The nodes that use it have another keyring.
    #[error("its other nodes use another keyring")]
    OtherKeyring,
    /// Another process by this node's name has its lease: what this one stored would be nobody's for the other nodes.
    #[error("another process by this node's name has its lease")]
    GivenWay,
}

/// The code of a refusal: so many letters wait for a run that it reads none.
pub(super) const LETTERS_FULL: &str = "FULL";

impl AwayReason {
    /// Whether the store itself answers, and takes no further letter for a run that reads none.
    pub(crate) fn is_of_reader(&self) -> bool {
        matches!(self, Self::Refused(code) if **code == *LETTERS_FULL)
    }
}

/// What is wrong with a node's keyring, beside those of the nodes that live.
#[derive(thiserror::Error, Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyringMismatch {
    /// It is another one.
    #[error(
        "the other nodes of this store, or an earlier run of this one, have another keyring; nothing is taken over and no account is taken with this one"
    )]
    Other,
    /// It was a copy, and is none any more.
    #[error(
        "this copy of the keyring has parted from the other nodes'; nothing is taken over and no account is taken with it"
    )]
    Parted,
    /// Something was mixed into the others' alone.
    #[error(
        "the keyring was rotated, at another node or for an earlier run of this one, and this copy was not; nothing is taken over and no account is taken with it"
    )]
    Behind,
    /// It was made where none was found, and the store holds accounts that it does not open.
    #[error(
        "there was no keyring, and one was made; what the store holds was sealed with another one, and nothing is taken over and no account is taken with this one"
    )]
    Untried,
    /// What this node has stored was sealed with another one.
    #[error(
        "what this node has stored was sealed with another keyring; nothing is taken over and no account is taken with this one"
    )]
    Foreign,
}

impl KeyringMismatch {
    /// In short, for a check.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Other => "the other nodes use another keyring",
            Self::Parted => "this copy of the keyring has parted from the others",
            Self::Behind => "the keyring was rotated, and this copy was not",
            Self::Untried => "there was no keyring, and the store holds what another one has sealed",
            Self::Foreign => "another keyring has sealed what this node has stored",
        }
    }

    /// What to do about it.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Other => {
                "put their keyring in its place; where no other node runs, the one of before. Where that is lost on every node, wait ten minutes behind `sipwake keys accept` while none of the others runs"
            }
            Self::Parted => "put their keyring in its place",
            Self::Behind => {
                "run `sipwake keys rotate` with the same entropy on the same day, or put the rotated keyring in its place; where that is lost on every node, wait ten minutes behind `sipwake keys accept`"
            }
            Self::Untried | Self::Foreign => {
                "put the keyring of before in its place, from its disk, a copy or another node, and start again; where it is lost for good, `sipwake keys accept`: then each app has to lend its account anew"
            }
        }
    }
}

/// The run that owns a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordOwner {
    /// None: there is no record, or a damaged one.
    Nobody,
    /// This run.
    ThisRun,
    /// Another run, of this node or of another one.
    AnotherRun,
}

/// Another node that there may be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its public edge.
    pub node: Arc<str>,
    /// The run that has its lease. `None`: it is dead, leaves, or starts again.
    pub run: Option<Owner>,
}

/// Who looks after a record: a node, and which of its runs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Owner {
    /// The node's public edge.
    pub(super) node: Arc<str>,
    /// Sixteen hex digits that no other run has.
    pub(super) run: Arc<str>,
}

impl Owner {
    /// A run of `node` that begins now.
    pub(super) fn of(node: &str) -> Self {
        Self { node: node.into(), run: hex(&random::bytes::<8>()).into() }
    }

    /// The node's public edge.
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Reads the text form; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (node, run) = text.rsplit_once('#')?;
        Some(Self { node: node.into(), run: run.into() })
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.node, self.run)
    }
}
