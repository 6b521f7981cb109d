//! The files of a trail: one for each day, made, continued and, after their time, deleted.
//!
//! Invariant: lines are appended whole, and are on the disk when they count as written; a file is made with its first line, and readable for its
//! owner alone (mode 0600). A clock that is doubted begins no file of a day to come. Nothing but files of this form is touched. None is deleted that has a line
//! as young as is kept, nor one by a clock that jumped, nor, before a run has lasted [`SURE_AFTER`], by one that is ahead of the trail: a machine that starts
//! in a wrong year deletes nothing.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use serde_json::{Map, Value, json};

use super::chain::{self, BEGINNING};
use super::{Act, AuditSubject, Entry, Settings};
use crate::clock::watch::{JUMP_STEADY_MS, confirmed_now};
use crate::clock::{DAY_S, Reading, rfc3339, rfc3339_ms, shared_now_ms};
use crate::file_owner;

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
        /// The file.
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
    /// `None`: it is opened, or made, with the next line.
    file: Option<File>,
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

/// `2026-11-27`: a day that there is, in that form.
pub fn is_day(text: &str) -> bool {
    let form = |(place, byte): (usize, u8)| if matches!(place, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() };
    if text.len() != 10 || !text.bytes().enumerate().all(form) {
        return false;
    }
    let number = |range: std::ops::Range<usize>| text[range].parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    (1..=days).contains(&day)
}

fn day_of(at_ms: u64) -> String {
    rfc3339(at_ms / 1_000)[..10].to_owned()
}

/// The day in whose file a line of this moment stands: not a day to come by a clock that is doubted, for the trail would go on there for good.
fn file_day_of(at_ms: u64) -> String {
    let now = Reading::now();
    day_of(if now.is_steady { at_ms } else { at_ms.min(now.confirmed * 1_000) })
}

impl Trail {
    pub fn open(settings: Settings) -> Result<Self, AuditError> {
        let directory = &settings.directory;
        file_owner::make_folder(directory).map_err(failed(directory))?;
        let (mut seq, mut chain, mut torn) = (0, BEGINNING, false);
        let mut day = file_day_of(shared_now_ms());
        let mut earlier = None;
        let mut days = days(directory)?;
        if let Some((newest, path)) = days.last() {
            if *newest > day {
                tracing::warn!(event = "audit-of-a-day-to-come", file = %path.display(), "the newest file of the audit trail is of a day to come: all lines go on there until then; unless that is soon, stop this node and rename it to today");
            }
            earlier = Some(newest.clone());
            // A clock that was set back goes on in the file there is.
            day = day.max(newest.clone());
        }
        // A disk that was full, or a power cut, has left files without a whole line: the trail goes on from before them.
        while let Some((_, path)) = days.pop() {
            let (last, was_torn) = last_line(&path)?;
            torn |= was_torn;
            if let Some(last) = last {
                let (members, _, link) = chain::read(&last).ok_or_else(|| AuditError::NotATrail(path.clone()))?;
                (seq, chain) = (members["seq"].as_u64().ok_or(AuditError::NotATrail(path))?, link);
                break;
            }
        }
        let (now, tidied, file) = (Instant::now(), String::new(), None);
        let (sure_from, tidy_from) = (now + SURE_AFTER, now);
        let mut trail = Self { settings, seq, chain, day, file, gone: None, tidied, earlier, sure_from, tidy_from };
        let beginning = [(torn, Act::Torn), (true, Act::Started)].into_iter().filter(|(is_so, _)| *is_so);
        let at_ms = shared_now_ms();
        let lines: Vec<_> = beginning.map(|(_, what)| Entry { at_ms, what, whose: AuditSubject::default() }).collect();
        trail.write(&lines)?;
        Ok(trail)
    }

    /// Appends these lines; those that could not be written change nothing.
    pub fn write(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        let Some(at_ms) = entries.first().map(|entry| entry.at_ms) else { return Ok(()) };
        let day = file_day_of(at_ms);
        // A clock that goes back goes on in the file there is.
        if day > self.day {
            self.file = None;
            self.day.clone_from(&day);
            self.gone = None;
        }
        self.tidy_on(day_of(at_ms));
        let (mut seq, mut chain, mut text) = (self.seq, self.chain, String::new());
        for entry in entries {
            seq += 1;
            text += &chain::chained(&mut chain, &self.members(seq, entry));
        }
        self.append(&text)?;
        (self.seq, self.chain) = (seq, chain);
        Ok(())
    }

    /// Deletes what is old, once a day, also while nothing is written.
    pub fn tidy(&mut self) {
        self.tidy_on(day_of(shared_now_ms()));
    }

    /// Likewise; `day`: by the clock, not by the file, which may be of a day to come.
    fn tidy_on(&mut self, day: String) {
        if day != self.tidied && self.tidy_from <= Instant::now() {
            if self.delete_old() { self.tidied = day } else { self.tidy_from = Instant::now() + TIDY_AGAIN }
        }
    }

    /// Has the text on the disk, or nothing of it.
    fn append(&mut self, text: &str) -> Result<(), AuditError> {
        let path = file_of(&self.settings.directory, &self.day);
        let mut file = match self.file.take() {
            Some(file) if is_in_place(&file, &path) => file,
            earlier => match open(&path) {
                Ok(file) => {
                    if earlier.is_some() {
                        tracing::warn!(event = "audit-file-gone", file = %path.display(), "the file of the audit trail was removed or renamed; the trail goes on in a new one, and is whole only with what is gone");
                        self.gone = Some(path.clone());
                    }
                    file
                }
                Err(error) => {
                    self.file = earlier;
                    return Err(failed(&path)(error));
                }
            },
        };
        let end = file.seek(SeekFrom::End(0)).map_err(failed(&path))?;
        if let Err(error) = file.write_all(text.as_bytes()).and_then(|()| file.sync_data()) {
            // Half a line would break the chain for good, and a file without one is a day without a beginning.
            let _ = file.set_len(end);
            match end {
                0 => drop(std::fs::remove_file(&path)),
                _ => self.file = Some(file),
            }
            return Err(failed(&path)(error));
        }
        if end == 0 {
            // Else a power cut may leave the lines without the file's name.
            let _ = File::open(&self.settings.directory).and_then(|directory| directory.sync_all());
        }
        self.file = Some(file);
        Ok(())
    }

    /// The file of this day that somebody has taken away while it was written.
    pub fn gone(&self) -> Option<&Path> {
        self.gone.as_deref()
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
        let (oldest, today) = (day_of(now.saturating_sub(keep_s) * 1_000), day_of(now * 1_000));
        // A clock that was doubted has left lines of later days in a file; one of a day to come says nothing. What follows it is kept with it.
        // A file that cannot be read now is kept.
        let is_old = |path: &Path| last_day(path).is_ok_and(|day| day.is_none_or(|last| last < oldest || last > today));
        for (_, path) in days.into_iter().take_while(|(day, path)| *day < oldest && is_old(path)) {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(event = "audit-not-deleted", %error, file = %path.display(), "an old file of the audit trail cannot be deleted");
            }
        }
        true
    }
}

fn file_of(directory: &Path, day: &str) -> PathBuf {
    directory.join(format!("audit-{day}.jsonl"))
}

/// Whether the path leads to this file.
fn is_in_place(file: &File, path: &Path) -> bool {
    let which = |of: Metadata| (of.dev(), of.ino());
    let (there, written) = (std::fs::metadata(path).map(which), file.metadata().map(which));
    matches!((there, written), (Ok(there), Ok(written)) if there == written)
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)?;
    file_owner::give_if_it_can(path);
    Ok(file)
}

/// Whether a trail could be opened in this directory, as far as a look tells that changes nothing.
///
/// # Errors
/// As of opening it.
pub fn look(directory: &Path) -> Result<(), AuditError> {
    let there = directory.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
    let there = there.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let wanted = Access::WRITE_OK | Access::EXEC_OK;
    access(there, wanted).map_err(|error| failed(there)(error.into()))?;
    if !there.is_dir() {
        return Err(failed(there)(io::ErrorKind::NotADirectory.into()));
    }
    if !directory.exists() {
        return Ok(());
    }
    if let Some((_, path)) = days(directory)?.pop() {
        OpenOptions::new().read(true).append(true).open(&path).map_err(failed(&path))?;
    }
    Ok(())
}

/// The last whole line, and whether something followed it, which is cut off.
fn last_line(path: &Path) -> Result<(Option<String>, bool), AuditError> {
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed(path))?;
    let (last, torn_at) = last_line_of(&file).map_err(failed(path))?;
    if let Some(whole) = torn_at {
        file.set_len(whole).map_err(failed(path))?;
    }
    Ok((last, torn_at.is_some()))
}

/// The last whole line, and where the torn one begins that follows it.
fn last_line_of(file: &File) -> io::Result<(Option<String>, Option<u64>)> {
    let (mut whole, mut last, mut line) = (0, None, Vec::new());
    let mut reader = BufReader::new(file);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        match line.strip_suffix(b"\n") {
            Some(text) => {
                whole += read as u64;
                last = Some(String::from_utf8_lossy(text).into_owned());
            }
            None => return Ok((last, (read > 0).then_some(whole))),
        }
    }
}

/// The day of the last line; `None`: no whole line says one.
fn last_day(path: &Path) -> io::Result<Option<String>> {
    let (last, _) = last_line_of(&File::open(path)?)?;
    let day_of_line = |last: String| Some(chain::read(&last)?.0["at"].as_str()?.get(..10)?.to_owned());
    Ok(last.and_then(day_of_line))
}

#[cfg(test)]
mod tests {
    use super::super::report::verify_directory;
    use super::*;
    use crate::clock::unix_now_ms;
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

    #[test]
    fn a_day_is_one_of_the_calendar() {
        for day in ["2026-11-30", "2028-02-29", "2000-02-29", "2026-12-31"] {
            assert!(is_day(day), "{day}");
        }
        for none in
            ["2026-13-45", "2026-11-31", "2026-02-29", "2100-02-29", "2026-00-10", "2026-01-00", "today", "2026-1-1"]
        {
            assert!(!is_day(none), "{none}");
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn entry(act: Act, at_ms: u64) -> Entry {
        Entry { at_ms, what: act, whose: AuditSubject::default() }
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
    fn a_day_that_began_without_a_whole_line_goes_on_from_the_day_before() {
        for left in ["", "{\"seq\":7,\"at\":\"20"] {
            let place = Folder::new();
            let mut trail = place.open();
            trail.write(&[entry(Act::Woken, unix_now_ms())]).expect("written");
            drop(trail);
            let tomorrow = file_of(&place.0, &day_of(unix_now_ms() + DAY_S * 1_000));
            let day_after = file_of(&place.0, &day_of(unix_now_ms() + 2 * DAY_S * 1_000));
            std::fs::write(&tomorrow, left).expect("written");
            std::fs::write(&day_after, "").expect("written");
            let mut trail = place.open();
            trail.write(&[entry(Act::Renewed, unix_now_ms())]).expect("written");
            let mut acts = vec!["started", "woken", "torn", "started", "renewed"];
            acts.retain(|act| !left.is_empty() || *act != "torn");
            assert_eq!(place.acts(), acts, "{left:?}");
        }
    }

    #[test]
    fn a_look_tells_whether_a_trail_can_be_kept_and_makes_nothing() {
        let place = Folder::new();
        look(&place.0.join("below")).expect("it can be made");
        assert!(!place.0.exists());
        drop(place.open());
        look(&place.0).expect("it goes on");
        assert_eq!(place.acts(), ["started"], "and is as it was");
        let (_, path) = days(&place.0).expect("files").pop().expect("one");
        look(&path).expect_err("it is a file");
        look(&path.join("below")).expect_err("it is below one");
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        look(&place.0).expect_err("a folder is in the place of the newest file");
        std::fs::remove_dir(&path).expect("removed");
    }

    #[test]
    fn what_root_makes_of_a_trail_is_the_relays() {
        use std::os::unix::fs::chown;

        let place = Folder::new();
        std::fs::create_dir_all(&place.0).expect("made");
        if std::fs::metadata(&place.0).expect("there").uid() != 0 {
            return;
        }
        chown(&place.0, Some(12_345), Some(12_346)).expect("root");
        drop(place.open());
        let (_, path) = days(&place.0).expect("files").pop().expect("one");
        let is = std::fs::metadata(path).expect("there");
        assert_eq!((is.uid(), is.gid()), (12_345, 12_346));
    }

    #[test]
    fn a_day_has_no_file_before_its_first_line_is_written() {
        let place = Folder::new();
        let mut trail = place.open();
        let (tomorrow, full) = (unix_now_ms() + DAY_S * 1_000, PathBuf::from("/dev/full"));
        if !full.exists() {
            return;
        }
        let path = file_of(&place.0, &day_of(tomorrow));
        std::os::unix::fs::symlink(&full, &path).expect("linked");
        trail.write(&[entry(Act::Woken, tomorrow)]).expect_err("there is no room");
        assert!(std::fs::symlink_metadata(&path).is_err(), "what holds nothing is not left");
        trail.write(&[entry(Act::Renewed, tomorrow)]).expect("there is room");
        assert_eq!(place.acts(), ["started", "renewed"]);
    }

    #[test]
    fn a_trail_goes_on_in_a_new_file_when_its_file_is_taken_away_and_says_so_for_that_day() {
        let place = Folder::new();
        let mut trail = place.open();
        let (_, path) = days(&place.0).expect("files").pop().expect("one");
        let kept = place.0.join("rotated");
        for (step, take) in [("renamed", true), ("removed", false)] {
            if take {
                std::fs::rename(&path, &kept).expect("renamed");
            } else {
                std::fs::remove_file(&path).expect("removed");
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
    fn a_file_of_an_old_day_is_kept_for_as_long_as_its_last_line() {
        let place = Folder::new();
        let now_ms = unix_now_ms();
        let file = |days_ago: u64| file_of(&place.0, &day_of(now_ms - days_ago * DAY_S * 1_000));
        let open_and_tidy = || {
            let mut trail = place.open();
            (trail.sure_from, trail.tidy_from) = (Instant::now(), Instant::now());
            trail.write(&[entry(Act::Woken, now_ms)]).expect("written");
        };
        drop(place.open());
        // A machine that was off for long has written into the file of its last day until its clock was trusted.
        std::fs::rename(file(0), file(40)).expect("renamed");
        for days_ago in [39, 41] {
            std::fs::write(file(days_ago), "").expect("written");
        }
        open_and_tidy();
        assert!(file(40).exists(), "its line is of today");
        assert!(file(39).exists(), "no trail without its middle");
        assert!(!file(41).exists());
        assert_eq!(place.acts(), ["started", "started", "woken"]);
        std::fs::remove_file(file(39)).expect("there");
        for at_ms in [now_ms - 40 * DAY_S * 1_000, now_ms + 400 * DAY_S * 1_000] {
            let line = chain::chained(&mut { BEGINNING }, &json!({"seq": 1, "at": rfc3339_ms(at_ms)}));
            std::fs::write(file(40), line).expect("written");
            open_and_tidy();
            assert!(!file(40).exists(), "of its own day, or of one to come");
        }
    }

    #[test]
    fn an_old_day_of_the_trail_is_deleted_also_while_nothing_is_written() {
        let place = Folder::new();
        let mut trail = place.open();
        let old = file_of(&place.0, &day_of(unix_now_ms() - 31 * DAY_S * 1_000));
        std::fs::write(&old, "").expect("written");
        trail.tidy();
        assert!(old.exists(), "once a day");
        trail.tidied = day_of(unix_now_ms() - DAY_S * 1_000);
        trail.tidy();
        assert!(!old.exists());
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
    fn a_clock_that_jumped_begins_no_file_of_a_far_day_and_one_that_is_trusted_does() {
        use crate::clock::watch::{begin, look};
        use crate::clock::{Machine, set_virtual};
        // The simulated machine is that of its thread.
        let simulated = std::thread::spawn(|| {
            let mut machine = Machine::default();
            machine.up = Duration::from_secs(1_000);
            let mut set = |after_s: u64, off_s: u64| {
                machine.up += Duration::from_secs(after_s);
                machine.off_ms = (off_s * 1_000) as i64;
                set_virtual(&machine);
                look(false);
            };
            set(0, 0);
            begin(None);
            let place = Folder::new();
            let mut trail = place.open();
            let today = day_of(shared_now_ms());
            let files = || days(&place.0).expect("read").into_iter().map(|(day, _)| day).collect::<Vec<_>>();
            for off_s in [400 * DAY_S, 0, DAY_S] {
                set(1, off_s);
                trail.write(&[entry(Act::Woken, shared_now_ms())]).expect("written");
                assert_eq!(files(), [today.as_str()], "{off_s}");
            }
            drop(trail);
            trail = place.open();
            assert_eq!(files(), [today.as_str()], "by a start likewise");
            set(JUMP_STEADY_MS as u64 / 1_000 + 1, DAY_S);
            trail.write(&[entry(Act::Woken, shared_now_ms())]).expect("written");
            assert_eq!(files(), [today, day_of(shared_now_ms())], "it has stayed");
        });
        simulated.join().expect("no panic");
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
