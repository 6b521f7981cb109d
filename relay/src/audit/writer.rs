//! The thread that writes a trail, and tells what is the matter with it.
//!
//! Invariant: nobody waits for it. A trail that cannot be opened or written is tried again every [`RETRY`], and what is to be written waits in the
//! queue. Lines for which there is no room there are lost, and counted by a line once there is; what a run still owed at its end counts as
//! lost in the next one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::files::Trail;
use super::owed::Owed;
use super::{Act, AuditError, AuditSubject, Entry, Inner, Settings};
use crate::clock::shared_now_ms;

/// How long a trail that cannot be opened or written is left alone.
const RETRY: Duration = Duration::from_secs(1);
/// How often the number of lines that wait is written down meanwhile, for each [`RETRY`].
const LOOKS: u32 = 10;
/// Lines that are written at once at most.
const BATCH: usize = 4_096;

/// How often old files are looked for while nothing is written.
const TIDY: Duration = Duration::from_secs(600);

/// The writer of a trail.
pub(super) struct Writer {
    settings: Settings,
    told: Weak<Inner>,
    /// Lines for which there was no room in the queue.
    lost: Arc<AtomicU64>,
    /// `None`: it could not be opened yet.
    trail: Option<Trail>,
    owed: Owed,
    /// The lines to be written next.
    batch: Vec<Entry>,
    failing: bool,
}

impl Writer {
    pub(super) fn new(settings: Settings, told: Weak<Inner>, lost: Arc<AtomicU64>) -> Self {
        let owed = Owed::of(&settings.directory);
        let earlier = owed.lines();
        let mut writer = Self { settings, told, lost, trail: None, owed, batch: Vec::new(), failing: false };
        writer.count_lost(earlier);
        writer
    }

    /// Tries to open the trail.
    pub(super) fn open(&mut self) {
        let opened = Trail::open(self.settings.clone());
        self.fails(opened.as_ref().err());
        let trouble = opened.as_ref().err().map(|error| {
            format!("audit.directory: {error}; what is to be written waits as long as there is room in memory for it")
        });
        self.tell(trouble);
        self.trail = opened.ok();
        if self.trail.is_some() {
            let earlier = self.owed.look_again(&self.settings.directory);
            self.count_lost(earlier);
        }
    }

    /// Writes until nobody can write anything more.
    pub(super) fn run(mut self, mut received: Receiver<Entry>) {
        // Without a timer old files are deleted with the next line.
        let timer = Builder::new_current_thread().enable_time().build().ok();
        loop {
            let Some(mut trail) = self.trail.take() else {
                self.note_owed(&received);
                if received.is_closed() {
                    return;
                }
                std::thread::sleep(RETRY);
                self.open();
                continue;
            };
            if self.batch.is_empty() {
                // Lost while the last batch was written: no further line may come.
                let lost = self.lost.swap(0, Ordering::Relaxed);
                self.count_lost(lost);
            }
            if self.batch.is_empty() {
                let first = match &timer {
                    Some(timer) => timer.block_on(async { timeout(TIDY, received.recv()).await }),
                    None => Ok(received.blocking_recv()),
                };
                match first {
                    Ok(Some(first)) => self.batch.push(first),
                    Ok(None) => return,
                    Err(_) => {
                        trail.tidy();
                        self.trail = Some(trail);
                        continue;
                    }
                }
            }
            while self.batch.len() < BATCH
                && let Ok(entry) = received.try_recv()
            {
                self.batch.push(entry);
            }
            self.write(&mut trail);
            self.trail = Some(trail);
            for _ in 0..LOOKS {
                self.note_owed(&received);
                if !self.failing {
                    break;
                }
                if received.is_closed() {
                    return;
                }
                std::thread::sleep(RETRY / LOOKS);
            }
        }
    }

    /// Writes the batch; what cannot be written stays in it.
    fn write(&mut self, trail: &mut Trail) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        self.count_lost(lost);
        let written = trail.write(&self.batch);
        self.fails(written.as_ref().err());
        self.tell(match &written {
            Ok(()) => trail.gone().map(|path| format!("audit.directory: {} was removed or renamed while it was written; the trail goes on in a new file, and is whole only with what is gone", path.display())),
            Err(error) => Some(format!("audit.directory: {error}; what is to be written waits as long as there is room in memory for it, and further lines are lost and counted")),
        });
        if written.is_ok() {
            self.batch.clear();
        }
    }

    /// Has the batch tell that so many lines were lost.
    fn count_lost(&mut self, lines: u64) {
        if lines == 0 {
            return;
        }
        if let Some(Act::Lost(earlier)) = self.batch.last_mut().map(|last| &mut last.what) {
            *earlier += lines;
        } else {
            self.batch.push(Entry { at_ms: shared_now_ms(), what: Act::Lost(lines), whose: AuditSubject::default() });
        }
    }

    /// Writes down how many lines are on no disk.
    fn note_owed(&mut self, received: &Receiver<Entry>) {
        let waiting = lost_with(&self.batch) + received.len() as u64 + self.lost.load(Ordering::Relaxed);
        self.owed.set(if self.failing { waiting } else { 0 });
    }

    /// Logs a new error once; `None`: writing works.
    fn fails(&mut self, error: Option<&AuditError>) {
        if let Some(error) = error
            && !self.failing
        {
            tracing::error!(event = "audit-not-written", %error, "the audit trail cannot be written; lines for which there is no room in memory are lost and counted");
        }
        self.failing = error.is_some();
    }

    fn tell(&self, trouble: Option<String>) {
        if let Some(inner) = self.told.upgrade() {
            *inner.trouble() = trouble.map(Into::into);
        }
    }
}

/// How many lines are lost with these: each, and those that it tells of as lost.
fn lost_with(batch: &[Entry]) -> u64 {
    let lines = |entry: &Entry| match entry.what {
        Act::Lost(lines) => lines,
        _ => 1,
    };
    batch.iter().map(lines).sum()
}
