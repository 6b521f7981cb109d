//! The question before an action that cannot be undone.
//!
//! Invariant: without a person at a terminal who says yes, and without `--yes`, the answer is no.

use std::io::{self, BufRead, IsTerminal};

use super::CommandError;
use crate::log::say;

/// Whether it may be done: `--yes` was given, or a person says so.
///
/// # Errors
/// [`CommandError::NotConfirmed`] when nobody said yes.
pub(super) fn confirm(what: &str, yes: bool) -> Result<(), CommandError> {
    if yes {
        return Ok(());
    }
    if !is_attended() {
        return Err(CommandError::NotConfirmed(what.to_owned()));
    }
    say(&format!("{what} Type yes to go on: "));
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.trim().eq_ignore_ascii_case("yes") { Ok(()) } else { Err(CommandError::NotConfirmed(what.to_owned())) }
}

/// Whether there is a person who can be asked.
pub(super) fn is_attended() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}
