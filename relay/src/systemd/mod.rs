//! The messages that systemd wants of a service, and the sockets that it hands over (sd_notify(3), sd_listen_fds(3)).
//!
//! Invariant: without systemd nothing here does anything. A message that cannot be sent within [`PATIENCE`] is dropped, and keeps the relay
//! from nothing.

pub mod journal;
pub mod sockets;

use std::env;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::interval;

/// How long a service manager that reads nothing at the moment is waited for when the service starts, reloads or ends; then it is not told.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long to wait before it is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// The receiver of the service's state: the service manager, where there is one.
#[derive(Debug, Default)]
pub struct Notifier(Option<(UnixDatagram, SocketAddr)>);

impl Notifier {
    /// The notifier that the environment names.
    pub fn of_environment() -> Self {
        env::var("NOTIFY_SOCKET").map_or_else(|_| Self::default(), |name| Self::at(&name))
    }

    /// The notifier at this name: a path, or `@` and the name of an abstract socket.
    pub fn at(name: &str) -> Self {
        let address = match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(name),
        };
        let socket = UnixDatagram::unbound().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        Self(address.and_then(|address| Ok((socket?, address))).ok())
    }

    /// Tells that the service has started, or has reloaded; `status`: the configuration in force, in words.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", line(status)));
    }

    /// The service reads its configuration again; [`Notifier::ready`] tells the end of it.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reading the configuration again"));
    }

    /// Tells that the service ends; `status`: its remaining work, in words.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={}", line(status)));
    }

    /// Tells that the service is alive.
    pub fn alive(&self) {
        // The next one comes soon; a word of a queue that nobody reads need not be one more.
        let _ = self.try_to_say("WATCHDOG=1");
    }

    fn say(&self, what: &str) {
        let until = Instant::now() + PATIENCE;
        while self.try_to_say(what).is_err_and(|why| why.kind() == ErrorKind::WouldBlock) && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
    }

    /// An error of the kind `WouldBlock` where the service manager has not read what it was told before.
    fn try_to_say(&self, what: &str) -> io::Result<()> {
        let Some((socket, address)) = &self.0 else { return Ok(()) };
        socket.send_to_addr(what.as_bytes(), address).map(drop)
    }
}

/// Tells the service manager, where it wants to hear that, that this process is alive: that its runtime runs, and that `is_alive`. A relay that is busy answers
/// late, and is: one that was started anew for it would be busier still.
pub async fn stay_alive(manager: Arc<Notifier>, is_alive: impl Fn() -> bool) {
    if let Some(every) = watchdog() {
        stay_alive_by(&manager, every, is_alive).await;
    }
}

async fn stay_alive_by(manager: &Notifier, every: Duration, is_alive: impl Fn() -> bool) {
    // Twice as often: a word may come late, or be dropped.
    let mut ticks = interval(every / 2);
    loop {
        ticks.tick().await;
        if is_alive() {
            manager.alive();
        }
    }
}

/// How often the service manager wants to hear that this process is alive, when it does: half the time after which it acts.
fn watchdog() -> Option<Duration> {
    let number = |name: &str| env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let micros = number("WATCHDOG_USEC").filter(|micros| *micros > 0 && is_for_us)?;
    Some(Duration::from_micros(micros) / 2)
}

/// A status is one line.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn it_is_told_at_a_path_and_by_an_abstract_name_what_happens_and_in_one_line() {
        let name = format!("sipwake-notify-{:016x}", u64::from_ne_bytes(crate::random::bytes()));
        let path = std::env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (socket, told) in [(at_path, path.display().to_string()), (at_name, format!("@{name}"))] {
            let notifier = Notifier::at(&told);
            let heard = || {
                let mut buffer = [0; 256];
                let length = socket.recv(&mut buffer).unwrap();
                String::from_utf8(buffer[..length].to_vec()).unwrap()
            };
            notifier.ready("serves\nREADY=0");
            assert_eq!(heard(), "READY=1\nSTATUS=serves READY=0");
            notifier.reloading();
            let said = heard();
            let micros = said.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(said.starts_with("RELOADING=1\n") && micros.parse::<u64>().unwrap() > 0, "{said}");
            notifier.stopping("drains");
            assert_eq!(heard(), "STOPPING=1\nSTATUS=drains");
            notifier.alive();
            assert_eq!(heard(), "WATCHDOG=1");
        }
        std::fs::remove_file(path).unwrap();
        Notifier::default().ready("nobody listens");
        Notifier::at("/nonexistent/notify").ready("nobody listens");
    }

    #[tokio::test(start_paused = true)]
    async fn the_service_manager_hears_of_a_process_as_long_as_that_is_alive() {
        const EVERY: Duration = Duration::from_secs(15);
        let name = format!("sipwake-watchdog-{:016x}", u64::from_ne_bytes(crate::random::bytes()));
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        manager.set_nonblocking(true).unwrap();
        let heard = async |time: Duration| {
            tokio::time::sleep(time).await;
            std::iter::from_fn(|| manager.recv(&mut [0; 64]).ok()).count()
        };
        let is_alive = Arc::new(AtomicBool::new(true));
        let seen = is_alive.clone();
        let notifier = Notifier::at(&format!("@{name}"));
        let telling = tokio::spawn(async move {
            stay_alive_by(&notifier, EVERY, || seen.load(Ordering::Relaxed)).await;
        });
        for _ in 0..4 {
            assert!(heard(EVERY).await >= 1);
        }
        is_alive.store(false, Ordering::Relaxed);
        assert_eq!(heard(EVERY * 4).await, 0);
        is_alive.store(true, Ordering::Relaxed);
        assert!(heard(EVERY).await >= 1, "it may serve again by itself");
        telling.abort();
    }

    #[test]
    fn a_service_manager_that_reads_nothing_keeps_the_relay_from_nothing() {
        let name = format!("sipwake-silent-{:016x}", u64::from_ne_bytes(crate::random::bytes()));
        let silent = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::at(&format!("@{name}"));
        // More than any queue of a socket holds.
        (0..10_000).for_each(|_| notifier.alive());
        notifier.stopping("drains");
        silent.set_nonblocking(true).unwrap();
        let heard = std::iter::from_fn(|| silent.recv(&mut [0; 64]).ok()).count();
        assert!(heard > 0 && heard < 10_000, "{heard}");
        notifier.stopping("drains");
        assert!(silent.recv(&mut [0; 64]).is_ok(), "who reads again is told again");
    }
}
