//! Faults of a store that answers, told to an operator with their consequence and their remedy.
//!
//! Invariant: a fault repeats names of commands and settings, and nothing that is stored.

/// Something that makes a store worse than the relay needs it.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum StoreFault {
    /// It writes every change to a file.
    #[error(
        "Redis writes an append-only file (appendonly yes): what was wiped stays on its disk, sealed, until the file is rewritten"
    )]
    AppendOnlyFile,
    /// It writes snapshots.
    #[error("Redis writes snapshots (save): what was wiped stays on its disk, sealed, until the next snapshot")]
    Snapshots,
    /// Whether it writes to a disk cannot be read.
    #[error("whether Redis writes to a disk or evicts cannot be read: its user may not use INFO and CONFIG GET")]
    Unreadable,
    /// It throws keys away when its memory is full; this is its policy.
    #[error(
        "Redis evicts keys when its memory is full (maxmemory-policy {0}): an account that is evicted is unknown to the other nodes, and lost with its node if that dies before it has written it again (within half an hour)"
    )]
    Evicts(Box<str>),
    /// It takes nothing more when its memory is full, and nine tenths of that are used.
    #[error(
        "Redis has used nine tenths of its memory (maxmemory): when it is full, no account is enabled or changed, and the nodes cannot renew their leases"
    )]
    Fills,
    /// The relay's user may not use this command.
    #[error("its Redis user may not use {0}: accounts are not kept, taken over or wiped as they should be")]
    Forbidden(&'static str),
    /// It does not know this command, or this form of it.
    #[error(
        "Redis does not know {0}: it is older than 6.2, or its configuration has another name for it (rename-command)"
    )]
    Unknown(&'static str),
}

impl StoreFault {
    /// Whether a secret may outlive its wipe on a disk.
    pub fn is_persistence(&self) -> bool {
        matches!(self, Self::AppendOnlyFile | Self::Snapshots | Self::Unreadable)
    }

    /// Whether the relay cannot do its work with such a store.
    pub fn is_grave(&self) -> bool {
        matches!(self, Self::Forbidden(_) | Self::Unknown(_))
    }

    /// What to do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::AppendOnlyFile => "set appendonly no, or give the relay a Redis of its own",
            Self::Snapshots => "set save \"\", or give the relay a Redis of its own",
            Self::Unreadable => "grant +info +config|get, or see to both yourself",
            Self::Evicts(_) => "set maxmemory-policy noeviction, and give it memory enough",
            Self::Fills => "give it more memory (maxmemory), or find out what fills it",
            Self::Forbidden(_) => "grant what docs/operators.md names",
            Self::Unknown(_) => "use Redis 6.2 or later, or Valkey, with the names that commands have",
        }
    }
}
