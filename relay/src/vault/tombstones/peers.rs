//! Tombstones of other nodes whose files lie beside ours: nodes that share a directory see each other's tombstones.
//!
//! Invariant: what was read from a file counts until that file is read again, also while it cannot be read.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sip::id::InstanceId;

use super::{Table, Tombstone, log, retain_live};
use crate::clock;
use crate::vault::lookup::Lookup;

/// How often the files of other nodes that share the directory are looked at, at most.
const EVERY: Duration = Duration::from_secs(1);
/// How often those of them are forgotten that are over.
const TIDIED_EVERY: Duration = Duration::from_mins(10);

/// A tombstone of another node.
#[derive(Clone, Debug)]
pub struct PeerTombstone {
    /// The tombstone, as far as its node has written it down.
    pub tombstone: Tombstone,
    file: PathBuf,
    keyring: PathBuf,
}

impl PeerTombstone {
    /// Whether it is of this node.
    pub fn is_of_node(&self, node: &str) -> bool {
        log::path(&self.keyring, node) == self.file
    }
}

/// What other nodes wiped whose files lie beside ours.
#[derive(Default)]
pub(super) struct Peers {
    /// The keyring, and our own file.
    keyring: Option<(PathBuf, PathBuf)>,
    looked_at: Option<Instant>,
    /// When those were taken out last that are over.
    tidied_at: Option<Instant>,
    files: HashMap<PathBuf, PeerFile>,
}

/// One peer's file, as far as it was read.
struct PeerFile {
    stamp: log::Stamp,
    read: log::ReadSoFar,
    table: Table,
}

impl Peers {
    /// Those beside a keyring, but for our own file.
    pub(super) fn of(keyring: PathBuf, own: PathBuf) -> Self {
        Self { keyring: Some((keyring, own)), ..Self::default() }
    }

    /// Whether the files are to be looked at before anything is said by them.
    pub(super) fn is_due(&self) -> bool {
        self.looked_at.is_none_or(|at| at.elapsed() >= EVERY)
    }

    /// The lookup of what another node wiped and must not come back, as far as its tombstone counts.
    pub(super) fn forbids(&mut self, id: InstanceId, counts: impl Fn(&Tombstone) -> bool) -> Option<Option<Lookup>> {
        if self.is_due() {
            self.read();
        }
        let barring = |file: &PeerFile| file.table.get(&id).filter(|it| counts(it)).map(|it| it.lookup);
        self.files.values().find_map(barring)
    }

    /// Another node's note of a wipe, read as it is now.
    pub(super) fn look(&mut self, id: InstanceId) -> Option<PeerTombstone> {
        self.read();
        let (keyring, _) = self.keyring.as_ref()?;
        let mut found = self.files.iter().filter_map(|(path, file)| Some((path, file.table.get(&id)?)));
        // Of two, the one that tells more.
        let (file, tombstone) = found.by_ref().max_by_key(|(path, stone)| (stone.wiped_at.is_some(), *path))?;
        Some(PeerTombstone { tombstone: tombstone.clone(), file: file.clone(), keyring: keyring.clone() })
    }

    /// Reads what is new, since the last time, in the files of the others.
    fn read(&mut self) {
        self.looked_at = Some(clock::now());
        if self.tidied_at.is_none_or(|at| at.elapsed() >= TIDIED_EVERY) {
            self.tidied_at = self.looked_at;
            self.files.values_mut().for_each(|file| retain_live(&mut file.table));
        }
        let Some((keyring, own)) = &self.keyring else { return };
        for (path, stamp) in log::beside(keyring) {
            if path == *own || self.files.get(&path).is_some_and(|file| file.stamp == stamp) {
                continue;
            }
            let anew = || PeerFile { stamp, read: log::ReadSoFar::default(), table: Table::new() };
            let (earlier, mut file) = match self.files.remove(&path) {
                Some(file) if stamp.goes_on(&file.stamp) => (None, file),
                earlier => (earlier, anew()),
            };
            let kept = match log::read_on(&path, &mut file.read, &mut file.table) {
                Ok(()) => Some(PeerFile { stamp, ..file }),
                Err(error) => {
                    tracing::warn!(event = "tombstones-of-another-unreadable", %error, "what another node wiped cannot be read; what was read of it before counts");
                    // With its stamp, so that it is read again.
                    earlier.or_else(|| file.read.is_begun().then_some(file))
                }
            };
            self.files.extend(kept.map(|file| (path, file)));
        }
    }
}
