//! Deliberate breaks of what keeps nodes from harm: the oracle must see each of them.
//!
//! Invariant: a break lies in what the nodes stand on (the store, its scripts, their disks), never in the relay's own code, so that what runs is
//! the relay as it is.

use super::resp::{Args, Reply};

/// What does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Nobody sees another node's lease: each believes the others dead.
    LeasesUnseen,
    /// What a dead node leaves is taken by nobody.
    NothingTaken,
    /// All nodes and the store lose power; the store comes back with an old dump, and the nodes without their tombstones.
    TombstonesLost,
}

impl Break {
    /// What the store answers in place of what is right.
    pub fn answer(self, name: &str, args: &Args) -> Option<Reply> {
        let is_lease = args.get(1)?.starts_with(b"sipwake:lease:");
        (self == Self::LeasesUnseen && name == "GET" && is_lease).then_some(Reply::Nil)
    }

    /// What a script becomes.
    pub fn script(self, script: String) -> String {
        const TAKES: &str = "takeable[ARGV[place]] = true";
        match self {
            Self::NothingTaken if script.contains(TAKES) => script.replace(TAKES, "takeable[ARGV[place]] = nil"),
            _ => script,
        }
    }
}
