//! The audit trail: actions on the accounts that are lent, for the operator who must answer for them. Off unless the operator names a
//! directory.
//!
//! One line of JSON for each thing that was done, in a file for each day (UTC), `audit-2026-11-27.jsonl`:
//!
//! | member | it is |
//! | --- | --- |
//! | `seq` | counts the lines of this node, over files and runs |
//! | `at` | RFC 3339, milliseconds, by the clock that receipts go by, too |
//! | `what` | [`Act`] |
//! | `instance`, `account`, `app` | whose: the instance's id; a keyed hash of the AOR, the same for all of its devices; the App |
//! | `why` | of a wipe, its reason; of a reading, its subject |
//! | `chain` | SHA-256, in hex, of the `chain` of the line before and of this line's other bytes |
//!
//! Invariant: nothing is on a line but what the table says: no address, no token, no caller, no source. Writing never holds anybody
//! up, nor keeps a relay from starting: lines wait for a disk that is full, and one for which there is no room in memory either is left out, and counted by a
//! line `lost`. A line is written whole or not at all: what a crash has torn is cut off by the next run, which says so.

mod chain;
mod files;
mod owed;
pub mod report;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};

use sip::id::InstanceId;
use tokio::sync::mpsc;

use crate::domain::{WipeReason, Word as _};
use crate::lock::Mutex;
use crate::vault::AorKey;

pub use chain::{Fault, walk};
pub use files::{AuditError, is_day, look};
use writer::Writer;

/// Lines that wait to be written at most; further ones are left out and counted.
const QUEUE: usize = 65_536;

/// Act was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// A run of the relay has begun to write.
    Started,
    /// Act was half written when the run before it died was cut off.
    Torn,
    /// So many lines are missing, for there was no room for them.
    Lost(u64),
    /// An account was lent.
    Enabled,
    /// Its SIP server has accepted it, and had not before in this run.
    Registered,
    /// Its end was moved.
    Renewed,
    /// Another push token was named.
    TokenChanged,
    /// A push for a call was accepted by the push service.
    Woken,
    /// An operator has read something.
    Read(Reading),
    /// The account was wiped.
    Wiped(WipeReason),
    /// Another node has it.
    HandedOver,
}

/// Act an operator has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its state.
    Show,
    /// Act is held.
    Export,
    /// Its SIP.
    Trace,
    /// The instances of an account.
    Find,
    /// The story of one of its calls.
    Call,
}

impl Act {
    /// Its name on the line.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Torn => "torn",
            Self::Lost(_) => "lost",
            Self::Enabled => "enabled",
            Self::Registered => "registered",
            Self::Renewed => "renewed",
            Self::TokenChanged => "token-changed",
            Self::Woken => "woken",
            Self::Read(_) => "read",
            Self::Wiped(_) => "wiped",
            Self::HandedOver => "handed-over",
        }
    }

    fn why(self) -> Option<&'static str> {
        match self {
            Self::Wiped(reason) => Some(reason.word()),
            Self::Read(Reading::Show) => Some("show"),
            Self::Read(Reading::Export) => Some("export"),
            Self::Read(Reading::Trace) => Some("trace"),
            Self::Read(Reading::Find) => Some("find"),
            Self::Read(Reading::Call) => Some("call"),
            _ => None,
        }
    }
}

/// The subject of an audited action.
#[derive(Clone, Default)]
pub struct AuditSubject {
    /// The instance.
    pub instance: Option<InstanceId>,
    /// Its account.
    pub account: Option<AorKey>,
    /// Its App.
    pub app: Option<Box<str>>,
}

/// A line to be written.
struct Entry {
    at_ms: u64,
    what: Act,
    whose: AuditSubject,
}

/// The place of the trail and how long it is kept.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory.
    pub directory: PathBuf,
    /// How long a day's file is kept after its day, in days.
    pub keep_days: u16,
    /// The node, named on each run's first line.
    pub node: Box<str>,
}

/// The way to the trail; cheap to clone, and nothing where there is none.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    entries: mpsc::Sender<Entry>,
    /// Lines for which there was no room.
    lost: Arc<AtomicU64>,
    trouble: Mutex<Option<Box<str>>>,
}

impl Inner {
    fn trouble(&self) -> MutexGuard<'_, Option<Box<str>>> {
        self.trouble.lock()
    }
}

impl Audit {
    /// Opens the trail of a node, and goes on where the last run ended. Lines are written by a thread of their own, which ends when
    /// the last way to it is gone and all is written. A trail that cannot be opened yet is tried again and again, and what is to be written waits.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn open(settings: Settings) -> Result<Self, AuditError> {
        let (entries, received) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner { entries, lost: Arc::default(), trouble: Mutex::default() });
        let mut writer = Writer::new(settings, Arc::downgrade(&inner), inner.lost.clone());
        // Before anything is served: trouble with the trail is known from the beginning.
        writer.open();
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(received)).map_err(AuditError::Thread)?;
        Ok(Self(Some(inner)))
    }

    /// Whether there is one: what a line needs is not made where there is none.
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// The trail's trouble, in words a person can act on.
    pub fn trouble(&self) -> Option<Box<str>> {
        self.0.as_ref()?.trouble().clone()
    }

    /// Writes down that something was done.
    pub fn note(&self, what: Act, whose: impl FnOnce() -> AuditSubject) {
        let Some(inner) = &self.0 else { return };
        let entry = Entry { at_ms: crate::clock::shared_now_ms(), what, whose: whose() };
        if inner.entries.try_send(entry).is_err() {
            inner.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::random;
    use crate::vault::hex;

    /// Lines of a trail, by what they tell and how many they count.
    fn lines(folder: &std::path::Path) -> Vec<(String, Option<u64>)> {
        let mut lines = Vec::new();
        let _ = report::verify_directory(folder, |line| {
            lines.push((line["what"].as_str().unwrap_or_default().to_owned(), line["lines"].as_u64()));
        });
        lines
    }

    /// A folder in the place of the day's file: nobody, root neither, writes lines there.
    struct Blocked(PathBuf);

    impl Blocked {
        fn file_of_today(folder: &std::path::Path) -> Self {
            let file = files::days(folder).unwrap().pop().unwrap().1;
            std::fs::rename(&file, file.with_extension("aside")).unwrap();
            std::fs::create_dir(&file).unwrap();
            Self(file)
        }
    }

    impl Drop for Blocked {
        fn drop(&mut self) {
            std::fs::remove_dir(&self.0).unwrap();
            std::fs::rename(self.0.with_extension("aside"), &self.0).unwrap();
        }
    }

    fn until(what: &str, mut is_so: impl FnMut() -> bool) {
        let began = std::time::Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(60), "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn what_a_trail_cannot_take_waits_for_it_and_what_a_run_still_owes_is_counted_by_the_next_one() {
        let folder = std::env::temp_dir().join(format!("sipwake-audit-lost-{}", hex(&random::bytes::<8>())));
        let open = || {
            let settings = Settings { directory: folder.clone(), keep_days: 30, node: "relay".into() };
            Audit::open(settings).unwrap()
        };
        let audit = open();
        for times in 1..=2 {
            let blocked = Blocked::file_of_today(&folder);
            for _ in 0..10 {
                audit.note(Act::Woken, AuditSubject::default);
            }
            until("owed", || owed::read(&folder) == 10);
            assert!(audit.trouble().is_some_and(|why| why.contains("waits")));
            drop(blocked);
            // Without a further line.
            until("written", || lines(&folder).len() == 1 + 10 * times && owed::read(&folder) == 0);
        }
        until("no trouble", || audit.trouble().is_none());
        assert!(lines(&folder).iter().all(|(_, lost)| lost.is_none()), "nothing was lost");
        let blocked = Blocked::file_of_today(&folder);
        let noted = QUEUE as u64 + 2 * 4_096;
        for _ in 0..noted {
            audit.note(Act::Renewed, AuditSubject::default);
        }
        until("all owed", || owed::read(&folder) == noted);
        drop(audit);
        drop(blocked);
        let audit = open();
        until("counted", || lines(&folder).last().is_some_and(|last| last.0 == "lost"));
        assert_eq!(lines(&folder).last().and_then(|last| last.1), Some(noted));
        until("settled", || owed::read(&folder) == 0);
        drop(audit);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_line_is_dated_by_the_clock_that_receipts_go_by() {
        use crate::clock;
        let folder = std::env::temp_dir().join(format!("sipwake-audit-clock-{}", hex(&random::bytes::<8>())));
        let audit = Audit::open(Settings { directory: folder.clone(), keep_days: 30, node: "relay".into() }).unwrap();
        let noted = audit.clone();
        // The simulated machine is that of its thread.
        let told = std::thread::spawn(move || {
            let up = Duration::from_secs(1_000);
            let mut machine = clock::Machine::default();
            (machine.up, machine.off_ms) = (up, 10 * 86_400_000);
            clock::set_virtual(&machine);
            clock::watch::begin(None);
            clock::watch::store_says(clock::virtual_unix_ms(up));
            noted.note(Act::Woken, AuditSubject::default);
            clock::rfc3339_ms(clock::shared_now_ms())
        });
        let told = told.join().unwrap();
        let at = || {
            let mut at = None;
            let _ = report::verify_directory(&folder, |line| at = line["at"].as_str().map(str::to_owned));
            at
        };
        until("a line", || lines(&folder).len() == 2);
        assert_eq!(at(), Some(told));
        drop(audit);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_queue_that_was_full_is_told_by_a_line() {
        let folder = std::env::temp_dir().join(format!("sipwake-audit-full-{}", hex(&random::bytes::<8>())));
        let audit = Audit::open(Settings { directory: folder.clone(), keep_days: 30, node: "relay".into() }).unwrap();
        let blocked = Blocked::file_of_today(&folder);
        let noted = QUEUE as u64 + 2 * 4_096;
        for _ in 0..noted {
            audit.note(Act::Woken, AuditSubject::default);
        }
        drop(blocked);
        let counted = || {
            let told = lines(&folder);
            let lost: u64 = told.iter().filter_map(|(_, lost)| *lost).sum();
            (told.iter().filter(|(what, _)| what == "woken").count() as u64 + lost, lost)
        };
        until("each line, or its number", || counted().0 == noted);
        assert!(counted().1 > 0);
        drop(audit);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_trail_that_cannot_be_opened_is_told_and_what_is_to_be_written_waits_for_it() {
        let folder = std::env::temp_dir().join(format!("sipwake-audit-closed-{}", hex(&random::bytes::<8>())));
        // A file where the directory is to be: nobody, root neither, makes it there.
        std::fs::write(&folder, "").unwrap();
        let settings = || Settings { directory: folder.clone(), keep_days: 30, node: "relay".into() };
        let audit = Audit::open(settings()).unwrap();
        assert!(audit.trouble().is_some_and(|why| why.contains("audit.directory")));
        audit.note(Act::Woken, AuditSubject::default);
        std::fs::remove_file(&folder).unwrap();
        let mut acts = Vec::new();
        let written = (0..1_000).any(|_| {
            acts.clear();
            let _ = report::verify_directory(&folder, |line| acts.push(line["what"].as_str().map(str::to_owned)));
            std::thread::sleep(Duration::from_millis(10));
            acts.len() == 2 && audit.trouble().is_none()
        });
        drop(audit);
        assert!(written, "{acts:?}");
        // A whole run without room: a folder where its file of today is to be.
        let blocked = Blocked::file_of_today(&folder);
        let audit = Audit::open(settings()).unwrap();
        audit.note(Act::Woken, AuditSubject::default);
        until("owed", || owed::read(&folder) == 1);
        drop(audit);
        drop(blocked);
        let audit = Audit::open(settings()).unwrap();
        until("counted", || lines(&folder).last() == Some(&("lost".to_owned(), Some(1))));
        drop(audit);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(acts, [Some("started".to_owned()), Some("woken".to_owned())]);
    }
}
