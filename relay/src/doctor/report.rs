//! The findings of an examination, in words.
//!
//! Invariant: no finding holds a password, a digest or a user's name. Text from a SIP server or a name server reaches a terminal
//! without terminal commands.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::domain::{Word as _, words};

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The step works; something is to be known.
    Note,
    /// Calls would not come.
    Bad,
}

words!(
    /// A step of the path that a call takes.
    DoctorStep {
        /// The server that the account's requests go to.
        Account = "account",
        /// The addresses of its SIP server.
        Dns = "dns",
        /// A connection to one.
        Connection = "connection",
        /// The SIP server's answer to OPTIONS.
        Options = "options",
        /// A registration that is tried and taken back.
        Register = "register",
    }
);

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The step of the path.
    #[serde(serialize_with = "word")]
    pub step: DoctorStep,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// The finding.
    pub what: String,
    /// The remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// All findings, in the order of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The findings.
    pub findings: Vec<Finding>,
    /// Whether the SIP server took the credentials, if it was asked.
    pub proof: Option<bool>,
}

impl Report {
    pub(super) fn good(&mut self, step: DoctorStep, what: impl Into<String>) {
        self.findings.push(Finding { step, verdict: Verdict::Good, what: what.into(), remedy: None });
    }

    pub(super) fn note(&mut self, step: DoctorStep, what: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into()).filter(|remedy: &String| !remedy.is_empty());
        self.findings.push(Finding { step, verdict: Verdict::Note, what: what.into(), remedy });
    }

    pub(super) fn bad(&mut self, step: DoctorStep, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { step, verdict: Verdict::Bad, what: what.into(), remedy: Some(remedy.into()) });
    }

    /// The report as the API and `sipwake doctor --json` tell it.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"healthy": self.is_healthy(), "findings": self.findings})
    }

    /// Whether a call would come, as far as was looked.
    pub fn is_healthy(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Bad)
    }
}

fn word<S: Serializer>(step: &DoctorStep, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(step.word())
}

impl fmt::Display for Report {
    /// One line for each finding, and one below it for what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { step, verdict, what, remedy } in &self.findings {
            let mark = match verdict {
                Verdict::Good => "good",
                Verdict::Note => "note",
                Verdict::Bad => "BAD",
            };
            writeln!(f, "{mark:<5}{:<11} {}", step.word(), printable(what))?;
            if let Some(remedy) = remedy {
                writeln!(f, "                 -> {}", printable(remedy))?;
            }
        }
        Ok(())
    }
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !is_obeyed(*c)).collect()
}

/// Whether a terminal takes a character for a command, or turns what follows it around (Unicode, Bidi_Control) or to another line.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sip_server_writes_is_no_command_for_a_terminal() {
        let mut report = Report::default();
        let said = "Server: a\x1b]52;c;Zm9v\x07b\r\x1b[2Kgo\u{202e}\u{2066}od\u{2028} \u{9b}2J";
        report.note(DoctorStep::Options, said, "say\x1b[8m");
        let text = report.to_string();
        assert_eq!(text, "note options     Server: a]52;c;Zm9vb[2Kgood 2J\n                 -> say[8m\n");
    }
}
