//! The rows of a report.

use std::fmt::{self, Display, Formatter};

use super::measure::Resident;

/// Memory, for a reader.
pub fn mib(resident: Resident) -> String {
    format!("{:.1} MiB", resident.bytes as f64 / f64::from(1 << 20))
}

/// A row: what, and how much.
pub fn row(f: &mut Formatter<'_>, what: &str, value: impl Display) -> fmt::Result {
    writeln!(f, "  {what:<28} {value}")
}
