//! The chain of the lines, written and checked.
//!
//! Invariant: a line that was altered, added, removed or moved breaks the chain at its place, unless all that follows was made anew as
//! well. So an operator who wants to be sure keeps the last line's `chain` somewhere else now and then.

use std::io::{self, BufRead};

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
    /// There is no line of a trail.
    #[error("{directory}: there is no line of an audit trail in it (audit-2026-11-27.jsonl, for one)")]
    Empty {
        /// The directory.
        directory: Box<str>,
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

/// Walks through the files of one node in the order of their days, and shows each line that can be read to `each`, and each fault, with its place, to
/// `fault`. What follows a fault is checked from there on. The first line of all is taken as it is, for the files before it were deleted when their
/// time was over. The chain of the last line.
pub fn walk<R: BufRead>(
    files: impl IntoIterator<Item = (Box<str>, io::Result<R>)>,
    mut each: impl FnMut(&Value),
    mut fault: impl FnMut(Fault),
) -> Option<[u8; 32]> {
    let (mut before, mut last): (Option<[u8; 32]>, _) = (None, None);
    for (file, opened) in files {
        let unreadable = |why: io::Error| Fault::Read { file: file.clone(), why: why.to_string().into() };
        let mut reader = match opened {
            Ok(reader) => reader,
            Err(error) => {
                fault(unreadable(error));
                before = None;
                continue;
            }
        };
        let (mut number, mut text) = (0, Vec::new());
        loop {
            text.clear();
            match read_line(&mut reader, &mut text) {
                Ok(0) => break,
                Ok(_) => number += 1,
                Err(error) => {
                    fault(unreadable(error));
                    before = None;
                    break;
                }
            }
            let line = std::str::from_utf8(&text).ok().and_then(|line| line.strip_suffix('\n'));
            let Some((members, hashed, chain)) = line.and_then(read) else {
                fault(Fault::Malformed { file: file.clone(), line: number });
                before = None;
                continue;
            };
            let follows = match before {
                Some(before) => link(&before, hashed.as_bytes()) == chain,
                None => members["seq"] != 1 || link(&BEGINNING, hashed.as_bytes()) == chain,
            };
            if !follows {
                fault(Fault::Broken { file: file.clone(), line: number });
            }
            (before, last) = (Some(chain), Some(chain));
            each(&members);
        }
    }
    last
}

/// Reads a line into `text`, at most [`LINE_LIMIT`] bytes of it; the rest of a longer one is skipped.
fn read_line(reader: &mut impl BufRead, text: &mut Vec<u8>) -> io::Result<usize> {
    let read = io::Read::take(&mut *reader, LINE_LIMIT as u64).read_until(b'\n', text)?;
    if read == LINE_LIMIT && !text.ends_with(b"\n") {
        reader.skip_until(b'\n')?;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn trail(lines: u64) -> String {
        let mut chain = BEGINNING;
        (1..=lines).map(|seq| chained(&mut chain, &json!({"seq": seq, "what": "woken"}))).collect()
    }

    /// How many lines are read, and the faults.
    fn walked(text: &str) -> (usize, Vec<Fault>) {
        let (mut seen, mut faults) = (0, Vec::new());
        walk([("a".into(), Ok(text.as_bytes()))], |_| seen += 1, |fault| faults.push(fault));
        (seen, faults)
    }

    /// How many lines are read, or the first fault.
    fn verdict(text: &str) -> Result<usize, Fault> {
        let (seen, faults) = walked(text);
        faults.into_iter().next().map_or(Ok(seen), Err)
    }

    #[test]
    fn what_follows_a_fault_is_read_and_checked() {
        let whole = trail(6);
        let lines: Vec<&str> = whole.split_inclusive('\n').collect();
        let broken = |line| Fault::Broken { file: "a".into(), line };
        let malformed = |line| Fault::Malformed { file: "a".into(), line };
        let without = |gone: usize| [&lines[..gone], &lines[gone + 1..]].concat().concat();
        assert_eq!(walked(&without(2)), (5, vec![broken(3)]));
        let twice = without(2).replace(lines[4], "");
        assert_eq!(walked(&twice), (4, vec![broken(3), broken(4)]));
        let long = format!("{}\n", "x".repeat(3 * LINE_LIMIT));
        assert_eq!(walked(&whole.replace(lines[2], &long)), (5, vec![malformed(3)]));
        let second = whole.as_bytes();
        let gone: io::Result<&[u8]> = Err(io::ErrorKind::PermissionDenied.into());
        let (mut seen, mut faults) = (0, 0);
        walk([("a".into(), gone), ("b".into(), Ok(second))], |_| seen += 1, |_| faults += 1);
        assert_eq!((seen, faults), (6, 1));
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
