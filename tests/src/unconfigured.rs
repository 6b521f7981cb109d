//! `sipwake serve` as a newcomer starts it: without a configuration.
//!
//! Invariant: it listens on free ports, and its state folder is a directory of its own; it ends with its handle.

use std::process::Command;

use crate::board::Missed;
use crate::child::Child;
use crate::ports;
use crate::relay_process::binary;
use crate::scratch::Scratch;
use crate::world::SOON;

/// A relay without a configuration that runs, or ran.
pub struct Unconfigured {
    /// The process.
    pub child: Child,
    /// Its state folder.
    pub state: Scratch,
    /// Where its SIP server is: `127.0.0.1:5060`.
    pub sip_server: String,
    ports: [u16; 6],
}

impl Unconfigured {
    /// Starts it with its SIP server, and waits until it has said everything.
    ///
    /// # Errors
    /// [`Missed`] when it does not.
    pub async fn start() -> Result<Self, Missed> {
        Self::start_with(&[]).await
    }

    /// The same with further settings in its environment.
    ///
    /// # Errors
    /// [`Missed`] when it does not start.
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Self, Missed> {
        Self::start_at(Scratch::new(), std::array::from_fn(|_| ports::free()), settings).await
    }

    /// Ends it, and starts it again with the same folder.
    ///
    /// # Errors
    /// [`Missed`] when it does not end or start.
    pub async fn restart(self) -> Result<Self, Missed> {
        let Self { child, state, ports, .. } = self;
        child.signal(rustix::process::Signal::TERM);
        child.exit(SOON).await?;
        Self::start_at(state, ports, &[]).await
    }

    async fn start_at(state: Scratch, ports: [u16; 6], further: &[(&str, &str)]) -> Result<Self, Missed> {
        let mut command = Command::new(binary()?);
        let [sip_server, listeners @ ..] = ports.map(|port| format!("127.0.0.1:{port}"));
        command.args(["serve", "--with-registrar", &sip_server, "--state"]).arg(state.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIPWAKE_")) {
            command.env_remove(name);
        }
        let settings =
            ["EDGE__LISTEN", "API__LISTEN", "OPERATOR__LISTEN", "UPSTREAM__UDP_LISTEN", "UPSTREAM__TLS_LISTEN"];
        for (setting, address) in settings.iter().zip(&listeners) {
            command.env(format!("SIPWAKE_{setting}"), address);
        }
        for (setting, value) in further {
            command.env(format!("SIPWAKE_{setting}"), value);
        }
        // The SIP server's port is taken for TCP; what is too large for a datagram comes to where the datagrams go.
        command.env("SIPWAKE_UPSTREAM__TCP_LISTEN", &listeners[3]);
        let child = Child::spawn(command, "(built by cargo)")?;
        // One is the last line of the standard error, the other that of the standard output.
        child.await_line("Authorization: Bearer", SOON).await?;
        child.await_line("END CERTIFICATE", SOON).await?;
        Ok(Self { child, state, sip_server, ports })
    }

    /// The line that it says to paste whose command has these words.
    ///
    /// # Panics
    /// When it says none.
    pub fn line(&self, words: &str) -> String {
        let output = self.child.output();
        let line = output.lines().find(|line| line.contains(words) && line.starts_with('/'));
        line.unwrap_or_else(|| panic!("no line to paste with {words:?}: {output}")).to_owned()
    }

    /// A line pasted into a terminal.
    ///
    /// # Errors
    /// [`Missed`] when it cannot be started.
    pub fn paste(&self, line: &str) -> Result<Child, Missed> {
        let mut shell = Command::new("sh");
        // As an interactive shell does, `exec` hands the signals of the terminal to the program.
        shell.args(["-c", &format!("exec {line}")]).env_remove("XDG_STATE_HOME");
        Child::spawn_listening(shell, "dash")
    }
}
