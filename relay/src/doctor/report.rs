//! The findings of an examination, in words.
//!
//! Invariant: no finding holds a password, a digest or a user's name.

use std::fmt;

use serde::Serialize;

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works; something is to be known.
    Note,
    /// Calls would not come.
    Bad,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The step of the path: `account`, `dns`, `connection`, `options`, `register`.
    pub step: &'static str,
    /// How it is to be taken.
    pub verdict: Verdict,
    /// The finding.
    pub what: String,
    /// What to do about it.
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
    pub(super) fn good(&mut self, step: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { step, verdict: Verdict::Good, what: what.into(), remedy: None });
    }

    pub(super) fn note(&mut self, step: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let remedy = Some(remedy.into()).filter(|remedy: &String| !remedy.is_empty());
        self.findings.push(Finding { step, verdict: Verdict::Note, what: what.into(), remedy });
    }

    pub(super) fn bad(&mut self, step: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
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

impl fmt::Display for Report {
    /// One line for each finding, and one below it for what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { step, verdict, what, remedy } in &self.findings {
            let mark = match verdict {
                Verdict::Good => "good",
                Verdict::Note => "note",
                Verdict::Bad => "BAD",
            };
            writeln!(f, "{mark:<5}{step:<11} {what}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "                 -> {remedy}")?;
            }
        }
        Ok(())
    }
}
