//! The files of a trail: one for each day, made, continued and, after their time, deleted.
//!
//! Invariant: lines are appended whole; a file is readable for its owner alone (mode 0600). Nothing but files of this form is touched. None
//! is deleted by a clock that jumped, nor, before a run has lasted [`SURE_AFTER`], by one that is ahead of the trail: a machine that
//! starts in a wrong year deletes nothing.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::chain::{self, BEGINNING};
use super::{Act, Entry, Settings, Whose};
use crate::clock::watch::{JUMP_STEADY_MS, confirmed_now};
use crate::clock::{DAY_S, rfc3339, rfc3339_ms, unix_now_ms};

/// How long a run goes by the trail before it believes a clock that is ahead of it: as long as a jump of the clock is doubted.
const SURE_AFTER: Duration = Duration::from_millis(JUMP_STEADY_MS.unsigned_abs());
/// How soon old files are looked for again that could not be told yet.
const TIDY_AGAIN: Duration = Duration::from_secs(3_600);

/// Why a trail cannot be kept.
#[derive(thiserror::Error, Debug)]
pub enum AuditError {
    /// A file, or the directory.
    #[error("{}: {why}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's word.
        why: io::Error,
    },
    /// Its last line is none.
    #[error("{}: its last line is no line of an audit trail; move the file away", .0.display())]
    NotATrail(PathBuf),
    /// No thread can be had.
    #[error("no thread can be started: {0}")]
    Thread(io::Error),
}

/// A trail that is being written.
pub(super) struct Trail {
    settings: Settings,
    seq: u64,
    chain: [u8; 32],
    day: String,
    file: File,
    /// The file of this day that somebody has taken away.
    gone: Option<PathBuf>,
    /// On which day old files were deleted last.
    tidied: String,
    /// The newest day of an earlier run.
    earlier: Option<String>,
    /// From when on a clock that is ahead of that is believed.
    sure_from: Instant,
    /// From when on old files are looked for again.
    tidy_from: Instant,
}

fn failed(path: &Path) -> impl Fn(io::Error) -> AuditError {
    |why| AuditError::File { path: path.to_owned(), why }
}

/// The files of a trail, the oldest first.
pub(super) fn days(directory: &Path) -> Result<Vec<(String, PathBuf)>, AuditError> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed(directory))? {
        let path = entry.map_err(failed(directory))?.path();
        let day = path.file_name().and_then(|name| name.to_str()?.strip_prefix("audit-")?.strip_suffix(".jsonl"));
        if let Some(day) = day.filter(|day| is_day(day)) {
            found.push((day.to_owned(), path));
        }
    }
    found.sort();
    Ok(found)
}

/// `2026-11-27`
pub fn is_day(text: &str) -> bool {
    let form = |(place, byte): (usize, u8)| if matches!(place, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    text.len() == 10 && text.bytes().enumerate().all(form)
}

fn day_of(at_ms: u64) -> String {
    rfc3339(at_ms / 1_000)[..10].to_owned()
}

impl Trail {
    pub fn open(settings: Settings) -> Result<Self, AuditError> {
        let directory = &settings.directory;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
        let (mut seq, mut chain, mut torn) = (0, BEGINNING, false);
        let mut day = day_of(unix_now_ms());
        let mut earlier = None;
        if let Some((newest, path)) = days(directory)?.pop() {
            if newest > day {
                tracing::warn!(event = "audit-of-a-day-to-come", file = %path.display(), "the newest file of the audit trail is of a day to come: all lines go on there until then; unless that is soon, stop this node and rename it to today");
            }
            earlier = Some(newest.clone());
            // A clock that was set back goes on in the file there is.
            day = day.max(newest);
            let (last, was_torn) = last_line(&path)?;
            torn = was_torn;
            if let Some(last) = last {
                let (members, _, link) = chain::read(&last).ok_or_else(|| AuditError::NotATrail(path.clone()))?;
                (seq, chain) = (members["seq"].as_u64().ok_or(AuditError::NotATrail(path))?, link);
            }
        }
        let file = open(directory, &day)?;
        let (now, tidied) = (Instant::now(), String::new());
        let (sure_from, tidy_from) = (now + SURE_AFTER, now);
        let mut trail = Self { settings, seq, chain, day, file, gone: None, tidied, earlier, sure_from, tidy_from };
        let beginning = [(torn, Act::Torn), (true, Act::Started)].into_iter().filter(|(is_so, _)| *is_so);
        let at_ms = unix_now_ms();
        let lines: Vec<_> = beginning.map(|(_, what)| Entry { at_ms, what, whose: Whose::default() }).collect();
        trail.write(&lines)?;
        Ok(trail)
    }

    /// Appends these lines; those that could not be written change nothing.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        let Some(day) = entries.first().map(|entry| day_of(entry.at_ms)) else { return Ok(()) };
        // A clock that goes back goes on in the file there is.
        if day > self.day {
            self.file = open(&self.settings.directory, &day)?;
            self.day.clone_from(&day);
            self.gone = None;
        }
        // By the clock, not by the file, which may be of a day to come.
        if day != self.tidied && self.tidy_from <= Instant::now() {
            match self.delete_old() {
                true => self.tidied = day,
                false => self.tidy_from = Instant::now() + TIDY_AGAIN,
            }
        }
        let (mut seq, mut chain, mut text) = (self.seq, self.chain, String::new());
        for entry in entries {
            seq += 1;
            text += &chain::chained(&mut chain, &self.members(seq, entry));
        }
        let path = file_of(&self.settings.directory, &self.day);
        if !self.is_in_place(&path) {
            tracing::warn!(event = "audit-file-gone", file = %path.display(), "the file of the audit trail was removed or renamed; the trail goes on in a new one, and is whole only with what is gone");
            self.file = open(&self.settings.directory, &self.day)?;
            self.gone = Some(path.clone());
        }
        let end = self.file.seek(SeekFrom::End(0)).map_err(failed(&path))?;
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            // Half a line would break the chain for good.
            let _ = self.file.set_len(end);
            return Err(failed(&path)(error));
        }
        (self.seq, self.chain) = (seq, chain);
        Ok(())
    }

    /// The file of this day that somebody has taken away while it was written.
    pub fn gone(&self) -> Option<&Path> {
        self.gone.as_deref()
    }

    /// Whether the path leads to the file that is written.
    fn is_in_place(&self, path: &Path) -> bool {
        let which = |of: Metadata| (of.dev(), of.ino());
        let (there, written) = (std::fs::metadata(path).map(which), self.file.metadata().map(which));
        matches!((there, written), (Ok(there), Ok(written)) if there == written)
    }

    fn members(&self, seq: u64, Entry { at_ms, what, whose }: &Entry) -> Value {
        let mut members = Map::new();
        let mut put = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
        put("seq", json!(seq));
        put("at", json!(rfc3339_ms(*at_ms)));
        put("what", json!(what.word()));
        match what {
            Act::Started => put("node", json!(self.settings.node)),
            Act::Lost(lines) => put("lines", json!(lines)),
            _ => {}
        }
        if let Some(instance) = whose.instance {
            put("instance", json!(instance.to_string()));
        }
        if let Some(account) = whose.account {
            put("account", json!(account.to_string()));
        }
        if let Some(app) = &whose.app {
            put("app", json!(app));
        }
        if let Some(why) = what.why() {
            put("why", json!(why));
        }
        Value::Object(members)
    }

    /// Whether what is old could be told.
    fn delete_old(&self) -> bool {
        let Ok(days) = days(&self.settings.directory) else { return false };
        let keep_s = u64::from(self.settings.keep_days) * DAY_S;
        let now = confirmed_now();
        // A day or two without a line say nothing.
        let is_ahead = |earlier: &String| *earlier < day_of(now.saturating_sub(2 * DAY_S) * 1_000);
        if Instant::now() < self.sure_from && self.earlier.as_ref().is_some_and(is_ahead) {
            return false;
        }
        let oldest = day_of(now.saturating_sub(keep_s) * 1_000);
        for (day, path) in days {
            if day < oldest
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::warn!(event = "audit-not-deleted", %error, file = %path.display(), "an old file of the audit trail cannot be deleted");
            }
        }
        true
    }
}

fn file_of(directory: &Path, day: &str) -> PathBuf {
    directory.join(format!("audit-{day}.jsonl"))
}

fn open(directory: &Path, day: &str) -> Result<File, AuditError> {
    let path = file_of(directory, day);
    let mut options = OpenOptions::new();
    options.append(true).read(true).create(true).mode(0o600);
    options.open(&path).map_err(failed(&path))
}

/// The last whole line, and whether something followed it, which is cut off.
fn last_line(path: &Path) -> Result<(Option<String>, bool), AuditError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed(path))?;
    let (mut whole, mut last, mut line) = (0, None, Vec::new());
    let mut reader = BufReader::new(&file);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(failed(path))?;
        match line.strip_suffix(b"\n") {
            Some(text) => {
                whole += read as u64;
                last = Some(String::from_utf8_lossy(text).into_owned());
            }
            None if read == 0 => return Ok((last, false)),
            None => {
                file.set_len(whole).map_err(failed(path))?;
                return Ok((last, true));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::verify_directory;
    use super::*;
    use crate::random;
    use crate::vault::hex;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            Self(std::env::temp_dir().join(format!("sipwake-audit-{}", hex(&random::bytes::<8>()))))
        }

        fn open(&self) -> Trail {
            let settings = Settings { directory: self.0.clone(), keep_days: 30, node: "relay".into() };
            Trail::open(settings).expect("opened")
        }

        fn acts(&self) -> Vec<String> {
            let mut acts = Vec::new();
            verify_directory(&self.0, |line| acts.push(line["what"].as_str().unwrap_or_default().to_owned()))
                .expect("whole");
            acts
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entry(act: Act, at_ms: u64) -> Entry {
        Entry { at_ms, what: act, whose: Whose::default() }
    }

    #[test]
    fn a_run_goes_on_where_the_last_one_ended_and_cuts_off_what_was_torn() {
        let place = Folder::new();
        place.open().write(&[entry(Act::Enabled, unix_now_ms()), entry(Act::Woken, unix_now_ms())]).expect("written");
        place.open();
        assert_eq!(place.acts(), ["started", "enabled", "woken", "started"]);
        let (_, path) = days(&place.0).expect("files").pop().expect("one");
        let whole = std::fs::read(&path).expect("read");
        for torn in [1, 20, 90] {
            std::fs::write(&path, &whole[..whole.len() - torn]).expect("written");
            place.open();
            assert_eq!(place.acts(), ["started", "enabled", "woken", "torn", "started"], "{torn}");
        }
        std::fs::write(&path, "something else\n").expect("written");
        let settings = Settings { directory: place.0.clone(), keep_days: 30, node: "relay".into() };
        assert!(matches!(Trail::open(settings), Err(AuditError::NotATrail(_))));
    }

    #[test]
    fn a_trail_is_its_owners_alone_and_goes_over_the_end_of_a_day() {
        use std::os::unix::fs::PermissionsExt;
        let place = Folder::new();
        let mut trail = place.open();
        let tomorrow = unix_now_ms() + DAY_S * 1_000;
        trail.write(&[entry(Act::Woken, tomorrow)]).expect("written");
        // The clock goes back: the file there is goes on.
        trail.write(&[entry(Act::Renewed, unix_now_ms())]).expect("written");
        assert_eq!(place.acts(), ["started", "woken", "renewed"]);
        drop(trail);
        // So it does for the next run.
        place.open().write(&[entry(Act::Enabled, unix_now_ms())]).expect("written");
        assert_eq!(place.acts(), ["started", "woken", "renewed", "started", "enabled"]);
        let files = days(&place.0).expect("files");
        assert_eq!(files.len(), 2);
        for (_, path) in files {
            assert_eq!(std::fs::metadata(path).expect("there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_trail_goes_on_in_a_new_file_when_its_file_is_taken_away_and_says_so_for_that_day() {
        let place = Folder::new();
        let mut trail = place.open();
        let (_, path) = days(&place.0).expect("files").pop().expect("one");
        let kept = place.0.join("rotated");
        for (step, take) in [("renamed", true), ("removed", false)] {
            match take {
                true => std::fs::rename(&path, &kept).expect("renamed"),
                false => std::fs::remove_file(&path).expect("removed"),
            }
            trail.write(&[entry(Act::Woken, unix_now_ms())]).expect("written");
            assert_eq!(std::fs::read_to_string(&path).expect("there").lines().count(), 1, "{step}");
            assert_eq!(trail.gone(), Some(&*path), "{step}");
        }
        assert_eq!(std::fs::read_to_string(&kept).expect("there").lines().count(), 1, "what was renamed is left alone");
        trail.write(&[entry(Act::Woken, unix_now_ms() + DAY_S * 1_000)]).expect("written");
        assert_eq!(trail.gone(), None, "the next day is whole");
    }

    #[test]
    fn an_old_day_of_the_trail_is_deleted_in_its_time() {
        let place = Folder::new();
        let mut trail = place.open();
        let day = |days_ago: u64| day_of(unix_now_ms() - days_ago * DAY_S * 1_000);
        for days_ago in [29, 30, 31, 400] {
            std::fs::write(file_of(&place.0, &day(days_ago)), "").expect("written");
        }
        std::fs::write(place.0.join("audit-notes.txt"), "").expect("written");
        trail.write(&[entry(Act::Woken, unix_now_ms() + DAY_S * 1_000)]).expect("written");
        let left: Vec<String> = days(&place.0).expect("files").into_iter().map(|(day, _)| day).collect();
        assert_eq!(left[..2], [day(30), day(29)]);
        assert!(place.0.join("audit-notes.txt").exists(), "what is not ours stays");
    }

    #[test]
    fn a_machine_that_starts_in_a_wrong_year_deletes_nothing_until_its_clock_has_stayed_so() {
        let place = Folder::new();
        let left = || days(&place.0).expect("files").len();
        let day = |days_ago: u64| day_of(unix_now_ms() - days_ago * DAY_S * 1_000);
        std::fs::create_dir_all(&place.0).expect("made");
        for days_ago in [365, 366, 367] {
            std::fs::write(file_of(&place.0, &day(days_ago)), "").expect("written");
        }
        let mut trail = place.open();
        trail.write(&[entry(Act::Woken, unix_now_ms())]).expect("written");
        assert_eq!(left(), 4, "by the trail the last of them are two days old");
        trail.sure_from = Instant::now();
        trail.write(&[entry(Act::Woken, unix_now_ms())]).expect("written");
        assert_eq!(left(), 4, "it looks once an hour");
        trail.tidy_from = Instant::now();
        trail.write(&[entry(Act::Woken, unix_now_ms())]).expect("written");
        assert_eq!(left(), 1);
    }

    #[test]
    fn a_file_of_a_day_to_come_keeps_no_old_one_from_being_deleted() {
        let place = Folder::new();
        let far = "2999-01-01";
        let left = || days(&place.0).expect("files").into_iter().map(|(day, _)| day).collect::<Vec<String>>();
        let old = || {
            let path = file_of(&place.0, &day_of(unix_now_ms() - 31 * DAY_S * 1_000));
            std::fs::write(path, "").expect("written");
        };
        std::fs::create_dir_all(&place.0).expect("made");
        std::fs::write(file_of(&place.0, far), "").expect("written");
        old();
        let mut trail = place.open();
        assert_eq!(left(), [far]);
        old();
        trail.write(&[entry(Act::Woken, unix_now_ms() + DAY_S * 1_000)]).expect("written");
        assert_eq!(left(), [far], "each day");
        assert_eq!(place.acts(), ["started", "woken"]);
    }
}
