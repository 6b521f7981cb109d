//! The thread that writes a trail, and tells what is the matter with it.
//!
//! Invariant: nobody waits for it. A trail that cannot be opened is tried again every [`RETRY`], and what is to be written waits in the
//! queue; lines of a trail that cannot be written are lost, and counted by the first that can.

use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::files::Trail;
use super::{Act, AuditError, Entry, Inner, Settings, Whose};

/// How long a trail that cannot be opened or written is left alone.
const RETRY: Duration = Duration::from_secs(1);

/// How often old files are looked for while nothing is written.
const TIDY: Duration = Duration::from_secs(600);

/// The writer of a trail.
pub(super) struct Writer {
    settings: Settings,
    told: Weak<Inner>,
    /// `None`: it could not be opened yet.
    trail: Option<Trail>,
    failing: bool,
}

impl Writer {
    pub(super) fn new(settings: Settings, told: Weak<Inner>) -> Self {
        Self { settings, told, trail: None, failing: false }
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
    }

    /// Writes until nobody can write anything more.
    pub(super) fn run(mut self, mut received: Receiver<Entry>) {
        // Without a timer old files are deleted with the next line.
        let timer = Builder::new_current_thread().enable_time().build().ok();
        loop {
            let Some(mut trail) = self.trail.take() else {
                if received.is_closed() {
                    return;
                }
                std::thread::sleep(RETRY);
                self.open();
                continue;
            };
            let first = match &timer {
                Some(timer) => timer.block_on(async { timeout(TIDY, received.recv()).await }),
                None => Ok(received.blocking_recv()),
            };
            let Ok(first) = first else {
                trail.tidy();
                self.trail = Some(trail);
                continue;
            };
            let Some(first) = first else { return };
            let mut batch = vec![first];
            while let Ok(entry) = received.try_recv() {
                batch.push(entry);
            }
            self.write(&mut trail, batch);
            self.trail = Some(trail);
            if self.failing {
                std::thread::sleep(RETRY);
            }
        }
    }

    fn write(&mut self, trail: &mut Trail, mut batch: Vec<Entry>) {
        let lost = self.told.upgrade().map_or(0, |inner| inner.lost.swap(0, Ordering::Relaxed));
        if lost > 0 {
            batch.push(Entry { at_ms: batch[0].at_ms, what: Act::Lost(lost), whose: Whose::default() });
        }
        let written = trail.write(&batch);
        self.fails(written.as_ref().err());
        self.tell(match &written {
            Ok(()) => trail.gone().map(|path| format!("audit.directory: {} was removed or renamed while it was written; the trail goes on in a new file, and is whole only with what is gone", path.display())),
            Err(error) => Some(format!("audit.directory: {error}; lines are lost and counted")),
        });
        if self.failing
            && let Some(inner) = self.told.upgrade()
        {
            inner.lost.fetch_add(lost_with(&batch), Ordering::Relaxed);
        }
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
