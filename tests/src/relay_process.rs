//! The real binary, `sipwake serve`, as a child process with a configuration of its own.
//!
//! Invariant: it is the binary of these sources, built when it is absent or older than they are; it ends with its
//! handle; what it logged is kept.

use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use hyper::Version;
use rustix::process::Signal;

use crate::api_client::{Answer, ApiClient};
use crate::board::Missed;
use crate::child::Child;
pub use crate::relay_setup::{Apns, App, Fcm, Ports, Setup};
use crate::scratch::Scratch;
use crate::wire::Transport;

/// How long it may take until `/readyz` says 200.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait between two looks at `/readyz`.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often what takes long is looked at, at the least.
const LOOK_SELDOM: Duration = Duration::from_millis(500);

/// A relay that runs, or ran.
pub struct RelayProcess {
    setup: Setup,
    scratch: Scratch,
    config: PathBuf,
    child: Child,
}

impl RelayProcess {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// [`Missed`] when it does not get ready, with the end of its log.
    pub async fn start(setup: Setup) -> Result<Self, Missed> {
        let relay = Self::launch(setup)?;
        relay.await_ready(READY_WITHIN).await?;
        Ok(relay)
    }

    /// Starts it and waits for nothing.
    ///
    /// # Errors
    /// [`Missed`] when the binary cannot be built or started.
    pub fn launch(setup: Setup) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let config = setup.write(&scratch);
        let child = spawn(&setup, &scratch, &config)?;
        Ok(Self { setup, scratch, config, child })
    }

    /// Starts it again after it ended: same configuration, same ports, same files.
    ///
    /// # Errors
    /// [`Missed`] when it does not get ready.
    pub async fn restart(&mut self) -> Result<(), Missed> {
        self.child.kill().await?;
        self.relaunch()?;
        self.await_ready(READY_WITHIN).await
    }

    /// Starts it again after it ended, and waits for nothing.
    ///
    /// # Errors
    /// [`Missed`] when it cannot be started.
    pub fn relaunch(&mut self) -> Result<(), Missed> {
        self.child = spawn(&self.setup, &self.scratch, &self.config)?;
        Ok(())
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Errors
    /// [`Missed`] when it does not `within` the time, or the process ends.
    pub async fn await_ready(&self, within: Duration) -> Result<(), Missed> {
        let operator = self.operator();
        let look = async {
            while self.child.is_running() {
                if operator.get("/readyz").await.is_ok_and(|answer| answer.status == 200) {
                    return Some(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            None
        };
        let ready = tokio::time::timeout(within, look).await.ok().flatten();
        ready.ok_or_else(|| self.child.missed("readiness"))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// [`Missed`] when it has not by then.
    pub async fn exit(&self, within: Duration) -> Result<ExitStatus, Missed> {
        self.child.exit(within).await
    }

    /// The directory that it runs in, with its configuration and all that it writes.
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// SIGHUP: it reads its files again.
    pub fn hang_up(&self) {
        self.child.signal(Signal::HUP);
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Missed`] when it does not end `within` the time.
    pub async fn ended(&self, within: Duration) -> Result<ExitStatus, Missed> {
        self.child.exit(within).await
    }

    /// Sends it a signal, and waits for its end.
    ///
    /// # Errors
    /// [`Missed`] when it does not end `within` the time.
    pub async fn signal(&self, signal: Signal, within: Duration) -> Result<ExitStatus, Missed> {
        self.child.signal(signal);
        self.child.exit(within).await
    }

    /// The settings that it was started with.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// A client of its API with the key of the first app, over HTTP/2.
    pub fn api(&self) -> ApiClient {
        self.setup.api()
    }

    /// A client of its API with the key of the first app.
    pub fn api_over(&self, version: Version) -> ApiClient {
        self.setup.api_over(version)
    }

    /// A client of its operator listener with the operator's token.
    pub fn operator(&self) -> ApiClient {
        self.setup.operator()
    }

    /// `POST /v1/operator/instances/{id}/wipe`
    ///
    /// # Errors
    /// When no answer comes.
    pub async fn wipe(&self, id: &str) -> io::Result<Answer> {
        let path = format!("/v1/operator/instances/{id}/wipe");
        self.operator().json("POST", &path, Some(&self.setup.operator_token), None).await
    }

    /// Where its API listens.
    pub fn api_address(&self) -> SocketAddr {
        Setup::at(self.setup.ports.api)
    }

    /// Where operators connect.
    pub fn operator_address(&self) -> SocketAddr {
        Setup::at(self.setup.ports.operator)
    }

    /// Where devices connect.
    pub fn edge_address(&self) -> SocketAddr {
        Setup::at(self.setup.ports.edge)
    }

    /// Where devices connect by WebSocket.
    pub fn websocket_address(&self) -> SocketAddr {
        Setup::at(self.setup.ports.websocket)
    }

    /// The edge, as a phone dials it: `sip:127.0.0.1:5061;transport=tls`.
    pub fn edge_uri(&self) -> String {
        format!("sip:127.0.0.1:{};transport=tls", self.setup.ports.edge)
    }

    /// The listener toward SIP servers.
    pub fn upstream(&self, transport: Transport) -> SocketAddr {
        Setup::at(match transport {
            Transport::Udp => self.setup.ports.udp,
            Transport::Tcp => self.setup.ports.tcp,
            Transport::Tls => self.setup.ports.tls,
            Transport::Wss => panic!("a SIP server does not come by WebSocket"),
        })
    }

    /// The files of its certificate and its key, as its configuration names them.
    ///
    /// # Panics
    /// When the configuration cannot be read; the relay has read it before.
    pub fn certificate_files(&self) -> (PathBuf, PathBuf) {
        match relay::config::Config::load(&self.config).expect("the relay's own configuration").tls {
            relay::config::Tls::Files { certificate, key } => (certificate, key),
            relay::config::Tls::Development { .. } => panic!("the configuration names no certificate"),
        }
    }

    /// The value of a metric, as [`Setup::metric`] has it.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        self.setup.metric(series).await
    }

    /// The sum over all series that begin so; `None` while the relay does not answer.
    pub async fn metric_sum(&self, prefix: &str) -> Option<f64> {
        let page = self.operator().get("/metrics").await.ok()?.text();
        let series = page.lines().filter(|line| line.starts_with(prefix));
        Some(series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.child.is_running()
    }

    /// Everything that it logged since it was last started.
    pub fn log(&self) -> String {
        self.child.output()
    }

    /// Reads its log no more.
    pub fn stop_reading_log(&self) {
        self.child.stop_reading();
    }

    /// Reads its log on, and waits until so many lines contain `text`.
    ///
    /// # Errors
    /// [`Missed`] when they do not come `within` the time.
    pub async fn read_on_log(&self, text: &str, count: usize, within: Duration) -> Result<(), Missed> {
        self.child.read_on();
        self.child.await_lines(text, count, within).await
    }

    /// Waits for a log line that contains `text`.
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn await_log(&self, text: &str, within: Duration) -> Result<String, Missed> {
        self.child.await_line(text, within).await
    }

    /// `kill -9`, and waits for the end.
    ///
    /// # Errors
    /// [`Missed`] when it does not end.
    pub async fn kill_9(&self) -> Result<(), Missed> {
        self.child.kill().await.map(drop)
    }

    /// Has it stand still, its connections open.
    pub fn freeze(&self) {
        self.child.signal(Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.child.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end of the drain.
    ///
    /// # Errors
    /// [`Missed`] when it does not end `within` the time.
    pub async fn terminate(&self, within: Duration) -> Result<ExitStatus, Missed> {
        self.child.signal(Signal::TERM);
        self.child.exit(within).await
    }

    /// Its resident memory in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> std::io::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kilobytes.map(|kb| kb * 1024).ok_or_else(|| std::io::Error::other("no VmRSS"))
    }

    /// Which of `needles` stand in its memory, by name, as soon as none does or when `within` has passed: what was freed
    /// a moment ago may not have been wiped yet.
    ///
    /// # Errors
    /// When the memory may not be read, or the process is gone.
    pub async fn memory_keeps(&self, needles: &[(String, Vec<u8>)], within: Duration) -> std::io::Result<Vec<String>> {
        let deadline = tokio::time::Instant::now() + within;
        let bytes: Vec<&[u8]> = needles.iter().map(|(_, needle)| needle.as_slice()).collect();
        // Reading all of it takes a while: more and more seldom.
        let mut pause = LOOK_EVERY;
        loop {
            let there = self.memory_holds(&bytes)?;
            let named = needles.iter().zip(there).filter(|(_, there)| *there);
            let held: Vec<String> = named.map(|((name, _), _)| name.clone()).collect();
            if held.is_empty() || tokio::time::Instant::now() >= deadline {
                return Ok(held);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_SELDOM);
        }
    }

    /// Whether these bytes stand anywhere in its memory (every readable mapping, through `/proc/PID/mem`).
    ///
    /// # Errors
    /// When the memory may not be read, or the process is gone.
    pub fn memory_contains(&self, needle: &[u8]) -> std::io::Result<bool> {
        memory_contains(self.pid(), needle)
    }

    /// Which of these stand anywhere in its memory.
    ///
    /// # Errors
    /// When the memory may not be read, or the process is gone.
    pub fn memory_holds(&self, needles: &[&[u8]]) -> std::io::Result<Vec<bool>> {
        memory_holds(self.pid(), needles)
    }
}

/// Whether `needle` stands in a process's memory.
///
/// # Errors
/// When the memory may not be read.
pub fn memory_contains(pid: u32, needle: &[u8]) -> std::io::Result<bool> {
    memory_holds(pid, &[needle]).map(|held| held[0])
}

/// Which of `needles` stand in a process's memory, each read once. Mappings of files that the process cannot have written
/// to are left out: they hold what is on disk.
///
/// # Errors
/// When the memory may not be read: the relay lets none but root read its own.
pub fn memory_holds(pid: u32, needles: &[&[u8]]) -> std::io::Result<Vec<bool>> {
    const PIECE: usize = 1 << 20;
    static NOTHING: [u8; PIECE] = [0; PIECE];
    let denied = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => std::io::Error::new(error.kind(), "run this test as root"),
        _ => error,
    };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(denied)?;
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).map_err(denied)?;
    let finders: Vec<_> = needles.iter().map(memchr::memmem::Finder::new).collect();
    let overlap = needles.iter().map(|needle| needle.len()).max().unwrap_or(1) - 1;
    let mut held = vec![false; needles.len()];
    let mut seen = 0;
    for (start, end) in maps.lines().filter_map(written_mapping) {
        let mut window = Vec::with_capacity(PIECE + overlap);
        let mut at = start;
        while at < end {
            let want = PIECE.min((end - at) as usize);
            window.drain(..window.len() - window.len().min(overlap));
            memory.seek(SeekFrom::Start(at))?;
            let got = (&mut memory).take(want as u64).read_to_end(&mut window);
            // A mapping may go away meanwhile, and some cannot be read.
            let Ok(got @ 1..) = got else { break };
            seen += got;
            at += got as u64;
            // Most of what is mapped was never touched.
            if window.chunks(PIECE).all(|chunk| chunk == &NOTHING[..chunk.len()]) {
                continue;
            }
            for (held, finder) in held.iter_mut().zip(&finders) {
                *held = *held || finder.find(&window).is_some();
            }
        }
    }
    if seen == 0 { Err(std::io::Error::other("nothing of the memory could be read")) } else { Ok(held) }
}

/// The range of a mapping, from a line of `/proc/PID/maps`, that can be read and that the process may have written to.
fn written_mapping(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let (range, rights, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    // The kernel's own pages cannot be read this way.
    let kernels = line.ends_with("[vvar]") || line.ends_with("[vsyscall]");
    if !rights.starts_with('r') || kernels || (inode != "0" && !rights.contains('w')) {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn spawn(setup: &Setup, scratch: &Scratch, config: &Path) -> Result<Child, Missed> {
    let mut command = match &setup.hosts {
        None => Command::new(binary()?),
        Some(hosts) => {
            // A view of the file system of its own; the process is the relay's in the end.
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
            command.arg(scratch.file("hosts", hosts)).arg(binary()?);
            command
        }
    };
    command.arg("serve").arg("--config").arg(config).current_dir(scratch.path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SIPWAKE_") {
            command.env_remove(name);
        }
    }
    // Each relay would read all roots of the system, which no test has a certificate of.
    let roots = scratch.file("unused-root.pem", include_str!("unused-root.pem"));
    command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
    command.env(relay::timing::VARIABLE, format!("{} {}", setup.timing, setup.minutes));
    command.env("RUST_LOG", &setup.log).env("NO_COLOR", "1").envs(setup.environment.iter().cloned());
    Child::spawn(command, "(built by cargo)")
}

/// The path of `sipwake`, built from these sources.
///
/// # Errors
/// [`Missed`] when it cannot be built.
pub fn binary() -> Result<PathBuf, Missed> {
    static BINARY: OnceLock<Result<PathBuf, Missed>> = OnceLock::new();
    BINARY.get_or_init(find_or_build).clone()
}

fn find_or_build() -> Result<PathBuf, Missed> {
    if let Some(path) = std::env::var_os("SIPWAKE_BINARY") {
        return Ok(path.into());
    }
    let failed = |what: String| Missed::new("the binary sipwake", what);
    let own = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    // `target/PROFILE/deps/test-…` or `target/PROFILE/demo`.
    let mut directory = own.parent().unwrap_or(Path::new("."));
    if directory.ends_with("deps") {
        directory = directory.parent().unwrap_or(directory);
    }
    let binary = directory.join("sipwake");
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let built = std::fs::metadata(&binary).and_then(|meta| meta.modified()).ok();
    let sources = newest(&house.join("relay/src")).max(newest(&house.join("sip/src")));
    if built.is_some_and(|built| built >= sources) {
        return Ok(binary);
    }
    // Elsewhere cargo would build everything anew, and put it where nobody looks for it.
    if !is_within_target(directory) {
        return Err(failed(format!(
            "{} lies in no target folder, where it could be built: name a built one by SIPWAKE_BINARY",
            own.display()
        )));
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "relay", "--bin", "sipwake"]).current_dir(house);
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    // `target/PROFILE` is where the test is, wherever that may be.
    if let Some(target) = directory.parent() {
        cargo.arg("--target-dir").arg(target);
    }
    let output = cargo.output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() || !binary.exists() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(binary)
}

/// Whether a directory lies in one that cargo builds into: called `target`, or with the mark that cargo leaves in one of any name.
fn is_within_target(directory: &Path) -> bool {
    let mut above = directory.ancestors().skip(1);
    above.any(|folder| folder.ends_with("target") || folder.join(".rustc_info.json").is_file())
}

/// When the newest file below a directory was changed.
fn newest(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let times = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        if meta.is_dir() { Some(newest(&entry.path())) } else { meta.modified().ok() }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_is_built_within_a_folder_of_cargos_alone() {
        let scratch = Scratch::new();
        let elsewhere = scratch.path().join("copied/debug");
        assert!(!is_within_target(Path::new("/nowhere/copied/debug")));
        assert!(is_within_target(&scratch.path().join("target/debug")));
        std::fs::create_dir(scratch.path().join("copied")).unwrap();
        scratch.file("copied/.rustc_info.json", "{}");
        assert!(is_within_target(&elsewhere));
        let own = std::env::current_exe().unwrap();
        assert!(is_within_target(own.parent().unwrap()), "{}", own.display());
    }

    #[test]
    fn what_stands_in_memory_is_found_and_what_does_not_is_not() {
        let held = crate::digest::token() + &crate::digest::token();
        assert!(memory_contains(std::process::id(), held.as_bytes()).unwrap());
        // The needle that is searched for must not stand in this process itself, so it is searched in another.
        let other = Child::spawn(
            {
                let mut c = Command::new("sleep");
                c.arg("60");
                c
            },
            "coreutils",
        )
        .unwrap();
        assert!(!memory_contains(other.pid(), held.as_bytes()).unwrap());
    }
}
