//! The relay as a service manager runs it: it tells how it stands, and the journal how grave each line is, and takes the sockets that are held for it.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;
use tests::authority::Authority;
use tests::board::Missed;
use tests::child::Child;
use tests::relay_process::binary;
use tests::relay_setup::{App, Setup};
use tests::scratch::Scratch;
use tests::world::{Outcome, SOON};
use tests::{apns, fcm};
use tokio::net::TcpStream;

/// What systemd is to the relay: it holds the listeners, and hears what it is told.
struct Manager {
    notify: UnixDatagram,
    listeners: Vec<TcpListener>,
    config: std::path::PathBuf,
    scratch: Scratch,
}

impl Manager {
    fn new(setup: &Setup) -> Self {
        let scratch = Scratch::new();
        let config = setup.write(&scratch);
        let notify = UnixDatagram::bind(scratch.path().join("notify")).expect("a socket");
        notify.set_read_timeout(Some(SOON)).expect("a limit");
        let bind = |port: u16| {
            let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
            // The child inherits it, as it does from systemd.
            fcntl_setfd(&listener, FdFlags::empty()).expect("a descriptor");
            listener
        };
        let listeners = [setup.ports.edge, setup.ports.api, setup.ports.tls].map(bind).into();
        Self { notify, listeners, config, scratch }
    }

    /// Starts the relay with its sockets as descriptors 3, 4, …, and the journal as the reader of its log.
    fn start(&self) -> Result<Child, Missed> {
        let moved: Vec<String> = self
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| format!("{}<&{}", index + 3, listener.as_raw_fd()))
            .collect();
        let script = format!(
            "export LISTEN_PID=$$ LISTEN_FDS={} JOURNAL_STREAM=$(stat -Lc %d:%i /dev/stderr); exec \"$0\" serve --config \"$1\" {}",
            self.listeners.len(),
            moved.join(" ")
        );
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).arg(binary()?).arg(&self.config);
        command.env("NOTIFY_SOCKET", self.scratch.path().join("notify")).env("WATCHDOG_USEC", "400000");
        command.env("RUST_LOG", "info").env("NO_COLOR", "1").env("SSL_CERT_FILE", Path::new("/dev/null"));
        Child::spawn(command, "(built by cargo)")
    }

    /// The next word that has this in it.
    fn hears(&self, wanted: &str) -> String {
        let mut buffer = [0; 512];
        for _ in 0..1_000 {
            let length = self.notify.recv(&mut buffer).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.lines().any(|line| line.starts_with(wanted)) {
                return text;
            }
        }
        panic!("{wanted} was not said");
    }
}

async fn setup(authority: &Authority) -> (Setup, apns::Apns, fcm::Fcm) {
    let (apns, fcm) = (apns::Apns::start(authority).await, fcm::Fcm::start(authority).await);
    (Setup::new(authority, vec![App::served_by(&apns, &fcm)]), apns, fcm)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_manager_is_told_of_start_life_reload_and_end() -> Outcome {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let manager = Arc::new(Manager::new(&setup));
    let relay = manager.start()?;
    // What is heard is waited for on a thread of its own.
    let hears = async |wanted: &'static str| {
        let manager = manager.clone();
        tokio::task::spawn_blocking(move || manager.hears(wanted)).await.expect("it was said")
    };
    assert!(hears("READY=1").await.contains("STATUS=serves"));
    for _ in 0..2 {
        hears("WATCHDOG=1").await;
    }
    relay.signal(Signal::HUP);
    let reloading = hears("RELOADING=1").await;
    assert!(reloading.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading}");
    hears("READY=1").await;
    relay.signal(Signal::TERM);
    hears("STOPPING=1").await;
    assert!(relay.exit(SOON).await?.success(), "{}", relay.output());
    let output = relay.output();
    let is_told = |line: &str| match line.get(..3) {
        Some("<4>") => line.contains(" WARN "),
        Some("<6>") => line.contains(" INFO "),
        _ => false,
    };
    assert!(output.lines().all(is_told), "the priority of each line: {output}");
    std::fs::write(&manager.config, "nonsense = 1\n").expect("the configuration is written");
    let relay = manager.start()?;
    assert!(!relay.exit(SOON).await?.success());
    let output = relay.output();
    assert!(output.contains("nonsense") && output.lines().all(|line| line.starts_with("<3>error: ")), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_no_connection_and_answers_who_came_while_nobody_was_there() -> Outcome {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let manager = Manager::new(&setup);
    let relay = manager.start()?;
    relay.await_line("serving", SOON).await?;
    let over = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicUsize::new(0));
    let doors =
        [setup.ports.edge, setup.ports.api, setup.ports.tls].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let knocking = doors.map(|door| {
        let (over, refused) = (over.clone(), refused.clone());
        tokio::spawn(async move {
            let mut knocks = 0;
            while !over.load(Ordering::Relaxed) {
                match TcpStream::connect(door).await {
                    Ok(_) => knocks += 1,
                    Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            knocks
        })
    });
    relay.signal(Signal::TERM);
    assert!(relay.exit(SOON).await?.success(), "{}", relay.output());
    // Nobody is there, and who asks now is answered by the next run.
    let api = setup.api();
    let asked = tokio::spawn(async move { api.get("/v1/keys").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!asked.is_finished(), "nobody is there");
    let relay = manager.start()?;
    let answer = asked.await.expect("it ends").map_err(|error| Missed::new("an answer", error.to_string()))?;
    assert_eq!(answer.status, 200);
    relay.await_line("serving", SOON).await?;
    over.store(true, Ordering::Relaxed);
    for door in knocking {
        assert!(door.await.expect("it ends") > 10, "it knocked");
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0);
    assert!(!relay.output().contains("nobody serves it"), "{}", relay.output());
    Ok(())
}
