//! A password that never stands among a command's arguments: from a file, or from the standard input.
//!
//! Invariant: a password is wiped when it is dropped; a terminal does not show it while it is typed.

use std::io::{self, BufRead, IsTerminal};
use std::path::Path;
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::{CommandError, secret_file};
use crate::log::say;
use crate::secret::Password;

/// Reads the password: the first line of `file`, or of the standard input, which is asked when it is a terminal.
pub(super) fn read(file: Option<&Path>) -> Result<Password, CommandError> {
    let text = match file {
        Some(file) => secret_file::read(file)?,
        None => from_input()?,
    };
    match text.lines().next().unwrap_or_default() {
        "" => Err(CommandError::NoPassword),
        line => Ok(Password::new(line)),
    }
}

fn from_input() -> io::Result<Zeroizing<String>> {
    let input = io::stdin();
    let asked = input.is_terminal();
    if asked {
        say("Password of the SIP account: ");
        echo(false);
    }
    let mut line = Zeroizing::new(String::with_capacity(512));
    let read = input.lock().read_line(&mut line);
    if asked {
        echo(true);
        say("\n");
    }
    read.map(|_| line)
}

/// A terminal that cannot be told shows what is typed, as it always did.
fn echo(on: bool) {
    let _ = Command::new("stty").arg(if on { "echo" } else { "-echo" }).stdin(Stdio::inherit()).status();
}
