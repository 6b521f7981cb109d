//! Problems of a configuration, told so that a person can repair them.
//!
//! Invariant: a problem names its place, the fault and the remedy, and never repeats a secret: the text of a
//! value appears only where the setting is not one.

use std::fmt;

/// One thing that is wrong, or that should be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The setting, as `call.ring_timeout` or `app[0].apns.key_file`; with the variable's name when it came from the environment.
    pub place: String,
    /// The problem.
    pub what: String,
    /// The remedy.
    pub remedy: String,
    /// Its line in the configuration file, or that of its section; counted from 1.
    pub line: Option<usize>,
}

impl Problem {
    /// A problem at `place`.
    pub fn new(place: &str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.to_owned(), what: what.into(), remedy: remedy.into(), line: None }
    }

    /// The same, with its line.
    #[must_use]
    pub fn at_line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.what, self.remedy)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// Everything that is wrong; never empty. `Display` gives one line for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// A single problem.
    pub fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// The problems in `first`, before those of `read`, where there are any.
    pub(super) fn before<T>(mut first: Vec<Problem>, read: Result<T, Self>) -> Result<T, Self> {
        match read {
            Ok(read) => Self::some(first).map_or(Ok(read), Err),
            Err(Self(further)) => {
                first.extend(further);
                Err(Self(first))
            }
        }
    }

    /// `None` when there is nothing to report.
    pub(super) fn some(problems: Vec<Problem>) -> Option<Self> {
        (!problems.is_empty()).then_some(Self(problems))
    }

    /// The problems, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
