//! The file of a node's tombstones: `….wiped-NODE` beside the keyring, a line for each event.
//!
//! ```text
//! wipe INSTANCE LOOKUP|- ENDS_AT REASON PROOF|-
//! fenced INSTANCE FENCE
//! unregistered INSTANCE
//! erased INSTANCE WIPED_AT
//! left INSTANCE
//! ```
//!
//! Invariant: a line counts as written only when it is appended and synced; several waiting lines are synced at once. A line that cannot be read is skipped and
//! reported, so that half a line costs no other. The file is rewritten, by a rename, when most of its lines are obsolete, and after a line could not be
//! appended; the rewrite is repeated until it succeeds.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::sync::oneshot;

use super::{Table, Tombstone, retain_live};
use crate::clock;
use crate::domain::{WipeReason, Word as _};
use crate::file_owner;
use crate::lock::Mutex;
use crate::vault::keyring::{KeyringError, beside as named_beside, reading_wipes};
use crate::vault::lookup::{Lookup, hex, unhex};
use crate::vault::store::Fence;

/// How soon what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How soon the file is rid again of what is over, where there was no room for a new one.
const TIDY_AGAIN: Duration = Duration::from_mins(1);
/// A disk that has taken longer than this for what it was told is stalled.
const STALLED: Duration = Duration::from_secs(5);
/// Lines beyond those that count, after which the file is written anew.
const SURPLUS_MAX: usize = 20_000;

/// Something that is written down.
pub(super) enum Line {
    /// It is to be wiped.
    Wipe(InstanceId, Tombstone),
    /// The SIP server has confirmed.
    Unregistered(InstanceId),
    /// The store has nothing left of it.
    Erased(InstanceId, u64),
    /// It is erased where its record is no later than this alone; follows the first.
    Fenced(InstanceId, Fence),
    /// Another node goes on with it.
    Left(InstanceId),
}

/// The way to the thread that writes; it ends with the last clone.
pub(super) struct Log {
    orders: Sender<Order>,
    trouble: Trouble,
    busy: Busy,
    path: Box<str>,
}

/// Since when the thread waits for the disk, and whether that was told as too long; `None`: it does not.
type Busy = Arc<Mutex<Option<(Instant, bool)>>>;

/// Why the file is behind what happened; `None`: it is not.
type Trouble = Arc<Mutex<Option<Box<str>>>>;

enum Order {
    Append(Line, Option<oneshot::Sender<bool>>),
    #[cfg(test)]
    Break,
}

/// Tells one version of a file from another.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    number: u64,
    len: u64,
    changed_at: (i64, i64),
}

/// How far a file was read.
#[derive(Default)]
pub(super) struct ReadSoFar {
    to: u64,
    /// The last whole line, which ends there: another file may have the same number when that is free again.
    last_line: Box<[u8]>,
}

impl ReadSoFar {
    /// Whether anything was read.
    pub(super) fn is_begun(&self) -> bool {
        self.to > 0
    }
}

impl Stamp {
    /// Whether it may be of a file that was appended to, at most, since it had the `earlier` one.
    pub(super) fn goes_on(&self, earlier: &Self) -> bool {
        (self.device, self.number) == (earlier.device, earlier.number) && self.len >= earlier.len
    }
}

impl Log {
    /// Writes `table` anew to `path`, and appends from then on. Where it cannot be written, all of it is in the file already, and the file is behind from the
    /// start.
    pub(super) fn open(path: PathBuf, table: Arc<Mutex<Table>>) -> Result<Self, KeyringError> {
        let file = write_anew(&path, &table);
        let lines = table.lock().len();
        let (orders, waiting) = mpsc::channel();
        let trouble = Trouble::default();
        let (file, error) = file.map_or_else(|error| (None, Some(error)), |file| (Some(file), None));
        let (torn, tried_at, tidied_at) = (false, None, None);
        let (busy, shown) = (Busy::default(), path.display().to_string().into());
        let waits = busy.clone();
        let writer = Writer { path, table, file, lines, torn, trouble: trouble.clone(), busy, tried_at, tidied_at };
        if let Some(error) = error {
            writer.fall_behind(&error);
        }
        let spawned = std::thread::Builder::new().name("tombstones".to_owned()).spawn(move || writer.run(&waiting));
        spawned
            .map_err(|error| KeyringError::Write { path: "the thread that writes tombstones".into(), source: error })?;
        Ok(Self { orders, trouble, busy: waits, path: shown })
    }

    /// Appends a line; `written` hears when it is durable, or that it is not.
    pub(super) fn append(&self, line: Line, written: Option<oneshot::Sender<bool>>) {
        // An error means that the thread has ended; who waits hears of it by the dropped sender.
        let _ = self.orders.send(Order::Append(line, written));
    }

    /// Why the file is behind what happened, while it is.
    pub(super) fn trouble(&self) -> Option<Box<str>> {
        let failed = self.trouble.lock().clone();
        failed.or_else(|| self.stall(clock::now()))
    }

    /// Likewise, where the disk does not answer; that is logged once.
    fn stall(&self, now: Instant) -> Option<Box<str>> {
        let mut busy = self.busy.lock();
        let (since, is_told) = busy.as_mut()?;
        if now.saturating_duration_since(*since) < STALLED {
            return None;
        }
        let error = "its disk does not answer";
        if !std::mem::replace(is_told, true) {
            tracing::error!(event = "tombstone-not-written", error, path = %self.path, "a wipe waits to be written down: it has no receipt until it is; look at the disk");
        }
        Some(format!("{}: {error}", self.path).into())
    }

    #[cfg(test)]
    pub(super) fn break_for_test(&self) {
        self.orders.send(Order::Break).expect("the thread runs");
    }
}

struct Writer {
    path: PathBuf,
    table: Arc<Mutex<Table>>,
    /// `None`: it could not be opened yet.
    file: Option<File>,
    lines: usize,
    /// The last line may be half there.
    torn: bool,
    trouble: Trouble,
    busy: Busy,
    /// When it was last tried in vain to write all anew.
    tried_at: Option<Instant>,
    /// Likewise, to rid the file of what is over.
    tidied_at: Option<Instant>,
}

impl Writer {
    fn run(mut self, waiting: &Receiver<Order>) {
        loop {
            self.note_busy(None);
            let first = if !self.is_behind() {
                waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                waiting.recv_timeout(AGAIN)
            };
            let first = match first {
                Ok(first) => first,
                Err(RecvTimeoutError::Timeout) => {
                    self.note_busy(Some(clock::now()));
                    let _ = self.catch_up();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.note_busy(Some(clock::now()));
            let (mut text, mut written, mut raised) = (String::new(), Vec::new(), Vec::new());
            for order in std::iter::once(first).chain(waiting.try_iter()) {
                match order {
                    Order::Append(line, who) => {
                        if let Line::Wipe(id, _) = &line {
                            raised.push(*id);
                        }
                        text.push_str(&line.to_text());
                        self.lines += 1;
                        written.extend(who);
                    }
                    #[cfg(test)]
                    Order::Break => self.file = Some(File::open(&self.path).expect("there")),
                }
            }
            let outcome = if self.is_behind() {
                self.catch_up()
            } else {
                self.append(&text, !written.is_empty()).map(|()| self.note_durable(raised))
            };
            if let Err(error) = &outcome {
                self.fall_behind(error);
            }
            for who in written {
                let _ = who.send(outcome.is_ok());
            }
            self.tidy_up();
        }
    }

    fn note_busy(&self, since: Option<Instant>) {
        *self.busy.lock() = since.map(|since| (since, false));
    }

    fn note_durable(&self, written: Vec<InstanceId>) {
        let mut table = self.table.lock();
        for id in written {
            if let Some(tombstone) = table.get_mut(&id) {
                tombstone.is_durable = true;
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.trouble.lock().is_some()
    }

    fn fall_behind(&self, error: &io::Error) {
        let path = self.path.display();
        let mut trouble = self.trouble.lock();
        if trouble.is_none() {
            *trouble = Some(format!("{path}: {error}").into());
            tracing::error!(event = "tombstone-not-written", %error, %path, "a wipe could not be written down: it has no receipt until it is; see that there is room");
        }
    }

    /// Writes all anew, after a line could not be appended.
    fn catch_up(&mut self) -> io::Result<()> {
        if self.tried_at.is_some_and(|at| at.elapsed() < AGAIN) {
            return Err(io::Error::other("it is tried again in a moment"));
        }
        self.tried_at = Some(Instant::now());
        // Only the tombstones of before the writing are in the file for sure.
        let before: Vec<InstanceId> = self.table.lock().keys().copied().collect();
        self.file = Some(write_anew(&self.path, &self.table)?);
        (self.lines, self.torn, self.tried_at) = (before.len(), false, None);
        self.note_durable(before);
        *self.trouble.lock() = None;
        tracing::info!(event = "tombstones-written", path = %self.path.display(), "the wipes that could not be written down are written");
        Ok(())
    }

    fn append(&mut self, text: &str, sync: bool) -> io::Result<()> {
        let mut file = self.follow()?;
        let begin = if std::mem::replace(&mut self.torn, true) { "\n" } else { "" };
        let written = file.write_all(format!("{begin}{text}").as_bytes());
        self.torn = written.is_err();
        let synced = if sync { written.and_then(|()| file.sync_data()) } else { written };
        self.file = Some(file);
        synced
    }

    /// Goes on in the file that is there now: another process of this node may have written it anew, or somebody removed it.
    fn follow(&mut self) -> io::Result<File> {
        let open = match self.file.take() {
            Some(file) => Some((file.metadata()?, file)),
            None => None,
        };
        match std::fs::metadata(&self.path) {
            Ok(found) => match open {
                Some((open, file)) if (found.ino(), found.dev()) == (open.ino(), open.dev()) => Ok(file),
                _ => OpenOptions::new().append(true).open(&self.path),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => write_anew(&self.path, &self.table),
            Err(error) => Err(error),
        }
    }

    fn tidy_up(&mut self) {
        if self.tidied_at.is_some_and(|at| at.elapsed() < TIDY_AGAIN) {
            return;
        }
        let count = {
            let mut table = self.table.lock();
            if self.lines <= table.len() * 3 + SURPLUS_MAX {
                return;
            }
            retain_live(&mut table);
            table.len()
        };
        match write_anew(&self.path, &self.table) {
            Ok(file) => (self.file, self.lines, self.torn, self.tidied_at) = (Some(file), count, false, None),
            Err(error) => {
                // Each try writes all of it, and wipes wait meanwhile.
                self.tidied_at = Some(Instant::now());
                tracing::warn!(event = "tombstones-not-rewritten", %error, "the file of tombstones could not be written anew");
            }
        }
    }
}

/// Where the tombstones of `node` are.
pub(super) fn path(keyring: &Path, node: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    named_beside(keyring, &format!("wiped-{}", node.chars().map(plain).collect::<String>()))
}

/// The files of all nodes that share the directory.
pub(super) fn beside(keyring: &Path) -> Vec<(PathBuf, Stamp)> {
    let directory = keyring.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let begin = named_beside(keyring, "wiped-");
    let begin = begin.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with(&begin) && !name.ends_with(".new")
    });
    ours.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        let changed_at = (found.mtime(), found.mtime_nsec());
        Some((entry.path(), Stamp { device: found.dev(), number: found.ino(), len: found.len(), changed_at }))
    })
    .collect()
}

/// Reads a file; an absent one holds nothing.
pub(super) fn read(path: &Path) -> Result<Table, KeyringError> {
    let text = match std::fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashMap::new()),
        outcome => outcome.map_err(reading_wipes(path))?,
    };
    let mut table = Table::new();
    take_in(&text, &mut table, path);
    Ok(table)
}

/// Reads what was appended to a file since it was read as far as `read`, up to its last whole line. One that does not hold what was read is read
/// from its beginning, into an empty table. After an error both are as they were.
pub(super) fn read_on(path: &Path, read: &mut ReadSoFar, table: &mut Table) -> Result<(), KeyringError> {
    let begin = read.to - read.last_line.len() as u64;
    let text = File::open(path).and_then(|mut file| {
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(begin))?;
        file.read_to_end(&mut text)?;
        if text.starts_with(&read.last_line) {
            return Ok((text, true));
        }
        text.clear();
        file.rewind()?;
        file.read_to_end(&mut text)?;
        Ok((text, false))
    });
    let (text, goes_on) = text.map_err(reading_wipes(path))?;
    if !goes_on {
        *read = ReadSoFar::default();
        table.clear();
    }
    let end_of_line = |text: &[u8]| text.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
    let new = &text[read.last_line.len()..];
    let new = &new[..end_of_line(new)];
    let Some((_, but_its_end)) = new.split_last() else { return Ok(()) };
    take_in(new, table, path);
    *read = ReadSoFar { to: read.to + new.len() as u64, last_line: new[end_of_line(but_its_end)..].into() };
    Ok(())
}

/// What happened, line by line.
fn take_in(text: &[u8], table: &mut Table, path: &Path) {
    let mut unreadable = 0;
    for line in String::from_utf8_lossy(text).lines().filter(|line| !line.is_empty()) {
        match Line::parse(line) {
            // A tombstone that was written twice: its outcome stands before the second.
            Some(Line::Wipe(id, tombstone)) => {
                let (unregistered, wiped_at) =
                    table.get(&id).map_or((false, None), |it| (it.unregistered, it.wiped_at));
                table.insert(id, Tombstone { unregistered, wiped_at, ..tombstone });
            }
            Some(Line::Unregistered(id)) => {
                if let Some(tombstone) = table.get_mut(&id) {
                    tombstone.unregistered = true;
                }
            }
            Some(Line::Erased(id, wiped_at)) => {
                if let Some(tombstone) = table.get_mut(&id) {
                    tombstone.wiped_at = Some(wiped_at);
                }
            }
            Some(Line::Fenced(id, fence)) => {
                if let Some(tombstone) = table.get_mut(&id) {
                    tombstone.fence = Some(fence);
                }
            }
            Some(Line::Left(id)) => drop(table.remove(&id)),
            None => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::warn!(event = "tombstones-unreadable", unreadable, path = %path.display(), "lines of this file cannot be read and are left out");
    }
}

fn write_anew(path: &Path, table: &Mutex<Table>) -> io::Result<File> {
    // Shards ask the table: what takes long is done beside it.
    let table = table.lock().clone();
    let lines_of = |(id, tombstone): (&InstanceId, &Tombstone)| {
        let mut lines = Line::Wipe(*id, tombstone.clone()).to_text();
        if tombstone.unregistered {
            lines.push_str(&Line::Unregistered(*id).to_text());
        }
        if let Some(wiped_at) = tombstone.wiped_at {
            lines.push_str(&Line::Erased(*id, wiped_at).to_text());
        }
        lines
    };
    let new = named_beside(path, "new");
    let written = || {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // A part at a time: there may be a million of them.
        let mut file = BufWriter::new(file);
        table.iter().try_for_each(|row| file.write_all(lines_of(row).as_bytes()))?;
        file.into_inner()?.sync_all()?;
        file_owner::give_if_it_can(&new);
        std::fs::rename(&new, path)
    };
    written().inspect_err(|_| {
        // Half a file takes room from the whole one.
        let _ = std::fs::remove_file(&new);
    })?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    OpenOptions::new().append(true).open(path)
}

impl Line {
    fn to_text(&self) -> String {
        match self {
            Self::Wipe(id, Tombstone { lookup, ends_at, reason, proof, fence, .. }) => {
                let lookup = lookup.map_or_else(|| "-".to_owned(), |lookup| lookup.to_string());
                let proof = proof.map_or_else(|| "-".to_owned(), |proof| hex(&proof));
                // On a line of its own, for an earlier version.
                let fenced = fence.map_or_else(String::new, |fence| format!("fenced {id} {}\n", fence.number()));
                format!("wipe {id} {lookup} {ends_at} {} {proof}\n{fenced}", reason.word())
            }
            Self::Unregistered(id) => format!("unregistered {id}\n"),
            Self::Erased(id, wiped_at) => format!("erased {id} {wiped_at}\n"),
            Self::Fenced(id, fence) => format!("fenced {id} {}\n", fence.number()),
            Self::Left(id) => format!("left {id}\n"),
        }
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let mut word = || words.next();
        let (kind, id) = (word()?, InstanceId::parse(word()?)?);
        let line = match kind {
            "wipe" => {
                let (lookup, ends_at) = (optional(word()?, Lookup::parse)?, word()?.parse().ok()?);
                let reason = word()?;
                let reason = WipeReason::ALL.iter().copied().find(|known| known.word() == reason)?;
                let proof = optional(word()?, |text| {
                    let mut proof = [0; 16];
                    unhex(text.as_bytes(), &mut proof).then_some(proof)
                })?;
                Self::Wipe(id, Tombstone { is_durable: true, ..Tombstone::new(lookup, ends_at, reason, proof) })
            }
            "unregistered" => Self::Unregistered(id),
            "erased" => Self::Erased(id, word()?.parse().ok()?),
            "fenced" => Self::Fenced(id, Fence::from_number(word()?.parse().ok()?)),
            "left" => Self::Left(id),
            _ => return None,
        };
        word().is_none().then_some(line)
    }
}

/// `-` or something; `None` when it is neither.
fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "-" { Some(None) } else { parse(text).map(Some) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_told_as_long_as_it_does_not() {
        let (orders, _waiting) = mpsc::channel();
        let log = Log { orders, trouble: Trouble::default(), busy: Busy::default(), path: "/k.wiped-a".into() };
        let start = Instant::now();
        assert_eq!(log.stall(start), None);
        *log.busy.lock() = Some((start, false));
        assert_eq!(log.stall(start + STALLED / 2), None, "a disk may take its time");
        assert_eq!(log.stall(start + STALLED).as_deref(), Some("/k.wiped-a: its disk does not answer"));
        assert_eq!(*log.busy.lock(), Some((start, true)), "it is logged once");
        *log.busy.lock() = None;
        assert_eq!(log.stall(start + STALLED * 2), None);
    }
}
