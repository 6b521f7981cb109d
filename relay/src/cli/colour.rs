//! Colours, for a person at a terminal.
//!
//! Invariant: only a terminal gets colours, and not one whose user says so by `NO_COLOR` or has a terminal that is `dumb`.

use std::env;
use std::io::{self, IsTerminal};

/// The meaning of a line to its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// All right.
    Good,
    /// To be looked at.
    Warn,
    /// Wrong.
    Bad,
    /// Of less interest.
    Faint,
}

/// A text in a colour, where standard output shows colours.
pub(super) fn paint(colour: Option<Colour>, text: &str) -> String {
    let is_shown = io::stdout().is_terminal() && takes_colours(|name| env::var(name).ok());
    painted(colour.filter(|_| is_shown), text)
}

fn painted(colour: Option<Colour>, text: &str) -> String {
    let code = match colour {
        None => return text.to_owned(),
        Some(Colour::Good) => 32,
        Some(Colour::Warn) => 33,
        Some(Colour::Bad) => 31,
        Some(Colour::Faint) => 2,
    };
    format!("\u{1b}[{code}m{text}\u{1b}[0m")
}

/// <https://no-color.org>
fn takes_colours(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    !set("NO_COLOR") && variable("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_no_colours_gets_none() {
        assert_eq!(painted(Some(Colour::Bad), "failed"), "\u{1b}[31mfailed\u{1b}[0m");
        assert_eq!(painted(None, "failed"), "failed");
        for (name, value, shown) in
            [("NO_COLOR", "1", false), ("NO_COLOR", "", true), ("TERM", "dumb", false), ("TERM", "xterm", true)]
        {
            assert_eq!(takes_colours(|asked| (asked == name).then(|| value.to_owned())), shown, "{name}={value}");
        }
    }
}
