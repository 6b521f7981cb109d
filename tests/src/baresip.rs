//! The real baresip as a stock device: no audio hardware, told what to do over its JSON control port.
//!
//! Invariant: it trusts the test's authority alone; its configuration lives in a directory of its own; it ends with its
//! handle.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use crate::authority::Authority;
use crate::board::{Board, Missed};
use crate::child::Child;
use crate::ports;
use crate::scratch::Scratch;

/// Debian's package with baresip.
const PACKAGE: &str = "baresip-core";
/// Where Debian puts its modules.
const MODULES: &str = "/usr/lib/baresip/modules";
/// The line that baresip prints when a call comes in.
const RINGS: &str = "Incoming call from:";
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(15);
/// How long to wait between two tries to reach the control port of a program that is starting.
const TRY_EVERY: Duration = Duration::from_millis(25);

/// How it answers calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// At once.
    Automatically,
    /// By [`Baresip::accept`]; until then it rings.
    WhenTold,
}

/// The identity of a baresip, and its registrar.
#[derive(Clone, Debug)]
pub struct Account {
    /// Where it connects and registers: `sip:127.0.0.1:5061;transport=tls`.
    pub proxy: String,
    /// Its AOR: `sip:alice@example.test`.
    pub aor: String,
    /// The digest's user.
    pub username: String,
    /// The password.
    pub password: String,
    /// How it answers.
    pub answers: Answers,
    /// The lifetime that it asks for, in seconds.
    pub regint: u32,
    /// Whether it registers as RFC 5626 has it, with its instance and a reg-id.
    pub outbound: bool,
    /// Whether its AOR names the transport to the proxy, which its Request-URI then also names to the server behind the proxy.
    pub aor_names_transport: bool,
}

impl Account {
    /// A device of `username` at `proxy` that answers when told; its AOR is the user at the proxy's host.
    pub fn new(proxy: &str, username: &str, password: &str) -> Self {
        let host = sip::message::Uri::parse(proxy).map(|uri| uri.host.to_owned()).unwrap_or_default();
        Self {
            proxy: proxy.to_owned(),
            aor: format!("sip:{username}@{host}"),
            username: username.to_owned(),
            password: password.to_owned(),
            answers: Answers::WhenTold,
            regint: 60,
            outbound: true,
            aor_names_transport: true,
        }
    }
}

/// A running baresip.
pub struct Baresip {
    child: Child,
    _scratch: Scratch,
    control: Mutex<OwnedWriteHalf>,
    reader: AbortHandle,
    events: Board<Vec<Value>>,
}

impl Baresip {
    /// Starts it, which makes it register.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed or does not start.
    pub async fn start(account: &Account, authority: &Authority) -> Result<Self, Missed> {
        Self::start_with(&account_line(account), &authority.ca_file()).await
    }

    /// As [`Self::start`], with its accounts as they are written in its own file, and this CA.
    ///
    /// # Errors
    /// [`Missed`] as for [`Self::start`].
    pub async fn start_with(accounts: &str, ca: &Path) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        // The program listens for TLS on the port after the one that it is told.
        let (sip, control) = (ports::free_row(2), ports::free());
        scratch.file("config", configuration(ca, sip, control));
        scratch.file("accounts", accounts.to_owned() + "\n");
        scratch.file("contacts", "");
        let mut command = Command::new("baresip");
        command.arg("-f").arg(scratch.path()).args(["-4", "-s", "-v"]).env("HOME", scratch.path());
        let child = Child::spawn(command, PACKAGE)?;
        let connect = async {
            while child.is_running() {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", control)).await {
                    return Some(stream);
                }
                tokio::time::sleep(TRY_EVERY).await;
            }
            None
        };
        let stream = tokio::time::timeout(START_WITHIN, connect).await.ok().flatten();
        let stream = stream.ok_or_else(|| child.missed("the control port"))?;
        let (reading, writing) = stream.into_split();
        let events = Board::default();
        let reader = tokio::spawn(read_events(reading, events.clone())).abort_handle();
        Ok(Self { child, _scratch: scratch, control: Mutex::new(writing), reader, events })
    }

    /// Waits until it has registered.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_registered(&self, within: Duration) -> Result<(), Missed> {
        // The control port may open after the 200 came, so the trace on its output counts and not the event.
        self.child.await_line("200 OK", within).await.map(drop)
    }

    /// Waits for the next event of this type and takes it: `CALL_INCOMING`, `CALL_ESTABLISHED`, `CALL_CLOSED`, …
    ///
    /// # Errors
    /// [`Missed`] when none comes `within` the time.
    pub async fn await_event(&self, kind: &str, within: Duration) -> Result<Value, Missed> {
        let found = self.events.wait(within, |events| {
            let index = events.iter().position(|event| event["type"] == kind)?;
            Some(events.remove(index))
        });
        found.await.ok_or_else(|| self.child.missed(kind))
    }

    /// Waits until it has rung for so many calls since it started. An event may come before anyone listens at the control
    /// port; this looks at what it prints.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_rung(&self, count: usize, within: Duration) -> Result<(), Missed> {
        self.child.await_lines(RINGS, count, within).await
    }

    /// For how many calls it has rung since it started.
    pub fn rung(&self) -> usize {
        self.output().matches(RINGS).count()
    }

    /// Stops it without ending it: its connections stay open and nothing answers.
    pub fn freeze(&self) {
        self.child.signal(rustix::process::Signal::STOP);
    }

    /// Lets it run on.
    pub fn thaw(&self) {
        self.child.signal(rustix::process::Signal::CONT);
    }

    /// Waits until it rings for the n-th time, and takes the call.
    ///
    /// # Errors
    /// [`Missed`] when it does not ring, or no call comes of it, `within` the time.
    pub async fn answer(&self, nth: usize, within: Duration) -> Result<(), Missed> {
        self.await_rung(nth, within).await?;
        self.accept().await?;
        self.await_event("CALL_ESTABLISHED", within).await.map(drop)
    }

    /// Takes the call that rings.
    ///
    /// # Errors
    /// [`Missed`] when the control port is gone.
    pub async fn accept(&self) -> Result<(), Missed> {
        self.command("accept", "").await
    }

    /// Ends the call, or declines the one that rings.
    ///
    /// # Errors
    /// [`Missed`] when the control port is gone.
    pub async fn hang_up(&self) -> Result<(), Missed> {
        self.command("hangup", "").await
    }

    /// Runs one of its commands.
    ///
    /// # Errors
    /// [`Missed`] when the control port is gone.
    pub async fn command(&self, command: &str, params: &str) -> Result<(), Missed> {
        let text = json!({"command": command, "params": params, "token": "t"}).to_string();
        let netstring = format!("{}:{text},", text.len());
        let written = self.control.lock().await.write_all(netstring.as_bytes()).await;
        written.map_err(|_| self.child.missed("the control port"))
    }

    /// Everything that it printed, its SIP trace among it.
    pub fn output(&self) -> String {
        self.child.output()
    }

    /// Kills it, as a phone that loses power.
    ///
    /// # Errors
    /// [`Missed`] when it does not end.
    pub async fn kill(&self) -> Result<(), Missed> {
        self.child.kill().await.map(drop)
    }
}

impl Drop for Baresip {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn configuration(ca: &Path, sip: u16, control: u16) -> String {
    // Its media stay below the ports that `ports` gives to others.
    format!(
        "poll_method epoll\nsip_listen 127.0.0.1:{sip}\nsip_cafile {}\ncall_local_timeout 120\ncall_max_calls 4\n\
         audio_player aubridge,device\naudio_source aubridge,device\naudio_alert aubridge,alert\n\
         net_interface 127.0.0.1\nrtp_ports 10000-15999\nmodule_path {MODULES}\nmodule g711.so\nmodule aubridge.so\n\
         module_tmp uuid.so\nmodule_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\n\
         ctrl_tcp_listen 127.0.0.1:{control}\n",
        ca.display()
    )
}

fn account_line(account: &Account) -> String {
    let Account { proxy, aor, username, password, regint, .. } = account;
    let answer = match account.answers {
        Answers::Automatically => "auto",
        Answers::WhenTold => "manual",
    };
    let transport = sip::message::Uri::parse(proxy).and_then(|uri| uri.transport().map(str::to_owned));
    let transport = transport.filter(|_| account.aor_names_transport).map(|it| format!(";transport={it}"));
    let transport = transport.unwrap_or_default();
    let nat = if account.outbound { ";sipnat=outbound" } else { "" };
    format!(
        "<{aor}{transport}>;auth_user={username};auth_pass={password};outbound=\"{proxy}\"{nat};\
         answermode={answer};regint={regint};audio_codecs=PCMU"
    )
}

/// Reads netstrings and keeps those that are events.
async fn read_events(mut control: OwnedReadHalf, events: Board<Vec<Value>>) {
    let mut buffer = Vec::new();
    while let Ok(length) = control.read_buf(&mut buffer).await {
        if length == 0 {
            return;
        }
        while let Some((event, used)) = netstring(&buffer) {
            buffer.drain(..used);
            if event["event"] == true {
                events.change(|events| events.push(event));
            }
        }
    }
}

/// The JSON of the first whole netstring (`12:{"a":"b"...},`), and how many bytes it took.
fn netstring(buffer: &[u8]) -> Option<(Value, usize)> {
    let colon = memchr::memchr(b':', buffer)?;
    let length: usize = std::str::from_utf8(&buffer[..colon]).ok()?.trim().parse().ok()?;
    let end = colon + 1 + length;
    let text = buffer.get(colon + 1..end)?;
    buffer.get(end)?;
    Some((serde_json::from_slice(text).unwrap_or_default(), end + 1))
}
