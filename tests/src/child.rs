//! A program of another kind, run as a child: its output is kept, and it ends with its handle.
//!
//! Invariant: the child has a process group of its own, which is killed as a whole; the handle's drop does it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::board::{Board, Missed};

/// How many of the last lines a report shows.
const SHOWN_LINES: usize = 40;
/// How long the output of a program that has ended may take to be read.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);

/// A running program.
pub struct Child {
    name: String,
    pid: Pid,
    board: Board<State>,
    reading: Arc<Reading>,
    input: Mutex<Option<ChildStdin>>,
}

/// Whether its output is read at the moment.
#[derive(Default)]
struct Reading {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Reading {
    fn stop(&self, is_stopped: bool) {
        *self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = is_stopped;
        self.changed.notify_all();
    }

    fn wait(&self) {
        let is_stopped = self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(is_stopped, |is_stopped| *is_stopped));
    }
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    exit: Option<ExitStatus>,
}

impl Child {
    /// Starts `command`; `package` is the Debian package that brings it.
    ///
    /// # Errors
    /// [`Missed`] when it cannot be started, with the line that installs it when it is missing.
    pub fn spawn(command: Command, package: &str) -> Result<Self, Missed> {
        Self::start(command, Stdio::null(), package)
    }

    /// The same for a program that is told what to do on its standard input, by [`Child::say`].
    ///
    /// # Errors
    /// [`Missed`] as for [`Child::spawn`].
    pub fn spawn_listening(command: Command, package: &str) -> Result<Self, Missed> {
        Self::start(command, Stdio::piped(), package)
    }

    fn start(mut command: Command, input: Stdio, package: &str) -> Result<Self, Missed> {
        let program = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        command.process_group(0).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => format!("it is missing: sudo apt-get install -y {package}"),
                _ => error.to_string(),
            };
            Missed::new(format!("{program} to start"), remedy)
        })?;
        let pid = Pid::from_child(&child);
        let board = Board::<State>::default();
        let reading = Arc::<Reading>::default();
        let outputs: [Option<Box<dyn Read + Send>>; 2] =
            [child.stdout.take().map(|out| Box::new(out) as _), child.stderr.take().map(|out| Box::new(out) as _)];
        let (read_to_end, all_read) = mpsc::channel::<()>();
        for output in outputs.into_iter().flatten() {
            let (board, reading, read_to_end) = (board.clone(), reading.clone(), read_to_end.clone());
            std::thread::spawn(move || {
                read_lines(output, &reading, &board);
                drop(read_to_end);
            });
        }
        drop(read_to_end);
        let input = Mutex::new(child.stdin.take());
        let exit = board.clone();
        std::thread::spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
            // The last output is read before the end is reported; a child of the process may hold its output open for longer.
            let _ = all_read.recv_timeout(LAST_WORDS_WITHIN);
            exit.change(|state| state.exit = Some(status));
        });
        Ok(Self { name: program, pid, board, reading, input })
    }

    /// Writes a line to its standard input.
    ///
    /// # Errors
    /// [`Missed`] when it does not listen.
    pub fn say(&self, line: &str) -> Result<(), Missed> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let said = input.as_mut().is_some_and(|input| writeln!(input, "{line}").and_then(|()| input.flush()).is_ok());
        if said { Ok(()) } else { Err(self.missed("an open input")) }
    }

    /// Closes its standard input.
    pub fn close_input(&self) {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.board.read(|state| state.exit.is_none())
    }

    /// Reads nothing more of what it prints: what does not fit into its pipes has to wait.
    pub fn stop_reading(&self) {
        self.reading.stop(true);
    }

    /// Reads on.
    pub fn read_on(&self) {
        self.reading.stop(false);
    }

    /// Everything that it printed.
    pub fn output(&self) -> String {
        self.board.read(|state| state.lines.join("\n"))
    }

    /// Waits for a line that contains `text`, from the beginning on.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time, or the program ends without it.
    pub async fn await_line(&self, text: &str, within: Duration) -> Result<String, Missed> {
        let found = self.board.wait(within, |state| {
            let line = state.lines.iter().find(|line| line.contains(text)).cloned();
            if line.is_some() { Some(line) } else { state.exit.map(|_| None) }
        });
        found.await.flatten().ok_or_else(|| self.missed(&format!("{text:?}")))
    }

    /// Waits until so many lines, from the beginning on, contain `text`.
    ///
    /// # Errors
    /// [`Missed`] when they do not come `within` the time, or the program ends without them.
    pub async fn await_lines(&self, text: &str, count: usize, within: Duration) -> Result<(), Missed> {
        let found = self.board.wait(within, |state| {
            let enough = state.lines.iter().filter(|line| line.contains(text)).count() >= count;
            if enough { Some(true) } else { state.exit.map(|_| false) }
        });
        if found.await == Some(true) { Ok(()) } else { Err(self.missed(&format!("{count} lines with {text:?}"))) }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Missed`] when it runs on after `within`.
    pub async fn exit(&self, within: Duration) -> Result<ExitStatus, Missed> {
        self.board.wait(within, |state| state.exit).await.ok_or_else(|| self.missed("its end"))
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    /// Sends SIGKILL to the program and its children, and waits for its end.
    ///
    /// # Errors
    /// [`Missed`] when it does not end within five seconds.
    pub async fn kill(&self) -> Result<ExitStatus, Missed> {
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        self.exit(Duration::from_secs(5)).await
    }

    /// The failure to see `awaited`, with the end of the output.
    pub fn missed(&self, awaited: &str) -> Missed {
        let seen = self.board.read(|state| {
            let from = state.lines.len().saturating_sub(SHOWN_LINES);
            let end = state.exit.map(|exit| format!("\n({exit})")).unwrap_or_default();
            format!("\n{}{end}", state.lines[from..].join("\n"))
        });
        Missed::new(format!("{awaited} of {}", self.name), seen)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // The group may outlive its first process, so this does not ask whether that one runs.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
        self.reading.stop(false);
    }
}

fn read_lines(output: impl Read, reading: &Reading, board: &Board<State>) {
    let mut reader = BufReader::new(output);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        board.change(|state| state.lines.push(text));
        line.clear();
        reading.wait();
    }
}
