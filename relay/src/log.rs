//! The way of the log to the standard error: a queue with a bound, and a thread that writes.
//!
//! A write to a pipe, a terminal or a journal takes as long as nobody reads there. A shard must not wait for that, nor may anything else of
//! a relay that serves: a line is handed over, and its writer goes on.
//!
//! Invariant: lines are written whole and in the order in which they were handed over, and nobody who hands one over waits for the reader. A
//! line that finds [`WAITING_MAX`] bytes before it, or cannot be written, is dropped and counted, and the log says how many were once it is read again;
//! one that was cut in its midst ends before the next begins. A program that
//! never calls [`begin`] writes each line at once, and goes on where it cannot be written. Of a panic the log has what stands in the program's own text, and
//! nothing else.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;
use zeroize::Zeroize as _;

use crate::clock::{rfc3339_ms, unix_now_ms};
use crate::systemd::journal;

/// The bytes that may wait to be written, beside at most as many in one write that is under way; a further line is dropped.
pub const WAITING_MAX: usize = 4 * 1024 * 1024;
/// How long the end of the process, or a panic, waits until what was handed over is written; then it goes on without.
pub const LAST_WORDS: Duration = Duration::from_secs(1);
/// The memory, in bytes, that an empty queue keeps for the lines to come.
const KEPT: usize = 64 * 1024;
/// The pause after which a reader is tried again that takes nothing at the moment (a descriptor that does not block).
const PAUSE: Duration = Duration::from_millis(10);

static QUEUE: OnceLock<Queue> = OnceLock::new();
/// Whether the lines of a panic are one event in JSON, as the others of the log.
static JSON: AtomicBool = AtomicBool::new(false);
/// Whether the reader is the journal, which is told the priority of each line.
static JOURNAL: AtomicBool = AtomicBool::new(false);

/// From now on a panic, too, is told as an event in JSON.
pub fn write_json() {
    JSON.store(true, Ordering::Relaxed);
}

/// From now on lines wait in the queue, those of a panic included, and a thread writes them. The returned guard is held until the process ends:
/// its drop waits for what was handed over, at most [`LAST_WORDS`].
pub fn begin() -> LastWords {
    let begun = thread::Builder::new().name("log".to_owned()).spawn(|| {
        let queue = QUEUE.get_or_init(|| Queue::new(WAITING_MAX));
        queue.write_to(io::stderr().as_fd(), |lines| {
            tracing::warn!(
                event = "log-lines-dropped",
                lines,
                "lines were dropped here: nobody read the log, or it could not be written"
            );
        });
    });
    JOURNAL.store(journal::reads_stderr(), Ordering::Relaxed);
    // A process that gets no thread says everything at once, as any other program.
    if begun.is_ok() {
        QUEUE.get_or_init(|| Queue::new(WAITING_MAX));
        std::panic::set_hook(Box::new(|panic| {
            let thread = thread::current();
            let trace = Backtrace::capture();
            let trace = if trace.status() == BacktraceStatus::Captured { format!("{trace}\n") } else { String::new() };
            let (name, told) = (thread.name().unwrap_or("<unnamed>"), told(panic));
            let before = priority(Level::ERROR);
            if JSON.load(Ordering::Relaxed) {
                say(&format!("{before}{}", event_of_panic(name, &told, &trace)));
            } else {
                say(&format!("\n{before}thread '{name}' {told}\n{trace}"));
            }
            // The line may be the last one of this process.
            flush();
        }));
    }
    LastWords(())
}

/// The log text of a panic: where it was, and why, as far as that stands in the program's own text. A message that was put together may hold text
/// of a peer, or a secret.
fn told(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    match panic.payload().downcast_ref::<&'static str>() {
        Some(literal) => format!("panicked at {place}:\n{literal}"),
        None => format!("panicked at {place} (its message is withheld: it may hold what a peer has sent)"),
    }
}

/// A panic as an event. The subscriber does not write it: the panicking code may hold a lock of the subscriber.
fn event_of_panic(thread: &str, told: &str, trace: &str) -> String {
    event("ERROR", &json!({"event": "panic", "message": told, "thread": thread, "trace": trace}))
}

fn event(level: &str, fields: &serde_json::Value) -> String {
    let event =
        json!({"timestamp": rfc3339_ms(unix_now_ms()), "level": level, "fields": fields, "target": module_path!()});
    format!("{event}\n")
}

/// Says a push for the person at the terminal, who is to read and copy it; where the log is read by a program, as an event, whatever its level is. `push` is
/// JSON.
pub fn say_push(app: &str, service: &str, push: &str) {
    say(&told_push(app, service, push, JSON.load(Ordering::Relaxed)));
}

fn told_push(app: &str, service: &str, push: &str, as_json: bool) -> String {
    const SAYS: &str = "PUSH printed instead of sent";
    if !as_json {
        return format!("{SAYS} (app {app}, {service}):\n{push}\n");
    }
    let push = serde_json::from_str(push).unwrap_or_else(|_| json!(push));
    event("INFO", &json!({"event": "push-printed", "message": SAYS, "app": app, "service": service, "push": push}))
}

/// Says `lines`, which end with a line's end.
pub fn say(lines: &str) {
    match QUEUE.get() {
        Some(queue) => queue.hand_over("", lines.as_bytes()),
        // `eprint!` panics where nobody reads it; what a command was asked for does not depend on that.
        None => drop(io::stderr().write_all(lines.as_bytes())),
    }
}

/// Says one line.
pub fn say_line(line: impl Display) {
    say(&format!("{line}\n"));
}

/// Says one line of why a command fails, or a relay does not start.
pub fn say_error(why: impl Display) {
    say_line(format_args!("{}error: {why}", priority(Level::ERROR)));
}

/// How many lines this process has lost since it started: nobody read them in time, or they could not be written.
pub fn dropped() -> u64 {
    QUEUE.get().map_or(0, Queue::lost)
}

fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_WORDS);
    }
}

/// Waits on its drop until what was handed over is written, at most [`LAST_WORDS`].
pub struct LastWords(());

impl Drop for LastWords {
    fn drop(&mut self) {
        flush();
    }
}

/// The writers for the lines of this process's subscriber.
#[derive(Clone, Copy, Debug, Default)]
pub struct Writers;

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer { before: "" }
    }

    fn make_writer_for(&'a self, line: &Metadata<'_>) -> Writer {
        Writer { before: priority(*line.level()) }
    }
}

/// What the reader is told of a line's priority.
fn priority(level: Level) -> &'static str {
    if JOURNAL.load(Ordering::Relaxed) { journal::priority(level) } else { "" }
}

/// The writer for a line, by one call.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    before: &'static str,
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) => {
                queue.hand_over(self.before, line);
                Ok(line.len())
            }
            // The subscriber tells of a line that was not written by `eprintln!`, which panics then.
            None => Ok(io::stderr().write(line).unwrap_or(line.len())),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Queue {
    state: Mutex<State>,
    handed_over: Condvar,
    written: Condvar,
    waiting_max: usize,
    /// Lines that were lost since the start.
    dropped: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines dropped that the log has not said yet.
    unsaid: u64,
    /// A write is under way.
    is_writing: bool,
    /// The writer waits for a line.
    is_idle: bool,
}

impl Queue {
    fn new(waiting_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            handed_over: Condvar::new(),
            written: Condvar::new(),
            waiting_max,
            dropped: AtomicU64::new(0),
        }
    }

    fn lost(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn hand_over(&self, before: &'static str, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + before.len() + line.len() > self.waiting_max {
            state.unsaid += 1;
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.extend_from_slice(before.as_bytes());
        state.waiting.extend_from_slice(line);
        // A writer that is at work looks by itself: waking it costs a call of the system.
        let wake = std::mem::take(&mut state.is_idle);
        drop(state);
        if wake {
            self.handed_over.notify_one();
        }
    }

    /// Writes for as long as the process lives. `tell` says how many lines were dropped, by handing a line over.
    fn write_to(&self, reader: BorrowedFd<'_>, tell: impl Fn(u64)) {
        let (mut lines, mut unsaid, mut said) = (Vec::new(), 0, 0);
        let (mut fails, mut is_cut) = (false, false);
        loop {
            unsaid += self.take(&mut lines, unsaid > 0 && !fails);
            // The line that says so may be lost itself.
            let just_said = std::mem::take(&mut said);
            if unsaid > 0 && !fails {
                // Behind the lines that waited when it happened, and before those that are to come.
                tell(unsaid);
                said = std::mem::take(&mut unsaid);
            }
            if is_cut && !lines.is_empty() {
                is_cut = write_all(reader, b"\n").is_err();
            }
            match write_all(reader, if is_cut { &[] } else { &lines }) {
                Ok(()) if !is_cut => fails = false,
                outcome => {
                    let unwritten = outcome.err().unwrap_or(&lines);
                    is_cut |= lines[..lines.len() - unwritten.len()].last().is_some_and(|last| *last != b'\n');
                    self.dropped.fetch_add(count(unwritten), Ordering::Relaxed);
                    unsaid += count(unwritten) + just_said;
                    fails = true;
                }
            }
            lines.zeroize();
            lines.shrink_to(KEPT);
        }
    }

    /// Waits for lines, unless something `is_to_say`, and takes all that there are; how many were dropped meanwhile.
    fn take(&self, lines: &mut Vec<u8>, is_to_say: bool) -> u64 {
        let mut state = self.lock();
        state.is_writing = false;
        if state.waiting.is_empty() {
            self.written.notify_all();
        }
        while state.waiting.is_empty() && !is_to_say {
            state.is_idle = true;
            state = self.handed_over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_idle = false;
        state.is_writing = true;
        std::mem::swap(&mut state.waiting, lines);
        std::mem::take(&mut state.unsaid)
    }

    /// Waits until everything is written, at most so long.
    fn flush(&self, within: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        // Whether it was in time changes nothing: the process ends.
        drop(self.written.wait_timeout_while(self.lock(), within, is_busy));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic but for want of memory, which ends the process.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of it, however long that takes. Not by `std`'s standard error, whose lock would make other writers wait. The
/// rest that was not written, when that fails.
fn write_all<'a>(reader: BorrowedFd<'_>, mut lines: &'a [u8]) -> Result<(), &'a [u8]> {
    while !lines.is_empty() {
        match rustix::io::write(reader, lines) {
            Ok(written) => lines = &lines[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => thread::sleep(PAUSE),
            Err(_) => return Err(lines),
        }
    }
    Ok(())
}

fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::{BufRead as _, BufReader, PipeReader, pipe};
    use std::os::unix::fs::OpenOptionsExt as _;

    use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

    use super::*;

    /// A queue of so many bytes before a pipe.
    fn piped(waiting_max: usize) -> (&'static Queue, BufReader<PipeReader>) {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new(waiting_max)));
        let (reader, writer) = pipe().unwrap();
        thread::spawn(move || {
            queue.write_to(writer.as_fd(), |lines| queue.hand_over("", format!("dropped {lines}\n").as_bytes()));
        });
        (queue, BufReader::new(reader))
    }

    #[test]
    fn a_reader_that_stops_holds_nobody_up_and_hears_in_its_place_how_much_it_has_missed() {
        const LINES: u64 = 60_000;
        let (queue, reader) = piped(200_000);
        // More than the pipe holds: its write does not end.
        queue.hand_over("", format!("{}\n", "x".repeat(150_000)).as_bytes());
        while !queue.lock().is_writing {
            thread::yield_now();
        }
        for number in 0..LINES {
            queue.hand_over("", format!("{number}\n").as_bytes());
        }
        let lost = queue.lock().unsaid;
        assert!(lost > 0 && lost < LINES && queue.lost() == lost);
        assert!(queue.lock().waiting.len() <= 200_000);

        let mut lines = reader.lines().map(Result::unwrap).skip(1);
        for number in 0..LINES - lost {
            assert_eq!(lines.next(), Some(number.to_string()));
        }
        queue.hand_over("", b"later\n");
        assert_eq!([lines.next(), lines.next()], [Some(format!("dropped {lost}")), Some("later".to_owned())]);
    }

    #[test]
    fn lines_that_could_not_be_written_are_told_once_there_is_room_and_a_line_that_was_cut_ends() {
        let queue: &'static Queue = Box::leak(Box::new(Queue::new(WAITING_MAX)));
        let fifo = std::env::temp_dir().join(format!("sipwake-log-{:x}", u64::from_be_bytes(crate::random::bytes())));
        mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let open = |options: &mut OpenOptions| options.open(&fifo).unwrap();
        let daemon = open(OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()));
        let log = open(OpenOptions::new().write(true));
        thread::spawn(move || {
            queue.write_to(log.as_fd(), |lines| queue.hand_over("", format!("dropped {lines}\n").as_bytes()));
        });
        queue.hand_over("", format!("whole\n{}\n", "x".repeat(200_000)).as_bytes());
        while rustix::io::ioctl_fionread(&daemon).unwrap() < 4_096 {
            thread::yield_now();
        }
        drop(daemon);
        while queue.lost() == 0 {
            thread::yield_now();
        }
        queue.hand_over("", b"unread\n");
        while queue.lost() == 1 {
            thread::yield_now();
        }
        let mut lines = BufReader::new(open(OpenOptions::new().read(true))).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("whole"));
        queue.hand_over("", b"later\n");
        assert!(lines.next().is_some_and(|cut| cut.bytes().all(|byte| byte == b'x')), "it ends before the next begins");
        assert_eq!([lines.next(), lines.next()], [Some("later".to_owned()), Some("dropped 2".to_owned())]);
        std::fs::remove_file(fifo).unwrap();
    }

    #[test]
    fn what_was_handed_over_is_written_when_the_process_ends_and_a_silent_reader_does_not_keep_it() {
        let (queue, reader) = piped(WAITING_MAX);
        let all = thread::spawn(move || reader.lines().take(20_000).map(Result::unwrap).collect::<Vec<_>>());
        (0..20_000).for_each(|number| queue.hand_over("", format!("{number}\n").as_bytes()));
        queue.flush(Duration::from_secs(60));
        let state = queue.lock();
        assert!(state.waiting.is_empty() && !state.is_writing);
        drop(state);
        let all = all.join().unwrap();
        assert!(all.iter().enumerate().all(|(number, line)| *line == number.to_string()));

        let (queue, _reader) = piped(WAITING_MAX);
        queue.hand_over("", &[b'x'; 200_000]);
        queue.flush(Duration::from_millis(50));
        assert!(queue.lock().is_writing, "it goes on without");
    }

    #[test]
    fn a_panic_tells_its_place_and_nothing_that_the_program_itself_does_not_say() {
        static TOLD: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let (own, others) = (thread::current().id(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            if thread::current().id() == own {
                TOLD.lock().unwrap().push(told(panic));
            } else {
                others(panic);
            }
        }));
        let (text, cut) = ("pässword".to_owned(), std::hint::black_box(2));
        let read: Result<u8, String> = Err(text.clone());
        let cut_off = || assert_eq!(text[..cut], text);
        let unread = || assert_eq!(read.clone().expect("a number"), 0);
        let faults: [&dyn Fn(); 4] = [&|| panic!("a literal"), &cut_off, &unread, &|| panic!("{text}")];
        for fault in faults {
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(fault)).is_err());
        }
        drop(std::panic::take_hook());
        let told = TOLD.lock().unwrap();
        assert_eq!(told.len(), faults.len());
        assert!(told.iter().all(|line| line.contains(file!()) && !line.contains("ssword")), "{told:?}");
        assert!(told[0].ends_with("a literal"), "{told:?}");
    }

    #[test]
    fn a_panic_is_one_line_where_the_log_is_read_by_a_program() {
        let line = event_of_panic("shard-1", "panicked at a.rs:1:2:\na literal", "0: main\n");
        assert_eq!(line.matches('\n').count(), 1);
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let [name, level] = [&event["fields"]["event"], &event["level"]].map(|text| text.as_str().unwrap());
        assert_eq!((name, level), ("panic", "ERROR"));
        assert!(event["fields"]["message"].as_str().unwrap().ends_with("a literal"));
    }

    #[test]
    fn a_printed_push_is_one_event_where_the_log_is_read_by_a_program() {
        for (push, read) in [("{\n  \"event\": \"call\"\n}", json!({"event": "call"})), ("no JSON", json!("no JSON"))] {
            let line = told_push("com.example.phone", "Fcm", push, true);
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let event: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&event["fields"]["event"], &event["fields"]["push"]), (&json!("push-printed"), &read));
            assert!(told_push("com.example.phone", "Fcm", push, false).ends_with(&format!("\n{push}\n")));
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_not_told_of_for_ever() {
        let (queue, reader) = piped(WAITING_MAX);
        drop(reader);
        queue.hand_over("", b"one\ntwo\n");
        queue.flush(Duration::from_secs(60));
        assert!(queue.lost() >= 2);
        assert_eq!(queue.lock().unsaid, 0);
    }
}
