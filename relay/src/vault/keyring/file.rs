//! The keyring as a file.
//!
//! ```text
//! sipwake keyring 2
//! index KEY
//! receipt KEY
//! flow-token KEY
//! chain DAY ROTATION KEY         the link of that day
//! epoch ID CREATED_AT KEY        one line for each key that is kept, the oldest first
//! ```
//! Keys are 64 hex digits; the day (since 1970), the rotation, the id and the time (seconds since 1970) are decimal.
//!
//! Invariant: the file is changed only as a whole, by a rename, so that a crash leaves the old one or the new one; then
//! the old one's bytes are overwritten. It is read and changed under the lock of the file beside it, `….lock`. The
//! buffers that hold its text are sized beforehand and wiped.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Access, access};
use zeroize::Zeroizing;

use super::chain::Chain;
use super::{Epoch, Keys};
use crate::file_owner;
use crate::regular_file;
use crate::secret::SecretKey;
use crate::vault::lookup::unhex;

const HEADER: &[u8] = b"sipwake keyring 2";
/// The longest line: `epoch`, an id, a time and a key.
const LINE_LIMIT: usize = 5 + 1 + 10 + 1 + 20 + 1 + 64 + 1;
/// The bytes that a trial writes: more than a keyring has.
const TRIAL: usize = 4 * 1024;
/// A file that is longer is no keyring: in bytes, room for some 600 epochs.
const FILE_LIMIT: u64 = 64 * 1024;

/// The fault of a keyring's file.
#[derive(thiserror::Error, Debug)]
pub enum KeyringError {
    /// Others than its owner may read it.
    #[error("{path}: others may read the keyring (mode {mode:04o}); run: chmod 600 {path}")]
    Exposed {
        /// The keyring's file.
        path: Box<str>,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a keyring, or was damaged.
    #[error("{path}: line {line} is not a keyring's; restore the file, or remove it and lose what is stored")]
    Malformed {
        /// The keyring's file.
        path: Box<str>,
        /// Counted from 1.
        line: usize,
    },
    /// It cannot be read.
    #[error("{path}: cannot read the keyring: {source}")]
    Read {
        /// The keyring's file.
        path: Box<str>,
        /// The system's error.
        source: io::Error,
    },
    /// The list of wipes beside it cannot be read.
    #[error(
        "{path}: cannot read the list of what was wiped ({source}); it must be readable for the relay's user: where it is root's, give it to the owner of its folder (chown)"
    )]
    Wipes {
        /// The list's file.
        path: Box<str>,
        /// The system's error.
        source: io::Error,
    },
    /// It cannot be made or changed.
    #[error("{path}: cannot write the keyring ({source}); {}, for keys change every day", wanted(source))]
    Write {
        /// The keyring's file.
        path: Box<str>,
        /// The system's error.
        source: io::Error,
    },
    /// It is another one than this run has.
    #[error(
        "{path}: another keyring lies there than this run has read, and it is not taken: it opens nothing of what this run has sealed"
    )]
    Other {
        /// The keyring's file.
        path: Box<str>,
    },
}

impl KeyringError {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Write { source, .. } if is_full(source) => "make room on its disk",
            Self::Write { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                "look at its disk, and end the process that hangs there (fuser tells it by the file beside it, .lock)"
            }
            Self::Write { .. } => "give its directory to the relay's user, and mount the directory, not the file",
            Self::Other { .. } => "put the right one in its place, from a copy or from another node",
            _ => "make the file readable and writable for the relay's user alone",
        }
    }
}

/// Whether the disk, or the user's part of it, is full.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The need that a failure to write shows.
fn wanted(error: &io::Error) -> &'static str {
    match error.kind() {
        _ if is_full(error) => "its disk needs room",
        io::ErrorKind::TimedOut => "its disk must answer, and what hangs there must end",
        _ => "its directory must be writable",
    }
}

/// Tells one version of the file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, KeyringError> {
        std::fs::metadata(path).map(|found| Self::from_metadata(&found)).map_err(reading(path))
    }

    fn from_metadata(found: &std::fs::Metadata) -> Self {
        Self { inode: found.ino(), len: found.len(), modified: (found.mtime(), found.mtime_nsec()) }
    }
}

/// How long the lock of the keyring is waited for. One that is held longer is held by a process that hangs.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// How often it is tried meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(10);

/// The links that a keyring's name may lead over: as many as Linux follows.
const LINKS_MAX: usize = 40;

/// Where the keyring is that `path` names: all that lies beside it lies there, and a rename takes the place of the file, and not of a link to it.
pub(super) fn real_path(path: &Path) -> Result<PathBuf, KeyringError> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            // It is no link, or not there; who reads it says what else is the matter.
            Err(_) => return Ok(path),
        }
    }
    Err(reading(&path)(io::Error::other("its links lead nowhere")))
}

/// Does `work` while no other process reads or changes the keyring at `path`.
pub(super) fn locked<T>(path: &Path, work: impl FnOnce() -> Result<T, KeyringError>) -> Result<T, KeyringError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        file_owner::make_folder(directory).map_err(writing(path))?;
    }
    let lock_path = beside(path, "lock");
    let lock = open_options().create(true).truncate(false).open(&lock_path).map_err(writing(path))?;
    file_owner::give_if_it_can(&lock_path);
    take(&lock, LOCK_WAIT).map_err(writing(path))?;
    let outcome = work();
    // Closing the file would release it too; a failure leaves nothing else to do.
    let _ = lock.unlock();
    outcome
}

/// Takes the lock, which others hold for as long as a small file takes to be written.
fn take(lock: &File, within: Duration) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < within => std::thread::sleep(LOCK_AGAIN),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "another process holds its lock and does not let go",
                ));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Reads the keyring; `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<(Keys, Stamp)>, KeyringError> {
    match read_existing(path) {
        Err(KeyringError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

pub(super) fn read_existing(path: &Path) -> Result<(Keys, Stamp), KeyringError> {
    let mut file = regular_file::open(path).map_err(reading(path))?;
    let found = file.metadata().map_err(reading(path))?;
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyringError::Exposed { path: shown(path), mode });
    }
    if found.len() > FILE_LIMIT {
        return Err(KeyringError::Malformed { path: shown(path), line: 1 });
    }
    let mut text = Zeroizing::new(vec![0; found.len() as usize]);
    file.read_exact(&mut text).map_err(reading(path))?;
    let keys = parse(&text).map_err(|line| KeyringError::Malformed { path: shown(path), line })?;
    Ok((keys, Stamp::from_metadata(&found)))
}

/// Puts `keys` in the place of whatever keyring is at `path`, and overwrites that.
pub(super) fn replace(path: &Path, keys: &Keys) -> Result<Stamp, KeyringError> {
    replace_file(path, &write(keys)).map_err(writing(path))
}

fn replace_file(path: &Path, text: &[u8]) -> io::Result<Stamp> {
    let new_path = beside(path, "new");
    discard(&new_path)?; // left by a crash
    let mut new = open_options().create_new(true).open(&new_path)?;
    new.write_all(text)?;
    new.sync_all()?;
    let old = match open_options().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        opened => Some(opened?),
    };
    if let Some(old) = &old {
        // A command that root runs must not take the file from the relay's user.
        let (was, is) = (old.metadata()?, new.metadata()?);
        if (was.uid(), was.gid()) != (is.uid(), is.gid()) {
            fchown(&new, Some(was.uid()), Some(was.gid()))?;
        }
    }
    if old.is_none() {
        file_owner::give_if_it_can(&new_path);
    }
    std::fs::rename(&new_path, path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
    if let Some(old) = old {
        overwrite(&old)?;
    }
    new.metadata().map(|found| Stamp::from_metadata(&found))
}

/// Whether [`replace`] would find room for a new file beside the one at `path`, and could put it in its place.
pub(super) fn try_to_replace(path: &Path) -> Result<(), KeyringError> {
    let new_path = beside(path, "new");
    let made = write_trial(&new_path);
    let gone = discard(&new_path);
    made.and(gone).map_err(writing(path))?;
    // Where the system does not tell its mounts, the next day does.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let real = std::fs::canonicalize(path).map_err(reading(path))?;
    if is_mounted(&mounts, &real) {
        return Err(writing(path)(io::Error::other("the file is mounted by itself, and no new one takes its place")));
    }
    Ok(())
}

/// Whether [`replace`] would make a file where there is none, as far as a look tells that leaves nothing.
pub(super) fn try_to_make(path: &Path) -> Result<(), KeyringError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() {
        let trial = beside(path, "trial");
        let made = write_trial(&trial);
        return made.and(discard(&trial)).map_err(writing(path));
    }
    let there = folder.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        return Err(writing(path)(io::ErrorKind::NotADirectory.into()));
    }
    access(there, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| writing(path)(error.into()))
}

fn write_trial(path: &Path) -> io::Result<()> {
    discard(path)?;
    let mut new = open_options().create_new(true).open(path)?;
    new.write_all(&[0; TRIAL])?;
    new.sync_all()
}

/// Whether one of the mounts (`/proc/self/mountinfo`, proc(5)) is this very file.
fn is_mounted(mounts: &str, file: &Path) -> bool {
    let escaped =
        |text: &str| text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012");
    let file = escaped(&file.to_string_lossy());
    mounts.lines().any(|mount| mount.split(' ').nth(4) == Some(file.as_str()))
}

/// Overwrites and removes a file, if it is there.
fn discard(path: &Path) -> io::Result<()> {
    match open_options().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => {
            // A file that has no room to be overwritten in is removed all the same: it would be in the way of each later change.
            let overwritten = opened.and_then(|file| overwrite(&file));
            if let Err(error) = overwritten {
                tracing::warn!(event = "keyring-not-overwritten", %error, path = %path.display(), "what a crash has left of a keyring could not be overwritten; it is removed");
            }
            std::fs::remove_file(path)
        }
    }
}

/// Zeroes a file's bytes where they are, as far as the file system writes in place.
fn overwrite(file: &File) -> io::Result<()> {
    let zeros = vec![0; file.metadata()?.len() as usize];
    file.write_all_at(&zeros, 0)?;
    file.sync_all()
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

pub(in crate::vault) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The file of this kind that a node has beside the keyring, which may be a link.
///
/// # Errors
/// When the link leads nowhere.
pub fn file_of_node(keyring: &Path, kind: &str, node: &str) -> Result<PathBuf, KeyringError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' || c == '-' { c } else { '_' };
    let node: String = node.chars().map(plain).collect();
    Ok(beside(&real_path(keyring)?, &format!("{kind}-{node}")))
}

fn shown(path: &Path) -> Box<str> {
    path.display().to_string().into()
}

pub(in crate::vault) fn reading(path: &Path) -> impl Fn(io::Error) -> KeyringError {
    |source| KeyringError::Read { path: shown(path), source }
}

pub(in crate::vault) fn reading_wipes(path: &Path) -> impl Fn(io::Error) -> KeyringError {
    |source| KeyringError::Wipes { path: shown(path), source }
}

pub(in crate::vault) fn writing(path: &Path) -> impl Fn(io::Error) -> KeyringError {
    |source| KeyringError::Write { path: shown(path), source }
}

fn write(keys: &Keys) -> Zeroizing<Vec<u8>> {
    let Keys { index, receipt, flow_token, chain, epochs, .. } = keys;
    let mut text = Zeroizing::new(Vec::with_capacity((5 + epochs.len()) * LINE_LIMIT));
    text.extend_from_slice(HEADER);
    text.push(b'\n');
    for (name, key) in [("index ", index), ("receipt ", receipt), ("flow-token ", flow_token)] {
        text.extend_from_slice(name.as_bytes());
        write_key(key, &mut text);
    }
    text.extend_from_slice(format!("chain {} {} ", chain.day, chain.rotation).as_bytes());
    write_key(chain.link(), &mut text);
    for Epoch { id, created_at, key } in epochs {
        text.extend_from_slice(format!("epoch {id} {created_at} ").as_bytes());
        write_key(key, &mut text);
    }
    text
}

fn write_key(key: &SecretKey, text: &mut Vec<u8>) {
    for byte in key.expose() {
        for digit in [byte >> 4, byte & 15] {
            text.push(b"0123456789abcdef"[usize::from(digit)]);
        }
    }
    text.push(b'\n');
}

/// Reads the text; the number of the line that is not right.
fn parse(text: &[u8]) -> Result<Keys, usize> {
    let mut lines = text.split(|&byte| byte == b'\n').enumerate().map(|(before, line)| (before + 1, line));
    let mut line = || lines.next().unwrap_or((0, b""));
    let (number, header) = line();
    if header != HEADER {
        return Err(number);
    }
    let mut named = |name: &[u8]| {
        let (number, line) = line();
        line.strip_prefix(name).and_then(parse_key).ok_or(number)
    };
    let (index, receipt, flow_token) = (named(b"index ")?, named(b"receipt ")?, named(b"flow-token ")?);
    let (number, chain) = line();
    let chain = parse_chain(chain).ok_or(number)?;
    let mut epochs: Vec<Epoch> = Vec::new();
    loop {
        match line() {
            (number, []) if !epochs.is_empty() => {
                // Only the end may follow the last line feed.
                return match line() {
                    (0, _) => Ok(Keys::of(index, receipt, flow_token, chain, epochs)),
                    _ => Err(number),
                };
            }
            (number, epoch) => epochs.push(parse_epoch(epoch).ok_or(number)?),
        }
    }
}

fn parse_chain(line: &[u8]) -> Option<Chain> {
    let mut fields = line.strip_prefix(b"chain ")?.split(|&byte| byte == b' ');
    let mut field = || fields.next();
    let (day, rotation, link) = (field()?, field()?, parse_key(field()?)?);
    let number = |digits| std::str::from_utf8(digits).ok();
    let (day, rotation) = (number(day)?.parse().ok()?, number(rotation)?.parse().ok()?);
    field().is_none().then(|| Chain::of(day, rotation, link))
}

fn parse_epoch(line: &[u8]) -> Option<Epoch> {
    let mut fields = line.strip_prefix(b"epoch ")?.split(|&byte| byte == b' ');
    let mut field = || fields.next();
    let (id, created_at, key) = (field()?, field()?, parse_key(field()?)?);
    let id = std::str::from_utf8(id).ok()?.parse().ok()?;
    let created_at = std::str::from_utf8(created_at).ok()?.parse().ok()?;
    field().is_none().then_some(Epoch { id, created_at, key })
}

fn parse_key(hex: &[u8]) -> Option<SecretKey> {
    SecretKey::filled_by(|key| if unhex(hex, key) { Ok(()) } else { Err(()) }).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::clock::Reading;
    use crate::random;
    use crate::vault::keyring::{EPOCH_S, KEY_LIFETIME_S, Keyring};
    use crate::vault::lookup::hex;

    /// The beginning of a day.
    const START: u64 = 20_775 * EPOCH_S;

    #[test]
    fn a_lock_that_another_process_does_not_let_go_of_is_told_and_waited_for_no_longer() {
        let folder = TempFolder::new();
        std::fs::create_dir_all(&folder.0).expect("made");
        let open = || open_options().create(true).truncate(false).open(folder.0.join("keyring.lock")).expect("opened");
        let (held, waits) = (open(), open());
        held.lock().expect("held");
        let refused = take(&waits, LOCK_AGAIN * 3).expect_err("it is held");
        let told = writing(&folder.keyring())(refused);
        assert!(told.to_string().contains("another process holds its lock"), "{told}");
        assert!(told.remedy().contains("end the process"), "{}", told.remedy());
        held.unlock().expect("let go");
        assert!(take(&waits, LOCK_AGAIN * 3).is_ok());
    }

    /// A directory of its own, removed at the end.
    pub(in crate::vault) struct TempFolder(PathBuf);

    impl TempFolder {
        pub(in crate::vault) fn new() -> Self {
            Self(std::env::temp_dir().join(format!("sipwake-keyring-{}", hex(&random::bytes::<8>()))))
        }

        pub(in crate::vault) fn keyring(&self) -> PathBuf {
            self.0.join("secrets/keyring")
        }
    }

    impl Drop for TempFolder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").mode() & 0o777
    }

    #[test]
    fn a_keyring_is_made_for_its_owner_alone() {
        let place = TempFolder::new();
        Keyring::open_at(&place.keyring(), START).expect("made");
        assert_eq!(mode(&place.keyring()), 0o600);
        assert_eq!(mode(place.keyring().parent().expect("a directory")), 0o700);
        assert!(!beside(&place.keyring(), "new").exists());
    }

    #[test]
    fn a_keyring_that_others_may_read_is_refused_with_the_remedy() {
        let place = TempFolder::new();
        let path = place.keyring();
        Keyring::open_at(&path, START).expect("made");
        for exposed in [0o640, 0o604, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(exposed)).expect("chmod");
            let error = Keyring::open_at(&path, START).expect_err("refused");
            assert!(matches!(error, KeyringError::Exposed { mode, .. } if mode == exposed), "{error}");
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn a_damaged_keyring_is_refused_and_left_as_it_is() {
        let place = TempFolder::new();
        let path = place.keyring();
        Keyring::open_at(&path, START).expect("made");
        let whole = std::fs::read_to_string(&path).expect("text");
        let without_epochs = whole.split_inclusive('\n').take(5).collect::<String>();
        for (damaged, at) in [
            (String::new(), 1),
            (whole.replace("keyring 2", "keyring 3"), 1),
            (whole.replace("receipt", "receipts"), 3),
            (whole.replace("chain", "chains"), 5),
            (whole[..whole.len() - 2].to_owned(), 6),
            (without_epochs, 6),
            (format!("{whole}\nmore"), 7),
        ] {
            std::fs::write(&path, &damaged).expect("written");
            let error = Keyring::open_at(&path, START).expect_err("refused");
            assert!(matches!(error, KeyringError::Malformed { line, .. } if line == at), "{error} is not line {at}");
            assert_eq!(std::fs::read_to_string(&path).expect("text"), damaged);
        }
    }

    #[test]
    fn a_destroyed_key_is_in_no_file_and_its_old_bytes_are_overwritten() {
        let place = TempFolder::new();
        let path = place.keyring();
        let keyring = Keyring::open_at(&path, START).expect("made");
        let (_, key) = keyring.current(Reading::steady(START));
        let old_bytes = beside(&path, "seen-by-the-test");
        std::fs::hard_link(&path, &old_bytes).expect("linked");
        keyring.tend(Reading::steady(START + EPOCH_S)).expect("tended");
        let overwritten = std::fs::read(&old_bytes).expect("bytes");
        assert!(!overwritten.is_empty() && overwritten.iter().all(|&byte| byte == 0));
        assert!(std::fs::read_to_string(&path).expect("text").contains(&hex(key.expose())), "still needed to open");
        keyring.tend(Reading::steady(START + KEY_LIFETIME_S)).expect("tended");
        assert!(!std::fs::read_to_string(&path).expect("text").contains(&hex(key.expose())));
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_trial_says_what_the_next_change_would_meet_and_leaves_nothing() {
        let place = TempFolder::new();
        let path = place.keyring();
        let keyring = Keyring::open_at(&path, START).expect("made");
        let whole = std::fs::read(&path).expect("bytes");
        keyring.try_to_write().expect("it can be written");
        assert!(!beside(&path, "new").exists());
        assert_eq!(std::fs::read(&path).expect("bytes"), whole);
        // Also root makes no file there.
        std::fs::create_dir(beside(&path, "new")).expect("made");
        let error = keyring.try_to_write().expect_err("it cannot");
        assert!(error.to_string().contains("its directory must be writable"), "{error}");
    }

    #[test]
    fn a_file_that_is_mounted_by_itself_is_told_from_one_in_a_mounted_folder() {
        let mounts = "36 35 98:0 / /var/lib rw - ext4 /dev/sda rw\n37 36 98:0 /k /var/lib/a\\040b/keyring rw - ext4 /dev/sda rw\n";
        assert!(is_mounted(mounts, Path::new("/var/lib/a b/keyring")));
        assert!(!is_mounted(mounts, Path::new("/var/lib/keyring")));
    }

    #[test]
    fn what_a_crash_left_behind_does_not_stop_the_next_change() {
        let place = TempFolder::new();
        let path = place.keyring();
        let keyring = Keyring::open_at(&path, START).expect("made");
        std::fs::write(beside(&path, "new"), "half a keyr").expect("written");
        keyring.tend(Reading::steady(START + EPOCH_S)).expect("tended");
        assert!(!beside(&path, "new").exists());
    }
}
