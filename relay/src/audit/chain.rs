//! The chain of the lines, written and checked.
//!
//! Invariant: a line that was altered, added, removed or moved breaks the chain at its place, unless all that follows was made anew as
//! well. So an operator who wants to be sure keeps the last line's `chain` somewhere else now and then.

use std::io::BufRead;

use aws_lc_rs::digest::{Context, SHA256};
use serde_json::Value;

use crate::vault::hex;

/// Before the first line of all.
pub(super) const BEGINNING: [u8; 32] = [0; 32];

/// The longest line, in bytes.
const LINE_LIMIT: usize = 4 * 1024;

/// A fault of a trail.
#[derive(thiserror::Error, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {why}")]
    Read {
        /// The file.
        file: Box<str>,
        /// The system's word.
        why: Box<str>,
    },
    /// The line is malformed.
    #[error("{file}: line {line} is no line of an audit trail")]
    Malformed {
        /// The file.
        file: Box<str>,
        /// Counted from 1.
        line: usize,
    },
    /// The line does not follow from the one before.
    #[error("{file}: line {line} does not follow from the one before: something was altered, added or removed")]
    Broken {
        /// The file.
        file: Box<str>,
        /// Counted from 1.
        line: usize,
    },
}

/// The link after `before` of a line whose bytes, but for its `chain`, are `line`.
pub(super) fn link(before: &[u8; 32], line: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(before);
    context.update(line);
    let mut link = [0; 32];
    link.copy_from_slice(context.finish().as_ref());
    link
}

/// The line of these members, chained: `{…,"chain":"…"}` and a line feed.
pub(super) fn chained(before: &mut [u8; 32], members: &Value) -> String {
    let text = members.to_string();
    *before = link(before, text.as_bytes());
    format!("{},\"chain\":\"{}\"}}\n", text.trim_end_matches('}'), hex(before))
}

/// A line, read: its members, the text that its hash is of, and its chain.
pub(super) fn read(line: &str) -> Option<(Value, String, [u8; 32])> {
    let members: Value = serde_json::from_str(line).ok()?;
    let (before, chain) = line.strip_suffix("\"}")?.rsplit_once(",\"chain\":\"")?;
    let mut link = [0; 32];
    crate::vault::unhex(chain.as_bytes(), &mut link).then_some(())?;
    Some((members, format!("{before}}}"), link))
}

/// Checks the files of one node in the order of their days, from `trust` on (the `chain` of a line that is known; else the first line
/// is taken as it is), and shows each line to `each`. The chain of the last.
///
/// # Errors
/// [`Fault`], with its place.
pub fn verify<R: BufRead>(
    files: impl IntoIterator<Item = (Box<str>, R)>,
    mut each: impl FnMut(&Value),
) -> Result<Option<[u8; 32]>, Fault> {
    let mut before: Option<[u8; 32]> = None;
    for (file, mut reader) in files {
        let (mut number, mut text) = (0, Vec::new());
        loop {
            text.clear();
            let read_bytes = std::io::Read::take(&mut reader, LINE_LIMIT as u64).read_until(b'\n', &mut text);
            match read_bytes {
                Ok(0) => break,
                Ok(_) => number += 1,
                Err(error) => return Err(Fault::Read { file, why: error.to_string().into() }),
            }
            let malformed = || Fault::Malformed { file: file.clone(), line: number };
            let line =
                std::str::from_utf8(&text).ok().and_then(|line| line.strip_suffix('\n')).ok_or_else(malformed)?;
            let (members, hashed, chain) = read(line).ok_or_else(malformed)?;
            let follows = match before {
                Some(before) => link(&before, hashed.as_bytes()) == chain,
                // The files before it were deleted when their time was over: only the very first can be checked.
                None => members["seq"] != 1 || link(&BEGINNING, hashed.as_bytes()) == chain,
            };
            if !follows {
                return Err(Fault::Broken { file, line: number });
            }
            before = Some(chain);
            each(&members);
        }
    }
    Ok(before)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trail(lines: u64) -> String {
        let mut chain = BEGINNING;
        (1..=lines).map(|seq| chained(&mut chain, &json!({"seq": seq, "what": "woken"}))).collect()
    }

    fn verdict(text: &str) -> Result<usize, Fault> {
        let mut seen = 0;
        verify([("a".into(), text.as_bytes())], |_| seen += 1).map(|_| seen)
    }

    #[test]
    fn whatever_is_altered_added_removed_or_moved_is_found_at_its_place() {
        let whole = trail(5);
        assert_eq!(verdict(&whole), Ok(5));
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let broken = |line| Err(Fault::Broken { file: "a".into(), line });
        assert_eq!(verdict(&whole.replace("\"seq\":3", "\"seq\":8")), broken(3));
        assert_eq!(verdict(&[&lines[..2], &lines[3..]].concat().concat()), broken(3));
        assert_eq!(verdict(&[&lines[..2], &lines[1..]].concat().concat()), broken(3));
        assert_eq!(verdict(&[lines[0], lines[2], lines[1]].concat()), broken(2));
        // A cut at the end is noticed by a reader that knows the last line; a line cut off at the beginning had expired.
        assert_eq!(verdict(&lines[2..].concat()), Ok(3));
        assert_eq!(verdict(&whole[..whole.len() - 2]), Err(Fault::Malformed { file: "a".into(), line: 5 }));
        assert_eq!(verdict("{}\n"), Err(Fault::Malformed { file: "a".into(), line: 1 }));
    }
}
